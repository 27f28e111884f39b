"""Reader.map: the buffer's own memory, no copy, between SYNC START and END."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pictures import Held, MakePicture, MemFd, assert_route, mapped, pixels

from glreadback import DescriptorError, DmaBuf, FenceTimeout, Frame, Modifier, Plane, Reader, Rect
from glreadback import reader as module


@pytest.fixture
def mapper(leaks: Callable[[], None]) -> Iterator[Reader]:
    """Any reader: no device takes part."""
    with Reader() as made:
        yield made


class Kernel:
    """Takes each memfd for a dma-buf, and writes down what is asked of the kernel, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fds: dict[str, list[int]] = {"start": [], "end": []}
        self.fail = False
        check, wait, map_range = module.check, module.sync.wait, module.map_range

        def as_dmabufs(buf: DmaBuf) -> Any:
            return tuple(backing._replace(dmabuf=True) for backing in check(buf))

        def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                self.calls.append(name)
                return call(*arguments)

            return run

        def sync(name: str) -> Callable[[int], None]:
            def run(fd: int) -> None:
                os.fstat(fd)  # it must be open
                self.fds[name].append(fd)
                if self.fail and name == "start":
                    raise OSError(25, "Inappropriate ioctl for device")

            return noted(name, run)

        monkeypatch.setattr(module, "check", as_dmabufs)
        monkeypatch.setattr(module.sync, "wait", noted("wait", wait))
        monkeypatch.setattr(module, "map_range", noted("mmap", map_range))
        monkeypatch.setattr(module, "sync_start", sync("start"))
        monkeypatch.setattr(module, "sync_end", sync("end"))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_no_copy_and_no_gl(mapper: Reader, memfd: MemFd, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB of address space, four pages of it touched: neither a copy nor a driver could do that."""

    def no_device(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a device was asked for")

    monkeypatch.setattr(Reader, "_lanes", no_device)
    fd = memfd(16 << 30)
    os.pwrite(fd, b"last", (16 << 30) - 4)
    started = time.monotonic()
    with mapper.map(DmaBuf(1 << 14, 1 << 18, "XR24", [Plane(fd, 0, 1 << 16)])) as surface:
        assert_route(surface, "map")
        assert surface.data.nbytes == 16 << 30
        assert bytes(surface.data[-4:]) == b"last"
        with mapped(fd) as memory:
            memory[4:8] = b"seen"
        assert bytes(surface.data[4:8]) == b"seen"
    assert time.monotonic() - started < 2


def test_its_rows_lie_as_the_buffers_do(mapper: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 37, 23, pad=28, offset=4101)
    with mapper.map(made.buf) as surface:
        assert (surface.width, surface.height, surface.stride, surface.fourcc) == (37, 23, 37 * 4 + 28, "XR24")
        assert np.array_equal(pixels(surface), made.rows())
        array = np.asarray(surface)
        assert array.shape == (23, 37, 4)
        assert array.strides[0] == 37 * 4 + 28
        assert not array.flags.writeable
        del array


def test_only_what_is_visible(mapper: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 64, 48, pad=8)
    with mapper.map(Frame(made.buf, visible=Rect(5, 7, 20, 11))) as surface:
        assert (surface.width, surface.height) == (20, 11)
        assert np.array_equal(pixels(surface), made.rows()[7:18, 20:100])


def test_the_order_of_things(mapper: Reader, picture: MakePicture, kernel: Kernel) -> None:
    """Fences, mapping, START; and backwards at the end: END before the producer is told."""
    made = picture("XR24", 64, 48)
    frame = Frame(made.buf, release=lambda: kernel.calls.append("release"))
    with mapper.map(frame) as surface:
        assert kernel.calls == ["wait", "mmap", "start"]
        assert np.array_equal(pixels(surface), made.rows())
    assert kernel.calls == ["wait", "mmap", "start", "end", "release"]
    assert kernel.fds["start"] == kernel.fds["end"]
    surface.close()
    assert len(kernel.calls) == 5


def test_the_buffers_descriptor_may_be_closed_meanwhile(mapper: Reader, memfd: MemFd, kernel: Kernel) -> None:
    """END still reaches the buffer, and not what has its number by then."""
    fd = memfd(b"\x11" * 4096)
    surface = mapper.map(DmaBuf(32, 32, "XR24", [Plane(fd, 0, 128)]))
    inode = os.fstat(fd).st_ino
    assert os.fstat(kernel.fds["start"][0]).st_ino == inode
    os.close(fd)
    assert memfd(b"other") == fd
    assert set(surface.tobytes()) == {0x11}
    surface.close()
    assert kernel.fds["start"] == kernel.fds["end"] != [fd]


def test_a_start_that_fails_has_no_end(mapper: Reader, picture: MakePicture, kernel: Kernel) -> None:
    made, released = picture("XR24", 64, 48), []
    kernel.fail = True
    with pytest.raises(OSError, match="ioctl"):
        mapper.map(Frame(made.buf, release=lambda: released.append(1)))
    assert kernel.calls == ["wait", "mmap", "start"]
    assert released == [1]


def test_what_fails_after_the_start_has_its_end(
    mapper: Reader, picture: MakePicture, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "Surface", broken)
    made, released = picture("XR24", 64, 48), []
    with pytest.raises(MemoryError):
        mapper.map(Frame(made.buf, release=lambda: released.append(1)))
    assert kernel.calls == ["wait", "mmap", "start", "end"]
    assert released == [1]


def test_an_exception_inside_ends_it_too(mapper: Reader, picture: MakePicture, kernel: Kernel) -> None:
    with pytest.raises(KeyError), mapper.map(picture("XR24", 64, 48).buf):
        raise KeyError
    assert kernel.calls == ["wait", "mmap", "start", "end"]


@pytest.mark.parametrize("keep", ["array", "memoryview", "slice"])
def test_a_view_kept_longer_is_refused(mapper: Reader, picture: MakePicture, kernel: Kernel, keep: str) -> None:
    """Refused, not dangling: closing says so, the synchronisation has ended, and the view's memory stays while it does."""
    made = picture("XR24", 64, 48)
    surface = mapper.map(made.buf)
    view: Any = {"array": surface.array(), "memoryview": surface.data[:], "slice": surface.array()[3:5]}.pop(keep)
    with pytest.raises(BufferError, match="a view of the mapped surface is still in use"):
        surface.close()
    assert kernel.calls == ["wait", "mmap", "start", "end"]
    with pytest.raises(ValueError, match="the surface is closed"):
        _ = surface.data
    before = Held.now().mappings
    expected = made.rows()[3:5] if keep == "slice" else made.rows()
    assert bytes(view) == expected.tobytes()
    surface.close()
    del surface, view
    gc.collect()
    assert len(Held.now().mappings) == len(before) - 1


def test_a_fence_is_waited_for(mapper: Reader, picture: MakePicture) -> None:
    """The kernel lane has real ones; a pipe becomes readable the same way."""
    made, released = picture("XR24", 64, 48), []
    ready, signal = os.pipe()
    frame = Frame(made.buf, acquire_fence=ready, release=lambda: released.append(1))
    try:
        started = time.monotonic()
        with pytest.raises(FenceTimeout, match=rf"the acquire fence \(descriptor {ready}\) did not signal within 0\.05 s"):
            mapper.map(frame, timeout=0.05)
        assert 0.05 <= time.monotonic() - started < 1
        assert released == [1]
        timer = threading.Timer(0.1, os.write, (signal, b"!"))
        timer.start()
        started = time.monotonic()
        with mapper.map(frame):
            assert time.monotonic() - started >= 0.09
        timer.join()
        assert released == [1, 1]
    finally:
        os.close(ready)
        os.close(signal)


def test_what_cannot_be_mapped(mapper: Reader, picture: MakePicture, memfd: MemFd) -> None:
    released: list[int] = []
    small = memfd(100)
    refused = (
        (picture("NV12", 64, 48).buf, {}, "no plain copy"),
        (picture("XR24", 64, 48, modifier=0x0100000000000001).buf, {}, "TILED"),
        (picture("XR24", 64, 48, modifier=Modifier.INVALID).buf, {}, "INVALID"),
        (picture("XR24", 64, 48).buf, {"y_invert": True}, "upside down"),
        (picture("XR24", 64, 48).buf, {"transform": "90"}, "turned"),
        (picture("XR24", 64, 48, seals=0).buf, {}, "F_SEAL_SHRINK"),
        (DmaBuf(64, 48, "XR24", [Plane(small, 0, 256)]), {}, "too small"),
    )
    for buf, options, match in refused:
        with pytest.raises(DescriptorError, match=match):
            mapper.map(Frame(buf, release=lambda: released.append(1), **options))
    assert len(released) == len(refused)


def test_a_read_only_descriptor_will_do(mapper: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 64, 48, mode=os.O_RDONLY)
    with mapper.map(made.buf) as surface:
        assert np.array_equal(pixels(surface), made.rows())


def test_a_closed_reader_maps_nothing(picture: MakePicture) -> None:
    reader = Reader()
    reader.close()
    with pytest.raises(ValueError, match="the Reader is closed"):
        reader.map(picture("XR24", 8, 8).buf)


def test_it_outlives_its_reader(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = picture("XR24", 64, 48)
    with Reader() as reader:
        surface = reader.map(made.buf)
    assert np.array_equal(pixels(surface), made.rows())
    surface.close()


def test_many_at_once_and_again(mapper: Reader, picture: MakePicture) -> None:
    made = [picture("XR24", 64, 48, offset=n * 64) for n in range(5)]
    surfaces = [mapper.map(one.buf) for one in made * 2]
    for surface, one in zip(surfaces, made * 2, strict=True):
        assert np.array_equal(pixels(surface), one.rows())
    for surface in surfaces:
        surface.close()


def test_one_that_is_forgotten_ends_too(mapper: Reader, picture: MakePicture, kernel: Kernel) -> None:
    surface = mapper.map(picture("XR24", 64, 48).buf)
    with pytest.warns(ResourceWarning, match="unclosed mapped"):
        del surface
    assert kernel.calls == ["wait", "mmap", "start", "end"]
