"""Every frame, with real dma-bufs and real fences: recycled numbers, mappings, submitted reads, an event loop, forks."""

from __future__ import annotations

import dataclasses
import io
import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import wayland_pair
from producers import BACKINGS, PRODUCERS, Made, Producer, ReadLog

from glreadback import DescriptorError, DmaBuf, FenceTimeout, Frame, Plane, Reader, Surface
from glreadback import reader as reader_module
from glreadback.egl import fence
from glreadback.egl.device import Display
from glreadback.importer import Importer
from glreadback.kernel import dmabuf, vgem

SIZE = (160, 90)


def buf_of(made: Made) -> DmaBuf:
    return DmaBuf(made.width, made.height, made.fourcc, [Plane(*plane) for plane in made.planes], made.modifier)


def importer_of(reader: Reader) -> Importer:
    reader.capabilities()
    (found,) = reader._open_importers()
    return found


@pytest.fixture
def reader() -> Iterator[Reader]:
    with Reader("software") as made:
        yield made


@pytest.fixture
def gpu(reader: Reader) -> Reader:
    """The software device taken for a GPU: it has a ring of pixel buffers."""
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    return reader


@pytest.fixture
def waiting(gpu: Reader, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """And one that waits for fences by itself. llvmpipe does so on the CPU, for which real software devices are polled."""
    monkeypatch.setattr(Display, "hardware", property(lambda _display: True))
    return gpu


class Fenced:
    """A vgem buffer with a fence that a writer has yet to signal."""

    def __init__(self, made: Made) -> None:
        self.memory = made.memory(0)
        self.number = vgem.attach_fence(self.memory.card, self.memory.handle)
        self.signalled = 0.0

    def signal(self) -> None:
        self.signalled = time.monotonic()
        vgem.signal_fence(self.memory.card, self.number)

    def draw(self, value: int) -> None:
        """Write as the device does whose fence this is: SYNC START would wait for that very fence."""
        content = bytes([value]) * self.memory.size
        self.memory.shadow[:] = content
        with mmap.mmap(self.memory.fd, self.memory.size) as view:
            view[:] = content

    def later(self, seconds: float = 0.4, before: Callable[[], object] = lambda: None) -> threading.Timer:
        """Does what the writer does, and signals."""

        def finish() -> None:
            before()
            self.signal()

        timer = threading.Timer(seconds, finish)
        timer.start()
        return timer


@contextmanager
def fenced(seed: int = 1) -> Iterator[tuple[Made, Fenced]]:
    with PRODUCERS["vgem"](*SIZE) as made:
        made.fill(seed)
        writer = Fenced(made)
        try:
            yield made, writer
        finally:
            if not writer.signalled:
                writer.signal()


# ---- the cache


def test_a_recycled_number_with_another_buffer_behind_it(reader: Reader, producer: Producer, read_log: ReadLog) -> None:
    """The very same DmaBuf object, its descriptor's number now of another real buffer of the same driver."""
    number = os.dup(0)
    out = None
    kept: DmaBuf | None = None
    try:
        for seed in range(4):
            with producer(*SIZE) as made:
                made.fill(seed)
                os.dup2(made.planes[0][0], number)
                _, offset, stride = made.planes[0]
                if kept is None:
                    kept = DmaBuf(*SIZE, "XR24", [Plane(number, offset, stride)])
                    out = Surface.allocate(*SIZE, "XR24")
                for _ in range(3):
                    assert reader.read(kept, out).tobytes() == made.expected()
                assert importer_of(reader).imported == seed + 1
                read_log(made.producer, "alias")
    finally:
        os.close(number)


@pytest.mark.parametrize("name", ["udmabuf", "vgem"])
def test_another_descriptor_of_a_known_buffer(reader: Reader, name: str) -> None:
    with PRODUCERS[name](*SIZE) as made:
        made.fill(1)
        for _ in range(5):
            fd = os.dup(made.planes[0][0])
            _, offset, stride = made.planes[0]
            assert reader.read(DmaBuf(*SIZE, "XR24", [Plane(fd, offset, stride)])).tobytes() == made.expected()
            os.close(fd)
        assert importer_of(reader).imported == 1


def test_what_is_written_between_frames_is_seen(reader: Reader, producer: Producer) -> None:
    with producer(*SIZE) as made:
        buf, out = buf_of(made), Surface.allocate(*SIZE, "XR24")
        for seed in range(4):
            made.fill(seed)
            assert reader.read(buf, out).tobytes() == made.expected()
        assert importer_of(reader).imported == 1


def test_forget_frees_the_producers_memory(reader: Reader, producer: Producer) -> None:
    """The kernel's own list of the dma-bufs that this process holds is as before."""

    def held() -> int:
        found = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                found += os.readlink(f"/proc/self/fd/{number}").startswith("/dmabuf")
            except OSError:
                continue
        with open("/proc/self/maps") as lines:
            return found + sum("/dmabuf" in line for line in lines)

    before = held()
    with producer(*SIZE) as made:
        mine = held()
        reader.read(buf_of(made))
        reader.read(buf_of(made), fourcc="AB24", route="draw")
        assert held() > mine
        reader.forget(buf_of(made))
        assert held() == mine
    assert held() == before


@pytest.mark.parametrize("name", ["udmabuf", "vgem"])
def test_a_swap_chain(reader: Reader, name: str) -> None:
    with ExitStack() as stack:
        chain = [stack.enter_context(PRODUCERS[name](*SIZE)) for _ in range(3)]
        out = Surface.allocate(*SIZE, "XR24")
        held = 0
        for number in range(300):
            made = chain[number % 3]
            if number < 6:
                made.fill(number)
            assert reader.read(buf_of(made), out).tobytes() == made.expected()
            if number == 20:
                held = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) == held
        assert importer_of(reader).imported == 3


# ---- damage


def test_damage(reader: Reader, producer: Producer) -> None:
    with producer(*SIZE) as made:
        made.fill(1)
        buf = buf_of(made)
        out = reader.read(buf)
        old = out.array().copy()
        made.fill(2)
        reader.read(buf, out, damage=[(16, 8, 64, 32)])
        new = reader.read(buf).array()
        expected = old.copy()
        expected[8:40, 16:80] = new[8:40, 16:80]
        assert (out.array() == expected).all()
        assert (new != old).any()


# ---- mappings


def test_map(reader: Reader, producer: Producer, read_log: ReadLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's START and END, one of each, around a view of the buffer itself."""
    calls: list[str] = []
    for name in ("sync_start", "sync_end"):
        real = getattr(dmabuf, name)
        monkeypatch.setattr(reader_module, name, lambda fd, name=name, real=real: (calls.append(name), real(fd)))
    with producer(*SIZE) as made:
        made.fill(5)
        with reader.map(buf_of(made)) as surface:
            assert calls == ["sync_start"]
            assert surface.tobytes() == made.expected()
            made.memory(0).write(made.planes[0][1], b"new!")
            assert bytes(surface.data[:4]) == b"new!"
        assert calls == ["sync_start", "sync_end"]
        read_log(made.producer, "map")


def test_map_waits(reader: Reader) -> None:
    with fenced() as (made, writer):
        with pytest.raises(FenceTimeout, match=r"the implicit fence of dma-buf \d+ did not signal within 0\.1 s"):
            reader.map(buf_of(made), timeout=0.1)
        timer = writer.later(before=lambda: writer.draw(9))
        with reader.map(buf_of(made)) as surface:
            assert time.monotonic() >= writer.signalled > 0
            assert surface.tobytes() == made.expected()
        timer.join()


def test_a_view_kept_longer(reader: Reader) -> None:
    with PRODUCERS["vgem"](*SIZE) as made:
        made.fill(3)
        surface = reader.map(buf_of(made))
        view = surface.data[:16]
        with pytest.raises(BufferError, match="still in use"):
            surface.close()
        assert bytes(view) == made.expected()[:16]


# ---- fences of producers


@pytest.mark.parametrize("call", ["read", "submit", "planes"])
def test_never_a_half_drawn_frame(reader: Reader, call: str) -> None:
    """The picture is finished just before the fence signals; with no time for that it is a FenceTimeout, and no pixels."""

    def do(picture: Any, timeout: float = 5.0) -> bytes:
        if call == "planes":
            return reader.read_planes(picture, timeout=timeout)[0].tobytes()
        if call == "submit":
            return reader.submit(picture, timeout=timeout).result().tobytes()
        return reader.read(picture, timeout=timeout).tobytes()

    with fenced() as (made, writer):
        started = time.monotonic()
        with pytest.raises(FenceTimeout):
            do(buf_of(made), 0.1)
        assert 0.1 <= time.monotonic() - started < 2
        timer = writer.later(before=lambda: writer.draw(7))
        assert do(buf_of(made)) == made.expected()
        assert time.monotonic() >= writer.signalled > 0
        timer.join()


def test_the_short_way_waits_too(reader: Reader) -> None:
    """A picture read before: nothing is asked again but the buffer and its fences."""
    with PRODUCERS["vgem"](*SIZE) as made:
        buf, out = buf_of(made), Surface.allocate(*SIZE, "XR24")
        for seed in range(3):
            made.fill(seed)
            reader.read(buf, out)
        writer = Fenced(made)
        with pytest.raises(FenceTimeout):
            reader.read(buf, out, timeout=0.1)
        timer = writer.later(before=lambda: writer.draw(8))
        reader.read(buf, out)
        assert time.monotonic() >= writer.signalled > 0
        assert out.tobytes() == made.expected()
        timer.join()


def test_an_explicit_fence(reader: Reader) -> None:
    """A sync file that came with the frame, of a buffer that is not the one to read."""
    with fenced() as (made, writer), PRODUCERS["udmabuf"](*SIZE) as other:
        sync_file = dmabuf.export_sync_file(made.memory(0).fd)
        try:
            other.fill(4)
            frame = Frame(buf_of(other), acquire_fence=sync_file)
            for call in (reader.read, reader.submit, reader.map):
                with pytest.raises(FenceTimeout, match=rf"the acquire fence \(descriptor {sync_file}\)"):
                    call(frame, timeout=0.05)
            timer = writer.later()
            assert reader.read(frame).tobytes() == other.expected()
            assert time.monotonic() >= writer.signalled > 0
            timer.join()
            os.fstat(sync_file)  # it stays the caller's
        finally:
            os.close(sync_file)


# ---- native fences: a software device has them where /dev/udmabuf can be opened


def test_native_fences_are_here(waiting: Reader) -> None:
    assert fence.NATIVE_EXTENSION in importer_of(waiting).display.extensions
    assert fence.can_wait_on_gpu(importer_of(waiting).display)


def test_a_software_device_does_not_wait_by_itself(gpu: Reader) -> None:
    """It would, without a time-out."""
    assert not fence.can_wait_on_gpu(importer_of(gpu).display)
    with fenced() as (made, _):
        with pytest.raises(FenceTimeout, match="the implicit fence"):
            gpu.submit(buf_of(made), timeout=0.1)
        assert not importer_of(gpu).flying


def test_fileno_in_an_event_loop(gpu: Reader, producer: Producer) -> None:
    with producer(*SIZE) as made:
        made.fill(6)
        pending = gpu.submit(buf_of(made))
        fd = pending.fileno()
        try:
            assert select.select([fd], [], [], 10)[0] == [fd]
            assert pending.done()
            assert pending.result(0).tobytes() == made.expected()
            os.fstat(fd)  # the caller's to close
        finally:
            os.close(fd)
        with pytest.raises(io.UnsupportedOperation, match="over already"):
            pending.fileno()


def test_submit_to_a_device_that_waits_itself(waiting: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence of the buffer goes to the GPU; its pixels are those of when it signalled."""
    given: list[bool] = []
    real = fence.wait_on_gpu

    def noted(display: Any, sync_file: int) -> bool:
        given.append(real(display, sync_file))
        return given[-1]

    monkeypatch.setattr(fence, "wait_on_gpu", noted)
    with fenced() as (made, writer):
        released: list[float] = []
        timer = writer.later(before=lambda: writer.draw(11))
        pending = waiting.submit(Frame(buf_of(made), release=lambda: released.append(time.monotonic())))
        assert pending.result(10).tobytes() == made.expected()
        timer.join()
        assert given == [True]
        assert released[0] >= writer.signalled > 0
        assert len(released) == 1


def test_a_snapshot_leaks_no_descriptor(waiting: Reader) -> None:
    with PRODUCERS["vgem"](*SIZE) as made:
        buf = buf_of(made)
        waiting.submit(buf).result()
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(5):
            writer = Fenced(made)
            timer = writer.later(0.05)
            waiting.submit(buf).result()
            timer.join()
        assert sorted(os.listdir("/proc/self/fd")) == before


def test_something_else_that_can_be_polled(waiting: Reader) -> None:
    """No sync file, so the driver does not take it: it is waited for here."""
    ready, signal = os.pipe()
    try:
        with PRODUCERS["udmabuf"](*SIZE) as made:
            made.fill(2)
            frame = Frame(buf_of(made), acquire_fence=ready)
            with pytest.raises(FenceTimeout, match="the acquire fence"):
                waiting.submit(frame, timeout=0.05)
            os.write(signal, b"!")
            assert waiting.submit(frame).result().tobytes() == made.expected()
            closed = os.dup(ready)
            os.close(closed)
            with pytest.raises(DescriptorError, match="is not open"):
                waiting.submit(Frame(buf_of(made), acquire_fence=closed))
    finally:
        os.close(ready)
        os.close(signal)


def test_both_fences_at_once(waiting: Reader) -> None:
    """The GPU waits for the buffer's own and for the one that came with it."""
    with fenced() as (made, writer), fenced(2) as (_, other):
        sync_file = dmabuf.export_sync_file(other.memory.fd)
        first, last = writer.later(0.2), other.later(0.5, before=lambda: writer.draw(9))
        pending = waiting.submit(Frame(buf_of(made), acquire_fence=sync_file))
        os.close(sync_file)
        assert pending.result(10).tobytes() == made.expected()
        assert time.monotonic() >= other.signalled > writer.signalled > 0
        first.join()
        last.join()


def test_before_linux_6_0(waiting: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DMA_BUF_IOCTL_EXPORT_SYNC_FILE the dma-buf itself is polled, by read and by submit."""

    def no_such_ioctl(*_arguments: Any) -> int:
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(dmabuf, "export_sync_file", no_such_ioctl)
    for call in (waiting.read, lambda *a, **o: waiting.submit(*a, **o).result()):
        with fenced() as (made, writer):
            with pytest.raises(FenceTimeout, match="the implicit fence"):
                call(buf_of(made), timeout=0.05)
            timer = writer.later(0.2, before=lambda writer=writer: writer.draw(3))
            assert call(buf_of(made)).tobytes() == made.expected()
            assert time.monotonic() >= writer.signalled > 0
            timer.join()


# ---- forks and borrowed contexts, where DRM nodes are about


@pytest.mark.parametrize("name", list(BACKINGS))
def test_after_a_fork(reader: Reader, name: str) -> None:
    """The child's display is the software device again: not the one that reads only its own card's buffers."""
    with PRODUCERS[name](*SIZE) as made:
        made.fill(1)
        buf = buf_of(made)
        drawn = reader.read(buf, fourcc="AB24", route="draw").tobytes()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                same = reader.read(buf).tobytes() == made.expected()
                same &= reader.read(buf, fourcc="AB24", route="draw").tobytes() == drawn
                status = 0 if same and importer_of(reader).display.driver == "swrast" else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_inside_a_borrowed_context(producer: Producer) -> None:
    from glreadback.egl.context import Context
    from glreadback.egl.device import open_display

    own = Context(open_display("software"))
    with own, producer(*SIZE) as made, Reader.current() as inside:
        for seed in range(2):
            made.fill(seed)
            assert inside.read(buf_of(made)).tobytes() == made.expected()
            assert inside.submit(buf_of(made)).result().tobytes() == made.expected()
    own.close()


def test_the_example_compositor_reads_udmabufs(tmp_path: Path) -> None:
    """A client in another process, over Wayland's own protocol, and real dma-bufs."""
    with wayland_pair.compositor(tmp_path, 5) as compositor:
        done = wayland_pair.client(tmp_path, 5)
        said, _ = compositor.communicate(timeout=120)
    assert done.returncode == compositor.returncode == 0, done.stderr + said
    assert "two udmabufs" in done.stdout
    assert said.count("by alias") == 5
