"""vfio's structures as bytes, and planes that are a region, on memory that stands in for a device's."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glreadback import Frame, GlReadbackError, Reader
from glreadback.errors import DescriptorError, SourceError, SourceSyntaxError
from glreadback.fds import OwnedFd
from glreadback.fourcc import Fourcc
from glreadback.kernel import udmabuf, vfio
from glreadback.sources import vfio as source
from glreadback.sources.base import SourceTimeout

XR24 = int(Fourcc("XR24"))

# ---- structures


def test_request_numbers() -> None:
    """As linux/vfio.h's comments and strace have them."""
    assert (vfio._API_VERSION, vfio._CHECK_EXTENSION, vfio._SET_IOMMU) == (0x3B64, 0x3B65, 0x3B66)
    assert (vfio._GROUP_STATUS, vfio._SET_CONTAINER, vfio._GET_DEVICE_FD) == (0x3B67, 0x3B68, 0x3B6A)
    assert (vfio._DEVICE_INFO, vfio._REGION_INFO) == (0x3B6B, 0x3B6C)
    assert (vfio._QUERY_GFX_PLANE, vfio._GET_GFX_DMABUF) == (0x3B72, 0x3B73)


def test_a_question_is_zero_but_for_what_it_asks() -> None:
    question = vfio.pack_query(vfio.DMABUF, vfio.CURSOR)
    assert question == struct.pack("=III", 64, 2, 2) + bytes(52)


# Where linux/vfio.h has each field of struct vfio_device_gfx_plane_info, and how many bytes it takes.
PLACES = {
    "kind": (4, 4), "plane": (8, 4), "fourcc": (12, 4), "modifier": (16, 8), "width": (24, 4), "height": (28, 4),
    "stride": (32, 4), "size": (36, 4), "x": (40, 4), "y": (44, 4), "hot_x": (48, 4), "hot_y": (52, 4), "index": (56, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_each_field_is_where_the_header_has_it(name: str) -> None:
    answer = bytearray(vfio.GFX_PLANE_SIZE)
    offset, size = PLACES[name]
    answer[offset : offset + size] = bytes(range(1, size + 1))
    plane = vfio.unpack_plane(answer)
    assert {other: getattr(plane, other) for other in PLACES} == dict.fromkeys(PLACES, 0) | {
        name: int.from_bytes(bytes(range(1, size + 1)), "little")
    }


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_short_answer(size: int) -> None:
    with pytest.raises(ValueError, match=f"has 64 bytes, not {size}"):
        vfio.unpack_plane(bytes(size))
    with pytest.raises(ValueError, match="has 32 bytes"):
        vfio.unpack_region(bytes(min(size, 31)))


def test_a_region() -> None:
    answer = struct.pack("=IIIIQQ", 32, 7, 16, 0, 1 << 33, 1 << 40)
    assert vfio.unpack_region(answer) == vfio.Region(16, 7, 1 << 33, 1 << 40)


# ---- a device that is not one


class Device:
    """A memfd for the device, and what its driver would answer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fd = os.memfd_create("device")
        self.flags = vfio.READABLE | vfio.MAPPABLE
        self.offset, self.size = 8192, 0
        self.kind = vfio.REGION
        self.planes: dict[int, bytes] = {}
        self.errors: list[int] = []  # what the next queries fail with
        self.fetched: list[int] = []
        self.buffers: dict[int, int] = {}
        for name in ("probe", "query_plane", "get_dmabuf", "region", "region_count"):
            patch.setattr(vfio, name, getattr(self, name))

    def give(self, content: bytes) -> None:
        self.size = len(content)
        os.ftruncate(self.fd, self.offset + self.size)
        os.pwrite(self.fd, content, self.offset)

    def show(self, width: int, height: int, stride: int, index: int = 16, fourcc: int = XR24, modifier: int = 0) -> None:
        self.planes[vfio.PRIMARY] = struct.pack(
            "=IIIIQ10I", 64, self.kind, 1, fourcc, modifier, width, height, stride, stride * height, 0, 0, 3, 4, index, 0
        )

    def region_count(self, _device: int) -> int:
        return 9

    def probe(self, _device: int, kind: int, plane: int) -> bool:
        return kind == self.kind and plane in self.planes

    def query_plane(self, _device: int, kind: int, plane: int) -> vfio.GfxPlane:
        if self.errors:
            raise OSError(self.errors[0], os.strerror(self.errors.pop(0)))
        return vfio.unpack_plane(self.planes[plane])

    def get_dmabuf(self, _device: int, number: int) -> int:
        self.fetched.append(number)
        if number not in self.buffers:
            raise OSError(errno.ENOENT, "No such file or directory")
        return os.dup(self.buffers[number])

    def region(self, _device: int, index: int) -> vfio.Region:
        return vfio.Region(index, self.flags, self.size, self.offset)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    before = set(os.listdir("/proc/self/fd"))
    made = Device(monkeypatch)
    yield made
    for fd in {made.fd, *made.buffers.values()}:
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) <= before


def pixels(width: int, height: int, stride: int, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Random rows stride bytes apart, and the pixels in them."""
    rows = np.random.default_rng(seed).integers(0, 256, (height, stride), np.uint8)
    return rows.tobytes(), rows[:, : width * 4].reshape(height, width, 4)


def read(frame: Frame) -> np.ndarray:
    with Reader() as reader:
        return np.asarray(reader.read(frame, route="map"))


@pytest.mark.parametrize("mappable", [True, False])
def test_a_region_is_copied_each_time(device: Device, mappable: bool) -> None:
    if not mappable:
        device.flags = vfio.READABLE
    with_padding, picture = pixels(33, 20, 160)
    device.give(with_padding)
    device.show(33, 20, 160)
    with source.VfioSource("it", fd=device.fd) as opened:
        frames = opened.frames(0.0)
        first = next(frames)
        assert np.array_equal(read(first), picture)
        assert first.origin == "vfio:it"
        again, picture = pixels(33, 20, 160, seed=1)
        os.pwrite(device.fd, again, device.offset)
        second = next(frames)
        assert np.array_equal(read(second), picture)
        assert second.buffer == first.buffer, "in the same memory"


def test_a_region_that_grows_and_changes_its_format(device: Device) -> None:
    content, _ = pixels(64, 64, 256)
    device.give(content)
    with pytest.raises(SourceError, match="has no display"):
        source.VfioSource(fd=device.fd)
    device.show(10, 10, 40)
    with source.VfioSource(fd=device.fd) as opened:
        assert read(next(opened.frames())).shape == (10, 10, 4)
        device.show(64, 64, 256)
        assert read(next(opened.frames())).shape == (64, 64, 4)
        device.show(64, 64, 128, fourcc=int(Fourcc("RG16")))
        assert read(next(opened.frames())).shape == (64, 64)


def test_a_plane_that_is_larger_than_its_region(device: Device) -> None:
    device.give(bytes(4096))
    device.show(32, 33, 128)
    with (
        source.VfioSource(fd=device.fd) as opened,
        pytest.raises(DescriptorError, match="ends at byte 4224, region 16 of the device holds 4096"),
    ):
        next(opened.frames())


def test_memory_that_is_taken_away_is_an_error_and_no_signal(device: Device) -> None:
    content, _ = pixels(64, 64, 256)
    device.give(content)
    device.show(64, 64, 256)
    with source.VfioSource(fd=device.fd) as opened:
        frames = opened.frames()
        next(frames)
        os.ftruncate(device.fd, device.offset + 4096)
        with pytest.raises(SourceError, match="region 16 of the device cannot be read from byte 4096 on: Bad address"):
            next(frames)


def test_no_memory_that_stays_is_left(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udmabuf, "DEVICE", "/dev/nothing")
    device.give(bytes(1 << 16))
    device.show(64, 64, 256)
    with source.VfioSource(fd=device.fd) as opened:
        for size in (16, 64, 128, 64):
            device.show(size, size, size * 4)
            next(opened.frames())
        before = len(os.listdir("/proc/self/fd"))
        next(opened.frames())
        assert len(os.listdir("/proc/self/fd")) == before


# ---- dma-bufs, by ids


@pytest.fixture
def chain(device: Device) -> Device:
    device.kind = vfio.DMABUF
    for number in range(30):
        device.buffers[number] = udmabuf.sealed_memfd(4096)
    device.show(16, 16, 64, index=0)
    return device


def test_an_id_is_fetched_once(chain: Device) -> None:
    with source.VfioSource(fd=chain.fd) as opened:
        frames = opened.frames()
        seen = []
        for number in (0, 1, 0, 1, 2, 0):
            chain.show(16, 16, 64, index=number)
            seen.append(os.fstat(next(frames).buffer.planes[0].fd).st_ino)
        assert chain.fetched == [0, 1, 2]
        assert seen == [os.fstat(chain.buffers[number]).st_ino for number in (0, 1, 0, 1, 2, 0)]


def test_old_ids_are_let_go(chain: Device) -> None:
    with source.VfioSource(fd=chain.fd) as opened:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(30):
            chain.show(16, 16, 64, index=number)
            next(opened.frames())
        assert len(os.listdir("/proc/self/fd")) - before <= 16


def test_an_id_that_goes_between_the_questions(chain: Device) -> None:
    chain.show(16, 16, 64, index=99)
    with source.VfioSource(fd=chain.fd) as opened, pytest.raises(SourceTimeout):
        next(opened.frames(0.03))
    assert len(chain.fetched) > 1, "asked anew"


@pytest.mark.parametrize(("errors", "fine"), [([errno.ENOMEM], True), ([errno.ENOMEM] * 5, False), ([errno.EINVAL], False)])
def test_the_error_that_goes_away(chain: Device, errors: list[int], fine: bool) -> None:
    with source.VfioSource(fd=chain.fd) as opened:
        chain.errors = list(errors)
        if fine:
            assert next(opened.frames()).buffer.width == 16
        else:
            with pytest.raises(SourceError, match=os.strerror(errors[0])):
                next(opened.frames())


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EIO])
def test_a_device_that_has_gone(chain: Device, error: int) -> None:
    with source.VfioSource("it", fd=chain.fd) as opened:
        chain.errors = [error]
        with pytest.raises(SourceError, match="the vfio device it has gone"):
            next(opened.frames())


def test_a_plane_that_is_off(chain: Device) -> None:
    chain.show(0, 0, 0, fourcc=0)
    with source.VfioSource("it", fd=chain.fd) as opened:
        with pytest.raises(SourceTimeout, match=r"the primary plane of it is off; nothing was shown for 0.02 s"):
            next(opened.frames(0.02))
        assert opened.describe()["planes"][0] == {"type": "primary", "as": "dma-buf", "state": "off"}  # type: ignore[index]
        chain.show(16, 16, 64)
        assert next(opened.frames(0.02)).size == (16, 16)


def test_what_is_said_of_it(chain: Device) -> None:
    with source.VfioSource("it", fd=chain.fd) as opened:
        assert opened.describe() == {
            "vfio device": "it",
            "plane": "primary",
            "given as": "dma-buf",
            "planes": [
                {"type": "primary", "as": "dma-buf", "fourcc": "XR24", "size": "16x16", "stride": 64}
                | {"id": 0, "position": "0,0", "hot spot": "3,4"},
                {"type": "primary", "as": "region", "state": "not offered"},
                {"type": "cursor", "as": "dma-buf", "state": "not offered"},
                {"type": "cursor", "as": "region", "state": "not offered"},
            ],
        }


# ---- hostile answers


@settings(max_examples=300, deadline=None)
@given(answer=st.binary(min_size=64, max_size=64), size=st.integers(0, 1 << 20))
def test_any_answer_is_a_frame_or_an_error_of_ours(answer: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        device = Device(patch)
        device.give(bytes(size))
        for kind in (vfio.REGION, vfio.DMABUF):
            device.kind = kind
            device.planes[vfio.PRIMARY] = answer
            try:
                with source.VfioSource(fd=device.fd) as opened:
                    opened.describe()
                    next(opened.frames(0.0))
            except GlReadbackError:
                pass
    os.close(device.fd)


# ---- opening


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("", SourceSyntaxError, "needs a device: vfio:UUID"),
        ("6b0c8a2e-0000-0000-0000-000000000000", SourceError, "there is no vfio device"),
        ("../../../etc", SourceError, "there is no vfio device"),
        ("/etc", SourceError, "there is no vfio device"),
        ("/sys/bus/platform/devices/nothing", SourceError, "there is no vfio device"),
    ],
)
def test_what_cannot_be_opened(path: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        source.VfioSource(path)


def test_a_descriptor_that_is_no_device(memfd: Any) -> None:
    fd = memfd(4096)
    with pytest.raises(SourceError, match=f"descriptor {fd} is no vfio device"):
        source.VfioSource(fd=fd)
    with pytest.raises(DescriptorError, match="descriptor 987 is not open"):
        source.VfioSource(fd=987)
    with pytest.raises(SourceSyntaxError, match="plane is 'overlay'"):
        source.VfioSource("x", plane="overlay")


def test_mdevs_here_are_listed_without_opening_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device, kind = tmp_path / "parent" / "uuid", tmp_path / "kinds" / "i915-GVTg_V5_4"
    device.mkdir(parents=True)
    kind.mkdir(parents=True)
    (kind / "description").write_text("low_gm_size: 128MB\nresolution: 1920x1200\n")
    (device / "mdev_type").symlink_to(kind)
    (tmp_path / "mdev").mkdir()
    (tmp_path / "mdev" / "uuid").symlink_to(device)
    monkeypatch.setattr(source, "BUSES", (tmp_path / "mdev", tmp_path / "none"))
    assert source.list_here() == [
        {
            "source": "vfio:uuid",
            "type": "i915-GVTg_V5_4",
            "parent": "parent",
            "description": "low_gm_size: 128MB resolution: 1920x1200",
        }
    ]
    monkeypatch.setattr(source, "BUSES", (tmp_path / "none",))
    assert source.list_here() == []


def test_the_device_s_descriptor_stays_the_caller_s(chain: Device) -> None:
    before = OwnedFd.dup(chain.fd)
    source.VfioSource(fd=chain.fd).close()
    assert os.fstat(chain.fd).st_ino == os.fstat(before.fileno()).st_ino
    before.close()


def test_a_plane_that_is_offered_as_both_kinds(chain: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    content, picture = pixels(16, 16, 64)
    chain.give(content)
    os.pwrite(chain.buffers[7], bytes(1024), 0)

    def answer(device: int, kind: int, plane: int) -> vfio.GfxPlane:
        chain.kind = kind
        chain.show(16, 16, 64, index=7 if kind == vfio.DMABUF else 16)
        return Device.query_plane(chain, device, kind, plane)

    monkeypatch.setattr(vfio, "probe", lambda device, kind, plane: plane == vfio.PRIMARY)
    monkeypatch.setattr(vfio, "query_plane", answer)
    with source.VfioSource("it", fd=chain.fd) as opened, Reader("software") as reader:
        assert not read(next(opened.frames())).any(), "the dma-buf is the one that is read"
        shared, region, *_ = opened.describe()["planes"]  # type: ignore[misc]
        assert (shared["as"], shared["id"]) == ("dma-buf", 7)
        assert (region["as"], region["region"]) == ("region", 16)
        ways = {name: (run, beside) for name, _, run, beside in source.contenders(opened, reader)}
        assert {name: beside for name, (_, beside) in ways.items()} == {
            "vfio region": "memcpy",
            "vfio region, GL": "vfio region",
            "vfio dma-buf, GL": "vfio region",
        }
        assert np.array_equal(read(ways["vfio region"][0]()), picture)
        assert np.array_equal(np.asarray(ways["vfio region, GL"][0]()), picture)
        assert not np.asarray(ways["vfio dma-buf, GL"][0]()).any()
