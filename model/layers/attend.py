"""Scaled dot-product attention, `attend`, and its implementations.

    |        | runs on                 | used for                       | limits            |
    |--------|-------------------------|--------------------------------|-------------------|
    | xla    | everywhere              | all cases, including decoding  | none              |
    | cudnn  | NVIDIA                  | whole sequences                | `attention_limit` |
    | splash | TPU; interpreted on CPU | whole sequences                | `attention_limit` |

"auto" chooses the implementation in `NATIVE_ATTENTION` for the platform of the mesh, or "xla" if
the limits exclude that implementation. The mesh comes from the open `activation_sharding` context;
without a context, "auto" chooses "xla".

Axes: B batch, T query positions, S key positions, N query heads, K key/value heads,
G query heads that share a key/value head (N = K · G), R = G · T, H head dimension.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from model.layers.numerics import Precision
from model.layers.sharding import Axes, placement, platform

NATIVE_ATTENTION = {"gpu": "cudnn", "tpu": "splash"}
"""The fastest implementation on each platform; other platforms use "xla"."""

SPLASH_BLOCKS = (512, 256, 128)
"""Block sizes of splash attention. The largest size that divides the length is used."""

QUERY_CHUNKS = 4
"""The number of chunks into which "xla" splits the queries of a causal sequence. Each chunk skips
the keys after it, which reduces the work to 5/8."""

SHORTEST_CHUNK = 32
"""The smallest number of queries in a chunk. Sequences that would have smaller chunks are not
split, nor are those of a symbolic length (`jax.export`)."""

QUERY = ("batch", "length", "kv_heads", None)
SOURCE = ("batch", None, "kv_heads", None)
"""Logical axis names of the queries, and of the keys and values, for cuDNN and splash. Query heads
are sharded like key/value heads, so that groups stay whole; the source length is not sharded."""

_watcher: ContextVar[Callable[[jax.Array], None] | None] = ContextVar("attention", default=None)


@contextmanager
def capture_attention(watcher: Callable[[jax.Array], None]) -> Iterator[None]:
    """Call `watcher` with the attention weights, float32 [B, N, T, S], of each `attend` call while
    this context is open. Attention is then computed by "xla".

    `watcher` is called during tracing, with tracers; to get their values, return them from the
    traced function. Scanned and rematerialised layers are traced separately and can't be captured.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@dataclass(frozen=True)
class AttentionMask:
    """The key positions that each query position may attend to.

    `causal` and `window`: see `visible`. There are two cases:

    - Self-attention: query t and key t are at the same position. With `segments_BT` (int32
      [B, T]), a query sees only the keys of its own segment.
    - Cross-attention: `source_mask_BS` (bool) is True at the keys of real source positions, False
      at padding.
    """

    causal: bool
    window: int | None
    segments_BT: jax.Array | None = None
    source_mask_BS: jax.Array | None = None


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: AttentionMask,
    *,
    implementation: str = "auto",
    precision: Precision = None,
) -> jax.Array:
    """Return scaled dot-product attention, [B, T, N, H].

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1. N may be a multiple of K: query head n reads
    key/value head n // (N/K) (Ainslie et al. 2023, arXiv:2305.13245); keys and values are not
    copied. Scores and softmax are float32.

    `implementation`: "auto", "xla", "cudnn" or "splash"; "xla" also computes the calls that "cudnn"
        and "splash" are not used for (table at the top of this file).
    `precision`: as in `Numerics`; "cudnn" computes in bfloat16 in any case.

    Results are equal up to rounding.
    """
    T = q_BTNH.shape[1]
    if (watcher := _watcher.get()) is not None:
        watcher(_weights(q_BTNH, k_BSKH, _mask(mask, T, k_BSKH.shape[1]), precision))
        implementation = "xla"
    if implementation == "auto":
        implementation = NATIVE_ATTENTION.get(platform() or "cpu", "xla")
        if attention_limit(
            implementation,
            q_BTNH.dtype,
            head_dim=q_BTNH.shape[3],
            length=_shape_on_a_device(q_BTNH)[1],
        ):
            implementation = "xla"
    # Splash can't shard the queries if the mask hides nothing (jax 0.10).
    splash_can = mask.causal or mask.window is not None or _shape_on_a_device(q_BTNH)[1] == T
    if implementation == "splash" and splash_can:
        return _splash(q_BTNH, k_BSKH, v_BSKH, mask)
    if implementation == "cudnn":
        return _cudnn(q_BTNH, k_BSKH, v_BSKH, mask)
    if _is_local(mask, q_BTNH, k_BSKH):
        return _attend_in_blocks(q_BTNH, k_BSKH, v_BSKH, mask, precision)
    mask_BTS = _mask(mask, T, k_BSKH.shape[1])
    rows = T // QUERY_CHUNKS
    is_whole = jax.export.is_symbolic_dim(T) or rows < SHORTEST_CHUNK
    if not mask.causal or is_whole or _shape_on_a_device(q_BTNH)[1] < T:
        return attend_by_xla(q_BTNH, k_BSKH, v_BSKH, mask_BTS, precision=precision)
    assert mask_BTS is not None
    # The queries of a chunk see no key after it.
    ends = [rows * (chunk + 1) for chunk in range(QUERY_CHUNKS - 1)] + [T]
    chunks = [
        attend_by_xla(
            q_BTNH[:, start:end],
            k_BSKH[:, :end],
            v_BSKH[:, :end],
            mask_BTS[:, start:end, :end],
            precision=precision,
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return jnp.concatenate(chunks, axis=1)


def attend_to_cache(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    mask_BTS: jax.Array,
    *,
    precision: Precision = None,
) -> jax.Array:
    """Return the attention of the next T positions of each row to a cache, [B, T, N, H].

    `mask_BTS` (bool) is True where a query may attend to a key. The cache has the layout in which
    matrix products read it, so nothing is transposed. The positions are the last dimension of the
    keys, because a CPU then needs a third less time.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    # One dimension for the groups and queries: XLA's CPU backend is slower with two.
    q_BKGTH = jnp.moveaxis((q_BTNH * H**-0.5).reshape(B, T, K, N // K, H), 1, 3)
    q_BKRH = q_BKGTH.reshape(B, K, -1, H)
    product = functools.partial(jnp.einsum, precision=precision)
    scores_BKRS = product("BKRH,BKHS->BKRS", q_BKRH, k_BKHS, preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKRS.reshape(B, K, N // K, T, -1)
    scores_BKGTS = _hide(scores_BKGTS, mask_BTS, jnp.finfo(jnp.float32).min)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1)
    if (watcher := _watcher.get()) is not None:
        watcher(weights_BKGTS.reshape(B, N, T, -1))
    weights_BKRS = weights_BKGTS.reshape(B, K, N // K * T, -1).astype(v_BKSH.dtype)
    y_BKGTH = product("BKRS,BKSH->BKRH", weights_BKRS, v_BKSH).reshape(q_BKGTH.shape)
    return jnp.moveaxis(y_BKGTH, 3, 1).reshape(q_BTNH.shape)


def attention_limit(
    implementation: str, dtype: DTypeLike, *, head_dim: int, length: int
) -> str | None:
    """Return a message with the reason why `implementation` can't compute whole sequences with
    `length` query positions on each device; None if it can."""
    if implementation == "cudnn":
        if dtype not in (jnp.bfloat16, jnp.float16):
            return f"it computes in bfloat16, not {jnp.dtype(dtype).name}"
        if head_dim % 8 or head_dim > 256:
            return f"it needs a head size of 8, 16, ... 256, not {head_dim}"
        if length % 2:
            return f"it needs an even number of positions, not {length}"
    if implementation == "splash" and length % SPLASH_BLOCKS[-1]:
        return f"it needs a multiple of {SPLASH_BLOCKS[-1]} positions on each device, not {length}"
    return None


def attend_by_xla(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array | None,
    *,
    precision: Precision = None,
) -> jax.Array:
    """Return attention, [B, T, N, H], computed with two matrix products.

    `mask_BTS` (bool; B may be 1) is True where a query may attend to a key; None: everywhere. A
    query that may attend to no key gets the mean of the values.
    """
    q_BTKGH = _grouped(q_BTNH, k_BSKH)
    return _softmax_mean(precision, q_BTKGH, k_BSKH, v_BSKH, mask_BTS).reshape(q_BTNH.shape)


def _is_local(mask: AttentionMask, q_BTNH: jax.Array, k_BSKH: jax.Array) -> bool:
    """Return whether a window hides so much of a causal sequence that `_attend_in_blocks` saves
    work."""
    T = q_BTNH.shape[1]
    if not mask.causal or mask.window is None or jax.export.is_symbolic_dim(T):
        return False
    whole = T == k_BSKH.shape[1] == _shape_on_a_device(q_BTNH)[1]
    return whole and 2 * _block_length(mask) < T


def _block_length(mask: AttentionMask) -> int:
    """Return the length of the blocks of `_attend_in_blocks`: the window, or `SHORTEST_CHUNK`."""
    assert mask.window is not None
    return max(mask.window, SHORTEST_CHUNK)


def _attend_in_blocks(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: AttentionMask,
    precision: Precision,
) -> jax.Array:
    """Return causal attention with a window, [B, T, N, H], in blocks as long as the window.

    The queries of a block see only keys of their own block and of the one before, so time and
    memory grow with T · window, not with T². W is the length of a block, M = ceil(T / W) the number
    of blocks; the blocks take the place of rows of the batch.
    """
    (B, T, N, H), W = q_BTNH.shape, _block_length(mask)
    M = -(-T // W)

    def blocks(x_BTx: jax.Array) -> jax.Array:
        padding = [(0, 0)] * x_BTx.ndim
        padding[1] = (0, M * W - T)
        return jnp.pad(x_BTx, padding).reshape(B, M, W, *x_BTx.shape[2:])

    def with_previous(x_BMWx: jax.Array) -> jax.Array:
        padding = [(0, 0)] * x_BMWx.ndim
        padding[1] = (1, 0)
        previous_BMWx = jnp.pad(x_BMWx[:, :-1], padding)
        return jnp.concatenate([previous_BMWx, x_BMWx], axis=2)

    query_1W, key_1S = jnp.arange(W, 2 * W)[None], jnp.arange(2 * W)[None]
    seen_1WS = visible(query_1W, key_1S, causal=True, window=mask.window)
    assert seen_1WS is not None
    real_MS = (jnp.arange(M)[:, None] > 0) | (key_1S >= W)  # Nothing is before the first block.
    seen_BMWS = jnp.broadcast_to(seen_1WS & real_MS[:, None], (B, M, W, 2 * W))
    if mask.segments_BT is not None:
        segments_BMW = blocks(mask.segments_BT)
        seen_BMWS &= segments_BMW[..., None] == with_previous(segments_BMW)[:, :, None]
    y_BTNH = attend_by_xla(
        blocks(q_BTNH).reshape(B * M, W, N, H),
        with_previous(blocks(k_BSKH)).reshape(B * M, 2 * W, *k_BSKH.shape[2:]),
        with_previous(blocks(v_BSKH)).reshape(B * M, 2 * W, *v_BSKH.shape[2:]),
        seen_BMWS.reshape(B * M, W, 2 * W),
        precision=precision,
    )
    return y_BTNH.reshape(B, M * W, N, H)[:, :T]


def _weights(
    q_BTNH: jax.Array, k_BSKH: jax.Array, mask_BTS: jax.Array | None, precision: Precision
) -> jax.Array:
    """Return the attention weights, float32 [B, N, T, S]."""
    (B, T, N, _), S = q_BTNH.shape, k_BSKH.shape[1]
    scores_BKGTS = _scores(precision, _grouped(q_BTNH, k_BSKH), k_BSKH, mask_BTS)
    return jax.nn.softmax(scores_BKGTS, axis=-1).reshape(B, N, T, S)


def _grouped(q_BTNH: jax.Array, k_BSKH: jax.Array) -> jax.Array:
    """Divide the queries by sqrt(H) and group them by key/value head: [B, T, K, G, H]."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    return (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)


def _scores(
    precision: Precision, q_BTKGH: jax.Array, k_BSKH: jax.Array, mask_BTS: jax.Array | None
) -> jax.Array:
    """Return queries times keys, float32 [B, K, G, T, S]; masked scores are the lowest float32."""
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS",
        q_BTKGH,
        k_BSKH,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return _hide(scores_BKGTS, mask_BTS, jnp.finfo(jnp.float32).min)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax_mean(
    precision: Precision,
    q_BTKGH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array | None,
) -> jax.Array:
    """Return the mean of the values, weighted by the softmax of the scores, [B, T, K, G, H].

    The softmax's denominator divides the result instead of each weight. The backward pass computes
    the softmax gradient's sum over the keys from the result (Dao et al. 2022, arXiv:2205.14135,
    appendix B.2). Both save passes over the scores, which are the largest arrays.
    """
    return _softmax_mean_forward(precision, q_BTKGH, k_BSKH, v_BSKH, mask_BTS)[0]


def _softmax_mean_forward(precision, q_BTKGH, k_BSKH, v_BSKH, mask_BTS):
    scores_BKGTS = _scores(precision, q_BTKGH, k_BSKH, mask_BTS)
    highest_BKGT = jnp.max(scores_BKGTS, axis=-1)
    weights_BKGTS = jnp.exp(scores_BKGTS - highest_BKGT[..., None])
    sum_BTKG = jnp.moveaxis(jnp.sum(weights_BKGTS, axis=-1), 3, 1)
    weights_BKGTS = weights_BKGTS.astype(v_BSKH.dtype)
    y_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH, precision=precision)
    y_BTKGH = (y_BTKGH / sum_BTKG[..., None]).astype(v_BSKH.dtype)
    return y_BTKGH, (q_BTKGH, k_BSKH, v_BSKH, mask_BTS, weights_BKGTS, sum_BTKG, y_BTKGH)


def _softmax_mean_backward(precision, residuals, gradient_BTKGH):
    product = functools.partial(jnp.einsum, precision=precision)
    q_BTKGH, k_BSKH, v_BSKH, mask_BTS, weights_BKGTS, sum_BTKG, y_BTKGH = residuals
    gradient_BTKGH = (gradient_BTKGH / sum_BTKG[..., None]).astype(v_BSKH.dtype)
    v_gradient_BSKH = product("BKGTS,BTKGH->BSKH", weights_BKGTS, gradient_BTKGH)
    weights_gradient_BKGTS = product(
        "BTKGH,BSKH->BKGTS", gradient_BTKGH, v_BSKH, preferred_element_type=jnp.float32
    )
    mean_BTKG = (gradient_BTKGH * y_BTKGH).astype(jnp.float32) @ jnp.ones(y_BTKGH.shape[-1])
    scores_gradient_BKGTS = weights_BKGTS * (
        weights_gradient_BKGTS - jnp.moveaxis(mean_BTKG, 1, 3)[..., None]
    )
    scores_gradient_BKGTS = _hide(scores_gradient_BKGTS, mask_BTS, 0).astype(q_BTKGH.dtype)
    q_gradient_BTKGH = product("BKGTS,BSKH->BTKGH", scores_gradient_BKGTS, k_BSKH)
    k_gradient_BSKH = product("BKGTS,BTKGH->BSKH", scores_gradient_BKGTS, q_BTKGH)
    return q_gradient_BTKGH, k_gradient_BSKH, v_gradient_BSKH, None


_softmax_mean.defvjp(_softmax_mean_forward, _softmax_mean_backward)


def _hide(scores_BKGTS: jax.Array, mask_BTS: jax.Array | None, value: ArrayLike) -> jax.Array:
    if mask_BTS is None:
        return scores_BKGTS
    return jnp.where(mask_BTS[:, None, None], scores_BKGTS, value)


def visible(
    target_BT: jax.Array, source_BS: jax.Array, *, causal: bool, window: int | None
) -> jax.Array | None:
    """Return a mask, bool [B, T, S], that is True where a query may attend to a key.

    target_BT, source_BS: the positions of queries and keys, int32; B may be 1.
    causal: whether a query may not attend to later positions.
    window: a query may attend only to positions less than this far away; None: to all.

    Returns None if everything is visible.
    """
    distance_BTS = target_BT[:, :, None] - source_BS[:, None, :]
    if window is not None:
        near_BTS = jnp.abs(distance_BTS) < window
        return near_BTS & (distance_BTS >= 0) if causal else near_BTS
    return distance_BTS >= 0 if causal else None


def _mask(mask: AttentionMask, T: int, S: int) -> jax.Array | None:
    """Return `mask` as one array, bool [B or 1, T, S]; None if everything is visible."""
    target_1T, source_1S = jnp.arange(T)[None], jnp.arange(S)[None]
    mask_BTS = visible(target_1T, source_1S, causal=mask.causal, window=mask.window)
    same_BTS = _same_segment(mask)
    if same_BTS is None:
        return mask_BTS
    return same_BTS if mask_BTS is None else mask_BTS & same_BTS


def _same_segment(mask: AttentionMask) -> jax.Array | None:
    segments_BT = mask.segments_BT
    if mask.source_mask_BS is not None:
        return mask.source_mask_BS[:, None, :]
    if segments_BT is None:
        return None
    return segments_BT[:, :, None] == segments_BT[:, None, :]


def _cudnn(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask
) -> jax.Array:
    """Compute attention with cuDNN's flash attention.

    cuDNN skips masked blocks only if it gets `is_causal` and a window instead of a mask array. This
    is possible for whole sequences; with a window, only if `causal` and without segments.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    causal, window = mask.causal, mask.window
    by_position = _shape_on_a_device(q_BTNH)[1] == T
    if window is not None:
        by_position &= causal and mask.segments_BT is None
    mask_BTS = _same_segment(mask) if by_position else _mask(mask, T, S)

    def kernel(q_BTNH, k_BSKH, v_BSKH, *mask_BTS):
        return jax.nn.dot_product_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            mask=mask_BTS[0][:, None] if mask_BTS else None,
            is_causal=by_position and causal,
            local_window_size=(window - 1, 0) if by_position and window is not None else None,
            implementation="cudnn",
        )

    arrays: list[tuple[jax.Array, Axes]] = [(q_BTNH, QUERY), (k_BSKH, SOURCE), (v_BSKH, SOURCE)]
    if mask_BTS is not None:
        arrays.append((mask_BTS, ("batch", "length", None)))
    return _on_each_device(kernel, arrays)


def _splash(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask
) -> jax.Array:
    """Compute attention with the splash attention of `jax.experimental.pallas.ops.tpu`."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    T, S, H = q_BTNH.shape[1], k_BSKH.shape[1], q_BTNH.shape[3]
    _, rows, heads, _ = _shape_on_a_device(q_BTNH)
    block = next(size for size in SPLASH_BLOCKS if rows % size == 0)
    parts = ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    blocks: dict[str, Any] = {f"block_{part}": block for part in parts}
    hidden: splash.Mask
    if mask.window is not None:
        far = mask.window - 1
        hidden = splash.LocalMask((T, S), (far, 0 if mask.causal else far), offset=0)
    else:
        hidden = splash.CausalMask((T, S)) if mask.causal else splash.FullMask((T, S))
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([hidden] * heads),  # The same on all devices.
        block_sizes=splash.BlockSizes(**blocks),
        head_shards=1,
        q_seq_shards=T // rows,
        interpret=platform() != "tpu",
    )

    def each_row(kernel, q_BTNH, k_BSKH, v_BSKH, *segments):
        by_head = [jnp.swapaxes(x, 1, 2) for x in (q_BTNH * H**-0.5, k_BSKH, v_BSKH)]
        rows = [splash.SegmentIds(*segments)] if segments else []
        return jnp.swapaxes(jax.vmap(kernel)(*by_head, *rows), 1, 2)

    arrays: list[tuple[jax.Array, Axes]] = [(q_BTNH, QUERY), (k_BSKH, SOURCE), (v_BSKH, SOURCE)]
    if mask.segments_BT is not None:
        arrays += [(mask.segments_BT, QUERY[:2]), (mask.segments_BT, SOURCE[:2])]
    return _on_each_device(each_row, arrays, kernel)


def _shape_on_a_device(q_BTNH: jax.Array) -> tuple[int, ...]:
    sharding = placement(QUERY, q_BTNH.shape)
    return q_BTNH.shape if sharding is None else sharding.shard_shape(q_BTNH.shape)


def _on_each_device(
    function: Callable[..., jax.Array],
    arrays: list[tuple[jax.Array, Axes]],
    splash_kernel: Any = None,
) -> jax.Array:
    """Call `function` on each device with the device's shards of `arrays`.

    `arrays`: pairs of an array and its axis names. The first array contains the queries; the result
    has their sharding. `splash_kernel`, if given, is sharded too and passed before the arrays.
    """
    values = [array for array, _ in arrays]
    shardings = [placement(axes, array.shape) for array, axes in arrays]
    specs = [sharding and sharding.spec for sharding in shardings]
    if splash_kernel is not None:
        values.insert(0, splash_kernel)
    queries = shardings[0]
    if queries is None:
        return function(*values)
    if splash_kernel is not None:
        by_length = PartitionSpec(None, (*queries.spec, None, None)[1])
        blocks = NamedSharding(queries.mesh, by_length)
        specs.insert(0, splash_kernel.manual_sharding_spec(blocks))
    return jax.shard_map(
        function, mesh=queries.mesh, in_specs=tuple(specs), out_specs=queries.spec, check_vma=False
    )(*values)
