"""Small models with every hyperparameter in sight."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import architectures

SMALL = {
    "width": 32,
    "depth": 2,
    "num_heads": 4,
    "num_kv_heads": None,
    "head_dim": None,
    "pattern": "A",
    "recurrence": "lstm",
    "convolution_size": 3,
    "attention_window": None,
    "attention": "auto",
    "positions": "rotary",
    "rotary_base": 10000.0,
    "norm": "rms_norm",
    "norm_placement": "pre",
    "norm_epsilon": 1e-5,
    "feed_forward": "swiglu",
    "feed_forward_width": None,
    "use_bias": False,
    "tied_embeddings": False,
    "pooling": "last",
    "logit_soft_cap": None,
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "remat": "none",
    "scan_layers": False,
    "vocabulary_size": 17,
    "max_length": 64,
    "dtype": jnp.float32,
    "param_dtype": jnp.float32,
}


def make_decoder(*, initialized: bool = False, **changes) -> nnx.Module:
    """A decoder of `SMALL` with some hyperparameters changed.

    Its parameters are drawn with a standard deviation of 0.3, scales around 1, so that every part
    of the model has a say in the logits; `initialized=True` gives the model's own initial values.
    """

    def build() -> nnx.Module:
        return architectures.build("decoder", rngs=nnx.Rngs(0), **{**SMALL, **changes})

    if initialized:
        graph, _ = nnx.split(nnx.eval_shape(build))
        return nnx.merge(graph, jax.jit(lambda: nnx.state(build()))())
    return drawn(build)


def drawn(build: Callable[[], nnx.Module]) -> nnx.Module:
    """The model that `build()` makes, its parameters drawn with a standard deviation of 0.3, those
    that are called scale around 1; other variables are as they are at first."""
    graph, parameters, rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    generator = np.random.default_rng(0)
    values = [
        (
            path,
            parameter.replace(
                jnp.asarray(
                    (path[-1] == "scale") + 0.3 * generator.normal(size=parameter.shape),
                    parameter.dtype,
                )
            ),
        )
        for path, parameter in nnx.to_flat_state(parameters)
    ]
    if jax.tree.leaves(rest):
        rest = jax.jit(lambda: nnx.state(build(), nnx.Not(nnx.Param)))()
    return nnx.merge(graph, nnx.from_flat_state(values), rest)


def logits_of(decoder: nnx.Module, tokens, segments=None, dropout_key=None) -> jax.Array:
    """The logits of whole sequences, jitted."""
    graph, parameters = nnx.split(decoder)
    return _logits(graph, parameters, tokens, segments, dropout_key)


@partial(jax.jit, static_argnums=0)
def _logits(graph, parameters, tokens, segments, dropout_key):
    logits, state = nnx.merge(graph, parameters)(
        tokens, segments_BT=segments, dropout_key=dropout_key
    )
    assert state is None
    return logits
