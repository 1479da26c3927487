"""The length of a run as passes over its examples."""

import math

import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.reading.saved import check_workdir, write_config
from configs.schema.rules import resolve_steps

DIGITS = "configs/digits_cnn.py"


@pytest.mark.parametrize(
    ("epochs", "batch_size", "examples", "steps"),
    [
        ("3", 10, 100, 30),
        ("3", 32, 100, 10),  # The last batch holds 20 examples of the fourth pass.
        ("0.1", 1, 30, 3),  # In binary a tenth is more than one.
        ("1.1", 11, 100, 10),
        ("0.5", 8, 3, 1),
        ("7", 1, 1, 7),
        ("1e-9", 64, 10, 1),
    ],
)
def test_an_epoch_ends_with_the_step_that_takes_its_last_example(
    epochs, batch_size, examples, steps
):
    given = {"train.epochs": epochs, "data.global_batch_size": str(batch_size)}
    config = resolve_steps(load_config(DIGITS, given), examples)
    assert config.train.steps == steps
    assert steps * batch_size >= float(epochs) * examples * (1 - 1e-12)
    assert math.isclose(config.train.epochs, float(epochs))


def test_epochs_replace_the_steps_of_a_recipe_and_steps_its_epochs(tmp_path):
    by_epochs = tmp_path / "by_epochs.py"
    by_epochs.write_text(
        "from configs import digits_cnn\n\n\ndef get_config():\n"
        "    config = digits_cnn.get_config()\n    config.train.epochs = 2\n    return config\n"
    )
    for given, steps in (
        ({}, 20),
        ({"train.epochs": "3"}, 30),
        ({"train.steps": "7"}, 7),
    ):
        given = {"data.global_batch_size": "10", **given}
        assert resolve_steps(load_config(by_epochs, given), 100).train.steps == steps
    assert resolve_steps(load_config(DIGITS), 100).train.steps == load_config(DIGITS).train.steps


def test_what_can_not_be_is_said_in_a_line(refusal):
    workdir, epochs = "--workdir=made", "--config.train.epochs"
    both = refusal(f"--config={DIGITS}", workdir, f"{epochs}=2", "--config.train.steps=9")
    assert both == "--config.train.steps=9 has no effect: train.epochs=2 says how long the run is"
    for wrong in ("0", "-1", "nan", "many"):
        message = refusal(f"--config={DIGITS}", workdir, f"{epochs}={wrong}")
        assert "--config.train.epochs must be a finite number > 0" in message
    for name in ("epochs", "num_epochs", "max_epochs", "num_train_epochs"):
        assert "did you mean --config.train.epochs?" in refusal(
            f"--config={DIGITS}", workdir, f"--{name}=3"
        )
    with pytest.raises(UsageError, match=r"train.epochs=1e.20 of 100 examples are .* at most"):
        resolve_steps(load_config(DIGITS, {"train.epochs": "1e20"}), 100)
    late = {"train.epochs": "2", "train.profile_from_step": "21", "data.global_batch_size": "10"}
    with pytest.raises(UsageError, match=r"profile_from_step=21 is behind .*epochs=2 are 20 steps"):
        resolve_steps(load_config(DIGITS, late), 100)
    assert resolve_steps(load_config(DIGITS, late), 101).train.steps == 21


def test_a_run_goes_on_by_epochs_and_tells_of_changed_ones_alone(tmp_path):
    def told_of(**given: str) -> list[str]:
        told = []
        check_workdir(load_config(DIGITS, given), str(tmp_path), told.append)
        return [line.partition(" (since")[0] for line in told]

    write_config(resolve_steps(load_config(DIGITS, {"train.epochs": "2"}), 100), tmp_path)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    assert told_of(**{"train.epochs": "2"}) == []
    assert told_of(**{"train.epochs": "3"}) == ["train.epochs was 2.0, is 3.0"]
    assert told_of(**{"train.steps": "9"}) == [
        "train.steps was 4, is 9",
        "train.epochs was 2.0, is none",
    ]
