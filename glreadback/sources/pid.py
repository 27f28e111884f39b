"""`pid:` a buffer that another process has open."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

from ..errors import DescriptorError, SourceError, SourceSyntaxError
from ..fds import OwnedFd
from ..frame import Frame
from ..kernel import pidfd
from ..words import shown
from . import spec
from .fd import FdSource

_PATH = re.compile(r"([0-9]{1,10})/([0-9]{1,10})", re.ASCII)
_OLD = "this kernel cannot hand over descriptors; Linux 5.6 is needed"


class PidSource(FdSource):
    """A buffer by another process's descriptor: `pid:PID/FD?size=WxH&fourcc=CODE`.

    size, fourcc           needed
    stride, stride1 …      bytes from row to row of each plane; default: packed rows, further planes in proportion
    offset, offset1 …      each plane's first byte; default: 0, and where the plane before it in the same buffer ends
    fd1, fd2, fd3          the process's descriptors of further planes; default: the same one
    modifier               the memory layout, LINEAR; by DRM's name or as a number. A tiled one needs every stride

    /proc/PID/fdinfo shows which descriptors are dma-bufs and how large they are. The source has duplicates
    (pidfd_getfd), so what the process closes stays readable; asking for another frame once it has ended is a
    SourceError. Taking descriptors needs ptrace access to the process. Raises SourceError without it, and where there is
    no such process or descriptor; DescriptorError as fd: does.
    """

    scheme = "pid"
    path_help = "PID/FD in another process"
    keys: ClassVar[Mapping[str, spec.Key]] = FdSource.keys

    def __init__(self, path: str, **options: Any) -> None:
        found = _PATH.fullmatch(path)
        if not found or max(int(found[1]), int(found[2])) > 2**31 - 1:
            raise SourceSyntaxError(f"pid: {shown(path)} is not PID/FD: pid:1234/7?size=1920x1080&fourcc=XR24")
        self._pid = int(found[1])
        theirs = {"": int(found[2])} | {name: options[name] for name in ("fd1", "fd2", "fd3") if name in options}
        with ExitStack() as stack:
            self._process = stack.enter_context(_open(self._pid))
            with ExitStack() as borrowed:
                taken = {
                    fd: borrowed.enter_context(_take(self._process, self._pid, fd)) for fd in dict.fromkeys(theirs.values())
                }
                ours = {name: taken[fd].fileno() for name, fd in theirs.items()}
                numbers = {own.fileno(): fd for fd, own in taken.items()}
                try:
                    super().__init__(str(ours.pop("")), **(options | ours))
                except DescriptorError as error:
                    raise DescriptorError(_translated(str(error), numbers, self._pid)) from None
            assert self._held is not None
            stack.push(self._held.pop_all())
            self._command = _command(self._pid)
            self._own = {numbers[number]: fd for number, fd in self._own.items()}
            self._backings = {numbers[number]: backing for number, backing in self._backings.items()}
            self._frame = dataclasses.replace(self._frame, origin=f"pid:{path}")
            self._asked = False
            self._keep(stack)

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """The same frame again and again, at once; timeout never runs out.

        Raises SourceError where another frame is asked for and the process has ended.
        """
        for frame in super().frames(timeout):
            if self._asked and pidfd.exited(self._process.fileno()):
                raise SourceError(f"pid: process {self._pid} ({self._command}) has ended; nobody draws to its buffer any more")
            self._asked = True
            yield frame

    def describe(self) -> dict[str, object]:
        return {"process": self._pid, "command": self._command, **super().describe()}


def _open(pid: int) -> OwnedFd:
    try:
        return OwnedFd(pidfd.open_process(pid))
    except OSError as error:
        why = {errno.ESRCH: "there is no such process", errno.EINVAL: "no process has this id", errno.ENOSYS: _OLD}
        raise SourceError(f"pid: process {pid} cannot be opened: {why.get(error.errno or 0, error.strerror)}") from None


def _take(process: OwnedFd, pid: int, fd: int) -> OwnedFd:
    try:
        return OwnedFd(pidfd.get_fd(process.fileno(), fd))
    except OSError as error:
        why = {
            errno.EPERM: f"taking it needs ptrace access. {_advice(pid)}",
            errno.EBADF: f"it has no such descriptor open; ls -l /proc/{pid}/fd shows those it has",
            errno.ESRCH: "it has ended",
            errno.ENOSYS: _OLD,
        }
        raise SourceError(
            f"pid: descriptor {fd} of process {pid} cannot be had: {why.get(error.errno or 0, error.strerror)}"
        ) from None


def _advice(pid: int) -> str:
    """What would give ptrace access, as far as can be seen from here (ptrace(2), Documentation/admin-guide/LSM/Yama.rst)."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        owner = os.geteuid()
    if owner != os.geteuid():
        return f"Run as the process's user (uid {owner}) or as root (CAP_SYS_PTRACE)"
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as scope:
            restricted = scope.read().strip()
    except OSError:
        restricted = "0"
    if restricted != "0":
        return f"kernel.yama.ptrace_scope is {restricted}: set it to 0 (sysctl), or run with CAP_SYS_PTRACE"
    return "Run as the same user with kernel.yama.ptrace_scope=0, or with CAP_SYS_PTRACE; a sandbox may forbid it altogether"


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as name:
            return "".join(letter if letter.isprintable() else "?" for letter in name.read().rstrip("\n"))
    except OSError:
        return ""


def _translated(message: str, numbers: Mapping[int, int], pid: int) -> str:
    """A message about our descriptors as one about theirs."""

    def theirs(found: re.Match[str]) -> str:
        number = numbers.get(int(found[1]))
        return found[0] if number is None else f"descriptor {number} of process {pid}"

    return re.sub(r"\bdescriptor ([0-9]+)\b", theirs, message)
