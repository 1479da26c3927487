"""The base class of audio models, and an encoder built from blocks with any mixers.

Initial values: convolutions He normal; the projection after them normal, 1 / sqrt(inputs); the
head normal, 0.02; the blocks as in model/decoder.py.

Axes: B batch, T frames, F mel bands, U positions (after subsampling the frames), C channels,
D width, V vocabulary (its last entry is the CTC blank).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.backbone import Backbone, BackboneSpec
from model.layers.activations import captured
from model.layers.convolution import convolution
from model.layers.dropout import apply_dropout, split_key
from model.layers.linear import linear, logits_head
from model.layers.numerics import Numerics
from model.layers.pooling import Pool
from model.layers.sharding import constrain

STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}
"""The time strides of the two convolutions, for each subsampling factor."""


class Subsampling(nnx.Module):
    """Shortens a sequence of frames: two 3 x 3 convolutions over time and frequency, each with a
    ReLU and stride 2 in frequency, then a projection (Dong et al. 2018, "Speech-Transformer",
    section 3.2; Gulati et al. 2020, arXiv:2005.08100).

    `factor` frames (1, 2 or 4) become one position. Padding is set to zero before each convolution,
    so that a recording's result does not depend on the rest of the batch. Raises ValueError for
    another factor.
    """

    def __init__(
        self,
        num_mels: int,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        factor: int,
        channels: int,
    ):
        if factor not in STRIDES:
            raise ValueError(f"subsampling {factor}: choose from {sorted(STRIDES)}")
        self.strides, self.dtype = STRIDES[factor], numerics.dtype
        # The offset of "SAME" padding depends on the padded length of the batch.
        options: dict[str, Any] = {"kernel_size": 3, "padding": ((1, 1), (1, 1)), "use_bias": True}
        self.convolutions = nnx.List(
            [
                convolution(inputs, channels, numerics, rngs, strides=(stride, 2), **options)
                for inputs, stride in zip((1, channels), self.strides, strict=True)
            ]
        )
        features = -(-num_mels // 4) * channels
        axes = ("channels_out", "embed")
        self.projection = linear(
            features, width, axes, numerics, rngs, std=features**-0.5, use_bias=True
        )

    def __call__(
        self, frames_BTF: jax.Array, segments_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Map [B, T, F] to [B, U, D]; also return each position's segment number, int32 [B, U]."""
        x_BTFC = frames_BTF[..., None].astype(self.dtype)
        for layer, stride in zip(self.convolutions, self.strides, strict=True):
            x_BTFC = jnp.where((segments_BT != 0)[:, :, None, None], x_BTFC, 0)
            x_BTFC = captured(nnx.relu(layer(x_BTFC)))
            x_BTFC = constrain(x_BTFC, "batch", None, None, "channels_out")
            segments_BT = segments_BT[:, ::stride]
        x_BUD = self.projection(x_BTFC.reshape(*x_BTFC.shape[:2], -1))
        return constrain(x_BUD, "batch", "length", "width"), segments_BT


class SoundModel(nnx.Module):
    """Base class: subsamples frames, calls a body and computes label logits at each position. With
    `num_classes`, it pools over all positions and computes class logits instead.

    A subclass implements the body: `make_body` sets its layers, `body` calls them. `max_frames` and
    `max_labels` have no effect. `hyperparameters` are passed to `make_body`.
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
        numerics: Numerics,
        rngs: nnx.Rngs,
        **hyperparameters: Any,
    ):
        self.subsampling = Subsampling(
            num_mels, width, numerics, rngs, factor=subsampling, channels=subsampling_channels
        )
        self.pool = self.classes = self.head = nnx.data(None)
        if num_classes is not None:
            self.pool = Pool(pooling, width, numerics, rngs)
            self.classes = logits_head(width, num_classes, ("embed", "classes"), numerics, rngs)
        else:
            assert vocabulary_size is not None
            axes = ("embed", "vocabulary")
            self.head = logits_head(width, vocabulary_size, axes, numerics, rngs)
        self.dropout_rate, self.vocabulary_size = dropout, vocabulary_size
        self.make_body(numerics, rngs, width=width, dropout=dropout, **hyperparameters)

    def make_body(
        self, numerics: Numerics, rngs: nnx.Rngs, *_: Any, **hyperparameters: Any
    ) -> None:
        """Set the layers of the body."""
        raise NotImplementedError

    def body(
        self, x_BUD: jax.Array, segments_BU: jax.Array, dropout_key: jax.Array | None, train: bool
    ) -> jax.Array:
        """Map [B, U, D] to [B, U, D]. Positions of segment 0 are padding."""
        raise NotImplementedError

    def transcribe(
        self,
        frames_BTF: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Map frames [B, T, F] to logits of labels and the blank, float32 [B, U, V]; also return
        each position's segment number, int32 [B, U]. Segment 0 is padding in both.

        With `train`, batch norm uses the batch's statistics and updates the running statistics.
        Dropout is applied only if `dropout_key` is given.
        """
        assert self.head is not None
        x_BUD, segments_BU = self._hidden(frames_BTF, segments_BT, dropout_key, train)
        return constrain(self.head(x_BUD), "batch", "length", "vocabulary"), segments_BU

    def classify(
        self,
        frames_BTF: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Map frames [B, T, F] to class logits, float32 [B, classes]; see `transcribe`."""
        assert self.pool is not None and self.classes is not None
        hidden_key, pool_key = split_key(dropout_key)
        x_BUD, segments_BU = self._hidden(frames_BTF, segments_BT, hidden_key, train)
        x_BD = apply_dropout(self.pool(x_BUD, segments_BU != 0), self.dropout_rate, pool_key)
        return constrain(self.classes(x_BD), "batch", "classes")

    def _hidden(
        self,
        frames_BTF: jax.Array,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        keys = split_key(dropout_key)
        x_BUD, segments_BU = self.subsampling(frames_BTF, segments_BT)
        x_BUD = apply_dropout(x_BUD, self.dropout_rate, keys[0])
        x_BUD = self.body(x_BUD, segments_BU, keys[1], train)
        return x_BUD, segments_BU


def is_rotary(positions: str) -> bool:
    """Return True for "rotary" and False for "none". Raises ValueError for any other value."""
    if positions not in ("rotary", "none"):
        raise ValueError(f"positions {positions!r}: choose 'rotary' or 'none'")
    return positions == "rotary"


class SoundEncoder(SoundModel):
    """A bidirectional stack of residual blocks with attention, convolution or recurrence.

    Takes the hyperparameters of `SoundModel`, `positions` ("rotary" or "none"), `rotary_base`, and
    the other fields of `BackboneSpec` except `causal`.
    """

    def make_body(
        self,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        positions: str,
        rotary_base: float,
        **blocks: Any,
    ) -> None:
        base = rotary_base if is_rotary(positions) else None
        spec = BackboneSpec(causal=False, rotary_base=base, **blocks)
        self.backbone = Backbone(spec, numerics, rngs)

    def body(
        self, x_BUD: jax.Array, segments_BU: jax.Array, dropout_key: jax.Array | None, train: bool
    ) -> jax.Array:
        x_BUD, _ = self.backbone(x_BUD, segments_BT=segments_BU, dropout_key=dropout_key)
        return x_BUD
