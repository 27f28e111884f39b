"""Ask a device once what it can do. Call with the context current."""

from __future__ import annotations

import ctypes

from OpenGL import GLES3 as gl

from ..egl.device import Display
from ..egl.gaps import function, gl_string, query_dmabuf_formats, query_dmabuf_modifiers
from ..fourcc import Fourcc
from ..plan import Capabilities

# What is an extension in GLES is part of desktop GL 3.3.
_DESKTOP_HAS = frozenset({"GL_EXT_texture_norm16", "GL_EXT_color_buffer_float"})


def ask(display: Display) -> Capabilities:
    """The capabilities of the current context's device."""
    formats = {}
    if "EGL_EXT_image_dma_buf_import_modifiers" in display.extensions:
        for code in query_dmabuf_formats(display.handle):
            formats[Fourcc(code)] = query_dmabuf_modifiers(display.handle, code)
    version = gl_string(gl.GL_VERSION)
    # One by one: the core profile of desktop GL no longer has the list as one string.
    get = function("glGetStringi", ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    count = int(gl.glGetIntegerv(gl.GL_NUM_EXTENSIONS))
    extensions = frozenset((get(gl.GL_EXTENSIONS, index) or b"").decode() for index in range(count))
    if not version.startswith("OpenGL ES"):
        extensions |= _DESKTOP_HAS
    return Capabilities(
        device=display.device.name,
        driver=display.driver,
        renderer=gl_string(gl.GL_RENDERER),
        version=version,
        software=display.software,
        desktop=not version.startswith("OpenGL ES"),
        max_extent=int(gl.glGetIntegerv(gl.GL_MAX_TEXTURE_SIZE)),
        formats=formats,
        extensions=extensions | display.extensions,
    )
