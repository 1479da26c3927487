"""Models of sound: what padding may not do, how long a recording is, what statistics are of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import architectures
from model.layers.sharding import AXES
from tests.model.decoders import SMALL, drawn

MELS, FRAMES, WIDTH = 10, 21, 16
SOUND = {
    "width": WIDTH,
    "subsampling": 4,
    "subsampling_channels": 3,
    "pooling": "mean",
    "num_mels": MELS,
    "max_frames": 64,
}
OF_TOKENS = ("vocabulary_size", "max_length", "tied_embeddings", "logit_soft_cap")
BLOCKS = {name: value for name, value in SMALL.items() if name not in OF_TOKENS}
OF_BLOCKS_ALONE = {
    *("pattern", "recurrence", "norm", "norm_placement", "norm_epsilon", "feed_forward"),
    *("use_bias", "stochastic_depth", "remat", "scan_layers"),
}
CONFORMER = {name: value for name, value in BLOCKS.items() if name not in OF_BLOCKS_ALONE}
CONFORMER |= {"convolution_size": 5, "convolution_norm": "batch_norm"}
TRANSCRIBES = {"vocabulary_size": 7, "max_labels": 5}

KINDS = {
    "Conformer": ("conformer", {}),
    "Conformer, layer norm": (
        "conformer",
        {"depth": 1, "convolution_norm": "layer_norm", "subsampling": 2},
    ),
    "attention": ("sound_encoder", {"pattern": "A", "depth": 1, "subsampling": 1}),
    "LSTM": ("sound_encoder", {"pattern": "R", "depth": 1}),
    "convolution": ("sound_encoder", {"pattern": "C", "depth": 1, "subsampling": 2}),
    "mixed": ("sound_encoder", {"pattern": "RCA", "depth": 3, "recurrence": "rg_lru"}),
}


def build(architecture: str, **changes) -> nnx.Module:
    settings = (CONFORMER if architecture == "conformer" else BLOCKS) | SOUND | changes
    if "num_classes" not in settings:
        settings |= TRANSCRIBES
    return drawn(lambda: architectures.build(architecture, rngs=nnx.Rngs(0), **settings))


def recording(seed: int, frames: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, frames, MELS)).astype(np.float32)


def padded(frames: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The recording and noise behind it, beside another one that fills the row; and segments."""
    noise = 5 * recording(7, length - frames.shape[1])
    first = np.concatenate([frames, noise], axis=1)
    segments = np.ones((2, length), np.int32)
    segments[0, frames.shape[1] :] = 0
    return np.concatenate([first, recording(8, length)]), segments


@partial(jax.jit, static_argnums=(0, 1))
def _run(call, graph, state, frames, segments, key=None):
    return call(nnx.merge(graph, state), frames, segments, key)


def transcribe(module, frames, segments):
    return _run(_transcribe, *nnx.split(module), frames, segments)


def _transcribe(module, frames, segments, key):
    return module.transcribe(frames, segments_BT=segments, dropout_key=key)


def classify(module, frames, segments):
    return _run(_classify, *nnx.split(module), frames, segments)


def _classify(module, frames, segments, key):
    return module.classify(frames, segments_BT=segments, dropout_key=key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_in_a_padded_batch_is_transcribed_as_alone(kind):
    architecture, changes = KINDS[kind]
    module = build(architecture, **changes)
    factor = (SOUND | changes)["subsampling"]
    for frames in (1, FRAMES - 3):
        alone = recording(0, frames)
        logits, segments = transcribe(module, alone, np.ones((1, frames), np.int32))
        assert logits.shape == (1, -(-frames // factor), TRANSCRIBES["vocabulary_size"])
        assert logits.dtype == jnp.float32 and segments.all()
        together, among = transcribe(module, *padded(alone, FRAMES))
        assert together.shape[1] == -(-FRAMES // factor)
        np.testing.assert_array_equal(among.sum(axis=1), [logits.shape[1], together.shape[1]])
        np.testing.assert_allclose(together[0, : logits.shape[1]], logits[0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "attention"])
def test_a_recording_in_a_padded_batch_is_classified_as_alone(pooling):
    module = build("sound_encoder", num_classes=3, pooling=pooling, depth=1)
    alone = recording(0, 17)
    logits = classify(module, alone, np.ones((1, 17), np.int32))
    frames, segments = padded(alone, FRAMES)
    np.testing.assert_allclose(classify(module, frames, segments)[0], logits[0], atol=1e-5)
    segments[0] = 0  # a broken recording
    assert np.isfinite(classify(module, frames, segments)).all()


def test_batch_norm_takes_its_statistics_of_recordings_and_not_of_padding():
    def statistics(frames, segments) -> tuple[list, jax.Array]:
        module = build("conformer", depth=1)
        graph, state = nnx.split(module)

        @jax.jit
        def train(state):
            module = nnx.merge(graph, state)
            logits, _ = module.transcribe(frames, segments_BT=segments, train=True)
            return nnx.state(module, nnx.BatchStat), logits

        moved, logits = train(state)
        return [np.asarray(x) for x in jax.tree.leaves(moved)], logits

    alone = recording(0, FRAMES - 4)
    frames, segments = padded(alone, FRAMES)
    whole, logits = statistics(alone, np.ones(alone.shape[:2], np.int32))
    beside, among = statistics(frames[:1], segments[:1])
    assert len(whole) == 2 and not np.allclose(whole[0], 0)
    for one, other in zip(whole, beside, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(among[:, : logits.shape[1]], logits, atol=1e-5)
    noise, _ = statistics(frames[:1], np.ones_like(segments[:1]))
    assert not np.allclose(noise[0], whole[0], atol=1e-3)


@pytest.mark.parametrize(
    "architecture, call, sizes",
    [("conformer", _transcribe, {}), ("sound_encoder", _classify, {"num_classes": 3})],
    ids=["conformer", "sound_encoder"],
)
def test_dropout_acts_only_with_a_key_and_differs_by_key(architecture, call, sizes):
    frames, segments = recording(0, 9), np.ones((1, 9), np.int32)

    def run(module, key=None):
        results = _run(call, *nnx.split(module), frames, segments, key)
        return np.asarray(jax.tree.leaves(results)[0])

    noisy = build(architecture, depth=1, **sizes, dropout=0.5)
    plain = run(build(architecture, depth=1, **sizes))
    np.testing.assert_array_equal(run(noisy), plain)
    first, again, other = (run(noisy, jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain) and not np.allclose(first, other)


@pytest.mark.parametrize("sizes", [{}, {"num_classes": 3}], ids=["transcript", "classes"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_statistic_names_each_of_its_dimensions(kind, sizes):
    architecture, changes = KINDS[kind]
    for path, variable in nnx.to_flat_state(nnx.state(build(architecture, **changes, **sizes))):
        axes = variable.get_metadata()[AXES]
        assert len(axes) == variable[...].ndim, path
        assert len({axis for axis in axes if axis}) == len([axis for axis in axes if axis]), path


def test_a_conformer_block_is_the_papers_equation():
    block = build("conformer", depth=1, positions="none", convolution_norm="layer_norm").blocks[0]
    x, segments = jax.random.normal(jax.random.key(0), (2, 6, WIDTH)), np.ones((2, 6), np.int32)

    def half(part, norm, x):
        return part.down(jax.nn.silu(part.up(norm(x)))) / 2

    def convolved(x):
        part = block.convolution
        x = part.value(x) * jax.nn.sigmoid(part.gate(x))
        kernel, size = part.depthwise.kernel[...], 5
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
        x = sum(kernel[k] * x[:, k : k + 6] for k in range(size)) + part.depthwise.bias[...]
        return part.out(jax.nn.silu(part.norm(x)))

    expected = x + half(block.first, block.first_norm, x)
    expected = expected + block.attention(block.attention_norm(expected))[0]
    expected = expected + convolved(block.convolution_norm(expected))
    expected = block.norm(expected + half(block.second, block.second_norm, expected))
    actual = block(x, segments_BT=segments, dropout_key=None, train=False)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"subsampling": 3}, "subsampling 3"),
        ({"convolution_norm": "rms_norm"}, "convolution_norm 'rms_norm'"),
        ({"positions": "learned"}, "positions 'learned'"),
    ],
)
def test_what_there_is_not_is_named(changes, told):
    with pytest.raises(ValueError, match=told):
        build("conformer", **changes)
