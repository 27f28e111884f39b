"""What EGL's surfaceless platform becomes where there is a DRM node and no GPU: a driver that reads one card's buffers only."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from watch import open_fds

from glreadback.egl.gaps import NO_CONFIG, display_driver_name, egl
from glreadback.kernel import drm

_PLATFORM_SURFACELESS = 0x31DD  # EGL_MESA_platform_surfaceless


@contextmanager
def surfaceless() -> Iterator[tuple[str, str]]:
    """A current GLES context of the surfaceless display: (Mesa's driver, the kernel's driver of the card behind it)."""
    from OpenGL.EGL.EXT.platform_base import eglGetPlatformDisplayEXT

    before = open_fds()
    with ExitStack() as stack:
        display = eglGetPlatformDisplayEXT(_PLATFORM_SURFACELESS, None, None)
        egl.eglInitialize(display, ctypes.c_int(), ctypes.c_int())
        # It holds the card open, and so may be its DRM master: other tests want to be that.
        stack.callback(egl.eglTerminate, display)
        egl.eglBindAPI(egl.EGL_OPENGL_ES_API)
        attributes = [egl.EGL_CONTEXT_CLIENT_VERSION, 3, egl.EGL_NONE]
        context = egl.eglCreateContext(display, NO_CONFIG, egl.EGL_NO_CONTEXT, attributes)
        stack.callback(egl.eglDestroyContext, display, context)
        egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, context)
        stack.callback(egl.eglMakeCurrent, display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)
        cards = {path for fd, path in open_fds().items() if fd not in before and "/dri/card" in path}
        yield display_driver_name(display), _driver_of(cards.pop()) if cards else ""


def _driver_of(node: str) -> str:
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        return drm.driver_name(fd)
    finally:
        os.close(fd)
