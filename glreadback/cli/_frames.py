"""What `bench_frames.measure_frames()` found, as lines for a terminal and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..bench_frames import Frames, Growth, Row
from ._terminal import bar, paint, table

_BAR = 24  # columns


def lines(found: Frames) -> list[str]:
    """Two tables: the promises with a bar of how much of its limit each takes, and how the cost grows."""
    head, *rows = table([("", "beside", "measured", "at most", ""), *map(_cells, found.rows)], 132)
    marked = [line if row.kept else paint(line, "red") for line, row in zip(rows, found.rows, strict=True)]
    longest = max(growth.seconds for growth in found.growth)
    second, *sizes = table([("", "a frame", "a pixel", "× memcpy", ""), *(_size(growth, longest) for growth in found.growth)])
    return [
        paint(f"Every frame: XR24 in {found.memory} on {found.device}", "bold"),
        "",
        paint(head, "dim"),
        *marked,
        "",
        paint(second, "dim"),
        *sizes,
        "",
        paint("Bars of the first table: how much of its limit each takes. Medians of rounds in which all took turns.", "dim"),
    ]


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    note = "" if row.kept else " missed"
    return row.name, row.beside, _number(row.value, row.unit), _number(row.limit, row.unit), bar(_share(row), _BAR) + note


def _size(growth: Growth, longest: float) -> tuple[str, str, str, str, str]:
    return (
        f"{growth.width}x{growth.height}",
        f"{growth.seconds * 1e3:8.3f} ms",
        f"{growth.per_pixel:6.3f} ns",
        f"{growth.ratio:5.2f}",
        bar(growth.seconds / longest, _BAR),
    )


def _share(row: Row) -> float:
    if row.limit:
        return min(1.0, row.value / row.limit)
    return 1.0 if row.value else 0.0


def _number(value: float, unit: str) -> str:
    if unit == "×" and 0 < value < 0.2:
        return f"1/{math.floor(1 / value + 0.05)}"
    digits = 2 if unit == "×" else 1 if unit == "µs" else 0
    return f"{value:.{digits}f} {unit}".rstrip()


_WIDTH, _ROW, _MARGIN, _NAMES, _NUMBERS = 1200, 32, 24, 370, 310
_INK, _PALE, _KEPT, _MISSED = "#202428", "#d8dce0", "#2f6f9f", "#b0643c"


def plot(path: str, found: Frames) -> None:
    """Both tables as one picture: bars of the limits taken, and of the time by size. Raises SinkError."""
    from PIL import Image, ImageDraw, ImageFont

    from .. import sinks
    from ..surface import Surface

    text, small = ImageFont.load_default(15), ImageFont.load_default(13)
    height = 2 * _MARGIN + _ROW * (len(found.rows) + len(found.growth) + 4)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    left, room = _MARGIN + _NAMES, _WIDTH - 2 * _MARGIN - _NAMES - _NUMBERS
    top = _MARGIN

    def rows(of: Sequence[tuple[str, float, str, str]]) -> None:
        nonlocal top
        for name, share, colour, words in of:
            draw.text((_MARGIN, top + 6), name, _INK, text)
            draw.rectangle((left, top + 5, left + room, top + _ROW - 7), fill=_PALE)
            draw.rectangle((left, top + 5, left + max(1.0, room * share), top + _ROW - 7), fill=colour)
            draw.text((left + room + 12, top + 7), words, _INK, small)
            top += _ROW

    draw.text((_MARGIN, top), f"Every frame: XR24 in {found.memory} on {found.device}", _INK, small)
    top += _ROW
    rows(
        [
            (
                row.name,
                _share(row),
                _KEPT if row.kept else _MISSED,
                _words(row),
            )
            for row in found.rows
        ]
    )
    draw.text((_MARGIN, top + 8), "bars: how much of its limit each takes; brown: missed", _INK, small)
    top += 2 * _ROW
    longest = max(growth.seconds for growth in found.growth)
    rows(
        [
            (
                f"{growth.width}x{growth.height}",
                growth.seconds / longest,
                _KEPT,
                f"{growth.seconds * 1e3:.2f} ms, {growth.ratio:.2f} x memcpy",
            )
            for growth in found.growth
        ]
    )
    draw.text((_MARGIN, top + 8), "milliseconds a frame by size, median", _INK, small)
    sinks.save(Surface.wrap(image.convert("RGBA").tobytes(), _WIDTH, height, "AB24"), path)


def _words(row: Row) -> str:
    """Measured, of at most so much, beside what; without the signs that Pillow's own font lacks."""
    value, limit = (_number(number, row.unit).removesuffix(" ×").replace("µ", "u") for number in (row.value, row.limit))
    return f"{value} of {limit} {'x ' * (row.unit == '×')}{row.beside}"
