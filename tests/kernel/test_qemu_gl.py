"""qemu: a QEMU with gl=on, which shows its console in real dma-bufs (ScanoutDMABUF) and waits for UpdateDMABUF's answer."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

import qemu_guest
from producers import ReadLog

from glreadback import Frame, Reader, cli
from glreadback.errors import SourceError
from glreadback.sources import qemu
from glreadback.sources.base import SourceTimeout
from glreadback.sources.qemu import QemuSource

STAGES = [qemu_guest.linear(640, 480, 32), qemu_guest.mode13(), qemu_guest.linear(800, 608, 16)]


def render_node() -> str:
    """virtio_gpu's: the kernel numbers them as the drivers come."""
    for name in sorted(os.listdir("/dev/dri")):
        driver = Path(f"/sys/class/drm/{name}/device/driver")
        if name.startswith("renderD") and driver.exists() and "virtio" in os.readlink(driver):
            return f"/dev/dri/{name}"
    raise AssertionError("virtio_gpu has no render node here")


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[qemu_guest.Guest]:
    # A machine emulated on an emulated machine.
    monkeypatch.setattr(qemu_guest, "_START", 60.0)
    monkeypatch.setattr(qemu, "OPEN_TIMEOUT", 30.0)
    monkeypatch.setattr(qemu, "_START_TIME", 30.0)
    with qemu_guest.Guest(STAGES, f"dbus,p2p=yes,gl=on,rendernode={render_node()}") as made:
        yield made


def rgb(frame: Frame, reader: Reader) -> tuple[int, int, bytes]:
    surface = reader.read(frame)
    return surface.width, surface.height, surface.rgba()[..., :3].tobytes()


def test_a_gl_console_is_what_the_guest_drew_in_every_mode(guest: qemu_guest.Guest, read_log: ReadLog) -> None:
    with Reader("software") as reader, QemuSource(os.fspath(guest.qmp)) as source:
        frames = source.frames(timeout=30)
        for number in range(len(STAGES)):
            stage = guest.show(number)
            dumped = guest.screendump()
            for _, frame in zip(range(50), frames, strict=False):
                shown = rgb(frame, reader)
                if shown == dumped:
                    break
            assert frame.buffer.fourcc == "XB24"  # as only GL's dma-bufs are
            assert shown == dumped
            if stage.pixel is not None:
                expected = (stage.pixel(n).to_bytes(3, "big") for n in range(stage.width * stage.height))
                assert shown == (stage.width, stage.height, b"".join(expected))
            read_log("qemu gl=on", "alias")
    assert not re.search("[Tt]imeout|timed out", guest.log), guest.log


def test_a_caller_that_sleeps_does_not_hold_the_guest(guest: qemu_guest.Guest) -> None:
    with QemuSource(os.fspath(guest.qmp)) as source:
        guest.show(0)
        next(source.frames(timeout=30))
        time.sleep(3)  # three times what QEMU waits for an UpdateDMABUF at most
        guest.show(1)
    assert not re.search("[Tt]imeout|timed out", guest.log), guest.log


def test_a_snapshot_by_command_of_a_guest_that_screendump_cannot_take(
    guest: qemu_guest.Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], read_log: ReadLog
) -> None:
    stage = guest.show(0)
    out = tmp_path / "guest.ppm"
    assert cli.main(["snapshot", f"qemu:{guest.qmp}", "-o", str(out), "--device", "software", "--timeout", "60"]) == 0
    magic, size, most, pixels = out.read_bytes().split(b"\n", 3)
    assert (magic, size, most) == (b"P6", b"640 480", b"255")
    assert stage.pixel is not None
    assert pixels == b"".join(stage.pixel(n).to_bytes(3, "big") for n in range(640 * 480))
    assert "640x480 XB24 from qemu:" in capsys.readouterr().out
    read_log("qemu gl=on", "snapshot")


def test_sources_says_that_it_is_a_dma_buf(guest: qemu_guest.Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.show(0)
    assert cli.main(["sources", f"qemu:{guest.qmp}"]) == 0
    assert f"    qemu:{guest.qmp}?console=0  VGA  640x480 XB24, given as dma-buf\n" in capsys.readouterr().out
    assert not re.search("[Tt]imeout|timed out", guest.log), guest.log


def test_a_stopped_and_a_killed_guest(guest: qemu_guest.Guest) -> None:
    guest.show(0)
    with QemuSource(os.fspath(guest.qmp), device="software") as source:
        kept = next(source.frames(timeout=60))
        guest.stop()
        with pytest.raises(SourceTimeout, match="QEMU does not answer; is it stopped"):
            for _ in zip(range(20), source.frames(timeout=2.0), strict=False):
                pass
        guest.go_on()
        kept = next(source.frames(timeout=60))
        guest.kill()
        with pytest.raises(SourceError, match="QEMU has ended") as error:
            for _ in zip(range(20), source.frames(timeout=10), strict=False):
                pass
        assert not isinstance(error.value, SourceTimeout)
        with Reader("software") as reader:
            assert rgb(kept, reader)[:2] == (640, 480), "what was handed out stays readable"
