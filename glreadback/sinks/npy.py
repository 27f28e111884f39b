"""npy: the array that numpy.asarray(surface) is, in numpy's file format."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from .raw import RawSink

if TYPE_CHECKING:
    from ..surface import Surface

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64


class NpySink(RawSink):
    """The surface's own bits, of any fourcc, as numpy.load reads them; padding between rows is left out.

    The header is written by hand (numpy.lib.format, version 1.0): loading numpy takes longer than the whole file.
    """

    name = "npy"

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        array = surface.__array_interface__
        facts = f"{{'descr': {array['typestr']!r}, 'fortran_order': False, 'shape': {array['shape']!r}, }}".encode("ascii")
        # The magic, two bytes of length, the facts and spaces up to a newline that ends a whole 64 bytes.
        padding = -(len(_MAGIC) + 2 + len(facts) + 1) % _ALIGNMENT
        length = len(facts) + padding + 1
        stream.write(_MAGIC + length.to_bytes(2, "little") + facts + b" " * padding + b"\n")
        super().write(surface, stream)
