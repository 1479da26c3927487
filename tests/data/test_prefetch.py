"""Promises of processes that make batches: one that dies is replaced, and not for ever."""

import os
import signal

import numpy as np
import pytest

from configs.errors import UsageError
from data import prefetch


class Deadly:
    """Batches whose making ends the process."""

    in_memory = is_expensive = False

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")


@pytest.mark.full
def test_processes_that_die_again_and_again_are_an_error():
    warnings: list[str] = []
    with pytest.raises(UsageError, match=r"processes that read data died 3 times, the last one by "
                       r"SIGKILL, at batch 5\. .* fewer --config\.data\.workers"):  # fmt: skip
        next(prefetch.stream(Deadly(), 4, 9, 1, warnings.append))
    told = "a process that reads data died by SIGKILL, at batch 5: new ones make the same batches"
    assert warnings == [told] * (prefetch.MOST_DEATHS - 1)
