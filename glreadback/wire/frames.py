"""Frames over a UNIX socket: one line of JSON each, descriptors beside it (SCM_RIGHTS), a line back when it was read.

    {"version": 1, "frame": 7, "width": 1920, "height": 1080, "fourcc": "XR24", "modifier": 0,
     "planes": [{"fd": 0, "offset": 0, "stride": 7680}], …}\n
    {"release": 7}\n

`fd` and `acquire_fence` are places in the list of descriptors that came with the line. Optional: `visible` [x, y, width,
height], `y_invert`, `transform`, `damage` (a list of such rectangles), `acquire_fence`, `color` (an object of
glreadback.Color's words), `palette` (a list of [red, green, blue], 0 to 255), `time` (seconds of CLOCK_MONOTONIC).
A modifier is a number or DRM's name; without one it is
INVALID, "the driver knows". Names other than these are refused: a later version that adds some has another number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..color import Color
from ..dmabuf import MAX_PLANES, DmaBuf, Plane
from ..errors import DescriptorError, SourceError
from ..fourcc import Fourcc
from ..frame import Frame, Rect
from ..modifier import Modifier

VERSION = 1
MAX_LINE = 1 << 16  # bytes, the newline included
MAX_FDS = MAX_PLANES + 1  # the planes' and a fence
MAX_DAMAGE = 1024  # rectangles

_DIGITS = 20  # of the largest modifier
_REQUIRED = frozenset({"version", "frame", "width", "height", "fourcc", "planes"})
_OPTIONAL = frozenset({"modifier", "visible", "y_invert", "transform", "damage", "acquire_fence", "color", "palette", "time"})
_PLANE = frozenset({"fd", "offset", "stride"})
_COLOR = frozenset(field.name for field in dataclasses.fields(Color))


@dataclass(frozen=True, slots=True)
class Header:
    """What a line says: the frame's number, and the frame with places in the list for descriptors."""

    number: int
    frame: Frame

    def with_fds(self, fds: Sequence[int], origin: str = "", release: Callable[[], None] | None = None) -> Frame:
        """The frame with real descriptors, which stay the owner's."""
        said = self.frame
        planes = [dataclasses.replace(plane, fd=fds[plane.fd]) for plane in said.buffer.planes]
        buffer = DmaBuf(said.buffer.width, said.buffer.height, said.buffer.fourcc, planes, said.buffer.modifier)
        fence = None if said.acquire_fence is None else fds[said.acquire_fence]
        return dataclasses.replace(said, buffer=buffer, acquire_fence=fence, origin=origin, release=release)


def parse_object(line: bytes, what: str = "the producer's line") -> dict[str, Any]:
    """A line of JSON that is one object: no name twice, no NaN, no number beyond a double or 20 digits.

    Raises SourceError.
    """
    try:
        found = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_without_twins,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise SourceError(f"{what} is no JSON that can be used: {_short(error)}") from None
    if not isinstance(found, dict):
        raise SourceError(f"{what} is {_kind(found)}; it must be a JSON object")
    return found


def parse_header(line: bytes, nfds: int) -> Header:
    """Take a frame's line apart; nfds descriptors came with it. Pure, and strict: raises SourceError with what is wrong."""
    if len(line) > MAX_LINE:
        raise SourceError(f"the frame's line has {len(line)} bytes; at most {MAX_LINE} are allowed")
    fields = parse_object(line, "the frame's line")
    _names(fields, _REQUIRED, _OPTIONAL, "the frame's line")
    version = _number(fields["version"], "version")
    if version != VERSION:
        raise SourceError(f"the frame's line has version {version}; this glreadback knows {VERSION}")
    used: set[int] = set()
    try:
        frame = _frame(fields, nfds, used)
    except DescriptorError as error:
        raise SourceError(f"the frame's line describes no buffer: {_short(error)}") from None
    if len(used) != nfds:
        raise SourceError(f"{nfds} descriptors came with the frame's line, which speaks of {len(used)}")
    return Header(_number(fields["frame"], "frame", most=2**63 - 1), frame)


def _frame(fields: dict[str, Any], nfds: int, used: set[int]) -> Frame:
    planes = [_plane(plane, nfds, used) for plane in _list(fields["planes"], "planes", MAX_PLANES)]
    buffer = DmaBuf(
        _number(fields["width"], "width"),
        _number(fields["height"], "height"),
        Fourcc(_text_or_number(fields["fourcc"], "fourcc")),
        planes,
        Modifier(_text_or_number(fields.get("modifier", int(Modifier.INVALID)), "modifier")),
    )
    given = {name: value for name, value in fields.items() if value is not None}
    damage = given.get("damage")
    return Frame(
        buffer,
        visible=_rect(given["visible"], "visible") if "visible" in given else None,
        y_invert=_boolean(given.get("y_invert", False), "y_invert"),
        transform=_text(given.get("transform", "normal"), "transform"),
        damage=None if damage is None else tuple(_rect(rect, "damage") for rect in _list(damage, "damage", MAX_DAMAGE)),
        acquire_fence=_place(given["acquire_fence"], "acquire_fence", nfds, used) if "acquire_fence" in given else None,
        color=_color(given["color"]) if "color" in given else None,
        palette=_palette(given["palette"]) if "palette" in given else None,
        time=_time(given["time"]) if "time" in given else None,
    )


def _plane(found: object, nfds: int, used: set[int]) -> Plane:
    if not isinstance(found, dict):
        raise SourceError(f"a plane is {_kind(found)}; it must be an object with fd, offset and stride")
    _names(found, _PLANE, frozenset(), "a plane")
    place = _place(found["fd"], "a plane's fd", nfds, used)
    return Plane(place, _number(found["offset"], "a plane's offset"), _number(found["stride"], "a plane's stride"))


def _place(found: object, what: str, nfds: int, used: set[int]) -> int:
    place = _number(found, what)
    if not 0 <= place < nfds:
        raise SourceError(f"{what} is {place}, but {nfds} descriptors came with the line; they count from 0")
    used.add(place)
    return place


def _color(found: object) -> Color:
    if not isinstance(found, dict):
        raise SourceError(f"color is {_kind(found)}; it must be an object")
    _names(found, frozenset(), _COLOR, "color")
    return Color(**{name: None if word is None else _text(word, name) for name, word in found.items()})


def _palette(found: object) -> tuple[tuple[int, int, int], ...]:
    colours = [_list(colour, "a colour of the palette", 3) for colour in _list(found, "palette", 256)]
    if any(len(colour) != 3 for colour in colours):
        raise SourceError("a colour of the palette must have three numbers: red, green, blue")
    levels = [[_number(value, "a colour of the palette", most=255) for value in colour] for colour in colours]
    return tuple((red, green, blue) for red, green, blue in levels)


def _rect(found: object, what: str) -> Rect:
    values = _list(found, what, 4)
    if len(values) != 4:
        raise SourceError(f"{what} has {len(values)} numbers; it must have four: x, y, width, height")
    x, y, width, height = (_number(value, what, least=-(2**31)) for value in values)
    return Rect(x, y, width, height)


def _time(found: object) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise SourceError(f"time is {_kind(found)}; it must be a number of seconds")
    return float(found)


def _number(found: object, what: str, least: int = 0, most: int = 2**31 - 1) -> int:
    if isinstance(found, bool) or not isinstance(found, int):
        raise SourceError(f"{what} is {_kind(found)}; it must be a whole number")
    if not least <= found <= most:
        raise SourceError(f"{what} is {found}; it must be between {least} and {most}")
    return found


def _text_or_number(found: object, what: str) -> str | int:
    return found if isinstance(found, str) else _number(found, what, most=2**64 - 1)


def _text(found: object, what: str) -> str:
    if not isinstance(found, str):
        raise SourceError(f"{what} is {_kind(found)}; it must be a word")
    return found


def _boolean(found: object, what: str) -> bool:
    if not isinstance(found, bool):
        raise SourceError(f"{what} is {_kind(found)}; it must be true or false")
    return found


def _list(found: object, what: str, most: int) -> list[Any]:
    if not isinstance(found, list):
        raise SourceError(f"{what} is {_kind(found)}; it must be a list")
    if len(found) > most:
        raise SourceError(f"{what} has {len(found)} entries; at most {most} are allowed")
    return found


def _names(found: dict[str, Any], required: frozenset[str], optional: frozenset[str], what: str) -> None:
    if missing := sorted(required - found.keys()):
        raise SourceError(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(found.keys() - required - optional):
        raise SourceError(f"{what} has {', '.join(ascii(name)[:40] for name in unknown[:3])}, which version {VERSION} has not")


# ---- JSON, strictly


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS:
        raise ValueError(f"a number has more than {_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_KINDS = {dict: "an object", list: "a list", str: "a word", bool: "a truth value", float: "a fraction", type(None): "null"}


def _kind(found: object) -> str:
    return _KINDS.get(type(found), "a number")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if text.isprintable() and len(text) <= 300 else ascii(text[:300])


# ---- the other way


def format_header(number: int, frame: Frame) -> tuple[bytes, list[int]]:
    """A frame as its line and the descriptors to send with it, each once; they stay the owner's.

    Every frame fits. More than 1024 rectangles of damage are left out: all of the picture may have changed.
    """
    fds: list[int] = []

    def place(fd: int) -> int:
        if fd not in fds:
            fds.append(fd)
        return fds.index(fd)

    buffer = frame.buffer
    fields: dict[str, Any] = {
        "version": VERSION,
        "frame": number,
        "width": buffer.width,
        "height": buffer.height,
        "fourcc": buffer.fourcc if len(buffer.fourcc) == 4 and buffer.fourcc.known else int(buffer.fourcc),
        "modifier": int(buffer.modifier),
        "planes": [{"fd": place(plane.fd), "offset": plane.offset, "stride": plane.stride} for plane in buffer.planes],
    }
    if frame.visible is not None:
        fields["visible"] = list(frame.visible)
    if frame.y_invert:
        fields["y_invert"] = True
    if frame.transform != "normal":
        fields["transform"] = frame.transform
    if frame.damage is not None and len(frame.damage) <= MAX_DAMAGE:  # else unknown: all of it
        fields["damage"] = [list(rect) for rect in frame.damage]
    if frame.acquire_fence is not None:
        fields["acquire_fence"] = place(frame.acquire_fence)
    if frame.color is not None:
        words = dataclasses.asdict(frame.color)
        fields["color"] = {name: word for name, word in words.items() if word is not None}
    if frame.palette is not None:
        fields["palette"] = [list(colour) for colour in frame.palette]
    if frame.time is not None:
        fields["time"] = frame.time
    # The longest rectangles and palette make 52,000 bytes: a line that is too long there is none (tests/test_fuzz.py).
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode() + b"\n", fds


def format_release(number: int) -> bytes:
    """The line that goes back when frame `number` has been read."""
    return b'{"release": %d}\n' % number


def parse_release(line: bytes) -> int:
    """The number in a release line. Raises SourceError."""
    fields = parse_object(line, "the reader's line")
    _names(fields, frozenset({"release"}), frozenset(), "the reader's line")
    return _number(fields["release"], "release", most=2**63 - 1)
