"""GPT-2 (Radford et al. 2019): `GPT2LMHeadModel`."""

from interop.description import ACTIVATIONS, COMMON_SETTINGS
from interop.family import Family
from interop.fields import Bool, Choice, Float, Int, Ours, Theirs
from interop.tables import FLAT, Kernel, Row, Table, linear, norm

BLOCK = "backbone.layers.{layer}"
QUERY_KEY_VALUE = tuple(f"{BLOCK}.mixer.{name}" for name in ("query", "key", "value"))


CONV1D = Kernel(inputs_first=True)
"""The layout of GPT-2's `Conv1D`, a linear map: [inputs, outputs]."""

TABLE = Table(
    prefix="transformer.",
    rows=(
        Row(("embedding.tokens.embedding",), "wte.weight", resizable="vocabulary"),
        Row(("positions.table.embedding",), "wpe.weight", resizable="positions"),
        *norm(f"{BLOCK}.mixer_norm", "h.{layer}.ln_1"),
        Row(
            tuple(f"{name}.kernel" for name in QUERY_KEY_VALUE),
            "h.{layer}.attn.c_attn.weight",
            CONV1D,
        ),
        Row(
            tuple(f"{name}.bias" for name in QUERY_KEY_VALUE),
            "h.{layer}.attn.c_attn.bias",
            FLAT,
        ),
        *linear(f"{BLOCK}.mixer.out", "h.{layer}.attn.c_proj", Kernel(2, inputs_first=True)),
        *norm(f"{BLOCK}.feed_forward_norm", "h.{layer}.ln_2"),
        *linear(f"{BLOCK}.feed_forward.up", "h.{layer}.mlp.c_fc", CONV1D),
        *linear(f"{BLOCK}.feed_forward.down", "h.{layer}.mlp.c_proj", CONV1D),
        *norm("backbone.norm", "ln_f"),
        Row(("embedding.head.kernel",), "lm_head.weight", Kernel(), resizable="vocabulary"),
    ),
    ignored=("h.*.attn.bias", "h.*.attn.masked_bias"),  # the causal mask and its value
    copies={"lm_head.weight": "wte.weight"},
)

FAMILY = Family(
    "gpt2",
    TABLE,
    fields=(
        Ours({"architecture": "decoder", **COMMON_SETTINGS, "positions": "learned"}),
        Ours({"logit_soft_cap": None, "norm": "layer_norm"}),
        Theirs(
            {
                "scale_attn_weights": [True],
                "scale_attn_by_inverse_layer_idx": [False],
                "add_cross_attention": [False],
            }
        ),
        Int("width", "n_embd"),
        Int("depth", "n_layer"),
        Int("num_heads", "n_head"),
        Float("norm_epsilon", "layer_norm_epsilon", default=1e-5),
        Choice("feed_forward", "activation_function", ACTIVATIONS, default="gelu_new"),
        Int("feed_forward_width", "n_inner", default=None),
        Bool("tied_embeddings", "tie_word_embeddings", default=True),
        Int("data.vocabulary_size", "vocab_size"),
        Int("data.max_length", "n_positions"),
    ),
    classes={"next_tokens": "GPT2LMHeadModel"},
)
