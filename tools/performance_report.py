"""Measures what `glreadback bench --frames` does, and writes its tables into docs/performance.md and its picture beside it.

    python tools/performance_report.py

By hand, on a machine that does nothing else; half a minute. What is written says where it was measured and how busy that was.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from glreadback import Reader
from glreadback.bench_frames import Frames, Growth, Row, measure_frames
from glreadback.cli import _frames

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- measured by tools/performance_report.py: begin -->", "<!-- end -->"


def report(found: Frames, load: float) -> str:
    """The tables as Markdown, and how they were measured. load is the machine's before it began."""
    lines = [
        f"XR24 in a {found.memory} on {found.device}, {_version()}; Python {platform.python_version()}; "
        f"{os.cpu_count()} processors, load average {load:.2f} before.",
        *("", "| measure | beside | measured | at most |", "|---|---|---|---|"),
    ]
    lines += map(_promise, found.rows)
    lines += ["", "How the cost grows:", "", "| size | a frame | a pixel | × memcpy |", "|---|---|---|---|"]
    lines += map(_size, found.growth)
    return "\n".join(lines)


def _version() -> str:
    with Reader("software") as reader:
        return reader.capabilities().version


def _promise(row: Row) -> str:
    missed = "" if row.kept else ", missed"
    value, limit = (_frames._number(number, row.unit) for number in (row.value, row.limit))
    return f"| {row.name} | {row.beside} | {value}{missed} | {limit} |"


def _size(growth: Growth) -> str:
    size = f"{growth.width}x{growth.height}"
    return f"| {size} | {growth.seconds * 1e3:.2f} ms | {growth.per_pixel:.2f} ns | {growth.ratio:.2f} |"


def insert(page: str, tables: str) -> str:
    """The page with other tables."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{tables}\n\n{END}", page, flags=re.DOTALL)


def main() -> None:
    load = os.getloadavg()[0]
    found = measure_frames()
    PAGE.write_text(insert(PAGE.read_text(), report(found, load)))
    _frames.plot(os.fspath(PAGE.with_suffix(".png")), found)
    print(f"{PAGE} and its picture; {sum(not row.kept for row in found.rows)} promises missed")


if __name__ == "__main__":
    main()
