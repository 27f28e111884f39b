"""The producers themselves: are these real dma-bufs, of these drivers, with these bytes and with real fences?"""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from producers import BACKINGS, DRIVERS, PRODUCERS, V4L2_FORMATS, Producer, ReadLog, open_card, vivid

from glreadback.kernel import dmabuf, drm, vgem

# Request numbers as strace shows them: a field too many, or one of the wrong size, would show here.
DRM_REQUESTS = {
    "VERSION": 0xC0406400, "GEM_CLOSE": 0x40086409, "GET_CAP": 0xC010640C, "SET_CLIENT_CAP": 0x4010640D,
    "PRIME_HANDLE_TO_FD": 0xC00C642D, "PRIME_FD_TO_HANDLE": 0xC00C642E, "GET_RESOURCES": 0xC04064A0,
    "GET_CRTC": 0xC06864A1, "SET_CRTC": 0xC06864A2, "GET_ENCODER": 0xC01464A6, "GET_CONNECTOR": 0xC05064A7,
    "GET_PROPERTY": 0xC04064AA, "GET_BLOB": 0xC01064AC, "REMOVE_FB": 0xC00464AF, "CREATE_DUMB": 0xC02064B2,
    "MAP_DUMB": 0xC01064B3, "DESTROY_DUMB": 0xC00464B4, "GET_PLANE_RESOURCES": 0xC01064B5, "GET_PLANE": 0xC02064B6,
    "SET_PLANE": 0xC03064B7, "ADD_FB2": 0xC06864B8, "GET_FB2": 0xC06864CE, "OBJECT_PROPERTIES": 0xC02064B9,
    "CURSOR2": 0xC02464BB,
}  # fmt: skip


@pytest.mark.parametrize("name", DRM_REQUESTS)
def test_drm_request_numbers(name: str) -> None:
    assert getattr(drm, f"_{name}") == DRM_REQUESTS[name]


@pytest.mark.parametrize("fourcc", ["XR24", "RG16", "AB48", "NV12", "YU12"])
@pytest.mark.parametrize("size", [(64, 32), (101, 33)])
def test_bytes_come_back(producer: Producer, fourcc: str, size: tuple[int, int], read_log: ReadLog) -> None:
    with producer(*size, fourcc) as made:
        assert dmabuf.is_dmabuf(made.planes[0][0])
        made.fill(seed=3)
        for memory in made.memories:
            assert memory.read() == memory.shadow
        for plane in range(len(made.planes)):
            assert made.present(plane) == made.expected(plane)
        read_log(made.producer, "mmap")


def test_exporter(producer: Producer) -> None:
    with producer(16, 16) as made:
        assert made.exporter == BACKINGS[made.producer].exporter


def test_a_plane_written_alone_leaves_the_rest(producer: Producer) -> None:
    with producer(40, 20, "NV12", stride=64, offset=192) as made:
        made.fill()
        before = made.memory(0).read()
        made.write(1, bytes(range(40)) * 10)
        assert made.present(1) == bytes(range(40)) * 10
        after = made.memory(0).read()
        assert after[: made.planes[1][1]] == before[: made.planes[1][1]]
        assert after == made.memory(0).shadow


@pytest.mark.parametrize("together", [True, False])
def test_planes_in_one_buffer_and_in_two(producer: Producer, together: bool) -> None:
    with producer(64, 48, "NV12", offset=256, together=together) as made:
        inodes = {os.fstat(fd).st_ino for fd, _, _ in made.planes}
        assert len(inodes) == len(made.memories) == (1 if together else 2)
        assert made.planes[0][1] == 256
        assert made.planes[1][1] == (256 + made.planes[0][2] * 48 if together else 256)
        made.fill()
        assert made.present(1) == made.expected(1)


def test_stride_and_offset_as_asked(producer: Producer) -> None:
    with producer(100, 10, stride=448, offset=4096) as made:
        assert made.planes[0][1:] == (4096, 448)
        assert made.memory(0).size >= 4096 + 448 * 10


@pytest.mark.parametrize("name", list(DRIVERS))
@pytest.mark.parametrize("writable", [True, False])
def test_prime_with_and_without_rdwr(name: str, writable: bool) -> None:
    with PRODUCERS[name](64, 64, writable=writable) as made:
        made.fill()
        memory = made.memory(0)
        assert memory.writable is writable
        assert memory.read() == memory.shadow
        if not writable:
            with pytest.raises(PermissionError):
                mmap.mmap(memory.fd, memory.size)


def test_a_second_export_is_the_same_buffer() -> None:
    with PRODUCERS["vgem"](64, 64) as made:
        memory = made.memory(0)
        other = drm.export_handle(memory.card, memory.handle, writable=False)
        try:
            assert os.fstat(other).st_ino == os.fstat(memory.fd).st_ino
            assert drm.import_dmabuf(memory.card, other) == memory.handle
        finally:
            os.close(other)


def test_a_buffer_of_one_card_imported_by_another() -> None:
    with PRODUCERS["dma_heap"](64, 64) as made, ExitStack() as stack:
        card = open_card("vgem")
        stack.callback(os.close, card)
        handle = drm.import_dmabuf(card, made.planes[0][0])
        drm.gem_close(card, handle)
        with pytest.raises(OSError, match="Invalid argument"):
            drm.gem_close(card, handle)


# ---- Cameras ----


@pytest.mark.parametrize(
    ("fourcc", "together"),
    [(name, together) for name, names in V4L2_FORMATS.items() for together in (True, False) if names[not together]],
)
def test_vivid(fourcc: str, together: bool, read_log: ReadLog) -> None:
    with vivid(320, 180, fourcc, together=together) as made:
        assert dmabuf.is_dmabuf(made.planes[0][0])
        assert len(made.memories) == (1 if together else len(made.planes))
        for plane in range(len(made.planes)):
            pixels = made.present(plane)
            assert pixels == made.expected(plane)
            assert len(set(pixels)) > 1, "a picture, not a blank"
        read_log("vivid", "mmap")


# ---- Fences ----


def _ready(fd: int, events: int = select.POLLIN) -> bool:
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(0))


def test_a_vgem_fence_holds_readers_back() -> None:
    with PRODUCERS["vgem"](64, 64) as made:
        memory = made.memory(0)
        assert _ready(memory.fd)
        fence = vgem.attach_fence(memory.card, memory.handle)
        assert not _ready(memory.fd)
        sync_file = dmabuf.export_sync_file(memory.fd)
        try:
            assert not _ready(sync_file)
            vgem.signal_fence(memory.card, fence)
            assert _ready(memory.fd)
            assert _ready(sync_file)
        finally:
            os.close(sync_file)


def test_a_readers_fence_holds_only_writers_back() -> None:
    with PRODUCERS["vgem"](64, 64) as made:
        memory = made.memory(0)
        fence = vgem.attach_fence(memory.card, memory.handle, write=False)
        assert _ready(memory.fd)
        assert not _ready(memory.fd, select.POLLOUT)
        vgem.signal_fence(memory.card, fence)
        assert _ready(memory.fd, select.POLLOUT)


def test_sync_start_waits_for_the_fence() -> None:
    with PRODUCERS["vgem"](64, 64) as made:
        memory = made.memory(0)
        fence = vgem.attach_fence(memory.card, memory.handle)
        signalled: list[float] = []

        def signal() -> None:
            signalled.append(time.monotonic())
            vgem.signal_fence(memory.card, fence)

        timer = threading.Timer(0.3, signal)
        timer.start()
        try:
            dmabuf.sync_start(memory.fd)
            started = time.monotonic()
            dmabuf.sync_end(memory.fd)
        finally:
            timer.join()
        assert started >= signalled[0]


def test_a_sync_file_of_one_buffer_put_on_another() -> None:
    with PRODUCERS["vgem"](64, 64) as made, PRODUCERS["udmabuf"](64, 64) as other:
        memory = made.memory(0)
        fence = vgem.attach_fence(memory.card, memory.handle)
        sync_file = dmabuf.export_sync_file(memory.fd)
        try:
            dmabuf.import_sync_file(other.planes[0][0], sync_file)
        finally:
            os.close(sync_file)
        assert not _ready(other.planes[0][0])
        vgem.signal_fence(memory.card, fence)
        assert _ready(other.planes[0][0])


# ---- KMS ----


@pytest.mark.parametrize("name", ["virtio_gpu", "bochs"])
def test_the_console_is_there(name: str) -> None:
    card = open_card(DRIVERS[name])
    try:
        drm.set_client_cap(card, drm.CLIENT_CAP_UNIVERSAL_PLANES)
        drm.set_client_cap(card, drm.CLIENT_CAP_ATOMIC)
        found = drm.resources(card)
        lit = [crtc for crtc in (drm.get_crtc(card, number) for number in found.crtcs) if crtc.mode]
        assert len(lit) == 1
        connector = drm.get_connector(card, found.connectors[0])
        # Numbered over all cards: the second card's is Virtual-2.
        assert list(Path("/sys/class/drm").glob(f"card*-{connector.name}"))
        assert connector.connection == drm.CONNECTED
        assert lit[0].mode in connector.modes
        assert drm.get_encoder(card, connector.encoder).crtc == lit[0].id

        planes = [drm.get_plane(card, number) for number in drm.plane_ids(card)]
        (shown,) = [plane for plane in planes if plane.framebuffer]
        values = drm.object_properties(card, shown.id, drm.OBJECT_PLANE)
        assert values["type"] == drm.PLANE_PRIMARY
        assert values["SRC_W"] == lit[0].mode.width << 16
        framebuffer = drm.get_fb2(card, shown.framebuffer)
        ((handle, offset, pitch),) = framebuffer.planes
        assert handle
        assert (offset, pitch >= framebuffer.width * 4) == (0, True)
        drm.gem_close(card, handle)
    finally:
        os.close(card)
