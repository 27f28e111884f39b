"""Readers in several threads and processes: one at a time each, all of them at once, and after a fork everything anew."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pictures import MakePicture, MemFd, Picture, importer_of, pixels

from glreadback import DeviceError, Frame, Reader, Surface
from glreadback.egl import device


def in_child(work: Callable[[], None], seconds: int = 60) -> None:
    """Run work in a forked process; what goes wrong there goes wrong here, and what hangs is ended."""
    ready, report = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads: that is the point
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(ready)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            work()
            status = 0
        except BaseException:
            os.write(report, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(report)
    with os.fdopen(ready) as lines:
        said = lines.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said or f"the child ended by signal {status & 0x7F}"


def assert_reads(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    for route in ("alias", "native", "map", None):
        found = pixels(reader.read(made["AR24"].buf, route=route))
        assert np.array_equal(found, made["AR24"].rows()), route
    assert reader.read(made["NV12"].buf, route="draw").tobytes() == drawn
    with reader.map(made["AR24"].buf) as surface:
        assert np.array_equal(pixels(surface), made["AR24"].rows())
    assert np.array_equal(reader.read_planes(made["NV12"].buf)[0], made["NV12"].rows())
    assert np.array_equal(pixels(reader.submit(made["AR24"].buf).result()), made["AR24"].rows())


@pytest.fixture
def made(picture: MakePicture) -> dict[str, Picture]:
    return {fourcc: picture(fourcc, 320, 240) for fourcc in ("AR24", "NV12")}


@pytest.fixture
def drawn(reader: Reader, made: dict[str, Picture]) -> bytes:
    """The NV12 picture by the draw route, before any fork."""
    return reader.read(made["NV12"].buf, route="draw").tobytes()


# ---- fork


def test_after_a_fork_everything_is_anew(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    """Draws too: the driver's threads stayed with the parent, so the child gets a display with threads of its own."""
    assert_reads(reader, made, drawn)
    before = importer_of(reader)

    def child() -> None:
        assert not reader._open_importers()
        assert_reads(reader, made, drawn)
        after = importer_of(reader)
        assert after is not before
        assert after.context is not before.context
        assert after.display is not before.display
        assert after.display.driver == "swrast"
        with Reader("software") as another:
            assert_reads(another, made, drawn)
        reader.close()

    for _ in range(2):
        in_child(child)
        assert_reads(reader, made, drawn)
    assert importer_of(reader) is before


def test_children_of_children(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    def descend(generations: int) -> None:
        assert_reads(reader, made, drawn)
        if generations:
            in_child(lambda: descend(generations - 1))
        assert_reads(reader, made, drawn)

    in_child(lambda: descend(2))


def test_a_child_that_is_the_first_to_read(made: dict[str, Picture], reader: Reader, drawn: bytes) -> None:
    """A Reader that its parent never used, and one made in the child."""
    with Reader("software") as unused:
        in_child(lambda: assert_reads(unused, made, drawn))
        assert_reads(unused, made, drawn)


def test_egl_unused_before_the_fork(noise_fd: int) -> None:
    """Nothing is special then: the child's display is the usual one. In a fresh process, as this one has used EGL."""
    program = (
        "import os, sys\n"
        "import glreadback\n"
        "reader = glreadback.Reader('software')\n"
        "pid = os.fork()\n"
        f"planes = [glreadback.Plane({noise_fd}, 0, 64), glreadback.Plane({noise_fd}, 2048, 64)]\n"
        "buf = glreadback.DmaBuf(64, 32, 'NV12', planes)\n"
        "reader.read(buf, route='draw')\n"
        "from glreadback.egl import device\n"
        "assert len(device._users) == 1\n"
        "reader.close()\n"
        "if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], pass_fds=[noise_fd], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_leaving_without_closing(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    """A child that just exits, interpreter and all, as multiprocessing's do: no hang and no harm to the parent."""
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [context.Process(target=assert_reads, args=(reader, made, drawn)) for _ in range(3)]
        for child in children:
            child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert_reads(reader, made, drawn)


def test_a_fork_while_another_thread_reads(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    """Whoever held the lock is not there in the child, and does not let go of it."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with reader._lock:
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        in_child(lambda: assert_reads(reader, made, drawn), seconds=20)
    finally:
        go_on.set()
        thread.join()


def test_a_fork_within_a_read(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    """The producer's release callback forks: the lock is held by this very thread, and the context is current."""

    def release() -> None:
        in_child(lambda: assert_reads(reader, made, drawn))

    frame = Frame(made["AR24"].buf, release=release)
    assert np.array_equal(pixels(reader.read(frame)), made["AR24"].rows())


def test_the_copy_of_a_file_that_can_shrink_is_not_shared(reader: Reader, picture: MakePicture) -> None:
    """Memory shared over a fork would mix the pictures of parent and child."""
    mine, its = picture("XR24", 64, 48, seals=0), picture("XR24", 32, 24, seals=0)
    reader.read(mine.buf)
    staged = bytes(reader._staging or b"")

    def child() -> None:
        assert np.array_equal(pixels(reader.read(its.buf)), its.rows())

    in_child(child)
    assert bytes(reader._staging or b"") == staged
    assert np.array_equal(pixels(reader.read(mine.buf)), mine.rows())


def test_the_child_lets_go_of_the_parents_imports(reader: Reader, picture: MakePicture) -> None:
    """Descriptors of the cache are the child's to close; the parent's stay."""
    made = picture("XR24", 64, 48)
    reader.read(made.buf)
    (entry,) = importer_of(reader)._cache.values()
    numbers = [fd.fileno() for fd in entry.fds]

    def child() -> None:
        assert not entry.alive
        for number in numbers:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

    in_child(child)
    assert entry.alive
    assert [fd.fileno() for fd in entry.fds] == numbers


def test_what_was_in_flight_is_the_parents(reader: Reader, made: dict[str, Picture]) -> None:
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    released: list[int] = []
    pending = reader.submit(Frame(made["AR24"].buf, release=lambda: released.append(1)))

    def child() -> None:
        assert pending.done()
        with pytest.raises(DeviceError, match="this process was forked meanwhile; the read is the parent's"):
            pending.result()
        assert released == []

    in_child(child)
    assert released == []
    assert np.array_equal(pixels(pending.result()), made["AR24"].rows())
    assert released == [1]


def test_a_borrowed_context_stays_with_the_parent(software: None, made: dict[str, Picture]) -> None:
    from glreadback.egl.context import Context

    own = Context(device.open_display("software"))
    with own:
        inside = Reader.current()
        inside.read(made["AR24"].buf)

        def child() -> None:
            with pytest.raises(DeviceError, match=r"the borrowed context is the parent's; call Reader\.current\(\)"):
                inside.read(made["AR24"].buf)
            inside.close()

        in_child(child)
        assert np.array_equal(pixels(inside.read(made["AR24"].buf)), made["AR24"].rows())
        inside.close()
    own.close()


@pytest.mark.parametrize("lacking", ["EGL_EXT_explicit_device", "EGL_MESA_platform_surfaceless"])
def test_a_driver_that_cannot_begin_anew_says_so(
    reader: Reader, made: dict[str, Picture], monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Better than a draw that waits for ever for threads that are not there."""
    reader.read(made["AR24"].buf)
    real = device.egl.eglQueryString

    def without(display: Any, name: int) -> bytes:
        return b" ".join(word for word in real(display, name).split() if word != lacking.encode())

    def child() -> None:
        monkeypatch.setattr(device.egl, "eglQueryString", without)
        with pytest.raises(DeviceError, match=r"EGL was in use before this process was forked.*spawn"):
            reader.read(made["AR24"].buf)
        with reader.map(made["AR24"].buf) as surface:
            assert np.array_equal(pixels(surface), made["AR24"].rows())
        with Reader() as any_device:
            assert np.array_equal(pixels(any_device.read(made["AR24"].buf)), made["AR24"].rows())

    in_child(child)


def test_hardware_is_not_taken_into_a_child(software: None) -> None:
    """Its driver's threads and its kernel context are the parent's; nothing we know of makes them anew."""
    node = device.Device("/dev/dri/renderD128", frozenset())

    def child() -> None:
        with pytest.raises(DeviceError, match=r"the threads of /dev/dri/renderD128's driver stayed behind"):
            device.Display(node)

    in_child(child)


def test_forks_leak_nothing(reader: Reader, made: dict[str, Picture], leaks: Callable[[], None]) -> None:
    reader.read(made["AR24"].buf)
    for _ in range(5):
        in_child(lambda: None)


# ---- threads


def run_in_threads(works: list[Callable[[], None]]) -> None:
    """All at once; the first error of any of them is raised here."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        barrier.wait(60)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


ROUTES = ("alias", "native", "draw", "map")


def test_one_reader_from_many_threads(reader: Reader, picture: MakePicture, switching: None) -> None:
    """Each call is whole: a picture never has another one's pixels, the context never is in two threads."""
    pictures = [picture("AR24", 64 + n, 48) for n in range(6)]

    def work(number: int) -> Callable[[], None]:
        made = pictures[number]

        def run() -> None:
            out = Surface.allocate(made.buf.width, 48, "AR24")
            for turn in range(25):
                reader.read(made.buf, out, route=ROUTES[turn % 4] if turn % 4 != 2 else None)
                assert np.array_equal(pixels(out), made.rows())
                if turn % 5 == 0:
                    assert np.array_equal(pixels(reader.submit(made.buf).result()), made.rows())
                    assert np.array_equal(reader.read_planes(made.buf)[0].reshape(48, -1), made.rows())
                    reader.forget(made.buf)

        return run

    run_in_threads([work(number) for number in range(6)])


def test_one_ring_from_many_threads(reader: Reader, picture: MakePicture, switching: None) -> None:
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    pictures = [picture("XR24", 64 + n, 48) for n in range(5)]
    released: list[int] = []

    def work(number: int) -> Callable[[], None]:
        made = pictures[number]

        def run() -> None:
            for _ in range(20):
                pending = reader.submit(Frame(made.buf, release=lambda: released.append(number)))
                if number != 2:  # one of them never asks
                    assert np.array_equal(pixels(pending.result()), made.rows())

        return run

    run_in_threads([work(number) for number in range(5)])
    reader.close()
    assert sorted(released) == sorted(list(range(5)) * 20)


def test_many_readers_in_many_threads(leaks: Callable[[], None], picture: MakePicture, switching: None) -> None:
    """Made, used and closed at once, drawing too, over one display."""
    pictures = [picture("AR24", 64 + n, 48) for n in range(4)]
    nv12 = picture("NV12", 128, 96)
    with Reader("software") as reader:
        drawn = reader.read(nv12.buf, route="draw").tobytes()

    def work(number: int) -> Callable[[], None]:
        made = pictures[number]

        def run() -> None:
            for _ in range(3):
                with Reader("software") as own:
                    for turn in range(8):
                        assert np.array_equal(pixels(own.read(made.buf)), made.rows())
                        if turn % 3 == 0:
                            assert own.read(nv12.buf, route="draw").tobytes() == drawn

        return run

    run_in_threads([work(number) for number in range(4)])


def test_a_reader_moves_between_threads(reader: Reader, made: dict[str, Picture], drawn: bytes) -> None:
    """Between calls it has no context current, so the next call may come from anywhere."""
    for _ in range(3):
        run_in_threads([lambda: assert_reads(reader, made, drawn)])
        assert_reads(reader, made, drawn)


def test_closing_from_another_thread(software: None, made: dict[str, Picture]) -> None:
    reader = Reader("software")
    reader.read(made["AR24"].buf)
    run_in_threads([reader.close])
    with pytest.raises(ValueError, match="the Reader is closed"):
        reader.read(made["AR24"].buf)


def test_closing_while_others_read(software: None, made: dict[str, Picture], switching: None) -> None:
    """They finish, or find it closed."""
    reader = Reader("software")
    reader.read(made["AR24"].buf)
    wrong: list[object] = []

    def read() -> None:
        for _ in range(200):
            try:
                if not np.array_equal(pixels(reader.read(made["AR24"].buf)), made["AR24"].rows()):
                    wrong.append("pixels")
            except ValueError as error:
                if "the Reader is closed" not in str(error):
                    wrong.append(error)
                return

    def close() -> None:
        threading.Event().wait(0.02)
        reader.close()

    run_in_threads([read, read, read, close])
    assert not wrong


# ---- finalizers


def test_finalizers_touch_no_gl(software: None, memfd: MemFd, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected on any thread, with anybody's context current: not one call of GL or EGL is made for it."""
    from glreadback import importer as importers
    from glreadback.egl import context
    from glreadback.gl import texture

    made = picture("AR24", 64, 48)
    reader = Reader("software")
    reader.read(made.buf)
    reader.read(made.buf, route="draw")
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    pending: Any = reader.submit(made.buf)
    calls: list[str] = []
    with monkeypatch.context() as patch:

        def noted(name: str) -> Callable[..., None]:
            return lambda *_arguments: calls.append(name)

        patch.setattr(context, "_make_current", noted("eglMakeCurrent"))
        patch.setattr(importers, "destroy_image", noted("eglDestroyImage"))
        patch.setattr(texture.gl, "glDeleteTextures", noted("glDeleteTextures"))
        patch.setattr(context.egl, "eglDestroyContext", noted("eglDestroyContext"))
        del pending
        importer.flying.clear()
        with pytest.warns(ResourceWarning, match=r"unclosed glreadback\.Reader"):
            del reader
        gc.collect()
    assert calls == []
    importer.close()
