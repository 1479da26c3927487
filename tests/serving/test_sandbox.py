"""A sandbox calls functions in processes that can be killed while others go on."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import weakref

import numpy as np
import pytest

from serving.errors import ApiError
from serving.responses import unless_client_leaves
from serving.sandbox import WAITING_PER_PROCESS, Sandbox, SandboxFault
from tests.serving import sandbox_functions as functions
from tests.serving.sockets import wait_until

LONG = 300.0
"""A deadline that no test waits for."""


@pytest.fixture
def sandbox():
    made = []

    def make(processes=1, memory_mb=512, seconds=LONG, modules=()):
        one = Sandbox(processes, memory_mb, seconds)
        one.preload(*modules)
        made.append(one)
        one.start()
        return one

    yield make
    for one in made:
        one.stop()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_results_errors_and_faults_come_back(sandbox):
    async def scenario():
        one = sandbox()
        array = np.arange(6, dtype=np.float32).reshape(2, 3).T
        doubled, name, about = await one.run(functions.doubled, array, "a name")
        np.testing.assert_array_equal(doubled, array * 2)
        assert doubled.dtype == np.float32 and (name, about) == ("a name", {"rows": 3})
        assert await one.run(functions.text, 3) == "äää"
        with pytest.raises(ValueError, match="no picture: ä"):
            await one.run(functions.refuse, "no picture: ä")
        with pytest.raises(SandboxFault, match="a fault"):
            await one.run(functions.fault)
        assert await one.run(functions.text, 1) == "ä"

    asyncio.run(scenario())


def test_a_process_has_no_secrets_no_sockets_no_files_and_no_jax(sandbox, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIFORM_TOKEN", "secret")

    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as opened:
            os.set_inheritable(opened.fileno(), True)
            one = sandbox(modules=("data.codecs.pictures", "data.codecs.sound"))
            _, environment, links, modules = await one.run(functions.look)
            assert not [link for link in links if link.startswith("socket")]
        assert "TRIFORM_TOKEN" not in environment and "secret" not in environment.values()
        assert "data.codecs.sound" in modules
        assert not [name for name in modules if name.partition(".")[0] in ("jax", "flax", "grain")]
        path = tmp_path / "file"
        with pytest.raises(SandboxFault, match="File too large"):
            await one.run(functions.write, str(path))
        assert not path.exists() or not path.stat().st_size

    asyncio.run(scenario())


def test_a_task_over_its_deadline_is_killed_while_others_go_on(sandbox):
    async def scenario():
        one = sandbox(processes=2, seconds=6)
        await asyncio.gather(one.run(functions.sleep, 0.3), one.run(functions.sleep, 0.3))
        before = set(one.pids)
        hanging = asyncio.ensure_future(one.run(functions.sleep, 600, param="file"))
        done = 0
        while not hanging.done():
            assert await one.run(functions.text, 2) == "ää"
            await asyncio.sleep(0.1)
            done += 1
        with pytest.raises(ApiError, match="longer than 6 seconds") as caught:
            await hanging
        assert (caught.value.status, caught.value.param) == (400, "file")
        assert done > 1 and len(before) == 2
        (killed,) = before - set(one.pids)
        assert not is_alive(killed)
        both = await asyncio.gather(*(one.run(functions.sleep, 0.2) for _ in range(2)))
        assert both == [0.2, 0.2]

    asyncio.run(scenario())


def test_a_task_that_takes_too_much_memory_is_refused_and_its_process_replaced(sandbox):
    async def scenario():
        one = sandbox(memory_mb=256)
        pid, *_ = await one.run(functions.look)
        assert await one.run(functions.fill, 32) > 0
        for function, arguments in ((functions.fill, (2048,)), (functions.die, ())):
            with pytest.raises(ApiError, match="more memory than 256 MB") as caught:
                await one.run(function, *arguments)
            assert caught.value.status == 400
        after, *_ = await one.run(functions.look)
        assert after != pid and not is_alive(pid)

    asyncio.run(scenario())


def test_what_waits_is_bounded(sandbox):
    async def scenario():
        one = sandbox()
        waiting = [
            asyncio.ensure_future(one.run(functions.sleep, 0.01))
            for _ in range(1 + WAITING_PER_PROCESS)
        ]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="wait here") as caught:
            await one.run(functions.text, 1)
        assert caught.value.status == 429 and caught.value.headers["Retry-After"]
        cancelled = waiting.pop()
        cancelled.cancel()
        assert await asyncio.gather(*waiting) == [0.01] * WAITING_PER_PROCESS
        for _ in range(2):  # The room of what was cancelled is free again.
            together = [one.run(functions.text, 1) for _ in range(1 + WAITING_PER_PROCESS)]
            assert len(await asyncio.gather(*together)) == 1 + WAITING_PER_PROCESS

    asyncio.run(scenario())


def test_stop_ends_the_processes_and_what_they_do(sandbox):
    async def scenario():
        one = sandbox()
        pid, *_ = await one.run(functions.look)
        os.kill(pid, signal.SIGTERM)  # as a service manager sends it to the whole group
        os.kill(pid, signal.SIGINT)
        assert await one.run(functions.text, 1) == "ä"
        working = asyncio.ensure_future(one.run(functions.spin))
        await asyncio.sleep(0.2)
        one.stop()
        with pytest.raises(ApiError) as caught:
            await working
        assert caught.value.status == 503
        with pytest.raises(ApiError) as caught:
            await one.run(functions.text, 1)
        assert caught.value.status == 503
        wait_until(lambda: not is_alive(pid))

    asyncio.run(scenario())


def test_work_that_is_endless_ends_after_its_processor_time(sandbox):
    async def scenario():
        one = sandbox(seconds=1.5)
        pid, *_ = await one.run(functions.look)
        with pytest.raises(ApiError, match="longer than"):
            await one.run(functions.spin)
        wait_until(lambda: not is_alive(pid))

    asyncio.run(scenario())


def test_what_was_cancelled_is_not_kept(sandbox):
    class Content(bytearray):
        pass

    async def scenario():
        one = sandbox()
        busy = asyncio.ensure_future(one.run(functions.sleep, 0.5))
        contents = [Content(10) for _ in range(3 * WAITING_PER_PROCESS)]
        kept = [weakref.ref(content) for content in contents]
        while contents:
            waiting = asyncio.ensure_future(one.run(functions.text, contents.pop()))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        del waiting
        await asyncio.sleep(0.01)
        gc.collect()
        assert not busy.done() and not [content for content in kept if content() is not None]
        await busy

    asyncio.run(scenario())


def test_an_error_keeps_nothing_of_the_request(sandbox):
    async def stay():
        await asyncio.Event().wait()

    async def ask(one, content):
        """Ask as a route does, for work that is refused."""
        await unless_client_leaves(stay, one.run(functions.refuse, content))

    async def scenario():
        one, kept = sandbox(), []
        await one.run(functions.text, 1)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                content = functions.Content("wrong")
                kept.append(weakref.ref(content))
                with contextlib.suppress(ValueError):
                    await ask(one, content)
                del content
                await asyncio.sleep(0.01)
            assert [content() for content in kept] == [None] * 3
        finally:
            gc.enable()

    asyncio.run(scenario())


KILLED_SERVER = """
import asyncio, os, signal
from serving.sandbox import Sandbox
from tests.serving import sandbox_functions

async def main():
    sandbox = Sandbox(2, 512, 2.0)
    await asyncio.gather(*(sandbox.run(sandbox_functions.sleep, 0.2) for _ in range(2)))
    print(*sandbox.pids, flush=True)
    asyncio.ensure_future(sandbox.run(sandbox_functions.spin))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_processes_end_with_a_server_that_is_killed():
    found = subprocess.run(
        [sys.executable, "-c", KILLED_SERVER], stdout=subprocess.PIPE, timeout=120, check=False
    )
    pids = [int(word) for word in found.stdout.split()]
    assert found.returncode == -signal.SIGKILL and len(pids) == 2
    for pid in pids:  # The idle one at once, the other after its time.
        wait_until(lambda pid=pid: not is_alive(pid))
