"""The configuration section `model`: the architectures and their hyperparameters."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

import pydantic
from annotated_types import Interval

from configs.schema.blocks import (
    PATTERN_LETTERS,
    Architecture,
    Blocks,
    Pattern,
    RotaryStack,
    StochasticDepth,
)
from configs.schema.settings import (
    Count,
    Fraction,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveNumber,
    field,
    kind_name,
)

Counts = Annotated[tuple[Count, ...], pydantic.Field(min_length=1)]
Pooling = Literal["mean", "max", "first", "first_dense", "last", "attention"]


def _check_scaling(scaling: tuple[float, ...]) -> tuple[float, ...]:
    if scaling[2] <= scaling[1]:
        raise ValueError("the third is not above the second")
    return scaling


Scaling = Annotated[
    tuple[PositiveNumber, PositiveNumber, PositiveNumber, PositiveNumber],
    pydantic.AfterValidator(_check_scaling),
]


class Pooled(Architecture):
    """The field of architectures whose classifier pools positions."""

    pooling: Pooling = field(
        "mean",
        "How a classifier pools the positions. attention: attention pooling with a learned query; "
        "first_dense: the first position, then a dense layer and tanh, as in BERT.",
        aliases=("pool", "pool_type", "global_pool"),
    )


class Tied(Architecture):
    """The field of architectures that may read and predict tokens with the same weights."""

    tied_embeddings: bool = field(
        False,
        "Whether the output head uses the token embedding as its weights.",
        aliases=("tie_word_embeddings", "weight_tying"),
    )


class SourceToTarget(Tied):
    """Base class of models that generate a target text from a source text."""

    modalities: ClassVar = ("text_pairs",)
    outputs: ClassVar = ("target_tokens",)

    encoder_depth: Count | None = field(
        None,
        "Number of blocks in the encoder; none: as many as in the decoder (model.depth).",
        unit="blocks",
        aliases=("encoder_layers", "num_encoder_layers", "enc_layers"),
    )
    shared_embeddings: bool = field(
        True,
        "Whether source and target tokens share one embedding table.",
        aliases=("share_embeddings", "share_all_embeddings"),
    )
    tied_embeddings: bool = True


class TokenBlocks(RotaryStack, Tied, Blocks):
    """Base class of models that are stacks of residual blocks and read tokens."""

    rotary_scaling: Scaling | None = field(
        None,
        "Scaling of rotary positions (RoPE) as in Llama 3.1: factor, low and high frequency "
        "factor, and original length in tokens; none: no scaling.",
        accepts="four numbers > 0 separated by commas, the third above the second, such as "
        "8,1,4,8192",
        aliases=("rope_scaling",),
    )
    logit_soft_cap: PositiveNumber | None = field(
        None,
        "Soft cap c of the logits: they become c tanh(logits / c); none: no cap.",
        aliases=("final_logit_softcapping", "softcap", "logits_soft_cap"),
    )

    def unused_fields(self) -> dict[str, str]:
        reasons = super().unused_fields()
        if "rotary_base" in reasons:
            reasons["rotary_scaling"] = reasons["rotary_base"]
        return reasons


class TextBlocks(Pooled, TokenBlocks):
    """Base class of stacks of residual blocks that read one text."""

    modalities: ClassVar = ("text", "labelled_text")

    positions: Literal["rotary", "learned", "none"] = field(
        meaning="Position encoding: rotary (RoPE), learned (a vector per position), or none."
    )


class Decoder(TextBlocks):
    """A causal stack of residual blocks on tokens: a token sees itself and earlier tokens."""

    outputs: ClassVar = ("next_tokens", "classes")

    architecture: Literal["decoder"] = "decoder"
    pooling: Pooling = "last"


class Encoder(TextBlocks):
    """A bidirectional stack of residual blocks on tokens: each token sees all tokens."""

    bidirectional: ClassVar = True
    outputs: ClassVar = ("missing_tokens", "classes")

    architecture: Literal["encoder"] = "encoder"
    token_types: NonNegativeInteger = field(
        0,
        "Number of token type embeddings, as in BERT. Every token has type 0. 0: no embeddings.",
        aliases=("type_vocab_size", "segment_embeddings"),
    )
    embedding_norm: bool = field(
        False,
        "Whether token embeddings are normalised before the first block, as in BERT.",
        aliases=("layernorm_embedding",),
    )
    head_transform: bool = field(
        False,
        "Whether the output head starts with a dense layer and a norm, and has a bias, as in BERT.",
        aliases=("lm_head_transform", "cls_predictions"),
    )


class Recurrent(Tied):
    """Base class of stacks of recurrent layers on tokens."""

    width: Count = field(200, "Units of each layer, and size of the token embeddings.")
    depth: Count = field(2, "Number of recurrent layers.", unit="layers")
    recurrence: Literal["lstm", "gru", "elman", "elman_relu"] = field(
        "lstm", "Kind of recurrent cell."
    )
    dropout: Fraction = field(
        0.0, "Dropout rate of activations before, between and after the layers."
    )


class RNN(Pooled, Recurrent):
    """A stack of recurrent layers on tokens."""

    modalities: ClassVar = ("text", "labelled_text")
    outputs: ClassVar = ("next_tokens", "classes")

    architecture: Literal["rnn"] = "rnn"
    bidirectional: bool = field(
        False, "Whether each layer runs in both directions; for classifiers only."
    )


class EncoderDecoder(SourceToTarget, TokenBlocks):
    """An encoder and a decoder of residual blocks; the decoder attends to the encoder's outputs."""

    architecture: Literal["encoder_decoder"] = "encoder_decoder"
    encoder_pattern: Pattern | None = field(
        None,
        "Mixers of the encoder's blocks, repeated up to its depth; none: as in the decoder "
        "(model.pattern).",
        accepts=PATTERN_LETTERS,
    )
    positions: Literal["sinusoidal", "sinusoidal_fairseq", "learned", "rotary", "none"] = field(
        meaning="Position encoding: sinusoidal, sinusoidal_fairseq (as in fairseq and M2M100), "
        "learned (a vector per position), rotary (RoPE), or none."
    )

    @property
    def mixers(self) -> str:
        return self.pattern + (self.encoder_pattern or "")

    @property
    def has_attention(self) -> bool:
        return True  # the decoder's attention to the source

    def check(self) -> None:
        super().check()
        name = "pattern" if self.encoder_pattern is None else "encoder_pattern"
        pattern = (name, self.encoder_pattern or self.pattern)
        depth = ("depth", self.depth)
        if self.encoder_depth is not None:
            depth = ("encoder_depth", self.encoder_depth)
        self._check_layers(*depth, *pattern)
        self._check_halves(*pattern)
        if self.positions.startswith("sinusoidal") and self.width % 2:
            raise ValueError(
                f"model.positions={self.positions} has a sine and a cosine of each wave, but "
                f"model.width is {self.width}: use an even one"
            )
        if self.positions == "sinusoidal_fairseq" and self.width < 4:
            raise ValueError(
                f"model.positions=sinusoidal_fairseq needs two waves, but model.width is "
                f"{self.width}: use 4 or more"
            )


class RNNEncoderDecoder(SourceToTarget, Recurrent):
    """A bidirectional recurrent encoder, and a recurrent decoder that attends to its outputs."""

    architecture: Literal["rnn_encoder_decoder"] = "rnn_encoder_decoder"
    width: Count = field(
        256,
        "Units of each layer (in the encoder: of each direction), and size of the token "
        "embeddings.",
    )
    depth: Count = field(1, "Number of layers in the decoder. The first one attends to the source.")
    encoder_depth: Count | None = field(
        meaning="Number of layers in the encoder; none: as many as in the decoder (model.depth).",
        unit="layers",
    )
    input_feeding: bool = field(
        True,
        "Whether the attention context is an input of the decoder's first layer. If false, only "
        "the layers above read it, and training is faster.",
    )


class Sound(Pooled):
    """Base class of models that read recordings."""

    modalities: ClassVar = ("transcribed_sound", "labelled_sound")
    outputs: ClassVar = ("transcript", "classes")

    subsampling: Literal[1, 2, 4] = field(
        4,
        "Number of frames merged into one position. CTC needs at least one position per label.",
        unit="frames",
        aliases=("subsampling_factor", "time_reduction", "downsampling"),
    )
    subsampling_channels: Count = field(
        32,
        "Channels of the two convolutions that merge frames.",
        unit="channels",
        aliases=("subsampling_conv_channels", "conv_channels"),
    )


class SoundStack(Sound, RotaryStack):
    """Base class of stacks with attention that read recordings."""

    positions: Literal["rotary", "none"] = field(
        meaning="Position encoding of attention: rotary (RoPE), or none."
    )


class Conformer(SoundStack):
    """A Conformer on recordings. Each block has attention and a convolution between two
    feed-forward parts (Gulati et al. 2020, arXiv:2005.08100)."""

    architecture: Literal["conformer"] = "conformer"
    feed_forward_width: Count | None = field(
        None, "Hidden size of the two feed-forward parts; none: 4 x width."
    )
    convolution_size: Annotated[int, Interval(ge=2, le=1024)] = field(
        31, "Kernel size of the depthwise convolution.", unit="positions"
    )
    convolution_norm: Literal["batch_norm", "layer_norm"] = field(
        "batch_norm",
        "Normalisation after the depthwise convolution.",
        aliases=("conv_norm_type", "conv_norm"),
    )


class SoundEncoder(SoundStack, Blocks):
    """A bidirectional stack of residual blocks on recordings: each position sees all positions."""

    bidirectional: ClassVar = True

    architecture: Literal["sound_encoder"] = "sound_encoder"


def _check_channels(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) not in (1, 3):
        raise ValueError(f"{len(numbers)} numbers are not one, or one for each of three channels")
    return numbers


_PIXEL_NUMBERS = "one number, or three separated by commas, such as 0.485,0.456,0.406"


class PictureNetwork(Architecture):
    """Base class of architectures on images that standardise pixels by numbers of the recipe."""

    modalities: ClassVar = ("pictures",)
    outputs: ClassVar = ("classes",)

    pixel_mean: Annotated[
        tuple[NonNegativeNumber, ...], pydantic.AfterValidator(_check_channels)
    ] = field(
        (0.5,),
        "Subtracted from pixel values, which are from 0 to 1: one number, or one for each channel.",
        accepts=_PIXEL_NUMBERS,
        aliases=("image_mean", "mean"),
    )
    pixel_std: Annotated[tuple[PositiveNumber, ...], pydantic.AfterValidator(_check_channels)] = (
        field(
            (0.5,),
            "Divides pixel values after model.pixel_mean is subtracted.",
            accepts=_PIXEL_NUMBERS,
            aliases=("image_std", "std"),
        )
    )


class VisionTransformer(PictureNetwork, Blocks):
    """A stack of residual blocks on the patches of an image."""

    bidirectional: ClassVar = True

    architecture: Literal["vit"] = "vit"
    patch_size: Count = field(16, "Height and width of a patch.", unit="pixels", aliases=("patch",))
    positions: Literal["learned", "sincos", "none"] = field(
        "learned",
        "Position encoding of patches: learned (a vector per patch), sincos (sines and cosines), "
        "or none.",
    )
    pooling: Literal["class_token", "mean", "max", "attention"] = field(
        "class_token",
        "Input of the classifier: the output at a learned class token, or a pooling of all "
        "patches.",
    )
    class_token_position: bool = field(
        False, "Whether the class token has a learned position embedding too."
    )

    def unused_fields(self) -> dict[str, str]:
        reasons = super().unused_fields()
        for name, needed in (("pooling", "class_token"), ("positions", "learned")):
            if getattr(self, name) != needed:
                reasons["class_token_position"] = f"model.{name} is {getattr(self, name)}"
        return reasons

    def check(self) -> None:
        super().check()
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(
                f"model.positions=sincos takes a quarter of the width for each wave, but "
                f"model.width is {self.width}: use a multiple of 4"
            )


class ResNet(PictureNetwork):
    """A residual convolutional network on images."""

    architecture: Literal["resnet"] = "resnet"
    depth: Literal[18, 26, 34, 50, 101, 152] = field(
        18,
        "Number of layers with weights: 18 for ResNet-18. Only 18 and 34 have no bottlenecks.",
        unit="layers",
    )
    width: Count = field(
        64, "Channels of the first stage. Each later stage doubles them.", unit="channels"
    )
    stem: Literal["auto", "small", "large"] = field(
        "auto",
        "First layers. small: a 3 x 3 convolution; large: a 7 x 7 convolution and max pooling; "
        "auto: small for pictures of up to 64 pixels.",
    )
    squeeze_excitation: bool = field(
        False,
        "Whether blocks have squeeze-and-excitation: learned scaling of their channels.",
        aliases=("se",),
    )
    zero_init_residual: bool = field(
        False,
        "Whether the scale of the last norm of a block is 0 at first, so that the block begins as "
        "the identity: for long training with optimizer.name=sgd. Adam makes it grow too slowly.",
        aliases=("zero_init_last", "zero_gamma"),
    )
    dropout: Fraction = field(0.0, "Dropout rate of activations before the output layer.")


class CNN(Architecture):
    """A small convolutional network: stages of convolution, batch norm and pooling, then two dense
    layers."""

    modalities: ClassVar = ("pictures",)
    outputs: ClassVar = ("classes",)

    architecture: Literal["cnn"] = "cnn"
    channels: Counts = field(
        (32, 64),
        "Channels of each stage. Each stage halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
        aliases=("filters", "features"),
    )
    width: Count = field(128, "Units of the dense layer before the output layer.")
    dropout: Fraction = field(0.0, "Dropout rate of activations of the dense layer.")


class ConvNeXt(StochasticDepth, PictureNetwork):
    """A convolutional network on images with transformer-like blocks (Liu et al. 2022,
    arXiv:2201.03545)."""

    architecture: Literal["convnext"] = "convnext"
    patch_size: Count = field(4, "Height and width of a patch.", unit="pixels")
    channels: Counts = field(
        (96, 192, 384, 768),
        "Channels of each stage. Each stage after the first halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
    )
    depths: Counts = field(
        (3, 3, 9, 3),
        "Number of blocks in each stage.",
        unit="blocks",
        accepts="one or more integers >= 1 separated by commas",
    )
    response_norm: bool = field(
        False,
        "Whether blocks have global response normalisation in place of layer scale, as in "
        "ConvNeXt V2.",
        aliases=("grn", "use_grn"),
    )
    head_norm_epsilon: PositiveNumber = field(
        1e-6,
        "Added to the variance in the last norm, before the output layer.",
        aliases=("layer_norm_eps",),
    )

    def check(self) -> None:
        if len(self.channels) != len(self.depths):
            raise ValueError(
                f"model.channels has {len(self.channels)} stages, but model.depths "
                f"{len(self.depths)}: give a number for each in both"
            )


ARCHITECTURES: tuple[type[Architecture], ...] = tuple(
    one
    for one in list(vars().values())
    if isinstance(one, type) and issubclass(one, Architecture) and kind_name(one)
)
"""All architectures: the classes above that have a name."""

if TYPE_CHECKING:
    Model = Architecture
else:
    Model = Annotated[Union[ARCHITECTURES], pydantic.Discriminator("architecture")]  # noqa: UP007
