"""Textures over EGL images, and the framebuffers they are read through. Call with the context current."""

from __future__ import annotations

import ctypes
from typing import Any

from OpenGL import GLES3 as gl

from ..egl.gaps import delete, generate, image_target_texture_2d

EXTERNAL = 0x8D65  # GL_TEXTURE_EXTERNAL_OES


class Texture:
    """A texture over an EGL image, with a framebuffer of its own where it can be attached to one.

    external textures are for sampling only. The image stays the caller's.
    """

    __slots__ = ("framebuffer", "image", "name", "target")

    def __init__(self, image: Any, external: bool) -> None:
        self.image = image
        self.target = EXTERNAL if external else gl.GL_TEXTURE_2D
        self.name = generate("Textures")
        self.framebuffer = 0
        try:
            gl.glBindTexture(self.target, self.name)
            # No mipmaps, no filtering, no wrapping: a fetch gives the texel.
            gl.glTexParameteri(self.target, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
            gl.glTexParameteri(self.target, gl.GL_TEXTURE_MAG_FILTER, gl.GL_NEAREST)
            gl.glTexParameteri(self.target, gl.GL_TEXTURE_WRAP_S, gl.GL_CLAMP_TO_EDGE)
            gl.glTexParameteri(self.target, gl.GL_TEXTURE_WRAP_T, gl.GL_CLAMP_TO_EDGE)
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
        gl.glBindTexture(self.target, self.name)
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


def attach(texture: int) -> int:
    """A new framebuffer with that texture as its colour; the caller deletes it. Raises GLFailure."""
    framebuffer = generate("Framebuffers")
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, framebuffer)
    gl.glFramebufferTexture2D(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, gl.GL_TEXTURE_2D, texture, 0)
    status = int(gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER))
    if status != gl.GL_FRAMEBUFFER_COMPLETE:
        delete("Framebuffers", framebuffer)
        raise GLFailure(f"the framebuffer is incomplete (0x{status:04X})")
    return framebuffer


def let_go(drawn: bool) -> None:
    """Have the driver drop textures that were deleted, and the buffers behind them; drawn: one may have been drawn from.

    Mesa keeps what the last read and the last draw used until the next ones. These are the next ones, of one pixel.
    """
    texture = generate("Textures")
    framebuffer = 0
    try:
        gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
        gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, gl.GL_RGBA8, 1, 1)
        framebuffer = attach(texture)
        gl.glReadPixels(0, 0, 1, 1, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, (ctypes.c_ubyte * 4)())
        if drawn:
            gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)  # whatever the program, its textures are gone
            gl.glFinish()
    finally:
        if framebuffer:
            delete("Framebuffers", framebuffer)
        delete("Textures", texture)


def _check(call: str) -> None:
    # image_target_texture_2d is not PyOpenGL's, so nothing has looked at the error yet.
    code = int(gl.glGetError())
    if code:
        raise GLFailure(f"{call} failed with 0x{code:04X}")
