"""vfio devices and their displays, as linux/vfio.h has them: structures as pure functions over bytes, then the calls.

A device is opened by way of its group, /dev/vfio/N, which one process at a time may have open, in a container with an
IOMMU model; then the display's planes are asked for. What has no argument structure takes a number or a name.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from .ioctl import io, ioctl

FOLDER = "/dev/vfio"

# drm_plane_type of a query
PRIMARY, CURSOR = 1, 2
# How a plane is given: GfxPlane.kind and probe()
DMABUF, REGION = 2, 4
_PROBE = 1
NO_HOT_SPOT = 0xFFFFFFFF
# flags of a Region
READABLE, WRITABLE, MAPPABLE = 1, 2, 4

_TYPE, _BASE = ";", 100
_API_VERSION, _CHECK_EXTENSION, _SET_IOMMU, _GROUP_STATUS, _SET_CONTAINER = (io(_TYPE, _BASE + n) for n in range(5))
_GET_DEVICE_FD = io(_TYPE, _BASE + 6)
_DEVICE_INFO, _REGION_INFO = io(_TYPE, _BASE + 7), io(_TYPE, _BASE + 8)
_QUERY_GFX_PLANE, _GET_GFX_DMABUF = io(_TYPE, _BASE + 14), io(_TYPE, _BASE + 15)
_TYPE1, _TYPE1_V2 = 1, 3
_VIABLE = 1


# ---- The display's planes


_GFX_PLANE = struct.Struct("=IIIIQIIIIIIIIII")  # vfio_device_gfx_plane_info, 64 bytes
GFX_PLANE_SIZE = _GFX_PLANE.size


@dataclass(frozen=True, slots=True)
class GfxPlane:
    """What a display's plane is now: struct vfio_device_gfx_plane_info.

    fourcc is 0 while it is off. width, height, the place (x, y) and the hot spot are in pixels, stride and size in bytes;
    a hot spot is NO_HOT_SPOT where there is none. index is the region's, or the dma-buf's id, by kind.
    """

    kind: int
    plane: int
    fourcc: int
    modifier: int
    width: int
    height: int
    stride: int
    size: int
    x: int
    y: int
    hot_x: int
    hot_y: int
    index: int


def pack_query(flags: int, plane: int) -> bytearray:
    """The structure that asks for a plane. All else is zero: i915 can succeed without filling it in."""
    return bytearray(_GFX_PLANE.pack(GFX_PLANE_SIZE, flags, plane, *(0,) * 12))


def unpack_plane(answer: bytes | bytearray) -> GfxPlane:
    """The plane that a structure describes. Raises ValueError if it is short."""
    try:
        _, kind, plane, fourcc, modifier, width, height, stride, size, x, y, hot_x, hot_y, index, _ = _GFX_PLANE.unpack_from(
            answer
        )
    except struct.error:
        raise ValueError(f"a plane's description has {GFX_PLANE_SIZE} bytes, not {len(answer)}") from None
    return GfxPlane(kind, plane, fourcc, modifier, width, height, stride, size, x, y, hot_x, hot_y, index)


def probe(device: int, kind: int, plane: int) -> bool:
    """Whether the device gives that plane as DMABUF or as REGION."""
    try:
        ioctl(device, _QUERY_GFX_PLANE, pack_query(_PROBE | kind, plane))
    except OSError:
        return False
    return True


def query_plane(device: int, kind: int, plane: int) -> GfxPlane:
    """VFIO_DEVICE_QUERY_GFX_PLANE. Raises OSError: EINVAL for another kind, mbochs' ENOMEM that is gone the next time."""
    question = pack_query(kind, plane)
    ioctl(device, _QUERY_GFX_PLANE, question)
    return unpack_plane(question)


def get_dmabuf(device: int, number: int) -> int:
    """VFIO_DEVICE_GET_GFX_DMABUF: a descriptor, the caller's, of the dma-buf with that id.

    Once for an id: some drivers give the same reference again, which a second close would take from under the first.
    Raises OSError: ENOENT when the id is gone.
    """
    return ioctl(device, _GET_GFX_DMABUF, bytearray(struct.pack("=I", number)))


# ---- Regions


_REGION = struct.Struct("=IIIIQQ")  # vfio_region_info, 32 bytes


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the device's memory: where it lies in the device's descriptor, and how many bytes there are."""

    index: int
    flags: int
    size: int
    offset: int


def unpack_region(answer: bytes | bytearray) -> Region:
    """The region that a structure describes. Raises ValueError if it is short."""
    try:
        _, flags, index, _, size, offset = _REGION.unpack_from(answer)
    except struct.error:
        raise ValueError(f"a region's description has {_REGION.size} bytes, not {len(answer)}") from None
    return Region(index, flags, size, offset)


def region(device: int, index: int) -> Region:
    """VFIO_DEVICE_GET_REGION_INFO. Raises OSError: EINVAL for an index that it does not have."""
    question = bytearray(_REGION.pack(_REGION.size, 0, index, 0, 0, 0))
    ioctl(device, _REGION_INFO, question)
    return unpack_region(question)


def region_count(device: int) -> int:
    """How many numbered regions it has (VFIO_DEVICE_GET_INFO). Raises OSError: ENOTTY for what is no vfio device."""
    question = bytearray(struct.pack("=IIII", 16, 0, 0, 0))
    ioctl(device, _DEVICE_INFO, question)
    return int(struct.unpack("=IIII", question)[2])


# ---- Opening


def open_device(group: int, container: int, name: str) -> int:
    """A descriptor, the caller's, of the device name ("0000:01:00.0", an mdev's UUID) in a group, in a fresh container.

    group and container must stay open as long as it. Raises OSError as the kernel says, EPERM where another device of the
    group is not given to vfio.
    """
    status = bytearray(struct.pack("=II", 8, 0))
    ioctl(group, _GROUP_STATUS, status)
    if not struct.unpack("=II", status)[1] & _VIABLE:
        raise PermissionError(1, "another device of its IOMMU group has a driver that is not vfio's")
    ioctl(group, _SET_CONTAINER, bytearray(struct.pack("=i", container)))
    fcntl.ioctl(container, _SET_IOMMU, _TYPE1_V2 if fcntl.ioctl(container, _CHECK_EXTENSION, _TYPE1_V2) else _TYPE1)
    return ioctl(group, _GET_DEVICE_FD, bytearray(os.fsencode(name) + b"\0"))


def api_version(container: int) -> int:
    """VFIO_GET_API_VERSION: 0 is the one there is."""
    return int(fcntl.ioctl(container, _API_VERSION))
