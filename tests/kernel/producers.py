"""Real dma-bufs to test with: one context manager for each kernel driver that makes them, all of one shape.

    with PRODUCERS["vgem"](640, 480, "NV12", offset=64, together=False) as made:
        made.fill(seed=1)
        read(made.planes) == made.expected(0)

A device that is not there is an OSError, so a failed test: this lane never skips.
"""

from __future__ import annotations

import mmap
import os
import random
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from glreadback.fourcc import Fourcc
from glreadback.kernel import dma_heap, dmabuf, drm, udmabuf, v4l2


class Memory:
    """One dma-buf: its descriptor, its size in bytes, who made it, and what its bytes should be."""

    def __init__(self, fd: int, card: int = -1, handle: int = 0) -> None:
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)
        self.card, self.handle = card, handle  # for DRM's buffers: the open card and the handle there
        self.shadow = bytearray(self.size)

    def write(self, start: int, content: bytes) -> None:
        """Put bytes into the buffer as a producer does, and remember them."""
        self.shadow[start : start + len(content)] = content
        if self.card >= 0 and not self.writable:
            offset = drm.map_dumb(self.card, self.handle)
            with mmap.mmap(self.card, self.size, offset=offset) as view:
                view[start : start + len(content)] = content
            return
        with mmap.mmap(self.fd, self.size) as view:
            dmabuf.sync_start(self.fd, dmabuf.WRITE)
            try:
                view[start : start + len(content)] = content
            finally:
                dmabuf.sync_end(self.fd, dmabuf.WRITE)

    def read(self) -> bytes:
        """The buffer's bytes through a mapping of its own."""
        with mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ) as view:
            dmabuf.sync_start(self.fd)
            try:
                return view[:]
            finally:
                dmabuf.sync_end(self.fd)

    @property
    def writable(self) -> bool:
        """Whether the descriptor allows writing, as the kernel has it (not as we asked for)."""
        flags = Path(f"/proc/self/fdinfo/{self.fd}").read_text().split("flags:")[1].split()[0]
        return int(flags, 8) & os.O_ACCMODE == os.O_RDWR


@dataclass
class Made:
    """A picture in dma-bufs. planes are (fd, offset, stride) as for DmaBuf; the descriptors live as long as the context."""

    producer: str
    width: int
    height: int
    fourcc: Fourcc
    planes: list[tuple[int, int, int]]
    memories: list[Memory]
    modifier: int = 0
    refresh: Callable[[], None] = field(default=lambda: None)

    @property
    def exporter(self) -> str:
        """Who exported the buffer, as the kernel says (exp_name in fdinfo)."""
        return dmabuf.exporter(self.planes[0][0])

    def memory(self, plane: int) -> Memory:
        """The buffer that a plane lies in."""
        return next(memory for memory in self.memories if memory.fd == self.planes[plane][0])

    def _rows(self, plane: int) -> Iterator[slice]:
        _, offset, stride = self.planes[plane]
        shape = self.fourcc.info.planes[plane]
        for row in range(shape.rows(self.height)):
            start = offset + row * stride * shape.block_height
            yield slice(start, start + shape.row_bytes(self.width))

    def fill(self, seed: int = 0) -> None:
        """Noise everywhere: in the pixels, in what pads the rows, before the first and after the last."""
        for number, memory in enumerate(self.memories):
            memory.write(0, random.Random(f"{seed} {number}").randbytes(memory.size))

    def write(self, plane: int, pixels: bytes | Sequence[bytes]) -> None:
        """Write a plane: its rows, or all of them in one piece without padding."""
        memory = self.memory(plane)
        rows = list(self._rows(plane))
        length = rows[0].stop - rows[0].start
        if isinstance(pixels, bytes | bytearray | memoryview):
            flat = bytes(pixels)
            pixels = [flat[start : start + length] for start in range(0, len(flat), length)]
        assert [len(row) for row in pixels] == [length] * len(rows), f"plane {plane} is {len(rows)} rows of {length} bytes"
        content = bytearray(memory.shadow[rows[0].start : rows[-1].stop])
        for place, row in zip(rows, pixels, strict=True):
            content[place.start - rows[0].start : place.stop - rows[0].start] = row
        memory.write(rows[0].start, bytes(content))

    def expected(self, plane: int = 0) -> bytes:
        """The plane's rows without padding, as they were written."""
        self.refresh()
        shadow = self.memory(plane).shadow
        return b"".join(shadow[row] for row in self._rows(plane))

    def present(self, plane: int = 0) -> bytes:
        """The plane's rows without padding, from a mapping of the dma-buf made for this."""
        content = self.memory(plane).read()
        return b"".join(content[row] for row in self._rows(plane))


# ---- Where the memory comes from ----


@dataclass(frozen=True)
class Backing:
    """A driver. pitch gives the stride it chooses for rows of so many bytes, allocate a buffer of at least so many."""

    name: str
    exporter: str  # what the kernel calls it in fdinfo
    open: Callable[[ExitStack], int]
    pitch: Callable[[int, int, int], int]  # (card, bytes of a row, rows)
    allocate: Callable[[ExitStack, int, int, int, bool], Memory]  # (stack, card, size, pitch, writable)


def _tight(_card: int, row_bytes: int, _rows: int) -> int:
    return row_bytes


def _no_card(_stack: ExitStack) -> int:
    return -1


def _owned(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _from_udmabuf(stack: ExitStack, _card: int, size: int, _pitch: int, _writable: bool) -> Memory:
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memfd = udmabuf.sealed_memfd(size)
    try:
        return Memory(_owned(stack, udmabuf.create(memfd, size)))
    finally:
        os.close(memfd)


def _from_heap(stack: ExitStack, _card: int, size: int, _pitch: int, _writable: bool) -> Memory:
    return Memory(_owned(stack, dma_heap.alloc(size)))


# What the cards' drivers call themselves.
DRIVERS = {"vgem": "vgem", "virtio_gpu": "virtio_gpu", "bochs": "bochs-drm"}


def open_card(driver: str) -> int:
    """The first card of a driver, opened; the caller closes it. Raises FileNotFoundError without one."""
    for path in sorted(Path("/dev/dri").glob("card*")):
        card = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if drm.driver_name(card) == driver:
            return card
        os.close(card)
    raise FileNotFoundError(f"no card of the driver {driver} in /dev/dri")


def _dumb_pitch(card: int, row_bytes: int, rows: int) -> int:
    dumb = drm.create_dumb(card, -(-row_bytes // 4), rows, 32)
    drm.destroy_dumb(card, dumb.handle)
    return dumb.pitch


def _from_dumb(stack: ExitStack, card: int, size: int, pitch: int, writable: bool) -> Memory:
    # Not every driver takes other than 32 bits a pixel; to the memory it is all the same.
    dumb = drm.create_dumb(card, -(-pitch // 4), -(-size // (-(-pitch // 4) * 4)), 32)
    stack.callback(drm.destroy_dumb, card, dumb.handle)
    return Memory(_owned(stack, drm.export_handle(card, dumb.handle, writable=writable)), card, dumb.handle)


def _drm(name: str, exporter: str) -> Backing:
    return Backing(name, exporter, lambda stack: _owned(stack, open_card(DRIVERS[name])), _dumb_pitch, _from_dumb)


BACKINGS = {
    backing.name: backing
    for backing in (
        Backing("udmabuf", "udmabuf", _no_card, _tight, _from_udmabuf),
        Backing("dma_heap", "system", _no_card, _tight, _from_heap),
        _drm("vgem", "drm"),
        _drm("virtio_gpu", "virtio_gpu"),
        _drm("bochs", "drm"),
    )
}


@contextmanager
def _make(
    backing: Backing,
    width: int,
    height: int,
    fourcc: str = "XR24",
    *,
    stride: int | Sequence[int] | None = None,
    offset: int = 0,
    together: bool = True,
    writable: bool = True,
) -> Iterator[Made]:
    """A picture of width x height pixels in new dma-bufs of one driver.

    stride: bytes from row to row of plane 0 (the others in proportion) or of each plane; None is the driver's choice.
    offset: bytes before the first plane, and before each where the planes have a buffer each (together=False).
    writable=False exports PRIME buffers without DRM_RDWR; other drivers do not know that.
    """
    code = Fourcc(fourcc)
    shapes = code.info.planes
    rows = [shape.rows(height) * shape.block_height for shape in shapes]
    row_bytes = [shape.row_bytes(width) for shape in shapes]
    with ExitStack() as stack:
        card = backing.open(stack)
        if stride is None:
            stride = backing.pitch(card, row_bytes[0], rows[0])
        if isinstance(stride, int):
            stride = [-(-stride * length // row_bytes[0]) for length in row_bytes]
        layout = []  # (which buffer, offset) of each plane
        ends = [offset]
        for number in range(len(shapes)):
            if number and not together:
                ends.append(offset)
            layout.append((len(ends) - 1, ends[-1]))
            ends[-1] += stride[number] * rows[number]
        memories = [backing.allocate(stack, card, end, stride[0], writable) for end in ends]
        planes = [(memories[which].fd, start, step) for (which, start), step in zip(layout, stride, strict=True)]
        yield Made(backing.name, width, height, code, planes, memories)


Producer = Callable[..., AbstractContextManager[Made]]
ReadLog = Callable[[str, str], None]  # the fixture read_log

PRODUCERS: dict[str, Producer] = {name: partial(_make, backing) for name, backing in BACKINGS.items()}


# ---- A camera ----

# DRM's fourcc: V4L2's where the planes share a buffer, and where each has its own.
V4L2_FORMATS = {
    "XR24": ("XR24", ""), "AR24": ("AR24", ""), "RG16": ("RGBP", ""), "YUYV": ("YUYV", ""), "UYVY": ("UYVY", ""),
    "NV12": ("NV12", "NM12"), "NV16": ("NV16", "NM16"), "YU12": ("YU12", "YM12"),
}  # fmt: skip


@contextmanager
def vivid(width: int, height: int, fourcc: str = "NV12", *, together: bool = True, writable: bool = True) -> Iterator[Made]:
    """One frame of the kernel's test camera, exported by VIDIOC_EXPBUF; what is expected comes from V4L2's own mapping.

    together=False takes the camera with multi-planar formats, with a buffer for each plane.
    """
    code = Fourcc(fourcc)
    wanted_kind = v4l2.CAPTURE if together else v4l2.CAPTURE_MPLANE
    v4l2_fourcc = V4L2_FORMATS[fourcc][0 if together else 1]
    with ExitStack() as stack:
        video = _owned(stack, _open_camera(wanted_kind))
        number = int.from_bytes(v4l2_fourcc.encode().ljust(4), "little")
        taken = v4l2.set_format(video, wanted_kind, width, height, number)
        assert (taken.width, taken.height, taken.fourcc) == (width, height, number), f"vivid gives {taken}"
        v4l2.request_buffers(video, wanted_kind, 2)
        stack.callback(v4l2.request_buffers, video, wanted_kind, 0)
        v4l2.queue(video, wanted_kind, 0)
        v4l2.queue(video, wanted_kind, 1)
        v4l2.stream(video, wanted_kind, True)
        stack.callback(v4l2.stream, video, wanted_kind, False)
        assert select.select([video], [], [], 10)[0], "no frame from vivid in 10 s"
        index = v4l2.dequeue(video, wanted_kind)
        maps = v4l2.map_offsets(video, wanted_kind, index)
        memories = [
            Memory(_owned(stack, v4l2.export_buffer(video, wanted_kind, index, plane, writable=writable)))
            for plane in range(len(maps))
        ]

        def refresh() -> None:
            for memory, (offset, size) in zip(memories, maps, strict=True):
                with mmap.mmap(video, size, offset=offset) as view:
                    memory.shadow[:size] = view[:]

        shapes = code.info.planes
        planes, end = [], 0
        for plane, shape in enumerate(shapes):
            if together:
                # V4L2 gives the first plane's stride; the others' follow from it.
                stride = taken.planes[0][1] * shape.row_bytes(width) // shapes[0].row_bytes(width)
                planes.append((memories[0].fd, end, stride))
                end += stride * shape.rows(height)
            else:
                planes.append((memories[plane].fd, 0, taken.planes[plane][1]))
        yield Made("vivid", width, height, code, planes, memories, refresh=refresh)


def _open_camera(kind: int) -> int:
    for path in sorted(Path("/dev").glob("video*")):
        video = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if v4l2.query(video) == ("vivid", kind):
            return video
        os.close(video)
    raise FileNotFoundError(f"no vivid camera with a queue of kind {kind} in /dev")
