"""One writer at a time: refused while it lives, taken over once it is gone."""

import json
import subprocess
import sys
import time

import pytest

from configs.errors import UsageError
from storage import lease as lease_module
from storage.lease import Lease
from storage.store import open_store
from tests.end_to_end.verbs import ROOT
from tests.storage.emulators import everywhere, exclusive

SECONDS = 2.0


def as_elsewhere(store) -> None:
    """Makes the newest lease that of another machine, of whose processes nobody knows here."""
    name = max(store.list("lease"))
    owner = json.loads(store.read(name)) | {"system": "another", "host": "elsewhere"}
    store.write(name, json.dumps(owner).encode())


@everywhere
def test_a_living_writer_of_this_machine_is_known_at_once(place):
    store = open_store(place)
    first = Lease(store, seconds=SECONDS)
    assert first.acquire(pytest.fail)
    began = time.monotonic()
    with pytest.raises(UsageError, match=rf"{place} is in use by process \d+ on "):
        Lease(store).acquire(pytest.fail)
    assert time.monotonic() - began < 5
    assert first.renew() and first.renew()
    first.release()
    assert Lease(store).acquire(pytest.fail), "it was released"


@everywhere
def test_a_writer_elsewhere_that_renews_is_not_replaced(place):
    store = open_store(place)
    first = Lease(store, seconds=SECONDS)
    first._me |= {"system": "another", "host": "elsewhere"}
    first.acquire(pytest.fail)
    told = []

    def tell(text: str) -> None:
        told.append(text)
        assert first.renew()

    with pytest.raises(UsageError, match=r"in use by process .* on elsewhere"):
        Lease(store, seconds=SECONDS).acquire(tell)
    assert "taken over if the lock is not renewed within 2 s" in told[0]


@exclusive
def test_a_stale_lease_is_taken_over_and_its_owner_learns_it(place):
    store = open_store(place)
    first, second = Lease(store, seconds=SECONDS), Lease(store, seconds=SECONDS)
    first.acquire(pytest.fail)
    as_elsewhere(store)
    told = []
    began = time.monotonic()
    assert second.acquire(told.append)
    assert time.monotonic() - began >= SECONDS
    assert "was left locked by process" in told[-1] and "it is taken over" in told[-1]
    assert not first.renew()
    first.release()
    assert second.renew(), "the first one has released what is not its own"


@exclusive
def test_of_two_that_wait_one_takes_over(place):
    from concurrent.futures import ThreadPoolExecutor

    store = open_store(place)
    Lease(store).acquire(pytest.fail)
    as_elsewhere(store)

    def acquire(number: int) -> bool:
        try:
            return Lease(store, seconds=SECONDS).acquire(lambda text: None)
        except UsageError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(acquire, range(4))) == 1


def test_one_that_saw_an_old_lease_does_not_become_the_writer(tmp_path, monkeypatch):
    """It was stopped between looking and creating, and meanwhile the owner renewed twice."""
    store = open_store(str(tmp_path))
    first, second = Lease(store, seconds=SECONDS), Lease(store, seconds=0)
    first.acquire(pytest.fail)
    as_elsewhere(store)
    seen = second._newest()
    assert first.renew() and first.renew() and first.renew()
    found = iter([seen])
    newest = second._newest
    monkeypatch.setattr(second, "_newest", lambda: next(found, None) or newest())
    with pytest.raises(UsageError, match="in use"):
        second.acquire(lambda text: None)
    assert first.renew()


def test_a_killed_process_of_this_machine_is_replaced_at_once(tmp_path):
    if lease_module._system() is None:
        pytest.skip("this system does not tell which processes it has")
    program = (
        "import os, signal; from storage.lease import Lease; from storage.store import open_store\n"
        f"Lease(open_store({str(tmp_path)!r})).acquire(print); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    told = []
    began = time.monotonic()
    assert Lease(open_store(str(tmp_path))).acquire(told.append)
    assert time.monotonic() - began < 5 and "it is taken over" in told[0]


def test_one_that_is_told_to_stop_waits_no_longer(tmp_path):
    store = open_store(str(tmp_path))
    Lease(store).acquire(pytest.fail)
    as_elsewhere(store)
    assert not Lease(store).acquire(lambda text: None, lambda: True)
