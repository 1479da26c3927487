"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929): `ViTForImageClassification`."""

from configs.data_spec import DataSpec
from interop.description import ACTIVATIONS, BLOCKS, Description, class_count
from interop.folder import Folder
from interop.tables import OUT_OF_HEADS, Flat, Permuted, Row, Same, Table, linear, norm

BLOCK, THEIRS = "backbone.layers.{layer}", "encoder.layer.{layer}"
PATCHES = "embeddings.patch_embeddings.projection"

TABLE = Table(
    prefix="vit.",
    rows=(
        Row(("class_token",), "embeddings.cls_token", Same(ones=2)),
        Row(("positions",), "embeddings.position_embeddings", Same(ones=1)),
        # Height, width, channels, features in ours; features, channels, height, width in theirs.
        Row(("patches.kernel",), f"{PATCHES}.weight", Permuted((3, 2, 0, 1))),
        Row(("patches.bias",), f"{PATCHES}.bias", Flat()),
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
    ignored=("pooler.dense.*",),  # of the body alone; the classes do without it
)


def describe(folder: Folder) -> Description:
    """What config.json says, in our terms."""
    config = folder.config
    config.demand(qkv_bias=[True])
    _demand_our_normalisation(folder)
    height, wide = config.pair("image_size", default=224)
    patch_height, patch_width = config.pair("patch_size", default=16)
    if patch_height != patch_width:
        config.refuse("patch_size", "patches are as high as wide")
    settings = {
        "architecture": "vit",
        **BLOCKS,
        "patch_size": patch_height,
        "width": config.count("hidden_size"),
        "depth": config.count("num_hidden_layers"),
        "num_heads": config.count("num_attention_heads"),
        "positions": "learned",
        "pooling": "class_token",
        "class_token_position": True,
        "norm": "layer_norm",
        "norm_epsilon": config.number("layer_norm_eps", default=1e-12),
        "feed_forward": config.translated("hidden_act", ACTIVATIONS, default="gelu"),
        "feed_forward_width": config.count("intermediate_size"),
    }
    shape = (height, wide, config.count("num_channels", default=3))
    data_spec = DataSpec(image_shape=shape, num_classes=class_count(folder))
    return Description("vit", settings, data_spec)


def _demand_our_normalisation(folder: Folder) -> None:
    """Our model turns pixels of 0 to 255 into -1 to 1, as the first ViT. Raises `UsageError` where
    preprocessor_config.json says that this one was trained on others."""
    seen = folder.other_json("preprocessor_config.json")
    if seen is None:
        return
    for name in ("image_mean", "image_std"):
        if name in seen and seen.value(name) != len(seen.value(name)) * [0.5]:
            seen.refuse(name, "pictures are seen from -1 to 1, for which it must be 0.5 throughout")
