"""DRM's formats: the generated table against the kernel's own, against the formats' names, and Fourcc both ways."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glreadback.errors import DescriptorError
from glreadback.fourcc import Field, Fourcc

ROOT = Path(__file__).resolve().parent.parent
ALL = Fourcc.all()
BY_NAME = {fourcc.name: fourcc for fourcc in ALL}

# What the kernel's drivers/gpu/drm/drm_fourcc.c says of the formats: bytes per pixel of each plane, or bytes:WxH of a
# block; subsampling; alpha, YUV, palette. It is written by hand there, not made from the header's comments.
KERNEL = [
    ("C1", "1:8x1", "1x1", "index"),
    ("C2", "1:4x1", "1x1", "index"),
    ("C4", "1:2x1", "1x1", "index"),
    ("C8", "1", "1x1", "index"),
    ("D1 R1", "1:8x1", "1x1", ""),
    ("D2 R2", "1:4x1", "1x1", ""),
    ("D4 R4", "1:2x1", "1x1", ""),
    ("D8 R8 RGB332 BGR233", "1", "1x1", ""),
    ("R10 R12 XRGB4444 XBGR4444 RGBX4444 BGRX4444 XRGB1555 XBGR1555 RGBX5551 BGRX5551 RGB565 BGR565", "2", "1x1", ""),
    ("ARGB4444 ABGR4444 RGBA4444 BGRA4444 ARGB1555 ABGR1555 RGBA5551 BGRA5551", "2", "1x1", "alpha"),
    ("RGB888 BGR888", "3", "1x1", ""),
    ("XRGB8888 XBGR8888 RGBX8888 BGRX8888 XRGB2101010 XBGR2101010 RGBX1010102 BGRX1010102", "4", "1x1", ""),
    ("ARGB8888 ABGR8888 RGBA8888 BGRA8888 ARGB2101010 ABGR2101010 RGBA1010102 BGRA1010102", "4", "1x1", "alpha"),
    ("XRGB16161616 XBGR16161616 XRGB16161616F XBGR16161616F", "8", "1x1", ""),
    ("ARGB16161616 ABGR16161616 ARGB16161616F ABGR16161616F AXBXGXRX106106106106", "8", "1x1", "alpha"),
    ("RGB565_A8 BGR565_A8", "2 1", "1x1", "alpha"),
    ("RGB888_A8 BGR888_A8", "3 1", "1x1", "alpha"),
    ("XRGB8888_A8 XBGR8888_A8 RGBX8888_A8 BGRX8888_A8", "4 1", "1x1", "alpha"),
    ("YUV410 YVU410", "1 1 1", "4x4", "yuv"),
    ("YUV411 YVU411", "1 1 1", "4x1", "yuv"),
    ("YUV420 YVU420", "1 1 1", "2x2", "yuv"),
    ("YUV422 YVU422", "1 1 1", "2x1", "yuv"),
    ("YUV444 YVU444", "1 1 1", "1x1", "yuv"),
    ("NV12 NV21", "1 2", "2x2", "yuv"),
    ("NV16 NV61", "1 2", "2x1", "yuv"),
    ("NV24 NV42", "1 2", "1x1", "yuv"),
    ("YUYV YVYU UYVY VYUY", "2", "2x1", "yuv"),
    ("VUY888", "3", "1x1", "yuv"),
    ("XYUV8888 XVYU2101010", "4", "1x1", "yuv"),
    ("AYUV Y410", "4", "1x1", "yuv alpha"),
    ("Y210 Y212 Y216", "4", "2x1", "yuv"),
    ("Y412 Y416", "8", "1x1", "yuv alpha"),
    ("XVYU12_16161616 XVYU16161616", "8", "1x1", "yuv"),
    ("Y0L0 Y0L2", "8:2x2", "2x2", "yuv alpha"),
    ("X0L0 X0L2", "8:2x2", "2x2", "yuv"),
    ("P010 P012 P016", "2 4", "2x2", "yuv"),
    ("P210", "2 4", "2x1", "yuv"),
    ("P030", "4:3x1 8:3x1", "2x2", "yuv"),
    ("NV15", "5:4x1 5:2x1", "2x2", "yuv"),
    ("NV20", "5:4x1 5:2x1", "2x1", "yuv"),
    ("NV30", "5:4x1 5:2x1", "1x1", "yuv"),
    ("Q410 Q401", "2 2 2", "1x1", "yuv"),
    ("VUY101010", "0", "1x1", "yuv"),  # 0: it has no linear layout
    ("YUV420_8BIT YUV420_10BIT", "0", "2x2", "yuv"),
]
KERNEL_BY_NAME = {name: facts for names, *facts in KERNEL for name in names.split()}
# In the header for user space alone: no kernel driver scans them out.
NOT_IN_KERNEL = {"R16", "RG88", "GR88", "RG1616", "GR1616", "AVUY8888", "XVUY8888"}


def fields(name: str, plane: int = 0) -> list[tuple[str, int, int, int]]:
    return [(f.component, f.shift, f.bits, f.sample) for f in Fourcc(name).info.planes[plane].fields]


# ---- the table


def test_every_format_of_the_header_is_there() -> None:
    header = (ROOT / "tools/drm_fourcc.h").read_text(encoding="utf-8")
    defined = re.findall(r"^#define DRM_FORMAT_(\w+)\s+fourcc_code\('(.)', '(.)', '(.)', '(.)'\)", header, re.MULTILINE)
    assert [(name, "".join(code).rstrip()) for name, *code in defined] == [(f.name, f) for f in ALL]
    assert len(ALL) == len(set(ALL)) == 125


def test_kernel_facts_cover_every_format() -> None:
    assert set(KERNEL_BY_NAME) | NOT_IN_KERNEL == set(BY_NAME)
    assert not set(KERNEL_BY_NAME) & NOT_IN_KERNEL


@pytest.mark.parametrize("name", KERNEL_BY_NAME)
def test_agrees_with_the_kernels_table(name: str) -> None:
    planes, subsampling, flags = KERNEL_BY_NAME[name]
    info = Fourcc(name).info
    assert info.has_alpha == ("alpha" in flags)
    assert info.opaque != info.has_alpha
    assert (info.model == "yuv") == ("yuv" in flags)
    assert (info.model == "index") == ("index" in flags)
    assert "{}x{}".format(*info.subsampling) == subsampling
    assert info.linear == (planes != "0")
    assert len(info.planes) == len(planes.split())
    if not info.linear:
        return
    for plane, stated in zip(info.planes, planes.split(), strict=True):
        size, _, block = stated.partition(":")
        if block:
            assert (plane.block_bytes, f"{plane.block_width}x{plane.block_height}") == (int(size), block)
        else:
            assert Fraction(plane.block_bytes, plane.block_width * plane.block_height) == int(size)
        # What is subsampled by planes is all that is not luma, colour or alpha.
        is_chroma = {field.component for field in plane.fields} <= {"Cb", "Cr", "X"}
        assert (plane.hsub, plane.vsub) == (info.subsampling if is_chroma else (1, 1))


@pytest.mark.parametrize("name", BY_NAME)
def test_fields_fill_their_block(name: str) -> None:
    for plane in Fourcc(name).info.planes:
        end = 0
        for field in plane.fields:
            assert field.shift == end
            end += field.bits
        assert end == plane.block_bytes * 8
        for component in {field.component for field in plane.fields}:
            samples = [field.sample for field in plane.fields if field.component == component]
            assert sorted(samples) == list(range(len(samples)))
            if component in ("R", "Y", "C", "D", "A"):
                assert len(samples) == plane.block_width * plane.block_height


def widths_from_name(digits: str, count: int, total: int) -> list[list[int]]:
    """All ways to read digits as count numbers that add up to total."""
    cuts = ([0, *cut, len(digits)] for cut in combinations(range(1, len(digits)), count - 1))
    readings = ([digits[a:b] for a, b in pairwise(cut)] for cut in cuts)
    numbers = ([int(n) for n in reading] for reading in readings if not any(n.startswith("0") for n in reading))
    return [reading for reading in numbers if sum(reading) == total]


SPELLED_OUT = [
    name
    for name, fourcc in BY_NAME.items()
    if re.fullmatch(r"[ARGBXYUV]{2,}\d+F?", name) and len(fourcc.info.planes) == 1 and fourcc.info.linear
]


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_fields_are_what_the_name_spells(name: str) -> None:
    """DRM's names spell a packed pixel from its most significant bit: XRGB2101010 is X2 R10 G10 B10."""
    info = Fourcc(name).info
    letters, digits = re.fullmatch(r"([A-Z]+)(\d+)F?", name).groups()
    [widths] = widths_from_name(digits, len(letters), info.planes[0].block_bytes * 8)
    components = [{"U": "Cb", "V": "Cr"}.get(letter, letter) for letter in letters]
    found = [(f.component, f.bits) for f in reversed(info.planes[0].fields)]
    assert found == list(zip(components, widths, strict=True))
    assert info.floating == name.endswith("F")


def test_most_packed_formats_are_spelled_out() -> None:
    assert len(SPELLED_OUT) >= 55


@pytest.mark.parametrize(
    ("name", "plane", "expected"),
    [
        # Checked by hand against the formats' other definitions: Microsoft's for YUV, V4L2's, and fbdev's for bits.
        ("R1", 0, [("R", 7 - i, 1, i) for i in range(7, -1, -1)]),  # the leftmost pixel is the highest bit
        ("C4", 0, [("C", 0, 4, 1), ("C", 4, 4, 0)]),
        ("R10", 0, [("R", 0, 10, 0), ("X", 10, 6, 0)]),  # low bits, unlike the P formats
        ("YUYV", 0, [("Y", 0, 8, 0), ("Cb", 8, 8, 0), ("Y", 16, 8, 1), ("Cr", 24, 8, 0)]),
        ("UYVY", 0, [("Cb", 0, 8, 0), ("Y", 8, 8, 0), ("Cr", 16, 8, 0), ("Y", 24, 8, 1)]),
        ("Y410", 0, [("Cb", 0, 10, 0), ("Y", 10, 10, 0), ("Cr", 20, 10, 0), ("A", 30, 2, 0)]),
        ("NV12", 1, [("Cb", 0, 8, 0), ("Cr", 8, 8, 0)]),
        ("NV21", 1, [("Cr", 0, 8, 0), ("Cb", 8, 8, 0)]),
        ("NV42", 1, [("Cr", 0, 8, 0), ("Cb", 8, 8, 0)]),
        ("P010", 0, [("X", 0, 6, 0), ("Y", 6, 10, 0)]),  # high bits
        ("P012", 1, [("X", 0, 4, 0), ("Cb", 4, 12, 0), ("X", 16, 4, 1), ("Cr", 20, 12, 0)]),
        ("NV15", 1, [("Cb", 0, 10, 0), ("Cr", 10, 10, 0), ("Cb", 20, 10, 1), ("Cr", 30, 10, 1)]),
        ("P030", 0, [("Y", 0, 10, 0), ("Y", 10, 10, 1), ("Y", 20, 10, 2), ("X", 30, 2, 0)]),
        ("YUV420", 1, [("Cb", 0, 8, 0)]),
        ("YVU420", 1, [("Cr", 0, 8, 0)]),
        ("Q401", 2, [("X", 0, 6, 0), ("Cb", 6, 10, 0)]),
        ("RGB565_A8", 1, [("A", 0, 8, 0)]),
        ("AXBXGXRX106106106106", 0, [("X", 0, 6, 0), ("R", 6, 10, 0), ("X", 16, 6, 1), ("G", 22, 10, 0),
                                     ("X", 32, 6, 2), ("B", 38, 10, 0), ("X", 48, 6, 3), ("A", 54, 10, 0)]),
    ],
)  # fmt: skip
def test_known_layouts(name: str, plane: int, expected: list[tuple[str, int, int, int]]) -> None:
    assert fields(name, plane) == expected


def test_2x2_blocks_number_their_samples_line_by_line() -> None:
    places = {(f.component, f.sample): f.shift for f in Fourcc("Y0L2").info.planes[0].fields}
    assert [places["Y", i] for i in range(4)] == [0, 20, 32, 52]
    assert [places["A", i] for i in range(4)] == [30, 31, 62, 63]
    assert (places["Cb", 0], places["Cr", 0]) == (10, 42)


@pytest.mark.parametrize(
    ("name", "width", "height", "row_bytes", "rows"),
    [
        ("XR24", 7, 5, [28], [5]),
        ("RG24", 3, 1, [9], [1]),
        ("R1", 9, 2, [2], [2]),
        ("C4", 1, 1, [1], [1]),
        ("UYVY", 7, 5, [16], [5]),
        ("NV12", 7, 5, [7, 8], [5, 3]),
        ("NV16", 7, 5, [7, 8], [5, 5]),
        ("NV15", 7, 5, [10, 10], [5, 3]),
        ("NV30", 7, 5, [10, 20], [5, 5]),
        ("P030", 10, 1, [16, 16], [1, 1]),
        ("P010", 1, 1, [2, 4], [1, 1]),
        ("YUV9", 9, 9, [9, 3, 3], [9, 3, 3]),
        ("YU11", 9, 9, [9, 3, 3], [9, 9, 9]),
        ("Y0L0", 7, 5, [32], [3]),
        ("R5A8", 3, 2, [6, 3], [2, 2]),
    ],
)
def test_odd_sizes_round_up(name: str, width: int, height: int, row_bytes: list[int], rows: list[int]) -> None:
    planes = Fourcc(name).info.planes
    assert [plane.row_bytes(width) for plane in planes] == row_bytes
    assert [plane.rows(height) for plane in planes] == rows


@pytest.mark.parametrize(
    ("name", "depth", "bytes_per_pixel", "bits"),
    [
        ("XR24", 8, 4, {"B": 8, "G": 8, "R": 8}),
        ("AR30", 10, 4, {"B": 10, "G": 10, "R": 10, "A": 2}),
        ("RG16", 6, 2, {"B": 5, "G": 6, "R": 5}),
        ("R5A8", 6, None, {"B": 5, "G": 6, "R": 5, "A": 8}),  # alpha is no colour
        ("R10", 10, 2, {"R": 10}),
        ("R1", 1, None, {"R": 1}),
        ("D8", 8, 1, {"D": 8}),
        ("AB4H", 16, 8, {"R": 16, "G": 16, "B": 16, "A": 16}),
        ("YUYV", 8, None, {"Y": 8, "Cb": 8, "Cr": 8}),
        ("Y412", 12, 8, {"Cb": 12, "Y": 12, "Cr": 12, "A": 12}),
        ("P010", 10, None, {"Y": 10, "Cb": 10, "Cr": 10}),
        ("X0L2", 10, None, {"Y": 10, "Cb": 10, "Cr": 10}),
        ("YU10", 10, None, {"Y": 10, "Cb": 10, "Cr": 10}),
        ("VU30", 10, None, {"Y": 10, "Cb": 10, "Cr": 10}),
    ],
)
def test_derived_properties(name: str, depth: int, bytes_per_pixel: int | None, bits: dict[str, int]) -> None:
    info = Fourcc(name).info
    assert (info.depth, info.bytes_per_pixel, info.bits) == (depth, bytes_per_pixel, bits)


@pytest.mark.parametrize(("prefix", "model"), [("C", "index"), ("D", "dark"), ("R", "rgb")])
def test_models_of_single_components(prefix: str, model: str) -> None:
    assert {Fourcc(f"{prefix}{bits}").info.model for bits in (1, 2, 4, 8)} == {model}


# ---- Fourcc


@pytest.mark.parametrize("fourcc", ALL)
def test_every_spelling_is_the_same_fourcc(fourcc: Fourcc) -> None:
    number = int.from_bytes(str(fourcc).ljust(4).encode(), "little")
    name = fourcc.info.name
    text = str(fourcc)
    for spelling in (number, text, text.ljust(4), text.lower(), name, name.lower(), f"DRM_FORMAT_{name}"):
        made = Fourcc(spelling)
        assert (made, made.code, made.name) == (fourcc, number, name)
    assert fourcc.known
    assert fourcc.info.fourcc == fourcc
    assert Fourcc(fourcc) is fourcc


def test_is_a_str_and_a_number() -> None:
    fourcc = Fourcc("DRM_FORMAT_XRGB8888")
    assert fourcc == "XR24"
    assert {"XR24": 1}[fourcc] == 1
    assert json.dumps([fourcc]) == '["XR24"]'
    assert f"{fourcc}" == "XR24"
    assert int(fourcc) == fourcc.__index__() == 0x34325258
    assert Fourcc(0x20203852) == "R8"
    assert repr(fourcc) == "Fourcc('XR24')"


def test_no_name_is_another_formats_fourcc() -> None:
    assert not any(name in ALL and name != fourcc for name, fourcc in BY_NAME.items())


def test_unknown_characters_are_kept() -> None:
    fourcc = Fourcc(0x35325258)
    assert (fourcc, fourcc.name, fourcc.known, fourcc.code) == ("XR25", "XR25", False, 0x35325258)
    with pytest.raises(DescriptorError, match=r"'XR25' is not in drm_fourcc\.h.*XR24 \(XRGB8888\)"):
        _ = fourcc.info


def test_numbers_are_taken_to_the_letter() -> None:
    """As text xr24 is XR24 carelessly typed; as a number it is another, unknown format."""
    other = Fourcc(int.from_bytes(b"xr24", "little"))
    assert Fourcc("xr24") == "XR24"
    assert (other, other.known) == ("xr24", False)
    for same in (copy.copy(other), copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert (same, type(same)) == ("xr24", Fourcc)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("XGRB8888", r"XR24 \(XRGB8888\)"),
        ("DRM_FORMAT_NV13", "NV12"),  # with the prefix only names will do
        ("DRM_FORMAT_XR24", "XR24"),
        ("NV12_10", "NV12"),
        ("", "no pixel format"),
        ("    ", "no pixel format"),
        ("X\n", r"'X\\n'"),
        ("é", "no pixel format"),
        ("A  _BE", "no pixel format"),  # would be A_BE, which is another
        (0x20202041 | 1 << 31, "0xa0202041"),
        ("A" * 1000000, "…"),
        (0, "DRM_FORMAT_INVALID"),
        (0x20202020, "0x20202020"),
        (0x01020304, "0x1020304"),
        (0xC1A1A1A1, "0xc1a1a1a1"),
        (-1, "-0x1"),
        (1 << 32, "0x100000000"),
        (1 << 100, "more than 64 bits"),
    ],
)
def test_what_is_no_fourcc_is_refused_in_one_line(value: str | int, says: str) -> None:
    with pytest.raises(DescriptorError, match=says) as caught:
        Fourcc(value)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("value", [None, 1.5, b"XR24"])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        Fourcc(value)


@settings(deadline=None)
@given(st.integers(0, (1 << 32) - 1) | st.binary(min_size=4, max_size=4).map(lambda b: int.from_bytes(b, "little"))
       | st.text("XRGBAY0124 _BE", min_size=4, max_size=4).map(lambda t: int.from_bytes(t.encode(), "little"))
       .flatmap(lambda code: st.sampled_from([code, code | 1 << 31])))  # fmt: skip
def test_numbers_round_trip(code: int) -> None:
    try:
        fourcc = Fourcc(code)
    except DescriptorError:
        characters = (code & 0x7FFFFFFF).to_bytes(4, "little").decode("latin-1").rstrip(" ")
        printable = characters.isascii() and characters.isprintable()
        assert not printable or len(characters) <= (code >> 31)
    else:
        assert int(fourcc) == code
        assert Fourcc(str(fourcc)).code == code or Fourcc(str(fourcc)).known  # the latter: careless capitals
        assert pickle.loads(pickle.dumps(fourcc)) == fourcc


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30) | st.text("DRM_FORMATXRGB8 24be", max_size=24))
def test_any_text_is_a_fourcc_or_a_descriptor_error(text: str) -> None:
    with contextlib.suppress(DescriptorError):
        fourcc = Fourcc(text)
        assert Fourcc(fourcc.code) == fourcc


# ---- big-endian


def test_big_endian_both_ways() -> None:
    code = 0x34325258 | 1 << 31
    for spelling in ("XR24_BE", "xr24_be", "XR24 _BE ", "XRGB8888_BE", "DRM_FORMAT_XRGB8888_BE", code):
        fourcc = Fourcc(spelling)
        assert (fourcc, fourcc.code, fourcc.name) == ("XR24_BE", code, "XRGB8888_BE")
        assert (fourcc.info.fourcc, fourcc.info.name, fourcc.known) == ("XR24_BE", "XRGB8888_BE", True)


def test_big_endian_fields_lie_where_a_big_endian_integer_has_them() -> None:
    described = [f for f in (Fourcc(f"{f}_BE") for f in ALL) if f.known]
    assert {"XR24_BE", "AB24_BE", "AR12_BE", "GR88_BE"} <= set(described)
    for fourcc in described:
        [plane], [little] = fourcc.info.planes, Fourcc(fourcc.removesuffix("_BE")).info.planes
        memory = bytes(range(0x11, 0x11 + plane.block_bytes * 0x1D, 0x1D))

        def values(of: tuple[Field, ...], pixel: int) -> dict[str, int]:
            return {field.component: pixel >> field.shift & (1 << field.bits) - 1 for field in of}

        expected = values(little.fields, int.from_bytes(memory, "big"))
        assert values(plane.fields, int.from_bytes(memory, "little")) == expected
        assert sum(field.bits for field in plane.fields) == plane.block_bytes * 8


@pytest.mark.parametrize("text", ["_BE", "R_BE"])
def test_four_characters_that_end_like_big_endian_are_just_these(text: str) -> None:
    assert Fourcc(text).code == int.from_bytes(text.ljust(4).encode(), "little")


@pytest.mark.parametrize("text", ["RG16_BE", "XR30_BE", "AB48_BE", "NV12_BE", "YUYV_BE", "RG24_BE", "R8_BE"])
def test_big_endian_that_cannot_be_described(text: str) -> None:
    fourcc = Fourcc(text)
    assert not fourcc.known
    assert fourcc.code == Fourcc(text.removesuffix("_BE")).code | 1 << 31
    with pytest.raises(DescriptorError, match="cannot be described"):
        _ = fourcc.info


# ---- the generator


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_drm_fourcc", ROOT / "tools/gen_drm_fourcc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_table_is_what_the_header_gives(generator: ModuleType) -> None:
    header = generator.HEADER.read_text(encoding="utf-8")
    assert generator.MODULE.read_text(encoding="utf-8") == generator.generate(header)
    assert generator.main(["--check"]) == 0


def test_check_notices_a_difference(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "_drm_fourcc.py"
    other.write_text(generator.MODULE.read_text(encoding="utf-8").replace('("B", 0, 8, 0)', '("R", 0, 8, 0)', 1))
    monkeypatch.setattr(generator, "MODULE", other)
    assert generator.main(["--check"]) == 1
    assert "run this script" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[31:0] x:R:G:B 8:8:8:8", "[31:0] x:R:G:B 8:8:8:9", "XRGB8888: .* does not add up"),
        ("[31:0] x:R:G:B 8:8:8:8", "[31:0] x:R:G:B 8:8:16", "XRGB8888: .* does not add up"),
        ("[31:0] x:R:G:B 8:8:8:8", "[31:0] x:R:G:Z 8:8:8:8", "XRGB8888: 'Z' is no component"),
        ("[31:0] Cr0:Y1:Cb0:Y0 8:8:8:8", "[31:0] Cr0:Y0:Cb0:Y0 8:8:8:8", "YUYV: .* names a sample twice"),
        ("/* [31:0] Y1:Cr0:Y0:Cb0 8:8:8:8 little endian */", "/* as YUYV */", "UYVY: no layout"),
        ("'U', 'Y', 'V', 'Y'", "'Y', 'U', 'Y', 'V'", "UYVY .* is defined twice"),
        ("'U', 'Y', 'V', 'Y'", "'U', 'Y', 'V', 0", "125 formats are defined, 124 were understood"),
        ("/* 2x2 subsampled Cb:Cr plane */", "/* 2x2 subsampled CbCr:x plane */", "NV21: 0 descriptions fit plane 1"),
        ("index 2: Cr plane, [15:0] Cr:x [10:6]", "index 2: Cr plane, as plane 1", "Q410: no layout"),
        (" * index 2: Cb plane, [15:0] Cb:x [10:6] little endian\n", "", "Q401: 2 planes are described"),
        ("Non-linear modifier only", "10:10:10", "VUY101010: the header and NOMINAL disagree"),
        ("only be used with a non-Linear", "only be used with a", "YUV420_8BIT: .* NOMINAL disagree"),
        ("Floating point 64bpp", "64bpp", "XRGB16161616F: .* disagree on whether it is floating"),
        ("binary16", "binary32", "XRGB16161616F: a component is not binary32"),
        ("DRM_FORMAT_X0L2\t", "DRM_FORMAT_X0L3\t", "X0L3: .* BLOCKS must say"),
        ("Y2:X1:X0:Y1:Cb0:Y0  1:1:10:10:10:1:1:10:10:10", "X4:X1:X0:Y1:Cb0:Y0  1:1:10:10:10:1:1:10:10:10",
         "X0L2: .* leaves one out"),
        ("AMD_FMT_MOD_PIPE_MASK 0x7", "AMD_FMT_MOD_PIPE_MASK 0x5", "no bit field"),
        ("AMD_FMT_MOD_PIPE_SHIFT 33", "AMD_FMT_MOD_PIPE_SHIFT 32", "the bits of PIPE are taken"),
        ("AFBC_FORMAT_MOD_SPLIT   (1ULL", "AFBC_FORMAT_MOD_SPLIT   (3ULL", "SPLIT is no flag"),
        ("fourcc_mod_code(INTEL, 2)", "fourcc_mod_code(INTEL, two)", "is not a constant"),
    ],
)  # fmt: skip
def test_the_generator_refuses_what_it_does_not_understand(generator: ModuleType, old: str, new: str, says: str) -> None:
    header = generator.HEADER.read_text(encoding="utf-8")
    assert old in header
    with pytest.raises(generator.HeaderError, match=says):
        generator.generate(header.replace(old, new))


# ---- cost


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, glreadback.fourcc, glreadback.modifier as m; m.Modifier('LINEAR');"
        "glreadback.fourcc.Fourcc('XRGB8888').info;"
        "print([n for n in ('numpy', 'OpenGL', 'difflib', 'PIL', 'json') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
