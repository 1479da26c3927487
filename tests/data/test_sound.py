"""Promises of sound: recordings become frames and transcripts; broken ones told, of no weight."""

import shutil
from pathlib import Path

import numpy as np
import pytest

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
from tests.data.recordings import (
    FORMS,
    WORDS,
    record,
    refusal,
    rows_of,
    settings,
    warnings,
    write_table,
)
from tests.data.test_sound_codec import encoded, voice


@pytest.fixture
def folder(sounds, tmp_path) -> Path:
    """Recordings and their tables, to change."""
    return Path(shutil.copytree(sounds, tmp_path / "set"))


def stored(dataset: Dataset, split: str = "train") -> dict:
    """All examples of a split, as evaluation sees them."""
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


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


def test_labels_that_differ_in_capitals_alone_are_told(folder):
    rows = rows_of(folder)
    rows[0]["label"] = rows[0]["label"].upper()
    write_table(folder / "train.jsonl", rows)
    told = "classes that differ in capitals or spaces alone are told apart: 'ONE' and 'one'"
    assert told in warnings(folder, kind=SoundLabels)


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
