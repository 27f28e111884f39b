"""`pattern:` a test picture in memory of our own, in any linear format of DRM's table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import ClassVar

from ..color import Color
from ..dmabuf import DmaBuf, Plane
from ..errors import SourceSyntaxError
from ..fourcc import Fourcc
from ..frame import Frame
from ..pixels import byte_order
from ..words import choices, shown
from . import patterns, spec
from ._layout import check_linear, lay_out
from ._memory import FILLER, Memory
from .base import StillSource

Rows = Iterator[tuple[int, bytes]]  # so many equal rows, the bytes of one

_BLUE = (47, 111, 159)


class PatternSource(StillSource):
    """A test picture: `pattern:NAME`, NAME being smpte (the default), gradient, checker, noise or solid.

    size    width and height in pixels, 1920x1080
    fourcc  any format with a linear layout, XR24
    stride  bytes from row to row of plane 0, packed rows; further planes in proportion
    offset  plane 0's first byte, 0; further planes follow one another
    seed    of noise, 0
    color   of solid, rrggbb

    Memory is a udmabuf where one can be made, else a sealed memfd. Bytes that are no pixels (before the offset, between
    rows, after the last one) are 0xA5, and padding bits (the X of XR24) are the low bits of 0xA5A5, never all zero.
    Alpha is opaque, but for noise, where every bit is random. Y'CbCr is as sources/_encode.py says, and as the frame's
    color says. Raises DescriptorError for a format without a linear layout or a stride too short.
    """

    scheme = "pattern"
    path_help = f"{', '.join(patterns.NAMES)}; default: {patterns.NAMES[0]}"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "size": spec.Key(spec.extent, "1920x1080", "width and height in pixels; default: 1920x1080"),
        "fourcc": spec.Key(spec.fourcc, "XR24", "any format with a linear layout; default: XR24"),
        "stride": spec.STRIDE,
        "offset": spec.OFFSET,
        "seed": spec.Key(spec.number, "1", "of noise; default: 0"),
        "color": spec.Key(spec.color, "2f6f9f", "of solid, rrggbb; default: 2f6f9f"),
    }

    def __init__(
        self,
        path: str = "",
        *,
        size: tuple[int, int] = (1920, 1080),
        fourcc: Fourcc | str = "XR24",
        stride: int | None = None,
        offset: int = 0,
        seed: int = 0,
        color: tuple[int, int, int] = _BLUE,
    ) -> None:
        self.name = path or patterns.NAMES[0]
        if self.name not in patterns.NAMES:
            raise SourceSyntaxError(f"pattern: has no {shown(self.name)}{choices(self.name, patterns.NAMES)}")
        (width, height), info = size, Fourcc(fourcc).info
        check_linear(info)
        places = {"offset": offset} | ({} if stride is None else {"stride": stride})
        layout = lay_out(info, width, height, places)
        # Refuses, before any memory is made, a stride or a size that cannot be.
        wanted = DmaBuf(width, height, info.fourcc, [Plane(0, *place) for place in layout])
        last = len(layout) - 1
        with ExitStack() as stack:
            end = layout[last][0] + wanted.step(last) * info.planes[last].rows(height)
            self._memory = stack.enter_context(Memory(end))
            buffer = DmaBuf(width, height, info.fourcc, [Plane(self._memory.fileno(), *place) for place in layout])
            _write(self._memory, buffer, pattern_planes(self.name, width, height, info.fourcc, seed=seed, color=color))
            video = Color(matrix=patterns.yuv_matrix(height), range="narrow", siting="left") if info.model == "yuv" else None
            self._frame = Frame(buffer, color=video, time=time.monotonic(), origin=f"pattern:{self.name}")
            self._keep(stack)

    def describe(self) -> dict[str, object]:
        return {"pattern": self.name, "memory": self._memory.kind, "bytes": self._memory.size}


def pattern_planes(
    name: str,
    width: int,
    height: int,
    fourcc: Fourcc | str,
    *,
    seed: int = 0,
    color: tuple[int, int, int] = _BLUE,
) -> list[Rows]:
    """The bytes that a pattern has, plane by plane, without padding: (count, row) is count equal rows, top first.

    Pure: what a test may expect to read. numpy is needed only for noise and for what is not 8-bit RGB.
    """
    info = Fourcc(fourcc).info
    order = byte_order(info)
    if order and name != patterns.NOISE:
        return [_byte_rows(order, _bands(name, width, height, color))]
    from . import _encode

    if name == patterns.NOISE:
        colors = _encode.noise(width, height, seed)
    else:
        colors = _encode.picture(_bands(name, width, height, color))
    return [((1, row.tobytes()) for row in plane) for plane in _encode.encode(info, colors)]


def _bands(name: str, width: int, height: int, color: tuple[int, int, int]) -> Iterator[patterns.Band]:
    red, green, blue = (value / 255 for value in color)
    return patterns.BANDS[name](width, height, (red, green, blue))


def _byte_rows(order: str, bands: Iterator[patterns.Band]) -> Rows:
    """The rows of a format whose pixels are bytes in that order, made of bytes alone: loading numpy takes longer."""
    known: dict[int, tuple[patterns.Channel, bytes]] = {}  # by identity; the channel is kept so that its id stays its own

    def eight_bits(channel: patterns.Channel) -> bytes:
        if id(channel) not in known:
            known[id(channel)] = channel, b"".join([bytes((round(value * 255),)) * pixels for pixels, value in channel])
        return known[id(channel)][1]

    count, last, row = 0, None, bytearray()
    for band in bands:
        now = {"R": eight_bits(band.red), "G": eight_bits(band.green), "B": eight_bits(band.blue)}
        if now != last:
            if count:
                yield count, bytes(row)
            count, last, width = 0, now, len(now["R"])
            row = bytearray(len(order) * width)
            constant = {"A": b"\xff" * width, "X": bytes((FILLER,)) * width}
            for index, component in enumerate(order):
                row[index :: len(order)] = (now | constant)[component]
        count += band.rows
    yield count, bytes(row)


def _write(memory: Memory, buffer: DmaBuf, planes: list[Rows]) -> None:
    """Put the planes where the buffer has them, and filler everywhere else."""
    with memory.writing() as view:
        end = 0
        for index, rows in enumerate(planes):
            offset, step = buffer.planes[index].offset, buffer.step(index)
            view[end:offset] = _filler(offset - end)
            end = offset
            for count, row in rows:
                size = step * count
                view[end : end + size] = (row + _filler(step - len(row))) * count
                end += size
        view[end:] = _filler(memory.size - end)


def _filler(size: int) -> bytes:
    return bytes((FILLER,)) * size
