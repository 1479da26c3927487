"""The vision transformer of SigLIP (Zhai et al. 2023, arXiv:2303.15343):
`SiglipForImageClassification`. It classifies the mean of the outputs at all patches."""

from interop.description import ACTIVATIONS, COMMON_SETTINGS, class_count
from interop.family import Family
from interop.fields import Choice, Custom, Float, Int, Ours, Section, Settings, Unsupported
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.pictures import picture_settings
from interop.tables import OUT_OF_HEADS, Row, Table, convolution, linear, norm

NO_TEXTS = {
    "model_type": "siglip_text_model",
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
"""The model of texts, which a classifier lacks: else transformers warns of its default tokens."""

BLOCK, THEIRS = "backbone.layers.{layer}", "encoder.layers.{layer}"

TABLE = Table(
    prefix="vision_model.",
    rows=(
        Row(("positions",), "embeddings.position_embedding.weight"),
        *convolution("patches", "embeddings.patch_embedding"),
        *norm(f"{BLOCK}.mixer_norm", f"{THEIRS}.layer_norm1"),
        *linear(f"{BLOCK}.mixer.query", f"{THEIRS}.self_attn.q_proj"),
        *linear(f"{BLOCK}.mixer.key", f"{THEIRS}.self_attn.k_proj"),
        *linear(f"{BLOCK}.mixer.value", f"{THEIRS}.self_attn.v_proj"),
        *linear(f"{BLOCK}.mixer.out", f"{THEIRS}.self_attn.out_proj", OUT_OF_HEADS),
        *norm(f"{BLOCK}.feed_forward_norm", f"{THEIRS}.layer_norm2"),
        *linear(f"{BLOCK}.feed_forward.up", f"{THEIRS}.mlp.fc1"),
        *linear(f"{BLOCK}.feed_forward.down", f"{THEIRS}.mlp.fc2"),
        *norm("backbone.norm", "post_layernorm"),
        *linear("classes", "classifier"),
    ),
    ignored=("head.*", "embeddings.position_ids"),  # pooling by attention, for pairs with texts
)


def _read_image(config: JsonFields) -> Settings:
    size = config.positive_int("image_size", default=224)
    channels = config.positive_int("num_channels", default=3)
    return {"data.image_shape": (size, size, channels)}


def _write_image(ours: Settings) -> Settings:
    height, width, channels = ours["data.image_shape"]
    if height != width:
        raise Unsupported(f"pictures of {height} x {width}: it only has square ones")
    return {"image_size": height, "num_channels": channels, "vision_use_head": False}


def _more(folder: Folder, found: Settings) -> Settings:
    return {"data.num_classes": class_count(folder), **picture_settings(folder, found, "Siglip")}


FAMILY = Family(
    "siglip",
    TABLE,
    fields=(
        Ours({"architecture": "vit", **COMMON_SETTINGS, "positions": "learned"}),
        Ours({"pooling": "mean", "class_token_position": False, "norm": "layer_norm"}),
        Section(
            "vision_config",
            {"model_type": "siglip_vision_model"},
            (
                Custom(_read_image, _write_image),
                Int("patch_size", "patch_size", default=16),
                Int("width", "hidden_size", default=768),
                Int("depth", "num_hidden_layers", default=12),
                Int("num_heads", "num_attention_heads", default=12),
                Float("norm_epsilon", "layer_norm_eps", default=1e-6),
                Choice("feed_forward", "hidden_act", ACTIVATIONS, default="gelu_pytorch_tanh"),
                Int("feed_forward_width", "intermediate_size", default=3072),
            ),
        ),
        Custom(lambda config: {}, lambda ours: {"text_config": NO_TEXTS}),
    ),
    classes={"classes": "SiglipForImageClassification"},
    more=_more,
)
