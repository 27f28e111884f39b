"""A GLES 3 context without a surface. Active only between enter and exit: the caller's own context comes back."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any

from ..errors import DeviceError
from .device import Display
from .gaps import NO_CONFIG, egl, error_name, function, handle_value

_ROBUST = (0x30BF, 1, 0x3138, 0x31BF)  # EGL_CONTEXT_OPENGL_ROBUST_ACCESS_EXT, RESET_NOTIFICATION_STRATEGY_EXT, LOSE


_pointer, _uint = ctypes.c_void_p, ctypes.c_uint
# Made for every frame: straight to the driver (see gl/pixels.py). 0 stands for the null handles.
_make_current = function("eglMakeCurrent", _uint, _pointer, _pointer, _pointer, _pointer)
_current_context = function("eglGetCurrentContext", _pointer)
_current_display = function("eglGetCurrentDisplay", _pointer)
_current_surface = function("eglGetCurrentSurface", _pointer, ctypes.c_int)


class Context:
    """Owns one EGL context. `with context:` makes it current and restores whatever was current before."""

    def __init__(self, display: Display) -> None:
        self.display = display
        robust = "EGL_EXT_create_context_robustness" in display.extensions
        attributes = [egl.EGL_CONTEXT_CLIENT_VERSION, 3, *(_ROBUST if robust else ()), egl.EGL_NONE]
        previous = egl.eglQueryAPI()
        try:
            egl.eglBindAPI(egl.EGL_OPENGL_ES_API)
            self._handle: Any = egl.eglCreateContext(display.handle, NO_CONFIG, egl.EGL_NO_CONTEXT, attributes)
        except egl.EGLError as error:
            raise DeviceError(f"no GLES 3 context on {display.device.name}: {error_name(error)}") from None
        finally:
            egl.eglBindAPI(previous)
        self._pointer = handle_value(self._handle)
        self._display = handle_value(display.handle)
        self._before: list[tuple[int | None, ...]] = []

    def __enter__(self) -> Context:
        context = _current_context()
        if context is None:
            # Releasing needs a display; ours does.
            before: tuple[int | None, ...] = (self._display, None, None, None)
        else:
            draw, read = _current_surface(egl.EGL_DRAW), _current_surface(egl.EGL_READ)
            before = (_current_display(), draw, read, context)
        if not _make_current(self._display, None, None, self._pointer):
            raise DeviceError(
                f"the context of {self.display.device.name} cannot be made current (0x{egl.eglGetError():04X}); "
                "is another thread using this Reader?"
            )
        self._before.append(before)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _make_current(*self._before.pop())

    def close(self) -> None:
        """Destroy the context; what it owned in GL goes with it. The display stays."""
        handle, self._handle = self._handle, None
        if handle is not None:
            egl.eglDestroyContext(self.display.handle, handle)
