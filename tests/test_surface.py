"""Surface: memory that knows what it holds, for everybody who takes memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

import numpy as np
import pytest
from pictures import one_plane_formats, pixels

from glreadback import DescriptorError, Fourcc, Surface
from glreadback.surface import array_shape, element, packed_row

# fourcc -> the shape of 7x5 pixels, numpy's type
SHAPES = {
    "XR24": ((5, 7, 4), "|u1"),
    "AB24": ((5, 7, 4), "|u1"),
    "RG24": ((5, 7, 3), "|u1"),
    "R8": ((5, 7), "|u1"),
    "GR88": ((5, 7, 2), "|u1"),
    "R16": ((5, 7), "<u2"),
    "GR32": ((5, 7, 2), "<u2"),
    "RG16": ((5, 7), "<u2"),
    "AR15": ((5, 7), "<u2"),
    "AR30": ((5, 7), "<u4"),
    "AB48": ((5, 7, 4), "<u2"),
    "XB48": ((5, 7, 4), "<u2"),
    "AB4H": ((5, 7, 4), "<f2"),
    "XR4H": ((5, 7, 4), "<f2"),
    "C8": ((5, 7), "|u1"),
    "R1": ((5, 1), "|u1"),
    "YUYV": ((5, 4, 4), "|u1"),
    "Y410": ((5, 7), "<u4"),
    "Y412": ((5, 7, 4), "<u2"),
    "RGB8": ((5, 7), "|u1"),
}
PIXMAN = {
    # pixman.h, as its PIXMAN_FORMAT(bpp, type, a, r, g, b) spells them out
    "AR24": 0x20028888,  # a8r8g8b8
    "XR24": 0x20020888,  # x8r8g8b8
    "AB24": 0x20038888,  # a8b8g8r8
    "XB24": 0x20030888,  # x8b8g8r8
    "BA24": 0x20088888,  # b8g8r8a8
    "BX24": 0x20080888,  # b8g8r8x8
    "RA24": 0x20098888,  # r8g8b8a8
    "RX24": 0x20090888,  # r8g8b8x8
    "AR30": 0x20022AAA,  # a2r10g10b10
    "XR30": 0x20020AAA,  # x2r10g10b10
    "AB30": 0x20032AAA,  # a2b10g10r10
    "XB30": 0x20030AAA,  # x2b10g10r10
    "RG24": 0x18020888,  # r8g8b8
    "BG24": 0x18030888,  # b8g8r8
    "RG16": 0x10020565,  # r5g6b5
    "BG16": 0x10030565,  # b5g6r5
    "AR15": 0x10021555,  # a1r5g5b5
    "XR15": 0x10020555,  # x1r5g5b5
    "AB15": 0x10031555,  # a1b5g5r5
    "XB15": 0x10030555,  # x1b5g5r5
    "AR12": 0x10024444,  # a4r4g4b4
    "XR12": 0x10020444,  # x4r4g4b4
    "AB12": 0x10034444,  # a4b4g4r4
    "XB12": 0x10030444,  # x4b4g4r4
    "RGB8": 0x08020332,  # r3g3b2
    "BGR8": 0x08030332,  # b2g3r3
}


def filled(fourcc: str, width: int, height: int, pad: int = 0) -> Surface:
    """A surface of bytes that are all different from their neighbours, also in the padding."""
    row = packed_row(Fourcc(fourcc), width, height)
    rows = Fourcc(fourcc).info.planes[0].rows(height)
    memory = (np.arange((row + pad) * rows) * 31 + 5).astype(np.uint8)
    return Surface.wrap(memory, width, height, fourcc, row + pad)


# ---- made of memory


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_allocate(fourcc: Fourcc) -> None:
    for width, height, pad in ((1, 1, 0), (7, 5, 0), (7, 5, 9), (64, 33, 64)):
        row = packed_row(fourcc, width, height)
        surface = Surface.allocate(width, height, fourcc, row + pad if pad else None)
        assert (surface.width, surface.height, surface.fourcc) == (width, height, fourcc)
        assert (surface.stride, surface.row_bytes, surface.packed) == (row + pad, row, not pad)
        rows = fourcc.info.planes[0].rows(height)
        assert surface.data.nbytes == (row + pad) * (rows - 1) + row
        assert not surface.data.readonly
        assert not any(surface.tobytes())
        assert surface.route is None
        assert not surface.closed


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (bytearray(255), "holds 255 bytes, 8x8 XR24 with stride 32 from byte 0 needs 256"),
        (bytearray(), "holds 0 bytes, 8x8 XR24 with stride 32 from byte 0 needs 256"),
        (np.zeros((8, 64), np.uint8)[:, :32], "one contiguous block; give its base and a stride"),
        (np.zeros((16, 32), np.uint8)[::2], "one contiguous block"),
        (np.zeros((8, 32), np.uint8)[::-1], "one contiguous block"),
        (np.zeros((32, 8), np.uint8).T, "one contiguous block"),
    ],
)
def test_memory_that_does_not_do(memory: Any, message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        Surface.wrap(memory, 8, 8, "XR24")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 31}, "stride is 31 bytes, a row of 8 XR24 pixels needs 32"),
        ({"stride": 0}, "stride is 0 bytes"),
        ({"stride": -32}, "stride is -32 bytes"),
        ({"stride": 33}, "holds 256 bytes, 8x8 XR24 with stride 33 from byte 0 needs 263"),
        ({"offset": 1}, "from byte 1 needs 257"),
        ({"offset": -1}, "from byte -1 needs 255"),
        ({"stride": 2**63}, "needs"),
        ({"offset": 2**64}, "needs"),
        ({"width": 0}, "a surface of 0x8 pixels: both must be at least 1"),
        ({"height": 0}, "a surface of 8x0 pixels"),
        ({"width": -8}, "a surface of -8x8 pixels"),
        ({"width": 9}, "holds 256 bytes"),
        ({"height": 9}, "holds 256 bytes"),
        ({"fourcc": "NV12"}, "NV12 has 2 planes; a surface holds packed pixels. read_planes gives the planes"),
        ({"fourcc": "YU08"}, "YU08 has no linear layout"),
        ({"fourcc": "ZZ99"}, "ZZ99"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    memory = bytearray(256)
    with pytest.raises(DescriptorError, match=message):
        Surface.wrap(memory, **{"width": 8, "height": 8, "fourcc": "XR24", **options})
    memory.clear()  # nothing holds on to it


@pytest.mark.parametrize(
    ("size", "fourcc", "stride", "message"),
    [
        ((0, 8), "XR24", None, "a surface of 0x8 pixels: both must be at least 1"),
        ((8, -8), "XR24", None, "a surface of 8x-8 pixels"),
        ((8, 8), "XR24", 31, "stride is 31 bytes, a row of 8 XR24 pixels needs 32"),
        ((8, 8), "XR24", -32, "stride is -32 bytes"),
        ((8, 8), "NV12", None, "NV12 has 2 planes; a surface holds packed pixels"),
    ],
)
def test_sizes_that_cannot_be_allocated(size: tuple[int, int], fourcc: str, stride: int | None, message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        Surface.allocate(*size, fourcc, stride)


@pytest.mark.parametrize(
    "memory",
    [
        bytearray(300),
        np.zeros(300, np.uint8),
        np.zeros(75, ">u4"),
        np.zeros(38, np.float64),
        np.zeros((5, 15), np.dtype([("a", "u2"), ("b", "u2")])),
        np.zeros(150, np.float16),
        np.zeros((3, 100), np.int8),
        (ctypes.c_ubyte * 300)(),
        (ctypes.c_uint32 * 75)(),
        (ctypes.c_double * 2 * 19)(),
        memoryview(bytearray(300)),
        memoryview(bytearray(400))[50:350],
        Surface.allocate(75, 1, "AR24"),
        Surface.allocate(30, 1, "AB48"),
    ],
    ids=lambda memory: f"{type(memory).__name__}-{getattr(memory, 'dtype', '')}",
)  # fmt: skip
def test_memory_of_any_kind(memory: Any) -> None:
    """What is written through the surface is in the caller's memory, and the other way round."""
    surface = Surface.wrap(memory, 6, 7, "XR24", 35, 2)
    surface.data[:] = bytes(range(1, 235))
    held = memoryview(memory).tobytes()
    assert held == bytes(2) + bytes(range(1, 235)) + bytes(len(held) - 236)
    assert surface.address == ctypes.addressof(ctypes.c_char.from_buffer(surface.data))
    assert ctypes.string_at(surface.address, 3) == b"\1\2\3"


def test_the_memory_lives_as_long_as_the_surface() -> None:
    for stride in (32, 40):
        memory = bytearray(320)
        surface = Surface.wrap(memory, 8, 8, "XR24", stride)
        with pytest.raises(BufferError):
            memory.clear()
        array = np.asarray(surface)
        del surface
        gc.collect()
        with pytest.raises(BufferError):
            memory.clear()
        array[0, 0, 0] = 7
        assert memory[0] == 7
        del array
        gc.collect()
        memory.clear()


def test_read_only_memory() -> None:
    for stride in (32, 40):
        surface = Surface.wrap(bytes(range(256)) + bytes(64), 8, 8, "XR24", stride)
        assert surface.data.readonly
        array = np.asarray(surface)
        assert not array.flags.writeable
        assert array[0, 1, 0] == 4
        with pytest.raises(ValueError, match="the surface's memory is read-only"):
            _ = surface.address


# ---- seen as an array


@pytest.mark.parametrize("fourcc", SHAPES)
@pytest.mark.parametrize("pad", [0, 8, 3])
def test_arrays(fourcc: str, pad: int) -> None:
    """numpy.asarray, the array interface, array() and DLPack give the same view, and none copies."""
    surface = filled(fourcc, 7, 5, pad)
    shape, kind = SHAPES[fourcc]
    expected = pixels(surface)
    views = [np.asarray(surface), surface.array()]
    if surface.stride % np.dtype(kind).itemsize == 0:
        views.append(np.from_dlpack(surface))
    for array in views:
        assert array.shape == shape
        assert array.dtype.str == kind
        assert np.ascontiguousarray(array).view(np.uint8).tobytes() == expected.tobytes()
        assert np.shares_memory(array, np.frombuffer(surface.data, np.uint8))
    views[0][0, 0] = 0
    assert not surface.data[0]
    interface = surface.__array_interface__
    assert (interface["version"], interface["shape"], interface["typestr"]) == (3, shape, kind)
    assert surface.__dlpack_device__() == (1, 0)


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_arrays_of_every_format(fourcc: Fourcc) -> None:
    for width, height, pad in ((1, 1, 0), (7, 5, 0), (8, 8, 16)):
        surface = filled(fourcc, width, height, pad)
        array = np.asarray(surface)
        layout = fourcc.info.planes[0]
        assert array.shape == array_shape(layout, width, height, fourcc.info.floating)
        assert array.dtype.str == element(layout, fourcc.info.floating).type
        assert np.ascontiguousarray(array).tobytes() == surface.tobytes()


@pytest.mark.parametrize("fourcc", [code for code, (_, kind) in SHAPES.items() if kind != "<f2"])
def test_the_buffer_protocol(fourcc: str) -> None:
    """A packed surface is a buffer of its own shape: no numpy needed."""
    surface = filled(fourcc, 7, 5)
    shape, kind = SHAPES[fourcc]
    view = memoryview(surface)
    assert view.shape == shape
    assert view.itemsize == int(kind[2:])
    assert view.c_contiguous
    assert not view.readonly
    assert view.tobytes() == surface.tobytes() == bytes(surface)
    assert bytearray(surface) == surface.tobytes()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 no class can give such a buffer")
@pytest.mark.parametrize(("fourcc", "pad"), [("XR24", 8), ("AB4H", 0)])
def test_the_buffer_protocol_of_all(fourcc: str, pad: int) -> None:
    surface = filled(fourcc, 7, 5, pad)
    view = memoryview(surface)
    assert view.shape == SHAPES[fourcc][0]
    assert np.asarray(view).tobytes() == surface.tobytes()


def test_writing_a_packed_surface_to_a_file(tmp_path: Any) -> None:
    surface = filled("XR24", 7, 5)
    path = tmp_path / "raw"
    path.write_bytes(surface)
    assert path.read_bytes() == surface.tobytes()


# ---- its bytes


@pytest.mark.parametrize("pad", [0, 5])
def test_bytes_and_rows(pad: int) -> None:
    surface = filled("RG24", 7, 5, pad)
    rows = list(surface.rows())
    assert [row.nbytes for row in rows] == [21] * 5
    assert b"".join(rows) == surface.tobytes() == bytes(surface)
    assert len(surface.tobytes()) == 105
    assert all(bytes(surface.data[y * (21 + pad) :][:21]) == rows[y] for y in range(5))


def test_the_last_row_needs_no_padding() -> None:
    surface = Surface.wrap(bytearray(40 * 7 + 32), 8, 8, "XR24", 40)
    assert surface.data.nbytes == 40 * 7 + 32
    assert np.asarray(surface).shape == (8, 8, 4)
    assert len(list(surface.rows())) == 8


# ---- its name in pixman


@pytest.mark.parametrize("fourcc", [code for code in Fourcc.all() if code.info.linear and len(code.info.planes) == 1])
def test_pixman_format(fourcc: Fourcc) -> None:
    """The code of the format that pixman has, and 0 for all others: none is made up."""
    assert Surface.allocate(8, 8, fourcc).pixman_format == PIXMAN.get(fourcc, 0)


# ---- its end


@pytest.mark.parametrize("stride", [32, 40])
def test_close(stride: int) -> None:
    memory = bytearray(320)
    surface = Surface.wrap(memory, 8, 8, "XR24", stride)
    surface.close()
    surface.close()
    assert surface.closed
    for name in ("data", "__array_interface__", "address"):
        with pytest.raises(ValueError, match="the surface is closed"):
            getattr(surface, name)
    for name in ("tobytes", "array", "rows", "rgba"):
        with pytest.raises(ValueError, match="the surface is closed"):
            list(getattr(surface, name)())
    assert "8x8 XR24" in repr(surface)
    del surface
    gc.collect()
    memory.clear()


def test_in_a_with_statement() -> None:
    with Surface.allocate(8, 8, "XR24") as surface:
        assert surface.data.nbytes == 256
    assert surface.closed


def test_views_outlive_it() -> None:
    surface = filled("XR24", 8, 8)
    array, data, expected = np.asarray(surface), surface.data, surface.tobytes()
    surface.close()
    del surface
    gc.collect()
    assert array.tobytes() == data.tobytes() == expected


def test_it_is_an_ordinary_object() -> None:
    """Whether its memory is packed (and so, before 3.12, a C array) or not."""
    packed, padded = filled("XR24", 8, 8), filled("XR24", 8, 8, 8)
    for surface in (packed, padded, Surface.allocate(8, 8, "AB4H")):
        assert isinstance(surface, Surface)
        assert type(surface).__name__ == "Surface"
        assert {surface: 1}[surface] == 1
        assert surface == surface
        assert surface != filled("XR24", 8, 8)
        assert bool(surface)
        surface.width = surface.width
        assert repr(surface).startswith(f"<Surface 8x8 {surface.fourcc}, stride {surface.stride}")


def test_subclasses_stay_what_they_are() -> None:
    class Mine(Surface):
        pass

    for stride in (None, 40):
        assert isinstance(Mine.allocate(8, 8, "XR24", stride), Mine)
        assert isinstance(Mine.wrap(bytearray(400), 8, 8, "XR24", stride), Mine)


def test_many_sizes_do_not_pile_up() -> None:
    """Before 3.12 each shape needs a class of its own: those that were used are few at a time."""
    from glreadback.surface import _exporting

    for width in range(1, 300):
        np.asarray(Surface.allocate(width, 1, "R8"))
    assert _exporting.cache_info().currsize <= 64
