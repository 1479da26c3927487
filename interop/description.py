"""Describes the model in a Hugging Face folder in terms of our configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.data_spec import DataSpec
from interop.folder import Folder


@dataclass(frozen=True)
class Description:
    """The model in a folder.

    `family`: the name of one of `interop.families.FAMILIES`.
    `settings`: the fields of the section `model` that change what the weights compute.
    `data_spec`: the data sizes that the weights require, which are some of `vocabulary_size`,
        `max_source_length`, `max_length`, `image_shape` and `num_classes`.
    `any_image_size`: whether the weights fit images of another height and width too.
    `preparation`: the fields of the section `data` that prepare pictures as the folder says.
    """

    family: str
    settings: dict[str, Any]
    data_spec: DataSpec
    any_image_size: bool = False
    preparation: Mapping[str, Any] = field(default_factory=dict)


COMMON_SETTINGS = {
    "pattern": "A",
    "num_kv_heads": None,
    "head_dim": None,
    "attention_window": None,
    "norm_placement": "pre",
    "use_bias": True,
    "qk_norm": False,
}
"""Settings that most families share; other families override them."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""Our `model.feed_forward` for each Hugging Face name of an activation."""

CLASSIFIER = "classifier.weight"
"""The name of the kernel of most classifiers' heads. The kernel has one row per class."""


def class_count(folder: Folder, kernel: str = CLASSIFIER) -> int | None:
    """Return the number of classes; None if the model is not a classifier.

    kernel: the name of the head's kernel.
    """
    return folder.shape(kernel)[0] if kernel in folder.names else None
