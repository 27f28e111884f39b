"""PNG: lossless; 8 bits by Pillow, 16 bits by imagecodecs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from .. import pixels
from ..errors import SinkError
from ._pillow import PillowSink, deep_message
from .base import Sink, between

if TYPE_CHECKING:
    from ..color import Color
    from ..surface import Surface


class PngSink(PillowSink):
    """PNG, lossless, with alpha where the pixels have it, grey where they have one component.

    level: zlib's, 0 to 9; 1 unless told: 1.6 times as fast as zlib's own default for a sixth more bytes.
    Formats of more than 8 bits a colour become 16-bit PNG, which needs imagecodecs (the extra "hdr"); a surface whose
    transfer is known (PQ, HLG) says so in a cICP chunk.
    """

    name = "PNG"
    kind = "PNG"
    options: ClassVar[Mapping[str, str]] = {"level": "zlib's compression level, 0 to 9; default: 1"}
    extent = 2**31 - 1

    def __init__(self, level: int = 1) -> None:
        self.level = between("level", level, 0, 9)

    def check(self, surface: Surface) -> None:
        if not pixels.deep(surface.fourcc.info):
            super().check(surface)
            return
        Sink.check(self, surface)
        if find_spec("imagecodecs") is None:
            raise SinkError(deep_message("PNG", surface, "pip install 'glreadback[hdr]' for 16-bit PNG, "))

    def parameters(self) -> dict[str, Any]:
        return {"compress_level": self.level}

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        if not pixels.deep(surface.fourcc.info):
            super().write(surface, stream)
            return
        import imagecodecs

        # Sums of the rows above: rows of 16-bit samples hardly compress without a filter.
        data = imagecodecs.png_encode(pixels.samples(surface, 65535), level=self.level, filter=32)
        stream.write(data[:_AFTER_HEADER])
        stream.write(cicp(surface.color))
        stream.write(memoryview(data)[_AFTER_HEADER:])


# The signature and the IHDR chunk; the colour description stands between it and the pixels.
_AFTER_HEADER = 8 + 12 + 13
# H.273's code points.
_PRIMARIES = {"709": 1, "2020": 9}
_TRANSFERS = {"bt1886": 1, "linear": 8, "srgb": 13, "pq": 16, "hlg": 18}


def cicp(color: Color | None) -> bytes:
    """PNG's cICP chunk (PNG 3, 11.3.2.6) of a colour description; nothing where the transfer is not known.

    PQ and HLG are of BT.2020's primaries unless told. The pixels are R'G'B' of full range by then: matrix 0, range 1.
    """
    if color is None or color.transfer is None:
        return b""
    primaries = color.primaries or ("2020" if color.transfer in ("pq", "hlg") else "709")
    body = b"cICP" + bytes((_PRIMARIES[primaries], _TRANSFERS[color.transfer], 0, 1))
    return struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
