"""Qwen2 and Qwen2.5 (Qwen Team 2024, arXiv:2407.10671, 2412.15115): `Qwen2ForCausalLM`.

It is Llama with biases of queries, keys and values; some layers may have a window.
"""

from interop.family import Family
from interop.fields import Custom, Ours, Settings
from interop.json_fields import JsonFields
from interop.llama import BLOCKS, TABLE, heads
from interop.windows import read_windows, window_letters, write_layer_types

WINDOW, FULL_LAYERS = 4096, 28
"""`sliding_window` and `max_window_layers` if config.json has none."""


def _read_windows(config: JsonFields) -> Settings:
    window = None
    config.pass_over("sliding_window")  # It counts only with the next field.
    if config.boolean("use_sliding_window", default=False):
        window = config.positive_int("sliding_window", default=WINDOW)
    full, depth = config.value("max_window_layers", FULL_LAYERS), config.value("num_hidden_layers")
    if type(full) is not int:
        config.reject("max_window_layers", "it must be an integer")
    usual = ["full_attention" if n < full else "sliding_attention" for n in range(depth)]
    return read_windows(config, window, usual)


def _write_windows(ours: Settings) -> Settings:
    letters = window_letters(ours)
    if ours["attention_window"] is None:
        return {"use_sliding_window": False, **write_layer_types(letters)}
    return {
        "use_sliding_window": True,
        "sliding_window": ours["attention_window"],
        "max_window_layers": letters.index("A"),
        **write_layer_types(letters),
    }


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
