"""A prompt passes few files of ours on its way to the model, and a weight to its checkpoint."""

import pytest

from tests.docs.walks import measure

MOST_FILES = {"prompt": 12, "weight": 14}
"""The weight's walk has the files of its update too: optimizer, rounding, step. Not to grow."""


@pytest.mark.parametrize("name", MOST_FILES)
def test_a_walk_passes_few_files(name):
    walk = measure(name)
    assert 5 < len(walk) <= MOST_FILES[name], list(walk)
