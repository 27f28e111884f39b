"""Every linear format of drm_fourcc.h against the float64 reference: each size, layout, target, matrix, range and siting.

The promise: 8-bit targets within 0.51 of a step, deeper ones within a step of 10 bits for 10-bit sources, half floats
within 2^-10 of the value. Kept is more than that: the bounds here are what rounding to the nearest leaves, and a little
for the arithmetic of 32-bit floats. Raw planes are equal.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import reference

from glreadback import Color, DmaBuf, Fourcc, Frame, Plane, Reader, Rect, Surface
from glreadback.kernel.udmabuf import sealed_memfd

# In steps of the target's component, by its bits; of the value for half floats, where less than 2^-10 counts as that.
BOUND = {2: 0.51, 8: 0.51, 10: 0.51, 16: 0.55}
HALF_BOUND = 0.51 * 2.0**-10

ODD = (33, 17)
SIZES = ((1, 1), (3, 2), ODD, (34, 18))  # in the last, chroma is missing right of the last pixel and below it
LAYOUTS = {"packed": (0, 0), "padded": (24, 0), "offset": (8, 4096 + 64)}  # bytes: pad of each row, offset of plane 0
BYTE_ORDERS = ("XR24", "XB24", "RX24", "BX24", "AR24", "AB24", "RA24", "BA24")
DEEP = ("AB30", "AB48", "AB4H")
# Enough to see every kind of source meet every target: whole bytes, shared bytes, deep, floating, each number of planes.
KINDS = (
    "C4",
    "D1",
    "R12",
    "GR32",
    "RG16",
    "RG24",
    "AR24",
    "AR30",
    "AB48",
    "AR4H",
    "R5A8",
    "YUYV",
    "Y410",
    "NV12",
    "P010",
    "YU12",
)
YUV = tuple(code for code in reference.FORMATS if reference.model(code) == "yuv")


class Memory:
    """One piece of shared memory that every picture is put into, and what reads it."""

    SIZE = 32 << 20

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.fd = sealed_memfd(self.SIZE)
        self.bytes = np.frombuffer(mmap.mmap(self.fd, self.SIZE), np.uint8)
        self.random = np.random.default_rng(4)

    def noise(self, fourcc: str, size: tuple[int, int]) -> list[np.ndarray]:
        return [self.random.integers(0, 256, plane.shape(*size), dtype=np.uint8) for plane in reference.layout(fourcc)]

    def put(self, fourcc: str, size: tuple[int, int], planes: Sequence[np.ndarray], layout: str = "packed") -> DmaBuf:
        """A DmaBuf of planes; whatever lies between their rows is noise too."""
        pad, start = LAYOUTS[layout]
        places = []
        for plane, data in zip(reference.layout(fourcc), planes, strict=True):
            rows, row = data.shape
            stride = -(-row // plane.height) + pad  # DRM's stride is of a line, also where blocks are several lines high
            end = start + stride * plane.height * rows
            self.bytes[start:end] = self.random.integers(0, 256, end - start, dtype=np.uint8)
            view = np.lib.stride_tricks.as_strided(self.bytes[start:], (rows, row), (stride * plane.height, 1))
            view[...] = data
            places.append(Plane(self.fd, start, stride))
            start = end
        return DmaBuf(*size, fourcc, places)

    def check(
        self,
        fourcc: str,
        size: tuple[int, int],
        planes: Sequence[np.ndarray],
        target: str,
        layout: str = "packed",
        **color: str,
    ) -> None:
        """Read it as the target, by the route that is usual and by a draw, and compare."""
        frame = Frame(self.put(fourcc, size, planes, layout), color=Color(**color) if color else None)
        expected = reference.rgba(fourcc, *size, planes, **color)
        for route in (None, "draw"):
            assert_near(self.reader.read(frame, fourcc=target, route=route), expected, f"{fourcc} {size} {layout} {color}")


def assert_near(surface: Surface, expected: np.ndarray, what: str) -> None:
    """Every component of every pixel is within its bound of what is expected, in 0..1."""
    target = str(surface.fourcc)
    rows = np.frombuffer(surface.tobytes(), np.uint8).reshape(surface.height, surface.row_bytes)
    for component, difference in reference.differences(target, rows, expected).items():
        bound = HALF_BOUND if reference.is_half(target) else BOUND[reference.bits(target)[component]]
        worst = np.unravel_index(difference.argmax(), difference.shape)
        assert difference[worst] <= bound, (
            f"{what} as {target} ({surface.route}): {component} is off by {difference[worst]:.4f} at row, column {worst}; "
            f"{(difference > bound).mean():.1%} of the pixels are beyond {bound}"
        )


@pytest.fixture(scope="module")
def memory(software: None) -> Iterator[Memory]:
    with Reader("software") as reader:
        made = Memory(reader)
        yield made
    os.close(made.fd)


# ---- The reference itself


def test_the_reference_knows_every_format_of_the_header() -> None:
    assert set(reference.FORMATS) == reference.header_formats() - set(reference.NON_LINEAR)
    assert set(reference.FORMATS) == {str(code) for code in Fourcc.all() if code.info.linear}


@pytest.mark.parametrize("size", SIZES)
def test_the_reference_writes_what_it_reads(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    for code in reference.FORMATS:
        planes = [random.integers(0, 256, plane.shape(*size), dtype=np.uint8) for plane in reference.layout(code)]
        values = reference.codes(code, *size, planes)
        again = reference.codes(code, *size, reference.planes(code, *size, values, padding=0xA5))
        assert values.keys() == again.keys()
        assert all(np.array_equal(values[component], again[component]) for component in values), code


# BT.601's colour bars at 75 %, as every test generator has them: Y, Cb, Cr of EBU and SMPTE bars in 8 bits.
BARS = {
    (0.75, 0.75, 0.75): (180, 128, 128),
    (0.75, 0.75, 0.0): (162, 44, 142),
    (0.0, 0.75, 0.75): (131, 156, 44),
    (0.0, 0.75, 0.0): (112, 72, 58),
    (0.75, 0.0, 0.75): (84, 184, 198),
    (0.75, 0.0, 0.0): (65, 100, 212),
    (0.0, 0.0, 0.75): (35, 212, 114),
    (0.0, 0.0, 0.0): (16, 128, 128),
}


def test_the_reference_knows_the_colour_bars() -> None:
    for rgb, codes in BARS.items():
        found = reference.rgb_to_ycbcr(np.array(rgb), 8, "601", "narrow")
        assert tuple(int(np.rint(value)) for value in found) == codes


@pytest.mark.parametrize("range", ["narrow", "full"])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("matrix", list(reference.KR_KB))
def test_the_reference_undoes_its_own_matrix(matrix: str, depth: int, range: str) -> None:
    rgb = np.random.default_rng(2).random((64, 3))
    assert np.allclose(reference.ycbcr_to_rgb(*reference.rgb_to_ycbcr(rgb, depth, matrix, range), depth, matrix, range), rgb)


# ---- Raw planes


@pytest.mark.parametrize("fourcc", reference.FORMATS)
def test_raw_planes_are_equal(memory: Memory, fourcc: str) -> None:
    for size, layout, route in itertools.product(SIZES, LAYOUTS, ("alias", "map")):
        planes = memory.noise(fourcc, size)
        found = memory.reader.read_planes(memory.put(fourcc, size, planes, layout), route=route)
        assert [plane.tobytes() for plane in found] == [plane.tobytes() for plane in planes], (size, layout, route)


# ---- Every format, size, layout and kind of content


def contents(memory: Memory, fourcc: str, size: tuple[int, int]) -> Iterator[list[np.ndarray]]:
    """All zeros, all ones, the code values where a range begins and ends, ramps."""
    shapes = [plane.shape(*size) for plane in reference.layout(fourcc)]
    yield [np.zeros(shape, np.uint8) for shape in shapes]
    yield [np.full(shape, 255, np.uint8) for shape in shapes]
    across, down = reference.subsampling(fourcc)
    edges, ramps = {}, {}
    for component, depth in reference.bits(fourcc).items():
        sub = (across, down) if component in ("Cb", "Cr") else (1, 1)
        width, height = -(-size[0] // sub[0]), -(-size[1] // sub[1])
        most, one = (1 << depth) - 1, 1 << max(depth - 8, 0)
        marks = np.array([0, 1, 16 * one, 128 * one - 1, 128 * one, 235 * one, 240 * one, most - 1, most])
        edges[component] = np.clip(memory.random.choice(marks, (height, width)), 0, most)
        steps = np.arange(height)[:, None] * width + np.arange(width)
        ramps[component] = steps * most // max(steps.max(), 1)
    yield reference.planes(fourcc, *size, edges, padding=0xFF)
    yield reference.planes(fourcc, *size, ramps)


@pytest.mark.parametrize("fourcc", reference.FORMATS)
def test_every_format_in_eight_bits(memory: Memory, fourcc: str) -> None:
    for size, layout in itertools.product(SIZES, LAYOUTS):
        memory.check(fourcc, size, memory.noise(fourcc, size), "AB24", layout)
    for content in contents(memory, fourcc, ODD):
        memory.check(fourcc, ODD, content, "AB24")


@pytest.mark.parametrize("target", [*DEEP, "AR30", "AR24", "R8"])
@pytest.mark.parametrize("fourcc", KINDS)
def test_every_kind_of_format_in_every_depth(memory: Memory, fourcc: str, target: str) -> None:
    memory.check(fourcc, ODD, memory.noise(fourcc, ODD), target, "padded")
    for content in contents(memory, fourcc, ODD):
        memory.check(fourcc, ODD, content, target)


@pytest.mark.slow
@pytest.mark.parametrize("fourcc", [code for code in reference.FORMATS if code not in KINDS])
def test_every_other_format_in_sixteen_bits(memory: Memory, fourcc: str) -> None:
    """What 8 bits would round away. How a target stores colours does not depend on the source: see the kinds above."""
    memory.check(fourcc, ODD, memory.noise(fourcc, ODD), "AB48", "offset")


@pytest.mark.parametrize("target", BYTE_ORDERS)
@pytest.mark.parametrize("fourcc", ["NV12", "RA12", "XB30"])
def test_every_order_of_bytes(memory: Memory, fourcc: str, target: str) -> None:
    memory.check(fourcc, ODD, memory.noise(fourcc, ODD), target)


@pytest.mark.parametrize("fourcc", ["AB4H", "AR4H", "XB4H", "XR4H"])
@pytest.mark.parametrize("route", [None, "draw"])
def test_half_floats_stay_what_they_are(memory: Memory, fourcc: str, route: str | None) -> None:
    """Every one of the 65536 halves, in every component; NaN stays NaN."""
    size = (256, 256)
    values = {c: np.roll(np.arange(65536), 9999 * n).reshape(256, 256) for n, c in enumerate(reference.bits(fourcc))}
    target = "AB4H"
    planes = reference.planes(fourcc, *size, values, padding=0x55)
    surface = memory.reader.read(memory.put(fourcc, size, planes), fourcc=target, route=route)
    found = reference.codes(target, *size, [np.frombuffer(surface.tobytes(), np.uint8).reshape(256, -1)])
    for component, sent in values.items():
        same = found[component] == sent
        nan = np.isnan(sent.astype(np.uint16).view(np.float16))
        got = found[component].astype(np.uint16).view(np.float16)
        assert same[~nan].all()
        assert np.isnan(got[nan]).all()
    if "A" not in values:
        assert (found["A"] == 0x3C00).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fourcc", "target"), [("NV12", "AB24"), ("P010", "AB24"), ("P010", "AB48"), ("YUYV", "AB24"), ("RG16", "AB24")]
)
def test_a_whole_screen(memory: Memory, fourcc: str, target: str) -> None:
    size = (1920, 1080)
    memory.check(fourcc, size, memory.noise(fourcc, size), target, matrix="709")


# ---- Colour


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
@pytest.mark.parametrize("fourcc", ["NV12", "P010", "YUYV", "YU16", "YUV9", "YU11", "X0L2", "P030", "NV24"])
def test_every_matrix_range_and_siting(memory: Memory, fourcc: str, siting: str) -> None:
    for matrix, extent in itertools.product(reference.KR_KB, ("narrow", "full")):
        color = {"matrix": matrix, "range": extent, "siting": siting}
        memory.check(fourcc, ODD, memory.noise(fourcc, ODD), "AB24", **color)


@pytest.mark.parametrize("fourcc", ["AYUV", "Y412", "P016", "Y410", "NV15"])
def test_every_depth_in_every_range(memory: Memory, fourcc: str) -> None:
    for extent in ("narrow", "full"):
        for content in contents(memory, fourcc, ODD):
            memory.check(fourcc, ODD, content, "AB48", matrix="2020", range=extent, siting="left")


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5), (5, 1), (4, 3), (3, 4)])
def test_chroma_at_the_edges(memory: Memory, size: tuple[int, int], siting: str) -> None:
    for fourcc in ("NV12", "YUV9", "P030"):
        memory.check(fourcc, size, memory.noise(fourcc, size), "AB24", siting=siting)


def test_the_usual_colours(memory: Memory) -> None:
    """What nobody says: BT.601 below 720 lines and BT.709 from there; narrow; chroma left, and top left for BT.2020."""
    for height, matrix in ((719, "601"), (720, "709")):
        size = (6, height)
        planes = memory.noise("NV12", size)
        surface = memory.reader.read(memory.put("NV12", size, planes), fourcc="AB24")
        assert_near(surface, reference.rgba("NV12", *size, planes, matrix=matrix), f"{height} lines")
    # The picture's lines count, not the buffer's, and by every route.
    size, visible = (6, 736), Rect(0, 0, 6, 700)
    planes = memory.noise("NV12", size)
    frame = Frame(memory.put("NV12", size, planes), visible=visible)
    for route in (None, "draw"):
        surface = memory.reader.read(frame, fourcc="AB24", route=route)
        assert_near(surface, reference.rgba("NV12", *size, planes, matrix="601", visible=visible), f"700 lines of 736, {route}")
    planes = memory.noise("P010", ODD)
    surface = memory.reader.read(Frame(memory.put("P010", ODD, planes), color=Color(matrix="2020")), fourcc="AB48")
    assert_near(surface, reference.rgba("P010", *ODD, planes, matrix="2020", siting="topleft"), "BT.2020")


@pytest.mark.parametrize("fourcc", ["C1", "C2", "C4", "C8"])
def test_palettes(memory: Memory, fourcc: str) -> None:
    colors = memory.random.integers(0, 256, (1 << reference.bits(fourcc)["C"], 3))
    planes = memory.noise(fourcc, ODD)
    frame = Frame(memory.put(fourcc, ODD, planes), palette=tuple(tuple(int(v) for v in color) for color in colors))
    for target in ("AB24", "AB48"):
        surface = memory.reader.read(frame, fourcc=target)
        assert_near(surface, reference.rgba(fourcc, *ODD, planes, palette=colors / 255), fourcc)


# ---- Rectangles and turns


@pytest.mark.parametrize("y_invert", [False, True])
@pytest.mark.parametrize("transform", list(reference.TRANSFORMS))
@pytest.mark.parametrize("fourcc", ["XR24", "RG24", "R2", "NV12", "YUYV", "YU11", "X0L0"])
def test_every_turn(memory: Memory, fourcc: str, transform: str, y_invert: bool) -> None:
    planes = memory.noise(fourcc, ODD)
    content = reference.rgba(fourcc, *ODD, planes)
    frame = Frame(memory.put(fourcc, ODD, planes, "padded"), transform=transform, y_invert=y_invert)
    what = f"{fourcc} {transform} {y_invert}"
    shown = reference.turned(content, transform, y_invert)
    x, y, width, height = 3, 5, 8, 7
    for route in (None, "draw"):
        assert_near(memory.reader.read(frame, fourcc="AB24", route=route), shown, what)
        part = memory.reader.read(frame, fourcc="AB24", rect=(x, y, width, height), route=route)
        assert_near(part, shown[y : y + height, x : x + width], f"{what}, part of it")


@pytest.mark.parametrize("fourcc", ["XR24", "AB24", "RG24", "RG16", "AB48"])
def test_rows_stored_bottom_up_by_a_plain_copy(memory: Memory, fourcc: str) -> None:
    planes = memory.noise(fourcc, ODD)
    frame = Frame(memory.put(fourcc, ODD, planes, "offset"), y_invert=True)
    for route in ("alias", "map"):
        assert memory.reader.read(frame, route=route).tobytes() == planes[0][::-1].tobytes()


@pytest.mark.parametrize("y_invert", [False, True])
@pytest.mark.parametrize("transform", ["normal", "90", "flipped-270"])
@pytest.mark.parametrize("fourcc", ["XR24", "RG16", "R4", "NV12", "P010", "YUYV", "YUV9"])
def test_visible_rectangles(memory: Memory, fourcc: str, transform: str, y_invert: bool) -> None:
    """The rectangle is one of the buffer, rows as they lie in memory; a part of it is one of the picture as it is shown.

    What lies around the rectangle is padding of any colour, and colours nothing; what lies around a part does count.
    """
    planes = memory.noise(fourcc, ODD)
    for visible in (Rect(6, 4, 20, 11), Rect(5, 3, 9, 8), Rect(0, 0, 32, 16), Rect(32, 16, 1, 1)):
        content = reference.rgba(fourcc, *ODD, planes, visible=visible)
        frame = Frame(memory.put(fourcc, ODD, planes), visible=visible, transform=transform, y_invert=y_invert)
        shown = reference.turned(content, transform, y_invert)
        height, width = shown.shape[0] // 2, shown.shape[1] // 3
        for route in (None, "draw"):
            what = f"{fourcc} {visible} {transform} {y_invert}"
            assert_near(memory.reader.read(frame, fourcc="AB24", route=route), shown, what)
            if height and width:
                part = memory.reader.read(frame, fourcc="AB24", rect=(1, 2, width, height), route=route)
                assert_near(part, shown[2 : 2 + height, 1 : 1 + width], f"{what}, part of it")


# ---- The report


def test_the_report_has_every_format_and_no_error_beyond_its_bound() -> None:
    """docs/accuracy.md is made by tools/accuracy_report.py; make it anew when formats or colours change."""
    lines = (reference.HEADER.parents[1] / "docs" / "accuracy.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head, rows = table[0], table[1:]
    assert sorted(code for row in rows for code in row[0].split()) == sorted(reference.FORMATS)
    bounds = {"AB24": BOUND[8], "AB30": BOUND[10], "AB48": BOUND[16], "AB4H": HALF_BOUND * 2**10}
    assert head == ["formats", "route", *bounds]
    for row in rows:
        for cell, bound in zip(row[2:], bounds.values(), strict=True):
            assert cell == "exact" or float(cell.split("/")[0]) <= bound, row
