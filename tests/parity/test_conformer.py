"""A Conformer block, and that of transformers with the same weights, in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from model.conformer import ConformerBlock
from tests.parity import compare

conformer = pytest.importorskip(
    "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer"
)

WIDTH, HIDDEN, HEADS, SIZE = 12, 20, 3, 5
NORMS = {
    "first_norm": "ffn1_layer_norm",
    "attention_norm": "self_attn_layer_norm",
    "convolution_norm": "conv_module.layer_norm",
    "convolution.norm": "conv_module.batch_norm",
    "second_norm": "ffn2_layer_norm",
    "norm": "final_layer_norm",
}
OURS_ALONE = [f"convolution.{name}.bias" for name in ("value", "gate", "out")]


def their_block() -> torch.nn.Module:
    config = conformer.Wav2Vec2ConformerConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_attention_heads=HEADS,
        conv_depthwise_kernel_size=SIZE,
        position_embeddings_type=None,
        hidden_act="swish",
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        conformer_conv_dropout=0.0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    block = conformer.Wav2Vec2ConformerEncoderLayer(config).train()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + 0.1)
            if name.startswith("self_attn.") and name.endswith("bias"):
                parameter.zero_()  # ours has none
    return block


def weights_of(theirs) -> compare.Weights:
    """Of ours, from theirs by name: a linear map, and so of gradients too."""
    found = {f"{ours}.{kind}": theirs(f"{name}.{weight}")
             for ours, name in NORMS.items()
             for kind, weight in (("scale", "weight"), ("bias", "bias"))}  # fmt: skip
    for ours, name in (("first", "ffn1"), ("second", "ffn2")):
        for kernel, dense in (("up", "intermediate_dense"), ("down", "output_dense")):
            found[f"{ours}.{kernel}.kernel"] = theirs(f"{name}.{dense}.weight").T
            found[f"{ours}.{kernel}.bias"] = theirs(f"{name}.{dense}.bias")
    heads = (WIDTH, HEADS, WIDTH // HEADS)
    for ours, name in (("query", "linear_q"), ("key", "linear_k"), ("value", "linear_v")):
        kernel = theirs(f"self_attn.{name}.weight").T.reshape(heads)
        found[f"attention.{ours}.kernel"] = kernel
    out = theirs("self_attn.linear_out.weight").T
    found["attention.out.kernel"] = out.reshape(*heads[1:], WIDTH)
    value, gate = np.split(theirs("conv_module.pointwise_conv1.weight")[:, :, 0], 2)
    found["convolution.value.kernel"], found["convolution.gate.kernel"] = value.T, gate.T
    found["convolution.depthwise.kernel"] = theirs("conv_module.depthwise_conv.weight")[:, 0].T
    found["convolution.out.kernel"] = theirs("conv_module.pointwise_conv2.weight")[:, :, 0].T
    return found


def test_a_block_its_gradients_and_its_running_statistics():
    theirs, x = their_block(), compare.draw(0, 4, 9, WIDTH)
    parameters = dict(theirs.named_parameters())
    ours = ConformerBlock(
        WIDTH,
        feed_forward_width=HIDDEN,
        convolution_size=SIZE,
        convolution_norm="batch_norm",
        dropout=0.0,
        residual_std=0.02,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=WIDTH // HEADS,
        window=None,
        implementation="xla",
        rotary_base=None,
        numerics=compare.NUMERICS,
        rngs=nnx.Rngs(0),
    )
    without = {name: np.zeros(WIDTH, np.float32) for name in OURS_ALONE}
    ours = compare.load(ours, weights_of(lambda name: compare.numpy(parameters[name])) | without)

    tensor = torch.tensor(x, requires_grad=True)
    their_y = theirs(tensor)
    cotangent = compare.draw(1, *x.shape)
    (their_y * torch.tensor(cotangent)).sum().backward()

    graph, state, rest = nnx.split(ours, nnx.Param, ...)

    @jax.jit
    def run(state, x):
        def forward(state, x):
            block = nnx.merge(graph, state, rest, copy=True)
            segments = jnp.ones(x.shape[:2], jnp.int32)
            y = block(x, segments_BT=segments, dropout_key=None, train=True)
            return y, nnx.state(block, nnx.BatchStat)

        y, backward, statistics = jax.vjp(forward, state, x, has_aux=True)
        return y, backward(jnp.asarray(cotangent)), statistics

    y, (of_state, of_x), statistics = run(state, jnp.asarray(x))
    compare.close(y, compare.numpy(their_y), "output")
    compare.close(of_x, compare.numpy(tensor.grad), "gradient of the input")
    expected = weights_of(lambda name: compare.numpy(parameters[name].grad))
    for path, gradient in nnx.to_flat_state(of_state):
        name = ".".join(map(str, path))
        if name not in OURS_ALONE:
            compare.close(gradient[...], expected[name], f"gradient of {name}")
    running = theirs.conv_module.batch_norm
    found = statistics["convolution"]["norm"]
    compare.close(found["mean"][...], compare.numpy(running.running_mean), "running mean")
    compare.close(found["var"][...], compare.numpy(running.running_var), "running variance")
