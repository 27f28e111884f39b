"""The helper process of isolated reads: GL runs here, with as few rights as it can do with. Started by isolate.py only.

    python -m glreadback.helper SOCKET LIFELINE MEMORY [DEVICE]

It takes requests off a SOCK_SEQPACKET socket, descriptors beside them, reads into shared memory that the parent made and
sealed, and answers. It ends with its parent, which has the other end of the pipe LIFELINE.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import dataclasses
import fcntl
import glob
import json
import os
import re
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .errors import GlReadbackError
from .fds import OwnedFd
from .frame import Frame
from .kernel.landlock import restrict
from .kernel.mapping import map_shared, unmap
from .reader import Reader
from .surface import Surface
from .wire.frames import parse_header

MAX_MESSAGE = 1 << 17
AGAIN, DONE = b"again", b"done"  # the same read as the last one, and that it went well
MAX_FDS = 6  # the planes', a fence, and a surface's memory
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38

# ---- Rights

# What drivers open for writing. Everything else is for reading only, where the kernel has Landlock.
_DEVICES = (
    *("/dev/dri", "/dev/udmabuf", "/dev/dma_heap", "/dev/kfd", "/dev/nvidia*", "/dev/mali*", "/dev/pvr*", "/dev/galcore"),
    "/dev/null",
)

# What a driver that was taken over must not do. Threads, files to read, memory and ioctls are GL's daily work.
_DENIED = (
    *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise"),
    *("pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "kcmp"),
    *("socket", "connect", "bind", "listen", "accept", "accept4", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("mount", "umount2", "open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr", "pivot_root", "chroot"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "link", "linkat"),
    *("symlink", "symlinkat", "mknod", "mknodat", "creat", "truncate", "open_by_handle_at", "name_to_handle_at"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "fchownat", "lchown", "utime", "utimes", "utimensat"),
    *("futimesat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setns", "unshare", "capset"),
    *("bpf", "init_module", "finit_module", "delete_module", "kexec_load", "keyctl", "add_key", "request_key"),
    *("perf_event_open", "userfaultfd", "reboot", "swapon", "swapoff", "acct", "personality", "quotactl"),
)
# Their arguments lie in memory, where no filter can look; the C library then uses the older call.
_MISSING = ("clone3", "openat2")
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_TIOCSTI = 0x5412


def drop_rights(memory: int) -> dict[str, bool]:
    """Give up what reading needs not: new privileges, core dumps, memory beyond the limit; changes to files, programs and
    TCP by Landlock (where the kernel has it); programs, sockets, other processes and changes to files by a seccomp
    filter (where pyseccomp and libseccomp are there). Says which of the two there are."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this one than the parent
    prctl(_PR_SET_DUMPABLE, 0)  # from here on /proc/self is root's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # DATA is private memory; FSIZE bounds a memfd.
    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        least = [value for value in (memory, resource.getrlimit(limit)[1]) if value >= 0]
        resource.setrlimit(limit, (min(least), min(least)))
    # In this order: libseccomp is looked for by running ldconfig.
    return {"seccomp": _filter(), "landlock": restrict(path for pattern in _DEVICES for path in glob.glob(pattern))}


def _filter() -> bool:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return False
    arg, masked = pyseccomp.Arg, pyseccomp.MASKED_EQ
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    with contextlib.suppress(ValueError, OSError):
        rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)

    def deny(name: str, *arguments: Any, error: int = _EPERM) -> None:
        with contextlib.suppress(ValueError, OSError):  # a system call that this machine does not have
            rules.add_rule(pyseccomp.ERRNO(error), name, *arguments)

    for name in _DENIED:
        deny(name)
    for name in _MISSING:
        deny(name, error=_ENOSYS)
    deny("clone", arg(0, masked, _CLONE_THREAD, 0))  # a process; threads are fine
    deny("tgkill", arg(0, pyseccomp.NE, os.getpid()))  # abort() sends itself a signal
    deny("prlimit64", arg(0, pyseccomp.NE, 0))
    deny("ioctl", arg(1, pyseccomp.EQ, _TIOCSTI))  # typing for the user
    for name, flags in (("open", 1), ("openat", 2)):
        deny(name, arg(flags, masked, os.O_CREAT, os.O_CREAT))
        deny(name, arg(flags, masked, os.O_TRUNC, os.O_TRUNC))
        deny(name, arg(flags, masked, os.O_ACCMODE, os.O_WRONLY))
    rules.load()
    return True


def end_with(lifeline: int) -> None:
    """Have the kernel kill this process, even one that hangs or is stopped, when the pipe's other end is closed.

    PR_SET_PDEATHSIG would do it when the parent's thread ends that started us.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):  # it was closed before
        os._exit(0)


# ---- Requests


class _Memory:
    """The parent's shared memory for surfaces, mapped here."""

    def __init__(self, fd: int, size: int) -> None:
        self.address, self.size = map_shared(fd, size), size
        self.block = (ctypes.c_ubyte * size).from_address(self.address)

    def close(self) -> None:
        unmap(self.address, self.size)


class Helper:
    """What is kept between requests: pictures by number, the shared memory of surfaces by number."""

    def __init__(self, sock: socket.socket, device: str | None) -> None:
        self._sock = sock
        self._reader = Reader(device)
        self._frames: dict[int, tuple[Frame, list[OwnedFd], set[tuple[int, int]]]] = {}  # with its buffers' inodes
        self._memories: dict[int, _Memory] = {}
        self._surfaces: dict[tuple[Any, ...], Surface] = {}
        self._names: dict[int, int] = {}  # descriptors here -> what the parent calls them
        self._again: Callable[[], object] = lambda: None  # the last read, to be done once more

    def serve(self) -> None:
        """Answer requests until the parent hangs up."""
        message = memoryview(bytearray(MAX_MESSAGE))
        while True:
            size, ancillary, _, _ = self._sock.recvmsg_into([message], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            text = bytes(message[:size])
            if text == AGAIN:
                try:
                    self._again()
                except GlReadbackError as error:
                    self._send(self._error(error))
                else:
                    self._sock.send(DONE)
                continue
            if not text:
                return
            with contextlib.ExitStack() as owned:
                fds = array.array("i")
                for _, _, data in ancillary:
                    fds.frombytes(data)
                try:
                    reply = self._answer(json.loads(text), [owned.enter_context(OwnedFd(fd)) for fd in fds])
                except GlReadbackError as error:
                    reply = self._error(error)
            self._send(reply)

    def _send(self, reply: dict[str, Any]) -> None:
        self._sock.send(json.dumps(reply).encode())

    def _answer(self, request: dict[str, Any], fds: list[OwnedFd]) -> dict[str, Any]:
        for number in request.get("forget", ()):
            self._drop(number)
        for number in request.get("unmap", ()):
            self._unmap(number)
        # Memory and picture are kept before anything can go wrong, so that the parent knows what is known here.
        memory = request.get("memory")
        if memory is not None and memory[0] not in self._memories:
            with fds.pop() as fd:
                self._memories[memory[0]] = _Memory(fd.fileno(), memory[1])
        picture = self._picture(request, fds) if "picture" in request else None
        return _OPERATIONS[request["do"]](self, request, picture)

    def _drop(self, number: int) -> None:
        if number not in self._frames:
            return
        frame, fds, keys = self._frames.pop(number)
        # Another picture may show the same buffer: a compositor makes a new Frame for each commit.
        if not any(keys & others for _, _, others in self._frames.values()):
            with contextlib.suppress(GlReadbackError):
                self._reader.forget(frame)
        for fd in fds:
            self._names.pop(fd.fileno(), None)
            fd.close()

    def _unmap(self, number: int) -> None:
        self._surfaces = {key: value for key, value in self._surfaces.items() if key[0] != number}
        self._again = lambda: None  # it may hold such a surface
        memory = self._memories.pop(number, None)
        if memory is not None:
            memory.close()

    def _picture(self, request: dict[str, Any], fds: list[OwnedFd]) -> Frame:
        """The picture of a request, and its descriptors out of fds: kept under its number."""
        number = request["picture"]
        header = request.get("header")
        if header is None:
            return self._frames[number][0]
        own = [OwnedFd(fd.release()) for fd in fds]
        numbers = [fd.fileno() for fd in own]
        said = parse_header(header.encode(), len(own)).with_fds(numbers)
        frame = dataclasses.replace(said, device=request.get("device"))
        status = [os.fstat(fd) for fd in numbers]
        self._frames[number] = frame, own, {(found.st_dev, found.st_ino) for found in status}
        self._names.update(zip(numbers, request["called"], strict=True))
        return frame

    def _read(self, request: dict[str, Any], picture: Frame | None) -> dict[str, Any]:
        assert picture is not None
        place = (*request["memory"], *request["out"])  # memory's number and size, width, height, fourcc, stride
        if place not in self._surfaces:
            self._surfaces[place] = Surface.wrap(self._memories[place[0]].block, *place[2:])
        surface = self._surfaces[place]
        options = {name: value for name, value in request["options"].items() if value is not None}
        self._again = partial(self._reader.read, picture, surface, **options)
        self._again()
        route = surface.route
        assert route is not None
        return {"route": route.name, "exact": route.exact, "reason": route.reason, "device": surface.device}

    def _planes(self, request: dict[str, Any], picture: Frame | None) -> dict[str, Any]:
        assert picture is not None
        memory = memoryview(self._memories[request["memory"][0]].block).cast("B")
        start = 0
        for plane in self._reader.read_planes(picture, **request["options"]):
            size = plane.nbytes
            memory[start : start + size] = plane.reshape(-1).view("u1").data
            start += size
        return {}

    def _capabilities(self, request: dict[str, Any], picture: Frame | None) -> dict[str, Any]:
        found = self._reader.capabilities(picture)
        formats = {
            str(code): {str(int(modifier)): external for modifier, external in listed.items()}
            for code, listed in found.formats.items()
        }
        return {**dataclasses.asdict(found), "formats": formats, "extensions": sorted(found.extensions)}

    def _forget(self, request: dict[str, Any], picture: Frame | None) -> dict[str, Any]:
        return {}  # what every request does on its way

    def _error(self, error: GlReadbackError) -> dict[str, Any]:
        def parents(found: re.Match[str]) -> str:
            number = int(found[2])
            return f"{found[1]}{self._names.get(number, number)}"

        # Numbers of descriptors are this process's own; the caller knows them by others.
        message = re.sub(r"(descriptor |dma-buf )(\d+)", parents, str(error))
        facts = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        return {"error": type(error).__name__, "message": message, **facts}


_OPERATIONS: dict[str, Callable[[Helper, dict[str, Any], Frame | None], dict[str, Any]]] = {
    "read": Helper._read,
    "planes": Helper._planes,
    "capabilities": Helper._capabilities,
    "forget": Helper._forget,
}


def main(arguments: list[str]) -> None:
    number, lifeline, memory = map(int, arguments[:3])
    end_with(lifeline)
    rights = drop_rights(memory)
    with socket.socket(fileno=number) as sock:
        sock.send(json.dumps({"ready": os.getpid(), **rights}).encode())
        Helper(sock, arguments[3] if len(arguments) > 3 else None).serve()
    os._exit(0)  # a driver's finalizers have no say


if __name__ == "__main__":
    main(sys.argv[1:])
