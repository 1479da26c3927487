"""What train.py says of its data before the first step, as its user reads it."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import evaluate
import train
from configs.errors import UsageError
from tests.end_to_end.verbs import run

RECIPE = "--config=configs/digits_cnn.py"
TINY = {
    "data__source": "image_folder",
    "data__global_batch_size": "8",
    "model__channels": "8",
    "model__width": "8",
    "mesh__data": "1",
    "train__steps": "4",
    "train__log_every_steps": "1",
    "train__evaluate_every_steps": "4",
    "checkpoint__every_steps": "2",
}


def write_pictures(folder: Path, counts: dict[str, int], *, same: bool = False) -> Path:
    """A folder for each class with so many pictures: random ones, or the same again and again."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (8, 8), np.uint8)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = picture if same else random.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def test_constant_input_ends_with_a_line_and_status_2_and_leaves_the_workdir(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", {"a": 20, "b": 20}, same=True)
    fields = TINY | {"data__path": str(pictures)}
    with pytest.raises(UsageError, match=r"^constant input: all "):
        train.main(arguments(tmp_path / "new", **fields))
    assert not (tmp_path / "new").exists()
    old = tmp_path / "old"
    old.mkdir()
    (old / "notes.txt").write_text("mine")
    done = run("train.py", RECIPE, f"--workdir={old}", expect=2, **fields)
    (line,) = (line for line in done.stderr.splitlines() if "constant input" in line)
    assert line.startswith("train.py: error: constant input: all ")
    assert f"in data.path={pictures}: nothing can be learnt" in line
    assert re.search(r"such as [ab]/\d+\.png", line) and "--show_batch" in line
    assert "Traceback" not in done.stderr
    assert [one.name for one in old.iterdir()] == ["notes.txt"]


def constant_data(kind: str, folder: Path) -> Path:
    """What a user may give by mistake: the same again and again, with targets that differ."""
    path = folder / kind
    if kind == "pairs":
        path.mkdir()
        (path / "train.en").write_text("the same\n" * 60)
        (path / "train.de").write_text("".join(f"anders {n % 7}\n" for n in range(60)))
    elif kind == "text":
        path.write_text("a" * 20_000)
    elif kind == "labelled":
        path = path.with_suffix(".csv")
        rows = (f"{'yes' if n % 3 else 'no'},one and the same text\n" for n in range(60))
        path.write_text("label,text\n" + "".join(rows))
    elif kind == "conversations":
        path = path.with_suffix(".jsonl")
        turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
        path.write_text((json.dumps({"messages": turns}) + "\n") * 60)
    else:
        path = path.with_suffix(".csv")
        lines = ["path,label"]
        for number in range(30):  # Silence of many lengths.
            file = folder / f"{number}.wav"
            soundfile.write(file, np.zeros(2000 + 100 * number, np.float32), 8000)
            lines.append(f"{file},{'yes' if number % 2 else 'no'}")
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("kind", "recipe"), [
    ("pairs", "translation_rnn"),
    ("text", "shakespeare_char"),
    ("labelled", "text_classification"),
    ("conversations", "shakespeare_char"),
    ("sound", "speech_classification"),
])  # fmt: skip
def test_constant_input_of_any_kind_stops_before_the_first_step(kind, recipe, tmp_path):
    path = constant_data(kind, tmp_path)
    given = [f"--config=configs/{recipe}.py", f"--workdir={tmp_path / 'run'}"]
    given += [f"--config.data.path={path}", "--config.mesh.data=1"]
    if kind == "conversations":
        given.append("--config.data.source=conversations")
    with pytest.raises(UsageError, match=rf"^constant input: .* in data\.path={path}: "):
        train.main(given)
    assert not (tmp_path / "run").exists()


def test_speech_that_can_not_be_learnt_ends_with_a_line_and_leaves_nothing(tmp_path):
    rows = []
    for number in range(40):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.sin(np.arange(4000) * (0.1 + number / 100)), 8000)
        rows.append(json.dumps({"path": str(path), "text": "abcde " * 60 + str(number)}))
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    recipe, run = "--config=configs/speech_conformer_ctc.py", tmp_path / "run"
    fields = {"data__path": str(tmp_path / "train.jsonl"), "mesh__data": "1"}
    with pytest.raises(
        UsageError, match=r"^nothing can be learnt: every transcript of train is too"
    ):
        train.main(arguments(run, recipe, **fields))
    assert not run.exists()


def arguments(workdir: Path, recipe: str = RECIPE, **fields: str) -> list[str]:
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return [recipe, f"--workdir={workdir}", *overrides]


def in_this_process(workdir: Path, capsys, **fields: str) -> list[str]:
    """The lines on standard error of a run."""
    assert train.main(arguments(workdir, **fields)) == 0
    return capsys.readouterr().err.splitlines()


def test_findings_of_the_data_come_before_the_first_step_and_once(tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", {"a": 60, "b": 3})
    fields = TINY | {"data__path": str(pictures), "data__validation_fraction": "0.2"}
    told = in_this_process(tmp_path / "run", capsys, **fields)
    places = [place for place, line in enumerate(told) if "class imbalance" in line]
    assert len(places) == 1 and "diagnosis: class imbalance: 9" in told[places[0]]
    assert places[0] < next(i for i, line in enumerate(told) if "too short to say" in line)
    report = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert report.count("class imbalance: 9") == 1
    # A run that goes on does not look at its data again, and ends with all that there is to say.
    more = fields | {"train__steps": "6", "train__evaluate_every_steps": "6"}
    told = in_this_process(tmp_path / "run", capsys, **more)
    assert sum("class imbalance" in line for line in told) == 1
    going_on = next(place for place, line in enumerate(told) if "going on from" in line)
    assert going_on < next(place for place, line in enumerate(told) if "class imbalance" in line)
    report = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert report.count("class imbalance: 9") == 1


def test_text_of_unknown_words_has_no_bits_per_byte_anywhere(tmp_path, capsys):
    """Words of validation that training lacks cost a model little, whatever they are."""
    for split, names in {"train": ("cat", "dog"), "validation": ("cat", "xylophone")}.items():
        (tmp_path / "text" / split).mkdir(parents=True)
        text = "".join(f"the {names[n % 2]} sat on the mat\n" for n in range(60))
        (tmp_path / "text" / split / "a.txt").write_text(text)
    fields = {
        "data__path": str(tmp_path / "text"),
        "data__tokenizer__vocabulary_size": "50",
        "data__sequence_length": "16",
        "data__global_batch_size": "4",
        "model__width": "8",
        "task__sample_prompts": "()",
        "train__steps": "2",
        "train__evaluate_every_steps": "2",
        "mesh__data": "1",
    }
    recipe, workdir = "--config=configs/text_lstm.py", tmp_path / "run"
    with pytest.raises(UsageError) as caught:
        train.main(arguments(workdir, recipe, **fields, checkpoint__best_metric="bits_per_byte"))
    assert "30 of 420 tokens of validation are unknown" in str(caught.value)
    assert "use loss" in str(caught.value) and not workdir.exists()

    assert train.main(arguments(workdir, recipe, **fields)) == 0
    written = "".join(capsys.readouterr())
    told = "30 of 420 tokens of validation (7.14 %) are <|unknown|>: no bits per byte"
    assert told in written and "perplexity" in written
    page = (workdir / "report.html").read_text()
    assert html.escape(told) in page
    log = (workdir / "metrics.jsonl").read_text()
    assert "validation/loss" in log
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    out, err = capsys.readouterr()
    assert told in err and json.loads(out.splitlines()[-1])["loss"] > 0
    for place in (written.replace(told, ""), out, log, page.replace(html.escape(told), "")):
        assert not re.search("bits.per.byte|gzip", place, re.IGNORECASE)

    changed = fields | {"train__steps": "3", "checkpoint__best_metric": "bits_per_byte"}
    assert train.main(arguments(workdir, recipe, **changed)) == 0  # as a run of older code does
    assert "best_metric=bits_per_byte: 30 of 420 tokens" in capsys.readouterr().err
