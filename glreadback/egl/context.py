"""A GLES 3 context without a surface. Active only between enter and exit: the caller's own context comes back."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from ..errors import DeviceError
from .device import Display
from .gaps import NO_CONFIG, egl, error_name, function, handle_value, optional

_ROBUST = (0x30BF, 1, 0x3138, 0x31BF)  # EGL_CONTEXT_OPENGL_ROBUST_ACCESS_EXT, RESET_NOTIFICATION_STRATEGY_EXT, LOSE
_CONTEXT_LOST = 0x300E  # EGL_CONTEXT_LOST: power management took it
_RESETS = {
    0x8253: "this read made it hang",  # GL_GUILTY_CONTEXT_RESET
    0x8254: "another program made it hang",  # GL_INNOCENT_CONTEXT_RESET
    0x8255: "nobody knows why",  # GL_UNKNOWN_CONTEXT_RESET
}


_pointer, _uint = ctypes.c_void_p, ctypes.c_uint
# Made for every frame: straight to the driver (see gl/pixels.py). 0 stands for the null handles.
_make_current = function("eglMakeCurrent", _uint, _pointer, _pointer, _pointer, _pointer)
_current_context = function("eglGetCurrentContext", _pointer)
_current_display = function("eglGetCurrentDisplay", _pointer)
_current_surface = function("eglGetCurrentSurface", _pointer, ctypes.c_int)
# EXT_robustness's, which EGL_EXT_create_context_robustness asks for; asked whenever a robust context is left.
_reset_status = optional("glGetGraphicsResetStatusEXT", _uint) or (lambda: 0)


class Borrowed:
    """The caller's own context. `with borrowed:` checks that it is current and keeps its state (gl/state.py)."""

    def __init__(self) -> None:
        self._pointer = _current_context()
        if self._pointer is None:
            raise DeviceError("no EGL context is current on this thread; make yours current first")
        self.display = Display.current()
        self.keep: Callable[[], AbstractContextManager[None]] = nullcontext  # made when the context has been asked
        self.keep_drawing: Callable[[], AbstractContextManager[None]] = nullcontext
        self._kept: list[AbstractContextManager[None]] = []

    @property
    def current(self) -> bool:
        return bool(_current_context() == self._pointer)

    def __enter__(self) -> Borrowed:
        if not self.current:
            raise DeviceError("the context that Reader.current() borrowed is not current on this thread")
        kept = self.keep()
        kept.__enter__()
        self._kept.append(kept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._kept.pop().__exit__(kind, error, trace)

    def drawing(self) -> AbstractContextManager[None]:
        """For the time of a draw, within the with statement."""
        return self.keep_drawing()

    def close(self) -> None:
        """The context is the caller's; nothing to do."""


class Context:
    """Owns one EGL context. `with context:` makes it current and restores whatever was current before.

    A context that was lost in a GPU reset says so when it is left: with a DeviceError, and in `lost` for good.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        robust = "EGL_EXT_create_context_robustness" in display.extensions
        attributes = [egl.EGL_CONTEXT_CLIENT_VERSION, 3, *(_ROBUST if robust else ()), egl.EGL_NONE]
        previous = egl.eglQueryAPI()
        # In a forked child libglvnd has forgotten the API that was bound, the driver has not, and a call that seems to
        # change nothing is not passed on to it: change it twice.
        with contextlib.suppress(egl.EGLError):
            egl.eglBindAPI(egl.EGL_OPENGL_API)
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
        self._robust = robust
        self.lost = ""  # why, once it is

    def __enter__(self) -> Context:
        if self.lost:
            raise self._is_lost(self.lost)
        context = _current_context()
        if context is None:
            # Releasing needs a display; ours does.
            before: tuple[int | None, ...] = (self._display, None, None, None)
        else:
            draw, read = _current_surface(egl.EGL_DRAW), _current_surface(egl.EGL_READ)
            before = (_current_display(), draw, read, context)
        if not _make_current(self._display, None, None, self._pointer):
            code = egl.eglGetError()
            if code == _CONTEXT_LOST:
                raise self._is_lost("it was put to sleep")
            raise DeviceError(
                f"the context of {self.display.device.name} cannot be made current (0x{code:04X}); "
                "is another thread using this Reader?"
            )
        self._before.append(before)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        status = _reset_status() if self._robust else 0
        _make_current(*self._before.pop())
        if status:
            self.lost = _RESETS.get(status, hex(status))
            if kind is None or issubclass(kind, Exception):
                raise self._is_lost(self.lost) from None

    def _is_lost(self, why: str) -> DeviceError:
        self.lost = why
        return DeviceError(f"the GPU of {self.display.device.name} was reset ({why}): the picture is lost. Read it again")

    @property
    def current(self) -> bool:
        """Whether GL can be used: entering makes it current, unless it is lost."""
        return self._handle is not None and not self.lost

    def drawing(self) -> AbstractContextManager[None]:
        """Nothing to keep for a draw: the context's state is our own."""
        return nullcontext()

    def close(self) -> None:
        """Destroy the context; what it owned in GL goes with it. The display stays."""
        handle, self._handle = self._handle, None
        if handle is not None:
            egl.eglDestroyContext(self.display.handle, handle)
