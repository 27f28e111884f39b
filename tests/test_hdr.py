"""HDR: kept with its colour description, or tone-mapped by BT.2390's curve."""

from __future__ import annotations

import dataclasses
import io
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import glreadback
from glreadback.color import Color
from glreadback.errors import DescriptorError


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084's inverse EOTF, of cd/m2."""
    y = np.maximum(light, 0) / 10000
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    return ((c1 + c2 * y**m1) / (1 + c3 * y**m1)) ** m2


def pq_light(code: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    e = np.maximum(code, 0) ** (1 / m2)
    return 10000 * (np.maximum(e - c1, 0) / (c2 - c3 * e)) ** (1 / m1)


def hlg_light(code: np.ndarray) -> np.ndarray:
    """BT.2100's HLG inverse OETF and OOTF for a display of 1000 cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    y = scene @ np.array([0.2627, 0.678, 0.0593])
    return 1000 * np.maximum(y, 1e-6)[..., None] ** 0.2 * scene


def tone_mapped(light: np.ndarray, peak: float = 1000.0, white: float = 203.0) -> np.ndarray:
    """BT.2390's EETF on the brightest component, BT.2020 to BT.709 (BT.2087), the sRGB curve."""
    brightest = light.max(axis=-1)
    top = pq(np.array(peak))
    most = pq(np.array(white)) / top
    knee = 1.5 * most - 0.5
    e = np.minimum(pq(brightest) / top, 1)
    t = (e - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    mapped = pq_light(np.where(e < knee, e, spline) * top)
    light = light * np.where(brightest > 0, mapped / np.where(brightest > 0, brightest, 1), 1)[..., None]
    matrix = np.array([[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]])
    rgb = np.clip(light / white @ matrix.T, 0, 1)
    return np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)


@pytest.fixture
def ramp() -> glreadback.sources.Source:  # type: ignore[name-defined]
    with glreadback.open_source("pattern:noise?size=64x40&fourcc=AB48&seed=3") as source:
        yield source


@pytest.mark.parametrize(("transfer", "light"), [("pq", pq_light), ("hlg", hlg_light)])
def test_tone_mapping_follows_the_published_curve(ramp, transfer, light) -> None:
    frame = dataclasses.replace(next(iter(ramp.frames())), color=Color(transfer=transfer))
    with glreadback.Reader("software") as reader:
        code = reader.read(frame, fourcc="AB48").array()[..., :3] / 65535
        surface = reader.read(frame, tone_map=True)
    assert surface.fourcc == "AB24"
    assert surface.color is None  # it is plain sRGB now
    expected = tone_mapped(light(code)) * 255
    assert np.abs(surface.array()[..., :3] - expected).max() <= 1.0
    assert len(np.unique(surface.array())) > 50


def test_white_of_sdr_in_hdr_is_brighter_than_the_curve_leaves_it() -> None:
    # 203 cd/m2 lies above the knee: the curve makes room for what is brighter, and is monotonic.
    codes = pq(np.array([0.0, 1.0, 50.0, 100.0, 203.0, 400.0, 1000.0, 4000.0]))
    shown = tone_mapped(pq_light(codes)[:, None].repeat(3, axis=1))[:, 0]
    assert shown[0] == 0
    assert (np.diff(shown) >= -1e-9).all()
    assert shown[-1] == pytest.approx(1, abs=1e-3)


def test_there_must_be_hdr_to_tone_map(ramp) -> None:
    with glreadback.Reader("software") as reader, pytest.raises(DescriptorError, match="nothing to tone-map"):
        reader.read(next(iter(ramp.frames())), tone_map=True)


def test_hdr_is_kept_with_its_description(ramp, tmp_path: Path) -> None:
    frame = dataclasses.replace(next(iter(ramp.frames())), color=Color(transfer="pq", primaries="2020"))
    surface = glreadback.read(frame, device="software")
    surface.save(tmp_path / "hdr.png")
    data = (tmp_path / "hdr.png").read_bytes()
    place = data.index(b"cICP")
    assert place == 33 + 4  # between the header and the pixels
    assert data[place + 4 : place + 8] == bytes((9, 16, 0, 1))  # BT.2020, PQ, R'G'B', full range
    assert int.from_bytes(data[place + 8 : place + 12], "big") == zlib.crc32(data[place : place + 8])
    decoded = imagecodecs.png_decode(data)
    assert np.array_equal(decoded[..., :3], surface.array()[..., :3])


def test_no_description_where_nothing_is_known(ramp) -> None:
    stream = io.BytesIO()
    glreadback.sinks.write(glreadback.read(next(iter(ramp.frames())), device="software"), stream, "png")  # type: ignore[attr-defined]
    assert b"cICP" not in stream.getvalue()
