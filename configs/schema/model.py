"""The configuration section `model`: the architectures and their hyperparameters."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

import pydantic
from annotated_types import Interval

from configs.schema.blocks import (
    PATTERN_LETTERS,
    Architecture,
    Blocks,
    Pattern,
    RotaryStack,
    dropout_field,
    positions_field,
    stochastic_depth_field,
)
from configs.schema.settings import (
    Count,
    Fraction,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveNumber,
    field,
)

_ARCHITECTURE = "Architecture of the model."


def _tied_embeddings(default: bool = False) -> Any:
    return field(
        default,
        "Whether the output head uses the token embedding as its weights.",
        aliases=("tie_word_embeddings", "weight_tying"),
    )


def _pooling(default: str) -> Any:
    return field(
        default,
        "How a classifier pools the positions. attention: attention pooling with a learned query; "
        "first_dense: the first position, then a dense layer and tanh, as in BERT.",
        aliases=("pool", "pool_type", "global_pool"),
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


class TokenBlocks(RotaryStack, Blocks):
    """Base class of models that are stacks of residual blocks and read tokens."""

    rotary_scaling: Scaling | None = field(
        None,
        "Scaling of rotary positions (RoPE) as in Llama 3.1: factor, low and high frequency "
        "factor, and original length in tokens; none: no scaling.",
        accepts="four numbers > 0 separated by commas, the third above the second, such as "
        "8,1,4,8192",
        aliases=("rope_scaling",),
    )
    tied_embeddings: bool = _tied_embeddings()
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


TokenPositions = Literal["rotary", "learned", "none"]


def _token_positions() -> Any:
    return positions_field(
        "Position encoding: rotary (RoPE), learned (a vector per position), or none."
    )


class Decoder(TokenBlocks):
    """A causal stack of residual blocks on tokens: a token sees itself and earlier tokens."""

    modalities: ClassVar = ("text", "labelled_text")
    outputs: ClassVar = ("next_tokens", "classes")

    architecture: Literal["decoder"] = field(
        "decoder", _ARCHITECTURE, aliases=("arch", "model_type", "model_name")
    )
    positions: TokenPositions = _token_positions()
    pooling: Pooling = _pooling("last")


class Encoder(TokenBlocks):
    """A bidirectional stack of residual blocks on tokens: each token sees all tokens."""

    bidirectional: ClassVar = True
    modalities: ClassVar = ("text", "labelled_text")
    outputs: ClassVar = ("missing_tokens", "classes")

    architecture: Literal["encoder"] = field("encoder", _ARCHITECTURE)
    positions: TokenPositions = _token_positions()
    pooling: Pooling = _pooling("mean")
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


Cell = Literal["lstm", "gru", "elman", "elman_relu"]


def _cell() -> Any:
    return field("lstm", "Kind of recurrent cell.", aliases=("rnn_type", "cell", "rnn"))


class RNN(Architecture):
    """A stack of recurrent layers on tokens."""

    modalities: ClassVar = ("text", "labelled_text")
    outputs: ClassVar = ("next_tokens", "classes")

    architecture: Literal["rnn"] = field("rnn", _ARCHITECTURE)
    width: Count = field(
        200,
        "Units of each layer, and size of the token embeddings.",
        aliases=("hidden_size", "units", "nhid", "emsize"),
    )
    depth: Count = field(
        2, "Number of recurrent layers.", unit="layers", aliases=("num_layers", "nlayers")
    )
    recurrence: Cell = _cell()
    bidirectional: bool = field(
        False, "Whether each layer runs in both directions; for classifiers only."
    )
    tied_embeddings: bool = _tied_embeddings()
    dropout: Fraction = dropout_field("activations before, between and after the layers")
    pooling: Pooling = _pooling("mean")


def _shared_embeddings() -> Any:
    return field(
        True,
        "Whether source and target tokens share one embedding table.",
        aliases=("share_embeddings", "share_all_embeddings"),
    )


class EncoderDecoder(TokenBlocks):
    """An encoder and a decoder of residual blocks; the decoder attends to the encoder's outputs."""

    modalities: ClassVar = ("text_pairs",)
    outputs: ClassVar = ("target_tokens",)

    architecture: Literal["encoder_decoder"] = field("encoder_decoder", _ARCHITECTURE)
    encoder_depth: Count | None = field(
        None,
        "Number of blocks in the encoder; none: as many as in the decoder (model.depth).",
        unit="blocks",
        aliases=("encoder_layers", "num_encoder_layers", "enc_layers"),
    )
    encoder_pattern: Pattern | None = field(
        None,
        "Mixers of the encoder's blocks, repeated up to its depth; none: as in the decoder "
        "(model.pattern).",
        accepts=PATTERN_LETTERS,
    )
    positions: Literal["sinusoidal", "sinusoidal_fairseq", "learned", "rotary", "none"] = (
        positions_field(
            "Position encoding: sinusoidal, sinusoidal_fairseq (as in fairseq and M2M100), "
            "learned (a vector per position), rotary (RoPE), or none."
        )
    )
    shared_embeddings: bool = _shared_embeddings()
    tied_embeddings: bool = _tied_embeddings(True)

    @property
    def mixers(self) -> str:
        return self.pattern + (self.encoder_pattern or "")

    @property
    def has_attention(self) -> bool:
        return True  # the decoder's attention to the source

    @pydantic.model_validator(mode="after")
    def _check_encoder(self) -> Self:
        name = "pattern" if self.encoder_pattern is None else "encoder_pattern"
        pattern = (name, self.encoder_pattern or self.pattern)
        depth = ("depth", self.depth)
        if self.encoder_depth is not None:
            depth = ("encoder_depth", self.encoder_depth)
        self._check_layers(*depth, *pattern)
        self._check_halves(*pattern)
        return self

    @pydantic.model_validator(mode="after")
    def _check_sinusoidal(self) -> Self:
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
        return self


class RNNEncoderDecoder(Architecture):
    """A bidirectional recurrent encoder, and a recurrent decoder that attends to its outputs."""

    modalities: ClassVar = ("text_pairs",)
    outputs: ClassVar = ("target_tokens",)

    architecture: Literal["rnn_encoder_decoder"] = field("rnn_encoder_decoder", _ARCHITECTURE)
    width: Count = field(
        256,
        "Units of each layer (in the encoder: of each direction), and size of the token "
        "embeddings.",
        aliases=("hidden_size", "units", "nhid", "emsize"),
    )
    depth: Count = field(
        1,
        "Number of layers in the decoder. The first one attends to the source.",
        unit="layers",
        aliases=("num_layers", "nlayers"),
    )
    encoder_depth: Count | None = field(
        None,
        "Number of layers in the encoder; none: as many as in the decoder (model.depth).",
        unit="layers",
        aliases=("encoder_layers", "num_encoder_layers", "enc_layers"),
    )
    recurrence: Cell = _cell()
    input_feeding: bool = field(
        True,
        "Whether the attention context is an input of the decoder's first layer. If false, only "
        "the layers above read it, and training is faster.",
    )
    shared_embeddings: bool = _shared_embeddings()
    tied_embeddings: bool = _tied_embeddings(True)
    dropout: Fraction = dropout_field("activations before, between and after the layers")


class Sound(Architecture):
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
    pooling: Pooling = _pooling("mean")


SoundPositions = Literal["rotary", "none"]


def _sound_positions() -> Any:
    return positions_field("Position encoding of attention: rotary (RoPE), or none.")


class Conformer(Sound, RotaryStack):
    """A Conformer on recordings. Each block has attention and a convolution between two
    feed-forward parts (Gulati et al. 2020, arXiv:2005.08100)."""

    architecture: Literal["conformer"] = field("conformer", _ARCHITECTURE)
    positions: SoundPositions = _sound_positions()
    feed_forward_width: Count | None = field(
        None,
        "Hidden size of the two feed-forward parts; none: 4 x width.",
        aliases=("mlp_dim", "intermediate_size", "d_ff", "hidden_dim"),
    )
    convolution_size: Annotated[int, Interval(ge=2, le=1024)] = field(
        31,
        "Kernel size of the depthwise convolution.",
        unit="positions",
        aliases=("conv_kernel_size", "kernel_size", "depthwise_conv_kernel_size"),
    )
    convolution_norm: Literal["batch_norm", "layer_norm"] = field(
        "batch_norm",
        "Normalisation after the depthwise convolution.",
        aliases=("conv_norm_type", "conv_norm"),
    )


class SoundEncoder(Sound, RotaryStack, Blocks):
    """A bidirectional stack of residual blocks on recordings: each position sees all positions."""

    bidirectional: ClassVar = True

    architecture: Literal["sound_encoder"] = field("sound_encoder", _ARCHITECTURE)
    positions: SoundPositions = _sound_positions()


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

    architecture: Literal["vit"] = field("vit", _ARCHITECTURE)
    patch_size: Count = field(16, "Height and width of a patch.", unit="pixels", aliases=("patch",))
    positions: Literal["learned", "sincos", "none"] = field(
        "learned",
        "Position encoding of patches: learned (a vector per patch), sincos (sines and cosines), "
        "or none.",
        aliases=("position_embedding", "pos_emb", "posemb"),
    )
    pooling: Literal["class_token", "mean", "max", "attention"] = field(
        "class_token",
        "Input of the classifier: the output at a learned class token, or a pooling of all "
        "patches.",
        aliases=("pool", "pool_type", "classifier"),
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

    @pydantic.model_validator(mode="after")
    def _check_sincos(self) -> Self:
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(
                f"model.positions=sincos takes a quarter of the width for each wave, but "
                f"model.width is {self.width}: use a multiple of 4"
            )
        return self


class ResNet(PictureNetwork):
    """A residual convolutional network on images."""

    architecture: Literal["resnet"] = field("resnet", _ARCHITECTURE)
    depth: Literal[18, 26, 34, 50, 101, 152] = field(
        18,
        "Number of layers with weights: 18 for ResNet-18. Only 18 and 34 have no bottlenecks.",
        unit="layers",
        aliases=("num_layers",),
    )
    width: Count = field(
        64,
        "Channels of the first stage. Each later stage doubles them.",
        unit="channels",
        aliases=("num_filters", "base_width", "channels"),
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
    dropout: Fraction = dropout_field("activations before the output layer")


class CNN(Architecture):
    """A small convolutional network: stages of convolution, batch norm and pooling, then two dense
    layers."""

    modalities: ClassVar = ("pictures",)
    outputs: ClassVar = ("classes",)

    architecture: Literal["cnn"] = field("cnn", _ARCHITECTURE)
    channels: Counts = field(
        (32, 64),
        "Channels of each stage. Each stage halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
        aliases=("filters", "features"),
    )
    width: Count = field(
        128, "Units of the dense layer before the output layer.", aliases=("hidden_size", "dense")
    )
    dropout: Fraction = dropout_field("activations of the dense layer")


class ConvNeXt(PictureNetwork):
    """A convolutional network on images with transformer-like blocks (Liu et al. 2022,
    arXiv:2201.03545)."""

    architecture: Literal["convnext"] = field("convnext", _ARCHITECTURE)
    patch_size: Count = field(4, "Height and width of a patch.", unit="pixels", aliases=("patch",))
    channels: Counts = field(
        (96, 192, 384, 768),
        "Channels of each stage. Each stage after the first halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
        aliases=("dims", "filters", "features"),
    )
    depths: Counts = field(
        (3, 3, 9, 3),
        "Number of blocks in each stage.",
        unit="blocks",
        accepts="one or more integers >= 1 separated by commas",
    )
    stochastic_depth: Fraction = stochastic_depth_field()
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

    @pydantic.model_validator(mode="after")
    def _check_stages(self) -> Self:
        if len(self.channels) != len(self.depths):
            raise ValueError(
                f"model.channels has {len(self.channels)} stages, but model.depths "
                f"{len(self.depths)}: give a number for each in both"
            )
        return self


ARCHITECTURES: tuple[type[Architecture], ...] = tuple(
    one
    for one in list(vars().values())
    if isinstance(one, type)
    and issubclass(one, Architecture)
    and "architecture" in one.model_fields
)
"""All architectures: the classes above that have a field `architecture`."""

if TYPE_CHECKING:
    Model = Architecture
else:
    Model = Annotated[Union[ARCHITECTURES], pydantic.Discriminator("architecture")]  # noqa: UP007
