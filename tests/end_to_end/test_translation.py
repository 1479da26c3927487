"""From two files of sentences to translations: trained, evaluated, asked; as users do it."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import sacrebleu

import evaluate
import generate
from configs.errors import UsageError
from tests.end_to_end.verbs import answers_but_one, metrics, run

DIGITS = ("zero", "one", "two", "three", "four")
ZIFFERN = ("null", "eins", "zwei", "drei", "vier")
TINY = {
    "data__tokenizer__kind": "words",
    "data__tokenizer__vocabulary_size": "30",
    "data__global_batch_size": "16",
    "data__length_buckets": "1",
    "model__width": "32",
    "model__depth": "1",
    "model__num_heads": "2",
    "model__feed_forward_width": "none",
    "model__dropout": "0",
    "task__answered_examples": "20",
    "optimizer__learning_rate": "1e-2",
    "optimizer__warmup_steps": "10",
    "train__steps": "120",
    "train__evaluate_every_steps": "60",
    "train__ema_decay": "none",
    "checkpoint__every_steps": "60",
}


def write_pairs(folder, split: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Numbers in English and, from the last to the first, in German."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        digits = random.integers(0, 5, random.integers(1, 5))
        english = " ".join(DIGITS[digit] for digit in digits)
        pairs.append((english, " ".join(ZIFFERN[digit] for digit in digits[::-1])))
    for side, ending in enumerate(("en", "de")):
        lines = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{split}.{ending}").write_text(lines)
    return pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for split, count in (("train", 500), ("validation", 40), ("test", 40)):
        write_pairs(folder, split, count, seed=count + len(split))
    return folder


@pytest.fixture(scope="module")
def workdir(folder):
    """A Transformer that has learnt them, about."""
    workdir = folder / "run"
    recipe = "--config=configs/translation_transformer.py"
    done = run("train.py", recipe, f"--workdir={workdir}", data__path=str(folder), **TINY)
    assert "hypothesis" in done.stdout and "test: examples 40, loss" in done.stdout
    return workdir


def test_a_run_tells_what_its_model_writes(workdir, folder):
    sample = (workdir / "samples" / "step-00000120.txt").read_text().splitlines()
    first = (folder / "validation.en").read_text().splitlines()[0]
    assert sample[0].split(maxsplit=1) == ["source", first]
    assert [line.partition(" ")[0] for line in sample[:3]] == ["source", "reference", "hypothesis"]
    assert "<h2>Samples" in (workdir / "report.html").read_text(encoding="utf-8")
    assert metrics(workdir)[120]["loss"] < 1
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = {name: value for line in lines for name, value in line.items()}
    assert last["validation/chrf"] > 50 and 0 < last["validation/exact_match"] <= 1


def test_metrics_are_sacrebleus_of_the_written_predictions(workdir, folder, tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    assert evaluate.main([f"--workdir={workdir}", f"--predictions={path}"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    hypotheses, references = ([row[name] for row in rows] for name in ("hypothesis", "reference"))
    assert [row["source"] for row in rows] == (folder / "test.en").read_text().splitlines()
    assert references == (folder / "test.de").read_text().splitlines()
    assert [row["example"] for row in rows] == list(range(40))
    assert measured["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert measured["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    right = np.mean([one == other for one, other in zip(hypotheses, references, strict=True)])
    assert measured["exact_match"] == right > 0.5
    assert {"loss", "perplexity", "accuracy", "examples"} <= measured.keys()

    wider = [f"--workdir={workdir}", "--config.task.beam_size=1"]
    assert evaluate.main(wider) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(measured["loss"])


def test_the_order_of_evaluation_changes_nothing(workdir, tmp_path, capsys, monkeypatch):
    several = shutil.copytree(workdir, tmp_path / "run")
    settings = json.loads((several / "config.json").read_text())
    settings["data"]["length_buckets"] = 4
    (several / "config.json").write_text(json.dumps(settings))

    def evaluated(name):
        flags = [f"--workdir={several}", f"--predictions={tmp_path / name}"]
        assert evaluate.main(flags) == 0
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return json.loads(capsys.readouterr().out.splitlines()[-1]), rows

    measured, rows = evaluated("sorted.jsonl")
    monkeypatch.setattr("data.batches.evaluation_order", lambda split, most=None: np.arange(40))
    stored, stored_rows = evaluated("stored.jsonl")
    assert len(rows) == 40
    for one, other in zip([measured, *rows], [stored, *stored_rows], strict=True):
        assert one == {
            name: pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value
            for name, value in other.items()
        }


def test_lines_and_prompts_are_translated_in_order(workdir, folder, capsys, monkeypatch):
    sources = (folder / "test.en").read_text().splitlines()[:5]
    (folder / "some.txt").write_text("\n".join([*sources[:3], "", sources[3]]))  # no last \n

    def ask(*flags: str) -> list[str]:
        assert generate.main([f"--workdir={workdir}", *flags]) == 0
        return capsys.readouterr().out.splitlines()

    from_file = ask(f"--input={folder / 'some.txt'}", f"--prompt={sources[4]}")
    assert len(from_file) == 6 and from_file[4] == ""
    typed = b"\xef\xbb\xbf" + sources[4].encode() + b"\r\n"  # as Windows may have it
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
    told = ask("--input=-", f"--input={folder / 'some.txt'}", "--json", "--beam_size=4")
    told = [json.loads(line) for line in told]
    assert [list(one) for one in told] == [["source", "text", "score"]] * 6
    assert [one["source"] for one in told] == [sources[4], *sources[:3], "", sources[3]]
    assert [one["text"] for one in told] == from_file
    assert all(one["score"] <= 0 for one in told)


def test_a_line_that_is_no_text_takes_no_other_answer_away(workdir, tmp_path, capsys):
    path = tmp_path / "some.txt"
    path.write_bytes("A dog.\nEin Mädchen.\nTwo dogs.\n".encode("latin-1"))
    flags = (f"--workdir={workdir}", f"--input={path}")
    unread = f"line 2 of {path}: no UTF-8 text, byte 0xe4"
    plain, objects = answers_but_one(capsys, unread, 3, *flags)
    assert objects[1] == {"input": f"line 2 of {path}", "error": "no UTF-8 text, byte 0xe4"}
    assert plain == [objects[0]["text"], "", objects[2]["text"]]
    assert [one["source"] for one in objects[::2]] == ["A dog.", "Two dogs."]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--input is missing"),
        (["--prompt=a", "--temperature=1"], "--temperature is for language models"),
        (["--prompt=a", "--beam_size=0"], "--beam_size must be an integer >= 1"),
        (["--input=gone.en"], "--input=gone.en: no such file"),
        (["--input=configs"], "is a folder"),
        (["--input=pictures/report.png"], "line 3 of pictures/report.png is no UTF-8 text"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(workdir, flags, message):
    with pytest.raises(UsageError) as error:
        generate.main([f"--workdir={workdir}", *flags])
    assert message in str(error.value) and "\n" not in str(error.value)
