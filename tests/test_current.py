"""Reader.current(): inside the caller's own context, whose state is the same before and after, whatever it is."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glstate
import moderngl
import numpy as np
import pytest
from glstate import Unusual, gl
from pictures import MakePicture, MemFd, Picture, pixels

from glreadback import Color, DescriptorError, DeviceError, DmaBuf, Frame, ImportRejected, Plane, Reader, Surface
from glreadback.egl.device import open_display
from glreadback.egl.gaps import egl

# ---- contexts of other people


@contextmanager
def raw(api: int, *attributes: int) -> Iterator[None]:
    """A context made with EGL alone, current in here."""
    display = open_display("software").handle
    egl.eglBindAPI(api)
    context = egl.eglCreateContext(display, None, egl.EGL_NO_CONTEXT, [*attributes, egl.EGL_NONE])
    egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, context)
    try:
        yield
    finally:
        egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)
        egl.eglDestroyContext(display, context)
        egl.eglBindAPI(egl.EGL_OPENGL_ES_API)


@contextmanager
def from_moderngl() -> Iterator[moderngl.Context]:
    """A desktop core context of another library, on a display of its own."""
    context = moderngl.create_standalone_context(backend="egl", require=330)
    try:
        yield context
    finally:
        context.release()
        display = egl.eglGetCurrentDisplay()
        if display:
            egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)


MAJOR, MINOR, PROFILE = 0x3098, 0x30FB, 0x30FD
CONTEXTS: dict[str, Callable[[], Any]] = {
    "gles": lambda: raw(egl.EGL_OPENGL_ES_API, MAJOR, 3),
    "core": lambda: raw(egl.EGL_OPENGL_API, MAJOR, 3, MINOR, 3, PROFILE, 1),
    "compatibility": lambda: raw(egl.EGL_OPENGL_API, MAJOR, 3, MINOR, 3, PROFILE, 2),
    "moderngl": from_moderngl,
}


@pytest.fixture(params=list(CONTEXTS))
def context(request: pytest.FixtureRequest, leaks: Callable[[], None]) -> Iterator[Any]:
    # The context goes before the watch over leaks looks: Mesa keeps what a context drew from last until it draws again.
    with CONTEXTS[request.param]() as made:
        yield made


@pytest.fixture
def gles(leaks: Callable[[], None]) -> Iterator[None]:
    with CONTEXTS["gles"]():
        yield


# ---- what one can do with a reader


@dataclass(frozen=True)
class Todo:
    """One way to use a reader: what it returns are the pixels to compare."""

    fourcc: str
    do: Callable[[Reader, Picture], np.ndarray[Any, Any]]
    color: Color | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None


def _read(**options: Any) -> Callable[[Reader, Picture], np.ndarray[Any, Any]]:
    return lambda reader, made: pixels(reader.read(made.buf, **options))


def _frame(**what: Any) -> Callable[[Reader, Picture], np.ndarray[Any, Any]]:
    options = {name: what.pop(name) for name in ("fourcc", "tone_map", "scale", "route") if name in what}
    return lambda reader, made: pixels(reader.read(Frame(made.buf, **what), **options))


def _again(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    out = Surface.allocate(made.buf.width, made.buf.height, made.buf.fourcc)
    for _ in range(3):
        out.data[:] = bytes(len(out.data))
        reader.read(made.buf, out)
    return pixels(out)


def _damage(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    out = Surface.allocate(made.buf.width, made.buf.height, made.buf.fourcc)
    return pixels(reader.read(made.buf, out, damage=[(3, 5, 17, 9), (40, 2, 8, 30)]))


def _planes(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    return np.concatenate([plane.reshape(-1).view(np.uint8) for plane in reader.read_planes(made.buf)])


def _map(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    with reader.map(made.buf) as surface:
        return pixels(surface).copy()


def _submit(**options: Any) -> Callable[[Reader, Picture], np.ndarray[Any, Any]]:
    def do(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
        waiting = [reader.submit(made.buf, **options) for _ in range(5)]
        (found,) = {pending.result().tobytes() for pending in waiting}
        return np.frombuffer(found, np.uint8)

    return do


def _forget(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    reader.read(made.buf)
    reader.forget(made.buf)
    return pixels(reader.read(made.buf))


def _refused(reader: Reader, made: Picture) -> np.ndarray[Any, Any]:
    tiled = DmaBuf(made.buf.width, made.buf.height, "XR24", made.buf.planes, modifier=0x0100000000000001)
    for picture, options in ((tiled, {}), (made.buf, {"rect": (0, 0, 1000, 1)}), (made.buf, {"route": "nowhere"})):
        with pytest.raises((ImportRejected, DescriptorError)):
            reader.read(picture, **options)  # type: ignore[arg-type]
    return pixels(reader.read(made.buf))


PQ = Color(primaries="2020", transfer="pq")
TODO = {
    "alias": Todo("XR24", _read(route="alias")),
    "alias-half": Todo("AB4H", _read(route="alias")),
    "alias-rows": Todo("GR88", _read(route="alias", rect=(1, 2, 33, 7))),
    "swapped": Todo("XR24", _read(fourcc="AB24")),
    "upside-down": Todo("AR24", _frame(y_invert=True)),
    "native": Todo("AR24", _read(route="native")),
    "native-half": Todo("AB4H", _read(route="native")),  # numbers beyond 0 and 1
    "again": Todo("XR24", _again),
    "draw": Todo("NV12", _read(route="draw")),
    "draw-three-planes": Todo("YU12", _read(route="draw")),
    "draw-external": Todo("YUYV", _read(route="draw")),
    "draw-turned": Todo("XR24", _frame(transform="flipped-90", route="draw")),
    "draw-deep": Todo("P010", _read(route="draw", fourcc="AB30")),
    "draw-palette": Todo("C8", _frame(palette=tuple((n, 255 - n, n // 2) for n in range(256)), fourcc="AB24", route="draw")),
    "scaled": Todo("XR24", _read(scale=(30, 20), route="draw")),
    "tone-mapped": Todo("AB30", _frame(color=PQ, tone_map=True, route="draw")),
    "planes": Todo("NV12", _planes),
    "map": Todo("XR24", _map),
    "damage": Todo("XR24", _damage),
    "submit": Todo("XR24", _submit()),
    "submit-draw": Todo("NV12", _submit(route="draw")),
    "forget": Todo("XR24", _forget),
    "refused": Todo("XR24", _refused),
}


def asynchronous(reader: Reader) -> None:
    """Take the device for a GPU: a ring of pixel buffers, images bound again for each frame."""
    reader.capabilities()
    for importer in reader._open_importers():
        importer.capabilities = dataclasses.replace(importer.capabilities, software=False)


# ---- the same before and after, and the right pixels


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", TODO)
def test_all_state_is_as_it_was(
    context: Any, picture: MakePicture, reader: Reader, name: str, gpu: bool, request: pytest.FixtureRequest
) -> None:
    """Everything unusual, transform feedback running: not a value changes, and the pixels are those of a context of our own."""
    todo = TODO[name]
    made = picture(todo.fourcc, 64, 48, pad=64, offset=128)
    expected = todo.do(reader, made)
    unusual = Unusual().set()
    own = unusual.pixels()
    before = glstate.state()
    names = glstate.objects()
    with Reader.current() as inside:
        if gpu:
            asynchronous(inside)
        for _ in range(2):  # the first one makes what later ones use
            found = todo.do(inside, made)
            assert not glstate.differences(before, glstate.state())
            assert np.array_equal(found, expected)
    assert not glstate.differences(before, glstate.state())
    assert glstate.objects() == names
    assert unusual.pixels() == own
    unusual.release()


def test_the_unusual_is_unusual(context: Any) -> None:
    """The list above is worth something: most of what it names is not as a new context has it, and errors are no answers."""
    new = glstate.state()
    unusual = Unusual().set()
    changed = glstate.differences(new, glstate.state())
    unusual.release()
    assert len(changed) > 150
    answered = [name for name, value in new.items() if not any("error" in str(part) for part in (value, ()))]
    assert len(answered) > 300


def test_the_list_sees_what_a_careless_reader_does(gles: None) -> None:
    """Each of these is a mistake that one of the comparisons must show."""
    mistakes: dict[str, Callable[[], object]] = {
        "PACK_ALIGNMENT": lambda: gl.PixelStorei(0x0D05, 1),
        "PIXEL_PACK_BUFFER_BINDING": lambda: gl.BindBuffer(0x88EB, 0),
        "READ_FRAMEBUFFER_BINDING": lambda: gl.BindFramebuffer(0x8CA8, 0),
        "unit 5 2D": lambda: gl.BindTexture(0x0DE1, 0),
        "ACTIVE_TEXTURE": lambda: gl.ActiveTexture(0x84C0),
        "unit 2 SAMPLER": lambda: gl.BindSampler(2, 0),
        "BLEND 3 enabled": lambda: gl.Disable(0x0BE2),
        "COLOR_WRITEMASK 1": lambda: gl.ColorMask(1, 1, 1, 1),
        "VIEWPORT 4": lambda: gl.Viewport(0, 0, 1, 1),
        "SCISSOR_TEST 3 enabled": lambda: gl.Disable(0x0C11),
        "CLIP_DISTANCE5 enabled": lambda: gl.Disable(0x3005),
        "RASTERIZER_DISCARD enabled": lambda: gl.Disable(0x8C89),
        "TRANSFORM_FEEDBACK_PAUSED": lambda: gl.PauseTransformFeedback(),
    }
    for name, mistake in mistakes.items():
        unusual = Unusual().set()
        before = glstate.state()
        mistake()
        assert name in glstate.differences(before, glstate.state())
        unusual.release()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "kind"), [("GL", "3.3", "core"), ("GL", "3.3COMPAT", "compatibility"), ("GLES", "3.0", "gles")]
)
def test_the_oldest_versions_will_do(variable: str, value: str, kind: str) -> None:
    """The same in a process whose driver offers nothing newer: later functions must not be called there."""
    chosen = f"test_all_state_is_as_it_was and {kind} and not moderngl and (cpu or submit)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
    environment = {**os.environ, f"MESA_{variable}_VERSION_OVERRIDE": value}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("code", [0x0500, 0x0501, 0x0502])
@pytest.mark.parametrize("name", ["alias", "draw"])
def test_an_error_of_the_callers_stays_the_callers(
    context: Any, picture: MakePicture, reader: Reader, code: int, name: str
) -> None:
    todo = TODO[name]
    made = picture(todo.fourcc, 32, 32)
    expected = todo.do(reader, made)
    with Reader.current() as inside:
        for _ in range(2):
            gl.BindBuffer(0x88EB, 0)
            {0x0500: lambda: gl.Enable(0), 0x0501: lambda: gl.Viewport(0, 0, -1, 0), 0x0502: lambda: gl.UnmapBuffer(0x88EB)}[
                code
            ]()
            assert np.array_equal(todo.do(inside, made), expected)
            assert gl.GetError() == code
            assert gl.GetError() == 0


def test_making_one_with_an_error_pending(context: Any) -> None:
    gl.Enable(0)
    Reader.current().close()


def test_indexed_state_alone(context: Any, picture: MakePicture) -> None:
    """Where the first draw buffer blends and others don't, what glIsEnabled says is not the whole truth."""
    made = picture("NV12", 16, 16)
    for index in range(8):
        (gl.Disablei if index % 2 else gl.Enablei)(0x0BE2, index)
        gl.ColorMaski(index, 1, index % 2, 1, 0)
    before = glstate.state()
    with Reader.current() as inside:
        inside.read(made.buf, route="draw")
    assert not glstate.differences(before, glstate.state())


def test_paused_feedback_stays_paused(context: Any, picture: MakePicture) -> None:
    unusual = Unusual().set()
    gl.PauseTransformFeedback()
    before = glstate.state()
    with Reader.current() as inside:
        inside.read(picture("NV12", 16, 16).buf, route="draw")
    assert not glstate.differences(before, glstate.state())
    unusual.release()


def test_feedback_goes_on_afterwards(context: Any, picture: MakePicture) -> None:
    """It catches the caller's vertices and none of ours."""
    unusual = Unusual().set()
    query = glstate.one(gl.GenQueries)
    gl.BeginQuery(0x8C88, query)
    with Reader.current() as inside:
        inside.read(picture("NV12", 16, 16).buf, route="draw")
        gl.DrawArrays(0, 0, 7)
    gl.EndQuery(0x8C88)
    written = ctypes.c_uint()
    gl.GetQueryObjectuiv(query, 0x8866, ctypes.byref(written))
    assert written.value == 7
    unusual.release()


def test_what_moderngl_draws_is_what_it_draws_without_us(software: None, picture: MakePicture) -> None:
    """A frame of another library with reads in between."""
    made = picture("XR24", 64, 48)
    with from_moderngl() as context:
        program = context.program(
            vertex_shader="#version 330\nin vec2 place;\nvoid main() { gl_Position = vec4(place, 0.0, 1.0); }",
            fragment_shader="#version 330\nout vec4 colour;\nvoid main() { colour = vec4(0.2, 0.4, 0.6, 1.0); }",
        )
        corners = context.buffer(np.array([-1, -1, 1, -1, -1, 1], "f4").tobytes())
        shape = context.vertex_array(program, [(corners, "2f", "place")])
        screen = context.simple_framebuffer((32, 32))

        def frame(between: Callable[[], object]) -> bytes:
            screen.use()
            screen.clear(0.5, 0.0, 0.0, 1.0)
            between()
            shape.render()
            between()
            return bytes(screen.read(components=4))

        alone = frame(lambda: None)
        assert len(set(alone)) > 2
        with Reader.current() as inside:
            assert frame(lambda: inside.read(made.buf)) == alone
            assert frame(lambda: inside.read(made.buf, route="draw", scale=(10, 10))) == alone
            assert np.array_equal(pixels(inside.read(made.buf)), made.rows())
        assert context.error == "GL_NO_ERROR"


# ---- whose context it is


def test_it_makes_no_display_and_no_context(gles: None, monkeypatch: pytest.MonkeyPatch, picture: MakePicture) -> None:
    from glreadback.egl import context, device

    def none(*_arguments: Any) -> None:
        raise AssertionError("a display or context of its own")

    monkeypatch.setattr(device.Display, "__init__", none)
    monkeypatch.setattr(context.Context, "__init__", none)
    before = glstate_egl()
    made = picture("NV12", 16, 16)
    with Reader.current() as inside:
        inside.read(made.buf, route="draw")
        assert inside.capabilities().device == "current"
    assert glstate_egl() == before


def glstate_egl() -> tuple[Any, ...]:
    kinds = (egl.EGL_DRAW, egl.EGL_READ)
    handles = [egl.eglGetCurrentContext(), egl.eglGetCurrentDisplay(), *(egl.eglGetCurrentSurface(kind) for kind in kinds)]
    return (*(ctypes.cast(handle, ctypes.c_void_p).value for handle in handles), int(egl.eglQueryAPI()))


def test_without_a_context(software: None) -> None:
    with pytest.raises(DeviceError, match="no EGL context is current on this thread"):
        Reader.current()


def test_a_context_that_is_too_old(gles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from glreadback.gl import capabilities

    for word in ("3.2 (Core Profile) Mesa", "OpenGL ES 2.0 Mesa", "2.1 Mesa"):
        monkeypatch.setattr(capabilities, "gl_string", lambda _name, word=word: word)
        with pytest.raises(DeviceError, match="is needed"):
            Reader.current()


@pytest.mark.parametrize("do", [name for name in TODO if name not in ("map", "refused")])
def test_when_another_context_is_current(software: None, picture: MakePicture, do: str) -> None:
    """Or none: nothing is done, and the context that is current is left alone."""
    todo = TODO[do]
    made = picture(todo.fourcc, 64, 48)
    with CONTEXTS["gles"]():
        inside = Reader.current()
        todo.do(inside, made)
        with CONTEXTS["core"]():
            before = glstate.state()
            with pytest.raises(DeviceError, match=r"Reader\.current\(\) borrowed is not current on this thread"):
                todo.do(inside, made)
            assert not glstate.differences(before, glstate.state())
        # `raw` leaves none current.
        with pytest.raises(DeviceError, match="not current"):
            todo.do(inside, made)
        inside.close()


def test_on_another_thread(gles: None, picture: MakePicture) -> None:
    made = picture("XR24", 16, 16)
    caught: list[str] = []

    def elsewhere() -> None:
        for call in (Reader.current, lambda: inside.read(made.buf)):
            try:
                call()
            except DeviceError as error:
                caught.append(str(error))

    with Reader.current() as inside:
        inside.read(made.buf)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(caught) == 2
        assert np.array_equal(pixels(inside.read(made.buf)), made.rows())


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_closing_with_another_context_current(leaks: Callable[[], None], picture: MakePicture, gpu: bool) -> None:
    """Descriptors and images go; names of GL objects mean something else over there, and are not deleted."""
    made = picture("XR24", 64, 48)
    released: list[int] = []
    with CONTEXTS["gles"]():
        inside = Reader.current()
        if gpu:
            asynchronous(inside)
            inside.submit(Frame(made.buf, release=lambda: released.append(1)))
        inside.read(made.buf)
        inside.read(made.buf, route="draw")
        with CONTEXTS["gles"]():
            Unusual().set(feedback=False)
            before, names = glstate.state(), glstate.objects()
            inside.close()
            assert not glstate.differences(before, glstate.state())
            assert glstate.objects() == names
    assert released == [1] * gpu


def test_closing_gives_back_every_name(context: Any, picture: MakePicture) -> None:
    pictures = {name: picture(todo.fourcc, 64, 48) for name, todo in TODO.items()}
    names = glstate.objects()
    with Reader.current() as inside:
        asynchronous(inside)
        for name, todo in TODO.items():
            todo.do(inside, pictures[name])
        assert glstate.objects() != names
    assert glstate.objects() == names


def test_a_finalizer_touches_no_gl(gles: None, picture: MakePicture) -> None:
    """It runs wherever the last reference goes, whatever is current there."""
    made = picture("XR24", 16, 16)
    inside = Reader.current()
    inside.read(made.buf)
    importer = inside._importers["current"]
    with CONTEXTS["gles"]():
        Unusual().set(feedback=False)
        before, names = glstate.state(), glstate.objects()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del inside
        assert not glstate.differences(before, glstate.state())
        assert glstate.objects() == names
    assert not isinstance(importer, DeviceError)
    importer.close()


def test_several_inside_one_context(context: Any, picture: MakePicture, memfd: MemFd) -> None:
    made, other = picture("XR24", 64, 48), picture("NV12", 64, 48)
    before = glstate.state()
    with Reader.current() as one, Reader.current() as two:
        for _ in range(3):
            assert np.array_equal(pixels(one.read(made.buf)), made.rows())
            assert np.array_equal(one.read(other.buf).array(), two.read(other.buf).array())
    assert not glstate.differences(before, glstate.state())


def test_beside_a_reader_of_its_own(context: Any, picture: MakePicture) -> None:
    """A Reader with a context of its own, used while the caller's is current: that one comes back, untouched."""
    made = picture("NV12", 64, 48)
    unusual = Unusual().set()
    before, handles = glstate.state(), glstate_egl()
    with Reader("software") as outside:
        outside.read(made.buf, route="draw")
        assert glstate_egl() == handles
        assert not glstate.differences(before, glstate.state())
        outside.submit(made.buf).result()
        outside.forget(made.buf)
    assert glstate_egl() == handles
    assert not glstate.differences(before, glstate.state())
    unusual.release()


def test_live_memory_is_seen_inside(context: Any, memfd: MemFd) -> None:
    fd = memfd(64 * 4 * 4)
    buf = DmaBuf(64, 4, "XR24", [Plane(fd, 0, 256)])
    out = Surface.allocate(64, 4, "XR24")
    with Reader.current() as inside:
        for value in range(1, 6):
            os.pwrite(fd, bytes([value]) * 1024, 0)
            assert set(inside.read(buf, out).tobytes()) == {value}
