"""The suffixes of compressed files and of tar archives."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The suffixes that a compressed file may have after its own."""

_SHORT = (".tgz", ".tbz2", ".txz", ".tzst")  # of compressed tar archives


def compressible(*suffixes: str) -> tuple[str, ...]:
    """Return `suffixes`, and each of them followed by each of `COMPRESSED`."""
    return tuple(suffix + end for suffix in suffixes for end in ("", *COMPRESSED))


ARCHIVES = (*compressible(".tar"), *_SHORT)
"""The suffixes of tar archives, in lower case."""


def without_compression(name: str) -> str:
    """Return the name of a file as it was before it was compressed: of a.txt.gz this is a.txt, and
    of a.tgz it is a.tar."""
    lower = name.lower()
    if end := next(filter(lower.endswith, COMPRESSED), ""):
        return name[: -len(end)]
    short = next(filter(lower.endswith, _SHORT), "")
    return f"{name[: -len(short)]}.tar" if short else name
