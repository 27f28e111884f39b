"""Reader.submit: a ring of pixel buffers, back-pressure, and a release that comes once and only after the pixels.

llvmpipe stands in for a GPU: with `software` taken from its capabilities a Reader submits to it as to any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pictures import Canary, MakePicture, MemFd, Picture, importer_of, mapped, pixels

from glreadback import DescriptorError, DeviceError, DmaBuf, FenceTimeout, Frame, ImportRejected, Plane, Reader, Surface
from glreadback.egl import fence
from glreadback.gl import ring
from glreadback.gl.ring import SLOTS
from glreadback.gl.texture import GLFailure


def as_gpu(reader: Reader) -> Reader:
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    return reader


@pytest.fixture
def gpu(reader: Reader) -> Reader:
    return as_gpu(reader)


@pytest.fixture(params=["cpu", "gpu"])
def either(request: pytest.FixtureRequest, reader: Reader) -> Reader:
    return as_gpu(reader) if request.param == "gpu" else reader


class Stuck:
    """Fences that do not signal until they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stuck, self.waits = True, list[float]()
        real = fence.Fence.wait

        def wait(made: fence.Fence, seconds: float) -> bool:
            self.waits.append(seconds)
            if self.stuck:
                time.sleep(min(seconds, 1.0))
                return False
            return real(made, seconds)

        monkeypatch.setattr(fence.Fence, "wait", wait)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    made = Stuck(monkeypatch)
    yield made
    made.stuck = False  # before the reader closes


class Shown:
    """Frames over pictures; what the surfaces held when each was released."""

    def __init__(self) -> None:
        self.released: list[int] = []
        self.early: list[int] = []
        self.out: dict[int, Surface] = {}
        self.expected: dict[int, Any] = {}

    def frame(self, number: int, made: Picture, **what: Any) -> Frame:
        self.out[number] = Surface.allocate(made.buf.width, made.buf.height, made.buf.fourcc)
        self.expected[number] = made.rows()

        def release() -> None:
            self.released.append(number)
            if not np.array_equal(pixels(self.out[number]), self.expected[number]):
                self.early.append(number)

        return Frame(made.buf, release=release, **what)


# ---- the same pixels


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "alias": ("XR24", {}),
    "native": ("AR24", {"route": "native"}),
    "draw": ("NV12", {"route": "draw"}),
    "map": ("XR24", {"route": "map"}),
    "opaque": ("XR24", {"fourcc": "AB24"}),
    "rectangle": ("XR24", {"rect": (5, 7, 33, 20)}),
    "odd": ("RG24", {}),
    "deep": ("AB4H", {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_pixels_are_those_of_a_read(either: Reader, picture: MakePicture, way: str) -> None:
    fourcc, options = WAYS[way]
    made = picture(fourcc, 67, 41, pad=12, offset=64)
    expected = either.read(made.buf, **options)
    for _ in range(SLOTS + 2):
        pending = either.submit(made.buf, **options)
        found = pending.result()
        assert found.tobytes() == expected.tobytes()
        assert (found.fourcc, found.width, found.height, found.route) == (
            *(expected.fourcc, expected.width, expected.height),
            expected.route,
        )
        assert pending.result() is found
        assert pending.done()


@pytest.mark.parametrize("y_invert", [False, True])
def test_into_a_given_surface_and_no_byte_more(either: Reader, picture: MakePicture, y_invert: bool) -> None:
    """Padding between rows stays what it is, and so does what lies before and after."""
    made = picture("XR24", 37, 23)
    frame = Frame(made.buf, y_invert=y_invert)
    out = Canary(37, 23, "XR24", pad=20, before=12)
    assert either.submit(frame, out.surface).result() is out.surface
    out.assert_holds(made.rows()[:: -1 if y_invert else 1])


def test_damage(either: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 320, 240)
    out = Surface.allocate(320, 240, "XR24")
    either.submit(made.buf, out, damage=[(10, 20, 30, 40), (300, 230, 100, 100)]).result()
    found, rows = pixels(out).reshape(240, 320, 4), made.rows().reshape(240, 320, 4)
    expected = np.zeros_like(rows)
    expected[20:60, 10:40] = rows[20:60, 10:40]
    expected[230:, 300:] = rows[230:, 300:]
    assert np.array_equal(found, expected)
    either.submit(made.buf, out, damage=[]).result()
    assert np.array_equal(found, expected)


def test_sizes_may_change(either: Reader, picture: MakePicture) -> None:
    """A slot's buffer grows, and a small read in a large one takes only its own bytes."""
    for width, height in ((8, 8), (640, 480), (16, 16), (641, 480), (1, 1)):
        made = picture("XR24", width, height)
        assert np.array_equal(pixels(either.submit(made.buf).result()), made.rows())


def test_a_file_that_can_shrink_is_copied_first(either: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 32, 32, seals=0)
    pending = either.submit(made.buf)
    assert np.array_equal(pixels(pending.result()), made.rows())
    assert "copied first" in pending.result().route.reason  # type: ignore[union-attr]


# ---- the ring


def test_buffers_are_made_once(gpu: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new pixel buffer for each read costs as much as the read."""
    made: list[int] = []
    real = ring.gl.glBufferData

    def noted(*arguments: Any) -> None:
        made.append(arguments[1])
        real(*arguments)

    monkeypatch.setattr(ring.gl, "glBufferData", noted)
    buf = picture("XR24", 64, 48).buf
    for _ in range(20):
        waiting = [gpu.submit(buf) for _ in range(SLOTS)]
        for pending in waiting:
            pending.result()
    assert made == [64 * 48 * 4] * SLOTS


def test_submit_does_not_wait(gpu: Reader, picture: MakePicture, stuck: Stuck) -> None:
    made = picture("XR24", 64, 48)
    waiting = [gpu.submit(made.buf) for _ in range(SLOTS)]
    assert stuck.waits == []
    assert [pending.done() for pending in waiting] == [False] * SLOTS
    assert stuck.waits == [0.0] * SLOTS
    stuck.stuck = False
    assert [pending.done() for pending in waiting] == [True] * SLOTS
    for pending in waiting:
        assert np.array_equal(pixels(pending.result()), made.rows())


def test_a_full_ring_holds_back(gpu: Reader, picture: MakePicture, stuck: Stuck) -> None:
    """One more than it holds waits for the oldest, and for no longer than it is told."""
    made = picture("XR24", 64, 48)
    waiting = [gpu.submit(made.buf) for _ in range(SLOTS)]
    started = time.monotonic()
    released: list[int] = []
    with pytest.raises(FenceTimeout, match=r"was not done with the read after 0\.0"):
        gpu.submit(Frame(made.buf, release=lambda: released.append(1)), timeout=0.05)
    assert 0.05 <= time.monotonic() - started < 1
    assert stuck.waits == [0.05]
    assert released == [1]
    stuck.stuck = False
    stuck.waits.clear()
    waiting.append(gpu.submit(made.buf))
    assert len(stuck.waits) == 1
    assert waiting[0].slot is None, "the oldest is finished"
    assert all(pending.slot is not None for pending in waiting[1:])
    for pending in waiting:
        assert np.array_equal(pixels(pending.result()), made.rows())


def test_in_any_order(gpu: Reader, memfd: MemFd) -> None:
    """Each Pending has its own picture, whichever is asked first."""
    for order in ((2, 0, 1), (1, 2, 0), (2, 1, 0)):
        shown = Shown()
        frames = [shown.frame(n, _solid(memfd, n)) for n in range(SLOTS)]
        waiting = [gpu.submit(frame, shown.out[n]) for n, frame in enumerate(frames)]
        for n in order:
            assert np.array_equal(pixels(waiting[n].result()), shown.expected[n])
        assert shown.released == list(order)
        assert not shown.early


def _solid(memfd: MemFd, value: int) -> Picture:
    content = np.full(64 * 48 * 4, value + 1, np.uint8)
    return Picture(DmaBuf(64, 48, "XR24", [Plane(memfd(content), 0, 256)]), content)


def test_some_nobody_waits_for(gpu: Reader, memfd: MemFd) -> None:
    """The ring goes round, each frame is released once, and no more is kept than the ring holds."""
    shown = Shown()
    pictures = [_solid(memfd, n) for n in range(4)]
    for n in range(20):
        gpu.submit(shown.frame(n, pictures[n % 4]), shown.out[n])
        assert len(importer_of(gpu).flying) <= SLOTS
    assert shown.released == list(range(20 - SLOTS))
    gpu.close()
    assert shown.released == list(range(20))
    assert not shown.early


def test_one_surface_for_all(either: Reader, memfd: MemFd) -> None:
    """Each result is there when it is asked for, before the next one is."""
    out = Surface.allocate(64, 48, "XR24")
    for n in range(9):
        assert either.submit(_solid(memfd, n).buf, out).result() is out
        assert set(out.tobytes()) == {n + 1}


# ---- release


@pytest.mark.parametrize("ask", ["result", "done"])
def test_release_comes_once_and_after_the_pixels(either: Reader, memfd: MemFd, ask: str) -> None:
    shown = Shown()
    for n in range(6):
        pending = either.submit(shown.frame(n, _solid(memfd, n)), shown.out[n])
        deadline = time.monotonic() + 5
        while not getattr(pending, ask)() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert shown.released == list(range(n + 1))
        for _ in range(2):
            pending.result()
            assert pending.done()
        assert shown.released == list(range(n + 1))
    assert not shown.early


def test_not_before_the_gpu_is_done(gpu: Reader, memfd: MemFd, stuck: Stuck) -> None:
    shown = Shown()
    pending = gpu.submit(shown.frame(0, _solid(memfd, 0)), shown.out[0])
    for _ in range(3):
        assert not pending.done()
        with pytest.raises(FenceTimeout):
            pending.result(0.01)
    assert shown.released == []
    stuck.stuck = False
    pending.result()
    assert shown.released == [0]
    assert not shown.early


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rect": (0, 0, 1000, 1000)}, DescriptorError),
        ({"fourcc": "NV12"}, DescriptorError),
        ({"route": "nowhere"}, DescriptorError),
        ({"out": (8, 8)}, DescriptorError),
    ],
)
def test_a_submit_that_fails_releases_once(either: Reader, picture: MakePicture, options: Any, error: Any) -> None:
    made, released = picture("XR24", 64, 48), []
    options = dict(options)
    if "out" in options:
        options["out"] = Surface.allocate(*options["out"], "XR24")
    with pytest.raises(error):
        either.submit(Frame(made.buf, release=lambda: released.append(1)), **options)
    assert released == [1]
    assert not importer_of(either).flying


def test_what_the_driver_refuses_is_refused_as_by_read(either: Reader, picture: MakePicture) -> None:
    """Another device, or another route, would be tried; the errors are the same."""
    made, released = picture("XR24", 64, 48, modifier=0x0100000000000001), []
    for call in (either.read, either.submit):
        with pytest.raises(ImportRejected, match="TILED"):
            call(Frame(made.buf, release=lambda: released.append(1)))
    assert released == [1, 1]


def test_a_driver_that_fails_at_the_read(gpu: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a ring's buffer cannot be filled the ordinary read says what is wrong, or works."""
    made, released = picture("XR24", 64, 48), []

    def failing(*_arguments: Any) -> None:
        raise GLFailure("glReadPixels failed: on purpose")

    monkeypatch.setattr(ring, "read", failing)
    pending = gpu.submit(Frame(made.buf, release=lambda: released.append(1)))
    assert np.array_equal(pixels(pending.result()), made.rows())
    assert released == [1]
    assert all(slot.fence is None for slot in importer_of(gpu)._slots)


# ---- errors in flight


@pytest.fixture
def one_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the buffer of that slot impossible to map."""
    real, bad = ring.Slot.take, set[int]()

    def take(slot: ring.Slot, runs: Any, address: int) -> None:
        if id(slot) in bad:
            bad.discard(id(slot))
            raise GLFailure("the pixel buffer cannot be mapped")
        real(slot, runs, address)

    monkeypatch.setattr(ring.Slot, "take", take)
    return bad.add


def test_an_error_belongs_to_its_own(gpu: Reader, memfd: MemFd, one_fails: Callable[[int], None]) -> None:
    """The others come through, its buffer is used again, its frame is released once, and it says the same each time."""
    released: list[int] = []
    pictures = [_solid(memfd, n) for n in range(SLOTS)]
    waiting = [gpu.submit(Frame(made.buf, release=lambda n=n: released.append(n))) for n, made in enumerate(pictures)]
    one_fails(id(waiting[1].slot))
    assert waiting[1].done(), "there is nothing more to wait for"
    for _ in range(2):
        with pytest.raises(ImportRejected, match="the pixel buffer cannot be mapped"):
            waiting[1].result()
    assert released == [1]
    for n in (0, 2):
        assert np.array_equal(pixels(waiting[n].result()), pictures[n].rows())
    for n in range(2 * SLOTS):
        made = _solid(memfd, n)
        assert np.array_equal(pixels(gpu.submit(made.buf).result()), made.rows())
    assert released == [1, 0, 2]


def test_an_error_does_not_hit_the_next_submit(gpu: Reader, memfd: MemFd, one_fails: Callable[[int], None]) -> None:
    """Back-pressure finishes the oldest; that it failed is not the newcomer's fault."""
    released: list[int] = []
    waiting = [gpu.submit(Frame(_solid(memfd, n).buf, release=lambda n=n: released.append(n))) for n in range(SLOTS)]
    one_fails(id(waiting[0].slot))
    made = _solid(memfd, 77)
    assert np.array_equal(pixels(gpu.submit(made.buf).result()), made.rows())
    with pytest.raises(ImportRejected):
        waiting[0].result()
    assert released == [0]


def test_a_surface_that_was_closed_meanwhile(gpu: Reader, memfd: MemFd, picture: MakePicture) -> None:
    made, released = picture("XR24", 8, 8), []
    out = Surface.wrap(bytearray(8 * 8 * 4), 8, 8, "XR24")
    pending = gpu.submit(Frame(made.buf, release=lambda: released.append(1)), out)
    out.close()
    with pytest.raises(ValueError, match="the surface is closed"):
        pending.result()
    assert released == [1]
    assert not importer_of(gpu).flying
    with pytest.raises(ValueError, match="the surface is closed"):
        pending.result()


# ---- fences of the producer


@contextlib.contextmanager
def pipe_fence() -> Iterator[tuple[int, Callable[[], object]]]:
    """What polls readable when it is signalled; no sync file, though: the kernel lane has those."""
    ready, signal = os.pipe()
    try:
        yield ready, lambda: os.write(signal, b"!")
    finally:
        os.close(ready)
        os.close(signal)


@pytest.mark.parametrize("claims", [False, True], ids=["polls", "waits-on-the-gpu"])
def test_the_producer_is_waited_for(
    either: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch, claims: bool
) -> None:
    """Also on a device that would wait by itself, if it does not take this fence."""
    if claims:
        importer = importer_of(either)
        monkeypatch.setattr(fence, "can_wait_on_gpu", lambda display: display is importer.display)
        monkeypatch.setattr(fence, "wait_on_gpu", lambda *_arguments: pytest.fail("a pipe is no sync file"))
    made, released = picture("XR24", 64, 48), []
    with pipe_fence() as (ready, signal):
        frame = Frame(made.buf, acquire_fence=ready, release=lambda: released.append(1))
        started = time.monotonic()
        with pytest.raises(FenceTimeout, match=r"the acquire fence \(descriptor \d+\) did not signal within 0\.05 s"):
            either.submit(frame, timeout=0.05)
        assert 0.05 <= time.monotonic() - started < 1
        assert released == [1]
        timer = threading.Timer(0.1, signal)
        timer.start()
        assert np.array_equal(pixels(either.submit(frame).result()), made.rows())
        timer.join()
    assert released == [1, 1]
    frame = Frame(made.buf, acquire_fence=ready)
    with pytest.raises(DescriptorError, match="is not open"):
        either.submit(frame)


@pytest.mark.parametrize(("fails", "refuses"), [(False, False), (True, False), (False, True)])
def test_implicit_fences_on_the_gpu(
    gpu: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch, fails: bool, refuses: bool
) -> None:
    """Snapshots of a buffer's fences are handed to the GPU and closed; without them, or if it refuses, we wait here."""
    from glreadback import reader as module

    importer, waited, given = importer_of(gpu), list[Any](), list[int]()
    monkeypatch.setattr(fence, "can_wait_on_gpu", lambda display: display is importer.display)
    monkeypatch.setattr(module.sync, "wait", lambda *arguments: waited.append(arguments))

    def unsignalled(_fds: Any) -> list[int]:
        if fails:
            raise OSError(25, "before Linux 6.0")
        return [os.dup(0), os.dup(0)]

    monkeypatch.setattr(module.sync, "unsignalled", unsignalled)
    monkeypatch.setattr(fence, "wait_on_gpu", lambda _display, fd: bool(given.append(fd)) is refuses)
    made = picture("XR24", 64, 48)
    held = len(os.listdir("/proc/self/fd"))
    gpu.submit(made.buf).result()
    assert len(given) == (0 if fails else 1 if refuses else 2)
    assert len(waited) == (1 if fails or refuses else 0)
    gpu.forget(made.buf)
    assert len(os.listdir("/proc/self/fd")) == held


# ---- event loops


def test_no_descriptor_without_native_fences(either: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "NATIVE_EXTENSION", "EGL_none")  # where there are: tests/kernel/test_frames.py
    pending = either.submit(picture("XR24", 64, 48).buf)
    for _ in range(2):
        with pytest.raises(io.UnsupportedOperation, match=r"ask (done|result)"):
            pending.fileno()
        pending.result()


def test_a_native_fence_gives_its_descriptor(gpu: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def fileno(_fence: fence.Fence) -> int:
        made.append(os.dup(0))
        return made[-1]

    monkeypatch.setattr(fence.Fence, "fileno", fileno)
    pending = gpu.submit(picture("XR24", 64, 48).buf)
    assert pending.slot is not None
    assert pending.slot.fence is not None
    pending.slot.fence.native = True
    assert pending.fileno() == made[0]
    os.close(made[0])
    pending.result()
    with pytest.raises(io.UnsupportedOperation, match="the read is over"):
        pending.fileno()


# ---- software


def test_on_a_software_device_it_is_a_read(reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to overlap, so nothing on top: no pixel buffer, no fence, and the short way of a picture known already."""

    def never(*_arguments: Any) -> None:
        raise AssertionError("a pixel buffer")

    monkeypatch.setattr(ring.Slot, "filling", never)
    made = picture("XR24", 64, 48)
    out = reader.read(made.buf)
    reader.read(made.buf, out)
    monkeypatch.setattr(reader, "_read_on_any", never)
    for _ in range(3):
        out.data[:] = bytes(len(out.data))
        pending = reader.submit(made.buf, out)
        assert pending.slot is None
        assert np.array_equal(pixels(out), made.rows())
        assert pending.done()
        assert pending.result() is out


def test_live_memory(either: Reader, memfd: MemFd) -> None:
    fd = memfd(64 * 48 * 4)
    buf = DmaBuf(64, 48, "XR24", [Plane(fd, 0, 256)])
    with mapped(fd) as memory:
        for value in range(1, 8):
            memory[:] = bytes([value]) * len(memory)
            assert set(either.submit(buf).result().tobytes()) == {value}


# ---- lives


def test_closing_finishes_what_is_in_flight(picture: MakePicture, leaks: Callable[[], None]) -> None:
    made, released = picture("XR24", 64, 48), []
    with as_gpu(Reader("software")) as reader:
        waiting = [reader.submit(Frame(made.buf, release=lambda: released.append(1))) for _ in range(SLOTS)]
    assert released == [1] * SLOTS
    for pending in waiting:
        assert pending.done()
        assert np.array_equal(pixels(pending.result()), made.rows())


def test_closing_does_not_wait_for_ever(
    picture: MakePicture, leaks: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from glreadback import reader as module

    monkeypatch.setattr(module, "DEFAULT_TIMEOUT", 0.02)
    made, released = picture("XR24", 64, 48), []
    with as_gpu(Reader("software")) as reader:
        pending = reader.submit(Frame(made.buf, release=lambda: released.append(1)))
        with monkeypatch.context() as patch:
            Stuck(patch)
            reader.close()
    assert released == [1]
    with pytest.raises(DeviceError, match="the Reader was closed before the read was over"):
        pending.result()


def test_a_closed_reader_submits_nothing(picture: MakePicture) -> None:
    reader = Reader("software")
    reader.close()
    with pytest.raises(ValueError, match="the Reader is closed"):
        reader.submit(picture("XR24", 8, 8).buf)


def test_another_thread_may_ask(either: Reader, memfd: MemFd) -> None:
    pictures = [_solid(memfd, n) for n in range(SLOTS)]
    waiting = [either.submit(made.buf) for made in pictures]
    found: list[bytes] = []
    for pending in waiting:
        thread = threading.Thread(target=lambda pending=pending: found.append(pending.result().tobytes()))
        thread.start()
        thread.join()
    assert found == [made.rows().tobytes() for made in pictures]


def test_reads_between_submits(gpu: Reader, memfd: MemFd) -> None:
    pictures = [_solid(memfd, n) for n in range(SLOTS)]
    waiting = [gpu.submit(made.buf) for made in pictures]
    for made in pictures:
        assert np.array_equal(pixels(gpu.read(made.buf)), made.rows())
        gpu.forget(made.buf)
    for pending, made in zip(waiting, pictures, strict=True):
        assert np.array_equal(pixels(pending.result()), made.rows())
