"""nn.MultiheadAttention, nn.TransformerEncoderLayer and nn.TransformerDecoderLayer."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from model.backbone import BackboneSpec, Block
from model.layers.attention import Attention, CrossAttention
from tests.parity import compare

WIDTH, HEADS, T, S = 12, 3, 6, 5
HEAD = WIDTH // HEADS
LENGTHS, SOURCE_LENGTHS = np.array([6, 4]), np.array([3, 5])
REAL_BT = np.arange(T) < LENGTHS[:, None]
REAL_BS = np.arange(S) < SOURCE_LENGTHS[:, None]
SEGMENTS_BT = jnp.asarray(REAL_BT, jnp.int32)

ATTENTION = {
    "num_heads": HEADS,
    "num_kv_heads": HEADS,
    "head_dim": HEAD,
    "use_bias": True,
    "residual_std": 0.02,
}
SELF = {"window": None, "rotary_base": None, "implementation": "xla"}


def attention_weights(theirs, path: str, to: str) -> compare.Weights:
    """Our projections, at `to`, of PyTorch's packed one, at `path`."""
    kernels = np.split(theirs(f"{path}in_proj_weight"), 3)
    biases = np.split(theirs(f"{path}in_proj_bias"), 3)
    ours = {}
    for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
        ours[f"{to}{name}.kernel"] = kernel.T.reshape(WIDTH, HEADS, HEAD)
        ours[f"{to}{name}.bias"] = bias.reshape(HEADS, HEAD)
    ours[f"{to}out.kernel"] = theirs(f"{path}out_proj.weight").T.reshape(HEADS, HEAD, WIDTH)
    ours[f"{to}out.bias"] = theirs(f"{path}out_proj.bias")
    return ours


def real(y_BTD):
    """Padding is zero on both sides."""
    keep = REAL_BT[:, :, None]
    return torch.tensor(keep) * y_BTD if isinstance(y_BTD, torch.Tensor) else keep * y_BTD


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_self_attention(causal, padded):
    ours = Attention(
        WIDTH, causal=causal, **SELF, **ATTENTION, numerics=compare.NUMERICS, rngs=nnx.Rngs(0)
    )
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(T) if causal else None
    hidden = torch.tensor(np.where(REAL_BT, 0.0, -np.inf), dtype=torch.float32) if padded else None

    def their_call(module, x):
        y = module(x, x, x, attn_mask=mask, key_padding_mask=hidden, need_weights=False)[0]
        return real(y) if padded else y

    def call(module, x):
        y, _ = module(x, segments_BT=SEGMENTS_BT if padded else None)
        return real(y) if padded else y

    compare.check(
        ours, call, theirs, their_call, lambda theirs: attention_weights(theirs, "", ""),
        [compare.draw(0, 2, T, WIDTH)],
    )  # fmt: skip


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_cross_attention(padded):
    ours = CrossAttention(WIDTH, **ATTENTION, numerics=compare.NUMERICS, rngs=nnx.Rngs(0))
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    hidden = torch.tensor(~REAL_BS) if padded else None

    def call(module, x, source):
        sources = jnp.asarray(REAL_BS) if padded else None
        return module(x, module.keys_values(source), source_mask_BS=sources)

    compare.check(
        ours,
        call,
        theirs,
        lambda module, x, source: module(
            x, source, source, key_padding_mask=hidden, need_weights=False
        )[0],
        lambda theirs: attention_weights(theirs, "", ""),
        [compare.draw(0, 2, T, WIDTH), compare.draw(1, 2, S, WIDTH)],
    )


def norm_weights(theirs, path: str, to: str) -> compare.Weights:
    return {f"{to}.scale": theirs(f"{path}.weight"), f"{to}.bias": theirs(f"{path}.bias")}


def feed_forward_weights(theirs) -> compare.Weights:
    ours = {}
    for path, to in (("linear1", "up"), ("linear2", "down")):
        ours[f"feed_forward.{to}.kernel"] = theirs(f"{path}.weight").T
        ours[f"feed_forward.{to}.bias"] = theirs(f"{path}.bias")
    return ours


def make_block(*, causal: bool, placement: str, activation: str, cross: bool) -> Block:
    spec = BackboneSpec(
        depth=1,
        pattern="A",
        width=WIDTH,
        norm="layer_norm",
        norm_epsilon=1e-5,
        norm_placement=placement,
        feed_forward=activation,
        feed_forward_width=20,
        dropout=0.0,
        stochastic_depth=0.0,
        cross_attention=cross,
        causal=causal,
        attention_window=None,
        attention="xla",
        rotary_base=None,
        recurrence="lstm",
        convolution_size=3,
        remat="none",
        scan_layers=False,
        num_heads=HEADS,
        num_kv_heads=None,
        head_dim=None,
        use_bias=True,
    )
    return Block(spec, "A", compare.NUMERICS, nnx.Rngs(0))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_encoder_layer(placement, activation):
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 20, dropout=0.0, activation=activation, batch_first=True,
        norm_first=placement == "pre",
    )  # fmt: skip

    def weights(theirs):
        return {
            **attention_weights(theirs, "self_attn.", "mixer."),
            **feed_forward_weights(theirs),
            **norm_weights(theirs, "norm1", "mixer_norm"),
            **norm_weights(theirs, "norm2", "feed_forward_norm"),
        }

    compare.check(
        make_block(causal=False, placement=placement, activation=activation, cross=False),
        lambda block, x: real(block(x, segments_BT=SEGMENTS_BT)[0]),
        theirs,
        lambda layer, x: real(layer(x, src_key_padding_mask=torch.tensor(~REAL_BT))),
        weights,
        [compare.draw(0, 2, T, WIDTH)],
    )


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_decoder_layer(placement):
    theirs = nn.TransformerDecoderLayer(
        WIDTH, HEADS, 20, dropout=0.0, batch_first=True, norm_first=placement == "pre"
    )
    mask = nn.Transformer.generate_square_subsequent_mask(T)

    def weights(theirs):
        return {
            **attention_weights(theirs, "self_attn.", "mixer."),
            **attention_weights(theirs, "multihead_attn.", "cross."),
            **feed_forward_weights(theirs),
            **norm_weights(theirs, "norm1", "mixer_norm"),
            **norm_weights(theirs, "norm2", "cross_norm"),
            **norm_weights(theirs, "norm3", "feed_forward_norm"),
        }

    def call(block, x, memory):
        keys_values = block.cross.keys_values(memory)
        return block(x, keys_values=keys_values, source_mask_BS=jnp.asarray(REAL_BS))[0]

    compare.check(
        make_block(causal=True, placement=placement, activation="relu", cross=True),
        call,
        theirs,
        lambda layer, x, memory: layer(
            x, memory, tgt_mask=mask, memory_key_padding_mask=torch.tensor(~REAL_BS)
        ),
        weights,
        [compare.draw(0, 2, T, WIDTH), compare.draw(1, 2, S, WIDTH)],
    )
