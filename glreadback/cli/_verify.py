"""`snapshot --verify`: the same frame once more by another route, compared bit for bit. No GL here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

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
    """Read what surface shows a second time; what was found equal, in words: "identical by alias and map".

    Where the picture was converted or turned, so that no second route gives the same bits, it is the raw planes that
    are read twice. Raises GlReadbackError on the first pixel that differs, naming it and both values, and where nothing
    can be read twice.
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
        found = first_difference(surface, other)
        if found is not None:
            x, y, ours, theirs = found
            _fail(f"pixel ({x}, {y})", ours, first.name, theirs, name)
        return f"identical by {first.name} and {name}"
    if not frame.buffer.linear:
        why.append(f"modifier {frame.buffer.modifier} is not LINEAR, so the raw planes cannot be compared either")
        raise GlReadbackError(f"cannot verify: no second route reads {frame.buffer} as {surface.fourcc}\n({'; '.join(why)})")
    return _verify_planes(reader, frame, timeout)


def _verify_planes(reader: Reader, frame: Frame, timeout: float) -> str:
    planes = [reader.read_planes(frame, route=name, timeout=timeout) for name in ("alias", "map")]
    for index, (one, other) in enumerate(zip(*planes, strict=True)):
        if one.tobytes() == other.tobytes():
            continue
        y, x = (one != other).reshape(*one.shape[:2], -1).any(axis=2).nonzero()
        at = (int(y[0]), int(x[0]))
        _fail(f"sample ({at[1]}, {at[0]}) of plane {index}", str(one[at].tolist()), "alias", str(other[at].tolist()), "map")
    count = len(planes[0])
    return f"the raw plane{'s are' if count > 1 else ' is'} identical by alias and map"


def _fail(where: str, ours: str, first: str, theirs: str, second: str) -> NoReturn:
    raise GlReadbackError(
        f"verify failed: {where} is {ours} by {first} and {theirs} by {second}\n(or the producer drew between the two reads)"
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
            block, bit = divmod((differing & -differing).bit_length() - 1, size)
            field = next(field for field in layout.fields if field.shift <= bit < field.shift + field.bits)
            part = (1 << size) - 1
            values = [_words(number >> block * size & part, layout, field.sample) for number in (a, b)]
            x = block * layout.block_width + field.sample % layout.block_width
            return x, y * layout.block_height + field.sample // layout.block_width, values[0], values[1]
    return None


def _words(block: int, layout: PlaneFormat, sample: int) -> str:
    """A pixel's components from the lowest bit, "B 16 G 180 R 180"; of the block's pixels the given one."""
    fields = [field for field in layout.fields if field.component != "X" and field.sample in (sample, 0)]
    own = [field for field in fields if field.sample == sample or sum(f.component == field.component for f in fields) == 1]
    return " ".join(f"{field.component} {block >> field.shift & (1 << field.bits) - 1}" for field in own)
