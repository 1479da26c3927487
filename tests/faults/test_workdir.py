"""One workdir, two trainers; and files of a step that were damaged meanwhile."""

import random

import pytest

from tests.faults.cases import KILLED, wait_for
from tests.selection import few_of


def test_a_second_trainer_is_refused_and_the_first_goes_on(case):
    first = case.start("logged:5=hang")
    wait_for(lambda: case.saved >= 3, first)
    errors = case.run(expect=2)
    assert f"{case.workdir} is in use by process {first.pid} on " in errors
    first.kill()
    first.communicate()
    case.resumes_twice()


def truncate(path, random):
    with path.open("r+b") as file:
        file.truncate(random.randrange(path.stat().st_size))


def remove(path, random):
    path.unlink()


def flip(path, random):
    with path.open("r+b") as file:
        position = random.randrange(path.stat().st_size)
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))


@pytest.mark.parametrize("seed", few_of(range(4), 0))
@pytest.mark.parametrize("damage", few_of([truncate, remove, flip], flip))
def test_a_damaged_file_is_named_and_the_older_step_used(stopped, damage, seed):
    case = stopped
    chance = random.Random(f"{damage.__name__} {seed}")
    files = sorted(path for path in (case.workdir / "checkpoints/8").rglob("*") if path.is_file())
    path = chance.choice([path for path in files if path.stat().st_size])
    damage(path, chance)
    case.say(f"{damage.__name__} {path.relative_to(case.workdir)}")
    errors = case.run("step:8=kill", expect=KILLED)
    assert "checkpoint 8 is not used: " in errors and str(path) in errors
    assert ("fell_back", 6) in case.events()
    case.resumes_twice()
