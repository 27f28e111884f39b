"""Producers that go on misbehaving while we read, and a GPU that is reset: the right error, nothing kept, the next frame read.

Shrinking memory read directly is in test_hostile.py, sockets' nonsense in test_unix.py, more of QEMU's in test_qemu.py, a
process that goes in test_pid.py, framebuffers and real dma-bufs that go in kernel/.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qemu_guest
from pictures import Held, MakePicture, MemFd, files_of, importer_of, pixels
from test_qemu import STAGES, XR24, FakeQemu, share, update
from test_qemu import Memory as GuestMemory

from glreadback import (
    DescriptorError,
    DeviceError,
    DmaBuf,
    Fourcc,
    Frame,
    GlReadbackError,
    Plane,
    Reader,
    Surface,
    open_source,
)
from glreadback.egl import context as egl_context
from glreadback.errors import SourceError
from glreadback.isolate import IsolatedReader
from glreadback.sources import _memory, _qemu_dbus, _qemu_screen
from glreadback.sources._lines import Lines
from glreadback.sources.base import SourceTimeout
from glreadback.sources.qemu import QemuSource
from glreadback.wire import dbus, display
from glreadback.wire import frames as wire

ROOT = Path(__file__).parents[1]


def _program(text: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


@pytest.fixture(params=["direct", "isolated"])
def any_reader(request: pytest.FixtureRequest, leaks: Callable[[], None]) -> Iterator[Reader]:
    with Reader("software", isolate=request.param == "isolated") as made:
        yield made
    gc.collect()


# ---- memory that shrinks, read in a helper

SHRINKER = """
    import os, random, signal, sys, time
    from glreadback import DmaBuf, GlReadbackError, Plane, Reader, ReaderCrashed

    # A producer that cuts its memory and makes it larger again, all the time; its bytes are 7 or, where they are new, 0.
    size = 256 * 256 * 4
    fd = os.memfd_create("shrinker")
    os.ftruncate(fd, size)
    child = os.fork()
    if child == 0:
        while True:
            os.ftruncate(fd, random.choice((0, 1, 4096, size // 2, size - 1)))
            os.ftruncate(fd, size)
            os.pwrite(fd, bytes([7]) * size, 0)
    found = {"read": 0, "refused": 0, "crashed": 0}
    try:
        buf = DmaBuf(256, 256, "XR24", [Plane(fd, 0, 1024)])
        with Reader("software", isolate=True) as reader:
            out = None
            end = time.monotonic() + float(sys.argv[1])
            while time.monotonic() < end:
                for options in ({}, {"route": "map"}, {"route": "native"}, {"route": "draw"}, {"out": out}):
                    try:
                        surface = reader.read(buf, **options)
                        out = out or surface
                        assert set(surface.tobytes()) <= {0, 7, 255}, set(surface.tobytes())
                        found["read"] += 1
                    except ReaderCrashed:
                        found["crashed"] += 1
                    except GlReadbackError as error:
                        assert "shrank" in str(error) or "the file holds" in str(error), error
                        found["refused"] += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(*found.values())
"""


def test_memory_that_shrinks_while_a_helper_reads_it() -> None:
    """In a process of its own: the answer could be SIGBUS. Not even the helper gets one, since the bytes are copied first."""
    with _program(SHRINKER, "1.0") as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    read, refused, crashed = map(int, out.split())
    assert read, "nothing was read"
    assert refused, "the producer never won: this test shows nothing"
    assert crashed == 0


# ---- a writer that never stops


@pytest.mark.parametrize("seals", [None, 0], ids=["sealed", "unsealed"])
def test_a_writer_that_never_stops(any_reader: Reader, picture: MakePicture, seals: int | None) -> None:
    """A read ends all the same, and holds what was written at one time or another, nothing else."""
    made = picture("XR24", 256, 256, **({} if seals is None else {"seals": seals}))
    fd, size, stop = made.buf.planes[0].fd, 256 * 256 * 4, threading.Event()
    values = (0x11, 0x77, 0xEE)
    os.pwrite(fd, bytes([values[0]]) * size, 0)

    def write() -> None:
        contents = [bytes([value]) * size for value in values]
        while not stop.is_set():
            for content in contents:
                os.pwrite(fd, content, 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        out = any_reader.read(made.buf)
        seen: set[int] = set()
        for _ in range(20):
            for options in ({}, {"route": "native"}, {"route": "draw"}, {"route": "map"}, {"rect": (3, 3, 100, 100)}):
                start = time.monotonic()
                surface = any_reader.read(made.buf, out if not options else None, **options)
                assert time.monotonic() - start < 2
                found = set(np.unique(surface.array()[..., :3]).tolist())
                assert found <= set(values)
                seen |= found
    finally:
        stop.set()
        writer.join()
    assert seen == set(values), "the writer did not write: this test shows nothing"


# ---- descriptors that are something else, sent by a real peer


@contextlib.contextmanager
def _peer(path: Path) -> Iterator[tuple[Any, socket.socket]]:
    """An opened unix: source that listens, and the producer's end."""
    with open_source(f"unix:{path}?listen=1") as source, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        yield source, sock


def _send(sock: socket.socket, number: int, fd: int, width: int = 16, height: int = 16) -> None:
    frame = Frame(DmaBuf(width, height, "XR24", [Plane(fd, 0, width * 4)], 0))
    text, fds = wire.format_header(number, frame)
    socket.send_fds(sock, [text], fds)


KINDS: dict[str, Callable[[], tuple[int, ...]]] = {
    "a pipe": os.pipe,
    "a socket": lambda: tuple(end.detach() for end in socket.socketpair()),
    "a directory": lambda: (os.open("/", os.O_RDONLY),),
    "an eventfd": lambda: (os.eventfd(0),),
    "/dev/zero": lambda: (os.open("/dev/zero", os.O_RDWR),),
    "O_PATH": lambda: (os.open("/dev/zero", os.O_PATH),),
    "itself": lambda: (os.open("/proc/self/mem", os.O_RDWR),),
    "a short memfd": lambda: (os.memfd_create("short"),),
}


def test_descriptors_that_are_not_what_a_peer_claims(any_reader: Reader, memfd: MemFd, tmp_path: Path) -> None:
    """Each is a DescriptorError, the peer is told that its frame is free, and its next frame is read."""
    good = memfd(bytes([5]) * 1024)
    with _peer(tmp_path / "frames") as (source, sock):
        frames = source.frames(timeout=5)
        _send(sock, 0, good)
        assert set(any_reader.read(next(frames)).tobytes()) == {5}
        for number, make in enumerate(KINDS.values(), 1):
            fds = make()
            _send(sock, number, fds[0])
            for fd in fds:
                os.close(fd)
            frame = next(frames)
            with pytest.raises(DescriptorError):
                any_reader.read(frame)
            _send(sock, 100 + number, good)
            assert set(any_reader.read(next(frames)).tobytes()) == {5}
        sock.settimeout(1)
        source.close()
        said = b""
        with contextlib.suppress(TimeoutError):
            while more := sock.recv(4096):
                said += more
        assert said.count(b"release") == 1 + 2 * len(KINDS)
        any_reader.forget(DmaBuf(16, 16, "XR24", [Plane(good, 0, 64)]))


def test_hundreds_of_buffers_from_a_peer(any_reader: Reader, tmp_path: Path, leaks: Callable[[], None]) -> None:
    """A new buffer for every frame: what is kept of old ones is bounded, here and in the helper."""
    with _peer(tmp_path / "frames") as (source, sock):
        frames = source.frames(timeout=5)
        most = helper = 0
        for number in range(120):
            fd = os.memfd_create("frame", os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, 1024)
            os.pwrite(fd, bytes([number]) * 1024, 0)
            if number % 2:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            _send(sock, number, fd)
            os.close(fd)
            assert set(any_reader.read(next(frames)).tobytes()) == {number}
            if number == 60:
                most = len(Held.now().fds)
                if isinstance(any_reader, IsolatedReader):
                    assert any_reader._process is not None
                    helper = len(files_of(any_reader._process.pid))
        assert len(Held.now().fds) <= most + 2
        if isinstance(any_reader, IsolatedReader):
            assert any_reader._process is not None
            assert len(files_of(any_reader._process.pid)) <= helper + 2


PRODUCER = """
    import fcntl, os, socket, sys, time
    from glreadback import DmaBuf, Frame, Plane
    from glreadback.wire.frames import format_header

    fd = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1024)
    os.pwrite(fd, bytes([9]) * 1024, 0)
    if sys.argv[2] == "sealed":
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    text, fds = format_header(1, Frame(DmaBuf(16, 16, "XR24", [Plane(fd, 0, 64)], 0)))
    socket.send_fds(sock, [text], fds)
    print("sent", flush=True)
    sys.stdin.readline()
    os.ftruncate(fd, 100)
    print("cut", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "cuts"])
def test_a_producer_that_is_killed_or_takes_its_memory_back(any_reader: Reader, tmp_path: Path, how: str) -> None:
    """Between handing over a frame and our read. A killed one's memory stays; memory that was cut is an error."""
    path = tmp_path / "frames"
    with open_source(f"unix:{path}?listen=1") as source:
        with _program(PRODUCER, str(path), "sealed" if how == "killed" else "open") as producer:
            assert producer.stdout is not None
            assert producer.stdin is not None
            frames = source.frames(timeout=10)
            frame = next(frames)
            if how == "killed":
                producer.send_signal(signal.SIGKILL)
                producer.wait(5)
                assert set(any_reader.read(frame).tobytes()) == {9}
                assert list(frames) == []
            else:
                producer.stdin.write("cut\n")
                producer.stdin.flush()
                assert producer.stdout.readline() == "sent\n"
                assert producer.stdout.readline() == "cut\n"
                with pytest.raises(DescriptorError, match="the file holds 100"):
                    any_reader.read(frame)
                producer.kill()
                assert list(frames) == []
        # The next producer is as welcome.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            fd = os.memfd_create("next")
            os.ftruncate(fd, 1024)
            _send(sock, 5, fd)
            os.close(fd)
            assert set(any_reader.read(next(source.frames(timeout=5))).tobytes()) == {0}


STRANGER = """
    import os, socket, sys
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(sys.argv[1])
        try:
            socket.send_fds(sock, [b"{"], [0] * 5)
            sys.exit(len(sock.recv(1)))
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_who_gets_at_the_socket_is_hung_up_on(reader: Reader, memfd: MemFd, tmp_path: Path) -> None:
    """Somebody opened folder and socket for everybody; who connects is still what the kernel says."""
    path = tmp_path / "frames"
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        if folder.stat().st_mode & 1 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    with open_source(f"unix:{path}?listen=1") as source:
        path.chmod(0o666)
        with _program(STRANGER, str(path), cwd="/") as stranger:
            end, said = time.monotonic() + 10, ""
            while "refused" not in said and time.monotonic() < end:
                with pytest.raises(SourceTimeout) as caught:
                    next(source.frames(timeout=0.05))
                said = str(caught.value)
            assert "1 of others were refused; any_user=1 lets them" in said
            assert stranger.wait(10) == 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            _send(sock, 1, memfd(bytes([5]) * 1024))
            assert set(reader.read(next(source.frames(timeout=5))).tobytes()) == {5}


def test_a_connection_that_is_none() -> None:
    """The kernel's other errors than a peer that hung up: here that of a socket that was never connected."""
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(SourceError, match="^the connection broke: Invalid argument$"):
        Lines(sock).take()


def test_a_producer_for_whom_there_is_no_descriptor(tmp_path: Path) -> None:
    """It is said, not tried for ever; with a descriptor to spare it is let in."""
    path = tmp_path / "frames"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_source(f"unix:{path}?listen=1") as source, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        free = os.dup(sock.fileno())
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            with pytest.raises(SourceError, match="a producer came, but: Too many open files"):
                next(source.frames(timeout=1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "frame.raw").write_bytes(bytes(1024))
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(SourceError, match="cannot be read from byte 0: Input/output error"):
        with open_source(f"file:{tmp_path}/frame.raw?size=16x16&fourcc=XR24") as source:
            next(source.frames(timeout=1))


# ---- QEMU in the middle of a frame

# How much of the message with the next frame came, and what had come before it.
PARTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a byte": (lambda data: data[:1], "nothing"),
    "half a header": (lambda data: data[: dbus.PREFIX // 2], "a frame"),
    "a header": (lambda data: data[: dbus.PREFIX], "an update that waits"),
    "all but a byte": (lambda data: data[:-1], "a frame"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_qemu_that_is_killed_in_the_middle_of_a_message(reader: Reader, tmp_path: Path, part: str) -> None:
    """The next frame's descriptor is under way already and is closed; what was handed out stays; another QEMU is read."""
    path, (cut, before) = tmp_path / "qmp", PARTS[part]
    kept, drawn = None, b""
    with contextlib.closing(GuestMemory()) as memory:
        with contextlib.closing(FakeQemu(path)) as fake, open_source(f"qemu:{path}") as source:
            assert isinstance(source, QemuSource)
            frames = source.frames(timeout=5)
            if before != "nothing":
                drawn = memory.draw(10)
                share(fake, memory)
                update(fake)
                kept = next(frames)
            if before == "an update that waits":
                fake.listener.call(display.LISTENER_PATH, display.LISTENER, "UpdateDMABUF", "iiii", 0, 0, 4, 2)
            body = (memory.fd, 4, 2, 16, XR24, 0, False)
            data, fds = dbus.call(77, display.LISTENER_PATH, display.LISTENER, "ScanoutDMABUF", "huuuutb", body)
            assert fds == [memory.fd]
            held = len(os.listdir(f"/proc/{source._process.pid}/fd"))
            fake.listener.send(cut(data), fds)
            fake.listener.sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises(SourceError, match="QEMU has ended") as caught:
                for frame in frames:
                    kept = frame
            assert not isinstance(caught.value, SourceTimeout)
            with contextlib.suppress(FileNotFoundError):  # it may have ended
                assert len(os.listdir(f"/proc/{source._process.pid}/fd")) <= held
            if kept is not None:
                assert reader.read(kept).tobytes() == drawn
        path.unlink()
        with contextlib.closing(FakeQemu(path)) as fake, open_source(f"qemu:{path}") as source:
            drawn = memory.draw(99)
            share(fake, memory)
            update(fake)
            assert reader.read(next(source.frames(timeout=5))).tobytes() == drawn


def test_a_guests_picture_that_no_memory_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int, name: str) -> tuple[int, str]:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    slot = _qemu_screen.Slot()
    monkeypatch.setattr(_qemu_screen.udmabuf, "allocate", refuse)
    with pytest.raises(SourceError, match="^no memory of 8192 bytes can be had for the picture: Cannot allocate memory$"):
        with slot.drawing(64, 32, Fourcc("XR24")):
            raise AssertionError("it has memory")


def test_a_picture_of_ours_that_no_memory_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> tuple[int, str]:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(_memory.udmabuf, "allocate", refuse)
    with pytest.raises(SourceError, match="no memory of 1024 bytes can be had: Cannot allocate memory. Choose a smaller size="):
        open_source("pattern:solid?size=16x16&fourcc=XR24").close()


@pytest.mark.parametrize("said", [b"", b"OK 0123", b"x" * 2000], ids=["nothing", "half a line", "no end"])
def test_a_display_connection_that_is_broken_off(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(SourceError, match="QEMU hung up before the display connection was made"):
            _qemu_dbus.log_in(ours, time.monotonic() + 5)


def test_a_qemu_that_takes_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _qemu_dbus.Connection(ours)
        with pytest.raises(SourceError, match="QEMU does not take what is sent to it"):
            for _ in range(10_000):
                connection.send(bytes(1 << 16))


def test_a_qemu_that_hangs_up_at_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "qmp"))
        server.listen()
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        with pytest.raises(SourceError, match="QEMU hung up"):
            open_source(f"qemu:{tmp_path}/qmp")
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["awake", "asleep"])
def test_a_real_qemu_that_is_killed_while_its_frames_are_on_their_way(reader: Reader, listener: str) -> None:
    """Whoever listens sleeps while the guest changes its mode twice: the messages are in the socket when it is killed."""
    with qemu_guest.Guest(STAGES[:3]) as guest, open_source(f"qemu:{guest.qmp}") as source:
        assert isinstance(source, QemuSource)
        frames = source.frames(timeout=5)
        kept = next(frames)
        expected = reader.read(kept).tobytes()
        if listener == "asleep":
            os.kill(source._process.pid, signal.SIGSTOP)
        guest.press()
        guest.press()
        time.sleep(0.1)
        guest.kill()
        if listener == "asleep":
            assert reader.read(kept).tobytes() == expected
            os.kill(source._process.pid, signal.SIGCONT)
        with pytest.raises(SourceError, match="QEMU has ended") as caught:
            for kept in frames:
                assert reader.read(kept).tobytes()
        assert not isinstance(caught.value, SourceTimeout)
        assert reader.read(kept).tobytes()
    with qemu_guest.Guest(STAGES[:1]) as guest, open_source(f"qemu:{guest.qmp}") as source:
        guest.show(0)
        assert reader.read(next(source.frames(timeout=5))).tobytes()


# ---- fences


def test_a_fence_that_hangs_up_is_one_that_signalled(any_reader: Reader, picture: MakePicture) -> None:
    """A producer that dies closes its end: nothing to wait for any more. One that is no fence at all is not waited for."""
    made = picture("XR24", 16, 16)
    for make in KINDS.values():
        fds = make()
        try:
            for fd in fds[1:]:
                os.close(fd)
            with contextlib.suppress(GlReadbackError):
                found = any_reader.read(Frame(made.buf, acquire_fence=fds[0]), timeout=0.05)
                assert np.array_equal(pixels(found), made.rows())
        finally:
            os.close(fds[0])
    assert np.array_equal(pixels(any_reader.read(made.buf)), made.rows())


# ---- the GPU is reset. No GPU here: the entry point's answer is made up


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What glGetGraphicsResetStatus answers, one after the other; then that all is well."""
    answers: list[int] = []
    monkeypatch.setattr(egl_context, "_reset_status", lambda: answers.pop(0) if answers else 0)
    return answers


@pytest.fixture
def direct(leaks: Callable[[], None]) -> Iterator[Reader]:
    """As `reader`, which asks GL at the end whether all was well, where its context may be lost."""
    with Reader("software") as made:
        yield made


RESETS = {0x8253: "this read made it hang", 0x8254: "another program made it hang", 0x8255: "nobody knows why", 5: "0x5"}


def test_contexts_are_robust_and_asked(reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own entry point is there, is asked once a read, and says that all is well."""
    real, asked = egl_context._reset_status, []

    def noted() -> int:
        asked.append(real())
        return asked[-1]

    made = picture("XR24", 16, 16)
    out = reader.read(made.buf)
    monkeypatch.setattr(egl_context, "_reset_status", noted)
    for _ in range(3):
        reader.read(made.buf, out)
    assert asked == [0, 0, 0]
    assert importer_of(reader).context._robust  # type: ignore[union-attr]


@pytest.mark.parametrize("status", RESETS)
@pytest.mark.parametrize("options", [{}, {"route": "native"}, {"route": "draw"}], ids=str)
def test_a_reset_is_said_and_the_next_read_starts_anew(
    direct: Reader, picture: MakePicture, resets: list[int], options: dict[str, Any], status: int
) -> None:
    made = picture("XB24", 16, 16)
    expected = direct.read(made.buf, **options).tobytes()
    released: list[int] = []
    importer, held = importer_of(direct), Held.now()
    resets.append(status)
    with pytest.raises(DeviceError, match=f"the GPU of software was reset .{RESETS[status]}.: .*Read it again"):
        direct.read(Frame(made.buf, release=lambda: released.append(1)), **options)
    assert released == [1]
    for _ in range(3):
        assert direct.read(made.buf, **options).tobytes() == expected
    assert importer_of(direct) is not importer
    assert importer.context._handle is None  # type: ignore[union-attr]
    assert Held.now() == held


def test_a_reset_in_the_short_way(direct: Reader, picture: MakePicture, resets: list[int]) -> None:
    """The same picture into the same surface again: what the lost context remembered is not used."""
    made = picture("XR24", 16, 16)
    out = direct.read(made.buf)
    for _ in range(3):
        for _ in range(2):
            out.array()[...] = 0
            assert np.array_equal(pixels(direct.read(made.buf, out)), made.rows())
        resets.append(0x8254)
        with pytest.raises(DeviceError, match="was reset"):
            direct.read(made.buf, out)


def test_a_reset_while_planes_are_read_and_while_asked(direct: Reader, picture: MakePicture, resets: list[int]) -> None:
    made = picture("NV12", 16, 16)
    direct.read_planes(made.buf)
    resets.append(0x8254)
    with pytest.raises(DeviceError, match="was reset"):
        direct.read_planes(made.buf)
    for index, plane in enumerate(direct.read_planes(made.buf)):
        assert np.array_equal(plane.reshape(plane.shape[0], -1), made.rows(index))
    resets.append(0x8254)
    with pytest.raises(DeviceError, match="was reset"):
        direct.forget(made.buf)
    direct.forget(made.buf)


def test_a_reset_behind_a_failed_read(
    direct: Reader, picture: MakePicture, resets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GL_CONTEXT_LOST and its like are the reset's, not the buffer's fault; without a reset they are."""
    from glreadback.gl import pixels as gl_pixels

    made = picture("XR24", 16, 16)
    direct.read(made.buf)
    with monkeypatch.context() as patch:
        patch.setattr(gl_pixels, "_get_error", lambda: 0x0507)
        resets.append(0x8255)
        with pytest.raises(DeviceError, match="was reset"):
            direct.read(made.buf)
        with pytest.raises(GlReadbackError, match="GL_CONTEXT_LOST"):
            direct.read(made.buf)
    assert np.array_equal(pixels(direct.read(made.buf)), made.rows())


def test_a_context_that_was_put_to_sleep(direct: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power management takes contexts too: eglMakeCurrent then says EGL_CONTEXT_LOST."""
    made = picture("XR24", 16, 16)
    direct.read(made.buf)
    with monkeypatch.context() as patch:
        patch.setattr(egl_context, "_make_current", lambda *_: 0)
        patch.setattr(egl_context.egl, "eglGetError", lambda: 0x300E)
        with pytest.raises(DeviceError, match="was reset .it was put to sleep"):
            direct.read(made.buf)
    assert np.array_equal(pixels(direct.read(made.buf)), made.rows())


def test_closing_after_a_reset(leaks: Callable[[], None], picture: MakePicture, resets: list[int]) -> None:
    made = picture("XR24", 16, 16)
    before = Held.now()
    for options in ({}, {"route": "draw"}):
        with Reader("software") as reader:
            reader.read(made.buf)
            resets.append(0x8253)
            with pytest.raises(DeviceError):
                reader.read(made.buf, **options)
        assert Held.now() == before


def test_ctrl_c_is_not_hidden_by_a_reset(direct: Reader, picture: MakePicture, resets: list[int]) -> None:
    made = picture("XR24", 16, 16)
    importer = importer_of(direct)
    resets.append(0x8253)
    with pytest.raises(KeyboardInterrupt), importer.context:
        raise KeyboardInterrupt
    assert importer.lost
    assert np.array_equal(pixels(direct.read(made.buf)), made.rows())


def test_surfaces_outlive_a_reset(direct: Reader, picture: MakePicture, resets: list[int]) -> None:
    made = picture("XR24", 16, 16)
    kept = direct.read(made.buf)
    resets.append(0x8253)
    with pytest.raises(DeviceError):
        direct.read(made.buf)
    assert isinstance(kept, Surface)
    assert np.array_equal(pixels(kept), made.rows())


def test_a_reset_that_takes_its_time(
    direct: Reader, picture: MakePicture, resets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the device is back no context can be made, and each read says so; then it is read as before."""

    def refuse(*_: Any) -> Any:
        raise egl_context.egl.EGLError(err=0x3003)

    made = picture("XR24", 8, 8)
    direct.read(made.buf)
    resets.append(0x8254)
    with pytest.raises(DeviceError, match="was reset"):
        direct.read(made.buf)
    with monkeypatch.context() as patch:
        patch.setattr(egl_context.egl, "eglCreateContext", refuse)
        for _ in range(2):
            with pytest.raises(DeviceError, match="no GLES 3 context on software: EGL_BAD_ALLOC"):
                direct.read(made.buf)
    assert np.array_equal(pixels(direct.read(made.buf)), made.rows())


# ---- what only the short way could overlook


@pytest.mark.parametrize("options", [{"seals": 0}, {"mode": os.O_RDONLY}, {"tail": -4}], ids=str)
def test_a_buffer_of_the_same_shape_that_is_not_as_good(
    any_reader: Reader, picture: MakePicture, memfd: MemFd, options: dict[str, Any]
) -> None:
    """After a good buffer one that can shrink, is read-only, or is a pixel too short: it is looked at like the first."""
    good = picture("XR24", 32, 32)
    out = any_reader.read(good.buf)
    for _ in range(2):
        any_reader.read(good.buf, out)
    if "tail" in options:
        with pytest.raises(DescriptorError, match="ends at byte 4096, the file holds 4092"):
            any_reader.read(DmaBuf(32, 32, "XR24", [Plane(memfd(4092), 0, 128)]), out)
    else:
        other = picture("XR24", 32, 32, **options)
        for _ in range(2):
            any_reader.read(other.buf, out)
            assert np.array_equal(pixels(out), other.rows())
            assert out.route is not None
            assert "copied first" in out.route.reason
    any_reader.read(good.buf, out)
    assert np.array_equal(pixels(out), good.rows())


def test_a_driver_that_is_too_old_is_not_used(
    leaks: Callable[[], None], picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a Mesa reads wrong pixels where an offset is given."""
    from glreadback import importer

    monkeypatch.setattr(importer, "too_old", lambda version: "Mesa 24.0 is too old")
    with Reader("software") as reader, pytest.raises(DeviceError, match="Mesa 24.0 is too old"):
        reader.read(picture("XR24", 8, 8).buf)


def test_a_lost_context_is_not_entered(direct: Reader, picture: MakePicture) -> None:
    """Whoever still holds it is told why: GL calls in there would do nothing, and say so late or never."""
    made = picture("XR24", 16, 16)
    direct.read(made.buf)
    context = importer_of(direct).context
    with context:
        before = egl_context._current_context()
    context.lost = "nobody knows why"  # type: ignore[union-attr]
    with pytest.raises(DeviceError, match=r"was reset \(nobody knows why\)"), context:
        raise AssertionError("it is entered")
    assert egl_context._current_context() != before
    assert np.array_equal(pixels(direct.read(made.buf)), made.rows())


TARGETS_BEYOND_MEMORY = """
    import resource, sys
    from glreadback import DmaBuf, ImportRejected, Plane, Reader, Surface
    from glreadback.kernel.udmabuf import sealed_memfd

    buf = DmaBuf(64, 64, "XR24", [Plane(sealed_memfd(64 * 256), 0, 256)])
    with Reader("software") as reader:
        small = reader.read(buf, scale=(32, 32)).tobytes()
        out = Surface.allocate(9000, 4000, "XR24")
        used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()  # data, stack
        resource.setrlimit(resource.RLIMIT_DATA, (used + (20 << 20), resource.RLIM_INFINITY))
        for _ in range(3):
            try:
                reader.read(buf, out, scale=(9000, 4000))
            except ImportRejected as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
        assert reader.read(buf, scale=(32, 32)).tobytes() == small
"""


def test_a_target_that_memory_is_not_there_for(software: None) -> None:
    """The driver's GL_OUT_OF_MEMORY is an error of ours, and the next read has a target again."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TARGETS_BEYOND_MEMORY)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot read it: glTexStorage2D failed: GL_OUT_OF_MEMORY" in line for line in lines)
