"""What `assert_surface_equal` and `golden` of glreadback.testing do: two pictures, component by component, and a report."""

from __future__ import annotations

import numbers
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import pixels
from ._testing_files import Array, Artefacts, Picture, file_name, load, name_of_test
from .errors import GlReadbackError
from .fourcc import FormatInfo
from .frame import Rect
from .surface import Surface, array_shape, element
from .testing import current_test


class Unlike(Exception):
    """The two cannot be equal, whatever their pixels are."""


class Side(NamedTuple):
    """One of the two: what was given, in words, and its size in pixels."""

    picture: Surface | Picture
    words: str
    size: tuple[int, int]


# ---- the verdict


def verdict(actual: object, expected: object, tolerance: object, golden: str = "") -> Exception | None:
    """What `assert_surface_equal` raises, None if the two are equal. golden is the report's last line, if there is one."""
    artefacts = Artefacts(current_test())
    sides: tuple[Side, Side] | None = None
    try:
        steps = _tolerance(tolerance)
        sides = _sides(actual, expected)
        wrong = _mismatch(*sides) or _difference(*sides, steps)
    except GlReadbackError as error:
        return error
    except Unlike as error:
        wrong = Wrong([str(error)])
    if wrong is None:
        return None
    lines = wrong.lines
    if sides is not None:
        lines += [*_words(*sides), *artefacts.leave(_pictures(*sides, wrong))]
    return AssertionError("\n".join([*lines, golden] if golden else lines))


def _tolerance(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < float("inf"):
        raise GlReadbackError(f"tolerance is {value!r}; give a number of steps, 0 or more")
    return float(value)


def _words(actual: Side, expected: Side) -> Iterator[str]:
    yield f"actual:   {actual.words}"
    yield f"expected: {expected.words}"


@dataclass(frozen=True)
class Wrong:
    """What is not equal: the report's first lines, and the difference as a picture where there is one."""

    lines: list[str]
    image: Array | None = None


def _mismatch(actual: Side, expected: Side) -> Wrong | None:
    if actual.size != expected.size:
        sizes = ["{}x{}".format(*side.size) for side in (actual, expected)]
        return Wrong([f"the sizes differ: actual is {sizes[0]} pixels, expected is {sizes[1]}"])
    if isinstance(actual.picture, Surface) and isinstance(expected.picture, Surface):
        codes = actual.picture.fourcc, expected.picture.fourcc
        if codes[0] != codes[1]:
            advice = f"A Reader reads it as another with fourcc={str(codes[1])!r}"
            return Wrong([f"the formats differ: actual is {codes[0]}, expected is {codes[1]}. {advice}"])
    return None


# ---- what was given


def _sides(actual: object, expected: object) -> tuple[Side, Side]:
    """Both as a Surface or a Picture, one of them a Surface. Raises Unlike where an array is not of the other's shape."""
    found = [_taken(actual, "actual"), _taken(expected, "expected")]
    if isinstance(found[0], Picture) and isinstance(found[1], Picture):
        found[0] = _as_surface(found[0])
    surfaces = [one for one in found if isinstance(one, Surface)]
    sides = []
    for one, name in zip(found, ("actual", "expected"), strict=True):
        if isinstance(one, Surface):
            route = f", route {one.route}" if one.route is not None else ""
            device = f", device {one.device}" if one.device is not None else ""
            sides.append(Side(one, f"{one.width}x{one.height} {one.fourcc}{route}{device}", (one.width, one.height)))
        elif isinstance(one, Picture):
            size = one.pixels.shape[1], one.pixels.shape[0]
            sides.append(Side(one, f"{size[0]}x{size[1]} picture, {one.pixels.itemsize * 8} bits, {one.name}", size))
        else:
            wrapped = _wrapped(one, surfaces[0]) if surfaces else _natural(one, name)
            words = f"array of shape {one.shape}, {one.dtype}, taken as {wrapped.fourcc}"
            sides.append(Side(wrapped, words, (wrapped.width, wrapped.height)))
    return sides[0], sides[1]


def _taken(value: object, name: str) -> Surface | Picture | Array:
    if isinstance(value, Surface):
        if value.closed:
            raise GlReadbackError(f"{name} is a surface that is closed")
        return value
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | os.PathLike):
        return Picture(load(Path(value)), os.fsdecode(value))
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # Pillow's, whose import takes time
        return Picture(load(value), "of Pillow")
    raise GlReadbackError(
        f"{name} is of type {type(value).__name__}; give a glreadback.Surface, a numpy array, a path of a PNG or a Pillow image"
    )


# What an array by itself is taken for: grey, RGB or RGBA, in that order.
_NATURAL = {
    **{("uint8", shape): code for shape, code in (((), "R8"), ((2,), "GR88"), ((3,), "BG24"), ((4,), "AB24"))},
    **{("uint16", shape): code for shape, code in (((), "R16"), ((2,), "GR32"), ((4,), "AB48"))},
    ("float16", (4,)): "AB4H",
}


def _natural(array: Array, name: str) -> Surface:
    code = _NATURAL.get((array.dtype.name, array.shape[2:])) if array.ndim >= 2 and array.size else None
    if code is None:
        raise GlReadbackError(
            f"{name} is an array of shape {array.shape}, {array.dtype}; without a Surface beside it, it must be of uint8, "
            "uint16 or float16 and (height, width), (height, width, 3) or (height, width, 4)"
        )
    return Surface.wrap(np.ascontiguousarray(array), array.shape[1], array.shape[0], code)


def _as_surface(picture: Picture) -> Surface:
    """A picture of 16 bits without alpha has one all the same: DRM has no such format."""
    if picture.pixels.shape[2] == 1:
        return _natural(picture.pixels[..., 0], picture.name)
    plain = picture.pixels.shape[2] == 3 and picture.most == 255
    return _natural(picture.pixels if plain else picture.rgba, picture.name)


def _wrapped(array: Array, beside: Surface) -> Surface:
    info = beside.fourcc.info
    layout = info.planes[0]
    shape = array_shape(layout, beside.width, beside.height, info.floating)
    kind = np.dtype(element(layout, info.floating).type)
    if array.dtype != kind or array.shape != shape:
        raise Unlike(
            f"the shapes differ: the array is {array.shape} of {array.dtype}, the {beside.width}x{beside.height} "
            f"{beside.fourcc} surface is {shape} of {kind}"
        )
    return Surface.wrap(np.ascontiguousarray(array), beside.width, beside.height, beside.fourcc)


# ---- components


@dataclass(frozen=True)
class Component:
    """One component of a picture: its name, (height, width) of integers that count steps, and how a value is shown."""

    name: str
    steps: Array
    shown: Array


_ORDER = ("R", "G", "B", "A", "Y", "Cb", "Cr", "C", "D")


def _components(side: Side, beside: Side) -> list[Component]:
    """A picture's components, in the steps of its own format, or of beside's where it has none of its own."""
    if isinstance(side.picture, Picture):
        assert isinstance(beside.picture, Surface)
        return _of_picture(side.picture, beside.picture.fourcc.info)
    info = side.picture.fourcc.info
    if isinstance(beside.picture, Picture):
        pixels.check_picture(info)
        if info.floating:
            found = pixels.samples(side.picture, 65535)
            return [Component(name, found[..., index].astype(np.int32), found[..., index]) for index, name in _channels(info)]
    return _of_surface(side.picture)


def _channels(info: FormatInfo) -> list[tuple[int, str]]:
    """The components of a format that a picture can have: which channel of RGBA each one is."""
    if len(info.bits) == 1:
        return [(0, next(iter(info.bits)))]
    return [("RGBA".index(name), name) for name in _ORDER if name in info.bits]


def _of_picture(picture: Picture, info: FormatInfo) -> list[Component]:
    """Brought to the nearest steps of a format."""
    pixels.check_picture(info)
    rgba = picture.rgba
    if len(info.bits) == 1 and picture.pixels.shape[2] > 2 and np.any(rgba[..., :1] != rgba[..., 1:3]):
        raise Unlike(f"the picture {picture.name} has colours, {info.fourcc} has one component")
    if "A" not in info.bits and picture.pixels.shape[2] in (2, 4) and np.any(rgba[..., 3] != picture.most):
        raise Unlike(f"the picture {picture.name} is not opaque, {info.fourcc} has no alpha")
    found = []
    for channel, name in _channels(info):
        most = 65535 if info.floating else (1 << info.bits[name]) - 1
        # 2^n - 1 is odd: no value of a picture lies halfway between two steps.
        nearest = np.rint(np.arange(picture.most + 1) * (most / picture.most)).astype(np.int32)
        steps = (nearest[::-1] if info.model == "dark" else nearest)[rgba[..., channel]]
        found.append(Component(name, steps, steps))
    return found


def _of_surface(surface: Surface) -> list[Component]:
    info = surface.fourcc.info
    layout = info.planes[0]
    if layout.block_height > 1:  # pixels of several lines in one block: bytes by their place
        rows = _bytes(surface).astype(np.int32)
        return [Component("bytes", rows, rows)]
    blocks = pixels._blocks(surface)
    found = []
    for name in _ORDER:
        fields = [field for field in layout.fields if field.component == name]
        if not fields:
            continue
        values = pixels._extract(blocks, fields, surface.width)
        if values.shape[1] < surface.width:  # chroma of packed Y'CbCr, one sample for several pixels
            values = np.repeat(values, layout.block_width // len(fields), axis=1)[:, : surface.width]
        found.append(
            Component(name, _ordered(values), values.astype("<u2").view("<f2"))
            if info.floating
            else Component(name, values.astype(np.int32), values)
        )
    return found


def _bytes(surface: Surface) -> Array:
    """(rows of blocks, bytes of a row), a view."""
    rows = surface.fourcc.info.planes[0].rows(surface.height)
    flat = np.frombuffer(surface.data, np.uint8)
    return np.ndarray((rows, surface.row_bytes), np.uint8, flat, 0, (surface.stride, 1))


_NAN = 1 << 24  # further from any number than any two numbers are, by far


def _ordered(halves: Array) -> Array:
    """Half floats' bits as integers that count representable values: both zeros are 0, and all NaN are alike."""
    bits = halves.astype(np.int32)
    size = bits & 0x7FFF
    return np.where(size > 0x7C00, _NAN, np.where(bits & 0x8000, -size, size))


# ---- the difference


def _difference(actual: Side, expected: Side, tolerance: float) -> Wrong | None:
    surfaces = [side.picture for side in (actual, expected) if isinstance(side.picture, Surface)]
    if len(surfaces) == 2 and np.array_equal(_bytes(surfaces[0]), _bytes(surfaces[1])):
        return None  # the quick way
    ours, theirs = _components(actual, expected), _components(expected, actual)
    distances = [np.abs(one.steps - other.steps) for one, other in zip(ours, theirs, strict=True)]
    beyond: Array = np.any([distance > tolerance for distance in distances], axis=0)
    count = int(np.count_nonzero(beyond))
    if not count:
        return None
    height, width = beyond.shape
    rows, columns = np.flatnonzero(beyond.any(axis=1)), np.flatnonzero(beyond.any(axis=0))
    first = int(rows[0]), int(np.flatnonzero(beyond[rows[0]])[0])
    box = Rect(int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    what = "bytes" if ours[0].name == "bytes" else "pixels"
    more = f" by more than {tolerance:g} step{'s' * (tolerance != 1)}" if tolerance else ""
    share = count / (width * height)
    lines = [
        f"{count} of {width * height} {what} ({f'{share:.2%}' if share >= 0.0001 else 'less than 0.01%'}) differ{more}",
        f"where:    {box}: columns {box.x} to {columns[-1]}, rows {box.y} to {rows[-1]}",
        f"first:    ({first[1]}, {first[0]}): actual {_shown(ours, first)}, expected {_shown(theirs, first)}",
    ]
    for one, distance in zip(ours, distances, strict=True):
        far = distance[distance > tolerance]
        if far.size:
            by = "NaN" if far.max() >= _NAN // 2 else f"by {far.max()} at most, {far.mean():.4g} on average"
            lines.append(f"{one.name + ':':9} {far.size} differ, {by}")
        elif most := distance.max():
            lines.append(f"{one.name + ':':9} within the tolerance, {most} at most")
        else:
            lines.append(f"{one.name + ':':9} equal")
    lines.append(f"steps:    {_unit(actual, expected)}")
    return Wrong(lines, _image([one.name for one in ours], distances, beyond))


def _shown(components: list[Component], place: tuple[int, int]) -> str:
    return " ".join(f"{one.name}={one.shown[place]}" for one in components)


def _unit(actual: Side, expected: Side) -> str:
    """What a step is, in words."""
    surface = next(side.picture for side in (actual, expected) if isinstance(side.picture, Surface))
    pictures = [side.picture for side in (actual, expected) if isinstance(side.picture, Picture)]
    info = surface.fourcc.info
    if info.floating:
        return "of 1/65535" if pictures else f"representable values of {info.fourcc}'s half floats"
    bits = ", ".join(f"{name} {info.bits[name]}" for name in _ORDER if name in info.bits)
    said = f"of {info.fourcc} (bits: {bits})"
    if pictures and pictures[0].pixels.itemsize * 8 < info.depth:
        said += f"; the picture has only {pictures[0].pixels.itemsize * 8} bits"
    return said


def _image(names: list[str], distances: list[Array], beyond: Array) -> Array:
    """The difference as (height, width, 3) uint8, as `assert_surface_equal` says; alpha's and a lone one's is grey."""
    largest = max(int(distance[beyond].max()) for distance in distances)
    image = np.zeros((*beyond.shape, 3), np.uint8)
    for name, distance in zip(names, distances, strict=True):
        level = np.where(beyond & (distance > 0), 64 + np.rint(191 * distance / largest), 0).astype(np.uint8)
        place = image[..., "RGB".index(name)][..., None] if name in ("R", "G", "B") and len(names) > 1 else image
        np.maximum(place, level[..., None], out=place)
    return image


def _pictures(actual: Side, expected: Side, wrong: Wrong) -> dict[str, Any]:
    """What to leave behind: names, and Surfaces, arrays or image files."""
    found = {"expected": _visible(expected), "actual": _visible(actual)}
    return found if wrong.image is None else {**found, "difference": _rgb_surface(wrong.image)}


def _rgb_surface(image: Array) -> Surface:
    return Surface.wrap(np.ascontiguousarray(image), image.shape[1], image.shape[0], "BG24")


def _visible(side: Side) -> Surface:
    """Something that can be written as a PNG: of Y'CbCr the luma, as grey."""
    picture = side.picture
    if isinstance(picture, Picture):
        return _as_surface(picture)
    if picture.fourcc.info.model != "yuv":
        return picture
    first = next((one for one in _of_surface(picture) if one.name in ("Y", "bytes")), None) or _of_surface(picture)[0]
    bits = 8 if first.name == "bytes" else picture.fourcc.info.bits[first.name]
    grey = np.rint(first.steps / ((1 << bits) - 1) * 255).astype(np.uint8)
    return _natural(grey, "the picture")


# ---- golden pictures


class GoldenFolder:
    """The golden pictures of one test."""

    def __init__(self, test_file: Path, nodeid: str, update: bool) -> None:
        self._folder = test_file.parent / "goldens" / test_file.stem
        self._nodeid, self._update = nodeid, update
        self._used: set[Path] = set()
        self._written: list[str] = []

    def path(self, name: str | None) -> Path:
        test = name_of_test(self._nodeid)
        return self._folder / (f"{test}.png" if name is None else f"{test}.{file_name(name)}.png")

    def written(self) -> list[str]:
        """What was written since this was asked last."""
        found, self._written = self._written, []
        return found

    def verdict(self, actual: object, name: str | None, tolerance: object) -> Exception | None:
        """What `golden` raises, None if all is well."""
        if name is not None and not (isinstance(name, str) and name):
            return GlReadbackError(f"name is {name!r}; give a word that tells this picture from the test's others")
        try:
            _tolerance(tolerance)
        except GlReadbackError as error:
            return error
        path = self.path(name)
        if path in self._used:
            return GlReadbackError(f"{path.name} is compared twice in one test; tell the pictures apart: golden(…, name=…)")
        self._used.add(path)
        how = f"pytest --update-goldens {shlex.quote(self._nodeid)}"
        if not path.exists():
            return self._missing(path, actual, how)
        wrong = verdict(actual, path, tolerance, f"golden:   if the actual picture is right: {how}")
        return self._write(path, actual) if isinstance(wrong, AssertionError) and self._update else wrong

    def _missing(self, path: Path, actual: object, how: str) -> Exception | None:
        if self._update:
            return self._write(path, actual)
        try:
            surface = _for_file(actual)
        except GlReadbackError as error:
            return error
        left = Artefacts(current_test()).leave({"actual": surface})
        return AssertionError(
            "\n".join([f"there is no golden picture {path} yet", *left, f"golden:   if the actual picture is right: {how}"])
        )

    def _write(self, path: Path, actual: object) -> Exception | None:
        try:
            surface = _for_file(actual)
            path.parent.mkdir(parents=True, exist_ok=True)
            surface.save(path)
        except (GlReadbackError, OSError) as error:
            return GlReadbackError(f"the golden picture {path} cannot be written: {error}")
        self._written.append(str(path))
        return None


def _for_file(actual: object) -> Surface:
    found = _taken(actual, "actual")
    if isinstance(found, Surface):
        pixels.check_picture(found.fourcc.info)
        return found
    return _natural(found, "actual") if not isinstance(found, Picture) else _as_surface(found)
