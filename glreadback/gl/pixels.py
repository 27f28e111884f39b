"""glReadPixels into the caller's memory, as a list of copies that can be done again and again. Context current.

PyOpenGL's wrappers cost about a microsecond a call, and a frame needs ten: the four calls made for every frame go
to the driver's own entry points.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

from ..egl.gaps import function
from ..frame import Rect
from ..plan import Access
from .texture import ERRORS, GLFailure

_READ_FRAMEBUFFER, _PACK_ALIGNMENT, _PACK_ROW_LENGTH = 0x8CA8, 0x0D05, 0x0D02
_PACK_REVERSE_ROW_ORDER = 0x93A4  # GL_ANGLE_pack_reverse_row_order
_RGBA, _UBYTE = 0x1908, 0x1401
# llvmpipe computes in int: a read of 2 GiB or more crashes.
BAND = 2**31 - 1

_int, _uint = ctypes.c_int, ctypes.c_uint
_bind_framebuffer = function("glBindFramebuffer", None, _uint, _uint)
_pixel_store = function("glPixelStorei", None, _uint, _int)
_read_pixels = function("glReadPixels", None, _int, _int, _int, _int, _uint, _uint, ctypes.c_void_p)
_get_error = function("glGetError", _uint)


class Copy(NamedTuple):
    """One glReadPixels: from a rectangle of a framebuffer to a place in memory, rows row_length pixels apart."""

    framebuffer: int
    x: int
    y: int
    width: int
    height: int
    format: int
    type: int
    row_length: int
    offset: int  # bytes from the start of the surface
    reverse: bool  # the rectangle's last row comes first


def copies(
    framebuffer: int, rect: Rect, access: Access, offset: int, stride: int, reverse: bool, can_reverse: bool
) -> list[Copy]:
    """The copies that bring a rectangle of a framebuffer to offset, rows stride bytes apart: bands below 2 GiB.

    A stride that is no multiple of access.bytes takes a read for each row; so does reversing without
    GL_ANGLE_pack_reverse_row_order (can_reverse).
    """
    rows = 1 if (reverse and not can_reverse) or stride % access.bytes else max(1, BAND // stride)
    found = []
    for start in range(0, rect.height, rows):
        count = min(rows, rect.height - start)
        top = rect.y + (rect.height - start - count if reverse else start)
        found.append(
            Copy(
                framebuffer,
                rect.x,
                top,
                rect.width,
                count,
                access.format,
                access.type,
                stride // access.bytes if count > 1 else 0,
                offset + start * stride,
                reverse and count > 1,
            )
        )
    return found


def read(todo: Sequence[Copy], address: int) -> None:
    """Do the copies into memory from address on; the caller answers for it. Raises GLFailure."""
    _pixel_store(_PACK_ALIGNMENT, 1)
    for copy in todo:
        _bind_framebuffer(_READ_FRAMEBUFFER, copy.framebuffer)
        _pixel_store(_PACK_ROW_LENGTH, copy.row_length)
        if copy.reverse:
            _pixel_store(_PACK_REVERSE_ROW_ORDER, 1)
        _read_pixels(copy.x, copy.y, copy.width, copy.height, copy.format, copy.type, address + copy.offset)
        if copy.reverse:
            _pixel_store(_PACK_REVERSE_ROW_ORDER, 0)
        # A foreign buffer is refused only here, with OUT_OF_MEMORY, and leaves the memory as it was.
        code = _get_error()
        if code:
            raise GLFailure(f"glReadPixels failed: {_ERRORS.get(code, hex(code))}")


def prove(framebuffer: int) -> None:
    """Read one pixel, which shows whether the driver gets at the buffer at all. Raises GLFailure."""
    pixel = (ctypes.c_ubyte * 4)()
    read([Copy(framebuffer, 0, 0, 1, 1, _RGBA, _UBYTE, 0, 0, False)], ctypes.addressof(pixel))


_ERRORS = {**ERRORS, 0x0505: "GL_OUT_OF_MEMORY (the driver cannot map the buffer: another device's, or no buffer at all)"}
