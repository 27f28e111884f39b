"""The process that talks to QEMU for `qemu:`. It is QEMU's D-Bus client, its own caller's servant, and neither's prisoner.

While a listener's Properties.GetAll is not answered the whole guest stands still, and while an UpdateDMABUF is not, its
graphics do. So whoever answers must never wait for anybody else. This process does nothing but answer: it keeps what the
console shows in memory of its own, and gives a copy of it to its parent when that asks. A parent that sleeps, is stopped
or holds its interpreter's lock costs the guest nothing; one that dies is noticed by its end of the socket.

Asked, and only then, it reads a dma-buf while QEMU waits for the answer to UpdateDMABUF: what is read is a whole picture.
That takes as long as the read, and HOLD at most. Where no update comes within GRACE, nobody draws, and it reads as it is.

The parent's lines: {"ask": 5, "holding": 4, "timeout": 2.0}. Asking again cancels what was asked before.
The answer is a frame's line with that number and a descriptor (glreadback/wire/frames.py), or
{"frame": 5, "error": "SourceTimeout", "message": "…"}. With "look": true nothing is read: {"frame": 5, "shows":
{"given as": "dma-buf", …}} says what there would be, {} if nothing. The first line of all is {"ready": {…}}, or an error
with frame 0.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import Any, NamedTuple

from ..errors import GlReadbackError, SourceError
from ..frame import Frame, Rect
from ..wire import dbus, display
from ..wire import frames as wire
from ._lines import Line, Lines, close_fds
from ._qemu_dbus import Connection, answer_to, connect, log_in
from ._qemu_screen import Canvas, Damage, GlThread, MappedScreen, Screen, SharedScreen, Slot, draw_pointer
from .base import SourceTimeout

HOLD = 0.25  # seconds that an UpdateDMABUF waits for its answer at most; QEMU itself gives up after 1
GRACE = 0.05  # seconds without an update after which a dma-buf, or a screen just announced, is read as it is
IDLE = 0.25  # seconds without a change after which the same picture is given again

_ROOT = "/org/qemu/Display1"
_CONSOLE = "org.qemu.Display1.Console"


class _ParentGoneError(Exception):
    """Nobody is left to serve."""


class Ask(NamedTuple):
    """What the parent waits for."""

    number: int
    time: float
    deadline: float | None
    look: bool = False  # at what the console shows, without reading it

    @property
    def idle(self) -> float:
        patience = IDLE if self.deadline is None else min(IDLE, (self.deadline - self.time) / 2)
        return self.time + patience


class Helper:
    """A console, from the moment it is listened to. facts is what `describe()` says."""

    def __init__(
        self, parent: socket.socket, path: str, console: int, cursor: bool, timeout: float, device: str | None = None
    ) -> None:
        self._parent, self._lines = parent, Lines(parent, most_fds=0)
        self._with_cursor = cursor
        self._screen: Screen | None = None
        self._version = 0  # of what the screen shows: counts every word about it
        self._drawn = False  # whether QEMU has said that something is on it, not only where it is
        self._shown_at = 0.0
        self._damage = Damage()
        self._why_dark = "QEMU has not said what the console shows"
        self._cursor: display.Cursor | None = None
        self._pointer: display.Pointer | None = None
        self._gone = ""
        self._held: list[dbus.Message] = []
        self._held_until = 0.0
        self._gl = GlThread(device)
        self._reading: int | None = None  # the version that is being read
        self._ask: Ask | None = None
        # One is the parent's, one may be in the hands of the thread that reads, one is free.
        self._slots = [Slot(), Slot(), Slot()]
        self._reading_to: Slot | None = None
        self._sent: tuple[int, int, Slot] | None = None  # ask, version and memory of the picture that went out last
        self._ping: int | None = None  # a question that only shows whether QEMU answers
        deadline = time.monotonic() + timeout
        self._qemu = connect(path, deadline)
        self._console = f"{_ROOT}/Console_{console}"
        self.facts = self._look(console, deadline)
        self._listener = self._listen(deadline)
        # With p2p=yes, QEMU drops its client when another one comes.
        rival = "" if self._qemu.destination else ", or another client took its display"
        self._hung_up = f"QEMU has ended{rival}"
        # While nobody listens QEMU lets its picture grow old; it sends that first, then brings it up to date, and only
        # then comes to this question. What there is a moment after the answer is of now.
        self._first = self._qemu.call(self._console, dbus.PROPERTIES, "Get", "ss", _CONSOLE, "Width")
        self._fresh_at: float | None = None

    def _look(self, console: int, deadline: float) -> dict[str, Any]:
        machine = self._properties(f"{_ROOT}/VM", "org.qemu.Display1.VM", deadline)
        consoles = machine.get("ConsoleIDs", [])
        if console not in consoles:
            there = ", ".join(map(str, consoles)) or "none"
            raise SourceError(f"QEMU has no console {console}; there {'is' if len(consoles) == 1 else 'are'} {there}")
        found = self._properties(self._console, _CONSOLE, deadline)
        return {
            "name": machine.get("Name", ""),
            "uuid": machine.get("UUID", ""),
            "console": console,
            "label": found.get("Label", ""),
            "type": found.get("Type", ""),
            "consoles": consoles,
        }

    def _properties(self, path: str, interface: str, deadline: float) -> dict[str, Any]:
        serial = self._qemu.call(path, dbus.PROPERTIES, "GetAll", "s", interface)
        try:
            body = self._qemu.answer(serial, deadline)
            return {name: value for name, (_, value) in body[0].items()}
        except (IndexError, AttributeError, TypeError, ValueError):
            raise SourceError(f"QEMU's answer about {path} makes no sense") from None
        except SourceError as error:
            if "org.qemu" in str(error) and self._qemu.destination:
                raise SourceError(f"{error}. Is a QEMU with -display dbus on this bus?") from None
            raise

    def _listen(self, deadline: float) -> Connection:
        """Register a listener. From here until GetAll is answered in run(), the guest stands still."""
        ours, theirs = socket.socketpair()
        with theirs:
            serial = self._qemu.call(self._console, _CONSOLE, "RegisterListener", "h", theirs)
        try:
            log_in(ours, deadline)
        except SourceError as error:
            ours.close()
            if not isinstance(error, SourceTimeout):
                self._qemu.answer(serial, deadline)  # says it better
            raise
        return Connection(ours)

    # The loop

    def run(self) -> None:
        """Serve until the parent hangs up."""
        poller = select.poll()
        for source in (self._parent, self._qemu.sock, self._listener.sock, self._gl.done):
            poller.register(source, select.POLLIN)
        while True:
            wake = self._wake()
            poller.poll(None if wake is None else max(0, int((wake - time.monotonic()) * 1000 + 0.999)))
            try:
                if not self._gone:
                    self._hear_listener()
                    self._hear_qemu()
                while (result := self._gl.result()) is not None:
                    self._reading = self._reading_to = None
                    self._read_is_over(*result)
                self._hear_parent()
                self._decide(time.monotonic())
            except _ParentGoneError:
                return
            except (EOFError, SourceError) as error:
                if self._gone:
                    raise
                self._gone = str(error) or self._hung_up
                poller.unregister(self._listener.sock)
                poller.unregister(self._qemu.sock)
                self._lose()
                self._decide(time.monotonic())

    def _lose(self) -> None:
        self._held.clear()
        self._set_screen(None)
        self._listener.close()
        self._qemu.close()

    def _wake(self) -> float | None:
        """When there is something to do though nothing came."""
        times = [self._held_until] if self._held else []
        ask = self._ask
        if ask is not None:
            now = time.monotonic()
            settled = self._settled(ask)
            times += [when for when in (ask.idle, settled, self._fresh_at or 0.0) if when > now]
            times += [ask.deadline] if ask.deadline is not None else []
        return min(times, default=None)

    def _settled(self, ask: Ask) -> float:
        return max(ask.time, self._shown_at) + GRACE

    # What QEMU says

    def _hear_listener(self) -> None:
        for message, fds in self._listener.messages():
            try:
                self._take(message, fds)
            finally:
                close_fds(fds)

    def _take(self, message: dbus.Message, fds: list[int]) -> None:
        if message.kind is not dbus.CALL:
            return
        if message.interface == dbus.PROPERTIES:
            found = display.property_answer(message)
            if found is None:
                self._listener.refuse(message, "InvalidArgs", "the listener has no such property")
            else:
                self._listener.reply(message, *found)
            return
        try:
            event = display.event(message)
            if event is None:
                self._listener.refuse(message, "UnknownMethod", f"the listener has no {message.member}")
                return
            wait = self._happens(event, fds)
        except SourceError as error:
            # QEMU goes on: after ScanoutMap, with Scanout.
            self._listener.refuse(message, "InvalidArgs", str(error))
            return
        if wait:
            self._held_until = self._held_until if self._held else time.monotonic() + HOLD
            self._held.append(message)
        else:
            self._listener.reply(message)

    def _happens(self, event: display.Event, fds: list[int]) -> bool:
        """Note what QEMU said; whether its answer has to wait for a read. Raises SourceError where it cannot be."""
        if isinstance(event, display.Picture):
            self._paint(event)
        elif isinstance(event, display.Mapped):
            self._set_screen(MappedScreen(event, fds[event.place]))
        elif isinstance(event, display.Shared):
            screen = SharedScreen(event, fds)
            self._set_screen(screen)
            self._gl.warm(screen)
        elif isinstance(event, display.Changed):
            screen_kind = SharedScreen if event.dmabuf else MappedScreen
            if not isinstance(self._screen, screen_kind):
                return False  # about a screen that is gone
            self._changed(event.rect)
            waited_for = self._ask is not None and not self._ask.look
            return event.dmabuf and waited_for and self._is_fresh(time.monotonic())
        elif isinstance(event, display.Off):
            self._why_dark = "the guest has switched the console off"
            self._set_screen(None)
        else:
            self._move_pointer(event)
        return False

    def _paint(self, picture: display.Picture) -> None:
        screen = self._screen
        same = (
            isinstance(screen, Canvas)
            and (screen.width, screen.height) == picture.rect[2:]
            and (screen.fourcc == picture.fourcc)
        )
        if picture.whole and not same:
            self._set_screen(Canvas(picture))
            self._drawn = True
        elif isinstance(screen, Canvas):
            part = screen.apply(picture)
            if part is not None:
                self._changed(part)

    def _changed(self, rect: Rect) -> None:
        self._version += 1
        self._drawn = True
        self._damage.add(rect)

    def _set_screen(self, screen: Screen | None) -> None:
        self._answer_held()
        if self._screen is not None:
            self._screen.close()
        self._screen = screen
        self._version += 1
        self._drawn = False
        self._shown_at = time.monotonic()
        self._damage.all()

    def _move_pointer(self, event: display.Cursor | display.Pointer) -> None:
        if isinstance(event, display.Cursor):
            self._cursor = event
        else:
            self._pointer = event
        if self._with_cursor:
            self._version += 1
            self._damage.all()

    def _hear_qemu(self) -> None:
        for message, fds in self._qemu.messages():
            close_fds(fds)
            if self._fresh_at is None and answer_to(message, self._first) is not None:
                self._fresh_at = time.monotonic() + GRACE
            if self._ping is not None and answer_to(message, self._ping) is not None:
                self._ping = None
                if self._ask is not None and self._is_unchanged():
                    self._send_again(self._ask)

    # What the parent wants

    def _hear_parent(self) -> None:
        while (line := self._parents_line()) is not None:
            said = wire.parse_object(line.text)
            now, timeout = time.monotonic(), said["timeout"]
            self._ask = Ask(said["ask"], now, None if timeout is None else now + timeout, said.get("look", False))
            self._ping = None
            if self._sent is not None and self._sent[0] != said["holding"]:
                self._sent = None  # it never got that one
                self._damage.all()

    def _parents_line(self) -> Line | None:
        try:
            return self._lines.take()
        except (EOFError, SourceError):
            raise _ParentGoneError from None

    def _is_fresh(self, now: float) -> bool:
        return self._fresh_at is not None and now >= self._fresh_at

    def _is_unchanged(self) -> bool:
        return self._sent is not None and self._sent[1] == self._version and self._screen is not None

    def _decide(self, now: float) -> None:
        """Do what can be done now."""
        if self._held and now >= self._held_until:
            self._answer_held()
        ask = self._ask
        if ask is None:
            return
        if self._gone:
            self._refuse(SourceError(self._gone))
            return
        screen = self._screen
        if not self._is_fresh(now):
            pass
        elif ask.look:
            self._ask = None
            say(self._parent, json.dumps({"frame": ask.number, "shows": self._shows()}).encode() + b"\n")
        elif self._is_unchanged():
            if now >= ask.idle and self._ping is None:
                # A QEMU that answers and says nothing new shows what it did; one that is stopped is another matter.
                self._ping = self._qemu.call(self._console, dbus.PROPERTIES, "Get", "ss", _CONSOLE, "Width")
        elif isinstance(screen, SharedScreen):
            if self._reading is None and (self._held or now >= self._settled(ask)):
                self._reading, self._reading_to = self._version, self._free_slot()
                self._gl.read(self._version, screen, self._reading_to, HOLD)
        elif screen is not None and (self._drawn or now >= self._settled(ask)):
            self._copy(screen)
        if self._ask is not None and ask.deadline is not None and now >= ask.deadline:
            self._refuse(SourceTimeout(self._why_nothing()))

    def _shows(self) -> dict[str, str]:
        """What the console shows and how it comes; empty for nothing."""
        # Not by the console's Width and Height: QEMU lets them grow old while nobody listens.
        screen = self._screen
        if screen is None:
            return {}
        size = f"{screen.width}x{screen.height}"
        if isinstance(screen, SharedScreen):
            buffer = screen.frame.buffer
            return {"size": size, "fourcc": str(buffer.fourcc), "given as": "dma-buf", "modifier": str(buffer.modifier)}
        kind = "shared memory" if isinstance(screen, MappedScreen) else "messages"
        return {"size": size, "fourcc": str(screen.fourcc), "given as": kind}

    def _why_nothing(self) -> str:
        if self._ping is not None or self._fresh_at is None:
            return "QEMU does not answer; is it stopped?"
        if self._screen is None:
            return self._why_dark
        if self._reading is not None:
            return "the driver has not read the picture yet"
        return "no picture came in time"

    def _free_slot(self) -> Slot:
        taken = (self._reading_to, None if self._sent is None else self._sent[2])
        return next(slot for slot in self._slots if slot not in taken)

    def _copy(self, screen: Canvas | MappedScreen) -> None:
        slot = self._free_slot()
        try:
            screen.copy(slot)
        except SourceError as error:
            self._why_dark = str(error)
            self._set_screen(None)
            return
        self._send(slot)

    def _read_is_over(self, version: int, slot: Slot, error: GlReadbackError | None) -> None:
        # What QEMU says of a newer picture before the answer is about one that has not been read.
        stale = version != self._version
        if not stale:
            self._answer_held()
        if self._ask is None or stale or not isinstance(self._screen, SharedScreen):
            return
        if error is not None:
            self._refuse(error)
        else:
            self._send(slot)

    def _answer_held(self) -> None:
        held, self._held = self._held, []
        for message in held:
            self._listener.reply(message)

    # The answers

    def _send(self, slot: Slot) -> None:
        ask = self._ask
        assert ask is not None
        if self._with_cursor and self._cursor is not None and self._pointer is not None and self._pointer.shown:
            draw_pointer(slot, self._cursor, self._pointer)
        self._sent = ask.number, self._version, slot
        self._give(ask, slot, self._damage.take())

    def _send_again(self, ask: Ask) -> None:
        assert self._sent is not None
        slot = self._sent[2]
        self._sent = ask.number, self._version, slot
        self._give(ask, slot, ())

    def _give(self, ask: Ask, slot: Slot, damage: tuple[Rect, ...] | None) -> None:
        assert slot.buffer is not None
        line, fds = wire.format_header(ask.number, Frame(slot.buffer, damage=damage, time=time.monotonic()))
        self._ask = None
        say(self._parent, line, fds)

    def _refuse(self, error: GlReadbackError) -> None:
        ask, self._ask = self._ask, None
        assert ask is not None
        self._answer_held()
        say(self._parent, error_line(ask.number, error))


def error_line(number: int, error: GlReadbackError) -> bytes:
    fields = {"frame": number, "error": type(error).__name__, "message": str(error)[:1000]}
    return json.dumps(fields).encode() + b"\n"


def say(parent: socket.socket, line: bytes, fds: list[int] | None = None) -> None:
    """One answer to one question: there is always room for it. A parent that is gone shows when it is listened to."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in fds))] if fds else []
    try:
        parent.sendmsg([line], ancillary, socket.MSG_NOSIGNAL)
    except OSError:
        pass


def main(fd: int, path: str, console: int, cursor: bool, timeout: float, device: str | None = None) -> None:
    """The process's whole life; fd is its end of the socket to the parent, timeout in seconds is for opening, device is the
    Reader's."""
    parent = socket.socket(fileno=fd)
    try:
        try:
            helper = Helper(parent, path, console, cursor, timeout, device)
        except (GlReadbackError, EOFError) as error:
            known = error if isinstance(error, GlReadbackError) else SourceError("QEMU hung up while it was asked")
            say(parent, error_line(0, known))
            return
        say(parent, json.dumps({"ready": helper.facts}).encode() + b"\n")
        helper.run()
    except Exception as error:  # a mistake of ours: better told than lost
        say(parent, error_line(-1, SourceError(f"the helper failed: {type(error).__name__}: {ascii(str(error))[:300]}")))
    finally:
        # A driver that hangs in the other thread shall not keep this process.
        os._exit(0)
