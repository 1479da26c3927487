"""A sequence gives the same logits however it is cut: the promise that generation rests on."""

import jax
import numpy as np
import pytest

from tests.selection import a_third_of

LENGTH = 12

KINDS = {
    "attention": {},
    "no positions": {"positions": "none"},
    "grouped heads": {"num_kv_heads": 2},
    "one key/value head": {"num_kv_heads": 1, "head_dim": 6},
    "window": {"attention_window": 3},
    "window, grouped heads": {"attention_window": 4, "num_kv_heads": 2},
    "some windows, norms of heads": {
        "pattern": "AG",
        "attention_window": 3,
        "qk_norm": True,
        "qkv_bias": True,
    },
    "LSTM": {"pattern": "R", "positions": "none"},
    "GRU": {"pattern": "R", "recurrence": "gru", "positions": "none"},
    "Elman": {"pattern": "R", "recurrence": "elman", "positions": "none"},
    "RG-LRU": {"pattern": "R", "recurrence": "rg_lru", "positions": "none"},
    "convolution": {"pattern": "C", "positions": "none"},
    "norms after": {"pattern": "CA", "norm_placement": "post"},
    "mixed, learned positions": {"pattern": "RRA", "depth": 3, "positions": "learned"},
    "scanned": {"scan_layers": True},
    "scanned, mixed": {"pattern": "RA", "depth": 4, "scan_layers": True},
    "GPT-2's parts": {
        "positions": "learned",
        "norm": "layer_norm",
        "feed_forward": "gelu",
        "use_bias": True,
        "tied_embeddings": True,
    },
}
CUTS = {
    "token by token": [1] * LENGTH,
    "prefill and steps": [6] + [1] * 6,
    "chunks of 3": [3] * 4,
}


@pytest.fixture(scope="module", params=KINDS)
def decoder(request, make_decoder):
    return make_decoder(**KINDS[request.param])


@pytest.fixture(scope="module")
def step(decoder):
    """One piece of each row: step(tokens, state, segments) -> (logits, state)."""
    return jax.jit(lambda tokens, state, segments: decoder(
        tokens, state=state, segments_BT=segments
    ))  # fmt: skip


@pytest.fixture(scope="module")
def whole(decoder, logits_of):
    return logits_of(decoder, TOKENS)


TOKENS = np.random.default_rng(1).integers(0, 17, (3, LENGTH))
ROWS = np.arange(3)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", a_third_of(CUTS))
def test_any_cut_gives_the_logits_of_the_whole(decoder, step, whole, cut):
    state, pieces, start = decoder.initial_state(3, LENGTH), [], 0
    for length in CUTS[cut]:
        segments = None if length == 1 else np.ones((3, length), np.int32)
        logits, state = step(TOKENS[:, start : start + length], state, segments)
        pieces.append(logits)
        start += length
    close(np.concatenate(pieces, 1), whole)


def test_rows_of_different_length_share_a_batch(decoder, step, whole):
    """Right-padded prompts of 1, 4 and 6 tokens, then single steps: each row as if alone."""
    lengths = np.array([1, 4, 6])
    segments = (np.arange(6) < lengths[:, None]).astype(np.int32)
    prompts = np.where(segments, TOKENS[:, :6], 5)
    logits, state = step(prompts, decoder.initial_state(3, LENGTH), segments)
    for row, length in enumerate(lengths):
        close(logits[row, :length], whole[row, :length])
    for _ in range(4):
        logits, state = step(TOKENS[ROWS, lengths][:, None], state, None)
        close(logits[:, 0], whole[ROWS, lengths])
        lengths = lengths + 1


def test_a_row_of_padding_alone_stays_where_it_was(decoder, step, whole):
    ones = np.ones((3, 3), np.int32)
    _, state = step(TOKENS[:, :3], decoder.initial_state(3, LENGTH), ones)
    _, state = step(TOKENS[:, 3:6], state, np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], np.int32))
    after = np.array([6, 3, 4])
    logits, _ = step(TOKENS[ROWS, after][:, None], state, None)
    close(logits[:, 0], whole[ROWS, after])


def test_padding_may_run_past_the_end_of_the_cache(decoder, step, whole):
    """A last chunk of 3 of which one position is real and fits."""
    state, start = decoder.initial_state(3, LENGTH), 0
    for length in (6, 3, 1, 1):
        segments = None if length == 1 else np.ones((3, length), np.int32)
        _, state = step(TOKENS[:, start : start + length], state, segments)
        start += length
    last = np.concatenate([TOKENS[:, 11:], TOKENS[:, :2]], axis=1)
    logits, _ = step(last, state, np.array([[1, 0, 0]] * 3, np.int32))
    close(logits[:, 0], whole[:, 11])
