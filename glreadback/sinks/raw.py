"""raw: the surface's bytes and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from .base import Sink

if TYPE_CHECKING:
    from ..surface import Surface


class RawSink(Sink):
    """The pixels as they are in memory, of any fourcc, top row first, without padding between rows.

    `file:PATH?size=WxH&fourcc=CODE` reads it back.
    """

    name = "raw"

    def check(self, surface: Surface) -> None:
        """Any surface will do, Y'CbCr too."""

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        stream.writelines([surface.data] if surface.packed else surface.rows())
