"""What a terminal gets beyond plain text: colour, a line that is overwritten, bars. A file or a pipe gets none of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

WIDTH = 100  # columns that tables keep to

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_BLOCKS = "▏▎▍▌▋▊▉█"  # eighths of a column


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """text in a style, where stream (stdout) is a terminal that shows it and NO_COLOR (no-color.org) does not forbid."""
    stream = stream or sys.stdout
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def cut(text: str, width: int) -> str:
    """text in at most width columns."""
    return text if len(text) <= width else text[: width - 1] + "…"


def table(rows: Sequence[Sequence[str]], width: int = WIDTH, wrap: bool = False) -> list[str]:
    """Rows as lines with aligned columns, two spaces apart; a line that gets too long is cut, or wrapped in its column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    lines = []
    for row in rows:
        head = "  ".join([*(cell.ljust(wide) for cell, wide in zip(row[:-1], widths, strict=False)), ""])
        tails = [cut(row[-1], width - indent)]
        if wrap:
            import textwrap

            tails = textwrap.wrap(row[-1], width - indent) or [""]
        lines += [(start + tail).rstrip() for start, tail in zip([head, *[" " * indent] * len(tails)], tails, strict=False)]
    return lines


def facts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values as aligned lines; a value of several lines is indented under its first."""
    wide = max((len(name) for name, _ in pairs), default=0) + 2
    return [f"{name:<{wide}}" + value.replace("\n", "\n" + " " * wide) for name, value in pairs]


def bar(share: float, width: int) -> str:
    """A bar of share (0..1) of width columns, to an eighth of a column; never nothing."""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return _BLOCKS[-1] * (eighths // 8) + (_BLOCKS[eighths % 8 - 1] if eighths % 8 else "")


class Progress:
    """One line on stderr that is overwritten, and gone at the end. Nothing where stderr is no terminal, or with quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.shown = not quiet and is_terminal(sys.stderr)

    def show(self, text: str) -> None:
        if self.shown:
            import shutil

            sys.stderr.write("\r\x1b[K" + cut(text, shutil.get_terminal_size().columns - 1))
            sys.stderr.flush()

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()
