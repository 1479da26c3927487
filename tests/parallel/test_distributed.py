"""How a process finds its place among those of its run."""

import pytest

from parallel import distributed

SLURM = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OWN = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    for name in (*SLURM, *OWN, "KUBERNETES_SERVICE_HOST", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)


def place_in(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return distributed._find_place()


def test_a_process_is_alone_by_default(monkeypatch):
    assert place_in(monkeypatch, {}) is None
    assert place_in(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert distributed.initialize_distributed()


def test_its_place_is_given_by_the_user_or_found_under_slurm(monkeypatch):
    place = place_in(monkeypatch, SLURM)
    assert place == ("node3:61440", 2, 1, [0])
    assert place_in(monkeypatch, OWN) == ("10.0.0.1:1234", 4, 3, None)
