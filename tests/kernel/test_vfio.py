"""`vfio:` against the kernel's own vGPU displays, whose memory the test writes to and reads through their BARs."""

from __future__ import annotations

import json
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from producers import ReadLog
from screens import noise, until

import glreadback
from glreadback.cli import main
from glreadback.errors import ImportRejected, SourceError
from glreadback.kernel import vfio
from glreadback.sources.base import SourceTimeout
from glreadback.sources.vfio import VfioSource, contenders, list_here

BAR0, BAR2 = 0, 2
# mbochs' VBE registers, two bytes each, at BAR2 + 0x500
WIDTH, HEIGHT, DEPTH, ENABLE, VIRTUAL_WIDTH, Y_OFFSET = 1, 2, 3, 4, 6, 9


class Vgpu:
    """An mdev of the kernel's samples, and the guest in it: it writes to the device as a VM's CPU does."""

    reader: ClassVar[glreadback.Reader | None] = None  # who may still hold its dma-bufs

    def __init__(self, driver: str, kind: str) -> None:
        self.id = str(uuid.uuid4())
        self.folder = Path("/sys/bus/mdev/devices") / self.id
        self.device = -1
        self._stack = ExitStack()
        (Path("/sys/class") / driver / driver / "mdev_supported_types" / f"{driver}-{kind}" / "create").write_text(self.id)
        self.group = os.readlink(self.folder / "iommu_group").rpartition("/")[2]
        assert until(lambda: os.path.exists(f"/dev/vfio/{self.group}"))

    def open(self) -> int:
        """Open it as a VMM does; nobody else can then."""
        container, group = (os.open(f"/dev/vfio/{name}", os.O_RDWR | os.O_CLOEXEC) for name in ("vfio", self.group))
        self._stack.callback(os.close, container)
        self._stack.callback(os.close, group)
        self.use(vfio.open_device(group, container, self.id))
        self._stack.callback(os.close, self.device)
        return self.device

    def use(self, device: int) -> None:
        """Write through a descriptor of the device that somebody else has opened."""
        self.device = device

    def bar(self) -> mmap.mmap:
        """All of BAR 0, the video memory."""
        region = vfio.region(self.device, BAR0)
        return mmap.mmap(self.device, region.size, offset=region.offset)

    def register(self, number: int, value: int) -> None:
        os.pwrite(self.device, struct.pack("=H", value), vfio.region(self.device, BAR2).offset + 0x500 + 2 * number)

    def mode(self, width: int, height: int, virtual_width: int = 0) -> None:
        """mbochs: a mode of 32 bits a pixel; rows are virtual_width pixels apart where that is more."""
        for number, value in (
            (ENABLE, 0), (WIDTH, width), (HEIGHT, height), (DEPTH, 32), (VIRTUAL_WIDTH, virtual_width), (Y_OFFSET, 0),
            (ENABLE, 0x41),
        ):  # fmt: skip
            self.register(number, value)

    def paint(self, picture: np.ndarray, stride: int = 0, line: int = 0) -> None:
        """Put a picture, (height, width, 4) uint8, into the video memory from a line on; stride is in bytes."""
        height, width = picture.shape[:2]
        stride = stride or width * 4
        rows = np.full((height, stride), 0x5A, np.uint8)
        rows[:, : width * 4] = picture.reshape(height, -1)
        with self.bar() as memory:
            memory[line * stride : (line + height) * stride] = rows.tobytes()

    def present(self, width: int, height: int, stride: int = 0) -> np.ndarray:
        """What the BAR itself holds."""
        stride = stride or width * 4
        with self.bar() as memory:
            rows = np.frombuffer(memory[: stride * height], np.uint8).reshape(height, stride)
        return rows[:, : width * 4].reshape(height, width, 4)

    def close(self) -> None:
        """The VMM ends, and the mdev is taken away."""
        self._stack.close()
        # mbochs frees what its dma-bufs' end needs: a dma-buf that outlives its mdev is the end of the kernel.
        if self.reader is not None:
            forget_all(self.reader)
        self.device = -1
        if self.folder.exists():
            (self.folder / "remove").write_text("1")

    def __enter__(self) -> Vgpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[glreadback.Reader]:
    with glreadback.Reader("software") as made:
        Vgpu.reader = made
        yield made
        Vgpu.reader = None


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before + 12  # the reader keeps its last imports' descriptors


def forget_all(reader: glreadback.Reader) -> None:
    """Drop all that a reader keeps of anybody's buffers."""
    for importer in reader._open_importers():
        with importer.context:
            importer.forget(frozenset(key for entry in importer._cache.values() for key in entry.inodes))


def shot(source: VfioSource, reader: glreadback.Reader, route: str | None = None) -> np.ndarray:
    return np.asarray(reader.read(next(source.frames(1.0)), route=route)).copy()


# ---- Both kinds


@pytest.mark.parametrize(("kind", "size"), [("vga", (640, 480)), ("xga", (1024, 768)), ("hd", (1920, 1080))])
def test_a_region_is_what_the_bar_holds(kind: str, size: tuple[int, int], reader: glreadback.Reader, read_log: ReadLog) -> None:
    width, height = size
    with Vgpu("mdpy", kind) as vgpu, VfioSource(vgpu.id) as source:
        vgpu.use(source._device.fileno())
        assert np.array_equal(shot(source, reader), vgpu.present(width, height)), "mdpy's own grey gradient"
        for seed in (1, 2):
            vgpu.paint(noise(height, width, seed))
            frame = next(source.frames(1.0))
            assert frame.origin == f"vfio:{vgpu.id}"
            for route in (None, "map"):
                surface = reader.read(frame, route=route)
                assert np.array_equal(np.asarray(surface), noise(height, width, seed))
                read_log("mdpy", str(surface.route))
        assert np.array_equal(shot(source, reader), vgpu.present(width, height))
        facts = source.describe()
        assert (facts["given as"], facts["type"], facts["parent"]) == ("region", f"mdpy-{kind}", "mdpy")
        shared, region, *cursors = facts["planes"]  # type: ignore[misc]
        assert shared == {"type": "primary", "as": "dma-buf", "state": "not offered"}
        assert (region["as"], region["region"], region["size"]) == ("region", 16, f"{width}x{height}")
        # mdpy gives its one plane whatever it is asked for.
        assert [cursor["state"] for cursor in cursors] == ["not offered", "the driver gives the primary plane"]


def test_a_dmabuf_is_what_the_bar_holds(reader: glreadback.Reader, read_log: ReadLog) -> None:
    with Vgpu("mbochsrw", "medium") as vgpu, VfioSource(str(vgpu.folder.resolve())) as source:
        vgpu.use(source._device.fileno())
        for width, height, virtual in ((1024, 768, 0), (640, 480, 704), (1920, 1080, 0)):
            vgpu.mode(width, height, virtual)
            stride = 4 * max(width, virtual)
            vgpu.paint(noise(height, width, width), stride)
            frame = next(source.frames(1.0))
            assert glreadback.kernel.dmabuf.is_dmabuf(frame.buffer.planes[0].fd)
            assert frame.buffer.planes[0].stride == stride
            surface = reader.read(frame)
            assert np.array_equal(np.asarray(surface), noise(height, width, width))
            assert np.array_equal(np.asarray(surface), vgpu.present(width, height, stride))
            read_log("mbochs", str(surface.route))
        facts = source.describe()
        assert (facts["given as"], facts["type"]) == ("dma-buf", "mbochsrw-medium")
        primary, region, cursor, _ = facts["planes"]  # type: ignore[misc]
        assert (primary["as"], primary["size"], primary["hot spot"]) == ("dma-buf", "1920x1080", "0,0")
        assert region == {"type": "primary", "as": "region", "state": "not offered"}
        assert cursor == {"type": "cursor", "as": "dma-buf", "state": "off"}


def test_a_page_flip_is_followed_and_each_id_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    fetch = vfio.get_dmabuf

    def counting(device: int, number: int) -> int:
        fetched.append(number)
        return fetch(device, number)

    monkeypatch.setattr(vfio, "get_dmabuf", counting)
    with Vgpu("mbochsrw", "medium") as vgpu, VfioSource(fd=vgpu.open()) as source, glreadback.Reader("software") as reader:
        vgpu.mode(640, 480)
        for page in (0, 1):
            vgpu.paint(noise(480, 640, page), line=480 * page)
        for turn in range(6):
            vgpu.register(Y_OFFSET, 480 * (turn % 2))
            assert np.array_equal(shot(source, reader), noise(480, 640, turn % 2))
        assert len(fetched) == len(set(fetched)) == 2
        (importer,) = reader._open_importers()
        assert importer.imported == 2


def test_the_first_question_after_a_mode_change_fails_and_nobody_sees_it() -> None:
    with Vgpu("mbochsrw", "medium") as vgpu, VfioSource(fd=vgpu.open()) as source:
        for width in (640, 800):
            vgpu.mode(width, 480)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                vfio.query_plane(vgpu.device, vfio.DMABUF, vfio.PRIMARY)
        for width in (1024, 1280):
            vgpu.mode(width, 480)
            assert next(source.frames(1.0)).size == (width, 480)


def test_a_plane_that_goes_off_and_comes_back(reader: glreadback.Reader) -> None:
    with Vgpu("mbochsrw", "medium") as vgpu, VfioSource("guest", fd=vgpu.open()) as source:
        with pytest.raises(SourceTimeout, match=r"the primary plane of guest is off; nothing was shown for 0.05 s"):
            next(source.frames(0.05))
        vgpu.mode(640, 480)
        next(source.frames(0.05))
        vgpu.register(ENABLE, 0)
        with pytest.raises(SourceTimeout):
            next(source.frames(0.05))
        timer = threading.Timer(0.3, vgpu.register, (ENABLE, 0x41))
        timer.start()
        vgpu.paint(noise(480, 640, 5))
        frame = next(source.frames(10.0))
        timer.join()
        assert np.array_equal(np.asarray(reader.read(frame)), noise(480, 640, 5))
        with (
            VfioSource("guest", fd=vgpu.device, plane="cursor") as cursor,
            pytest.raises(SourceTimeout, match="the cursor plane of guest is off"),
        ):
            next(cursor.frames(0.05))


def test_a_silent_producer_shows_what_it_has(reader: glreadback.Reader) -> None:
    with Vgpu("mbochsrw", "medium") as vgpu, VfioSource(fd=vgpu.open()) as source:
        vgpu.mode(640, 480)
        vgpu.paint(noise(480, 640, 1))
        frames = source.frames(0.05)
        pictures = [np.asarray(reader.read(next(frames))) for _ in range(5)]
        assert all(np.array_equal(picture, noise(480, 640, 1)) for picture in pictures)


def test_a_readonly_dmabuf_that_nobody_may_map(reader: glreadback.Reader) -> None:
    with Vgpu("mbochs", "medium") as vgpu, VfioSource(fd=vgpu.open()) as source:
        vgpu.mode(640, 480)
        frame = next(source.frames(1.0))
        for route in (None, "map"):
            with pytest.raises(ImportRejected) as refused:
                reader.read(frame, route=route)
            assert "does not let descriptor" in str(refused.value)
            assert "it is read-only" in str(refused.value)
            assert "\n" not in str(refused.value)


# ---- Devices that go


def test_a_device_is_taken_away_once_we_let_go(reader: glreadback.Reader) -> None:
    vgpu = Vgpu("mdpy", "vga")
    with VfioSource(vgpu.id) as source:
        before = shot(source, reader)
        # The kernel waits for us: what we hold stays good.
        removing = threading.Thread(target=(vgpu.folder / "remove").write_text, args=("1",))
        removing.start()
        assert not until(lambda: not removing.is_alive(), 0.3)
        assert np.array_equal(shot(source, reader), before)
    removing.join(30)
    assert not removing.is_alive()
    with pytest.raises(SourceError, match=f"there is no vfio device '{vgpu.id}'"):
        VfioSource(vgpu.id)
    vgpu.close()


VMM = """
    import socket, sys, time
    from screens import noise
    from test_vfio import Vgpu
    line = socket.socket(fileno=int(sys.argv[1]))
    vgpu = Vgpu("mbochsrw", "medium")
    device = vgpu.open()
    vgpu.mode(640, 480)
    vgpu.paint(noise(480, 640, 3))
    socket.send_fds(line, [vgpu.id.encode()], [device])
    time.sleep(600)
"""


def test_a_killed_vmm(reader: glreadback.Reader) -> None:
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    code = [sys.executable, "-c", textwrap.dedent(VMM), str(theirs.fileno())]
    with ours, subprocess.Popen(code, env=environment, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        name, (device,), *_ = socket.recv_fds(ours, 64, 1)
        assert name, "the VMM has failed"
        with VfioSource(name.decode(), fd=device) as source:
            os.close(device)
            assert np.array_equal(shot(source, reader), noise(480, 640, 3))
            process.kill()
            process.wait()
            # We hold the device now, and what it shows.
            assert np.array_equal(shot(source, reader), noise(480, 640, 3))
            forget_all(reader)
        with VfioSource(name.decode()) as source:
            assert next(source.frames(1.0)).size == (640, 480)
    Path("/sys/bus/mdev/devices", name.decode(), "remove").write_text("1")


# ---- Opening


def test_a_device_in_use() -> None:
    with Vgpu("mdpy", "vga") as vgpu:
        vgpu.open()
        with pytest.raises(
            SourceError, match=f"/dev/vfio/{vgpu.group} cannot be opened: Device or resource busy; it is in use"
        ):
            VfioSource(vgpu.id)


NOBODY = """
    import os
    from glreadback.sources.vfio import VfioSource, list_here
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    assert list_here()
    try:
        VfioSource({name!r})
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


def test_without_rights() -> None:
    with Vgpu("mdpy", "vga") as vgpu:
        for node in ("vfio", vgpu.group):
            os.chmod(f"/dev/vfio/{node}", 0o600 if node != "vfio" else 0o666)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(NOBODY.format(name=vgpu.id))], capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith(
            f"SourceError: /dev/vfio/{vgpu.group} cannot be opened: Permission denied; run it as root, or"
        ), done.stderr
        assert done.stdout.count("\n") == 1


def test_devices_that_are_no_vfio_devices() -> None:
    pci = min(Path("/sys/bus/pci/devices").iterdir())
    for path in (pci.name, str(pci)):
        with pytest.raises(SourceError, match=f"{pci.name} is not given to vfio: it has no IOMMU group"):
            VfioSource(path)


def test_what_there_is_without_opening_anything() -> None:
    with Vgpu("mdpy", "vga") as region, Vgpu("mbochsrw", "small") as shared:
        found = {entry["source"]: entry for entry in list_here()}
        assert found[f"vfio:{region.id}"]["type"] == "mdpy-vga"
        assert found[f"vfio:{shared.id}"]["type"] == "mbochsrw-small"
        with VfioSource(region.id):  # nobody has it open
            pass


def test_the_contenders_of_bench(reader: glreadback.Reader) -> None:
    with Vgpu("mdpy", "xga") as region, VfioSource(region.id) as source:
        names = {name: beside for name, _, run, beside in contenders(source, reader) if run() is not None}
        assert names == {"vfio region": "memcpy", "vfio region, GL": "vfio region"}
    with Vgpu("mbochsrw", "medium") as shared, VfioSource(fd=shared.open()) as source:
        shared.mode(1024, 768)
        names = {name: beside for name, _, run, beside in contenders(source, reader) if run() is not None}
        assert names == {"vfio dma-buf, map": "memcpy", "vfio dma-buf, GL": "vfio dma-buf, map"}


# ---- The command


def test_a_snapshot_of_each_kind_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], read_log: ReadLog) -> None:
    with Vgpu("mdpy", "vga") as region, Vgpu("mbochsrw", "medium") as shared:
        fd = shared.open()
        shared.mode(1024, 768)
        shared.paint(noise(768, 1024, 8))
        for name, vgpu, source in (("mdpy", region, f"vfio:{region.id}"), ("mbochs", shared, f"vfio:{shared.id}?fd={fd}")):
            out = tmp_path / f"{name}.npy"
            assert main(["snapshot", source, "-o", str(out), "--device", "software", "--verify"]) == 0
            assert "verified: identical by alias and map" in capsys.readouterr().out
            if vgpu is region:
                region.open()
            width, height = (640, 480) if vgpu is region else (1024, 768)
            assert np.array_equal(np.load(out), vgpu.present(width, height))
            read_log(name, "snapshot")


def test_info_shows_both_kinds_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    with Vgpu("mdpy", "vga") as region, Vgpu("mbochsrw", "medium") as shared:
        fd = shared.open()
        shared.mode(1024, 768)
        rows = {}
        for name, source in (("mdpy", f"vfio:{region.id}"), ("mbochs", f"vfio:{shared.id}?fd={fd}")):
            assert main(["info", source, "--device", "software"]) == 0
            said = capsys.readouterr().out
            rows[name] = [" ".join(line.split()) for line in said.splitlines() if "type " in line and ", as " in line]
            assert ("given as region" if name == "mdpy" else "given as dma-buf") in " ".join(said.split())
        assert [row.removeprefix("planes ") for row in rows["mdpy"]] == [
            "type primary, as dma-buf, state not offered",
            "type primary, as region, fourcc XR24, size 640x480, stride 2560, region 16, position 0,0, hot spot 0,0",
            "type cursor, as dma-buf, state not offered",
            "type cursor, as region, state the driver gives the primary plane",
        ]
        first, second, third, last = (row.removeprefix("planes ") for row in rows["mbochs"])
        assert first.startswith("type primary, as dma-buf, fourcc XR24, size 1024x768, stride 4096, id ")
        assert second == "type primary, as region, state not offered"
        assert third == "type cursor, as dma-buf, state off"
        assert last == "type cursor, as region, state not offered"


def test_bench_compares_gl_with_the_region(capsys: pytest.CaptureFixture[str]) -> None:
    with Vgpu("mdpy", "vga") as region, Vgpu("mbochsrw", "medium") as shared:
        fd = shared.open()
        shared.mode(320, 240)
        for source, ours, peer in (
            (f"vfio:{region.id}", "vfio region, GL", "vfio region"),
            (f"vfio:{shared.id}?fd={fd}", "vfio dma-buf, GL", "vfio dma-buf, map"),
        ):
            command = ["bench", source, "--seconds", "0.01", "--device", "software"]
            assert main([*command, "--json"]) == 0
            found = {measure["name"]: measure for measure in json.loads(capsys.readouterr().out)["measures"]}
            assert (found[ours]["beside"], found[peer]["beside"]) == (peer, "memcpy")
            assert found[ours]["ratio"] > 0
            assert "alias" in found
        assert main(command) == 0
        said = capsys.readouterr().out
        assert re.search(rf"^{ours} takes [\d.]+ × {peer} \(quartiles [\d.]+ to [\d.]+\)\.$", said, re.MULTILINE), said


def test_a_plane_that_goes_off_in_a_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Vgpu("mbochsrw", "medium") as shared:
        fd = shared.open()
        shared.mode(640, 480)
        ended: list[int] = []
        arguments = ["snapshot", f"vfio:it?fd={fd}", "-o", str(tmp_path / "shot.npy"), "--interval", "0.1", "--count", "99"]
        arguments += ["--timeout", "0.5", "--device", "software"]
        running = threading.Thread(target=lambda: ended.append(main(arguments)))
        running.start()
        assert until((tmp_path / "shot-0001.npy").exists, 60)
        shared.register(ENABLE, 0)
        running.join(60)
        err = capsys.readouterr().err
        assert (ended, err) == ([3], "glreadback: the primary plane of it is off; nothing was shown for 0.5 s\n")


def test_only_changed_pictures_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Vgpu("mbochsrw", "medium") as shared:
        fd = shared.open()
        shared.mode(640, 480)
        shared.paint(noise(480, 640, 1))
        ended: list[int] = []
        arguments = ["snapshot", f"vfio:it?fd={fd}", "-o", str(tmp_path / "shot.npy"), "--interval", "0.05", "--changed"]
        arguments += ["--count", "3", "--timeout", "60", "--device", "software"]
        running = threading.Thread(target=lambda: ended.append(main(arguments)))
        running.start()
        assert until((tmp_path / "shot-0001.npy").exists, 60)
        assert not until((tmp_path / "shot-0002.npy").exists, 1.0)
        # In one go: what is written between is seen between.
        pixels = noise(480, 640, 1)
        pixels[-1, -1] ^= 255
        shared.paint(pixels[-1:], line=479)
        assert until((tmp_path / "shot-0002.npy").exists, 60)
        shared.mode(320, 240)
        running.join(60)
        assert (ended, capsys.readouterr().err) == ([0], "")
        found = [np.load(tmp_path / f"shot-{number:04}.npy") for number in (1, 2, 3)]
        assert np.array_equal(found[0], noise(480, 640, 1))
        assert np.array_equal(found[1], pixels)
        assert found[2].shape == (240, 320, 4)


def test_sources_lists_the_vgpus_of_this_moment(capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> str:
        assert main(["sources", "vfio"]) == 0
        return capsys.readouterr().out.split("On this machine right now\n")[1]

    with Vgpu("mdpy", "vga") as one, Vgpu("mbochsrw", "small") as two:
        said = listed()
        assert f"  vfio:{one.id}  mdpy-vga  mdpy" in said
        assert f"  vfio:{two.id}  mbochsrw-small  mbochsrw" in said
    assert one.id not in listed()
    assert two.id not in listed()


def test_a_group_without_its_module_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vfio, "FOLDER", "/dev/nothing")
    with (
        Vgpu("mdpy", "vga") as vgpu,
        pytest.raises(SourceError, match="/dev/nothing/vfio cannot be opened: No such file") as error,
    ):
        VfioSource(vgpu.id)
    assert "load the module vfio" in str(error.value)
