"""Promises of manifests: recordings of any kind listed in any table; what is wrong is told."""

import shutil
from pathlib import Path

import pytest

from configs.schema.sound import SoundLabels, SoundTranscripts
from data.preparation import prepare
from data.sources.registry import open_source
from tests.data.recordings import FORMS, record, refusal, rows_of, settings, warnings, write_table


@pytest.fixture
def folder(sounds, tmp_path) -> Path:
    """Recordings and their tables, to change."""
    return Path(shutil.copytree(sounds, tmp_path / "set"))


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.parquet", "all.jsonl", "all.json"])
def test_any_table_lists_them_with_paths_from_anywhere(folder, name, tmp_path):
    rows = [{"file": str(folder / row["path"]), "said": row["text"]} for row in rows_of(folder)]
    write_table(tmp_path / name, rows)
    changes = {"path_field": "file", "text_field": "said"}
    dataset = prepare(settings(tmp_path / name, **changes))
    plain = prepare(settings(folder / "train.jsonl"))
    assert len(dataset.splits["train"].names()) + len(dataset.splits["validation"].names()) == 24
    assert dataset.tokenizer.vocabulary() == plain.tokenizer.vocabulary()


def test_labels_that_are_written_in_several_ways_are_one_class_and_told(folder):
    for label, other in (("1", "1.0"), ("caf\u00e9", "cafe\u0301")):
        labels = ("2", label, other)
        rows = [row | {"label": labels[n % 3]} for n, row in enumerate(rows_of(folder))]
        write_table(folder / "train.csv", rows)
        source = open_source(settings(folder / "train.csv", SoundLabels))
        assert source.classes == tuple(sorted(("2", label)))
        told = "labels that are written in several ways are one class: "
        assert any(line.startswith(f"{told}{label}") for line in source.warnings)


def test_what_is_appended_moves_no_other_between_the_parts(folder):
    before = open_source(settings(folder, validation_fraction=0.3)).splits
    rows = rows_of(folder)
    extra = f"sounds/{record(folder / 'sounds' / 'zz', 1).name}"
    write_table(folder / "train.jsonl", [{"path": extra, "text": "two"}, *reversed(rows)])
    after = open_source(settings(folder, validation_fraction=0.3)).splits
    held_out = {one["name"] for one in before["validation"]}
    assert len(held_out) > 2
    assert held_out <= {one["name"] for one in after["validation"]} <= held_out | {extra}


def test_a_missing_file_is_told_with_its_row(folder):
    rows = rows_of(folder)
    rows[4]["path"], rows[7]["path"] = "sounds/none.wav", "sounds"
    write_table(folder / "train.jsonl", rows)
    message = refusal(folder)
    assert (
        f"{folder / 'train.jsonl'}, line 5: {folder / 'sounds' / 'none.wav'} is not there"
        in message
    )
    assert "is not there, in one of 2 such rows. Paths are absolute, or seen from" in message
    rows[4]["path"], rows[7]["path"] = "sounds/04.WAV", rows[8]["path"]
    write_table(folder / "train.jsonl", rows)
    assert f"is not there (did you mean {folder / 'sounds' / '04.wav'}?). Paths" in refusal(folder)
    for elsewhere in ("04.wav", "sounds\\04.wav"):
        rows[4]["path"] = elsewhere
        write_table(folder / "train.jsonl", rows)
        meant = f"is not there (did you mean {folder / 'sounds' / '04.wav'}?). Paths"
        assert meant in refusal(folder)


def test_tables_that_say_something_else_are_refused(folder, tmp_path):
    table = folder / "train.jsonl"
    assert "did you mean data.path_field=path?" in refusal(folder, path_field="paths")
    (tmp_path / "other.csv").write_text("audio_filepath,duration,text\na.wav,1,one\n")
    assert "did you mean data.path_field=audio_filepath?" in refusal(tmp_path / "other.csv")
    assert f"{table}, line 1 has no field 'said'" in refusal(folder, text_field="said")
    rows = rows_of(folder)
    write_table(table, [rows[0] | {"text": 7}, *rows[1:]])
    assert f"{table}, line 1: field 'text' holds a number, not text" in refusal(folder)
    write_table(table, [rows[0] | {"path": " "}, *rows[1:]])
    assert f"{table}, line 1: field 'path' is empty: every row needs a path" in refusal(folder)
    write_table(table, [row | {"text": " "} for row in rows])
    assert "every transcript of train is empty" in refusal(folder)
    write_table(table, [row | {"label": "one"} for row in rows])
    assert "test has the labels three, two, which no training recording" in refusal(
        folder, SoundLabels
    )
    (folder / "test.jsonl").unlink()
    assert "all training recordings have one label, one" in refusal(folder, SoundLabels)
    table.write_text("\n")
    assert f"{table} holds no recording" in refusal(folder)


def test_a_folder_without_the_right_tables_is_refused(folder, tmp_path):
    (folder / "train.jsonl").rename(folder / "all.jsonl")
    assert "test.jsonl is named after a split, but all.jsonl is not" in refusal(folder)
    assert "holds no table: recordings are listed in .csv" in refusal(folder / "sounds")
    assert "there is no such file or folder" in refusal(tmp_path / "nowhere")
    assert "recordings are listed in .csv" in refusal(folder / "sounds" / "00.wav")


def test_a_file_may_be_named_in_another_unicode_form_than_its_row(folder):
    composed, apart = FORMS
    rows = rows_of(folder)
    (folder / rows[0]["path"]).rename(folder / f"sounds/{apart}.wav")
    rows[0]["path"] = f"sounds/{composed}.wav"
    write_table(folder / "train.jsonl", rows)
    source = open_source(settings(folder, validation_fraction=0.0))
    first = next(iter(source.splits["train"]))
    assert first["path"] == str(folder / f"sounds/{apart}.wav")
    assert first["name"] == rows[0]["path"]


def test_tables_of_other_programs_are_told_apart(folder):
    (folder / "metadata.csv").write_text("LJ001-0001|In 1465|In fourteen sixty-five, it was\n" * 3)
    message = refusal(folder / "metadata.csv")
    assert (
        "separates its columns by | and does not name them, as LJSpeech does: awk -F'|' " in message
    )
    assert message.endswith(f"metadata.csv > {folder}/train.tsv makes a table")
    hub = "file_name,transcription\nsounds/00.wav,one\n"
    (folder / "metadata.csv").write_text(hub)
    assert refusal(folder / "metadata.csv") == (
        f"{folder}/metadata.csv has no field 'path' and no field 'text', but file_name, "
        "transcription: did you mean data.path_field=file_name and data.text_field=transcription?"
    )
    (folder / "nemo.jsonl").write_text('{"audio_filepath": "sounds/00.wav", "text": "one"}\n')
    assert "did you mean data.path_field=audio_filepath?" in refusal(folder / "nemo.jsonl")
    write_table(folder / "nemo.json", [{"audio_filepath": "sounds/00.wav", "text": "one"}] * 2)
    assert refusal(folder / "nemo.json") == (
        f"{folder}/nemo.json has no field 'path', but audio_filepath, text: did you mean "
        "data.path_field=audio_filepath?"
    )


def test_a_path_is_not_its_own_transcript_or_label(folder):
    for kind in (SoundTranscripts, SoundLabels):
        field = "text" if kind is SoundTranscripts else "label"
        told = f"data.path_field={field} names the transcript or label, too"
        assert told in refusal(folder, kind, path_field=field)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_segments_of_files_are_refused(folder, suffix):
    rows, table = rows_of(folder), folder / f"one.{suffix}"
    for column in ("offset", "start", "begin"):
        write_table(table, [row | {column: 1.5 if n else 0.0} for n, row in enumerate(rows)])
        message = refusal(table)
        assert str(table) in message and f"field '{column}' is" in message
        assert "segments of files are not read: cut the recordings first" in message
    zero = "00:00.0" if suffix == "csv" else 0.0
    write_table(table, [row | {"offset": zero, "duration": 9.5} for row in rows])
    assert "columns that are not read: label, offset, duration" in warnings(table)


def test_columns_and_transcripts_that_say_otherwise_are_told(folder):
    rows, table = rows_of(folder), folder / "one.csv"
    rows = [row | {"split": "test" if n % 5 else "train"} for n, row in enumerate(rows)]
    rows[3]["text"] = rows[4]["text"] = "nan"
    write_table(table, rows)
    told = warnings(table, validation_fraction=0.0)
    assert told[0].startswith(f"{table} has a column 'split' with test and train, which is not")
    assert "2 of 24 transcripts of train seem to be missing, such as 'nan', and are learnt" in told
