"""dma-bufs made of ordinary memory: sealed memfds, and /dev/udmabuf over them (linux/udmabuf.h)."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from .ioctl import ioctl, iow

DEVICE = "/dev/udmabuf"
_CREATE = iow("u", 0x42, 24)
_CLOEXEC = 1


def sealed_memfd(size: int, name: str = "glreadback") -> int:
    """A memfd of size bytes, rounded up to whole pages, that can no longer shrink. The caller owns it.

    F_SEAL_SHRINK is what udmabuf asks for, and what makes it safe for a driver to map. Raises OSError.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create(memfd: int, size: int, offset: int = 0) -> int:
    """A dma-buf over size bytes of a sealed memfd, both page-aligned. The caller owns it; memfd stays the caller's.

    Raises OSError: ENOENT or EACCES without a usable /dev/udmabuf, EINVAL over its size limit (64 MiB by default).
    """
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return ioctl(device, _CREATE, bytearray(struct.pack("=IIQQ", memfd, _CLOEXEC, offset, size)))
    finally:
        os.close(device)


def allocate(size: int, name: str = "glreadback") -> tuple[int, str]:
    """Shareable memory of at least size bytes: (fd, "udmabuf") where one can be made, else (fd, "memfd").

    The memfd is a stand-in that only software drivers take for a dma-buf. The caller owns the descriptor.
    """
    memfd = sealed_memfd(size, name)
    try:
        fd = create(memfd, os.fstat(memfd).st_size)
    except OSError:
        return memfd, "memfd"
    os.close(memfd)
    return fd, "udmabuf"
