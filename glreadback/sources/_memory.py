"""Memory of our own that readers take for a producer's: a udmabuf where one can be made, else a sealed memfd."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SourceError
from ..fds import OwnedFd
from ..kernel import dmabuf, udmabuf

FILLER = 0xA5  # every byte that is no pixel

_KINDS = {"udmabuf": "udmabuf", "memfd": f"memfd (stand-in: no usable {udmabuf.DEVICE})"}


class Memory(OwnedFd):
    """An owned descriptor of at least size bytes, all zero. kind says what it is, for people."""

    __slots__ = ("_is_dmabuf", "kind", "size")

    def __init__(self, size: int) -> None:
        have = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
        if size > have:
            raise SourceError(f"the picture takes {size} bytes, this machine has {have} of memory. Choose a smaller size=")
        try:
            fd, kind = udmabuf.allocate(size)
        except OSError as error:
            raise SourceError(f"no memory of {size} bytes can be had: {error.strerror}. Choose a smaller size=") from None
        super().__init__(fd)
        self.kind = _KINDS[kind]
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._is_dmabuf = kind == "udmabuf"

    @contextmanager
    def writing(self) -> Iterator[memoryview]:
        """All of the memory, to write to; seen by every device once the block is left."""
        fd = self.fileno()
        # Populated in one go: page after page, the faults cost more than the picture.
        with mmap.mmap(fd, self.size, mmap.MAP_SHARED | mmap.MAP_POPULATE) as memory, memoryview(memory) as view:
            if self._is_dmabuf:
                dmabuf.sync_start(fd, dmabuf.WRITE)
            try:
                yield view
            finally:
                if self._is_dmabuf:
                    dmabuf.sync_end(fd, dmabuf.WRITE)
