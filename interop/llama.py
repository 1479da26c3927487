"""Llama 1 to 3.3 (Touvron et al. 2023, arXiv:2302.13971; Llama Team 2024, arXiv:2407.21783):
`LlamaForCausalLM`."""

from typing import Any

from configs.data_spec import DataSpec
from interop.description import BLOCKS, Description
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.tables import OUT_OF_HEADS, Kernel, Row, Table, linear, norm, same

SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""What they call the numbers of `model.rotary_scaling`."""

BLOCK, THEIRS = "backbone.layers.{layer}", "layers.{layer}"

TABLE = Table(
    prefix="model.",
    rows=(
        same("embedding.tokens.embedding", "embed_tokens.weight", counts="vocabulary"),
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
        Row(("embedding.head.kernel",), "lm_head.weight", Kernel(), counts="vocabulary"),
    ),
    ignored=("layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
    copies={"lm_head.weight": "embed_tokens.weight"},
)


def describe(folder: Folder) -> Description:
    """What config.json says, in our terms."""
    config = folder.config
    config.demand(hidden_act=["silu"])
    use_bias = config.flag("attention_bias", default=False)
    if config.flag("mlp_bias", default=False) != use_bias:
        config.refuse("mlp_bias", "linear layers all have biases or none: as attention_bias says")
    base, scaling = rotary(config)
    settings = {
        "architecture": "decoder",
        **BLOCKS,
        "width": config.count("hidden_size"),
        "depth": config.count("num_hidden_layers"),
        "num_heads": config.count("num_attention_heads"),
        "num_kv_heads": config.count("num_key_value_heads", default=None),
        "head_dim": config.count("head_dim", default=None),
        "positions": "rotary",
        "rotary_base": base,
        "rotary_scaling": scaling,
        "logit_soft_cap": None,
        "norm": "rms_norm",
        "norm_epsilon": config.number("rms_norm_eps", default=1e-6),
        "feed_forward": "swiglu",
        "feed_forward_width": config.count("intermediate_size"),
        "use_bias": use_bias,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
    }
    return Description("llama", settings, DataSpec(vocabulary_size=config.count("vocab_size")))


def rotary(config: JsonFields) -> tuple[float, tuple[float, ...] | None]:
    """Base and scaling of rotary positions, as any version writes them: all in `rope_parameters`,
    or `rope_theta` and `rope_scaling` beside each other."""
    name = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    said: dict[str, Any] = {"rope_theta": config.number("rope_theta", default=10000.0)}
    said |= config.section(name)
    kinds = {said[key] for key in ("rope_type", "type") if key in said} or {"default"}
    if not kinds <= {"default", "llama3"}:
        config.refuse(name, "its rope_type must be default or llama3")
    if "default" in kinds:
        return float(said["rope_theta"]), None
    missing = [key for key in SCALING if key not in said]
    if missing:
        config.refuse(name, f"it lacks {', '.join(missing)}")
    return float(said["rope_theta"]), tuple(float(said[key]) for key in SCALING)
