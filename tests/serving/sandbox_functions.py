"""Functions that tests run in a sandbox."""

import os
import sys
import time

import numpy as np


class Content(str):
    """A text to which a weak reference can point."""


def doubled(array, name):
    return array * 2, name, {"rows": len(array)}


def text(length):
    return "ä" * length


def refuse(reason):
    raise ValueError(reason)


def fault():
    raise KeyError("a fault")


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def spin():
    while True:
        pass


def fill(megabytes):
    return int(np.ones(megabytes << 20, np.uint8)[::4096].sum())


def die():
    os.kill(os.getpid(), 11)


def look():
    """Return the process's id, its environment, its open files and its modules."""
    print("a line that a library prints")
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return os.getpid(), dict(os.environ), links, sorted(sys.modules)


def write(path):
    with open(path, "wb") as file:
        file.write(b"x" * 100)
