"""Ministral (Mistral AI 2024): `MinistralForCausalLM`. It is Llama with windows in some layers."""

from interop.family import Family
from interop.fields import Custom, Ours, Settings
from interop.json_fields import JsonFields
from interop.llama import BLOCKS, NO_BIAS, TABLE, heads
from interop.mistral import WINDOW
from interop.windows import read_windows, window_letters, write_layer_types


def _read_windows(config: JsonFields) -> Settings:
    window = config.value("sliding_window", WINDOW)
    if window is not None:
        window = config.positive_int("sliding_window", default=WINDOW)
    return read_windows(config, window, ["sliding_attention"] * config.value("num_hidden_layers"))


def _write_windows(ours: Settings) -> Settings:
    letters = window_letters(ours)
    return {"sliding_window": ours["attention_window"], **write_layer_types(letters)}


FAMILY = Family(
    "ministral",
    TABLE,
    fields=(
        Ours({"architecture": "decoder", "qk_norm": False, **NO_BIAS}),
        *BLOCKS,
        heads(kv_heads=8),
        Custom(_read_windows, _write_windows),
    ),
    classes={"next_tokens": "MinistralForCausalLM"},
)
