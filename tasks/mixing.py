"""Mix pairs of images in a batch with mixup and CutMix.

Axes: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp


def mix_images(
    image_BHWC: jax.Array,
    label_B: jax.Array,
    weights_B: jax.Array,
    key: jax.Array,
    *,
    mixup: float,
    cutmix: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mix each image of a batch with another one.

    Returns the mixed images as floats from 0 to 1 [B, H, W, C], the labels of the other images [B],
    and the share of each image's own label [B].

    Row b is mixed with row B - 1 - b, unless the weight of that row is 0. Mixup (Zhang et al. 2018,
    arXiv:1710.09412, eq. 1) adds x times the image and 1 - x times the other image; x is drawn from
    Beta(mixup, mixup) for each row. CutMix (Yun et al. 2019, arXiv:1905.04899, section 3) covers
    1 - x of the area with a patch of the other image; x is drawn from Beta(cutmix, cutmix). The
    patch is cropped at the edges, and the share is the fraction of pixels that stay visible.
    `mixup=0` or `cutmix=0` switches that method off. If both are on, each row uses one of them,
    chosen at random. The result does not depend on the number of devices.
    """
    B, H, W, _ = image_BHWC.shape
    x_BHWC = image_BHWC.astype(jnp.float32)
    if jnp.issubdtype(image_BHWC.dtype, jnp.integer):
        x_BHWC = x_BHWC / 255
    choice_key, blend_key, cut_key, place_key = jax.random.split(key, 4)
    other_BHWC, other_B = x_BHWC[::-1], label_B[::-1]

    blended_B = jnp.ones(B)
    if mixup:
        blended_B = jax.random.beta(blend_key, mixup, mixup, (B,))
    own_BHW = jnp.broadcast_to(blended_B[:, None, None], (B, H, W))
    if cutmix:
        side_B = jnp.sqrt(1 - jax.random.beta(cut_key, cutmix, cutmix, (B,)))
        middle_2B = jax.random.uniform(place_key, (2, B))
        inside_BHW = (
            _inside(middle_2B[0], side_B, H)[:, :, None] & _inside(middle_2B[1], side_B, W)[:, None]
        )
        cut_B = jnp.ones(B, bool)
        if mixup:
            cut_B = jax.random.bernoulli(choice_key, 0.5, (B,))
        own_BHW = jnp.where(cut_B[:, None, None], 1.0 - inside_BHW, own_BHW)
    own_BHW = jnp.where(weights_B[::-1, None, None] > 0, own_BHW, 1.0)
    share_B = jnp.mean(own_BHW, axis=(1, 2))
    own_BHW1 = own_BHW[..., None]
    return own_BHW1 * x_BHWC + (1 - own_BHW1) * other_BHWC, other_B, share_B


def _inside(middle_B: jax.Array, side_B: jax.Array, size: int) -> jax.Array:
    """Return which of `size` pixels along one side the patch covers, bool [B, size]."""
    position = (jnp.arange(size) + 0.5) / size
    return jnp.abs(position - middle_B[:, None]) < side_B[:, None] / 2
