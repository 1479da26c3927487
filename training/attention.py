"""Chooses the attention implementation of a run, and tests it on the devices before it is used."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from configs.errors import UsageError
from configs.schema.blocks import Stack
from configs.schema.config import Config
from model.layers.attend import NATIVE_ATTENTION, AttentionMask, attend, attention_limit
from model.layers.sharding import activation_sharding
from parallel.axes import Rules, activation_placement
from parallel.exchange import agree
from parallel.mesh import flat_mesh
from training.model_def import compute_dtype

MADE_FOR = {"cudnn": "NVIDIA GPUs", "splash": "TPUs"}

POSITIONS = 256
"""Length of the sequence on which an implementation is tested."""

TOLERANCE = 0.05
"""Largest allowed difference from XLA's gradients, relative to their largest absolute value.
(Rounding to bfloat16 alone has a relative error of up to 0.004.)"""


def working_attention(config: Config, mesh: Mesh, notify: Callable[[str], None]) -> str | None:
    """Return the attention implementation for a run on `mesh`, as an argument of `attend`.

    - A model without self-attention: None.
    - `model.attention` names an implementation: this one. Raises `UsageError` if it is not made for
      the devices, if the model is outside its limits, or if it fails the test.
    - `model.attention` is "auto": "auto" if the devices' own implementation (`NATIVE_ATTENTION`)
      passes the test. "xla" if the devices have none, if the model is outside its limits, or if it
      fails the test; `notify` gets a message about a failed test.
    """
    model = config.model
    if not isinstance(model, Stack) or not model.has_self_attention:
        return None
    setting, platform = model.attention, mesh.devices.flat[0].platform
    chosen = NATIVE_ATTENTION.get(platform, "xla") if setting == "auto" else setting
    if chosen in MADE_FOR and NATIVE_ATTENTION.get(platform) != chosen:
        raise UsageError(
            f"model.attention={setting} is made for {MADE_FOR[chosen]}, and the devices are "
            f"{platform}: use auto or xla"
        )
    dtype, head_dim = compute_dtype(config, mesh), model.head_dim or model.width // model.num_heads
    parts = np.prod([mesh.shape[axis] for axis in config.mesh.rules.length], dtype=int)
    # For images and audio, the length is not known yet: `attend` itself then avoids an
    # implementation that can't be used.
    length = getattr(config.data, "sequence_length", POSITIONS * int(parts))
    limit = attention_limit(chosen, dtype, head_dim=head_dim, length=length // int(parts))
    if limit and setting != "auto":
        raise UsageError(f"model.attention={setting} can't be: {limit}; use auto or xla")
    if limit or chosen == "xla":
        return "xla"
    reason = _failure(chosen, model, config.mesh.rules.model_dump(), mesh, dtype, head_dim)
    if not agree("attention", reason is not None, any):
        return setting
    reason = reason or "on another host"
    if setting != "auto":
        raise UsageError(f"model.attention={setting} fails here ({reason}): use auto or xla")
    notify(f"attention by {chosen} fails on these devices, XLA's is used instead: {reason}")
    return "xla"


def _failure(
    implementation: str, model: Stack, rules: Rules, mesh: Mesh, dtype: jnp.dtype, head_dim: int
) -> str | None:
    """Test an implementation with a small forward and backward pass on one local device. Return the
    error, or how its gradients differ from XLA's; None if it works."""
    window = model.attention_window and min(model.attention_window, POSITIONS // 2)
    group = model.num_heads // (model.num_kv_heads or model.num_heads)
    documents = jnp.arange(POSITIONS)[None] // (POSITIONS // 2) + 1
    device = flat_mesh([mesh.local_devices[0]])
    keys = jax.random.split(jax.device_put(jax.random.key(0), device.devices.flat[0]), 4)
    q, k, v, weights = (
        jax.random.normal(key, (1, POSITIONS, heads, head_dim), dtype)
        for key, heads in zip(keys, (2 * group, 2, 2, 2 * group), strict=True)
    )

    def gradients(implementation):
        def loss(q, k, v):
            plain, packed = (
                attend(
                    q,
                    k,
                    v,
                    AttentionMask(True, window, segments_BT=s),
                    implementation=implementation,
                )
                for s in (None, documents)
            )
            return jnp.sum((plain + packed).astype(jnp.float32) * weights)

        placement = activation_placement(device, rules)
        with activation_sharding(placement):
            results = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
        return [np.asarray(x, np.float32) for x in jax.tree.leaves(results)]

    try:
        results = gradients(implementation)
    except Exception as error:  # A compiler or a driver may raise anything.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    for name, one, other in zip(("q", "k", "v"), results[1:], gradients("xla")[1:], strict=True):
        worst = np.abs(one - other).max() / np.abs(other).max()
        if not worst <= TOLERANCE:
            return f"its gradient of {name} is off by {worst:.1%}"
    return None
