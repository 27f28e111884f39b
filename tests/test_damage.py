"""Damage: only the rectangles that changed are read, and the cost follows their area."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Bytes, MakePicture, MemFd, Picture, assert_route, mapped, pixels

from glreadback import DescriptorError, DmaBuf, Frame, Plane, Reader, Rect, Surface
from glreadback.damage import merged
from glreadback.frame import TRANSFORMS
from glreadback.importer import Importer

WIDTH, HEIGHT = 200, 150
HUGE = 2**31 - 1

places = st.tuples(*[st.integers(-50, 250)] * 2, *[st.integers(-5, 120)] * 2)


def covered(rects: list[Any], width: int = WIDTH, height: int = HEIGHT) -> np.ndarray[Any, Any]:
    """Which pixels the rectangles cover."""
    found = np.zeros((height, width), bool)
    for x, y, w, h in rects:
        found[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] |= w > 0 and h > 0
    return found


# ---- which rectangles


@given(st.lists(places, max_size=12))
def test_all_damage_is_covered_and_nothing_costs_more(rects: list[tuple[int, int, int, int]]) -> None:
    found = merged(rects, WIDTH, HEIGHT)
    needed = covered(rects)
    assert not (needed & ~covered(found)).any()
    for x, y, w, h in found:
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= WIDTH and y + h <= HEIGHT  # noqa: PT018
    # One by one, each rectangle cut to the picture and the price of one more read on top.
    each = [int(covered([rect]).sum()) for rect in rects]
    assert sum(w * h + 2048 for _, _, w, h in found) <= sum(area + 2048 for area in each if area)


@given(st.lists(places, min_size=65, max_size=100))
def test_very_many_become_one(rects: list[tuple[int, int, int, int]]) -> None:
    """Working out the best of a thousand rectangles costs more than reading their bounding box."""
    inside = [rect for rect in rects if covered([rect]).any()]
    if len(inside) <= 64:
        return
    ys, xs = np.nonzero(covered(rects))
    assert merged(rects, WIDTH, HEIGHT) == [Rect(xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)]


def test_very_many_far_apart_are_all_covered() -> None:
    rects = [(x * 400, y * 400, 2, 2) for y in range(10) for x in range(10)]
    assert merged(rects, 4000, 4000) == [Rect(0, 0, 3602, 3602)]
    assert merged(rects[:60], 4000, 4000) == [Rect(0, y * 400, 3602, 2) for y in range(6)]


@pytest.mark.parametrize(
    ("rects", "expected"),
    [
        ([], []),
        ([(5, 6, 0, 7)], []),
        ([(5, 6, 7, -1)], []),
        ([(-10, -10, 10, 10), (WIDTH, 0, 5, 5), (0, HEIGHT, 5, 5)], []),
        ([(-10, -10, 20, 20)], [(0, 0, 10, 10)]),
        ([(0, 0, HUGE, HUGE)], [(0, 0, WIDTH, HEIGHT)]),
        ([(-HUGE, -HUGE, 2 * HUGE, 2 * HUGE)], [(0, 0, WIDTH, HEIGHT)]),
        ([(3, 4, 5, 6), (3, 4, 5, 6)], [(3, 4, 5, 6)]),
        ([(3, 4, 50, 60), (10, 10, 5, 5)], [(3, 4, 50, 60)]),
        ([(0, 0, 50, 50), (50, 0, 50, 50)], [(0, 0, 100, 50)]),
        ([(0, 0, 10, 150), (190, 0, 10, 150)], [(0, 0, 10, 150), (190, 0, 10, 150)]),
        # A bridge that makes one of three.
        ([(0, 0, 60, 60), (120, 0, 60, 60), (50, 0, 80, 60)], [(0, 0, 180, 60)]),
        ((np.array([1, 2, 3, 4]),), [(1, 2, 3, 4)]),
    ],
)
def test_merging(rects: Any, expected: list[tuple[int, ...]]) -> None:
    assert sorted(merged(rects, WIDTH, HEIGHT)) == expected


@pytest.mark.parametrize("wrong", [(1, 2, 3), (1, 2, 3, 4, 5), (1.5, 2, 3, 4), ("1", 2, 3, 4), None, 7, "abcd"])
def test_what_is_no_rectangle(wrong: Any) -> None:
    with pytest.raises(DescriptorError, match="give four whole numbers: x, y, width, height"):
        merged([(0, 0, 1, 1), wrong], WIDTH, HEIGHT)


# ---- reading them


def updated(reader: Reader, frame: Frame, old: Bytes, rects: Any, **options: Any) -> Surface:
    """Old pixels in a surface, and then the damage read into it."""
    width, height = frame.size
    out = Surface.allocate(width, height, options.pop("into", frame.buffer.fourcc), options.pop("stride", None))
    if options.pop("known", False):
        reader.read(frame, out, route=options.get("route"))
    for row, line in zip(out.rows(), old.reshape(height, -1), strict=True):
        row[:] = line.tobytes()
    assert reader.read(frame, out, damage=rects, **options) is out
    return out


@pytest.mark.parametrize("route", ["alias", "native", "draw", "map"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_inside_is_new_and_outside_is_old(route: str, data: st.DataObject) -> None:
    with Reader("software") as reader, picture_of("AR24") as made:
        rect = data.draw(places)
        y_invert, known = data.draw(st.booleans()), data.draw(st.booleans())
        stride = data.draw(st.sampled_from([None, WIDTH * 4 + 4, WIDTH * 4 + 1 if route != "draw" else None]))
        frame = Frame(made.buf, y_invert=y_invert)
        old = np.full((HEIGHT, WIDTH, 4), 7, np.uint8)
        found = pixels(updated(reader, frame, old, [rect], route=route, stride=stride, known=known)).reshape(old.shape)
        new = made.rows()[:: -1 if y_invert else 1].reshape(old.shape)
        expected = np.where(covered([rect])[..., None], new, old)
        assert np.array_equal(found, expected)


class picture_of:  # noqa: N801  # hypothesis wants no function-scoped fixtures
    """A WIDTH x HEIGHT picture of noise in a memfd, closed at the end."""

    def __init__(self, fourcc: str) -> None:
        self.fourcc = fourcc

    def __enter__(self) -> Picture:
        from glreadback.kernel.udmabuf import sealed_memfd

        noise = np.random.default_rng(6).integers(0, 256, WIDTH * HEIGHT * 4 + 64, np.uint8)
        self.fd = sealed_memfd(noise.size)
        with mapped(self.fd) as memory:
            memory[: noise.size] = noise.tobytes()
        return Picture(DmaBuf(WIDTH, HEIGHT, self.fourcc, [Plane(self.fd, 64, WIDTH * 4)]), noise)

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("y_invert", [False, True])
def test_damage_is_in_the_picture_as_it_is_shown(reader: Reader, picture: MakePicture, transform: str, y_invert: bool) -> None:
    made = picture("XR24", 37, 23)
    frame = Frame(made.buf, visible=Rect(3, 2, 31, 19), transform=transform, y_invert=y_invert)
    whole = reader.read(frame).array()
    rects = [(1, 2, 5, 4), (11, 9, 8, 6)]
    old = np.zeros_like(whole)
    inside = np.zeros(whole.shape[:2], bool)
    for x, y, w, h in merged(rects, *frame.size):
        inside[y : y + h, x : x + w] = True
    for known in (False, True):
        found = updated(reader, frame, old, rects, known=known).array()
        assert np.array_equal(found, np.where(inside[..., None], whole, old))


@pytest.mark.parametrize(
    ("source", "into"), [("XR24", "AB24"), ("XB24", "AB24"), ("AB4H", "AB4H"), ("RG16", "RG16"), ("NV12", "AB24"), ("R8", "R8")]
)
@pytest.mark.parametrize("route", [None, "draw"])
@pytest.mark.parametrize("known", [False, True])
def test_conversions_stay_within_the_damage(
    reader: Reader, picture: MakePicture, source: str, into: str, route: str, known: bool
) -> None:
    """Alpha too is only set where there is damage."""
    if route == "draw" and source == "RG16":
        into = "AB24"
    made = picture(source, 64, 48)
    whole = pixels(reader.read(made.buf, fourcc=into, route=route)).reshape(48, 64, -1)
    old = np.full_like(whole, 9)
    found = pixels(updated(reader, Frame(made.buf), old, [(10, 8, 20, 16)], into=into, route=route, known=known)).reshape(
        whole.shape
    )
    expected = old.copy()
    expected[8:24, 10:30] = whole[8:24, 10:30]
    assert np.array_equal(found, expected)


def test_pixels_that_share_bytes_are_read_whole(reader: Reader, picture: MakePicture) -> None:
    made = picture("YUYV", 64, 48)
    out = Surface.allocate(64, 48, "YUYV")
    reader.read(made.buf, out, damage=[(3, 3, 5, 5)])
    assert np.array_equal(pixels(out), made.rows())


def test_no_damage_reads_nothing(reader: Reader, picture: MakePicture) -> None:
    """But the producer is waited for and released, and the surface says how it would have been read."""
    made = picture("XR24", 64, 48)
    released: list[int] = []
    for nothing in ([], [(100, 100, 5, 5)], [(0, 0, 0, 0)], iter([])):
        out = Surface.allocate(64, 48, "XR24")
        frame = Frame(made.buf, release=lambda: released.append(1))
        reader.read(frame, out, damage=nothing)
        assert not any(out.tobytes())
        assert_route(out, "alias")
    assert len(released) == 4


def test_a_frames_own_damage_can_be_given(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 320, 240)
    frame = Frame(made.buf, damage=(Rect(0, 0, 8, 8), Rect(300, 200, HUGE, HUGE)))
    out = Surface.allocate(320, 240, "XR24")
    reader.read(frame, out, damage=frame.damage)
    found = pixels(out).reshape(240, 320, 4)
    rows = made.rows().reshape(240, 320, 4)
    assert np.array_equal(found[:8, :8], rows[:8, :8])
    assert np.array_equal(found[200:, 300:], rows[200:, 300:])
    assert not found[8:200].any()


def test_damage_wants_a_whole_surface(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 64, 48)
    out = Surface.allocate(64, 48, "XR24")
    for call, options in itertools.product(
        (reader.read, reader.submit), ({}, {"out": out, "rect": (0, 0, 64, 48)}, {"out": out, "rect": (0, 0, 8, 8)})
    ):
        with pytest.raises(DescriptorError, match="damage updates a surface that holds the whole picture"):
            call(made.buf, damage=[(0, 0, 8, 8)], **options)
    with pytest.raises(DescriptorError, match="damage updates a surface that holds the whole picture"):
        reader.read(made.buf, out, damage=[(0, 0, 8, 8)], scale=(64, 48))
    with pytest.raises(DescriptorError, match=r"the surface given is 8x8, the picture to read 64x48"):
        reader.read(made.buf, Surface.allocate(8, 8, "XR24"), damage=[(0, 0, 8, 8)])


def test_the_next_whole_read_is_whole(reader: Reader, picture: MakePicture) -> None:
    """What is remembered of a picture is never a read of a part of it."""
    made = picture("XR24", 64, 48)
    out = Surface.allocate(64, 48, "XR24")
    for _ in range(2):
        out.data[:] = bytes(len(out.data))
        reader.read(made.buf, out, damage=[(0, 0, 8, 8)])
        assert np.count_nonzero(pixels(out).reshape(48, 64, 4).any(axis=2)) == 64
        reader.read(made.buf, out)
        assert np.array_equal(pixels(out), made.rows())


# ---- what it costs


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each glReadPixels, given that pixels are read in fours of bytes."""
    found: list[int] = []
    real = Importer.copy

    def noted(todo: Any, address: int) -> None:
        found.extend(copy.width * copy.height * 4 for copy in todo)
        real(todo, address)

    monkeypatch.setattr(Importer, "copy", staticmethod(noted))
    return found


def test_only_the_damage_is_copied(reader: Reader, memfd: MemFd, copied: list[int]) -> None:
    """Counted, not timed: a 64x64 rectangle of 2160p is a two-thousandth of it."""
    buf = DmaBuf(3840, 2160, "XR24", [Plane(memfd(3840 * 2160 * 4), 0, 3840 * 4)])
    out = reader.read(buf)
    assert sum(copied) == 3840 * 2160 * 4
    copied.clear()
    reader.read(buf, out, damage=[(1000, 1000, 64, 64)])
    assert copied == [64 * 64 * 4]
    copied.clear()
    reader.read(buf, out, damage=[(0, 0, 64, 64), (3000, 2000, 64, 64)])
    assert copied == [64 * 64 * 4] * 2
    copied.clear()
    reader.read(buf, out, damage=[(x, 0, 8, 8) for x in range(0, 512, 8)])
    assert copied == [512 * 8 * 4]
