"""unix: and send_frame: the line's strict grammar, descriptors and their end, producers that misbehave."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import errno
import json
import math
import os
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import no_descriptor_left

from glreadback import Color, DmaBuf, Frame, Plane, Reader, Rect
from glreadback.errors import DescriptorError, SinkError, SourceError, SourceSyntaxError
from glreadback.kernel import udmabuf
from glreadback.send import ReleaseTimeout, send_frame
from glreadback.sources import _lines, unix
from glreadback.sources.base import SourceTimeout
from glreadback.sources.unix import UnixSource
from glreadback.wire import frames as wire

SAID: dict[str, Any] = {
    "version": 1,
    "frame": 7,
    "width": 4,
    "height": 2,
    "fourcc": "XR24",
    "modifier": 0,
    "planes": [{"fd": 0, "offset": 0, "stride": 16}],
}


def line(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (SAID | changes).items() if value != "absent"}).encode()


@pytest.fixture
def pixels() -> Iterator[int]:
    """A memfd that holds 4x2 XR24 pixels: the bytes 0 to 31."""
    fd = udmabuf.sealed_memfd(32)
    os.pwrite(fd, bytes(range(32)), 0)
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """One that has read: a driver's own descriptors are open before anybody counts."""
    with Reader("software") as made:
        fd = udmabuf.sealed_memfd(32)
        made.read(picture(fd))
        os.close(fd)
        yield made


def picture(fd: int, **more: Any) -> Frame:
    return Frame(DmaBuf(4, 2, "XR24", [Plane(fd, 0, 16)]), **more)


# ---- the line


def test_a_line_says_all_that_a_frame_has() -> None:
    planes = [Plane(40, 0, 64), Plane(41, 4096, 64)]
    frame = Frame(
        DmaBuf(50, 30, "NV12", planes, 0),
        visible=Rect(2, 4, 40, 20),
        y_invert=True,
        transform="flipped-90",
        damage=(Rect(0, 0, 2**31 - 1, 5), Rect(-1, 2, 3, 4)),
        acquire_fence=42,
        color=Color(matrix="709", range="full"),
        palette=((0, 1, 2), (255, 254, 253)),
        time=12.25,
    )
    unsaid = {"buffer", "origin", "device", "release"}  # said by other words, or each end's own
    assert {field.name for field in dataclasses.fields(Frame)} == wire._OPTIONAL - {"modifier"} | unsaid
    text, fds = wire.format_header(3, frame)
    assert fds == [40, 41, 42]
    assert text.endswith(b"\n")
    header = wire.parse_header(text[:-1], 3)
    assert header.number == 3
    assert header.with_fds([40, 41, 42]) == frame
    # A descriptor used twice is sent once.
    assert wire.format_header(1, Frame(DmaBuf(50, 30, "NV12", [Plane(9, 0, 64), Plane(9, 4096, 64)])))[1] == [9]


def test_the_smallest_line_means_what_it_does_not_say() -> None:
    frame = wire.parse_header(line(modifier="absent"), 1).frame
    assert frame.buffer.modifier.is_invalid
    assert (frame.visible, frame.damage, frame.acquire_fence, frame.time) == (None, None, None, None)
    assert wire.parse_header(line(modifier="I915_X_TILED", fourcc=0x34325258), 1).frame.buffer.fourcc == "XR24"
    assert wire.parse_header(line(damage=[]), 1).frame.damage == ()


PLANE = SAID["planes"][0]


@pytest.mark.parametrize(
    ("text", "nfds", "says"),
    [
        (b"", 1, "no JSON"),
        (b"[]", 1, "is a list; it must be a JSON object"),
        (b"7", 1, "is a number"),
        (b"null", 1, "is null"),
        (b"\xff", 1, "no JSON"),
        (line()[:-1], 1, "no JSON"),
        (b"[" * 60000, 1, "no JSON"),
        (line()[:-1] + b',"width":4}', 1, "a name is given twice"),
        (line(planes=[])[:-1] + b',"x":{"a":1,"a":2}}', 1, "a name is given twice"),
        (line(version=2), 1, "version 2; this glreadback knows 1"),
        (line(version=True), 1, "version is a truth value"),
        (line(version="absent", width="absent"), 1, "lacks version, width"),
        (line(colour={}), 1, "'colour', which version 1 has not"),
        (line(width=True), 1, "width is a truth value; it must be a whole number"),
        (line(width=4.0), 1, "width is a fraction"),
        (line(width="4"), 1, "width is a word"),
        (line(width=0), 1, "the width is 0"),
        (line(width=2**31), 1, "width is 2147483648; it must be between"),
        (line(width=-1), 1, "must be between 0"),
        (line(frame=2**63), 1, "frame is 9223372036854775808"),
        (line().replace(b'"frame": 7', b'"frame": ' + b"9" * 5000), 1, "more than 20 digits"),
        (line().replace(b'"width": 4', b'"width": NaN'), 1, "NaN is no JSON"),
        (line(time=1).replace(b'"time": 1', b'"time": -Infinity'), 1, "-Infinity is no JSON"),
        (line(time=1).replace(b'"time": 1', b'"time": 1e999'), 1, "a number is too large"),
        (line(time=True), 1, "time is a truth value"),
        (line(time="now"), 1, "time is a word"),
        (line(fourcc="toolong"), 1, "no pixel format"),
        (line(fourcc=None), 1, "fourcc is null"),
        (line(fourcc=2**64), 1, "fourcc is 18446744073709551616"),
        (line(modifier="NOSUCH"), 1, "NOSUCH"),
        (line(modifier=2**64), 1, "modifier is"),
        (line(modifier=-1), 1, "modifier is -1"),
        (line(planes={}), 1, "planes is an object; it must be a list"),
        (line(planes=[]), 0, "0 planes given"),
        (line(planes=[PLANE] * 5), 1, "planes has 5 entries; at most 4"),
        (line(planes=[7]), 1, "a plane is a number"),
        (line(planes=[{"fd": 0, "offset": 0}]), 1, "a plane lacks stride"),
        (line(planes=[PLANE | {"modifier": 0}]), 1, "a plane has 'modifier'"),
        (line(planes=[PLANE | {"fd": 1}]), 1, "a plane's fd is 1, but 1 descriptors came"),
        (line(planes=[PLANE | {"fd": -1}]), 1, "a plane's fd is -1"),
        (line(planes=[PLANE | {"fd": False}]), 1, "a plane's fd is a truth value"),
        (line(planes=[PLANE | {"stride": 15}]), 1, "a row needs 16"),
        (line(planes=[PLANE | {"offset": 2**40}]), 1, "a plane's offset is 1099511627776"),
        (line(), 0, "but 0 descriptors came"),
        (line(), 2, "2 descriptors came with the frame's line, which speaks of 1"),
        (line(visible=[0, 0, 5, 2]), 1, "the visible rectangle"),
        (line(visible=[0, 0, 4]), 1, "visible has 3 numbers"),
        (line(visible=[0, 0, 4, None]), 1, "visible is null"),
        (line(y_invert=1), 1, "y_invert is a number; it must be true or false"),
        (line(transform="upside"), 1, "transform is 'upside'"),
        (line(transform=90), 1, "transform is a number"),
        (line(damage=[[0, 0, 1, 1]] * 1025), 1, "damage has 1025 entries"),
        (line(damage=[0, 0, 1, 1]), 1, "damage is a number; it must be a list"),
        (line(acquire_fence=1), 1, "acquire_fence is 1, but 1 descriptors came"),
        (line(color={"matrix": "9"}), 1, "matrix is '9'"),
        (line(color={"hue": "9"}), 1, "color has 'hue'"),
        (line(color="709"), 1, "color is a word"),
        (line(palette=[[0, 0]]), 1, "must have three numbers"),
        (line(palette=[[0, 0, 256]]), 1, "a colour of the palette is 256"),
        (line(palette=[[0, 0, 0]] * 257), 1, "palette has 257 entries"),
        (line(palette=7), 1, "palette is a number"),
        (line(transform="x" * 70000), 1, "at most 65536 are allowed"),
    ],
)
def test_a_line_that_is_wrong_is_refused_in_one_line(text: bytes, nfds: int, says: str) -> None:
    with pytest.raises(SourceError) as error:
        wire.parse_header(text, nfds)
    assert says in str(error.value)
    assert str(error.value).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from([*SAID, *wire._OPTIONAL]), json_values), st.integers(0, 5))
def test_any_line_is_a_frame_or_a_source_error(found: bytes | dict[str, Any], nfds: int) -> None:
    text = found if isinstance(found, bytes) else json.dumps(SAID | found).encode()
    try:
        header = wire.parse_header(text, nfds)
    except SourceError as error:
        said = str(error)
    else:
        said = ""
        assert wire.parse_header(wire.format_header(header.number, header.frame)[0], nfds).frame == header.frame
    assert said.isprintable()


def test_a_release_is_one_number() -> None:
    assert wire.parse_release(wire.format_release(7)[:-1]) == 7
    for text in (b"", b"{}", b'{"release": true}', b'{"release": 1, "more": 2}', b"7"):
        with pytest.raises(SourceError):
            wire.parse_release(text)


# ---- a source and its producer


class Producer:
    """Somebody at the other end of a listening source, who can say anything."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.fspath(path))

    def say(self, text: bytes, fds: list[int] | None = None) -> None:
        self.sock.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])

    def hears(self) -> bytes:
        self.sock.settimeout(2)
        return self.sock.recv(4096)

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[UnixSource, Producer]]:
    with no_descriptor_left():
        path = tmp_path / "frames"
        with UnixSource(os.fspath(path), listen=True) as source, contextlib.closing(Producer(path)) as producer:
            yield source, producer


Pair = tuple[UnixSource, Producer]


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_send_frame_comes_back_when_the_frame_has_been_read(tmp_path: Path, pixels: int, reader: Reader) -> None:
    path = tmp_path / "frames"
    released = []
    with no_descriptor_left(), UnixSource(os.fspath(path), listen=True) as source, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(path))
        frame = picture(pixels, damage=(Rect(1, 1, 1, 1),), time=1.5, release=lambda: released.append(1))
        producer = in_thread(lambda: send_frame(sock, frame))
        found = next(source.frames(timeout=5))
        assert (found.damage, found.time, found.origin) == (frame.damage, 1.5, f"unix:{path}")
        time.sleep(0.05)
        assert producer.is_alive()
        assert not released
        assert reader.read(found).tobytes() == bytes(range(32))
        reader.forget(found)
        producer.join(2)
        assert not producer.is_alive()
        assert released == [1]


def test_a_source_connects_to_a_producer_that_listens(tmp_path: Path, pixels: int) -> None:
    path = os.fspath(tmp_path / "compositor")
    with no_descriptor_left(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with UnixSource(path) as source:
            sock, _ = listener.accept()
            with sock:
                sent = [send_frame(sock, picture(pixels, time=float(n)), wait=False) for n in range(3)]
                # Each frame is released when the next one is asked for, read or not.
                for n, frame in zip(range(3), source.frames(timeout=2), strict=False):
                    assert frame.time == n
                    assert [handle.released for handle in sent] == [n > 0, n > 1, False]
                    assert os.pread(frame.buffer.planes[0].fd, 32, 0) == bytes(range(32))
                source.close()
                sent[2].wait(1)
        assert os.path.exists(path)  # the producer's, not ours


def test_a_frame_is_released_once_and_its_descriptors_close_with_the_next(listening: Pair, pixels: int) -> None:
    source, producer = listening
    producer.say(line() + b"\n", [pixels])
    producer.say(line(frame=8) + b"\n", [pixels])
    frames = source.frames(timeout=2)
    first = next(frames)
    assert first.release is not None
    first.release()
    first.release()
    assert producer.hears() == b'{"release": 7}\n'
    taken = len(os.listdir("/proc/self/fd"))
    second = next(frames)
    assert len(os.listdir("/proc/self/fd")) == taken
    first.release()  # late: about a frame that is gone
    producer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        producer.sock.recv(1)
    source.close()
    assert producer.hears() == b'{"release": 8}\n'
    with pytest.raises(OSError):
        os.fstat(second.buffer.planes[0].fd)
    with pytest.raises(ValueError, match="closed"):
        next(source.frames())


def test_descriptors_stay_with_their_own_line(listening: Pair, pixels: int) -> None:
    source, producer = listening
    other = udmabuf.sealed_memfd(32)
    try:
        # The end of a line without descriptors and the next line with them lie in the socket as one.
        producer.say(line(frame=1)[:40], [pixels])
        producer.say(line(frame=1)[40:] + b"\n")
        producer.say(line(frame=2) + b"\n", [other])
        frames = source.frames(timeout=2)
        for fd in (pixels, other):
            assert os.path.sameopenfile(next(frames).buffer.planes[0].fd, fd)
    finally:
        os.close(other)


def test_received_descriptors_are_not_inherited(listening: Pair, pixels: int) -> None:
    source, producer = listening
    producer.say(line() + b"\n", [pixels])
    assert not os.get_inheritable(next(source.frames(timeout=2)).buffer.planes[0].fd)


def test_silence_is_a_time_out_and_the_next_frame_still_comes(listening: Pair, pixels: int) -> None:
    source, producer = listening
    start = time.monotonic()
    with pytest.raises(SourceTimeout, match=r"no frame came within 0\.1 s"):
        next(source.frames(timeout=0.1))
    assert 0.09 < time.monotonic() - start < 1
    producer.say(line()[:30], [pixels])
    with pytest.raises(SourceTimeout, match=r"half a frame's line came within 0\.1 s"):
        next(source.frames(timeout=0.1))
    producer.say(line()[30:] + b"\n")
    assert next(source.frames(timeout=1)).buffer.width == 4


def test_half_a_line_ends_also_for_who_waits_for_ever(listening: Pair, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    source, producer = listening
    monkeypatch.setattr(unix, "LINE_TIMEOUT", 0.1)
    producer.say(line()[:30], [pixels])
    raised: list[SourceError] = []

    def wait_for_ever() -> None:
        try:
            next(source.frames())
        except SourceError as error:
            raised.append(error)

    in_thread(wait_for_ever).join(2)
    assert [type(error) for error in raised] == [SourceTimeout]
    assert "half a frame's line came" in str(raised[0])


def test_a_slow_line_is_put_together(listening: Pair, pixels: int) -> None:
    source, producer = listening

    def drip() -> None:
        text = line() + b"\n"
        producer.say(text[:1], [pixels])
        for index in range(1, len(text), 7):
            time.sleep(0.002)
            producer.say(text[index : index + 7])

    in_thread(drip)
    assert next(source.frames(timeout=2)).buffer.height == 2


def test_a_producer_that_hangs_up_between_frames_ends_the_sequence(listening: Pair, pixels: int, tmp_path: Path) -> None:
    source, producer = listening
    producer.say(line() + b"\n", [pixels])
    frames = source.frames(timeout=2)
    next(frames)
    producer.close()
    assert list(frames) == []
    # The next producer is as welcome as the first.
    with contextlib.closing(Producer(tmp_path / "frames")) as again:
        again.say(line(width=3) + b"\n", [pixels])
        assert next(source.frames(timeout=2)).buffer.width == 3


def test_who_connects_and_says_nothing_is_no_producer(listening: Pair, pixels: int, tmp_path: Path) -> None:
    source, silent = listening
    silent.close()  # as somebody does who wants to know whether the socket is alive
    with contextlib.closing(Producer(tmp_path / "frames")) as producer:
        producer.say(line() + b"\n", [pixels])
        assert next(source.frames(timeout=2)).buffer.width == 4


def test_a_producer_that_leaves_without_its_release_ends_the_sequence(listening: Pair, pixels: int) -> None:
    source, producer = listening
    producer.say(line() + b"\n", [pixels])
    frames = source.frames(timeout=2)
    frame = next(frames)
    assert frame.release is not None
    frame.release()
    producer.close()  # with our release unread: the kernel calls that a reset
    assert list(frames) == []


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (lambda p, fd: p.say(line()[:30], [fd]), "the producer hung up 30 bytes into a line"),
        (lambda p, fd: p.say(b"{}\n", [fd]), "lacks fourcc"),
        (lambda p, fd: p.say(line() + b"\n"), "0 descriptors came"),
        (lambda p, fd: p.say(line() + b"\n", [fd] * 5), "5 descriptors came"),
        (lambda p, fd: p.say(line() + b"\n", [fd] * 7), "more than 5 descriptors"),
        (lambda p, fd: p.say(line() + b"\n", [fd] * 253), "more than 5 descriptors"),
        (lambda p, fd: [p.say(line()[:30], [fd] * 3), p.say(line()[30:] + b"\n", [fd] * 3)], "more than 5 descriptors"),
    ],
)
def test_nonsense_ends_the_connection_and_leaves_no_descriptor(
    listening: Pair, pixels: int, sent: Any, says: str, tmp_path: Path
) -> None:
    source, producer = listening
    sent(producer, pixels)
    producer.sock.shutdown(socket.SHUT_WR)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceError, match=says) as error:
        next(source.frames(timeout=2))
    assert not isinstance(error.value, SourceTimeout)
    assert len(os.listdir("/proc/self/fd")) == before
    with contextlib.closing(Producer(tmp_path / "frames")) as again:
        again.say(line() + b"\n", [pixels])
        assert next(source.frames(timeout=2)).buffer.width == 4


def test_ten_thousand_descriptors_leave_none(listening: Pair, pixels: int) -> None:
    source, producer = listening

    def flood() -> None:
        with contextlib.suppress(OSError):
            for _ in range(40):
                producer.say(b"x", [pixels] * 250)

    in_thread(flood)
    with pytest.raises(SourceError, match="more than 5 descriptors"):
        next(source.frames(timeout=2))


def test_a_line_of_a_gigabyte_is_cut_off_at_the_limit(listening: Pair, pixels: int) -> None:
    source, producer = listening
    sent = 0

    def flood() -> None:
        nonlocal sent
        chunk = b" " * (1 << 16)
        with contextlib.suppress(OSError):
            producer.say(b"{", [pixels])
            while sent < 1 << 30:
                sent += producer.sock.send(chunk)

    thread = in_thread(flood)
    with pytest.raises(SourceError, match="a line of more than 65536 bytes"):
        next(source.frames(timeout=5))
    thread.join(2)
    assert not thread.is_alive()
    assert sent < 1 << 21  # what a socket holds, no more


def test_a_picture_larger_than_its_descriptor_is_for_the_reader_to_refuse(reader: Reader, listening: Pair, pixels: int) -> None:
    source, producer = listening
    producer.say(line(height=4000) + b"\n", [pixels])
    producer.say(line(frame=8) + b"\n", [pixels])
    frames = source.frames(timeout=2)
    with pytest.raises(DescriptorError, match="too small for its description"):
        reader.read(next(frames))
    frame = next(frames)
    assert reader.read(frame).tobytes() == bytes(range(32))
    reader.forget(frame)


# ---- the listening socket


def test_a_listening_socket_is_the_users_own_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "frames"
    seen = []
    bind = socket.socket.bind

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            bind(self, address)
            seen.append(stat.S_IMODE(path.stat().st_mode))

    old = os.umask(0)
    try:
        monkeypatch.setattr(unix.socket, "socket", Watched)
        with UnixSource(os.fspath(path), listen=True) as source:
            assert seen == [0o600]
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert source.describe()["role"] == "listening"
        assert not path.exists()
        os.umask(0o077)
        with UnixSource(os.fspath(path), listen=True, any_user=True):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
    finally:
        os.umask(old)


def test_other_users_are_refused_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    path = os.fspath(tmp_path / "frames")
    monkeypatch.setattr(unix, "peer", lambda sock: (1, os.geteuid() + 1, 1))
    with no_descriptor_left():
        with UnixSource(path, listen=True) as source, contextlib.closing(Producer(tmp_path / "frames")) as producer:
            producer.say(line() + b"\n", [pixels])
            with pytest.raises(SourceTimeout, match=r"1 of others were refused; any_user=1 lets them\) connected"):
                next(source.frames(timeout=0.1))
            producer.sock.settimeout(1)
            with contextlib.suppress(ConnectionResetError):
                assert producer.sock.recv(1) == b""
        with (
            UnixSource(path, listen=True, any_user=True) as source,
            contextlib.closing(Producer(tmp_path / "frames")) as producer,
        ):
            producer.say(line() + b"\n", [pixels])
            assert next(source.frames(timeout=1)).buffer.width == 4


def test_the_kernel_says_who_connected(listening: Pair, pixels: int) -> None:
    source, producer = listening
    producer.say(line() + b"\n", [pixels])
    next(source.frames(timeout=2))
    assert source.describe()["producer"] == {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("any_user", [False, True])
def test_a_real_other_user(tmp_path: Path, any_user: bool) -> None:
    path = tmp_path / "frames"
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        if folder.stat().st_mode & 1 == 0:
            os.chmod(folder, folder.stat().st_mode | 0o011)
    with UnixSource(os.fspath(path), listen=True, any_user=any_user):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as sock:
                    code = sock.connect_ex(os.fspath(path))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if any_user else errno.EACCES)


# ---- the socket that we connect to


@contextlib.contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        os.chmod(path, 0o666)
        listener.listen()
        yield listener


@pytest.mark.parametrize(
    ("user", "any_user", "taken"), [(0, False, True), (1, False, False), (1, True, True)], ids=["root", "another", "told to"]
)
def test_another_users_socket_is_refused_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, any_user: bool, taken: bool
) -> None:
    monkeypatch.setattr(unix, "peer", lambda sock: (77, user and os.geteuid() + user, 0))
    with no_descriptor_left(), listening_at(tmp_path / "frames"):
        if taken:
            with UnixSource(os.fspath(tmp_path / "frames"), any_user=any_user) as source:
                assert source.describe()["users"] == ("any" if any_user else "this one and root")
        else:
            with pytest.raises(
                SourceError, match=r"frames' is another user's: process 77 of user \d+ listens on it.*any_user=1"
            ):
                UnixSource(os.fspath(tmp_path / "frames"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_socket_that_really_is_another_users(pixels: int) -> None:
    """In /tmp, where anybody may put one: a process of another user listens, hands over a frame, and is refused or taken."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chmod(folder, 0o1777)
    path = folder / "frames"
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with listening_at(path) as listener:
                os.write(begun, b"!")
                for _ in range(2):
                    sock, _ = listener.accept()
                    with contextlib.suppress(SinkError):  # the first is hung up on
                        send_frame(sock, picture(pixels), wait=False)
                os.read(ready, 1)
        finally:
            os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(SourceError, match=rf"process {child} of user 65534 listens on it, and this is user 0\."):
            UnixSource(os.fspath(path))
        with UnixSource(os.fspath(path), any_user=True) as source:
            assert next(source.frames(timeout=5)).buffer.width == 4
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(begun)
        path.unlink()
        folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_roots_socket_is_fine_for_another_user() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chmod(folder, 0o755)
    try:
        with listening_at(folder / "frames"):
            child = os.fork()
            if child == 0:
                code = 9
                try:
                    os.setgid(65534)
                    os.setuid(65534)
                    UnixSource(os.fspath(folder / "frames")).close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        (folder / "frames").unlink()
        folder.rmdir()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "frames")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    with no_descriptor_left():
        with UnixSource(path, listen=True):
            with pytest.raises(SourceError, match="somebody listens on"):
                UnixSource(path, listen=True)
            assert os.path.exists(path)
            # Also one whose queue is full.
            with contextlib.ExitStack() as waiting:
                found = 0
                while found != errno.EAGAIN:
                    sock = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    sock.setblocking(False)
                    found = sock.connect_ex(path)
                with pytest.raises(SourceError, match="somebody listens"):
                    UnixSource(path, listen=True)
        assert not os.path.exists(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_text("precious")
    with no_descriptor_left(), pytest.raises(SourceError, match="is no socket"):
        UnixSource(os.fspath(path), listen=True)
    assert path.read_text() == "precious"
    with no_descriptor_left(), pytest.raises(SourceError, match="cannot connect"):
        UnixSource(os.fspath(path))


def test_close_removes_only_its_own_socket(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    with UnixSource(os.fspath(path), listen=True):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("path", "options", "error", "says"),
    [
        ("", {}, SourceSyntaxError, "needs the path of a socket"),
        ("nothing", {}, SourceError, r"No such file.*listen=1"),
        ("no/folder", {"listen": True}, SourceError, "cannot listen on"),
        ("x" * 200, {"listen": True}, SourceError, "path too long"),
        ("x" * 200, {}, SourceError, "path too long"),
    ],
)
def test_what_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, options: dict[str, bool], error: type[Exception], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with no_descriptor_left(), pytest.raises(error, match=says):
        UnixSource(path, **options)


@pytest.mark.parametrize("listen", [False, True])
def test_a_forgotten_source_warns_and_closes(tmp_path: Path, listen: bool) -> None:
    path = os.fspath(tmp_path / "frames")
    with socket.socket(socket.AF_UNIX) as sock, no_descriptor_left():
        if not listen:
            sock.bind(path)
            sock.listen()
        source = UnixSource(path, listen=listen)
        with pytest.warns(ResourceWarning, match="unclosed source"):
            del source


def test_nobody_connects(tmp_path: Path) -> None:
    with (
        UnixSource(os.fspath(tmp_path / "frames"), listen=True) as source,
        pytest.raises(SourceTimeout, match="no producer connected to"),
    ):
        next(source.frames(timeout=0.05))


# ---- the producer's end


def test_a_reader_that_does_not_answer_is_a_time_out(pixels: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, no_descriptor_left():
        start = time.monotonic()
        with pytest.raises(ReleaseTimeout, match=r"did not release frame \d+ within 0\.1 s") as error:
            send_frame(ours, picture(pixels), timeout=0.1)
        assert isinstance(error.value, TimeoutError)
        assert isinstance(error.value, SinkError)
        assert time.monotonic() - start < 1


def test_a_reader_that_takes_nothing_is_a_time_out(pixels: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b" " * 4096, socket.MSG_DONTWAIT)
        with pytest.raises(ReleaseTimeout, match="its socket is full"):
            send_frame(ours, picture(pixels), timeout=0.1)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "hung up before it released"),
        (b"nonsense\n", "no JSON"),
        (b'{"release": 1.5}\n', "release is a fraction"),
        (b" " * 70000, "more than 65536 bytes"),
    ],
)
def test_a_reader_that_breaks_off_frees_the_frame(pixels: int, answer: bytes, says: str) -> None:
    ours, theirs = socket.socketpair()
    released: list[int] = []
    with ours, theirs:
        sent = send_frame(ours, picture(pixels, release=lambda: released.append(1)), wait=False)
        answers = in_thread(lambda: [theirs.sendall(answer), theirs.shutdown(socket.SHUT_WR)])
        with pytest.raises(SinkError, match=says):
            sent.wait(2)
        answers.join()
        assert released == [1]
        assert sent.released
        theirs.close()
        with pytest.raises(SinkError):
            send_frame(ours, picture(pixels))


def test_releases_may_come_in_any_order(pixels: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)  # a compositor's sockets are
        one, two = (send_frame(ours, picture(pixels), wait=False) for _ in range(2))
        lines = _lines.Lines(theirs)
        numbers = []
        for _ in range(2):
            text, fds = lines.receive(time.monotonic() + 1)
            numbers.append(json.loads(text)["frame"])
            _lines.close_fds(fds)
        theirs.send(wire.format_release(numbers[1])[:5])
        assert not two.released
        theirs.send(wire.format_release(numbers[1])[5:])
        two.wait(1)
        assert not one.released
        theirs.send(wire.format_release(numbers[0]))
        one.wait(1)


def test_a_frame_that_no_line_can_hold() -> None:
    planes = [Plane(fd, 0, 64) for fd in range(4)]
    text, fds = wire.format_header(1, Frame(DmaBuf(4, 4, "XR24", planes, "I915_Y_TILED"), acquire_fence=9))
    assert fds == [0, 1, 2, 3, 9]
    assert len(fds) == wire.MAX_FDS
    damage = (Rect(0, 0, 1, 1),) * 2000
    assert b"damage" not in wire.format_header(1, Frame(DmaBuf(4, 4, "XR24", planes[:1]), damage=damage))[0]
    with pytest.raises(ValueError):
        wire.format_header(1, Frame(DmaBuf(4, 4, "XR24", planes[:1]), time=math.inf))
    assert text.count(b"\n") == 1
