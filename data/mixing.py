"""Chooses the source of each example of a mixture, as a function of its number alone.

Weights are rounded to millionths of their sum, and a million examples are a period in which each
source has exactly its share. A period is a thousand rounds of a thousand examples. With 1000 w
the due of a source in a round, floor(1000 w) places of every round are its own, spread evenly and
the same in each. The few places left over change hands from round to round by systematic sampling
(Madow and Madow, 1944): laid end to end, what is still due to each source is cut at equal steps,
from a start that moves on by less than keeps any source from two of a thousand in a row. So any
1000 examples one after the other, wherever they begin, hold 1000 w of each source to within one.
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
    """sources, ranks: of each example of a period its source, and its place among that source's.

    shares: examples of each source in a period.
    """

    sources: NDArray[np.int16]
    ranks: NDArray[np.int32]
    shares: NDArray[np.int64]

    def pick(self, examples: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Return the source of each of `examples`, and how many of that source came before."""
        period, place = np.divmod(examples, PERIOD)
        sources = self.sources[place]
        return sources, period * self.shares[sources] + self.ranks[place]


@functools.cache
def schedule(weights: tuple[float, ...]) -> Schedule:
    """Return the schedule of sources with `weights`, positive numbers of any sum."""
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
    """Return the shares of `weights` that sum up to a million, each less than one from the exact
    share."""
    exact = [Fraction(weight) for weight in weights]
    exact = [PERIOD * weight / sum(exact) for weight in exact]
    shares = [math.floor(share) for share in exact]
    most_cut = sorted(range(len(exact)), key=lambda n: shares[n] - exact[n])
    for number in most_cut[: PERIOD - sum(shares)]:
        shares[number] += 1
    return np.array(shares, np.int64)


def _spread(counts: Sequence[int]) -> NDArray[np.int16]:
    """Return the numbers from 0, the n-th `counts[n]` times, each at equal distances as far as they
    go."""
    numbers = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return numbers[np.lexsort((numbers, places))]


def _stride(most: int) -> int:
    """Return a stride through all places of a round, no more than `most`: near the golden
    section's."""
    return next(n for n in range(min(most, 381), 0, -1) if math.gcd(n, ROUND) == 1)
