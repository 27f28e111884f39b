"""PNG: lossless; 8 bits by Pillow, 16 bits by imagecodecs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from .. import pixels
from ..errors import SinkError
from ._pillow import PillowSink, deep_message
from .base import between

if TYPE_CHECKING:
    from ..surface import Surface


class PngSink(PillowSink):
    """PNG, lossless, with alpha where the pixels have it, grey where they have one component.

    level: zlib's, 0 to 9; 1 unless told: 1.6 times as fast as zlib's own default for a sixth more bytes.
    Formats of more than 8 bits a colour become 16-bit PNG, which needs imagecodecs (the extra "hdr").
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
        elif find_spec("imagecodecs") is None:
            raise SinkError(deep_message("PNG", surface, "pip install 'glreadback[hdr]' for 16-bit PNG, "))

    def parameters(self) -> dict[str, Any]:
        return {"compress_level": self.level}

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        if not pixels.deep(surface.fourcc.info):
            super().write(surface, stream)
            return
        import imagecodecs

        # Sums of the rows above: rows of 16-bit samples hardly compress without a filter.
        stream.write(imagecodecs.png_encode(pixels.samples(surface, 65535), level=self.level, filter=32))
