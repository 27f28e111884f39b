"""The reader: Frames in, Surfaces out. It checks, waits, plans, imports and reads; every step is a module of its own."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import mmap
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from . import sync
from .dmabuf import Backing, DmaBuf, Plane, check
from .errors import DescriptorError, DeviceError, ImportRejected
from .fourcc import Fourcc, PlaneFormat
from .frame import Frame, Rect, as_frame, check_rect
from .kernel.udmabuf import sealed_memfd
from .mapped import copy_plane
from .plan import ALIASES, Access, Capabilities, Route, alias_bytes, plan
from .surface import Surface, allocate_memory, array_shape, element

if TYPE_CHECKING:
    import numpy

    from .gl.pixels import Copy
    from .importer import Import, Importer

DEFAULT_TIMEOUT = 5.0  # seconds
# One import, and one band of a read, stays below this: drivers compute in signed 32-bit integers.
_BAND = 2**31 - 1


class _Checked(NamedTuple):
    """A frame that fits its descriptors, and what of it is to be read."""

    frame: Frame
    backings: tuple[Backing, ...]
    region: Rect  # in pixels of the buffer, rows as they lie in memory
    staged: str  # why the bytes were copied first, "" if they were not

    @property
    def buf(self) -> DmaBuf:
        return self.frame.buffer

    @property
    def dmabufs(self) -> dict[int, None]:
        """One descriptor of each distinct dma-buf, in order."""
        found: dict[tuple[int, int], int] = {}
        for plane, backing in zip(self.buf.planes, self.backings, strict=True):
            if backing.dmabuf:
                found.setdefault(backing.key, plane.fd)
        return dict.fromkeys(found.values())


class Reader:
    """Turns Frames and DmaBufs into Surfaces.

    device is "software", a render node's path, or None for the best for each frame: the frame's own, then the first
    hardware render node, then software (GLREADBACK_DEVICE overrides None). Contexts are made at the first read; the
    imports of the last few buffers are kept. A Reader may be used from any thread, one at a time; between calls it
    has no context current. Close it, or use it in a with statement.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._importers: dict[str, Importer | DeviceError] = {}
        self._lock = threading.RLock()
        self._again: dict[int, _Again] = {}
        self._staging: mmap.mmap | None = None
        self._staging_fd = -1
        self._closed = False

    # Public

    def read(
        self,
        picture: DmaBuf | Frame,
        out: Surface | None = None,
        *,
        fourcc: Fourcc | str | int | None = None,
        rect: Iterable[int] | None = None,
        route: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Surface:
        """Read a picture into a Surface, top row first: a new one, or out, which is then returned.

        fourcc is what to read as: packed RGB stays as it is by default, anything else becomes AB24, or AB48 where it
        has more than 8 bits; with out it is out's. rect is (x, y, width, height) in pixels of the picture as shown.
        route asks for one of the routes by name. timeout is in seconds, for the producer's fences.

        Raises DescriptorError, ImportRejected, DeviceError or FenceTimeout; out's pixels are then undefined.
        """
        with self._lock:
            if out is not None:
                again = self._again.get(id(picture))
                if again is not None and again.fits(picture, out, rect, fourcc, route) and again.read(out, timeout):
                    return out
                fourcc = _wanted_of(out, fourcc)
            with self._checked(as_frame(picture), rect, timeout) as checked:
                return self._read_on_any(checked, out, None if fourcc is None else Fourcc(fourcc), route, picture)

    def read_planes(
        self, picture: DmaBuf | Frame, *, route: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> list[numpy.ndarray[Any, Any]]:
        """The raw planes of a linear picture, bit for bit, as new numpy arrays in the format's plane order.

        Each is (rows, columns) or (rows, columns, n) of uint8, uint16 or float16 where every component has bytes of
        its own (NV12: (h, w) and (h/2, w/2, 2)), of uint16, uint32 or uint64 where a block is one word (RG16, Y410,
        P030), of uint8 where pixels share bytes (R1, NV15: rows of bytes). Sizes round up.

        route is "alias" or "map". Raises DescriptorError for a layout that is not linear, and as read does.
        """
        import numpy

        frame = as_frame(picture)
        buf = frame.buffer
        if not buf.linear:
            raise DescriptorError(
                f"{buf} has modifier {buf.modifier}: its planes are not rows of pixels, only read() can make sense of them"
            )
        if route not in (None, "alias", "map"):
            raise DescriptorError(f"planes are read by the route alias or map, not {route!r}")
        info = buf.fourcc.info
        with self._lock, self._checked(frame, None, timeout) as checked:
            arrays = []
            blocks = []
            for layout in info.planes:
                shape = array_shape(layout, buf.width, buf.height, info.floating)
                memory = allocate_memory(layout.rows(buf.height) * layout.row_bytes(buf.width))
                blocks.append(memory)
                arrays.append(numpy.frombuffer(memory, element(layout, info.floating).type).reshape(shape))
            self._planes_on_any(checked, blocks, route)
        return arrays

    def capabilities(self, picture: DmaBuf | Frame | None = None) -> Capabilities:
        """The capabilities of the device that would read picture (None: of any dma-buf). Raises DeviceError."""
        own = picture.device if isinstance(picture, Frame) else None
        failures: dict[str, str] = {}
        with self._lock:
            for importer in self._lanes(own, picture is None or _is_dmabuf(as_frame(picture)), failures):
                return importer.capabilities
        raise _no_device(failures)

    def forget(self, picture: DmaBuf | Frame) -> None:
        """Let go of what is kept of a picture's buffers, so that the producer's memory can be freed."""
        frame = as_frame(picture)
        from .dmabuf import inspect

        inodes = frozenset(inspect(plane.fd).key for plane in frame.buffer.planes)
        with self._lock:
            for importer in self._open_importers():
                with importer.context:
                    importer.forget(inodes)

    def close(self) -> None:
        """Give back contexts, imports and descriptors. Once; a closed Reader reads no more."""
        with self._lock:
            self._closed = True
            for importer in self._open_importers():
                importer.close()
            self._importers.clear()
            self._again.clear()
            self._drop_staging()

    @property
    def closed(self) -> bool:
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # GL is left alone here: a finalizer runs on any thread, whatever context is current there.
        if not getattr(self, "_closed", True) and self._importers:
            warnings.warn("unclosed glreadback.Reader", ResourceWarning, source=self, stacklevel=2)

    # Devices

    def _open_importers(self) -> list[Importer]:
        return [found for found in self._importers.values() if not isinstance(found, DeviceError)]

    def _lanes(self, own: str | None, dmabuf: bool, failures: dict[str, str]) -> Iterator[Importer]:
        """The importers to try for a frame, best first, made when they are first needed."""
        if self._closed:
            raise ValueError("the Reader is closed")
        from .egl.device import candidates
        from .importer import Importer

        for name in [self._device] if self._device else candidates(own, dmabuf):
            found = self._importers.get(name)
            if found is None:
                try:
                    found = Importer(name)
                except DeviceError as error:
                    found = error
                self._importers[name] = found
            if isinstance(found, DeviceError):
                failures[name] = str(found)
            else:
                yield found

    def _try_devices(self, checked: _Checked) -> Iterator[tuple[Importer | None, dict[str, str]]]:
        """Each device to try; then None, for the map route, where no GL works at all."""
        failures: dict[str, str] = {}
        dmabuf = any(backing.dmabuf for backing in checked.backings)
        none = True
        try:
            for importer in self._lanes(checked.frame.device, dmabuf, failures):
                none = False
                yield importer, failures
        except DeviceError as error:  # EGL itself is missing
            failures["EGL"] = str(error)
        if none and self._device is None:
            yield None, failures

    def _read_on_any(
        self, checked: _Checked, out: Surface | None, wanted: Fourcc | None, asked: str | None, picture: DmaBuf | Frame
    ) -> Surface:
        if asked == "map":
            return self._read_map(checked, out, plan(checked.frame, wanted, None, route="map"))
        rejected: ImportRejected | None = None
        failures: dict[str, str] = {}
        for importer, failures in self._try_devices(checked):
            if importer is None:
                route = plan(checked.frame, wanted, None, route=asked)
                return self._read_map(checked, out, _explain(route, _no_device(failures)))
            try:
                route = plan(checked.frame, wanted, importer.capabilities, route=asked)
                return self._read_gl(importer, checked, out, _explain(route, rejected), picture)
            except ImportRejected as error:
                rejected = rejected or error
        raise rejected or _no_device(failures)

    def _planes_on_any(self, checked: _Checked, blocks: Sequence[mmap.mmap], asked: str | None) -> None:
        buf = checked.buf
        rects = [Rect(0, 0, layout.row_bytes(buf.width), layout.rows(buf.height)) for layout in buf.layouts]
        rejected: ImportRejected | None = None
        failures: dict[str, str] = {}
        for importer, failures in self._try_devices(checked) if asked != "map" else ():
            if importer is None:
                break
            try:
                self._planes_gl(importer, checked, rects, blocks)
                return
            except ImportRejected as error:
                rejected = rejected or error
        if rejected is not None:
            raise rejected
        if asked == "alias":
            raise _no_device(failures)
        with sync.cpu_access(checked.dmabufs):
            for index, (rect, block) in enumerate(zip(rects, blocks, strict=True)):
                copy_plane(buf, index, checked.backings[index], rect, memoryview(block), rect.width)

    def _planes_gl(self, importer: Importer, checked: _Checked, rects: Sequence[Rect], blocks: Sequence[mmap.mmap]) -> None:
        try:
            with importer.context, sync.cpu_access(checked.dmabufs):
                for index, (rect, block) in enumerate(zip(rects, blocks, strict=True)):
                    _, todo = self._plane_copies(importer, checked, index, rect, rect.width)
                    importer.copy(todo, _address(block))
        except importer.Failure as error:
            raise importer.refused(checked.buf, error) from None

    # Checking and waiting

    @contextlib.contextmanager
    def _checked(self, frame: Frame, rect: Iterable[int] | None, timeout: float) -> Iterator[_Checked]:
        """The frame, checked against its descriptors, waited for, and copied first where a driver must not map it."""
        if self._closed:
            raise ValueError("the Reader is closed")
        region = _region(frame, rect)
        backings = check(frame.buffer)
        checked = _Checked(frame, backings, region, "")
        try:
            sync.wait(checked.dmabufs, frame.acquire_fence, timeout)
            yield self._stage(checked)
        finally:
            if frame.release is not None:
                frame.release()

    def _stage(self, checked: _Checked) -> _Checked:
        """Copy the bytes where the driver must not map the descriptor itself: it can shrink under it, or is read-only.

        A file that shrinks is a SIGBUS in a driver; a read-only descriptor makes llvmpipe use another stride.
        """
        reason = next((_why_staged(backing) for backing in checked.backings if _why_staged(backing)), "")
        if not reason:
            return checked
        buf = checked.buf
        if not buf.linear:
            raise DescriptorError(f"{buf}: {reason}, and with modifier {buf.modifier} a copy cannot take its place")
        sizes = [layout.rows(buf.height) * layout.row_bytes(buf.width) for layout in buf.layouts]
        memory, fd = self._staging_memory(sum(-(-size // 16) * 16 for size in sizes))
        planes = []
        start = 0
        with sync.cpu_access(checked.dmabufs):
            for index, (layout, size) in enumerate(zip(buf.layouts, sizes, strict=True)):
                row = layout.row_bytes(buf.width)
                whole = Rect(0, 0, row, layout.rows(buf.height))
                copy_plane(buf, index, checked.backings[index], whole, memoryview(memory)[start : start + size], row)
                planes.append(Plane(fd, start, -(-row // layout.block_height)))
                start += -(-size // 16) * 16
        copied = DmaBuf(buf.width, buf.height, buf.fourcc, planes, buf.modifier)
        frame = dataclasses.replace(checked.frame, buffer=copied, acquire_fence=None)
        return _Checked(frame, check(copied), checked.region, reason)

    def _staging_memory(self, size: int) -> tuple[mmap.mmap, int]:
        if self._staging is None or len(self._staging) < size:
            self._drop_staging()
            self._staging_fd = sealed_memfd(size, "glreadback-copy")
            self._staging = mmap.mmap(self._staging_fd, os.fstat(self._staging_fd).st_size)
        return self._staging, self._staging_fd

    def _drop_staging(self) -> None:
        self._staging = None  # unmapped when the last view of it goes
        if self._staging_fd >= 0:
            os.close(self._staging_fd)
            self._staging_fd = -1

    # Reading with GL

    def _read_gl(
        self, importer: Importer, checked: _Checked, out: Surface | None, route: Route, picture: DmaBuf | Frame
    ) -> Surface:
        out = _prepared(checked, out, route)
        out.route = _explain(route, checked.staged)
        try:
            with importer.context, sync.cpu_access(checked.dmabufs):
                if route == "draw":
                    from .gl.draw import draw

                    draw(importer, checked.frame, checked.backings, checked.region, out, route)
                else:
                    imports, todo = self._copies(importer, checked, out.stride, route)
                    importer.copy(todo, out.address)
                    self._remember(_Again(picture, checked, out, route, importer, imports, todo))
        except importer.Failure as error:
            raise importer.refused(checked.buf, error) from None
        if route.opaque:
            _force_opaque(out)
        return out

    def _copies(self, importer: Importer, checked: _Checked, stride: int, route: Route) -> tuple[list[Import], list[Copy]]:
        """The imports and copies of an alias or native read."""
        buf, reverse = checked.buf, checked.frame.y_invert
        assert route.access is not None
        if stride % route.access.bytes and route == "native":
            raise DescriptorError(f"the surface's stride is {stride}; this read needs a multiple of {route.access.bytes} bytes")
        if route == "alias":
            rect = _block_rect(buf, buf.layouts[0], checked.region)
            return self._plane_copies(importer, checked, 0, rect, stride, route.access, reverse)
        found = importer.get(buf, checked.backings, code=buf.fourcc.code, width=buf.width, height=buf.height, planes=buf.planes)
        return [found], importer.copies(found, checked.region, route.access, 0, stride, reverse)

    def _plane_copies(
        self,
        importer: Importer,
        checked: _Checked,
        index: int,
        rect: Rect,
        stride: int,
        access: Access | None = None,
        reverse: bool = False,
    ) -> tuple[list[Import], list[Copy]]:
        """The copies of a rectangle of a linear plane, x and width in bytes and y and height in rows of blocks.

        The plane is imported as plain bytes, in tiles where it is wider or longer than the device takes.
        """
        buf = checked.buf
        plane, backing, layout, step = buf.planes[index], checked.backings[index], buf.layouts[index], buf.step(index)
        row, rows = layout.row_bytes(buf.width), layout.rows(buf.height)
        swapped = access is not None and access.format == _BGRA
        unit = 4 if swapped else alias_bytes(layout.block_bytes, row, rect.x, rect.width, stride)
        code, pair = ALIASES[unit]
        if access is None or not swapped:
            access = pair
        if stride % unit:
            raise DescriptorError(f"the surface's stride is {stride}; swapping red and blue needs a multiple of {unit} bytes")
        extent = importer.capabilities.max_extent
        wide, high = extent * unit, max(1, min(extent, _BAND // step))
        imports: list[Import] = []
        todo: list[Copy] = []
        for top in range(0, rows, high):
            for left in range(0, row, wide):
                tile = Rect(left, top, min(wide, row - left), min(high, rows - top))
                part = _overlap(tile, rect)
                if part is None:
                    continue
                start = plane.offset + top * step + left
                if start > _BAND:
                    raise DescriptorError(f"{buf}: row {top} starts at byte {start}; EGL takes offsets up to {_BAND}")
                found = importer.get(
                    buf,
                    (backing,),
                    code=code.code,
                    width=tile.width // unit,
                    height=tile.height,
                    planes=(Plane(plane.fd, start, step),),
                )
                imports.append(found)
                # Where the part lands: from the rectangle's top, or from its bottom when rows are reversed.
                down = rect.y + rect.height - part.y - part.height if reverse else part.y - rect.y
                place = Rect((part.x - left) // unit, part.y - top, part.width // unit, part.height)
                offset = down * stride + part.x - rect.x
                todo += importer.copies(found, place, access, offset, stride, reverse)
        return imports, todo

    def _remember(self, again: _Again) -> None:
        if again.repeatable:
            self._again[id(again.picture)] = again
            while len(self._again) > _REMEMBERED:
                del self._again[next(iter(self._again))]

    # Reading without GL

    def _read_map(self, checked: _Checked, out: Surface | None, route: Route) -> Surface:
        out = _prepared(checked, out, route)
        out.route = _explain(route, checked.staged)
        with sync.cpu_access(checked.dmabufs):
            rect = _block_rect(checked.buf, checked.buf.layouts[0], checked.region)
            copy_plane(checked.buf, 0, checked.backings[0], rect, out.data, out.stride, checked.frame.y_invert)
        if route.opaque:
            _force_opaque(out)
        return out


class _Again:
    """What a read of the very same picture object can skip: everything but looking whether its buffers are still the
    same, the fences, and the copy. At 1080p the rest would cost a quarter of the copy."""

    __slots__ = ("copies", "dmabufs", "fds", "importer", "imports", "picture", "route", "shape")

    def __init__(
        self,
        picture: DmaBuf | Frame,
        checked: _Checked,
        out: Surface,
        route: Route,
        importer: Importer,
        imports: list[Import],
        todo: list[Copy],
    ) -> None:
        self.picture, self.route, self.importer, self.imports, self.copies = picture, route, importer, imports, todo
        self.shape = (out.width, out.height, out.stride, out.fourcc) if checked.region == checked.frame.area else None
        self.dmabufs = tuple(checked.dmabufs)
        self.fds = tuple({plane.fd: b.key for plane, b in zip(checked.buf.planes, checked.backings, strict=True)}.items())

    @property
    def repeatable(self) -> bool:
        picture = self.picture
        plain = isinstance(picture, DmaBuf) or (picture.acquire_fence is None and picture.release is None)
        staged = "copied first" in self.route.reason
        # Hardware drivers want the image bound again for every frame: the long way does that.
        return plain and not staged and self.shape is not None and self.importer.capabilities.software

    def fits(self, picture: object, out: Surface, rect: object, fourcc: object, route: object) -> bool:
        return (
            picture is self.picture
            and rect is None
            and (fourcc is None or fourcc == out.fourcc)
            and (route is None or route == self.route.name)
            and (out.width, out.height, out.stride, out.fourcc) == self.shape
        )

    def read(self, out: Surface, timeout: float) -> bool:
        """Read into out as before; False if the buffers or the imports are not those of before."""
        for found in self.imports:
            if not found.alive:
                return False
            self.importer.touch(found)
        try:
            for fd, (device, inode) in self.fds:
                status = os.fstat(fd)
                if status.st_ino != inode or status.st_dev != device:
                    return False
        except OSError:
            return False
        if out.data.readonly:
            return False
        dmabufs = self.dmabufs
        if dmabufs:
            sync.wait(dmabufs, None, timeout)
            with self.importer.context, sync.cpu_access(dmabufs):
                self.importer.copy(self.copies, out.address)
        else:
            with self.importer.context:
                self.importer.copy(self.copies, out.address)
        out.route = self.route
        if self.route.opaque:
            _force_opaque(out)
        return True


_BGRA = 0x80E1
_REMEMBERED = 8


def _region(frame: Frame, rect: Iterable[int] | None) -> Rect:
    """What to read, in pixels of the buffer with rows as they lie in memory; rect is in those of the picture shown."""
    area = frame.area
    if rect is None:
        return area
    width, height = frame.size
    x, y, w, h = check_rect(rect, width, height, "the rectangle")
    # Do to the rectangle what was done to the picture (wl_output.transform): flipped, then turned counter-clockwise.
    if frame.transform.startswith("flipped"):
        x = width - x - w
    for _ in range(frame.quarters):
        x, y, w, h = y, width - x - w, h, w
        width, height = height, width
    if frame.y_invert:
        y = height - y - h
    return Rect(area.x + x, area.y + y, w, h)


def _block_rect(buf: DmaBuf, layout: PlaneFormat, rect: Rect) -> Rect:
    """A rectangle of pixels as bytes and rows of a plane. Raises DescriptorError if it cuts through blocks."""
    w, h = layout.block_width, layout.block_height
    if w == h == 1:
        return Rect(rect.x * layout.block_bytes, rect.y, rect.width * layout.block_bytes, rect.height)
    right, bottom = rect.x + rect.width, rect.y + rect.height
    if rect.x % w or rect.y % h or (right % w and right != buf.width) or (bottom % h and bottom != buf.height):
        raise DescriptorError(
            f"{buf.fourcc} holds {w}x{h} pixels a block; the rectangle {rect} cuts through one. Read as AB24 instead"
        )
    return Rect(rect.x // w * layout.block_bytes, rect.y // h, layout.row_bytes(rect.width), layout.rows(rect.height))


def _overlap(one: Rect, other: Rect) -> Rect | None:
    left, top = max(one.x, other.x), max(one.y, other.y)
    right = min(one.x + one.width, other.x + other.width)
    bottom = min(one.y + one.height, other.y + other.height)
    return Rect(left, top, right - left, bottom - top) if right > left and bottom > top else None


def _wanted_of(out: Surface, fourcc: Fourcc | str | int | None) -> Fourcc:
    if fourcc is not None and Fourcc(fourcc) != out.fourcc:
        raise DescriptorError(f"the surface given is {out.fourcc}, {Fourcc(fourcc)} was asked for; give one that agrees")
    return out.fourcc


def _prepared(checked: _Checked, out: Surface | None, route: Route) -> Surface:
    """The surface to read into, of the right size and writable."""
    width, height = checked.region.width, checked.region.height
    if checked.frame.quarters % 2:
        width, height = height, width
    if out is None:
        return Surface.allocate(width, height, route.fourcc)
    if (out.width, out.height) != (width, height):
        raise DescriptorError(f"the surface given is {out.width}x{out.height}, the picture to read {width}x{height}")
    if out.data.readonly:
        raise DescriptorError("the surface given is read-only; wrap writable memory")
    return out


def _force_opaque(out: Surface) -> None:
    """Set every alpha to one."""
    import numpy

    layout = out.fourcc.info.planes[0]
    alpha = next(field for field in layout.fields if field.component == "A")
    if out.fourcc.info.floating:
        out.array()[..., alpha.shift // alpha.bits] = 1.0
        return
    flat = numpy.frombuffer(out.data, numpy.uint8)
    shape, steps = (out.height, out.width), (out.stride, layout.block_bytes)
    words = numpy.ndarray(shape, f"<u{layout.block_bytes}", flat, 0, steps)
    words |= words.dtype.type(((1 << alpha.bits) - 1) << alpha.shift)


def _why_staged(backing: Backing) -> str:
    if not backing.steady:
        return "it is a file that can shrink (no F_SEAL_SHRINK)"
    if not backing.writable:
        return "its descriptor is read-only"
    return ""


def _explain(route: Route, why: object) -> Route:
    """The route with a note of what made it another than the first choice."""
    if not why:
        return route
    note = f"copied first: {why}" if isinstance(why, str) else f"after: {why}"
    return dataclasses.replace(route, reason=f"{route.reason}; {note}")


def _no_device(failures: dict[str, str]) -> DeviceError:
    tried = "; ".join(f"{name}: {why}" for name, why in failures.items()) or "nothing to try"
    return DeviceError(f"no device can read: {tried}", failures)


def _address(memory: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _is_dmabuf(frame: Frame) -> bool:
    from .dmabuf import inspect

    return inspect(frame.buffer.planes[0].fd).dmabuf


def read(picture: DmaBuf | Frame, out: Surface | None = None, *, device: str | None = None, **options: Any) -> Surface:
    """Read one picture into a Surface: `Reader.read` with a Reader made for it and closed again.

    For more than a few pictures make a Reader: it keeps its context, its imports and its buffers.
    """
    with Reader(device) as reader:
        return reader.read(picture, out, **options)
