"""Servers for tests: `serve.py` in a process of its own, with a small model of each kind."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/workdirs"

SMALL = {"serve.slots": "2", "serve.prefix_cache_mb": "0"}
"""Settings with which little is compiled."""

START_SECONDS = 300


class Served:
    """A server that is ready. model: the name that requests give."""

    url: str
    model: str

    def request(
        self,
        path: str,
        content: object = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, bytes]:
        """Send a request, with `content` as JSON if it is given; return its status and body."""
        given = dict(headers or {})
        if content is not None:
            body = json.dumps(content).encode()
            given.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, body, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@dataclass
class RunningServer(Served):
    """One in a process of its own. log: the file with its log lines."""

    process: subprocess.Popen[bytes]
    url: str
    port: int
    model: str
    log: Path

    def lines(self) -> list[dict[str, object]]:
        """Return the lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def check_log(self, token: str = "") -> None:
        """Fail if the log tells of a fault, or has what must not reach it, such as the token."""
        text = self.log.read_text()
        wrong = [line for line in self.lines() if line["level"] in ("error", "critical")]
        assert not wrong, wrong
        assert "\x1b" not in text and "Bearer" not in text
        assert not token or token not in text

    def ask(self, path: str, content: object) -> dict:
        """Send JSON; return the JSON answer, which must be a success."""
        status, body = self.request(path, content)
        assert status == 200, (status, body)
        return json.loads(body)


@contextlib.contextmanager
def serving(
    path: Path,
    log: Path,
    *flags: str,
    named: str = "workdir",
    fields: Mapping[str, str] = SMALL,
    environment: Mapping[str, str] | None = None,
    is_awaited: bool = True,
) -> Iterator[RunningServer]:
    """Run `serve.py` on a free port until the block ends. named: the flag that names the model's
    `path`. is_awaited: whether to wait until its programs are compiled."""
    command = [sys.executable, "serve.py", f"--{named}={path}", "--port=0", *flags]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=errors, env=os.environ | dict(environment or {})
        )
    try:
        listening = _wait_for(process, log, "listening")
        server = RunningServer(
            process,
            listening["url"],
            int(listening["url"].rpartition(":")[2]),
            listening["model"],
            log,
        )
        if is_awaited:
            _wait_for(process, log, "ready")
        yield server
        server.check_log((environment or {}).get("TRIFORM_TOKEN", ""))
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], log: Path, event: str) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if (
                line.startswith("{")
                and line.endswith("}")
                and (found := json.loads(line))["event"] == event
            ):
                return found
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"no line {event!r} in the log:\n{log.read_text()}")
