"""URLs of object stores: which are known, and what is said of others.

A path with a scheme that a command does not read would otherwise become a folder of this name in
the working directory.
"""

import hashlib
import os
import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from configs.errors import UsageError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
"""The package that reads and writes each kind of object store, by the scheme of its URLs."""

GS, ANY, NONE = ("gs",), tuple(PACKAGES), ()
"""Schemes that a path may have."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_WHOLE = re.compile(r"[a-z0-9]+://[^/\s]+(/.*)?")


def scheme_of(path: str | os.PathLike[str]) -> str | None:
    """Return the scheme of a URL, such as "gs"; None for a path of this machine."""
    found = _URL.match(os.fspath(path))
    return found[1] if found else None


def is_remote(path: str | os.PathLike[str] | None) -> bool:
    """Return whether `path` is in an object store that this program can read."""
    return path is not None and scheme_of(path) in PACKAGES


def check_place(
    named: str, path: str | os.PathLike[str] | None, schemes: Collection[str], otherwise: str
) -> None:
    """Raise `UsageError` if `path` is a URL that can't be used here.

    named: what names it, for the message, such as "--workdir=".
    schemes: those that can be used here; () for none.
    otherwise: what to do instead, for the message.

    A URL of `schemes` must name a bucket, and the package that reads it must be installed.
    """
    scheme = None if path is None else scheme_of(path)
    if path is None or scheme is None:
        return
    path = os.fspath(path)
    if scheme not in schemes:
        there = f"a path of this machine{''.join(f', or {one}://' for one in schemes)}"
        raise UsageError(f"{named}{path} must be {there}: {otherwise}")
    if not _WHOLE.fullmatch(path):
        raise UsageError(f"{named}{path} is no whole URL: {scheme}://BUCKET/NAME")
    if find_spec(PACKAGES[scheme]) is None:
        raise UsageError(
            f"{named}{path} needs the package {PACKAGES[scheme]}: pip install -e '.[storage]'"
        )


def default_cache() -> Path:
    """Return the folder for files that can be made again: $TRIFORM_CACHE, else ~/.cache/triform.
    Raises `UsageError` if it is a URL."""
    folder = os.environ.get("TRIFORM_CACHE") or "~/.cache/triform"
    check_place("TRIFORM_CACHE=", folder, NONE, "give a folder")
    return Path(folder).expanduser().absolute()


def folder_in_cache(url: str, kind: str) -> Path:
    """Return the folder of this machine for what is at a URL. It has the same name.

    kind: what it is for, such as "workdirs".
    """
    url = url.rstrip("/")
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    return default_cache() / kind / key / url.rpartition("/")[2]
