"""Describes the model in a folder of Hugging Face by fields of our configuration."""

from dataclasses import dataclass
from typing import Any

from configs.data_spec import DataSpec
from interop.folder import Folder


@dataclass(frozen=True)
class Description:
    """The model of a folder.

    `family`: "gpt2", "llama", "bert" or "vit". `settings`: the fields of the section `model` that
    change what is computed from the weights. `data_spec`: what the data must have, as far as the
    weights decide it: `vocabulary_size`, `max_length`, `image_shape`, `num_classes`.
    """

    family: str
    settings: dict[str, Any]
    data_spec: DataSpec


COMMON_SETTINGS = {
    "pattern": "A",
    "num_kv_heads": None,
    "head_dim": None,
    "attention_window": None,
    "norm_placement": "pre",
    "use_bias": True,
}
"""Settings that most families share; a family that differs sets them again."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""`model.feed_forward` for each activation that they name."""

CLASSIFIER = "classifier.weight"
"""The tensor of a classifier's head: a row for each class."""


def class_count(folder: Folder) -> int | None:
    """Return the number of classes of a classifier, None for another model."""
    return folder.shape(CLASSIFIER)[0] if CLASSIFIER in folder.names else None
