"""Reading: every byte of every format, through every way of asking for it, and nothing but those bytes."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import (
    Bytes,
    Canary,
    Held,
    MakePicture,
    MemFd,
    Picture,
    assert_route,
    importer_of,
    linear_formats,
    mapped,
    one_plane_formats,
    pixels,
)

import glreadback
from glreadback import DescriptorError, DmaBuf, Fourcc, Frame, ImportRejected, Modifier, Plane, Reader, Rect, Surface
from glreadback.importer import CACHE_SIZE
from glreadback.plan import ALIASES, NATIVE
from glreadback.surface import array_shape, element

SIZES = ((1, 1), (7, 5), (637, 361), (1920, 1080))


# ---- the alias route: bit for bit


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_alias_is_bit_exact_for_every_format(reader: Reader, picture: MakePicture, fourcc: Fourcc) -> None:
    """At every size, packed and with offset and stride on any byte; nothing outside the surface's rows is touched."""
    for (width, height), (pad, offset, out_pad, before) in itertools.product(
        SIZES, ((0, 0, 0, 0), (64, 4096, 32, 64), (3, 37, 5, 13))
    ):
        made = picture(fourcc, width, height, pad=pad, offset=offset, own=False)
        out = Canary(width, height, fourcc, pad=out_pad, before=before)
        assert reader.read(made.buf, out.surface) is out.surface
        assert_route(out.surface, "alias")
        assert out.surface.route.exact
        out.assert_holds(made.rows())
        reader.forget(made.buf)


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_map_is_bit_exact_for_every_format(picture: MakePicture, leaks: Callable[[], None], fourcc: Fourcc) -> None:
    with Reader() as reader:
        for (width, height), (pad, offset, out_pad) in itertools.product(SIZES[:3], ((0, 0, 0), (3, 4101, 5))):
            made = picture(fourcc, width, height, pad=pad, offset=offset, own=False)
            out = Canary(width, height, fourcc, pad=out_pad)
            assert_route(reader.read(made.buf, out.surface, route="map"), "map")
            out.assert_holds(made.rows())


@pytest.mark.parametrize("fourcc", NATIVE)
@pytest.mark.parametrize("modifier", [Modifier.LINEAR, Modifier.INVALID])
def test_native_is_exact_in_every_component(reader: Reader, picture: MakePicture, fourcc: Fourcc, modifier: Modifier) -> None:
    """X bits are the driver's, all else is the buffer's; where nobody says linear, nothing else is left."""
    info = fourcc.info
    (layout,) = info.planes
    mask = sum(((1 << f.bits) - 1) << f.shift for f in layout.fields if f.component != "X").to_bytes(
        layout.block_bytes, "little"
    )
    for (width, height), (pad, out_pad) in itertools.product(SIZES[:3], ((0, 0), (64, 64))):
        made = picture(fourcc, width, height, pad=pad, offset=128, own=False, modifier=modifier)
        out = Surface.allocate(width, height, fourcc, layout.row_bytes(width) + out_pad)
        surface = reader.read(made.buf, out, route="native" if modifier == Modifier.LINEAR else None)
        assert_route(surface, "native")
        keep = np.tile(np.frombuffer(mask, np.uint8), width)
        if info.floating:
            _assert_same_halves(pixels(surface), made.rows(), keep)
        else:
            assert np.array_equal(pixels(surface) & keep, made.rows() & keep)


def _assert_same_halves(found: Bytes, expected: Bytes, keep: Bytes) -> None:
    """Equal bit for bit, but for the payload of what is no number."""
    a, b = (np.ascontiguousarray(rows & keep).view("<f2") for rows in (found, expected))
    nan = np.isnan(b)
    assert np.array_equal(np.isnan(a), nan)
    assert np.array_equal(a[~nan].view("<u2"), b[~nan].view("<u2"))


@pytest.mark.parametrize("route", ["alias", "map"])
@pytest.mark.parametrize("fourcc", linear_formats())
def test_read_planes_gives_every_byte_of_every_format(reader: Reader, picture: MakePicture, fourcc: Fourcc, route: str) -> None:
    info = fourcc.info
    for (width, height), (pad, offset, gap) in itertools.product(((1, 1), (7, 5), (130, 67)), ((0, 0, 0), (3, 37, 11))):
        made = picture(fourcc, width, height, pad=pad, offset=offset, gap=gap)
        planes = reader.read_planes(made.buf, route=route)
        assert len(planes) == len(info.planes)
        for index, (array, layout) in enumerate(zip(planes, info.planes, strict=True)):
            expected = made.rows(index)
            assert array.shape == array_shape(layout, width, height, info.floating)
            assert array.dtype.str == element(layout, info.floating).type
            assert array.flags.c_contiguous
            assert np.array_equal(array.view(np.uint8).reshape(expected.shape), expected)
        reader.forget(made.buf)


@pytest.mark.parametrize(
    ("fourcc", "shapes"),
    [
        ("NV12", [((5, 7), "|u1"), ((3, 4, 2), "|u1")]),
        ("YU12", [((5, 7), "|u1"), ((3, 4), "|u1"), ((3, 4), "|u1")]),
        ("P010", [((5, 7), "<u2"), ((3, 4, 2), "<u2")]),
        ("NV24", [((5, 7), "|u1"), ((5, 7, 2), "|u1")]),
        ("XR24", [((5, 7, 4), "|u1")]),
        ("RG24", [((5, 7, 3), "|u1")]),
        ("RG16", [((5, 7), "<u2")]),
        ("AR30", [((5, 7), "<u4")]),
        ("Y410", [((5, 7), "<u4")]),
        ("AB48", [((5, 7, 4), "<u2")]),
        ("AB4H", [((5, 7, 4), "<f2")]),
        ("R8", [((5, 7), "|u1")]),
        ("R1", [((5, 1), "|u1")]),
        ("YUYV", [((5, 4, 4), "|u1")]),
        ("NV15", [((5, 10), "|u1"), ((3, 10), "|u1")]),
    ],
)
def test_read_planes_shapes_are_as_documented(
    reader: Reader, picture: MakePicture, fourcc: str, shapes: list[tuple[tuple[int, ...], str]]
) -> None:
    planes = reader.read_planes(picture(fourcc, 7, 5).buf)
    assert [(array.shape, array.dtype.str) for array in planes] == shapes


def test_read_planes_are_the_callers_own(reader: Reader, picture: MakePicture) -> None:
    made = picture("NV12", 16, 16)
    planes = reader.read_planes(made.buf)
    planes[0][...] = 0
    again = reader.read_planes(made.buf)
    assert np.array_equal(again[0], made.rows(0))


@pytest.mark.parametrize("modifier", [Modifier.INVALID, 0x0100000000000001])
def test_read_planes_wants_linear(reader: Reader, picture: MakePicture, modifier: int) -> None:
    made = picture("XR24", 4, 4, modifier=modifier)
    with pytest.raises(DescriptorError, match=r"modifier (INVALID|I915_X_TILED).*not rows of pixels"):
        reader.read_planes(made.buf)


def test_read_planes_knows_two_routes(reader: Reader, picture: MakePicture) -> None:
    with pytest.raises(DescriptorError, match="alias or map, not 'draw'"):
        reader.read_planes(picture("XR24", 4, 4).buf, route="draw")


# ---- what of it, and which way up


@pytest.mark.parametrize("fourcc", ["XR24", "RG24", "R8", "RG16", "AB48", "R1", "YUYV"])
@pytest.mark.parametrize("y_invert", [False, True])
@pytest.mark.parametrize("route", ["alias", "map"])
def test_rectangles(reader: Reader, picture: MakePicture, fourcc: str, y_invert: bool, route: str) -> None:
    """Any rectangle, of the visible part, of a picture that may be upside down."""
    made = picture(fourcc, 61, 23, pad=5, offset=17)
    layout = Fourcc(fourcc).info.planes[0]
    block = layout.block_width
    for visible, rect in itertools.product(
        (None, (block * 2, 3, 16, 15)), (None, (0, 0, block, 1), (block, 1, block, 1), (0, 14, 16, 1), (8, 2, 8, 9))
    ):
        frame = Frame(made.buf, visible=None if visible is None else Rect(*visible), y_invert=y_invert)
        x, y, w, h = visible or (0, 0, 61, 23)
        shown = made.rows()[y : y + h]
        if y_invert:
            shown = shown[::-1]
        rx, ry, rw, rh = rect or (0, 0, w, h)
        start = (x + rx) // block * layout.block_bytes
        expected = shown[ry : ry + rh, start : start + layout.row_bytes(rw)]
        out = Canary(rw, rh, fourcc, pad=3, before=7)
        assert_route(reader.read(frame, out.surface, rect=rect, route=route), route)
        out.assert_holds(expected)
        assert np.array_equal(pixels(reader.read(frame, rect=rect, route=route, fourcc=fourcc)), expected)


def test_upside_down_without_the_extension(reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GL_ANGLE_pack_reverse_row_order rows are turned one by one."""
    made = picture("XR24", 33, 9, pad=4)
    assert importer_of(reader).can_reverse, "llvmpipe has it"
    monkeypatch.setattr(importer_of(reader), "can_reverse", False)
    out = Canary(33, 9, "XR24", pad=4)
    reader.read(Frame(made.buf, y_invert=True), out.surface)
    out.assert_holds(made.rows()[::-1])


@pytest.mark.parametrize(
    "rect",
    [(0, 0, 0, 1), (-1, 0, 2, 2), (0, 0, 9, 1), (8, 0, 1, 1), (0, 0, 2**31, 2**31), (0, 0, 4), "abcd", None.__class__, 7],
)
def test_rectangles_that_are_none(reader: Reader, picture: MakePicture, rect: Any) -> None:
    with pytest.raises(DescriptorError, match="the rectangle"):
        reader.read(picture("XR24", 8, 8).buf, rect=rect)


@pytest.mark.parametrize(
    ("fourcc", "rect"),
    [
        ("YUYV", (1, 0, 2, 2)),
        ("YUYV", (0, 0, 3, 2)),
        ("YUYV", (1, 0, 31, 2)),
        ("Y0L2", (0, 1, 2, 7)),
        ("R1", (4, 0, 8, 1)),
        ("Y0L2", (0, 1, 2, 2)),
    ],
)
def test_rectangles_through_blocks(reader: Reader, picture: MakePicture, fourcc: str, rect: tuple[int, ...]) -> None:
    with pytest.raises(DescriptorError, match=r"cuts through one\. Read as AB24"):
        reader.read(picture(fourcc, 32, 8).buf, rect=rect, fourcc=fourcc)


# ---- into what


def test_out_is_used_again_and_again(reader: Reader, picture: MakePicture) -> None:
    """The same surface for different buffers, the same buffer for different surfaces, in turn."""
    pictures = [picture("XR24", 64, 32, pad=pad) for pad in (0, 4, 8)]
    outs = [Canary(64, 32, "XR24", pad=pad) for pad in (0, 12)]
    for _ in range(3):
        for made, out in itertools.product(pictures, outs):
            assert reader.read(made.buf, out.surface) is out.surface
            out.assert_holds(made.rows())


def test_out_decides_the_fourcc(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    out = reader.read(made.buf, Surface.allocate(8, 8, "AR24"))
    assert np.asarray(out)[..., 3].min() == 255
    with pytest.raises(DescriptorError, match="the surface given is AR24, XB24 was asked for"):
        reader.read(made.buf, out, fourcc="XB24")


@pytest.mark.parametrize(("size", "rect"), [((8, 7), None), ((9, 8), None), ((8, 8), (0, 0, 4, 4))])
def test_out_of_another_size(reader: Reader, picture: MakePicture, size: tuple[int, int], rect: Any) -> None:
    with pytest.raises(DescriptorError, match=r"the surface given is \dx\d, the picture to read \dx\d"):
        reader.read(picture("XR24", 8, 8).buf, Surface.allocate(*size, "XR24"), rect=rect)


@pytest.mark.parametrize("route", ["alias", "map", "draw"])
def test_out_that_is_read_only(reader: Reader, picture: MakePicture, route: str) -> None:
    made = picture("XR24", 8, 8)
    memory = bytes(256)
    for _ in range(2):  # not by the short way either
        with pytest.raises(DescriptorError, match="read-only; wrap writable memory"):
            reader.read(made.buf, Surface.wrap(memory, 8, 8, "XR24"), route=route)
        reader.read(made.buf, Surface.allocate(8, 8, "XR24"), route=route)
    assert memory == bytes(256)


def test_out_that_is_closed(reader: Reader, picture: MakePicture) -> None:
    made, out = picture("XR24", 8, 8), Surface.allocate(8, 8, "XR24")
    reader.read(made.buf, out)
    out.close()
    with pytest.raises(ValueError, match="the surface is closed"):
        reader.read(made.buf, out)


@pytest.mark.parametrize("options", [{"route": "native"}, {"route": "draw"}, {"route": "map"}, {"route": "alias"}, {}])
@pytest.mark.parametrize("y_invert", [False, True])
def test_strides_of_any_number_of_bytes(reader: Reader, picture: MakePicture, options: dict[str, str], y_invert: bool) -> None:
    """GL counts rows in whole pixels; what does not fit goes row by row."""
    made = picture("AR24", 8, 8)
    out = Canary(8, 8, "AR24", pad=3, before=1)
    rows = made.rows()[:: -1 if y_invert else 1]
    reader.read(Frame(made.buf, y_invert=y_invert), out.surface, **options)
    out.assert_holds(rows)
    if options.get("route") != "map":
        swapped = Canary(8, 8, "AB24", pad=3, before=1)
        reader.read(Frame(made.buf, y_invert=y_invert), swapped.surface, **options)
        swapped.assert_holds(rows.reshape(8, 8, 4)[..., [2, 1, 0, 3]].reshape(8, 32))


# ---- as what


def _converted(rows: Bytes, source: str, wanted: str) -> Bytes:
    """What the rows are as another fourcc of the same pixel size, with python integers: each component moved to its
    place, alpha one where there was none. X bits of the result are left out by the mask of `_components`."""
    one, other = Fourcc(source).info, Fourcc(wanted).info
    size = one.planes[0].block_bytes
    words = np.ascontiguousarray(rows).view(f"<u{size}").astype(np.uint64)
    found = np.zeros_like(words)
    have = {f.component: f for f in one.planes[0].fields}
    for f in other.planes[0].fields:
        if f.component == "X":
            continue
        if f.component in have:
            value = words >> np.uint64(have[f.component].shift) & np.uint64((1 << f.bits) - 1)
        else:
            value = np.full_like(words, 0x3C00 if other.floating else (1 << f.bits) - 1)
        found |= value << np.uint64(f.shift)
    return found.astype(f"<u{size}").view(np.uint8)


def _components(fourcc: str) -> Bytes:
    layout = Fourcc(fourcc).info.planes[0]
    mask = sum(((1 << f.bits) - 1) << f.shift for f in layout.fields if f.component != "X")
    return np.frombuffer(mask.to_bytes(layout.block_bytes, "little"), np.uint8)


CONVERSIONS = [
    *itertools.permutations(["XR24", "AR24", "XB24", "AB24"], 2),
    *itertools.permutations(["RX24", "RA24"], 2),
    *itertools.permutations(["XR30", "AR30"], 2),
    *itertools.permutations(["XB48", "AB48"], 2),
    *itertools.permutations(["XB4H", "AB4H"], 2),
    *itertools.permutations(["XR15", "AR15"], 2),
    ("XR12", "AR12"),
    ("XR4H", "AR4H"),
]


@pytest.mark.parametrize(("source", "wanted"), CONVERSIONS)
@pytest.mark.parametrize("y_invert", [False, True])
def test_conversions_that_cost_no_shader(
    reader: Reader, picture: MakePicture, source: str, wanted: str, y_invert: bool
) -> None:
    keep = _components(wanted)
    for width, height in SIZES[:3]:
        made = picture(source, width, height, pad=8, offset=16)
        expected = _converted(made.rows()[:: -1 if y_invert else 1], source, wanted)
        frame = Frame(made.buf, y_invert=y_invert)
        surface = reader.read(frame, fourcc=wanted)
        assert_route(surface, "alias")
        assert surface.fourcc == wanted
        mask = np.tile(keep, width)
        assert np.array_equal(pixels(surface) & mask, expected & mask)
        # Once more the short way, into memory with other memory around it.
        out = Canary(width, height, wanted, pad=len(keep), before=24)
        for _ in range(2):
            reader.read(frame, out.surface)
            assert np.array_equal(pixels(out.surface) & mask, expected & mask)
            out.assert_holds(pixels(out.surface))


@pytest.mark.parametrize(
    ("source", "wanted"), [("XR24", "AR24"), ("XB48", "AB48"), ("XB4H", "AB4H"), ("AR24", "XR24"), ("XR15", "AR15")]
)
def test_alpha_is_forced_without_gl_too(reader: Reader, picture: MakePicture, source: str, wanted: str) -> None:
    made = picture(source, 37, 11, pad=3)
    out = Canary(37, 11, wanted, pad=3)
    assert_route(reader.read(made.buf, out.surface, route="map"), "map")
    mask = np.tile(_components(wanted), 37)
    assert np.array_equal(pixels(out.surface) & mask, _converted(made.rows(), source, wanted) & mask)
    out.assert_holds(pixels(out.surface))


@pytest.mark.parametrize(("source", "wanted"), [("XR24", "AB24"), ("AR24", "XB24"), ("XR24", "AR24"), ("AB24", "AR24")])
def test_native_swaps_too(reader: Reader, picture: MakePicture, source: str, wanted: str) -> None:
    made = picture(source, 37, 11)
    mask = np.tile(_components(wanted), 37)
    surface = reader.read(made.buf, fourcc=wanted, route="native")
    assert np.array_equal(pixels(surface) & mask, _converted(made.rows(), source, wanted) & mask)


@pytest.mark.parametrize(
    ("source", "wanted"), [("RG24", "AB24"), ("BG24", "AR24"), ("RG24", "BA24"), ("RX24", "AB24"), ("BX24", "XR24")]
)
def test_other_conversions_are_drawn(reader: Reader, picture: MakePicture, source: str, wanted: str) -> None:
    """8 bits to 8 bits: the shader moves components, and none may change on the way."""
    made = picture(source, 61, 7, pad=2)
    surface = reader.read(made.buf, fourcc=wanted)
    assert_route(surface, "draw")
    order = [c.component for c in sorted(Fourcc(source).info.planes[0].fields, key=lambda f: f.shift)]
    rows = made.rows().reshape(7, 61, -1)
    for index, field in enumerate(sorted(Fourcc(wanted).info.planes[0].fields, key=lambda f: f.shift)):
        if field.component != "X" and field.component in order:
            assert np.array_equal(np.asarray(surface)[..., index], rows[..., order.index(field.component)]), field
        elif field.component == "A":
            assert np.asarray(surface)[..., index].min() == 255


@pytest.mark.parametrize("wanted", ["NV12", "RG24", "R10", "C8", "YUYV", "RG16"])
def test_impossible_targets(reader: Reader, picture: MakePicture, wanted: str) -> None:
    with pytest.raises(
        DescriptorError, match=rf"cannot be read as {wanted}.*ask for XR24, or a format that can be drawn \(AB24"
    ):
        reader.read(picture("XR24", 8, 8).buf, fourcc=wanted)


def test_unknown_targets_and_routes(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    with pytest.raises(DescriptorError, match="ZZ99"):
        reader.read(made.buf, fourcc="ZZ99")
    with pytest.raises(DescriptorError, match="there are alias, native, draw, map"):
        reader.read(made.buf, route="blit")


def test_a_route_that_cannot_be_says_why(reader: Reader, picture: MakePicture) -> None:
    with pytest.raises(DescriptorError, match="by the alias route: NV12 is no plain copy of AB24"):
        reader.read(picture("NV12", 8, 8).buf, route="alias")
    with pytest.raises(DescriptorError, match="by the native route: no read pair is exact for AR30"):
        reader.read(picture("AR30", 8, 8).buf, route="native")
    with pytest.raises(DescriptorError, match="by the map route: modifier INVALID is not LINEAR"):
        reader.read(picture("XR24", 8, 8, modifier=Modifier.INVALID).buf, route="map")


def test_a_tiled_buffer_is_never_taken_for_linear(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 64, 64, modifier=0x0100000000000001)
    for route in (None, "alias", "native", "draw", "map"):
        with pytest.raises((ImportRejected, DescriptorError), match="I915_X_TILED"):
            reader.read(made.buf, route=route)


# ---- live memory, the cache


def test_updates_are_seen_through_the_cached_import(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 64, 64)
    out = Surface.allocate(64, 64, "XR24")
    importer = importer_of(reader)
    with mapped(made.buf.planes[0].fd) as memory:
        for value in range(20):
            memory[: 64 * 256] = bytes([value]) * (64 * 256)
            assert reader.read(made.buf, out).tobytes() == bytes([value]) * (64 * 256)
            assert reader.read(made.buf).tobytes() == bytes([value]) * (64 * 256)
            assert np.all(reader.read_planes(made.buf)[0] == value)
    assert importer.imported == 1


def test_equal_descriptions_share_an_import(reader: Reader, picture: MakePicture) -> None:
    """Whatever the number of the descriptor."""
    made = picture("XR24", 16, 16)
    fd = os.dup(made.buf.planes[0].fd)
    try:
        other = DmaBuf(16, 16, "XR24", [Plane(fd, 0, 64)])
        for buf in (made.buf, other, made.buf):
            assert np.array_equal(pixels(reader.read(buf)), made.rows())
    finally:
        os.close(fd)
    assert importer_of(reader).imported == 1


def test_the_cache_is_bounded(reader: Reader, memfd: MemFd) -> None:
    """An import pins the producer's memory: only the last few are kept, and they do not grow in number."""
    before = len(Held.now().fds)
    held = []
    for number in range(CACHE_SIZE * 3):
        content = bytes([number]) * 4096
        fd = memfd(content)
        assert reader.read(DmaBuf(32, 32, "XR24", [Plane(fd, 0, 128)])).tobytes() == content
        os.close(fd)
        held.append(len(Held.now().fds) - before)
    assert importer_of(reader).imported == CACHE_SIZE * 3
    assert held[-1] == held[CACHE_SIZE]
    assert held[-1] <= 2 * CACHE_SIZE  # ours and the driver's


def test_the_least_recently_used_import_goes(reader: Reader, picture: MakePicture) -> None:
    favourite = picture("XR24", 100, 8)
    out = Surface.allocate(100, 8, "XR24")
    importer = importer_of(reader)
    for height in range(1, CACHE_SIZE * 2):
        reader.read(favourite.buf, out)
        reader.read(picture("XR24", 8, height).buf)
    assert importer.imported == CACHE_SIZE * 2
    assert np.array_equal(pixels(out), favourite.rows())


def test_a_dropped_import_is_made_again(reader: Reader, picture: MakePicture) -> None:
    """Also on the short way, which would still know its framebuffer's old number."""
    made = picture("XR24", 100, 8)
    out = Canary(100, 8, "XR24")
    reader.read(made.buf, out.surface)
    for height in range(2, CACHE_SIZE + 2):
        reader.read(picture("XR24", 100, height, pad=4).buf, rect=(0, 0, 9, 2))  # of a part: not remembered itself
    assert reader._again
    for _ in range(2):
        out.memory[:] = out.blank
        reader.read(made.buf, out.surface)
        out.assert_holds(made.rows())
        reader.forget(made.buf)


@pytest.mark.parametrize("route", ["alias", "native", "draw"])
def test_forget_lets_go(reader: Reader, memfd: MemFd, route: str) -> None:
    """Of everything, at once: the producer's memory is free when the producer closes it."""
    out = Surface.allocate(32, 32, "XR24")
    reader.read(DmaBuf(32, 32, "XR24", [Plane(memfd(4096), 0, 128)]), route="draw")
    before = Held.now()
    for _ in range(5):
        fd = memfd(os.urandom(4096))
        buf = DmaBuf(32, 32, "XR24", [Plane(fd, 0, 128)])
        for _ in range(2):
            reader.read(buf, out, route=route)
        assert len(Held.now().fds) > len(before.fds) + 1
        reader.forget(buf)
        os.close(fd)
        assert Held.now() == before
        with pytest.raises(DescriptorError, match="not open"):
            reader.read(buf, out, route=route)


def test_thousands_of_reads_hold_nothing_more(reader: Reader, picture: MakePicture) -> None:
    pictures = [picture("XR24", 16, 16, pad=4 * n) for n in range(4)]
    outs = [Surface.allocate(16, 16, fourcc) for fourcc in ("XR24", "AB24")]
    nv12, unsealed = picture("NV12", 16, 16), picture("XR24", 16, 16, seals=0)

    def turn() -> None:
        for made in pictures:
            for out in outs:
                reader.read(made.buf, out)
        reader.read(pictures[0].buf)
        reader.read(nv12.buf)
        reader.read(unsealed.buf)
        reader.read_planes(nv12.buf)

    for _ in range(3):
        turn()
    before = Held.now()
    for _ in range(300):
        turn()
    assert Held.now() == before


# ---- wide, tall and large


@pytest.mark.parametrize("fourcc", ["RG24", "R8", "XR24", "AB48"])
@pytest.mark.parametrize("width", [5461, 5462, 16383, 16384])
def test_wide_pictures(reader: Reader, picture: MakePicture, fourcc: str, width: int) -> None:
    made = picture(fourcc, width, 3, pad=5, offset=3, own=False)
    for pad in (0, 7):
        out = Canary(width, 3, fourcc, pad=pad)
        reader.read(made.buf, out.surface)
        out.assert_holds(made.rows())
        reader.read(Frame(made.buf, y_invert=True), out.surface)
        out.assert_holds(made.rows()[::-1])
    rect = (width // 2 - 1, 1, width // 2, 2)
    expected = np.ascontiguousarray(made.rows()).reshape(3, width, -1)[1:, rect[0] : rect[0] + rect[2]]
    assert np.array_equal(pixels(reader.read(made.buf, rect=rect)), expected.reshape(2, -1))


@pytest.mark.parametrize("route", ["alias", "map"])
def test_planes_wider_than_the_device_takes(reader: Reader, picture: MakePicture, route: str) -> None:
    """More tiles than the cache of imports holds: the first one must be read before the last one pushes it out."""
    made = picture("R8", 1_000_003, 3, own=False)
    (plane,) = reader.read_planes(made.buf, route=route)
    assert np.array_equal(plane, made.rows())


def test_planes_taller_than_the_device_takes(reader: Reader, picture: MakePicture) -> None:
    made = picture("NV12", 6, 100_001, own=False)
    for index, plane in enumerate(reader.read_planes(made.buf)):
        assert np.array_equal(plane.reshape(plane.shape[0], -1), made.rows(index))


@pytest.mark.parametrize(("width", "height"), [(16385, 1), (1, 16385)])
def test_pictures_larger_than_the_device_takes(reader: Reader, picture: MakePicture, width: int, height: int) -> None:
    """read() says so; without GL there is no such limit."""
    made = picture("XR24", width, height, own=False)
    with pytest.raises(
        DescriptorError, match=rf"{width}x{height} XR24 is larger.* at most 16384 pixels either way. Read it in parts"
    ):
        reader.read(made.buf)
    assert np.array_equal(pixels(reader.read(made.buf, route="map")), made.rows())


def _spread(memfd: MemFd, rows: int, step: int, offset: int = 0, row: int = 32) -> Picture:
    """A sparse buffer: 8 pixels of XR24 a row, rows far apart."""
    fd = memfd(offset + step * (rows - 1) + row)
    content = np.random.default_rng(rows).integers(0, 256, (rows, row), dtype=np.uint8)
    for y in range(rows):
        os.pwrite(fd, content[y].tobytes(), offset + y * step)
    return Picture(DmaBuf(row // 4, rows, "XR24", [Plane(fd, offset, step)]), content)


@pytest.mark.parametrize(
    ("rows", "step", "offset"),
    [
        (2, 2**31 - 4, 0),
        (32, 2**26, 0),  # exactly 2 GiB
        (32, 2**26, 2**26 - 32),
        (40, 2**26 + 12, 5),  # more than that, on odd bytes
        (1024, 2**21 + 4096, 64),
        (3, 2**30 - 64, 0),
    ],
)
def test_rows_that_span_two_gigabytes(reader: Reader, memfd: MemFd, rows: int, step: int, offset: int) -> None:
    made = _spread(memfd, rows, step, offset)
    out = Canary(8, rows, "XR24", pad=16)
    for _ in range(2):
        reader.read(made.buf, out.surface)
        out.assert_holds(made.content)
    reader.read(Frame(made.buf, y_invert=True), out.surface)
    out.assert_holds(made.content[::-1])
    part = reader.read(made.buf, rect=(1, rows - 2, 6, 2))
    assert np.array_equal(pixels(part), made.content[-2:, 4:28])
    (plane,) = reader.read_planes(made.buf)
    assert np.array_equal(plane.reshape(rows, -1), made.content)
    # What drivers cannot address at once they are not given at once.
    for route in ("native", "draw"):
        with pytest.raises(DescriptorError, match=rf"rows span {step * rows} bytes, more than the 2147483647"):
            reader.read(made.buf, route=route)
    reader.forget(made.buf)


def test_rows_beyond_what_egl_can_say(reader: Reader, memfd: MemFd) -> None:
    made = _spread(memfd, 6, 2**30)
    with pytest.raises(DescriptorError, match="row 2 starts at byte 2147483648; EGL takes offsets up to 2147483647"):
        reader.read(made.buf)
    assert np.array_equal(pixels(reader.read(made.buf, route="map")), made.content)


def test_a_surface_whose_rows_span_more_than_two_gigabytes(reader: Reader, picture: MakePicture) -> None:
    """The read goes in bands; the surface is sparse, so little of it is ever real."""
    made = picture("XR24", 4, 40)
    for stride in (2**26, 2**27 + 4):
        out = Surface.allocate(4, 40, "XR24", stride)
        for _ in range(2):
            reader.read(made.buf, out)
            assert np.array_equal(pixels(out), made.rows())
        reader.read(Frame(made.buf, y_invert=True), out)
        assert np.array_equal(pixels(out), made.rows()[::-1])
        out.close()


def test_a_surface_whose_stride_is_more_than_two_gigabytes(reader: Reader, picture: MakePicture, memfd: MemFd) -> None:
    made, stride = picture("XR24", 4, 2), 2**33 + 8
    with mapped(memfd(stride + 16)) as memory:
        out = Surface.wrap(memory, 4, 2, "XR24", stride)
        reader.read(made.buf, out)
        assert np.array_equal(pixels(out), made.rows())
        del out
        gc.collect()


@pytest.mark.parametrize("can_reverse", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("stride", [16384 * 8, 16384 * 8 + 8, 2**30, 2**31, 2**31 + 8, 16384 * 8 + 1])
def test_no_read_is_of_two_gigabytes(stride: int, reverse: bool, can_reverse: bool) -> None:
    """Every row comes once and to its place, in bands that a driver's int can hold."""
    from glreadback.gl.pixels import copies

    access = ALIASES[8][1]
    found = copies(1, Rect(3, 5, 16384, 16384), access, 77, stride, reverse, can_reverse)
    rows: dict[int, int] = {}
    for copy in found:
        assert copy.height * stride < 2**31 or copy.height == 1
        assert (copy.x, copy.width, copy.format, copy.type) == (3, 16384, access.format, access.type)
        assert copy.row_length * access.bytes == stride if copy.height > 1 else copy.row_length == 0
        for row in range(copy.height):
            at, odd = divmod(copy.offset + row * stride - 77, stride)
            assert not odd
            rows[at] = copy.y + (copy.height - 1 - row if copy.reverse else row)
    assert rows == {y: 5 + (16383 - y if reverse else y) for y in range(16384)}


@pytest.mark.slow
def test_a_read_of_two_gigabytes(reader: Reader, memfd: MemFd) -> None:
    """16384 x 16384 of 8 bytes: 2 GiB exactly, which would overflow the driver's int."""
    row, rows = 16384 * 8, 16384
    fd = memfd(row * rows)
    marks = {0: b"first", row - 8: b"edge", 2**30 - 3: b"middle", row * (rows - 1) - 4: b"straddle", row * rows - 4: b"last"}
    for at, text in marks.items():
        os.pwrite(fd, text, at)
    buf = DmaBuf(16384, rows, "AB48", [Plane(fd, 0, row)])
    surface = reader.read(buf)
    assert_route(surface, "alias")
    for at, text in marks.items():
        assert bytes(surface.data[at : at + len(text)]) == text[: row * rows - at]
    assert sum(
        np.count_nonzero(np.frombuffer(surface.data[start : start + 2**28], np.uint8)) for start in range(0, 2**31, 2**28)
    ) == (sum(len(text) for text in marks.values()))


@pytest.mark.parametrize("width", [5461, 5462, 7680, 15360])
def test_rows_too_wide_to_sample_are_folded(reader: Reader, picture: MakePicture, width: int) -> None:
    """RG24 is sampled as bytes, three a pixel, and a device takes 16384 in a row."""
    made = picture("RG24", width, 5, tail=width * 3 + 64, pad=-width * 3 % 16)
    surface = reader.read(made.buf, fourcc="AB24")
    assert_route(surface, "draw")
    rows = made.rows().reshape(5, width, 3)
    assert np.array_equal(np.asarray(surface)[..., :3], rows[..., ::-1])
    assert np.asarray(surface)[..., 3].min() == 255


def test_rows_that_cannot_be_folded(reader: Reader, picture: MakePicture) -> None:
    made = picture("RG24", 7681, 5, pad=10)
    assert all(made.buf.planes[0].stride % factor for factor in range(2, 200)), "a stride without divisors"
    with pytest.raises(ImportRejected, match=r"16384 texels in a row, plane 0 of 7681x5 RG24 has 23043.*read_planes reads it"):
        reader.read(made.buf, fourcc="AB24")
    assert np.array_equal(pixels(reader.read(made.buf)), made.rows())


# ---- the short way for the same picture again


def test_the_short_way_heeds_every_wish(reader: Reader, picture: MakePicture) -> None:
    """Scale and tone mapping are asked of the same picture and the same surface."""
    made = picture("AB24", 16, 16)
    frame = Frame(made.buf, color=glreadback.Color(transfer="pq"))
    out = Surface.allocate(16, 16, "AB24")
    for _ in range(2):
        reader.read(frame, out)
        assert np.array_equal(pixels(out), made.rows())
    with pytest.raises(DescriptorError, match="the surface given is 16x16, the picture to read 8x8"):
        reader.read(frame, out, scale=(8, 8))
    reader.read(frame, out, tone_map=True)
    assert_route(out, "draw")
    assert not np.array_equal(pixels(out), made.rows())
    reader.read(frame, out)
    assert np.array_equal(pixels(out), made.rows())


def test_the_short_way_is_the_way_that_was_asked_for(reader: Reader, picture: MakePicture) -> None:
    """A read by native leaves its own X bits; the next read, which asks for nothing, must not go that way."""
    made = picture("XR24", 16, 16)
    out = Canary(16, 16, "XR24")
    assert_route(reader.read(made.buf, out.surface, route="native"), "native")
    for _ in range(2):
        assert_route(reader.read(made.buf, out.surface), "alias")
        out.assert_holds(made.rows())
    assert_route(reader.read(made.buf, out.surface, route="native"), "native")
    assert_route(reader.read(made.buf, out.surface, route="map"), "map")
    assert_route(reader.read(made.buf, out.surface, route="draw"), "draw")
    assert_route(reader.read(made.buf, out.surface, route="alias"), "alias")


def test_the_short_way_heeds_the_rectangle(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 16, 16)
    out = Canary(16, 16, "XR24")
    reader.read(made.buf, out.surface)
    small = Canary(8, 8, "XR24")
    for x in (0, 8, 4):
        reader.read(made.buf, small.surface, rect=(x, x, 8, 8))
        small.assert_holds(made.rows()[x : x + 8, 4 * x : 4 * x + 32])
    with pytest.raises(DescriptorError, match="the surface given is 16x16"):
        reader.read(made.buf, out.surface, rect=(0, 0, 8, 8))


def test_the_short_way_looks_at_the_buffer_first(reader: Reader, memfd: MemFd) -> None:
    """The same DmaBuf and the same surface, but the descriptor's number has become another buffer's."""
    first, second = (os.urandom(4096) for _ in range(2))
    fd, other = memfd(first), memfd(second)
    buf = DmaBuf(32, 32, "XR24", [Plane(fd, 0, 128)])
    out = Surface.allocate(32, 32, "XR24")
    for _ in range(2):
        assert reader.read(buf, out).tobytes() == first
    os.dup2(other, fd)
    for _ in range(2):
        assert reader.read(buf, out).tobytes() == second
    short = memfd(2048)
    os.dup2(short, fd)
    with pytest.raises(DescriptorError, match="ends at byte 4096, the file holds 2048"):
        reader.read(buf, out)
    os.close(fd)
    with pytest.raises(DescriptorError, match=f"descriptor {fd} is not open"):
        reader.read(buf, out)


def test_pictures_that_are_equal_but_not_the_same(reader: Reader, memfd: MemFd) -> None:
    """Objects that come and go may get one another's address."""
    fds = [memfd(bytes([value]) * 4096) for value in range(20)]
    out = Surface.allocate(32, 32, "XR24")
    for value, fd in enumerate(fds):
        assert reader.read(DmaBuf(32, 32, "XR24", [Plane(fd, 0, 128)]), out).tobytes() == bytes([value]) * 4096


# ---- errors after the import


@pytest.mark.parametrize("way", ["first", "again", "planes", "draw"])
def test_glgeterror_is_asked_after_the_read(
    reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    from glreadback.gl import pixels as gl_pixels

    made, out = picture("XR24", 8, 8), Surface.allocate(8, 8, "XR24")

    def read() -> None:
        if way == "planes":
            reader.read_planes(made.buf)
        else:
            reader.read(made.buf, out, route="draw" if way == "draw" else None)

    if way == "again":
        read()
    with monkeypatch.context() as patch:
        patch.setattr(gl_pixels, "_get_error", lambda: 0x0505)
        with pytest.raises(
            ImportRejected, match=r"imported 8x8 XR24 but cannot read it: glReadPixels failed: GL_OUT_OF_MEMORY"
        ):
            read()
    read()
    assert np.array_equal(pixels(reader.read(made.buf)), made.rows())


def test_a_failed_import_leaves_nothing(reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, in the middle of an import: an OSError, and all that was made is gone."""
    from glreadback import importer
    from glreadback.fds import OwnedFd

    importer_of(reader)
    images, made = [], picture("XR24", 8, 8)
    create, destroy = importer.create_image, importer.destroy_image

    def dup(_fd: int) -> OwnedFd:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(importer, "create_image", lambda *args: images.append(create(*args)) or images[-1])
        patch.setattr(importer, "destroy_image", lambda display, image: images.remove(image) or destroy(display, image))
        deleted: list[int] = []
        delete = importer.Texture.delete
        patch.setattr(importer.Texture, "delete", lambda self: deleted.append(self.name) or delete(self))
        patch.setattr(importer.OwnedFd, "dup", dup)
        with pytest.raises(OSError, match="Too many open files"):
            reader.read(made.buf)
        assert not images
        assert len(deleted) == 1
    assert np.array_equal(pixels(reader.read(made.buf)), made.rows())


# ---- frames


def test_release_is_called_when_the_read_is_over(reader: Reader, picture: MakePicture) -> None:
    calls = []
    made = picture("XR24", 8, 8)
    frame = Frame(made.buf, release=lambda: calls.append("released"))
    out = Surface.allocate(8, 8, "XR24")
    for number in range(1, 4):
        reader.read(frame, out)
        assert len(calls) == number
    reader.read_planes(frame)
    assert len(calls) == 4
    for options in ({"rect": (0, 0, 9, 9)}, {"fourcc": "NV12"}, {"route": "blit"}):
        before = len(calls)
        with pytest.raises(DescriptorError):
            reader.read(frame, **options)
        assert len(calls) == before + 1, f"after an error the producer may draw again too: {options}"


def test_a_fence_is_waited_for(reader: Reader, picture: MakePicture) -> None:
    """Anything that poll() can wait for stands in for a sync file: here a pipe."""
    made = picture("XR24", 8, 8)
    out = Surface.allocate(8, 8, "XR24")
    done, signal = os.pipe()
    try:
        frame = Frame(made.buf, acquire_fence=done)
        for _ in range(2):
            with pytest.raises(
                glreadback.FenceTimeout, match=rf"the acquire fence \(descriptor {done}\) did not signal within 0.01 s"
            ):
                reader.read(frame, out, timeout=0.01)
        timer = threading.Timer(0.05, os.write, (signal, b"x"))
        timer.start()
        reader.read(frame, out, timeout=5)
        timer.join()
        assert np.array_equal(pixels(out), made.rows())
    finally:
        os.close(done)
        os.close(signal)
    with pytest.raises(DescriptorError, match=f"the acquire fence, descriptor {done}, is not open"):
        reader.read(frame, out)


# ---- mapped surfaces


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_map_gives_the_buffer_itself(leaks: Callable[[], None], picture: MakePicture, fourcc: Fourcc) -> None:
    with Reader("software") as reader:
        for pad, offset, visible in ((0, 0, None), (64, 4096 + 64, None), (0, 32, (16, 2, 8, 2))):
            made = picture(fourcc, 32, 8, pad=pad, offset=offset)
            layout = fourcc.info.planes[0]
            x, y, w, h = visible or (0, 0, 32, 8)
            start = x // layout.block_width * layout.block_bytes
            top = y // layout.block_height
            expected = made.rows()[top : top + layout.rows(h), start : start + layout.row_bytes(w)]
            with reader.map(Frame(made.buf, visible=None if visible is None else Rect(*visible))) as surface:
                assert_route(surface, "map")
                assert surface.data.readonly
                assert np.array_equal(pixels(surface), expected)
            assert surface.closed


def test_map_is_live(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    with Reader("software") as reader, reader.map(made.buf) as surface:
        os.pwrite(made.buf.planes[0].fd, b"\x77" * 256, 0)
        assert surface.tobytes() == b"\x77" * 256


def test_map_refuses_what_it_cannot_show(leaks: Callable[[], None], picture: MakePicture) -> None:
    with Reader("software") as reader:
        for made, advice in (
            (picture("NV12", 8, 8).buf, "map route"),
            (picture("XR24", 8, 8, modifier=Modifier.INVALID).buf, "not LINEAR"),
            (Frame(picture("XR24", 8, 8).buf, y_invert=True), "upside down"),
            (Frame(picture("XR24", 8, 8).buf, transform="90"), "turned"),
            (picture("XR24", 8, 8, seals=0).buf, "F_SEAL_SHRINK"),
        ):
            with pytest.raises(DescriptorError, match=advice):
                reader.map(made)


def test_map_with_a_view_left_over(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    with Reader("software") as reader:
        surface = reader.map(made.buf)
        view = surface.array()
        with pytest.raises(BufferError):
            surface.close()
        assert np.array_equal(view.reshape(8, 32), made.rows())
        surface.close()  # once is enough
        del view
        gc.collect()


def test_a_mapped_surface_left_open_warns(leaks: Callable[[], None], picture: MakePicture) -> None:
    with Reader("software") as reader:
        surface = reader.map(picture("XR24", 8, 8).buf)
        with pytest.warns(ResourceWarning, match="unclosed mapped"):
            del surface


# ---- damage


@pytest.mark.parametrize("y_invert", [False, True])
@pytest.mark.parametrize("route", ["alias", "map", "draw"])
def test_damage_brings_up_to_date_only_what_it_names(reader: Reader, picture: MakePicture, y_invert: bool, route: str) -> None:
    made = picture("AR24", 200, 100, pad=4)
    rows = made.rows()[:: -1 if y_invert else 1]
    out = Canary(200, 100, "AR24", pad=8)
    frame = Frame(made.buf, y_invert=y_invert)
    damage = [(0, 0, 3, 3), (190, 90, 2**31 - 1, 2**31 - 1), (50, 40, 7, 1)]
    reader.read(frame, out.surface, damage=damage, route=route)
    expected = pixels(Canary(200, 100, "AR24", pad=8).surface).copy()
    for x, y, w, h in ((0, 0, 3, 3), (190, 90, 10, 10), (50, 40, 7, 1)):
        expected[y : y + h, 4 * x : 4 * (x + w)] = rows[y : y + h, 4 * x : 4 * (x + w)]
    out.assert_holds(expected)
    reader.read(frame, out.surface, damage=[], route=route)
    out.assert_holds(expected)


# ---- a reader's life


def test_closed_readers_read_no_more(software: None, picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    out = Surface.allocate(8, 8, "XR24")
    reader = Reader("software")
    reader.read(made.buf, out)
    reader.close()
    reader.close()
    assert reader.closed
    for read in (
        lambda: reader.read(made.buf, out),
        lambda: reader.read(made.buf),
        lambda: reader.read_planes(made.buf),
        lambda: reader.read(made.buf, route="map"),
        lambda: reader.capabilities(),
    ):
        with pytest.raises(ValueError, match="the Reader is closed"):
            read()


def test_a_reader_that_never_read_closes_too(leaks: Callable[[], None]) -> None:
    Reader("software").close()
    with Reader():
        pass


def test_a_forgotten_reader_warns(software: None, picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    reader = Reader("software")
    reader.read(made.buf)
    importer = importer_of(reader)
    with pytest.warns(ResourceWarning, match=r"unclosed glreadback\.Reader"):
        del reader
    importer.close()


def test_the_function_leaves_nothing(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    for _ in range(3):
        assert np.array_equal(pixels(glreadback.read(made.buf, device="software")), made.rows())


def test_what_is_no_picture(reader: Reader) -> None:
    for wrong in (None, 7, "XR24", object()):
        with pytest.raises(DescriptorError, match="a DmaBuf or a Frame is needed, not"):
            reader.read(wrong)  # type: ignore[arg-type]


# ---- the caller's context


def test_the_callers_context_comes_back(reader: Reader, picture: MakePicture) -> None:
    from OpenGL import EGL as egl
    from OpenGL import GLES3 as gl

    from glreadback.egl.context import Context
    from glreadback.egl.device import open_display

    made, out = picture("XR24", 8, 8), Surface.allocate(8, 8, "XR24")
    own = Context(open_display("software"))

    def current() -> int:
        return ctypes.cast(egl.eglGetCurrentContext(), ctypes.c_void_p).value or 0

    assert current() == 0
    try:
        with own:
            mine = current()
            assert mine
            texture = int(gl.glGenTextures(1))
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
            gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 8)
            for _ in range(2):
                reader.read(made.buf, out)
                assert current() == mine
            reader.read_planes(made.buf)
            reader.read(made.buf, route="draw")
            reader.forget(made.buf)
            with pytest.raises(ImportRejected):
                reader.read(picture("XR24", 8, 8, modifier=0x0100000000000001).buf)
            reader.close()
            assert current() == mine
            assert gl.glGetIntegerv(gl.GL_TEXTURE_BINDING_2D) == texture
            assert gl.glGetIntegerv(gl.GL_PACK_ALIGNMENT) == 8
            assert gl.glGetError() == gl.GL_NO_ERROR
        assert current() == 0
    finally:
        own.close()


def test_between_reads_no_context_is_current(reader: Reader, picture: MakePicture) -> None:
    from OpenGL import EGL as egl

    made = picture("XR24", 8, 8)
    for route in (None, "draw", "map"):
        reader.read(made.buf, route=route)
        assert not ctypes.cast(egl.eglGetCurrentContext(), ctypes.c_void_p).value


# ---- threads


def test_a_reader_from_several_threads(reader: Reader, picture: MakePicture) -> None:
    """One at a time, which the reader sees to."""
    made = [picture("XR24", 64, 64, pad=4 * n) for n in range(4)]
    wrong: list[object] = []

    def work(mine: Picture) -> None:
        out = Canary(64, 64, "XR24")
        try:
            for _ in range(50):
                reader.read(mine.buf, out.surface)
                out.assert_holds(mine.rows())
                if not np.array_equal(pixels(reader.read(mine.buf, route="draw")), mine.rows() | np.tile([0, 0, 0, 255], 64)):
                    raise AssertionError("a draw differs")
        except BaseException as error:
            wrong.append(error)

    _run([threading.Thread(target=work, args=(mine,)) for mine in made])
    assert not wrong


def test_readers_in_threads_of_their_own(leaks: Callable[[], None], picture: MakePicture) -> None:
    made = [picture("XR24", 256, 256, pad=4 * n) for n in range(2)]
    wrong: list[object] = []
    both = threading.Barrier(2)

    def work(mine: Picture) -> None:
        out = Canary(256, 256, "XR24")
        try:
            for _ in range(5):
                with Reader("software") as reader:
                    both.wait(10)
                    for _ in range(20):
                        reader.read(mine.buf, out.surface)
                        out.assert_holds(mine.rows())
                        reader.read(mine.buf, fourcc="AB4H")
        except BaseException as error:
            wrong.append(error)
            both.abort()

    _run([threading.Thread(target=work, args=(mine,)) for mine in made])
    assert not wrong


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- files


def test_a_regular_file_keeps_its_position(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "frame.raw"
    content = os.urandom(4096)
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        file.seek(1234)
        buf = DmaBuf(32, 32, "XR24", [Plane(file.fileno(), 0, 128)])
        surface = reader.read(buf)
        assert surface.tobytes() == content
        assert "can shrink" in surface.route.reason
        assert reader.read(buf, route="map").tobytes() == content
        reader.read_planes(buf)
        assert file.tell() == 1234


def test_a_memfd_keeps_its_position(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 8, 8)
    fd = made.buf.planes[0].fd
    os.lseek(fd, 77, os.SEEK_SET)
    for route in ("alias", "native", "draw", "map"):
        reader.read(made.buf, route=route)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 77
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK
