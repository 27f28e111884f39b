"""What the sinks that Pillow encodes for have in common."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import pixels
from ..errors import SinkError
from .base import Sink

if TYPE_CHECKING:
    from PIL import Image

    from ..surface import Surface


class PillowSink(Sink):
    """8 bits a channel. What has more is refused: it would be lost without a word."""

    kind: str  # Pillow's name of the format
    alpha = True  # whether the format has any

    def check(self, surface: Surface) -> None:
        super().check(surface)
        if pixels.deep(surface.fourcc.info):
            raise SinkError(deep_message(self.name, surface))

    def parameters(self) -> dict[str, Any]:
        """Pillow's arguments for save()."""
        return {}

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        image = pixels.to_image(surface)
        if not self.alpha and image.mode == pixels.RGBA:
            image = image.convert(pixels.RGB)
        stream.write(self._encode(image))

    def _encode(self, image: Image.Image) -> memoryview:
        # Into memory first: Pillow writes to descriptors by itself and takes a short write for a whole one.
        room = io.BytesIO()
        try:
            image.save(room, self.kind, **self.parameters())
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
            raise SinkError(
                f"Pillow cannot make {self.name} of {image.width}x{image.height} pixels: {error}. Try another format"
            ) from error
        return room.getbuffer()


def deep_message(name: str, surface: Surface, more: str = "") -> str:
    info = surface.fourcc.info
    what = "half floats" if info.floating else f"{info.depth} bits a colour"
    return (
        f"{surface.fourcc} has {what}, {name} here has 8: {more}write pam, npy or raw, "
        "or read 8 bits with fourcc='AB24' (--fourcc AB24)"
    )
