"""dma-bufs from the kernel's DMA-BUF heaps (linux/dma-heap.h)."""

from __future__ import annotations

import os
import struct

from .ioctl import ioctl, iowr

FOLDER = "/dev/dma_heap"
_ALLOC = iowr("H", 0, 24)


def alloc(size: int, heap: str = "system") -> int:
    """A new dma-buf of size bytes, rounded up to whole pages and zeroed. The caller owns the descriptor.

    Raises OSError: ENOENT or EACCES without a usable heap of that name, ENOMEM.
    """
    device = os.open(os.path.join(FOLDER, heap), os.O_RDONLY | os.O_CLOEXEC)
    try:
        argument = bytearray(struct.pack("=QIIQ", size, 0, os.O_RDWR | os.O_CLOEXEC, 0))
        ioctl(device, _ALLOC, argument)
        return int(struct.unpack("=QIIQ", argument)[1])
    finally:
        os.close(device)
