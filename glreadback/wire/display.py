"""QEMU's org.qemu.Display1.Listener (docs/interop/dbus-display.rst): each call's arguments checked and made a value.

Sizes are in pixels, strides and offsets in bytes. Places in a message's list of descriptors stand for descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..dmabuf import DmaBuf, Plane
from ..errors import DescriptorError, SourceError
from ..fourcc import Fourcc
from ..frame import Frame, Rect
from ..modifier import Modifier
from ..surface import pixman_format
from .dbus import Message

LISTENER = "org.qemu.Display1.Listener"
LISTENER_PATH = "/org/qemu/Display1/Listener"
MAP, DMABUF2 = f"{LISTENER}.Unix.Map", f"{LISTENER}.Unix.ScanoutDMABUF2"
INTERFACES = [MAP, DMABUF2]  # the property that says what may be sent
MAX_BYTES = 1 << 30  # of a picture; what QEMU's devices can have is far less
MAX_EXTENT = 1 << 15  # pixels either way
MAX_CURSOR = 512

PIXMAN = {code: fourcc for fourcc in reversed(Fourcc.all()) if (code := pixman_format(fourcc.info))}


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels that came in the message: a whole screen, or what changed of it at `rect`."""

    rect: Rect
    stride: int
    fourcc: Fourcc
    data: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Mapped:
    """A screen in memory that QEMU goes on drawing to, packed in no way but rows stride bytes apart."""

    place: int
    offset: int
    width: int
    height: int
    stride: int
    fourcc: Fourcc


@dataclass(frozen=True, slots=True)
class Shared:
    """A screen in a dma-buf; the frame's descriptors are places."""

    frame: Frame

    def with_fds(self, fds: list[int]) -> Frame:
        buffer = self.frame.buffer
        planes = [replace(plane, fd=fds[plane.fd]) for plane in buffer.planes]
        return replace(self.frame, buffer=DmaBuf(buffer.width, buffer.height, buffer.fourcc, planes, buffer.modifier))


@dataclass(frozen=True, slots=True)
class Changed:
    """What lies in the shared memory at rect is new. Of a dma-buf QEMU waits for the answer before it draws again."""

    rect: Rect
    dmabuf: bool


@dataclass(frozen=True, slots=True)
class Off:
    """The screen shows nothing, and the memory shared last is gone."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The pointer's shape: packed 32-bit pixels, premultiplied ARGB, and its hot spot."""

    width: int
    height: int
    hot_x: int
    hot_y: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where the pointer's top left corner is, and whether it is shown."""

    x: int
    y: int
    shown: bool


Event = Picture | Mapped | Shared | Changed | Off | Cursor | Pointer


def event(message: Message) -> Event | None:
    """What a call to the listener says; None for a method that no listener has. Raises SourceError for arguments that
    cannot be."""
    interface, member = message.interface, message.member
    known = _METHODS.get((interface or LISTENER, member))
    if known is None:
        return None
    signature, make = known
    if message.signature != signature:
        raise SourceError(f"{member} came with arguments {message.signature!r}; it has {signature!r}")
    try:
        return make(*message.body)
    except DescriptorError as error:
        raise SourceError(f"{member}: {error}") from None


def _scanout(width: int, height: int, stride: int, pixman: int, data: bytes) -> Picture:
    return _picture(Rect(0, 0, width, height), stride, pixman, data, True)


def _update(x: int, y: int, width: int, height: int, stride: int, pixman: int, data: bytes) -> Picture:
    return _picture(Rect(x, y, width, height), stride, pixman, data, False)


def _picture(rect: Rect, stride: int, pixman: int, data: bytes, whole: bool) -> Picture:
    fourcc = _fourcc(pixman)
    end = _end(rect.width, rect.height, stride, fourcc)
    if end > len(data):
        raise SourceError(f"{rect} {fourcc} with stride {stride} takes {end} bytes, {len(data)} came")
    return Picture(rect, stride, fourcc, data, whole)


def _scanout_map(place: int, offset: int, width: int, height: int, stride: int, pixman: int) -> Mapped:
    fourcc = _fourcc(pixman)
    _end(width, height, stride, fourcc)
    return Mapped(place, offset, width, height, stride, fourcc)


def _scanout_dmabuf(place: int, width: int, height: int, stride: int, fourcc: int, modifier: int, flipped: bool) -> Shared:
    return _shared(DmaBuf(width, height, Fourcc(fourcc), [Plane(place, 0, stride)], Modifier(modifier)), None, flipped)


def _scanout_dmabuf2(
    places: list[int],
    x: int,
    y: int,
    width: int,
    height: int,
    offsets: list[int],
    strides: list[int],
    count: int,
    fourcc: int,
    backing_width: int,
    backing_height: int,
    modifier: int,
    flipped: bool,
) -> Shared:
    if not places or count > min(len(offsets), len(strides)):
        raise SourceError(
            f"a dma-buf of {count} planes came with {len(places)} descriptors, {len(offsets)} offsets, {len(strides)} strides"
        )
    # Planes of one buffer share its descriptor, which is then sent once.
    padded = places + places[:1] * (count - len(places))
    planes = [Plane(*plane) for plane in zip(padded[:count], offsets, strides, strict=False)]
    buffer = DmaBuf(backing_width, backing_height, Fourcc(fourcc), planes, Modifier(modifier))
    return _shared(buffer, Rect(x, y, width, height), flipped)


def _shared(buffer: DmaBuf, visible: Rect | None, flipped: bool) -> Shared:
    if buffer.width > MAX_EXTENT or buffer.height > MAX_EXTENT:
        raise SourceError(f"{buffer} is larger than {MAX_EXTENT} pixels either way")
    # y0_top is the opposite of its name: without it, the first row in memory is the top one.
    return Shared(Frame(buffer, visible=visible, y_invert=bool(flipped)))


def _cursor(width: int, height: int, hot_x: int, hot_y: int, data: bytes) -> Cursor:
    if not (0 < width <= MAX_CURSOR and 0 < height <= MAX_CURSOR and len(data) >= width * height * 4):
        raise SourceError(f"a pointer of {width}x{height} pixels came with {len(data)} bytes")
    return Cursor(width, height, hot_x, hot_y, bytes(data))


def _fourcc(pixman: int) -> Fourcc:
    if pixman not in PIXMAN:
        raise SourceError(f"pixman format {pixman:#010x} is none that DRM has")
    return PIXMAN[pixman]


def _end(width: int, height: int, stride: int, fourcc: Fourcc) -> int:
    """The first byte past a picture's pixels, all sizes checked."""
    if not (1 <= width <= MAX_EXTENT and 1 <= height <= MAX_EXTENT):
        raise SourceError(f"a picture of {width}x{height} pixels; both must be 1 to {MAX_EXTENT}")
    row = fourcc.info.planes[0].row_bytes(width)
    if stride < row:
        raise SourceError(f"a picture of {width} {fourcc} pixels a row has a stride of {stride}, a row needs {row}")
    if row * height > MAX_BYTES:
        raise SourceError(f"a picture of {row * height} bytes; at most {MAX_BYTES} are taken")
    return stride * (height - 1) + row


_METHODS: dict[tuple[str, str], tuple[str, Callable[..., Event]]] = {
    (LISTENER, "Scanout"): ("uuuuay", _scanout),
    (LISTENER, "Update"): ("iiiiuuay", _update),
    (LISTENER, "ScanoutDMABUF"): ("huuuutb", _scanout_dmabuf),
    (LISTENER, "UpdateDMABUF"): ("iiii", lambda *rect: Changed(Rect(*rect), True)),
    (LISTENER, "Disable"): ("", Off),
    (LISTENER, "CursorDefine"): ("iiiiay", _cursor),
    (LISTENER, "MouseSet"): ("iii", lambda x, y, on: Pointer(x, y, bool(on))),
    (MAP, "ScanoutMap"): ("huuuuu", _scanout_map),
    (MAP, "UpdateMap"): ("iiii", lambda *rect: Changed(Rect(*rect), False)),
    (DMABUF2, "ScanoutDMABUF2"): ("ahuuuuauauuuuutb", _scanout_dmabuf2),
}


def property_answer(message: Message) -> tuple[str, tuple[Any, ...]] | None:
    """Signature and body of the answer to a Properties call on the listener; None where there is no such property.

    QEMU asks for them with GetAll when a listener is registered, and stands still until it has them.
    """
    if message.member == "GetAll" and message.signature == "s":
        return "a{sv}", ({"Interfaces": ("as", INTERFACES)} if message.body == (LISTENER,) else {},)
    if message.member == "Get" and message.body == (LISTENER, "Interfaces"):
        return "v", (("as", INTERFACES),)
    return None
