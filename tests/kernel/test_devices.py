"""Which device reads: with vgem and virtio_gpu loaded the easy choice, the surfaceless display, reads next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from producers import DRIVERS, Made, Producer, ReadLog, open_card, vivid
from trap import surfaceless
from watch import open_fds

from glreadback import DeviceError, DmaBuf, Frame, ImportRejected, Plane, Reader, Surface
from glreadback.cli import main
from glreadback.egl.device import Display, candidates, devices, open_display
from glreadback.kernel import drm
from glreadback.kernel.render import has_gpu

NODES = sorted(str(path) for path in Path("/dev/dri").glob("renderD*"))


def buffer_of(made: Made) -> DmaBuf:
    return DmaBuf(made.width, made.height, made.fourcc, [Plane(*plane) for plane in made.planes], made.modifier)


def test_this_machine_sets_the_trap() -> None:
    """Without this, the other tests here would prove nothing."""
    with surfaceless() as (driver, card):
        assert driver == "kms_swrast"
        assert card in DRIVERS.values()
    assert len(NODES) >= 2


def test_the_default_device_is_the_software_device(reader: Reader) -> None:
    assert candidates() == ["software"]
    found = reader.capabilities()
    assert (found.device, found.driver, found.software) == ("software", "swrast", True)


def test_the_default_device_reads_every_drivers_buffers(producer: Producer, reader: Reader, read_log: ReadLog) -> None:
    with producer(64, 48, "AR24") as made:
        made.fill()
        for route in (None, "alias", "native", "draw"):
            surface = reader.read(buffer_of(made), route=route)
            assert surface.tobytes() == made.expected()
            read_log(made.producer, str(surface.route))


def test_the_default_device_reads_a_camera(reader: Reader, read_log: ReadLog) -> None:
    with vivid(320, 180, "AR24") as made:
        surface = reader.read(buffer_of(made), route="alias")
        assert surface.tobytes() == made.expected()
        read_log("vivid", "alias")


def test_one_call_reads_every_drivers_buffers(producer: Producer) -> None:
    """glreadback.read, with a reader of its own kind."""
    import glreadback

    with producer(64, 48, "AR24") as made:
        made.fill()
        assert glreadback.read(buffer_of(made)).tobytes() == made.expected()


def test_no_card_is_opened(reader: Reader) -> None:
    """Mesa's stand-in for a missing GPU driver opens cards, and whoever is first becomes DRM master: then no compositor
    starts while the reader lives."""
    reader.capabilities()
    assert not [path for path in open_fds().values() if path.startswith("/dev/dri")]
    card = open_card("virtio_gpu")
    try:
        drm.set_master(card)
    finally:
        os.close(card)


def test_a_node_that_only_eglinitialize_tells(reader: Reader) -> None:
    """Where the kernel's driver could draw, but Mesa has none for it. The cards are closed again."""
    for device in devices():
        if not device.software:
            with pytest.raises(DeviceError, match="has no GPU driver"):
                Display(device)
    assert not [path for path in open_fds().values() if path.startswith("/dev/dri")]


@pytest.mark.parametrize("node", NODES)
def test_a_node_without_a_gpu(node: str, producer: Producer, reader: Reader) -> None:
    """Asked for by name it is refused, named by a frame it is passed over; nobody gets wrong pixels, nothing crashes."""
    assert not has_gpu(node)
    with producer(64, 48, "AR24", stride=320, offset=64) as made:
        made.fill()
        for route in ("alias", "native", "draw"):
            with Reader(node) as own, pytest.raises(DeviceError, match=f"{node} has no GPU driver.*'software' reads"):
                own.read(buffer_of(made), route=route)
            assert reader.read(Frame(buffer_of(made), device=node), route=route).tobytes() == made.expected()


def test_somebody_elses_context_without_a_gpu(producer: Producer) -> None:
    """A compositor in a machine without a GPU has such a context: its card's buffers come out right, others are refused."""
    with surfaceless() as (_, card), Reader.current() as reader, producer(64, 48, "AR24", stride=320, offset=64) as made:
        for route in ("alias", "native", "draw"):
            out = Surface.allocate(64, 48, "AR24")
            if card == DRIVERS.get(made.producer):
                for seed in (1, 2):
                    made.fill(seed)
                    assert reader.read(buffer_of(made), out=out, route=route).tobytes() == made.expected()
            else:
                with pytest.raises(ImportRejected, match=r"kms_swrast.*(refused to import|cannot read)"):
                    reader.read(buffer_of(made), out=out, route=route)


def test_a_node_that_is_not_there() -> None:
    with Reader("/dev/dri/renderD99") as reader, pytest.raises(DeviceError, match="there is no /dev/dri/renderD99"):
        reader.capabilities()


def test_every_node_is_listed() -> None:
    assert {device.name for device in devices()} == {*NODES, "software"}
    assert devices()[-1].software
    for node in NODES:
        with pytest.raises(DeviceError, match="has no GPU driver"):
            open_display(node)


def test_doctor_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for node in NODES:
        assert f"{node} has no GPU driver" in said
    assert "the software device works: swrast" in said
    assert "surfaceless platform becomes kms_swrast here" in said
    assert "/dev/udmabuf works" in said
    assert "Verdict: pictures can be read here" in said
