"""The producer's end of a `unix:` source: ten lines in a compositor.

sock = socket.socket(socket.AF_UNIX)
sock.connect(path)                                          # glreadback snapshot 'unix:PATH?listen=1' waits there
buf = glreadback.DmaBuf(width, height, "XR24", [glreadback.Plane(fd, 0, stride)], modifier)
glreadback.send_frame(sock, glreadback.Frame(buf, acquire_fence=fence))   # comes back when it has been read
"""

from __future__ import annotations

import array
import itertools
import select
import socket
import time
import weakref

from .dmabuf import DmaBuf
from .errors import SinkError, SourceError
from .frame import Frame, as_frame
from .wire import frames as wire

DEFAULT_TIMEOUT = 5.0  # seconds


class ReleaseTimeout(SinkError, TimeoutError):
    """The reader took no frame, or did not say that it had read it, within the caller's time-out."""


class Sent:
    """A frame on its way: wait() for the reader to be done with it, or look whether it `released` it."""

    def __init__(self, peer: _Peer, number: int, frame: Frame) -> None:
        self._peer, self._number, self._frame = peer, number, frame
        self._released = False

    @property
    def released(self) -> bool:
        """Whether the reader is done and the buffer may be drawn to again; never waits. Raises SinkError as wait() does."""
        try:
            self.wait(0.0)
        except ReleaseTimeout:
            return False
        return True

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait for the reader's release, timeout in seconds; then the frame's own `release` is called, once.

        Raises ReleaseTimeout where it did not come in time, SinkError where the reader hung up or talks nonsense: it
        reads no more, and the buffer may be drawn to again.
        """
        self._wait(time.monotonic() + timeout, timeout)

    def _wait(self, deadline: float, timeout: float) -> None:
        if self._released:
            return
        try:
            self._peer.wait(self._number, deadline)
        except ReleaseTimeout:
            raise ReleaseTimeout(f"the reader did not release frame {self._number} within {timeout:g} s") from None
        except SinkError:
            self._done()
            raise
        self._done()

    def _done(self) -> None:
        self._released = True
        if self._frame.release is not None:
            self._frame.release()


def send_frame(sock: socket.socket, frame: Frame | DmaBuf, *, timeout: float = DEFAULT_TIMEOUT, wait: bool = True) -> Sent:
    """Hand a frame to the reader at the other end of a connected UNIX stream socket, and wait until it has been read.

    wait=False comes back once it is sent: several frames may be on their way, each with a `Sent` of its own. timeout is in
    seconds, for sending and for waiting. The frame's descriptors stay the caller's; the buffer must not be drawn to before
    the release. The socket's own time-out, and whether it blocks, change nothing. One thread at a time for one socket.

    Raises ReleaseTimeout, a SinkError: where it came in the middle of sending, the socket is of no more use. SinkError
    where the reader is gone. DescriptorError where the frame has more than 5 distinct descriptors.
    """
    deadline = time.monotonic() + timeout
    peer = _peers.setdefault(sock, _Peer(weakref.ref(sock)))
    number = next(_numbers)
    sent = Sent(peer, number, as_frame(frame))
    peer.send(number, *wire.format_header(number, sent._frame), deadline)
    if wait:
        sent._wait(deadline, timeout)
    return sent


class _Peer:
    """What is known of the reader at the other end of a socket: which frames it has released."""

    def __init__(self, sock: weakref.ref[socket.socket]) -> None:
        self._sock = sock
        self._text = bytearray()
        self._pending: set[int] = set()
        self._gone: str = ""

    def send(self, number: int, line: bytes, fds: list[int], deadline: float) -> None:
        sock = self._socket()
        rest = memoryview(line)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        while rest:
            try:
                sent = sock.sendmsg([rest], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if not _ready(sock, select.POLLOUT, deadline):
                    raise ReleaseTimeout("the reader took no frame in time: its socket is full") from None
                continue
            except OSError as error:
                raise SinkError(f"the frame cannot be sent: {error.strerror}") from None
            rest, ancillary = rest[sent:], []
        self._pending.add(number)

    def wait(self, number: int, deadline: float) -> None:
        while number in self._pending:
            if self._gone:
                self._pending.discard(number)
                raise SinkError(self._gone)
            sock = self._socket()
            if not _ready(sock, select.POLLIN, deadline):
                raise ReleaseTimeout
            self._receive(sock)

    def _receive(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone = f"the connection to the reader broke: {error.strerror}"
            return
        self._text += data
        *lines, rest = self._text.split(b"\n")
        self._text = rest
        try:
            for line in lines:
                self._pending.discard(wire.parse_release(bytes(line)))
        except SourceError as error:
            self._gone = str(error)
        if not data:
            self._gone = "the reader hung up before it released the frame"
        elif len(rest) > wire.MAX_LINE:
            self._gone = f"the reader sent a line of more than {wire.MAX_LINE} bytes"

    def _socket(self) -> socket.socket:
        sock = self._sock()
        if sock is None or sock.fileno() < 0:
            raise SinkError("the socket was closed before the reader released the frame")
        return sock


def _ready(sock: socket.socket, event: int, deadline: float) -> bool:
    poller = select.poll()
    poller.register(sock, event)
    return bool(poller.poll(max(0, int((deadline - time.monotonic()) * 1000 + 0.999))))


_peers: weakref.WeakKeyDictionary[socket.socket, _Peer] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)
