"""Runs schemathesis: random requests that fit a description of the routes, or nearly do, and the
checks of their answers."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.serving.servers import ROOT, SMALL, Served

CHECKS = ("not_a_server_error", "response_schema_conformance", "content_type_conformance")

SEED = 22

LIMITS = SMALL | {"serve.max_tokens": "4", "serve.max_n": "2"}
"""Settings of a server with which no request takes long."""

BOUNDS = {"max_tokens": 4, "max_completion_tokens": 4, "n": 2}
"""The largest values of parameters that most requests have; see `schemathesis_hooks`."""


def find_faults(
    description: Mapping[str, Any],
    server: Served,
    folder: Path,
    *,
    examples: int,
    phases: Sequence[str],
    prefix: str = "",
    file: bytes = b"",
    seconds: float = 540,
) -> dict[str, int]:
    """Send requests that a description makes, and fail if schemathesis finds a fault.

    Returns for each operation the number of requests that succeeded.

    examples: number of random requests to each operation. phases: examples (those that the
    description gives), coverage (the bounds of each parameter), fuzzing (random requests). prefix:
    of the description's paths. file: what most uploads have.
    """
    (folder / "description.json").write_text(json.dumps(description))
    (folder / "file").write_bytes(file)
    tally = folder / "tally"
    tally.write_text("")
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.serving.schemathesis_hooks",
        "PYTHONPATH": str(ROOT),
        "TRIFORM_SERVED_MODEL": server.model,
        "TRIFORM_SERVED_BOUNDS": json.dumps(BOUNDS),
        "TRIFORM_SERVED_FILE": str(folder / "file"),
        "TRIFORM_SERVED_TALLY": str(tally),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(folder / "description.json")]
    command += [f"--url={server.url}{prefix}", f"--checks={','.join(CHECKS)}", f"--seed={SEED}"]
    command += [f"--max-examples={examples}", f"--phases={','.join(phases)}", "--no-color"]
    command += ["--suppress-health-check=all", "--generation-database=none", "--warnings=off"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    succeeded = Counter(tally.read_text().splitlines())
    return {
        (label := f"{method.upper()} {path}"): succeeded[label]
        for path, methods in description["paths"].items()
        for method in methods
    }
