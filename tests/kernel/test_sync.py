"""Synchronisation with the producer, on real fences: a read waits for them, for so long as the caller says, and leaves
nothing behind; and the CPU's access is begun and ended in pairs, as the kernel itself counts."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest
from producers import DRIVERS, PRODUCERS, Made, Memory, Producer
from trap import surfaceless
from watch import READ, WRITE, Trace, check_paired, dmabufs, open_fds
from ways import PLANAR_WAYS, WAYS, Way

from glreadback import DescriptorError, DmaBuf, FenceTimeout, Frame, ImportRejected, Plane, Reader
from glreadback.egl.context import Context
from glreadback.egl.device import open_display
from glreadback.gl.texture import GLFailure
from glreadback.kernel import dmabuf, drm, vgem

SHORT, LONG = 0.15, 8.0  # a fence that nobody signals does so by itself after 10 s: that must not pass for a time-out
SLACK = 3.0  # an emulated machine, and others that use the same cores


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def buffer_of(made: Made) -> DmaBuf:
    return DmaBuf(made.width, made.height, made.fourcc, [Plane(*plane) for plane in made.planes], made.modifier)


class Fence:
    """An unsignalled fence on one of vgem's buffers, of its writer unless told."""

    def __init__(self, memory: Memory, *, write: bool = True) -> None:
        self.memory = memory
        self.number = vgem.attach_fence(memory.card, memory.handle, write=write)
        self.signalled = 0.0

    def signal(self) -> None:
        self.signalled = time.monotonic()
        vgem.signal_fence(self.memory.card, self.number)


@pytest.fixture
def vgem_buffer() -> Iterator[Made]:
    with PRODUCERS["vgem"](64, 48, "AR24", stride=300, offset=52) as made:
        made.fill(seed=1)
        yield made


def draw_pixels(memory: Memory, seed: int) -> None:
    """Write as a GPU does: DMA_BUF_IOCTL_SYNC would wait for the fence that only we can signal."""
    import mmap
    import random

    content = random.Random(seed).randbytes(memory.size)
    with mmap.mmap(memory.card, memory.size, offset=drm.map_dumb(memory.card, memory.handle)) as view:
        view[:] = content
    memory.shadow[:] = content


@contextmanager
def finishing(fence: Fence, seed: int, delay: float = 0.2) -> Iterator[None]:
    """Meanwhile a producer draws the last pixels, at the last moment, and then signals."""

    def produce() -> None:
        time.sleep(delay)
        draw_pixels(fence.memory, seed)
        fence.signal()

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        producer.join()


def time_out(read: Callable[[], object], timeout: float = SHORT) -> str:
    """That read gives FenceTimeout when its time is over, and not much later; the message."""
    started = time.monotonic()
    with pytest.raises(FenceTimeout) as caught:
        read()
    assert timeout <= time.monotonic() - started < timeout + SLACK
    return str(caught.value)


# ---- Implicit fences ----


def test_a_read_waits_for_the_last_pixels(way: Way, vgem_buffer: Made, reader: Reader) -> None:
    read = way(reader, buffer_of(vgem_buffer))
    before = read(LONG)
    assert before == vgem_buffer.expected()
    fence = Fence(vgem_buffer.memory(0))
    with finishing(fence, seed=2, delay=0.3):
        got = read(LONG)
        returned = time.monotonic()
    assert fence.signalled
    assert returned >= fence.signalled
    assert got == vgem_buffer.expected()
    assert got != before


def test_a_fence_that_never_signals(way: Way, vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    inode = os.fstat(vgem_buffer.planes[0][0]).st_ino
    released = []
    read = way(reader, buffer_of(vgem_buffer))
    framed = way(reader, Frame(buffer_of(vgem_buffer), release=lambda: released.append(1)))
    read(LONG)  # whatever is kept from now on is kept already
    fds = open_fds()
    assert not dmabufs()[inode]

    fence = Fence(vgem_buffer.memory(0))
    trace.clear()
    assert "implicit fence" in time_out(lambda: read(SHORT))
    time_out(lambda: framed(SHORT))
    time_out(lambda: read(0), 0)
    assert released == [1]
    assert open_fds() == fds
    assert len(dmabufs()[inode]) == 1, "the producer's own fence, and none of ours"
    check_paired(trace.events(), buffers=0)

    fence.signal()
    assert read(LONG) == vgem_buffer.expected()
    assert open_fds() == fds
    assert not dmabufs()[inode]


def test_a_read_only_descriptor_waits_too(reader: Reader) -> None:
    with PRODUCERS["vgem"](64, 48, "AR24", writable=False) as made:
        made.fill(seed=1)
        assert reader.read(buffer_of(made)).tobytes() == made.expected()
        fence = Fence(made.memory(0))
        time_out(lambda: reader.read(buffer_of(made), timeout=SHORT))
        with finishing(fence, seed=2):
            got = reader.read(buffer_of(made), timeout=LONG).tobytes()
        assert got == made.expected()


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("name", list(PLANAR_WAYS))
def test_every_buffer_of_a_picture_is_waited_for(name: str, late: int, reader: Reader) -> None:
    with PRODUCERS["vgem"](64, 48, "NV12", together=False) as made:
        made.fill(seed=1)
        read = PLANAR_WAYS[name](reader, buffer_of(made))
        before = read(LONG)
        fence = Fence(made.memory(late))
        time_out(lambda: read(SHORT))
        with finishing(fence, seed=2):
            got = read(LONG)
            returned = time.monotonic()
        assert returned >= fence.signalled
        assert got != before
        if name.startswith("planes"):
            assert got == made.expected(0) + made.expected(1)


def test_another_readers_fence_is_no_reason_to_wait(way: Way, vgem_buffer: Made, reader: Reader) -> None:
    fence = Fence(vgem_buffer.memory(0), write=False)
    assert way(reader, buffer_of(vgem_buffer))(0) == vgem_buffer.expected()
    fence.signal()


class Interrupted(Exception):
    pass


def test_an_interrupted_wait_leaves_nothing(way: Way, vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    read = way(reader, buffer_of(vgem_buffer))
    read(LONG)
    fds = open_fds()
    fence = Fence(vgem_buffer.memory(0))
    trace.clear()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    started = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            read(LONG)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < SLACK
    gc.collect()
    assert open_fds() == fds
    check_paired(trace.events(), buffers=0)
    fence.signal()
    assert read(LONG) == vgem_buffer.expected()


# ---- Explicit fences ----


@contextmanager
def sync_file_of(memory: Memory) -> Iterator[tuple[int, Fence]]:
    fence = Fence(memory)
    fd = dmabuf.export_sync_file(memory.fd)
    try:
        yield fd, fence
    finally:
        os.close(fd)


def test_a_sync_file_is_waited_for(way: Way, vgem_buffer: Made, reader: Reader) -> None:
    """The fence says nothing of this buffer to the kernel: only the frame brings the two together."""
    with PRODUCERS["udmabuf"](64, 48, "AR24") as made, sync_file_of(vgem_buffer.memory(0)) as (sync_file, fence):
        made.fill(seed=1)
        read = way(reader, Frame(buffer_of(made), acquire_fence=sync_file))

        def produce() -> None:
            time.sleep(0.2)
            made.fill(seed=2)
            fence.signal()

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            got = read(LONG)
            returned = time.monotonic()
        finally:
            producer.join()
        assert returned >= fence.signalled
        assert got == made.expected()
        os.fstat(sync_file)  # still the caller's
        assert read(0) == made.expected()


def test_a_sync_file_that_never_signals(way: Way, vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    with PRODUCERS["udmabuf"](64, 48, "AR24") as made, sync_file_of(vgem_buffer.memory(0)) as (sync_file, fence):
        made.fill()
        released = []
        plain = way(reader, buffer_of(made))
        assert plain(LONG) == made.expected()
        fds = open_fds()
        trace.clear()
        frame = Frame(buffer_of(made), acquire_fence=sync_file, release=lambda: released.append(1))
        assert "acquire fence" in time_out(lambda: way(reader, frame)(SHORT))
        assert released == [1]
        assert open_fds() == fds
        check_paired(trace.events(), buffers=0)
        assert plain(0) == made.expected()
        fence.signal()
        assert way(reader, frame)(0) == made.expected()


def test_one_time_for_all_fences(reader: Reader) -> None:
    with (
        PRODUCERS["vgem"](64, 48, "AR24") as made,
        PRODUCERS["vgem"](16, 16) as other,
        sync_file_of(other.memory(0)) as (sync_file, explicit),
    ):
        implicit = Fence(made.memory(0))
        soon = threading.Timer(0.3, explicit.signal)
        soon.start()
        try:
            frame = Frame(buffer_of(made), acquire_fence=sync_file)
            assert "implicit" in time_out(lambda: reader.read(frame, timeout=0.6), 0.6)
        finally:
            soon.join()
        implicit.signal()


# ---- Access by the CPU, as the kernel counts it ----

# What brings the pixels over, in each way: the place where a test puts a mark, or a failure.
COPIES = {
    "alias": "glreadback.importer.Importer.copy",
    "native": "glreadback.importer.Importer.copy",
    "alias again": "glreadback.importer.Importer.copy",
    "native again": "glreadback.importer.Importer.copy",
    "damage": "glreadback.importer.Importer.copy",
    "submit": "glreadback.importer.Importer.copy",
    "planes alias": "glreadback.importer.Importer.copy",
    "draw": "glreadback.gl.draw.draw",
    "map": "glreadback.reader.copy_plane",
    "planes map": "glreadback.reader.copy_plane",
    "Reader.map": "glreadback.surface.Surface.tobytes",
}


def instead(monkeypatch: pytest.MonkeyPatch, place: str, act: Callable[[], None]) -> None:
    """Do act each time before what is at place."""
    import importlib

    *path, name = place.split(".")
    owner: Any = importlib.import_module(".".join(path) if not path[-1][0].isupper() else ".".join(path[:-1]))
    if path[-1][0].isupper():
        owner = getattr(owner, path[-1])
    there = owner.__dict__[name]
    original = getattr(owner, name)

    def replaced(*args: Any, **options: Any) -> Any:
        act()
        return original(*args, **options)

    monkeypatch.setattr(owner, name, staticmethod(replaced) if isinstance(there, staticmethod) else replaced)


def words(trace: Trace) -> list[str]:
    return [event.what for event in trace.events()]


@pytest.mark.parametrize("name", list(WAYS))
def test_the_pixels_come_between_begin_and_end(
    name: str, producer: Producer, reader: Reader, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producer(64, 48, "AR24", stride=300, offset=100) as made:
        made.fill()
        read = WAYS[name](reader, buffer_of(made))
        assert read(LONG) == made.expected()
        instead(monkeypatch, COPIES[name], lambda: trace.mark("pixels"))
        trace.clear()
        read(LONG)
        events = trace.events()
        monkeypatch.undo()
        check_paired(events, buffers=1)
        assert {event.access for event in events if event.buffer} == {READ}
        found = [event.what for event in events]
        if name == "Reader.map":
            assert found == ["begin", "pixels", "end"]
        else:
            # A way may copy more than once (planes, damage), but never outside.
            assert (found[0], found[-1]) == ("begin", "end")
            assert set(found[1:-1]) == {"pixels"}


@pytest.mark.parametrize("name", list(PLANAR_WAYS))
def test_each_buffer_once(name: str, producer: Producer, reader: Reader, trace: Trace) -> None:
    for together in (True, False):
        with producer(64, 48, "NV12", together=together) as made:
            made.fill()
            read = PLANAR_WAYS[name](reader, buffer_of(made))
            trace.clear()
            read(LONG)
            check_paired(trace.events(), buffers=1 if together else 2)


def test_a_copy_first_is_access_too(reader: Reader, trace: Trace) -> None:
    with PRODUCERS["vgem"](64, 48, "NV12", together=False, writable=False) as made:
        made.fill()
        for way in PLANAR_WAYS.values():
            read = way(reader, buffer_of(made))
            trace.clear()
            read(LONG)
            check_paired(trace.events(), buffers=2)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GLFailure])
def test_a_read_that_fails_ends_its_access(
    way: Way,
    error: type[BaseException],
    vgem_buffer: Made,
    reader: Reader,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.params["way"]
    read = way(reader, buffer_of(vgem_buffer))
    read(LONG)
    fds = open_fds()

    def fail() -> None:
        trace.mark("failure")
        raise error("on purpose")

    instead(monkeypatch, COPIES[name], fail)
    trace.clear()
    # A failure of GL is told as the caller knows it; where there is no GL it stays what it is.
    gl = error is GLFailure and COPIES[name].startswith(("glreadback.importer", "glreadback.gl"))
    with pytest.raises(ImportRejected if gl else error):
        read(LONG)
    found = words(trace)
    assert found
    assert found == ["begin", "failure", "end"] * (len(found) // 3), "once, or more where other ways are tried"
    monkeypatch.undo()
    assert open_fds() == fds
    assert read(LONG) == vgem_buffer.expected()


@pytest.mark.parametrize("name", list(PLANAR_WAYS))
@pytest.mark.parametrize("refused", [0, 1])
def test_a_begin_that_is_refused(
    name: str, refused: int, reader: Reader, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two buffers was begun and has to be ended; the second was not and must not be."""
    with PRODUCERS["vgem"](64, 48, "NV12", together=False) as made:
        made.fill()
        read = PLANAR_WAYS[name](reader, buffer_of(made))
        before = read(LONG)
        fds, started = open_fds(), dmabuf.sync_start

        def start(fd: int, access: int = dmabuf.READ) -> None:
            if fd == made.planes[refused][0]:
                raise OSError(5, "Input/output error")
            started(fd, access)

        monkeypatch.setattr(dmabuf, "sync_start", start)
        trace.clear()
        with pytest.raises(OSError, match="Input/output"):
            read(LONG)
        check_paired(trace.events(), buffers=refused)
        monkeypatch.undo()
        assert open_fds() == fds
        assert read(LONG) == before


def test_a_foreign_buffer_is_given_back(trace: Trace) -> None:
    """Refused by a real driver, in somebody else's context on one of the cards."""
    with surfaceless(), Reader.current() as reader, PRODUCERS["udmabuf"](64, 48, "AR24") as made:
        trace.clear()
        for name in ("alias", "native", "alias again", "draw", "planes alias"):
            with pytest.raises(ImportRejected):
                WAYS[name](reader, buffer_of(made))(LONG)
        check_paired(trace.events(), buffers=1, pairs=5)


def test_a_view_ends_its_access_once(vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    fds = open_fds()
    number = os.dup(vgem_buffer.planes[0][0])
    trace.clear()
    surface = reader.map(DmaBuf(64, 48, "AR24", [Plane(number, *vgem_buffer.planes[0][1:])]))
    os.close(number)  # the surface has its own
    assert words(trace) == ["begin"]
    assert surface.tobytes() == vgem_buffer.expected()
    surface.close()
    surface.close()
    assert words(trace) == ["begin", "end"]
    assert open_fds() == fds


def test_a_view_in_use_ends_its_access(vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    trace.clear()
    surface = reader.map(buffer_of(vgem_buffer))
    kept = surface.data[:16]
    with pytest.raises(BufferError):
        surface.close()
    assert words(trace) == ["begin", "end"]
    assert kept == vgem_buffer.expected()[:16]


def test_a_forgotten_view_ends_its_access(vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    gc.collect()  # other tests' garbage
    fds = open_fds()
    trace.clear()
    with pytest.warns(ResourceWarning, match="mapped"):
        reader.map(buffer_of(vgem_buffer))  # nobody takes it
    assert words(trace) == ["begin", "end"]
    assert open_fds() == fds


def test_a_map_that_is_refused(vgem_buffer: Made, reader: Reader, trace: Trace) -> None:
    fds = open_fds()
    trace.clear()
    with pytest.raises(DescriptorError):
        reader.map(Frame(buffer_of(vgem_buffer), y_invert=True))
    with pytest.raises(DescriptorError):
        reader.map(Frame(buffer_of(vgem_buffer), transform="90"))
    check_paired(trace.events(), buffers=0)
    assert open_fds() == fds


def test_a_picture_of_ours_is_written_in_pairs(trace: Trace) -> None:
    from glreadback import open_source

    trace.clear()
    with open_source("pattern:gradient?size=64x48"):
        events = trace.events()
    check_paired(events, buffers=1)
    assert {event.access for event in events} == {WRITE}


# ---- Other devices ----


@contextmanager
def borrowed(kind: str) -> Iterator[str]:
    """Somebody else's context, current; the driver whose buffers it reads."""
    with ExitStack() as stack:
        if kind == "surfaceless":
            card = stack.enter_context(surfaceless())[1]
            yield next(name for name, driver in DRIVERS.items() if driver == card)
        else:
            context = Context(open_display("software"))
            stack.callback(context.close)
            stack.enter_context(context)
            yield "vgem"


@pytest.mark.parametrize("name", ["alias again", "draw", "submit", "planes alias"])
@pytest.mark.parametrize("kind", ["software", "surfaceless"])
def test_inside_a_borrowed_context(kind: str, name: str, trace: Trace) -> None:
    """Drivers without a GPU: still the CPU that reads."""
    with borrowed(kind) as driver, Reader.current() as reader, PRODUCERS[driver](64, 48, "AR24") as made:
        made.fill(seed=1)
        read = WAYS[name](reader, buffer_of(made))
        assert read(LONG) == made.expected()
        trace.clear()
        read(LONG)
        check_paired(trace.events(), buffers=1)
        with PRODUCERS["vgem"](16, 16) as other, sync_file_of(other.memory(0)) as (sync_file, fence):
            dmabuf.import_sync_file(made.planes[0][0], sync_file)
            time_out(lambda: read(SHORT))

            def signal() -> None:
                time.sleep(0.2)
                draw_pixels(made.memory(0), seed=2)
                fence.signal()

            producer = threading.Thread(target=signal)
            producer.start()
            try:
                got = read(LONG)
            finally:
                producer.join()
            assert got == made.expected()
