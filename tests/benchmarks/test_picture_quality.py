"""The accuracy of short runs on pictures at toy size, beside PyTorch's where it is installed."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from benchmarks import picture_quality
from configs.errors import UsageError

SIDES = picture_quality.SIDES if find_spec("torch") else ("triform",)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Dark and bright pictures, which a few steps tell apart."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 64), ("validation", 20)):
        for name, lowest in (("dark", 0), ("bright", 160)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(lowest, lowest + 90, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_each_side_learns_and_is_told(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    out = tmp_path / "found.json"
    sides = [f"--side={side}" for side in SIDES]
    fields = ["--set=optimizer.warmup_steps=1", "--set=optimizer.learning_rate=1e-2"]
    size = ["--steps=40", "--seeds=2", "--width=4", f"--json={out}"]
    picture_quality.main([str(pictures), *size, *sides, *fields])
    (found,) = json.loads(out.read_text()).values()
    assert set(found) == set(SIDES)
    for side, each in found.items():
        assert len(each) == 2 and min(each) >= 0.9, side
    told = capsys.readouterr().out
    assert all(f"`{side}`" in told for side in SIDES) and told.count("\n") == 2 + len(SIDES)


def test_the_sets_that_it_makes_have_their_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_quality, "PER_CLASS", {"train": 3, "validation": 1})
    for name, write in picture_quality.SETS.items():
        write(tmp_path / name)
        assert len(list((tmp_path / name / "train").iterdir())) == 10
    letters = [np.asarray(Image.open(path)) for path in tmp_path.glob("letters/train/A/*.png")]
    assert len(letters) == 3 and {picture.shape for picture in letters} == {(28, 28)}
    assert not (letters[0] == letters[1]).all()


def test_a_field_without_a_value_is_an_error(pictures):
    with pytest.raises(UsageError, match="give FIELD=VALUE"):
        picture_quality.main([str(pictures), "--set=optimizer.beta2"])
