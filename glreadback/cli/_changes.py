"""Which frames of a sequence show something new: `snapshot --changed`. What a frame's damage says is believed and saves reads.

Two surfaces take turns, so that a look at a picture that stays costs one read, one memcmp and no memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..frame import Frame, Rect
    from ..surface import Surface

_memcmp = ctypes.CDLL(None).memcmp  # bytes and memoryviews compare byte by byte, or copy first
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Read(Protocol):
    """Reads a frame into out, or into a new surface; only the damage of it where that is given."""

    def __call__(self, frame: Frame, out: Surface | None, damage: Iterable[Rect] | None) -> Surface: ...


class Changes:
    """The pictures of a sequence that differ from the one before. partly: whether read may be given damage."""

    def __init__(self, read: Read, partly: bool) -> None:
        self._read, self._partly = read, partly
        self._shape: object = None
        self._last: Surface | None = None  # the picture given last
        self._spare: Surface | None = None  # to read the next one into
        self._behind: tuple[Rect, ...] | None = None  # where spare is older than last; None = anywhere

    def look(self, frame: Frame) -> Surface | None:
        """The frame's picture, None if it is the one that was given last. It is good until the second look after this.

        Another size or pixel format is another picture. Bits that are no part of a pixel (the X of XR24) do not count.
        Raises as read does.
        """
        shape = frame.size, frame.buffer.fourcc
        if self._last is None or shape != self._shape:
            self._shape, self._spare = shape, None
            self._last = self._read(frame, None, None)
            return self._last
        if frame.damage == ():
            return None
        found = self._read(frame, self._spare, self._damage(frame))
        if _same(self._last, found):
            self._spare, self._behind = found, ()
            return None
        self._last, self._spare, self._behind = found, self._last, frame.damage
        return found

    def _damage(self, frame: Frame) -> tuple[Rect, ...] | None:
        """What is to be read to have all of the frame in the spare surface; None = everything."""
        if not self._partly or self._spare is None or self._behind is None or frame.damage is None:
            return None
        # A conversion or a turn may change pixels beside the damage too: chroma is shared.
        route = self._spare.route
        plain = route is not None and route.exact and frame.transform == "normal"
        return (*self._behind, *frame.damage) if plain else None


def _same(one: Surface, other: Surface) -> bool:
    if (one.width, one.height, one.stride, one.fourcc) != (other.width, other.height, other.stride, other.fourcc):
        return False
    if not _memcmp(one.address, other.address, len(one.data)):
        return True
    from ._verify import first_difference

    return first_difference(one, other) is None
