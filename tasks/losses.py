"""Compute cross-entropy, for all logits at once or in chunks that save memory.

Axes: B batch, T length, D width, V vocabulary or classes, P positions of a chunk, N chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tasks.task import Sums

Tree = Any
Score = Callable[[jax.Array, Tree], Sums]

CHUNK_BYTES = 2**28
"""The largest size of the logits that one device computes at once by default: 256 MiB."""


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    class_weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the loss in nats and the objective to minimise for each target, float32 [...].

    logits [..., V], targets int [...]. Three options change the objective but not the loss:

    - `label_smoothing`: the probability that is spread evenly over all V classes (Szegedy et al.
      2016, arXiv:1512.00567, section 7).
    - `z_loss`: the factor of an added term, the squared logarithm of the softmax's denominator
      (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    - `class_weights` [V]: factors of the loss terms of each class.
    """
    logits = logits.astype(jnp.float32)
    nats = _negative_log_likelihood(logits, targets)
    objective = nats if class_weights is None else class_weights[targets] * nats
    if label_smoothing or z_loss:
        normalizer = jax.nn.logsumexp(logits, axis=-1)
    if label_smoothing:
        uniform = normalizer - jnp.mean(logits, axis=-1)
        if class_weights is not None:
            uniform = jnp.mean(class_weights * (normalizer[..., None] - logits), axis=-1)
        objective = (1 - label_smoothing) * objective + label_smoothing * uniform
    if z_loss:
        objective = objective + z_loss * normalizer**2
    return nats, objective


def nan_unless_finite(correct: jax.Array, nats: jax.Array) -> jax.Array:
    """Return `correct` (bool) as float32, but NaN for each target whose loss `nats` is not finite.

    NaN logits are not a prediction, so they are neither correct nor wrong.
    """
    return jnp.where(jnp.isfinite(nats), correct, jnp.nan).astype(jnp.float32)


@jax.custom_vjp
def _negative_log_likelihood(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -log softmax(logits)[targets]: [..., V], int [...] -> [...].

    The backward pass recomputes the softmax from the logits instead of storing it. To
    subtract 1 at each target, it compares the indices with the target, because a scatter would need
    a copy.
    """
    return _likelihood_forward(logits, targets)[0]


def _likelihood_forward(logits, targets):
    largest = jnp.max(logits, axis=-1, keepdims=True)
    normalizer = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True))
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1) - largest
    return (normalizer - picked)[..., 0], (logits, targets, largest + normalizer)


def _likelihood_backward(residuals, cotangent):
    logits, targets, normalizer = residuals
    hits = jnp.arange(logits.shape[-1]) == targets[..., None]
    return cotangent[..., None] * (jnp.exp(logits - normalizer) - hits), None


_negative_log_likelihood.defvjp(_likelihood_forward, _likelihood_backward)


def chunk_count(logits_shape: tuple[int, int, int], *, devices: int) -> int:
    """Return the number of chunks of positions with which the logits of a chunk, on one device, fit
    into `CHUNK_BYTES`.

    `logits_shape` is [B, T, V] on all `devices` together; logits are float32. The result is a
    power of two: 1 if all logits fit, and at most T.
    """
    B, T, V = logits_shape
    chunks = 1
    while CHUNK_BYTES * devices * chunks < 4 * B * T * V and 2 * chunks <= T:
        chunks *= 2
    return chunks


def sums_over_positions(
    score: Score,
    head: Callable[[jax.Array], jax.Array],
    x_BTD: jax.Array,
    rows: Tree,
    *,
    chunks: int,
) -> Sums:
    """Compute `score(head(x_BTD), rows)` in `chunks` chunks of positions, to save memory.

    `head` maps activations [B, P, D] to logits [B, P, V]. `rows` is a tree of arrays [B, T].
    `score` maps logits and rows to a dictionary of sums. With several chunks, only the entry with
    the key `objective` has a gradient. The forward pass computes this gradient together with the
    sums of each chunk. So each logit is computed once, and only the logits of one chunk are in
    memory at a time.
    """
    if chunks == 1:
        return score(head(x_BTD), rows)
    x_NBPD, rows_NBP = jax.tree.map(lambda x: _cut(x, chunks), (x_BTD, rows))
    # Turn the head's weights, held by its closure, into arguments: they need a gradient too.
    head, weights = jax.closure_convert(head, x_NBPD[0])

    dtypes = jax.tree.map(lambda leaf: leaf.dtype, (weights, x_NBPD))

    def value(weights: list[jax.Array], x_BPD: jax.Array, rows_BP: Tree) -> tuple[jax.Array, Sums]:
        sums = score(head(x_BPD, *weights), rows_BP)
        return sums.get("objective", jnp.float32(0)), sums

    first = jax.tree.map(lambda leaf: leaf[0], (x_NBPD, rows_NBP))
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(value, weights, *first)[1])

    @jax.custom_vjp
    def total(weights: list[jax.Array], x_NBPD: jax.Array) -> Sums:
        def step(sums, chunk):
            _, more = value(weights, *chunk)
            return jax.tree.map(jnp.add, sums, more), None

        return jax.lax.scan(step, zeros, (x_NBPD, rows_NBP))[0]

    def forward(weights, x_NBPD):
        def step(carry, chunk):
            (_, sums), gradients = jax.value_and_grad(value, (0, 1), has_aux=True)(weights, *chunk)
            return jax.tree.map(jnp.add, carry, (sums, gradients[0])), gradients[1]

        start = (zeros, [jnp.zeros(weight.shape, jnp.float32) for weight in weights])
        (sums, of_weights), of_x_NBPD = jax.lax.scan(step, start, (x_NBPD, rows_NBP))
        return sums, (of_weights, of_x_NBPD)

    def backward(gradients, cotangents):
        return jax.tree.map(
            lambda gradient, dtype: (cotangents["objective"] * gradient).astype(dtype),
            gradients,
            dtypes,
        )

    total.defvjp(forward, backward)
    return total(weights, x_NBPD)


def _cut(x: jax.Array, chunks: int) -> jax.Array:
    """Reshape [B, T, ...] to [chunks, B, P, ...], padding T with zeros at the end.

    Chunk n has the positions n, n + chunks, ... If the length is sharded over devices, each device
    then has a part of every chunk.
    """
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunks)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunks, *x.shape[2:]), 2, 0)
