"""Small encoder-decoders of every family: their settings, and folders with random weights."""

import json
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import save_file

from configs.data_spec import DataSpec
from configs.schema.model import EncoderDecoder
from interop.converting import to_tensors
from interop.families import FAMILIES
from tests.interop import folders

SIZES = DataSpec(vocabulary_size=19, max_source_length=10, max_length=14)

BLOCKS = {"width": 24, "depth": 2, "encoder_depth": 3, "num_heads": 4, "feed_forward_width": 40}
BART = {**BLOCKS, "norm": "layer_norm", "use_bias": True, "feed_forward": "relu"}
SETTINGS: dict[str, dict[str, Any]] = {
    "pegasus": {**BART, "positions": "sinusoidal"},
    "marian": {**BART, "positions": "sinusoidal", "norm_placement": "post"},
    "m2m_100": {**BART, "positions": "sinusoidal_fairseq"},
    "blenderbot": {**BART, "positions": "learned", "feed_forward": "gelu"},
    "t5gemma": BLOCKS,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SETTINGS},
    "t5gemma of grouped heads": ("t5gemma", {"num_kv_heads": 2, "head_dim": 8}),
    "t5gemma untied": ("t5gemma", {"tied_embeddings": False, "logit_soft_cap": 20.0}),
    "t5gemma of two tables": ("t5gemma", {"shared_embeddings": False, "norm_epsilon": 1e-6}),
    "pegasus as deep as its encoder": ("pegasus", {"encoder_depth": None, "depth": 3}),
}


def settings_of(variant: str, **changes: Any) -> dict[str, Any]:
    """The section `model` of a variant."""
    family, own = VARIANTS[variant]
    return EncoderDecoder(**{**SETTINGS[family], **own, **changes}).model_dump()


def draw(of_model: Any) -> Any:
    """Random parameters, each of which has a say."""

    def scaled(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        size = 0.5 if "kernel" in name else 0.2
        return (name.endswith("['scale']") + size * leaf).astype(leaf.dtype)

    return jax.tree.map_with_path(scaled, folders.draw(of_model))


def write_folder(
    folder: Path, family: str, settings: dict[str, Any], params: Any, sizes: DataSpec = SIZES
) -> None:
    """Write the model of these settings as a folder of the family."""
    config = FAMILIES[family].configure(settings, sizes, "target_tokens")
    tensors = to_tensors(family, params, scanned=settings["scan_layers"])
    save_file(dict(FAMILIES[family].finish(tensors, config)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def make_folder(folder: Path, variant: str, **changes: Any) -> tuple[Any, Any]:
    """Write a folder with random weights; return them, and the model that they are of."""
    settings = settings_of(variant, **changes)
    of_model = folders.template(settings, SIZES)
    params = draw(of_model)
    write_folder(folder, VARIANTS[variant][0], settings, params)
    return params, of_model
