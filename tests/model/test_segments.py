"""A packed window gives what each of its documents gives alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.selection import a_third_of

KINDS = {
    "attention": {},
    "learned positions": {"positions": "learned"},
    "window": {"attention_window": 3},
    "grouped heads": {"num_kv_heads": 2},
    "some windows, norms of heads": {
        "pattern": "AG",
        "attention_window": 3,
        "qk_norm": True,
        "qkv_bias": True,
    },
    "LSTM": {"pattern": "R", "positions": "none"},
    "GRU": {"pattern": "R", "recurrence": "gru", "positions": "none"},
    "RG-LRU": {"pattern": "R", "recurrence": "rg_lru", "positions": "none"},
    "convolution": {"pattern": "C", "positions": "none"},
    "mixed": {"pattern": "RA"},
    "scanned mixed": {"pattern": "RA", "scan_layers": True, "depth": 4},
}


TOKENS = np.random.default_rng(1).integers(0, 17, (2, 12))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", a_third_of(KINDS))
def test_documents_of_a_window_do_not_see_each_other(make_decoder, logits_of, kind):
    decoder = make_decoder(**KINDS[kind])
    segments = np.array([[1] * 5 + [2] * 2 + [3] * 5, [1] * 7 + [2] * 3 + [0] * 2])
    packed = logits_of(decoder, TOKENS, segments)
    for row, start, stop in [(0, 0, 5), (0, 5, 7), (0, 7, 12), (1, 0, 7), (1, 7, 10)]:
        # Alone, and the causal model does not see what stands after it: one shape to compile.
        alone = np.zeros((1, 7), int)
        alone[0, : stop - start] = TOKENS[row, start:stop]
        close(packed[row, start:stop], logits_of(decoder, alone)[0, : stop - start])
    close(logits_of(decoder, TOKENS, np.ones_like(segments)), logits_of(decoder, TOKENS))


@pytest.mark.parametrize("recurrence", ["lstm", "gru", "rg_lru"])
def test_gradients_of_packed_documents_are_those_of_the_documents(make_decoder, recurrence):
    """Through the recurrence's own backward pass, resets included."""
    decoder = make_decoder(pattern="RCA", depth=3, recurrence=recurrence)
    graph, parameters = nnx.split(decoder)
    tokens = TOKENS[:1, :10]

    def total(parameters, pieces):
        model = nnx.merge(graph, parameters)
        return sum((model(piece, segments_BT=segments)[0] ** 2).sum() for piece, segments in pieces)

    gradient = jax.jit(jax.grad(total))
    segments = np.array([[1] * 6 + [2] * 4])
    packed = gradient(parameters, [(tokens, segments)])
    apart = gradient(parameters, [(tokens[:, :6], None), (tokens[:, 6:], None)])
    for a, b in zip(jax.tree.leaves(packed), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(b).max()))
