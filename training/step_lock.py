"""A checkpoint that is being read is not deleted: readers hold it, and retention asks.

Both by an advisory lock (`flock`) on the manifest of the step, which the kernel frees with the
process. Where the file system has no locks nothing is held, and readers have to choose again.
"""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from training.manifest import NAME


class HeldStep:
    """`with HeldStep(folder) as held: ...` keeps `remove_step` from the step of that folder.

    Raises FileNotFoundError on making it if the step has no manifest, or is being removed.
    """

    def __init__(self, folder: Path):
        self._file = (folder / NAME).open("rb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FileNotFoundError(f"{folder} is being removed") from None
        except OSError:  # no locks there
            return
        try:  # It may have gone between the opening and the lock.
            there = os.stat(folder / NAME)
        except FileNotFoundError:
            self._file.close()
            raise
        if not os.path.samestat(there, os.fstat(self._file.fileno())):
            self._file.close()
            raise FileNotFoundError(f"{folder} was replaced")

    def release(self) -> None:
        """Let the step go; a second time nothing happens."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def remove_step(folder: Path) -> bool:
    """Delete a step, unless somebody reads it. Returns whether it is gone.

    It is renamed first: a deletion that is cut off leaves nothing that looks like a step.
    """
    with (folder / NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks there
            pass
        doomed = folder.rename(folder.with_name(f"{folder.name}.removing"))
    shutil.rmtree(doomed)
    return True
