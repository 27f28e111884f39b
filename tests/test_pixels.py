"""What bytes look like: every picture format against fractions, pixel by pixel; Pillow's way and the bytes' way."""

from __future__ import annotations

import itertools
import math
import random
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from glreadback import pixels
from glreadback.errors import GlReadbackError
from glreadback.fourcc import Fourcc
from glreadback.surface import Surface

ONE_PLANE = [fourcc for fourcc in Fourcc.all() if fourcc.info.linear and len(fourcc.info.planes) == 1]
PICTURES = [fourcc for fourcc in ONE_PLANE if fourcc.info.model != "yuv"] + [
    Fourcc("XR24_BE"),
    Fourcc("AR12_BE"),
    Fourcc("RX12_BE"),
]
BYTES = [fourcc for fourcc in PICTURES if pixels.byte_order(fourcc.info)]


def random_surface(fourcc: Fourcc, width: int, height: int, padding: int = 0) -> Surface:
    """Random bits, padding between rows and padding bits included; the last row ends with its last pixel."""
    row = fourcc.info.planes[0].row_bytes(width)
    data = random.Random(f"{fourcc}{width}{height}").randbytes((row + padding) * (height - 1) + row)
    return Surface.wrap(bytearray(data), width, height, fourcc, row + padding)


def exactly(surface: Surface, x: int, y: int) -> dict[str, Fraction]:
    """The components of one pixel as parts of 1, read from the table in whole numbers."""
    info = surface.fourcc.info
    layout = info.planes[0]
    start = y * surface.stride + x // layout.block_width * layout.block_bytes
    block = int.from_bytes(surface.data[start : start + layout.block_bytes], "little")
    found = {}
    for field in layout.fields:
        if field.component != "X" and field.sample == x % layout.block_width:
            value = block >> field.shift & (1 << field.bits) - 1
            if info.floating:
                (half,) = struct.unpack("<e", value.to_bytes(2, "little"))
                found[field.component] = Fraction(0 if math.isnan(half) else min(max(half, 0), 1))
            else:
                found[field.component] = Fraction(value, (1 << field.bits) - 1)
    return found


def expected(surface: Surface, most: int) -> list[list[list[int]]]:
    """What `samples` is to give; Python rounds fractions to the nearest, halves to even."""
    kind = pixels.mode(surface.fourcc.info)
    rows = []
    for y in range(surface.height):
        row = []
        for x in range(surface.width):
            parts = exactly(surface, x, y)
            if kind == "L":
                ((component, value),) = parts.items()
                row.append([round((1 - value if component == "D" else value) * most)])
            else:
                row.append([round(parts.get(component, Fraction(0)) * most) for component in kind])
        rows.append(row)
    return rows


@pytest.mark.parametrize("most", [255, 65535])
@pytest.mark.parametrize("fourcc", PICTURES)
def test_samples_are_the_nearest_values_of_every_format(fourcc: Fourcc, most: int) -> None:
    for width, height, padding in ((1, 1, 0), (11, 7, 0), (13, 5, 9)):
        surface = random_surface(fourcc, width, height, padding)
        assert pixels.samples(surface, most).tolist() == expected(surface, most)


@pytest.mark.parametrize("fourcc", PICTURES)
def test_rgba8_has_grey_in_all_colours_and_is_opaque_without_alpha(fourcc: Fourcc) -> None:
    surface = random_surface(fourcc, 13, 5, 9)
    found = pixels.rgba8(surface)
    assert found.shape == (5, 13, 4)
    assert found.dtype == np.uint8
    assert found.flags.owndata
    for row, wanted in zip(found.tolist(), expected(surface, 255), strict=True):
        for pixel, parts in zip(row, wanted, strict=True):
            colors = parts * 3 if len(parts) == 1 else parts[:3]
            assert pixel == [*colors, parts[3] if fourcc.info.has_alpha else 255]
    assert np.array_equal(surface.rgba(), found)


@pytest.mark.parametrize("fourcc", PICTURES)
def test_images_have_the_same_pixels(fourcc: Fourcc) -> None:
    for width, height, padding in ((1, 1, 0), (13, 5, 0), (13, 5, 12), (64, 3, 1)):
        surface = random_surface(fourcc, width, height, padding)
        image = pixels.to_image(surface)
        assert image.size == (width, height)
        assert image.mode == pixels.mode(fourcc.info)
        assert np.array_equal(np.asarray(image.convert("RGBA")), pixels.rgba8(surface))
        before = image.tobytes()
        surface.data[:] = bytes(len(surface.data))
        assert image.tobytes() == before, "the image has pixels of its own"


MODES = {"L": "R8 R16 R1 C4 C8 D1", "RGB": "XR24 RG16 XR30 XB48 GR88 RG24", "RGBA": "AR24 AB15 AR30 AB48 AB4H AB10"}


@pytest.mark.parametrize("kind", MODES)
def test_modes(kind: str) -> None:
    for code in MODES[kind].split():
        assert pixels.mode(Fourcc(code).info) == kind


def test_half_floats_are_cut_to_what_a_screen_shows() -> None:
    halves = [float("nan"), float("inf"), float("-inf"), -0.5, 1.5, 0.5, 2**-24, 1.0]
    surface = Surface.wrap(bytearray(struct.pack("<8e", *halves)), 2, 1, "AB4H")
    assert pixels.samples(surface, 255).ravel().tolist() == [0, 255, 0, 0, 255, 128, 0, 255]
    assert pixels.samples(surface, 65535).ravel().tolist() == [0, 65535, 0, 0, 65535, 32768, 0, 65535]


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
@pytest.mark.parametrize("most", [255, 65535])
@pytest.mark.parametrize("fourcc", PICTURES)
def test_packed_is_what_files_hold(fourcc: Fourcc, channels: str, most: int) -> None:
    for width, height, padding in ((13, 5, 0), (13, 5, 9)):
        surface = random_surface(fourcc, width, height, padding)
        found = b"".join(pixels.packed(surface, channels, most))
        wanted = []
        for parts in itertools.chain.from_iterable(expected(surface, most)):
            colors = parts * 3 if len(parts) == 1 else parts[:3]
            wanted += [*colors, parts[3] if len(parts) == 4 else most][: len(channels)]
        assert found == struct.pack(f">{len(wanted)}{'B' if most == 255 else 'H'}", *wanted)


def test_packed_grey() -> None:
    surface = random_surface(Fourcc("R4"), 5, 3, 2)
    assert list(b"".join(pixels.packed(surface, "L"))) == np.ravel(expected(surface, 255)).tolist()
    with pytest.raises(GlReadbackError, match="XR24 has colours"):
        b"".join(pixels.packed(random_surface(Fourcc("XR24"), 2, 2), "L"))


@pytest.mark.parametrize("fourcc", BYTES)
def test_large_pictures_are_packed_in_pieces_that_fit_together(fourcc: Fourcc) -> None:
    surface = random_surface(fourcc, 1021, 700)
    pieces = [bytes(piece) for piece in pixels.packed(surface, "RGB")]
    assert len(pieces) > 1
    assert b"".join(pieces) == pixels.rgba8(surface)[..., :3].tobytes()


def test_byte_pixels_need_neither_numpy_nor_pillow() -> None:
    code = (
        "from glreadback.surface import Surface; from glreadback import pixels; import sys\n"
        f"for code in {[str(fourcc) for fourcc in BYTES]}: b''.join(pixels.packed(Surface.allocate(4, 4, code), 'RGB'))\n"
        "print(*({'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
    assert {"XR24", "XB24", "RX24", "BX24", "AR24", "AB24", "RA24", "BA24", "RG24", "BG24"} <= {*BYTES}


@pytest.mark.parametrize("fourcc", [fourcc for fourcc in ONE_PLANE if fourcc.info.model == "yuv"])
def test_yuv_has_to_be_converted_first(fourcc: Fourcc) -> None:
    surface = Surface.allocate(4, 4, fourcc)
    for convert in (pixels.rgba8, pixels.to_image, lambda surface: list(pixels.packed(surface, "RGB"))):
        with pytest.raises(GlReadbackError, match=f"{fourcc} is Y'CbCr, .* fourcc='AB24'"):
            convert(surface)
