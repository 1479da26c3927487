"""What is said of a run from its figures alone, and what is not."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from configs.reading.names import is_field_or_section
from configs.reading.recipes import load_config
from reporting import data_diagnosis, diagnosis, findings
from reporting.data_diagnosis import check_data
from reporting.diagnosis import diagnose, verdict
from reporting.findings import Facts

PRIOR = math.log(10)
STEPS = np.arange(20, 801, 20)
WAY = STEPS / STEPS[-1]


def config(recipe: str = "digits_cnn", **overrides: str):
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(f"configs/{recipe}.py", dotted)


DIGITS = config()


def lines(losses, validations=(), validated=200, **metrics):
    """The lines of a run whose logged losses are these; and validations, spread over it."""
    usual = {"learning_rate": 1e-3, "gradient_norm": 1.0, "update_ratio": 5e-3}
    usual |= {"input_wait_fraction": 0.02} | metrics
    columns = {name: np.broadcast_to(of, STEPS.shape).tolist() for name, of in usual.items()}
    found = [
        {"step": int(step), "loss": float(loss), **{name: of[i] for name, of in columns.items()}}
        for i, (step, loss) in enumerate(zip(STEPS, losses, strict=True))
    ]
    for number, (loss, accuracy) in enumerate(validations, 1):
        step = int(STEPS[-1]) * number // len(validations)
        values = {"loss": loss, "accuracy": accuracy, "examples": validated}
        found.append({"step": step} | {f"validation/{name}": v for name, v in values.items()})
    return found


def falling(to: float = 0.02, pace: float = 12.0):
    return to + (PRIOR - to) * np.exp(-pace * WAY)


GOOD = [(0.4, 0.88), (0.1, 0.97), (0.06, 0.98)]
FAIR = [(0.9, 0.6), (0.5, 0.81), (0.45, 0.84)]
"""What is learnt and leaves more than a tenth of the mistakes of guessing."""
CHANCE = [(2.4, 0.11), (2.31, 0.09), (2.35, 0.1)]


def facts(losses=None, validations=GOOD, settings=DIGITS, course=None, **known):
    usual = {"examples": 1290, "prior_loss": PRIOR, "commonest_target": 0.11}
    usual |= {"commonest_input": 0.001, "inputs": 1000, "dead": [(1, 32), (9, 128)]}
    usual["classes"] = {str(digit): 100 for digit in range(10)}
    metrics = lines(falling() if losses is None else losses, validations, **(course or {}))
    return Facts(settings, metrics, **usual | known)


def names(of: Facts) -> list[str]:
    return [one.name for one in diagnose(of)]


def test_of_a_run_that_learns_there_is_nothing_to_say():
    noise = 1 + 0.3 * np.random.default_rng(0).normal(size=STEPS.shape)
    assert names(facts(falling() * noise)) == []
    assert verdict(facts()) == ["nothing stands out"]


HIGH, LOW = "learning rate too high", "learning rate too low"
SMALL, LARGE = {"update_ratio": 1e-4}, {"update_ratio": 0.05}
TEXT, DATES = config("python_stdlib"), config("dates_seq2seq")
SLOW_AVERAGE = config("digits_cnn", **{"train.ema_decay": "0.999"})
UP = np.interp(WAY, [0, 0.1, 0.3, 1], [2.3, 1.5, 6.0, 2.3])
SPIKE = {"gradient_norm": np.where(STEPS == 600, 80.0, 1.0)}
SHAKEN = falling() + np.where((STEPS >= 600) & (STEPS < 700), 0.4, 0)


FAULTS = [
    (HIGH, "optimizer.learning_rate=0.0001", facts(UP, CHANCE)),
    (HIGH, "optimizer.learning_rate", facts(np.where(WAY > 0.5, np.nan, falling()))),
    (HIGH, "optimizer.learning_rate", facts(np.full(40, np.nan), ())),
    (HIGH, "optimizer.learning_rate", facts(1 - WAY + 0.05, course=LARGE)),
    (LOW, "optimizer.learning_rate=0.01", facts(PRIOR - 0.4 * WAY, CHANCE, course=SMALL)),
    ("overfitting", "model.dropout", facts(validations=[(0.5, 0.9), (0.9, 0.8), (1.2, 0.7)])),
    ("overfitting", "model.dropout", facts(validations=[(0.5, 0.9), (0.9, 0.8), (0.5, 0.7)])),
    ("stale average", "train.ema_decay=0.99", facts(validations=CHANCE, settings=SLOW_AVERAGE)),
    ("underfitting", "model.width=256", facts(falling(to=2.0), [(2.0, 0.2), (2.0, 0.21)])),
    ("nothing learnt", "data.source", facts(falling(to=PRIOR), CHANCE)),
    ("no generalization", "data.source", facts(falling(), CHANCE)),
    ("exploding gradients", "optimizer.gradient_clip_norm", facts(SHAKEN, course=SPIKE)),
    ("input-bound", "data.workers=2", facts(course={"input_wait_fraction": 0.6})),
    ("constant input", "data.source", facts(falling(to=PRIOR), CHANCE, commonest_input=1.0)),
    ("duplicates between splits", "data.source", facts(copied={("train", "test"): 0.8})),
    ("class imbalance", "task.class_weights", facts(classes={"spam": 95, "ham": 5})),
    ("padding waste", "data.sequence_length", facts(padding=0.8, settings=TEXT)),
    ("padding waste", "data.length_buckets=2", facts(padding=0.8, settings=DATES)),
    ("dead units", "optimizer.learning_rate", facts(falling(to=0.4), FAIR, dead=[(1, 9), (7, 9)])),
    ("frozen layers", "train.freeze", facts(unmoved={"stages.0.kernel": "train.freeze"})),
    ("frozen layers", "optimizer.learning_rate", facts(unmoved={"dense.kernel": ""})),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "field", "given"), FAULTS)
def test_what_went_wrong_is_named_alone_and_with_a_field_to_try(expected, field, given):
    (found,) = diagnose(given)
    assert found.name == expected
    assert field in found.remedy
    assert all(map(is_field_or_section, re.findall(r"\b\w+(?:\.[a-z_]+)+", found.remedy)))
    assert verdict(given) == [f"{expected}: {found.evidence}. Try {found.remedy}"]


@pytest.mark.parametrize(
    "given",
    [
        # Labels that a third of which nobody can know, and what is more than that is learnt.
        facts(falling(to=0.8), [(0.9, 0.7), (0.82, 0.72)]),
        # A slow beginning, and still falling at the end.
        facts(np.interp(WAY, [0, 0.5, 1], [2.3, 2.2, 0.9]), [(2.2, 0.2), (0.9, 0.7)]),
        # Of a loss that is small already a batch of mistakes is many times that.
        facts(np.where(STEPS == 600, 0.4, falling(to=1e-4))),
        # A large gradient that did no harm.
        facts(course=SPIKE),
        # Gradients that were large once, when the parameters were fresh.
        facts(course={"gradient_norm": np.where(STEPS == 20, 80.0, 1.0)}),
        # Two classes of four to one; one of a hundred that is twenty times as common as the others.
        facts(classes={"spam": 20, "ham": 80}),
        facts(classes={"common": 20} | {f"rare {i}": 1 for i in range(99)}),
        # Small steps, many of them: the loss says that they were enough.
        facts(course=SMALL),
        # What is trained before has little left to learn.
        facts(np.linspace(0.9, 0.6, 40), [(0.7, 0.8)], course=SMALL, begun_elsewhere=True),
        # Validation lags behind training, and comes down as fast.
        facts(falling(to=1.1), [(2.3, 0.07), (2.2, 0.27), (1.99, 0.4)]),
        # Nothing is known but the losses.
        Facts(DIGITS, lines(falling())),
    ],
)  # fmt: skip
def test_what_a_healthy_run_may_look_like(given):
    assert names(given) == []


def test_weighted_classes_are_known_to_be_rare():
    weighted = config(task__class_weights="1,1,1,1,1,1,1,1,1,9")
    assert names(facts(classes={"a": 95, "b": 5}, settings=weighted)) == []


LEARNT = falling(to=0.01)


def few(accuracy: float, loss: float, examples: int = 31, *, share: float = 0.35):
    """A run of three classes that was learnt by heart, with this validation at its end."""
    validations = [(1.3, share), (2.2, accuracy), (loss, accuracy)]
    known = {"prior_loss": math.log(3), "commonest_target": share, "validations": ()}
    known |= {"classes": {"a": 110, "b": 110, "c": 109}, "examples": 329}
    metrics = lines(LEARNT * math.log(3) / PRIOR, validations, validated=examples)
    return replace(facts(**known), metrics=metrics)


def test_an_accuracy_clearly_above_guessing_says_overfitting_however_high_the_loss():
    (found,) = diagnose(few(0.71, 4.2))
    assert found.name == "overfitting"
    assert "(31 examples alone: accuracy 71.0 %, ± 18 %)" in found.evidence
    (found,) = diagnose(few(0.71, 4.2, 3000))
    assert found.name == "overfitting" and "alone" not in found.evidence
    (found,) = diagnose(few(0.40, 4.2, 3000))  # 5 points above guessing, of so many.
    assert found.name == "overfitting"


@pytest.mark.parametrize(("accuracy", "examples", "told"), [
    (0.35, 3000, "of 3,000 examples less than 38.0 % may be chance"),
    (0.52, 31, "of 31 examples less than 67.7 % may be chance"),
    (0.9, 5, "and 5 examples are too few to tell it from chance"),
])  # fmt: skip
def test_what_is_learnt_in_training_alone_may_be_either_and_both_remedies_are_told(
    accuracy, examples, told
):
    run = few(accuracy, 4.2, examples)
    run = replace(run, prior_loss=1.0986) if accuracy < 0.9 else run
    (found,) = diagnose(replace(run, classes=None))
    assert found.name == "no generalization"
    assert told in found.evidence and "overfitting, or labels without information" in found.evidence
    assert "more data" in found.remedy and "another data.source" in found.remedy


def test_what_training_never_learns_may_be_the_labels_or_the_model():
    (found,) = diagnose(facts(*PLATEAU))
    assert "labels without information, or a model" in found.evidence
    assert "data.source" in found.remedy and "model.width=256" in found.remedy


@pytest.mark.parametrize("given", [
    facts(dead=[(78, 128)]),
    facts(falling(to=1.3), course=LARGE),  # Training is made hard, by dropout or mixtures.
    facts(np.interp(WAY, [0, 1], [2.3, 0.4]), course=SMALL),
    facts(validations=[(0.1, 0.98), (0.5, 0.97)]),  # Sure of its few mistakes.
    facts(validations=(), dead=[(78, 128)]),  # There is no validation: by training.
    replace(facts(dead=[(30, 32)]), metrics=[
        *lines(falling()), {"step": 800, "validation/loss": 0.4, "validation/wer": 0.04}]),
])  # fmt: skip
def test_of_a_run_that_is_good_no_fault_of_what_it_learnt_is_told(given):
    assert given.is_good and names(given) == []
    poor = {"validation/loss": 1.2, "validation/accuracy": 0.6, "validation/wer": 0.7}
    assert names(replace(given, metrics=[*given.metrics, {"step": 800} | poor]))


def test_a_rare_class_that_is_never_found_is_no_good_run():
    never = [(0.25, 0.94), (0.22, 0.95)]
    known = {"prior_loss": 0.2, "commonest_target": 0.95, "classes": {"a": 95, "b": 5}}
    assert not facts(falling(to=0.19), never, **known).is_good


def test_all_pairs_of_splits_are_told_at_once():
    copied = {("train", "validation"): 0.3, ("train", "test"): 0.02, ("validation", "test"): 0.5}
    (found,) = diagnose(facts(copied=copied))
    assert (
        "30.0 % of validation stands in train too, 50.0 % of test stands in validation"
        in found.evidence
    )
    assert found.evidence.endswith("so that the metrics of validation and test say little")


CONSTANT = {"inputs": 360, "commonest_input": 1.0, "commonest_name": "circle/7.png"}


def test_constant_input_stops_before_the_first_step_and_says_what_and_where(tmp_path):
    folder = config("image_folder_resnet", data__path="configs")
    with pytest.raises(UsageError) as error:
        check_data(folder, tmp_path, lambda: CONSTANT, notify=pytest.fail)
    assert str(error.value).startswith("constant input: all 360 training inputs")
    for told in (
        "such as circle/7.png",
        "in data.path=configs",
        "--show_batch",
        "another data.path",
    ):
        assert told in str(error.value)
    with pytest.raises(
        UsageError, match=r"99\.4 % of 360 training inputs .* in data.source=digits"
    ):
        check_data(DIGITS, tmp_path, lambda: CONSTANT | {"commonest_input": 0.994}, pytest.fail)


@pytest.mark.parametrize(
    ("most", "remedy"), [(0, "these the transcripts of these"), (1, "=1"), (3, "=2")]
)
def test_transcripts_that_are_all_too_long_stop_before_the_first_step(tmp_path, most, remedy):
    tones = config("tones_ctc")
    with pytest.raises(UsageError, match="nothing can be learnt: every transcript") as error:
        check_data(tones, tmp_path, lambda: {"most_subsampling": most}, notify=pytest.fail)
    assert remedy in str(error.value) and "model.subsampling=4 makes one" in str(error.value)
    check_data(tones, tmp_path, lambda: {"most_subsampling": 4}, notify=pytest.fail)


@pytest.mark.parametrize(("measured", "expected"), [
    (CONSTANT | {"commonest_input": 0.98}, ["constant input: 98.0 %"]),
    (CONSTANT | {"inputs": 9}, []),  # A model that is tried on a few copies of one example.
    ({"padding": 0.9, "classes": {"a": 95, "b": 5}}, ["class imbalance: ", "padding waste: "]),
    ({"copied": {("train", "test"): 0.4}}, ["duplicates between splits: 40.0 % of test"]),
    ({"commonest_input": 0.3, "inputs": 1000, "padding": 0.1}, []),
])  # fmt: skip
def test_what_needs_no_training_is_told_before_the_first_step(measured, expected, tmp_path):
    told = []
    check_data(DIGITS, tmp_path, lambda: measured, told.append)
    assert len(told) == len(expected)
    assert all(
        line.startswith(f"diagnosis: {one}") for line, one in zip(told, expected, strict=True)
    )


def test_tiny_data_is_not_taken_for_labels_without_information():
    ruined = [(2.6, 0.5), (3.1, 0.55)]
    assert names(facts(falling(to=0.0), ruined, examples=40)) == ["overfitting"]


PLATEAU = falling(to=PRIOR), CHANCE


def test_a_plateau_is_no_fault_before_there_was_time_to_leave_it():
    run = facts(*PLATEAU)
    early = [line for line in run.metrics if line["step"] <= 400]
    early.append(run.metrics[-1] | {"step": 400})
    assert names(replace(run, metrics=early)) == []
    (told,) = verdict(replace(run, metrics=early))
    assert told.startswith("nothing learnt so far") and "from 500 steps on" in told
    assert names(run) == ["nothing learnt"]


def test_what_another_fault_explains_is_not_told():
    same = {"commonest_input": 1.0, "copied": {("train", "validation"): 1.0}, "dead": [(20, 32)]}
    assert names(facts(*PLATEAU, **same)) == ["constant input"]
    assert names(facts(UP, CHANCE, dead=[(20, 32)])) == ["learning rate too high", "dead units"]


def test_validations_that_were_not_finite_are_left_out():
    given = facts(validations=[(0.4, 0.9), (math.nan, math.inf), (0.1, 0.95)])
    assert given.validated("loss").tolist() == [0.4, 0.1]
    assert given.validated("accuracy").tolist() == [0.9, 0.95]
    assert names(facts(validations=[(0.1, 0.95), (math.inf, 0.95)])) == []
    assert names(facts(validations=[(math.nan, 0.95)])) == []


def test_a_short_run_is_told_of_its_data_alone():
    metrics = [line for line in lines(UP) if line["step"] <= 90]
    short = Facts(DIGITS, metrics, prior_loss=PRIOR, classes={"a": 95, "b": 5}, dead=[(9, 9)])
    imbalance, told = verdict(short)
    assert imbalance.startswith("class imbalance: 95.0 % of the examples are of class a")
    assert told.startswith("too short to say how it learns: 80 steps")
    assert verdict(Facts(DIGITS)) == [
        "too short to say how it learns: 0 steps; from 100 on, 10 of them logged, it is judged"
    ]


def test_the_page_of_the_findings_names_each_of_them_and_the_limits_as_they_are():
    page = (Path(diagnosis.__file__).parents[1] / "docs/diagnosis.md").read_text()
    told = set(re.findall(r"^\| ([a-z -]+) \|", page, re.MULTILINE))
    assert told == {name for name, *_ in FAULTS}
    limits = re.findall(r"`([A-Z_]+)` = (\d+(?:\.\d+)?)", page)
    known = vars(findings) | vars(data_diagnosis) | vars(diagnosis)
    for name, value in limits:
        assert known[name] == float(value), name
    constants = {name for name, value in known.items() if isinstance(value, int | float)}
    assert constants - {"MOST_NAMES"} == {name for name, _ in limits}
