"""Convolutions by oneDNN, by matrix products or in parts, where these are faster on a CPU."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from parallel import bfloat16, onednn

MAX_WINDOW = 64
"""Largest window (8 x 8) for which products compute a convolution or its kernel gradient."""

MAX_PATCH_CHANNELS, MAX_PATCH_BYTES = 64, 2**25
"""Limits for a convolution by patches. With more input channels, XLA's convolution is faster. The
patches of a layer occupy memory from its forward pass to its backward pass."""


MAX_CONTRACTION, MAX_PARTS = 4096, 16
"""Limits for a kernel's gradient by XLA's convolution, which contracts batch and positions. Beyond
4096 terms it gets slow: 2.0 s for 64 pictures of 32 x 32 positions and 64 channels, in 16 parts of
the batch 0.2 s. More parts would take long to compile."""

FEWEST_PLACES = 64
"""The smallest number of output positions for which oneDNN computes a convolution in float32. With
fewer, or if lhs is dilated, XLA is faster: 18.8 and 29.3 ms for 64 pictures of 4 x 4 positions, 512
to 512 channels; 18.9 and 14.5 ms for 8 x 8, 256 to 256."""


@dataclass(frozen=True)
class Convolution:
    """Computes a convolution of channels-last arrays by oneDNN, by matrix products or in parts.

    For the products, lhs is sliced at all output positions, for each element of the window. These
    slices are the left operands.

    `specs`: the `dimension_numbers` of `lax.conv_general_dilated`. `strides`, `padding` and
    `dilation` (of rhs) have an entry for each spatial dimension, and so has `spacing` (the dilation
    of lhs), which only `by_onednn` takes.
    """

    specs: lax.ConvDimensionNumbers
    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]
    spacing: Sequence[int]

    def by_onednn(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        shape: Sequence[int],
        precision: lax.PrecisionLike = None,
    ) -> jax.Array:
        """Compute the convolution by oneDNN, with the precision `bfloat16.ROUNDED` of bfloat16
        arrays.

        `shape`: the shape of the result.
        """
        if precision == bfloat16.ROUNDED:
            lhs, rhs = (bfloat16.rounded(x).astype(jnp.bfloat16) for x in (lhs, rhs))
        padding = self.padding
        if any(factor > 1 for factor in self.spacing) or min(map(min, padding)) < 0:
            pads = [(0, 0, 0)] * lhs.ndim
            for d, (low, high), factor in zip(
                self.specs.lhs_spec[2:], padding, self.spacing, strict=True
            ):
                pads[d] = (low, high, factor - 1)
            lhs, padding = lax.pad(lhs, jnp.zeros((), lhs.dtype), pads), [(0, 0)] * len(padding)
        return onednn.convolution(
            lhs,
            rhs,
            shape,
            specs=self.specs,
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
        )

    def forward(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        shape: Sequence[int],
        precision: lax.PrecisionLike = None,
    ) -> jax.Array:
        """Compute the convolution as one product of patches and kernel.

        `shape`: the shape of the result. `precision`: that of the product.
        """
        out_features, in_features, *window = self.specs.rhs_spec
        positions = [shape[d] for d in self.specs.out_spec[2:]]
        sizes = [rhs.shape[d] for d in window]
        rows = self._rows(lhs, sizes, self.dilation, positions, self.strides)
        patches = lax.concatenate(rows, self.specs.lhs_spec[1])
        kernel = lax.transpose(rhs, (*window, in_features, out_features))
        kernel = kernel.reshape(-1, rhs.shape[out_features])
        dimensions = (((patches.ndim - 1,), (0,)), ((), ()))
        return lax.dot_general(patches, kernel, dimensions, precision=precision)

    def kernel_gradient(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        shape: Sequence[int],
        precision: lax.PrecisionLike = None,
    ) -> jax.Array:
        """Compute a convolution that has few output positions and a large window.

        The gradient of a kernel is such a convolution. It is computed as one product with the
        patches of the forward pass or, if they would be too large, as one product for each output
        position.

        `shape`: the shape of the result. `precision`: that of the products.
        """
        channels, features, *spatial = self.specs.lhs_spec
        _, in_features, *window = self.specs.rhs_spec
        sizes = [shape[d] for d in self.specs.out_spec]
        positions = [rhs.shape[d] for d in window]
        rows = self._rows(lhs, sizes[2:], self.strides, positions, self.dilation)
        if suits_patches(lhs.shape[channels], sizes[1], len(rows) * rows[0].size):
            rows = [lax.concatenate(rows, channels)]
        contracting = ((features, *spatial), (in_features, *window))
        dimensions = (contracting, ((), ()))
        products = [lax.dot_general(one, rhs, dimensions, precision=precision) for one in rows]
        found = jnp.concatenate(products).reshape(*sizes[2:], *sizes[:2])
        # [*places, channels, out features] -> [channels, out features, *places] -> out_spec
        order = [len(sizes) - 2, len(sizes) - 1, *range(len(sizes) - 2)]
        return lax.transpose(
            found, [order[self.specs.out_spec.index(d)] for d in range(len(order))]
        )

    def kernel_gradient_in_parts(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        shape: Sequence[int],
        precision: lax.PrecisionLike = None,
    ) -> jax.Array:
        """Compute the gradient of a kernel as a sum of XLA's convolutions of parts of the batch.

        `shape`: the shape of the result. `precision`: that of the convolutions.
        """
        del shape
        batch = self.specs.lhs_spec[1], self.specs.rhs_spec[1]  # the features of this convolution
        count = parts_of_gradient(rhs.shape, self.specs)
        parts = zip(jnp.split(lhs, count, batch[0]), jnp.split(rhs, count, batch[1]), strict=True)
        summands = (
            lax.conv_general_dilated(
                *part,
                self.strides,
                self.padding,
                rhs_dilation=self.dilation,
                dimension_numbers=self.specs,
                precision=precision,
            )
            for part in parts
        )
        return functools.reduce(operator.add, summands)

    def _rows(self, lhs, places, between_places, positions, between_positions) -> list[jax.Array]:
        pads = [(0, 0, 0)] * lhs.ndim
        for d, (low, high) in zip(self.specs.lhs_spec[2:], self.padding, strict=True):
            pads[d] = (low, high, 0)
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), pads)
        rows = []
        for place in itertools.product(*map(range, places)):
            start, step, limit = [0] * lhs.ndim, [1] * lhs.ndim, list(lhs.shape)
            for n, d in enumerate(self.specs.lhs_spec[2:]):
                start[d], step[d] = place[n] * between_places[n], between_positions[n]
                limit[d] = start[d] + (positions[n] - 1) * between_positions[n] + 1
            rows.append(lax.slice(lhs, start, limit, step))
        return rows


def convolution_method(
    lhs: Sequence[int],
    rhs: Sequence[int],
    result: Sequence[int],
    options: Mapping[str, Any],
    *,
    by_products: bool,
    by_onednn: bool,
    in_bfloat16: bool,
) -> Callable[..., jax.Array] | None:
    """Return the method of `Convolution` that computes a convolution faster than XLA; None if there
    is none.

    `lhs`, `rhs`, `result`: the shapes. `options`: the parameters of JAX's primitive. `by_products`:
    whether matrix products are faster than convolutions. `by_onednn`: whether oneDNN may compute
    it. `in_bfloat16`: whether oneDNN would compute it in bfloat16.
    """
    if options["feature_group_count"] * options["batch_group_count"] > 1:
        return None
    specs = options["dimension_numbers"]
    ours = Convolution(
        specs,
        options["window_strides"],
        options["padding"],
        options["rhs_dilation"],
        options["lhs_dilation"],
    )
    places = math.prod(result[d] for d in specs.out_spec[2:])
    is_spaced = any(factor > 1 for factor in ours.spacing)
    last = len(lhs) - 1
    is_channels_last = specs.lhs_spec == specs.out_spec == (0, last, *range(1, last))
    by_onednn &= is_channels_last and last in (2, 3, 4)
    by_onednn &= in_bfloat16 or (places >= FEWEST_PLACES and not is_spaced)
    if is_spaced:
        return ours.by_onednn if by_onednn else None
    window = math.prod(rhs[d] for d in specs.rhs_spec[2:])
    if places <= min(MAX_WINDOW, window):
        if by_products:
            return ours.kernel_gradient
        return ours.kernel_gradient_in_parts if parts_of_gradient(rhs, specs) > 1 else None
    channels = lhs[specs.lhs_spec[1]]
    size = lhs[specs.lhs_spec[0]] * places * window * channels
    if (
        by_products
        and window <= MAX_WINDOW
        and is_channels_last
        and suits_patches(channels, rhs[specs.rhs_spec[0]], size)
    ):
        return ours.forward
    return ours.by_onednn if by_onednn else None


def parts_of_gradient(rhs: Sequence[int], specs: lax.ConvDimensionNumbers) -> int:
    """Return into how many parts the batch is divided for the gradient of a kernel: as few as
    `MAX_CONTRACTION` demands, and at most `MAX_PARTS`.

    `rhs`, `specs`: the shape of the right operand and the layout of the gradient's convolution.
    """
    batch = rhs[specs.rhs_spec[1]]
    terms = math.prod(rhs[d] for d in specs.rhs_spec[1:])
    divisors = [n for n in range(1, min(batch, MAX_PARTS) + 1) if batch % n == 0]
    enough = [n for n in divisors if terms // n <= MAX_CONTRACTION]
    return enough[0] if enough else divisors[-1]


def suits_patches(channels: int, out_features: int, size: int) -> bool:
    """Return whether a convolution is faster as a product of patches.

    `channels`, `out_features`: the numbers of input and output channels.
    `size`: the number of elements of all patches.
    """
    return channels <= min(out_features, MAX_PATCH_CHANNELS) and 4 * size <= MAX_PATCH_BYTES
