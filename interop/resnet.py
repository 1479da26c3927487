"""ResNet (He et al. 2016, arXiv:1512.03385): `ResNetForImageClassification`.

Its blocks have their stride in the 3 x 3 convolution, as ours. Only the stem of 7 x 7 has a
counterpart.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interop.description import class_count
from interop.family import Family
from interop.fields import Custom, Ours, Settings, Theirs, Unsupported
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.pictures import picture_settings, read_image_shape, write_image_shape
from interop.tables import FLAT, Kernel, Numbers, Row, Table, batch_norm, convolution
from model.resnet_stages import EXPANSION, STAGES, WITHOUT_BOTTLENECK, has_large_stem

BLOCK, THEIRS = "blocks.{block}", "encoder.stages.{stage}.layers.{layer}"
CLASSIFIER = "classifier.1"


def numbers_of_blocks(names: Collection[str]) -> Sequence[Numbers]:
    """Return the number of each block of ours, and its stage and its number in the stage.

    A block with a shortcut begins a stage.
    """
    count = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    found: list[Numbers] = []
    stage = layer = 0
    for block in range(count):
        if block and f"blocks.{block}.shortcut.kernel" in names:
            stage, layer = stage + 1, 0
        found.append({"block": block, "stage": stage, "layer": layer})
        layer += 1
    return found


TABLE = Table(
    prefix="resnet.",
    rows=(
        *convolution("stem", "embedder.embedder.convolution"),
        *batch_norm("stem_norm", "embedder.embedder.normalization"),
        *(
            row
            for number in range(3)
            for row in (
                *convolution(
                    f"{BLOCK}.convolutions.{number}", f"{THEIRS}.layer.{number}.convolution"
                ),
                *batch_norm(f"{BLOCK}.norms.{number}", f"{THEIRS}.layer.{number}.normalization"),
            )
        ),
        *convolution(f"{BLOCK}.shortcut", f"{THEIRS}.shortcut.convolution"),
        *batch_norm(f"{BLOCK}.shortcut_norm", f"{THEIRS}.shortcut.normalization"),
        Row(("classes.kernel",), f"{CLASSIFIER}.weight", Kernel()),
        Row(("classes.bias",), f"{CLASSIFIER}.bias", FLAT),
    ),
    ignored=("*.num_batches_tracked",),
    numbers=numbers_of_blocks,
)


def _layers(depth: int) -> tuple[str, tuple[int, ...]]:
    """Return `layer_type` and `depths` of config.json for a depth."""
    return "basic" if depth in WITHOUT_BOTTLENECK else "bottleneck", STAGES[depth]


def _hidden_sizes(depth: int, width: int) -> tuple[int, ...]:
    """Return the channels of each stage."""
    expansion = 1 if depth in WITHOUT_BOTTLENECK else EXPANSION
    return tuple(expansion * width * 2**stage for stage in range(len(STAGES[depth])))


def _read_layers(config: JsonFields) -> Settings:
    kind = config.text("layer_type", default="bottleneck")
    depths = config.positive_ints("depths", default=(3, 4, 6, 3))
    width = config.positive_int("embedding_size", default=64)
    known = {_layers(depth): depth for depth in STAGES}
    depth = known.get((kind, depths))
    if depth is None:
        choices = (f"{list(stages)} ({one})" for one, stages in known)
        config.reject("depths", f"with its layer_type, it must be {' or '.join(choices)}")
    sizes = config.positive_ints("hidden_sizes", default=(256, 512, 1024, 2048))
    if sizes != _hidden_sizes(depth, width):
        expected = list(_hidden_sizes(depth, width))
        config.reject("hidden_sizes", f"with embedding_size={width} it must be {expected}")
    return {"depth": depth, "width": width, "stem": "large"}


def _write_layers(ours: Settings) -> Settings:
    depth, width, stem = ours["depth"], ours["width"], ours["stem"]
    size = ours["data.image_shape"][:2]
    if not has_large_stem(stem, size):
        pictures = f" on pictures of {size[0]} x {size[1]}" if stem == "auto" else ""
        raise Unsupported(f"model.stem={stem}{pictures}: it only has large")
    kind, depths = _layers(depth)
    return {
        "layer_type": kind,
        "depths": list(depths),
        "embedding_size": width,
        "hidden_sizes": list(_hidden_sizes(depth, width)),
    }


def _more(folder: Folder, found: Settings) -> Settings:
    count = class_count(folder, f"{CLASSIFIER}.weight")
    pictures = picture_settings(folder, found, "ConvNext", any_size=True)
    return {"data.num_classes": count, **pictures}


def _finish(tensors: Mapping[str, NDArray], config: Mapping[str, Any]) -> Mapping[str, NDArray]:
    """Return the tensors with the number of batches that each batch norm has seen, which
    transformers misses otherwise; nothing depends on it."""
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    zero = np.zeros((), np.int64)
    return {**tensors, **{f"{name}num_batches_tracked": zero for name in norms}}


FAMILY = Family(
    "resnet",
    TABLE,
    fields=(
        Ours({"architecture": "resnet", "squeeze_excitation": False}),
        Theirs(
            {
                "hidden_act": ["relu"],
                "downsample_in_first_stage": [False],
                "downsample_in_bottleneck": [False],
            }
        ),
        Custom(read_image_shape, write_image_shape),
        Custom(_read_layers, _write_layers),
    ),
    classes={"classes": "ResNetForImageClassification"},
    more=_more,
    finish=_finish,
    any_image_size=True,
)
