"""The vision transformer, and every other mixer on patches of a picture.

Initial values: patches normal, 1 / sqrt(numbers of a patch); positions normal, 1 / sqrt(width), the
class token 0.02; the blocks as in model/decoder.py; the classes 0.

Axes: B batch, H height, W width, C channels, T patches (and the class token), D width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from model.backbone import Backbone
from model.layers.dropout import dropout as drop
from model.layers.linear import WEIGHT_STD, class_head, linear
from model.layers.pooling import Pool
from model.layers.sharding import constrain, named
from model.pictures import normalized


class VisionTransformer(nnx.Module):
    """Patches as a sequence (Dosovitskiy et al. 2021, arXiv:2010.11929), row by row, through blocks
    that see all of it; then the classes.

    `positions`: "learned", "sincos" (fixed, in two dimensions; Beyer et al. 2022,
    arXiv:2205.01580) or "none". `pooling`: "class_token", a learned vector before the patches
    whose result is read, or one of `model.layers.pooling`. With `class_token_position` that vector
    too has a learned position, the first of the table, as in the paper. `image_shape` is (height,
    width, channels), its sides multiples of `patch_size`. `blocks`: the other arguments of
    `model.backbone.Backbone`.
    """

    def __init__(
        self,
        *,
        patch_size: int,
        width: int,
        num_heads: int,
        positions: str,
        pooling: str,
        dropout: float,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        class_token_position: bool = False,
        **blocks: Any,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        height, wide, channels = image_shape
        if height % patch_size or wide % patch_size:
            raise ValueError(f"pictures of {height} x {wide} are no patches of {patch_size}")
        grid = (height // patch_size, wide // patch_size)
        numbers_of_a_patch = patch_size * patch_size * channels
        self.patches = linear(
            (patch_size, patch_size, channels),
            (width,),
            (None, None, None, "embed"),
            std=numbers_of_a_patch**-0.5,
            use_bias=True,
            **numbers,
        )
        self.positions = self.class_token = nnx.data(None)
        normal = nnx.initializers.normal
        if positions == "learned":
            shape = (class_token_position + grid[0] * grid[1], width)
            table_TD = normal(width**-0.5)(rngs.params(), shape, jnp.dtype(param_dtype))
            self.positions = nnx.Param(table_TD, **named("positions", "embed"))
        if pooling == "class_token":
            token_D = normal(WEIGHT_STD)(rngs.params(), (width,), jnp.dtype(param_dtype))
            self.class_token = nnx.Param(token_D, **named("embed"))
        self.backbone = Backbone(
            width=width,
            num_heads=num_heads,
            causal=False,
            rotary_base=None,
            dropout=dropout,
            **blocks,
            **numbers,
        )
        kind = "first" if pooling == "class_token" else pooling
        self.pool = Pool(kind, width, num_heads=num_heads, **numbers)
        self.classes = class_head(width, num_classes, std=0.0, **numbers)
        self.patch_size, self.grid, self.width = patch_size, grid, width
        self.fixed_positions, self.class_token_position = (
            positions == "sincos",
            class_token_position,
        )
        self.dropout_rate, self.dtype = dropout, jnp.dtype(dtype)

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Pictures, uint8 0..255 or floats 0..1 -> logits, float32 [B, classes]; the same in
        training and after it, but for dropout, which acts only where a key is given."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BHWC = 2 * normalized(image_BHWC, self.dtype) - 1
        (rows, columns), size = self.grid, self.patch_size
        B, _, _, C = x_BHWC.shape
        patches = x_BHWC.reshape(B, rows, size, columns, size, C).swapaxes(2, 3)
        x_BTD = self.patches(patches.reshape(B, rows * columns, size, size, C))
        x_BTD = constrain(x_BTD, "batch", "length", "width")
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[...][self.class_token_position :].astype(self.dtype)
        elif self.fixed_positions:
            x_BTD = x_BTD + sincos_positions(rows, columns, self.width).astype(self.dtype)
        if self.class_token is not None:
            token_D = self.class_token[...].astype(self.dtype)
            if self.class_token_position:
                token_D = token_D + self.positions[...][0].astype(self.dtype)
            token_B1D = jnp.broadcast_to(token_D, (B, 1, self.width))
            x_BTD = jnp.concatenate([token_B1D, x_BTD], axis=1)
        x_BTD, _ = self.backbone(drop(x_BTD, self.dropout_rate, keys[0]), dropout_key=keys[1])
        return constrain(self.classes(self.pool(x_BTD)).astype(jnp.float32), "batch", "classes")


def sincos_positions(rows: int, columns: int, width: int) -> jax.Array:
    """Sines and cosines of the row and of the column of each patch, a quarter of the width each,
    of wavelengths from 2 pi to 10,000 times that. float32 [rows · columns, width]."""
    if width % 4:
        raise ValueError(f"positions in two dimensions need a width of multiples of 4, not {width}")
    frequency_q = 10_000.0 ** -np.linspace(0, 1, width // 4)
    row, column = np.indices((rows, columns)).reshape(2, -1, 1)
    parts = [wave(place * frequency_q) for place in (column, row) for wave in (np.sin, np.cos)]
    return jnp.asarray(np.concatenate(parts, axis=1), jnp.float32)
