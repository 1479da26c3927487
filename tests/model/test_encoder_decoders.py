"""Encoder-decoders: however targets are cut, whatever pads the sources, the same answers."""

import jax
import numpy as np
import pytest
from flax import nnx

from model.architectures import build, parameter_count
from model.layers.positions import fairseq_sinusoids, sinusoids
from model.layers.sharding import AXES
from model.layers.states import select_rows
from tests.model.decoders import SMALL, drawn

BLOCKS = {name: value for name, value in SMALL.items() if name != "pooling"} | {
    "encoder_depth": None,
    "encoder_pattern": None,
    "shared_embeddings": True,
    "max_source_length": 16,
    "max_length": 16,
}
RECURRENT = {
    "width": 16,
    "depth": 2,
    "encoder_depth": 1,
    "recurrence": "lstm",
    "input_feeding": True,
    "tied_embeddings": True,
    "dropout": 0.0,
    **{
        name: BLOCKS[name]
        for name in (
            "shared_embeddings",
            "vocabulary_size",
            "max_source_length",
            "max_length",
            "dtype",
            "param_dtype",
        )
    },
}
KINDS = {
    "Vaswani's": (
        "encoder_decoder",
        {
            "positions": "sinusoidal",
            "norm": "layer_norm",
            "norm_placement": "post",
            "feed_forward": "relu",
            "use_bias": True,
            "tied_embeddings": True,
            "depth": 1,
            "encoder_depth": 2,
        },
    ),
    "learned positions, own tables": (
        "encoder_decoder",
        {"positions": "learned", "shared_embeddings": False, "encoder_depth": 1, "depth": 1},
    ),
    "scanned, mixed": (
        "encoder_decoder",
        {
            "pattern": "RA",
            "encoder_pattern": "CA",
            "recurrence": "gru",
            "num_kv_heads": 2,
            "scan_layers": True,
        },
    ),
    "LSTM": ("rnn_encoder_decoder", {}),
    "GRU that feeds nothing": (
        "rnn_encoder_decoder",
        {"recurrence": "gru", "input_feeding": False, "depth": 1, "shared_embeddings": False},
    ),
}
S, T = 8, 9
LENGTHS = np.repeat([7, 4, 1], 2)  # two targets for each source
SEGMENTS = (np.arange(S) < LENGTHS[:, None]).astype(np.int32)
RANDOM = np.random.default_rng(1)
SOURCE = RANDOM.integers(0, 17, (3, S)).repeat(2, axis=0)
TOKENS = RANDOM.integers(0, 17, (6, T))


def make(name: str, changes: dict) -> nnx.Module:
    base = BLOCKS if name == "encoder_decoder" else RECURRENT
    return drawn(lambda: build(name, rngs=nnx.Rngs(0), **{**base, **changes}))


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


@pytest.fixture(scope="module", params=KINDS)
def module(request):
    return make(*KINDS[request.param])


@pytest.fixture(scope="module")
def logits(module):
    """Of whole targets: logits(source, segments, tokens)."""

    def logits(source, segments, tokens):
        memory = module.encode(source, segments_BS=segments)
        x, state = module.hidden(tokens, memory)
        assert state is None
        return module.head(x)

    return compiled(logits, SOURCE, SEGMENTS, TOKENS)


@pytest.fixture(scope="module")
def whole(logits):
    return np.asarray(logits(SOURCE, SEGMENTS, TOKENS))


def close(found, expected):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_every_cutting_gives_the_same_also_of_rows_that_were_selected(module, whole):
    """A beginning at once, a single position, a chunk; between them other rows go on."""
    chosen = np.array([[1, 0], [1, 1], [0, 0]])  # of the two targets of each source
    rows = np.arange(6).reshape(3, 2)
    first, second = (np.take_along_axis(rows, c, axis=1).ravel() for c in (chosen, chosen[::-1]))

    def cut(source, segments, *pieces):
        memory = module.encode(source, segments_BS=segments)
        memory = module.select(memory, np.zeros((3, 2), np.int32))
        state = module.initial_state(memory, T)
        found = []
        for tokens, parents in pieces:
            x, state = module.hidden(tokens, memory, state=state)
            found.append(module.head(x))
            state = module.select(state, parents)
        return found

    at = first[second]
    pieces = (
        (TOKENS[:, :4], chosen),
        (TOKENS[first, 4:5], chosen[::-1]),
        (TOKENS[at, 5:], rows % 2),
    )
    arguments = (SOURCE[::2], SEGMENTS[::2], *pieces)
    found = compiled(cut, *arguments)(*arguments)
    expected = (whole[:, :4], whole[first, 4:5], whole[at, 5:])
    for piece, right in zip(found, expected, strict=True):
        close(piece, right)


def test_what_pads_a_source_is_seen_by_nobody(logits, whole):
    close(logits(np.where(SEGMENTS, SOURCE, 11), SEGMENTS, TOKENS), whole)


def test_every_token_of_a_source_is_seen_and_no_later_target(logits, whole):
    for row, length in enumerate(LENGTHS):
        source = SOURCE.copy()
        source[row, length - 1] += 1
        changed = np.abs(logits(source % 17, SEGMENTS, TOKENS) - whole).max(axis=(1, 2))
        assert np.flatnonzero(changed > 1e-3).tolist() == [row]
    tokens = TOKENS.copy()
    tokens[:, 5] = (tokens[:, 5] + 1) % 17
    changed = np.abs(logits(SOURCE, SEGMENTS, tokens) - whole).max(axis=2)
    assert (changed[:, :5] == 0).all() and (changed[:, 5] > 1e-3).all()


def test_every_parameter_names_each_of_its_dimensions(module):
    for path, parameter in nnx.to_flat_state(nnx.state(module)):
        axes = parameter.get_metadata()[AXES]
        assert len(axes) == parameter[...].ndim, (path, axes)
        assert len({axis for axis in axes if axis}) == len([axis for axis in axes if axis])


@pytest.mark.parametrize("name", ["encoder_decoder", "rnn_encoder_decoder"])
def test_one_table_serves_source_target_and_head_if_it_is_asked_to(name):
    base = BLOCKS if name == "encoder_decoder" else RECURRENT

    def parameters(**changes):
        return parameter_count(
            nnx.eval_shape(lambda: build(name, rngs=nnx.Rngs(0), **{**base, **changes}))
        )

    table = base["vocabulary_size"] * base["width"]
    one = parameters(shared_embeddings=True, tied_embeddings=True)
    assert parameters(shared_embeddings=False, tied_embeddings=True) == one + table
    assert parameters(shared_embeddings=True, tied_embeddings=False) == one + table


def test_sinusoids_are_the_papers():
    positions = np.arange(50)
    found = np.asarray(sinusoids(positions[None], 6))[0]
    for pair in range(3):
        angle = positions / 10_000 ** (2 * pair / 6)
        np.testing.assert_allclose(found[:, pair], np.sin(angle), atol=1e-5)
        np.testing.assert_allclose(found[:, 3 + pair], np.cos(angle), atol=1e-5)
    with pytest.raises(ValueError, match="even width, not 5"):
        sinusoids(positions[None], 5)


def test_fairseqs_sinusoids_begin_at_two_and_end_at_the_longest_wave():
    positions = np.arange(50)
    found = np.asarray(fairseq_sinusoids(positions[None], 6))[0]
    for pair in range(3):
        angle = (positions + 2) / 10_000 ** (pair / 2)
        np.testing.assert_allclose(found[:, pair], np.sin(angle), atol=1e-5)
        np.testing.assert_allclose(found[:, 3 + pair], np.cos(angle), atol=1e-5)
    for width in (2, 7):
        with pytest.raises(ValueError, match=f"even width of at least 4, not {width}"):
            fairseq_sinusoids(positions[None], width)


def test_rows_are_selected_within_their_group_along_any_axis():
    kept = np.arange(2 * 3 * 4).reshape(2, 6, 2)  # 3 groups of 2 rows, along axis 1
    found = select_rows({"a": kept}, np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]]), axis=1)["a"]
    np.testing.assert_array_equal(found, kept[:, [1, 1, 0, 2, 2, 2, 4, 5, 4]])
