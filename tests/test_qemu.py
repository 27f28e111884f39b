"""qemu: D-Bus bytes, a real QEMU's pictures against its own screendump, and a QEMU that does what it should not."""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import qemu_guest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import no_descriptor_left

from glreadback import DmaBuf, Fourcc, Frame, Reader, Rect, cli, open_source
from glreadback.errors import DescriptorError, GlReadbackError, SourceError, SourceSyntaxError
from glreadback.kernel import udmabuf
from glreadback.sources import _qemu_dbus, _qemu_helper, _qemu_screen, qemu
from glreadback.sources._lines import close_fds
from glreadback.sources.base import SourceTimeout
from glreadback.sources.qemu import QemuSource
from glreadback.wire import dbus, display, qmp
from glreadback.wire import frames as wire

XR24, XB24 = 0x34325258, 0x34324258
X8R8G8B8 = 0x20020888  # pixman.h


def pixels_of(frame: Frame) -> bytes:
    """The bytes of a frame that came out of the source: packed rows."""
    return bytes_of(frame.buffer)


def bytes_of(buffer: DmaBuf) -> bytes:
    size = buffer.planes[0].stride * buffer.height
    with mmap.mmap(buffer.planes[0].fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as memory:  # a udmabuf cannot be read()
        return memory[:]


# ---- the wire


def test_a_call_has_the_specifications_bytes() -> None:
    data, fds = dbus.call(1, "/a", "b.c", "D", "hu", [7, 5])
    assert fds == [7]
    assert data[:16] == b"l\1\0\1" + struct.pack("<III", 8, 1, len(data) - 16 - 8 - (-(len(data) - 24) % 8))[:12]
    assert dbus.message_size(data[:16]) == len(data)
    message = dbus.parse(data, 1)
    assert (message.path, message.interface, message.member, message.signature) == ("/a", "b.c", "D", "hu")
    assert message.body == (0, 5)
    assert message.wants_reply
    answer = dbus.parse(dbus.reply(9, message, "s", ("x",)), 0)
    assert (answer.kind, answer.reply_to, answer.body) == (dbus.RETURN, 1, ("x",))
    refusal = dbus.parse(dbus.error(9, message, "Failed", "no"), 0)
    assert (refusal.kind, refusal.error, refusal.body) == (dbus.ERROR, "org.freedesktop.DBus.Error.Failed", ("no",))


def listener_call(member: str, signature: str, *body: Any, interface: str = display.LISTENER) -> dbus.Message:
    data, fds = dbus.call(1, display.LISTENER_PATH, interface, member, signature, body)
    return dbus.parse(data, len(fds))


@pytest.mark.parametrize(
    "broken",
    [
        b"x" * 16,
        b"l\1\0\2" + bytes(12),
        b"l\5\0\1" + bytes(12),
        b"l\1\0\1" + struct.pack("<III", 1 << 27, 1, 0),
        b"B\1\0\1" + struct.pack(">III", 0xFFFFFFFF, 1, 0xFFFFFFFF),
        b"l\1\0\1" + struct.pack("<III", 0, 1, 1 << 20),
    ],
)
def test_what_is_no_message_is_refused_by_its_first_bytes(broken: bytes) -> None:
    with pytest.raises(SourceError, match="D-Bus message"):
        dbus.message_size(broken)


def test_structures_without_end_are_refused() -> None:
    """jeepney would read an array of empty structures for ever."""
    for signature, body in (("aau", [[[1, 2]]]), ("v", [("aau", [[1, 2]])])):
        data, _ = dbus.call(1, "/a", "b.c", "D", signature, body)
        assert b"\3aau\0" in data
        with pytest.raises(SourceError, match="empty structure"):
            dbus.parse(data.replace(b"\3aau\0", b"\3a()\0"), 0)


def test_a_large_message_must_be_a_picture() -> None:
    data, _ = dbus.call(1, "/a", "b.c", "D", "au", [[1] * 20000])
    with pytest.raises(SourceError, match="has no picture in it"):
        dbus.parse(data, 0)


def test_descriptors_must_be_as_many_as_said() -> None:
    data, _ = dbus.call(1, "/a", "b.c", "D", "h", [5])
    for nfds in (0, 2):
        with pytest.raises(SourceError, match="1 descriptors"):
            dbus.parse(data, nfds)


SCANOUT = dbus.call(1, display.LISTENER_PATH, display.LISTENER, "Scanout", "uuuuay", [2, 2, 8, X8R8G8B8, bytes(16)])[0]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SCANOUT) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, 40),
    st.integers(0, 2),
)
def test_any_bytes_are_an_event_or_a_source_error(changes: list[tuple[int, int]], cut: int, nfds: int) -> None:
    data = bytearray(SCANOUT)
    for at, value in changes:
        data[at] = value
    data = data[: len(data) - cut]
    said = ""
    try:
        if dbus.message_size(data[:16]) <= 1 << 16:
            display.event(dbus.parse(data, nfds))
    except SourceError as error:
        said = str(error)
    assert said.isprintable()


def test_pixman_formats_are_drms() -> None:
    assert display.PIXMAN[X8R8G8B8] == "XR24"
    known = {
        0x20028888: "AR24",
        0x20030888: "XB24",
        0x20088888: "BA24",
        0x10020565: "RG16",
        0x10020555: "XR15",
        0x18020888: "RG24",
    }
    assert {code: display.PIXMAN[code] for code in known} == known


def test_y0_top_is_the_opposite_of_its_name() -> None:
    for flag in (False, True):
        shared = display.event(listener_call("ScanoutDMABUF", "huuuutb", 3, 4, 2, 16, XR24, 0, flag))
        assert isinstance(shared, display.Shared)
        assert shared.frame.y_invert is flag


def dmabuf2(fds: list[int], count: int, **more: Any) -> dbus.Message:
    said: dict[str, Any] = {"x": 1, "y": 2, "w": 6, "h": 4, "offsets": [0, 4096, 0, 0], "strides": [16, 16, 0, 0]} | more
    return listener_call(
        "ScanoutDMABUF2", "ahuuuuauauuuuutb", fds, said["x"], said["y"], said["w"], said["h"], said["offsets"], said["strides"],
        count, int(Fourcc("NV12" if count == 2 else "XR24")), 16, 8, 0, False, interface=display.DMABUF2,
    )  # fmt: skip


def test_planes_without_a_descriptor_of_their_own_share_the_first() -> None:
    shared = display.event(dmabuf2([9], 2))
    assert isinstance(shared, display.Shared)
    frame = shared.with_fds([40])
    assert [(plane.fd, plane.offset, plane.stride) for plane in frame.buffer.planes] == [(40, 0, 16), (40, 4096, 16)]
    assert (frame.buffer.width, frame.buffer.height, frame.visible) == (16, 8, Rect(1, 2, 6, 4))
    two = display.event(dmabuf2([8, 9], 2))
    assert isinstance(two, display.Shared)
    assert [plane.fd for plane in two.with_fds([40, 41]).buffer.planes] == [40, 41]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (lambda: listener_call("Scanout", "uuuuay", 2, 2, 8, X8R8G8B8, bytes(15)), "takes 16 bytes, 15 came"),
        (lambda: listener_call("Scanout", "uuuuay", 2, 2, 7, X8R8G8B8, bytes(16)), "a row needs 8"),
        (lambda: listener_call("Scanout", "uuuuay", 0, 2, 8, X8R8G8B8, bytes(16)), "0x2 pixels"),
        (lambda: listener_call("Scanout", "uuuuay", 2**32 - 1, 2, 8, X8R8G8B8, bytes(16)), "must be 1 to 32768"),
        (lambda: listener_call("Scanout", "uuuuay", 2, 2, 8, 0x12345678, bytes(16)), "pixman format 0x12345678"),
        (lambda: listener_call("Scanout", "uuuuas", 2, 2, 8, X8R8G8B8, []), "came with arguments 'uuuuas'"),
        (lambda: listener_call("Update", "iiiiuuay", 0, 0, -1, 2, 8, X8R8G8B8, bytes(16)), "-1x2 pixels"),
        (lambda: listener_call("ScanoutDMABUF", "huuuutb", 3, 40000, 2, 160000, XR24, 0, False), "larger than 32768"),
        (lambda: listener_call("ScanoutDMABUF", "huuuutb", 3, 4, 2, 15, XR24, 0, False), "a row needs 16"),
        (lambda: listener_call("ScanoutDMABUF", "huuuutb", 3, 4, 2, 16, 1, 0, False), "no pixel format"),
        (lambda: dmabuf2([], 1), "0 descriptors"),
        (lambda: dmabuf2([9], 5), "5 planes"),
        (lambda: dmabuf2([9], 1, x=12, strides=[64]), "visible rectangle"),
        (lambda: dmabuf2([9], 1, strides=[]), "0 strides"),
        (lambda: listener_call("ScanoutMap", "huuuuu", 3, 0, 32768, 32768, 131072, X8R8G8B8, interface=display.MAP), "at most"),
        (lambda: listener_call("CursorDefine", "iiiiay", 2, 2, 0, 0, bytes(15)), "pointer of 2x2"),
        (lambda: listener_call("CursorDefine", "iiiiay", -2, -2, 0, 0, bytes(16)), "pointer of -2x-2"),
    ],
)
def test_arguments_that_cannot_be(message: Callable[[], dbus.Message], says: str) -> None:
    with pytest.raises(SourceError) as error:
        display.event(message())
    assert says in str(error.value)


def test_qmp_lines() -> None:
    assert qmp.is_greeting(b'{"QMP": {"version": {}}}')
    assert not qmp.is_greeting(b'{"return": {}}')
    assert qmp.reply(b'{"event": "RESUME"}') is None
    with pytest.raises(SourceError, match="QEMU says: no such thing"):
        qmp.reply(b'{"error": {"class": "GenericError", "desc": "no such thing"}}')
    with pytest.raises(SourceError, match="no JSON"):
        qmp.is_greeting(b"220 mail.example.org ESMTP")


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:path=/run/user/0/bus", "/run/user/0/bus"),
        ("unix:path=/tmp/a%20b,guid=12", "/tmp/a b"),
        ("tcp:host=x,port=1;unix:abstract=q", "\0q"),
        ("tcp:host=x,port=1", None),
        ("nonsense", None),
        ("unix:nonsense", None),
        ("", None),
    ],
)
def test_bus_addresses(address: str, path: str | None) -> None:
    if path is None:
        with pytest.raises(SourceError, match="bus address"):
            dbus.bus_socket(address)
    else:
        assert dbus.bus_socket(address) == path


def test_pieces_land_where_they_belong() -> None:
    def picture(rect: Rect, stride: int, whole: bool = False, fill: int | None = None) -> display.Picture:
        size = stride * rect.height
        data = bytes([fill]) * size if fill is not None else bytes(range(256))[:size]
        return display.Picture(rect, stride, Fourcc("XR24"), data, whole)

    canvas = _qemu_screen.Canvas(picture(Rect(0, 0, 4, 4), 16, True, 0))
    assert canvas.apply(picture(Rect(1, 1, 2, 2), 12)) == Rect(1, 1, 2, 2)
    assert canvas.apply(picture(Rect(-1, -1, 2, 2), 8, fill=7)) == Rect(0, 0, 1, 1)
    assert canvas.apply(picture(Rect(3, 2, 9, 9), 36, fill=9)) == Rect(3, 2, 1, 2)
    assert canvas.apply(picture(Rect(4, 0, 2, 2), 8, fill=1)) is None
    slot = _qemu_screen.Slot()
    canvas.copy(slot)
    assert slot.buffer is not None
    data = bytes_of(slot.buffer)
    rows = [data[y * 16 : y * 16 + 16] for y in range(4)]
    zero = bytes(4)
    assert rows[0] == b"\7" * 4 + zero * 3
    assert rows[1] == zero + bytes(range(8)) + zero
    assert rows[2] == zero + bytes(range(12, 20)) + b"\t" * 4
    assert rows[3] == zero * 3 + b"\t" * 4
    with pytest.raises(SourceError, match="a piece in AR24"):
        canvas.apply(display.Picture(Rect(0, 0, 1, 1), 4, Fourcc("AR24"), bytes(4), False))
    assert slot._fd is not None
    slot._fd.close()


def test_damage_stays_small() -> None:
    damage = _qemu_screen.Damage()
    assert damage.take() is None
    damage.add(Rect(1, 1, 2, 2))
    damage.add(Rect(1, 1, 2, 2))
    assert damage.take() == (Rect(1, 1, 2, 2),)
    for x in range(100):
        damage.add(Rect(x, 2 * x, 1, 1))
    found = damage.take()
    assert found is not None
    assert len(found) < 40
    assert all(any(r.x <= x < r.x + r.width and r.y <= 2 * x < r.y + r.height for r in found) for x in range(100))
    assert damage.take() == ()


# ---- a real QEMU

STAGES = [
    qemu_guest.text(b"0"),
    qemu_guest.mode13(),
    qemu_guest.linear(640, 480, 32),
    qemu_guest.linear(800, 600, 16),
]
NAMES = ["text mode", "mode 13h", "32 bits a pixel", "16 bits a pixel"]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader("software") as made:
        yield made


@pytest.fixture(scope="module")
def guest() -> Iterator[qemu_guest.Guest]:
    with qemu_guest.Guest(STAGES) as made:
        made.show(0)
        yield made


def rgb(frame: Frame, reader: Reader) -> tuple[int, int, bytes]:
    surface = reader.read(frame)
    return surface.width, surface.height, surface.rgba()[..., :3].tobytes()


@pytest.mark.parametrize("number", range(len(STAGES)), ids=NAMES)
def test_every_mode_is_pixel_by_pixel_what_screendump_says(guest: qemu_guest.Guest, reader: Reader, number: int) -> None:
    stage = guest.show(number)
    # Nobody has looked for a while: QEMU's own idea of the picture is old until somebody does.
    with QemuSource(os.fspath(guest.qmp)) as source:
        frame = next(source.frames(timeout=5))
        assert frame.origin == f"qemu:{guest.qmp}"
        assert frame.damage is None
        shown = rgb(frame, reader)
        facts = source.describe()
        assert (facts["name"], facts["console"], facts["consoles"]) == ("guest", 0, [0])
    assert shown[:2] == ((640, 400) if number == 1 else (stage.width, stage.height))
    assert shown == guest.screendump()
    assert len({shown[2][at : at + 3] for at in range(0, len(shown[2]), 3)}) > 8
    if stage.pixel is not None:
        assert shown[2] == b"".join(stage.pixel(n).to_bytes(3, "big") for n in range(stage.width * stage.height))


def test_a_mode_change_between_frames_is_followed(reader: Reader) -> None:
    with qemu_guest.Guest(STAGES[1:]) as guest, QemuSource(os.fspath(guest.qmp)) as source:
        frames = source.frames(timeout=5)
        for number in range(3):
            guest.show(number)
            dumped = guest.screendump()
            # Pictures of before may still come; that of now does, and soon.
            for _, frame in zip(range(50), frames, strict=False):
                shown = rgb(frame, reader)
                if shown == dumped:
                    break
            assert shown == dumped
        # Nothing changes any more: the same picture again, and it says so.
        for _ in range(10):
            frame = next(frames)
            if frame.damage == ():
                break
        assert frame.damage == ()
        assert rgb(frame, reader) == dumped
        with no_descriptor_left():
            for _ in range(3):
                next(frames)


def test_what_changed_is_said(guest: qemu_guest.Guest) -> None:
    with QemuSource(os.fspath(guest.qmp)) as source:
        frames = source.frames(timeout=5)
        first = next(frames)
        assert first.damage is None
        size = first.buffer.width, first.buffer.height
        for frame in (next(frames), next(frames)):
            assert frame.damage is not None
            assert all(_qemu_screen.clipped(rect, *size) == rect for rect in frame.damage)


def test_a_stopped_qemu_is_a_time_out_and_goes_on(guest: qemu_guest.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    with QemuSource(os.fspath(guest.qmp)) as source:
        next(source.frames(timeout=5))
        guest.stop()
        try:
            start = time.monotonic()
            with pytest.raises(SourceTimeout, match="QEMU does not answer; is it stopped"):
                list(zip(range(20), source.frames(timeout=0.4), strict=False))
            assert time.monotonic() - start < 2
            monkeypatch.setattr(qemu, "OPEN_TIMEOUT", 0.3)
            with no_descriptor_left(), pytest.raises(SourceTimeout, match="does not answer"):
                QemuSource(os.fspath(guest.qmp))
        finally:
            guest.go_on()
        next(source.frames(timeout=5))


def test_a_killed_qemu_is_an_error_and_leaves_nothing() -> None:
    with no_descriptor_left():
        guest = qemu_guest.Guest(STAGES[:1])
        with guest, QemuSource(os.fspath(guest.qmp)) as source:
            frames = source.frames(timeout=5)
            waiting = threading.Timer(0.1, guest.kill)
            waiting.start()
            kept = next(frames)

            def last() -> None:
                nonlocal kept
                for frame in frames:
                    kept = frame

            with pytest.raises(SourceError, match="QEMU has ended") as error:
                last()
            assert not isinstance(error.value, SourceTimeout)
            waiting.join()
            assert len(pixels_of(kept)) > 1000  # what was handed out stays readable
            with pytest.raises(SourceError, match="QEMU has ended"):
                next(source.frames(timeout=5))
        with pytest.raises(SourceError, match="cannot connect to the QMP socket"):
            QemuSource(os.fspath(guest.qmp))


def test_what_qemu_refuses_is_said_in_its_words(guest: qemu_guest.Guest) -> None:
    with no_descriptor_left():
        with pytest.raises(SourceError, match="QEMU has no console 3; there is 0"):
            QemuSource(os.fspath(guest.qmp), console=3)
        with qemu_guest.Guest(STAGES[:1], "none") as other, pytest.raises(SourceError, match="with -display dbus,p2p=yes"):
            QemuSource(os.fspath(other.qmp))


def test_the_qmp_socket_is_free_again_and_the_next_client_takes_the_display(guest: qemu_guest.Guest) -> None:
    with QemuSource(os.fspath(guest.qmp)) as one:
        next(one.frames(timeout=5))
        with QemuSource(os.fspath(guest.qmp)) as two:
            next(two.frames(timeout=5))
            with pytest.raises(SourceError, match="QEMU has ended, or another client took its display"):
                for _ in one.frames(timeout=5):
                    pass
            next(two.frames(timeout=5))


def test_a_busy_qmp_socket_is_a_hint(guest: qemu_guest.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "OPEN_TIMEOUT", 0.3)
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(os.fspath(guest.qmp))
        assert b"QMP" in other.recv(4096)
        with no_descriptor_left(), pytest.raises(SourceTimeout, match="QMP serves one at a time"):
            QemuSource(os.fspath(guest.qmp))


CALLER = """
import sys
from glreadback.sources.qemu import QemuSource
source = QemuSource(sys.argv[1])
frames = source.frames(timeout=10)
next(frames)
print("ready", flush=True)
if sys.argv[2] == "asks":
    next(frames)
    next(frames)
sys.stdin.read()
"""


class Caller:
    """Another process that has a source open."""

    def __init__(self, qmp_socket: Path, what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CALLER, os.fspath(qmp_socket), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.kill()
        self.process.wait()


def test_a_real_guest_goes_on_while_its_caller_is_stopped_and_when_it_dies() -> None:
    with qemu_guest.Guest(STAGES[1:]) as guest, contextlib.closing(Caller(guest.qmp, "idle")) as caller:
        guest.show(0)
        caller.wait_ready()
        caller.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        guest.show(1)
        caller.process.kill()
        guest.show(2)
        assert time.monotonic() - start < 5
        assert guest.screendump()[:2] == (800, 600)
        assert "Failed to call" not in guest.log or "time" not in guest.log.lower()


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon here")
    process = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1", "--address=unix:tmpdir=/tmp"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait()
    process.stdout.close()


def test_a_guest_on_a_bus(bus: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_descriptor_left(), pytest.raises(SourceError, match="Is a QEMU with -display dbus on this bus"):
        QemuSource(f"dbus:{bus}")
    with qemu_guest.Guest(STAGES[2:3], f"dbus,addr={bus.replace(',', ',,')}") as guest:
        guest.show(0)
        with QemuSource(f"dbus:{bus}") as source:
            assert rgb(next(source.frames(timeout=5)), reader) == guest.screendump()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        with QemuSource("dbus") as source:
            assert next(source.frames(timeout=5)).origin == "qemu:dbus"
            guest.kill()
            with pytest.raises(SourceError, match="QEMU has ended"):
                for _ in source.frames(timeout=5):
                    pass


def test_no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with no_descriptor_left():
        with pytest.raises(SourceError, match="DBUS_SESSION_BUS_ADDRESS is not set"):
            QemuSource("dbus")
        with pytest.raises(SourceError, match="cannot connect to the bus"):
            QemuSource(f"dbus:unix:path={tmp_path}/none")
        with pytest.raises(SourceSyntaxError, match="needs the path of a QMP socket"):
            QemuSource("")
        with pytest.raises(SourceError, match=r"cannot connect to the QMP socket .*No such file"):
            QemuSource(f"{tmp_path}/none")


# ---- a QEMU that does what a test wants


class FakeQemu:
    """QEMU's half: a QMP socket, the display objects, and a listener to be called. `silent` stops after that step."""

    def __init__(self, path: Path, silent: str = "", grown_old: tuple[bytes, bytes] | None = None) -> None:
        self.path, self.silent, self._grown_old = path, silent, grown_old
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(os.fspath(path))
        self._server.listen()
        self._open: list[socket.socket] = [self._server]
        self._ready, self._over = threading.Event(), threading.Event()
        self._listener: _qemu_dbus.Connection | None = None
        self.properties: Any = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError, SourceError):
            self._control(self._monitor())

    def _monitor(self) -> socket.socket:
        sock, _ = self._server.accept()
        self._open.append(sock)
        self._pause("connect")
        sock.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        got: list[int] = []
        for _ in range(3):
            _, ancillary, _, _ = sock.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
            for _, _, rights in ancillary:
                got += array.array("i", rights)
            self._pause("greeting")
            sock.sendall(b'{"event": "RESUME", "data": {}}\n{"return": {}}\n')
        control = socket.socket(fileno=got[0])
        self._open.append(control)
        return control

    def _pause(self, step: str) -> None:
        if self.silent == step:
            self._over.wait(5)
            raise EOFError

    def _authenticate(self, sock: socket.socket) -> None:
        lines = sock.makefile("rb", buffering=0)
        assert lines.readline().startswith(b"\0AUTH EXTERNAL ")
        sock.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        assert lines.readline() == b"NEGOTIATE_UNIX_FD\r\n"
        sock.sendall(b"AGREE_UNIX_FD\r\n")
        assert lines.readline() == b"BEGIN\r\n"
        lines.close()

    def _control(self, sock: socket.socket) -> None:
        self._pause("hand-over")
        self._authenticate(sock)
        control = _qemu_dbus.Connection(sock)
        while _qemu_dbus.wait_readable(control.sock, None):
            for message, fds in control.messages():
                if message.member == self.silent:
                    close_fds(fds)
                self._pause(message.member)
                if message.member == "GetAll":
                    found: dict[str, Any] = {"ConsoleIDs": ("au", [0]), "Name": ("s", "fake")}
                    control.reply(message, "a{sv}", (found if message.path.endswith("VM") else {"Width": ("u", 4)},))
                elif message.member == "Get":
                    if self._grown_old is not None:
                        time.sleep(0.05)
                        self._scanout(self._grown_old[1])
                        self._grown_old = None
                    control.reply(message, "v", (("u", 4),))
                elif message.member == "RegisterListener":
                    control.reply(message)
                    listener = socket.socket(fileno=fds.pop())
                    self._open.append(listener)
                    self._pause("registered")
                    self._authenticate(listener)
                    self._listener = _qemu_dbus.Connection(listener)
                    self.properties = self._call(dbus.PROPERTIES, "GetAll", "s", [display.LISTENER], 5)[0]
                    if self._grown_old is not None:
                        self._scanout(self._grown_old[0])
                    self._ready.set()
                close_fds(fds)

    def _scanout(self, pixels: bytes) -> None:
        self._call(display.LISTENER, "Scanout", "uuuuay", [4, 2, 16, X8R8G8B8, pixels], 1.0)

    @property
    def listener(self) -> _qemu_dbus.Connection:
        assert self._ready.wait(5)
        assert self._listener is not None
        return self._listener

    def call(self, member: str, signature: str = "", *body: Any, interface: str = display.LISTENER) -> float:
        """Call the listener and wait for its answer, as QEMU does; how long that took. Raises SourceError for a refusal."""
        assert self._ready.wait(5)
        start = time.monotonic()
        self._call(interface, member, signature, list(body), 1.0)
        return time.monotonic() - start

    def _call(self, interface: str, member: str, signature: str, body: list[Any], limit: float) -> tuple[Any, ...]:
        assert self._listener is not None
        serial = self._listener.call(display.LISTENER_PATH, interface, member, signature, *body)
        return self._listener.answer(serial, time.monotonic() + limit)

    def hung_up(self, within: float) -> bool:
        deadline = time.monotonic() + within
        while _qemu_dbus.wait_readable(self.listener.sock, deadline):
            try:
                list(self.listener.messages())
            except EOFError:
                return True
        return False

    def close(self) -> None:
        self._over.set()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        for sock in self._open:
            sock.close()


class Memory:
    """A guest's memory of 4x2 pixels (or more), as a memfd: software drivers take it for a dma-buf."""

    def __init__(self, size: int = 4096, sealed: bool = True) -> None:
        self.fd = udmabuf.sealed_memfd(size) if sealed else os.memfd_create("qemu", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, max(size, 4096))

    def draw(self, level: int, size: int = 32, at: int = 0) -> bytes:
        pixels = bytes((level + n) & 255 for n in range(size))
        os.pwrite(self.fd, pixels, at)
        return pixels

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeQemu]:
    with no_descriptor_left(), contextlib.closing(FakeQemu(tmp_path / "qmp")) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


class Asking:
    """A caller's next frame, asked for in a thread."""

    def __init__(self, source: QemuSource, timeout: float = 5.0) -> None:
        self._found: list[Frame | BaseException] = []
        self._thread = threading.Thread(target=self._ask, args=(source, timeout), daemon=True)
        self._thread.start()
        time.sleep(0.02)  # until the helper has heard of it

    def _ask(self, source: QemuSource, timeout: float) -> None:
        try:
            self._found.append(next(source.frames(timeout)))
        except GlReadbackError as error:
            self._found.append(error)

    def frame(self) -> Frame:
        self._thread.join(6)
        found = self._found[0]
        if isinstance(found, BaseException):
            raise found
        return found


def share(fake: FakeQemu, memory: Memory, *, width: int = 4, height: int = 2, fourcc: int = XR24, flip: bool = False) -> float:
    return fake.call("ScanoutDMABUF", "huuuutb", memory.fd, width, height, width * 4, fourcc, 0, flip)


def update(fake: FakeQemu) -> float:
    return fake.call("UpdateDMABUF", "iiii", 0, 0, 4, 2)


def test_the_listener_says_what_it_takes(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        assert fake.listener
        assert fake.properties == {"Interfaces": ("as", [display.MAP, display.DMABUF2])}
        assert source.describe()["name"] == "fake"


def test_a_picture_that_grew_old_while_nobody_listened_is_not_given_out(tmp_path: Path) -> None:
    fake = FakeQemu(tmp_path / "qmp", grown_old=(b"o" * 32, b"n" * 32))
    with contextlib.closing(fake), QemuSource(os.fspath(fake.path)) as source:
        assert pixels_of(next(source.frames(timeout=5))) == b"n" * 32


def test_a_dma_buf_is_read_before_the_update_is_answered(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        memory.draw(0)
        share(fake, memory)
        next(source.frames(timeout=5))  # and the driver is warm
        for level in range(1, 20):
            asking = Asking(source)
            drawn = memory.draw(level)
            took = update(fake)
            memory.draw(100)  # the answer came: the guest draws its next picture
            assert pixels_of(asking.frame()) == drawn
            assert took < _qemu_helper.HOLD


def test_a_dma_buf_that_nobody_draws_to_is_read_as_it_is(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        drawn = memory.draw(3)
        share(fake, memory)
        frames = source.frames(timeout=5)
        frame = next(frames)
        assert pixels_of(frame) == drawn
        assert (frame.buffer.fourcc, frame.buffer.modifier, frame.buffer.planes[0].offset) == ("XR24", 0, 0)
        again = next(frames)
        assert (again.damage, pixels_of(again)) == ((), drawn)


def test_updates_nobody_asked_about_are_answered_at_once(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        share(fake, memory)
        next(source.frames(timeout=5))
        memory.draw(50)
        times = sorted(update(fake) for _ in range(50))
        assert times[40] < 0.05  # the slowest say how busy the machine is
        assert times[-1] < _qemu_helper.HOLD
        drawn = memory.draw(51)
        update(fake)
        frame = next(source.frames(timeout=5))
        assert pixels_of(frame) == drawn
        assert frame.damage == (Rect(0, 0, 4, 2),)


@pytest.mark.parametrize("what", ["idle", "asks"])
def test_a_caller_that_is_stopped_or_dies_costs_the_guest_nothing(fake: FakeQemu, memory: Memory, what: str) -> None:
    with contextlib.closing(Caller(fake.path, what)) as caller:
        share(fake, memory)
        caller.wait_ready()
        caller.process.send_signal(signal.SIGSTOP)
        # A picture that it had asked for is read; after that there is nothing to wait for.
        times = sorted(update(fake) for _ in range(100))
        assert times[80] < 0.05
        assert times[-1] < 0.5
        caller.process.kill()
        assert fake.hung_up(2.0)


def test_a_read_that_takes_too_long_does_not_hold_the_guest(
    fake: FakeQemu, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper's loop, in this process, with a driver that takes half a second and numbers its pictures."""

    def slow(self: Any) -> None:
        reads = 0
        while reads < 3:
            number, _, own, slot, _ = self._jobs.get()
            close_all(own)
            if slot is not None:
                reads += 1
                time.sleep(0.5)
                with slot.drawing(4, 2, Fourcc("XR24")) as view:
                    view[:32] = bytes([reads]) * 32
                self._results.put(_qemu_screen.Result(number, slot, None))
                os.eventfd_write(self.done, 1)

    def close_all(own: list[Any]) -> None:
        for fd in own:
            fd.close()

    def answer() -> bytes:
        line = lines.receive(time.monotonic() + 5)
        pixels = pixels_of(wire.parse_header(line.text, 1).with_fds(line.fds))
        close_fds(line.fds)
        return pixels

    monkeypatch.setattr(_qemu_screen.GlThread, "_run", slow)
    ours, theirs = socket.socketpair()
    helper = _qemu_helper.Helper(theirs, os.fspath(fake.path), 0, False, 5.0)
    thread = threading.Thread(target=helper.run, daemon=True)
    thread.start()
    lines = _qemu_helper.Lines(ours)
    assert fake.listener
    time.sleep(2 * _qemu_helper.GRACE)  # until it knows that nothing is old
    share(fake, memory)
    ours.sendall(b'{"ask": 1, "holding": 0, "timeout": 5.0}\n')
    time.sleep(0.01)
    took = update(fake)
    assert _qemu_helper.HOLD - 0.05 < took < 0.45
    # Nothing newer came meanwhile: it is the picture of now.
    assert answer() == b"\1" * 32
    # An update nobody waited for, then a read without one; a second update in the middle of it makes that one worthless.
    update(fake)
    ours.sendall(b'{"ask": 2, "holding": 1, "timeout": 5.0}\n')
    time.sleep(_qemu_helper.GRACE + 0.1)
    assert update(fake) < 0.45
    assert answer() == b"\3" * 32
    ours.close()
    thread.join(2)
    assert not thread.is_alive()
    theirs.close()
    helper._lose()
    os.close(helper._gl.done)
    for slot in helper._slots:
        if slot._fd is not None:
            slot._fd.close()


def test_a_flipped_dma_buf_is_turned(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        drawn = memory.draw(3)
        share(fake, memory, flip=True)
        assert pixels_of(next(source.frames(timeout=5))) == drawn[16:] + drawn[:16]


def test_the_visible_part_of_a_larger_dma_buf_is_shown(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        drawn = memory.draw(0, 8 * 4 * 8)
        fake.call(
            "ScanoutDMABUF2", "ahuuuuauauuuuutb", [memory.fd], 1, 2, 3, 4, [0, 0, 0, 0], [32, 0, 0, 0], 1, XB24, 8, 8, 0, False,
            interface=display.DMABUF2,
        )  # fmt: skip
        frame = next(source.frames(timeout=5))
        assert (frame.buffer.width, frame.buffer.height, frame.buffer.fourcc) == (3, 4, "XB24")
        assert pixels_of(frame) == b"".join(drawn[y * 32 + 4 : y * 32 + 16] for y in range(2, 6))


def scanout(fake: FakeQemu, pixels: bytes, width: int = 4, height: int = 2) -> float:
    return fake.call("Scanout", "uuuuay", width, height, width * 4, X8R8G8B8, pixels)


def piece(fake: FakeQemu, x: int, y: int, w: int, h: int, pixels: bytes, pixman: int = X8R8G8B8) -> float:
    return fake.call("Update", "iiiiuuay", x, y, w, h, w * 4, pixman, pixels)


def test_pictures_in_messages_and_pieces_of_them(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        frames = source.frames(timeout=5)
        piece(fake, 0, 0, 4, 2, bytes(32))  # before there is anything: QEMU may
        scanout(fake, bytes(range(32)))
        first = next(frames)
        assert (pixels_of(first), first.damage) == (bytes(range(32)), None)
        with mmap.mmap(first.buffer.planes[0].fd, 32, mmap.MAP_SHARED, mmap.PROT_READ) as still:
            piece(fake, 1, 1, 1, 1, b"abcd")
            second = next(frames)
            assert still[:] == bytes(range(32))  # the next picture is made in other memory
        assert pixels_of(second) == bytes(range(20)) + b"abcd" + bytes(range(24, 32))
        assert second.damage == (Rect(1, 1, 1, 1),)
        piece(fake, 2, 1, 9, 9, b"z" * 324)  # larger than the screen
        third = next(frames)
        assert pixels_of(third)[24:] == b"z" * 8
        assert third.damage == (Rect(2, 1, 2, 1),)
        with pytest.raises(SourceError, match="a piece in AR24"):
            piece(fake, 0, 0, 1, 1, b"abcd", 0x20028888)
        with pytest.raises(SourceError, match="takes 36 bytes"):
            piece(fake, 0, 0, 3, 3, b"short")
        scanout(fake, b"q" * 32)
        assert pixels_of(next(frames)) == b"q" * 32


def test_a_screen_in_a_memfd_is_copied_from_any_offset(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source, contextlib.closing(Memory(sealed=False)) as memory:
        frames = source.frames(timeout=5)
        drawn = memory.draw(0, 48, at=7)
        fake.call("ScanoutMap", "huuuuu", memory.fd, 7, 4, 2, 24, X8R8G8B8, interface=display.MAP)
        fake.call("UpdateMap", "iiii", 0, 0, 4, 2, interface=display.MAP)
        frame = next(frames)
        assert pixels_of(frame) == drawn[:16] + drawn[24:40]
        assert frame.buffer.planes[0].stride == 16
        drawn = memory.draw(9, 48, at=7)
        fake.call("UpdateMap", "iiii", 1, 0, 1, 1, interface=display.MAP)
        changed = next(frames)
        assert changed.damage == (Rect(1, 0, 1, 1),)
        assert pixels_of(changed) == drawn[:16] + drawn[24:40]


def test_a_memfd_that_shrinks_kills_nobody(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source, contextlib.closing(Memory(sealed=False)) as memory:
        fake.call("ScanoutMap", "huuuuu", memory.fd, 0, 4, 2, 16, X8R8G8B8, interface=display.MAP)
        fake.call("UpdateMap", "iiii", 0, 0, 4, 2, interface=display.MAP)
        next(source.frames(timeout=5))
        os.ftruncate(memory.fd, 10)
        fake.call("UpdateMap", "iiii", 0, 0, 4, 2, interface=display.MAP)
        with pytest.raises(SourceTimeout, match="took the screen's memory back"):
            next(source.frames(timeout=0.2))
        scanout(fake, bytes(range(32)))
        assert pixels_of(next(source.frames(timeout=5))) == bytes(range(32))
        # Too small from the beginning: refused, and QEMU sends pictures in messages from then on.
        with pytest.raises(SourceError, match="ends at byte 32 came in memory of 10"):
            fake.call("ScanoutMap", "huuuuu", memory.fd, 0, 4, 2, 16, X8R8G8B8, interface=display.MAP)


def test_a_screen_switched_off_is_a_time_out_until_it_comes_back(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        with pytest.raises(SourceTimeout, match="QEMU has not said what the console shows"):
            next(source.frames(timeout=0.1))
        share(fake, memory)
        fake.call("Disable")
        assert update(fake) < 0.1  # about a screen that is gone
        with pytest.raises(SourceTimeout, match="switched the console off"):
            next(source.frames(timeout=0.1))
        scanout(fake, bytes(range(32)))
        assert next(source.frames(timeout=5)).damage is None


def test_kinds_and_sizes_may_change_between_frames(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source, contextlib.closing(Memory(1 << 20)) as large:
        helper = source._process.pid
        counts = []
        frames = source.frames(timeout=5)
        for round_ in range(6):
            scanout(fake, bytes([round_]) * 32)
            assert pixels_of(next(frames)) == bytes([round_]) * 32
            drawn = large.draw(round_, 1 << 20)
            share(fake, large, width=512, height=512)
            assert pixels_of(next(frames)) == drawn
            drawn = memory.draw(round_)
            fake.call("ScanoutMap", "huuuuu", memory.fd, 0, 2, 4, 8, X8R8G8B8, interface=display.MAP)
            frame = next(frames)
            assert (frame.buffer.width, frame.buffer.height) == (2, 4)
            assert pixels_of(frame) == drawn
            counts.append(len(os.listdir(f"/proc/{helper}/fd")))
        assert counts[2:] == counts[2:3] * 4


def test_a_buffer_that_is_not_what_it_says_is_an_error_and_the_next_one_is_read(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        share(fake, memory, width=1000, height=1000)
        with pytest.raises(DescriptorError, match="too small for its description"):
            next(source.frames(timeout=5))
        read, write = os.pipe()
        fake.call("ScanoutDMABUF", "huuuutb", read, 4, 2, 16, XR24, 0, False)
        os.close(read)
        os.close(write)
        with pytest.raises(DescriptorError, match="is a pipe"):
            next(source.frames(timeout=5))
        drawn = memory.draw(4)
        share(fake, memory)
        assert pixels_of(next(source.frames(timeout=5))) == drawn


def test_the_pointer_is_drawn_when_asked(fake: FakeQemu) -> None:
    shape = bytes([10, 20, 30, 255, 0, 0, 0, 0, 100, 100, 100, 128, 1, 2, 3, 255])
    for cursor in (False, True):
        with QemuSource(os.fspath(fake.path), cursor=cursor) as source:
            scanout(fake, b"\x64" * 32)
            fake.call("CursorDefine", "iiiiay", 2, 2, 0, 0, shape)
            fake.call("MouseSet", "iii", 3, 0, 1)
            shown = pixels_of(next(source.frames(timeout=5)))
            assert shown[:12] == b"\x64" * 12
            assert shown[12:15] == (bytes([10, 20, 30]) if cursor else b"\x64" * 3)
            half = 100 + (100 * 127 + 127) // 255
            assert shown[28:31] == (bytes([half] * 3) if cursor else b"\x64" * 3)
        if not cursor:
            fake.close()
            fake.path.unlink()
            fake.__init__(fake.path)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "rights"),
    [(b"GET / HTTP/1.1\r\n\r\n", 0), (struct.pack("<4sIII", b"l\1\0\1", 1 << 26, 1, 1 << 26), 0), (b"l", 250)],
)
def test_nonsense_on_the_wire_ends_the_source(fake: FakeQemu, memory: Memory, data: bytes, rights: int) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        before = len(os.listdir(f"/proc/{source._process.pid}/fd"))
        fake.listener.send(data, [memory.fd] * rights)
        with pytest.raises(SourceError, match="D-Bus message") as error:
            next(source.frames(timeout=5))
        assert not isinstance(error.value, SourceTimeout)
        assert len(os.listdir(f"/proc/{source._process.pid}/fd")) < before
        with pytest.raises(SourceError, match="D-Bus message"):
            next(source.frames(timeout=5))


def test_unknown_methods_are_refused(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)):
        with pytest.raises(SourceError, match="has no Explode"):
            fake.call("Explode")
        with pytest.raises(SourceError, match="no such property"):
            fake.call("Get", "ss", display.LISTENER, "Colour", interface=dbus.PROPERTIES)


@pytest.mark.parametrize("step", ["connect", "greeting", "hand-over", "GetAll", "RegisterListener", "registered"])
def test_a_qemu_that_falls_silent_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(qemu, "OPEN_TIMEOUT", 0.2)
    with no_descriptor_left(), contextlib.closing(FakeQemu(tmp_path / "qmp", silent=step)) as fake:
        start = time.monotonic()
        with pytest.raises(SourceTimeout, match="does not answer"):
            QemuSource(os.fspath(fake.path))
        assert time.monotonic() - start < 2


def test_what_is_no_qmp_socket(tmp_path: Path) -> None:
    with no_descriptor_left(), socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "mail"))
        server.listen()

        def greet() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"220 mail.example.org ESMTP\r\n")
                sock.recv(1)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(SourceError, match="the first line of the QMP socket is no JSON"):
            QemuSource(os.fspath(tmp_path / "mail"))
        thread.join()


def test_a_helper_that_dies_is_an_error_with_its_cause(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        scanout(fake, bytes(32))
        frames = source.frames(timeout=5)
        kept = next(frames)
        os.kill(source._process.pid, signal.SIGSEGV)
        with pytest.raises(SourceError, match=f"killed by signal {int(signal.SIGSEGV)}: a driver may have crashed"):
            for _ in frames:
                pass
        assert pixels_of(kept) == bytes(32)


def test_a_closed_source_leaves_no_process_and_no_descriptor(fake: FakeQemu) -> None:
    before = set(os.listdir("/proc/self/fd"))
    source = QemuSource(os.fspath(fake.path))
    scanout(fake, bytes(32))
    frames = source.frames(timeout=5)
    next(frames)
    helper = source._process.pid
    source.close()
    source.close()
    assert not os.path.exists(f"/proc/{helper}")
    assert fake.hung_up(1.0)
    with pytest.raises(ValueError, match="closed"):
        next(frames)
    # What is left over is the fake's own.
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 4


def test_a_forgotten_source_warns_and_ends_its_helper(fake: FakeQemu) -> None:
    source = QemuSource(os.fspath(fake.path))
    helper = source._process.pid
    with pytest.warns(ResourceWarning, match="unclosed source"):
        del source
    assert not os.path.exists(f"/proc/{helper}")


def test_an_answer_to_an_older_question_is_not_taken(fake: FakeQemu) -> None:
    with QemuSource(os.fspath(fake.path)) as source:
        # As if a caller had been interrupted while it waited: what was asked then is answered now.
        source._sock.sendall(json.dumps({"ask": 1, "holding": 0, "timeout": None}).encode() + b"\n")
        source._asked = 1
        scanout(fake, b"o" * 32)
        time.sleep(0.2)
        frame = next(source.frames(timeout=5))
        # The same picture, but for the caller it is the first.
        assert (pixels_of(frame), frame.damage) == (b"o" * 32, None)
        source._sock.sendall(json.dumps({"ask": 3, "holding": 2, "timeout": None}).encode() + b"\n")
        source._asked = 3
        scanout(fake, b"p" * 32)
        time.sleep(0.1)
        scanout(fake, b"n" * 32)
        assert pixels_of(next(source.frames(timeout=5))) == b"n" * 32


def test_a_helper_that_hangs_is_ended(fake: FakeQemu) -> None:
    source = QemuSource(os.fspath(fake.path))
    os.kill(source._process.pid, signal.SIGSTOP)
    closing = threading.Thread(target=source.close, daemon=True)
    closing.start()
    closing.join(3)
    assert not closing.is_alive()


# ---- `glreadback sources qemu:…`


def look(source: QemuSource) -> Any:
    return source.describe()["shows"]


def test_what_a_console_shows_is_told_without_reading_it(fake: FakeQemu, memory: Memory) -> None:
    with QemuSource(os.fspath(fake.path)) as source, contextlib.closing(Memory(1 << 20)) as large:
        assert look(source) == "nothing"
        share(fake, large, width=64, height=8, fourcc=XB24)
        memory.draw(0)
        assert look(source) == {"size": "64x8", "fourcc": "XB24", "given as": "dma-buf", "modifier": "LINEAR"}
        fake.call("ScanoutMap", "huuuuu", memory.fd, 0, 2, 4, 8, X8R8G8B8, interface=display.MAP)
        assert look(source) == {"size": "2x4", "fourcc": "XR24", "given as": "shared memory"}
        frames = source.frames(timeout=5)
        assert next(frames).buffer.width == 2
        look(source)
        assert next(frames).damage == (), "nor does it make one"
        scanout(fake, bytes(32))
        assert look(source) == {"size": "4x2", "fourcc": "XR24", "given as": "messages"}
        assert next(frames).damage is None, "a look takes no change away"
        fake.call("Disable")
        assert look(source) == "nothing"
        fake.close()
        assert "QEMU has ended" in look(source)


def sources(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["sources", *arguments])
    return (code, *capsys.readouterr())


def test_guests_that_are_named_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    two = "-vga none -device VGA,id=one -device secondary-vga,id=two"
    with qemu_guest.Guest(STAGES[:1], devices=two) as guest, qemu_guest.Guest(STAGES[2:3]) as other:
        guest.show(0)
        other.show(0)
        code, out, err = sources(f"qemu:{guest.qmp}", f"qemu:{other.qmp}", capsys=capsys)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == "On this machine right now"
        assert lines[-5:] == [
            f"  qemu:{guest.qmp}  guest",
            f"    qemu:{guest.qmp}?console=0  one  720x400 XR24, given as shared memory",
            f"    qemu:{guest.qmp}?console=1  two  640x480 XR24, given as shared memory",
            f"  qemu:{other.qmp}  guest",
            f"    qemu:{other.qmp}?console=0  VGA  640x480 XR24, given as messages",
        ]
        # What is printed can be read.
        with open_source(lines[-3].split()[0]) as source:
            assert next(source.frames(timeout=5)).size == (640, 480)
        code, out, err = sources(f"qemu:{guest.qmp}", "--json", capsys=capsys)
        (here,) = (thing for thing in json.loads(out)["here"] if thing["source"].startswith("qemu:"))
        assert [console["label"] for console in here["consoles"]] == ["one", "two"]
        assert here["consoles"][0]["shows"] == {"size": "720x400", "fourcc": "XR24", "given as": "shared memory"}


def test_a_socket_that_does_not_answer_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(qemu, "OPEN_TIMEOUT", 2.0)
    with (
        qemu_guest.Guest(STAGES[:1]) as stopped,
        qemu_guest.Guest(STAGES[:1], "none") as blind,
        qemu_guest.Guest(STAGES[:1]) as fine,
    ):
        fine.show(0)
        stopped.stop()
        try:
            names = [f"qemu:{tmp_path}/none", f"qemu:{stopped.qmp}", f"qemu:{blind.qmp}", "qemu:dbus", f"qemu:{fine.qmp}"]
            with no_descriptor_left():
                code, out, err = sources(*names, capsys=capsys)
                assert sources(names[1], capsys=capsys)[0] == 3, "a time-out alone is one"
        finally:
            stopped.go_on()
    assert code == 1
    assert f"qemu:{fine.qmp}?console=0  VGA  720x400 XR24" in out
    assert not any(name in out for name in names[:-1])
    said = err.splitlines()
    assert [line.startswith(f"glreadback: {name}: ") for line, name in zip(said, names, strict=False)] == [True] * 4
    assert len(said) == 4
    for line, words in zip(said, ("No such file", "QEMU does not answer", "-display dbus,p2p=yes", "is not set"), strict=True):
        assert words in line


@pytest.mark.parametrize("what", ["qemu:", "vfio:x", "qemu:/run/x?console=1", "qmu:/run/x", "nope"])
def test_what_no_guest_can_be_is_wrong_usage(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sources", what])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("glreadback: ")
    assert err.count("\n") == 1
