"""What every linear format of drm_fourcc.h looks like, in float64: read from the header's comments and from the standards.

It shares nothing with glreadback on purpose: a mistake in our format table, our shaders or our matrices shows up as a
difference. Formats: the comments of drm_fourcc.h. Matrices and quantisation: ITU-T H.273, 8.3. Chroma places: H.273, 8.7.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER = Path(__file__).parents[1] / "tools" / "drm_fourcc.h"

# ---- The formats, as the header writes them: components from the most significant bit down, then their bits; "/" between
# planes; "x" and "0" are padding. One line a family; "@2x2" is the subsampling of the planes after the first.

_RGBX = {"XR": "x:R:G:B", "XB": "x:B:G:R", "RX": "R:G:B:x", "BX": "B:G:R:x"}
_RGBA = {"AR": "A:R:G:B", "AB": "A:B:G:R", "RA": "R:G:B:A", "BA": "B:G:R:A"}
_RGB = {"RG": "R:G:B", "BG": "B:G:R"}
_FOUR = _RGBX | _RGBA
_FIRST = {order: layout for order, layout in _FOUR.items() if layout[0] in "xA"}


def _family(orders: Mapping[str, str], suffix: str, color: str, other: int = 0) -> Iterator[tuple[str, str]]:
    """Formats that differ in the order of their components only: color is the bits of R, G, B; other those of x or A."""
    bits = dict(zip("RGB", color.split(), strict=True)) | {"x": str(other), "A": str(other)}
    for order, layout in orders.items():
        yield order + suffix, f"{layout} {':'.join(bits[component] for component in layout.split(':'))}"


_PACKED = "Cr0:Y1:Cb0:Y0 Cb0:Y1:Cr0:Y0 Y1:Cr0:Y0:Cb0 Y1:Cb0:Y0:Cr0".split()
_TILE_8 = "{0}3:{0}2:Y3:0:Cr0:0:Y2:0:{0}1:{0}0:Y1:0:Cb0:0:Y0:0 1:1:8:2:8:2:8:2:1:1:8:2:8:2:8:2"
_TILE_10 = "{0}3:{0}2:Y3:Cr0:Y2:{0}1:{0}0:Y1:Cb0:Y0 1:1:10:10:10:1:1:10:10:10"

_FORMATS: dict[str, str] = {
    **{f"{c}1": ":".join(f"{c}{i}" for i in range(8)) + " 1:1:1:1:1:1:1:1" for c in "CDR"},
    **{f"{c}2": f"{c}0:{c}1:{c}2:{c}3 2:2:2:2" for c in "CDR"},
    **{f"{c}4": f"{c}0:{c}1 4:4" for c in "CDR"},
    **{f"{c}8": f"{c} 8" for c in "CDR"},
    **{"R10": "x:R 6:10", "R12": "x:R 4:12", "R16": "R 16"},
    **{"RG88": "R:G 8:8", "GR88": "G:R 8:8", "RG32": "R:G 16:16", "GR32": "G:R 16:16"},
    **{"RGB8": "R:G:B 3:3:2", "BGR8": "B:G:R 2:3:3"},
    **dict(_family(_FOUR, "12", "4 4 4", 4)),
    **dict(_family(_FOUR, "15", "5 5 5", 1)),
    **dict(_family(_RGB, "16", "5 6 5")),
    **dict(_family(_RGB, "24", "8 8 8")),
    **dict(_family(_FOUR, "24", "8 8 8", 8)),
    **dict(_family(_FOUR, "30", "10 10 10", 2)),
    **dict(_family(_FIRST, "48", "16 16 16", 16)),
    **dict(_family(_FIRST, "4H", "16 16 16", 16)),  # IEEE 754 binary16
    "AB10": "A:x:B:x:G:x:R:x 10:6:10:6:10:6:10:6",
    **{code: f"{layout} 8:8:8:8" for code, layout in zip("YUYV YVYU UYVY VYUY".split(), _PACKED, strict=True)},
    **{"AYUV": "A:Y:Cb:Cr 8:8:8:8", "AVUY": "A:Cr:Cb:Y 8:8:8:8", "XYUV": "x:Y:Cb:Cr 8:8:8:8", "XVUY": "x:Cr:Cb:Y 8:8:8:8"},
    "VU24": "Cr:Cb:Y 8:8:8",
    **{f"Y21{n % 10}": f"Cr0:0:Y1:0:Cb0:0:Y0:0 {':'.join([f'{n}:{16 - n}'] * 4)}" for n in (10, 12)},
    "Y216": "Cr0:Y1:Cb0:Y0 16:16:16:16",
    **{"Y410": "A:Cr:Y:Cb 2:10:10:10", "Y412": "A:0:Cr:0:Y:0:Cb:0 12:4:12:4:12:4:12:4", "Y416": "A:Cr:Y:Cb 16:16:16:16"},
    **{"XV30": "x:Cr:Y:Cb 2:10:10:10", "XV36": "x:0:Cr:0:Y:0:Cb:0 12:4:12:4:12:4:12:4", "XV48": "x:Cr:Y:Cb 16:16:16:16"},
    **{"Y0L0": _TILE_8.format("A"), "X0L0": _TILE_8.format("x"), "Y0L2": _TILE_10.format("A"), "X0L2": _TILE_10.format("x")},
    **{f"{order}A8": f"{layout} 8:8:8:8 / A 8" for order, layout in _RGBX.items()},
    **{f"{order[0]}8A8": f"{layout} 8:8:8 / A 8" for order, layout in _RGB.items()},
    **{f"{order[0]}5A8": f"{layout} 5:6:5 / A 8" for order, layout in _RGB.items()},
    **{code: f"Y 8 / Cr:Cb 8:8 @{sub}" for code, sub in {"NV12": "2x2", "NV16": "2x1", "NV24": "1x1"}.items()},
    **{code: f"Y 8 / Cb:Cr 8:8 @{sub}" for code, sub in {"NV21": "2x2", "NV61": "2x1", "NV42": "1x1"}.items()},
    **{
        code: f"Y3:Y2:Y1:Y0 10:10:10:10 / Cr1:Cb1:Cr0:Cb0 10:10:10:10 @{sub}"
        for code, sub in {"NV15": "2x2", "NV20": "2x1", "NV30": "1x1"}.items()
    },
    **{code: f"Y:x 10:6 / Cr:x:Cb:x 10:6:10:6 @{sub}" for code, sub in {"P010": "2x2", "P210": "2x1"}.items()},
    **{"P012": "Y:x 12:4 / Cr:x:Cb:x 12:4:12:4 @2x2", "P016": "Y 16 / Cr:Cb 16:16 @2x2"},
    "P030": "x:Y2:Y1:Y0 2:10:10:10 / x:Cr2:Cb2:Cr1:x:Cb1:Cr0:Cb0 2:10:10:10:2:10:10:10 @2x2",
    **{"Q410": "Y:x 10:6 / Cb:x 10:6 / Cr:x 10:6", "Q401": "Y:x 10:6 / Cr:x 10:6 / Cb:x 10:6"},
    **{
        f"YU{n}": f"Y 8 / Cb 8 / Cr 8 @{sub}"
        for n, sub in {"12": "2x2", "16": "2x1", "24": "1x1", "11": "4x1", "V9": "4x4"}.items()
    },
    **{
        f"YV{n}": f"Y 8 / Cr 8 / Cb 8 @{sub}"
        for n, sub in {"12": "2x2", "16": "2x1", "24": "1x1", "11": "4x1", "U9": "4x4"}.items()
    },
}

NON_LINEAR = ("VU30", "YU08", "YU10")  # "Non-linear modifier only": no buffer has them in rows of pixels
_TILES = ("Y0L0", "X0L0", "Y0L2", "X0L2")  # "2x2 tiled": the one family whose blocks are two lines high


def header_formats() -> set[str]:
    """Every fourcc that drm_fourcc.h defines, without trailing spaces."""
    found = re.findall(r"#define\s+DRM_FORMAT_\w+\s+fourcc_code\('(.)', *'(.)', *'(.)', *'(.)'\)", HEADER.read_text())
    return {"".join(characters).rstrip() for characters in found}


@dataclass(frozen=True)
class Part:
    """One component's place in a block: bits from the least significant bit of the little-endian block."""

    component: str
    sample: int
    shift: int
    bits: int


@dataclass(frozen=True)
class PlaneLayout:
    parts: tuple[Part, ...]
    bytes: int  # of a block
    width: int  # of a block, in samples of the plane
    height: int
    sub: tuple[int, int]  # pixels to a sample of the plane, across and down

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Rows of blocks, and the bytes of one, of a picture of width x height pixels."""
        across, down = self.sub[0] * self.width, self.sub[1] * self.height
        return -(-height // down), -(-width // across) * self.bytes


@functools.cache
def layout(fourcc: str) -> tuple[PlaneLayout, ...]:
    """The planes of a format, from _FORMATS."""
    text, _, sub = _FORMATS[fourcc].partition(" @")
    across, down = (int(n) for n in sub.split("x")) if sub else (1, 1)
    return tuple(
        _plane(plane.strip(), (across, down) if index else (1, 1), 2 if fourcc in _TILES else 1)
        for index, plane in enumerate(text.split("/"))
    )


def _plane(text: str, sub: tuple[int, int], height: int) -> PlaneLayout:
    names, sizes = (part.split(":") for part in text.split())
    parts, shift = [], 0
    for name, size in reversed(list(zip(names, sizes, strict=True))):
        component = name.rstrip("0123456789")
        if component and component != "x":
            parts.append(Part(component, int(name[len(component) :] or 0), shift, int(size)))
        shift += int(size)
    assert shift % 8 == 0
    # A block is as many samples as its most frequent component; chroma in the same block is shared among them.
    count = max(sum(part.component == other.component for other in parts) for part in parts)
    return PlaneLayout(tuple(parts), shift // 8, count // height, height, sub)


FORMATS = tuple(_FORMATS)


def bits(fourcc: str) -> dict[str, int]:
    """Bits of each component."""
    return {part.component: part.bits for plane in layout(fourcc) for part in plane.parts}


def model(fourcc: str) -> str:
    """ "yuv", "rgb" (grey R formats too), "index" or "dark"."""
    found = bits(fourcc)
    return "yuv" if "Y" in found else "index" if "C" in found else "dark" if "D" in found else "rgb"


def subsampling(fourcc: str) -> tuple[int, int]:
    """Pixels to a chroma sample, across and down."""
    for plane in layout(fourcc):
        if count := sum(part.component == "Cb" for part in plane.parts):
            return plane.sub[0] * plane.width // count, plane.sub[1] * plane.height
    return 1, 1


def is_half(fourcc: str) -> bool:
    return fourcc.endswith("4H")


# ---- Code values


def codes(fourcc: str, width: int, height: int, planes: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Every component as integers, each at its own resolution: alpha and luma of every pixel, chroma of every sample.

    planes are uint8 arrays of the shapes that PlaneLayout.shape gives.
    """
    found: dict[str, np.ndarray] = {}
    for plane, data in zip(layout(fourcc), planes, strict=True):
        blocks = data.reshape(data.shape[0], -1, plane.bytes).astype(np.uint64)
        words = sum(blocks[..., byte] << np.uint64(8 * byte) for byte in range(plane.bytes))
        for component in {part.component for part in plane.parts}:
            parts = sorted((part for part in plane.parts if part.component == component), key=lambda part: part.sample)
            samples = [words >> np.uint64(part.shift) & np.uint64((1 << part.bits) - 1) for part in parts]
            # Samples of a block lie left to right, then top to bottom.
            down = plane.height if len(samples) == plane.width * plane.height else 1
            across = len(samples) // down
            grid = np.array(samples).reshape(down, across, *words.shape).transpose(2, 0, 3, 1)
            found[component] = grid.reshape(words.shape[0] * down, words.shape[1] * across).astype(np.int64)
    across, down = subsampling(fourcc)
    for component, values in found.items():
        wide, high = (-(-width // across), -(-height // down)) if component in ("Cb", "Cr") else (width, height)
        found[component] = values[:high, :wide]
    return found


def planes(fourcc: str, width: int, height: int, values: Mapping[str, np.ndarray], padding: int = 0) -> list[np.ndarray]:
    """The opposite of `codes`: the bytes of each plane. Padding bits, and pixels past the edge, are those of the byte padding."""
    found = []
    for plane in layout(fourcc):
        rows, row_bytes = plane.shape(width, height)
        data = np.full((rows, row_bytes), padding, np.uint8)
        blocks = data.reshape(rows, -1, plane.bytes)
        for part in plane.parts:
            same = [other for other in plane.parts if other.component == part.component]
            down = plane.height if len(same) == plane.width * plane.height else 1
            across = len(same) // down
            chosen = values[part.component][part.sample // across :: down, part.sample % across :: across]
            high, wide = chosen.shape
            for bit in range(part.bits):
                byte, place = divmod(part.shift + bit, 8)
                target = blocks[:high, :wide, byte]
                target &= np.uint8(255 ^ 1 << place)
                target |= (chosen >> bit & 1).astype(np.uint8) << np.uint8(place)
        found.append(data)
    return found


# ---- Colours

KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}


def rgba(
    fourcc: str,
    width: int,
    height: int,
    planes: Sequence[np.ndarray],
    *,
    matrix: str = "601",
    range: str = "narrow",
    siting: str = "left",
    palette: np.ndarray | None = None,
) -> np.ndarray:
    """(height, width, 4) float64: R'G'B' and alpha from 0 to 1, not clipped: Y'CbCr and half floats reach further.

    palette is (n, 3 or 4), from 0 to 1, for C formats; without it they are a ramp from black to white.
    """
    values, depth = codes(fourcc, width, height, planes), bits(fourcc)
    found = np.ones((height, width, 4))

    def scaled(component: str) -> np.ndarray:
        if is_half(fourcc):
            return values[component].astype(np.uint16).view(np.float16).astype(np.float64)
        return values[component] / ((1 << depth[component]) - 1)

    if model(fourcc) == "yuv":
        across, down = subsampling(fourcc)
        cb, cr = (
            _interpolate(
                _interpolate(values[component].astype(np.float64), width, across, siting != "center", 1),
                *(height, down, siting == "topleft", 0),
            )
            for component in ("Cb", "Cr")
        )
        found[..., :3] = ycbcr_to_rgb(values["Y"], cb, cr, depth["Y"], matrix, range)
    elif model(fourcc) == "index" and palette is not None:
        found[..., : palette.shape[1]] = palette[values["C"]]
    elif model(fourcc) == "index":
        found[..., :3] = scaled("C")[..., None]
    elif model(fourcc) == "dark":
        found[..., :3] = 1 - scaled("D")[..., None]
    elif set(depth) == {"R"}:
        found[..., :3] = scaled("R")[..., None]
    else:
        for index, component in enumerate("RGB"):
            found[..., index] = scaled(component) if component in depth else 0
    if "A" in depth:
        found[..., 3] = scaled("A")
    return found


def _interpolate(values: np.ndarray, count: int, sub: int, cosited: bool, axis: int) -> np.ndarray:
    """Chroma samples brought to count pixels: linear between the nearest two, the edge's own beyond the edge.

    Cosited: sample 0 lies on pixel 0. Else in the middle of the pixels that it covers.
    """
    pixels = np.arange(count)
    place = pixels / sub if cosited else (pixels + 0.5) / sub - 0.5
    return np.apply_along_axis(lambda line: np.interp(place, np.arange(len(line)), line), axis, values)


def ycbcr_to_rgb(y: np.ndarray, cb: np.ndarray, cr: np.ndarray, depth: int, matrix: str, range: str) -> np.ndarray:
    """Code values of depth bits to R'G'B': H.273 equations 20 to 31 for the range, 38 to 58 for the matrix."""
    kr, kb = KR_KB[matrix]
    if range == "narrow":
        scale = 2.0 ** (depth - 8)
        luma = (y / scale - 16) / 219
        blue, red = ((c / scale - 128) / 224 for c in (cb, cr))
    else:
        most = 2.0**depth - 1
        luma = y / most
        blue, red = ((c - 2.0 ** (depth - 1)) / most for c in (cb, cr))
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.stack([r, g, b], -1)


def rgb_to_ycbcr(rgb: np.ndarray, depth: int, matrix: str, range: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R'G'B' from 0 to 1 to code values, not rounded: the opposite of `ycbcr_to_rgb`."""
    kr, kb = KR_KB[matrix]
    r, g, b = np.moveaxis(np.asarray(rgb, np.float64), -1, 0)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    if range == "narrow":
        scale = 2.0 ** (depth - 8)
        return (219 * luma + 16) * scale, (224 * blue + 128) * scale, (224 * red + 128) * scale
    most = 2.0**depth - 1
    return luma * most, blue * most + 2.0 ** (depth - 1), red * most + 2.0 ** (depth - 1)


# ---- Turning: wl_output.transform


TRANSFORMS = {  # name: flipped, quarter turns
    **{"normal": (False, 0), "90": (False, 1), "180": (False, 2), "270": (False, 3)},
    **{"flipped": (True, 0), "flipped-90": (True, 1), "flipped-180": (True, 2), "flipped-270": (True, 3)},
}


def turned(content: np.ndarray, transform: str, y_invert: bool = False) -> np.ndarray:
    """The picture as it is shown, from a buffer's content: undoes what wl_output.transform says was done to it.

    Done was: flipped around the vertical axis, then turned counter-clockwise; last of all, rows stored bottom up.
    """
    flipped, quarters = TRANSFORMS[transform]
    picture = np.rot90(content[::-1] if y_invert else content, -quarters)
    return picture[:, ::-1] if flipped else picture


# ---- Comparing


def differences(fourcc: str, memory: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    """How far packed pixels are from a picture, for each component of theirs, per pixel.

    In steps of the component where it is an integer (expected is cut to 0..1: no integer can be beyond it), relative to
    the expected value for half floats. memory is (height, width * bytes of a pixel) of uint8. Expected NaN is no difference.
    """
    height, width = expected.shape[:2]
    found = {}
    for component, values in codes(fourcc, width, height, [memory]).items():
        meant = expected[..., "RGBA".index(component)]
        meant, is_number = np.nan_to_num(meant, nan=0, posinf=np.inf, neginf=-np.inf), ~np.isnan(meant)
        if is_half(fourcc):
            got = values.astype(np.uint16).view(np.float16).astype(np.float64)
            with np.errstate(invalid="ignore"):
                # Near black the sum of large terms is what counts: a millionth of white is no difference.
                difference = np.abs(got - meant) / np.maximum(np.abs(meant), 2.0**-10)
            difference[got == meant] = 0  # infinities
        else:
            difference = np.abs(values - np.clip(meant, 0, 1) * ((1 << bits(fourcc)[component]) - 1))
        difference[~is_number] = 0
        found[component] = difference
    return found
