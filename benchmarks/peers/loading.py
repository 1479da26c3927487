"""Copies the initial weights of Triform's models into their PyTorch versions.

Parameters are named by their dotted paths in Triform's model.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

OUR_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
ORDERS = {2: (1, 0), 4: (3, 2, 0, 1)}
"""The order of a kernel's dimensions in PyTorch, by their number: linear layer, convolution."""


def load(module: nn.Module, ours: Mapping[str, np.ndarray], path: str = "") -> None:
    """Copy Triform's parameters under `path` into a module and its children."""
    if hasattr(module, "load"):
        module.load(ours, path)
        return
    for name, child in module.named_children():
        load(child, ours, f"{path}.{name}".lstrip("."))
    for our_name, name in OUR_NAMES.items():
        if (values := ours.get(f"{path}.{our_name}")) is not None:
            kernel = our_name == "kernel"
            fill(getattr(module, name), values.transpose(ORDERS[values.ndim]) if kernel else values)


def fill(parameter: nn.Parameter, values: np.ndarray) -> None:
    """Copy an array into a parameter of the same shape."""
    values = torch.tensor(values)
    assert parameter.shape == values.shape, (parameter.shape, values.shape)
    with torch.no_grad():
        parameter.copy_(values)
