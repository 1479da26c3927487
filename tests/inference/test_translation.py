"""A translator: the rows of a batch or texts, in their order, each as if it were alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from data.codecs.tokenizers import Tokenizer
from inference.evaluation import answer_split
from inference.translation import ALWAYS_ALLOWED, Translator
from model.architectures import build
from parallel.mesh import flat_mesh
from tests.model.decoders import drawn
from tests.model.test_encoder_decoders import RECURRENT

TOKENIZER = Tokenizer.characters(["abcdefghijklmno"])
TEXTS = ["abcd", "", "omkla", "abcdefghijklmno", " ", "b", "cgggka"]
LONGEST = 11  # tokens of a source, without the separator


@pytest.fixture(scope="module")
def module():
    assert TOKENIZER.vocabulary_size == RECURRENT["vocabulary_size"]
    sizes = {"depth": 1, "max_source_length": LONGEST + 1}
    return drawn(lambda: build("rnn_encoder_decoder", rngs=nnx.Rngs(0), **RECURRENT | sizes))


@pytest.fixture(scope="module")
def translator():
    axes = ("data", "fsdp", "tensor", "sequence")
    return Translator(
        TOKENIZER,
        beam_size=2,
        length_penalty=0.6,
        answer_length_ratio=1.0,
        max_source_length=LONGEST + 1,
        max_length=16,
        mesh=flat_mesh(jax.devices()[:1]),
        rules={"batch": ("data", "fsdp"), **dict.fromkeys(("length", "width", *axes), ())}
        | dict.fromkeys(("recurrent", "embed", "vocabulary"), ()),
    )


def test_each_text_is_answered_in_its_place_as_if_alone(module, translator):
    answers = translator.translate(module, TEXTS)
    assert [answers[place].text for place in (1, 4)] == ["", ""]
    assert len({answer.text for answer in answers}) > 3
    for place in (0, 2, 5, 6):
        (alone,) = translator.translate(module, [TEXTS[place]])
        assert alone.text == answers[place].text
        assert alone.score == pytest.approx(answers[place].score, rel=1e-5)
        assert len(alone.text) <= len(TEXTS[place]) + ALWAYS_ALLOWED
    (beginning,) = translator.translate(module, [TEXTS[3][:LONGEST]])
    assert beginning.text == answers[3].text and beginning.score < 0


def test_a_batch_is_answered_beside_what_is_right(module, translator):
    """Rows without weight, which fill up the last batch, are left out."""
    texts = [TEXTS[0], TEXTS[2], "", TEXTS[6]]
    source, segments, targets, weights = np.zeros((4, 4, 8), np.int32)
    for row, text in enumerate(texts):
        ids = [*TOKENIZER.encode(text), TOKENIZER.separator_id]
        source[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        targets[row, : len(ids)], weights[row, : len(ids)] = ids[::-1], text != ""
    batch = {
        "source": source,
        "source_segments": segments,
        "targets": targets,
        "weights": weights.astype(np.float32),
    }
    answers = translator.translate(module, [text for text in texts if text])
    order = np.arange(8)[::-1]  # as if the split were evaluated from its end
    found = answer_split(translator, module, [batch, batch], order)
    assert found["source"].tolist() == [TEXTS[place] for place in (6, 2, 0, 6, 2, 0)]
    assert found["reference"].tolist() == [text[::-1] for text in found["source"]]
    assert found["hypothesis"][2::-1].tolist() == [answer.text for answer in answers]
    np.testing.assert_allclose(
        found["score"][2::-1].astype(float), [answer.score for answer in answers], rtol=1e-5
    )
