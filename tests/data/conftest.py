"""Corpora that the tests of data share."""

from pathlib import Path

import pytest

TEXT = "the quick brown fox jumps over the lazy dog and naïve café owners say 你好 😀"


def sentences(count: int, start: int = 0) -> str:
    """`count` different lines of text, of one to four bytes a character."""
    words = TEXT.split()
    lines = (
        " ".join(words[(number * step) % len(words)] for step in range(1, 3 + number % 7))
        + f" {number}.\n"
        for number in range(start, start + count)
    )
    return "".join(lines)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder of 30 text files of different lengths."""
    folder = tmp_path / "corpus"
    for number in range(30):
        path = folder / f"part{number % 3}" / f"document{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentences(1 + 3 * number, 100 * number), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> Path:
    """Recordings in a folder, and beside it tables: 24 for training and 6 for the test."""
    from tests.data.recordings import WORDS, record, write_table

    folder = tmp_path_factory.mktemp("sound")
    for split, start, stop in (("train", 0, 24), ("test", 24, 30)):
        paths = [record(folder / "sounds" / f"{n:02}", n) for n in range(start, stop)]
        rows = [
            {"path": f"sounds/{path.name}", "text": WORDS[n % 3], "label": WORDS[n % 3]}
            for n, path in enumerate(paths, start)
        ]
        write_table(folder / f"{split}.jsonl", rows)
    return folder
