"""What a display controller makes of planes, on plain values and on plain memory: no card is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glreadback import Fourcc, Frame, Reader, Rect, Surface, scene
from glreadback.compose import compose, placed
from glreadback.errors import DescriptorError, SourceError, SourceSyntaxError
from glreadback.scene import COVERAGE, NONE, PREMULTIPLIED, Area, Layer
from glreadback.sources import kms

W, H = 64, 48
ROTATIONS = [turn | flip for turn in (1, 2, 4, 8) for flip in (0, 16, 32, 48)]


def a_layer(plane: int = 1, **changes: Any) -> Layer:
    """A plane that fills the screen with an opaque framebuffer of its size."""
    full = Layer(plane, "primary", 9, Fourcc("XR24"), (W, H), Area(0, 0, W, H), Rect(0, 0, W, H))
    return replace(full, **changes)


def surface_of(pixels: np.ndarray) -> Surface:
    return Surface.wrap(
        np.ascontiguousarray(pixels), pixels.shape[1], pixels.shape[0], "AR24" if pixels.itemsize == 1 else "AB48"
    )


def composed(*pictures: tuple[Layer, np.ndarray], size: tuple[int, int] = (W, H), kind: type = np.uint8) -> np.ndarray:
    """compose(), with surfaces as a Reader makes them: opaque where the format has no alpha."""
    canvas = np.full((size[1], size[0], 4), 77, kind)
    opaque = np.array([0, 0, 0, np.iinfo(kind).max], kind)
    compose([(layer, surface_of(pixels if layer.has_alpha else pixels | opaque)) for layer, pixels in pictures], canvas)
    return canvas


def noise(height: int = H, width: int = W, seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, (height, width, 4), kind)


# ---- properties


VALUES = {"type": 0, "SRC_X": 1 << 15, "SRC_Y": 0, "SRC_W": 10 << 16, "SRC_H": 5 << 16}
VALUES |= {"CRTC_X": 2**64 - 7, "CRTC_Y": 3, "CRTC_W": 10, "CRTC_H": 5, "zpos": 4, "alpha": 0x8000, "rotation": 0x12}


def test_a_plane_s_properties() -> None:
    layer = scene.layer(31, 5, int(Fourcc("NV12")), (16, 8), VALUES, {"COLOR_ENCODING": "ITU-R BT.2020 YCbCr"})
    assert (layer.kind, layer.zpos, layer.rotation, layer.fourcc) == ("overlay", 4, 0x12, "NV12")
    assert layer.source == (0.5, 0, 10, 5)
    assert layer.source.whole == (0, 0, 11, 5)
    assert layer.target == (-7, 3, 10, 5)
    assert layer.alpha == pytest.approx(0.5, abs=1e-4)
    assert layer.blend == PREMULTIPLIED
    assert layer.color is not None
    assert (layer.color.matrix, layer.color.range) == ("2020", None)


@pytest.mark.parametrize(("value", "wanted"), [(2**64 - 7, -7), (2**32 - 7, -7), (7, 7), (2**31 - 1, 2**31 - 1)])
def test_places_are_signed_whether_the_driver_extends_them_or_not(value: int, wanted: int) -> None:
    assert scene.layer(31, 5, int(Fourcc("XR24")), (16, 8), VALUES | {"CRTC_X": value}, {}).target.x == wanted


@pytest.mark.parametrize("change", [{"SRC_W": 16 << 16}, {"SRC_H": (8 << 16) + 1}, {"SRC_W": 0}, {"SRC_X": 2**32 - 1}])
def test_a_rectangle_that_is_not_of_this_framebuffer(change: dict[str, int]) -> None:
    with pytest.raises(DescriptorError, match=r"plane 31 shows \d+x\S+ of a framebuffer of 16x8"):
        scene.layer(31, 5, int(Fourcc("XR24")), (16, 8), VALUES | change, {})


# ---- rotation


def shown_by_a_plane(rotation: int, pixels: np.ndarray) -> np.ndarray:
    """The kernel's words, one after the other: reflect along the axes of the source, then turn counter-clockwise."""
    if rotation & 16:
        pixels = pixels[:, ::-1]
    if rotation & 32:
        pixels = pixels[::-1]
    return np.rot90(pixels, {1: 0, 2: 1, 4: 2, 8: 3}[rotation & 15])


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_the_transform_of_a_frame_undoes_what_the_plane_does(rotation: int, memfd: Any) -> None:
    from glreadback import DmaBuf, Plane

    pixels = noise(5, 7)
    buffer = DmaBuf(7, 5, "AR24", [Plane(memfd(pixels.tobytes()), 0, 28)])
    with Reader("software") as reader:
        surface = reader.read(Frame(buffer, transform=scene.transform_of(rotation)))
    assert np.array_equal(np.asarray(surface), shown_by_a_plane(rotation, pixels))


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_composing_turns_as_the_plane_does(rotation: int) -> None:
    size = (6, 9) if rotation & 10 else (9, 6)
    layer = a_layer(source=Area(2, 1, 9, 6), target=Rect(3, 4, *size), rotation=rotation)
    assert not layer.scaled
    pixels = noise(6, 9)
    wanted = np.zeros((H, W, 3), np.uint8)
    wanted[4 : 4 + size[1], 3 : 3 + size[0]] = shown_by_a_plane(rotation, pixels)[..., :3]
    assert np.array_equal(composed((layer, pixels))[..., :3], wanted)


# ---- order


def order(*layers: Layer, cursor: bool = True) -> list[int]:
    return [layer.plane for layer in scene.seen(layers, W, H, cursor)]


SMALL = Rect(1, 1, 5, 5)


def test_zpos_orders_and_the_higher_id_wins_a_tie() -> None:
    layers = [a_layer(number, zpos=zpos, target=SMALL) for number, zpos in ((1, 7), (2, 0), (4, 3), (3, 3))]
    for shuffled in itertools.permutations(layers):
        assert order(*shuffled) == [2, 3, 4, 1]


def test_without_zpos_the_kinds_order() -> None:
    layers = [a_layer(number, kind=kind, target=SMALL) for number, kind in ((1, "cursor"), (2, "overlay"), (3, "primary"))]
    assert order(*layers) == [3, 2, 1]
    assert order(layers[0], replace(layers[1], zpos=0), layers[2]) == [3, 2, 1]


def test_the_cursor_only_if_it_is_wanted() -> None:
    layers = a_layer(1), a_layer(2, kind="cursor", target=SMALL)
    assert order(*layers) == [1, 2]
    assert order(*layers, cursor=False) == [1]


@pytest.mark.parametrize("target", [(-5, 0, 5, 5), (W, 0, 5, 5), (0, -5, 5, 5), (0, H, 5, 5), (3, 3, 0, 5)])
def test_what_is_beside_the_screen_is_not_seen(target: tuple[int, int, int, int]) -> None:
    assert order(a_layer(1), a_layer(2, kind="overlay", target=Rect(*target))) == [1]


@pytest.mark.parametrize(
    ("change", "hides"),
    [
        ({}, True),
        ({"target": Rect(-1, -1, W + 1, H + 1)}, True),
        ({"target": Rect(0, 0, W, H - 1)}, False),
        ({"alpha": 0.99}, False),
        ({"fourcc": Fourcc("AR24")}, False),
        ({"fourcc": Fourcc("AR24"), "blend": NONE}, True),
        ({"fourcc": Fourcc("NV12")}, True),
    ],
)
def test_what_hides_all_below_it(change: dict[str, Any], hides: bool) -> None:
    above = a_layer(2, kind="overlay", **change)
    assert order(a_layer(1), above) == ([2] if hides else [1, 2])


def test_a_plane_of_alpha_zero_is_not_there() -> None:
    assert order(a_layer(1), a_layer(2, kind="overlay", alpha=0.0)) == [1]


# ---- one framebuffer is enough


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, ((0, 0, W, H), "normal", "XR24")),
        ({"size": (100, 100), "source": Area(10, 20, W, H)}, ((10, 20, W, H), "normal", "XR24")),
        ({"source": Area(0, 0, H, W), "rotation": 2}, ((0, 0, H, W), "270", "XR24")),
        ({"rotation": 0x12}, None),  # sideways, so scaled
        ({"fourcc": Fourcc("AR24")}, ((0, 0, W, H), "normal", "XR24")),
        ({"fourcc": Fourcc("RA24")}, ((0, 0, W, H), "normal", "RX24")),
        ({"fourcc": Fourcc("AR30")}, ((0, 0, W, H), "normal", "XR30")),
        ({"fourcc": Fourcc("AB4H")}, ((0, 0, W, H), "normal", "XB4H")),
        ({"fourcc": Fourcc("NV12")}, ((0, 0, W, H), "normal", "NV12")),
        ({"fourcc": Fourcc("AR24"), "blend": COVERAGE}, None),
        ({"alpha": 0.5}, None),
        ({"target": Rect(0, 0, W - 1, H)}, None),
        ({"source": Area(0.5, 0, W - 1, H)}, None),
        ({"source": Area(0, 0, W / 2, H / 2)}, None),
    ],
)
def test_a_screen_of_one_framebuffer(change: dict[str, Any], wanted: object) -> None:
    assert scene.alone([a_layer(**change)], W, H) == wanted
    assert scene.alone([a_layer(**change), a_layer(2)], W, H) is None


# ---- blending


def blended(above: np.ndarray, below: np.ndarray, blend: str, alpha: float) -> np.ndarray:
    """drm-kms.rst's three formulas, in the 0..1 they are written in."""
    fg, fa, bg = above[..., :3] / 255, above[..., 3:] / 255, below[..., :3] / 255
    if blend == NONE:
        out = alpha * fg + (1 - alpha) * bg
    elif blend == PREMULTIPLIED:
        out = alpha * fg + (1 - alpha * fa) * bg
    else:
        out = alpha * fa * fg + (1 - alpha * fa) * bg
    return np.clip(out, 0, 1) * 255


@pytest.mark.parametrize("blend", [NONE, PREMULTIPLIED, COVERAGE])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_kernel_s_formulas(blend: str, alpha: float) -> None:
    above, below = noise(seed=1), noise(seed=2)
    if blend == PREMULTIPLIED:
        above = np.minimum(above, above[..., 3:])
    layers = a_layer(1), a_layer(2, fourcc=Fourcc("AR24"), blend=blend, alpha=alpha)
    got = composed((layers[0], below), (layers[1], above))
    assert np.abs(got[..., :3] - blended(above, below, blend, alpha)).max() <= 0.5 + 1e-9
    assert (got[..., 3] == 255).all()


def test_an_alpha_that_is_not_used_does_not_come_out() -> None:
    above = noise(seed=1)
    got = composed((a_layer(1), above), (a_layer(2, fourcc=Fourcc("AR24"), blend=NONE), above))
    assert np.array_equal(got[..., :3], above[..., :3])
    assert (got[..., 3] == 255).all()


def test_padding_is_no_alpha() -> None:
    above, below = noise(seed=1), noise(seed=2)
    got = composed((a_layer(1), below), (a_layer(2, alpha=0.5, blend=COVERAGE), above))
    assert np.abs(got[..., :3] - blended(above, below, NONE, 0.5)).max() <= 0.5 + 1e-9


def test_colours_brighter_than_their_alpha_do_not_wrap() -> None:
    above = np.full((H, W, 4), 255, np.uint8)
    above[..., 3] = 10
    got = composed((a_layer(1), above), (a_layer(2, fourcc=Fourcc("AR24")), above))
    assert (got[..., :3] == 255).all()


@pytest.mark.parametrize("position", list(itertools.product((-3, 5, W - 4), (-3, 5, H - 4))))
def test_what_reaches_over_the_edge_is_cut(position: tuple[int, int]) -> None:
    x, y = position
    below, above = noise(seed=1), noise(7, 9, seed=2)
    wanted = np.zeros((H + 40, W + 40, 3), np.uint8)
    wanted[20 : 20 + H, 20 : 20 + W] = below[..., :3]
    wanted[20 + y : 27 + y, 20 + x : 29 + x] = above[..., :3]
    layer = a_layer(2, source=Area(0, 0, 9, 7), target=Rect(x, y, 9, 7))
    for see_through in (layer, replace(layer, fourcc=Fourcc("AR24"))):
        opaque = above | np.array([0, 0, 0, 255], np.uint8)
        got = composed((a_layer(1), below), (see_through, opaque))
        assert np.array_equal(got[..., :3], wanted[20 : 20 + H, 20 : 20 + W])


def test_black_where_there_is_no_plane_and_nothing_is_left_of_the_last_picture() -> None:
    got = composed((a_layer(1, target=SMALL, source=Area(0, 0, 5, 5)), noise(5, 5)))
    assert not got[10:, :, :3].any()
    assert (got[..., 3] == 255).all()


def test_sixteen_bits_stay_sixteen() -> None:
    below, above = noise(seed=1, kind=np.uint16), noise(seed=2, kind=np.uint16)
    above = np.minimum(above, above[..., 3:])
    layers = a_layer(1, fourcc=Fourcc("XB48")), a_layer(2, fourcc=Fourcc("AB48"))
    got = composed((layers[0], below), (layers[1], above), kind=np.uint16)
    wanted = above[..., :3] + (1 - above[..., 3:] / 65535) * below[..., :3]
    assert np.abs(got[..., :3] - wanted).max() <= 0.5 + 1e-9
    assert scene.deep(layers)
    assert not scene.deep([a_layer(1), a_layer(2, fourcc=Fourcc("NV12"))])


# ---- scaling


@pytest.mark.parametrize("factor", [2, 3])
def test_shrinking_by_a_whole_factor_gives_the_means(factor: int) -> None:
    pixels = noise(6 * factor, 8 * factor)
    layer = a_layer(source=Area(0, 0, 8 * factor, 6 * factor), target=Rect(0, 0, 8, 6))
    wanted = pixels.reshape(6, factor, 8, factor, 4).mean((1, 3))
    assert np.abs(placed(layer, pixels) - wanted).max() <= 0.5 + 1e-9


def test_growing_by_a_whole_factor_repeats() -> None:
    pixels = noise(6, 8)
    layer = a_layer(source=Area(0, 0, 8, 6), target=Rect(0, 0, 24, 18))
    assert np.array_equal(placed(layer, pixels), pixels.repeat(3, 0).repeat(3, 1))


def test_parts_of_pixels_count_by_their_part() -> None:
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[0, :, 0] = 0, 100, 200, 240
    # 10.25 .. 12.75 of the framebuffer, of which pixels holds 10 .. 13 and one more.
    layer = a_layer(source=Area(10.25, 5, 2.5, 1), target=Rect(0, 0, 1, 1))
    assert placed(layer, pixels)[0, 0, 0] == round((0.75 * 0 + 100 + 0.75 * 200) / 2.5)


def test_scaled_and_turned() -> None:
    pixels = noise(4, 6)
    layer = a_layer(source=Area(0, 0, 6, 4), target=Rect(0, 0, 8, 12), rotation=2)
    assert np.array_equal(placed(layer, pixels), np.rot90(pixels.repeat(2, 0).repeat(2, 1)))


def test_the_last_edge_is_inside_whatever_the_rounding() -> None:
    for extent, count in itertools.product((1 / 3, 7 / 9, 5.1, 63.999), (1, 3, 7, 640)):
        layer = a_layer(source=Area(0.1, 0, extent, 1), target=Rect(0, 0, count, 1))
        pixels = np.full((1, layer.source.whole.width, 4), 200, np.uint8)
        assert (placed(layer, pixels) == 200).all()


# ---- paths


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("", ("", "")),
        ("card0", ("card0", "")),
        ("/dev/dri/card12/DP-1", ("card12", "DP-1")),
        ("card1/crtc-51", ("card1", "crtc-51")),
    ],
)
def test_paths(path: str, parts: tuple[str, str]) -> None:
    assert kms._parse(path) == parts


@pytest.mark.parametrize("path", ["card", "card0/", "renderD128", "../card0", "card0\n", "HDMI-A-1"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(SourceSyntaxError, match="is no card"):
        kms.KmsSource(path)


def test_a_card_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="card250 cannot be opened: No such file or directory"):
        kms.KmsSource("card250")
