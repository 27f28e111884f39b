"""A frame: a dma-buf plus what is true of this one picture in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .color import Color
from .dmabuf import DmaBuf, descriptor
from .errors import DescriptorError

# wl_output.transform's names: how the buffer's content was turned, counter-clockwise, before it is shown.
TRANSFORMS = ("normal", "90", "180", "270", "flipped", "flipped-90", "flipped-180", "flipped-270")


class Rect(NamedTuple):
    """A rectangle in pixels, from the top left."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.x}+{self.y}"


def check_rect(rect: Iterable[int], width: int, height: int, what: str) -> Rect:
    """rect as a Rect, if it is not empty and lies within width x height pixels. Raises DescriptorError."""
    try:
        x, y, w, h = (value.__index__() for value in rect)
    except (AttributeError, TypeError, ValueError):
        raise DescriptorError(f"{what} is {rect!r}; give four whole numbers: x, y, width, height") from None
    found = Rect(x, y, w, h)
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise DescriptorError(f"{what} {found} does not lie within the picture of {width}x{height} pixels")
    return found


def _check_palette(palette: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        found = tuple(tuple(value.__index__() for value in colour) for colour in palette)
    except (AttributeError, TypeError):
        found = ((),)
    if len(found) > 256 or any(len(colour) != 3 or min(colour) < 0 or max(colour) > 255 for colour in found):
        raise DescriptorError("the palette must be at most 256 colours of three numbers from 0 to 255 each")
    return found


@dataclass(frozen=True, slots=True)
class Frame:
    """A DmaBuf plus what is true of this picture.

    buffer          the pixels
    visible         the rectangle of them that is the picture; None = all
    y_invert        memory row 0 is the bottom row
    transform       how the content was turned before it is shown, in wl_output.transform's words; read() undoes it
    damage          what changed since the producer's previous frame, as rectangles of the picture; None = unknown
    acquire_fence   a sync file's descriptor to wait for before reading; it stays the caller's
    color           what the numbers mean; None = as usual for the format
    palette         for C1 to C8: (red, green, blue), 0 to 255, of each index; None = from black to white
    time            when it was made, seconds of CLOCK_MONOTONIC; None = unknown
    origin          where it came from, for people
    device          the render node of the device that holds it, where the source knows
    release         called once when a read of this frame is over and the producer may draw again

    Descriptors stay the owner's: the caller's, or the source's until its next frame.
    Raises DescriptorError where the words are unknown or the rectangle is not inside the buffer.
    """

    buffer: DmaBuf
    visible: Rect | None = None
    y_invert: bool = False
    transform: str = "normal"
    damage: tuple[Rect, ...] | None = None
    acquire_fence: int | None = None
    color: Color | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    time: float | None = None
    origin: str = ""
    device: str | None = None
    release: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.buffer, DmaBuf):
            raise DescriptorError(f"a frame's buffer is a DmaBuf, not {type(self.buffer).__name__}")
        if self.acquire_fence is not None:
            object.__setattr__(self, "acquire_fence", descriptor(self.acquire_fence, "the acquire fence"))
        if self.transform not in TRANSFORMS:
            raise DescriptorError(f"transform is {self.transform!r}; it must be one of {', '.join(TRANSFORMS)}")
        buf = self.buffer
        if self.palette is not None:
            object.__setattr__(self, "palette", _check_palette(self.palette))
        if self.visible is not None:
            object.__setattr__(self, "visible", check_rect(self.visible, buf.width, buf.height, "the visible rectangle"))
        if self.damage is not None:
            # Producers damage more than there is (QEMU's Update, Wayland's INT32_MAX): cut when it is used, not here.
            try:
                object.__setattr__(self, "damage", tuple(Rect(*rect) for rect in self.damage))
            except TypeError:
                raise DescriptorError(f"damage is {self.damage!r}; give rectangles: x, y, width, height") from None

    @property
    def area(self) -> Rect:
        """The visible rectangle, in pixels of the buffer as it lies in memory order of rows, top row first."""
        return self.visible or Rect(0, 0, self.buffer.width, self.buffer.height)

    @property
    def quarters(self) -> int:
        """How many quarter turns counter-clockwise the content was turned, after any flip."""
        return TRANSFORMS.index(self.transform) % 4

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture as it is shown, after the transform."""
        area = self.area
        return (area.height, area.width) if self.quarters % 2 else (area.width, area.height)


def as_frame(picture: DmaBuf | Frame) -> Frame:
    """A Frame of either. Raises DescriptorError for anything else."""
    if isinstance(picture, Frame):
        return picture
    if isinstance(picture, DmaBuf):
        return Frame(picture)
    raise DescriptorError(f"a DmaBuf or a Frame is needed, not {type(picture).__name__}")
