"""nn.RNN, nn.LSTM and nn.GRU: stacked, both ways, sequences of different lengths."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.rnn import StackedRecurrence
from tests.parity import compare

WIDTH, UNITS, LENGTHS = 6, 5, np.array([7, 3, 5])

KINDS = {
    "elman": (nn.RNN, {"nonlinearity": "tanh"}, 1),
    "elman_relu": (nn.RNN, {"nonlinearity": "relu"}, 1),
    "lstm": (nn.LSTM, {}, 4),
    "gru": (nn.GRU, {}, 3),
}


def weights_of(kind: str, depth: int, bidirectional: bool):
    """Our parameters, of PyTorch's names; where it has two biases of which only the sum matters,
    the first is ours and the second stays zero."""
    gates = KINDS[kind][2]

    def weights(theirs):
        ours = {}
        for layer in range(depth):
            for suffix in ["", "_reverse"] if bidirectional else [""]:
                end = f"l{layer}{suffix}"
                way = {"": "forward.", "_reverse": "backward."}[suffix] if bidirectional else ""
                for name, key in (("ih", "input_kernel"), ("hh", "recurrent_kernel")):
                    kernel = theirs(f"weight_{name}_{end}").T.reshape(-1, gates, UNITS)
                    if kind == "gru":  # r, z, n: ours has the recurrent n first
                        kernel = kernel[:, [2, 0, 1]] if name == "hh" else kernel
                    ours[f"layers.{layer}.{way}{key}"] = kernel
                bias = theirs(f"bias_ih_{end}").reshape(gates, UNITS)
                if kind == "gru":
                    of_hidden = theirs(f"bias_hh_{end}").reshape(gates, UNITS)[2:]
                    bias = np.concatenate([of_hidden, bias])
                ours[f"layers.{layer}.{way}bias"] = bias
        return ours

    return weights


class OneBias(nn.Module):
    """The library's layer without the biases that are added to others."""

    def __init__(self, kind: str, depth: int, bidirectional: bool):
        super().__init__()
        make, options, _ = KINDS[kind]
        self.layer = make(
            WIDTH, UNITS, depth, batch_first=True, bidirectional=bidirectional, **options
        )
        self.kind = kind

    def forget_second_biases(self):
        for name, parameter in self.layer.named_parameters():
            if name.startswith("bias_hh"):
                kept = slice(2 * UNITS, None) if self.kind == "gru" else slice(0, 0)
                values = parameter.detach().clone()
                with torch.no_grad():
                    parameter.zero_()
                    parameter[kept] = values[kept]

    def named_parameters(self, *arguments, **options):
        return self.layer.named_parameters(*arguments, **options)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_of_packed_sequences(kind, depth, bidirectional):
    theirs = OneBias(kind, depth, bidirectional)
    ours = StackedRecurrence(
        kind,
        WIDTH,
        UNITS,
        depth=depth,
        bidirectional=bidirectional,
        dropout=0.0,
        numerics=compare.NUMERICS,
        rngs=nnx.Rngs(0),
    )
    real_BT = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    segments_BT = jnp.asarray(real_BT, jnp.int32)

    def their_call(module, x):
        module.forget_second_biases()
        packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(module.layer(packed)[0], batch_first=True)[0]

    def call(module, x):
        y, _ = module(x, segments_BT=segments_BT)
        return jnp.where(real_BT[:, :, None], y, 0)

    x = compare.draw(0, 3, LENGTHS.max(), WIDTH)
    compare.check(ours, call, theirs, their_call, weights_of(kind, depth, bidirectional), [x])


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_after_the_last_position(kind):
    theirs = OneBias(kind, 2, False)
    ours = StackedRecurrence(
        kind, WIDTH, UNITS, depth=2, bidirectional=False, dropout=0.0,
        numerics=compare.NUMERICS, rngs=nnx.Rngs(0),
    )  # fmt: skip

    def their_call(module, x):
        module.forget_second_biases()
        after = module.layer(x)[1]
        return after if isinstance(after, tuple) else (after,)

    def call(module, x):
        _, after = module(x, state=module.initial_state(3, 4))
        names = ["hidden", "cell"] if kind == "lstm" else ["hidden"]
        return [jnp.stack([layer[name] for layer in after]) for name in names]

    compare.check(
        ours, call, theirs, their_call, weights_of(kind, 2, False), [compare.draw(0, 3, 4, WIDTH)]
    )
