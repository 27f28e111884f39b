"""Pictures made by another implementation: FFmpeg's swscale writes them, swscale and glreadback read them, both must agree.

swscale's most careful mode is wanted: bilinear chroma, interpolated for every pixel, rounded to the nearest. It works in
15 bits or so, and its result is 8 bits: half a step of rounding, and what its arithmetic adds.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import reference

from glreadback import Color, DmaBuf, Frame, Plane, Reader
from glreadback.kernel.udmabuf import sealed_memfd

pytest.importorskip("av", reason="PyAV is needed: pip install --group dev")

import av
import av.filter

SIZE = (96, 54)  # whole chroma samples: where they are not, swscale stretches them to the picture's width
CAREFUL = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"

# FFmpeg's names and DRM's, where both mean the same bytes.
# 4:1:0 is left out: swscale puts its chroma elsewhere down the picture, and no standard says where it is.
_YUV = """
    yuv420p=YU12 yuv422p=YU16 yuv444p=YU24 yuv411p=YU11 nv12=NV12 nv21=NV21 nv16=NV16 nv24=NV24 nv42=NV42
    yuyv422=YUYV uyvy422=UYVY yvyu422=YVYU vuya=AYUV vuyx=XYUV
    p010le=P010 p012le=P012 p016le=P016 p210le=P210 y210le=Y210 y212le=Y212 xv30le=XV30 xv36le=XV36 xv48le=XV48
"""
YUV = dict(pair.split("=") for pair in _YUV.split())
DEEP_YUV = {name: code for name, code in YUV.items() if reference.bits(code)["Y"] > 8}
_RGB = """
    rgb24=BG24 bgr24=RG24 rgba=AB24 bgra=AR24 argb=BA24 abgr=RA24 rgb0=XB24 bgr0=XR24 0rgb=BX24 0bgr=RX24
    rgb565le=RG16 bgr565le=BG16 rgb555le=XR15 bgr555le=XB15 rgb444le=XR12 bgr444le=XB12 rgb8=RGB8 bgr8=BGR8
    x2rgb10le=XR30 x2bgr10le=XB30 rgba64le=AB48 bgra64le=AR48
"""
RGB = dict(pair.split("=") for pair in _RGB.split())
GREY = {"gray": "R8", "gray10le": "R10", "gray12le": "R12", "gray16le": "R16"}
MATRICES = {"601": "smpte170m", "709": "bt709", "2020": "bt2020"}
RANGES = {"narrow": "tv", "full": "pc"}
SITINGS = ("left", "center", "topleft")


@functools.cache
def scene() -> np.ndarray:
    """R'G'B' from 0.1 to 0.9, smooth, each channel another: no colour is out of reach of any matrix."""
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    return np.stack([0.5 + 0.4 * np.sin(x / 11 + k) * np.cos(y / (7 + 2 * k)) for k in range(3)], -1)


def rgb_frame() -> Any:
    """The scene as FFmpeg has it, in 16 bits."""
    frame = av.VideoFrame(*SIZE, "rgba64le")
    opaque = np.concatenate([scene(), np.ones((*scene().shape[:2], 1))], -1)
    rows(frame)[:, : SIZE[0] * 8] = np.rint(opaque * 65535).astype("<u2").view(np.uint8).reshape(SIZE[1], -1)
    frame.pts = 0
    return frame


def rows(frame: Any, plane: int = 0) -> np.ndarray:
    found = frame.planes[plane]
    return np.frombuffer(found, np.uint8).reshape(-1, found.line_size)


def convert(frame: Any, to: str, **options: object) -> Any:
    """What FFmpeg's scale filter makes of a frame."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base="1/25")
    told = ":".join(f"{name}={value}" for name, value in {"flags": CAREFUL, **options}.items())
    steps = [source, graph.add("scale", told), graph.add("format", f"pix_fmts={to}"), graph.add("buffersink")]
    for one, other in itertools.pairwise(steps):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def encoded(name: str, matrix: str, extent: str) -> Any:
    return convert(rgb_frame(), name, in_range="pc", out_range=RANGES[extent], out_color_matrix=MATRICES[matrix])


def decoded(frame: Any, matrix: str, extent: str, siting: str, to: str = "rgba") -> np.ndarray:
    """R'G'B' from 0 to 1, by swscale."""
    options = {"in_color_matrix": MATRICES[matrix], "in_range": RANGES[extent], "out_range": "pc"}
    found = convert(frame, to, in_chroma_loc=siting, **options)
    kind = np.dtype("u1" if to == "rgba" else "<u2")
    pixels = rows(found)[: SIZE[1], : SIZE[0] * 4 * kind.itemsize].copy().view(kind).reshape(SIZE[1], SIZE[0], 4)
    return pixels[..., :3] / np.iinfo(kind).max


Read = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def read(software: None) -> Iterator[Read]:
    """Reads an FFmpeg frame with glreadback, as R'G'B' from 0 to 1."""
    fd = sealed_memfd(1 << 20)
    memory = np.frombuffer(mmap.mmap(fd, 1 << 20), np.uint8)

    def read(frame: Any, fourcc: str, target: str = "AB48", color: Color | None = None) -> np.ndarray:
        planes, start = [], 0
        for index in range(len(frame.planes)):
            data = rows(frame, index)
            memory[start : start + data.size] = data.reshape(-1)
            planes.append(Plane(fd, start, data.shape[1]))
            start += data.size
        surface = reader.read(Frame(DmaBuf(*SIZE, fourcc, planes), color=color), fourcc=target, route="draw")
        return np.asarray(surface)[..., :3] / np.iinfo(np.asarray(surface).dtype).max

    with Reader("software") as reader:
        yield read
    os.close(fd)


def steps(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in steps of 8 bits."""
    return float(np.abs(one - other).max() * 255)


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("name", list(YUV))
def test_yuv_reads_as_swscale_reads_it(read: Read, name: str, siting: str) -> None:
    """0.6 of a step: swscale's rounding is 0.5, its arithmetic 0.02 of what is left."""
    frame = encoded(name, "709", "narrow")
    theirs = decoded(frame, "709", "narrow", siting)
    assert steps(read(frame, YUV[name], color=Color("709", "narrow", siting)), theirs) < 0.6
    # In 8 bits both are rounded, so that they may be on two sides of a half.
    assert steps(read(frame, YUV[name], "AB24", Color("709", "narrow", siting)), theirs) < 1.01


@pytest.mark.parametrize(("matrix", "extent"), [("601", "narrow"), ("601", "full"), ("2020", "narrow"), ("709", "full")])
@pytest.mark.parametrize("name", [name for name in YUV if name not in DEEP_YUV])
def test_every_matrix_and_range_as_swscale_has_it(read: Read, name: str, matrix: str, extent: str) -> None:
    frame = encoded(name, matrix, extent)
    ours = read(frame, YUV[name], color=Color(matrix, extent, "center"))
    assert steps(ours, decoded(frame, matrix, extent, "center")) < 0.6


@pytest.mark.parametrize("name", ["p210le", "y210le", "y212le", "xv30le", "xv36le", "xv48le"])
def test_deep_full_range_as_swscale_has_it(read: Read, name: str) -> None:
    """To 8 bits swscale takes white for 255 * 2^(n-8), up to 1.4 steps too dark; to 16 bits it is right, but for 2 bits
    of the source's. (Formats with half the lines of chroma overflow there, and are left out.)"""
    frame = encoded(name, "601", "full")
    theirs = decoded(frame, "601", "full", "center", "rgba64le")
    depth = reference.bits(YUV[name])["Y"]
    assert steps(read(frame, YUV[name], color=Color("601", "full", "center")), theirs) < 1 / (1 << (depth - 8)) + 0.01


@pytest.mark.parametrize("name", ["yuv444p", "nv24", "vuya", "xv30le", "xv36le", "xv48le"])
def test_the_picture_comes_back(read: Read, name: str) -> None:
    """Through swscale's encoder and our decoder: what 4:4:4 code values of so many bits, rounded or dithered, can hold."""
    frame = encoded(name, "709", "narrow")
    found = read(frame, YUV[name], color=Color("709", "narrow"))
    assert steps(found, scene()) < (4.0 if name not in DEEP_YUV else 1.5)


@pytest.mark.parametrize("name", list(RGB))
def test_rgb_comes_back(read: Read, name: str) -> None:
    """What this is about is the order and the size of components. swscale goes from RGB to RGB by way of Y'CbCr, and
    dithers where there are few bits: two steps of the format, or 1.5 of 8 bits, are its own doing; a third of that on average.
    """
    found, meant = read(convert(rgb_frame(), name), RGB[name]), scene()
    depths = reference.bits(RGB[name])
    for index, component in enumerate("RGB"):
        step = max(1 / ((1 << depths[component]) - 1), 0.75 / 255)
        difference = np.abs(found[..., index] - meant[..., index])
        assert difference.max() < 2.1 * step, f"{component} is off by {difference.max() / step:.3f} steps"
        assert difference.mean() < 0.7 * step, f"{component} is off by {difference.mean() / step:.3f} steps on average"


@pytest.mark.parametrize("name", list(GREY))
def test_grey_comes_back(read: Read, name: str) -> None:
    """swscale's grey is BT.601's luma, in full range."""
    found, meant = read(convert(rgb_frame(), name), GREY[name])[..., 0], scene() @ [0.299, 0.587, 0.114]
    assert np.abs(found - meant).max() < 2 / 255


@pytest.mark.parametrize(("name", "fourcc"), [("monob", "R1"), ("monow", "D1")])
def test_one_bit_is_black_or_white(read: Read, name: str, fourcc: str) -> None:
    """Dithered by swscale; what it reads from its own bits is what we read."""
    frame = convert(rgb_frame(), name)
    theirs = rows(convert(frame, "rgba"))[:, : 4 * SIZE[0]].reshape(SIZE[1], SIZE[0], 4)[..., :3] / 255
    ours = read(frame, fourcc)
    assert np.array_equal(ours, theirs)
    assert 0.3 < ours.mean() < 0.7
