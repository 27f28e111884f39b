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
# planes; "x" and "0" are padding, "?" stands for the code's first letter. A family a line.

_TABLE = """
C1 D1 R1        | ?0:?1:?2:?3:?4:?5:?6:?7 1:1:1:1:1:1:1:1
C2 D2 R2        | ?0:?1:?2:?3 2:2:2:2
C4 D4 R4        | ?0:?1 4:4
C8 D8 R8        | ? 8
R10             | x:R 6:10
R12             | x:R 4:12
R16             | R 16
RG88            | R:G 8:8
GR88            | G:R 8:8
RG32            | R:G 16:16
GR32            | G:R 16:16
RGB8            | R:G:B 3:3:2
BGR8            | B:G:R 2:3:3
AB10            | A:x:B:x:G:x:R:x 10:6:10:6:10:6:10:6

YUYV            | Cr0:Y1:Cb0:Y0 8:8:8:8
YVYU            | Cb0:Y1:Cr0:Y0 8:8:8:8
UYVY            | Y1:Cr0:Y0:Cb0 8:8:8:8
VYUY            | Y1:Cb0:Y0:Cr0 8:8:8:8
Y210            | Cr0:0:Y1:0:Cb0:0:Y0:0 10:6:10:6:10:6:10:6
Y212            | Cr0:0:Y1:0:Cb0:0:Y0:0 12:4:12:4:12:4:12:4
Y216            | Cr0:Y1:Cb0:Y0 16:16:16:16
AYUV XYUV       | ?:Y:Cb:Cr 8:8:8:8
AVUY XVUY       | ?:Cr:Cb:Y 8:8:8:8
VU24            | Cr:Cb:Y 8:8:8
Y410            | A:Cr:Y:Cb 2:10:10:10
Y412            | A:0:Cr:0:Y:0:Cb:0 12:4:12:4:12:4:12:4
Y416            | A:Cr:Y:Cb 16:16:16:16
XV30            | x:Cr:Y:Cb 2:10:10:10
XV36            | x:0:Cr:0:Y:0:Cb:0 12:4:12:4:12:4:12:4
XV48            | x:Cr:Y:Cb 16:16:16:16
Y0L0            | A3:A2:Y3:0:Cr0:0:Y2:0:A1:A0:Y1:0:Cb0:0:Y0:0 1:1:8:2:8:2:8:2:1:1:8:2:8:2:8:2
X0L0            | x:x:Y3:0:Cr0:0:Y2:0:x:x:Y1:0:Cb0:0:Y0:0 1:1:8:2:8:2:8:2:1:1:8:2:8:2:8:2
Y0L2            | A3:A2:Y3:Cr0:Y2:A1:A0:Y1:Cb0:Y0 1:1:10:10:10:1:1:10:10:10
X0L2            | x:x:Y3:Cr0:Y2:x:x:Y1:Cb0:Y0 1:1:10:10:10:1:1:10:10:10

XRA8            | x:R:G:B 8:8:8:8 / A 8
XBA8            | x:B:G:R 8:8:8:8 / A 8
RXA8            | R:G:B:x 8:8:8:8 / A 8
BXA8            | B:G:R:x 8:8:8:8 / A 8
R8A8            | R:G:B 8:8:8 / A 8
B8A8            | B:G:R 8:8:8 / A 8
R5A8            | R:G:B 5:6:5 / A 8
B5A8            | B:G:R 5:6:5 / A 8

NV12 NV16 NV24  | Y 8 / Cr:Cb 8:8
NV21 NV61 NV42  | Y 8 / Cb:Cr 8:8
NV15 NV20 NV30  | Y3:Y2:Y1:Y0 10:10:10:10 / Cr1:Cb1:Cr0:Cb0 10:10:10:10
P010 P210       | Y:x 10:6 / Cr:x:Cb:x 10:6:10:6
P012            | Y:x 12:4 / Cr:x:Cb:x 12:4:12:4
P016            | Y 16 / Cr:Cb 16:16
P030            | x:Y2:Y1:Y0 2:10:10:10 / x:Cr2:Cb2:Cr1:x:Cb1:Cr0:Cb0 2:10:10:10:2:10:10:10
Q410            | Y:x 10:6 / Cb:x 10:6 / Cr:x 10:6
Q401            | Y:x 10:6 / Cr:x 10:6 / Cb:x 10:6
YUV9 YU11 YU12 YU16 YU24 | Y 8 / Cb 8 / Cr 8
YVU9 YV11 YV12 YV16 YV24 | Y 8 / Cr 8 / Cb 8
"""
_SUBSAMPLED = {  # pixels to a chroma sample, of the formats of several planes
    (2, 2): "NV12 NV21 NV15 P010 P012 P016 P030 YU12 YV12",
    (2, 1): "NV16 NV61 NV20 P210 YU16 YV16",
    (4, 1): "YU11 YV11",
    (4, 4): "YUV9 YVU9",
}
NON_LINEAR = ("VU30", "YU08", "YU10")  # "Non-linear modifier only": no buffer has them in rows of pixels
_TILES = ("Y0L0", "X0L0", "Y0L2", "X0L2")  # "2x2 tiled": the one family whose blocks are two lines high

_OPAQUE = {"XR": "x:R:G:B", "XB": "x:B:G:R", "RX": "R:G:B:x", "BX": "B:G:R:x"}
_ORDERS = _OPAQUE | {"AR": "A:R:G:B", "AB": "A:B:G:R", "RA": "R:G:B:A", "BA": "B:G:R:A"}
_FIRST = ("XR", "XB", "AR", "AB")
_FAMILIES = (  # what follows the order in the code; bits of R, G and B; of x or A; the orders there are
    *(("12", (4, 4, 4), 4, tuple(_ORDERS)), ("15", (5, 5, 5), 1, tuple(_ORDERS)), ("24", (8, 8, 8), 8, tuple(_ORDERS))),
    *(("30", (10, 10, 10), 2, tuple(_ORDERS)), ("48", (16, 16, 16), 16, _FIRST), ("4H", (16, 16, 16), 16, _FIRST)),
    *(("16", (5, 6, 5), 0, ("RG", "BG")), ("24", (8, 8, 8), 0, ("RG", "BG"))),
)


def _formats() -> Iterator[tuple[str, str]]:
    for line in filter(None, _TABLE.splitlines()):
        codes, _, text = line.partition("|")
        for code in codes.split():
            yield code, text.strip().replace("?", code[0].replace("X", "x"))
    for suffix, color, other, orders in _FAMILIES:
        sizes = dict(zip("RGBxA", (*color, other, other), strict=True))
        for order in orders:
            text = _ORDERS.get(order) or ":".join({"RG": "RGB", "BG": "BGR"}[order])
            yield order + suffix, f"{text} {':'.join(str(sizes[component]) for component in text.split(':'))}"


_FORMATS = dict(_formats())


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
    sub = next((sub for sub, codes in _SUBSAMPLED.items() if fourcc in codes.split()), (1, 1))
    height = 2 if fourcc in _TILES else 1
    planes = _FORMATS[fourcc].split("/")
    return tuple(_plane(plane.strip(), sub if index else (1, 1), height) for index, plane in enumerate(planes))


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
    """The opposite of `codes`: the bytes of each plane. Padding bits, and pixels past the edge, are the byte padding's."""
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
    visible: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """(height, width, 4) float64: R'G'B' and alpha from 0 to 1, not clipped: Y'CbCr and half floats reach further.

    palette is (n, 3 or 4), from 0 to 1, for C formats; without it they are a ramp from black to white. visible is the
    part (x, y, width, height) of it that is the picture: what is returned, and all that chroma is made from, as what
    lies around it is padding.
    """
    x, y, wide, high = visible or (0, 0, width, height)
    columns, rows = slice(x, x + wide), slice(y, y + high)
    values, depth = codes(fourcc, width, height, planes), bits(fourcc)
    for component in values.keys() - {"Cb", "Cr"}:
        values[component] = values[component][rows, columns]
    found = np.ones((high, wide, 4))

    def scaled(component: str) -> np.ndarray:
        if is_half(fourcc):
            return values[component].astype(np.uint16).view(np.float16).astype(np.float64)
        return values[component] / ((1 << depth[component]) - 1)

    if model(fourcc) == "yuv":
        across, down = subsampling(fourcc)
        cosited = siting != "center", siting == "topleft"
        cb, cr = (
            _interpolate(_interpolate(values[component], columns, across, cosited[0], 1), rows, down, cosited[1], 0)
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


def _interpolate(values: np.ndarray, pixels: slice, sub: int, cosited: bool, axis: int) -> np.ndarray:
    """Chroma samples brought to pixels: linear between the nearest two, of those that the pixels share; the edge's own
    beyond the edge.

    Cosited: sample 0 lies on pixel 0. Else in the middle of the pixels that it covers.
    """
    samples = np.arange(pixels.start // sub, -(-pixels.stop // sub))
    place = np.arange(pixels.start, pixels.stop)
    place = place / sub if cosited else (place + 0.5) / sub - 0.5
    return np.apply_along_axis(lambda line: np.interp(place, samples, line[samples]), axis, values.astype(np.float64))


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


_TURNS = {"normal": (False, 0), "90": (False, 1), "180": (False, 2), "270": (False, 3)}  # name: flipped, quarter turns
_FLIPS = {"flipped": (True, 0), "flipped-90": (True, 1), "flipped-180": (True, 2), "flipped-270": (True, 3)}
TRANSFORMS = _TURNS | _FLIPS


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
