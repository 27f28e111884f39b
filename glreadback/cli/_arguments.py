"""Command-line arguments that several commands share: text in, checked values out."""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

from ..fourcc import Fourcc
from ..frame import Rect
from ..sinks import SCREENS

SOURCE_HELP = "scheme:path?key=value&…, such as pattern:smpte?size=640x480; `glreadback sources` lists them"
TERM = "term:"  # as a place to write to: the terminal
DEVICE_HELP = "where GL runs: software, or a render node such as /dev/dri/renderD128; default: the best for the frame"


def source(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    if default is None:
        parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    else:
        parser.add_argument("source", metavar="SOURCE", nargs="?", default=default, help=f"{SOURCE_HELP}; default: {default}")


def device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help=DEVICE_HELP)


def timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", metavar="S", type=seconds, default=5.0,
                        help="seconds to wait for a frame, and for the producer to finish drawing it; default: 5")  # fmt: skip


def json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=what)


# ---- kinds of values, for argparse's type=


def output(text: str) -> str:
    """A file, - or term:HOW."""
    if text.startswith(TERM) and text[len(TERM) :] not in ("", *SCREENS):
        ways = ", ".join(TERM + how for how in SCREENS)
        raise argparse.ArgumentTypeError(f"{text!r} is no way to show a picture; give {TERM} or {ways} (a file: ./{text})")
    return text


def seconds(text: str) -> float:
    """Seconds from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, such as 2.5")
    return value


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number from 1 on")
    return int(text)


def rect(text: str) -> Rect:
    """X,Y,W,H in pixels."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no rectangle; give X,Y,WIDTH,HEIGHT in pixels, such as 0,0,640,480")
    return Rect(*map(int, parts))


class Scale(NamedTuple):
    """A size to scale to: in pixels, one side 0 to keep the proportions, or as a factor."""

    width: int = 0
    height: int = 0
    factor: float = 0.0

    def of(self, width: int, height: int) -> tuple[int, int]:
        """The size, in pixels, of a picture of width x height."""
        if self.factor:
            return max(1, round(width * self.factor)), max(1, round(height * self.factor))
        return (
            self.width or max(1, round(width * self.height / height)),
            self.height or max(1, round(height * self.width / width)),
        )


def scale(text: str) -> Scale:
    """320x180, 320x0 (the height follows), 0.25 or 25%."""
    wide, by, tall = text.lower().partition("x")
    if by and wide.isascii() and wide.isdecimal() and tall.isascii() and tall.isdecimal() and len(wide) < 6 and len(tall) < 6:
        found = Scale(int(wide), int(tall))
        if found.width or found.height:
            return found
    elif not by:
        try:
            factor = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            factor = math.nan
        if 0 < factor <= 64:
            return Scale(factor=factor)
    raise argparse.ArgumentTypeError(f"{text!r} is no size; give WIDTHxHEIGHT, WIDTHx0, a factor such as 0.25, or 25%")


def fourcc(text: str) -> Fourcc:
    """A pixel format of DRM's table."""
    try:
        found = Fourcc(text)
        _ = found.info
    except ValueError as error:  # DescriptorError is one: the message says what is close
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
    return found
