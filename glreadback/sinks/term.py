"""term: the picture in a terminal, by kitty's graphics protocol, as sixel, or in blocks of colour.

What the terminal can do, blessed asks it (the extra "term"); the bytes are made here, by pure functions over pixels.
kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/. sixel: DEC's VT330/340 manual, chapter 14.
"""

from __future__ import annotations

import fcntl
import functools
import io
import os
import re
import struct
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from .. import pixels
from ..errors import SinkError
from ..words import choices, shown
from .base import Sink

if TYPE_CHECKING:
    from PIL import Image

    from ..surface import Surface

_TRUE, _INDEXED = 1 << 24, 256  # colours that a terminal shows


@dataclass(frozen=True)
class Screen:
    """What there is to draw on: its size in cells, a cell's in pixels (0 if unknown), and what the terminal can do.

    rows is what a picture may take; 0 is any number, where nothing scrolls away and there is no cursor to move.
    """

    columns: int = 80
    rows: int = 0
    cell: tuple[int, int] = (0, 0)
    how: str = "blocks"
    colors: int = _TRUE
    registers: int = 256  # sixel's palette


class TermSink(Sink):
    """What a terminal shows of the picture. A preview: made smaller to fit, never larger, 8 bits a colour, without alpha.

    how: "kitty" or "sixel", which are pictures, or "blocks", two pixels in a character; unless told, the first of them
        that the terminal says it can, by blessed (the extra "term"), and blocks where the stream is no terminal.
    over: True draws over the picture that was written just before, of the same size.

    Blocks have as many colours as the terminal: 2^24, 256, or shades of the text's own colour where it has fewer or
    NO_COLOR is set. Where the stream is no terminal they are $COLUMNS, or 80, wide.
    """

    name = "term"
    options: ClassVar[Mapping[str, str]] = {
        "how": "kitty, sixel or blocks; default: what the terminal says it can",
        "over": "whether to draw over the picture written before",
    }

    def __init__(self, how: str | None = None, over: bool = False) -> None:
        if how is not None and how not in DRAWN:
            raise ValueError(f"how is {shown(str(how))}, no way to show a picture{choices(str(how), DRAWN)}")
        if not isinstance(over, bool):
            raise ValueError(f"over is {shown(str(over))}; it must be True or False")
        self.how, self.over = how, over

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        """Raises SinkError where a terminal is to be asked and blessed is not installed."""
        screen = look(stream, self.how)
        stream.write(drawn(pixels.to_image(surface).convert("RGB"), screen, self.over))


def drawn(image: Image.Image, screen: Screen, over: bool = False) -> bytes:
    """What to send for an RGB picture; the cursor, at the start of a line before, is on the line below it after."""
    from PIL import Image

    draw, unit = DRAWN[screen.how]
    # In blocks, one pixel of the picture is half a cell; cells are about twice as high as wide.
    wide, tall = screen.cell if all(screen.cell) else (8, 16)
    across, down = unit or (wide, tall)
    shape = 1.0 if unit is None else tall * across / (wide * down)
    most = _LARGEST[screen.how]
    size = fit(image.size, min(most, screen.columns * across), min(most, screen.rows * down or most), shape)
    scaled = image if size == image.size else image.resize(size, Image.Resampling.BOX, reducing_gap=3.0)
    rows = -(-size[1] // down)
    data = draw(scaled, screen)
    if unit is None:
        # Room first, so that nothing scrolls under the picture; how far it moves the cursor differs, so back and down.
        data = b"%b\x1b[%dA\x1b7%b\x1b8\x1b[%dB\r" % (b"\n" * rows, rows, data, rows)
    if not screen.rows:
        return data
    # A line may have been begun, by a progress bar.
    return b"\r\x1b[K" + (_BACK[screen.how] % rows if over else b"") + data


def fit(size: tuple[int, int], width: int, height: int, shape: float = 1.0) -> tuple[int, int]:
    """The largest size, not above its own, in width x height of pixels that are shape times as high as wide."""
    factor = min(1.0, width / size[0], height * shape / size[1])
    return max(1, min(width, round(size[0] * factor))), max(1, round(size[1] * factor / shape))


# ---- what the terminal is


def look(stream: BinaryIO, how: str | None) -> Screen:
    """The screen behind a stream. A terminal that may choose is asked, once a process. Raises SinkError without blessed."""
    dumb = os.environ.get("TERM") == "dumb"
    plain = dumb or bool(os.environ.get("NO_COLOR"))
    try:
        fd = stream.fileno()
        terminal = os.isatty(fd)
    except (OSError, AttributeError):
        terminal = False
    if not terminal:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isascii() and columns.isdecimal() and 0 < int(columns) < 10000 else Screen.columns
        return Screen(columns=width, how=how or "blocks", colors=0 if plain and how is None else _TRUE)
    found = Screen(how=how) if how else Screen(colors=0) if plain else _asked(fd)
    rows, columns_, across, down = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    if rows and columns_:
        cell = (across // columns_, down // rows) if across and down else found.cell
        # A line for what is said of the picture, and one for the prompt.
        found = replace(found, columns=columns_, rows=0 if dumb else max(1, rows - 2), cell=cell)
    return found


@functools.cache
def _asked(fd: int) -> Screen:
    # For each of half a dozen questions; where one is not answered none will be. blessed's own is 5.
    os.environ.setdefault("BLESSED_QUERY_TIMEOUT_SECONDS", "1")
    try:
        import blessed
    except ImportError:
        raise SinkError(
            "only blessed can ask this terminal what it shows: pip install 'glreadback[term]', "
            f"or say how (-o term:{', term:'.join(DRAWN)})"
        ) from None
    own = sys.__stdout__ is not None and not sys.__stdout__.closed and sys.__stdout__.fileno() == fd
    if not own:
        return Screen()
    # With stdin redirected it cannot answer; blessed goes by the environment then.
    terminal = blessed.Terminal()
    if terminal.get_location() == (-1, -1):
        return Screen(colors=terminal.number_of_colors)
    down, across = terminal.get_cell_height_and_width()
    screen = Screen(cell=(max(0, across), max(0, down)), colors=terminal.number_of_colors)
    if terminal.does_kitty_graphics():
        return replace(screen, how="kitty")
    if terminal.does_sixel():
        return replace(screen, how="sixel", registers=min(256, max(2, terminal.get_sixel_colors())))
    return screen


# ---- the three ways


def kitty(image: Image.Image, screen: Screen) -> bytes:
    """The picture as PNG; the terminal shows it pixel by pixel, leaves the cursor where it is and answers nothing."""
    import base64

    room = io.BytesIO()
    image.save(room, "PNG", compress_level=1)
    data = base64.b64encode(room.getvalue())
    parts = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    keys = [b"a=T,f=100,C=1,q=2,"] + [b"q=2,"] * (len(parts) - 1)
    more = [1] * (len(parts) - 1) + [0]
    return b"".join(b"\x1b_G%bm=%d;%b\x1b\\" % each for each in zip(keys, more, parts, strict=True))


def sixel(image: Image.Image, screen: Screen) -> bytes:
    """The picture in the best screen.registers colours: six rows at a time, one line of sixels a colour."""
    import numpy as np
    from PIL import Image

    indexed = image.quantize(screen.registers)
    if image.getcolors(screen.registers) is None:
        indexed = image.quantize(palette=indexed, dither=Image.Dither.FLOYDSTEINBERG)
    palette = np.reshape(indexed.getpalette() or [], (-1, 3))
    rows = np.asarray(indexed)
    height, width = rows.shape
    out = [b'\x1bP0;1;0q"1;1;%d;%d' % (width, height)]
    out += [b"#%d;2;%d;%d;%d" % (index, *np.rint(color / 2.55).astype(int)) for index, color in enumerate(palette)]
    columns = np.arange(width)
    for top in range(0, height, 6):
        band = rows[top : top + 6]
        masks = np.zeros((len(palette), width), np.uint8)
        for bit, row in enumerate(band):
            masks[row, columns] |= 1 << bit
        lines = []
        for index in np.unique(band):
            line = (masks[index] + ord("?")).tobytes().rstrip(b"?")
            lines.append(b"#%d%b" % (index, _RUNS.sub(lambda run: b"!%d%b" % (len(run[0]), run[1]), line)))
        out.append(b"$".join(lines) + b"-")
    return b"".join(out) + b"\x1b\\"


_RUNS = re.compile(rb"(.)\1{3,}", re.DOTALL)


def blocks(image: Image.Image, screen: Screen) -> bytes:
    """Lines of upper half blocks, the upper pixel in the text's colour, the lower one in the background's."""
    if screen.colors < _INDEXED:
        return _shades(image)
    codes = list(_codes(image, screen.colors))
    lines = []
    for top in range(0, image.height, 2):
        upper = codes[top]
        lower = codes[top + 1] if top + 1 < image.height else None
        line, last = [], ""
        for x in range(image.width):
            sign = f"\x1b[38;{upper[x]};{f'48;{lower[x]}' if lower else '49'}m"
            line.append("▀" if sign == last else sign + "▀")
            last = sign
        lines.append("".join(line) + "\x1b[0m\n")
    return "".join(lines).encode()


def _codes(image: Image.Image, colors: int) -> Iterator[list[str]]:
    """The colour of each pixel of a row as ISO 8613-6 has it, after 38; or 48;."""
    if colors < _TRUE:
        from PIL import Image

        indexed = image.quantize(palette=_xterm(), dither=Image.Dither.NONE)
        data = indexed.tobytes()
        for start in range(0, len(data), image.width):
            yield [f"5;{16 + index}" for index in data[start : start + image.width]]
        return
    data = image.tobytes()
    for start in range(0, len(data), 3 * image.width):
        row = data[start : start + 3 * image.width]
        yield [f"2;{red};{green};{blue}" for red, green, blue in zip(row[::3], row[1::3], row[2::3], strict=True)]


@functools.cache
def _xterm() -> Image.Image:
    """The colours 16 to 255, which are the same on all terminals: a cube of six levels and a ramp of greys."""
    from PIL import Image

    levels = (0, 95, 135, 175, 215, 255)
    colors = [part for red in levels for green in levels for blue in levels for part in (red, green, blue)]
    colors += [grey for grey in range(8, 248, 10) for _ in range(3)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors)
    return palette


_SHADES = " ░▒▓█"


def _shades(image: Image.Image) -> bytes:
    """No colours at all: a character's share of ink is the brightness, which suits a dark terminal."""
    grey = image.convert("L").resize((image.width, -(-image.height // 2)), 4)
    signs = "".join(_SHADES[value * len(_SHADES) // 256] for value in grey.tobytes())
    return "".join(signs[start : start + image.width] + "\n" for start in range(0, len(signs), image.width)).encode()


# how: (what draws it, pixels of a cell across and down; None: those of the screen), best first
DRAWN: dict[str, tuple[Callable[[Image.Image, Screen], bytes], tuple[int, int] | None]] = {
    "kitty": (kitty, None),
    "sixel": (sixel, None),
    "blocks": (blocks, (1, 2)),
}
# Pixels either way. xterm cuts off what is larger (its maxGraphicSize), unless told otherwise.
_LARGEST = {"kitty": 10_000, "sixel": 1000, "blocks": 10_000}
# Back to the first of so many rows; kitty's picture there goes, and its memory.
_BACK = {"kitty": b"\x1b[%dF\x1b_Ga=d,d=C,q=2\x1b\\", "sixel": b"\x1b[%dF", "blocks": b"\x1b[%dF"}
