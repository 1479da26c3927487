"""Models of grey pictures there are models of colours that weight the three channels.

The pipelines of transformers turn every picture into one of three colours. So the first kernel of a
model of grey pictures is written for three channels, each with the share of its colour in the grey
value (ITU-R 601-2, as Pillow converts). A grey picture has three equal channels, for which the
kernel is the sum: that is how it is read again.

Axes of kernels: window, channels C, features F.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHARES = (0.299, 0.587)
"""Of red and green; the rest is that of blue."""

FIRST_KERNELS = ("patches.kernel", "stem.kernel", "downsamplings.0.kernel")
"""Our names of the kernels that read the channels of a picture, [..., C, F]."""


def in_colour(kernel: NDArray) -> NDArray:
    """Return a kernel [..., 3, F] for one of grey pictures, [..., 1, F]."""
    whole = kernel.astype(np.float32)
    red, green = ((share * whole).astype(kernel.dtype) for share in SHARES)
    blue = (whole - red - green).astype(kernel.dtype)
    return np.concatenate([red, green, blue], axis=-2)


def is_in_colour(name: str, found: Sequence[int], needed: Sequence[int]) -> bool:
    """Return whether a tensor reads three channels, and our kernel `name` one.

    found, needed: the shapes of the tensor and for the kernel: [features, channels, ...].
    """
    return (
        name in FIRST_KERNELS
        and tuple(found) == (needed[0], 3, *needed[2:])
        and tuple(needed[1:2]) == (1,)
    )


def in_grey(tensor: NDArray) -> NDArray:
    """Return a tensor [features, 1, ...] for grey pictures, given that of [features, 3, ...]."""
    return tensor.astype(np.float32).sum(axis=1, keepdims=True).astype(tensor.dtype)
