"""Promises of prepared sets of pairs: languages of translations, or any two texts of a set."""

from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from configs.errors import UsageError
from configs.schema.pairs import TFDSPairs
from configs.schema.tokenizers import Bytes
from data.preparation import prepare
from tests.data.test_text_pairs import examples

SIZES = {"train": 40, "test": 7}


def pair(split: str, number: int) -> tuple[str, str]:
    return f"{split} {number} in English", f"{split} {number} 你好"


class Talks(tfds.core.GeneratorBasedBuilder):
    """A set of translations; in another configuration of texts with fields of other names."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="translation"),
        tfds.core.BuilderConfig(name="summaries"),
    )
    url_infos = None

    @property
    def _names(self) -> tuple[str, str]:
        return ("en", "de") if self.builder_config.name == "translation" else ("article", "gist")

    def _info(self):
        features = tfds.features.Translation(languages=self._names)
        if self.builder_config.name == "summaries":
            texts = dict.fromkeys(self._names, tfds.features.Text())
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({**texts, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, download_manager):
        return {split: self._generate_examples(split, count) for split, count in SIZES.items()}

    def _generate_examples(self, split, count):
        more = {"label": 1} if self.builder_config.name == "summaries" else {}
        for number in range(count):
            yield number, dict(zip(self._names, pair(split, number), strict=True)) | more


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tfds.disable_progress_bar()
    for config in ("translation", "summaries"):
        Talks(config=config, data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def settings(sets: Path, name: str, **changes) -> TFDSPairs:
    return TFDSPairs(name=name, data_dir=str(sets), **({"tokenizer": Bytes()} | changes))


FIELDS = {"source_field": "article", "target_field": "gist"}


@pytest.mark.parametrize(
    ("name", "changes"), [("talks/translation", {}), ("talks/summaries", FIELDS)]
)
def test_every_pair_is_there_and_whole_ones_are_held_out(sets, name, changes):
    dataset = prepare(settings(sets, name, **changes))
    found = {split: examples(dataset, split) for split in dataset.splits}
    assert found["test"] == [pair("test", number) for number in range(7)]
    everything = sorted(pair("train", number) for number in range(40))
    assert sorted(found["train"] + found["validation"]) == everything
    assert found["validation"]


def test_the_other_way_round_is_another_set(sets):
    there, back = (
        prepare(settings(sets, "talks/translation", source_language=one, target_language=other))
        for one, other in (("en", "de"), ("de", "en"))
    )
    assert there.fingerprint != back.fingerprint
    assert examples(back, "test") == [one[::-1] for one in examples(there, "test")]


def refusal(sets: Path, name: str, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(sets, name, **changes))
    return str(raised.value)


def test_a_wrong_field_is_told_with_those_that_are_there(sets):
    message = refusal(sets, "talks/translation", target_language="fr")
    assert message.endswith("has no field 'fr', but de, en: set data.target_field")
    message = refusal(sets, "talks/summaries", **FIELDS | {"target_field": "gst"})
    assert "did you mean data.target_field=gist?" in message
    message = refusal(sets, "talks/summaries", **FIELDS | {"target_field": "label"})
    assert "'label' holds a ClassLabel, not text: text is in article, gist" in message
    assert "`tfds build --file_format=array_record talk`" in refusal(sets, "talk")
