"""Ask a device once what it can do. Call with the context current."""

from __future__ import annotations

import ctypes
import re

from OpenGL import GLES3 as gl

from ..egl.device import Display
from ..egl.gaps import function, get_integer, gl_string, query_dmabuf_formats, query_dmabuf_modifiers
from ..errors import DeviceError
from ..fourcc import Fourcc
from ..plan import Capabilities

# What is an extension in GLES is part of desktop GL 3.3.
_DESKTOP_HAS = frozenset({"GL_EXT_texture_norm16", "GL_EXT_color_buffer_float"})


def ask(display: Display) -> Capabilities:
    """The capabilities of the current context's device. Raises DeviceError if the context is older than we need."""
    version = gl_string(gl.GL_VERSION)
    desktop = not version.startswith("OpenGL ES")
    if _number(version) < ((3, 3) if desktop else (3, 0)):
        raise DeviceError(f"the context is {version!r}; GLES 3 or desktop GL 3.3 is needed")
    formats = {}
    if "EGL_EXT_image_dma_buf_import_modifiers" in display.extensions:
        for code in query_dmabuf_formats(display.handle):
            formats[Fourcc(code)] = query_dmabuf_modifiers(display.handle, code)
    # One by one: the core profile of desktop GL no longer has the list as one string.
    get = function("glGetStringi", ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    count = get_integer(gl.GL_NUM_EXTENSIONS)
    extensions = frozenset((get(gl.GL_EXTENSIONS, index) or b"").decode() for index in range(count))
    if desktop:
        extensions |= _DESKTOP_HAS
    return Capabilities(
        device=display.device.name,
        driver=display.driver,
        renderer=gl_string(gl.GL_RENDERER),
        version=version,
        software=display.software,
        desktop=desktop,
        max_extent=get_integer(gl.GL_MAX_TEXTURE_SIZE),
        formats=formats,
        extensions=extensions | display.extensions,
    )


def _number(version: str) -> tuple[int, int]:
    """GL_VERSION's number: "OpenGL ES 3.2 Mesa …", "4.5 (Core Profile) Mesa …"."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
