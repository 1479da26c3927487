"""The states of mixers and models, and the selection of their rows in a beam search.

Axes: B groups of rows, J rows of a group before the selection, K after it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from model.layers.sharding import Axes

State = dict[str, jax.Array]
"""The state of a mixer after some positions of each row: a key/value cache, the last inputs of a
convolution, or the hidden state of a recurrence. Rows are the first dimension of each array."""

StateAxes = dict[str, Axes]
"""The logical axes of each array of a mixer's state; "batch" is the dimension of the rows."""

ModelState = dict[str, Any]
"""The state of a model after some tokens of each row: the states of its mixers or layers, and in
most models the number of tokens."""

Memory = dict[str, Any]
"""The encoded source of an encoder-decoder, as returned by its `encode` and read by its decoder."""


def select_rows(tree: Any, chosen_BK: jax.Array, *, axis: int = 0) -> Any:
    """Select K of the J rows of each of B groups, in each array of a tree.

    The arrays have B * J rows along `axis`, and the results B * K. Row k of group b in the result
    is row chosen_BK[b, k] (int32, below J) of group b. If each device has whole groups, no data
    moves between devices.
    """
    B, K = chosen_BK.shape

    def select(x: jax.Array) -> jax.Array:
        grouped = x.reshape(*x.shape[:axis], B, -1, *x.shape[axis + 1 :])
        take = jax.vmap(lambda rows, chosen: jnp.take(rows, chosen, axis=axis), (axis, 0), axis)
        selected = take(grouped, chosen_BK)
        return selected.reshape(*x.shape[:axis], B * K, *x.shape[axis + 1 :])

    return jax.tree.map(select, tree)
