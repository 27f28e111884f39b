"""Somebody to read from: producers, and a SOURCE of each kind that can be tried without a kernel of our own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import qemu_guest

_CHILD = """
import fcntl, os, sys
fd = os.memfd_create("frame", os.MFD_ALLOW_SEALING)
os.ftruncate(fd, 1920 * 1080 * 4)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
print(f"{os.getpid()}/{fd}", flush=True)
sys.stdin.read()
"""


@contextmanager
def process() -> Iterator[str]:
    """PID/FD of a process with a buffer of 1920x1080 pixels of up to 4 bytes."""
    made = subprocess.Popen([sys.executable, "-S", "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with made:
        assert made.stdout is not None
        yield made.stdout.readline().strip()


@contextmanager
def folder() -> Iterator[str]:
    """A folder whose name is short enough for a socket's path, as pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="gl") as path:
        yield path


_SENDER = """
import contextlib, socket, sys, time
import glreadback
with glreadback.open_source("pattern:?size=64x48") as source:
    while True:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError, glreadback.SinkError):
            sock.connect(sys.argv[1])
            for frame in source.frames():
                glreadback.send_frame(sock, frame)  # until that reader has had enough
        time.sleep(0.02)
"""


@contextmanager
def sender() -> Iterator[str]:
    """The path of a socket on which somebody wants to send 64x48 frames, one after the other, to whoever listens there.

    A process of its own: what it opens and closes is not for those to see who count descriptors here.
    """
    with folder() as path, subprocess.Popen([sys.executable, "-c", _SENDER, f"{path}/frames"]) as made:
        try:
            yield f"{path}/frames"
        finally:
            made.kill()


@contextmanager
def guest() -> Iterator[str]:
    """The QMP socket of a QEMU whose guest shows a picture of 320x200."""
    with qemu_guest.Guest([qemu_guest.linear(320, 200, 32)]) as made:
        made.show(0)
        yield os.fspath(made.qmp)


# ---- a SOURCE of each kind


@contextmanager
def _file() -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(range(64)))
        file.flush()
        yield f"file:{file.name}?size=4x4&fourcc=XR24"


@contextmanager
def _fd() -> Iterator[str]:
    fd = os.memfd_create("frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield f"fd:{fd}?size=4x4&fourcc=XR24"
    finally:
        os.close(fd)


@contextmanager
def _pid() -> Iterator[str]:
    with process() as numbers:
        yield f"pid:{numbers}?size=4x4&fourcc=XR24"


@contextmanager
def _unix() -> Iterator[str]:
    with sender() as path:
        yield f"unix:{path}?listen=1"


@contextmanager
def _qemu() -> Iterator[str]:
    with guest() as path:
        yield f"qemu:{path}"


SOURCES: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "pattern": lambda: contextlib.nullcontext("pattern:?size=4x4"),
    "file": _file,
    "fd": _fd,
    "pid": _pid,
    "unix": _unix,
    "qemu": _qemu,
}
# Those that take a kernel's drivers: kernel/test_docs_kernel.py has a SOURCE of each.
KERNEL = {"kms", "vfio"}
