"""The reader: Frames in, Surfaces out. It checks, waits, plans, imports and reads; every step is a module of its own."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import mmap
import os
import reprlib
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from . import sync
from .copying import (
    Again,
    Checked,
    Part,
    Shape,
    block_rect,
    copies,
    force_opaque,
    part_of,
    parts_of,
    plane_copies,
    region_of,
    runs_of,
    shape_of,
)
from .dmabuf import Backing, DmaBuf, Plane, check, inspect
from .errors import DescriptorError, DeviceError, ImportRejected
from .fds import OwnedFd
from .fourcc import Fourcc
from .frame import Frame, Rect, as_frame
from .kernel.dmabuf import is_sync_file, sync_end, sync_start
from .kernel.udmabuf import sealed_memfd
from .mapped import copy_plane, map_range
from .plan import Capabilities, Route, plan
from .surface import Surface, allocate_memory, array_shape, element

if TYPE_CHECKING:
    import numpy

    from .importer import Importer
    from .pending import Pending
    from .yuvcpu import Converter

DEFAULT_TIMEOUT = 5.0  # seconds
DEVICE_VARIABLE = "GLREADBACK_DEVICE"
_MOST_PIXELS = 2**31 - 1  # of a picture that is scaled up


class _Request(NamedTuple):
    """What the caller wants of a frame."""

    out: Surface | None
    size: tuple[int, int]  # of the surface, in pixels
    fourcc: Fourcc | None
    route: str | None
    damage: Iterable[Iterable[int]] | None
    tone: str  # the HDR transfer to map to sRGB, "" for none
    changed: str  # what else than reading happens to the pixels, in words; "" for nothing


def _request(
    frame: Frame,
    checked: Checked,
    out: Surface | None,
    fourcc: Fourcc | str | int | None,
    route: str | None,
    damage: Iterable[Iterable[int]] | None,
    scale: tuple[int, int] | None,
    tone_map: bool,
) -> _Request:
    width, height = checked.region.width, checked.region.height
    if frame.quarters % 2:
        width, height = height, width
    changed = ""
    if scale is not None and (size := _size_of(scale)) != (width, height):
        width, height = size
        changed = "scaled"
    tone = ""
    if tone_map:
        tone = (frame.color.transfer if frame.color is not None else None) or ""
        if tone not in ("pq", "hlg"):
            raise DescriptorError(
                f"there is nothing to tone-map: the transfer is {tone or 'unknown'}; the Frame's color needs transfer pq or hlg"
            )
        changed = "tone-mapped"
        fourcc = fourcc or "AB24"
    return _Request(out, (width, height), None if fourcc is None else Fourcc(fourcc), route, damage, tone, changed)


def _size_of(scale: Iterable[int]) -> tuple[int, int]:
    try:
        width, height = (value.__index__() for value in scale)
    except (AttributeError, TypeError, ValueError):
        raise DescriptorError(f"scale is {reprlib.repr(scale)}; give two whole numbers of pixels: width, height") from None
    if width < 1 or height < 1 or width * height > _MOST_PIXELS:
        raise DescriptorError(f"scale is {width}x{height} pixels; both must be at least 1, and all of it {_MOST_PIXELS}")
    return width, height


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


def _after_fork() -> None:
    for reader in list(_readers):
        reader._after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Reader:
    """Turns Frames and DmaBufs into Surfaces.

    device is "software", a render node's path, or None for the best for each frame: the frame's own, then the first
    hardware render node, then software (GLREADBACK_DEVICE overrides None). Contexts are made at the first read, and so is
    a DeviceError for a device that is none. The imports of the last sixteen buffers are kept, and with each a duplicate of
    its descriptors; the caller's stay the caller's. A Reader may be used from any thread, one at a time; between calls it
    has no context current. Close it, or use it in a with statement; used after that it raises ValueError.

    With isolate=True all GL runs in a helper process: a driver that crashes or hangs is a ReaderCrashed, not the end of the
    caller. memory_limit (only then) is the bytes that the helper may take, 4 GiB unless told.
    """

    def __new__(cls, device: str | None = None, isolate: bool = False, **options: Any) -> Self:
        if isolate and cls is Reader:
            from .isolate import IsolatedReader

            cls = IsolatedReader  # type: ignore[assignment]
        return object.__new__(cls)

    def __init__(self, device: str | None = None, isolate: bool = False) -> None:
        self._device = device
        self._importers: dict[str, Importer | DeviceError] = {}
        self._were_reset: set[str] = set()  # devices that may not be back yet when they are asked again
        self._lock = threading.RLock()
        self._again: dict[Shape, Again] = {}
        self._converter: Converter | None = None
        self._staging: mmap.mmap | None = None
        self._staging_fd = -1
        self._closed = False
        _readers.add(self)

    def _let_go_of_lost(self) -> None:
        """Devices whose contexts are lost: what was under way fails, descriptors are closed; the next read starts anew."""
        for name, importer in list(self._importers.items()):
            if isinstance(importer, DeviceError) or not importer.lost:
                continue
            del self._importers[name]
            self._were_reset.add(name)
            error = DeviceError(f"the GPU was reset before the read was over ({importer.lost})")
            while importer.flying:
                pending = importer.flying.popleft()
                pending.give_up(error)
                if pending.finish is not None:
                    pending.finish()
            importer.close()

    def _after_fork(self) -> None:
        """In a child process: the contexts are the parent's, and so is whoever held the lock. Begin anew, GL left alone."""
        self._lock = threading.RLock()
        error = DeviceError("this process was forked meanwhile; the read is the parent's")
        for importer in self._open_importers():
            for pending in importer.flying:
                pending.give_up(error)
            importer.abandon()
        borrowed = self._importers.pop("current", None)
        self._importers.clear()
        if borrowed is not None:
            self._importers["current"] = DeviceError(
                "the borrowed context is the parent's; call Reader.current() in one of your own"
            )
        self._again.clear()
        self._drop_staging()  # the parent goes on using it

    @classmethod
    def current(cls) -> Self:
        """A Reader inside the caller's own EGL context, which must be current on this thread: GLES 3 or desktop GL 3.3.

        It makes no display and no context. Every call needs the same context current, saves the state it touches and
        restores it. Close the Reader while the context is current, or its few GL objects stay until the context goes.
        Raises DeviceError if no context is current or the display cannot import dma-bufs.
        """
        from .egl.device import CURRENT
        from .importer import Importer

        self = cls(CURRENT)
        self._importers[CURRENT] = Importer(CURRENT)
        return self

    # Public

    def read(
        self,
        picture: DmaBuf | Frame,
        out: Surface | None = None,
        *,
        fourcc: Fourcc | str | int | None = None,
        rect: Iterable[int] | None = None,
        scale: tuple[int, int] | None = None,
        tone_map: bool = False,
        damage: Iterable[Iterable[int]] | None = None,
        route: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Surface:
        """Read a picture into a Surface, top row first: a new one, or out, which is then returned.

        fourcc is what to read as: packed RGB stays as it is by default, anything else becomes AB24, or AB48 where it
        has more than 8 bits; with out it is out's. rect is (x, y, width, height) in pixels of the picture as shown.
        scale is (width, height) in pixels to bring the picture, or the rect of it, to: each pixel is the mean of the area
        that it covers. tone_map maps PQ or HLG (the Frame's color.transfer) to sRGB: BT.2390's curve from 1000 cd/m2 to
        203, BT.2020's primaries to BT.709's; as AB24 unless told. damage, rectangles like rect, brings only those parts of
        out up to date: they are clipped, and merged where that is cheaper; it needs out, whose other pixels stay. route
        asks for one of the routes by name. timeout is in seconds, for the producer's fences.

        Raises DescriptorError, ImportRejected, DeviceError or FenceTimeout; out's pixels are then undefined.
        """
        if damage is not None and (out is None or rect is not None or scale is not None):
            raise DescriptorError("damage updates a surface that holds the whole picture: give out=, no rect= and no scale=")
        with self._lock:
            if out is not None:
                damage = None if damage is None else list(damage)
                plain = rect is None and scale is None and not tone_map and (fourcc is None or fourcc == out.fourcc)
                if plain and self._read_again(picture, out, damage, route, timeout):
                    return out
                fourcc = _wanted_of(out, fourcc)
            frame = as_frame(picture)
            with self._checked(frame, rect, timeout) as checked:
                request = _request(frame, checked, out, fourcc, route, damage, scale, tone_map)
                return self._read_on_any(checked, request, picture)

    def submit(
        self,
        picture: DmaBuf | Frame,
        out: Surface | None = None,
        *,
        fourcc: Fourcc | str | int | None = None,
        rect: Iterable[int] | None = None,
        damage: Iterable[Iterable[int]] | None = None,
        route: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Pending:
        """Begin a read and return at once; `result()` of the Pending gives the Surface. Arguments and errors as for read.

        As many reads are in flight as the ring has buffers (three); one more first waits for the oldest, up to timeout
        seconds (FenceTimeout). Where the GPU can wait for the producer's fences it does, and result() has the time-out.
        out and the picture's buffer must be left alone until the result is there; then the frame's release is called.
        On a software device there is nothing to overlap: the read is done before submit returns.
        """
        from .pending import Pending

        frame = as_frame(picture)
        with self._lock:
            importer = self._asynchronous(frame)
            if importer is None:
                options: dict[str, Any] = {"fourcc": fourcc, "rect": rect, "damage": damage, "route": route}
                return Pending(self.read(picture, out, timeout=timeout, **options))
            if out is not None:
                fourcc = _wanted_of(out, fourcc)
            if damage is not None and (out is None or rect is not None):
                raise DescriptorError("damage updates a surface that holds the whole picture: give out=, and no rect=")
            with self._checked(frame, rect, timeout, importer) as checked:
                self._make_room(importer, timeout)
                request = _request(frame, checked, out, fourcc, route, damage, None, False)
                pending = self._begin(importer, checked, request, timeout)
                if pending is None:
                    sync.wait(checked.dmabufs, frame.acquire_fence, timeout)
                    pending = Pending(self._read_on_any(checked, request, picture))
                    self._release(frame)
                return pending

    def _make_room(self, importer: Importer, timeout: float) -> None:
        """Wait for the oldest read in flight if the ring is full."""
        while importer.free_slot() is None:
            oldest = importer.flying[0]
            try:
                self._settle(oldest, timeout)
            except Exception:
                if oldest.slot is not None:
                    raise
                # It failed for good, and its own result() says so.

    def _begin(self, importer: Importer, checked: Checked, request: _Request, timeout: float) -> Pending | None:
        """Have the device fill a slot of its ring; None where that is another device's or the CPU's business."""
        from .pending import Pending

        frame, slot = checked.frame, importer.free_slot()
        assert slot is not None
        try:
            route = plan(frame, request.fourcc, importer.capabilities, route=request.route)
            if route == "map" or checked.staged:
                return None
            surface = _prepared(checked, request, route)
            parts = parts_of(checked, surface, request.damage)
            with importer.context, slot.filling(importer.display, surface.data.nbytes) as begin:
                _gpu_waits(importer, checked, timeout)
                for _, todo in copies(importer, checked, surface, route, parts):
                    begin(todo)
        except (ImportRejected, importer.Failure):
            return None  # an ordinary read knows what else to try, and what to say
        runs = [run for part in parts for run in runs_of(surface, part.place)]

        def over() -> None:
            for part in parts if route.opaque else ():
                force_opaque(part_of(surface, part.place))
            self._release(frame)

        pending = Pending(surface, self._settle, importer, slot, runs, over)
        importer.flying.append(pending)
        return pending

    def _asynchronous(self, frame: Frame) -> Importer | None:
        """The device to submit frame to; None where a read has nothing to overlap with."""
        dmabuf = _is_dmabuf(frame)
        try:
            importer = next(self._lanes(frame.device, dmabuf, {}), None)
        except DeviceError:
            return None
        return None if importer is None or importer.capabilities.software else importer

    def _settle(self, pending: Pending, timeout: float) -> None:
        """Finish a submitted read: its pixels are in its surface, its slot is free."""
        importer = pending.importer
        assert importer is not None
        with self._lock, importer.context:
            try:
                pending.take(timeout)
            finally:
                if pending.slot is None and pending in importer.flying:
                    importer.flying.remove(pending)

    def _land(self, importer: Importer) -> None:
        """Finish what is in flight before the device goes: each frame is released, whatever became of its read."""
        while importer.flying:
            pending = importer.flying[0]
            try:
                self._settle(pending, DEFAULT_TIMEOUT)
            except Exception as error:
                if pending.slot is not None:
                    importer.flying.remove(pending)
                    pending.give_up(DeviceError(f"the Reader was closed before the read was over ({error})"))
                    if pending.finish is not None:
                        pending.finish()

    @staticmethod
    def _release(frame: Frame) -> None:
        if frame.release is not None:
            frame.release()

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

    def map(self, picture: DmaBuf | Frame, *, timeout: float = DEFAULT_TIMEOUT) -> Surface:
        """A Surface over the buffer's own memory, no copy: `with reader.map(frame) as surface: …`. No GL takes part.

        The producer's fences are waited for (timeout in seconds), DMA_BUF_IOCTL_SYNC START comes before and END when the
        surface is closed. Its memory is read-only, its rows lie as the buffer's do. For memory that the CPU does not
        cache (discrete GPUs, many display controllers' buffers) a copy by read() and then reading that is faster.

        Only for linear one-plane pictures that are neither turned nor upside down, of buffers that can be mapped and
        cannot shrink: DescriptorError, or ImportRejected where the exporter refuses. Closing the surface while a view
        of it (an array, a memoryview) is still used raises BufferError: the view stays good, but unsynchronised.
        """
        if self._closed:
            raise ValueError("the Reader is closed")
        frame = as_frame(picture)
        buf = frame.buffer
        with contextlib.ExitStack() as undo:
            if frame.release is not None:
                undo.callback(frame.release)
            if frame.y_invert:
                raise DescriptorError(f"{buf} is upside down (y_invert) in memory; read() turns it")
            route = plan(frame, buf.fourcc, None, route="map")
            checked = Checked(frame, check(buf), frame.area, "")
            if not all(backing.steady for backing in checked.backings):
                raise DescriptorError(f"{buf} lies in a file that can shrink; seal it with F_SEAL_SHRINK, or read() a copy")
            sync.wait(checked.dmabufs, frame.acquire_fence, timeout)
            rect = block_rect(buf, buf.layouts[0], frame.area)
            first = buf.planes[0].offset + rect.y * buf.step(0) + rect.x
            size = (rect.height - 1) * buf.step(0) + rect.width
            mapping, view = map_range(buf, buf.planes[0], checked.backings[0], first, size)
            undo.callback(mapping.close)
            undo.enter_context(view)
            # The ioctl END wants the buffer's descriptor, which the caller may close while the surface lives.
            for fd in checked.dmabufs:
                own = undo.enter_context(OwnedFd.dup(fd))
                sync_start(own.fileno())
                undo.callback(sync_end, own.fileno())
            area, held = frame.area, contextlib.ExitStack()
            surface = Surface(view, area.width, area.height, buf.fourcc, buf.step(0), route=route, held=held)
            held.enter_context(undo.pop_all())
            return surface

    def capabilities(self, picture: DmaBuf | Frame | None = None) -> Capabilities:
        """The capabilities of the device that would read picture (None: of any dma-buf). Raises DeviceError."""
        own = picture.device if isinstance(picture, Frame) else None
        failures: dict[str, str] = {}
        with self._lock:
            for importer in self._lanes(own, picture is None or _is_dmabuf(as_frame(picture)), failures):
                return importer.capabilities
        raise _no_device(failures)

    def forget(self, picture: DmaBuf | Frame) -> None:
        """Let go of what is kept of a picture's buffers, so that the producer's memory can be freed.

        The picture's descriptors must still be open: DescriptorError if not.
        """
        frame = as_frame(picture)
        inodes = frozenset(inspect(plane.fd).key for plane in frame.buffer.planes)
        with self._lock:
            self._let_go_of_lost()
            for importer in self._open_importers():
                with importer.context:
                    importer.forget(inodes)

    def close(self) -> None:
        """Give back contexts, imports and descriptors. Once; a closed Reader reads no more. What is in flight is finished."""
        with self._lock:
            self._closed = True
            for importer in self._open_importers():
                self._land(importer)
                importer.close()
            self._importers.clear()
            self._again.clear()
            self._drop_staging()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
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

        self._let_go_of_lost()
        for name in [self._device] if self._device else candidates(own, dmabuf):
            found = self._importers.get(name)
            if found is None:
                try:
                    found = Importer(name)
                except DeviceError as error:
                    found = error
                if name not in self._were_reset or not isinstance(found, DeviceError):
                    self._importers[name] = found
            if isinstance(found, DeviceError):
                failures[name] = str(found)
            else:
                yield found

    def _try_devices(self, checked: Checked, failures: dict[str, str]) -> Iterator[Importer | None]:
        """Each device to try, and into failures why others cannot be; then None, for the map route, where no GL works at
        all and nobody asked for a device."""
        dmabuf = any(backing.dmabuf for backing in checked.backings)
        none = True
        try:
            for importer in self._lanes(checked.frame.device, dmabuf, failures):
                none = False
                yield importer
        except DeviceError as error:  # EGL itself is missing
            failures["EGL"] = str(error)
        if none and not (self._device or os.environ.get(DEVICE_VARIABLE)):
            yield None

    def _read_on_any(self, checked: Checked, request: _Request, picture: DmaBuf | Frame) -> Surface:
        wanted, asked, changed = request.fourcc, request.route, request.changed
        if asked == "map":
            return self._read_map(checked, request, plan(checked.frame, wanted, None, route="map", changed=changed))
        rejected: ImportRejected | None = None
        failures: dict[str, str] = {}
        for importer in self._try_devices(checked, failures):
            if importer is None:
                route = plan(checked.frame, wanted, None, route=asked, changed=changed)
                return self._read_map(checked, request, _explain(route, _no_device(failures)))
            try:
                route = plan(checked.frame, wanted, importer.capabilities, route=asked, changed=changed)
                if route == "map":  # converting on the CPU beats drawing there
                    return self._read_map(checked, request, _explain(route, rejected))
                return self._read_gl(importer, checked, request, _explain(route, rejected), picture)
            except ImportRejected as error:
                rejected = rejected or error
        raise rejected or _no_device(failures)

    def _planes_on_any(self, checked: Checked, blocks: Sequence[mmap.mmap], asked: str | None) -> None:
        buf = checked.buf
        rects = [Rect(0, 0, layout.row_bytes(buf.width), layout.rows(buf.height)) for layout in buf.layouts]
        rejected: ImportRejected | None = None
        failures: dict[str, str] = {}
        for importer in self._try_devices(checked, failures) if asked != "map" else (None,):
            if importer is None:
                break
            try:
                self._planes_gl(importer, checked, rects, blocks)
                return
            except ImportRejected as error:
                rejected = rejected or error
        else:
            raise rejected or _no_device(failures)
        if asked == "alias":
            raise _no_device(failures)
        with sync.cpu_access(checked.dmabufs):
            for index, (rect, block) in enumerate(zip(rects, blocks, strict=True)):
                copy_plane(buf, index, checked.backings[index], rect, memoryview(block), rect.width)

    def _planes_gl(self, importer: Importer, checked: Checked, rects: Sequence[Rect], blocks: Sequence[mmap.mmap]) -> None:
        try:
            with importer.context, sync.cpu_access(checked.dmabufs):
                for index, (rect, block) in enumerate(zip(rects, blocks, strict=True)):
                    address = _address(block)
                    for _, todo in plane_copies(importer, checked, index, rect, rect.width):
                        importer.copy(todo, address)
        except importer.Failure as error:
            raise importer.refused(checked.buf, error) from None

    # Checking and waiting

    @contextlib.contextmanager
    def _checked(
        self, frame: Frame, rect: Iterable[int] | None, timeout: float, submitting: Importer | None = None
    ) -> Iterator[Checked]:
        """The frame, checked against its descriptors, waited for, and copied first where a driver must not map it.

        It is released at the end; when submitting, only if something went wrong, and a GPU that can wait by itself does.
        """
        if self._closed:
            raise ValueError("the Reader is closed")
        try:
            region = region_of(frame, rect)
            checked = Checked(frame, check(frame.buffer), region, "")
            if submitting is None or not _waits_itself(submitting):
                sync.wait(checked.dmabufs, frame.acquire_fence, timeout)
            yield self._stage(checked)
        except BaseException:
            self._release(frame)
            raise
        if submitting is None:
            self._release(frame)

    def _stage(self, checked: Checked) -> Checked:
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
        return Checked(frame, check(copied), checked.region, reason)

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
        self, importer: Importer, checked: Checked, request: _Request, route: Route, picture: DmaBuf | Frame
    ) -> Surface:
        out = _prepared(checked, request, route)
        out.device = importer.display.device.name
        parts = parts_of(checked, out, request.damage)
        try:
            with importer.context, sync.cpu_access(checked.dmabufs):
                pieces = []
                for found, todo in copies(importer, checked, out, route, parts, request.tone):
                    importer.copy(todo, out.address)
                    pieces.append((found, todo))
            if request.damage is None and not request.changed and route != "draw" and Again.possible(checked, importer):
                self._remember(shape_of(picture, out, request.route), Again(checked, route, importer, pieces))
        except importer.Failure as error:
            raise importer.refused(checked.buf, error) from None
        if route.opaque:
            for part in parts:
                force_opaque(part_of(out, part.place))
        return out

    def _remember(self, shape: Shape, again: Again) -> None:
        self._again[shape] = again
        while len(self._again) > _REMEMBERED:
            del self._again[next(iter(self._again))]

    def _read_again(
        self,
        picture: DmaBuf | Frame,
        out: Surface,
        damage: Iterable[Iterable[int]] | None,
        route: str | None,
        timeout: float,
    ) -> bool:
        """Read as a picture of the same shape was read before; False if there was none, or this one needs the long way."""
        if not isinstance(picture, DmaBuf | Frame) or not self._again:
            return False
        again = self._again.get(shape_of(picture, out, route))
        if again is None:
            return False
        try:
            if not again.read(picture, out, damage, timeout):
                return False
        except ImportRejected:
            return False  # the long way knows of other devices, and what to say
        except BaseException:
            self._release(as_frame(picture))
            raise
        if isinstance(picture, Frame):
            self._release(picture)
        return True

    # Reading without GL

    def _read_map(self, checked: Checked, request: _Request, route: Route) -> Surface:
        out = _prepared(checked, request, route)
        parts = parts_of(checked, out, request.damage)
        if route.converted:
            self._convert(checked, out, parts)
            return out
        with sync.cpu_access(checked.dmabufs):
            for part in parts:
                rect = block_rect(checked.buf, checked.buf.layouts[0], part.region)
                target = part_of(out, part.place)
                copy_plane(checked.buf, 0, checked.backings[0], rect, target.data, out.stride, checked.frame.y_invert)
                if route.opaque:
                    force_opaque(target)
        return out

    def _convert(self, checked: Checked, out: Surface, parts: Sequence[Part]) -> None:
        """Map the planes' visible part and convert them on the CPU."""
        from .yuvcpu import Converter

        if self._converter is None:
            self._converter = Converter()
        buf, area = checked.buf, checked.frame.area
        info = buf.fourcc.info
        with contextlib.ExitStack() as stack:
            stack.enter_context(sync.cpu_access(checked.dmabufs))
            views = []
            for index, (plane, backing, layout) in enumerate(zip(buf.planes, checked.backings, buf.layouts, strict=True)):
                step = buf.step(index)
                first = plane.offset + area.y // layout.vsub * step + layout.row_bytes(area.x)
                size = (layout.rows(area.height) - 1) * step + layout.row_bytes(area.width)
                mapping, view = map_range(buf, plane, backing, first, size)
                stack.enter_context(mapping)
                views.append(stack.enter_context(view))
            strides = [plane.stride for plane in buf.planes]
            for part in parts:
                region = part.region._replace(x=part.region.x - area.x, y=part.region.y - area.y)
                target = part_of(out, part.place)
                self._converter.convert(
                    *(
                        views,
                        strides,
                        area.width,
                        area.height,
                        info,
                        checked.frame.color,
                        target,
                        region,
                        checked.frame.y_invert,
                    )
                )


_REMEMBERED = 8


def _wanted_of(out: Surface, fourcc: Fourcc | str | int | None) -> Fourcc:
    if fourcc is not None and Fourcc(fourcc) != out.fourcc:
        raise DescriptorError(f"the surface given is {out.fourcc}, {Fourcc(fourcc)} was asked for; give one that agrees")
    return out.fourcc


def _prepared(checked: Checked, request: _Request, route: Route) -> Surface:
    """The surface to read into, of the right size and writable; it says how it is filled and what its numbers mean."""
    width, height = request.size
    out = request.out
    if out is None:
        out = Surface.allocate(width, height, route.fourcc)
    elif (out.width, out.height) != (width, height):
        raise DescriptorError(f"the surface given is {out.width}x{out.height}, the picture to read {width}x{height}")
    elif out.data.readonly:
        raise DescriptorError("the surface given is read-only; wrap writable memory")
    out.route = _explain(route, checked.staged)
    out.device = None
    out.color = None if request.tone else checked.frame.color
    return out


def _why_staged(backing: Backing) -> str:
    if not backing.steady:
        return "it is a file that can shrink (no F_SEAL_SHRINK)"
    if not backing.writable:
        return "its descriptor is read-only"
    return ""


def _waits_itself(importer: Importer) -> bool:
    from .egl.fence import can_wait_on_gpu

    return can_wait_on_gpu(importer.display)


def _gpu_waits(importer: Importer, checked: Checked, timeout: float) -> None:
    """Let the GPU wait for the producer's fences, if it can; else they have been waited for already.

    What it does not take is waited for here: something else that can be polled, a kernel without such sync files.
    """
    if not _waits_itself(importer):
        return
    from .egl.fence import wait_on_gpu

    fence = checked.frame.acquire_fence
    if fence is not None and not (is_sync_file(fence) and wait_on_gpu(importer.display, fence)):
        sync.wait((), fence, timeout)
    try:
        found = sync.unsignalled(checked.dmabufs)
    except OSError:
        sync.wait(checked.dmabufs, None, timeout)
        return
    try:
        if not all(wait_on_gpu(importer.display, fd) for fd in found):
            sync.wait(checked.dmabufs, None, timeout)
    finally:
        for fd in found:
            os.close(fd)


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
    return inspect(frame.buffer.planes[0].fd).dmabuf


def read(picture: DmaBuf | Frame, out: Surface | None = None, *, device: str | None = None, **options: Any) -> Surface:
    """Read one picture into a Surface: `Reader.read` with a Reader made for it and closed again.

    device is as for a Reader; options are those of `Reader.read`, which says what is raised. For more than a few pictures
    make a Reader: it keeps its context, its imports and its buffers.
    """
    with Reader(device) as reader:
        return reader.read(picture, out, **options)
