"""Ask a device once what it can do. Call with the context current."""

from __future__ import annotations

from OpenGL import GLES3 as gl

from ..egl.device import Display
from ..egl.gaps import gl_string, query_dmabuf_formats, query_dmabuf_modifiers
from ..fourcc import Fourcc
from ..plan import Capabilities


def ask(display: Display) -> Capabilities:
    """The capabilities of the current context's device."""
    formats = {}
    if "EGL_EXT_image_dma_buf_import_modifiers" in display.extensions:
        for code in query_dmabuf_formats(display.handle):
            formats[Fourcc(code)] = query_dmabuf_modifiers(display.handle, code)
    return Capabilities(
        device=display.device.name,
        driver=display.driver,
        renderer=gl_string(gl.GL_RENDERER),
        version=gl_string(gl.GL_VERSION),
        software=display.device.software,
        max_extent=int(gl.glGetIntegerv(gl.GL_MAX_TEXTURE_SIZE)),
        formats=formats,
        extensions=frozenset(gl_string(gl.GL_EXTENSIONS).split()) | display.extensions,
    )
