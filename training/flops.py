"""The FLOPs of a train step and the peak FLOP/s of a device, for the metric `mfu`.

Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) is the rate of the
FLOPs in the model's matrix products, divided by the devices' peak rate. A multiply-add is 2 FLOPs;
the backward pass has twice as many as the forward pass. The convention:

- every kernel that multiplies activations counts, including the head's, even if it is the embedding
  table; look-ups, biases, norms, activation functions and the optimizer do not;
- the products of queries, keys and values count every pair of positions, 12 · N · H · S per token
  and layer, causal or not; S is the length, or the window if it is shorter;
- recomputation (remat) does not count.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from configs.data_spec import DataSpec
from configs.schema.config import Config
from configs.schema.conversations import Conversations
from configs.schema.data import Text
from configs.schema.model import CNN, Decoder, Encoder
from training.trees import Tree, flat

FORWARD_AND_BACKWARD = 3
"""Products of a train step per product of the forward pass: the backward pass has two for each."""


@dataclass(frozen=True)
class Peak:
    """The peak rates of a device.

    flops: dense bfloat16 FLOP/s, accumulated in float32.
    bandwidth: bytes per second of its memory.
    """

    flops: float
    bandwidth: float


PEAKS: Mapping[str, Peak] = {
    # From NVIDIA's data sheets. Numbers stated with sparsity are halved.
    r"B200": Peak(2250e12, 8.0e12),
    r"GH200": Peak(989.4e12, 4.0e12),
    r"H200": Peak(989.4e12, 4.8e12),
    r"H100 NVL": Peak(835.5e12, 3.9e12),
    r"H100 PCIe": Peak(756e12, 2.0e12),
    r"H100": Peak(989.4e12, 3.35e12),
    r"A100.*80GB": Peak(312e12, 1.935e12),
    r"A100": Peak(312e12, 1.555e12),
    r"L40S": Peak(362e12, 0.864e12),
    r"L4": Peak(121e12, 0.3e12),
    r"A10": Peak(125e12, 0.6e12),
    r"RTX 4090": Peak(165.2e12, 1.008e12),
    r"RTX 3090": Peak(71e12, 0.936e12),
    # Per chip: cloud.google.com/tpu/docs/v4, v5p, v5e, v6e.
    r"TPU v4": Peak(275e12, 1.228e12),
    r"TPU v5 lite|TPU v5e": Peak(197e12, 0.819e12),
    r"TPU v5p?": Peak(459e12, 2.765e12),
    r"TPU v6 lite|TPU v6e": Peak(918e12, 1.64e12),
}
"""Peaks by a pattern of `jax.Device.device_kind`; the first pattern that matches is used."""


def peak(device_kind: str) -> Peak | None:
    """Return the peak of a `jax.Device.device_kind`; None if it is unknown or a part of a GPU
    (MIG)."""
    if "MIG" in device_kind:
        return None
    for pattern, known in PEAKS.items():
        if re.search(rf"\b({pattern})\b", device_kind):
            return known
    return None


def flops_per_example(config: Config, params: Tree, data_spec: DataSpec) -> float | None:
    """Return the FLOPs of a train step per example.

    An example is a window of `data.sequence_length` tokens, or an image.

    params: the parameters, or abstract arrays of their shapes.

    Returns None for an architecture without a formula here, and if parameters are frozen (the
    formula does not fit their backward pass).
    """
    model = config.model
    if config.train.freeze or config.train.lora.rank is not None:
        return None
    kernels = {name: leaf.shape for name, leaf in flat(params).items() if name.endswith("kernel")}
    if isinstance(model, CNN):
        height, width, _ = data_spec.require("image_shape")
        times = [-(-height // 2**i) * -(-width // 2**i) for i in range(len(model.channels))]
        products = sum(
            math.prod(shape) * (times[int(path.split(".")[1])] if len(shape) == 4 else 1)
            for path, shape in kernels.items()
        )
        return 2 * FORWARD_AND_BACKWARD * products
    data = config.data
    if not isinstance(model, Decoder | Encoder) or not isinstance(data, Text | Conversations):
        return None
    length = data.sequence_length
    weights = sum(map(math.prod, kernels.values()))
    if model.tied_embeddings:
        weights += data_spec.require("vocabulary_size") * model.width
    mixers = [model.pattern[i % len(model.pattern)] for i in range(model.depth)]
    heads_width = model.num_heads * (model.head_dim or model.width // model.num_heads)
    attended = mixers.count("G") * length
    attended += mixers.count("A") * min(length, model.attention_window or length)
    pairs = 2 * heads_width * attended
    return 2 * FORWARD_AND_BACKWARD * (weights + pairs) * length
