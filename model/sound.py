"""Models of sound: what stands around their bodies, and the encoder made of any mixers.

Initial values: convolutions He normal, the projection after them normal, 1 / sqrt(its inputs); the
head normal, 0.02; the blocks as in model/decoder.py.

Axes: B batch, T frames, F mel bands, U positions (what is left of the frames), C channels,
D width, V vocabulary, its last entry the blank.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.backbone import Backbone
from model.layers.activations import captured
from model.layers.convolution import convolution
from model.layers.dropout import dropout as drop
from model.layers.linear import class_head, linear
from model.layers.pooling import Pool
from model.layers.sharding import constrain

STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}
"""Along the frames, of the two convolutions, by the factor that they shorten a recording by."""


class Subsampling(nnx.Module):
    """Frames to fewer vectors: two convolutions of 3 x 3 over time and frequency, each with a
    rectifier and of stride 2 along the frequency, then a projection (as Dong et al. 2018,
    "Speech-Transformer", section 3.2, has it; and Gulati et al. 2020, arXiv:2005.08100).

    `factor` frames become one position: 4, 2 or 1. Before and behind a recording there are zeros,
    in whatever batch it stands.
    """

    def __init__(
        self,
        num_mels: int,
        width: int,
        *,
        factor: int,
        channels: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if factor not in STRIDES:
            raise ValueError(f"subsampling {factor}: choose from {sorted(STRIDES)}")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.strides, self.dtype = STRIDES[factor], jnp.dtype(dtype)
        self.convolutions = nnx.List(
            [
                convolution(
                    inputs,
                    channels,
                    kernel_size=3,
                    strides=(stride, 2),
                    padding=((1, 1), (1, 1)),  # "SAME" would shift a recording by its length
                    use_bias=True,
                    **numbers,
                )
                for inputs, stride in zip((1, channels), self.strides, strict=True)
            ]
        )
        features = -(-num_mels // 4) * channels
        self.projection = linear(
            (features,),
            (width,),
            ("channels_out", "embed"),
            std=features**-0.5,
            use_bias=True,
            **numbers,
        )

    def __call__(
        self, frames_BTF: jax.Array, segments_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[B, T, F] -> [B, U, D], and which of these are of a recording: int32 [B, U]."""
        x_BTFC = frames_BTF[..., None].astype(self.dtype)
        for layer, stride in zip(self.convolutions, self.strides, strict=True):
            x_BTFC = jnp.where((segments_BT != 0)[:, :, None, None], x_BTFC, 0)
            x_BTFC = captured(nnx.relu(layer(x_BTFC)))
            x_BTFC = constrain(x_BTFC, "batch", None, None, "channels_out")
            segments_BT = segments_BT[:, ::stride]
        x_BUD = self.projection(x_BTFC.reshape(*x_BTFC.shape[:2], -1))
        return constrain(x_BUD, "batch", "length", "width"), segments_BT


class SoundModel(nnx.Module):
    """Subsampled frames, a body, and the logits of what is said at each position; or, with
    `num_classes`, what `pooling` makes of all positions and the logits of classes.

    A subclass has the body, `body(x_BUD, segments_BU=..., dropout_key=..., train=...) -> x_BUD`.
    `max_frames` and `max_labels` of the data decide nothing here. Computes in `dtype`, keeps
    parameters in `param_dtype`; the logits are float32.
    """

    def __init__(
        self,
        *,
        width: int,
        subsampling: int,
        subsampling_channels: int,
        dropout: float,
        pooling: str,
        num_mels: int,
        max_frames: int,
        vocabulary_size: int | None = None,
        max_labels: int | None = None,
        num_classes: int | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.subsampling = Subsampling(
            num_mels, width, factor=subsampling, channels=subsampling_channels, **numbers
        )
        self.pool = self.classes = self.head = nnx.data(None)
        if num_classes is not None:
            self.pool = Pool(pooling, width, **numbers)
            self.classes = class_head(width, num_classes, **numbers)
        else:
            self.head = linear(
                (width,),
                (vocabulary_size,),
                ("embed", "vocabulary"),
                use_bias=True,
                preferred_element_type=jnp.float32,
                **numbers,
            )
        self.dropout_rate, self.vocabulary_size = dropout, vocabulary_size

    def body(
        self,
        x_BUD: jax.Array,
        *,
        segments_BU: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """[B, U, D] -> [B, U, D]; positions of segment 0 are padding."""
        raise NotImplementedError

    def transcribe(
        self,
        frames_BTF: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Frames [B, T, F], of which those of segment 0 are padding -> logits of a label, or of the
        blank, at each position, float32 [B, U, V]; and the positions' own segments, int32 [B, U].

        `train`: batch norm takes and moves statistics. Dropout acts only where a key is given.
        """
        x_BUD, segments_BU = self._hidden(frames_BTF, segments_BT, dropout_key, train)
        logits_BUV = self.head(x_BUD).astype(jnp.float32)
        return constrain(logits_BUV, "batch", "length", "vocabulary"), segments_BU

    def classify(
        self,
        frames_BTF: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """As `transcribe` -> logits of the classes of each recording, float32 [B, C]."""
        hidden_key = pool_key = None
        if dropout_key is not None:
            hidden_key, pool_key = jax.random.split(dropout_key)
        x_BUD, segments_BU = self._hidden(frames_BTF, segments_BT, hidden_key, train)
        x_BD = drop(self.pool(x_BUD, segments_BU != 0), self.dropout_rate, pool_key)
        return constrain(self.classes(x_BD).astype(jnp.float32), "batch", "classes")

    def _hidden(
        self,
        frames_BTF: jax.Array,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BUD, segments_BU = self.subsampling(frames_BTF, segments_BT)
        x_BUD = drop(x_BUD, self.dropout_rate, keys[0])
        return self.body(
            x_BUD, segments_BU=segments_BU, dropout_key=keys[1], train=train
        ), segments_BU


def is_rotary(positions: str) -> bool:
    """Whether `positions`, "rotary" or "none", rotate queries and keys."""
    if positions not in ("rotary", "none"):
        raise ValueError(f"positions {positions!r}: choose 'rotary' or 'none'")
    return positions == "rotary"


class SoundEncoder(SoundModel):
    """A stack of residual blocks of any mixers on a recording, where each position sees all others.

    `pattern` has a letter for each block, repeated to the `depth`: "A" attention (a Transformer
    encoder), "C" convolution, "R" recurrence both ways. `blocks`: the other arguments of
    `model.backbone.Backbone`.
    """

    def __init__(
        self,
        *,
        width: int,
        subsampling: int,
        subsampling_channels: int,
        positions: str,
        rotary_base: float,
        dropout: float,
        pooling: str,
        num_mels: int,
        max_frames: int,
        vocabulary_size: int | None = None,
        max_labels: int | None = None,
        num_classes: int | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        **blocks: Any,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            width=width,
            subsampling=subsampling,
            subsampling_channels=subsampling_channels,
            dropout=dropout,
            pooling=pooling,
            num_mels=num_mels,
            max_frames=max_frames,
            vocabulary_size=vocabulary_size,
            max_labels=max_labels,
            num_classes=num_classes,
            **numbers,
        )
        self.backbone = Backbone(
            width=width,
            causal=False,
            rotary_base=rotary_base if is_rotary(positions) else None,
            dropout=dropout,
            **blocks,
            **numbers,
        )

    def body(
        self,
        x_BUD: jax.Array,
        *,
        segments_BU: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        x_BUD, _ = self.backbone(x_BUD, segments_BT=segments_BU, dropout_key=dropout_key)
        return x_BUD
