"""Rows of what a model keeps of each example: the candidates of a search come, stay and go.

Axes: B groups of rows, J rows of a group before, K after.
"""

from typing import Any

import jax
import jax.numpy as jnp


def select_rows(kept: Any, chosen_BK: jax.Array, *, axis: int = 0) -> Any:
    """A tree of arrays whose B * J rows along `axis` come in B groups, as one of B * K rows: row k
    of group b is what row chosen_BK[b, k] (int32, below J) of that group was.

    No row leaves its group: where groups lie on several devices, nothing moves between them.
    """
    B, K = chosen_BK.shape

    def select(x: jax.Array) -> jax.Array:
        grouped = x.reshape(*x.shape[:axis], B, -1, *x.shape[axis + 1 :])
        found = jax.vmap(lambda rows, chosen: jnp.take(rows, chosen, axis=axis), (axis, 0), axis)(
            grouped, chosen_BK
        )
        return found.reshape(*x.shape[:axis], B * K, *x.shape[axis + 1 :])

    return jax.tree.map(select, kept)
