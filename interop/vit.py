"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929): `ViTForImageClassification`."""

from interop.description import ACTIVATIONS, COMMON_SETTINGS, class_count
from interop.family import Family
from interop.fields import Choice, Custom, Float, Int, Ours, Settings, Theirs
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.pictures import picture_settings, read_image_shape, write_image_shape
from interop.tables import OUT_OF_HEADS, Reshape, Row, Table, convolution, linear, norm

BLOCK, THEIRS = "backbone.layers.{layer}", "encoder.layer.{layer}"
PATCHES = "embeddings.patch_embeddings.projection"

TABLE = Table(
    prefix="vit.",
    rows=(
        Row(("class_token",), "embeddings.cls_token", Reshape(leading_ones=2)),
        Row(("positions",), "embeddings.position_embeddings", Reshape(leading_ones=1)),
        *convolution("patches", PATCHES),
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


def _read_patches(config: JsonFields) -> Settings:
    patch_height, patch_width = config.pair("patch_size", default=16)
    if patch_height != patch_width:
        config.reject("patch_size", "patches are as high as wide")
    return {"patch_size": patch_height}


def _write_patches(ours: Settings) -> Settings:
    return {"patch_size": ours["patch_size"]}


def _more(folder: Folder, found: Settings) -> Settings:
    return {"data.num_classes": class_count(folder), **picture_settings(folder, found, "ViT")}


FAMILY = Family(
    "vit",
    TABLE,
    fields=(
        Ours({"architecture": "vit", **COMMON_SETTINGS, "positions": "learned"}),
        Ours({"pooling": "class_token", "class_token_position": True, "norm": "layer_norm"}),
        Theirs({"qkv_bias": [True]}),
        Custom(read_image_shape, write_image_shape),
        Custom(_read_patches, _write_patches),
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
