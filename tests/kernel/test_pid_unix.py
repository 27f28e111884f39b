"""pid: and unix: with real dma-bufs of another process: taken by descriptor, and handed over on a socket."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from producers import BACKINGS, ReadLog
from screens import noise, until

from glreadback import Reader, open_source
from glreadback.cli import main
from glreadback.errors import SourceError
from glreadback.kernel import dmabuf
from glreadback.sources.base import SourceTimeout

WIDTH, HEIGHT = 64, 48
PRODUCERS = ("udmabuf", "dma_heap", "virtio_gpu")
Captured = pytest.CaptureFixture[str]

# Draws noise into a dma-buf of a driver, says where it is, and does what it is told, a line at a time.
PRODUCER = """
import os, socket, sys
from producers import PRODUCERS
from screens import noise
import glreadback
from glreadback import DmaBuf, Frame, Plane

def draw(seed):
    made.write(0, noise(made.height, made.width, seed).tobytes())

def frame():
    return Frame(DmaBuf(made.width, made.height, "XR24", [Plane(*made.planes[0])]))

def another(width, height, seed):
    global made
    stack.append(PRODUCERS[sys.argv[1]](width, height, "XR24"))
    made = stack[-1].__enter__()
    pictures.append(made)
    draw(seed)

stack, pictures = [], []
another(64, 48, 1)
print(*made.planes[0], flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Process:
    """A producer in a process of its own."""

    def __init__(self, driver: str) -> None:
        self.driver = driver
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, driver],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.fd, offset, self.stride = map(int, self.process.stdout.readline().split())
        assert offset == 0
        self.source = f"pid:{self.process.pid}/{self.fd}?size={WIDTH}x{HEIGHT}&fourcc=XR24&stride={self.stride}"

    def begin(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()

    def do(self, code: str) -> None:
        self.begin(code)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Process]]:
    """A process for each driver, kept from test to test: one takes seconds to start in an emulated machine."""
    with contextlib.ExitStack() as stack:
        yield {driver: stack.enter_context(contextlib.closing(Process(driver))) for driver in PRODUCERS}


@pytest.fixture
def process(request: pytest.FixtureRequest, running: dict[str, Process]) -> Process:
    """One of them, with noise of seed 1 in its first picture."""
    found = running[getattr(request, "param", "udmabuf")]
    found.do("made = pictures[0]; draw(1)")
    return found


@pytest.fixture
def mortal() -> Iterator[Process]:
    """One of a test's own."""
    with contextlib.closing(Process("udmabuf")) as made:
        yield made


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader("software") as made:
        yield made


every_driver = pytest.mark.parametrize("process", PRODUCERS, indirect=True)


def holds(frame: Any, reader: Reader, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bool:
    """Whether the frame is that noise; nothing of its buffer is kept."""
    found = np.asarray(reader.read(frame)).copy()
    reader.forget(frame)
    return np.array_equal(found, noise(size[1], size[0], seed))


# ---- by descriptor


@every_driver
def test_pid_a_dma_buf_of_another_process(process: Process, reader: Reader, capsys: Captured, read_log: ReadLog) -> None:
    exporter = BACKINGS[process.driver].exporter
    with open_source(process.source) as source:
        frames = source.frames(timeout=0)
        frame = next(frames)
        assert dmabuf.is_dmabuf(frame.buffer.planes[0].fd)
        assert holds(frame, reader, 1)
        process.do("draw(2)")
        assert holds(next(frames), reader, 2)
        (facts,) = source.describe()["buffers"]  # type: ignore[misc]
        assert (facts["fd"], facts["kind"], facts["exporter"]) == (process.fd, "dma-buf", exporter)
    assert main(["info", process.source, "--device", "software"]) == 0
    said = capsys.readouterr().out
    assert f", made by {exporter}" in said
    assert f"process   {process.process.pid}\n" in said
    assert main(["info", process.source, "--device", "software", "--json"]) == 0
    (buffer,) = json.loads(capsys.readouterr().out)["buffers"]
    theirs = Path(f"/proc/{process.process.pid}/fdinfo/{process.fd}").read_text()
    assert f"exp_name:\t{buffer['exporter']}\n" in theirs
    assert f"size:\t{buffer['bytes']}\n" in theirs
    read_log(process.driver, "pid")


def test_pid_a_snapshot_by_command(process: Process, tmp_path: Path, capsys: Captured, read_log: ReadLog) -> None:
    out = tmp_path / "shot.npy"
    assert main(["snapshot", process.source, "-o", str(out), "--device", "software", "--verify"]) == 0
    assert "verified: identical by alias and map" in capsys.readouterr().out
    assert np.array_equal(np.load(out), noise(HEIGHT, WIDTH, 1))
    read_log("udmabuf", "snapshot")


def test_pid_a_killed_process(mortal: Process, reader: Reader) -> None:
    with open_source(mortal.source) as source:
        frames = source.frames(timeout=1)
        frame = next(frames)
        mortal.kill()
        assert holds(frame, reader, 1), "what was taken stays"
        with pytest.raises(SourceError, match=r"has ended; nobody draws to its buffer any more"):
            next(frames)


def test_pid_a_process_that_falls_silent(process: Process, tmp_path: Path, capsys: Captured) -> None:
    arguments = ["snapshot", process.source, "-o", str(tmp_path / "shot.npy"), "--device", "software"]
    assert main([*arguments, "--changed", "--count", "2", "--timeout", "0.5"]) == 3
    assert "did not change within 0.5 s; 1 of 2 pictures were written" in capsys.readouterr().err


def test_pid_a_buffer_that_is_replaced_by_one_of_another_size(mortal: Process, reader: Reader) -> None:
    with open_source(mortal.source) as source:
        frames = source.frames(timeout=0)
        next(frames)
        mortal.do(f"another(16, 8, 3); os.dup2(made.planes[0][0], {mortal.fd})")
        # What was taken is what is read; the process's number is another buffer's now.
        assert holds(next(frames), reader, 1)
    with pytest.raises(Exception, match=rf"descriptor {mortal.fd} of process {mortal.process.pid}|too small") as error:
        with open_source(mortal.source) as source:
            reader.read(next(source.frames(timeout=0)))
    assert "\n" not in str(error.value)
    small = mortal.source.replace(f"{WIDTH}x{HEIGHT}", "16x8").replace(f"stride={mortal.stride}", "stride=64")
    with open_source(small) as source:
        assert holds(next(source.frames(timeout=0)), reader, 3, (16, 8))


# ---- on a socket


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Any]:
    with open_source(f"unix:{tmp_path}/frames?listen=1") as source:
        yield source


def connect(process: Process, tmp_path: Path) -> None:
    process.do(f"sock = socket.socket(socket.AF_UNIX); sock.connect({str(tmp_path / 'frames')!r})")


@every_driver
def test_unix_dma_bufs_of_any_size(process: Process, listening: Any, tmp_path: Path, reader: Reader, read_log: ReadLog) -> None:
    connect(process, tmp_path)
    frames = listening.frames(timeout=30)
    for seed, size in enumerate(((WIDTH, HEIGHT), (320, 200), (16, 8)), 5):
        process.do(f"another({size[0]}, {size[1]}, {seed})")
        process.begin("glreadback.send_frame(sock, frame())")
        frame = next(frames)
        assert dmabuf.exporter(frame.buffer.planes[0].fd) == BACKINGS[process.driver].exporter
        assert holds(frame, reader, seed, size)  # and is released, so that the producer goes on
        assert process.process.stdout is not None
        assert process.process.stdout.readline() == "done\n"
        read_log(process.driver, "unix")


def test_unix_a_silent_and_a_killed_producer(mortal: Process, listening: Any, tmp_path: Path, reader: Reader) -> None:
    connect(mortal, tmp_path)
    mortal.begin("glreadback.send_frame(sock, frame(), wait=False)")
    frames = listening.frames(timeout=1.0)
    frame = next(frames)
    assert holds(frame, reader, 1)
    with pytest.raises(SourceTimeout, match="no frame came within 1 s"):
        next(frames)
    frames = listening.frames(timeout=30)
    mortal.begin("glreadback.send_frame(sock, frame(), wait=False)")
    frame = next(frames)
    mortal.kill()
    assert holds(frame, reader, 1), "the buffer is ours as well"
    assert list(frames) == []


def test_unix_a_snapshot_by_command(tmp_path: Path, process: Process, capsys: Captured, read_log: ReadLog) -> None:
    out, ended = tmp_path / "shot.npy", []
    arguments = ["snapshot", f"unix:{tmp_path}/frames?listen=1", "-o", str(out), "--device", "software", "--timeout", "60"]
    running = threading.Thread(target=lambda: ended.append(main(arguments)))
    running.start()
    assert until((tmp_path / "frames").exists)
    connect(process, tmp_path)
    process.do("glreadback.send_frame(sock, frame(), timeout=60)")
    running.join(60)
    assert ended == [0]
    assert np.array_equal(np.load(out), noise(HEIGHT, WIDTH, 1))
    read_log("udmabuf", "snapshot")
