"""PAM (netpbm's P7): like PPM, and alpha and grey too; exact for formats of any depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from .. import pixels
from .base import Sink

if TYPE_CHECKING:
    from ..surface import Surface

_TUPLES = {pixels.GREY: b"GRAYSCALE", pixels.RGB: b"RGB", pixels.RGBA: b"RGB_ALPHA"}


class PamSink(Sink):
    """PAM: grey, RGB or RGB and alpha as the pixels have it; maxval 255, or 65535 for formats of more than 8 bits.

    Every value of an integer format of up to 16 bits can be told from every other; half floats are cut to 0..1.
    """

    name = "PAM"

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        info = surface.fourcc.info
        channels, most = pixels.mode(info), pixels.scale(info)
        stream.write(
            b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH %d\nMAXVAL %d\nTUPLTYPE %s\nENDHDR\n"
            % (surface.width, surface.height, len(channels), most, _TUPLES[channels])
        )
        stream.writelines(pixels.packed(surface, channels, most))
