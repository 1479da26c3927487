"""The models and batches of a benchmark's rows: from a row to a configuration, and to batches.

A row is a dictionary with

- `kind`, a key of `KINDS`, and the sizes of the model and of the batch, keys of `FIELDS` and
  `SIZES`;
- `learning_rate` and `dropout`, of both sides, and `dtype`, `products` and `matrix_products`, of
  Triform's (`DEFAULTS`);
- `autocast`: the dtype of PyTorch's products; by default `dtype`;
- `shortest`: the length of the shortest texts or recordings, as a share of the longest;
- `decode`: if given, a step generates this many tokens greedily, from an empty cache of `length`
  positions; else a step is a train step;
- `together`: whether the sides are measured alternately.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.invented import batch, invented_spec
from benchmarks.measuring import ROOT
from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.config import Config

Row = Mapping[str, Any]
BETA2 = 0.95
KEPT_BATCHES = 4

FIELDS = {
    "batch": "data.global_batch_size",
    "length": "data.sequence_length",
    "source_length": "data.max_source_length",
    "target_length": "data.max_target_length",
    "mels": "data.num_mels",
    "width": "model.width",
    "depth": "model.depth",
    "heads": "model.num_heads",
    "kv_heads": "model.num_kv_heads",
    "hidden": "model.feed_forward_width",
    "channels": "model.channels",
    "patch": "model.patch_size",
    "kernel": "model.convolution_size",
    "subsampling_channels": "model.subsampling_channels",
    "dropout": "model.dropout",
    "learning_rate": "optimizer.learning_rate",
    "dtype": "precision.compute_dtype",
    "products": "precision.products",
    "matrix_products": "train.matrix_products",
}
"""The field of the configuration that a key of a row sets."""

SIZES = {
    "vocabulary": "vocabulary_size",
    "classes": "num_classes",
    "frames": "max_frames",
    "labels": "max_labels",
}
"""The argument of `invented_spec` that a key of a row sets; `size` and `colours`, the side and the
channels of an image, set `image_shape`."""

DEFAULTS = {"dtype": "bfloat16", "matrix_products": "xla", "dropout": 0, "learning_rate": 1e-4}

TRAINING = {
    "optimizer.name": "adamw",
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "optimizer.beta2": BETA2,
    "optimizer.gradient_clip_norm": 1,
    "train.gradient_accumulation": 1,
    "train.ema_decay": "none",
    "mesh.data": 1,
    "mesh.fsdp": 1,
}
TEXT = {
    "data.cross_document_attention": "true",
    "model.scan_layers": "false",
    "model.remat": "none",
}


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    recipe: the recipe whose settings a row begins with.
    peer: the PyTorch version, a class of `benchmarks.peers`, as "module.ClassName".
    fields: settings that differ from the recipe.
    """

    recipe: str
    peer: str
    fields: Mapping[str, Any]


KINDS = {
    "gpt2": Kind("gpt2_124m", "decoders.Decoder", TEXT),
    "llama": Kind("llama_1b", "decoders.Decoder", TEXT),
    "lstm": Kind(
        "gpt2_124m", "decoders.Decoder", TEXT | {"model.pattern": "R", "model.positions": "none"}
    ),
    "cnn": Kind("digits_cnn", "pictures.CNN", {}),
    "resnet": Kind(
        "image_folder_resnet",
        "pictures.ResNet",
        {"model.stem": "small", "task.label_smoothing": 0},
    ),
    "vit": Kind("imagenet_vit_s16", "pictures.VisionTransformer", {"task.mixup": 0}),
    "translation": Kind(
        "translation_transformer", "translation.EncoderDecoder", {"task.label_smoothing": 0}
    ),
    "speech": Kind("speech_conformer_ctc", "speech.Conformer", {}),
}


def load(row: Row) -> tuple[Config, DataSpec]:
    """Return the configuration of a row, and the `DataSpec` of its data."""
    row, kind = DEFAULTS | row, KINDS[row["kind"]]
    fields = TRAINING | kind.fields | {FIELDS[key]: row[key] for key in row if key in FIELDS}
    if row["kind"] == "lstm":
        fields["model.feed_forward_width"] = row["width"]
    if "decode" in row:
        fields["precision.parameter_dtype"] = row["dtype"]
    config = load_config(ROOT / f"configs/{kind.recipe}.py", as_texts(fields), inputs=False)
    sizes = {SIZES[key]: row[key] for key in row if key in SIZES}
    if "size" in row:
        sizes["image_shape"] = (row["size"], row["size"], row["colours"])
    return config, invented_spec(config, **sizes)


def as_texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return values of fields as texts, as on a command line."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in fields.items()
    }


def batches(row: Row) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of a row, which its steps use in turn."""
    config, spec = load(row)
    for number in range(KEPT_BATCHES):
        yield batch(config, spec, number, shortest=row.get("shortest"))
