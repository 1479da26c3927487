"""Finds the files of a pattern: a glob, or braces as in shard-{000..012}.tar."""

import fnmatch
import glob
import re
from collections.abc import Iterable, Sequence

from configs.errors import UsageError

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")


def is_pattern(path: str) -> bool:
    """Return whether `path` has wildcards, or braces that a shell would expand."""
    return glob.has_magic(path) or _BRACES.search(path) is not None


def matching(path: str) -> list[str]:
    """Return the paths that match a pattern; none if braces alone name nothing that is there.

    Raises UsageError if braces name files of which some are not there.
    """
    names = list(dict.fromkeys(_expanded(path)))
    found = [glob.glob(name, recursive=True) for name in names]
    missing = [name for name, there in zip(names, found, strict=True) if not there]
    if missing and len(missing) < len(names):
        raise UsageError(
            f"{path}: {missing[0]} is not there, one of {len(missing):,} of {len(names):,} names "
            "that the braces stand for"
        )
    return [one for there in found for one in there]


def split_pattern(path: str) -> tuple[str, str]:
    """Return the part of a pattern before the first folder or name with a wildcard or a brace, and
    the rest."""
    parts = path.split("/")
    fixed = next(n for n, part in enumerate(parts) if re.search(r"[*?\[{]", part))
    return "/".join(parts[:fixed]), "/".join(parts[fixed:])


def matching_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return those of `names`, paths relative to one place, that `matching` would find there."""
    patterns = [one.split("/") for one in _expanded(pattern)]
    return [name for name in names if any(_matches(name.split("/"), one) for one in patterns)]


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match the parts of a glob, as `glob.glob` matches them."""
    if not pattern or not name:
        return not pattern and not name
    first, *rest = pattern
    if first == "**":
        skipped = 0
        while skipped < len(name) and not name[skipped].startswith("."):
            skipped += 1
        # At the end of a pattern, it stands for at least one name.
        return any(_matches(name[n:], rest) if rest else n == len(name) for n in range(skipped + 1))
    if name[0].startswith(".") and not first.startswith("."):
        return False
    return fnmatch.fnmatchcase(name[0], first) and _matches(name[1:], rest)


def _expanded(path: str) -> list[str]:
    """Return the paths that a shell makes of `path`: {08..10} is 08, 09, 10, and {a,b} is a, b."""
    braces = _BRACES.search(path)
    if braces is None:
        return [path]
    first, last, words = braces.groups()
    if words is None:
        parts = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        parts = words.split(",")
    before, after = path[: braces.start()], path[braces.end() :]
    return [name for part in parts for name in _expanded(f"{before}{part}{after}")]
