"""GPT-2 (Radford et al. 2019): `GPT2LMHeadModel`."""

from configs.data_spec import DataSpec
from interop.description import ACTIVATIONS, BLOCKS, Description
from interop.folder import Folder
from interop.tables import Flat, Kernel, Row, Table, norm, same

BLOCK = "backbone.layers.{layer}"
QUERY_KEY_VALUE = tuple(f"{BLOCK}.mixer.{name}" for name in ("query", "key", "value"))


def conv1d(ours: str, theirs: str, inputs: int = 1) -> tuple[Row, Row]:
    """The rows of a linear map whose kernel theirs has as [inputs, outputs]."""
    kernel = Kernel(inputs, inputs_first=True)
    return (
        Row((f"{ours}.kernel",), f"{theirs}.weight", kernel),
        Row((f"{ours}.bias",), f"{theirs}.bias", Flat()),
    )


TABLE = Table(
    prefix="transformer.",
    rows=(
        same("embedding.tokens.embedding", "wte.weight", counts="vocabulary"),
        same("positions.table.embedding", "wpe.weight", counts="positions"),
        *norm(f"{BLOCK}.mixer_norm", "h.{layer}.ln_1"),
        Row(
            tuple(f"{name}.kernel" for name in QUERY_KEY_VALUE),
            "h.{layer}.attn.c_attn.weight",
            Kernel(inputs_first=True),
        ),
        Row(
            tuple(f"{name}.bias" for name in QUERY_KEY_VALUE),
            "h.{layer}.attn.c_attn.bias",
            Flat(),
        ),
        *conv1d(f"{BLOCK}.mixer.out", "h.{layer}.attn.c_proj", inputs=2),
        *norm(f"{BLOCK}.feed_forward_norm", "h.{layer}.ln_2"),
        *conv1d(f"{BLOCK}.feed_forward.up", "h.{layer}.mlp.c_fc"),
        *conv1d(f"{BLOCK}.feed_forward.down", "h.{layer}.mlp.c_proj"),
        *norm("backbone.norm", "ln_f"),
        Row(("embedding.head.kernel",), "lm_head.weight", Kernel(), counts="vocabulary"),
    ),
    ignored=("h.*.attn.bias", "h.*.attn.masked_bias"),  # the causal mask, and what it hides with
    copies={"lm_head.weight": "wte.weight"},
)


def describe(folder: Folder) -> Description:
    """What config.json says, in our terms."""
    config = folder.config
    config.demand(
        scale_attn_weights=[True],
        scale_attn_by_inverse_layer_idx=[False],
        add_cross_attention=[False],
    )
    settings = {
        "architecture": "decoder",
        **BLOCKS,
        "width": config.count("n_embd"),
        "depth": config.count("n_layer"),
        "num_heads": config.count("n_head"),
        "positions": "learned",
        "logit_soft_cap": None,
        "norm": "layer_norm",
        "norm_epsilon": config.number("layer_norm_epsilon", default=1e-5),
        "feed_forward": config.translated("activation_function", ACTIVATIONS, default="gelu_new"),
        "feed_forward_width": config.count("n_inner", default=None),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
    }
    data_spec = DataSpec(
        vocabulary_size=config.count("vocab_size"), max_length=config.count("n_positions")
    )
    return Description("gpt2", settings, data_spec)
