"""How QEMU's egl-headless reads a guest's dma-buf, for benchmarks to stand beside: not a route of ours.

ui/egl-helpers.c and ui/egl-headless.c: the buffer is a texture with a framebuffer; egl_fb_blit blits it into an RGBA
texture of its own, egl_fb_read reads that as GL_BGRA, the whole frame each time. Context current.
"""

from __future__ import annotations

import ctypes

from OpenGL import GLES3 as gl

from ..egl.gaps import delete, generate
from .texture import GLFailure, attach

_BGRA = 0x80E1


class EglHeadless:
    """Reads one imported buffer again and again, as QEMU does. source is the import's framebuffer and stays the caller's."""

    def __init__(self, source: int, width: int, height: int) -> None:
        self.source, self.width, self.height = source, width, height
        self._texture = generate("Textures")
        gl.glBindTexture(gl.GL_TEXTURE_2D, self._texture)
        gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, gl.GL_RGBA8, width, height)
        self._framebuffer = attach(self._texture)

    def read(self, address: int) -> None:
        """Blit and read into packed memory of four bytes a pixel. Raises GLFailure."""
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self.source)
        gl.glBindFramebuffer(gl.GL_DRAW_FRAMEBUFFER, self._framebuffer)
        gl.glViewport(0, 0, self.width, self.height)
        gl.glBlitFramebuffer(
            *(0, 0, self.width, self.height), *(0, 0, self.width, self.height), gl.GL_COLOR_BUFFER_BIT, gl.GL_LINEAR
        )
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._framebuffer)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 4)
        gl.glPixelStorei(gl.GL_PACK_ROW_LENGTH, 0)
        gl.glReadPixels(0, 0, self.width, self.height, _BGRA, gl.GL_UNSIGNED_BYTE, ctypes.c_void_p(address))
        code = int(gl.glGetError())
        if code:
            raise GLFailure(f"egl-headless's way failed with 0x{code:04X}")

    def close(self) -> None:
        """Delete the texture and its framebuffer."""
        delete("Framebuffers", self._framebuffer)
        delete("Textures", self._texture)
