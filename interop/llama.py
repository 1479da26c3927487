"""Llama 1 to 3.3 (Touvron et al. 2023, arXiv:2302.13971; Llama Team 2024, arXiv:2407.21783):
`LlamaForCausalLM`."""

from typing import Any

from configs.data_spec import DataSpec
from interop.description import COMMON_SETTINGS, Description
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.tables import OUT_OF_HEADS, Kernel, Row, Table, linear, norm

SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""Hugging Face's names for the numbers in `model.rotary_scaling`, in the same order."""

BLOCK, THEIRS = "backbone.layers.{layer}", "layers.{layer}"

TABLE = Table(
    prefix="model.",
    rows=(
        Row(("embedding.tokens.embedding",), "embed_tokens.weight", resizable="vocabulary"),
        *norm(f"{BLOCK}.mixer_norm", f"{THEIRS}.input_layernorm"),
        *linear(f"{BLOCK}.mixer.query", f"{THEIRS}.self_attn.q_proj"),
        *linear(f"{BLOCK}.mixer.key", f"{THEIRS}.self_attn.k_proj"),
        *linear(f"{BLOCK}.mixer.value", f"{THEIRS}.self_attn.v_proj"),
        *linear(f"{BLOCK}.mixer.out", f"{THEIRS}.self_attn.o_proj", OUT_OF_HEADS),
        *norm(f"{BLOCK}.feed_forward_norm", f"{THEIRS}.post_attention_layernorm"),
        *linear(f"{BLOCK}.feed_forward.gate", f"{THEIRS}.mlp.gate_proj"),
        *linear(f"{BLOCK}.feed_forward.up", f"{THEIRS}.mlp.up_proj"),
        *linear(f"{BLOCK}.feed_forward.down", f"{THEIRS}.mlp.down_proj"),
        *norm("backbone.norm", "norm"),
        Row(("embedding.head.kernel",), "lm_head.weight", Kernel(), resizable="vocabulary"),
    ),
    ignored=("layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
    copies={"lm_head.weight": "embed_tokens.weight"},
)


def describe(folder: Folder) -> Description:
    """Translate the folder's config.json into fields of our configuration."""
    config = folder.config
    config.require(hidden_act=["silu"])
    use_bias = config.boolean("attention_bias", default=False)
    if config.boolean("mlp_bias", default=False) != use_bias:
        config.reject("mlp_bias", "linear layers all have biases or none: as attention_bias says")
    base, scaling = rotary(config)
    settings = {
        "architecture": "decoder",
        **COMMON_SETTINGS,
        "width": config.positive_int("hidden_size"),
        "depth": config.positive_int("num_hidden_layers"),
        "num_heads": config.positive_int("num_attention_heads"),
        "num_kv_heads": config.positive_int("num_key_value_heads", default=None),
        "head_dim": config.positive_int("head_dim", default=None),
        "positions": "rotary",
        "rotary_base": base,
        "rotary_scaling": scaling,
        "logit_soft_cap": None,
        "norm": "rms_norm",
        "norm_epsilon": config.positive_float("rms_norm_eps", default=1e-6),
        "feed_forward": "swiglu",
        "feed_forward_width": config.positive_int("intermediate_size"),
        "use_bias": use_bias,
        "tied_embeddings": config.boolean("tie_word_embeddings", default=False),
    }
    return Description(
        "llama", settings, DataSpec(vocabulary_size=config.positive_int("vocab_size"))
    )


def rotary(config: JsonFields) -> tuple[float, tuple[float, ...] | None]:
    """Return the base and the scaling of rotary positions; the scaling is None without one.

    Old versions of transformers write the fields `rope_theta` and `rope_scaling`; new versions
    write both into `rope_parameters`.
    """
    name = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    rope: dict[str, Any] = {"rope_theta": config.positive_float("rope_theta", default=10000.0)}
    rope |= config.section(name)
    kinds = {rope[key] for key in ("rope_type", "type") if key in rope} or {"default"}
    if not kinds <= {"default", "llama3"}:
        config.reject(name, "its rope_type must be default or llama3")
    if "default" in kinds:
        return float(rope["rope_theta"]), None
    missing = [key for key in SCALING if key not in rope]
    if missing:
        config.reject(name, f"it lacks {', '.join(missing)}")
    return float(rope["rope_theta"]), tuple(float(rope[key]) for key in SCALING)
