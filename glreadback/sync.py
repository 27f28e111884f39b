"""Waiting for the producer, and bracketing CPU access: without GL, always with a time-out.

A software renderer maps the buffer, so its reads are CPU access too. The kernel's rules are in dma-buf.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterable, Iterator

from .errors import DescriptorError, FenceTimeout
from .kernel import dmabuf


def _ready(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    # Round up, so that a short rest is slept through rather than spun through.
    return bool(poller.poll(max(0, int(seconds * 1000 + 0.999))))


def _wait_fence(fd: int, deadline: float, timeout: float, which: str) -> None:
    # poll() may come back early (EINTR is retried by Python with the rest of the time).
    if not _ready(fd, max(0.0, deadline - time.monotonic())):
        raise FenceTimeout(f"{which} did not signal within {timeout:g} s; is the producer still drawing, or gone?")


def check_fence(fence: int) -> None:
    """Check that a fence's descriptor is open. Raises DescriptorError."""
    try:
        os.fstat(fence)
    except OSError as error:
        raise DescriptorError(f"the acquire fence, descriptor {fence}, is not open ({error.strerror})") from None


def wait(fds: Iterable[int], fence: int | None, timeout: float) -> None:
    """Wait until the producer is done: for an explicit sync file, and for the writers' fences on each dma-buf.

    fds are dma-bufs (no files); both stay the caller's. timeout is in seconds, for all of them together.
    A fence may be anything that polls readable once it has signalled: a sync file, or an eventfd of a producer on the
    CPU. Raises FenceTimeout, and DescriptorError if fence is not open.
    """
    deadline = time.monotonic() + timeout
    if fence is not None:
        check_fence(fence)
        _wait_fence(fence, deadline, timeout, f"the acquire fence (descriptor {fence})")
    for fd in fds:
        # POLLIN on a dma-buf: its writers' fences have signalled. Nothing to wait for is the common case.
        if _ready(fd, 0):
            continue
        try:
            snapshot = dmabuf.export_sync_file(fd, dmabuf.READ)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            _wait_fence(fd, deadline, timeout, f"the implicit fence of dma-buf {fd}")
            continue
        try:
            # A snapshot: what the producer queues after this read began is not waited for.
            _wait_fence(snapshot, deadline, timeout, f"the implicit fence of dma-buf {fd}")
        finally:
            os.close(snapshot)


def unsignalled(fds: Iterable[int]) -> list[int]:
    """New sync files, the caller's to close, of the writers' fences on dma-bufs that are not ready yet.

    Raises OSError where the kernel has no such sync files (before 6.0): wait() for them instead.
    """
    found: list[int] = []
    try:
        for fd in fds:
            if not _ready(fd, 0):
                found.append(dmabuf.export_sync_file(fd, dmabuf.READ))  # noqa: PERF401  # what was made must be closed
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found


@contextlib.contextmanager
def cpu_access(fds: Iterable[int]) -> Iterator[None]:
    """DMA_BUF_IOCTL_SYNC START before and END after, on each dma-buf, on every path."""
    with contextlib.ExitStack() as ends:
        for fd in fds:
            dmabuf.sync_start(fd)
            ends.callback(dmabuf.sync_end, fd)
        yield
