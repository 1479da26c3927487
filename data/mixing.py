"""Chooses the source of each example of a mixture, as a function of the example's number alone.

Weights are rounded to millionths of their sum; within a period of a million examples each source
has exactly its share. A period consists of 1000 rounds of 1000 examples. A source with share w is
due 1000 w places per round. It owns floor(1000 w) places, spread evenly and the same in every
round. The few places left over change owners from round to round by systematic sampling (Madow and
Madow, 1944): the remainders of all sources are laid end to end and cut at equal steps. The start
moves on from round to round, by a step small enough that no source gets two of these places within
1000 examples. So any 1000 consecutive examples, wherever they begin, contain 1000 w of each source
to within one.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

ROUND = 1000
PERIOD = ROUND * ROUND


@dataclass(frozen=True)
class Schedule:
    """The sources of the examples of one period.

    sources: the source of each example. ranks: its number among the examples of that source.
    shares: the number of examples of each source.
    """

    sources: NDArray[np.int16]
    ranks: NDArray[np.int32]
    shares: NDArray[np.int64]

    def pick(self, examples: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Return the source of each of `examples`, and how many earlier examples are of that
        source."""
        period, place = np.divmod(examples, PERIOD)
        sources = self.sources[place]
        return sources, period * self.shares[sources] + self.ranks[place]


@functools.cache
def schedule(weights: tuple[float, ...]) -> Schedule:
    """Build the schedule for sources with `weights`, which are positive and may have any sum."""
    shares = millionths(weights)
    own, due = np.divmod(shares, ROUND)
    pattern = _spread([*own, due.sum() // ROUND])
    sources = np.tile(pattern, (ROUND, 1))
    (free,) = np.nonzero(pattern == len(shares))
    starts = np.arange(ROUND) * _stride(ROUND - due.max(initial=0)) % ROUND
    points = starts[:, None] + ROUND * np.arange(len(free))
    sources[:, free] = np.searchsorted(np.cumsum(due), points, side="right")
    sources = sources.ravel()
    ranks = np.empty(PERIOD, np.int32)
    for source in range(len(shares)):
        (places,) = np.nonzero(sources == source)
        ranks[places] = np.arange(len(places))
    return Schedule(sources, ranks, shares)


def millionths(weights: Sequence[float]) -> NDArray[np.int64]:
    """Round `weights` to integer shares that sum to a million, each off by less than one."""
    exact = [Fraction(weight) for weight in weights]
    exact = [PERIOD * weight / sum(exact) for weight in exact]
    shares = [math.floor(share) for share in exact]
    most_cut = sorted(range(len(exact)), key=lambda n: shares[n] - exact[n])
    for number in most_cut[: PERIOD - sum(shares)]:
        shares[number] += 1
    return np.array(shares, np.int64)


def _spread(counts: Sequence[int]) -> NDArray[np.int16]:
    """Return the numbers 0, 1, ..., with n occurring `counts[n]` times at nearly equal
    distances."""
    numbers = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return numbers[np.lexsort((numbers, places))]


def _stride(most: int) -> int:
    """Return a stride that visits all places of a round: near the golden section, at most
    `most`."""
    return next(n for n in range(min(most, 381), 0, -1) if math.gcd(n, ROUND) == 1)
