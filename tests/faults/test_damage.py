"""Damage to a step: found before it is used, and named; and what a run did not write is kept."""

import random
import shutil
from pathlib import Path

import pytest

from tests.faults.cases import KILLED
from tests.selection import few_of
from training.manifest import Damaged, verify

FLIPS = 300


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)


def is_named(path: Path, step: Path) -> bool:
    """Whether a step is refused, with a message that names the file."""
    try:
        verify(step)
    except Damaged as damage:
        name = path.relative_to(step).as_posix()
        return f"{path} " in str(damage) or f"{step} has no {name}: " in str(damage)
    return False


@pytest.mark.full
def test_each_file_that_is_cut_short_or_gone_and_each_of_300_flipped_bits_is_found(stopped):
    step = stopped.workdir / "checkpoints" / "8"
    files, chance = files_of(step), random.Random(FLIPS)
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert is_named(path, step)
        path.unlink()
        assert is_named(path, step)
        path.write_bytes(whole)
    found = 0
    for number in range(FLIPS):
        path = files[number % len(files)]
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found += is_named(path, step)
        path.write_bytes(whole)
    stopped.say(f"{found} of {FLIPS} flipped bits, in {len(files)} files, were found and named")
    assert found == FLIPS
    stopped.resumes_twice()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("call", ["flip", "read"])
@pytest.mark.full
def test_a_file_that_is_read_wrongly(stopped, failing, call, seed):
    """On the disk it is right, and reading it gives a wrong bit, or an error."""
    chance = random.Random(f"{call} {seed}")
    path = chance.choice(files_of(stopped.workdir / "checkpoints" / "8"))
    bit = chance.randrange(8 * path.stat().st_size)
    variables = failing(call, str(path), number=bit)
    stopped.say(f"{call} {path.relative_to(stopped.workdir)}")
    errors = stopped.run("step:8=kill", expect=KILLED, variables=variables)
    what = {"flip": "is damaged", "read": "can't be read (Input/output error)"}[call]
    assert f"checkpoint 8 is not used: {path} {what}" in errors
    assert ("fell_back", 6) in stopped.events()
    stopped.resumes_twice()


def lose_manifest(folder: Path) -> str:
    (folder / "8" / "manifest.json").unlink()
    return f"checkpoint 8 is not used: {folder / '8'} has no manifest.json"


def lose_step(folder: Path) -> str:
    shutil.rmtree(folder / "8")
    return "going on from checkpoint 6"


def rename_step(folder: Path) -> str:
    (folder / "8").rename(folder / "80")
    return f"checkpoint 80 is not used: {folder / '80'} is a copy of step 8, by another number"


@pytest.mark.parametrize("change", few_of([lose_manifest, lose_step, rename_step], lose_manifest))
def test_without_its_last_step_a_run_goes_on_from_the_older_one(stopped, change):
    folder = stopped.workdir / "checkpoints"
    expected = change(folder)
    foreign = put_foreign_things(folder)
    errors = stopped.run("step:8=kill", expect=KILLED)
    assert expected in errors and "going on from checkpoint 6" in errors
    assert f"checkpoint 99 is not used: {folder / '99'} is a copy of step 6" in errors
    stopped.resumes_twice()
    for name, content in foreign.items():
        top, _, rest = name.partition("/")
        places = [folder / name, folder / f"{top}.unusable" / rest]
        assert [path.read_bytes() for path in places if path.is_file()] == [content], name
    stopped.say(f"{change.__name__}; {len(foreign)} files that the run did not write are there")


def put_foreign_things(folder: Path) -> dict[str, bytes]:
    """Puts into the folder of the steps what a run did not write. Returns its files, by name."""
    for name in ("notes", "007", "2024"):
        (folder / name).mkdir()
        (folder / name / "picture.jpg").write_bytes(name.encode())
    (folder / "12").write_text("a file in the place of a step")
    names = ["notes", "007", "2024", "99", "6 copy", "6.bak"]
    for name in names[3:]:
        shutil.copytree(folder / "6", folder / name)
    files = [folder / "12", *(path for name in names for path in (folder / name).rglob("*"))]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()
    }
