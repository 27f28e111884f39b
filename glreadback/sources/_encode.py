"""Float R'G'B' into the planes of any linear format of DRM's table, with numpy: the slow way that knows them all.

Conventions, as video people expect where the format leaves a choice: Y'CbCr is narrow range, BT.709 from 720 lines on
and BT.601 below; subsampled chroma lies on the left pixel of its pair (weights 1 2 1) and between the lines. One colour
component is shown as grey: R and C formats hold BT.709 luma, D formats its complement. Samples past an odd edge repeat
the last pixel. Padding bits hold the low bits of 0xA5A5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np

from ..color import MATRICES
from ..fourcc import FormatInfo, PlaneFormat
from .patterns import Band, Channel, yuv_matrix

Array = np.ndarray[Any, np.dtype[Any]]

PADDING = 0xA5A5
_NARROW = {"Y": (16, 219), "Cb": (128, 224), "Cr": (128, 224)}  # of 255: where 0 is, how far 1 is from it


def picture(bands: Iterable[Band]) -> Array:
    """The bands as float64 (3, height, width)."""
    known: dict[int, tuple[Channel, Array]] = {}  # by identity; the channel is kept so that its id stays its own

    def row(channel: Channel) -> Array:
        if id(channel) not in known:
            lengths, values = zip(*channel, strict=True)
            known[id(channel)] = channel, np.repeat(np.array(values), lengths)
        return known[id(channel)][1]

    listed = list(bands)
    starts = [0, *accumulate(band.rows for band in listed)]
    found = np.empty((3, starts[-1], row(listed[0].red).size))
    for band, start in zip(listed, starts, strict=False):
        for index, channel in enumerate((band.red, band.green, band.blue)):
            found[index, start : start + band.rows] = row(channel)
    return found


def noise(width: int, height: int, seed: int) -> Array:
    """float64 (4, height, width), the fourth being alpha; the same for a seed with any numpy."""
    # RandomState's stream is frozen by numpy's own policy; that of default_rng() is not.
    words = np.frombuffer(np.random.RandomState(seed & 0xFFFFFFFF).bytes(width * height * 8), "<u2")
    return words.reshape(4, height, width) / 65535.0


def encode(info: FormatInfo, colors: Array) -> list[Array]:
    """The planes of the picture, each uint8 (rows of blocks, row bytes). colors: float64 (3 or 4, height, width)."""
    components = _components(info, colors)
    return [_plane(info, plane, components) for plane in info.planes]


def _components(info: FormatInfo, colors: Array) -> dict[str, Array]:
    """What each component of the format holds at full resolution, 0..1 of its range; float64 (height, width)."""
    red, green, blue = colors[:3]
    alpha = colors[3] if len(colors) > 3 else np.ones(red.shape)
    if info.model == "yuv":
        matrix = MATRICES[yuv_matrix(len(red))]
        luma = matrix.kr * red + (1 - matrix.kr - matrix.kb) * green + matrix.kb * blue
        return {
            "Y": luma,
            "Cb": (blue - luma) / (2 * (1 - matrix.kb)),
            "Cr": (red - luma) / (2 * (1 - matrix.kr)),
            "A": alpha,
        }
    weights = MATRICES["709"]
    grey = weights.kr * red + (1 - weights.kr - weights.kb) * green + weights.kb * blue
    return {"R": red if "G" in info.bits else grey, "G": green, "B": blue, "A": alpha, "C": grey, "D": 1.0 - grey}


def _quantize(info: FormatInfo, component: str, values: Array, bits: int) -> Array:
    if info.floating:
        numbers: Array = values.astype(f"<f{bits // 8}").view(f"<u{bits // 8}")
        return numbers
    if component in _NARROW:
        zero, scale = _NARROW[component]
        values = (zero + scale * values) * 2 ** (bits - 8)
    else:
        values = values * (2**bits - 1)
    return np.rint(values).astype(np.uint16)


def _plane(info: FormatInfo, plane: PlaneFormat, components: dict[str, Array]) -> Array:
    height, width = components["A"].shape
    rows = plane.rows(height)
    columns = plane.row_bytes(width) // plane.block_bytes
    blocks = np.zeros((rows, columns), "<u8")  # all linear formats have blocks of at most eight bytes
    counts = Counter(field.component for field in plane.fields)
    samples: dict[str, tuple[Array, int, int]] = {}  # values of the whole plane, samples across and down a block
    for name in counts.keys() - {"X"}:
        # A component has a sample for each of the block's places, or one for the whole block (packed YUV's chroma).
        alone = counts[name] == 1
        across, down = (1, 1) if alone else (plane.block_width, plane.block_height)
        shrunk = _subsample(components[name], plane.hsub * plane.block_width // across, plane.vsub * plane.block_height // down)
        values = _quantize(info, name, _grown(shrunk, rows * down, columns * across), info.bits[name])
        samples[name] = values, across, down
    for field in plane.fields:
        if field.component == "X":
            part: Any = PADDING & (1 << field.bits) - 1
        else:
            values, across, down = samples[field.component]
            part = values[field.sample // across :: down, field.sample % across :: across]
        blocks |= np.asarray(part, np.uint64) << np.uint64(field.shift)
    used: Array = blocks.view(np.uint8).reshape(rows, columns, 8)[..., : plane.block_bytes]
    return used.reshape(rows, -1)


def _subsample(values: Array, across: int, down: int) -> Array:
    """One sample for across x down pixels: on the left pixel, between the lines. Odd edges repeat the last pixel."""
    height, width = values.shape
    columns, rows = -(-width // across), -(-height // down)
    if across > 1:
        at = np.arange(columns) * across
        reach = range(1 - across, across)
        total = np.zeros((height, columns))
        for step in reach:
            total += (across - abs(step)) * values[:, np.clip(at + step, 0, width - 1)]
        values = total / across**2
    if down > 1:
        at = np.arange(rows) * down
        lines = np.stack([values[np.minimum(at + step, height - 1)] for step in range(down)])
        values = np.mean(lines, axis=0)
    return values


def _grown(values: Array, rows: int, columns: int) -> Array:
    """values with its last row and column repeated up to that size."""
    height, width = values.shape
    return np.pad(values, ((0, rows - height), (0, columns - width)), "edge")
