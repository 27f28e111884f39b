"""Plain helpers of the tests: pictures whose bytes are known, memory that shows what was written, what a process holds."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from glreadback import DmaBuf, Fourcc, Modifier, Reader, Route, Surface

if TYPE_CHECKING:
    from glreadback.importer import Importer

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


# ---- memory


SHRINK = fcntl.F_SEAL_SHRINK


class MemFd(Protocol):
    def __call__(self, content: int | bytes | Bytes, seals: int = SHRINK, mode: int = os.O_RDWR) -> int: ...


def write_all(fd: int, content: bytes | Bytes, at: int = 0) -> None:
    view = memoryview(content).cast("B")
    while view.nbytes:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def mapped(fd: int) -> mmap.mmap:
    """A shared mapping of a memfd, for writing to it as a producer does."""
    return mmap.mmap(fd, os.fstat(fd).st_size)


# ---- pictures


@dataclass(frozen=True)
class Picture:
    """A DmaBuf and the bytes that its descriptor holds."""

    buf: DmaBuf
    content: Bytes

    def rows(self, index: int = 0) -> Bytes:
        """The bytes of a linear plane without the padding: rows of blocks by bytes of a row."""
        layout, plane = self.buf.layouts[index], self.buf.planes[index]
        shape = layout.rows(self.buf.height), layout.row_bytes(self.buf.width)
        # Said here once more and not asked of the library: stride is bytes from line to line, also within a block.
        steps = plane.stride * layout.block_height, 1
        return np.lib.stride_tricks.as_strided(self.content[plane.offset :], shape, steps, writeable=False)


class MakePicture(Protocol):
    def __call__(
        self,
        fourcc: str,
        width: int,
        height: int,
        *,
        pad: int = 0,
        offset: int = 0,
        gap: int = 0,
        modifier: int = Modifier.LINEAR,
        own: bool = True,
        seals: int = SHRINK,
        mode: int = os.O_RDWR,
        tail: int = 0,
    ) -> Picture: ...


def linear_formats() -> Sequence[Fourcc]:
    """Every format that exists as rows of pixels."""
    return [code for code in Fourcc.all() if code.info.linear]


def one_plane_formats() -> Sequence[Fourcc]:
    """Those of them with one plane: what the alias route serves."""
    return [code for code in linear_formats() if len(code.info.planes) == 1]


def assert_route(surface: Surface, name: str) -> None:
    assert isinstance(surface.route, Route)
    assert surface.route.name == name, surface.route.reason


def pixels(surface: Surface) -> Bytes:
    """The surface's rows without padding, as bytes."""
    rows = surface.fourcc.info.planes[0].rows(surface.height)
    return np.frombuffer(surface.tobytes(), np.uint8).reshape(rows, surface.row_bytes)


class Canary:
    """Memory for a surface with known bytes around it and between its rows."""

    def __init__(self, width: int, height: int, fourcc: str, *, pad: int = 0, before: int = 0, after: int = 64) -> None:
        layout = Fourcc(fourcc).info.planes[0]
        self.row, self.rows, self.before = layout.row_bytes(width), layout.rows(height), before
        self.stride = self.row + pad
        size = before + self.stride * (self.rows - 1) + self.row + after
        # No two neighbours alike, so that a shift shows.
        self.blank = (np.arange(size) * 37 + 11).astype(np.uint8)
        self.memory = self.blank.copy()
        self.surface = Surface.wrap(self.memory, width, height, fourcc, self.stride, before)

    def assert_holds(self, expected: Bytes) -> None:
        """The rows hold expected, and every other byte is as it was."""
        whole = self.blank.copy()
        rows = np.lib.stride_tricks.as_strided(whole[self.before :], (self.rows, self.row), (self.stride, 1))
        rows[...] = expected
        if not np.array_equal(self.memory, whole):
            wrong = np.flatnonzero(self.memory != whole)
            y, x = divmod(int(wrong[0]) - self.before, self.stride)
            raise AssertionError(f"{wrong.size} bytes differ, the first one at row {y}, byte {x} of {self.row}")


# ---- what is held


@dataclass(frozen=True)
class Held:
    """What a process holds of the kernel: descriptors, and mappings of shared memory."""

    fds: tuple[str, ...]
    mappings: tuple[str, ...]

    @classmethod
    def now(cls) -> Held:
        fds = []
        for number in os.listdir("/proc/self/fd"):
            try:
                fds.append(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue  # listdir's own
        lines = Path("/proc/self/maps").read_text().splitlines()
        shared = (line.split(maxsplit=5)[-1] for line in lines if "/memfd:" in line or "dmabuf" in line)
        return cls(tuple(sorted(fds)), tuple(sorted(shared)))


def importer_of(reader: Reader) -> Importer:
    """The one importer of a reader that was given a device."""
    reader.capabilities()
    (found,) = reader._open_importers()
    return found


@dataclass
class Driver:
    """Counts what reaches the driver."""

    calls: list[str]

    @property
    def untouched(self) -> bool:
        return not self.calls


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """As many descriptors after as before."""
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def files_of(pid: int) -> list[str]:
    """What a process has open. Of one that nobody may trace, such as a helper, the kernel shows it to root alone."""
    found = []
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        pytest.skip("only root sees what the helper has open")
    for number in numbers:
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return sorted(found)
