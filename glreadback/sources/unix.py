"""`unix:` frames that another process hands over on a socket, as `glreadback.send_frame` does."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import ClassVar

from ..errors import SourceError, SourceSyntaxError
from ..frame import Frame
from ..wire import frames as wire
from ..words import shown
from . import spec
from ._lines import Line, Lines, close_fds, deadline_in, wait_readable
from .base import Source, SourceTimeout

LINE_TIMEOUT = 5.0  # seconds that a line may take once it has begun, also for a caller that waits for ever
_PEERCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def _switch(text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise ValueError("it must be 0 or 1")
    return text == "1"


class UnixSource(Source):
    """Frames from another process: `unix:PATH`, a line of JSON and descriptors each (glreadback/wire/frames.py).

    listen    1: make the socket and wait for a producer; default: 0, connect to the producer's
    any_user  1: take other users' frames; default: 0, the same user only, and root where we connect

    The producer learns that a frame was read by its release line, sent when `frame.release` is called (a Reader does) or
    the next frame is asked for. The sequence ends where the producer hangs up between frames; one that listens can then
    be asked for frames() again. A listening socket is made with mode 0600 (0666 for any_user), takes the place of one
    that nobody listens on any more, and goes when the source is closed.

    Whose the producer is the kernel says: who connected, or who made the socket listen that we connect to (SO_PEERCRED).
    That a socket lies in a folder that anybody may write to says nothing.

    Raises SourceError for another user's socket, and for a producer that breaks off or talks nonsense: its connection is
    then closed. SourceTimeout where nothing came in time, and where a line that had begun was not whole within 5 seconds.
    """

    scheme = "unix"
    path_help = "a socket to connect to, or to listen on"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "listen": spec.Key(_switch, "1", "1: make the socket; default: 0"),
        "any_user": spec.Key(_switch, "1", "1: take other users' frames; default: 0"),
    }

    def __init__(self, path: str, *, listen: bool = False, any_user: bool = False) -> None:
        if not path:
            raise SourceSyntaxError("unix: needs the path of a socket: unix:/run/user/1000/frames")
        self._path, self._any_user = path, any_user
        self._refused = 0
        self._connections: list[_Connection] = []  # one, or none
        self._listener: socket.socket | None = None
        with ExitStack() as stack:
            if listen:
                self._listener = stack.enter_context(_listen(path, 0o666 if any_user else 0o600))
                status = os.stat(path)
                stack.callback(_remove, path, (status.st_dev, status.st_ino))
            else:
                self._connections.append(_Connection(_connect(path, any_user), path))
            stack.callback(_hang_up, self._connections)
            self._keep(stack)

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """The producer's frames, until it hangs up. timeout is in seconds, for each; accepting a producer counts.

        Raises SourceTimeout; the next call goes on where this one stopped.
        """
        while True:
            self._check_open()
            deadline = deadline_in(timeout)
            if not self._connections:
                if self._listener is None:
                    return
                self._connections.append(self._accept(self._listener, deadline, timeout))
            try:
                frame = self._connections[0].next_frame(deadline)
            except EOFError:
                silent = not self._connections[0].frames
                _hang_up(self._connections)
                if silent and self._listener is not None:
                    continue  # it only looked whether somebody listens, as _remove_stale does
                return
            except SourceTimeout as error:
                raise SourceTimeout(f"unix: {self._who()}: {error}{_within(timeout)}") from None
            except SourceError as error:
                _hang_up(self._connections)
                raise SourceError(f"unix: {self._who()}: {error}") from None
            yield frame

    def describe(self) -> dict[str, object]:
        users = "any" if self._any_user else "this one" if self._listener is not None else "this one and root"
        facts: dict[str, object] = {"socket": self._path, "role": "connected", "users": users}
        if self._listener is not None:
            facts |= {"role": "listening", "refused": self._refused}
        for connection in self._connections:
            facts["producer"] = dict(zip(("pid", "uid", "gid"), peer(connection.sock), strict=True))
        return facts

    def _accept(self, listener: socket.socket, deadline: float | None, timeout: float | None) -> _Connection:
        while wait_readable(listener, deadline):
            try:
                sock, _ = listener.accept()
            except OSError as error:  # who came has gone again, or there are no descriptors left
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise SourceError(f"unix: a producer came, but: {error.strerror}") from None
                continue
            if self._any_user or peer(sock)[1] == os.geteuid():
                return _Connection(sock, self._path)
            self._refused += 1
            sock.close()
        refused = f" of this user ({self._refused} of others were refused; any_user=1 lets them)" if self._refused else ""
        raise SourceTimeout(f"unix: no producer{refused} connected to {shown(self._path)}{_within(timeout)}")

    def _who(self) -> str:
        return f"the producer at {shown(self._path)}"


class _Connection:
    """One producer: its socket, and the frame it last gave."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.sock = sock
        self._origin = f"unix:{path}"
        self._lines = Lines(sock)
        self._held: list[int] = []
        self._unread: int | None = None
        self.frames = 0  # that it has given so far
        self._begun: float | None = None

    def next_frame(self, deadline: float | None) -> Frame:
        """Raises EOFError where the producer has hung up between frames, SourceTimeout, SourceError."""
        self._let_go()
        line = self._receive(deadline)
        try:
            header = wire.parse_header(line.text, len(line.fds))
        except SourceError:
            close_fds(line.fds)
            raise
        self.frames += 1
        self._held, self._unread = line.fds, header.number

        def release() -> None:
            # Late calls, and those of a source already closed, are about a frame that has been released.
            if self._unread == header.number:
                self._release()

        return header.with_fds(line.fds, self._origin, release)

    def _receive(self, deadline: float | None) -> Line:
        while (line := self._lines.take()) is None:
            if not self._lines.begun:
                self._begun = None
            elif self._begun is None:
                self._begun = time.monotonic()
            limits = [deadline, None if self._begun is None else self._begun + LINE_TIMEOUT]
            if not wait_readable(self.sock, min((limit for limit in limits if limit is not None), default=None)):
                raise SourceTimeout("half a frame's line came" if self._lines.begun else "no frame came")
        self._begun = None
        return line

    def _release(self) -> None:
        number, self._unread = self._unread, None
        if number is None:
            return
        # A producer that is gone, or never reads, shows when the next frame is asked for.
        with contextlib.suppress(OSError):
            self.sock.send(wire.format_release(number), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _let_go(self) -> None:
        self._release()
        close_fds(self._held)

    def close(self) -> None:
        self._let_go()
        self._lines.close()
        self.sock.close()


def _hang_up(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the other end: of who connected, or who called listen(), as the kernel noted them then (unix(7))."""
    pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return pid, uid, gid


def _connect(path: str, any_user: bool) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(LINE_TIMEOUT)  # a full backlog
        sock.connect(path)
        sock.settimeout(None)
    except (OSError, ValueError) as error:
        sock.close()
        advice = {
            errno.ECONNREFUSED: ": nobody listens on it any more",
            errno.ENOENT: ". Is the producer running? listen=1 makes the socket and waits for it",
        }.get(getattr(error, "errno", 0) or 0, "")
        raise SourceError(f"unix: cannot connect to {shown(path)}: {_why(error)}{advice}") from None
    pid, user, _ = peer(sock)
    if not any_user and user not in (os.geteuid(), 0):
        sock.close()
        raise SourceError(
            f"unix: {shown(path)} is another user's: process {pid} of user {user} listens on it, and this is user "
            f"{os.geteuid()}. any_user=1 takes its frames all the same"
        )
    return sock


def _listen(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file gets the unbound socket's own mode (unix_bind_bsd in net/unix/af_unix.c), less the umask: there is no
        # moment at which it has another, and other threads' files are left alone.
        os.fchmod(sock.fileno(), mode)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(path)
        if mode & 0o066:
            os.chmod(path, mode)
        sock.listen(1)
    except (OSError, ValueError) as error:
        sock.close()
        raise SourceError(f"unix: cannot listen on {shown(path)}: {_why(error)}") from None
    except SourceError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; raises SourceError for anything else."""
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode):
        raise SourceError(f"unix: {shown(path)} is there already and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        found = probe.connect_ex(path)
    if found != errno.ECONNREFUSED:
        raise SourceError(f"unix: somebody listens on {shown(path)} already; without listen=1 you would connect to it")
    _remove(path, (status.st_dev, status.st_ino))


def _remove(path: str, own: tuple[int, int]) -> None:
    """Remove path if it still is that file."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == own:
            os.unlink(path)


def _within(timeout: float | None) -> str:
    return "" if timeout is None else f" within {timeout:g} s"


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
