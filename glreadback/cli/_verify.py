"""`snapshot --verify`: the same frame once more by another route, compared bit for bit. Neither numpy nor GL here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DescriptorError, GlReadbackError, ImportRejected
from ..plan import ROUTES

if TYPE_CHECKING:
    from ..fourcc import PlaneFormat
    from ..frame import Frame, Rect
    from ..reader import Reader
    from ..surface import Surface

# The second route, best first: map shares nothing with the GL routes.
_ORDER = ("map", *(name for name in ROUTES if name != "map"))


def verify(reader: Reader, frame: Frame, surface: Surface, rect: Rect | None, timeout: float) -> str:
    """Read what surface shows a second time; the name of the route that agreed.

    Raises GlReadbackError on the first pixel that differs, naming it and both values, and where no second route reads
    such a frame bit for bit.
    """
    first = surface.route
    assert first is not None
    why = []
    for name in _ORDER if first.exact else ():
        if name == first.name:
            continue
        try:
            other = reader.read(frame, fourcc=surface.fourcc, rect=rect, route=name, timeout=timeout)
        except (DescriptorError, ImportRejected) as error:
            why.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        if other.route is None or not (other.route.exact or name == "native"):
            why.append(f"{name}: not bit for bit")
            continue
        found = first_difference(surface, other)
        if found is None:
            return name
        x, y, ours, theirs = found
        raise GlReadbackError(
            f"verify failed: pixel ({x}, {y}) is {ours} by {first.name} and {theirs} by {name}\n"
            "(or the producer drew between the two reads)"
        )
    if not first.exact:
        why.append(
            f"the {first.name} route converts {frame.buffer.fourcc} to {surface.fourcc}, and only equal bits can be compared"
        )
    raise GlReadbackError(
        f"cannot verify: no second route reads {frame.buffer} as {surface.fourcc} bit for bit\n({'; '.join(why)})"
    )


def first_difference(one: Surface, other: Surface) -> tuple[int, int, str, str] | None:
    """The first pixel whose components differ, and its values in words; None if there is none. Padding bits do not count."""
    if one.tobytes() == other.tobytes():
        return None
    layout = one.fourcc.info.planes[0]
    size = layout.block_bytes * 8
    significant = sum((1 << field.bits) - 1 << field.shift for field in layout.fields if field.component != "X")
    blocks = one.row_bytes // layout.block_bytes
    mask = int.from_bytes(significant.to_bytes(layout.block_bytes, "little") * blocks, "little")
    for y, (mine, its) in enumerate(zip(one.rows(), other.rows(), strict=True)):
        if mine == its:
            continue
        a, b = int.from_bytes(mine, "little"), int.from_bytes(its, "little")
        differing = (a ^ b) & mask
        if differing:
            block = ((differing & -differing).bit_length() - 1) // size
            part = (1 << size) - 1
            values = [_words(number >> block * size & part, layout) for number in (a, b)]
            return block * layout.block_width, y * layout.block_height, values[0], values[1]
    return None


def _words(block: int, layout: PlaneFormat) -> str:
    """A block's components in memory order, "B 16 G 180 R 180"."""
    fields = (field for field in layout.fields if field.component != "X")
    return " ".join(f"{field.component} {block >> field.shift & (1 << field.bits) - 1}" for field in fields)
