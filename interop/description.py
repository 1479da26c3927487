"""What a folder of Hugging Face needs of us, in our terms."""

from dataclasses import dataclass
from typing import Any

from configs.data_spec import DataSpec
from interop.folder import Folder


@dataclass(frozen=True)
class Description:
    """`settings`: fields of the section `model`, all those that change what a model computes from
    its weights; `data_spec`: the sizes of the data that it was made for (`vocabulary_size`,
    `max_length`, `image_shape`, `num_classes`), where the weights say them. `family`: whose layout
    it is."""

    family: str
    settings: dict[str, Any]
    data_spec: DataSpec


BLOCKS = {
    "pattern": "A",
    "num_kv_heads": None,
    "head_dim": None,
    "attention_window": None,
    "norm_placement": "pre",
    "use_bias": True,
}
"""Settings that most families have in common; one that has another says so after them."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""Our kind of feed-forward part for each of their activations."""

CLASSIFIER = "classifier.weight"
"""The tensor of a folder that tells classes apart: a row for each."""


def class_count(folder: Folder) -> int | None:
    """Return how many classes a classifier tells apart; None of another model."""
    return folder.shape(CLASSIFIER)[0] if CLASSIFIER in folder.names else None
