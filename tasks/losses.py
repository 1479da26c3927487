"""Computes cross-entropy, of all logits at once or in chunks that save memory.

Axes: B batch, T length, D width, V vocabulary or classes, P positions of a chunk.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tasks.task import Sums

Tree = Any
Score = Callable[[jax.Array, Tree], Sums]

CHUNK_BYTES = 2**28
"""Default size of the logits that one device computes at once: 256 MiB."""


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    class_weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return for each target, in float32, the loss in nats and the objective to minimise.

    logits [..., V], targets int [...]. `label_smoothing` is the share of the target's probability
    that all V share (Szegedy et al. 2016, arXiv:1512.00567, section 7); `z_loss` times the squared
    logarithm of the softmax's denominator is added (Chowdhery et al. 2022, arXiv:2204.02311,
    section 5). `class_weights` [V] weight each class in the objective, and not in the loss. Without
    any of these the two are the same.
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
    """Return `correct` (bool) as float32, and NaN where the loss `nats` is not finite: NaN logits
    predict nothing."""
    return jnp.where(jnp.isfinite(nats), correct, jnp.nan).astype(jnp.float32)


@jax.custom_vjp
def _negative_log_likelihood(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -log softmax(logits)[targets]: [..., V], int [...] -> [...].

    The backward pass computes the gradient from the logits. It stores no softmax, and marks the
    targets by comparison, which needs no copy as a scatter does.
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
    """Return how many chunks keep [B, T, V] float32 logits on `devices` devices within
    `CHUNK_BYTES`: 1, or a power of two up to T."""
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
    """Return `score(head(x_BTD), rows)`, computed in `chunks` chunks of positions.

    `head` maps positions [B, P, D] to logits [B, P, V], `score` these to sums; the arrays of `rows`
    are [B, T]. Among the sums only `objective` has a gradient. It is computed with the value, chunk
    by chunk: logits are computed once, and those of two chunks are never in memory together.
    """
    if chunks == 1:
        return score(head(x_BTD), rows)
    x_NBPD, rows_NBP = jax.tree.map(lambda x: _cut(x, chunks), (x_BTD, rows))
    # The weights in the closure of the head become arguments, as they have a gradient too.
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
    """Reshape [B, T, ...] to [chunks, B, P, ...]. Chunk n has the positions n, n + chunks, ...: if
    devices share the length, each has its part of every chunk. Zeros pad the last positions."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunks)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunks, *x.shape[2:]), 2, 0)
