"""Where GL runs: the device that was asked for, or an error that says what was tried."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import MakePicture, assert_route, importer_of, pixels

import glreadback
from glreadback import DeviceError, Frame, GlReadbackError, Reader
from glreadback.reader import DEVICE_VARIABLE

ROOT = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if EGL found no device at all."""
    from glreadback.egl import device

    monkeypatch.setattr(device, "_devices", lambda _pid: ())
    device._display.cache_clear()


def test_the_variable_has_one_name() -> None:
    from glreadback.egl.device import ENVIRONMENT

    assert ENVIRONMENT == DEVICE_VARIABLE == "GLREADBACK_DEVICE"


def test_software_by_name(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = picture("XR24", 16, 16)
    with Reader("software") as reader:
        assert np.array_equal(pixels(reader.read(made.buf)), made.rows())
        caps = reader.capabilities()
    assert caps.device == "software"
    assert caps.software
    assert caps.driver == "swrast"
    assert "llvmpipe" in caps.renderer
    assert caps.version.startswith("OpenGL ES 3")
    assert caps.max_extent == 16384
    assert caps.sampler(glreadback.Fourcc("AB24"), 0) == "2d"


def test_none_takes_software_for_a_memfd(leaks: Callable[[], None], picture: MakePicture) -> None:
    """Only a software driver takes a memfd for a dma-buf, so no other device is even tried."""
    made = picture("XR24", 16, 16)
    with Reader() as reader:
        assert_route(reader.read(made.buf), "alias")
        assert list(reader._importers) == ["software"]
        assert reader.capabilities(made.buf).device == "software"


@pytest.mark.parametrize("name", ["bogus", "renderD128", "/nowhere/renderD999", "/dev/null", "Software"])
def test_unknown_devices(leaks: Callable[[], None], picture: MakePicture, name: str) -> None:
    """An error that names the device and says why: never another device, never a read without GL."""
    made = picture("XR24", 16, 16)
    with Reader(name) as reader:
        reads: list[Callable[[], Any]] = [
            lambda: reader.read(made.buf),
            lambda: reader.read(made.buf, route="alias"),
            lambda: reader.read_planes(made.buf),
            lambda: reader.read_planes(made.buf, route="alias"),
            lambda: reader.capabilities(),
        ]
        for read in reads * 2:
            with pytest.raises(DeviceError, match=f"no device can read: {name}: ") as caught:
                read()
            assert list(caught.value.tried) == [name]
            assert caught.value.tried[name] in str(caught.value)
        # What needs no device works.
        assert_route(reader.read(made.buf, route="map"), "map")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bogus", "device 'bogus' is unknown; give 'software' or a render node such as /dev/dri/renderD128"),
        ("/nowhere/renderD999", "there is no /nowhere/renderD999; `glreadback doctor` lists the devices"),
        ("/dev/null", "/dev/null is no EGL device; known: .*software"),
    ],
)
def test_why_a_device_is_none(name: str, why: str) -> None:
    from glreadback.egl.device import open_display

    with pytest.raises(DeviceError, match=why):
        open_display(name)


def test_a_device_without_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from glreadback.egl.device import open_display

    node = tmp_path / "renderD128"
    node.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    with pytest.raises(DeviceError, match=f"no permission to open {node}; join the group that owns it"):
        open_display(str(node))


def test_the_environment_overrides_none(
    leaks: Callable[[], None], picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = picture("XR24", 16, 16)
    monkeypatch.setenv(DEVICE_VARIABLE, "bogus")
    for read in (Reader.read, Reader.read_planes):
        with Reader() as reader, pytest.raises(DeviceError, match="no device can read: bogus: device 'bogus' is unknown"):
            read(reader, made.buf)
    with pytest.raises(DeviceError, match="bogus"):
        glreadback.read(made.buf)
    with Reader("software") as reader:  # but not what the program asks for
        reader.read(made.buf)
    monkeypatch.setenv(DEVICE_VARIABLE, "software")
    with Reader() as reader:
        assert_route(reader.read(Frame(made.buf, device="/nowhere/renderD999")), "alias")
    monkeypatch.setenv(DEVICE_VARIABLE, "")
    with Reader() as reader:
        assert_route(reader.read(made.buf), "alias")


def test_without_any_device_linear_buffers_are_mapped(
    leaks: Callable[[], None], picture: MakePicture, no_devices: None
) -> None:
    made, nv12 = picture("XR24", 16, 16), picture("NV12", 16, 16)
    with Reader() as reader:
        surface = reader.read(made.buf)
        assert_route(surface, "map")
        assert "no device can read: software: there is no software device; install Mesa 25.0.3" in surface.route.reason
        assert np.array_equal(pixels(surface), made.rows())
        for index, plane in enumerate(reader.read_planes(nv12.buf)):
            assert np.array_equal(plane.reshape(plane.shape[0], -1), nv12.rows(index))
        with pytest.raises(DeviceError, match="there is no software device"):
            reader.read_planes(nv12.buf, route="alias")
        with pytest.raises(GlReadbackError, match="no GL works"):
            reader.read(nv12.buf, fourcc="AB4H")
        with pytest.raises(GlReadbackError, match="no GL works"):
            reader.read(made.buf, route="draw")


def test_a_device_is_asked_once(leaks: Callable[[], None], picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts and capabilities are made at the first read and kept; failures are kept as well."""
    from glreadback import importer

    made = picture("XR24", 16, 16)
    opened: list[str] = []
    real = importer.open_display
    monkeypatch.setattr(importer, "open_display", lambda name: opened.append(name) or real(name))
    for name in ("software", "bogus"):
        opened.clear()
        with Reader(name) as reader:
            assert not opened
            for _ in range(3):
                try:
                    reader.read(made.buf)
                except DeviceError:
                    assert name == "bogus"
            assert opened == [name]


def test_displays_are_shared(software: None) -> None:
    """EGL has one display for a device in a process; closing a reader must not take it from another one."""
    with Reader("software") as one, Reader("software") as other:
        assert importer_of(one).display is importer_of(other).display
        one.close()
        assert other.capabilities().device == "software"


def test_a_context_used_elsewhere(reader: Reader, picture: MakePicture) -> None:
    """A context that is current on another thread cannot be made current: said, not ignored."""
    import threading

    made = picture("XR24", 8, 8)
    reader.read(made.buf)
    importer = importer_of(reader)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with importer.context:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with pytest.raises(DeviceError, match=r"cannot be made current .*is another thread using this Reader"):
        reader.read(made.buf)
    done.set()
    thread.join()
    assert np.array_equal(pixels(reader.read(made.buf)), made.rows())


# ---- what the process has loaded


def _run(text: str, **environment: str) -> Iterator[str]:
    cleaned = {name: value for name, value in os.environ.items() if not name.startswith(("PYOPENGL", "GLREADBACK"))}
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=True,
        env={**cleaned, "PYTHONPATH": ROOT, **environment},
    )
    return iter(done.stdout.splitlines())


READ = """
import os
from glreadback import DmaBuf, GlReadbackError, Plane, Reader
from glreadback.kernel.udmabuf import sealed_memfd
buf = DmaBuf(4, 4, "XR24", [Plane(sealed_memfd(4096), 0, 16)])
for device in ("software", None):
    with Reader(device) as reader:
        try:
            print(reader.read(buf).route.reason)
        except GlReadbackError as error:
            print(type(error).__name__, error)
"""


def test_opengl_imported_first_for_another_platform() -> None:
    """PyOpenGL binds to GLX or EGL when it is imported; where that was GLX, GLES cannot work, and the error says so."""
    forced, free = _run("import OpenGL.GL\n" + READ, PYOPENGL_PLATFORM="glx")
    assert forced.startswith("DeviceError no device can read: EGL: OpenGL was imported before the first read")
    assert "GLXPlatform" in forced
    assert "set PYOPENGL_PLATFORM=egl" in forced
    assert free.startswith("mapped and copied, no GL")
    forced, free = _run("import OpenGL.GL\n" + READ, PYOPENGL_PLATFORM="egl")
    assert forced == free == "linear: the same bytes as AB24"


def test_without_libegl() -> None:
    """As on a machine where it is not installed: an error that says what to install, and reads without GL."""
    broken = """
import ctypes.util, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "OpenGL.EGL":
            raise ImportError("Unable to load EGL library")
sys.meta_path.insert(0, Missing())
"""
    forced, free = _run(broken + READ)
    assert forced.startswith(
        "DeviceError no device can read: EGL: PyOpenGL cannot load EGL (Unable to load EGL library); install libegl1"
    )
    assert free.startswith("mapped and copied, no GL; after: no device can read: EGL: PyOpenGL cannot load EGL")
