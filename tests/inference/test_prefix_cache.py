"""Kept states are found by the tokens before them, and take no more than they may."""

import numpy as np

from inference.engine.prefix_cache import ENTRY_BYTES, SHORTEST_PREFIX, PrefixCache

STATE = {"h": np.zeros(2, np.float32)}
SIZE = ENTRY_BYTES + 8


def test_the_longest_prefix_is_found_and_none_that_differs():
    cache, ids = PrefixCache(1 << 20), list(range(100))
    for length in (20, 60, 40):
        cache.add(ids[:length], {"h": np.full(2, length, np.float32)})
    cache.add([*ids[:79], 7], STATE)
    for given, length in ((ids, 60), (ids[:60], 60), (ids[:59], 40), ([*ids[:39], 0, 0], 20)):
        found, state = cache.longest(given)
        assert (found, state["h"][0]) == (length, length)
    assert cache.longest(ids[:19]) is None and cache.longest([5, *ids]) is None
    assert cache.wants(ids[:61]) and not cache.wants(ids[:60])
    assert not cache.wants(ids[: SHORTEST_PREFIX - 1])


def test_many_small_states_are_within_the_bytes_and_the_one_used_least_goes_first():
    cache = PrefixCache(3 * SIZE)
    prompts = [[number] * (1000 + number) for number in range(4)]
    for prompt in prompts[:3]:
        cache.add(prompt, STATE)
    assert cache.longest(prompts[0]) is not None
    cache.add(prompts[3], STATE)
    assert cache.bytes == 3 * SIZE
    kept = [cache.longest(prompt) is not None for prompt in prompts]
    assert kept == [True, False, True, True]


def test_what_prompts_share_is_told_from_the_length_at_which_it_is_kept():
    cache, ids = PrefixCache(1 << 20), list(range(100))
    assert cache.shared_length(ids) == 0
    assert cache.shared_length([*ids[:50], 0]) == 50
    assert cache.shared_length(ids[:70]) == 70
    assert cache.shared_length([*ids, 1, 2]) == 100
    assert cache.shared_length([*ids[: SHORTEST_PREFIX - 1], 0]) == 0
