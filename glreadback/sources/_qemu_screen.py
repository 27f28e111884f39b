"""What a QEMU console shows, kept in this process's own memory, for `qemu:`'s helper."""

from __future__ import annotations

import mmap
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..dmabuf import DmaBuf, Plane
from ..errors import GlReadbackError, SourceError
from ..fds import OwnedFd
from ..fourcc import Fourcc
from ..frame import Frame, Rect
from ..kernel import dmabuf, udmabuf
from ..wire.display import Cursor, Mapped, Picture, Pointer, Shared

_MOST_RECTS = 32


class Slot:
    """Shareable memory that one picture at a time goes out in: a udmabuf where one can be made, else a sealed memfd."""

    def __init__(self) -> None:
        self._size = 0
        self._fd: OwnedFd | None = None
        self._dmabuf = False
        self._memory: mmap.mmap | None = None
        self.buffer: DmaBuf | None = None

    @contextmanager
    def drawing(self, width: int, height: int, fourcc: Fourcc) -> Iterator[mmap.mmap]:
        """The memory for a picture of packed rows, at least as large as that; `buffer` says so afterwards."""
        row = fourcc.info.planes[0].row_bytes(width)
        if row * height > self._size:
            self._allocate(row * height)
        assert self._memory is not None
        assert self._fd is not None
        self.buffer = None
        if self._dmabuf:
            dmabuf.sync_start(self._fd.fileno(), dmabuf.WRITE)
        try:
            yield self._memory
        finally:
            if self._dmabuf:
                dmabuf.sync_end(self._fd.fileno(), dmabuf.WRITE)
        self.buffer = DmaBuf(width, height, fourcc, [Plane(self._fd.fileno(), 0, row)])

    def _allocate(self, size: int) -> None:
        try:
            fd, kind = udmabuf.allocate(size, "glreadback-qemu")
        except OSError as error:
            raise SourceError(f"no memory of {size} bytes can be had for the picture: {error.strerror}") from None
        if self._fd is not None:
            self._fd.close()
        self._fd, self._size, self._dmabuf = OwnedFd(fd), size, kind == "udmabuf"
        self._memory = mmap.mmap(fd, size)  # the old one goes when nothing looks at it any more


class Canvas:
    """A screen that comes in pieces, in messages."""

    def __init__(self, picture: Picture) -> None:
        self.width, self.height, self.fourcc = picture.rect.width, picture.rect.height, picture.fourcc
        self._bytes = picture.fourcc.info.planes[0].block_bytes
        self._pixels = bytearray(self.width * self.height * self._bytes)
        self.apply(picture)

    def apply(self, picture: Picture) -> Rect | None:
        """Put a piece where it belongs, as far as it lies on the canvas; where that is, or None.

        Raises SourceError for another pixel format than the canvas has.
        """
        if picture.fourcc != self.fourcc:
            raise SourceError(f"a piece in {picture.fourcc} came for a picture in {self.fourcc}")
        part = clipped(picture.rect, self.width, self.height)
        if part is None:
            return None
        row, to = part.width * self._bytes, self.width * self._bytes
        start = (part.y - picture.rect.y) * picture.stride + (part.x - picture.rect.x) * self._bytes
        with memoryview(picture.data) as data, memoryview(self._pixels) as pixels:
            if row == to == picture.stride:
                pixels[part.y * to : (part.y + part.height) * to] = data[start : start + part.height * to]
                return part
            for y in range(part.height):
                at = (part.y + y) * to + part.x * self._bytes
                pixels[at : at + row] = data[start + y * picture.stride : start + y * picture.stride + row]
        return part

    def copy(self, slot: Slot) -> None:
        with slot.drawing(self.width, self.height, self.fourcc) as memory:
            memory[: len(self._pixels)] = self._pixels

    def close(self) -> None:
        pass


class MappedScreen:
    """A screen in memory of QEMU's that it may take back at any moment: read, never mapped."""

    def __init__(self, said: Mapped, fd: int) -> None:
        self.width, self.height, self.fourcc = said.width, said.height, said.fourcc
        self._said, self._row = said, said.fourcc.info.planes[0].row_bytes(said.width)
        end = said.offset + said.stride * (said.height - 1) + self._row
        have = os.fstat(fd).st_size
        if end > have:
            raise SourceError(f"a screen that ends at byte {end} came in memory of {have} bytes")
        self._fd = OwnedFd.dup(fd)

    def copy(self, slot: Slot) -> None:
        """Raises SourceError where the memory has shrunk."""
        said, row = self._said, self._row
        packed = said.stride == row
        runs = [(0, row * said.height)] if packed else [(y * row, row) for y in range(said.height)]
        with slot.drawing(said.width, said.height, said.fourcc) as memory, memoryview(memory) as view:
            for y, (to, size) in enumerate(runs):
                done = 0
                while done < size:
                    got = os.preadv(self._fd.fileno(), [view[to + done : to + size]], said.offset + y * said.stride + done)
                    if not got:
                        raise SourceError("QEMU took the screen's memory back while it was read")
                    done += got

    def close(self) -> None:
        self._fd.close()


class SharedScreen:
    """A screen in a dma-buf, which only a driver can make sense of."""

    def __init__(self, said: Shared, fds: list[int]) -> None:
        self._own = [OwnedFd.dup(fd) for fd in fds]
        self.frame = said.with_fds([own.fileno() for own in self._own])
        self.width, self.height = self.frame.size

    def lend(self) -> tuple[Frame, list[OwnedFd]]:
        """The frame with duplicates, that a read may outlive this screen."""
        numbers = dict.fromkeys(plane.fd for plane in self.frame.buffer.planes)
        fds = {number: OwnedFd.dup(number) for number in numbers}
        buffer = self.frame.buffer
        planes = [Plane(fds[plane.fd].fileno(), plane.offset, plane.stride) for plane in buffer.planes]
        copy = DmaBuf(buffer.width, buffer.height, buffer.fourcc, planes, buffer.modifier)
        return Frame(copy, visible=self.frame.visible, y_invert=self.frame.y_invert), list(fds.values())

    def close(self) -> None:
        for own in self._own:
            own.close()


Screen = Canvas | MappedScreen | SharedScreen


def clipped(rect: Rect, width: int, height: int) -> Rect | None:
    """What of rect lies within a picture, None if nothing."""
    left, top = max(rect.x, 0), max(rect.y, 0)
    right, bottom = min(rect.x + rect.width, width), min(rect.y + rect.height, height)
    return Rect(left, top, right - left, bottom - top) if right > left and bottom > top else None


class Damage:
    """What changed since the last picture went out: rectangles, few of them; None = all, or unknown."""

    def __init__(self) -> None:
        self.rects: list[Rect] | None = None

    def add(self, rect: Rect | None) -> None:
        if self.rects is None or rect is None or rect in self.rects:
            return
        self.rects.append(rect)
        if len(self.rects) > _MOST_RECTS:
            self.rects = [_bounds(self.rects)]

    def all(self) -> None:
        self.rects = None

    def take(self) -> tuple[Rect, ...] | None:
        found, self.rects = self.rects, []
        return None if found is None else tuple(found)


def _bounds(rects: Iterable[Rect]) -> Rect:
    rects = list(rects)
    left, top = min(rect.x for rect in rects), min(rect.y for rect in rects)
    right, bottom = max(rect.x + rect.width for rect in rects), max(rect.y + rect.height for rect in rects)
    return Rect(left, top, right - left, bottom - top)


class Result(NamedTuple):
    """A read that is over: which one, and the error if it failed."""

    number: int
    slot: Slot
    error: GlReadbackError | None


class GlThread:
    """Reads dma-bufs with a Reader in a thread of its own: however long a driver takes, messages are answered.

    `done` becomes readable (an eventfd) when a result is there. device is the Reader's.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self.done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._jobs: queue.SimpleQueue[tuple[int, Frame, list[OwnedFd], Slot | None, float]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def warm(self, screen: SharedScreen) -> None:
        """Have the driver loaded, and its context made, by the time there is something to read."""
        self._put(0, screen, None, 0.0)

    def read(self, number: int, screen: SharedScreen, slot: Slot, timeout: float) -> None:
        """Read what the screen shows into slot; timeout in seconds is for the producer's fences."""
        self._put(number, screen, slot, timeout)

    def result(self) -> Result | None:
        try:
            os.eventfd_read(self.done)
            return self._results.get_nowait()
        except (BlockingIOError, queue.Empty):
            return None

    def _put(self, number: int, screen: SharedScreen, slot: Slot | None, timeout: float) -> None:
        frame, own = screen.lend()
        self._jobs.put((number, frame, own, slot, timeout))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="glreadback-qemu", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        from ..plan import default_fourcc
        from ..reader import Reader
        from ..surface import Surface

        reader = Reader(self._device)
        while True:
            number, frame, own, slot, timeout = self._jobs.get()
            error: GlReadbackError | None = None
            try:
                if slot is None:
                    reader.capabilities(frame)
                else:
                    fourcc = default_fourcc(frame.buffer.fourcc.info)
                    width, height = frame.size
                    with slot.drawing(width, height, fourcc) as memory:
                        reader.read(frame, out=Surface.wrap(memory, width, height, fourcc), timeout=timeout)
            except GlReadbackError as failed:
                error = failed
            except Exception as failed:
                error = SourceError(f"the picture cannot be read: {type(failed).__name__}: {ascii(str(failed))[:200]}")
            for fd in own:
                fd.close()
            if slot is not None:
                self._results.put(Result(number, slot, error))
                os.eventfd_write(self.done, 1)


def draw_pointer(slot: Slot, cursor: Cursor, pointer: Pointer) -> Rect | None:
    """Put the pointer over the picture in slot, if that has 8-bit colours with blue or red first; where it is then.

    The pointer's pixels are premultiplied ARGB, as Linux guests' are.
    """
    buffer = slot.buffer
    if buffer is None or buffer.fourcc not in ("XR24", "AR24", "XB24", "AB24"):
        return None
    x, y = pointer.x, pointer.y
    part = clipped(Rect(x, y, cursor.width, cursor.height), buffer.width, buffer.height)
    if part is None:
        return None
    swap = buffer.fourcc in ("XB24", "AB24")
    stride = buffer.planes[0].stride
    with slot.drawing(buffer.width, buffer.height, buffer.fourcc) as memory:
        for row in range(part.y, part.y + part.height):
            for column in range(part.x, part.x + part.width):
                at = ((row - y) * cursor.width + column - x) * 4
                blue, green, red, alpha = cursor.data[at : at + 4]
                if not alpha:
                    continue
                to = row * stride + column * 4
                colors = (red, green, blue) if swap else (blue, green, red)
                under = memory[to : to + 3]
                memory[to : to + 3] = bytes(
                    min(255, over + (below * (255 - alpha) + 127) // 255) for over, below in zip(colors, under, strict=True)
                )
    return part
