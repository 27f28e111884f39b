"""Measures how near every linear format comes to the float64 reference of tests/reference.py, and writes docs/accuracy.md.

    python tools/accuracy_report.py [FILE]

Every family of formats gets the same code values, so that formats that only differ in where their bits lie come out alike
and share a line. Takes up to a minute: most of it is the driver compiling a shader for each format and target.
"""

from __future__ import annotations

import importlib
import mmap
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glreadback import Color, DmaBuf, Frame, Plane, Reader
from glreadback.kernel.udmabuf import sealed_memfd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
reference: Any = importlib.import_module("reference")

TARGETS = ("AB24", "AB30", "AB48", "AB4H")
SIZE = (66, 35)  # neither whole blocks nor whole chroma samples
COLOR = {"matrix": "709", "range": "narrow", "siting": "left"}
HALF_UNIT = 2.0**-10
SEEDS = {"R": 0, "C": 0, "D": 0, "G": 1, "B": 2, "A": 3, "Y": 4, "Cb": 5, "Cr": 6}  # greys are alike

TEXT = """\
# Accuracy

Written by `tools/accuracy_report.py`; not by hand. Driver: {driver}.

Every linear format of drm_fourcc.h, {width}x{height} pixels of random code values (full range of every component, so that
Y'CbCr goes far beyond what is a colour), read as four formats and compared with the float64 reference in
`tests/reference.py`, which is made from the standards and from the header's comments alone. Y'CbCr is BT.709, narrow,
chroma sited left; other matrices, ranges and sitings are in `tests/test_accuracy.py`. Edges and odd sizes are included.

Each column is what a read as that format gives: *exact*, the value itself, or the largest error and the mean error, in
steps of the target: 1/255 for AB24, 1/1023 for AB30, 1/65535 for AB48, and 2^-10 of the value (of 2^-10 where that is
more) for the half floats of AB4H. Where the two have different depths the exact result lies between two values of the
target: up to 0.500 is always the nearest one. The route is the one that a read takes by itself on the software device,
in the order of the columns where they differ. `read_planes` was equal for every format.
"""
HEAD = f"""
| formats | route | {" | ".join(TARGETS)} |
|---|---|{"---|" * len(TARGETS)}
"""


class Result(NamedTuple):
    """One format read as every target."""

    route: str
    cells: tuple[str, ...]


def content(fourcc: str) -> list[Any]:
    """The planes of a picture whose code values depend on nothing but the components' bits and the subsampling."""
    across, down = reference.subsampling(fourcc)
    values = {}
    for component, depth in reference.bits(fourcc).items():
        sub = (across, down) if component in ("Cb", "Cr") else (1, 1)
        shape = -(-SIZE[1] // sub[1]), -(-SIZE[0] // sub[0])
        values[component] = np.random.default_rng(SEEDS[component]).integers(0, 1 << depth, shape)
        if reference.is_half(fourcc):  # numbers only, no infinities: an exponent of 31 becomes 15, which is 1 to 2
            values[component] &= np.where(values[component] & 0x7C00 == 0x7C00, 0xBFFF, 0xFFFF)
    planes: list[Any] = reference.planes(fourcc, *SIZE, values, padding=0xA5)
    return planes


def place(fourcc: str, planes: list[Any], fd: int, memory: Any) -> DmaBuf:
    """Planes, one after the other, in shared memory."""
    places, start = [], 0
    for plane, data in zip(reference.layout(fourcc), planes, strict=True):
        memory[start : start + data.size] = data.reshape(-1)
        # DRM's stride is that of one line, also where blocks are two lines high.
        places.append(Plane(fd, start, data.shape[1] // plane.height))
        start += -(-data.size // 64) * 64
    return DmaBuf(*SIZE, fourcc, places)


def measure(reader: Reader, fourcc: str, fd: int, memory: Any) -> Result:
    """What the table says about a format."""
    planes = content(fourcc)
    buf = place(fourcc, planes, fd, memory)
    assert [plane.tobytes() for plane in reader.read_planes(buf)] == [plane.tobytes() for plane in planes], fourcc
    expected = reference.rgba(fourcc, *SIZE, planes, **COLOR)
    routes, cells = [], []
    for target in TARGETS:
        surface = reader.read(Frame(buf, color=Color(**COLOR)), fourcc=target)
        rows = np.frombuffer(surface.tobytes(), np.uint8).reshape(surface.height, surface.row_bytes)
        errors = np.stack(list(reference.differences(target, rows, expected).values()))
        if reference.is_half(target):
            errors = errors / HALF_UNIT
        largest, mean = float(errors.max()), float(errors.mean())
        routes.append(str(surface.route))
        # Reference and shader divide by the same number, each its own way: 10^-9 of a step is no error.
        cells.append("exact" if largest < 1e-9 else f"{largest:.3f} / {mean:.3f}")
    return Result(routes[0] if len(set(routes)) == 1 else ", ".join(routes), tuple(cells))


def report(reader: Reader, formats: tuple[str, ...]) -> str:
    fd = sealed_memfd(1 << 20)
    memory = np.frombuffer(mmap.mmap(fd, 1 << 20), np.uint8)
    alike: dict[Result, list[str]] = {}
    for fourcc in formats:
        alike.setdefault(measure(reader, fourcc, fd, memory), []).append(fourcc)
    os.close(fd)
    lines = [f"| {' '.join(codes)} | {found.route} | {' | '.join(found.cells)} |\n" for found, codes in alike.items()]
    width, height = SIZE
    capabilities = reader.capabilities()
    driver = f"{capabilities.renderer}, {capabilities.version}"
    return TEXT.format(driver=driver, width=width, height=height) + HEAD + "".join(lines)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "accuracy.md"
    with Reader("software") as reader:
        text = report(reader, reference.FORMATS)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"{path.name}: {len(reference.FORMATS)} formats")


if __name__ == "__main__":
    main()
