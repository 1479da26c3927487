"""Trained models to export: small decoders with parameters drawn at random."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from configs.data_spec import DataSpec
from configs.reading.validation import build_config
from data.codecs.tokenizers import Tokenizer
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from training.model_def import build_model_def
from training.restore import Restored

TEXT = "".join(
    f"{n} times {n % 7} is {n * (n % 7)}, or isn't it?\n\tIt's naïve.\n" for n in range(60)
)

SMALL = {
    "model.width": "32",
    "model.depth": "2",
    "model.num_heads": "4",
    "data.sequence_length": "48",
    "precision.compute_dtype": "float32",
}


LIKE_LLAMA = {
    "plain": {},
    "tied": {"model__tied_embeddings": "true"},
    "scanned, with biases": {"model__scan_layers": "true", "model__use_bias": "true"},
    "grouped, with large heads": {"model__num_kv_heads": "2", "model__head_dim": "16"},
    "stretched": {"model__rotary_scaling": "4,1,4,16", "model__rotary_base": "500"},
    "qwen2": {"model__qkv_bias": "true", "model__num_kv_heads": "2"},
    "qwen3": {"model__qk_norm": "true", "model__scan_layers": "true", "model__head_dim": "16"},
}
"""Overrides of the decoders that llama.cpp can run."""


def byte_pairs() -> Tokenizer:
    return Tokenizer.train_bpe(TEXT.splitlines(), 320)


def decoder(
    folder: Path, tokenizer: Tokenizer | None = None, *, dtype: str | None = None, **changes: str
) -> Source:
    """A decoder that was trained for 7 steps. changes: overrides of its recipe, with `__` for a
    dot in their names."""
    tokenizer = tokenizer or byte_pairs()
    overrides = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    recipe = base.language_modeling(source="python_stdlib", tokenizer="bpe")
    config = build_config(recipe.to_dict(), overrides, "a test")
    sizes = DataSpec(vocabulary_size=tokenizer.vocabulary_size, max_length=48)
    model_def = build_model_def(config, sizes, flat_mesh(jax.devices()[:1]))
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray((leaf.ndim == 1) + draw.normal(0, 0.3, leaf.shape), leaf.dtype),
        model_def.abstract_params,
    )
    manifest = {
        "step": 7,
        "data": sizes.to_manifest(),
        "metrics": {"loss": 1.5},
        "config": config.model_dump(mode="json"),
    }
    tokenizer.save(folder / "tokenizer.json")
    restored = Restored(7, manifest, model_def, params, {})
    return Source(restored, folder / "tokenizer.json", dtype, "python export.py")


def next_logits(source: Source) -> Callable[[Sequence[int]], np.ndarray]:
    """A function from the ids of a text to the logits of its next token, float32 [tokens]."""
    restored = source.restored
    model_def, length = restored.model_def, restored.model_def.data_spec.require("max_length")
    logits = jax.jit(lambda params, ids: model_def.bind(params, {})(ids)[0])

    def of(ids: Sequence[int]) -> np.ndarray:
        padded = np.zeros((1, length), np.int32)  # A token does not see what comes after it.
        padded[0, : len(ids)] = ids
        return np.asarray(logits(restored.params, padded))[0, len(ids) - 1]

    return of
