"""Promises of sound: recordings of any kind listed in any table; broken ones told, of no weight."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs.errors import UsageError
from configs.schema.sound import (
    SoundAugmentation,
    SoundLabels,
    SoundTranscripts,
    TranscriptCleaning,
)
from configs.schema.tokenizers import BPE, Words
from data.batches import Batches, evaluation_order
from data.codecs.sound import LogMel, decode_sound
from data.dataset import Dataset
from data.preparation import prepare
from data.show import data_table, describe_batch
from data.sources.registry import open_source
from tests.data.test_sound_codec import encoded, voice

WORDS = ("one", "two", "three")
KINDS = ((8000, "WAV", 1), (16_000, "FLAC", 2), (44_100, "OGG", 1), (8000, "WAV", 2))


def record(path: Path, number: int) -> Path:
    """A recording of half a second and more, of one kind after another."""
    rate, codec, channels = KINDS[number % len(KINDS)]
    waveform = voice(0.5 + 0.05 * (number % 7), rate, pitch=150 + 40 * (number % 3))
    waveform = waveform + 1e-3 * np.random.default_rng(number).normal(size=len(waveform))
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(f".{codec.lower()}")
    soundfile.write(path, np.stack([waveform] * channels, axis=1), rate, format=codec)
    return path


def write_table(path: Path, rows: list[dict]) -> None:
    """The rows as what the name of the file says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(rows[0]), *(separator.join(map(str, one.values())) for one in rows)]
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> Path:
    """Recordings in a folder, and beside it tables: 24 for training and 6 for the test."""
    folder = tmp_path_factory.mktemp("sound")
    for split, start, stop in (("train", 0, 24), ("test", 24, 30)):
        paths = [record(folder / "sounds" / f"{n:02}", n) for n in range(start, stop)]
        rows = [
            {"path": f"sounds/{path.name}", "text": WORDS[n % 3], "label": WORDS[n % 3]}
            for n, path in enumerate(paths, start)
        ]
        write_table(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def folder(sounds, tmp_path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(sounds, tmp_path / "set"))


def settings(folder: Path, kind: type = SoundTranscripts, **changes):
    options = {"sample_rate": 8000, "num_mels": 20, "cache_dir": str(folder.parent / "cache"),
               "broken_fraction": 0.3}  # fmt: skip
    return kind(path=str(folder), **options | changes)


def stored(dataset: Dataset, split: str = "train") -> dict:
    """All examples of a split, as evaluation sees them."""
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


def rows_of(folder: Path, split: str = "train") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def warnings(folder: Path, **changes) -> list[str]:
    told: list[str] = []
    prepare(settings(folder, **changes), warn=told.append)
    return told


def refusal(folder: Path, *arguments, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(folder, *arguments, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_recording_is_there_once_with_its_frames_and_transcript(folder):
    dataset = prepare(settings(folder))
    assert {split: one.examples for split, one in dataset.splits.items()}["test"] == 6
    names = [name for split in ("train", "validation") for name in dataset.splits[split].names()]
    told = {row["path"]: row["text"] for row in rows_of(folder)}
    assert sorted(names) == sorted(told)
    log_mel = LogMel(8000, 20, 25.0, 10.0, "bands")
    for split in ("train", "validation"):
        batch = stored(dataset, split)
        assert batch["frames"].dtype == batch["label_weights"].dtype == np.float32
        assert batch["segments"].dtype == batch["labels"].dtype == np.int32
        assert batch["weights"].all()
        for row, name in enumerate(dataset.splits[split].names()):
            waveform = decode_sound((folder / name).read_bytes(), 8000)
            frames = log_mel(waveform)
            there = batch["segments"][row] > 0
            assert there.sum() == len(frames) and there[: len(frames)].all()
            assert np.abs(batch["frames"][row, there] - frames).mean() < 0.01  # of 16 bits
            assert not batch["frames"][row, ~there].any()
            tokens = batch["labels"][row][batch["label_weights"][row] > 0]
            assert dataset.tokenizer.decode(tokens) == told[name]


def test_sizes_are_what_a_model_needs(folder):
    dataset = prepare(settings(folder))
    longest = max(stored(dataset, split)["frames"].shape[1] for split in dataset.splits)
    letters = len(set("".join(WORDS)))
    assert dataset.spec.model_arguments() == {
        "num_mels": 20, "max_frames": longest, "max_labels": 5, "vocabulary_size": 2 + letters,
    }  # fmt: skip
    dataset = prepare(settings(folder, SoundLabels))
    assert dataset.spec.model_arguments() == {
        "num_mels": 20,
        "max_frames": longest,
        "num_classes": 3,
    }


def test_labels_are_classes(folder):
    dataset = prepare(settings(folder, SoundLabels))
    assert dataset.spec.classes == tuple(sorted(WORDS))
    for split in ("train", "validation", "test"):
        batch = stored(dataset, split)
        assert set(batch) == {"frames", "segments", "label", "weights"}
        rows = {
            row["path"]: row["label"] for part in ("train", "test") for row in rows_of(folder, part)
        }
        found = [dataset.spec.classes[label] for label in batch["label"]]
        assert found == [rows[name] for name in dataset.splits[split].names()]


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.parquet", "all.jsonl", "all.json"])
def test_any_table_lists_them_with_paths_from_anywhere(folder, name, tmp_path):
    rows = [{"file": str(folder / row["path"]), "said": row["text"]} for row in rows_of(folder)]
    write_table(tmp_path / name, rows)
    changes = {"path_field": "file", "text_field": "said"}
    dataset = prepare(settings(tmp_path / name, **changes))
    plain = prepare(settings(folder / "train.jsonl"))
    assert len(dataset.splits["train"].names()) + len(dataset.splits["validation"].names()) == 24
    assert dataset.tokenizer.vocabulary() == plain.tokenizer.vocabulary()


def test_labels_that_differ_in_capitals_alone_are_told(folder):
    rows = rows_of(folder)
    rows[0]["label"] = rows[0]["label"].upper()
    write_table(folder / "train.jsonl", rows)
    told = "classes that differ in capitals or spaces alone are told apart: 'ONE' and 'one'"
    assert told in warnings(folder, kind=SoundLabels)


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


def test_waveforms_and_frames_give_the_same(folder):
    frames = prepare(settings(folder))
    softly = SoundAugmentation(shift_milliseconds=1e-9)  # waveforms are stored, and not changed
    waveforms = prepare(settings(folder, augmentation=softly))
    assert waveforms.splits["train"].codec.waveforms
    assert not waveforms.splits["test"].codec.waveforms
    assert frames.spec == waveforms.spec
    for shuffle in (True, False):
        one, other = (
            Batches(of.splits["train"], global_batch_size=8, seed=1, shuffle=shuffle)
            for of in (frames, waveforms)
        )
        for number in range(2):
            assert one[number].keys() == other[number].keys()
            for name, array in one[number].items():
                assert (array == other[number][name]).all()


def test_transcripts_are_kept_but_for_their_spaces(folder):
    rows = rows_of(folder)
    rows[0]["text"] = "  One\t two\n "
    write_table(folder / "train.jsonl", rows)
    texts = {}
    for lowercase in (False, True):
        dataset = prepare(settings(folder, lowercase=lowercase, validation_fraction=0.0))
        batch = stored(dataset)
        place = dataset.splits["train"].names().index(rows[0]["path"])
        tokens = batch["labels"][place][batch["label_weights"][place] > 0]
        texts[lowercase] = dataset.tokenizer.decode(tokens)
    assert texts == {False: "One two", True: "one two"}


@pytest.mark.parametrize("tokenizer", [Words(), BPE(vocabulary_size=260)])
def test_other_tokenizers_are_learnt_from_transcripts(folder, tokenizer):
    dataset = prepare(settings(folder, tokenizer=tokenizer))
    batch = stored(dataset, "test")
    texts = [dataset.tokenizer.decode(row[w > 0]) for row, w in
             zip(batch["labels"], batch["label_weights"], strict=True)]  # fmt: skip
    assert texts == [WORDS[n % 3] for n in range(24, 30)]


BROKEN = {
    "empty.wav": b"",
    "page.flac": b"<html>404</html>",
    "cut.wav": encoded(voice())[:3000],
    "short.wav": encoded(voice(0.02)),
}


def with_more(folder: Path, contents: dict[str, bytes]) -> None:
    """Adds recordings with these contents to the table, after the twelfth."""
    rows = rows_of(folder)
    for name, content in contents.items():
        (folder / "sounds" / name).write_bytes(content)
    more = [{"path": f"sounds/{name}", "text": "one", "label": "one"} for name in contents]
    write_table(folder / "train.jsonl", rows[:12] + more + rows[12:])


@pytest.mark.parametrize("kind", [SoundTranscripts, SoundLabels])
@pytest.mark.parametrize("augmentation", [SoundAugmentation(), SoundAugmentation(speed=0.1)])
def test_broken_recordings_are_named_and_have_no_weight(folder, kind, augmentation):
    changes = {"validation_fraction": 0.0, "augmentation": augmentation, "kind": kind}
    whole = stored(prepare(settings(folder, **changes)))
    with_more(folder, BROKEN)
    told = warnings(folder, **changes)
    for name in BROKEN:
        assert sum(line.startswith(f"{folder / 'sounds' / name}: ") for line in told) == 1
    assert any("it is shorter than a frame: 20 ms" in line for line in told)
    assert "4 of 34 recordings are broken, and count for nothing" in told

    dataset = prepare(settings(folder, **changes))
    assert ("broken", "4", "0") in data_table(dataset)
    batch = stored(dataset)
    assert batch["weights"].tolist() == 12 * [1] + 4 * [0] + 12 * [1]
    lost, kept = batch["weights"] == 0, batch["weights"] > 0
    for name, array in batch.items():
        assert not array[lost].any()
        assert (array[kept] == whole[name]).all()
    shuffled = Batches(dataset.splits["train"], global_batch_size=28, seed=0, shuffle=True)[0]
    assert shuffled["weights"].sum() == 24


def test_too_many_broken_recordings_end_it(folder):
    with_more(folder, BROKEN)
    message = refusal(folder, broken_fraction=0.1)
    assert "4 of 34 recordings are broken, more than data.broken_fraction=0.1 allows" in message
    assert "cut.wav: it is cut off" in message


def test_a_split_of_broken_recordings_alone_is_refused(folder):
    rows = rows_of(folder, "test")[:2]
    for row, content in zip(rows, BROKEN.values(), strict=False):
        (folder / row["path"]).write_bytes(content)
    write_table(folder / "test.jsonl", rows)
    assert refusal(folder).startswith("all 2 recordings of test are broken: ")


def test_broken_recordings_are_not_evaluated(folder):
    with_more(folder, BROKEN)
    split = prepare(settings(folder, validation_fraction=0.0)).splits["train"]
    whole = [number for number in range(28) if not 12 <= number < 16]
    assert sorted(evaluation_order(split)) == whole
    assert sorted(evaluation_order(split, 14)) == whole[:14]


def test_what_is_strange_is_told_and_stays(folder):
    with_more(folder, {"silence.wav": encoded(np.zeros(8000, np.float32))})
    rows = rows_of(folder)
    rows[0]["text"], rows[1]["text"] = "", "three" * 20
    rows[4]["path"] = rows[3]["path"]
    write_table(folder / "train.jsonl", rows)
    tests = rows_of(folder, "test")
    tests[0]["text"], tests[1]["path"] = "éé", rows[2]["path"]
    write_table(folder / "test.jsonl", tests)
    write_table(folder / "test.csv", tests[2:3])
    told = warnings(folder, validation_fraction=0.0)
    assert told == warnings(folder, validation_fraction=0.0)  # of what is prepared already, too
    first, every = "; such as sounds/0", "where model.subsampling is 4"
    for words in (
        "1 of 24 recordings of train have several rows, such as sounds/03.wav: each row counts",
        "have rows that contradict each other, such as sounds/03.wav: 'one' and 'two'",
        f"1 of 25 recordings of train have an empty transcript{first}0.wav",
        f"1 of 25 recordings of train have a transcript too long for CTC {every}{first}1",
        "1 of 25 recordings of train have nothing but silence; such as sounds/silence.wav",
        "1 of 7 recordings of test have a transcript with characters, or words, that are not in",
        "1 of 7 recordings of test are in train too, such as sounds/02.ogg",
        "batches of train: ",
    ):
        assert [line for line in told if words in line], (words, told)
    batch = stored(prepare(settings(folder, validation_fraction=0.0)))
    assert batch["weights"].all() and not batch["label_weights"][0].any()


@pytest.mark.parametrize("kind", [SoundTranscripts, SoundLabels])
def test_what_is_too_long_is_left_out_and_told_and_moves_no_other(folder, kind):
    changes = {"validation_fraction": 0.0, "kind": kind}
    whole = stored(prepare(settings(folder, **changes)))
    with_more(folder, {"long.wav": encoded(voice(30.0)), "cut.wav": BROKEN["cut.wav"]})
    rows = rows_of(folder)
    rows[12]["text"] = "onetwothree" * 9
    write_table(folder / "train.jsonl", rows)
    told = warnings(folder, **changes)
    assert [line for line in told if line.startswith(
        "the longest recording of train, sounds/long.wav, lasts 30 seconds, and half of all 0.6"
    )]  # fmt: skip

    told = warnings(folder, max_seconds=0.85, **changes)
    assert (
        "1 of 26 recordings of train last longer than data.max_seconds=0.85, and are left out; "
        "such as sounds/long.wav" in told
    )
    assert "1 of 32 recordings are broken, and count for nothing" in told
    assert not [line for line in told if "the longest" in line]
    dataset = prepare(settings(folder, max_seconds=0.85, **changes))
    assert ("left out", "1", "0") in data_table(dataset)
    assert "sounds/long.wav" not in dataset.splits["train"].names()
    batch = stored(dataset)
    kept = batch["weights"] > 0
    assert kept.tolist() == 12 * [True] + [False] + 12 * [True]
    for name, array in batch.items():
        assert (array[kept] == whole[name]).all()


def test_a_split_of_which_nothing_is_left_is_refused(folder):
    message = refusal(folder, max_seconds=0.1, validation_fraction=0.0)
    assert message.startswith("no recording of train is left: 24 of 24 recordings of train last")


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


FORMS = [unicodedata.normalize(form, "naïve café") for form in ("NFC", "NFD")]


def test_transcripts_in_two_unicode_forms_are_one_text_and_told(folder):
    rows = rows_of(folder)
    for number, row in enumerate(rows):
        row["text"] = FORMS[number % 2]
    write_table(folder / "train.jsonl", rows)
    tests = [row | {"text": FORMS[1]} for row in rows_of(folder, "test")]
    write_table(folder / "test.jsonl", tests)
    changes = {"validation_fraction": 0.0}
    told = warnings(folder, **changes)
    said = "have characters in another form of Unicode, and are converted: data.cleaning.unicode"
    assert [line for line in told if said in line] == [
        f"12 of 24 transcripts of train {said} is nfc",
        f"6 of 6 transcripts of test {said} is nfc",
    ]
    dataset = prepare(settings(folder, **changes))
    assert dataset.tokenizer.decode(stored(dataset, "test")["labels"][0]) == FORMS[0]
    assert (stored(dataset)["labels"] == stored(dataset)["labels"][0]).all()
    kept = prepare(settings(folder, cleaning=TranscriptCleaning(unicode="none"), **changes))
    assert kept.tokenizer.decode(stored(kept, "test")["labels"][0]) == FORMS[1]
    assert not [
        line
        for line in warnings(folder, cleaning=TranscriptCleaning(unicode="none"), **changes)
        if said in line
    ]


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


def test_without_a_limit_hours_are_left_out_and_told(folder, monkeypatch):
    monkeypatch.setattr("data.sound.LONGEST_SECONDS", 0.85)
    with_more(folder, {"long.wav": encoded(voice(30.0))})
    told = warnings(folder, validation_fraction=0.0)
    assert (
        "1 of 25 recordings of train last longer than 1 seconds (data.max_seconds may allow more), "
        "and are left out; such as sounds/long.wav" in told
    )


def test_the_largest_subsampling_that_can_learn_a_transcript_is_known(folder):
    """CTC needs a position for each token, and one between two equal ones."""
    longest = {}
    for text in ("ababababab", "aaaaa", "a", "ab" * 400):
        write_table(folder / "train.jsonl", [row | {"text": text} for row in rows_of(folder)])
        split = prepare(settings(folder, validation_fraction=0.0)).splits["train"]
        longest[text] = split.most_subsampling
        frames = int(
            stored(prepare(settings(folder, validation_fraction=0.0)))["segments"].sum(1).max()
        )
        places = {"ababababab": 10, "aaaaa": 9, "a": 1, "ab" * 400: 800}[text]
        fits = [factor for factor in range(1, frames + 1) if -(-frames // factor) >= places]
        assert longest[text] == max(fits, default=0)
    assert longest["ab" * 400] == 0
    labels = prepare(settings(folder, SoundLabels, validation_fraction=0.0))
    assert labels.splits["train"].most_subsampling is None


def test_it_is_prepared_once_and_again_where_a_recording_changed(folder):
    stages: list[str] = []
    first = prepare(settings(folder), progress=lambda stage, *_: stages.append(stage))
    assert {"decoding train", "decoding validation", "decoding test"} <= {*stages}
    stages.clear()
    masks = SoundAugmentation(time_masks=2)  # of frames: the same are stored
    again = prepare(settings(folder, augmentation=masks, length_buckets=2),
                         progress=lambda stage, *_: stages.append(stage))  # fmt: skip
    assert again.fingerprint == first.fingerprint and stages == []
    record(folder / "sounds" / "00", 4)
    assert prepare(settings(folder)).fingerprint != first.fingerprint
    assert prepare(settings(folder, num_mels=30)).fingerprint != first.fingerprint


def test_batches_have_few_shapes_and_say_their_padding(folder):
    dataset = prepare(settings(folder, length_buckets=2, global_batch_size=4))
    split = dataset.splits["train"]
    batches = Batches(split, global_batch_size=4, seed=0, shuffle=True)
    per_epoch = split.examples // 4
    shapes = {batches[number]["frames"].shape[1] for number in range(3 * per_epoch)}
    assert len(shapes) == 2 and max(shapes) <= dataset.spec.max_frames
    found = [batches[number]["segments"] for number in range(per_epoch)]
    empty = 1 - sum(map(np.sum, found)) / sum(map(np.size, found))
    assert split.padding == pytest.approx(empty, abs=0.02)
    rows = {row[0]: row[1:] for row in data_table(dataset)}
    assert rows["padding"][0] == f"{split.padding:.2%}" and rows["padding"][1] == ""
    assert rows["hours"][0] == "0.00"


def test_a_batch_is_shown_with_words_and_blocks(folder):
    for kind in (SoundTranscripts, SoundLabels):
        dataset = prepare(settings(folder, kind))
        shown = describe_batch(stored(dataset, "test"), dataset)
        assert "frames " in shown and "float32 [6, " in shown
        assert ("3 tokens, 'one', weight 1" if kind is SoundTranscripts else "(one)") in shown
        assert "63 frames, 0.6" in shown
        assert "█" in shown
        assert max(map(len, shown.splitlines())) <= 100


def test_a_recording_of_16_bits_comes_back_exactly_however_soft(folder):
    codec = prepare(settings(folder, augmentation=SoundAugmentation(speed=0.1)))
    codec = codec.splits["train"].codec
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 4000).astype(np.float32)
    for loudness in (2**-15, 2**-24, 2**-10):
        found, targets = codec._read(codec.encode(samples * np.float32(loudness), [3, 4]))
        assert (found == samples * np.float32(loudness)).all() and targets.tolist() == [3, 4]
    found, _ = codec._read(codec.encode(np.array([1.0, -0.3], np.float32), []))
    np.testing.assert_allclose(found, [1.0, -0.3], atol=2**-15)
