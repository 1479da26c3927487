"""The server that `serving.py` measures: `serve.py` in its own process."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import overrides, start_verb

START_SECONDS, STOP_SECONDS = 900.0, 120.0
PROCESSES = Path("/proc")


class ServerProcess:
    """A server on a free port.

    fields: fields of the configuration section `serve`.
    threads: number of CPU threads of the model's computations.
    log: the file for its log lines.
    tokens: the access tokens that the server accepts; without any, clients need none.

    Raises `SystemExit` if it does not start.
    """

    def __init__(
        self,
        workdir: Path,
        log: Path,
        *,
        threads: int,
        fields: Mapping[str, Any],
        tokens: tuple[str, ...] = (),
    ):
        self._log, self._tokens = log, tokens
        arguments = [f"--workdir={workdir}", "--port=0"]
        if tokens:
            file = log.with_suffix(".tokens")
            file.write_text("\n".join(tokens))
            arguments.append(f"--token_file={file}")
        arguments += overrides({f"serve.{name}": value for name, value in fields.items()})
        environment = {"NPROC": threads, "OMP_NUM_THREADS": threads, "JAX_PLATFORMS": "cpu"}
        with log.open("wb") as file:
            self.process = start_verb("serve.py", *arguments, environment=environment, stderr=file)
        try:
            listening = self._wait_for("listening")
            self.ready_seconds = self._wait_for("ready")["seconds"]
        except BaseException:
            self.kill()
            raise
        self.port = int(listening["url"].rpartition(":")[2])
        self.model = listening["model"]

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        lines = self._log.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def get(self, path: str) -> bytes:
        """Return the body of the answer to a GET request."""
        token = {"Authorization": f"Bearer {self._tokens[0]}"} if self._tokens else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def gauges(self) -> dict[str, float]:
        """Return the metrics without labels, by name."""
        lines = self.get("/metrics").decode().splitlines()
        pairs = [line.split(" ") for line in lines if line[:1] != "#" and "{" not in line]
        return {name: float(value) for name, value in pairs}

    def resident_mib(self) -> float:
        """Return the resident memory of the server and the processes that it started."""
        return sum(map(_resident_mib, _family(self.process.pid)))

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server's own process so far."""
        user, system = _stat(self.process.pid)[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status. A server that does not end is killed."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the server to end and return its exit status. After `STOP_SECONDS`, kill it and
        return -9."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def _wait_for(self, event: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.events():
                if line["event"] == event:
                    return line
            time.sleep(0.1)
        raise SystemExit(f"serving.py: serve.py is not {event}:\n{self._log.read_text()[-2000:]}")


@contextlib.contextmanager
def running(*arguments: Any, **fields: Any) -> Iterator[ServerProcess]:
    """Run a server until the block ends. The arguments are those of `ServerProcess`."""
    server = ServerProcess(*arguments, **fields)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def _family(process: int) -> set[int]:
    """Return a process and all its descendants."""
    parents: dict[int, int] = {}
    for place in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It may end meanwhile.
            parents[int(place.name)] = int(_stat(int(place.name))[1])
    family, size = {process}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, and so on."""
    return (PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()


def _resident_mib(process: int) -> float:
    with contextlib.suppress(OSError):
        pages = int((PROCESSES / str(process) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20
    return 0.0
