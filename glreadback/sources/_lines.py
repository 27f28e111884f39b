"""Lines with descriptors beside them, from a UNIX stream socket whose other end may be anybody's."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import time
from typing import NamedTuple

from ..errors import SourceError
from ..wire.frames import MAX_FDS, MAX_LINE
from .base import SourceTimeout

_CHUNK = 4096


class Line(NamedTuple):
    """A line without its newline, and the descriptors that came with it: the receiver's to close."""

    text: bytes
    fds: list[int]


class Lines:
    """Takes lines off a socket, none further than its newline, so that descriptors stay with the line they came with.

    The socket stays the caller's. Of a line that is not complete, at most `longest` bytes and `most_fds` descriptors are
    kept; close() closes the descriptors that nobody took.
    """

    def __init__(self, sock: socket.socket, longest: int = MAX_LINE, most_fds: int = MAX_FDS) -> None:
        self._sock, self._longest, self._most_fds = sock, longest, most_fds
        self._text = bytearray()
        self._fds: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether part of a line is here."""
        return bool(self._text or self._fds)

    def take(self) -> Line | None:
        """The next line if all of it is here, else None; never waits.

        Raises EOFError where the other end hung up between lines; SourceError where it did so within one, sent a longer
        one or more descriptors than allowed: then nothing more can be made of this socket.
        """
        while True:
            try:
                # What is peeked at brings no descriptors; what is taken then is one line at most.
                ahead = self._sock.recv(_CHUNK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return None
            except ConnectionResetError:
                ahead = b""  # it hung up without having taken all that we sent
            except OSError as error:
                raise SourceError(f"the connection broke: {error.strerror}") from None
            if not ahead:
                if self.begun:
                    raise SourceError(f"the producer hung up {len(self._text)} bytes into a line")
                raise EOFError
            end = ahead.find(b"\n") + 1
            text, fds, cut = receive(self._sock, end or len(ahead), self._most_fds)
            self._text += text
            self._fds += fds
            if cut or len(self._fds) > self._most_fds:
                raise SourceError(f"more than {self._most_fds} descriptors came with one line")
            if len(self._text) > self._longest:
                raise SourceError(f"a line of more than {self._longest} bytes came")
            if end and self._text.endswith(b"\n"):
                line = Line(bytes(self._text[:-1]), self._fds)
                self._text, self._fds = bytearray(), []
                return line

    def receive(self, deadline: float | None) -> Line:
        """The next line; waits for it until deadline (time.monotonic), None for ever. Raises as take(), and SourceTimeout."""
        while (line := self.take()) is None:
            if not wait_readable(self._sock, deadline):
                raise SourceTimeout("no whole line came in time" if self.begun else "nothing came in time")
        return line

    def close(self) -> None:
        close_fds(self._fds)


def receive(sock: socket.socket, size: int, most_fds: int) -> tuple[bytes, list[int], bool]:
    """At most size bytes, the descriptors with them (close-on-exec, the caller's), and whether some of these were cut off."""
    space = socket.CMSG_SPACE(most_fds * 4)
    data, ancillary, flags, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    return data, fds_of(ancillary), bool(flags & socket.MSG_CTRUNC)


def fds_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in recvmsg's ancillary data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return list(fds)


def close_fds(fds: list[int]) -> None:
    """Close them all and empty the list: doing it twice is fine."""
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())


def wait_readable(sock: socket.socket, deadline: float | None) -> bool:
    """Wait until there is something to receive, the end included; False once deadline (time.monotonic) is over."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    rest = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000 + 0.999))
    return bool(poller.poll(rest))


def deadline_in(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
