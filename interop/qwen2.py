"""Qwen2 and Qwen2.5 (Qwen Team 2024, arXiv:2407.10671, 2412.15115): `Qwen2ForCausalLM`.

It is Llama with biases of queries, keys and values; some layers may have a window.
"""

from interop.family import Family, mixers, shortest_pattern
from interop.fields import Custom, Ours, Settings
from interop.json_fields import JsonFields
from interop.llama import BLOCKS, TABLE, heads

LAYER_TYPES = {"full_attention": "G", "sliding_attention": "A"}
"""Our mixer for each entry of the field `layer_types`."""

WINDOW, FULL_LAYERS = 4096, 28
"""`sliding_window` and `max_window_layers` if config.json has none."""


def _read_windows(config: JsonFields) -> Settings:
    if not config.boolean("use_sliding_window", default=False):
        return {"pattern": "A", "attention_window": None}
    window = config.positive_int("sliding_window", default=WINDOW)
    depth = config.positive_int("num_hidden_layers")
    types = config.value("layer_types", None)
    if types is None:
        full = config.value("max_window_layers", FULL_LAYERS)
        types = ["full_attention" if n < full else "sliding_attention" for n in range(depth)]
    if len(types) != depth or not set(types) <= LAYER_TYPES.keys():
        config.reject("layer_types", f"it must be {depth} of {' or '.join(LAYER_TYPES)}")
    letters = "".join(LAYER_TYPES[one] for one in types)
    if "A" not in letters:
        return {"pattern": "A", "attention_window": None}
    return {"pattern": shortest_pattern(letters), "attention_window": window}


def _write_windows(ours: Settings) -> Settings:
    if ours["attention_window"] is None:
        return {"use_sliding_window": False, **_layer_types("G" * ours["depth"])}
    letters = mixers(ours["pattern"], ours["depth"])
    return {
        "use_sliding_window": True,
        "sliding_window": ours["attention_window"],
        "max_window_layers": letters.index("A"),
        **_layer_types(letters),
    }


def _layer_types(letters: str) -> Settings:
    names = {letter: name for name, letter in LAYER_TYPES.items()}
    return {"layer_types": [names[letter] for letter in letters]}


WINDOWS = Custom(_read_windows, _write_windows)
"""The row of the windows of some layers."""

FAMILY = Family(
    "qwen2",
    TABLE,
    fields=(
        Ours({"architecture": "decoder", "qk_norm": False, "use_bias": False, "qkv_bias": True}),
        *BLOCKS,
        heads(kv_heads=32),
        WINDOWS,
    ),
    classes={"next_tokens": "Qwen2ForCausalLM"},
)
