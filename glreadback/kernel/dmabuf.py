"""What the kernel offers on a dma-buf's descriptor itself: linux/dma-buf.h, and how to tell one from a file."""

from __future__ import annotations

import ctypes
import os
import struct

from .ioctl import ioctl, iow, iowr

READ, WRITE = 1, 2
_END = 4

_SYNC = iow("b", 0, 8)
_EXPORT_SYNC_FILE = iowr("b", 2, 8)
_IMPORT_SYNC_FILE = iow("b", 3, 8)

_SYNC_FILE_INFO = iowr(">", 4, 56)  # linux/sync_file.h

_DMA_BUF_MAGIC = 0x444D4142  # linux/magic.h: "DMAB"
TMPFS_MAGIC = 0x01021994

_libc = ctypes.CDLL(None, use_errno=True)
# struct statfs is at most 120 bytes on Linux's 64-bit ABIs; its first long is f_type.
_statfs_buffer_size = 256


def filesystem_magic(fd: int) -> int:
    """f_type of the file system that fd lives on (statfs(2)). Raises OSError."""
    # os.fstatvfs does not give f_type.
    buffer = (ctypes.c_long * (_statfs_buffer_size // 8))()
    if _libc.fstatfs(ctypes.c_int(fd), buffer):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(buffer[0]) & 0xFFFFFFFF


def is_dmabuf(fd: int) -> bool:
    """Whether fd is a dma-buf. Raises OSError if it is not open."""
    return filesystem_magic(fd) == _DMA_BUF_MAGIC


def sync_start(fd: int, access: int = READ) -> None:
    """DMA_BUF_IOCTL_SYNC START: make CPU access to the buffer coherent. Pair it with sync_end on every path.

    It may wait for fences of the producer. Raises OSError (ENOTTY on what is no dma-buf).
    """
    ioctl(fd, _SYNC, bytearray(struct.pack("=Q", access)))


def sync_end(fd: int, access: int = READ) -> None:
    """DMA_BUF_IOCTL_SYNC END: the other half of sync_start."""
    ioctl(fd, _SYNC, bytearray(struct.pack("=Q", access | _END)))


def export_sync_file(fd: int, access: int = READ) -> int:
    """A new sync file of the fences a reader (READ: the writers') or writer (WRITE: everybody's) has to wait for.

    The caller owns it. Raises OSError: ENOTTY before Linux 6.0 and on what is no dma-buf.
    """
    argument = bytearray(struct.pack("=Ii", access, -1))
    ioctl(fd, _EXPORT_SYNC_FILE, argument)
    return int(struct.unpack("=Ii", argument)[1])


def import_sync_file(fd: int, sync_file: int, access: int = WRITE) -> None:
    """Add a sync file's fences to the buffer, as a reader's (READ) or a writer's (WRITE). sync_file stays the caller's."""
    ioctl(fd, _IMPORT_SYNC_FILE, bytearray(struct.pack("=Ii", access, sync_file)))


def is_sync_file(fd: int) -> bool:
    """Whether fd is a sync file, and not something else that can be polled."""
    try:
        ioctl(fd, _SYNC_FILE_INFO, bytearray(56))
    except OSError:
        return False
    return True


def exporter(fd: int) -> str:
    """The driver that made the dma-buf (exp_name in /proc/self/fdinfo), "" where the kernel does not say."""
    try:
        with open(f"/proc/self/fdinfo/{fd}") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key == "exp_name":
                    return value.strip()
    except OSError:
        pass
    return ""
