"""Where GL runs: the software device chosen by name, or a render node. Displays are opened once a process.

The software device is asked for explicitly (EGL_EXT_platform_device and EGL_MESA_device_software): the surfaceless
platform silently becomes kms_swrast where any DRM node exists, and that reads only its own buffers.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass, field
from typing import Any

from ..errors import DeviceError
from .gaps import display_driver_name, egl, error_name, function, gl_string, handle_value

SOFTWARE = "software"
CURRENT = "current"  # the caller's own context
ENVIRONMENT = "GLREADBACK_DEVICE"
MESA_WANTED = "25.0.3"

_PLATFORM_DEVICE_EXT, _PLATFORM_SURFACELESS_MESA, _DEVICE_EXT = 0x313F, 0x31DD, 0x322C
_DRM_DEVICE_FILE = 0x3233  # EGL_EXT_device_drm
_DRM_RENDER_NODE_FILE = 0x3377  # EGL_EXT_device_drm_render_node
_NEEDED = ("EGL_EXT_image_dma_buf_import", "EGL_KHR_surfaceless_context", "EGL_KHR_no_config_context")
# What Mesa takes where a DRM node has no GPU driver. kms_swrast draws on the CPU into that node's buffers; it reads no
# others, a draw from one of those ends the process, and it opens the card itself: whoever does that first is DRM master.
_NOT_HARDWARE = ("swrast", "kms_swrast")


@dataclass(frozen=True)
class Device:
    """One EGL device: name is "software" or a render node's path, as `--device` takes it."""

    name: str
    extensions: frozenset[str]
    card: str = ""  # the primary node, "" if it has none
    handle: Any = field(repr=False, compare=False, default=None)

    @property
    def software(self) -> bool:
        return self.name == SOFTWARE


class _NoGpu(DeviceError):
    """A DRM node for which Mesa has a software driver only."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has no GPU driver, and Mesa's stand-in for one (kms_swrast) reads that node's own buffers only; "
            "the device 'software' reads them, and all others"
        )


class Display:
    """An initialised EGL display of one device. It lives as long as the process: others may use it too."""

    def __init__(self, device: Device) -> None:
        self.device = device
        forks = _forks()
        try:
            self.handle = _display_after(device, forks) if forks else _display_of(device)
            egl.eglInitialize(self.handle, ctypes.c_int(), ctypes.c_int())
        except Exception as error:
            if not hasattr(error, "err"):
                raise
            raise DeviceError(f"eglInitialize failed on {device.name}: {error_name(error)}") from None
        self._ask(device)
        if not device.software and self.driver in _NOT_HARDWARE:
            egl.eglTerminate(self.handle)  # our own one, see _display_of
            raise _NoGpu(device.name)
        if forks and self.driver != "swrast":
            raise DeviceError(f"{device.name} became {self.driver or self.vendor} in a forked process; start the process anew")

    def _ask(self, device: Device) -> None:
        self.device = device
        self.extensions = frozenset(egl.eglQueryString(self.handle, egl.EGL_EXTENSIONS).decode().split())
        self.version = egl.eglQueryString(self.handle, egl.EGL_VERSION).decode()
        self.vendor = egl.eglQueryString(self.handle, egl.EGL_VENDOR).decode()
        self.driver = display_driver_name(self.handle) if "EGL_MESA_query_driver" in self.extensions else ""
        lacking = [name for name in _NEEDED if name not in self.extensions]
        if lacking:
            what = f"; the software device needs Mesa {MESA_WANTED} or newer" if device.software else ""
            raise DeviceError(f"{device.name} ({self.driver or self.vendor}) lacks {', '.join(lacking)}{what}")

    @classmethod
    def current(cls) -> Display:
        """The display of the context that is current on this thread; it stays the caller's. Raises DeviceError."""
        _forks()  # noted, for processes that are forked from now on
        self = cls.__new__(cls)
        self.handle = egl.eglGetCurrentDisplay()
        self._ask(Device(CURRENT, frozenset()))
        return self

    @property
    def software(self) -> bool:
        """Whether pixels are made by the CPU: such a driver maps the buffers it reads."""
        return self.device.software or self.driver in _NOT_HARDWARE

    @property
    def hardware(self) -> bool:
        """Whether a GPU is behind it, not a software driver that borrowed its node."""
        return not self.device.software and self.driver not in _NOT_HARDWARE


def _display_of(device: Device) -> Any:
    from OpenGL.EGL.EXT.platform_base import eglGetPlatformDisplayEXT

    # Mesa compares the attributes too: an empty list, which others do not write, makes the display of a node our own.
    return eglGetPlatformDisplayEXT(_PLATFORM_DEVICE_EXT, device.handle, None if device.software else [egl.EGL_NONE])


def _display_after(device: Device, forks: int) -> Any:
    """A display of the software device that no process before this one has had, so with threads of its own.

    A forked process inherits its parent's displays but none of the driver's threads: a draw waits for them for ever, and
    so does eglTerminate. EGL gives the same display for the same platform, native display and attributes; Mesa compares
    the attributes as they are written, so that naming the device once for each fork (EGL_EXT_explicit_device) is enough.
    """
    client = (egl.eglQueryString(None, egl.EGL_EXTENSIONS) or b"").decode().split()
    if not device.software or not {"EGL_EXT_explicit_device", "EGL_MESA_platform_surfaceless"} <= {*client}:
        raise DeviceError(
            f"EGL was in use before this process was forked, and the threads of {device.name}'s driver stayed behind: it "
            "would hang. Start the process anew (multiprocessing's spawn)"
        )
    named = [_DEVICE_EXT, handle_value(device.handle)] * forks
    attributes = (ctypes.c_ssize_t * (len(named) + 1))(*named, egl.EGL_NONE)
    get = function("eglGetPlatformDisplay", ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
    return ctypes.cast(get(_PLATFORM_SURFACELESS_MESA, None, attributes), egl.EGLDisplay)


_users: list[int] = []  # the processes that used EGL, oldest first: a forked one inherits the list


def _forks() -> int:
    """How many processes before this one used EGL and were forked with it. This one uses it from now on."""
    if os.getpid() not in _users:
        _users.append(os.getpid())
    return len(_users) - 1


def _device_string(handle: Any, name: int) -> str:
    from OpenGL.EGL.EXT.device_query import eglQueryDeviceStringEXT

    try:
        return (eglQueryDeviceStringEXT(handle, name) or b"").decode()
    except egl.EGLError:
        return ""


@functools.cache
def _devices(_pid: int) -> tuple[Device, ...]:
    from OpenGL.EGL.EXT.device_enumeration import eglQueryDevicesEXT

    client = (egl.eglQueryString(None, egl.EGL_EXTENSIONS) or b"").decode().split()
    if "EGL_EXT_platform_device" not in client or not {"EGL_EXT_device_enumeration", "EGL_EXT_device_base"} & {*client}:
        raise DeviceError(f"EGL has no EGL_EXT_platform_device; install Mesa {MESA_WANTED} or newer")
    handles = (egl.EGLDeviceEXT * 64)()
    count = ctypes.c_int(0)
    eglQueryDevicesEXT(len(handles), handles, ctypes.byref(count))
    found = []
    for handle in handles[: count.value]:
        extensions = frozenset(_device_string(handle, egl.EGL_EXTENSIONS).split())
        software = "EGL_MESA_device_software" in extensions
        node = _device_string(handle, _DRM_RENDER_NODE_FILE) if "EGL_EXT_device_drm_render_node" in extensions else ""
        card = _device_string(handle, _DRM_DEVICE_FILE) if "EGL_EXT_device_drm" in extensions else ""
        name = SOFTWARE if software else node or card
        if name:
            found.append(Device(name, extensions, card, handle))
    return tuple(found)


def devices() -> tuple[Device, ...]:
    """Every EGL device of this machine, render nodes first. Raises DeviceError if EGL cannot enumerate them."""
    return tuple(sorted(_devices(os.getpid()), key=lambda device: device.software))


@functools.cache
def _display(name: str, _pid: int) -> Display | _NoGpu:
    for device in devices():
        if name in (device.name, device.card):
            if not device.software and not _has_gpu(device.name):
                return _NoGpu(device.name)
            try:
                return Display(device)
            except _NoGpu as error:
                return error  # to be known without trying it again
    if name == SOFTWARE:
        raise DeviceError(f"there is no software device; install Mesa {MESA_WANTED} or newer (libegl-mesa0, libgl1-mesa-dri)")
    if not os.path.exists(name):
        raise DeviceError(f"there is no {name}; `glreadback doctor` lists the devices")
    if not os.access(name, os.R_OK | os.W_OK):
        raise DeviceError(f"no permission to open {name}; join the group that owns it (often `render` or `video`)")
    raise DeviceError(f"{name} is no EGL device; known: {', '.join(device.name for device in devices()) or 'none'}")


def _has_gpu(node: str) -> bool:
    from ..kernel.render import has_gpu  # loaded only where there is a node to ask

    return has_gpu(node)


def open_display(name: str) -> Display:
    """The display of a device by name ("software", "/dev/dri/renderD128"). Raises DeviceError with the reason."""
    if name != SOFTWARE and not name.startswith("/"):
        raise DeviceError(f"device {name!r} is unknown; give {SOFTWARE!r} or a render node such as /dev/dri/renderD128")
    try:
        found = _display(os.path.realpath(name) if name != SOFTWARE else name, os.getpid())
    except egl.EGLError as error:
        raise DeviceError(f"{name}: {error_name(error)}") from None
    if isinstance(found, DeviceError):
        raise DeviceError(str(found))
    return found


def candidates(own: str | None = None, dmabuf: bool = True) -> list[str]:
    """The devices to try for a frame, best first: its own, then hardware render nodes, then software.

    Only a software driver takes a file or memfd for a dma-buf, so for those (dmabuf=False) it is the only one.
    GLREADBACK_DEVICE overrides them all.
    """
    forced = os.environ.get(ENVIRONMENT)
    if forced:
        return [forced]
    if not dmabuf:
        return [SOFTWARE]
    names = [own] if own else []
    for device in devices():
        if device.software or device.name in names:
            continue
        try:
            if open_display(device.name).hardware:
                names.append(device.name)
        except DeviceError:
            continue
    return [*names, SOFTWARE]


def too_old(version: str) -> str:
    """What is wrong with a Mesa that makes wrong pixels of some buffers, by its GL_VERSION; "" if nothing is.

    Before 25.0.3 the software driver ignores a plane's offset.
    """
    _, mesa, rest = version.partition("Mesa ")
    number = rest.split()[0].partition("-")[0] if mesa and rest else ""
    try:
        found = tuple(int(part) for part in number.split("."))
    except ValueError:
        return ""
    if not found or found >= tuple(int(part) for part in MESA_WANTED.split(".")):
        return ""
    return f"Mesa {number} ignores planes' offsets in software; install {MESA_WANTED} or newer"


def mesa_version() -> str:
    """Mesa's own version from the current context's GL_VERSION, "" if it is not Mesa."""
    from OpenGL.GLES3 import GL_VERSION

    _, mesa, version = gl_string(GL_VERSION).partition("Mesa ")
    return version.split()[0] if mesa and version else ""
