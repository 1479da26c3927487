"""Two processes, joined by jax.distributed, are one run: the batches and losses of one process."""

import socket
import subprocess

import numpy as np

from tests.end_to_end.verbs import ROOT, command, environment, metrics, run

FIELDS = {
    "model__channels": "8,16",
    "model__width": "32",
    "train__steps": "20",
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": "0",
    "train__log_every_steps": "1",
    "train__evaluate_every_steps": "10",
    "checkpoint__every_steps": "10",
    "data__global_batch_size": "32",
}


def run_on_two_hosts(workdir, **fields) -> list[str]:
    """train.py as two processes of two devices each; standard error of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            command("train.py", "--config=configs/digits_cnn.py", f"--workdir={workdir}", **fields),
            cwd=ROOT,
            env=environment(2)
            | {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n\n".join(errors)
    return errors


def test_two_hosts_train_evaluate_save_and_resume_as_one(tmp_path):
    run("train.py", "--config=configs/digits_cnn.py", f"--workdir={tmp_path / 'one'}", **FIELDS)
    two = tmp_path / "two"
    run_on_two_hosts(two, **FIELDS | {"train__steps": "10", "mesh__fsdp": "2"})
    errors = run_on_two_hosts(two, **FIELDS)
    assert all("going on from checkpoint 10" in text for text in errors)
    alone, together = metrics(tmp_path / "one"), metrics(two)
    assert list(together) == list(range(1, 21))
    losses = [[lines[step]["loss"] for step in together] for lines in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
