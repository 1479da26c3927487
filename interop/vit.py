"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929): `ViTForImageClassification`."""

from interop.description import ACTIVATIONS, COMMON_SETTINGS, class_count
from interop.family import Family
from interop.fields import Choice, Custom, Float, Int, Ours, Settings, Theirs
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.tables import FLAT, OUT_OF_HEADS, Reshape, Row, Table, Transpose, linear, norm

BLOCK, THEIRS = "backbone.layers.{layer}", "encoder.layer.{layer}"
PATCHES = "embeddings.patch_embeddings.projection"

TABLE = Table(
    prefix="vit.",
    rows=(
        Row(("class_token",), "embeddings.cls_token", Reshape(leading_ones=2)),
        Row(("positions",), "embeddings.position_embeddings", Reshape(leading_ones=1)),
        # Ours: height, width, channels, features. Theirs: features, channels, height, width.
        Row(("patches.kernel",), f"{PATCHES}.weight", Transpose((3, 2, 0, 1))),
        Row(("patches.bias",), f"{PATCHES}.bias", FLAT),
        *norm(f"{BLOCK}.mixer_norm", f"{THEIRS}.layernorm_before"),
        *linear(f"{BLOCK}.mixer.query", f"{THEIRS}.attention.attention.query"),
        *linear(f"{BLOCK}.mixer.key", f"{THEIRS}.attention.attention.key"),
        *linear(f"{BLOCK}.mixer.value", f"{THEIRS}.attention.attention.value"),
        *linear(f"{BLOCK}.mixer.out", f"{THEIRS}.attention.output.dense", OUT_OF_HEADS),
        *norm(f"{BLOCK}.feed_forward_norm", f"{THEIRS}.layernorm_after"),
        *linear(f"{BLOCK}.feed_forward.up", f"{THEIRS}.intermediate.dense"),
        *linear(f"{BLOCK}.feed_forward.down", f"{THEIRS}.output.dense"),
        *norm("backbone.norm", "layernorm"),
        *linear("classes", "classifier"),
    ),
    ignored=("pooler.dense.*",),  # only in files with the body alone; a classifier has no pooler
)


def _read_image(config: JsonFields) -> Settings:
    height, width = config.pair("image_size", default=224)
    patch_height, patch_width = config.pair("patch_size", default=16)
    if patch_height != patch_width:
        config.reject("patch_size", "patches are as high as wide")
    channels = config.positive_int("num_channels", default=3)
    return {"patch_size": patch_height, "data.image_shape": (height, width, channels)}


def _write_image(ours: Settings) -> Settings:
    height, width, channels = ours["data.image_shape"]
    image_size = height if height == width else [height, width]
    return {"image_size": image_size, "patch_size": ours["patch_size"], "num_channels": channels}


def _more(folder: Folder, found: Settings) -> Settings:
    require_our_normalisation(folder)
    return {"data.num_classes": class_count(folder)}


def require_our_normalisation(folder: Folder) -> None:
    """Raise `UsageError` if preprocessor_config.json does not scale pixels to -1..1.

    Our model and the original ViT scale them from 0..255 to -1..1.
    """
    preprocessor = folder.json_file("preprocessor_config.json")
    if preprocessor is None:
        return
    for name in ("image_mean", "image_std"):
        if name in preprocessor and any(x != 0.5 for x in preprocessor.value(name)):
            preprocessor.reject(
                name, "pictures are seen from -1 to 1, for which it must be 0.5 throughout"
            )


FAMILY = Family(
    "vit",
    TABLE,
    fields=(
        Ours({"architecture": "vit", **COMMON_SETTINGS, "positions": "learned"}),
        Ours({"pooling": "class_token", "class_token_position": True, "norm": "layer_norm"}),
        Theirs({"qkv_bias": [True]}),
        Custom(_read_image, _write_image),
        Int("width", "hidden_size"),
        Int("depth", "num_hidden_layers"),
        Int("num_heads", "num_attention_heads"),
        Float("norm_epsilon", "layer_norm_eps", default=1e-12),
        Choice("feed_forward", "hidden_act", ACTIVATIONS, default="gelu"),
        Int("feed_forward_width", "intermediate_size"),
    ),
    classes={"classes": "ViTForImageClassification"},
    more=_more,
)
