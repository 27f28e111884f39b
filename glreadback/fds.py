"""A descriptor that somebody owns: closed once, and a warning if it was forgotten."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import Self


class OwnedFd:
    """Owns one file descriptor. close() is safe to call twice; a leaked one closes itself with a ResourceWarning."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def dup(cls, fd: int) -> Self:
        """Own a duplicate of fd (close-on-exec); fd stays the caller's. Raises OSError if fd is not open."""
        return cls(os.dup(fd))

    def fileno(self) -> int:
        """The descriptor's number, still owned by this object. Raises ValueError once closed."""
        if self._fd < 0:
            raise ValueError("the descriptor is closed")
        return self._fd

    def release(self) -> int:
        """Give the descriptor to the caller, who closes it from now on."""
        fd = self.fileno()
        self._fd = -1
        return fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed descriptor {self._fd}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})" if self._fd >= 0 else "OwnedFd(closed)"
