"""What is trained: the architectures and their hyperparameters."""

from typing import Annotated, Any, ClassVar, Literal, Self, Union

import pydantic

from configs.schema.blocks import Architecture, Blocks
from configs.schema.settings import (
    Count,
    Fraction,
    NonNegativeInteger,
    PositiveNumber,
    field,
)

_ARCHITECTURE = "Shape of the whole model."


def _tied_embeddings() -> Any:
    return field(
        False,
        "Whether the head reads out with the embedding of the tokens.",
        also_called=("tie_word_embeddings", "weight_tying"),
    )


def _pooling(default: str) -> Any:
    return field(
        default,
        "What a classifier makes of all positions; attention: their mean under a learned query; "
        "first_dense: the first through a dense layer and tanh, as BERT.",
        also_called=("pool", "pool_type", "global_pool"),
    )


Pooling = Literal["mean", "max", "first", "first_dense", "last", "attention"]


def _high_above_low(scaling: tuple[float, ...]) -> tuple[float, ...]:
    if scaling[2] <= scaling[1]:
        raise ValueError("the third is not above the second")
    return scaling


Scaling = Annotated[
    tuple[PositiveNumber, PositiveNumber, PositiveNumber, PositiveNumber],
    pydantic.AfterValidator(_high_above_low),
]


class TokenBlocks(Blocks):
    """What all stacks of blocks on tokens have."""

    positions: Literal["rotary", "learned", "none"] = field(
        "rotary",
        "How attention knows order: rotated queries and keys, or a vector per position.",
        also_called=("position_embedding", "pos_emb", "rope"),
    )
    rotary_base: PositiveNumber = field(
        10000.0,
        "Wavelengths of rotary positions grow up to 2 pi times this.",
        unit="tokens",
        also_called=("rope_theta", "rope_base"),
    )
    rotary_scaling: Scaling | None = field(
        None,
        "How rotary positions are stretched, as Llama 3.1's: factor, low and high frequency "
        "factor, and the length in tokens before; none: as they are.",
        accepts="four numbers > 0 separated by commas, the third above the second, such as "
        "8,1,4,8192",
        also_called=("rope_scaling",),
    )
    tied_embeddings: bool = _tied_embeddings()
    logit_soft_cap: PositiveNumber | None = field(
        None,
        "Bound that logits c bend towards, as c tanh(logits / c); none: no bound.",
        also_called=("final_logit_softcapping", "softcap", "logits_soft_cap"),
    )

    def needless(self) -> dict[str, str]:
        reasons, rotary = super().needless(), ("rotary_base", "rotary_scaling")
        if self.positions != "rotary":
            reasons |= dict.fromkeys(rotary, f"model.positions is {self.positions}")
        if "A" not in self.pattern:
            why = f"model.pattern={self.pattern} has no A (attention)"
            reasons |= dict.fromkeys(rotary, why)
            if self.positions == "rotary":
                reasons["positions"] = f"{why}, which alone rotates"
        return reasons

    @pydantic.model_validator(mode="after")
    def _heads_can_rotate(self) -> Self:
        head_dim = self.head_dim or self.width // self.num_heads
        if "A" in self.pattern and self.positions == "rotary" and head_dim % 2:
            source = "model.head_dim" if self.head_dim else "model.width / model.num_heads"
            raise ValueError(
                f"rotary positions turn pairs of numbers, but {source} is {head_dim}, which is "
                f"odd: use {head_dim + 1}, or another model.positions"
            )
        return self


class Decoder(TokenBlocks):
    """A stack of residual blocks on tokens, each of which sees those before it."""

    modalities: ClassVar = ("text", "labelled_text")
    gives: ClassVar = ("next_tokens", "classes")

    architecture: Literal["decoder"] = field("decoder", _ARCHITECTURE)
    pooling: Pooling = _pooling("last")


class Encoder(TokenBlocks):
    """A stack of residual blocks on tokens, each of which sees all others."""

    sees_all: ClassVar = True
    modalities: ClassVar = ("text", "labelled_text")
    gives: ClassVar = ("missing_tokens", "classes")

    architecture: Literal["encoder"] = field("encoder", _ARCHITECTURE)
    pooling: Pooling = _pooling("mean")
    token_types: NonNegativeInteger = field(
        0,
        "Vectors for kinds of tokens, the first of which is added to each, as in BERT; 0: none.",
        also_called=("type_vocab_size", "segment_embeddings"),
    )
    embedding_norm: bool = field(
        False,
        "Whether the vectors of tokens are normalised before the first block, as in BERT.",
        also_called=("layernorm_embedding",),
    )
    head_transform: bool = field(
        False,
        "Whether the head of tokens has a dense layer and a norm before it, and a bias, as BERT's.",
        also_called=("lm_head_transform", "cls_predictions"),
    )


class RNN(Architecture):
    """Layers of recurrent cells on tokens, on top of each other, and nothing else."""

    modalities: ClassVar = ("text", "labelled_text")
    gives: ClassVar = ("next_tokens", "classes")

    architecture: Literal["rnn"] = field("rnn", _ARCHITECTURE)
    width: Count = field(
        200,
        "Units of each layer, and size of the vector of each token.",
        also_called=("hidden_size", "units", "nhid", "emsize"),
    )
    depth: Count = field(2, "Layers.", unit="layers", also_called=("num_layers", "nlayers"))
    recurrence: Literal["lstm", "gru", "elman", "elman_relu"] = field(
        "lstm", "Kind of the cells.", also_called=("rnn_type", "cell", "rnn")
    )
    bidirectional: bool = field(False, "Whether each layer runs both ways; of classifiers alone.")
    tied_embeddings: bool = _tied_embeddings()
    dropout: Fraction = field(
        0.0,
        "Share of activations before, between and after the layers that training sets to zero.",
        also_called=("dropout_rate", "dropout_prob"),
    )
    pooling: Pooling = _pooling("mean")


class VisionTransformer(Blocks):
    """A stack of residual blocks on the patches of a picture."""

    sees_all: ClassVar = True
    modalities: ClassVar = ("pictures",)
    gives: ClassVar = ("classes",)

    architecture: Literal["vit"] = field("vit", _ARCHITECTURE)
    patch_size: Count = field(
        16, "Height and width of a patch.", unit="pixels", also_called=("patch",)
    )
    positions: Literal["learned", "sincos", "none"] = field(
        "learned",
        "How blocks know where a patch is: a vector learned for each, or sines and cosines.",
        also_called=("position_embedding", "pos_emb", "posemb"),
    )
    pooling: Literal["class_token", "mean", "max", "attention"] = field(
        "class_token",
        "What the classes are read from: a vector learned for it, or all patches' pooled.",
        also_called=("pool", "pool_type", "classifier"),
    )
    class_token_position: bool = field(
        False, "Whether the vector that the classes are read from has a learned position too."
    )

    def needless(self) -> dict[str, str]:
        reasons = super().needless()
        for name, needed in (("pooling", "class_token"), ("positions", "learned")):
            if getattr(self, name) != needed:
                reasons["class_token_position"] = f"model.{name} is {getattr(self, name)}"
        return reasons

    @pydantic.model_validator(mode="after")
    def _positions_have_four_parts(self) -> Self:
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(
                f"model.positions=sincos takes a quarter of the width for each wave, but "
                f"model.width is {self.width}: use a multiple of 4"
            )
        return self


class ResNet(Architecture):
    """A residual network of convolutions on pictures."""

    modalities: ClassVar = ("pictures",)
    gives: ClassVar = ("classes",)

    architecture: Literal["resnet"] = field("resnet", _ARCHITECTURE)
    depth: Literal[18, 34, 50] = field(
        18, "Layers with weights.", unit="layers", also_called=("num_layers",)
    )
    width: Count = field(
        64,
        "Channels of the first stage; each other one has twice those before it.",
        unit="channels",
        also_called=("num_filters", "base_width", "channels"),
    )
    stem: Literal["auto", "small", "large"] = field(
        "auto",
        "What comes first: 3 x 3 for small pictures, 7 x 7 and pooling; auto: small up to 64 "
        "pixels.",
    )
    squeeze_excitation: bool = field(
        False, "Whether blocks weight their channels.", also_called=("se",)
    )
    dropout: Fraction = field(
        0.0,
        "Share of activations before the classes that training sets to zero.",
        also_called=("dropout_rate", "dropout_prob"),
    )


class CNN(Architecture):
    """Stages of convolution, batch norm and pooling, then a dense layer and the classes."""

    modalities: ClassVar = ("pictures",)
    gives: ClassVar = ("classes",)

    architecture: Literal["cnn"] = field("cnn", _ARCHITECTURE)
    channels: Annotated[tuple[Count, ...], pydantic.Field(min_length=1)] = field(
        (32, 64),
        "Channels of each stage; each stage halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
        also_called=("filters", "features"),
    )
    width: Count = field(
        128,
        "Size of the dense layer before the classes.",
        also_called=("hidden_size", "dense"),
    )
    dropout: Fraction = field(
        0.0,
        "Share of activations of the dense layer that training sets to zero.",
        also_called=("dropout_rate", "dropout_prob"),
    )


class ConvNeXt(Architecture):
    """A convolutional network of blocks like a transformer's, on pictures."""

    modalities: ClassVar = ("pictures",)
    gives: ClassVar = ("classes",)

    architecture: Literal["convnext"] = field("convnext", _ARCHITECTURE)
    patch_size: Count = field(
        4, "Height and width of a patch.", unit="pixels", also_called=("patch",)
    )
    channels: Annotated[tuple[Count, ...], pydantic.Field(min_length=1)] = field(
        (96, 192, 384, 768),
        "Channels of each stage; each but the first halves height and width.",
        unit="channels",
        accepts="one or more integers >= 1 separated by commas",
        also_called=("dims", "filters", "features"),
    )
    depths: Annotated[tuple[Count, ...], pydantic.Field(min_length=1)] = field(
        (3, 3, 9, 3),
        "Blocks of each stage.",
        unit="blocks",
        accepts="one or more integers >= 1 separated by commas",
    )
    stochastic_depth: Fraction = field(
        0.0,
        "Share of examples for which training leaves out what the last block adds; less before, "
        "in proportion.",
        also_called=("drop_path", "drop_path_rate"),
    )

    @pydantic.model_validator(mode="after")
    def _stages_are_as_many(self) -> Self:
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
"""The kinds of the section `model`: every class above that says its `architecture`."""

Model = Annotated[Union[ARCHITECTURES], pydantic.Discriminator("architecture")]  # noqa: UP007
