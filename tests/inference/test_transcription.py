"""What a recogniser writes down, and the probability that its model gives it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data.codecs.tokenizers import Tokenizer
from inference.recordings import padded
from inference.transcription import Transcriber
from parallel.mesh import flat_mesh

TOKENIZER = Tokenizer.characters(["abc"])
V = TOKENIZER.vocabulary_size + 1  # the blank
LENGTHS = (6, 5, 4, 7)


class Echo(nnx.Module):
    """Takes frames for the logits of their labels."""

    def transcribe(self, frames_BTF, *, segments_BT):
        return frames_BTF.astype(jnp.float32), segments_BT


@pytest.fixture(params=["greedy", "beam"])
def transcriber(request) -> Transcriber:
    return Transcriber(
        TOKENIZER,
        decoder=request.param,
        beam_size=4,
        mesh=flat_mesh(jax.devices()[:1]),
        rules={},
    )


def recordings() -> list[np.ndarray]:
    """Logits, of which those of labels that are never written are high."""
    random = np.random.default_rng(5)
    found = [random.normal(size=(length, V)).astype(np.float32) for length in LENGTHS]
    for logits in found:
        logits[:, [TOKENIZER.separator_id, TOKENIZER.vocabulary()["<|unknown|>"]]] += 2
    return found


def test_a_score_is_the_log_probability_that_the_model_gives_the_text(transcriber):
    given = recordings()
    answers = transcriber.transcribe(Echo(), given)
    encoded = [TOKENIZER.encode(answer.text) for answer in answers]
    assert all(set(answer.text) <= set("abc") for answer in answers) and any(map(len, encoded))
    longest = max(map(len, encoded))
    labels, no_labels = np.zeros((2, len(given), longest), np.int32)
    for row, ids in enumerate(encoded):
        labels[row, : len(ids)], no_labels[row, len(ids) :] = ids, 1
    frames, segments = padded(given)
    expected = -jax.jit(optax.ctc_loss, static_argnames="blank_id")(
        frames, segments == 0, labels, no_labels, blank_id=V - 1
    )[: len(given)]
    np.testing.assert_allclose([one.score for one in answers], expected, rtol=1e-4)
