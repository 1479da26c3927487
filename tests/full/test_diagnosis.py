"""Faults planted in real runs, each of which is named; and healthy runs, of which nothing is told.

Each is trained by `train.py`, and read as its user reads it: the lines that it ends with, which
stand in its report too.
"""

import email
import functools
import html
import json
import operator
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

import train
from configs.reading.recipes import load_config
from data.records import RecordReader

Random = np.random.Generator
Fields = Mapping[str, str]


# ---- What is learnt.


def source_text(folder: Path, random: Random) -> Fields:
    """The sources of a package that comes with Python."""
    return {"data.path": f"{Path(email.__file__).parent}/*.py"}


WORDS = {
    "good": "lovely warm brilliant moving funny sharp tender fresh rich clever",
    "bad": "dull cold clumsy boring flat loud tired stale thin silly",
}
OTHERS = """the a film book plot cast scene story music light with and but of in this that one
evening again quite rather very almost actor writer director ending beginning chapter"""


def review(random: Random, label: str, words: int = 16) -> str:
    """A text in which most of the words that judge are those of its label."""
    (other,) = WORDS.keys() - {label}
    few = max(1, words // 5)
    text = [*random.choice(WORDS[label].split(), few)]
    text += [*random.choice(OTHERS.split(), words - few)]
    text += [random.choice(WORDS[other].split())] if few > 1 and random.random() < 0.5 else []
    random.shuffle(text)
    return " ".join(text)


def rows(random: Random, count: int, *, good: float = 0.5, words: int = 16) -> list[tuple]:
    """So many labels with their texts."""
    labels = np.where(random.random(count) < good, "good", "bad")
    return [(label, review(random, label, words)) for label in labels]


def write_table(path: Path, rows: Sequence[tuple]) -> None:
    lines = ["label,text", *(f"{label},{text}" for label, text in rows)]
    path.write_text("\n".join(lines) + "\n")


def reviews(folder: Path, random: Random, **how) -> Fields:
    """A table of texts."""
    write_table(folder / "texts.csv", rows(random, 3000, **how))
    return {"data.path": str(folder / "texts.csv")}


# ---- What is wrong.


def shuffled_labels(folder: Path, random: Random) -> Fields:
    labels, texts = zip(*rows(random, 1200), strict=True)
    shuffled = [*zip(random.permutation(labels), texts, strict=True)]
    write_table(folder / "train.csv", shuffled[:800])
    write_table(folder / "validation.csv", shuffled[800:])
    return {"data.path": str(folder)}


def few_texts(folder: Path, random: Random) -> Fields:
    write_table(folder / "train.csv", rows(random, 24))
    write_table(folder / "validation.csv", rows(random, 300))
    return {"data.path": str(folder)}


def copied_validation(folder: Path, random: Random) -> Fields:
    learnt = rows(random, 2000)
    write_table(folder / "train.csv", learnt)
    write_table(folder / "validation.csv", learnt[:300])
    return {"data.path": str(folder)}


def one_class(folder: Path, random: Random) -> Fields:
    return reviews(folder, random, good=0.95)


def short_texts(folder: Path, random: Random) -> Fields:
    return reviews(folder, random, words=5)


SHAPES = ("circle", "square", "triangle")


def drawn(random: Random, shape: str) -> Image.Image:
    """A picture of a shape, somewhere, of any colour, with noise."""
    picture = Image.new("RGB", (32, 32), tuple(random.integers(0, 90, 3).tolist()))
    (left, top), size = random.integers(4, 12, 2).tolist(), int(random.integers(10, 17))
    colour = tuple(random.integers(120, 255, 3).tolist())
    corners = {"circle": 40, "square": 4, "triangle": 3}[shape]
    circle = (left + size // 2, top + size // 2, size // 2)
    ImageDraw.Draw(picture).regular_polygon(circle, corners, fill=colour)
    noisy = np.asarray(picture) + random.normal(0, 12, (32, 32, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def shapes(folder: Path, random: Random, *, each: int = 120, known: bool = True) -> Fields:
    """A folder for each class of pictures; with labels that are drawn by lot, unless `known`."""
    for shape in SHAPES:
        for number in range(each):
            label = shape if known else random.choice(SHAPES)
            (folder / "pictures" / label).mkdir(parents=True, exist_ok=True)
            drawn(random, shape).save(folder / "pictures" / label / f"{shape}{number}.png")
    return {"data.path": str(folder / "pictures")}


def any_shapes(folder: Path, random: Random) -> Fields:
    return shapes(folder, random, known=False)


def tones(folder: Path, random: Random) -> Fields:
    """Recordings of a tone, high or low, somewhere in noise."""
    lines = ["path,label"]
    for number in range(240):
        sound = random.normal(0, 0.02, int(random.integers(4000, 7000)))
        start, hertz = int(random.integers(0, 2000)), (500, 1200)[number % 2]
        sound[start : start + 2000] += 0.3 * np.sin(2 * np.pi * hertz / 8000 * np.arange(2000))
        soundfile.write(folder / f"{number}.wav", sound, 8000)
        lines.append(f"{number}.wav,{('low', 'high')[number % 2]}")
    (folder / "sound.csv").write_text("\n".join(lines) + "\n")
    return {"data.path": str(folder / "sound.csv")}


def nothing(folder: Path, random: Random) -> Fields:
    return {}


NARROW = {"model.width": "64", "model.depth": "2"}
CNN = {"model.channels": "16,32", "model.width": "64"}
LABELS = {
    "data.tokenizer.vocabulary_size": "400",
    "data.sequence_length": "32",
    "model.width": "64",
    "train.steps": "200",
    "train.evaluate_every_steps": "50",
}

PICTURES = CNN | {"data.source": "image_folder", "data.image_size": "32"}

PLANTED: Mapping[str, tuple[str, str, Fields, Callable[[Path, Random], Fields]]] = {
    "learning rate x 100": (
        "learning rate too high",
        "digits_cnn",
        CNN | {"optimizer.learning_rate": "0.2", "train.steps": "300"},
        nothing,
    ),
    "learning rate / 100": (
        "learning rate too low",
        "shakespeare_char",
        NARROW | {"optimizer.learning_rate": "3e-5", "train.steps": "250"},
        source_text,
    ),
    "shuffled labels": (
        "no generalization",
        "text_classification",
        LABELS | {"train.steps": "400"},
        shuffled_labels,
    ),
    "a slow reader": ("input-bound", "digits_cnn", CNN | {"train.steps": "120"}, nothing),
    "a frozen layer": (
        "frozen layers",
        "digits_cnn",
        CNN | {"train.freeze": "stages.0.*", "train.steps": "300"},
        nothing,
    ),
    "tiny data": ("overfitting", "text_classification", LABELS, few_texts),
    "pictures with labels drawn by lot": (
        "no generalization",
        "digits_cnn",
        PICTURES | {"model.dropout": "0", "train.steps": "300"},
        any_shapes,
    ),
    "one class at 95 %": ("class imbalance", "text_classification", LABELS, one_class),
    "80 % padding": ("padding waste", "text_classification", LABELS, short_texts),
    "validation copied into training": (
        "duplicates between splits",
        "text_classification",
        LABELS,
        copied_validation,
    ),
}
"""Of each fault the finding, the recipe, what is set, and what makes the data."""

HEALTHY: Mapping[str, tuple[Fields, Callable[[Path, Random], Fields]]] = {
    "image_folder_resnet": (
        {
            "model.width": "16",
            "data.augmentation.crop": "none",
            "train.steps": "150",
            "train.evaluate_every_steps": "50",
        },
        shapes,
    ),
    "speech_classification": (
        {"model.width": "32", "train.steps": "200", "train.evaluate_every_steps": "50"},
        tones,
    ),
    "digits_cnn": (CNN | {"train.steps": "300"}, nothing),
    "digits_vit": ({"model.depth": "2", "train.steps": "300"}, nothing),
    "digits_convnext": (
        {"model.depths": "1,1", "data.global_batch_size": "16", "train.steps": "300"},
        nothing,
    ),
    "shakespeare_char": (NARROW | {"train.steps": "300"}, source_text),
    "shakespeare_char_lstm": (NARROW | {"train.steps": "200"}, source_text),
    "text_lstm": (
        {"model.width": "64", "data.tokenizer.vocabulary_size": "1000", "train.steps": "200"},
        source_text,
    ),
    "masked_language_model": (
        NARROW
        | {
            "data.source": "text_files",
            "data.tokenizer.vocabulary_size": "500",
            "data.sequence_length": "64",
            "train.steps": "300",
        },
        source_text,
    ),
    "text_classification": (LABELS | {"train.steps": "300"}, reviews),
    "dates_seq2seq": ({"model.width": "32", "model.depth": "1", "train.steps": "300"}, nothing),
    "tones_ctc": (
        {
            "data.recordings": "400",
            "data.most_digits": "4",
            "data.length_buckets": "1",
            "data.global_batch_size": "16",
            "model.width": "32",
            "task.decoder": "greedy",
            "train.steps": "400",
        },
        nothing,
    ),
}
"""What is set of each recipe, and what makes the data."""


WRITING = {"shakespeare_char", "shakespeare_char_lstm", "text_lstm"}
"""Recipes whose models write samples, which takes its time."""


def trained(recipe: str, fields: Fields, workdir: Path, capsys) -> list[str]:
    """The lines of the diagnosis that a run ends with."""
    fields = {"mesh.data": "1"} | fields
    if recipe in WRITING:
        fields["task.sample_prompts"] = "()"
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    assert train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *arguments]) == 0
    told = re.findall(r"^diagnosis: (.*)$", capsys.readouterr().err, re.MULTILINE)
    report = html.unescape((workdir / "report.html").read_text(encoding="utf-8"))
    told = [line for line in told if not line.startswith("nothing else stands out")]
    assert told and all(f"<li>{line}</li>" in report for line in told)
    return told


def proposed(finding: str) -> dict[str, str]:
    """The fields to try, each with the value to try or ``."""
    found = re.findall(
        r"\b([a-z]\w*(?:\.[a-z]\w*)+)(?:=([\w.+-]+))?", finding.partition(" Try ")[2]
    )
    assert found, finding
    return dict(found)


def read_slowly(monkeypatch) -> None:
    """Makes the disk slow, and the data too large to be kept in memory."""
    read = RecordReader.read

    def slow(self, indices):
        time.sleep(0.25)
        return read(self, indices)

    monkeypatch.setattr(RecordReader, "read", slow)
    monkeypatch.setattr(RecordReader, "are_few", lambda self, count: False)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_is_named_with_a_field_to_try(fault, tmp_path, capsys, monkeypatch):
    expected, recipe, fields, make = PLANTED[fault]
    if fault == "a slow reader":
        read_slowly(monkeypatch)
    fields = dict(fields) | make(tmp_path, np.random.default_rng(0))
    told = trained(recipe, fields, tmp_path / "run", capsys)
    assert told[0].startswith(f"{expected}: "), told
    for finding in told:
        for name, value in proposed(finding).items():
            config = json.loads((tmp_path / "run" / "config.json").read_text())
            functools.reduce(operator.getitem, name.split("."), config)
            if value:  # It is accepted where the run was started.
                load_config(f"configs/{recipe}.py", fields | {name: value})


@pytest.mark.parametrize("recipe", HEALTHY)
def test_of_a_healthy_run_nothing_is_told(recipe, tmp_path, capsys):
    fields, make = HEALTHY[recipe]
    fields = dict(fields) | make(tmp_path, np.random.default_rng(0))
    assert trained(recipe, fields, tmp_path / "run", capsys) == ["nothing stands out"]
