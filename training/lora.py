"""LoRA: trains only a low-rank update s A B of a trained matrix W (Hu et al. 2021,
arXiv:2106.09685, section 4.1).

The model's own parameters are frozen, except those in `train.lora.train_also`. The pairs A, B are
parameters too, but not of any layer: the tree `lora` has `a` and `b` under the name of each matrix.
When the model is bound to its arrays, W + s A B replaces W. So training, evaluation, generation and
export all use merged weights. For each matrix and step, this costs one product of matrix size and
its gradient. (Unmerged pairs would cost two thin products with the activations.)

A kernel of any number of dimensions is treated as a matrix by its logical axes (`sides_of`). The
window of a convolution belongs to the inputs. Other dimensions (scanned layers, gates of a
recurrence) are batch dimensions, with a pair for each matrix. A has the dimensions of W without its
columns, then the rank; B has the rank, then the dimensions of W without its rows. Each dimension is
sharded as in W.

Initial values: A is normal with standard deviation 1 / sqrt(inputs). B is zero, so that at step 0
the model computes the same as without pairs.
"""

import math
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from configs.errors import UsageError
from configs.schema.config import Config
from training.parameters import LORA, sides_of
from training.trees import Axes, LogicalAxes, Tree, flat, matching, nested


@dataclass(frozen=True)
class LoRA:
    """LoRA pairs of rank `rank`.

    matrices: the logical axes of each adapted matrix, by name.
    scale: the factor s of each product A B.
    """

    matrices: Mapping[str, LogicalAxes]
    rank: int
    scale: float

    def draw(self, params: Tree, key: jax.Array) -> Tree:
        """Draw the initial pairs for the model's parameters, in the dtypes of their matrices."""
        leaves, pairs = flat(params), {}
        for name, axes in self.matrices.items():
            kernel, (a_dims, b_dims) = leaves[name], _dimensions(axes)
            a_shape = (*(kernel.shape[i] for i in a_dims), self.rank)
            b_shape = (self.rank, *(kernel.shape[i] for i in b_dims))
            inputs = math.prod(kernel.shape[i] for i in set(a_dims) - set(b_dims))
            # The key depends only on the name, not on which other matrices are adapted.
            matrix_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            drawn = jax.random.normal(matrix_key, a_shape, jnp.float32) / inputs**0.5
            pairs[f"{name}.a"] = drawn.astype(kernel.dtype)
            pairs[f"{name}.b"] = jnp.zeros(b_shape, kernel.dtype)
        return nested(pairs)

    def merge(self, params: Tree) -> Tree:
        """Return the model's own parameters, with s A B added to each adapted matrix."""
        return merged(params, self.matrices, scale=self.scale)

    def axes(self) -> Tree:
        """Return the logical axes of each pair of LoRA matrices."""
        pairs = {}
        for name, axes in self.matrices.items():
            for letter, names in pair_axes(axes).items():
                pairs[f"{name}.{letter}"] = Axes(names)
        return nested(pairs)


def lora_of(config: Config, axes: Tree) -> LoRA | None:
    """Return the LoRA of `train.lora` for a model; None if `train.lora.rank` is not set.

    axes: the logical axes of the model's parameters.

    Raises `configs.UsageError` for a pattern that matches no parameter, or no matrix.
    """
    settings = config.train.lora
    if settings.rank is None:
        return None
    axes = flat(axes)
    matrices = {name: names for name, names in axes.items() if sides_of(names) is not None}
    adapted: set[str] = set()
    for pattern in settings.on:
        matched = matching(axes, pattern, "train.lora.on")
        if not matched & matrices.keys():
            raise UsageError(
                f"train.lora.on: {pattern!r} matches no matrix, but "
                f"{', '.join(sorted(matched)[:3])}"
            )
        adapted |= matched & matrices.keys()
    kept = {name: matrices[name] for name in matrices if name in adapted}
    return LoRA(kept, rank=settings.rank, scale=settings.alpha / settings.rank)


def merged(params: Tree, axes: Mapping[str, LogicalAxes], *, scale: float) -> Tree:
    """Return the model's own parameters, with scale * A B added to each matrix that has a pair.

    params: the model's parameters and the pairs.
    axes: the logical axes of the matrices, by name.

    The sums are float32, because bfloat16 would round a small change away.
    """
    leaves = flat({name: value for name, value in params.items() if name != LORA})
    pairs = flat(params.get(LORA))
    for name in axes:
        if f"{name}.a" in pairs:
            kernel, a, b = leaves[name], pairs[f"{name}.a"], pairs[f"{name}.b"]
            change = jnp.einsum(_product(axes[name]), a, b, preferred_element_type=jnp.float32)
            leaves[name] = kernel + scale * change
    return nested(leaves)


def pair_axes(axes: LogicalAxes) -> dict[str, LogicalAxes]:
    """Return the logical axes of the pair `a`, `b` for a matrix with these axes."""
    a_dims, b_dims = _dimensions(axes)
    return {"a": (*(axes[i] for i in a_dims), None), "b": (None, *(axes[i] for i in b_dims))}


def _dimensions(axes: LogicalAxes) -> tuple[list[int], list[int]]:
    """Return which dimensions of a matrix A has (all but the columns), and which B has (all but the
    rows)."""
    sides = sides_of(axes)
    assert sides is not None  # Only matrices are adapted.
    rows, columns = sides
    dims = range(len(axes))
    return [i for i in dims if i not in columns], [i for i in dims if i not in rows]


def _product(axes: LogicalAxes) -> str:
    """Return the `einsum` formula of the product A B, for example "abz,zacd->abcd"."""
    letters = string.ascii_letters[: len(axes)]
    a, b = ("".join(letters[i] for i in dims) for dims in _dimensions(axes))
    return f"{a}z,z{b}->{letters}"
