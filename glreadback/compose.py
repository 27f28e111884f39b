"""Several planes to one picture, as a display controller does it: cut, scaled, turned, blended, one over the other.

The arithmetic is the kernel's (Documentation/gpu/drm-kms.rst, "Plane Composition Properties"), in floats wide enough
that rounding once at the end is exact. Scaling takes the mean of the area that a pixel covers; controllers filter in
ways of their own, so only unscaled planes can be equal to the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .scene import COVERAGE, NONE, REFLECT_X, REFLECT_Y, ROTATE_90, ROTATE_180, ROTATE_270, Area, Layer
from .surface import Surface

Array = np.ndarray[Any, np.dtype[Any]]

_BAND = 64  # rows blended at a time: floats take several times the memory of the picture
_TURNS = {ROTATE_90: 1, ROTATE_180: 2, ROTATE_270: 3}


def compose(pictures: Sequence[tuple[Layer, Surface]], canvas: Array) -> None:
    """Paint layers, from bottom to top, over black.

    A layer's surface holds `layer.source.whole` of its framebuffer. All surfaces and canvas have four components in the
    same order, alpha last, opaque where the framebuffer has none: uint8 or uint16, canvas (height, width, 4). What comes
    out is opaque.
    """
    lowest = pictures[0][0] if pictures else None
    if lowest is None or lowest.see_through or not lowest.covers(canvas.shape[1], canvas.shape[0]):
        canvas[..., :3] = 0
        canvas[..., 3] = np.iinfo(canvas.dtype).max
    for layer, surface in pictures:
        _paint(layer, np.asarray(surface), canvas)


def _paint(layer: Layer, pixels: Array, canvas: Array) -> None:
    pixels = placed(layer, pixels)
    x, y, width, height = layer.target
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
    if not layer.see_through:
        # All four components: that is one piece of memory, and three of them are not.
        canvas[top:bottom, left:right] = pixels[top - y : bottom - y, left - x : right - x]
        if layer.has_alpha:
            canvas[top:bottom, left:right, 3] = np.iinfo(canvas.dtype).max
        return
    for start in range(top, bottom, _BAND):
        end = min(start + _BAND, bottom)
        below = canvas[start:end, left:right]
        _blend(layer, pixels[start - y : end - y, left - x : right - x], below)


def _blend(layer: Layer, above: Array, below: Array) -> None:
    """above over below, in place."""
    most, kind = np.iinfo(below.dtype).max, np.float32 if below.itemsize == 1 else np.float64
    cover: Any = kind(layer.alpha)
    if layer.blend != NONE and layer.has_alpha:
        cover = above[..., 3:] * (cover / kind(most))
    share = cover if layer.blend == COVERAGE else kind(layer.alpha)  # pre-multiplied pixels have their own alpha in them
    mixed = above[..., :3] * share
    mixed += below[..., :3] * (1 - cover)
    below[..., :3] = np.rint(np.minimum(mixed, most))


def placed(layer: Layer, pixels: Array) -> Array:
    """The pixels of the layer's source, (rows, columns, 4), as they lie on the screen: scaled, reflected, turned."""
    if layer.scaled:
        width, height = layer.target.width, layer.target.height
        if layer.sideways:
            width, height = height, width
        pixels = _scaled(pixels, layer.source, width, height)
    if layer.rotation & REFLECT_X:
        pixels = pixels[:, ::-1]
    if layer.rotation & REFLECT_Y:
        pixels = pixels[::-1]
    turns = next((turn for bit, turn in _TURNS.items() if layer.rotation & bit), 0)
    return np.rot90(pixels, turns)


def _scaled(pixels: Array, source: Area, width: int, height: int) -> Array:
    """source, in pixels of the framebuffer, of which pixels holds the whole ones, brought to width x height."""
    left, top = source.whole[:2]
    columns = _means(pixels, 1, source.x - left, source.width, width)
    return np.rint(_means(columns, 0, source.y - top, source.height, height)).astype(pixels.dtype)


def _means(values: Array, axis: int, start: float, extent: float, count: int) -> Array:
    """The means of count equal parts of the range start .. start + extent along an axis, in float64."""
    edges = start + extent * np.arange(count + 1) / count
    # The sum of all up to each edge: whole elements, and of the next one a part.
    sums = np.cumsum(values, axis, np.float64)
    sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
    whole = np.minimum(edges.astype(np.intp), values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    upto = sums.take(whole, axis) + values.take(whole, axis) * (edges - whole).reshape(shape)
    means: Array = np.diff(upto, axis=axis) * (count / extent)
    return means
