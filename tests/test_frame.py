"""Frame: what is true of one picture, checked when it is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from glreadback import Color, DescriptorError, DmaBuf, Frame, Plane, Rect
from glreadback.frame import TRANSFORMS, as_frame, check_rect

BUF = DmaBuf(640, 480, "XR24", [Plane(0, 0, 2560)])


def test_what_is_true_of_most_frames() -> None:
    frame = Frame(BUF)
    assert frame.area == (0, 0, 640, 480)
    assert frame.size == (640, 480)
    assert frame.visible is None
    assert not frame.y_invert
    assert frame.quarters == 0
    assert frame == Frame(BUF)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.y_invert = True  # type: ignore[misc]


@pytest.mark.parametrize(("transform", "quarters"), [*zip(TRANSFORMS, (0, 1, 2, 3) * 2, strict=True)])
def test_sizes_of_turned_pictures(transform: str, quarters: int) -> None:
    frame = Frame(BUF, visible=Rect(10, 20, 300, 100), transform=transform)
    assert frame.area == (10, 20, 300, 100)
    assert frame.quarters == quarters
    assert frame.size == ((100, 300) if transform.endswith(("90", "270")) else (300, 100))


@pytest.mark.parametrize("visible", [(0, 0, 640, 480), [639, 479, 1, 1], Rect(1, 2, 3, 4), np.array([1, 2, 3, 4])])
def test_visible_rectangles(visible: Any) -> None:
    found = Frame(BUF, visible=visible).visible
    assert isinstance(found, Rect)
    assert found == tuple(int(value) for value in visible)
    assert all(type(value) is int for value in found)


@pytest.mark.parametrize(
    "visible",
    [(0, 0, 641, 480), (0, 0, 640, 481), (1, 0, 640, 480), (0, 1, 640, 480), (-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 1),
     (0, 0, 1, 0),
     (640, 0, 1, 1), (0, 0, -1, -1), (0, 0, 2**31, 1), (2**63, 0, 1, 1)],
)  # fmt: skip
def test_visible_rectangles_outside(visible: tuple[int, ...]) -> None:
    with pytest.raises(DescriptorError, match=r"the visible rectangle \S+ does not lie within the picture of 640x480 pixels"):
        Frame(BUF, visible=visible)  # type: ignore[arg-type]


@pytest.mark.parametrize("visible", [(0, 0, 1), (0, 0, 1, 1, 1), (0.0, 0, 1, 1), "0,0,1", ("0", 0, 1, 1), 5, (None,) * 4])
def test_visible_rectangles_that_are_none(visible: Any) -> None:
    with pytest.raises(DescriptorError, match=r"the visible rectangle is .*; give four whole numbers: x, y, width, height"):
        Frame(BUF, visible=visible)


@pytest.mark.parametrize("transform", ["", "45", "Normal", "flipped-45", None, 90])
def test_unknown_transforms(transform: Any) -> None:
    with pytest.raises(DescriptorError, match=r"transform is .*; it must be one of normal, 90, 180, 270, flipped, flipped-90"):
        Frame(BUF, transform=transform)


def test_damage() -> None:
    """Producers damage more than there is; it is cut when it is used."""
    frame = Frame(BUF, damage=[(0, 0, 2**31 - 1, 2**31 - 1), (-5, -5, 10, 10)])  # type: ignore[arg-type]
    assert frame.damage == ((0, 0, 2**31 - 1, 2**31 - 1), (-5, -5, 10, 10))
    assert all(isinstance(rect, Rect) for rect in frame.damage or ())
    for damage in ([(1, 2, 3)], 5, [5]):
        with pytest.raises(DescriptorError, match=r"damage is .*; give rectangles: x, y, width, height"):
            Frame(BUF, damage=damage)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", [None, "XR24", 5, Frame(BUF)])
def test_buffers_that_are_none(buffer: Any) -> None:
    with pytest.raises(DescriptorError, match="a frame's buffer is a DmaBuf, not"):
        Frame(buffer)


@pytest.mark.parametrize("fence", [-1, 2**31, True, "5", 1.0])
def test_fences_that_are_none(fence: Any) -> None:
    with pytest.raises(DescriptorError, match="the acquire fence is"):
        Frame(BUF, acquire_fence=fence)


@pytest.mark.parametrize("palette", [[(0, 0, 256)], [(0, 0)], [(0, -1, 0)], [(0, 0, 0)] * 257, 5, [5], ["abc"], [(0, 0, 1.5)]])
def test_palettes_that_are_none(palette: Any) -> None:
    with pytest.raises(DescriptorError, match="the palette must be at most 256 colours of three numbers from 0 to 255"):
        Frame(BUF, palette=palette)


def test_as_frame() -> None:
    frame = Frame(BUF, y_invert=True)
    assert as_frame(frame) is frame
    assert as_frame(BUF) == Frame(BUF)
    for wrong in (None, 5, "XR24", BUF.planes[0]):
        with pytest.raises(DescriptorError, match=f"a DmaBuf or a Frame is needed, not {type(wrong).__name__}"):
            as_frame(wrong)  # type: ignore[arg-type]


def test_check_rect_names_what_it_checks() -> None:
    assert check_rect((1, 2, 3, 4), 10, 10, "the rectangle") == Rect(1, 2, 3, 4)
    with pytest.raises(DescriptorError, match=r"^the cat 3x4\+8\+2 does not lie within the picture of 10x10 pixels$"):
        check_rect((8, 2, 3, 4), 10, 10, "the cat")
    assert str(Rect(8, 2, 3, 4)) == "3x4+8+2"


@pytest.mark.parametrize("field", ["matrix", "range", "siting", "transfer", "primaries"])
def test_colours_of_unknown_words(field: str) -> None:
    with pytest.raises(DescriptorError, match=rf"{field} is 'mauve'; it must be one of \w"):
        Color(**{field: "mauve"})
    Color(**{field: None})
