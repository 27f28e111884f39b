"""D-Bus connections over sockets that are there already, for `qemu:`'s helper: QMP's hand-over, logging in, messages."""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from ..errors import SourceError
from ..wire import dbus, qmp
from ..words import shown
from ._lines import Lines, close_fds, receive, wait_readable
from .base import SourceTimeout

QEMU = "org.qemu"
_CHUNK = 1 << 20


class Connection:
    """Messages over a socket: whole ones come in, replies and calls go out. Neither ever waits, but for `answer`.

    Owns the socket. destination is a bus name, "" where the other end is the only one.
    """

    def __init__(self, sock: socket.socket, destination: str = "") -> None:
        sock.setblocking(False)
        self.sock, self.destination = sock, destination
        self._prefix = bytearray()
        self._data: bytearray | None = None
        self._done = 0
        self._fds: list[int] = []
        self._serial = 0

    def messages(self) -> Iterator[tuple[dbus.Message, list[int]]]:
        """The messages that are here by now, with their descriptors: the caller's to close.

        Raises SourceError where the other end talks nonsense, EOFError where it hung up.
        """
        while self._fill():
            data, fds = self._data, self._fds
            assert data is not None
            self._prefix, self._data, self._done, self._fds = bytearray(), None, 0, []
            try:
                message = dbus.parse(data, len(fds))
            except SourceError:
                close_fds(fds)
                raise
            yield message, fds

    def _fill(self) -> bool:
        """Receive no further than the message's end, so that descriptors stay with it; whether it is whole."""
        try:
            while self._data is None or self._done < len(self._data):
                if self._data is None:
                    chunk, fds, cut = receive(self.sock, dbus.PREFIX - len(self._prefix), dbus.MAX_FDS)
                    self._prefix += chunk
                    if len(self._prefix) == dbus.PREFIX:
                        self._data = bytearray(dbus.message_size(self._prefix))
                        self._data[: dbus.PREFIX] = self._prefix
                        self._done = dbus.PREFIX
                else:
                    rest = len(self._data) - self._done
                    chunk, fds, cut = receive(self.sock, min(rest, _CHUNK), dbus.MAX_FDS)
                    self._data[self._done : self._done + len(chunk)] = chunk
                    self._done += len(chunk)
                self._fds += fds
                if cut or len(self._fds) > dbus.MAX_FDS:
                    raise SourceError(f"more than {dbus.MAX_FDS} descriptors came with one D-Bus message")
                if not chunk:
                    raise EOFError
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            raise EOFError from None
        return True

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """Raises EOFError where the other end is gone, SourceError where it has stopped reading."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise EOFError from None
        if sent < len(data):
            raise SourceError("QEMU does not take what is sent to it")

    def call(self, path: str, interface: str, member: str, signature: str = "", *body: Any) -> int:
        """Send a call; its serial number. Raises as send() does."""
        self._serial += 1
        to = self.destination if interface != "org.freedesktop.DBus" else interface
        self.send(*dbus.call(self._serial, path, interface, member, signature, body, destination=to))
        return self._serial

    def reply(self, to: dbus.Message, signature: str = "", body: tuple[Any, ...] = ()) -> None:
        if to.wants_reply:
            self._serial += 1
            self.send(dbus.reply(self._serial, to, signature, body))

    def refuse(self, to: dbus.Message, name: str, text: str) -> None:
        if to.wants_reply:
            self._serial += 1
            self.send(dbus.error(self._serial, to, name, text))

    def answer(self, serial: int, deadline: float) -> tuple[Any, ...]:
        """Wait for the answer to a call. Raises SourceTimeout, SourceError with QEMU's words for an error."""
        while True:
            try:
                for message, fds in self.messages():
                    close_fds(fds)
                    if (found := answer_to(message, serial)) is not None:
                        return found
            except EOFError:
                raise SourceError("QEMU hung up before it answered") from None
            if not wait_readable(self.sock, deadline):
                raise SourceTimeout("QEMU does not answer; is it stopped?")

    def close(self) -> None:
        close_fds(self._fds)
        self.sock.close()


def answer_to(message: dbus.Message, serial: int) -> tuple[Any, ...] | None:
    """The answer to that call, if the message is it. Raises SourceError where the answer is an error."""
    if message.reply_to != serial or message.kind not in (dbus.RETURN, dbus.ERROR):
        return None
    if message.kind is dbus.ERROR:
        text = next((part for part in message.body if isinstance(part, str)), message.error)
        raise SourceError(f"QEMU says: {ascii(text)[1:-1][:300]}")
    return message.body


def connect(path: str, deadline: float) -> Connection:
    """A connection to a QEMU: `dbus`, `dbus:ADDRESS`, or the path of its QMP socket. Raises SourceError."""
    kind, _, address = path.partition(":")
    if kind != "dbus":
        return _connect_peer(path, deadline)
    if not address:
        address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
        if not address:
            raise SourceError("DBUS_SESSION_BUS_ADDRESS is not set; name the bus: qemu:dbus:unix:path=/run/user/1000/bus")
    where = dbus.bus_socket(address)
    connection = Connection(_connect(where, "the bus", deadline), QEMU)
    try:
        log_in(connection.sock, deadline)
        connection.answer(connection.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"), deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_peer(path: str, deadline: float) -> Connection:
    ours, theirs = socket.socketpair()
    try:
        with theirs, _connect(path, "the QMP socket", deadline) as monitor:
            hand_over(monitor, theirs.fileno(), deadline)
        log_in(ours, deadline)
    except BaseException:
        ours.close()
        raise
    return Connection(ours)


def hand_over(monitor: socket.socket, fd: int, deadline: float) -> None:
    """Give QEMU, over its QMP socket, the other end of a display connection."""
    lines = Lines(monitor, qmp.MAX_LINE, 0)
    busy = ". Is it stopped, or has another client this socket? QMP serves one at a time"
    if not qmp.is_greeting(_line(lines, deadline, busy)):
        raise SourceError("what listens there is no QMP socket")
    name = f"glreadback-{os.getpid()}"
    for command, rights in (
        (qmp.command("qmp_capabilities"), []),
        (qmp.command("getfd", fdname=name), [fd]),
        (qmp.command("add_client", protocol="@dbus-display", fdname=name), []),
    ):
        monitor.sendmsg([command], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))] if rights else [])
        try:
            while qmp.reply(_line(lines, deadline, "")) is None:
                pass
        except SourceError as error:
            if b"add_client" not in command or isinstance(error, SourceTimeout):
                raise
            raise SourceError(f"{error}. It must run with -display dbus,p2p=yes") from None


def _line(lines: Lines, deadline: float, advice: str) -> bytes:
    try:
        return lines.receive(deadline).text
    except EOFError:
        raise SourceError("QEMU hung up") from None
    except SourceTimeout:
        raise SourceTimeout(f"QEMU does not answer{advice}") from None


def log_in(sock: socket.socket, deadline: float) -> None:
    """Authenticate as a D-Bus client. Raises SourceError, SourceTimeout."""
    login = dbus.Login(os.geteuid())
    sock.setblocking(True)
    try:
        sock.sendall(login.first)
        received = bytearray()
        while not login.done:
            if not wait_readable(sock, deadline):
                raise SourceTimeout("QEMU does not answer; is it stopped?")
            # One line at a time: what follows the last is messages.
            byte = sock.recv(1)
            received += byte
            if not byte or len(received) > 1024:
                raise SourceError("QEMU hung up before the display connection was made")
            if received.endswith(b"\r\n"):
                answer = login.feed(bytes(received))
                received.clear()
                if answer:
                    sock.sendall(answer)
    except SourceTimeout:  # an OSError, as TimeoutError is
        raise
    except OSError as error:
        raise SourceError(f"the D-Bus connection broke: {error.strerror}") from None


def _connect(path: str, what: str, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.connect(path)
        sock.settimeout(None)
    except TimeoutError:
        sock.close()
        raise SourceTimeout(f"{what} {shown(path)} takes no connection") from None
    except (OSError, ValueError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        more = ": its QEMU is gone" if getattr(error, "errno", 0) == errno.ECONNREFUSED else ""
        raise SourceError(f"cannot connect to {what} {shown(path)}: {why}{more}") from None
    return sock
