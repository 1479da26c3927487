"""Commands as several processes that are one run, as if each were a host of its own."""

import socket
import subprocess
from collections.abc import Sequence

from tests.end_to_end.verbs import ROOT, environment


def on_hosts(count: int, command: Sequence[str], *, devices: int = 1) -> list[tuple[str, str]]:
    """Runs a command as `count` processes of `devices` devices each, to its end; returns standard
    output and error of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(devices)
            | {
                "PYTHONPATH": str(ROOT),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    told = [process.communicate(timeout=300) for process in processes]
    statuses = [process.returncode for process in processes]
    assert statuses == [0] * count, "\n\n".join(map(str, told))
    return told
