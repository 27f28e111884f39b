"""Test pictures as plain numbers: bands of equal rows, each row a few runs of one value per colour.

No format is known here. Values are 0..1 of full scale, non-linear R'G'B' as a screen takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

Color = tuple[float, float, float]
Run = tuple[int, float]  # pixels, value
Channel = tuple[Run, ...]  # one row of one colour


class Band(NamedTuple):
    """rows equal rows."""

    rows: int
    red: Channel
    green: Channel
    blue: Channel


def _edges(extent: int, shares: tuple[int, ...]) -> list[int]:
    """extent pixels cut in proportion to shares; the widths, some of them 0 where there are few pixels."""
    whole, edges = sum(shares), [0]
    for share in shares:
        edges.append(edges[-1] + share)
    places = [edge * extent // whole for edge in edges]
    return [end - start for start, end in pairwise(places)]


def _bars(rows: int, width: int, bars: tuple[tuple[int, Color], ...]) -> Band:
    """Upright bars: (share of the width, colour)."""
    widths = _edges(width, tuple(share for share, _ in bars))
    runs = [tuple((pixels, color[i]) for pixels, (_, color) in zip(widths, bars, strict=True) if pixels) for i in range(3)]
    return Band(rows, runs[0], runs[1], runs[2])


def _grey(value: float) -> Color:
    return value, value, value


# SMPTE EG 1: 75 % bars, the reversed blue bars, then -I, white, +Q and the PLUGE. Black is at 7.5 IRE, as monitors show
# it, so that the PLUGE's blacker bar can be told from it. The widths are in 84ths of the picture.
_HIGH, _BLACK, _BLACKER, _LESS_BLACK = 0.75, 19 / 255, 9 / 255, 29 / 255
_SMPTE_TOP = tuple(
    (12, (red * _HIGH, green * _HIGH, blue * _HIGH))
    for red, green, blue in ((1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1))
)
_SMPTE_MIDDLE = tuple(
    (12, color)
    for color in (
        (0.0, 0.0, _HIGH),
        _grey(_BLACK),
        (_HIGH, 0.0, _HIGH),
        _grey(_BLACK),
        (0.0, _HIGH, _HIGH),
        _grey(_BLACK),
        _grey(_HIGH),
    )
)
_SMPTE_BOTTOM = (
    (15, (0.0, 33 / 255, 76 / 255)),  # -I
    (15, _grey(1.0)),
    (15, (50 / 255, 0.0, 106 / 255)),  # +Q
    (15, _grey(_BLACK)),
    (4, _grey(_BLACKER)),
    (4, _grey(_BLACK)),
    (4, _grey(_LESS_BLACK)),
    (12, _grey(_BLACK)),
)
_SMPTE = ((8, _SMPTE_TOP), (1, _SMPTE_MIDDLE), (3, _SMPTE_BOTTOM))  # shares of the height


def smpte(width: int, height: int, color: Color) -> Iterator[Band]:
    """SMPTE EG 1 colour bars."""
    for rows, (_, bars) in zip(_edges(height, tuple(share for share, _ in _SMPTE)), _SMPTE, strict=True):
        if rows:
            yield _bars(rows, width, bars)


def gradient(width: int, height: int, color: Color) -> Iterator[Band]:
    """Red rises and blue falls from left to right, green rises from top to bottom."""
    across = [x / max(width - 1, 1) for x in range(width)]
    red = tuple((1, value) for value in across)
    blue = tuple((1, 1.0 - value) for value in across)
    for y in range(height):
        yield Band(1, red, ((width, y / max(height - 1, 1)),), blue)


def checker(width: int, height: int, color: Color) -> Iterator[Band]:
    """Black and white squares, 18 to the height, white at the top left."""
    cell = max(1, -(-height // 18))
    rows = []
    for first in (1.0, 0.0):
        starts = range(0, width, cell)
        rows.append(tuple((min(cell, width - x), abs(first - x // cell % 2)) for x in starts))
    for y in range(0, height, cell):
        row = rows[y // cell % 2]
        yield Band(min(cell, height - y), row, row, row)


def solid(width: int, height: int, color: Color) -> Iterator[Band]:
    """One colour all over."""
    red, green, blue = (((width, value),) for value in color)
    yield Band(height, red, green, blue)


BANDS: dict[str, Callable[[int, int, Color], Iterator[Band]]] = {
    "smpte": smpte,
    "gradient": gradient,
    "checker": checker,
    "solid": solid,
}
NOISE = "noise"  # every bit of every component random, alpha's too; made by numpy, see _encode.py
NAMES = ("smpte", "gradient", "checker", NOISE, "solid")


def yuv_matrix(height: int) -> str:
    """The matrix that Y'CbCr test pictures of that many lines use: high definition's from 720 on."""
    return "709" if height >= 720 else "601"
