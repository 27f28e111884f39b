"""The helper process of isolated reads: GL runs here, with as few rights as it can do with. Started by isolate.py only.

    python -m glreadback.helper SOCKET DEVICE MEMORY

It takes requests off a SOCK_SEQPACKET socket, descriptors beside them, reads into shared memory that the parent made and
sealed, and answers. It dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from .errors import GlReadbackError
from .fds import OwnedFd
from .frame import Frame
from .reader import Reader
from .surface import Surface
from .wire.frames import parse_header

MAX_MESSAGE = 1 << 18
AGAIN, DONE = b"again", b"done"  # the same read as the last one, and that it went well
MAX_FDS = 6  # the planes', a fence, and a surface's memory
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

# What a driver that was taken over must not do. Threads, files to read, memory and ioctls are GL's daily work.
_DENIED = (
    *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    *("socket", "connect", "bind", "listen", "accept", "accept4", "kill", "mount", "umount2"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "link", "linkat"),
    *("symlink", "symlinkat", "truncate", "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "lchown"),
    *("setuid", "setgid", "setns", "unshare", "chroot", "pivot_root", "bpf", "init_module", "finit_module", "keyctl"),
)


def drop_rights(memory: int) -> bool:
    """Give up what reading needs not: new privileges, core dumps, memory beyond the limit, and by a seccomp filter (if
    pyseccomp and libseccomp are there: then True) programs, sockets, other processes and changes to files."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return False
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _DENIED:
        with contextlib.suppress(ValueError, OSError):  # a system call that this machine does not have
            rules.add_rule(pyseccomp.ERRNO(1), name)
    rules.load()
    return True


class Helper:
    """What is kept between requests: pictures by number, the shared memory of surfaces by number."""

    def __init__(self, sock: socket.socket, device: str | None) -> None:
        self._sock = sock
        self._reader = Reader(device)
        self._frames: dict[int, tuple[Frame, list[OwnedFd]]] = {}
        self._memories: dict[int, mmap.mmap] = {}
        self._surfaces: dict[tuple[Any, ...], Surface] = {}
        self._again: Callable[[], object] = lambda: None  # the last read, to be done once more

    def serve(self) -> None:
        """Answer requests until the parent hangs up."""
        while True:
            text, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            if not text:
                return
            owned = [OwnedFd(fd) for fd in fds]
            try:
                if text == AGAIN:
                    self._again()
                    self._sock.send(DONE)
                    continue
                reply = self._answer(json.loads(text), owned)
            except GlReadbackError as error:
                reply = _error(error)
            finally:
                for fd in owned:
                    fd.close()
            self._sock.send(json.dumps(reply).encode())

    def _answer(self, request: dict[str, Any], fds: list[OwnedFd]) -> dict[str, Any]:
        operation = request["do"]
        if operation == "read":
            return self._read(request, fds)
        if operation == "planes":
            return self._planes(request, fds)
        if operation == "capabilities":
            found = self._reader.capabilities()
            return {**dataclasses.asdict(found), "extensions": sorted(found.extensions)}
        if operation == "forget":
            for number in request["pictures"]:
                self._drop(number)
            for number in request["memories"]:
                memory = self._memories.pop(number, None)
                self._surfaces = {key: value for key, value in self._surfaces.items() if key[0] != number}
                del memory
            return {}
        raise GlReadbackError(f"the helper does not know {operation!r}")

    def _drop(self, number: int) -> None:
        frame, fds = self._frames.pop(number, (None, []))
        if frame is not None:
            with contextlib.suppress(GlReadbackError):
                self._reader.forget(frame)
        for fd in fds:
            fd.close()

    def _picture(self, request: dict[str, Any], fds: list[OwnedFd]) -> Frame:
        """The picture of a request, and its descriptors out of fds: kept under its number."""
        number = request["picture"]
        header = request.get("header")
        if header is None:
            return self._frames[number][0]
        self._drop(number)
        count = request["planes"]
        own = fds[:count]
        del fds[:count]
        said = parse_header(header.encode(), count).with_fds([fd.fileno() for fd in own])
        frame = dataclasses.replace(said, palette=request.get("palette"), device=request.get("device"))
        self._frames[number] = frame, own
        return frame

    def _memory(self, number: int, size: int, fds: list[OwnedFd]) -> mmap.mmap:
        if number not in self._memories:
            with fds.pop(0) as fd:
                self._memories[number] = mmap.mmap(fd.fileno(), size)
        return self._memories[number]

    def _read(self, request: dict[str, Any], fds: list[OwnedFd]) -> dict[str, Any]:
        picture = self._picture(request, fds)
        out = tuple(request["out"])  # memory's number and size, width, height, fourcc, stride
        if out not in self._surfaces:
            memory = self._memory(out[0], out[1], fds)
            self._surfaces[out] = Surface.wrap(memory, *out[2:])
        surface = self._surfaces[out]
        options = {name: value for name, value in request["options"].items() if value is not None}
        self._again = partial(self._reader.read, picture, surface, **options)
        self._again()
        route = surface.route
        assert route is not None
        return {"route": {"name": route.name, "exact": route.exact, "reason": route.reason}, "device": surface.device}

    def _planes(self, request: dict[str, Any], fds: list[OwnedFd]) -> dict[str, Any]:
        picture = self._picture(request, fds)
        number, size = request["memory"]
        memory = self._memory(number, size, fds)
        arrays = self._reader.read_planes(picture, **request["options"])
        start = 0
        for array in arrays:
            data = array.tobytes()
            memory[start : start + len(data)] = data
            start += len(data)
        return {}


def _error(error: GlReadbackError) -> dict[str, Any]:
    facts = {
        name: value
        for name, value in vars(error).items()
        if isinstance(value, str | int | tuple | dict | None) and not name.startswith("_")
    }
    return {"error": type(error).__name__, "message": str(error), "facts": facts}


def main(arguments: list[str]) -> None:
    number, device, memory = int(arguments[0]), arguments[1], int(arguments[2])
    filtered = drop_rights(memory)
    with socket.socket(fileno=number) as sock:
        sock.send(json.dumps({"ready": os.getpid(), "seccomp": filtered}).encode())
        Helper(sock, device or None).serve()
    os._exit(0)  # a driver's finalizers have no say


if __name__ == "__main__":
    main(sys.argv[1:])
