"""Brings names to one Unicode form (NFC). An é may be one character, or an e and an accent."""

import unicodedata
from collections.abc import Iterable, Iterator


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", name)


def describe_joined_forms(names: Iterable[str], things: str) -> Iterator[str]:
    """Yield a warning if some of the names differ only in their Unicode form.

    things: the plural noun for what they name.
    """
    forms: dict[str, set[str]] = {}
    for name in names:
        forms.setdefault(nfc(name), set()).add(name)
    if several := sorted(name for name, all_forms in forms.items() if len(all_forms) > 1):
        more = f", and {len(several) - 3} more" if len(several) > 3 else ""
        listed = ", ".join(map(repr, several[:3]))
        yield f"{things} written in two forms of Unicode count as one: {listed}{more}"
