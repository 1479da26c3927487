"""Teacher forcing in sums, and what written answers are worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from tasks import registry

V, B, S, T = 11, 3, 5, 4
RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(B, T, V)).astype(np.float32))
BATCH = {
    "source": RANDOM.integers(0, V, (B, S)),
    "source_segments": (np.arange(S) < np.array([[5], [2], [3]])).astype(np.int32),
    "tokens": RANDOM.integers(0, V, (B, T)),
    "targets": RANDOM.integers(0, V, (B, T)),
    "weights": (np.arange(T) < np.array([[4], [2], [0]])).astype(np.float32),
}


class Watched:
    """A model whose logits are what they are, and that remembers what it was given."""

    def encode(self, source, *, segments_BS, dropout_key):
        self.read = {"source": source, "source_segments": segments_BS}
        self.keys = [dropout_key]
        return "memory"

    def hidden(self, tokens, memory, *, dropout_key):
        assert memory == "memory"
        self.read["tokens"] = tokens
        self.keys.append(dropout_key)
        return LOGITS, None

    def head(self, x):
        return x


def build(**changes):
    settings = {"label_smoothing": 0.0, "z_loss": 0.0, "loss_chunks": 1, "devices": 1}
    return registry.build("sequence_to_sequence", **settings | changes)


def test_the_loss_is_in_nats_for_each_target_and_smoothing_only_minimised():
    model, task = Watched(), build(label_smoothing=0.1)
    sums = task.loss_sums(model, BATCH, dropout_key=jax.random.key(0))
    log_p = np.asarray(jax.nn.log_softmax(LOGITS), np.float64)
    right = np.take_along_axis(log_p, BATCH["targets"][..., None], axis=-1)[..., 0]
    minimised = -(0.9 * right + 0.1 * log_p.mean(axis=-1))
    np.testing.assert_allclose(sums["loss"], -np.sum(right * BATCH["weights"]), rtol=1e-5)
    np.testing.assert_allclose(sums["objective"], np.sum(minimised * BATCH["weights"]), rtol=1e-5)
    assert sums["weight"] == 6
    for name, given in model.read.items():
        np.testing.assert_array_equal(given, BATCH[name])
    assert len({str(jax.random.key_data(key)) for key in model.keys}) == 2

    evaluated, _ = task.evaluate(model, BATCH)
    assert model.keys == [None, None]
    metrics = task.summarize({name: float(x) for name, x in evaluated.items()}, 9)
    hits = (np.argmax(log_p, axis=-1) == BATCH["targets"]) * BATCH["weights"]
    assert metrics["loss"] == pytest.approx(-np.sum(right * BATCH["weights"]) / 6)
    assert metrics["accuracy"] == pytest.approx(hits.sum() / 6)
    assert metrics["examples"] == 2 and "bits_per_byte" not in metrics


def test_answers_are_measured_as_sacrebleu_measures_them():
    references = ["Zwei Hunde laufen am Strand.", "Ein Mann mit Hut liest.", "Ja."]
    hypotheses = ["Zwei Hunde laufen am Meer.", "Ein Mann mit Hut liest.", ""]
    found = build().text_metrics(hypotheses, references)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["bleu"] == sacrebleu.BLEU().corpus_score(hypotheses, [references]).score
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(hypotheses, [references]).score
    assert 20 < found["bleu"] < found["chrf"] < 100
