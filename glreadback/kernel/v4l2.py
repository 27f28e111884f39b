"""Video4Linux capture into buffers that are shared as dma-bufs (linux/videodev2.h): what a camera needs, and no more.

Every function takes the descriptor of an open /dev/video node, which stays the caller's and must be a blocking one,
and raises OSError as the kernel says. A buffer has one memory plane, or with a multi-planar format several.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from .ioctl import ioctl, ior, iow, iowr

u8, u16, u32, s32 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_int32

# The kind of queue
CAPTURE, CAPTURE_MPLANE = 1, 9

_CAP_CAPTURE, _CAP_CAPTURE_MPLANE = 0x1, 0x1000
_MEMORY_MMAP = 1
_FIELD_NONE = 1
_CLOEXEC, _RDWR = 0o2000000, 0o2
_MAX_PLANES = 8


class _PixFormat(ctypes.Structure):
    _fields_ = tuple(
        (name, u32) for name in ("width", "height", "pixelformat", "field", "bytesperline", "sizeimage", "colorspace", "priv")
    ) + tuple((name, u32) for name in ("flags", "ycbcr_enc", "quantization", "xfer_func"))


class _PlanePixFormat(ctypes.Structure):
    _fields_ = (("sizeimage", u32), ("bytesperline", u32), ("reserved", u16 * 6))


class _PixFormatMplane(ctypes.Structure):
    _fields_ = (
        ("width", u32), ("height", u32), ("pixelformat", u32), ("field", u32), ("colorspace", u32),
        ("plane_fmt", _PlanePixFormat * _MAX_PLANES), ("num_planes", u8), ("flags", u8), ("ycbcr_enc", u8),
        ("quantization", u8), ("xfer_func", u8), ("reserved", u8 * 7),
    )  # fmt: skip


class _FormatUnion(ctypes.Union):
    # The union also holds pointers, which is what aligns it.
    _fields_ = (("pix", _PixFormat), ("pix_mp", _PixFormatMplane), ("raw", u8 * 200), ("aligned", ctypes.c_uint64))


class _Format(ctypes.Structure):
    _fields_ = (("type", u32), ("fmt", _FormatUnion))


class _RequestBuffers(ctypes.Structure):
    _fields_ = (("count", u32), ("type", u32), ("memory", u32), ("capabilities", u32), ("flags", u32))


class _PlaneUnion(ctypes.Union):
    _fields_ = (("mem_offset", u32), ("userptr", ctypes.c_ulong), ("fd", s32))


class _Plane(ctypes.Structure):
    _fields_ = (
        ("bytesused", u32), ("length", u32), ("m", _PlaneUnion), ("data_offset", u32), ("reserved", u32 * 11),
    )  # fmt: skip


class _BufferUnion(ctypes.Union):
    _fields_ = (("offset", u32), ("userptr", ctypes.c_ulong), ("planes", ctypes.c_void_p), ("fd", s32))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("index", u32), ("type", u32), ("bytesused", u32), ("flags", u32), ("field", u32),
        ("timestamp", ctypes.c_long * 2), ("timecode", u32 * 4), ("sequence", u32), ("memory", u32),
        ("m", _BufferUnion), ("length", u32), ("reserved2", u32), ("request_fd", s32),
    )  # fmt: skip


class _ExportBuffer(ctypes.Structure):
    _fields_ = (("type", u32), ("index", u32), ("plane", u32), ("flags", u32), ("fd", s32), ("reserved", u32 * 11))


_QUERYCAP = ior("V", 0, 104)
_S_FMT = iowr("V", 5, ctypes.sizeof(_Format))
_REQBUFS = iowr("V", 8, ctypes.sizeof(_RequestBuffers))
_QUERYBUF = iowr("V", 9, ctypes.sizeof(_Buffer))
_QBUF = iowr("V", 15, ctypes.sizeof(_Buffer))
_EXPBUF = iowr("V", 16, ctypes.sizeof(_ExportBuffer))
_DQBUF = iowr("V", 17, ctypes.sizeof(_Buffer))
_STREAMON, _STREAMOFF = iow("V", 18, 4), iow("V", 19, 4)


def query(fd: int) -> tuple[str, int]:
    """The driver's name and the kind of its capture queue: CAPTURE, CAPTURE_MPLANE, or 0 if it captures nothing."""
    answer = bytearray(104)
    ioctl(fd, _QUERYCAP, answer)
    device_caps = struct.unpack_from("=I", answer, 88)[0]
    kind = CAPTURE_MPLANE if device_caps & _CAP_CAPTURE_MPLANE else CAPTURE if device_caps & _CAP_CAPTURE else 0
    return answer[:16].rstrip(b"\0").decode("ascii", "replace"), kind


@dataclass(frozen=True, slots=True)
class Format:
    """What the driver will capture: pixels, V4L2's fourcc, and (size, stride) in bytes of each memory plane.

    Colour planes that share a memory plane follow each other in it, the later ones with strides of their own.
    """

    kind: int
    width: int
    height: int
    fourcc: int
    planes: tuple[tuple[int, int], ...]


def set_format(fd: int, kind: int, width: int, height: int, fourcc: int) -> Format:
    """Ask for a format; the driver answers with the nearest it has. Raises OSError: EBUSY while it has buffers."""
    wanted = _Format(type=kind)
    pix = wanted.fmt.pix_mp if kind == CAPTURE_MPLANE else wanted.fmt.pix
    pix.width, pix.height, pix.pixelformat, pix.field = width, height, fourcc, _FIELD_NONE
    ioctl(fd, _S_FMT, wanted)
    if kind == CAPTURE_MPLANE:
        planes = tuple((plane.sizeimage, plane.bytesperline) for plane in pix.plane_fmt[: pix.num_planes])
    else:
        planes = ((pix.sizeimage, pix.bytesperline),)
    return Format(kind, pix.width, pix.height, pix.pixelformat, planes)


def request_buffers(fd: int, kind: int, count: int) -> int:
    """Have the driver allocate about count buffers, and return how many; 0 frees them once nobody maps them."""
    wanted = _RequestBuffers(count=count, type=kind, memory=_MEMORY_MMAP)
    ioctl(fd, _REQBUFS, wanted)
    return int(wanted.count)


def export_buffer(fd: int, kind: int, index: int, plane: int = 0, *, writable: bool = True) -> int:
    """A new descriptor, the caller's, of the dma-buf that is one memory plane of a buffer."""
    wanted = _ExportBuffer(type=kind, index=index, plane=plane, flags=_CLOEXEC | (_RDWR if writable else 0))
    ioctl(fd, _EXPBUF, wanted)
    return int(wanted.fd)


def map_offsets(fd: int, kind: int, index: int) -> tuple[tuple[int, int], ...]:
    """For each memory plane of a buffer: at which offset of fd itself it can be mapped, and its size, in bytes."""
    buffer, planes = _buffer(kind, index)
    ioctl(fd, _QUERYBUF, buffer)
    if kind == CAPTURE_MPLANE:
        return tuple((plane.m.mem_offset, plane.length) for plane in planes[: buffer.length])
    return ((buffer.m.offset, buffer.length),)


def queue(fd: int, kind: int, index: int) -> None:
    """Give a buffer to the driver to fill."""
    buffer, _planes = _buffer(kind, index)
    ioctl(fd, _QBUF, buffer)


def dequeue(fd: int, kind: int) -> int:
    """Wait for a filled buffer and take it back; its index. Wait with poll first to bound the time."""
    buffer, _planes = _buffer(kind)
    ioctl(fd, _DQBUF, buffer)
    return int(buffer.index)


def stream(fd: int, kind: int, on: bool) -> None:
    """Start filling the queued buffers, or stop and take them all back."""
    ioctl(fd, _STREAMON if on else _STREAMOFF, bytearray(struct.pack("=i", kind)))


def _buffer(kind: int, index: int = 0) -> tuple[_Buffer, ctypes.Array[_Plane]]:
    """A buffer's structure and the array that it points to; keep both."""
    planes = (_Plane * _MAX_PLANES)()
    buffer = _Buffer(type=kind, index=index, memory=_MEMORY_MMAP)
    if kind == CAPTURE_MPLANE:
        buffer.m.planes = ctypes.addressof(planes)
        buffer.length = _MAX_PLANES
    return buffer, planes
