"""Promises of sets that TensorFlow Datasets prepared: read by name, or told how to prepare them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from configs.errors import UsageError
from configs.schema.data import TFDS, Mixture
from configs.schema.tokenizers import Bytes
from data.codecs.tokenizers import SEPARATOR
from data.preparation import prepare
from data.sources.registry import open_source
from storage.store import open_store
from tests.data.test_preparation import text_of
from tests.data.test_records import texts


class Letters(tfds.core.GeneratorBasedBuilder):
    """A set in two configurations, prepared here."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="plain"),
        tfds.core.BuilderConfig(name="loud"),
    )
    url_infos = None

    def _info(self):
        features = {"body": tfds.features.Text(), "stars": tfds.features.ClassLabel(num_classes=5)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download_manager):
        sizes = {"train": 40, "test": 7, "unsupervised": 3}
        return {split: self._generate_examples(split, n) for split, n in sizes.items()}

    def _generate_examples(self, split, count):
        for number in range(count):
            text = f"dear {split}, number {number} naïve 你好"
            loud = self.builder_config.name == "loud"
            yield number, {"body": text.upper() if loud else text, "stars": number % 5}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tfds.disable_progress_bar()
    for config in ("plain", "loud"):
        Letters(config=config, data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def settings(sets: Path, name: str = "letters/plain", **changes) -> TFDS:
    options = {"text_field": "body", "tokenizer": Bytes(), "sequence_length": 32} | changes
    return TFDS(name=name, data_dir=str(sets), **options)


def refusal(sets: Path, name: str = "letters/plain", **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(sets, name, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_record_of_train_and_test_is_a_document(sets):
    dataset = prepare(settings(sets))
    parts = {split: text_of(dataset, split).split(SEPARATOR)[1:] for split in dataset.splits}
    assert set(parts) == {"train", "validation", "test"}
    assert parts["validation"]
    for splits, split, count in ((("train", "validation"), "train", 40), (("test",), "test", 7)):
        found = sorted(text for one in splits for text in parts[one])
        assert found == sorted(f"dear {split}, number {n} naïve 你好" for n in range(count))


def test_names_say_configuration_and_version(sets, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(sets))
    loud = TFDS(name="letters/loud:1.2.0", text_field="body", validation_fraction=0.0)
    assert sorted(texts(open_source(loud), "test"))[0] == "DEAR TEST, NUMBER 0 NAÏVE 你好"
    plain, other = (prepare(settings(sets, f"letters/{one}")) for one in ("plain", "loud"))
    assert plain.fingerprint != other.fingerprint


def test_the_newest_version_is_taken(sets, tmp_path):
    for version in ("1.2.0", "1.10.0"):
        shutil.copytree(sets / "letters" / "plain" / "1.2.0", tmp_path / "letters" / version)
    source = open_source(settings(tmp_path, "letters"))
    assert source.splits["train"].tables[0].found.folder.name == "1.10.0"


def test_they_mix(sets):
    mixture = Mixture(parts=("tfds:letters/plain", "tfds:letters/loud:1.2.0"), weights=(3.0, 1.0),
                      data_dir=str(sets), text_field="body", tokenizer=Bytes())  # fmt: skip
    assert len(prepare(mixture).splits["train"].parts) == 2


def test_a_set_that_is_missing_is_told_with_the_command_and_the_nearest(sets, tmp_path):
    message = refusal(sets, "leters")
    assert "did you mean letters?" in message
    assert "`tfds build --file_format=array_record leters`" in message
    message = refusal(tmp_path / "nowhere", "imdb_reviews")
    assert "`tfds build --file_format=array_record imdb_reviews`" in message
    assert "did you mean plain?" in refusal(sets, "letters/plane")
    assert "has no 2.0.0" in refusal(sets, "letters/plain:2.0.0")
    assert "give one of letters/loud, letters/plain" in refusal(sets, "letters")
    assert "NAME/CONFIG:VERSION" in refusal(sets, "not a name")
    (tmp_path / "begun").mkdir()
    assert "holds no prepared set" in refusal(tmp_path, "begun")


def test_a_set_in_tfrecord_files_is_told_with_the_command(sets, tmp_path):
    folder = Path(shutil.copytree(sets / "letters" / "plain", tmp_path / "letters")) / "1.2.0"
    facts = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(facts | {"fileFormat": "tfrecord"}))
    message = refusal(tmp_path, "letters")
    assert "tfrecord files, which need TensorFlow" in message
    assert "`tfds build --file_format=array_record letters`" in message
    (folder / "dataset_info.json").write_text("{")
    assert "can't be read" in refusal(tmp_path, "letters")


def test_a_set_without_examples_to_learn_from_is_told_with_what_it_has(sets, tmp_path):
    folder = Path(shutil.copytree(sets / "letters" / "plain", tmp_path / "letters")) / "1.2.0"
    facts = json.loads((folder / "dataset_info.json").read_text())
    splits = {split["name"]: split for split in facts["splits"]}
    wanted = "data.name=letters has no examples in a split train to learn from: it has "
    for left, told in (
        ([splits["test"], splits["unsupervised"]], "test, unsupervised"),
        ([splits["train"] | {"shardLengths": []}, splits["test"]], "test"),
        ([], "no examples at all"),
    ):
        (folder / "dataset_info.json").write_text(json.dumps(facts | {"splits": left}))
        assert refusal(tmp_path, "letters") == wanted + told


def test_a_wrong_field_is_told_with_the_nearest(sets):
    assert "did you mean data.text_field=body?" in refusal(sets, text_field="bodi")
    message = refusal(sets, text_field="stars")
    assert "'stars' holds a ClassLabel, not text: text is in body" in message


def test_a_damaged_set_is_named(sets, tmp_path):
    folder = Path(shutil.copytree(sets / "letters" / "plain", tmp_path / "letters")) / "1.2.0"
    (file,) = folder.glob("*-train.*")
    content = bytearray(file.read_bytes())
    for place in range(100, len(content), 100):  # some of it is padding
        content[place] ^= 4
    file.write_bytes(content)
    cache = str(tmp_path / "cache")  # else what an undamaged copy was made into is found
    told = rf"split train of {folder} can't be read: record \d+: "
    assert re.match(told, refusal(tmp_path, "letters", cache_dir=cache))
    file.unlink()
    assert refusal(tmp_path, "letters", cache_dir=cache) == (
        f"split train of {folder} has 0 of its 40 records: prepare the set again"
    )


def test_a_missing_file_of_several_is_named(sets, tmp_path):
    folder = Path(shutil.copytree(sets / "letters" / "plain", tmp_path / "letters")) / "1.2.0"
    (file,) = folder.glob("*-train.*")
    missing = file.with_name(file.name.replace("00000-of-00001", "00001-of-00002"))
    file.rename(file.with_name(file.name.replace("-of-00001", "-of-00002")))
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    (train,) = (split for split in content["splits"] if split["name"] == "train")
    train["shardLengths"] = ["40", "40"]
    info.write_text(json.dumps(content))
    assert refusal(tmp_path, "letters", cache_dir=str(tmp_path / "cache")) == (
        f"split train of {folder} has 40 of its 80 records; {missing} is missing: prepare the "
        "set again"
    )


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_set_in_an_object_store_is_the_same(scheme, request, sets, tmp_path):
    url = f"{request.getfixturevalue(scheme).bucket()}/sets"
    store = open_store(url)
    for path in sorted(sets.rglob("*")):
        if path.is_file():
            store.upload(path.relative_to(sets).as_posix(), path)
    for name in ("letters/loud", "letters/plain:1.2.0"):
        common = {"name": name, "text_field": "body", "tokenizer": Bytes()}
        here = prepare(TFDS(data_dir=str(sets), cache_dir=str(tmp_path / "own"), **common))
        there = prepare(TFDS(data_dir=url, cache_dir=str(tmp_path / "cache"), **common))
        assert there.fingerprint == here.fingerprint
