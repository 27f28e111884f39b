"""Fences by hand on vgem's buffers (vgem_drm.h): the kernel's own way to make a producer that is not done yet."""

from __future__ import annotations

import struct

from .ioctl import ioctl, iow, iowr

_FENCE_ATTACH = iowr("d", 0x41, 16)
_FENCE_SIGNAL = iow("d", 0x42, 8)
_WRITE = 1  # VGEM_FENCE_WRITE


def attach_fence(fd: int, handle: int, *, write: bool = True) -> int:
    """Put an unsignalled fence on a buffer of the vgem card fd, as its writer's or as a reader's. Returns its number.

    The fence is the open file's: it signals by signal_fence, after 10 s, or when the card is closed.
    Raises OSError: EBUSY while a conflicting fence has not signalled.
    """
    argument = bytearray(struct.pack("=IIII", handle, _WRITE if write else 0, 0, 0))
    ioctl(fd, _FENCE_ATTACH, argument)
    return int(struct.unpack("=IIII", argument)[2])


def signal_fence(fd: int, fence: int) -> None:
    """The producer is done. Raises OSError: ETIMEDOUT when the 10 s had passed before, ENOENT for no such fence."""
    ioctl(fd, _FENCE_SIGNAL, bytearray(struct.pack("=II", fence, 0)))
