"""Textures over EGL images, and the framebuffers they are read through. Call with the context current."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from OpenGL import GLES3 as gl
from OpenGL.error import GLError

from ..egl.gaps import delete, function, generate, image_target_texture_2d

EXTERNAL = 0x8D65  # GL_TEXTURE_EXTERNAL_OES
# No mipmaps, no filtering, no wrapping: a fetch gives the texel. TEXTURE_MIN_FILTER, _MAG_FILTER, _WRAP_S and _T.
_PLAIN = ((0x2801, 0x2600), (0x2800, 0x2600), (0x2802, 0x812F), (0x2803, 0x812F))
_TEXTURE_2D, _FRAMEBUFFER, _COLOR_ATTACHMENT0, _COMPLETE = 0x0DE1, 0x8D40, 0x8CE0, 0x8CD5

_uint, _int = ctypes.c_uint, ctypes.c_int
# Straight to the driver (see pixels.py): a buffer may be new in every frame.
_bind_texture = function("glBindTexture", None, _uint, _uint)
_parameter = function("glTexParameteri", None, _uint, _uint, _int)
_bind_framebuffer = function("glBindFramebuffer", None, _uint, _uint)
_framebuffer_texture = function("glFramebufferTexture2D", None, _uint, _uint, _uint, _uint, _int)
_framebuffer_status = function("glCheckFramebufferStatus", _uint, _uint)
_storage = function("glTexStorage2D", None, _uint, _int, _uint, _int, _int)
_read_pixels = function("glReadPixels", None, _int, _int, _int, _int, _uint, _uint, ctypes.c_void_p)
_get_error = function("glGetError", _uint)


class Texture:
    """A texture over an EGL image, with a framebuffer of its own where it can be attached to one.

    external textures are for sampling only. The image stays the caller's.
    """

    __slots__ = ("framebuffer", "image", "name", "target")

    def __init__(self, image: Any, external: bool) -> None:
        self.image = image
        self.target = EXTERNAL if external else _TEXTURE_2D
        self.name = generate("Textures")
        self.framebuffer = 0
        try:
            _bind_texture(self.target, self.name)
            for name, value in _PLAIN:
                _parameter(self.target, name, value)
            image_target_texture_2d(self.target, image)
            _check("glEGLImageTargetTexture2DOES")
        except BaseException:
            self.delete()
            raise

    def attach(self) -> None:
        """Make the framebuffer, once. Raises GLFailure where the driver finds it incomplete."""
        if self.framebuffer:
            return
        self.framebuffer = attach(self.name)

    def rebind(self) -> None:
        """See the buffer's present content where the driver took a copy or has compressed state of its own."""
        _bind_texture(self.target, self.name)
        image_target_texture_2d(self.target, self.image)

    def delete(self) -> None:
        if self.framebuffer:
            delete("Framebuffers", self.framebuffer)
            self.framebuffer = 0
        if self.name:
            delete("Textures", self.name)
            self.name = 0


class GLFailure(Exception):
    """A GL call failed; the message names the call and the code."""


@contextlib.contextmanager
def told_by_pyopengl() -> Iterator[None]:
    """What PyOpenGL finds, and raises in words of several lines, as a GLFailure. Also as a decorator."""
    try:
        yield
    except GLError as error:
        name = getattr(error.baseOperation, "__name__", "a GL call")
        raise GLFailure(f"{name} failed: {ERRORS.get(error.err, hex(error.err))}") from None


ERRORS = {
    0x0500: "GL_INVALID_ENUM",
    0x0501: "GL_INVALID_VALUE",
    0x0502: "GL_INVALID_OPERATION",
    0x0505: "GL_OUT_OF_MEMORY",
    0x0506: "GL_INVALID_FRAMEBUFFER_OPERATION",
    0x0507: "GL_CONTEXT_LOST",
}


def attach(texture: int) -> int:
    """A new framebuffer with that texture as its colour; the caller deletes it. Raises GLFailure."""
    framebuffer = generate("Framebuffers")
    _bind_framebuffer(_FRAMEBUFFER, framebuffer)
    _framebuffer_texture(_FRAMEBUFFER, _COLOR_ATTACHMENT0, _TEXTURE_2D, texture, 0)
    status = _framebuffer_status(_FRAMEBUFFER)
    if status != _COMPLETE:
        delete("Framebuffers", framebuffer)
        raise GLFailure(f"the framebuffer is incomplete (0x{status:04X})")
    return framebuffer


class Scrap:
    """One pixel to read from and draw into, so that the driver drops textures that were deleted and the buffers behind them.

    Mesa keeps what the last read and the last draw used until the next ones. These are the next ones.
    """

    def __init__(self) -> None:
        self._texture = generate("Textures")
        _bind_texture(_TEXTURE_2D, self._texture)
        _storage(_TEXTURE_2D, 1, 0x8058, 1, 1)  # RGBA8
        self._framebuffer = attach(self._texture)
        self._pixel = (ctypes.c_ubyte * 4)()

    def use(self, drawn: bool) -> None:
        """drawn: one of the deleted textures may have been drawn from."""
        _bind_framebuffer(_FRAMEBUFFER, self._framebuffer)
        _read_pixels(0, 0, 1, 1, 0x1908, 0x1401, self._pixel)
        if drawn:
            gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)  # whatever the program, its textures are gone
            gl.glFinish()

    def delete(self) -> None:
        delete("Framebuffers", self._framebuffer)
        delete("Textures", self._texture)


def _check(call: str) -> None:
    # image_target_texture_2d is not PyOpenGL's, so nothing has looked at the error yet.
    code = _get_error()
    if code:
        raise GLFailure(f"{call} failed: {ERRORS.get(code, hex(code))}")
