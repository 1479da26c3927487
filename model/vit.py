"""The vision transformer, built from blocks with any mixers.

Initial values: patch projection normal, 1 / sqrt(values of a patch); positions normal,
1 / sqrt(width); class token normal, 0.02; blocks as in model/decoder.py; classifier 0.

Axes: B batch, H height, W width, C channels, T patches (and the class token), D width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.backbone import Backbone, BackboneSpec
from model.layers.dropout import apply_dropout, split_key
from model.layers.linear import WEIGHT_STD, linear, logits_head
from model.layers.numerics import Numerics
from model.layers.pooling import Pool
from model.layers.sharding import constrain, named
from model.pictures import standardized


class VisionTransformer(nnx.Module):
    """An image classifier: bidirectional blocks over the sequence of patches, ordered row by row
    (Dosovitskiy et al. 2021, arXiv:2010.11929).

    `positions`: "learned", "sincos" (fixed, in two dimensions; Beyer et al. 2022, arXiv:2205.01580)
        or "none".
    `pooling`: a kind of `model.layers.pooling.POOLINGS`, or "class_token": a learned vector is
        inserted before the patches, and its output is classified.
    `class_token_position`: whether the class token also has a learned position, the first row of
        the position table, as in the paper.
    `image_shape`: (height, width, channels).
    `pixel_mean`, `pixel_std`: as in `model.pictures.standardized`.
    `blocks`: the other fields of `BackboneSpec`.

    Raises ValueError if a side is not a multiple of `patch_size`.
    """

    def __init__(
        self,
        *,
        patch_size: int,
        positions: str,
        pooling: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        numerics: Numerics,
        rngs: nnx.Rngs,
        class_token_position: bool = False,
        pixel_mean: Sequence[float] = (0.5,),
        pixel_std: Sequence[float] = (0.5,),
        **blocks: Any,
    ):
        spec = BackboneSpec(causal=False, rotary_base=None, **blocks)
        *sides, channels = image_shape
        if any(side % patch_size for side in sides):
            height, width = sides
            raise ValueError(f"pictures of {height} x {width} are no patches of {patch_size}")
        rows, columns = (side // patch_size for side in sides)
        width = spec.width
        self.patches = linear(
            (patch_size, patch_size, channels),
            width,
            (None, None, None, "embed"),
            numerics,
            rngs,
            std=(patch_size * patch_size * channels) ** -0.5,
            use_bias=True,
        )
        self.positions = self.class_token = nnx.data(None)
        normal = nnx.initializers.normal
        if positions == "learned":
            shape = (class_token_position + rows * columns, width)
            table_TD = normal(width**-0.5)(rngs.params(), shape, numerics.param_dtype)
            self.positions = nnx.Param(table_TD, **named("positions", "embed"))
        if pooling == "class_token":
            token_D = normal(WEIGHT_STD)(rngs.params(), (width,), numerics.param_dtype)
            self.class_token = nnx.Param(token_D, **named("embed"))
        self.backbone = Backbone(spec, numerics, rngs)
        kind = "first" if pooling == "class_token" else pooling
        self.pool = Pool(kind, width, numerics, rngs, num_heads=spec.num_heads)
        self.classes = logits_head(
            width, num_classes, ("embed", "classes"), numerics, rngs, std=0.0
        )
        self.patch_size, self.grid, self.width = patch_size, (rows, columns), width
        self.has_sincos_positions = positions == "sincos"
        self.class_token_position = class_token_position
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.dropout_rate, self.dtype = spec.dropout, numerics.dtype

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map images [B, H, W, C], uint8 0..255 or floats 0..1, to logits, float32 [B, classes].

        `train` has no effect. Dropout is applied only if `dropout_key` is given.
        """
        keys = split_key(dropout_key)
        x_BHWC = standardized(image_BHWC, self.pixel_mean, self.pixel_std, self.dtype)
        (rows, columns), size = self.grid, self.patch_size
        B, _, _, C = x_BHWC.shape
        patches = x_BHWC.reshape(B, rows, size, columns, size, C).swapaxes(2, 3)
        x_BTD = self.patches(patches.reshape(B, rows * columns, size, size, C))
        x_BTD = constrain(x_BTD, "batch", "length", "width")
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[...][self.class_token_position :].astype(self.dtype)
        elif self.has_sincos_positions:
            x_BTD = x_BTD + sincos_positions(rows, columns, self.width).astype(self.dtype)
        if self.class_token is not None:
            token_D = self.class_token[...].astype(self.dtype)
            if self.class_token_position:
                assert self.positions is not None
                token_D = token_D + self.positions[...][0].astype(self.dtype)
            token_B1D = jnp.broadcast_to(token_D, (B, 1, self.width))
            x_BTD = jnp.concatenate([token_B1D, x_BTD], axis=1)
        x_BTD, _ = self.backbone(
            apply_dropout(x_BTD, self.dropout_rate, keys[0]), dropout_key=keys[1]
        )
        return constrain(self.classes(self.pool(x_BTD)), "batch", "classes")


def sincos_positions(rows: int, columns: int, width: int) -> jax.Array:
    """Return fixed position vectors of patches, float32 [rows · columns, width].

    A vector contains sines and cosines of the patch's column, then of its row, width / 4 values
    each. Wavelengths are from 2 pi to 20,000 pi patches. Raises ValueError if the width is not a
    multiple of 4.
    """
    if width % 4:
        raise ValueError(f"positions in two dimensions need a width of multiples of 4, not {width}")
    frequency_q = 10_000.0 ** -np.linspace(0, 1, width // 4)
    row, column = np.indices((rows, columns)).reshape(2, -1, 1)
    parts = [wave(index * frequency_q) for index in (column, row) for wave in (np.sin, np.cos)]
    return jnp.asarray(np.concatenate(parts, axis=1), jnp.float32)
