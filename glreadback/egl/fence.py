"""EGL fences: when the GPU is done, for us and for event loops, and waiting on the GPU for the producer's."""

from __future__ import annotations

import os
from typing import Any

from OpenGL.EGL.KHR.fence_sync import eglClientWaitSyncKHR, eglCreateSyncKHR, eglDestroySyncKHR

from .device import Display
from .gaps import egl

_FENCE, _FLUSH, _SATISFIED, _FOREVER = 0x30F9, 0x0001, 0x30F6, 0xFFFFFFFFFFFFFFFF
_NATIVE, _NATIVE_FD = 0x3144, 0x3145  # EGL_SYNC_NATIVE_FENCE_ANDROID, ..._FD_ANDROID
NATIVE_EXTENSION = "EGL_ANDROID_native_fence_sync"
_WAIT_EXTENSION = "EGL_KHR_wait_sync"


class Fence:
    """A fence behind all GL commands so far, which have been flushed. Context current for making it."""

    def __init__(self, display: Display) -> None:
        from OpenGL import GLES3 as gl

        self._display = display
        self.native = NATIVE_EXTENSION in display.extensions
        self._sync: Any = eglCreateSyncKHR(display.handle, _NATIVE if self.native else _FENCE, [egl.EGL_NONE])
        gl.glFlush()  # and a native fence has its descriptor only after the flush

    def wait(self, seconds: float) -> bool:
        """Whether the fence has signalled, within that time."""
        nanoseconds = max(0, min(int(seconds * 1e9), _FOREVER))
        return bool(eglClientWaitSyncKHR(self._display.handle, self._sync, _FLUSH, nanoseconds) == _SATISFIED)

    def fileno(self) -> int:
        """A new sync file of this fence, the caller's to close. Only where fences are native."""
        from OpenGL.EGL.ANDROID.native_fence_sync import eglDupNativeFenceFDANDROID

        return int(eglDupNativeFenceFDANDROID(self._display.handle, self._sync))

    def close(self) -> None:
        sync, self._sync = self._sync, None
        if sync is not None:
            eglDestroySyncKHR(self._display.handle, sync)


def can_wait_on_gpu(display: Display) -> bool:
    """Whether wait_on_gpu works there and returns at once: a software driver waits on the CPU, for ever if it must."""
    return display.hardware and {NATIVE_EXTENSION, _WAIT_EXTENSION} <= display.extensions


def wait_on_gpu(display: Display, sync_file: int) -> bool:
    """Let the GPU wait for a sync file before what is drawn or read next; it stays the caller's. Context current.

    False if the driver does not take it for one.
    """
    from OpenGL.EGL.KHR.wait_sync import eglWaitSyncKHR

    fd = -1
    try:
        fd = os.dup(sync_file)
        sync = eglCreateSyncKHR(display.handle, _NATIVE, [_NATIVE_FD, fd, egl.EGL_NONE])
    except (OSError, egl.EGLError):
        if fd >= 0:
            os.close(fd)  # EGL owns it on success only
        return False
    try:
        return bool(eglWaitSyncKHR(display.handle, sync, 0))
    except egl.EGLError:
        return False
    finally:
        eglDestroySyncKHR(display.handle, sync)
