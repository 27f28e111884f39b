"""What PyOpenGL's EGL and GLES lack or get wrong, filled in one place. Everything else of egl/ and gl/ is plain PyOpenGL.

The functions here are fetched by eglGetProcAddress, as their extensions ask for.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from ..errors import DeviceError

try:
    from OpenGL import EGL as egl  # the specifications' own case
    from OpenGL.platform import PLATFORM
except (ImportError, AttributeError, TypeError) as error:
    # PyOpenGL answers a missing libEGL with an AttributeError on None.
    raise DeviceError(
        f"PyOpenGL cannot load EGL ({error}); install libegl1, libgles2 and Mesa, or set PYOPENGL_PLATFORM=egl"
    ) from None

if type(PLATFORM).__name__ != "EGLPlatform":
    raise DeviceError(
        f"OpenGL was imported before the first read, and PyOpenGL chose its {type(PLATFORM).__name__}, which has no GLES: "
        "set PYOPENGL_PLATFORM=egl before OpenGL is imported"
    )

__all__ = [
    "NO_CONFIG",
    "delete",
    "display_driver_name",
    "egl",
    "error_name",
    "function",
    "generate",
    "get_integer",
    "gl_string",
    "handle_value",
    "image_target_texture_2d",
    "is_null",
    "optional",
    "query_dmabuf_formats",
    "query_dmabuf_modifiers",
]

# KHR_no_config_context has no module in PyOpenGL; its one token is the null config.
NO_CONFIG = None

# EXT_image_dma_buf_import_modifiers: PyOpenGL has the tokens' module but not the two queries.
_QUERY_FORMATS = (ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_QUERY_MODIFIERS = (
    *(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
)


# PyOpenGL's own eglGetProcAddress loads its string handlers, and with them much of OpenGL.raw.GL.
_get_proc_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(("eglGetProcAddress", PLATFORM.EGL))


@functools.cache
def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    address = _get_proc_address(name.encode())
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """The driver's own entry point of an EGL or GLES function, without PyOpenGL's microsecond around it.

    Needs EGL_KHR_get_all_proc_addresses or EGL 1.5, which dma-buf import implies. Errors are the caller's to ask for.
    """
    found = _function(name, result, *arguments)
    if found is None:  # libglvnd without a driver behind it knows no extension
        raise DeviceError(f"EGL has no {name}; install Mesa 25.0.3 or newer (libegl-mesa0, libgl1-mesa-dri), or a GPU's driver")
    return found


def optional(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """As `function`, of an extension: None where nobody knows the name. A pointer is no proof that the driver has it."""
    return _function(name, result, *arguments)


def _pointer(handle: Any) -> int | None:
    return handle if isinstance(handle, int) else ctypes.cast(handle, ctypes.c_void_p).value


def query_dmabuf_formats(display: Any) -> list[int]:
    """The fourcc codes the driver says it imports (eglQueryDmaBufFormatsEXT); it may promise too much."""
    function = _function("eglQueryDmaBufFormatsEXT", *_QUERY_FORMATS)
    count = ctypes.c_int(0)
    if function is None or not function(_pointer(display), 0, None, ctypes.byref(count)):
        return []
    codes = (ctypes.c_int * count.value)()
    if not count.value or not function(_pointer(display), count.value, codes, ctypes.byref(count)):
        return []
    return [code & 0xFFFFFFFF for code in codes[: count.value]]


def query_dmabuf_modifiers(display: Any, code: int) -> dict[int, bool]:
    """modifier -> whether it is external_only, for one fourcc (eglQueryDmaBufModifiersEXT)."""
    function = _function("eglQueryDmaBufModifiersEXT", *_QUERY_MODIFIERS)
    count = ctypes.c_int(0)
    # Some drivers answer BAD_PARAMETER for a format they have just listed: none, then.
    if function is None or not function(_pointer(display), code, 0, None, None, ctypes.byref(count)):
        egl.eglGetError()
        return {}
    modifiers = (ctypes.c_uint64 * max(count.value, 1))()
    external = (ctypes.c_uint * max(count.value, 1))()  # zeroed: llvmpipe does not write it for RGB formats
    if not function(_pointer(display), code, count.value, modifiers, external, ctypes.byref(count)):
        egl.eglGetError()
        return {}
    return {modifiers[index]: bool(external[index]) for index in range(count.value)}


def display_driver_name(display: Any) -> str:
    """The driver behind a display (EGL_MESA_query_driver, which PyOpenGL lacks), "" where it does not say."""
    function = _function("eglGetDisplayDriverName", ctypes.c_char_p, ctypes.c_void_p)
    return (function(_pointer(display)) or b"").decode() if function is not None else ""


def image_target_texture_2d(target: int, image: Any) -> None:
    """glEGLImageTargetTexture2DOES; PyOpenGL's own looks unavailable to it though the driver has it."""
    function = _function("glEGLImageTargetTexture2DOES", None, ctypes.c_uint, ctypes.c_void_p)
    assert function is not None, "GL_OES_EGL_image was asked for when the device was opened"
    function(target, _pointer(image))


def gl_string(name: int) -> str:
    """glGetString, decoded; PyOpenGL's GLES one returns an undecoded array."""
    function = _function("glGetString", ctypes.c_char_p, ctypes.c_uint)
    return ((function(name) if function is not None else None) or b"").decode()


# PyOpenGL loads numpy to return what these return, which costs a command 75 ms. One name at a time is all that we need.


def get_integer(name: int) -> int:
    """glGetIntegerv of a single value."""
    value = ctypes.c_int(0)
    function("glGetIntegerv", None, ctypes.c_uint, ctypes.c_void_p)(name, ctypes.byref(value))
    return value.value


def generate(kind: str) -> int:
    """A new name: glGen… of kind "Textures", "Framebuffers" or "VertexArrays"."""
    name = ctypes.c_uint(0)
    function(f"glGen{kind}", None, ctypes.c_int, ctypes.c_void_p)(1, ctypes.byref(name))
    return name.value


def delete(kind: str, name: int) -> None:
    """glDelete… of one name that generate() made."""
    function(f"glDelete{kind}", None, ctypes.c_int, ctypes.c_void_p)(1, ctypes.byref(ctypes.c_uint(name)))


def is_null(handle: Any) -> bool:
    return not _pointer(handle)


def handle_value(handle: Any) -> int:
    return _pointer(handle) or 0


def error_name(error: BaseException) -> str:
    """The EGL or GL name of the code in a PyOpenGL error."""
    code = getattr(error, "err", None)
    return str(getattr(code, "name", code if code is not None else error))
