"""A dma-buf as a value, and the check of that value against what its descriptors really hold.

The check is the only thing between a producer's word and a driver that believes it: software drivers read
past the end of a buffer that is smaller than it was said to be. It is done in Python integers, on every read.
"""

from __future__ import annotations

import fcntl
import os
import reprlib
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from .errors import DescriptorError
from .fourcc import Fourcc, PlaneFormat
from .kernel import dmabuf as kernel
from .modifier import Modifier

MAX_PLANES = 4  # EGL_EXT_image_dma_buf_import and drm_mode_fb_cmd2 know four
# What any field of the description may be at most: EGL attributes are signed 32-bit integers.
_LIMIT = 2**31 - 1

_Made = TypeVar("_Made")


def _integer(value: object, what: str, least: int) -> int:
    """value as an int between least and 2^31-1. numpy's integers are welcome, floats and booleans are not."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        raise DescriptorError(f"{what} is {_shown(value)}; it must be a whole number") from None
    if not least <= number <= _LIMIT:
        raise DescriptorError(f"{what} is {_shown(number)}; it must be between {least} and {_LIMIT}")
    return int(number)


def descriptor(value: object, what: str) -> int:
    """The number of a descriptor, given as that or as an object with fileno(). Raises DescriptorError."""
    fileno = getattr(value, "fileno", None)
    if callable(fileno):
        try:
            value = fileno()
        except (OSError, ValueError) as error:
            raise DescriptorError(f"{what} is {_shown(value)}, which has no descriptor: {error}") from None
    return _integer(value, what, 0)


def _shown(value: object) -> str:
    """value as a message quotes it: one line, and not too long, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return " ".join(reprlib.repr(value).split())


def _made(kind: Callable[[Any], _Made], value: object, what: str, advice: str) -> _Made:
    try:
        return kind(value)
    except TypeError:
        raise DescriptorError(f"{what} is {_shown(value)}; {advice}") from None


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of a dma-buf: where its pixels start and how far apart its rows are.

    fd stays the caller's. offset and stride are in bytes. For formats whose pixels come in blocks (YUYV, R1, NV15 …)
    a row is a row of blocks. Raises DescriptorError for what no buffer can have.
    """

    fd: int
    offset: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fd", descriptor(self.fd, "a plane's fd"))
        object.__setattr__(self, "offset", _integer(self.offset, "a plane's offset", 0))
        object.__setattr__(self, "stride", _integer(self.stride, "a plane's stride", 0))


@dataclass(frozen=True, slots=True, init=False)
class DmaBuf:
    """What EGL_EXT_image_dma_buf_import needs to know of a picture, and no more.

    width and height are in pixels; fourcc is DRM's pixel format by name or number; planes are one to four `Plane`s,
    whose descriptors stay the caller's and must stay open while the DmaBuf is used. modifier is the memory layout,
    LINEAR unless told; a producer that gives none has Modifier.INVALID ("the driver knows"), which is not LINEAR.

    Raises DescriptorError where the description is impossible whatever the descriptors hold: a size of zero, a wrong
    number of planes, a linear stride shorter than a row.
    """

    width: int
    height: int
    fourcc: Fourcc
    planes: tuple[Plane, ...]
    modifier: Modifier

    def __init__(
        self,
        width: int,
        height: int,
        fourcc: Fourcc | str | int,
        planes: Iterable[Plane],
        modifier: Modifier | int | str = Modifier.LINEAR,
    ) -> None:
        store = object.__setattr__
        store(self, "width", _integer(width, "the width", 1))
        store(self, "height", _integer(height, "the height", 1))
        store(self, "fourcc", _made(Fourcc, fourcc, "the fourcc", "give its name (XR24, XRGB8888) or its number"))
        store(self, "planes", _made(tuple, planes, "planes", "give a list of glreadback.Plane(fd, offset, stride)"))
        advice = "give its number or name; Modifier.INVALID where the producer gave none"
        store(self, "modifier", _made(Modifier, modifier, "the modifier", advice))
        for plane in self.planes:
            if not isinstance(plane, Plane):
                raise DescriptorError(f"a plane is {_shown(plane)}; give glreadback.Plane(fd, offset, stride)")
        self._check_planes()

    def _check_planes(self) -> None:
        given = len(self.planes)
        if not 1 <= given <= MAX_PLANES:
            raise DescriptorError(f"{self}: {given} planes given; a dma-buf has 1 to {MAX_PLANES}")
        wanted = len(self.fourcc.info.planes) if self.fourcc.known else 1
        # A tiled layout may have planes of its own besides the format's: compression metadata.
        if given < wanted or (given > wanted and not self.modifier.tiled):
            raise DescriptorError(
                f"{self}: {given} plane{'s' * (given != 1)} given; {self.fourcc} with modifier {self.modifier} has {wanted}"
            )
        if self.modifier.tiled or not self.fourcc.known:
            return
        for index, (plane, layout) in enumerate(zip(self.planes, self.fourcc.info.planes, strict=True)):
            # Where blocks are several lines high (X0L2: 2x2 pixels), DRM's stride is still that of one line.
            row = -(-layout.row_bytes(self.width) // layout.block_height)
            if plane.stride < row:
                raise DescriptorError(
                    f"{self}: plane {index} has a stride of {plane.stride} bytes, "
                    f"a row needs {row}. Check the width and the stride"
                )

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.fourcc}"

    @property
    def linear(self) -> bool:
        """Whether the layout is known to be rows of pixels: modifier LINEAR of a format that has a linear layout."""
        return self.modifier.is_linear and self.fourcc.known and self.fourcc.info.linear

    @property
    def layouts(self) -> tuple[PlaneFormat, ...]:
        """The format's own planes, from DRM's table. Raises DescriptorError for an unknown fourcc."""
        return self.fourcc.info.planes

    def step(self, index: int) -> int:
        """Bytes from one row of blocks to the next in a linear plane: the stride, once for every line of a block.

        index is the plane's. Raises IndexError where there is no such plane, DescriptorError for an unknown fourcc.
        """
        return self.planes[index].stride * self.layouts[index].block_height

    def plane_end(self, index: int) -> int:
        """The first byte past a linear plane, in bytes of its buffer. The last row may be short of a full stride.

        index is the plane's. Raises IndexError where there is no such plane, DescriptorError for an unknown fourcc.
        """
        layout = self.layouts[index]
        return self.planes[index].offset + self.step(index) * (layout.rows(self.height) - 1) + layout.row_bytes(self.width)


class Backing(NamedTuple):
    """What a plane's descriptor turned out to be. device and inode tell the buffer itself, whatever its fd number."""

    device: int
    inode: int
    size: int  # bytes
    dmabuf: bool  # else a memfd or a regular file
    writable: bool  # the descriptor may be mapped for writing
    steady: bool  # it cannot get smaller under a reader

    @property
    def key(self) -> tuple[int, int]:
        return self.device, self.inode


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
}
_GET_SEALS, _SEAL_SHRINK = fcntl.F_GET_SEALS, fcntl.F_SEAL_SHRINK
_SEALS_WRITE = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE, linux/fcntl.h
_O_PATH, _O_ACCMODE = os.O_PATH, os.O_ACCMODE


def inspect(fd: int) -> Backing:
    """What fd really is. Raises DescriptorError if it is not open, not readable, or no buffer at all."""
    try:
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError as error:
        raise DescriptorError(f"descriptor {fd} is not open ({error.strerror})") from None
    if flags & _O_PATH:
        raise DescriptorError(f"descriptor {fd} was opened with O_PATH and gives no access; open it for reading and writing")
    access = flags & _O_ACCMODE
    if access == os.O_WRONLY:
        raise DescriptorError(f"descriptor {fd} is write-only; open it for reading and writing")
    writable = access == os.O_RDWR
    if stat.S_ISREG(status.st_mode):
        try:
            seals = fcntl.fcntl(fd, _GET_SEALS)
        except OSError:
            # A regular file, or a file system without seals. Linux 6.16-rc's dma-bufs say that they are regular files.
            if not kernel.is_dmabuf(fd):
                return Backing(status.st_dev, status.st_ino, status.st_size, False, writable, False)
        else:
            steady, writable = bool(seals & _SEAL_SHRINK), writable and not seals & _SEALS_WRITE
            return Backing(status.st_dev, status.st_ino, status.st_size, False, writable, steady)
    elif not kernel.is_dmabuf(fd):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        if kind == "something else":
            kind = f"{kind} ({_link(fd)})"
        raise DescriptorError(f"descriptor {fd} is {kind}; a dma-buf, a memfd or a regular file is needed")
    # A dma-buf has no st_size, and seeking is how its size is asked for (dma-buf.rst).
    return Backing(status.st_dev, status.st_ino, os.lseek(fd, 0, os.SEEK_END), True, writable, True)


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "unknown"


def check_extent(buf: DmaBuf, limit: int) -> None:
    """Check a picture's size against a device's limit, in pixels either way. Raises DescriptorError."""
    if buf.width > limit or buf.height > limit:
        raise DescriptorError(
            f"{buf} is larger than this device takes: at most {limit} pixels either way. "
            "Read it in parts: a DmaBuf per part, with its own offset"
        )


def check(buf: DmaBuf) -> tuple[Backing, ...]:
    """Check a description against its descriptors: what every plane's descriptor is, in order.

    Raises DescriptorError; nothing was read.
    """
    known: dict[int, Backing] = {}
    for plane in buf.planes:
        if plane.fd not in known:
            known[plane.fd] = inspect(plane.fd)
    described = not buf.modifier.tiled and buf.fourcc.known
    for index, plane in enumerate(buf.planes):
        size = known[plane.fd].size
        # What is known of a tiled layout is only where it starts.
        end = buf.plane_end(index) if described else plane.offset + 1
        if end > size:
            what = "dma-buf" if known[plane.fd].dmabuf else "file"
            raise DescriptorError(
                f"the buffer is too small for its description: plane {index} ends at byte {end}, "
                f"the {what} holds {size} ({buf}, offset {plane.offset}, stride {plane.stride}). "
                "Check the size, the offset and the stride"
                if described
                else f"plane {index} of {buf} starts at byte {plane.offset}, the {what} holds {size}. Check the offset"
            )
    return tuple(known[plane.fd] for plane in buf.planes)
