"""What the bytes of a surface look like: as grey or red, green, blue and alpha, in numpy, Pillow or plain bytes.

Only "rgb", "index" and "dark" formats are pictures by themselves. Y'CbCr needs a matrix, a range and a siting: a reader
converts it (`reader.read(frame, fourcc="AB24")`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import GlReadbackError
from .fourcc import Field, FormatInfo
from .surface import Surface

if TYPE_CHECKING:
    import numpy
    from PIL import Image

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

# The components of a picture in the order in which image files have them.
GREY, RGB, RGBA = "L", "RGB", "RGBA"

_COLORS = ("R", "G", "B")


def check_picture(info: FormatInfo) -> None:
    """Raises GlReadbackError for Y'CbCr."""
    if info.model == "yuv":
        raise GlReadbackError(
            f"{info.fourcc} is Y'CbCr, which has to be converted first: read it with fourcc='AB24' (--fourcc AB24)"
        )


def mode(info: FormatInfo) -> str:
    """What kind of picture: "L" for formats of one component, "RGBA" where there is alpha, else "RGB"."""
    if len(info.bits) == 1:
        return GREY
    return RGBA if info.has_alpha else RGB


def deep(info: FormatInfo) -> bool:
    """Whether 8 bits a component would lose something."""
    return info.floating or info.depth > 8


def scale(info: FormatInfo) -> int:
    """What white is in a file that loses nothing: 255 or 65535."""
    return 65535 if deep(info) else 255


def byte_order(info: FormatInfo) -> str:
    """The components in memory order, "BGRX" for XR24, if each is a byte of its own; else ""."""
    layout = info.planes[0]
    whole = all((field.bits, field.shift % 8) == (8, 0) for field in layout.fields)
    order = "".join(field.component for field in sorted(layout.fields, key=lambda field: field.shift))
    plain = len(info.planes) == 1 and layout.block_width * layout.block_height == 1 and not info.floating
    return order if whole and plain and set(_COLORS) <= set(order) else ""


def packed(surface: Surface, channels: str, most: int = 255) -> Iterator[bytes | bytearray | memoryview]:
    """The picture as image files have it, in pieces, top first: channels "L", "RGB" or "RGBA", each 0..most.

    8 bits a channel for most = 255; for 65535 it is 16, the more significant byte first. Grey is repeated for "RGB",
    alpha is dropped or opaque where the two differ. Needs no numpy and no Pillow where the pixels are bytes already:
    slicing them takes less time than loading either. Raises GlReadbackError for Y'CbCr, and for "L" of coloured pixels.
    """
    order = byte_order(surface.fourcc.info)
    if most == 255 and order and set(channels) <= set(order):
        return _sliced(surface, order, channels)
    return _sampled(surface, channels, most)


def _sliced(surface: Surface, order: str, channels: str) -> Iterator[bytearray]:
    starts = [order.index(component) for component in channels]
    for piece in _pieces(surface):
        picture = bytearray(len(piece) // len(order) * len(channels))
        for index, start in enumerate(starts):
            picture[index :: len(channels)] = piece[start :: len(order)]
        yield picture


def _sampled(surface: Surface, channels: str, most: int) -> Iterator[memoryview]:
    import numpy as np

    found = samples(surface, most)
    if channels == GREY and found.shape[2] > 1:
        raise GlReadbackError(f"{surface.fourcc} has colours; it cannot be written as grey")
    shape = (*found.shape[:2], len(channels))
    picture = np.full(shape, most, ">u1" if most < 256 else ">u2")
    colors = min(len(channels), 3)
    picture[..., :colors] = found[..., :colors] if found.shape[2] > 1 else found
    if channels == RGBA and found.shape[2] == len(RGBA):
        picture[..., 3] = found[..., 3]
    yield picture.data.cast("B")


def _pieces(surface: Surface) -> Iterator[bytes]:
    """The pixels in pieces of about a megabyte: few enough for Python, small enough for the caches."""
    if not surface.packed:
        for row in surface.rows():
            yield bytes(row)
        return
    size = max(1, (1 << 20) // surface.row_bytes) * surface.row_bytes
    data = surface.data
    for start in range(0, len(data), size):
        yield bytes(data[start : start + size])


# ---- with numpy


def samples(surface: Surface, most: int) -> Array:
    """The picture as a new array of (height, width, channels), each rounded to 0..most; channels are those of `mode`.

    uint8 for most = 255, uint16 for 65535. Rounding is to the nearest, and exact; half floats are cut to 0..1, and NaN
    is 0. C formats are a ramp from black to white, D formats one from white to black, R formats grey.
    Raises GlReadbackError for Y'CbCr.
    """
    import numpy as np

    kind = mode(surface.fourcc.info)
    found = np.empty((surface.height, surface.width, len(kind)), np.uint8 if most < 256 else np.uint16)
    _take_apart(surface, found, most)
    return found


def rgba8(surface: Surface) -> Array:
    """A new (height, width, 4) uint8 array, red first: values rounded to 8 bits, alpha 255 where the format has none.

    Formats of one component are grey. Raises GlReadbackError for Y'CbCr.
    """
    import numpy as np

    channels = len(mode(surface.fourcc.info))
    found = np.empty((surface.height, surface.width, 4), np.uint8)
    _take_apart(surface, found[..., :channels], 255)
    if channels == 1:
        found[..., 1:3] = found[..., :1]
    if channels < 4:
        found[..., 3] = 255
    return found


def _take_apart(surface: Surface, found: Array, most: int) -> None:
    """Fill found, (height, width, channels), with what each channel is in 0..most."""
    import numpy as np

    info = surface.fourcc.info
    check_picture(info)
    kind = mode(info)
    blocks = _blocks(surface)
    channels = [(0, next(iter(info.bits)))] if kind == GREY else list(enumerate(kind))
    for index, component in channels:
        fields = [field for field in info.planes[0].fields if field.component == component]
        if not fields:
            found[..., index] = 0  # RG formats have no blue
            continue
        values = _extract(blocks, fields, surface.width)
        whole = (1 << fields[0].bits) - 1 == most and not info.floating
        found[..., index] = values if whole else _table(fields[0].bits, info.floating, most)[values]
    if info.model == "dark":
        np.subtract(most, found, out=found)


def _blocks(surface: Surface) -> Array:
    """(rows, blocks of a row, bytes of a block), a view."""
    import numpy as np

    layout = surface.fourcc.info.planes[0]
    flat = np.frombuffer(surface.data, np.uint8)
    shape = (surface.height, surface.row_bytes // layout.block_bytes, layout.block_bytes)
    return np.ndarray(shape, np.uint8, flat, 0, (surface.stride, layout.block_bytes, 1))


def _extract(blocks: Array, fields: list[Field], width: int) -> Array:
    """One component of every pixel as unsigned integers, (height, width)."""
    import numpy as np

    rows, columns, size = blocks.shape
    bits = fields[0].bits
    if len(fields) == 1 and bits in (8, 16) and fields[0].shift % 8 == 0:
        start = fields[0].shift // 8
        part = blocks[..., start] if bits == 8 else blocks[..., start : start + 2].view("<u2")[..., 0]
        return part[:, :width]
    # Blocks of three bytes and the like are widened to a whole integer.
    words = np.zeros((rows, columns, next(n for n in (1, 2, 4, 8) if n >= size)), np.uint8)
    words[..., :size] = blocks
    numbers = words.view(f"<u{words.shape[2]}")[..., 0]
    found = np.empty((rows, columns * len(fields)), numbers.dtype)
    for field in fields:
        found[:, field.sample :: len(fields)] = numbers >> field.shift & (1 << bits) - 1
    cut: Array = found[:, :width]
    return cut


@functools.lru_cache(maxsize=8)
def _table(bits: int, floating: bool, most: int) -> Array:
    """What each value of a field is in 0..most, rounded to the nearest: looking it up is faster than the division."""
    import numpy as np

    values = np.arange(1 << bits)
    if floating:
        parts = values.astype(f"<u{bits // 8}").view(f"<f{bits // 8}").astype(np.float64)
        parts[np.isnan(parts)] = 0.0
    else:
        # 2^n - 1 is odd: no value lies halfway between two, nor so close that the division's error matters.
        parts = values / values[-1]
    return np.rint(np.clip(parts, 0.0, 1.0) * most).astype(np.uint8 if most < 256 else np.uint16)


# ---- with Pillow

# Pillow's raw decoders that take such pixels apart as they are: (mode, order in memory). The others of its decoders cut
# off or truncate where they have to round.
_DECODERS = {
    **{("RGB", order): order for order in ("RGB", "BGR", "RGBX", "BGRX", "XRGB", "XBGR")},
    **{("RGBA", order): order for order in ("RGBA", "BGRA", "ARGB", "ABGR")},
}


def to_image(surface: Surface) -> Image.Image:
    """A Pillow image of its own, 8 bits a component: "L" for formats of one component, "RGBA" with alpha, else "RGB".

    Raises GlReadbackError for Y'CbCr.
    """
    from PIL import Image

    info = surface.fourcc.info
    check_picture(info)
    kind, size = mode(info), (surface.width, surface.height)
    decoder = _DECODERS.get((kind, byte_order(info)))
    if decoder is None:
        picture = samples(surface, 255)
        return Image.frombytes(kind, size, picture.data.cast("B"))
    return Image.frombytes(kind, size, surface.data, "raw", decoder, surface.stride, 1)
