"""Sources where there is a real kernel: our own pictures are udmabufs, and others' buffers are told by their exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from producers import BACKINGS, Producer, ReadLog, vivid
from watch import dmabufs

from glreadback import Fourcc, Reader, open_source
from glreadback.cli import main
from glreadback.kernel import dmabuf
from glreadback.sources.pattern import pattern_planes

FORMATS = ("XR24", "RG16", "AB48", "NV12", "P010", "YUYV")


@pytest.mark.parametrize("fourcc", FORMATS)
@pytest.mark.parametrize("name", ["smpte", "noise"])
def test_a_pattern_is_a_udmabuf(name: str, fourcc: str, reader: Reader, read_log: ReadLog) -> None:
    with open_source(f"pattern:{name}?size=101x33&fourcc={fourcc}&stride=1024&offset=4160") as source:
        frame = next(source.frames())
        fd = frame.buffer.planes[0].fd
        inode = os.fstat(fd).st_ino
        assert dmabuf.is_dmabuf(fd)
        assert dmabuf.exporter(fd) == "udmabuf"
        assert source.describe()["memory"] == "udmabuf"
        wanted = [b"".join(row * count for count, row in plane) for plane in pattern_planes(name, 101, 33, fourcc)]
        for route in ("alias", "map"):
            assert [plane.tobytes() for plane in reader.read_planes(frame, route=route)] == wanted
            read_log("pattern:", f"planes {route}")
        reader.forget(frame)
    assert inode not in dmabufs()


def test_a_file_is_a_udmabuf(tmp_path: Path, reader: Reader, read_log: ReadLog) -> None:
    info = Fourcc("NV12").info
    content = os.urandom(sum(plane.rows(48) * plane.row_bytes(64) for plane in info.planes))
    path = tmp_path / "frame.nv12"
    path.write_bytes(content)
    with open_source(f"file:{path}?size=64x48&fourcc=NV12") as source:
        frame = next(source.frames())
        assert dmabuf.exporter(frame.buffer.planes[0].fd) == "udmabuf"
        assert source.describe()["memory"] == "udmabuf"
        for route in ("alias", "map"):
            assert b"".join(plane.tobytes() for plane in reader.read_planes(frame, route=route)) == content
            read_log("file:", f"planes {route}")


def test_descriptors_are_told_by_their_exporter(producer: Producer, reader: Reader, read_log: ReadLog) -> None:
    with producer(64, 48, "XR24", stride=320, offset=128) as made:
        made.fill()
        fd, offset, stride = made.planes[0]
        with open_source(f"fd:{fd}?size=64x48&fourcc=XR24&stride={stride}&offset={offset}") as source:
            (facts,) = source.describe()["buffers"]
            assert (facts["kind"], facts["exporter"]) == ("dma-buf", BACKINGS[made.producer].exporter)
            assert (facts["bytes"], facts["writable"], facts["steady"]) == (made.memory(0).size, True, True)
            assert reader.read(next(source.frames())).tobytes() == made.expected()
            read_log(made.producer, "alias")


def test_planes_by_descriptors_of_their_own(producer: Producer, reader: Reader, read_log: ReadLog) -> None:
    with producer(64, 48, "NV12", offset=64, together=False) as made:
        made.fill()
        (luma, offset, stride), (chroma, offset1, stride1) = made.planes
        words = f"stride={stride}&offset={offset}&fd1={chroma}&stride1={stride1}&offset1={offset1}"
        with open_source(f"fd:{luma}?size=64x48&fourcc=NV12&{words}") as source:
            assert len(source.describe()["buffers"]) == 2
            planes = reader.read_planes(next(source.frames()))
            assert [plane.tobytes() for plane in planes] == [made.expected(0), made.expected(1)]
            read_log(made.producer, "planes alias")


# ---- The command line ----


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_info_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "frame.raw"
    path.write_bytes(bytes(64 * 48 * 4))
    for source in ("pattern:?size=64x48", f"file:{path}?size=64x48&fourcc=XR24"):
        said = told(capsys, "info", source)
        assert "memory    udmabuf\n" in said
        assert "made by udmabuf" in said
        (buffer,) = json.loads(told(capsys, "info", source, "--json"))["buffers"]
        assert (buffer["kind"], buffer["exporter"], buffer["copied_first"]) == ("dma-buf", "udmabuf", None)


def test_info_tells_the_exporter(producer: Producer, capsys: pytest.CaptureFixture[str]) -> None:
    with producer(64, 48, "XR24") as made:
        fd, _, stride = made.planes[0]
        said = told(capsys, "info", f"fd:{fd}?size=64x48&fourcc=XR24&stride={stride}")
        assert f"dma-buf of {made.memory(0).size} bytes, made by {BACKINGS[made.producer].exporter}" in said
        assert "read by   alias on software" in said


def test_snapshot_of_an_inherited_descriptor(read_log: ReadLog) -> None:
    """The whole command, in a process of its own: a camera's frame to standard output."""
    with vivid(320, 180, "XR24") as made:
        fd, _, stride = made.planes[0]
        source = f"fd:{fd}?size=320x180&fourcc=XR24&stride={stride}"
        command = [sys.executable, "-m", "glreadback", "snapshot", source, "--format", "raw", "-o", "-", "--verify"]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert b"warning" not in done.stderr, "EGL has nothing to complain of: no node was opened in vain"
        assert done.stdout == made.expected()
        read_log("vivid", "snapshot")
