"""`file:` a raw frame on disk, as another program dumped it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import ClassVar

from ..dmabuf import DmaBuf, Plane
from ..errors import SourceError, SourceSyntaxError
from ..fds import OwnedFd
from ..fourcc import Fourcc
from ..frame import Frame
from ..words import shown
from . import spec
from ._layout import PLANES, check_linear, check_places, end_of, lay_out
from ._memory import Memory
from .base import StillSource

_REFUSED = {
    stat.S_IFDIR: "is a directory; name the file in it",
    stat.S_IFIFO: "is a pipe, which has no size to check; write it to a file first",
    stat.S_IFSOCK: "is a socket; name a file",
}


class FileSource(StillSource):
    """The bytes of a file: `file:PATH?size=WxH&fourcc=CODE`, or the path alone where it has a "/" or a "." in it.

    size, fourcc              needed; any format with a linear layout
    stride, stride1 …         bytes from row to row of each plane, packed rows; those of further planes in proportion
    offset, offset1 …         each plane's first byte in the file, 0; further planes follow one another

    In PATH a "?" is written %3F, and a "%" before two hexadecimal digits %25; "&" and all others stand for themselves.
    What the picture needs of the file is copied once, when the source is opened, into a udmabuf or a sealed memfd.
    Character and block devices (/dev/fb0) are read like files. Raises SourceError where the file cannot be read or is
    too short, DescriptorError for a stride too short or a format without a linear layout.
    """

    scheme = "file"
    path_help = "a raw frame on disk"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "size": spec.SIZE,
        "fourcc": spec.FOURCC,
        **spec.numbered("offset", spec.OFFSET, PLANES),
        **spec.numbered("stride", spec.STRIDE, PLANES),
    }

    def __init__(self, path: str, *, size: tuple[int, int], fourcc: Fourcc | str, **places: int) -> None:
        if not path:
            raise SourceSyntaxError("file: needs a path: file:PATH?size=1920x1080&fourcc=XR24")
        (width, height), info = size, Fourcc(fourcc).info
        check_linear(info)
        check_places(self.scheme, info, places, ("offset", "stride"), len(info.planes))
        layout = lay_out(info, width, height, places)
        wanted = DmaBuf(width, height, info.fourcc, [Plane(0, *place) for place in layout])
        start, end = min(offset for offset, _ in layout), end_of(wanted)
        with ExitStack() as stack:
            file = stack.enter_context(_open(path))
            self._check_size(path, file, wanted, end)
            self._memory = stack.enter_context(Memory(end - start))
            with self._memory.writing() as view, view[: end - start] as room:
                got = _read(file, room, start, path)
            if got < end - start:
                raise _too_short(path, wanted, end, start + got)
            file.close()
            fd = self._memory.fileno()
            buffer = DmaBuf(width, height, info.fourcc, [Plane(fd, offset - start, stride) for offset, stride in layout])
            self._path, self._bytes = path, end - start
            self._frame = Frame(buffer, time=time.monotonic(), origin=f"file:{path}")
            self._keep(stack)

    @staticmethod
    def _check_size(path: str, file: OwnedFd, wanted: DmaBuf, end: int) -> None:
        status = os.fstat(file.fileno())
        if why := _REFUSED.get(stat.S_IFMT(status.st_mode)):
            raise SourceError(f"{shown(path)} {why}")
        if stat.S_ISREG(status.st_mode) and status.st_size < end:
            raise _too_short(path, wanted, end, status.st_size)

    def describe(self) -> dict[str, object]:
        return {"file": self._path, "memory": self._memory.kind, "bytes": self._bytes}


def _too_short(path: str, wanted: DmaBuf, end: int, have: int) -> SourceError:
    places = ", ".join(f"offset {plane.offset} stride {plane.stride}" for plane in wanted.planes)
    return SourceError(
        f"{shown(path)} is too short: {wanted} ends at byte {end}, the file holds {have} ({places}). "
        "Check size=, fourcc=, offset= and stride="
    )


def _open(path: str) -> OwnedFd:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        return OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read(file: OwnedFd, room: memoryview, start: int, path: str) -> int:
    """Fill room from byte start of the file on; how many bytes there were."""
    done = 0
    while done < len(room):
        try:
            with room[done:] as rest:
                count = os.preadv(file.fileno(), [rest], start + done)
        except OSError as error:
            raise SourceError(f"{shown(path)} cannot be read from byte {start + done}: {error.strerror}") from None
        if count == 0:
            break
        done += count
    return done
