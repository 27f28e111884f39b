"""Descriptions that lie. A driver believes each of them (Mesa's llvmpipe hands out other memory, or dies); we do not.

One test for each row of what llvmpipe does not check: the error names the value, the limit and what to do, nothing
reached the driver, nothing is left over, and the next read is fine.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Canary, Driver, Held, MakePicture, MemFd, Picture, assert_route, importer_of, mapped, pixels

from glreadback import DescriptorError, DmaBuf, Frame, Modifier, Plane, Reader, Surface
from glreadback.dmabuf import check

HUGE = pytest.param(10**5000, id="huge")

WAYS: dict[str, Callable[[Reader, DmaBuf], object]] = {
    "read": lambda reader, buf: reader.read(buf),
    "draw": lambda reader, buf: reader.read(buf, route="draw"),
    "map": lambda reader, buf: reader.read(buf, route="map"),
    "planes": lambda reader, buf: reader.read_planes(buf),
    "mapped": lambda reader, buf: reader.map(buf).close(),
}


@pytest.fixture(params=WAYS)
def refuses(request: pytest.FixtureRequest, reader: Reader, driver: Driver, picture: MakePicture) -> Callable[..., str]:
    """Asserts that a read of a DmaBuf is refused, by each way of reading: refuses(buf, pattern) gives the message."""
    good = picture("XR24", 9, 5, pad=4)
    assert np.array_equal(pixels(reader.read(good.buf)), good.rows())
    way = WAYS[request.param]

    def check_refused(buf: DmaBuf, *wanted: object) -> str:
        driver.calls.clear()
        before = Held.now()
        with pytest.raises(DescriptorError) as caught:
            way(reader, buf)
        assert driver.untouched, f"{driver.calls} before the description was refused"
        assert Held.now() == before
        message = str(caught.value)
        assert "\n" not in message
        for part in wanted:
            assert re.search(rf"(?<!\d){re.escape(str(part))}(?!\d)", message), f"{part} is not in: {message}"
        assert np.array_equal(pixels(reader.read(good.buf)), good.rows())
        return message

    return check_refused


def _xr24(fd: int, *, offset: int = 0, stride: int = 64, size: tuple[int, int] = (16, 16)) -> DmaBuf:
    return DmaBuf(*size, "XR24", [Plane(fd, offset, stride)])


# ---- too short


@pytest.mark.parametrize("missing", [1, 63, 64, 4096, 3 * 4096])
def test_shorter_than_the_last_row(refuses: Callable[..., str], memfd: MemFd, missing: int) -> None:
    """16x256 at a stride of 64 from byte 100: the last row needs bytes up to 16484."""
    fd = memfd(16484 - missing)
    message = refuses(_xr24(fd, offset=100, size=(16, 256)), 16484, 16484 - missing, "16x256 XR24", "offset 100", "stride 64")
    assert "Check the size, the offset and the stride" in message


def test_just_long_enough(reader: Reader, memfd: MemFd) -> None:
    """The last row needs no padding, and the file no whole pages."""
    content = np.random.default_rng(1).integers(0, 256, 100 + 80 * 15 + 64, dtype=np.uint8)
    buf = _xr24(memfd(content), offset=100, stride=80)
    expected = np.lib.stride_tricks.as_strided(content[100:], (16, 64), (80, 1))
    for route in ("alias", "native", "draw", "map"):
        found = pixels(reader.read(buf, route=route))
        assert np.array_equal(found[:, np.arange(64) % 4 < 3], expected[:, np.arange(64) % 4 < 3]), route
    assert np.array_equal(reader.read_planes(buf)[0].reshape(16, 64), expected)


def test_empty(refuses: Callable[..., str], memfd: MemFd) -> None:
    refuses(_xr24(memfd(0)), 1024, 0)


def test_a_later_plane_that_does_not_fit(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    """The first plane fits; the second one's end is what counts."""
    fd = memfd(16 * 16 + 16 * 8 - 1)
    for planes in ([Plane(fd, 0, 16), Plane(fd, 256, 16)], [Plane(fd, 256 - 2, 16), Plane(fd, 0, 16)]):
        buf = DmaBuf(16, 16, "NV12", planes)
        for read in (reader.read, reader.read_planes):
            with pytest.raises(DescriptorError, match=r"plane [01] ends at byte \d+, the file holds 383 \(16x16 NV12"):
                read(buf)
    assert driver.untouched


def test_each_plane_is_measured_in_its_own_buffer(reader: Reader, memfd: MemFd) -> None:
    large, small = memfd(4096), memfd(64)
    with pytest.raises(DescriptorError, match="plane 1 ends at byte 128, the file holds 64"):
        reader.read(DmaBuf(16, 16, "NV12", [Plane(large, 0, 16), Plane(small, 0, 16)]))


# ---- offsets


@pytest.mark.parametrize("offset", [4096 - 1023, 4096, 4097, 1 << 20, 2**31 - 1])
def test_offsets_past_the_end(refuses: Callable[..., str], memfd: MemFd, offset: int) -> None:
    refuses(_xr24(memfd(4096), offset=offset), offset + 64 * 15 + 64, 4096, f"offset {offset}")


def test_offsets_of_layouts_that_only_the_driver_knows(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    """Of a tiled plane no more is known than where it starts."""
    buf = DmaBuf(16, 16, "XR24", [Plane(memfd(4096), 4096, 64)], 0x0100000000000001)
    with pytest.raises(DescriptorError, match="plane 0 of 16x16 XR24 starts at byte 4096, the file holds 4096"):
        reader.read(buf)
    assert driver.untouched


def test_a_layout_nobody_names_is_held_to_its_stride(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    """Drivers take MOD_INVALID for linear, so it has to fit as if it were."""
    buf = DmaBuf(16, 16, "XR24", [Plane(memfd(1023), 0, 64)], Modifier.INVALID)
    for route in (None, "native", "draw"):
        with pytest.raises(DescriptorError, match="ends at byte 1024, the file holds 1023"):
            reader.read(buf, route=route)
    assert driver.untouched


@pytest.mark.parametrize("value", [-1, -4096, 2**31, 2**32, 2**63, 2**64, HUGE])
@pytest.mark.parametrize("field", ["offset", "stride", "fd"])
def test_numbers_no_plane_can_have(field: str, value: int) -> None:
    with pytest.raises(
        DescriptorError, match=rf"a plane's {field} is (-?\d+|a number of 16610 bits); it must be between 0 and 2147483647"
    ):
        Plane(**{"fd": 0, field: value})


@pytest.mark.parametrize("value", [True, False, 1.0, float("nan"), "1", b"1", None, [1], np.float32(4), np.True_, np.zeros(2)])
@pytest.mark.parametrize("field", ["offset", "stride", "fd", "width", "height"])
def test_values_that_are_no_numbers(field: str, value: Any) -> None:
    good = {"fd": 0, "stride": 16} if field in ("fd", "offset", "stride") else {"width": 4, "height": 4, "fourcc": "XR24"}
    kind, rest = (Plane, {}) if "fd" in good else (DmaBuf, {"planes": [Plane(0, 0, 16)]})
    with pytest.raises(DescriptorError, match=rf"(a plane's|the) {field} is .*; it must be a whole number") as caught:
        kind(**{**good, **rest, field: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64, np.int64])
def test_numpys_integers_are_numbers(reader: Reader, picture: MakePicture, kind: type) -> None:
    made = picture("XR24", 9, 5, offset=16)
    (plane,) = made.buf.planes
    buf = DmaBuf(kind(9), kind(5), "XR24", [Plane(kind(plane.fd), kind(plane.offset), kind(plane.stride))])
    assert all(type(value) is int for value in (buf.width, buf.height, buf.planes[0].fd, buf.planes[0].offset))
    assert buf == made.buf
    assert np.array_equal(pixels(reader.read(buf, rect=(kind(0), kind(0), kind(9), kind(5)))), made.rows())


# ---- strides, sizes, planes: refused before there is a value at all


@pytest.mark.parametrize("stride", [0, 1, 63])
def test_strides_shorter_than_a_row(stride: int) -> None:
    with pytest.raises(
        DescriptorError, match=rf"16x16 XR24: plane 0 has a stride of {stride} bytes, a row needs 64. Check the width"
    ):
        _xr24(0, stride=stride)


@pytest.mark.parametrize(
    ("fourcc", "strides", "plane", "needs"),
    [
        ("RG24", (47,), 0, 48),
        ("NV12", (16, 15), 1, 16),
        ("NV12", (15, 16), 0, 16),
        ("YU12", (16, 8, 7), 2, 8),
        ("P010", (32, 31), 1, 32),
        ("YUYV", (31,), 0, 32),
        ("R1", (1,), 0, 2),
        ("NV15", (19, 20), 0, 20),
    ],
)
def test_strides_of_every_plane(fourcc: str, strides: tuple[int, ...], plane: int, needs: int) -> None:
    with pytest.raises(DescriptorError, match=f"plane {plane} has a stride of {strides[plane]} bytes, a row needs {needs}"):
        DmaBuf(16, 16, fourcc, [Plane(0, 0, stride) for stride in strides])


@pytest.mark.parametrize("modifier", [Modifier.LINEAR, Modifier.INVALID])
def test_strides_are_checked_unless_tiled(modifier: Modifier) -> None:
    with pytest.raises(DescriptorError, match="a row needs 64"):
        DmaBuf(16, 16, "XR24", [Plane(0, 0, 60)], modifier)
    DmaBuf(16, 16, "XR24", [Plane(0, 0, 60)], 0x0100000000000001)


@pytest.mark.parametrize(
    ("size", "named"), [((0, 16), "width is 0"), ((16, 0), "height is 0"), ((-1, 16), "width is -1"), ((0, 0), "width is 0")]
)
def test_sizes_of_nothing(size: tuple[int, int], named: str) -> None:
    with pytest.raises(DescriptorError, match=f"the {named}; it must be between 1 and 2147483647"):
        _xr24(0, size=size)


@pytest.mark.parametrize("size", [(16385, 1), (1, 16385), (65536 + 4, 1), (4, 65536 + 4), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_sizes_the_device_does_not_take(reader: Reader, driver: Driver, memfd: MemFd, size: tuple[int, int]) -> None:
    """llvmpipe cuts a height to 16 bits and dies of a width."""
    width, height = size
    stride = min(width * 4, 2**31 - 1)
    fd = memfd(stride * height + 2**34)
    fourcc = "R8" if width == 2**31 - 1 else "XR24"
    buf = DmaBuf(width, height, fourcc, [Plane(fd, 0, stride)])
    for route in (None, "alias", "native", "draw"):
        with pytest.raises(DescriptorError, match=rf"{width}x{height} {fourcc} is larger.* at most 16384 pixels either way"):
            reader.read(buf, route=route)
    assert driver.untouched


@pytest.mark.parametrize("value", [2**31, 2**32 + 16, 2**63, HUGE])
def test_sizes_no_buffer_has(value: int) -> None:
    for size in ((value, 1), (1, value)):
        with pytest.raises(DescriptorError, match=r"the (width|height) is .*; it must be between 1 and 2147483647"):
            _xr24(0, size=size)


@pytest.mark.parametrize(
    ("fourcc", "given", "message"),
    [
        ("XR24", 0, "0 planes given; a dma-buf has 1 to 4"),
        ("XR24", 2, "2 planes given; XR24 with modifier LINEAR has 1"),
        ("NV12", 1, "1 plane given; NV12 with modifier LINEAR has 2"),
        ("NV12", 3, "3 planes given; NV12 with modifier LINEAR has 2"),
        ("YU12", 2, "2 planes given; YU12 with modifier LINEAR has 3"),
        ("XR24", 5, "5 planes given; a dma-buf has 1 to 4"),
        ("XR24", 1000, "1000 planes given; a dma-buf has 1 to 4"),
    ],
)
def test_numbers_of_planes(fourcc: str, given: int, message: str) -> None:
    with pytest.raises(DescriptorError, match=f"16x16 {fourcc}: {message}"):
        DmaBuf(16, 16, fourcc, [Plane(0, 0, 64)] * given)


def test_planes_of_tiled_layouts() -> None:
    """Compression has planes of its own, but a format's planes cannot be missing."""
    DmaBuf(16, 16, "XR24", [Plane(0, 0, 64)] * 2, 0x0100000000000004)
    with pytest.raises(DescriptorError, match="1 plane given; NV12 with modifier I915_X_TILED has 2"):
        DmaBuf(16, 16, "NV12", [Plane(0, 0, 64)], 0x0100000000000001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": None}, "planes is None; give a list of"),
        ({"planes": Plane(0, 0, 64)}, "planes is Plane.*; give a list of"),
        ({"planes": [(0, 0, 64)]}, r"a plane is \(0, 0, 64\); give glreadback\.Plane"),
        ({"planes": [None]}, r"a plane is None; give glreadback\.Plane"),
        ({"fourcc": None}, "the fourcc is None; give its name"),
        ({"fourcc": 1.5}, "the fourcc is 1.5; give its name"),
        ({"fourcc": 0}, "0 is no pixel format"),
        ({"fourcc": "nonsense"}, "'nonsense' is no pixel format"),
        ({"modifier": None}, "the modifier is None; give its number or name; Modifier.INVALID where"),
        ({"modifier": -1}, "-0x1 is no modifier"),
        ({"modifier": 2**64}, "is no modifier"),
    ],
)
def test_descriptions_of_the_wrong_kind(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DescriptorError, match=message) as caught:
        DmaBuf(**{"width": 16, "height": 16, "fourcc": "XR24", "planes": [Plane(0, 0, 64)], **options})
    assert "\n" not in str(caught.value)


def test_a_fourcc_nobody_knows(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    buf = DmaBuf(16, 16, "ZZ99", [Plane(memfd(4096), 0, 64)])
    for read in (reader.read, reader.read_planes, reader.map):
        with pytest.raises(DescriptorError, match="ZZ99"):
            read(buf)
    assert driver.untouched


# ---- descriptors that are something else


@contextmanager
def _pipe() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for fd in ends:
        os.close(fd)


@contextmanager
def _socket() -> Iterator[int]:
    one, other = socket.socketpair()
    with one, other:
        yield one.fileno()


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    yield fd
    os.close(fd)


@contextmanager
def _made(fd: int) -> Iterator[int]:
    yield fd
    os.close(fd)


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "a pipe": (_pipe, "is a pipe; a dma-buf, a memfd or a regular file is needed"),
    "a socket": (_socket, "is a socket; a dma-buf"),
    "a directory": (lambda: _opened("/", os.O_RDONLY), "is a directory; a dma-buf"),
    "an eventfd": (lambda: _made(os.eventfd(0)), r"is something else \(anon_inode:\[eventfd\]\); a dma-buf"),
    "/dev/null": (lambda: _opened("/dev/null", os.O_RDWR), "is a character device; a dma-buf"),
    "/dev/zero": (lambda: _opened("/dev/zero", os.O_RDWR), "is a character device; a dma-buf"),
    "O_PATH": (lambda: _opened(sys.executable, os.O_PATH), "was opened with O_PATH and gives no access; open it for reading"),
    "a process": (lambda: _made(os.pidfd_open(os.getpid())), "is .*; a dma-buf"),
    "/proc": (lambda: _opened("/proc/self/maps", os.O_RDONLY), "ends at byte 1024, the file holds 0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_descriptors_of_something_else(refuses: Callable[..., str], kind: str) -> None:
    make, message = KINDS[kind]
    with make() as fd:
        found = refuses(_xr24(fd))
        assert re.search(message, found), found
        assert f"descriptor {fd} " in found or kind == "/proc"


def test_descriptors_without_reading(refuses: Callable[..., str], memfd: MemFd, tmp_path: Path) -> None:
    fd = memfd(4096, mode=os.O_WRONLY)
    assert "is write-only; open it for reading and writing" in refuses(_xr24(fd), fd)
    with _opened(str(tmp_path / "file"), os.O_WRONLY | os.O_CREAT) as fd:
        os.truncate(fd, 4096)
        assert "is write-only" in refuses(_xr24(fd), fd)


def test_descriptors_that_are_not_open(refuses: Callable[..., str], memfd: MemFd) -> None:
    fd = memfd(4096)
    os.close(fd)
    assert "is not open (Bad file descriptor)" in refuses(_xr24(fd), fd)
    for fd in (1_000_000, 2**31 - 1):
        assert "is not open" in refuses(_xr24(fd), fd)


def test_one_bad_plane_among_good_ones(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    good = memfd(4096)
    with _pipe() as bad:
        for planes in ([Plane(good, 0, 16), Plane(bad, 0, 16)], [Plane(bad, 0, 16), Plane(good, 0, 16)]):
            with pytest.raises(DescriptorError, match=f"descriptor {bad} is a pipe"):
                reader.read(DmaBuf(16, 16, "NV12", planes))
    assert driver.untouched


# ---- descriptors that are recycled


@pytest.mark.parametrize("same_object", [True, False])
@pytest.mark.parametrize("with_out", [True, False])
def test_a_number_that_has_become_another_buffers(reader: Reader, memfd: MemFd, same_object: bool, with_out: bool) -> None:
    """Closed and opened again between two reads: the kernel gives the lowest free number, and it is the same one."""
    out = Surface.allocate(16, 16, "XR24") if with_out else None
    fd = memfd(b"\0" * 1024)
    buf = _xr24(fd)
    for value in range(1, 40):
        os.close(fd)
        assert memfd(bytes([value]) * 1024) == fd
        picture = buf if same_object else _xr24(fd)
        for _ in range(2):
            assert reader.read(picture, out).tobytes() == bytes([value]) * 1024
        assert np.all(reader.read_planes(picture)[0] == value)
        assert reader.read(picture, route="draw", fourcc="AB24").data[0] == value


def test_a_number_that_has_become_something_else(reader: Reader, driver: Driver, memfd: MemFd) -> None:
    out = Surface.allocate(16, 16, "XR24")
    fd = memfd(os.urandom(1024))
    buf = _xr24(fd)
    for _ in range(2):
        reader.read(buf, out)
    driver.calls.clear()
    ends = os.pipe()
    os.dup2(ends[0], fd)
    for end in ends:
        os.close(end)
    with pytest.raises(DescriptorError, match=f"descriptor {fd} is a pipe"):
        reader.read(buf, out)
    os.dup2(memfd(1023), fd)
    with pytest.raises(DescriptorError, match="ends at byte 1024, the file holds 1023"):
        reader.read(buf, out)
    assert driver.untouched


# ---- descriptors that can be read but not written


@pytest.fixture(params=["O_RDONLY", "F_SEAL_WRITE", "F_SEAL_FUTURE_WRITE", "unsealed", "read-only and unsealed"])
def awkward(request: pytest.FixtureRequest, picture: MakePicture) -> Callable[..., Picture]:
    """Makes pictures whose memory the driver must not map: at a padded stride it would give wrong pixels, or a signal."""
    options = {
        "O_RDONLY": {"mode": os.O_RDONLY},
        "F_SEAL_WRITE": {"seals": fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE},
        "F_SEAL_FUTURE_WRITE": {"seals": fcntl.F_SEAL_SHRINK | 0x10},
        "unsealed": {"seals": 0},
        "read-only and unsealed": {"seals": 0, "mode": os.O_RDONLY},
    }[request.param]
    return lambda *args, **more: picture(*args, **options, **more)


@pytest.mark.parametrize("fourcc", ["XR24", "RG24", "RG16", "R8", "AB48", "YUYV", "Y0L2", "R1"])
def test_awkward_memory_is_copied_first(reader: Reader, awkward: Callable[..., Picture], fourcc: str) -> None:
    for width, height, pad, offset in ((38, 22, 12, 0), (38, 22, 4096, 4096), (8, 8, 0, 0), (200, 100, 3, 7)):
        made = awkward(fourcc, width, height, pad=pad, offset=offset)
        out = Canary(width, height, fourcc, pad=5)
        for _ in range(2):
            reader.read(made.buf, out.surface)
            out.assert_holds(made.rows())
        assert_route(out.surface, "alias")
        assert re.search(r"copied first: (its descriptor is read-only|it is a file that can shrink)", out.surface.route.reason)
        reader.read(Frame(made.buf, y_invert=True), out.surface, route="map")
        out.assert_holds(made.rows()[::-1])


@pytest.mark.parametrize("fourcc", ["NV12", "YU12", "P010", "NV15", "NV24"])
def test_awkward_planes_are_copied_too(
    reader: Reader, awkward: Callable[..., Picture], picture: MakePicture, fourcc: str
) -> None:
    made = awkward(fourcc, 37, 11, pad=20, offset=5, gap=9)
    for route in ("alias", "map"):
        for index, plane in enumerate(reader.read_planes(made.buf, route=route)):
            assert np.array_equal(plane.reshape(plane.shape[0], -1).view(np.uint8), made.rows(index))
    plain = picture(fourcc, 37, 11, pad=20, offset=5, gap=9)
    assert np.array_equal(plain.content, made.content)
    assert reader.read(made.buf).tobytes() == reader.read(plain.buf).tobytes()


def test_awkward_memory_in_a_layout_that_cannot_be_copied(
    reader: Reader, driver: Driver, awkward: Callable[..., Picture]
) -> None:
    buf = awkward("XR24", 16, 16, modifier=Modifier.INVALID).buf
    with pytest.raises(DescriptorError, match=r"16x16 XR24: its? .*, and with modifier INVALID a copy cannot take its place"):
        reader.read(buf)
    assert driver.untouched


def test_copies_show_the_present(reader: Reader, picture: MakePicture) -> None:
    """The copy is made for every read, and of two pictures each is its own, also where the second needs more memory."""
    one, other = picture("XR24", 16, 16, seals=0), picture("XR24", 170, 40, seals=0, pad=4)
    for value in range(5):
        os.pwrite(one.buf.planes[0].fd, bytes([value]) * 1024, 0)
        assert reader.read(one.buf).tobytes() == bytes([value]) * 1024
        assert np.array_equal(pixels(reader.read(other.buf)), other.rows())


def test_what_is_shared_stays_unwritten(reader: Reader, awkward: Callable[..., Picture]) -> None:
    """Nothing is written to the producer's memory, whatever is forced in ours."""
    made = awkward("XR24", 16, 16)
    fd = made.buf.planes[0].fd
    before = os.pread(fd, 1024, 0)
    for options in ({"fourcc": "AR24"}, {"fourcc": "AB24"}, {"route": "draw"}, {"route": "map", "fourcc": "AR24"}):
        reader.read(made.buf, **options)
    assert os.pread(fd, 1024, 0) == before


# ---- memory that shrinks


def test_truncated_between_two_reads(reader: Reader, picture: MakePicture) -> None:
    made = picture("XR24", 16, 256, seals=0)
    fd = made.buf.planes[0].fd
    out = Surface.allocate(16, 256, "XR24")
    for _ in range(2):
        assert np.array_equal(pixels(reader.read(made.buf, out)), made.rows())
    for size in (16383, 4096, 0):
        os.ftruncate(fd, size)
        with pytest.raises(DescriptorError, match=f"ends at byte 16384, the file holds {size}"):
            reader.read(made.buf, out)
    os.ftruncate(fd, 16384)
    assert reader.read(made.buf, out).tobytes() == bytes(16384)


def test_truncated_after_the_check(reader: Reader, picture: MakePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between looking and copying."""
    import glreadback.reader as module

    for route in ("alias", "map"):
        made = picture("XR24", 16, 256, seals=0)
        fd = made.buf.planes[0].fd

        def check_and_cut(buf: DmaBuf, fd: int = fd) -> Any:
            found = check(buf)
            os.ftruncate(fd, 5000)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(module, "check", check_and_cut)
            with pytest.raises(
                DescriptorError, match=f"descriptor {fd} shrank .*no byte 5000 any more. Seal it with F_SEAL_SHRINK"
            ):
                reader.read(made.buf, route=route)


def test_sealed_later(reader: Reader, picture: MakePicture) -> None:
    """A seal that comes later is seen: no copy any more. One against writing brings the copy back."""
    made = picture("XR24", 16, 16, seals=0, pad=4)
    fd = made.buf.planes[0].fd
    out = Canary(16, 16, "XR24")
    steps = [(0, True), (fcntl.F_SEAL_SHRINK, False), (0x10, True)]
    for seal, copied in steps:
        if seal:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
        reader.forget(made.buf)
        for _ in range(2):
            out.memory[:] = out.blank
            reader.read(made.buf, out.surface)
            out.assert_holds(made.rows())
            assert ("copied first" in out.surface.route.reason) == copied


SHRINKER = """
    import fcntl, os, random, sys, time
    import numpy as np
    from glreadback import DescriptorError, DmaBuf, Frame, Plane, Reader, Surface

    # A producer that cuts its memory and makes it larger again, all the time.
    size = 256 * 256 * 4
    fd = os.memfd_create("shrinker")
    os.ftruncate(fd, size)
    child = os.fork()
    if child == 0:
        while True:
            os.ftruncate(fd, random.choice((0, 1, 4096, size // 2, size - 1)))
            os.ftruncate(fd, size)
    try:
        buf = DmaBuf(256, 256, "XR24", [Plane(fd, 0, 1024)])
        out = Surface.allocate(256, 256, "XR24")
        found = {"read": 0, "refused": 0}
        with Reader("software") as reader:
            end = time.monotonic() + float(sys.argv[1])
            while time.monotonic() < end:
                for route in ("alias", "map", "native", "draw"):
                    try:
                        reader.read(Frame(buf, y_invert=random.random() < 0.5), out, route=route)
                        found["read"] += 1
                    except DescriptorError as error:
                        assert "shrank" in str(error) or "the file holds" in str(error), error
                        found["refused"] += 1
                try:
                    reader.read_planes(buf)
                except DescriptorError:
                    pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    print(found["read"], found["refused"])
"""


def _in_a_process(text: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )


def test_truncated_while_it_is_read() -> None:
    """In a process of its own: the answer could be SIGBUS."""
    done = _in_a_process(SHRINKER, "1.0")
    assert done.returncode == 0, f"{signal.Signals(-done.returncode).name if done.returncode < 0 else ''}\n{done.stderr}"
    read, refused = map(int, done.stdout.split())
    assert read, "nothing was read"
    assert refused, "the producer never won: this test shows nothing"


# ---- after a fork

FORKED = """
    import os, signal
    from glreadback import DmaBuf, Plane, Reader
    from glreadback.kernel.udmabuf import sealed_memfd

    fd = sealed_memfd(4096)
    os.pwrite(fd, bytes(range(256)) * 4, 0)
    buf = DmaBuf(16, 16, "AR24", [Plane(fd, 0, 64)])
    reader = Reader("software")
    reader.read(buf, route="draw")
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        own = Reader("software")
        for each in (reader, own):
            for route in ("alias", "draw", "native", "map"):
                if each.read(buf, route=route).tobytes() != bytes(range(256)) * 4:
                    os._exit(2)
            each.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    assert reader.read(buf, route="draw").tobytes() == bytes(range(256)) * 4
    reader.close()
"""


def test_after_a_fork_both_processes_read_and_draw() -> None:
    """The driver's threads do not survive a fork: a draw in the child must not wait for them."""
    done = _in_a_process(FORKED)
    assert done.returncode == 0, done.stderr


# ---- out of descriptors

EXHAUSTED = """
    import os, resource
    from glreadback import DmaBuf, GlReadbackError, Plane, Reader
    from glreadback.kernel.udmabuf import sealed_memfd

    made = []
    for value in range(8):
        fd = sealed_memfd(4096)
        os.pwrite(fd, bytes([value]) * 1024, 0)
        made.append(DmaBuf(16, 16, "XR24", [Plane(fd, 0, 64)]))
    with Reader("software") as reader:
        reader.read(made[0])
        reader.read(made[0], route="draw")
        most = len(os.listdir("/proc/self/fd"))
        failed = 0
        for spare in range(6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most + spare, 4096))
            for buf in made:
                try:
                    reader.read(buf)
                except (GlReadbackError, OSError) as error:
                    failed += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        assert failed, "nothing failed"
        for value, buf in enumerate(made):
            assert reader.read(buf).tobytes() == bytes([value]) * 1024, value
"""


def test_out_of_descriptors() -> None:
    """Whatever the driver makes of it: no crash, no wrong pixel, and afterwards all is well again."""
    done = _in_a_process(EXHAUSTED)
    assert done.returncode == 0, done.stderr


# ---- wishes that cannot be


@pytest.mark.parametrize(
    "scale", [(0, 5), (5, 0), (-1, 4), (2**16, 2**16), (2**70, 1), (1,), (1, 2, 3), (1.5, 2), "ab", 5, [None] * 2]
)
def test_scales_that_are_none(reader: Reader, driver: Driver, picture: MakePicture, scale: Any) -> None:
    with pytest.raises(DescriptorError, match="^scale is .*(both must be at least 1|give two whole numbers)") as caught:
        reader.read(picture("XR24", 8, 8).buf, scale=scale)
    assert "\n" not in str(caught.value)
    assert driver.untouched


@pytest.mark.parametrize("height", [2**18, 2**31 - 1])
def test_more_memory_than_there_is(height: int) -> None:
    """More than an address space has, and more than a number of the kernel's holds."""
    with pytest.raises(DescriptorError, match=r"^no memory for a picture of \d+ bytes can be had; read a part of it"):
        Surface.allocate(2**31 - 1, height, "XR24")


@pytest.mark.parametrize("gpu", [False, True])
def test_damage_without_a_surface_to_update(reader: Reader, driver: Driver, picture: MakePicture, gpu: bool) -> None:
    """On a device that works on its own, submit() has its own way."""
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=not gpu)
    buf, out = picture("XR24", 8, 8).buf, Surface.allocate(8, 8, "XR24")
    for call in (reader.read, reader.submit):
        for options in ({}, {"out": out, "rect": (0, 0, 8, 8)}):
            with pytest.raises(DescriptorError, match="damage updates a surface that holds the whole picture: give out="):
                call(buf, damage=[(0, 0, 1, 1)], **options)
    assert driver.untouched


# ---- looked at once, in one place


@pytest.mark.parametrize("isolate", [False, True], ids=["direct", "isolated"])
def test_each_read_is_looked_at_once(
    leaks: Callable[[], None], picture: MakePicture, monkeypatch: pytest.MonkeyPatch, isolate: bool
) -> None:
    """dmabuf.inspect is the one place; what it found is what is used, in Python's integers."""
    from glreadback import copying, dmabuf

    looked: list[int] = []
    real = dmabuf.inspect

    def noted(fd: int) -> Any:
        looked.append(fd)
        found = real(fd)
        assert all(type(value) is int for value in (*found.key, found.size))
        return found

    ways = WAYS | {
        "submit": lambda reader, buf: reader.submit(buf).result(),
        "native": lambda reader, buf: reader.read(buf, route="native"),
        "out": lambda reader, buf: reader.read(buf, Surface.allocate(9, 5, "XR24")),
    }
    with Reader("software", isolate=isolate) as reader:
        for module in (dmabuf, copying):
            monkeypatch.setattr(module, "inspect", noted)
        for name, way in ways.items():
            looked.clear()
            buf = picture("XR24", 9, 5, pad=4).buf
            way(reader, buf)
            assert looked == [buf.planes[0].fd], name


# ---- a fence that is none


@pytest.mark.parametrize("fence", [-1, 2**31, 2**64, True, 1.5, "x"])
def test_fences_that_are_no_descriptors(picture: MakePicture, reader: Reader, fence: Any) -> None:
    with pytest.raises(DescriptorError, match="fence"):
        reader.read(Frame(picture("XR24", 8, 8).buf, acquire_fence=fence))


def test_the_reader_survives_it_all(reader: Reader, picture: MakePicture, memfd: MemFd) -> None:
    """Hundreds of refusals later, nothing is held and the next read is exact."""
    good = picture("XR24", 16, 16)
    reader.read(good.buf)
    before = Held.now()
    with _pipe() as pipe:
        bad = [_xr24(memfd(1000)), _xr24(pipe), _xr24(1_000_000), DmaBuf(16, 16, "XR24", good.buf.planes, 0x0100000000000001)]
        kept = Held.now()
        for _ in range(100):
            for buf in bad:
                for read in (reader.read, reader.read_planes, reader.map):
                    with pytest.raises(Exception, match=r"descriptor|ends at|modifier"):
                        read(buf)
        assert Held.now() == kept
    assert len(Held.now().fds) == len(before.fds) + 1  # the short memfd
    assert importer_of(reader).imported == 1
    with mapped(good.buf.planes[0].fd):
        assert np.array_equal(pixels(reader.read(good.buf)), good.rows())


# ---- what a forked child shares

SHARED = """
    import os, sys
    from glreadback import DmaBuf, Plane, Reader

    # An unsealed buffer each for parent and child: both are copied first, but not to the same memory.
    def buffer(value):
        fd = os.memfd_create("unsealed")
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, bytes([value]) * (1 << 20), 0)
        return DmaBuf(512, 512, "XR24", [Plane(fd, 0, 2048)])

    reader = Reader("software")
    reader.read(buffer(0))
    child = os.fork()
    mine = 1 if child else 2
    buf = buffer(mine)
    for _ in range(100):
        if reader.read(buf).tobytes() != bytes([mine]) * (1 << 20):
            os._exit(1)
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child read the parent's copy"
    reader.close()
"""


def test_a_forked_child_copies_to_memory_of_its_own() -> None:
    done = _in_a_process(SHARED)
    assert done.returncode == 0, done.stderr
