"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): `ConvNextForImageClassification`.

Convolutions between stages pad nothing there, and odd sides here: pictures must have sides that no
stage makes odd.
"""

from collections.abc import Collection, Sequence

from interop.description import class_count
from interop.family import Family
from interop.fields import Custom, Float, Ours, Settings, Theirs, Unsupported
from interop.fields import Row as FieldRow
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.pictures import picture_settings, read_image_shape, write_image_shape
from interop.tables import Numbers, Reshape, Row, Table, convolution, linear, norm

BLOCK, THEIRS = "stages.{stage}.{layer}", "encoder.stages.{stage}.layers.{layer}"
LAYER_SCALE = 1e-6
"""The default of `layer_scale_init_value` in config.json, and the initial value of ours."""

LATER = "encoder.stages.{later_stage}.downsampling_layer"


def numbers_of_blocks(names: Collection[str]) -> Sequence[Numbers]:
    """Return the stage of each block and its number in the stage, then the number of each stage
    after the first."""
    paths = [name.split(".") for name in names if name.startswith("stages.")]
    blocks = sorted({(int(stage), int(layer)) for _, stage, layer, *_ in paths})
    later = sorted({stage for stage, _ in blocks} - {0})
    return [
        *({"stage": stage, "layer": layer} for stage, layer in blocks),
        *({"later_stage": stage} for stage in later),
    ]


def table(prefix: str) -> Table:
    """Return the table of ConvNeXt and ConvNeXt V2. prefix: the start of the names of tensors."""
    response_norm = Reshape(leading_ones=3)
    return Table(
        prefix=prefix,
        rows=(
            *convolution("downsamplings.0", "embeddings.patch_embeddings"),
            *norm("norms.0", "embeddings.layernorm"),
            *norm("norms.{later_stage}", f"{LATER}.0"),
            *convolution("downsamplings.{later_stage}", f"{LATER}.1"),
            *convolution(f"{BLOCK}.depthwise", f"{THEIRS}.dwconv"),
            *norm(f"{BLOCK}.norm", f"{THEIRS}.layernorm"),
            *linear(f"{BLOCK}.feed_forward.up", f"{THEIRS}.pwconv1"),
            Row((f"{BLOCK}.response_norm.scale",), f"{THEIRS}.grn.weight", response_norm),
            Row((f"{BLOCK}.response_norm.bias",), f"{THEIRS}.grn.bias", response_norm),
            *linear(f"{BLOCK}.feed_forward.down", f"{THEIRS}.pwconv2"),
            Row((f"{BLOCK}.scale",), f"{THEIRS}.layer_scale_parameter"),
            *norm("norm", "layernorm"),
            *linear("classes", "classifier"),
        ),
        numbers=numbers_of_blocks,
    )


def _read_stages(config: JsonFields) -> Settings:
    channels = config.positive_ints("hidden_sizes", default=(96, 192, 384, 768))
    depths = config.positive_ints("depths", default=(3, 3, 9, 3))
    count = config.positive_int("num_stages", default=4)
    if not count == len(depths) == len(channels):
        config.reject("num_stages", "it must be the length of hidden_sizes and of depths")
    patch_height, patch_width = config.pair("patch_size", default=4)
    if patch_height != patch_width:
        config.reject("patch_size", "patches are as high as wide")
    return {"channels": channels, "depths": depths, "patch_size": patch_height}


def _write_stages(ours: Settings) -> Settings:
    count, patch_size, step = len(ours["depths"]), ours["patch_size"], _step(ours)
    height, width, _ = ours["data.image_shape"]
    if height % step or width % step:
        raise Unsupported(
            f"model.patch_size={patch_size} with {count} stages on pictures of {height} x {width}: "
            f"it only has sides that are multiples of {step}, as it pads none"
        )
    return {
        "num_stages": count,
        "hidden_sizes": list(ours["channels"]),
        "depths": list(ours["depths"]),
        "patch_size": patch_size,
    }


def _step(settings: Settings) -> int:
    """Return the number of pixels of a side that become one position of the last stage."""
    return settings["patch_size"] * 2 ** (len(settings["depths"]) - 1)


def _read_layer_scale(config: JsonFields) -> Settings:
    if config.value("layer_scale_init_value", LAYER_SCALE) == 0:
        config.reject("layer_scale_init_value", "blocks have layer scales: it must be above 0")
    config.positive_float("layer_scale_init_value", default=LAYER_SCALE)
    return {}


def more(folder: Folder, found: Settings) -> Settings:
    """Return the settings that config.json does not show, and check the size of the pictures."""
    pictures = picture_settings(folder, found, "ConvNext", any_size=True)
    found = {**found, **pictures}
    height, width, _ = found["data.image_shape"]
    step = _step(found)
    if height % step or width % step:
        folder.config.reject("image_size", f"sides must be multiples of {step}, for equal numbers")
    return {"data.num_classes": class_count(folder), **pictures}


COMMON_FIELDS: Sequence[FieldRow] = (
    Theirs({"hidden_act": ["gelu"]}),
    Custom(read_image_shape, write_image_shape),
    Custom(_read_stages, _write_stages),
    Custom(lambda config: {}, lambda ours: {"drop_path_rate": ours.get("stochastic_depth")}),
    Float("head_norm_epsilon", "layer_norm_eps", default=1e-12),
)

FAMILY = Family(
    "convnext",
    table("convnext."),
    fields=(
        Ours({"architecture": "convnext", "response_norm": False}),
        *COMMON_FIELDS,
        Custom(_read_layer_scale, lambda ours: {"layer_scale_init_value": LAYER_SCALE}),
    ),
    classes={"classes": "ConvNextForImageClassification"},
    more=more,
    any_image_size=True,
)
