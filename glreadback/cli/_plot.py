"""A bar chart of measures as a picture, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import sinks
from ..surface import Surface

if TYPE_CHECKING:
    from ..bench import Measure

_WIDTH, _ROW, _MARGIN, _NAMES, _NUMBERS = 1000, 34, 24, 150, 190
_INK, _PALE, _BAR, _PEER = "#202428", "#d8dce0", "#2f6f9f", "#b0643c"
_PEERS = ("memcpy", "egl-headless", "fresh mmap")


def plot(path: str, title: str, measures: Sequence[Measure]) -> None:
    """Write the chart: one bar a measure, as long as its time; ours and the peers' in two colours. Raises SinkError."""
    from PIL import Image, ImageDraw, ImageFont

    text, small = ImageFont.load_default(16), ImageFont.load_default(13)
    height = 2 * _MARGIN + _ROW * (len(measures) + 2)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), title, _INK, small)
    longest = max(measure.seconds for measure in measures)
    left, room = _MARGIN + _NAMES, _WIDTH - 2 * _MARGIN - _NAMES - _NUMBERS
    base = measures[0].seconds
    for index, measure in enumerate(measures):
        top = _MARGIN + _ROW * (index + 1)
        wide = max(1.0, room * measure.seconds / longest)
        draw.text((_MARGIN, top + 6), measure.name, _INK, text)
        draw.rectangle((left, top + 5, left + room, top + _ROW - 7), fill=_PALE)
        draw.rectangle((left, top + 5, left + wide, top + _ROW - 7), fill=_PEER if measure.name in _PEERS else _BAR)
        draw.text(
            (left + room + 12, top + 6), f"{measure.seconds * 1e3:.2f} ms, {measure.seconds / base:.2f} x memcpy", _INK, small
        )
    draw.text((_MARGIN, height - _MARGIN - 16), "milliseconds a frame, median; brown: not our routes", _INK, small)
    sinks.save(Surface.wrap(image.convert("RGBA").tobytes(), _WIDTH, height, "AB24"), path)
