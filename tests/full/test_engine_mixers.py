"""The engine's promises hold for every mixer."""

import pytest

from tests.inference.test_engine import (
    MIXERS,
    SOME_MIXERS,
    build,
    check_mixed_requests,
    check_prefixes,
)
from tests.inference.test_speculation import check_speculation

OTHERS = [kind for kind in MIXERS if kind not in SOME_MIXERS]


@pytest.fixture(scope="module", params=OTHERS)
def model(request):
    return build(MIXERS[request.param])


def test_mixed_requests_that_arrive_at_random_give_what_each_gives_alone(model):
    check_mixed_requests(model)


def test_speculation_changes_nothing(model):
    check_speculation(model)


@pytest.mark.parametrize("kind", MIXERS)
def test_kept_prefixes_change_nothing(kind):
    check_prefixes(build(MIXERS[kind]))
