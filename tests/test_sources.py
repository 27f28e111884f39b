"""Sources: the grammar of SOURCE strings, what every source promises, and the bytes of pattern, file and fd."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import producing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import no_descriptor_left
from templates import check_source, refuse_source, use_source

from glreadback import sources
from glreadback.dmabuf import DmaBuf
from glreadback.errors import DescriptorError, GlReadbackError, SourceError, SourceSyntaxError
from glreadback.fourcc import Fourcc
from glreadback.kernel import dmabuf as kernel
from glreadback.kernel import udmabuf
from glreadback.sources import REGISTRY, _encode, open_source, parse_spec, patterns, source_class
from glreadback.sources.base import Source
from glreadback.sources.fd import FdSource
from glreadback.sources.file import FileSource
from glreadback.sources.pattern import PatternSource, pattern_planes

LINEAR = [fourcc for fourcc in Fourcc.all() if fourcc.info.linear]
SIZES = [(1, 1), (7, 5), (38, 21)]


def memory_of(buffer: DmaBuf) -> bytes:
    """All that lies behind plane 0's descriptor."""
    fd = buffer.planes[0].fd
    return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)


def plane_rows(buffer: DmaBuf, index: int) -> list[bytes]:
    plane, layout = buffer.planes[index], buffer.layouts[index]
    data, row = memory_of(buffer), layout.row_bytes(buffer.width)
    starts = (plane.offset + y * buffer.step(index) for y in range(layout.rows(buffer.height)))
    return [data[start : start + row] for start in starts]


def only_frame(source: Source) -> DmaBuf:
    return next(source.frames()).buffer


# ---- the grammar


@pytest.mark.parametrize(
    ("text", "scheme", "path", "options"),
    [
        ("pattern", "pattern", "", {}),
        ("pattern:", "pattern", "", {}),
        ("Pattern:checker", "pattern", "checker", {}),
        ("pattern?size=4x4", "pattern", "", {"size": "4x4"}),
        ("pattern:smpte?", "pattern", "smpte", {}),
        ("pattern:smpte?size=4x4&fourcc=XR24", "pattern", "smpte", {"size": "4x4", "fourcc": "XR24"}),
        ("fd:7?fd1=8", "fd", "7", {"fd1": "8"}),
        ("file:a?size=1x1", "file", "a", {"size": "1x1"}),
        ("file:/tmp/a&b.raw", "file", "/tmp/a&b.raw", {}),
        ("file:/tmp/what%3F%26%25.raw", "file", "/tmp/what?&%.raw", {}),
        ("file:100%.raw", "file", "100%.raw", {}),
        ("file:%C3%A4", "file", "ä", {}),
        ("file:%ff", "file", "\udcff", {}),
        ("./a.raw?size=1x1", "file", "./a.raw", {"size": "1x1"}),
        ("/tmp/a:b", "file", "/tmp/a:b", {}),
        ("shot.raw", "file", "shot.raw", {}),
        ("fd:7?modifier=AMD(GFX9,PIPE=2)", "fd", "7", {"modifier": "AMD(GFX9,PIPE=2)"}),
    ],
)
def test_a_spec_is_taken_apart(text: str, scheme: str, path: str, options: dict[str, str]) -> None:
    spec = parse_spec(text)
    assert (spec.scheme, spec.path, dict(spec.options)) == (scheme, path, options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no source was named; there are pattern, file, fd"),
        ("patern:smpte", "'patern' is no source (did you mean pattern?)"),
        ("nothing", "'nothing' is no source; there are"),
        (":", "is no source"),
        ("pattern:smtpe", "did you mean smpte?"),
        ("pattern:?sise=4x4", "has no key 'sise' (did you mean size?); there are size, fourcc, stride"),
        ("pattern:?size=4x4&size=4x4", "'size' is given twice"),
        ("pattern:?size", "'size' has no value. Write size="),
        ("pattern:?size=", "'size' has no value"),
        ("pattern:?=4", "option without a name"),
        ("pattern:?size=4x4&", "option without a name"),
        ("pattern:?size=4x", "size='4x': it must be WIDTHxHEIGHT in pixels, such as 1920x1080"),
        ("pattern:?size=0x4", "must be WIDTHxHEIGHT"),
        ("pattern:?size=-4x4", "must be WIDTHxHEIGHT"),
        ("pattern:?size=99999999999x4", "must be WIDTHxHEIGHT"),
        ("pattern:?size=4294967296x4", "must be WIDTHxHEIGHT"),
        ("pattern:?stride=-1", "stride='-1': it must be a whole number from 0 to 2147483647, decimal or 0x…"),
        ("pattern:?stride=1.5", "must be a whole number"),
        ("pattern:?stride=1_0", "must be a whole number"),
        ("pattern:?stride= 1", "must be a whole number"),
        ("pattern:?stride=٣", "must be a whole number"),
        ("pattern:?stride=0x80000000", "must be a whole number"),
        ("pattern:?stride=" + "9" * 5000, "must be a whole number"),
        ("pattern:?fourcc=XR42", "fourcc='XR42': 'XR42' is not in drm_fourcc.h"),
        ("pattern:?fourcc=toolong", "no pixel format"),
        ("pattern:solid?color=red", "six hexadecimal digits"),
        ("pattern:?size=4x4&stride2=4", "has no key 'stride2' (did you mean stride?)"),
        ("file:a%00b?size=4x4&fourcc=XR24", "zero byte"),
        ("file:?size=4x4&fourcc=XR24", "file: needs a path"),
        ("file:a", "file: needs size= and fourcc=, such as file:…?size=1920x1080&fourcc=XR24"),
        ("file:a?size=4x4", "file: needs fourcc="),
        ("file:a?size=4x4&fourcc=XR24&stride1=4", "stride1= is given, but XR24 has 1 plane"),
        ("file:a?size=4x4&fourcc=XR24&fd1=4", "has no key 'fd1'"),
        ("fd:x?size=4x4&fourcc=XR24", "fd: 'x' is no descriptor's number"),
        ("fd:-1?size=4x4&fourcc=XR24", "is no descriptor's number"),
        ("fd:0?size=4x4&fourcc=NV12&fd2=4", "fd2= is given, but NV12 has 2 planes"),
        ("fd:0?size=4x4&fourcc=XR24&modifier=LINEER", "LINEAR"),
        ("fd:0?size=4x4&fourcc=XR24&modifier=I915_X_TILED", "fd: needs stride="),
    ],
)
def test_a_mistake_in_a_spec_is_named_in_one_line(text: str, says: str) -> None:
    with no_descriptor_left(), pytest.raises(SourceSyntaxError) as error:
        open_source(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.from_regex(r"(pattern|file|fd):[a-z0-9%/?]*\?(size|fourcc|stride|fd1)=[^&]*(&[a-z=x0-9]*)?"))
def test_any_text_is_a_spec_or_a_syntax_error(text: str) -> None:
    try:
        spec = parse_spec(text)
        values = spec.values(source_class(spec.scheme).keys)
        assert set(values) <= set(source_class(spec.scheme).keys)
    except SourceSyntaxError as error:
        message = str(error)
    else:
        message = ""
    assert message.isprintable()


def test_hexadecimal_names_and_numbers_are_values() -> None:
    keys = FdSource.keys
    spec = parse_spec("fd:7?size=4X0004&fourcc=0x34325258&offset=0x1000&modifier=0x0&stride=8192")
    assert spec.values(keys) == {"size": (4, 4), "fourcc": "XR24", "offset": 4096, "modifier": 0, "stride": 8192}
    assert parse_spec("fd:7?size=4x4&fourcc=DRM_FORMAT_NV12").values(keys)["fourcc"] == "NV12"


# ---- what every source promises (sources/base.py)


@pytest.mark.parametrize("scheme", REGISTRY)
def test_a_source_follows_the_template(scheme: str) -> None:
    check_source(scheme)


def loaded_by(code: str) -> set[str]:
    """Which modules a new interpreter has after running code."""
    code += "\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_only_the_source_that_is_used_is_loaded() -> None:
    homes = {f"glreadback.sources.{module}" for module, _ in REGISTRY.values()}
    assert not homes & loaded_by("import glreadback.sources; glreadback.sources.parse_spec('pattern:')")
    code = "from glreadback.sources import source_class, REGISTRY\nfor scheme in REGISTRY: source_class(scheme)"
    loaded = loaded_by(code)
    assert homes <= loaded
    assert not {"numpy", "OpenGL", "PIL"} & loaded


def test_every_module_with_a_source_is_in_the_registry() -> None:
    homes = {module for module, _ in REGISTRY.values()}
    for path in Path(sources.__file__).parent.glob("[!_]*.py"):
        if re.search(r"^class [A-Z]\w*\((?:\w*Source)\)", path.read_text(), re.MULTILINE):
            assert path.stem in homes | {"base"}, path.name


def test_every_source_is_tried() -> None:
    """Here with a producer of the table, or in the VM."""
    assert set(producing.SOURCES) | producing.KERNEL == set(REGISTRY)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", producing.SOURCES)
def test_a_source_keeps_the_templates_promises(scheme: str) -> None:
    with producing.SOURCES[scheme]() as text:
        use_source(text)


MISSING = {
    "pattern": "pattern:nothing",
    "file": "file:/nowhere/frame?size=4x4&fourcc=XR24",
    "fd": "fd:999999?size=4x4&fourcc=XR24",
    "pid": "pid:2147483646/7?size=4x4&fourcc=XR24",
    "unix": "unix:/nowhere/frames",
    "kms": "kms:card9999",
    "vfio": "vfio:00000000-0000-0000-0000-000000000000",
    "qemu": "qemu:/nowhere/qmp",
}


@pytest.mark.parametrize("scheme", REGISTRY)
def test_what_is_not_there_is_one_line_and_leaves_nothing(scheme: str) -> None:
    refuse_source(MISSING[scheme])


# ---- pattern: which bytes


def read_field(block: bytes, shift: int, bits: int) -> int:
    return int.from_bytes(block, "little") >> shift & (1 << bits) - 1


def nearest(value: Fraction, most: int) -> set[int]:
    """The whole numbers that value * most may be rounded to: two where it lies in the middle."""
    exact = value * most
    return {n for n in (int(exact), int(exact) + 1) if abs(n - exact) <= Fraction(1, 2) + Fraction(1, 10**6)}


@pytest.mark.parametrize("fourcc", LINEAR)
@pytest.mark.parametrize("size", SIZES)
def test_every_linear_format_holds_the_picture_where_the_table_says(fourcc: Fourcc, size: tuple[int, int]) -> None:
    """Field by field in Python integers and fractions, against the encoder's arrays: solid, so that chroma is exact."""
    red, green, blue = (Fraction(n, 255) for n in (250, 100, 20))
    kr, kb = (
        (Fraction(2126, 10000), Fraction(722, 10000))
        if fourcc.info.model != "yuv"
        else (
            Fraction(299, 1000),
            Fraction(114, 1000),
        )
    )
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    video = {"Y": (16 + 219 * luma, 256), "Cb": (128 + 224 * cb, 256), "Cr": (128 + 224 * cr, 256)}
    grey = "G" not in fourcc.info.bits
    plain = {"R": luma if grey else red, "G": green, "B": blue, "C": luma, "D": 1 - luma, "A": Fraction(1)}
    with PatternSource("solid", size=size, fourcc=fourcc, color=(250, 100, 20)) as source:
        buffer = only_frame(source)
        for index, layout in enumerate(fourcc.info.planes):
            for row in plane_rows(buffer, index):
                for start in range(0, len(row), layout.block_bytes):
                    block = row[start : start + layout.block_bytes]
                    for field in layout.fields:
                        found = read_field(block, field.shift, field.bits)
                        if field.component == "X":
                            assert found == 0xA5A5 & (1 << field.bits) - 1
                            assert found
                        elif field.component in video:
                            value, _ = video[field.component]
                            assert found in nearest(value, 2 ** (field.bits - 8))
                        elif fourcc.info.floating:
                            import numpy as np

                            assert found == int(np.float16(float(plain[field.component])).view(np.uint16))
                        else:
                            assert found in nearest(plain[field.component], 2**field.bits - 1)


@pytest.mark.parametrize("fourcc", LINEAR)
def test_every_pixel_is_in_its_place(fourcc: Fourcc) -> None:
    """The components that each pixel has of its own, of a picture in which no two pixels are alike."""
    width, height = 13, 9
    fields = [field for plane in fourcc.info.planes for field in plane.fields]
    with PatternSource("gradient", size=(width, height), fourcc=fourcc) as source:
        buffer = only_frame(source)
        planes = [plane_rows(buffer, index) for index in range(len(fourcc.info.planes))]
    for layout, rows in zip(fourcc.info.planes, planes, strict=True):
        block_pixels = layout.block_width * layout.block_height
        for name in {field.component for field in layout.fields} - {"X", "A"}:
            fields = sorted((field for field in layout.fields if field.component == name), key=lambda field: field.sample)
            if len(fields) != block_pixels or (layout.hsub, layout.vsub) != (1, 1):
                continue  # subsampled
            for y, x in itertools.product(range(height), range(width)):
                across, down = Fraction(x, width - 1), Fraction(y, height - 1)
                red, green, blue = across, down, 1 - across
                kr, kb = (0.299, 0.114) if fourcc.info.model == "yuv" else (0.2126, 0.0722)
                luma = kr * red + (1 - kr - kb) * green + kb * blue
                wanted = {
                    "Y": (16 + 219 * luma) / 256,
                    "Cb": (128 + 112 / (1 - kb) * (blue - luma)) / 256,
                    "Cr": (128 + 112 / (1 - kr) * (red - luma)) / 256,
                    "R": red if "G" in fourcc.info.bits else luma,
                    "G": green,
                    "B": blue,
                    "C": luma,
                    "D": 1 - luma,
                }[name]
                at = x // layout.block_width * layout.block_bytes
                block = rows[y // layout.block_height][at : at + layout.block_bytes]
                field = fields[y % layout.block_height * layout.block_width + x % layout.block_width]
                number = read_field(block, field.shift, field.bits)
                if fourcc.info.floating:
                    (found,) = struct.unpack("<e", number.to_bytes(2, "little"))
                    assert found == pytest.approx(float(wanted), abs=2**-11)
                else:
                    scale = 2**field.bits - (name not in ("Y", "Cb", "Cr"))
                    assert number == pytest.approx(float(wanted) * scale, abs=0.5001)


KNOWN = [
    # (fourcc, colour, plane, the first bytes), by hand from the comments of drm_fourcc.h
    ("XR24", 0x102030, 0, "302010a5"),
    ("BX24", 0x102030, 0, "a5102030"),
    ("AB24", 0x102030, 0, "102030ff"),
    ("RG24", 0x102030, 0, "302010"),
    ("RG16", 0xFF0000, 0, "00f8"),
    ("BG16", 0xFF0000, 0, "1f00"),
    ("XR24_BE", 0x102030, 0, "a5102030"),
    ("AR30", 0xFF0000, 0, "0000f0ff"),
    ("AB10", 0xFF0000, 0, "e5ff25002500e5ff"),
    ("AB4H", 0xFF0000, 0, "003c00000000003c"),
    ("AB48", 0x0000FF, 0, "00000000ffffffff"),
    ("C1", 0xFFFFFF, 0, "ff"),
    ("D8", 0xFFFFFF, 0, "00"),
    ("R10", 0xFFFFFF, 0, "ff97"),
    ("NV12", 0xFFFFFF, 0, "ebebebeb"),
    ("NV12", 0x0000FF, 1, "f06e"),  # blue in BT.601: Cb 240, Cr 110
    ("NV21", 0x0000FF, 1, "6ef0"),
    ("YU12", 0x0000FF, 2, "6e"),
    ("YUYV", 0x0000FF, 0, "29f0296e"),
    ("UYVY", 0x0000FF, 0, "f0296e29"),
    ("P010", 0xFFFFFF, 0, "25eb"),  # 940 << 6 | padding
    ("R8A8", 0x102030, 1, "ffff"),
]


@pytest.mark.parametrize(("fourcc", "color", "plane", "expected"), KNOWN)
def test_known_pixels(fourcc: str, color: int, plane: int, expected: str) -> None:
    rows = pattern_planes("solid", 8, 8, fourcc, color=tuple(color.to_bytes(3, "big")))[plane]  # type: ignore[arg-type]
    _, row = next(iter(rows))
    assert row.hex().startswith(expected)


def test_pixels_that_share_a_byte_start_with_its_most_significant_bits() -> None:
    # 18 squares to the height: of one pixel each here, the first of them white.
    (rows,) = pattern_planes("checker", 8, 18, "R1")
    assert [row for count, row in rows for _ in range(count)][:2] == [b"\xaa", b"\x55"]


def test_chroma_lies_on_the_left_pixel_and_between_the_lines() -> None:
    import numpy as np

    ramp = np.array([[0.0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])
    assert _encode._subsample(ramp, 2, 1).tolist() == [[0.25, 2, 4], [6.25, 8, 10]]
    assert _encode._subsample(ramp, 2, 2).tolist() == [[3.25, 5, 7]]
    assert _encode._subsample(ramp[:, :3], 2, 2).tolist() == [[3.25, 4.75]]
    assert _encode._subsample(ramp[:1], 4, 4).shape == (1, 2)


BYTE_FORMATS = ["XR24", "XB24", "RX24", "BX24", "AR24", "AB24", "RA24", "BA24", "RG24", "BG24"]


@pytest.mark.parametrize("fourcc", BYTE_FORMATS)
@pytest.mark.parametrize("name", patterns.BANDS)
def test_the_byte_and_the_numpy_encoder_agree(name: str, fourcc: str) -> None:
    for width, height in [*SIZES, (301, 187)]:
        (rows,) = pattern_planes(name, width, height, fourcc, color=(1, 127, 254))
        fast = b"".join(row * count for count, row in rows)
        bands = patterns.BANDS[name](width, height, (1 / 255, 127 / 255, 254 / 255))
        (slow,) = _encode.encode(Fourcc(fourcc).info, _encode.picture(bands))
        assert fast == slow.tobytes()


def test_the_default_pattern_needs_no_numpy() -> None:
    code = "from glreadback.sources import open_source\n"
    for fourcc in BYTE_FORMATS:
        for name in patterns.BANDS:
            code += f"open_source('pattern:{name}?size=16x16&fourcc={fourcc}').close()\n"
    assert not {"numpy", "OpenGL", "PIL", "random"} & loaded_by(code)


def test_smpte_bars_are_where_eg_1_has_them() -> None:
    (rows,) = pattern_planes("smpte", 840, 480, "BG24")
    picture = [row for count, row in rows for _ in range(count)]
    assert len(picture) == 480

    def at(x: int, y: int) -> str:
        return picture[y][3 * x : 3 * x + 3].hex()

    tops = ["bfbfbf", "bfbf00", "00bfbf", "00bf00", "bf00bf", "bf0000", "0000bf"]
    assert [at(60 + 120 * n, 100) for n in range(7)] == tops
    assert [at(x, 319) for x in (0, 119, 120, 839)] == ["bfbfbf", "bfbfbf", "bfbf00", "0000bf"]
    assert [at(60 + 120 * n, 330) for n in range(0, 7, 2)] == tops[::-1][::2]
    assert [at(x, 400) for x in (10, 160, 310, 460)] == ["00214c", "ffffff", "32006a", "131313"]
    assert [at(x, 479) for x in (620, 660, 700, 800)] == ["090909", "131313", "1d1d1d", "131313"]


def test_gradient_has_its_corners() -> None:
    (rows,) = pattern_planes("gradient", 64, 32, "BG24")
    picture = [row for count, row in rows for _ in range(count)]
    corners = [picture[y][3 * x : 3 * x + 3].hex() for y in (0, 31) for x in (0, 63)]
    assert corners == ["0000ff", "ff0000", "00ffff", "ffff00"]


def test_noise_is_the_same_for_a_seed() -> None:
    def noise(seed: int, fourcc: str = "AB24") -> bytes:
        return b"".join(row for _, row in pattern_planes("noise", 16, 16, fourcc, seed=seed)[0])

    assert noise(1) == noise(1) != noise(2)
    assert noise(7)[:8].hex() == NOISE_7
    assert len(set(noise(1))) > 200
    assert len(set(noise(1)[3::4])) > 100, "alpha is not random"
    assert len({noise(1, "AB48")[n : n + 2] for n in range(0, 2048, 2)}) > 1000, "the low bits are not random"


NOISE_7 = "f049c0551397f93b"


@pytest.mark.parametrize("fourcc", LINEAR)
def test_padding_and_offset_hold_the_filler_and_the_planes_hold_the_picture(fourcc: Fourcc) -> None:
    width, height, offset = 33, 19, 1000
    stride = fourcc.info.planes[0].row_bytes(width) + 24
    with PatternSource("gradient", size=(width, height), fourcc=fourcc, offset=offset, stride=stride) as source:
        buffer = only_frame(source)
        assert (buffer.planes[0].offset, buffer.planes[0].stride) == (offset, stride)
        left = bytearray(memory_of(buffer))
        for index, rows in enumerate(pattern_planes("gradient", width, height, fourcc)):
            expected = [row for count, row in rows for _ in range(count)]
            assert plane_rows(buffer, index) == expected
            for y, row in enumerate(expected):
                start = buffer.planes[index].offset + y * buffer.step(index)
                left[start : start + len(row)] = b"\xa5" * len(row)
        assert set(left) == {0xA5}, "bytes that are no pixels"
        assert len(left) % mmap.PAGESIZE == 0


@pytest.mark.parametrize(
    ("fourcc", "stride", "strides"),
    [
        ("NV12", 64, [64, 64]),
        ("NV24", 64, [64, 128]),
        ("YU12", 64, [64, 32, 32]),
        ("YU11", 64, [64, 16, 16]),
        ("P010", 128, [128, 128]),
        ("P030", 64, [64, 64]),
        ("XRA8", 256, [256, 64]),
    ],
)
def test_further_planes_have_strides_in_proportion(fourcc: str, stride: int, strides: list[int]) -> None:
    with PatternSource(size=(33, 8), fourcc=fourcc, stride=stride) as source:
        planes = only_frame(source).planes
        assert [plane.stride for plane in planes] == strides
        rows = [layout.rows(8) for layout in Fourcc(fourcc).info.planes]
        assert [plane.offset for plane in planes] == [
            sum(s * r for s, r in zip(strides[:n], rows[:n], strict=True)) for n in range(len(planes))
        ]


def test_yuv_frames_say_how_they_were_made() -> None:
    for height, matrix in ((719, "601"), (720, "709")):
        with PatternSource("solid", size=(2, height), fourcc="NV12") as source:
            color = next(source.frames()).color
            assert color is not None
            assert (color.matrix, color.range, color.siting) == (matrix, "narrow", "left")
    with PatternSource("solid", size=(2, 2)) as source:
        assert next(source.frames()).color is None


def test_a_udmabuf_is_written_between_sync_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(udmabuf, "allocate", lambda size: (udmabuf.sealed_memfd(size), "udmabuf"))
    monkeypatch.setattr(kernel, "sync_start", lambda fd, access: calls.append(("start", access)))
    monkeypatch.setattr(kernel, "sync_end", lambda fd, access: calls.append(("end", access)))
    with PatternSource("solid", size=(4, 4)) as source:
        assert calls == [("start", kernel.WRITE), ("end", kernel.WRITE)]
        assert source.describe()["memory"] == "udmabuf"


def test_what_stands_in_for_a_udmabuf_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udmabuf, "DEVICE", "/nowhere")
    with PatternSource("solid", size=(4, 4)) as source:
        assert str(source.describe()["memory"]).startswith("memfd (stand-in")


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("pattern:?fourcc=VU30", DescriptorError, "exists only in its vendor's compressed layouts"),
        ("pattern:?size=64x64&stride=255", DescriptorError, "stride of 255 bytes"),
        ("pattern:?size=2000000x2000000", SourceError, "of memory. Choose a smaller size="),
        ("pattern:?size=2000000000x2", DescriptorError, "must be between"),
    ],
)
def test_a_pattern_that_cannot_be(spec: str, error: type[Exception], says: str) -> None:
    with no_descriptor_left(), pytest.raises(error, match=says) as raised:
        open_source(spec)
    assert "\n" not in str(raised.value)


# ---- file


def test_a_file_is_copied_from_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "what?&100%.raw"
    content = os.urandom(10000)
    path.write_bytes(content)
    text = f"{path}".replace("%", "%25").replace("?", "%3F")
    with open_source(f"file:{text}?size=7x5&fourcc=XR24&offset=1001&stride=64") as source:
        path.write_bytes(b"")  # copied, not mapped
        rows = plane_rows(only_frame(source), 0)
    assert rows == [content[1001 + 64 * y : 1001 + 64 * y + 28] for y in range(5)]


@pytest.mark.parametrize("fourcc", LINEAR)
def test_a_dump_of_any_format_comes_back(fourcc: Fourcc, tmp_path: Path) -> None:
    planes = [b"".join(row * n for n, row in rows) for rows in pattern_planes("noise", 13, 9, fourcc)]
    (tmp_path / "dump").write_bytes(b"".join(planes))
    with FileSource(str(tmp_path / "dump"), size=(13, 9), fourcc=fourcc) as source:
        buffer = only_frame(source)
        assert [b"".join(plane_rows(buffer, index)) for index in range(len(planes))] == planes


def test_planes_of_a_file_may_lie_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "frame.raw"
    path.write_bytes(bytes(range(200)))
    with open_source(f"{path}?size=4x2&fourcc=NV12&offset=100&stride=10&offset1=20&stride1=4") as source:
        buffer = only_frame(source)
        luma, chroma = plane_rows(buffer, 0), plane_rows(buffer, 1)
    assert luma == [bytes([100, 101, 102, 103]), bytes([110, 111, 112, 113])]
    assert chroma == [bytes([20, 21, 22, 23])]


def test_the_last_row_may_be_short_of_its_stride(tmp_path: Path) -> None:
    path = tmp_path / "frame"
    path.write_bytes(bytes(100 + 16))
    with FileSource(str(path), size=(4, 2), fourcc="XR24", stride=100):
        pass
    path.write_bytes(bytes(100 + 15))
    with (
        no_descriptor_left(),
        pytest.raises(
            SourceError, match=r"is too short: 4x2 XR24 ends at byte 116, the file holds 115 \(offset 0 stride 100\)"
        ),
    ):
        FileSource(str(path), size=(4, 2), fourcc="XR24", stride=100)


def test_a_short_file_is_refused_before_memory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short").write_bytes(bytes(100))
    monkeypatch.setattr("glreadback.sources.file.Memory", lambda size: pytest.fail(f"{size} bytes were allocated"))
    with pytest.raises(SourceError, match="is too short"):
        FileSource(str(tmp_path / "short"), size=(4096, 4096), fourcc="XR24")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock, no_descriptor_left():
        sock.bind(str(tmp_path / "socket"))
        for name, says in (
            ("", "is a directory"),
            ("pipe", "is a pipe"),
            ("socket", "cannot be read"),
            ("missing", "cannot be read: No such file or directory"),
            ("new\nline", "cannot be read"),
        ):
            with pytest.raises(SourceError, match=says) as error:
                FileSource(f"{tmp_path}/{name}", size=(1, 1), fourcc="XR24")
            assert "\n" not in str(error.value)


def test_a_device_is_read_as_far_as_it_goes() -> None:
    with FileSource("/dev/zero", size=(4, 4), fourcc="XR24") as source:
        assert plane_rows(only_frame(source), 0) == [bytes(16)] * 4
    with pytest.raises(SourceError, match="ends at byte 64, the file holds 0"):
        FileSource("/dev/null", size=(4, 4), fourcc="XR24")


def test_wrong_arguments_of_python_callers_are_type_errors() -> None:
    with pytest.raises(TypeError, match="strid"):
        FileSource("a", size=(1, 1), fourcc="XR24", strid=4)
    with pytest.raises(TypeError, match="fd1"):
        FileSource("a", size=(1, 1), fourcc="XR24", fd1=4)


# ---- fd


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = udmabuf.sealed_memfd(8192, "test")
    yield fd
    with contextlib.suppress(OSError):
        os.close(fd)


def test_the_source_keeps_a_descriptor_of_its_own(memfd: int) -> None:
    with open_source(f"fd:{memfd}?size=4x4&fourcc=XR24&offset=64&stride=32") as source:
        os.pwrite(memfd, b"live", 64)
        os.close(memfd)
        buffer = only_frame(source)
        assert buffer.planes[0].fd != memfd
        assert not os.get_inheritable(buffer.planes[0].fd)
        assert plane_rows(buffer, 0)[0].startswith(b"live")
        facts = {"fd": memfd, "kind": "memfd", "bytes": 8192, "writable": True, "steady": True}
        assert source.describe() == {"buffers": [facts]}


def places(buffer: DmaBuf) -> list[tuple[int, int]]:
    return [(plane.offset, plane.stride) for plane in buffer.planes]


def test_planes_of_descriptors(memfd: int, tmp_path: Path) -> None:
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        options = "?size=4x4&fourcc=NV12"
        with open_source(f"fd:{memfd}{options}&offset=8") as source:
            buffer = only_frame(source)
            assert places(buffer) == [(8, 4), (24, 4)]
            assert buffer.planes[0].fd == buffer.planes[1].fd
        with open_source(f"fd:{memfd}{options}&offset=8&fd1={other}") as source:
            buffer = only_frame(source)
            assert places(buffer) == [(8, 4), (0, 4)]
            assert buffer.planes[0].fd != buffer.planes[1].fd
            kinds = [facts["kind"] for facts in source.describe()["buffers"]]  # type: ignore[attr-defined]
            assert kinds == ["memfd", "file"]
        with open_source(f"fd:{memfd}?size=4x4&fourcc=YU12&fd1={other}&offset1=3&fd2={other}") as source:
            assert places(only_frame(source)) == [(0, 4), (3, 2), (7, 2)]
    finally:
        os.close(other)


def test_a_tiled_buffer_takes_what_it_is_told(memfd: int) -> None:
    text = f"fd:{memfd}?size=64x8&fourcc=XR24&modifier=I915_Y_TILED_CCS&stride=512&offset1=4096&stride1=128"
    with open_source(text) as source:
        buffer = only_frame(source)
        assert places(buffer) == [(0, 512), (4096, 128)]
        assert buffer.modifier == DmaBuf(1, 1, "XR24", buffer.planes, "I915_Y_TILED_CCS").modifier
        assert buffer.modifier.tiled


@pytest.mark.parametrize("options", ["", "&fd1={closed}"])
def test_a_closed_descriptor_is_named(memfd: int, options: str) -> None:
    closed = os.dup(memfd)
    os.close(closed)
    first = memfd if options else closed
    with no_descriptor_left(), pytest.raises(DescriptorError, match=f"descriptor {closed} is not open") as error:
        open_source(f"fd:{first}?size=4x4&fourcc=NV12{options.format(closed=closed)}")
    assert "\n" not in str(error.value)


def test_a_pipe_is_no_buffer() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(DescriptorError, match="is a pipe"):
            open_source(f"fd:{read}?size=4x4&fourcc=XR24")
    finally:
        os.close(read)
        os.close(write)


def test_a_failed_open_leaves_nothing_behind(memfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise GlReadbackError("broken")

    for module, text in (
        ("glreadback.sources.pattern.Frame", "pattern:?size=4x4"),
        ("glreadback.sources.fd.Frame", f"fd:{memfd}?size=4x4&fourcc=XR24"),
        ("glreadback.sources.file.Frame", "file:/dev/zero?size=4x4&fourcc=XR24"),
    ):
        monkeypatch.setattr(module, lambda *_, **__: broken())
        with no_descriptor_left(), pytest.raises(GlReadbackError, match="broken"):
            open_source(text)
