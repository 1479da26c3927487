"""Mistral (Jiang et al. 2023, arXiv:2310.06825): `MistralForCausalLM`. It has a window.

Otherwise it is Llama.
"""

from interop.family import Family
from interop.fields import Custom, Ours, Settings, Unsupported
from interop.json_fields import JsonFields
from interop.llama import BLOCKS, NO_BIAS, TABLE, heads

WINDOW = 4096
"""The window if config.json has none. null: no window."""


def _read_window(config: JsonFields) -> Settings:
    if config.value("sliding_window", WINDOW) is None:
        return {"attention_window": None}
    return {"attention_window": config.positive_int("sliding_window", default=WINDOW)}


def _write_window(ours: Settings) -> Settings:
    if ours["attention_window"] is None:
        raise Unsupported("model.attention_window=none: it only has numbers")
    return {"sliding_window": ours["attention_window"]}


FAMILY = Family(
    "mistral",
    TABLE,
    fields=(
        Ours({"architecture": "decoder", "pattern": "A", "qk_norm": False, **NO_BIAS}),
        *BLOCKS,
        heads(kv_heads=8),
        Custom(_read_window, _write_window),
    ),
    classes={"next_tokens": "MistralForCausalLM"},
)
