"""ioctl request numbers, as asm-generic/ioctl.h builds them, and a call that retries when interrupted."""

from __future__ import annotations

import ctypes
import errno
import fcntl

_WRITE, _READ = 1, 2


def _request(direction: int, kind: int | str, number: int, size: int) -> int:
    code = ord(kind) if isinstance(kind, str) else kind
    return direction << 30 | size << 16 | code << 8 | number


def io(kind: int | str, number: int) -> int:
    """_IO: a request without an argument structure."""
    return _request(0, kind, number, 0)


def ior(kind: int | str, number: int, size: int) -> int:
    """_IOR: the kernel writes size bytes for us to read."""
    return _request(_READ, kind, number, size)


def iow(kind: int | str, number: int, size: int) -> int:
    """_IOW: the kernel reads size bytes that we wrote."""
    return _request(_WRITE, kind, number, size)


def iowr(kind: int | str, number: int, size: int) -> int:
    """_IOWR: size bytes go both ways."""
    return _request(_READ | _WRITE, kind, number, size)


def ioctl(fd: int, request: int, argument: ctypes.Structure | bytearray) -> int:
    """Do one ioctl; argument is updated in place. Retries EINTR and EAGAIN, as the DRM and dma-buf calls ask for.

    Raises OSError as the kernel says.
    """
    while True:
        try:
            return int(fcntl.ioctl(fd, request, argument, True))
        except OSError as error:
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise
