"""Models that read texts and write none: trained, evaluated, asked. And a run that ends early."""

import csv
import json

import pytest

from tests.end_to_end.verbs import TINY_TEXT, run, write_text

SMALL = {
    "model__width": "16",
    "model__depth": "1",
    "data__sequence_length": "16",
    "data__global_batch_size": "8",
    "data__tokenizer__vocabulary_size": "300",
    "train__steps": "60",
    "train__evaluate_every_steps": "30",
    "optimizer__learning_rate": "1e-2",
}


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A classifier of texts that say what they are."""
    folder = tmp_path_factory.mktemp("labels")
    with (folder / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for n in range(200):
            animal = ("cat", "dog", "horse")[n % 3]
            writer.writerow([f"number {n}: the {animal} is here, and it is {n % 7}", animal])
    run(
        "train.py",
        "--config=configs/text_classification.py",
        f"--workdir={folder / 'run'}",
        data__path=str(folder / "texts.csv"),
        model__num_heads="2",
        model__dropout="0",
        **SMALL,
    )
    return folder / "run"


def test_a_classifier_of_texts_is_evaluated_and_asked(labels):
    lines = run("evaluate.py", f"--workdir={labels}").stdout.splitlines()
    metrics = json.loads(lines[-1])
    assert metrics["accuracy"] > 0.9 and metrics["split"] == "validation"
    assert "horse" in "".join(lines[:-1])
    prompts = [f"--prompt=the {animal} is here" for animal in ("dog", "cat")]
    answers = run("generate.py", f"--workdir={labels}", *prompts).stdout.splitlines()
    assert [answer.partition("\t")[0] for answer in answers] == ["dog", "cat"]
    found = json.loads(run("generate.py", f"--workdir={labels}", *prompts[:1], "--json").stdout)
    assert found["label"] == "dog" and sum(found["scores"].values()) == pytest.approx(1, abs=1e-5)
    refused = run(
        "generate.py", f"--workdir={labels}", "--prompt=a", "--temperature=1", expect=2
    ).stderr
    assert "--temperature is for models that write texts" in refused
    assert (
        "give --prompt"
        in run("generate.py", f"--workdir={labels}", "--input=a.png", expect=2).stderr
    )


@pytest.mark.full
def test_a_masked_language_model_fills_gaps(tmp_path):
    text = write_text(tmp_path / "input.txt")
    fields = SMALL | {"data__source": "text_files", "data__path": str(text)}
    run(
        "train.py",
        "--config=configs/masked_language_model.py",
        f"--workdir={tmp_path / 'run'}",
        model__num_heads="2",
        **fields,
    )
    asked = ["generate.py", f"--workdir={tmp_path / 'run'}"]
    filled = run(*asked, "--prompt=3 times[MASK] is 9").stdout
    assert filled.startswith("3 times") and "[MASK]" not in filled
    both = run(*asked, "--prompt=3 times[MASK] is 9", "--prompt=[MASK]\n3").stdout
    assert both.startswith(f'==> "3 times[MASK] is 9" <==\n{filled}\n==> "[MASK]\\n3" <==\n')
    found = json.loads(run(*asked, "--prompt=3[MASK] 3 is[MASK].", "--json").stdout)
    assert [len(one) for one in found["candidates"]] == [5, 5]
    assert "has no [MASK]" in run(*asked, "--prompt=3 times", expect=2).stderr


@pytest.mark.full
def test_a_run_without_progress_ends_early_and_goes_on_when_asked(tmp_path):
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()} | {
        "data__path": str(write_text(tmp_path / "input.txt")),
        "optimizer__learning_rate": "1e-30",
        "train__evaluate_every_steps": "5",
        "train__stop_after_evaluations": "2",
        "checkpoint__best_metric": "accuracy",
    }
    command = ["train.py", "--config=configs/shakespeare_char.py", f"--workdir={tmp_path / 'run'}"]
    first = run(*command, **fields)
    assert "ended early, at step 15: 2 evaluations without a better accuracy" in first.stderr
    assert (tmp_path / "run" / "checkpoints" / "15").exists()
    again = run(*command, **fields)
    assert "ended early, at step 15" in again.stderr and "step 20" not in again.stderr
    run(*command, **fields | {"train__stop_after_evaluations": "4"})
    steps = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert max(steps) == 25
