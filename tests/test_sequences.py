"""Sequences: `--changed`, numbered files, the progress bar, Ctrl-C; producers that are killed, fall silent or change size."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qemu_guest
from pictures import MemFd, write_all
from test_cli import COMMAND, assert_one_message, environment

from glreadback import Color, DmaBuf, Frame, Plane, Reader, Rect, Surface, cli
from glreadback.cli._changes import Changes
from glreadback.send import send_frame

Array = np.ndarray[Any, Any]
Captured = pytest.CaptureFixture[str]

WIDTH, HEIGHT = 32, 20


# ---- which frames show something new


class Screen:
    """A picture that a test draws on, and frames of it; counts what is read of them, in pixels."""

    def __init__(self, memfd: MemFd, reader: Reader, fourcc: str = "XR24") -> None:
        self.fd, self.reader, self.fourcc = memfd(WIDTH * HEIGHT * 4), reader, fourcc
        self.pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self.reads: list[int] = []

    def draw(self, x: int, y: int, w: int, h: int, seed: int) -> None:
        self.pixels[y : y + h, x : x + w] = np.random.default_rng(seed).integers(0, 256, (h, w, 4), np.uint8)
        write_all(self.fd, self.pixels)

    def frame(self, damage: Iterable[tuple[int, int, int, int]] | None = None, **more: Any) -> Frame:
        buffer = DmaBuf(more.pop("width", WIDTH), HEIGHT, more.pop("fourcc", self.fourcc), [Plane(self.fd, 0, WIDTH * 4)])
        return Frame(buffer, damage=None if damage is None else tuple(Rect(*rect) for rect in damage), **more)

    def read(self, frame: Frame, out: Surface | None, damage: Iterable[Rect] | None) -> Surface:
        self.reads.append(WIDTH * HEIGHT if damage is None else sum(rect.width * rect.height for rect in damage))
        return self.reader.read(frame, out, damage=damage)


@pytest.fixture
def screen(memfd: MemFd, reader: Reader) -> Screen:
    return Screen(memfd, reader)


def shown(surface: Surface | None) -> Array:
    assert surface is not None
    return np.asarray(surface)


def test_a_picture_that_stays_is_not_given_twice(screen: Screen) -> None:
    changes = Changes(screen.read, True)
    screen.draw(0, 0, WIDTH, HEIGHT, 1)
    assert np.array_equal(shown(changes.look(screen.frame())), screen.pixels)
    assert changes.look(screen.frame()) is None
    screen.draw(31, 19, 1, 1, 2)  # the last pixel
    assert np.array_equal(shown(changes.look(screen.frame())), screen.pixels)
    assert changes.look(screen.frame()) is None
    screen.draw(0, 0, WIDTH, HEIGHT, 1)
    assert np.array_equal(shown(changes.look(screen.frame())), screen.pixels), "one of before is new again"


def test_the_first_frame_is_always_given(screen: Screen) -> None:
    assert Changes(screen.read, True).look(screen.frame([])) is not None


def test_padding_is_no_change(screen: Screen, memfd: MemFd, reader: Reader) -> None:
    changes = Changes(screen.read, True)
    assert changes.look(screen.frame()) is not None
    screen.pixels[5, 7, 3] ^= 0x80  # the X of XR24
    write_all(screen.fd, screen.pixels)
    assert changes.look(screen.frame()) is None
    deep = Screen(memfd, reader, "AR24")
    changes = Changes(deep.read, True)
    assert changes.look(deep.frame()) is not None
    deep.pixels[5, 7, 3] ^= 0x80
    write_all(deep.fd, deep.pixels)
    assert changes.look(deep.frame()) is not None


def test_another_size_or_format_is_another_picture(screen: Screen) -> None:
    changes = Changes(screen.read, True)  # all black, so only these differ
    sizes = []
    for more in ({}, {"width": 16}, {"width": 16, "fourcc": "XB24"}, {}):
        for damage, new in ((None, True), (None, False), ([], False)):
            surface = changes.look(screen.frame(damage, **more))
            assert (surface is not None) is new
            if surface is not None:
                sizes.append((surface.width, str(surface.fourcc)))
    assert sizes == [(32, "XR24"), (16, "XR24"), (16, "XB24"), (32, "XR24")]
    assert changes.look(screen.frame([], width=16)) is not None, "whatever its damage says"


def test_empty_damage_is_believed_and_nothing_is_read(screen: Screen) -> None:
    changes = Changes(screen.read, True)
    changes.look(screen.frame())
    screen.draw(0, 0, WIDTH, HEIGHT, 1)
    assert changes.look(screen.frame([])) is None
    assert len(screen.reads) == 1


def test_damage_without_a_difference_is_no_change(screen: Screen) -> None:
    changes = Changes(screen.read, True)
    changes.look(screen.frame())
    assert [changes.look(screen.frame([(3, 4, 5, 6)])) for _ in range(3)] == [None] * 3
    assert screen.reads == [640, 640, 30, 30], "the second surface is filled once"


def test_only_damage_is_read_and_the_picture_is_whole(screen: Screen) -> None:
    changes = Changes(screen.read, True)
    screen.draw(0, 0, WIDTH, HEIGHT, 0)
    changes.look(screen.frame())
    random = np.random.default_rng(7)
    for seed in range(1, 120):
        x, y = int(random.integers(0, WIDTH - 4)), int(random.integers(0, HEIGHT - 4))
        damage: list[tuple[int, int, int, int]] | None = [(x, y, 4, 4)]
        kind = seed % 7
        if kind == 3:
            damage = None  # the producer does not know
        elif kind == 5:
            damage = []
        else:
            screen.draw(x, y, 4, 4, seed if kind != 6 else seed - 1)
        surface = changes.look(screen.frame(damage))
        if kind in (3, 5):
            assert surface is None
        else:
            assert np.array_equal(shown(surface), screen.pixels), seed
    wholes = screen.reads.count(WIDTH * HEIGHT)
    assert wholes <= 2 + 120 // 7 + 1
    assert max(count for count in screen.reads if count < WIDTH * HEIGHT) <= 32, "this damage and the last"


@pytest.mark.parametrize("why", ["partly", "transform", "route"])
def test_damage_is_not_relied_on_where_pixels_beside_it_may_change(why: str, screen: Screen) -> None:
    more: dict[str, Any] = {}
    if why == "transform":
        more["transform"] = "90"
    if why == "route":
        more |= {"fourcc": "YUYV", "color": Color(matrix="709")}
    changes = Changes(screen.read, why != "partly")
    for seed in range(4):
        screen.draw(0, 0, 4, 4, seed)
        assert changes.look(screen.frame([(0, 0, 4, 4)], **more)) is not None
    assert set(screen.reads) == {WIDTH * HEIGHT}


def test_looks_at_what_stays_take_no_memory(screen: Screen) -> None:
    surfaces = set()

    def read(frame: Frame, out: Surface | None, damage: Iterable[Rect] | None) -> Surface:
        surface = screen.read(frame, out, damage)
        surfaces.add(surface.address)
        return surface

    changes = Changes(read, True)
    for seed in range(10):
        screen.draw(0, 0, 2, 2, seed // 3)
        changes.look(screen.frame())
    assert len(surfaces) == 2


# ---- the command, with a producer at a socket


class Command:
    """A `glreadback snapshot …` that runs. Its files are in folder."""

    def __init__(self, folder: Path, *arguments: str, stderr: int = subprocess.PIPE) -> None:
        self.folder = folder
        command = [*COMMAND, "snapshot", *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )

    def ended(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err or ""

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while name not in os.listdir(self.folder):
            assert self.process.poll() is None, self.ended()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def command(folder: Path, *arguments: str, **options: Any) -> Iterator[Command]:
    with contextlib.closing(Command(folder, *arguments, **options)) as made:
        yield made


def connected(path: Path) -> socket.socket:
    """A connection to the command, once it listens."""
    sock = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 30
    while sock.connect_ex(os.fspath(path)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return sock


def solid(fd: int, level: int, width: int = 8, height: int = 4) -> Frame:
    """A picture of one colour in that memory."""
    write_all(fd, bytes([level]) * (width * height * 4))
    return Frame(DmaBuf(width, height, "XR24", [Plane(fd, 0, width * 4)]))


def levels(folder: Path) -> list[tuple[int, int]]:
    """Of each picture (.raw, XR24 of one colour), in order: how many pixels, and the colour."""
    found = []
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".raw")):
        content = (folder / name).read_bytes()
        assert set(content) == {content[0]}
        found.append((len(content) // 4, content[0]))
    return found


UNIX = ("unix:frames?listen=1", "-o", "shot.raw", "--interval", "0")


@pytest.mark.slow
def test_changed_pictures_of_a_sequence(tmp_path: Path, memfd: MemFd) -> None:
    fd = memfd(4096)
    with command(tmp_path, *UNIX, "--changed", "--count", "4", "--json") as running, connected(tmp_path / "frames") as sock:
        for level, width in ((1, 8), (1, 8), (1, 8), (2, 8), (2, 8), (2, 4), (1, 4)):
            send_frame(sock, solid(fd, level, width))
        code, out, err = running.ended()
    assert (code, err) == (0, "")
    assert levels(tmp_path) == [(32, 1), (32, 2), (16, 2), (16, 1)]
    said = [json.loads(line) for line in out.splitlines()]
    assert [one["path"] for one in said] == [f"shot-{number:04}.raw" for number in range(1, 5)]


@pytest.mark.slow
def test_the_time_out_is_for_the_next_change_however_many_frames_come(tmp_path: Path, memfd: MemFd) -> None:
    fd = memfd(4096)
    options = ("--changed", "--count", "3", "--timeout", "1.0")
    with command(tmp_path, *UNIX, *options) as running, connected(tmp_path / "frames") as sock:
        frame = solid(fd, 1)
        send_frame(sock, frame)
        start = time.monotonic()
        with contextlib.suppress(Exception):  # it hangs up in the middle of one
            while time.monotonic() - start < 20:
                send_frame(sock, frame, timeout=5)
                time.sleep(0.01)
        took = time.monotonic() - start
        code, _, err = running.ended()
    assert code == 3
    assert_one_message(err)
    assert err == "glreadback: unix:frames?listen=1 did not change within 1 s; 1 of 3 pictures were written\n"
    assert 0.8 < took < 10
    assert levels(tmp_path) == [(32, 1)]


@pytest.mark.slow
def test_a_picture_that_never_changes_is_a_time_out(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    arguments = ["snapshot", "pattern:?size=8x8", "--changed", "--count", "2", "--timeout", "0.4", "-o", "shot.ppm"]
    assert cli.main(arguments) == 3
    assert 0.4 <= time.monotonic() - start < 5
    assert "pattern:?size=8x8 did not change within 0.4 s; 1 of 2 pictures were written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["shot-0001.ppm"]


def test_changed_alone_says_what_it_is_for(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["snapshot", "pattern:?size=8x8", "--changed", "-o", str(tmp_path / "shot.ppm")]) == 0
    assert "give --count N" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["shot.ppm"]


@pytest.mark.parametrize("more", [["--isolate"], ["--route", "map"], ["--verify"], ["--rect", "0,0,4,2"], ["--scale", "4x2"]])
def test_changed_goes_with_every_way_of_reading(more: list[str], tmp_path: Path, memfd: MemFd, capsys: Captured) -> None:
    fd = memfd(np.arange(128, dtype=np.uint8))
    arguments = [
        "snapshot",
        f"fd:{fd}?size=8x4&fourcc=XR24",
        "--changed",
        "--count",
        "2",
        "--timeout",
        "0.3",
        "--interval",
        "0",
    ]
    assert cli.main([*arguments, *more, "-o", str(tmp_path / "shot.ppm")]) == 3
    assert os.listdir(tmp_path) == ["shot-0001.ppm"]
    assert_one_message(capsys.readouterr().err)


class Numbered:
    """A source whose frames note what becomes of them."""

    def __init__(self, fd: int, damages: list[tuple[Rect, ...] | None]) -> None:
        self.fd, self.damages, self.log = fd, damages, list[str]()
        self.timeouts: list[float | None] = []

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        self.timeouts.append(timeout)
        number = sum(word == "given" for word in self.log)
        if number == len(self.damages):
            return
        self.log.append("given")
        buffer = DmaBuf(8, 4, "XR24", [Plane(self.fd, 0, 32)])
        yield Frame(buffer, damage=self.damages[number], release=lambda: self.log.append("released"))

    def __enter__(self) -> Numbered:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("closed")


@pytest.mark.parametrize("more", [[], ["--changed"], ["--verify"]])
def test_each_frame_is_released_once_before_the_next_is_asked_for(
    more: list[str], memfd: MemFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from glreadback.cli import snapshot

    source = Numbered(memfd(128), [None, None, (), (Rect(0, 0, 1, 1),)])
    monkeypatch.setattr(snapshot, "open_source", lambda text, **options: source)
    arguments = ["snapshot", "pattern:", "--count", "5", "--interval", "0", "-o", str(tmp_path / "shot.ppm")]
    assert cli.main([*arguments, *more]) == 1
    written = 1 if more == ["--changed"] else 4
    assert f"ended after {written} of 5 pictures" in capsys.readouterr().err
    assert source.log == ["given", "released"] * 4 + ["closed"]


def test_who_waits_for_a_change_waits_for_no_frame_longer(
    memfd: MemFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from glreadback.cli import snapshot

    arguments = [
        "snapshot",
        "pattern:",
        "--interval",
        "0.1",
        "--timeout",
        "7",
        "-o",
        str(tmp_path / "shot.ppm"),
        "--count",
        "5",
    ]
    for more in ([], ["--changed"]):
        source = Numbered(memfd(128), [None, None, None, None])
        monkeypatch.setattr(snapshot, "open_source", lambda text, source=source, **options: source)
        assert cli.main([*arguments, *more]) == 1
        if more:
            first, *later = source.timeouts
            assert (first, later) == (7, sorted(later, reverse=True))
            assert all(0 < one < 6.95 for one in later[1:]), "what is left of 7 seconds"
        else:
            assert set(source.timeouts) == {7}


# ---- progress, and Ctrl-C


def on_a_terminal(folder: Path, *arguments: str) -> tuple[str, str]:
    """What a command writes to the terminal that stderr is, and to the pipe that stdout is."""
    terminal, theirs = pty.openpty()
    with command(folder, *arguments, stderr=theirs) as running:
        os.close(theirs)
        heard = b""
        with contextlib.suppress(OSError):  # EIO: it has ended
            while select.select([terminal], [], [], 30)[0] and (chunk := os.read(terminal, 4096)):
                heard += chunk
        os.close(terminal)
        return heard.decode(), running.ended()[1]


SEQUENCE = ("pattern:?size=8x8", "-o", "shot.ppm", "--count", "3", "--interval", "0.05")


@pytest.mark.slow
def test_progress_is_a_line_on_a_terminal_and_nothing_elsewhere(tmp_path: Path) -> None:
    heard, out = on_a_terminal(tmp_path, *SEQUENCE)
    lines = [line for line in heard.split("\r\x1b[K") if line]
    assert "0/3  opening pattern:?size=8x8" in lines[0]
    assert "0/3  waiting for a picture of pattern:?size=8x8" in lines[1]
    bars = [
        re.fullmatch(r"([▏▎▍▌▋▊▉█]+) +(\d)/3  shot-000\d.ppm: 8x8 XR24 from pattern:smpte by alias", line) for line in lines[2:]
    ]
    assert [(len(found[1]), found[2]) for found in bars if found] == [(6, "1"), (11, "2"), (16, "3")]
    assert heard.endswith("\r\x1b[K"), "and is gone at the end"
    assert out == "3 pictures: shot-0001.ppm to shot-0003.ppm\n"
    with command(tmp_path, *SEQUENCE) as running:
        code, out, err = running.ended()
    assert (code, err) == (0, "")
    assert [line.partition(": ")[0] for line in out.splitlines()] == [f"shot-000{n}.ppm" for n in (1, 2, 3)]
    assert "\x1b" not in out


@pytest.mark.slow
def test_progress_says_what_it_waits_for(tmp_path: Path) -> None:
    heard, _ = on_a_terminal(tmp_path, *SEQUENCE, "--changed", "--timeout", "0.5")
    assert "1/3  waiting for pattern:?size=8x8 to change …" in heard
    assert heard.endswith("did not change within 0.5 s; 1 of 3 pictures were written\r\n")
    heard, _ = on_a_terminal(tmp_path, "pattern:?size=8x8", "-o", "one.ppm")
    assert heard == "", "one picture needs none"


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.037, 0.08])
def test_ctrl_c_leaves_finished_files_only(delay: float, tmp_path: Path) -> None:
    """Whatever it was about to do: large pictures, one after the other, so that most moments are within one."""
    source = ("pattern:noise?size=900x700", "-o", "shot.png", "--count", "999", "--interval", "0")
    with command(tmp_path, *source) as running:
        running.wait_for("shot-0003.png")
        time.sleep(delay)
        running.process.send_signal(signal.SIGINT)
        code, out, err = running.ended()
    assert (code, err) == (130, "")
    names = sorted(os.listdir(tmp_path))
    assert names == [f"shot-{number:04}.png" for number in range(1, len(names) + 1)], "no temporary file is left"
    assert len(names) - out.count("\n") in (0, 1)  # it may be stopped before it has said so
    from PIL import Image

    for name in names:
        with Image.open(tmp_path / name) as image:
            image.load()
            assert image.size == (900, 700)


# ---- producers that are killed, fall silent, or change size


@pytest.mark.slow
def test_unix_a_killed_producer(tmp_path: Path) -> None:
    code = """
import os, socket, sys, time
from glreadback import DmaBuf, Frame, Plane
from glreadback.kernel.udmabuf import sealed_memfd
from glreadback.send import send_frame
sock = socket.socket(socket.AF_UNIX)
while sock.connect_ex("frames"):
    time.sleep(0.01)
fd = sealed_memfd(4096)
os.pwrite(fd, bytes([9]) * 128, 0)
frame = Frame(DmaBuf(8, 4, "XR24", [Plane(fd, 0, 32)]))
send_frame(sock, frame)
if sys.argv[1] == "within a line":
    sock.send(b'{"version": 1, ')
print("sent", flush=True)
time.sleep(60)
"""
    for when, says in (
        ("between frames", "unix:frames?listen=1 ended after 1 of 3 pictures"),
        ("within a line", "the producer hung up 15 bytes into a line"),
    ):
        with command(tmp_path, *UNIX, "--count", "3") as running:
            environ = environment()
            producer = subprocess.Popen([sys.executable, "-c", code, when], cwd=tmp_path, env=environ, stdout=subprocess.PIPE)
            assert producer.stdout is not None
            with producer.stdout:
                assert producer.stdout.readline() == b"sent\n"
            running.wait_for("shot-0001.raw")
            producer.kill()
            producer.wait()
            code_, _, err = running.ended()
        assert code_ == 1
        assert_one_message(err)
        assert says in err
        assert levels(tmp_path) == [(32, 9)], "what had come is there"


@pytest.mark.slow
def test_unix_a_silent_producer(tmp_path: Path, memfd: MemFd) -> None:
    fd = memfd(4096)
    with command(tmp_path, *UNIX, "--count", "3", "--timeout", "0.5") as running, connected(tmp_path / "frames") as sock:
        send_frame(sock, solid(fd, 1))
        code, _, err = running.ended()
    assert (code, err) == (3, "glreadback: unix: the producer at 'frames': no frame came within 0.5 s\n")
    assert levels(tmp_path) == [(32, 1)]


@pytest.mark.slow
def test_unix_another_size_each_frame(tmp_path: Path, memfd: MemFd) -> None:
    fd = memfd(1 << 16)
    with command(tmp_path, *UNIX, "--count", "4") as running, connected(tmp_path / "frames") as sock:
        for level, size in enumerate(((8, 4), (100, 50), (1, 1), (8, 4)), 1):
            send_frame(sock, solid(fd, level, *size))
        assert running.ended()[0] == 0
    assert levels(tmp_path) == [(32, 1), (5000, 2), (1, 3), (32, 4)]


HOLDER = """
import os, sys
fd = os.memfd_create("pixels")
os.ftruncate(fd, 4096)
os.pwrite(fd, bytes([5]) * 128, 0)
print(fd, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Holder:
    """Another process that has a picture of 8x4 pixels, 5 all over, and does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.source = f"pid:{self.process.pid}/{int(self.process.stdout.readline())}?size=8x4&fourcc=XR24"

    def do(self, code: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def holder() -> Iterator[Holder]:
    with contextlib.closing(Holder()) as made:
        yield made


@pytest.mark.slow
def test_pid_a_killed_process(holder: Holder, tmp_path: Path) -> None:
    with command(tmp_path, holder.source, "-o", "shot.raw", "--count", "9", "--interval", "0.2") as running:
        running.wait_for("shot-0001.raw")
        holder.process.kill()
        code, _, err = running.ended()
    assert code == 1
    assert_one_message(err)
    assert re.search(rf"process {holder.process.pid} \(python.*\) has ended; nobody draws to its buffer any more", err)
    assert set(levels(tmp_path)) == {(32, 5)}


@pytest.mark.slow
def test_pid_a_silent_process(holder: Holder, tmp_path: Path) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    try:
        options = ("-o", "shot.raw", "--count", "2", "--changed", "--timeout", "0.5")
        with command(tmp_path, holder.source, *options) as running:
            code, _, err = running.ended()
    finally:
        holder.process.send_signal(signal.SIGCONT)
    assert code == 3
    assert err == f"glreadback: {holder.source} did not change within 0.5 s; 1 of 2 pictures were written\n"
    assert levels(tmp_path) == [(32, 5)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("os.ftruncate(fd, 64)", "holds 64"),
        ("os.ftruncate(fd, 1 << 20); os.pwrite(fd, bytes([6]) * 128, 0)", ""),
        ("os.dup2(os.open('/dev/zero', os.O_RDONLY), fd)", ""),
    ],
    ids=["shorter", "longer", "another"],
)
def test_pid_a_buffer_that_changes(change: str, says: str, holder: Holder, tmp_path: Path) -> None:
    with command(tmp_path, holder.source, "-o", "shot.raw", "--count", "3", "--interval", "0.7") as running:
        running.wait_for("shot-0001.raw")
        holder.do(change)
        code, _, err = running.ended()
    if says:
        assert code == 1
        assert_one_message(err)
        assert says in err
        assert levels(tmp_path) == [(32, 5)]
    else:
        # What was taken is what is read, whatever the process opens under that number later.
        assert (code, err) == (0, "")
        assert levels(tmp_path) == [(32, 5)] + [(32, 6 if "6" in change else 5)] * 2


def test_fd_a_buffer_that_shrinks(memfd: MemFd, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = memfd(bytes([5]) * 128, seals=0)
    from glreadback.cli import snapshot

    sentence = snapshot._sentence

    def after_the_first(shot: Any) -> str:
        os.ftruncate(fd, 64)
        return sentence(shot)

    monkeypatch.setattr(snapshot, "_sentence", after_the_first)
    arguments = ["snapshot", f"fd:{fd}?size=8x4&fourcc=XR24", "--count", "3", "--interval", "0"]
    assert cli.main([*arguments, "-o", str(tmp_path / "shot.raw")]) == 1
    err = capsys.readouterr().err
    assert_one_message(err)
    assert "holds 64" in err
    assert levels(tmp_path) == [(32, 5)]
    assert fcntl.fcntl(fd, fcntl.F_GETFD) >= 0


STAGES = [qemu_guest.text(b"0"), qemu_guest.linear(640, 480, 32), qemu_guest.linear(800, 600, 16)]
QEMU = ("-o", "shot.ppm", "--interval", "0.05")


@pytest.fixture
def guest() -> Iterator[qemu_guest.Guest]:
    with qemu_guest.Guest(STAGES) as made:
        made.show(0)
        yield made


def ppm(path: Path) -> tuple[int, int, bytes]:
    magic, size, most, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return width, height, pixels


@pytest.mark.slow
def test_qemu_a_killed_guest(guest: qemu_guest.Guest, tmp_path: Path) -> None:
    with command(tmp_path, f"qemu:{guest.qmp}", *QEMU, "--count", "99") as running:
        running.wait_for("shot-0002.ppm")
        guest.kill()
        code, _, err = running.ended()
    assert code == 1
    assert_one_message(err)
    assert "qemu: QEMU has ended" in err
    assert all(ppm(tmp_path / name)[:2] == (720, 400) for name in os.listdir(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("changed", [(), ("--changed",)], ids=["plain", "changed"])
def test_qemu_a_stopped_guest(changed: tuple[str, ...], guest: qemu_guest.Guest, tmp_path: Path) -> None:
    with command(tmp_path, f"qemu:{guest.qmp}", *QEMU, *changed, "--count", "99", "--timeout", "1") as running:
        running.wait_for("shot-0001.ppm")
        guest.stop()
        try:
            code, _, err = running.ended()
        finally:
            guest.go_on()
    assert code == 3
    assert_one_message(err)
    assert "did not change within 1 s" in err if changed else "QEMU does not answer; is it stopped?" in err


@pytest.mark.slow
def test_qemu_pictures_that_change_size_and_only_those(guest: qemu_guest.Guest, tmp_path: Path) -> None:
    wanted = [guest.screendump()]
    with command(tmp_path, f"qemu:{guest.qmp}", *QEMU, "--changed", "--count", "999", "--timeout", "2.5") as running:
        for number in (1, 2):
            running.wait_for("shot-0001.ppm")
            guest.show(number)
            wanted.append(guest.screendump())
            until(lambda picture=wanted[-1]: ppm(tmp_path / max(os.listdir(tmp_path))) == picture)  # type: ignore[misc]
        code, _, err = running.ended()
    assert code == 3
    assert f"qemu:{guest.qmp} did not change within 2.5 s" in err
    found = [ppm(tmp_path / name) for name in sorted(os.listdir(tmp_path))]
    assert all(one != other for one, other in itertools.pairwise(found)), "no picture comes twice in succession"
    assert [picture for picture in found if picture in wanted] == wanted
    assert found[-1] == wanted[-1]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
