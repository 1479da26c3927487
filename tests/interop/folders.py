"""Small folders of every family, written by hand: config.json, and our own parameters by their
names."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from configs.data_spec import DataSpec
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from interop.converting import to_tensors
from interop.families import describe
from training.model_def import ModelGraph, make_model_graph

GPT2 = {
    "model_type": "gpt2",
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 16,
    "vocab_size": 19,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": 19,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "vocab_size": 19,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 5}
MINISTRAL = MISTRAL | {"model_type": "ministral"}
QWEN2 = LLAMA | {"model_type": "qwen2"}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 8}
EUROBERT = LLAMA | {"model_type": "eurobert"}
SIGLIP = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "image_size": 8,
        "patch_size": 4,
    },
}
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "embedding_size": 4,
    "hidden_sizes": [4, 8, 16, 32],
    "image_size": 32,
    "num_channels": 3,
}
CONVNEXT = {
    "model_type": "convnext",
    "num_stages": 2,
    "depths": [1, 2],
    "hidden_sizes": [4, 8],
    "patch_size": 2,
    "image_size": 8,
    "num_channels": 3,
}
FAMILIES = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "ministral": MINISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "bert": BERT,
    "eurobert": EUROBERT,
    "vit": VIT,
    "siglip": SIGLIP,
    "resnet": RESNET,
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT | {"model_type": "convnextv2"},
}
STACKS = ("llama", "mistral", "qwen3", "gpt2", "bert", "eurobert", "vit", "siglip")
"""Families whose models above are stacks of equal blocks."""

PICTURES = ("vit", "siglip", "resnet", "convnext", "convnextv2")

Tensors = dict[str, np.ndarray]


def write_config(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    """A folder with this config.json, and one tensor that no family knows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


def make_folder(folder: Path, family: str, **changes: Any) -> tuple[Path, Any]:
    """A folder of a family, and our parameters that are in it, drawn at random. `num_classes`
    among the changes: it tells so many classes apart."""
    num_classes = changes.pop("num_classes", 5 if family in PICTURES else None)
    write_config(folder, FAMILIES[family], **changes)
    if num_classes is not None:
        head = "classifier.1.weight" if family == "resnet" else "classifier.weight"
        save_file({head: np.zeros((num_classes, 24))}, folder / "model.safetensors")
    found = describe(folder)
    of_model = template(found.settings, found.data_spec)
    params, measured = draw(of_model), draw_statistics(of_model)
    save_file(to_tensors(family, params, measured, scanned=False), folder / "model.safetensors")
    return folder, params


def rewrite(folder: Path, change) -> None:
    """Changes the tensors of a folder in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def template(settings: dict[str, Any], data_spec: DataSpec, **changes: Any) -> ModelGraph:
    """The model of these settings, as a run would build it."""
    settings = settings | changes
    kind = next(one for one in ARCHITECTURES if kind_name(one) == settings["architecture"])
    section = kind(**settings).model_dump(exclude={"architecture"})
    sizes = data_spec.model_arguments()
    if data_spec.image_shape is None:
        sizes.setdefault("max_length", 12)
    arguments = {"architecture": settings["architecture"], **section, **sizes}
    return _made(tuple(arguments.items()))


@functools.cache
def _made(arguments: tuple[tuple[str, Any], ...]) -> ModelGraph:
    hyperparameters, number = dict(arguments), np.dtype("float32")
    architecture = hyperparameters.pop("architecture")
    return make_model_graph(architecture, hyperparameters, dtype=number, param_dtype=number)


@functools.cache
def shapes(of: ModelGraph) -> Any:
    """The shapes of its parameters."""
    return jax.eval_shape(of.initialize, jax.random.key(0))[0]


@functools.cache
def statistics(of: ModelGraph) -> Any:
    """The shapes of its batch statistics."""
    return jax.eval_shape(of.initialize, jax.random.key(0))[1]


def draw(of: ModelGraph) -> Any:
    """Random parameters of it."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), shapes(of)
    )


def draw_statistics(of: ModelGraph) -> Any:
    """Random batch statistics of it, above zero."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: generator.uniform(0.5, 2, leaf.shape).astype(leaf.dtype), statistics(of)
    )


def assert_same(ours: Any, theirs: Any) -> None:
    """Two trees, equal to the last bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
