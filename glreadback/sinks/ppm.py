"""PPM (netpbm's P6): nothing but red, green and blue behind a line of text; the fastest to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from .. import pixels
from .base import Sink

if TYPE_CHECKING:
    from ..surface import Surface


class PpmSink(Sink):
    """PPM, 8 bits a colour, or 16 (maxval 65535) for formats that have more than 8; grey as colours. Alpha is dropped.

    Needs neither numpy nor Pillow for pixels of 8-bit colours.
    """

    name = "PPM"

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        most = pixels.scale(surface.fourcc.info)
        stream.write(b"P6\n%d %d\n%d\n" % (surface.width, surface.height, most))
        stream.writelines(pixels.packed(surface, pixels.RGB, most))
