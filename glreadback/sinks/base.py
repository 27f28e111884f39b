"""What a sink is. Whoever adds one reads this file and sinks/ppm.py, and puts a line into the registry.

A sink is a module of this folder with one class over `Sink`:

    class MySink(Sink):
        \"\"\"What it writes, and what is lost.\"\"\"

        name = "My format"
        options = {"level": "how hard to try, 0 to 9; default: 1"}
        extent = 65535                                        # the largest width or height, where the format has one

        def __init__(self, level: int = 1) -> None: ...       # the options' names, all with defaults

        def check(self, surface: Surface) -> None:            # only if it refuses more than Y'CbCr and large pictures
            super().check(surface)

        def write(self, surface: Surface, stream: BinaryIO) -> None: ...

Nothing else is needed; `tests/test_sinks.py` checks every sink in the registry against this page. A module here imports
neither numpy nor Pillow when it is loaded, only where it uses them: a PPM of 8-bit pixels needs neither. Files are the
business of `sinks.save`: a sink writes to a stream, from its first byte to its last, without seeking.
Nothing is lost silently: a sink that cannot hold a surface's bits refuses it in check(), before a file is touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from .. import pixels
from ..errors import SinkError

if TYPE_CHECKING:
    from ..surface import Surface


class Sink(ABC):
    """One file format, with its options. Raises SinkError for what it refuses, ValueError for an option's bad value."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}
    extent: ClassVar[int | None] = None

    def __init__(self, **options: Any) -> None:  # noqa: B027
        """The options, by name."""

    def check(self, surface: Surface) -> None:
        """Raises SinkError, or pixels' GlReadbackError, for a surface that this format cannot hold."""
        pixels.check_picture(surface.fourcc.info)
        self._check_extent(surface)

    def _check_extent(self, surface: Surface) -> None:
        if self.extent is not None and max(surface.width, surface.height) > self.extent:
            raise SinkError(
                f"{self.name} holds at most {self.extent} pixels either way, the picture has "
                f"{surface.width}x{surface.height}. Use png, ppm or raw, or read a part with rect="
            )

    @abstractmethod
    def write(self, surface: Surface, stream: BinaryIO) -> None:
        """Write a surface that check() let pass. Errors of the stream (OSError) go through."""


def between(what: str, value: int, least: int, most: int) -> int:
    """An option's whole number. Raises ValueError outside least..most."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{what} is {value!r}; it must be a whole number from {least} to {most}")
    return value
