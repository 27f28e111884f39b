"""A ring of pixel buffers: reads that the GPU does while the caller does something else. Context current.

The buffers are made once and reused: a new one for each read costs as much as the read (sync.md).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence

from OpenGL import GLES3 as gl

from ..egl.device import Display
from ..egl.fence import Fence
from ..egl.gaps import delete, function, generate
from .pixels import Copy, read
from .texture import GLFailure, told_by_pyopengl

SLOTS = 3

_PACK, _READ = gl.GL_PIXEL_PACK_BUFFER, gl.GL_MAP_READ_BIT
_map = function("glMapBufferRange", ctypes.c_void_p, ctypes.c_uint, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_uint)


class Slot:
    """One pixel buffer, and the fence of the read that is filling it."""

    def __init__(self) -> None:
        self.buffer = 0
        self.size = 0
        self.fence: Fence | None = None

    @contextlib.contextmanager
    def filling(self, display: Display, size: int) -> Iterator[Callable[[Sequence[Copy]], None]]:
        """Gives what begins copies into the buffer, laid out as a surface of size bytes; then a fence is set behind them.

        Raises GLFailure.
        """
        if not self.buffer:
            self.buffer = generate("Buffers")
        gl.glBindBuffer(_PACK, self.buffer)
        try:
            if self.size < size:
                self.size = 0  # what it was is gone, should this fail
                with told_by_pyopengl():
                    gl.glBufferData(_PACK, size, None, gl.GL_STREAM_READ)
                self.size = size
            gl.glBindBuffer(_PACK, 0)
            yield self._begin
        finally:
            gl.glBindBuffer(_PACK, 0)
        self.fence = Fence(display)

    def _begin(self, todo: Sequence[Copy]) -> None:
        gl.glBindBuffer(_PACK, self.buffer)
        read(todo, 0)
        gl.glBindBuffer(_PACK, 0)

    def done(self, seconds: float = 0.0) -> bool:
        """Whether the read is over, within that time."""
        return self.fence is None or self.fence.wait(seconds)

    def take(self, runs: Sequence[tuple[int, int]], address: int) -> None:
        """Copy runs of bytes (offset, length) to the same offsets from address on, once done. Raises GLFailure."""
        gl.glBindBuffer(_PACK, self.buffer)
        try:
            start = _map(_PACK, 0, self.size, _READ)
            if not start:
                raise GLFailure("the pixel buffer cannot be mapped")
            for offset, length in runs:
                ctypes.memmove(address + offset, start + offset, length)
            if not gl.glUnmapBuffer(_PACK):
                raise GLFailure("the pixel buffer's content was lost")
        finally:
            gl.glBindBuffer(_PACK, 0)

    def finish(self) -> None:
        """The slot is free again."""
        fence, self.fence = self.fence, None
        if fence is not None:
            fence.close()

    def delete(self) -> None:
        self.finish()
        if self.buffer:
            delete("Buffers", self.buffer)
            self.buffer = self.size = 0
