"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929): `ViTForImageClassification`."""

from configs.data_spec import DataSpec
from interop.description import ACTIVATIONS, COMMON_SETTINGS, Description, class_count
from interop.folder import Folder
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


def describe(folder: Folder) -> Description:
    """Translate the folder's config.json into fields of our configuration."""
    config = folder.config
    config.require(qkv_bias=[True])
    _require_our_normalisation(folder)
    height, width = config.pair("image_size", default=224)
    patch_height, patch_width = config.pair("patch_size", default=16)
    if patch_height != patch_width:
        config.reject("patch_size", "patches are as high as wide")
    settings = {
        "architecture": "vit",
        **COMMON_SETTINGS,
        "patch_size": patch_height,
        "width": config.positive_int("hidden_size"),
        "depth": config.positive_int("num_hidden_layers"),
        "num_heads": config.positive_int("num_attention_heads"),
        "positions": "learned",
        "pooling": "class_token",
        "class_token_position": True,
        "norm": "layer_norm",
        "norm_epsilon": config.positive_float("layer_norm_eps", default=1e-12),
        "feed_forward": config.lookup("hidden_act", ACTIVATIONS, default="gelu"),
        "feed_forward_width": config.positive_int("intermediate_size"),
    }
    shape = (height, width, config.positive_int("num_channels", default=3))
    data_spec = DataSpec(image_shape=shape, num_classes=class_count(folder))
    return Description("vit", settings, data_spec)


def _require_our_normalisation(folder: Folder) -> None:
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
