"""One writer per workdir."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from configs.errors import UsageError
from training.workdir import WorkdirLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from training.workdir import WorkdirLock
with WorkdirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def unprivileged_folder():
    """A folder that the user of the test, who for the time being is not root, can't write."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if was_root:
                os.seteuid(0)
            os.chmod(name, 0o755)


def refusal(workdir: Path) -> str:
    with pytest.raises(UsageError) as caught, WorkdirLock(workdir):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_lock_makes_the_workdir_and_tells_its_owner(tmp_path):
    workdir = tmp_path / "runs" / "one"
    with WorkdirLock(workdir):
        owner = json.loads((workdir / "lock").read_text())
        assert owner["pid"] == os.getpid()
        assert owner.keys() == {"pid", "host", "since", "command"}
    assert (workdir / "lock").read_text() == ""


def test_a_living_owner_is_named(tmp_path, holder):
    owner = json.loads((tmp_path / "run" / "lock").read_text())
    message = refusal(tmp_path / "run")
    assert f"process {holder.pid} on {owner['host']} since {owner['since']}" in message
    assert json.loads((tmp_path / "run" / "lock").read_text()) == owner


def test_one_process_cannot_hold_a_workdir_twice(tmp_path):
    with WorkdirLock(tmp_path):
        assert f"process {os.getpid()} " in refusal(tmp_path)
    with WorkdirLock(tmp_path):
        pass


def test_a_killed_owner_is_taken_over_and_named(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    told = []
    with WorkdirLock(tmp_path / "run", told.append):
        owner = json.loads((tmp_path / "run" / "lock").read_text())
    assert owner["pid"] == os.getpid()
    assert len(told) == 1 and f"process {holder.pid} " in told[0] and "taken over" in told[0]


def test_a_clean_exit_leaves_nothing_to_take_over(tmp_path, holder):
    holder.stdin.close()
    assert holder.wait() == 0
    told = []
    with WorkdirLock(tmp_path / "run", told.append):
        assert told == []


def test_an_unreadable_name_is_taken_over_too(tmp_path):
    (tmp_path / "lock").write_bytes(b"\xff half a na")
    told = []
    with WorkdirLock(tmp_path, told.append):
        pass
    assert "no readable name" in told[0]


def test_the_lock_is_released_by_an_error_inside(tmp_path):
    with pytest.raises(RuntimeError), WorkdirLock(tmp_path):
        raise RuntimeError
    with WorkdirLock(tmp_path):
        pass


def test_a_file_in_the_place_of_the_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    assert str(tmp_path / "file") in refusal(tmp_path / "file")
    assert "not a folder" in refusal(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_symbolic_link_is_refused_and_its_target_named(tmp_path, target):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    assert str(tmp_path / target) in refusal(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_below_a_symbolic_link_is_fine(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    with WorkdirLock(tmp_path / "runs" / "one"):
        assert (tmp_path / "scratch" / "one" / "lock").exists()


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "precious")
    assert "can't be written" in refusal(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_read_only_place_is_refused(unprivileged_folder):
    assert "can't be written: Permission denied" in refusal(unprivileged_folder)
    assert "can't be written: Permission denied" in refusal(unprivileged_folder / "run")
