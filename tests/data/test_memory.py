"""Memory that preparation has freed."""

import platform
import subprocess
import sys

import pytest

from tests.end_to_end.verbs import ROOT

KEPT_GAPS = """
import ctypes
from data.memory import release_freed_memory

libc = ctypes.CDLL(None)
for option, value in ((-4, 0), (-1, -1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, as train.py sets them
    libc.mallopt(option, value)

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

blocks = [bytes(2**16) for _ in range(1600)]  # 100 MiB
kept = blocks[::100]
del blocks
before = resident()
release_freed_memory()
print(before - resident(), all(block == bytes(2**16) for block in kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_what_was_freed_between_what_is_kept_is_given_back():
    command = [sys.executable, "-c", KEPT_GAPS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    kibibytes, is_whole = done.stdout.split()
    assert int(kibibytes) > 50 * 2**10
    assert is_whole == "True"
