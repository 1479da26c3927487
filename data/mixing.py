"""Chooses the source of each example of a mixture. The choice depends only on the example's number.

Weights are rounded to millionths of their sum. In each period of a million examples, every source
has exactly its share. A period consists of 1000 rounds of 1000 examples. In each round, a source
with share w has floor(1000 w) fixed places, spread evenly and the same in every round. The few
other places are assigned by systematic sampling (Madow and Madow, 1944): the fractional parts of
1000 w are laid end to end on a line, and points at equal distances on the line select the sources.
The first point moves from round to round, in steps so small that no source gets two of these places
within 1000 examples. So any 1000 consecutive examples contain 1000 w of each source, to within one.
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
    """The sources of the `PERIOD` examples of one period.

    sources: index of the source of each example, int16 [PERIOD].
    ranks: how many earlier examples of the period come from the same source, int32 [PERIOD].
    shares: number of examples of each source in the period, int64 [sources].
    """

    sources: NDArray[np.int16]
    ranks: NDArray[np.int32]
    shares: NDArray[np.int64]

    def pick(self, examples: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Return the source of each example, and the number of earlier examples from that source.

        examples: example numbers in the training stream, from 0.
        """
        period, place = np.divmod(examples, PERIOD)
        sources = self.sources[place]
        return sources, period * self.shares[sources] + self.ranks[place]


@functools.cache
def schedule(weights: tuple[float, ...]) -> Schedule:
    """Build the schedule for sources with the given weights, positive numbers of any sum."""
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
    """Scale `weights` to a sum of a million and round them to integers with the same sum."""
    exact = [Fraction(weight) for weight in weights]
    exact = [PERIOD * weight / sum(exact) for weight in exact]
    shares = [math.floor(share) for share in exact]
    most_cut = sorted(range(len(exact)), key=lambda n: shares[n] - exact[n])
    for number in most_cut[: PERIOD - sum(shares)]:
        shares[number] += 1
    return np.array(shares, np.int64)


def _spread(counts: Sequence[int]) -> NDArray[np.int16]:
    """Return a sequence in which n occurs `counts[n]` times, at nearly equal distances."""
    numbers = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return numbers[np.lexsort((numbers, places))]


def _stride(most: int) -> int:
    """Return a step, at most `most`, that visits all places of a round (coprime to its length).

    Steps near the golden section of the round are preferred.
    """
    return next(n for n in range(min(most, 381), 0, -1) if math.gcd(n, ROUND) == 1)
