"""Base classes of architectures, in particular of stacks of residual blocks."""

import math
from typing import Annotated, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import Count, Fraction, PositiveNumber, Settings, field

Pattern = Annotated[str, pydantic.StringConstraints(pattern="^[ACGR]+$")]
PATTERN_LETTERS = (
    "letters A (attention), C (convolution), R (recurrence), G (attention without a window) such "
    "as A, R, RRA"
)


class Architecture(Settings):
    """Base class of the settings of an architecture. Class attributes declare the data that the
    model reads, and its outputs."""

    discriminator: ClassVar = "architecture"
    modalities: ClassVar[tuple[str, ...]]
    """Data that the model can read: "text", "labelled_text", "text_pairs", "pictures",
    "transcribed_sound", "labelled_sound"."""

    outputs: ClassVar[tuple[str, ...]]
    """What the model can predict: "next_tokens", "missing_tokens", "target_tokens", "classes",
    "transcript"."""

    architecture: str = field(
        "", "Architecture of the model.", aliases=("arch", "model_type", "model_name")
    )


class StochasticDepth(Architecture):
    """The field of architectures of residual blocks, which training may skip."""

    stochastic_depth: Fraction = field(
        0.0,
        "Probability that an example skips a part of the last block in training. For earlier "
        "blocks it is smaller, in proportion to their depth.",
        aliases=("drop_path", "drop_path_rate", "layerdrop"),
    )


class Stack(Architecture):
    """Base class of stacks of blocks that may have attention."""

    width: Count = field(
        128,
        "Size of the hidden vector at each position.",
        aliases=("hidden_size", "d_model", "n_embd", "embed_dim", "dim"),
    )
    depth: Count = field(
        4,
        "Number of blocks.",
        unit="blocks",
        aliases=("num_layers", "n_layer", "layers", "n_layers"),
    )
    num_heads: Count = field(
        4, "Number of query heads.", unit="heads", aliases=("n_head", "heads", "n_heads")
    )
    num_kv_heads: Count | None = field(
        None,
        "Number of key/value heads, each shared by a group of query heads; none: num_heads.",
        unit="heads",
        aliases=("num_key_value_heads", "n_kv_heads", "kv_heads"),
    )
    head_dim: Count | None = field(
        None, "Dimension of each head; none: width / num_heads.", aliases=("head_size",)
    )
    attention_window: Count | None = field(
        None,
        "Sliding window: a position attends only to positions less than this many away; none: to "
        "all.",
        unit="tokens",
        aliases=("window", "sliding_window"),
    )
    attention: Literal["auto", "xla", "cudnn", "splash"] = field(
        "auto",
        "Implementation of attention; auto: cuDNN on NVIDIA GPUs, splash attention on TPU, XLA "
        "elsewhere.",
        mutable_on_resume=True,
        aliases=("attn_implementation", "attention_kernel", "flash_attention"),
    )
    dropout: Fraction = field(
        0.0, "Dropout rate of activations.", aliases=("dropout_rate", "dropout_prob")
    )

    @property
    def has_self_attention(self) -> bool:
        """Whether any block has self-attention."""
        return True

    @property
    def has_attention(self) -> bool:
        """Whether any block has attention: self-attention, or attention to a source."""
        return self.has_self_attention

    def check(self) -> None:
        if not self.has_attention:
            return
        heads, width = self.num_heads, self.width
        if self.num_kv_heads is not None and heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={heads}: "
                f"use a divisor of it such as {math.gcd(self.num_kv_heads, heads)}, or none"
            )
        if self.head_dim is None and width % heads:
            raise ValueError(
                f"model.width={width} is not divisible by model.num_heads={heads}: use a width "
                f"of {nearest_multiples(width, heads)}, or set model.head_dim"
            )


class Blocks(StochasticDepth, Stack):
    """Base class of stacks of residual blocks. Each block is a mixer (attention, convolution or
    recurrence) and a feed-forward part."""

    bidirectional: ClassVar[bool] = False
    """Whether positions also see later positions. Recurrence then runs in both directions."""

    pattern: Pattern = field(
        "A",
        "Mixer of each block, repeated up to the depth: A attention, C convolution, R recurrence, "
        "G attention without model.attention_window.",
        accepts=PATTERN_LETTERS,
    )
    recurrence: Literal["lstm", "gru", "elman", "elman_relu", "rg_lru"] = field(
        "lstm",
        "Kind of recurrence in mixer R. In bidirectional models, each direction has half the "
        "units.",
        aliases=("rnn_type", "cell", "rnn"),
    )
    convolution_size: Annotated[int, Interval(ge=2, le=1024)] = field(
        4,
        "Kernel size of the convolution in mixer C.",
        unit="positions",
        aliases=("conv_kernel_size", "d_conv", "kernel_size", "conv_width"),
    )
    norm: Literal["rms_norm", "layer_norm"] = field(
        "rms_norm",
        "Kind of normalisation of mixers, feed-forward parts and the head.",
        aliases=("normalization", "norm_type"),
    )
    norm_placement: Literal["pre", "post"] = field(
        "pre",
        "Position of the norms. pre: x + part(norm(x)); post: norm(x + part(x)).",
        aliases=("pre_norm", "norm_first", "prenorm"),
    )
    norm_epsilon: PositiveNumber = field(
        1e-5,
        "Added to the mean square or variance before the square root.",
        aliases=("eps", "rms_norm_eps"),
    )
    feed_forward: Literal["swiglu", "gelu", "gelu_tanh", "relu"] = field(
        "swiglu",
        "Kind of the feed-forward part; gelu_tanh: GPT-2's approximation of gelu.",
        aliases=("mlp", "activation", "ffn"),
    )
    feed_forward_width: Count | None = field(
        None,
        "Hidden size of the feed-forward part; none: 4 x width, or for swiglu 8/3 x width rounded "
        "up to a multiple of 8.",
        aliases=("mlp_dim", "intermediate_size", "d_ff", "hidden_dim"),
    )
    use_bias: bool = field(
        False, "Whether linear layers and layer norms have biases.", aliases=("bias",)
    )
    qkv_bias: bool = field(
        False,
        "Whether the linear layers of queries, keys and values have biases also without "
        "model.use_bias, as in Qwen2.",
        aliases=("attention_bias", "add_qkv_bias"),
    )
    qk_norm: bool = field(
        False,
        "Whether the queries and keys of each head are normalised (RMS norm) before rotary "
        "positions, as in Qwen3.",
        aliases=("qk_layernorm", "use_qk_norm"),
    )
    remat: Literal["none", "full", "dots", "named"] = field(
        "none",
        "Rematerialisation in the backward pass. full: everything; dots: all but products with "
        "weights; named: all but mixer outputs and hidden feed-forward products.",
        mutable_on_resume=True,
        aliases=("remat_policy", "gradient_checkpointing", "activation_checkpointing"),
    )
    scan_layers: bool = field(
        False,
        "Whether blocks run in a jax.lax.scan over the periods of the pattern: compiles faster, "
        "saves memory.",
        aliases=("scan",),
    )

    @property
    def mixers(self) -> str:
        """Letters of all mixers: the pattern, and the encoder's pattern if that is set."""
        return self.pattern

    @property
    def has_self_attention(self) -> bool:
        return not {"A", "G"}.isdisjoint(self.mixers)

    def unused_fields(self) -> dict[str, str]:
        reasons = {}
        without = f"model.pattern={self.pattern} has no"
        if "R" not in self.mixers:
            reasons["recurrence"] = f"{without} R (recurrence)"
        if "C" not in self.mixers:
            reasons["convolution_size"] = f"{without} C (convolution)"
        if "A" not in self.mixers:
            reasons["attention_window"] = f"{without} A (attention)"
        if not self.has_self_attention:
            reasons |= dict.fromkeys(("attention", "qk_norm"), f"{without} A (attention)")
        if not self.has_attention:
            heads = ("num_heads", "num_kv_heads", "head_dim", "qkv_bias")
            reasons |= dict.fromkeys(heads, f"{without} A (attention)")
        elif self.use_bias:
            reasons["qkv_bias"] = "model.use_bias is true, so that all linear layers have biases"
        return reasons

    def check(self) -> None:
        super().check()
        self._check_layers("depth", self.depth, "pattern", self.pattern)
        if self.bidirectional:
            self._check_halves("pattern", self.pattern)

    def _check_layers(self, depth_name: str, depth: int, pattern_name: str, pattern: str) -> None:
        """Raise ValueError if `pattern` does not fit a stack of `depth` blocks."""
        if len(pattern) > depth:
            raise ValueError(
                f"model.{pattern_name}={pattern} has {len(pattern)} letters for "
                f"model.{depth_name}={depth}: shorten it, or use model.{depth_name}={len(pattern)}"
            )
        if self.scan_layers and depth % len(pattern):
            raise ValueError(
                f"model.scan_layers needs model.{depth_name}={depth} to be a multiple of the "
                f"{len(pattern)} letters of model.{pattern_name}={pattern}: use "
                f"{nearest_multiples(depth, len(pattern))}"
            )

    def _check_halves(self, pattern_name: str, pattern: str) -> None:
        """Raise ValueError if a recurrence can't give half of the units to each direction."""
        if "R" in pattern and self.width % 2:
            raise ValueError(
                f"model.{pattern_name}={pattern} has R (recurrence), which runs both ways here "
                f"with half the units each, but model.width is {self.width}: use an even one"
            )


class RotaryStack(Stack):
    """Base class of stacks with attention that may use rotary positions."""

    positions: str = field(
        "rotary",
        "Position encoding of attention.",
        aliases=("position_embedding", "pos_emb", "rope"),
    )
    rotary_base: PositiveNumber = field(
        10000.0,
        "Base of rotary positions (RoPE theta): wavelengths grow up to 2 pi times this.",
        unit="tokens",
        aliases=("rope_theta", "rope_base"),
    )

    def unused_fields(self) -> dict[str, str]:
        reasons = super().unused_fields()
        if self.positions != "rotary":
            reasons["rotary_base"] = f"model.positions is {self.positions}"
        if "attention" in reasons:
            reasons["rotary_base"] = reasons["attention"]
            if self.positions == "rotary":
                reasons["positions"] = f"{reasons['attention']}, which alone rotates"
        return reasons

    def check(self) -> None:
        super().check()
        head_dim = self.head_dim or self.width // self.num_heads
        if self.has_self_attention and self.positions == "rotary" and head_dim % 2:
            source = "model.head_dim" if self.head_dim else "model.width / model.num_heads"
            raise ValueError(
                f"rotary positions turn pairs of numbers, but {source} is {head_dim}, which is "
                f"odd: use {head_dim + 1}, or another model.positions"
            )


def nearest_multiples(number: int, divisor: int) -> str:
    """Return the nearest multiples of `divisor` as text, such as "128 or 132"."""
    below = number // divisor * divisor
    return f"{below} or {below + divisor}" if below else f"{divisor}"
