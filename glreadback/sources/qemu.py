"""`qemu:` what a running QEMU's console shows, through its D-Bus display."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from .. import errors
from ..errors import SourceError, SourceSyntaxError
from ..frame import Frame
from ..wire import frames as wire
from . import spec
from ._lines import Line, Lines, close_fds, deadline_in
from .base import Source, SourceTimeout

OPEN_TIMEOUT = 5.0  # seconds for QEMU to answer all that is asked when the source is opened
_START_TIME = 10.0  # seconds that a loaded machine may take to start the helper
_MARGIN = 2.0  # seconds that the helper may be late
_LOOK_TIME = 2.0  # seconds to learn what a console shows
# What a helper may say went wrong.
_KINDS = (SourceError, SourceTimeout, errors.DescriptorError, errors.ImportRejected, errors.DeviceError)
_ERRORS: Mapping[str, type[errors.GlReadbackError]] = {kind.__name__: kind for kind in _KINDS} | {"FenceTimeout": SourceTimeout}


class QemuSource(Source):
    """A console of a running QEMU (7.0 or later): `qemu:SOCKET`, `qemu:dbus`, `qemu:dbus:ADDRESS`.

    console  the console's number, 0
    cursor   1: with the guest's pointer, where the device has one of its own; default: 0

    Dma-bufs are read with a Reader of device=; on the command line, --device.

    SOCKET is a QMP socket of a QEMU that runs with `-display dbus,p2p=yes`, with gl=on or without. ADDRESS is the bus of
    one that runs with `-display dbus` or `-display dbus,addr=ADDRESS`; default: the session's bus.

    Peer to peer a QEMU has one client: opening this source ends another's connection, and another's ends this.
    A process of its own talks to QEMU and copies what the console shows, so that the guest never waits for this one: it
    does not while this one sleeps, is stopped or dies. A dma-buf is read there with a Reader, while QEMU waits, and only
    when a frame was asked for; the frames given out lie in memory of glreadback's own.

    Raises SourceError where QEMU cannot be reached, has no such console, or has ended; SourceTimeout where it does not
    answer or shows nothing; ImportRejected or DeviceError where a dma-buf of its cannot be read.
    """

    scheme = "qemu"
    path_help = "a QMP socket's path, dbus, or dbus:ADDRESS"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "console": spec.Key(lambda text: spec.number(text, most=999), "1", "the console's number; default: 0"),
        "cursor": spec.Key(lambda text: bool(spec.number(text, most=1)), "1", "1: with the guest's pointer; default: 0"),
    }

    reading = ("device",)  # always in a process of its own

    def __init__(self, path: str, *, console: int = 0, cursor: bool = False, device: str | None = None) -> None:
        if not path:
            raise SourceSyntaxError("qemu: needs the path of a QMP socket, or dbus: qemu:/run/vm/qmp.sock")
        self._origin = f"qemu:{path}" + (f" console {console}" if console else "")
        self._asked = self._holding = 0
        self._fds: list[int] = []
        with ExitStack() as stack:
            self._sock, process = _start(path, console, cursor, device)
            stack.callback(_end, process)
            stack.callback(self._sock.close)
            self._lines = Lines(self._sock, most_fds=1)
            stack.callback(self._lines.close)
            stack.callback(close_fds, self._fds)
            self._process = process
            line, said = self._answer(0, time.monotonic() + OPEN_TIMEOUT + _START_TIME)
            close_fds(line.fds)
            self._facts: dict[str, object] = said["ready"]
            self._keep(stack)

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """What the console shows: at once for the first frame, then each time something has changed.

        Where nothing does for a quarter of a second, the same picture comes again, with an empty damage. timeout is in
        seconds, for each frame. Raises SourceTimeout where QEMU does not answer or the console shows nothing.
        """
        while True:
            line, _ = self._ask(timeout)
            try:
                header = wire.parse_header(line.text, len(line.fds))
            except SourceError:
                close_fds(line.fds)
                raise
            close_fds(self._fds)
            self._fds += line.fds
            self._holding = header.number
            yield header.with_fds(line.fds, self._origin)

    def describe(self) -> dict[str, object]:
        try:
            _, said = self._ask(_LOOK_TIME, look=True)
            shows = said["shows"] or "nothing"
        except SourceError as error:
            shows = str(error)
        return self._facts | {"shows": shows}

    def _ask(self, timeout: float | None, look: bool = False) -> tuple[Line, dict[str, Any]]:
        self._check_open()
        self._asked += 1
        ask = {"ask": self._asked, "holding": self._holding, "timeout": timeout, "look": look}
        try:
            self._sock.sendall(json.dumps(ask).encode() + b"\n")
        except OSError:
            raise SourceError(f"qemu: {self._end_of_helper()}") from None
        return self._answer(self._asked, deadline_in(None if timeout is None else timeout + _MARGIN))

    def _answer(self, number: int, deadline: float | None) -> tuple[Line, dict[str, Any]]:
        """The helper's answer to that question; older ones are for nobody. Raises what the helper says went wrong."""
        while True:
            try:
                line = self._lines.receive(deadline)
            except EOFError:
                raise SourceError(f"qemu: {self._end_of_helper()}") from None
            except SourceTimeout:
                raise SourceTimeout("qemu: the process that talks to QEMU does not answer") from None
            said = wire.parse_object(line.text, "the helper's line")
            of = said.get("frame", 0)
            if of != number and of >= 0:
                close_fds(line.fds)
                continue
            if "error" in said:
                close_fds(line.fds)
                raise _ERRORS.get(said["error"], SourceError)(f"qemu: {said['message']}")
            return line, said

    def _end_of_helper(self) -> str:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            status = 0
        why = f", killed by signal {-status}: a driver may have crashed" if status < 0 else ""
        return f"the process that talks to QEMU has ended{why}. Open the source again"


def _start(path: str, console: int, cursor: bool, device: str | None) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The helper, and the socket to it."""
    ours, theirs = socket.socketpair()
    # Found as this process found it, whatever sys.path was made of.
    package = str(Path(__file__).resolve().parents[2])
    where = [entry or os.getcwd() for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {[*where, package]!a}; from glreadback.sources._qemu_helper import main; "
        f"main({theirs.fileno()}, {path!a}, {console:d}, {bool(cursor)}, {OPEN_TIMEOUT:g}, {device!a})"
    )
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable or "python3", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-Z or Ctrl-C is not for it
            )
    except OSError as error:
        ours.close()
        raise SourceError(f"qemu: the process that talks to QEMU cannot be started: {error}") from None
    return ours, process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def list_given(path: str) -> dict[str, object]:
    """A running QEMU and its consoles, for `glreadback sources qemu:PATH`. Raises as opening it does.

    {"source": "qemu:PATH", "name": …, "consoles": [{"source": "qemu:PATH?console=1", "label": …, "type": …, "shows": {"size":
    "640x480", "fourcc": …, "given as": …}, or "nothing"}, …]}. Each console is listened to for a moment: peer to peer, that
    ends the connection of another client.
    """
    consoles: list[dict[str, object]] = []
    found: dict[str, object] = {"source": f"qemu:{path}"}
    waiting = [0]
    while waiting:
        number = waiting.pop(0)
        with QemuSource(path, console=number) as source:
            facts: dict[str, Any] = source.describe()
        if not consoles:
            found["name"] = facts["name"]
            waiting = [other for other in facts["consoles"] if other != number]
        named = {name: facts[name] for name in ("label", "type", "shows")}
        consoles.append({"source": f"qemu:{path}?console={number}"} | named)
    return found | {"consoles": consoles}
