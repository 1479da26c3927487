"""Promises of patterns in paths: globs, and braces as a shell has them."""

import pytest

from configs.errors import UsageError
from configs.reading.patterns import is_pattern, matching


@pytest.fixture
def names(tmp_path):
    """Return a function that gives the names of the files that match, of ten that are there."""
    for number in range(5):
        for split in ("train", "test"):
            (tmp_path / f"{split}-{number:03}.tar").touch()
    return lambda pattern: [
        path.removeprefix(f"{tmp_path}/") for path in matching(f"{tmp_path}/{pattern}")
    ]


def test_braces_are_numbers_or_words(names):
    assert names("train-{000..002}.tar") == ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert names("t{rain,est}-00{3,4}.tar") == [
        "train-003.tar", "train-004.tar", "test-003.tar", "test-004.tar",
    ]  # fmt: skip
    assert names("{{train,test},train}-{001..001}.tar") == ["train-001.tar", "test-001.tar"]
    assert names("train-00{0..1}.tar") == ["train-000.tar", "train-001.tar"]
    assert sorted(names("{train,test}-*4.tar")) == ["test-004.tar", "train-004.tar"]


def test_names_in_braces_that_are_not_there_are_refused(names):
    assert names("none-{000..002}.tar") == names("*.gz") == []
    with pytest.raises(UsageError, match=r"train-005\.tar is not there, one of 2 of 4 names that "):
        names("train-{003..006}.tar")


def test_what_a_shell_does_not_expand_is_no_pattern():
    assert [is_pattern(path) for path in ("a{b}.txt", "{}", "a..b", "{a..b}")] == [False] * 4
    assert [is_pattern(path) for path in ("{a,b}", "{1..2}", "a*", "?", "[a]")] == [True] * 5
