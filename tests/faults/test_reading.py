"""Data that can't be read, and processes that die reading it: named; the batches stay the same."""

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from tests.faults.cases import FIELDS, KILLED, Case, once_undisturbed
from tests.selection import few_of


def test_a_process_that_reads_and_dies_is_replaced(case):
    errors = case.run("step:5=kill_reader,step:12=kill", expect=KILLED, data__workers="1")
    told = re.search("a process that reads data died by SIGKILL, at batch .*", errors)
    assert told and told[0].endswith("new ones make the same batches")
    case.say(told[0])
    case.resumes_twice()


def remove(path: Path) -> str:
    path.unlink()
    return "it is missing"


def cut(path: Path) -> str:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    return f"it has {size // 2} of {size} bytes"


def flip(path: Path) -> str:
    """Flips a bit of a record; one in the padding would change nothing."""
    whole, chance = path.read_bytes(), random.Random(0)
    while True:
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            ArrayRecordReader(str(path)).read_all()
        except (ValueError, RuntimeError):
            return r"record \d+ of \d+: "


@pytest.mark.full
@pytest.mark.parametrize("damage", few_of([remove, cut, flip], flip))
def test_a_damaged_file_of_records_is_named_and_made_again(case, tmp_path, damage):
    case.fields["data.cache_dir"] = str(tmp_path / "cache")
    case.run("saved:6=kill", expect=KILLED)
    (path,) = (tmp_path / "cache" / "prepared").glob("*/train.array_record")
    what = damage(path)
    last = case.run(expect=2).splitlines()[-1]
    assert re.search(f"{path} is damaged: {what}", last)
    assert f"Delete the folder {path.parent}: it will be " in last
    assert case.saved == 6
    shutil.rmtree(path.parent)
    case.resumes_twice()


@pytest.mark.full
def test_a_picture_that_can_not_be_decoded_counts_for_nothing_each_time(tmp_path, say):
    folder, chance = tmp_path / "pictures", np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for number in range(16):
            pixels = chance.integers(0, 128, (8, 8)) + 127 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    broken = folder / "light" / "7.png"
    broken.write_bytes(broken.read_bytes()[:40])
    shared = ("train.", "checkpoint.", "optimizer.", "data.global_batch_size")
    fields = {name: value for name, value in FIELDS.items() if name.startswith(shared)} | {
        "data.source": "image_folder",
        "data.path": str(folder),
        "data.image_size": "8",
        "data.decoded": "files",
        "model.channels": "4",
        "model.width": "8",
    }
    recipe = "--config=configs/digits_cnn.py"
    undisturbed = once_undisturbed(tmp_path / "undisturbed", fields, recipe)
    case = Case(tmp_path / "run", fields, say, undisturbed, recipe)
    errors = case.run("step:8=kill", expect=KILLED)
    assert f"{broken}: " in errors
    assert "1 of 32 pictures are broken, and count for nothing" in errors
    case.resumes_twice()
    case.workdir = tmp_path / "other"
    last = case.run(expect=2, data__broken_fraction="0.01").splitlines()[-1]
    assert f"more than data.broken_fraction=0.01 allows: {broken}: " in last
