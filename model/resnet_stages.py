"""The shapes of residual networks. Imports no JAX."""

from collections.abc import Sequence

STAGES = {
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""The number of blocks in each stage, for each depth."""

WITHOUT_BOTTLENECK = (18, 34)
"""The depths whose blocks have no bottleneck."""

EXPANSION = 4
"""Output channels of a bottleneck block, relative to those of its 3 x 3 convolution."""

SMALL_PICTURE = 64
"""With stem "auto", images of up to this many pixels a side get the "small" stem."""


def has_large_stem(stem: str, size: Sequence[int]) -> bool:
    """Return whether a network for images of `size`, (height, width), has the "large" stem."""
    return stem == "large" or (stem == "auto" and max(size) > SMALL_PICTURE)
