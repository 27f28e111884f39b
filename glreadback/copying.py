"""What a GL read copies, as data: which part of which import goes where. Made once, done again while nothing changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import sync
from .damage import merged
from .dmabuf import Backing, DmaBuf, Plane, inspect
from .errors import DescriptorError
from .fourcc import PlaneFormat
from .frame import Frame, Rect, check_rect
from .plan import ALIASES, Access, Route, alias_bytes
from .surface import Surface

if TYPE_CHECKING:
    from .gl.pixels import Copy
    from .importer import Import, Importer

# One import, and one band of a read, stays below this: drivers compute in signed 32-bit integers.
_BAND = 2**31 - 1
_BGRA = 0x80E1


class Checked(NamedTuple):
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


class Part(NamedTuple):
    """A rectangle to read: where it is in the buffer, in pixels with rows as they lie in memory, and in the picture."""

    region: Rect
    place: Rect


def copies(
    importer: Importer, checked: Checked, out: Surface, route: Route, parts: Sequence[Part], tone: str = ""
) -> Iterator[tuple[Import | None, list[Copy]]]:
    """The imports and copies of a read of these parts through GL; tone as gl/draw.py has it. Context current.

    Do each one's copies before asking for the next: an import may push another one out of the cache, a draw reuses its
    target. Raises ImportRejected.
    """
    buf, reverse, stride = checked.buf, checked.frame.y_invert, out.stride
    assert route.access is not None
    pixel = out.fourcc.info.planes[0].block_bytes
    whole = None
    for part in parts:
        offset = part.place.y * stride + part.place.x * pixel
        if route == "alias":
            rect = block_rect(buf, buf.layouts[0], part.region)
            yield from plane_copies(importer, checked, 0, rect, stride, route.access, reverse, offset)
        elif route == "native":
            if whole is None:
                whole = importer.get(
                    buf, checked.backings, code=buf.fourcc.code, width=buf.width, height=buf.height, planes=buf.planes
                )
            yield whole, importer.copies(whole.texture.framebuffer, part.region, route.access, offset, stride, reverse)
        else:
            from .gl.draw import draw

            size = part.place.width, part.place.height
            framebuffer = draw(importer, checked.frame, checked.backings, part.region, size, route, tone)
            yield None, importer.copies(framebuffer, Rect(0, 0, *size), route.access, offset, stride)


def plane_copies(
    importer: Importer,
    checked: Checked,
    index: int,
    rect: Rect,
    stride: int,
    access: Access | None = None,
    reverse: bool = False,
    base: int = 0,
) -> Iterator[tuple[Import, list[Copy]]]:
    """The copies of a rectangle of a linear plane, x and width in bytes and y and height in rows of blocks, to byte base on.

    The plane is imported as plain bytes, in tiles where it is wider or longer than the device takes.
    """
    buf = checked.buf
    plane, backing, layout, step = buf.planes[index], checked.backings[index], buf.layouts[index], buf.step(index)
    row, rows = layout.row_bytes(buf.width), layout.rows(buf.height)
    swapped = access is not None and access.format == _BGRA
    unit = 4 if swapped else alias_bytes(layout.block_bytes, row, rect.x, rect.width, stride, base)
    code, pair = ALIASES[unit]
    if access is None or not swapped:
        access = pair
    extent = importer.capabilities.max_extent
    wide, high = extent * unit, max(1, min(extent, _BAND // step))
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
            # Where the part lands: from the rectangle's top, or from its bottom when rows are reversed.
            down = rect.y + rect.height - part.y - part.height if reverse else part.y - rect.y
            place = Rect((part.x - left) // unit, part.y - top, part.width // unit, part.height)
            offset = base + down * stride + part.x - rect.x
            yield found, importer.copies(found.texture.framebuffer, place, access, offset, stride, reverse)


Shape = tuple[object, ...]


def shape_of(picture: DmaBuf | Frame, out: Surface, route: str | None) -> Shape:
    """What two whole reads have in common that copy the same bytes to the same places, from one buffer or another."""
    buf, rest = picture, None
    if isinstance(picture, Frame):
        buf, rest = picture.buffer, (picture.visible, picture.y_invert, picture.transform, picture.device)
    assert isinstance(buf, DmaBuf)
    plane = buf.planes[0]
    layout = (buf.width, buf.height, buf.fourcc, buf.modifier, len(buf.planes), plane.offset, plane.stride, rest)
    return (*layout, out.width, out.height, out.stride, out.fourcc, route)


def parts_of(checked: Checked, out: Surface, damage: Iterable[Iterable[int]] | None) -> list[Part]:
    """What to bring up to date in out: all of it, or the damage."""
    whole = Part(checked.region, Rect(0, 0, out.width, out.height))
    layout = out.fourcc.info.planes[0]
    if damage is None or (layout.block_width, layout.block_height) != (1, 1):
        return [whole]
    return [Part(region_of(checked.frame, rect), rect) for rect in merged(damage, out.width, out.height)]


class _Buffer(NamedTuple):
    """A buffer that was read before: its imports, the copies out of all of them, and what its descriptor is."""

    imports: list[Import]
    copies: list[Copy]
    backing: Backing


class Again:
    """What further reads of the same shape can skip: everything but looking what their buffers are, the fences, the
    import of one not seen before, and the copy. At 1080p the rest would cost a quarter of the copy."""

    __slots__ = ("buffers", "dmabuf", "end", "importer", "pieces", "route")

    def __init__(
        self, checked: Checked, route: Route, importer: Importer, pieces: Sequence[tuple[Import | None, list[Copy]]]
    ) -> None:
        self.route, self.importer = route, importer
        self.dmabuf, self.end = checked.backings[0].dmabuf, checked.buf.plane_end(0)
        # What is imported of each buffer: code, width, height, offset, stride; and the copies out of that.
        self.pieces = [(*found.key[:3], *found.key[-1][3:], todo) for found, todo in pieces if found is not None]  # type: ignore[index]
        # By device and inode.
        self.buffers: dict[tuple[int, int], _Buffer] = {}

    @staticmethod
    def possible(checked: Checked, importer: Importer) -> bool:
        # Hardware drivers want the image bound again for every frame: the long way does that.
        whole = checked.region == checked.frame.area and len(checked.buf.planes) == 1
        return whole and not checked.staged and importer.capabilities.software and not checked.buf.modifier.tiled

    def read(self, picture: DmaBuf | Frame, out: Surface, damage: Iterable[Iterable[int]] | None, timeout: float) -> bool:
        """Read into out, all or what is damaged; False if that needs the long way. Raises as Reader.read does."""
        importer = self.importer
        frame = picture if isinstance(picture, Frame) else None
        buf = picture.buffer if isinstance(picture, Frame) else picture
        fd = buf.planes[0].fd
        try:
            status = os.fstat(fd)
        except OSError:
            return False
        known = self.buffers.get((status.st_dev, status.st_ino))
        # An import that lives keeps its buffer, so the inode is its own; what it is has been looked at.
        backing = None
        if known is None or not all(found.alive for found in known.imports):
            try:
                backing = inspect(fd)
            except DescriptorError:
                return False
            fits = backing.dmabuf == self.dmabuf and backing.size >= self.end and backing.steady and backing.writable
            if not fits:
                return False
        if importer.lost or out.data.readonly:
            return False
        changed: list[Part] | None = None
        if damage is not None:
            shown = frame or Frame(buf)
            checked = Checked(shown, (backing or known.backing,), shown.area, "")  # type: ignore[union-attr]  # one is there
            changed = parts_of(checked, out, damage)
        fds = (fd,) if self.dmabuf else ()
        fence = frame.acquire_fence if frame is not None else None
        if fds or fence is not None:
            sync.wait(fds, fence, timeout)
        try:
            with importer.context, sync.cpu_access(fds) if fds else _NOTHING:
                if backing is not None:
                    known = self.buffers[backing.key] = self._import(buf, backing)
                assert known is not None
                for found in known.imports:
                    importer.touch(found)
                if changed is None:
                    importer.copy(known.copies, out.address)
                else:
                    for _, todo in copies(importer, checked, out, self.route, changed):
                        importer.copy(todo, out.address)
        except importer.Failure as error:
            raise importer.refused(buf, error) from None
        out.route, out.device = self.route, importer.display.device.name
        out.color = frame.color if frame is not None else None
        if self.route.opaque:
            for place in [Rect(0, 0, out.width, out.height)] if changed is None else [part.place for part in changed]:
                force_opaque(part_of(out, place))
        return True

    def _import(self, buf: DmaBuf, backing: Backing) -> _Buffer:
        self.buffers = {key: kept for key, kept in self.buffers.items() if all(found.alive for found in kept.imports)}
        imports, todo = [], []
        (own,) = buf.planes
        for code, width, height, offset, stride, copies in self.pieces:
            plane = own if (own.offset, own.stride) == (offset, stride) else Plane(own.fd, offset, stride)
            found = self.importer.get(buf, (backing,), code=code, width=width, height=height, planes=(plane,))
            imports.append(found)
            todo += [copy._replace(framebuffer=found.texture.framebuffer) for copy in copies]
        return _Buffer(imports, todo, backing)


_NOTHING = contextlib.nullcontext()


def region_of(frame: Frame, rect: Iterable[int] | None) -> Rect:
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


def block_rect(buf: DmaBuf, layout: PlaneFormat, rect: Rect) -> Rect:
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


def force_opaque(out: Surface) -> None:
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


def part_of(surface: Surface, place: Rect) -> Surface:
    """A surface over a rectangle of another one's memory, in pixels that are whole bytes."""
    if (place.x, place.y, place.width, place.height) == (0, 0, surface.width, surface.height):
        return surface
    size = surface.fourcc.info.planes[0].block_bytes
    start = place.y * surface.stride + place.x * size
    return Surface(surface.data, place.width, place.height, surface.fourcc, surface.stride, start)


def runs_of(surface: Surface, place: Rect) -> list[tuple[int, int]]:
    """A rectangle of a surface as runs of bytes in its memory: (offset, length)."""
    layout = surface.fourcc.info.planes[0]
    start, length = place.y * surface.stride + place.x * layout.block_bytes, layout.row_bytes(place.width)
    rows = layout.rows(place.height)
    if length == surface.stride:
        return [(start, length * rows)]
    return [(start + row * surface.stride, length) for row in range(rows)]
