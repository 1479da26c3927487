"""Llama 1 to 3.3 (Touvron et al. 2023, arXiv:2302.13971; Llama Team 2024, arXiv:2407.21783):
`LlamaForCausalLM`."""

from interop.family import Family
from interop.fields import Bool, Custom, Float, Int, Ours, Settings, Theirs, Unsupported
from interop.json_fields import JsonFields
from interop.tables import OUT_OF_HEADS, Kernel, Row, Table, linear, norm

LENGTH, LENGTH_NOW = "original_max_position_embeddings", "max_position_embeddings"

SCALING = ("factor", "low_freq_factor", "high_freq_factor", LENGTH)
"""Hugging Face's names for the numbers in `model.rotary_scaling`, in the same order."""

ROTARY = ("rope_theta", "rope_type", "type", "partial_rotary_factor", *SCALING)
"""The fields that `rope_parameters` or `rope_scaling` may have."""

NO_BIAS = {"use_bias": False, "qkv_bias": False}

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


def _read_bias(config: JsonFields) -> Settings:
    use_bias = config.boolean("attention_bias", default=False)
    if config.boolean("mlp_bias", default=False) != use_bias:
        config.reject("mlp_bias", "linear layers all have biases or none: as attention_bias says")
    return {"use_bias": use_bias} if use_bias else NO_BIAS


def _write_bias(ours: Settings) -> Settings:
    if ours.get("qkv_bias"):
        raise Unsupported("model.qkv_bias=true: it only has false")
    return {"attention_bias": ours["use_bias"], "mlp_bias": ours["use_bias"]}


def _read_rotary(config: JsonFields) -> Settings:
    base, scaling = rotary(config)
    return {"rotary_base": base, "rotary_scaling": scaling}


def _write_rotary(ours: Settings) -> Settings:
    scaling = ours["rotary_scaling"]
    if scaling is None:
        return {"rope_theta": ours["rotary_base"]}
    numbers = dict(zip(SCALING, scaling, strict=True))
    return {"rope_theta": ours["rotary_base"], "rope_scaling": {"rope_type": "llama3", **numbers}}


def _write_length(ours: Settings) -> Settings:
    """The length of training. It is not read: rotary positions have no limit of their own."""
    return {"max_position_embeddings": ours.get("data.max_length")}


def rotary(config: JsonFields) -> tuple[float, tuple[float, ...] | None]:
    """Return the base and the scaling of rotary positions; the scaling is None without one.

    Old versions of transformers write the fields `rope_theta` and `rope_scaling`; new versions
    write both into `rope_parameters`. As in transformers, `rope_scaling` alone counts if a file has
    both, and a base that is not in that section is the file's. Raises `UsageError` for settings
    that would change the numbers and that our models don't have.
    """
    both = [name for name in ("rope_scaling", "rope_parameters") if config.section(name)]
    name = both[0] if both else "rope_parameters"
    rope = config.nested(name)
    unknown = [key for key, value in rope if key not in ROTARY and value is not None]
    if unknown:
        config.reject(name, f"it has {', '.join(unknown)}, and only {', '.join(ROTARY)} are known")
    for fields in (config, rope):
        fields.require(partial_rotary_factor=[1.0, None])
    config.pass_over("rope_theta")
    rope.pass_over(*ROTARY)
    base = (rope if "rope_theta" in rope else config).positive_float("rope_theta", default=10000.0)
    kind = "rope_type" if "rope_type" in rope else "type"
    if not rope.lookup(kind, {"default": False, "llama3": True}, default="default"):
        return base, None
    if LENGTH not in rope and LENGTH_NOW in config:  # as in transformers
        return base, (*map(rope.positive_float, SCALING[:-1]), config.positive_float(LENGTH_NOW))
    return base, tuple(map(rope.positive_float, SCALING))


def heads(*, kv_heads: int | None = None, head_dim: int | None = None) -> Custom:
    """Return the row of the numbers of heads. kv_heads, head_dim: what counts if config.json has
    none; None: `num_attention_heads`, and the width divided by it."""

    def read(config: JsonFields) -> Settings:
        count = config.positive_int("num_attention_heads")
        usual = config.positive_int("hidden_size") // count
        of_keys = config.positive_int("num_key_value_heads", default=kv_heads) or count
        size = config.positive_int("head_dim", default=head_dim) or usual
        return {
            "num_heads": count,
            "num_kv_heads": None if of_keys == count else of_keys,
            "head_dim": None if size == usual else size,
        }

    def write(ours: Settings) -> Settings:
        return {
            "num_attention_heads": ours["num_heads"],
            "num_key_value_heads": ours["num_kv_heads"] or ours["num_heads"],
            "head_dim": ours["head_dim"] or ours["width"] // ours["num_heads"],
        }

    return Custom(read, write)


BLOCKS = (
    Ours({"norm_placement": "pre", "positions": "rotary", "logit_soft_cap": None}),
    Ours({"norm": "rms_norm", "feed_forward": "swiglu"}),
    Theirs({"hidden_act": ["silu"]}),
    Int("width", "hidden_size"),
    Int("depth", "num_hidden_layers"),
    Custom(_read_rotary, _write_rotary),
    Float("norm_epsilon", "rms_norm_eps", default=1e-6),
    Int("feed_forward_width", "intermediate_size"),
    Bool("tied_embeddings", "tie_word_embeddings", default=False),
    Int("data.vocabulary_size", "vocab_size"),
    Custom(lambda config: {}, _write_length),
)
"""Rows that Llama shares with the families that followed it."""

FAMILY = Family(
    "llama",
    TABLE,
    fields=(
        Ours({"architecture": "decoder", "pattern": "A", "attention_window": None}),
        Ours({"qk_norm": False}),
        *BLOCKS,
        heads(),
        Custom(_read_bias, _write_bias),
    ),
    classes={"next_tokens": "LlamaForCausalLM"},
)
