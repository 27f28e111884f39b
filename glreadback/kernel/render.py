"""Whether a render node has a GPU behind it, asked of the kernel. Opening a render node has no side effects."""

from __future__ import annotations

import ctypes
import os
import struct

from .drm import driver_name
from .ioctl import ioctl, iowr

# Drivers with a render node for their buffers' sake alone.
_BUFFERS_ONLY = ("vgem", "vkms")
# virtgpu_drm.h
_VIRTGPU_GETPARAM = iowr("d", 0x43, 16)
_VIRTGPU_3D_FEATURES = 1


def has_gpu(node: str) -> bool:
    """False where the driver of a render node cannot draw: vgem, or virtio_gpu on a host that gives it no 3D.

    True where that is not known, and where the node cannot be opened.
    """
    try:
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        name = driver_name(fd)
        return _virtgpu_3d(fd) if name == "virtio_gpu" else name not in _BUFFERS_ONLY
    except OSError:
        return True
    finally:
        os.close(fd)


def _virtgpu_3d(fd: int) -> bool:
    value = ctypes.c_int(0)
    ioctl(fd, _VIRTGPU_GETPARAM, bytearray(struct.pack("=QQ", _VIRTGPU_3D_FEATURES, ctypes.addressof(value))))
    return bool(value.value)
