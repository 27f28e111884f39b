"""DmaBuf: the value. What can be said of it without looking at its descriptors, and what the descriptors say."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from pictures import MemFd, linear_formats

from glreadback import DescriptorError, DmaBuf, Fourcc, Modifier, Plane
from glreadback.dmabuf import Backing, check, check_extent, inspect
from glreadback.fds import OwnedFd


def xr24(fd: int = 0, **options: Any) -> DmaBuf:
    return DmaBuf(**{"width": 16, "height": 16, "fourcc": "XR24", "planes": [Plane(fd, 0, 64)], **options})


# ---- the value


def test_names_and_numbers_mean_the_same() -> None:
    for fourcc in ("XR24", "XRGB8888", "DRM_FORMAT_XRGB8888", 0x34325258, Fourcc("XR24")):
        for modifier in (0, "LINEAR", "0x0", Modifier.LINEAR):
            assert xr24(fourcc=fourcc, modifier=modifier) == xr24()
    buf = xr24()
    assert isinstance(buf.fourcc, Fourcc)
    assert isinstance(buf.modifier, Modifier)
    assert isinstance(buf.planes, tuple)
    assert buf.modifier == Modifier.LINEAR, "as long as nobody says otherwise"


def test_it_is_a_value() -> None:
    buf = xr24()
    assert buf == xr24()
    assert hash(buf) == hash(xr24())
    assert buf != xr24(width=15)
    assert pickle.loads(pickle.dumps(buf)) == buf
    assert dataclasses.replace(buf, width=8) == xr24(width=8)
    with pytest.raises(DescriptorError, match="a row needs 2000"):
        dataclasses.replace(buf, width=500)
    with pytest.raises(dataclasses.FrozenInstanceError):
        buf.width = 500  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        buf.planes[0].fd = 5  # type: ignore[misc]
    assert str(buf) == "16x16 XR24"


def test_planes_from_any_iterable() -> None:
    assert xr24(planes=iter([Plane(0, 0, 64)])) == xr24(planes=(Plane(0, 0, 64),)) == xr24()


def test_planes_take_descriptors_and_their_owners(tmp_path: Path) -> None:
    """Anything with fileno(), which stays the owner's."""
    with (tmp_path / "file").open("w+b") as file, OwnedFd(os.eventfd(0)) as owned:
        assert Plane(file).fd == file.fileno()  # type: ignore[arg-type]
        assert Plane(owned).fd == owned.fileno()  # type: ignore[arg-type]
    for closed in (file, owned, io.BytesIO()):
        with pytest.raises(DescriptorError, match=r"a plane's fd is .*, which has no descriptor: .*(closed|fileno)"):
            Plane(closed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fourcc", "modifier", "linear"),
    [
        ("XR24", Modifier.LINEAR, True),
        ("NV12", Modifier.LINEAR, True),
        ("XR24", Modifier.INVALID, False),
        ("XR24", "I915_X_TILED", False),
        ("ZZ99", Modifier.LINEAR, False),
        ("YU08", Modifier.LINEAR, False),
    ],
)
def test_linear_is_what_is_known_to_be(fourcc: str, modifier: int, linear: bool) -> None:
    count = len(Fourcc(fourcc).info.planes) if Fourcc(fourcc).known else 1
    assert DmaBuf(16, 16, fourcc, [Plane(0, 0, 64)] * count, modifier).linear == linear


@pytest.mark.parametrize("fourcc", linear_formats())
def test_ends_of_planes(fourcc: Fourcc) -> None:
    """Against the bytes marked one by one: the end is the byte after the last one that belongs to the plane."""
    for width, height, pad, offset in ((1, 1, 0, 0), (7, 5, 3, 10), (8, 4, 0, 1)):
        layouts = fourcc.info.planes
        lines = [-(-layout.row_bytes(width) // layout.block_height) + pad for layout in layouts]
        buf = DmaBuf(width, height, fourcc, [Plane(0, offset * n, line) for n, line in enumerate(lines)])
        for index, (layout, line) in enumerate(zip(layouts, lines, strict=True)):
            last = max(
                offset * index + y * line * layout.block_height + x
                for y in range(layout.rows(height))
                for x in range(layout.row_bytes(width))
            )
            assert buf.plane_end(index) == last + 1
            assert buf.step(index) == line * layout.block_height


@pytest.mark.parametrize("fourcc", linear_formats())
def test_the_least_stride(fourcc: Fourcc) -> None:
    for width in (1, 7, 16):
        strides = [-(-layout.row_bytes(width) // layout.block_height) for layout in fourcc.info.planes]
        DmaBuf(width, 4, fourcc, [Plane(0, 0, stride) for stride in strides])
        for index, stride in enumerate(strides):
            short = [Plane(0, 0, value - (n == index)) for n, value in enumerate(strides)]
            with pytest.raises(
                DescriptorError, match=f"plane {index} has a stride of {stride - 1} bytes, a row needs {stride}"
            ):
                DmaBuf(width, 4, fourcc, short)


# ---- its descriptors


@pytest.mark.parametrize(
    ("seals", "mode", "writable", "steady"),
    [
        (0, os.O_RDWR, True, False),
        (fcntl.F_SEAL_SHRINK, os.O_RDWR, True, True),
        (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, os.O_RDWR, True, True),
        (fcntl.F_SEAL_GROW, os.O_RDWR, True, False),
        (fcntl.F_SEAL_SHRINK, os.O_RDONLY, False, True),
        (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE, os.O_RDWR, False, True),
        (fcntl.F_SEAL_SHRINK | 0x10, os.O_RDWR, False, True),
        (fcntl.F_SEAL_WRITE, os.O_RDWR, False, False),
        (0, os.O_RDONLY, False, False),
    ],
)
def test_what_a_memfd_is(memfd: MemFd, seals: int, mode: int, writable: bool, steady: bool) -> None:
    fd = memfd(12345, seals, mode)
    status = os.fstat(fd)
    found = inspect(fd)
    assert found == Backing(status.st_dev, status.st_ino, 12345, dmabuf=False, writable=writable, steady=steady)
    assert found.key == (status.st_dev, status.st_ino)


def test_what_a_regular_file_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(777))
    for mode, writable in (("rb", False), ("r+b", True)):
        with path.open(mode) as file:
            found = inspect(file.fileno())
            assert (found.size, found.dmabuf, found.writable, found.steady) == (777, False, writable, False)


@pytest.mark.parametrize("mode", ["S_IFREG", "none"])
def test_what_a_dmabuf_is(memfd: MemFd, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """By its file system, whatever its mode says: some kernels call it a regular file, and none gives it seals."""
    from glreadback import dmabuf

    fd = memfd(8192)
    status = os.fstat(fd)

    class Status:
        st_mode = 0o600 | (0o100000 if mode == "S_IFREG" else 0)
        st_dev, st_ino, st_size = status.st_dev, status.st_ino, 0

    real = fcntl.fcntl

    def no_seals(number: int, command: int, *rest: Any) -> Any:
        if command == fcntl.F_GET_SEALS:
            raise OSError(22, "Invalid argument")
        return real(number, command, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(dmabuf.os, "fstat", lambda _fd: Status)
        patch.setattr(dmabuf.fcntl, "fcntl", no_seals)
        patch.setattr(dmabuf.kernel, "is_dmabuf", lambda number: number == fd)
        found = inspect(fd)
    assert found == Backing(status.st_dev, status.st_ino, 8192, dmabuf=True, writable=True, steady=True)


def test_check_gives_a_backing_for_each_plane(memfd: MemFd) -> None:
    one, other = memfd(4096), memfd(8192)
    found = check(DmaBuf(16, 16, "YU12", [Plane(one, 0, 16), Plane(other, 0, 8), Plane(one, 256, 8)]))
    assert [backing.size for backing in found] == [4096, 8192, 4096]
    assert found[0] == found[2]


def test_check_is_exact_to_the_byte(memfd: MemFd) -> None:
    buf = DmaBuf(7, 5, "NV12", [Plane(memfd(10 * 4 + 7), 0, 10), Plane(memfd(5 + 9 * 2 + 8), 5, 9)])
    check(buf)
    for index, size in ((0, 10 * 4 + 6), (1, 5 + 9 * 2 + 7)):
        planes = [dataclasses.replace(p, fd=memfd(size)) if n == index else p for n, p in enumerate(buf.planes)]
        with pytest.raises(DescriptorError, match=f"plane {index} ends at byte {size + 1}, the file holds {size}"):
            check(dataclasses.replace(buf, planes=planes))


def test_check_extent() -> None:
    check_extent(xr24(), 16)
    for options in ({"width": 17, "planes": [Plane(0, 0, 68)]}, {"height": 17}):
        with pytest.raises(DescriptorError, match="is larger than this device takes: at most 16 pixels either way"):
            check_extent(xr24(**options), 16)
