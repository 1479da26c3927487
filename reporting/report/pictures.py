"""Draws arrays as images for the report page: data URLs of PNG files."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

PICTURE_SIZE = 96
"""Largest width or height of an example's image, in pixels; larger images are shrunk."""

MOST_FILTERS = 64
FILTERS_IN_A_ROW = 16
FILTER_SIZE = 48
"""Approximate width and height of a filter on the page, in pixels."""

HEAT = (209, 96, 31)
"""The page's second colour, in RGB. An attention weight is drawn as its opacity, which works in
light and dark mode."""

MOST_HEADS, MOST_PICTURE_LAYERS, MOST_TEXT_LAYERS = 8, 4, 2


def picture_url(picture: np.ndarray) -> str:
    """Return an image, uint8 [H, W, C] with C of 1, 3 or 4, as the data URL of a PNG file.
    Images larger than `PICTURE_SIZE` are shrunk."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE))  # Only shrinks; the page's CSS enlarges.
    return _data_url(image)


def frames_picture(frames: np.ndarray) -> np.ndarray:
    """Turn a recording's frames, float [T, F], into a grey image, uint8 [F, T, 1].

    Time runs to the right and pitch upwards. The largest value is white, the smallest black.
    """
    low, high = frames.min(), frames.max()
    levels = (frames - low) / max(float(high - low), 1e-6)
    return np.round(255 * levels.T[::-1]).astype(np.uint8)[..., None]


def filter_sheet(filters: np.ndarray) -> dict[str, Any]:
    """Draw the first `MOST_FILTERS` of `filters`, float [N, h, w, C], in one image.

    Return its data URL (`sheet`), the number of all filters (`count`) and of drawn ones (`shown`),
    and the `size` of a filter as text. Three channels are drawn in colour, any other number as
    their mean. Grey is zero; the weight of largest magnitude in a filter is black or white.
    """
    shown = filters[:MOST_FILTERS]
    if shown.shape[-1] != 3:
        shown = shown.mean(axis=-1, keepdims=True)
    count, height, width, channels = shown.shape
    largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    shown = shown / np.where(largest > 0, largest, 1)
    tiles = np.round(127.5 + 127.5 * shown).astype(np.uint8).repeat(3 // channels, axis=3)
    scale = max(1, FILTER_SIZE // max(height, width))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = np.concatenate([tiles, np.full_like(tiles[..., :1], 255)], axis=3)
    tiles = np.pad(tiles, ((0, 0), (2, 2), (2, 2), (0, 0)))  # Transparent gaps.
    columns = min(count, FILTERS_IN_A_ROW)
    tiles = np.pad(tiles, ((0, -count % columns), *[(0, 0)] * 3))
    rows = tiles.reshape(-1, columns, *tiles.shape[1:])
    sheet = rows.swapaxes(1, 2).reshape(rows.shape[0] * rows.shape[2], -1, 4)
    return {
        "sheet": _data_url(Image.fromarray(sheet)),
        "count": len(filters),
        "shown": count,
        "size": f"{height} × {width}",
    }


def attention_view(
    layers: Sequence[np.ndarray], example: np.ndarray | Sequence[str]
) -> dict[str, Any] | None:
    """Draw each layer's attention weights, [heads, T, T], over `example`.

    example: an image, or the tokens of a text (T, or fewer with padding). For an image, draw for
    each head how much attention each patch receives: from the class token if there is one before
    the patches, else from all positions on average. For a text, draw the mean of the heads; each
    row is relative to its largest weight.

    Return the drawings for the page, or None if there are no layers or T does not fit the patches
    of an image.
    """
    if isinstance(example, np.ndarray):
        layers = [maps for weights in layers if (maps := on_patches(weights)) is not None]
        view: dict[str, Any] = {"picture": picture_url(example), "tokens": None}
        drawn = [
            (name, [_data_url(_heat(one)) for one in maps[:MOST_HEADS]])
            for name, maps in _spread(layers, MOST_PICTURE_LAYERS)
        ]
    else:
        size = len(example)
        layers = [weights.mean(axis=0)[:size, :size] for weights in layers]
        view = {"picture": None, "tokens": [_token_text(token) for token in example]}
        drawn = [
            (name, (one / one.max(axis=1, keepdims=True)).tolist())
            for name, one in _spread(layers, MOST_TEXT_LAYERS)
        ]
    return view | {"layers": drawn} if drawn else None


def on_patches(weights: np.ndarray) -> np.ndarray | None:
    """Return the attention that each patch receives, [heads, side, side], from weights [heads, T,
    T]. Return None if T is not side², or side² + 1 with a class token."""
    length = weights.shape[1]
    side = math.isqrt(length)
    if side * side == length:
        received = weights.mean(axis=1)
    elif (side := math.isqrt(length - 1)) ** 2 == length - 1:
        received = weights[:, 0, 1:]
    else:
        return None
    return received.reshape(-1, side, side)


def _spread(layers: Sequence[np.ndarray], most: int) -> list[tuple[str, np.ndarray]]:
    """Return the names and weights of at most `most` evenly spaced layers, including the first and
    the last."""
    if not layers:
        return []
    chosen = np.unique(np.linspace(0, len(layers) - 1, most).round().astype(int))
    return [(f"layer {i + 1} of {len(layers)}", layers[i]) for i in chosen]


def _heat(weights: np.ndarray) -> Image.Image:
    opacity = np.round(255 * weights / weights.max()).astype(np.uint8)
    colour = np.broadcast_to(np.array(HEAT, np.uint8), (*opacity.shape, 3))
    return Image.fromarray(np.concatenate([colour, opacity[..., None]], axis=2))


def _token_text(token: str) -> str:
    """Return a token with visible spaces and line ends."""
    return token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
