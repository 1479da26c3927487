"""Promises of sets of sound that TensorFlow Datasets prepared: read without TensorFlow."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.errors import UsageError
from configs.schema.sound import TFDSSoundLabels, TFDSSoundTranscripts
from data.batches import Batches
from data.codecs.sound import LogMel, to_rate
from data.dataset import Dataset
from data.preparation import prepare
from tests.data.test_sound_codec import encoded, voice

LABELS = ("down", "up")


def samples(number: int) -> np.ndarray:
    """Recording `number` as sets have it: integers of 16 bits, 16,000 a second."""
    return np.rint(2**15 * voice(0.3 + 0.02 * number, 16_000)).astype(np.int64)


STORED = {
    "speech": (tfds.features.Tensor(shape=(None,), dtype=np.int64), samples, {}),
    "stereo": (
        tfds.features.Tensor(shape=(None, 2), dtype=np.int32, encoding="zlib"),
        lambda n: np.stack([samples(n)] * 2, axis=1).astype(np.int32),
        {"shape": {"dimensions": ["-1", "2"]}, "encoding": "ZLIB", "dtype": "int32"},
    ),
    "file": (
        tfds.features.Tensor(shape=(), dtype=np.object_),
        lambda n: encoded(voice(0.3 + 0.02 * n, 16_000), 16_000, form="FLAC"),
        {"lazyDecode": True, "fileFormat": "flac"},
    ),
}  # fmt: skip
"""Features as they are stored, and what features.json says of them: TensorFlow writes the same."""


class Voices(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None

    def _info(self):
        features = {name: feature for name, (feature, *_) in STORED.items()} | {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(LABELS)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 26)}

    def _generate_examples(self, start, stop):
        for number in range(start, stop):
            told = {"text": f"nummer {number} ü", "label": -1 if start else number % 2}
            yield number, told | {name: make(number) for name, (_, make, _) in STORED.items()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tfds.disable_progress_bar()
    Voices(data_dir=folder, file_format="array_record").download_and_prepare()
    tell(folder, sampleRate="16000")
    return folder


def tell(sets: Path, **more) -> None:
    """Writes that the features are of sound, as TensorFlow, which makes them, would have."""
    path = next(sets.rglob("features.json"))
    facts = json.loads(path.read_text())
    for name, (_, _, special) in STORED.items():
        audio = {"shape": {"dimensions": ["-1"]}, "dtype": "int64", "encoding": "NONE"}
        facts["featuresDict"]["features"][name] = {
            "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
            "audio": audio | special | more,
        }
    path.write_text(json.dumps(facts))


def settings(sets: Path, kind: type = TFDSSoundTranscripts, **changes):
    options = {"name": "voices", "data_dir": str(sets), "sound_field": "speech",
               "sample_rate": 8000, "num_mels": 20}  # fmt: skip
    return kind(**options | changes)


def stored(dataset: Dataset, split: str) -> dict:
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


@pytest.mark.parametrize("field", STORED)
def test_every_recording_is_there_with_its_transcript(sets, field):
    dataset = prepare(settings(sets, sound_field=field))
    log_mel, texts = LogMel(8000, 20, 25.0, 10.0, "bands"), []
    for split in ("train", "validation", "test"):
        batch = stored(dataset, split)
        for row in range(len(batch["weights"])):
            tokens = batch["labels"][row][batch["label_weights"][row] > 0]
            text = dataset.tokenizer.decode(tokens)
            texts.append(text)
            waveform = (samples(int(text.split()[1])) / 2**15).astype(np.float32)
            frames = log_mel(to_rate(waveform, 16_000, 8000))
            there = batch["segments"][row] > 0
            assert there.sum() == len(frames)
            assert np.median(np.abs(batch["frames"][row, there] - frames)) < 0.01
    assert len({*texts}) == 26 and "nummer 7 ü" in texts


def test_labels_are_the_sets_and_a_part_without_them_is_left_out(sets):
    dataset = prepare(settings(sets, TFDSSoundLabels))
    assert dataset.spec.classes == LABELS
    assert dataset.warnings[0] == "test has no labels, and is left out"
    assert dataset.splits.keys() == {"train", "validation"}
    labels = np.concatenate([stored(dataset, split)["label"] for split in dataset.splits])
    assert np.bincount(labels).tolist() == [10, 10]
    assert dataset.splits["validation"].names()[0].startswith("train ")


def test_a_set_that_does_not_say_its_rate_is_told(sets):
    tell(sets)
    try:
        dataset = prepare(settings(sets, sample_rate=16_000))
        assert (
            "does not say at what rate speech was recorded: it is taken for" in dataset.warnings[0]
        )
    finally:
        tell(sets, sampleRate="16000")
    plain = prepare(settings(sets, sample_rate=16_000))
    assert (stored(plain, "test")["frames"] == stored(dataset, "test")["frames"]).all()


def refusal(sets: Path, *arguments, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(sets, *arguments, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_wrong_features_are_told_with_the_right_ones(sets):
    assert "did you mean data.sound_field=speech?" in refusal(sets, sound_field="speach")
    message = refusal(sets, sound_field="text")
    assert "'text' is a Text, not a Audio: give data.sound_field=" in message
    message = refusal(sets, TFDSSoundLabels, label_field="text")
    assert "'text' is a Text, not a ClassLabel: give data.label_field=label" in message
    assert "`tfds build --file_format=array_record voice`" in refusal(sets, name="voice")


def test_a_lost_file_is_told(sets, tmp_path):
    shard = next(sets.rglob("*-train.array_record*"))
    shard.rename(tmp_path / "away")
    try:
        assert "has 0 of its 20 recordings: prepare the set again" in refusal(sets, num_mels=21)
    finally:
        (tmp_path / "away").rename(shard)
