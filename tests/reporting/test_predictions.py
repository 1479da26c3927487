"""What a classifier made of a split, against scikit-learn; only the examples that count do."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from evaluate import class_table
from inference.evaluation import evaluate
from reporting.report.predictions import Predictions
from tests.training import runs


def drawn(classes: int, examples: int, occurring: int) -> Predictions:
    """Of `classes` classes labels have the first `occurring`, predictions one more."""
    random = np.random.default_rng(0)
    label = random.integers(0, occurring, examples)
    prediction = np.where(
        random.random(examples) < 0.7, label, random.integers(1, occurring + 1, examples)
    )
    names = [f"class {number}" for number in range(classes)]
    return Predictions(
        "test", names, np.arange(examples), label, prediction, random.random(examples)
    )


def test_every_class_is_scored_as_scikit_learn_does_also_those_that_do_not_occur():
    told = drawn(classes=7, examples=200, occurring=4)
    asked = (told.label, told.prediction)
    np.testing.assert_array_equal(told.confusion(), confusion_matrix(*asked, labels=range(7)))
    expected = precision_recall_fscore_support(*asked, labels=range(7), zero_division=np.nan)
    columns = told.by_class()
    for name, column in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
        np.testing.assert_allclose(columns[name], column)
    expected = precision_recall_fscore_support(*asked, average="macro", zero_division=0)
    np.testing.assert_allclose([*told.macro_averages().values()], expected[:3])
    assert told.table()[-2] == ("class 6", "0", "-", "-", "-")


def test_confusions_and_mistakes_come_in_their_order():
    told = drawn(classes=5, examples=300, occurring=4)
    counts = told.confusion()
    pairs = told.commonest_confusions(4)
    for true, predicted, times in pairs:
        assert counts[int(true[-1]), int(predicted[-1])] == times
    wrong = np.sort((counts - np.diag(np.diag(counts))).ravel())[::-1]
    assert [times for *_, times in pairs] == wrong[:4].tolist()
    rows = told.surest_mistakes(1000)
    assert len(rows) == 300 - told.right == wrong.sum()
    assert (told.label[rows] != told.prediction[rows]).all()
    assert (np.diff(told.probability[rows]) <= 0).all()


@pytest.mark.parametrize(
    ("occurring", "names"), [(40, 40), (60, 21), (15, 15)], ids=["all", "both ends", "few of many"]
)
def test_of_many_classes_the_best_and_the_worst_are_in_the_table(occurring, names):
    told = drawn(classes=40 if names == 40 else 70, examples=3000, occurring=occurring - 1)
    rows = told.table()[1:-1]
    assert len(rows) == (names if names != 15 else 14)
    if names == 21:
        assert rows[10][0] == "... 39 more ..."
        f1 = [float(row[4].rstrip(" %")) for row in rows if row[4]]
        assert f1 == sorted(f1, reverse=True)


def test_the_table_is_aligned_for_long_and_for_wide_names():
    rows = [("class", "examples"), ("x" * 60, "1"), ("数字", "12,345")]
    assert class_table(rows).splitlines() == [
        "class" + " " * 35 + "  examples",
        "x" * 40 + "         1",
        "数字" + " " * 36 + "    12,345",
    ]


def test_examples_of_weight_0_count_nowhere_and_shift_no_other():
    program = runs.build(runs.load("digits_cnn", mesh__data="8"))
    state = program.initialize()
    size = program.config.data.global_batch_size
    batches = [*runs.batches(program.config, 2)]
    weights = np.ones((2, size), np.float32)
    weights[0, [0, 5]] = weights[1, 9:] = 0
    for batch, row in zip(batches, weights, strict=True):
        batch["weights"] = row
        batch["label"] = np.where(row == 0, 3, batch["label"])

    def evaluated(keep):
        return evaluate(
            program.model_def,
            state.params,
            state.statistics,
            runs.RowBatches(batches),
            keep=keep,
        )

    metrics, outputs = evaluated(None)
    there = np.flatnonzero(weights)
    label = np.concatenate([batch["label"] for batch in batches])[there]
    np.testing.assert_array_equal(outputs["example"], there)
    np.testing.assert_array_equal(outputs["label"], label)
    assert metrics["examples"] == len(there)
    assert metrics["accuracy"] == np.mean(outputs["label"] == outputs["prediction"])
    assert outputs["scores"].shape == (len(there), 10)
    again, few = evaluated(Predictions.arrays())
    assert again == metrics and [*few] == ["example", "label", "prediction", "probability"]
    assert evaluated(()) == (metrics, {})


@pytest.mark.parametrize("accumulation", ["1", "4"])
def test_the_accuracy_of_a_training_batch_is_told(accumulation):
    fields = {"train__gradient_accumulation": accumulation, "model__dropout": "0"}
    program = runs.build(runs.load("digits_cnn", mesh__data="1", **fields))
    batch = next(runs.batches(program.config, 1))
    size = program.config.data.global_batch_size
    batch["weights"] = np.where(np.arange(size) < 4, 0, 1).astype(np.float32)
    state = program.initialize()
    hits = 0
    for part in range(int(accumulation)):  # Batch norm sees one micro-batch at a time.
        rows = {name: array[part :: int(accumulation)] for name, array in batch.items()}
        module = program.model_def.bind(state.params, state.statistics)
        right = np.argmax(module(rows["image"], train=True), axis=-1) == rows["label"]
        hits += np.sum(right * rows["weights"])
    _, metrics = runs.step(program, state, batch)
    assert metrics["accuracy"] == pytest.approx(hits / (size - 4))
