"""T5Gemma (Zhang et al. 2025, arXiv:2504.06225): `T5GemmaForConditionalGeneration`.

It is the only encoder-decoder of transformers with rotary positions, RMS norms and gated
feed-forward parts, and holds our default settings. Two things it has and ours has not:

- Token embeddings are multiplied by sqrt(D), where D is the width. All that is added to them is
  scaled alike, and norms divide by it again: `rms_norm_eps` is D times our `norm_epsilon`.
- A norm follows each part: y becomes y / sqrt(mean(y²) + `rms_norm_eps`) · scale. The kernel
  before it is written 2 ** 30 times smaller, so that `rms_norm_eps` alone counts in the root, and
  its scale as the constant that undoes both. With `norm_epsilon` 1e-5 this changes y by less than a
  part in 10 ** 9, as long as the mean of y² is below 20,000 D; float32 rounds by 6 in 10 ** 8. (In
  float16 such small numbers don't exist.)
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from interop.family import Family
from interop.fields import (
    Bool,
    Choice,
    Custom,
    Float,
    Int,
    Ours,
    Settings,
    Theirs,
    Unsupported,
    read_fields,
    write_fields,
)
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.llama import NO_BIAS, rotary
from interop.tables import OUT_OF_HEADS, Kernel, OffsetFromOne, Row, Scaled, Table, linear

EXPONENT = 30
"""The output of each part is written smaller by 2 to this power."""

SIDES = ("encoder", "decoder")
PARTS = {
    "encoder": ("self_attn", "feedforward"),
    "decoder": ("self_attn", "cross_attn", "feedforward"),
}


def _norm(ours: str, theirs: str) -> Row:
    return Row((f"{ours}.scale",), f"{theirs}.weight", OffsetFromOne())


def _attention(ours: str, theirs: str) -> Iterator[Row]:
    for one, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        yield from linear(f"{ours}.{one}", f"{theirs}.{other}")[:1]
    yield Row((f"{ours}.out.kernel",), f"{theirs}.o_proj.weight", Scaled(OUT_OF_HEADS, -EXPONENT))


def _stack(name: str) -> Iterator[Row]:
    """Yield the rows of the encoder or the decoder."""
    block = f"{name}.layers.{{layer}}"
    yield from _attention(f"{block}.mixer", f"{block}.self_attn")
    yield _norm(f"{block}.mixer_norm", f"{block}.pre_self_attn_layernorm")
    if name == "decoder":
        yield from _attention(f"{block}.cross", f"{block}.cross_attn")
        yield _norm(f"{block}.cross_norm", f"{block}.pre_cross_attn_layernorm")
    for one in ("gate", "up"):
        yield from linear(f"{block}.feed_forward.{one}", f"{block}.mlp.{one}_proj")[:1]
    down = f"{block}.feed_forward.down.kernel"
    yield Row((down,), f"{block}.mlp.down_proj.weight", Scaled(Kernel(), -EXPONENT))
    yield _norm(f"{block}.feed_forward_norm", f"{block}.pre_feedforward_layernorm")
    yield _norm(f"{name}.norm", f"{name}.norm")


SOURCES, TARGETS, HEAD = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.out_proj.weight",
)

TABLE = Table(
    prefix="model.",
    rows=(
        Row(("embedding.tokens.embedding",), TARGETS, resizable="vocabulary"),
        Row(("source_embedding.tokens.embedding",), SOURCES, resizable="vocabulary"),
        *_stack("encoder"),
        *_stack("decoder"),
        Row(("embedding.head.kernel",), HEAD, Kernel(), resizable="vocabulary"),
    ),
    ignored=("*.post_*_layernorm.weight",),  # `_more` checks that they are the constant
    copies={HEAD: TARGETS, SOURCES: TARGETS},
)

SIDE = (
    Int("width", "hidden_size"),
    Int("num_heads", "num_attention_heads"),
    Int("num_kv_heads", "num_key_value_heads"),
    Int("head_dim", "head_dim"),
    Choice("feed_forward", "hidden_activation", {"silu": "swiglu"}),
    Int("feed_forward_width", "intermediate_size"),
    Int("data.vocabulary_size", "vocab_size"),
    Float("rms_norm_eps", "rms_norm_eps"),
    Theirs({"attention_bias": [False], "attn_logit_softcapping": [None]}),
)
"""The rows of the fields that encoder and decoder have in common."""


def _read_sides(config: JsonFields) -> Settings:
    encoder, decoder = (_read_side(config.nested(side)) for side in SIDES)
    depths = encoder.pop("depth"), decoder.pop("depth")
    encoder.pop("logit_soft_cap")
    for name, value in encoder.items():
        if decoder[name] != value:
            raise UsageError(f"{config.path}: {name} differs between encoder and decoder")
    return {**decoder, "depth": depths[1], "encoder_depth": depths[0]}


def _read_side(config: JsonFields) -> dict[str, Any]:
    found = read_fields(SIDE, config)
    depth = config.positive_int("num_hidden_layers")
    if set(config.texts("layer_types")) != {"full_attention"}:
        config.reject("layer_types", "each must be full_attention")
    if config.value("query_pre_attn_scalar") != found["head_dim"]:
        config.reject("query_pre_attn_scalar", "it must be head_dim")
    base, scaling = rotary(config)
    if scaling is not None:
        config.reject("rope_parameters", "its rope_type must be default")
    soft_cap = config.value("final_logit_softcapping", 30.0)
    if soft_cap is not None:
        soft_cap = config.positive_float("final_logit_softcapping", default=30.0)
    epsilon = float(f"{found.pop('rms_norm_eps') / found['width']:.12g}")
    return {
        **found,
        "depth": depth,
        "rotary_base": base,
        "norm_epsilon": epsilon,
        "logit_soft_cap": soft_cap,
    }


def _write_sides(ours: Settings) -> Settings:
    heads, width = ours["num_heads"], ours["width"]
    if width % heads:
        raise Unsupported(f"model.num_heads={heads}: it only has divisors of model.width={width}")
    full = {
        **ours,
        "num_kv_heads": ours["num_kv_heads"] or heads,
        "head_dim": ours["head_dim"] or width // heads,
        "rms_norm_eps": ours["norm_epsilon"] * width,
    }
    shared = {
        **write_fields(SIDE, full),
        "model_type": "t5_gemma_module",
        "query_pre_attn_scalar": full["head_dim"],
        "rope_theta": ours["rotary_base"],
        "rope_parameters": {"rope_type": "default", "rope_theta": ours["rotary_base"]},
        "attn_logit_softcapping": None,
        "final_logit_softcapping": ours["logit_soft_cap"],
    }
    depths = ours["encoder_depth"] or ours["depth"], ours["depth"]
    lengths = ours.get("data.max_source_length"), ours.get("data.max_length")
    sides = {
        side: {
            **shared,
            "num_hidden_layers": depth,
            "layer_types": ["full_attention"] * depth,
            "max_position_embeddings": length,
            "sliding_window": length,  # which no layer has, but masks are made for
            "is_decoder": side == "decoder",
        }
        for side, depth, length in zip(SIDES, depths, lengths, strict=True)
    }
    return {**sides, "vocab_size": ours["data.vocabulary_size"]}


def _read_tables(folder: Folder, found: Settings) -> Settings:
    """Return which embedding tables are the same. Raises `UsageError` unless the norms that follow
    a part are constant."""
    expected = _constant(found["width"], found["norm_epsilon"])
    for name in _norms_behind({"encoder": found["encoder_depth"], "decoder": found["depth"]}):
        if name not in folder.names:
            raise UsageError(f"{folder.path} does not fit: the folder lacks {name}")
        if not np.allclose(folder.tensor(name).astype(np.float32), expected, rtol=0.01):
            folder.refuse(name, f"it must be {expected:g} throughout: no norm follows a part")
    names = [f"{TABLE.prefix}{name}" for name in (SOURCES, TARGETS)]
    tables = [folder.tensor(name) for name in names if name in folder.names]
    return {"shared_embeddings": all(np.array_equal(tables[0], one) for one in tables)}


def _norms_behind(depths: Mapping[str, int]) -> Iterator[str]:
    """Yield the names of the norms that follow a part. depths: the number of blocks of a side."""
    for side, depth in depths.items():
        for layer in range(depth):
            for part in PARTS[side]:
                yield f"{TABLE.prefix}{side}.layers.{layer}.post_{part}_layernorm.weight"


def _constant(width: int, norm_epsilon: float) -> float:
    """Return the weights of the norms that follow a part; their scales are one more."""
    return width * norm_epsilon**0.5 * 2.0**EXPONENT - 1


def _finish(tensors: Mapping[str, NDArray], config: Mapping[str, Any]) -> Mapping[str, NDArray]:
    """Add the norms that follow each part, and the table of sources if it is that of the
    targets."""
    targets = tensors[f"{TABLE.prefix}{TARGETS}"]
    if targets.dtype == np.float16:
        raise UsageError("--dtype=float16 has not the range that t5gemma needs: bfloat16 has")
    width = config["decoder"]["hidden_size"]
    constant = _constant(width, config["decoder"]["rms_norm_eps"] / width)
    weights = np.full(width, constant, targets.dtype)
    norms = _norms_behind({side: config[side]["num_hidden_layers"] for side in SIDES})
    return {f"{TABLE.prefix}{SOURCES}": targets, **dict.fromkeys(norms, weights), **tensors}


def _tokens(config: Mapping[str, Any], ids: Mapping[str, int | None]) -> Mapping[str, Any]:
    """Return the fields of the special tokens, which both sides have too."""
    return {**ids, **{side: {**config[side], **ids} for side in SIDES}}


FAMILY = Family(
    "t5gemma",
    TABLE,
    fields=(
        Ours({"architecture": "encoder_decoder", "pattern": "A", "encoder_pattern": None}),
        Ours({"attention_window": None, "norm_placement": "pre", "norm": "rms_norm"}),
        Ours({"qk_norm": False, "positions": "rotary", "rotary_scaling": None, **NO_BIAS}),
        Custom(_read_sides, _write_sides),
        Bool("tied_embeddings", "tie_word_embeddings", default=True),
        Theirs({"is_encoder_decoder": [True]}),
    ),
    classes={"target_tokens": "T5GemmaForConditionalGeneration"},
    more=_read_tables,
    finish=_finish,
    tokens=_tokens,
)
