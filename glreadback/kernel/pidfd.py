"""Other processes' descriptors: pidfd_open(2) and pidfd_getfd(2)."""

from __future__ import annotations

import ctypes
import os
import select

# The same on every architecture since 424 (Documentation/process/adding-syscalls.rst), but alpha.
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438

_libc = ctypes.CDLL(None, use_errno=True)


def open_process(pid: int) -> int:
    """A pidfd of a process; the caller owns it. Raises OSError: ESRCH without such a process, EINVAL for a thread's id,
    ENOSYS before Linux 5.3."""
    return _checked(_libc.syscall(ctypes.c_long(_PIDFD_OPEN), ctypes.c_long(pid), ctypes.c_long(0)))


def get_fd(pidfd: int, fd: int) -> int:
    """A duplicate (close-on-exec) of descriptor fd of that process; the caller owns it.

    Raises OSError: EPERM without ptrace access (PTRACE_MODE_ATTACH_REALCREDS), EBADF where it has no such descriptor,
    ESRCH once it has exited, ENOSYS before Linux 5.6.
    """
    return _checked(_libc.syscall(ctypes.c_long(_PIDFD_GETFD), ctypes.c_long(pidfd), ctypes.c_long(fd), ctypes.c_long(0)))


def exited(pidfd: int) -> bool:
    """Whether the process has ended; it may still be waited for by its parent."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
