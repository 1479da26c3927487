"""The small decoders of `tests.model.decoders`, as fixtures."""

import pytest

from tests.model import decoders


@pytest.fixture(scope="session")
def make_decoder():
    return decoders.make_decoder


@pytest.fixture(scope="session")
def logits_of():
    return decoders.logits_of
