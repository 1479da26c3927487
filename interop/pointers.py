"""Recognises the small texts that Git LFS leaves in place of large files."""

from pathlib import Path

from configs.errors import UsageError
from configs.files import GIT_LFS_POINTER


def refuse_pointer(path: Path) -> None:
    """Raise `UsageError` if `path` is a pointer of Git LFS in place of the file itself."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER
    except OSError:  # Whoever reads the file says what is wrong.
        return
    if is_pointer:
        raise UsageError(
            f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in "
            f"{path.parent}"
        )
