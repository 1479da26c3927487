"""Promises of picture sets that TensorFlow Datasets prepared, of the shapes that people have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.errors import UsageError
from configs.schema.pictures import TFDSPictures
from data.codecs.pictures import decode_picture
from data.preparation import prepare
from tests.data.test_pictures import encoded, picture, stored

SHAPES = {
    "mnist": {"size": (28, 28), "mode": "L", "form": "png", "classes": list("0123456789"),
              "splits": {"train": 20, "test": 7}},
    "cifar10": {"size": (32, 32), "mode": "RGB", "form": "png",
                "classes": ["airplane", "automobile", "bird"], "splits": {"train": 20, "test": 7}},
    "imagenet2012": {"size": None, "mode": "RGB", "form": "jpeg",
                     "classes": [f"n{number:08}" for number in range(5)],
                     "splits": {"train": 12, "validation": 5, "test": 3}},
}  # fmt: skip


def builder(name: str, folder: Path) -> tfds.core.GeneratorBasedBuilder:
    """A tiny set of the shape of the one called `name`."""
    about = SHAPES[name]

    class Set(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")
        url_infos = None

        def _info(self):
            channels = 1 if about["mode"] == "L" else 3
            size = about["size"] or (None, None)
            features = {
                "image": tfds.features.Image(
                    shape=(*size, channels), encoding_format=about["form"]
                ),
                "label": tfds.features.ClassLabel(names=about["classes"]),
                "file_name": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download_manager):
            return {s: self._generate_examples(s, n) for s, n in about["splits"].items()}

        def _generate_examples(self, split, count):
            for number in range(count):
                size = about["size"] or (80 + number, 60)
                content = encoded(picture(number, *size, mode=about["mode"]), about["form"])
                unlabelled = name == "imagenet2012" and split == "test"
                label = -1 if unlabelled else number % len(about["classes"])
                yield number, {"image": content, "label": label, "file_name": f"{number}.x"}

    Set.name = name
    return Set(data_dir=folder, file_format="array_record")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tfds.disable_progress_bar()
    for name in SHAPES:
        builder(name, folder).download_and_prepare()
    return folder


def settings(sets: Path, name: str, **changes) -> TFDSPictures:
    return TFDSPictures(name=name, data_dir=str(sets), **changes)


def refusal(sets: Path, name: str = "mnist", **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(sets, name, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3)),
                                             ("imagenet2012", (224, 224, 3))])  # fmt: skip
@pytest.mark.parametrize("decoded", ["arrays", "files"])
def test_every_labelled_picture_is_there_once(sets, name, shape, decoded):
    about = SHAPES[name]
    dataset = prepare(settings(sets, name, decoded=decoded))
    assert dataset.spec.image_shape == shape
    assert dataset.spec.classes == tuple(about["classes"])
    counts = {split: one.examples for split, one in dataset.splits.items()}
    if name == "imagenet2012":
        assert counts == {"train": 12, "validation": 5}
        assert dataset.warnings == (
            "test has no labels, and is left out",
            "5 of 5 pictures of validation are in train too, such as validation 0: what they "
            "measure was learnt by heart",
        )
    else:
        assert counts["test"] == 7
        assert counts["train"] + counts["validation"] == 20
        assert counts["validation"] > 0
        found = np.concatenate([stored(dataset, s)["image"] for s in ("train", "validation")])
        expected = [
            decode_picture(encoded(picture(n, *about["size"], mode=about["mode"])), shape)
            for n in range(20)
        ]
        assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in expected)


def test_what_is_missing_is_told_with_the_command(sets, tmp_path):
    message = refusal(sets, "cifar100")
    assert "did you mean cifar10?" in message
    assert "`tfds build --file_format=array_record cifar100`" in message
    folder = Path(shutil.copytree(sets / "mnist", tmp_path / "mnist")) / "3.0.2"
    facts = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(facts | {"fileFormat": "tfrecord"}))
    assert "`tfds build --file_format=array_record mnist`" in refusal(tmp_path, "mnist")


def test_wrong_features_are_told_with_the_right_ones(sets):
    assert "did you mean data.image_field=image?" in refusal(sets, image_field="imag")
    message = refusal(sets, label_field="file_name")
    assert "'file_name' is a Text, not a ClassLabel: give data.label_field=label" in message
