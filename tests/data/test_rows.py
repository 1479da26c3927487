"""Promises of rows: any reader's rows go with any view, and are read when they are needed."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image

from configs.errors import UsageError
from configs.schema.data import Records, Table, TextFiles
from configs.schema.pictures import ImageFolder
from data.sources import rows, tables, views
from data.sources.registry import open_source


def settings(path: Path, **more) -> SimpleNamespace:
    """The fields that readers of tables and views use, of a source that nobody has declared."""
    usual = {"source": "made here", "path": str(path), "splits": "names", "cache_dir": None,
             "validation_fraction": 0.0}  # fmt: skip
    fields = {"text_field": "text", "label_field": "label", "image_field": "image"}
    named = lambda: {**fields, **more}  # noqa: E731
    return SimpleNamespace(**usual | fields | more, named_fields=named)


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def wav(count: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-1, 1, count), 8000, format="WAV")
    return file.getvalue()


def test_a_table_may_hold_pictures_or_recordings(tmp_path):
    """No source is declared for these: the reader and the views know nothing of each other."""
    labels = ["10", "9", "10"]
    pa.parquet.write_table(
        pa.table({"image": [png(n) for n in range(3)], "label": labels}), tmp_path / "a.parquet"
    )
    source = rows.open_rows(settings(tmp_path), tables.open_tables, views.Pictures)
    assert source.classes == ("9", "10") and source.name == "made here"
    assert [*source.splits["train"]] == [
        {"image": png(n), "label": int(label == "10"), "name": f"a.parquet row {n}"}
        for n, label in enumerate(labels)
    ]
    counts = [900, 500]
    table = {"clip": [wav(n) for n in counts], "text": ["long", "short"], "label": [2, 1]}
    pa.parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    said = settings(tmp_path, sound_field="clip")
    transcribed = rows.open_rows(said, tables.open_tables, views.Recordings)
    labelled = rows.open_rows(said, tables.open_tables, views.LabelledRecordings)
    assert [one["text"] for one in transcribed.splits["train"]] == ["long", "short"]
    assert [one["label"] for one in labelled.splits["train"]] == [1, 0]
    assert [len(one["sound"](8000)) for one in labelled.splits["train"]] == counts
    path = tmp_path / "b.jsonl"
    path.write_text('{"clip": 3, "text": "none"}\n')
    with pytest.raises(UsageError, match=r"b.jsonl, line 1: field 'clip' holds a number, not a "):
        rows.open_rows(settings(path, sound_field="clip"), tables.open_tables, views.Recordings)


def test_examples_are_read_again_and_again_in_the_same_order(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(50)))
    source = open_source(Records(path=str(tmp_path), validation_fraction=0.3))
    first = {split: [*examples] for split, examples in source.splits.items()}
    assert {split: [*examples] for split, examples in source.splits.items()} == first
    assert sum(map(len, first.values())) == 50
    names = [one["document"] for one in first["validation"]]
    assert names == sorted(names, key=lambda name: int(name.partition(":")[2]))


def test_opening_a_source_hashes_no_names_of_rows(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\nc,x\n")
    monkeypatch.setattr(rows, "held_out_mask", lambda names, fraction: 1 / 0)
    source = open_source(Table(path=str(tmp_path)))
    assert [*source.splits] == ["train", "validation"]
    with pytest.raises(ZeroDivisionError):
        next(iter(source.splits["train"]))


def test_a_file_that_is_gone_when_it_is_read_is_one_line_with_its_name(tmp_path):
    contents = {"a.csv": "text,label\na,x\nb,y\n", "b.txt": "some words"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    for label in "xy":
        path = tmp_path / "set" / label / "one.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(9))
    whole = {"validation_fraction": 0.0}
    for kind, name, lost in (
        (Table, "a.csv", "a.csv"),
        (TextFiles, "b.txt", "b.txt"),
        (ImageFolder, "set", "set/x/one.png"),
    ):
        source = open_source(kind(path=str(tmp_path / name), **whole))
        (tmp_path / lost).unlink()
        with pytest.raises(UsageError) as raised:
            [*source.splits["train"]]
        assert str(raised.value) == f"{tmp_path / lost} can't be read: No such file or directory"
