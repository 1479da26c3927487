"""A prompt passes few files of ours on its way to the model, a weight to its checkpoint, a text to
the loss, a flag to where it is used."""

import pytest

from tests.docs.walks import measure

MOST_FILES = {"prompt": 12, "weight": 14, "batch": 12, "flag": 9}
"""The weight's walk has the files of its update too: optimizer, rounding, step. The batch's has
those of preparation, and the flag's those on the stack when a codec is first made. Not to grow."""


@pytest.mark.parametrize("name", MOST_FILES)
def test_a_walk_passes_few_files(name):
    walk = measure(name)
    assert 5 < len(walk) <= MOST_FILES[name], list(walk)
