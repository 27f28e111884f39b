"""`kms:` against screens whose content is known otherwise: /dev/fbN, a client's own drawing, vkms's writeback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from producers import ReadLog
from screens import Client, card_name, client, console, noise, premultiplied, until

import glreadback
from glreadback.cli import main
from glreadback.errors import SourceError
from glreadback.kernel import drm
from glreadback.sources import _memory
from glreadback.sources.base import SourceTimeout
from glreadback.sources.kms import KmsSource, list_here

CONSOLES = {"virtio_gpu": "virtio_gpu", "bochs": "bochs-drm"}  # by producer: the driver's name
ROTATE_90, ROTATE_180, REFLECT_X, REFLECT_Y = 2, 4, 16, 32


@pytest.fixture(scope="module", autouse=True)
def _software() -> Iterator[None]:
    # What a card's own node offers here is a software driver too, which takes ten seconds to start.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLREADBACK_DEVICE", "software")
        Path("/dev/tty0").write_bytes(b"\x1b[?25l")  # no blinking cursor between two looks
        yield


@pytest.fixture(scope="module")
def reader() -> Iterator[glreadback.Reader]:
    with glreadback.Reader() as made:
        yield made


@pytest.fixture(autouse=True)
def handles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Every handle that GETFB2 gave is closed once, and no descriptor is left."""
    open_handles: Counter[int] = Counter()
    get_fb2, gem_close = drm.get_fb2, drm.gem_close

    def getting(fd: int, fb_id: int) -> drm.Framebuffer:
        found = get_fb2(fd, fb_id)
        open_handles.update({handle for handle, _, _ in found.planes} - {0})
        return found

    def closing(fd: int, handle: int) -> None:
        gem_close(fd, handle)
        open_handles[handle] -= 1

    monkeypatch.setattr(drm, "get_fb2", getting)
    monkeypatch.setattr(drm, "gem_close", closing)
    before = len(os.listdir("/proc/self/fd"))
    yield open_handles
    assert not +open_handles, "handles were left open"
    assert not -open_handles, "handles were closed twice"
    assert len(os.listdir("/proc/self/fd")) <= before + 12  # the reader keeps its last imports' descriptors


def shot(source: KmsSource, reader: glreadback.Reader, timeout: float = 2.0) -> np.ndarray:
    """The colours of the next frame, (height, width, 3), as its bytes lie."""
    surface = reader.read(next(source.frames(timeout)))
    return np.asarray(surface)[..., :3].copy()


# ---- The console


@pytest.mark.parametrize("name", CONSOLES)
def test_the_console_is_what_fb_shows(name: str, reader: glreadback.Reader, read_log: ReadLog) -> None:
    screen = console(CONSOLES[name])
    screen.light()
    card = card_name(CONSOLES[name])
    with KmsSource(card) as source:
        frame = next(source.frames(1.0))
        assert (frame.buffer.width, frame.buffer.height) >= screen.size
        assert frame.size == screen.size
        assert frame.origin.startswith(f"kms:{card}/Virtual-")
        # virtio_gpu says nothing of modifiers, which is not the same as LINEAR.
        assert frame.buffer.modifier == (glreadback.Modifier.INVALID if name == "virtio_gpu" else glreadback.Modifier.LINEAR)
        assert glreadback.kernel.dmabuf.is_dmabuf(frame.buffer.planes[0].fd)
        if name == "virtio_gpu":
            Path("/dev/tty0").write_bytes(b"\x1b[2J\x1b[HHello, screen.\r\n" + bytes(range(33, 127)))
        assert until(lambda: bool((shot(source, reader) == screen.pixels()[..., :3]).all()))
        if name == "virtio_gpu":
            assert shot(source, reader).any(), "there is text"
        picture = noise(*reversed(screen.size), seed=4)
        screen.paint(picture)
        assert until(lambda: bool((shot(source, reader) == picture[..., :3]).all()))
        surface = reader.read(next(source.frames()))
        read_log(name, str(surface.route))


def test_the_first_lit_one(reader: glreadback.Reader) -> None:
    console("virtio_gpu").light()
    with KmsSource() as source:
        assert str(source.describe()["card"]).startswith(card_name("virtio_gpu"))
        assert shot(source, reader).shape == (600, 800, 3)


def test_by_connector_and_by_crtc(reader: glreadback.Reader) -> None:
    card = card_name("virtio_gpu")
    with KmsSource(card) as source:
        facts = source.describe()
        first = shot(source, reader)
    for output in (facts["connector"], f"crtc-{facts['crtc']}"):
        with KmsSource(f"{card}/{output}") as source:
            assert np.array_equal(shot(source, reader), first)


def test_a_reader_knows_the_buffer_again() -> None:
    with KmsSource(card_name("virtio_gpu")) as source, glreadback.Reader() as reader:
        for _ in range(5):
            shot(source, reader)
        (importer,) = reader._open_importers()
        assert importer.imported == 1


def test_the_card_s_own_device_is_named() -> None:
    with KmsSource(card_name("virtio_gpu")) as source:
        device = next(source.frames()).device
        assert device is not None
        card, node = (os.stat(f"/sys/class/drm/{Path(path).name}/device/uevent") for path in (card_name("virtio_gpu"), device))
        assert card.st_ino == node.st_ino
    console("bochs-drm").light()
    with KmsSource(card_name("bochs-drm")) as source:
        assert next(source.frames()).device is None


def test_opening_does_not_make_us_master() -> None:
    with KmsSource(card_name("virtio_gpu")) as source, Client("virtio_gpu") as other:  # EBUSY in there if we were
        other.show(other.paint(noise(600, 800)))
        with pytest.raises(OSError) as refused:
            drm.set_master(source._card.fileno())
        assert refused.value.errno == errno.EBUSY


def test_what_there_is_without_opening_anything() -> None:
    found = {str(card["source"]): card for card in list_here()}
    card = found[f"kms:{card_name('virtio_gpu')}"]
    (connector,) = card["connectors"]  # type: ignore[misc]
    assert (connector["connected"], connector["lit"]) == (True, True)
    assert connector["modes"][0] == "800x600"
    KmsSource(connector["source"].removeprefix("kms:")).close()
    assert f"kms:{card_name('vgem')}" not in found


# ---- A client that draws


def _lit(driver: str, screen: Client) -> str:
    screen.show(screen.paint(noise(480, 640)))
    return card_name(driver)


def test_primary_and_cursor_of_virtio_gpu(reader: glreadback.Reader, read_log: ReadLog) -> None:
    with client("virtio_gpu") as screen:
        base = screen.paint(noise(600, 800, 1))
        screen.show(base)
        pointer = screen.paint(premultiplied(noise(64, 64, 2)), "AR24")
        drm.set_cursor(screen.card, screen.crtc, pointer.dumb.handle, (64, 64), (30, 50))
        with KmsSource(card_name("virtio_gpu"), cursor=True) as with_it, KmsSource(card_name("virtio_gpu")) as without:
            plain = base.pixels[..., :3]
            assert np.array_equal(shot(without, reader), plain)
            for x, y in ((30, 50), (-20, 580), (770, -33)):
                drm.set_cursor(screen.card, screen.crtc, pointer.dumb.handle, (64, 64), (x, y))
                big = np.zeros((800, 1000, 3))
                big[100:700, 100:900] = plain
                spot = big[100 + y : 164 + y, 100 + x : 164 + x]
                spot[:] = pointer.pixels[..., :3] + spot * (1 - pointer.pixels[..., 3:] / 255)
                got = shot(with_it, reader)
                assert np.abs(got - big[100:700, 100:900]).max() <= 0.5
            facts = {plane["type"]: plane for plane in with_it.describe()["planes on"]}  # type: ignore[attr-defined]
            assert facts["cursor"]["target"] == "64x64+770+-33"
            assert (facts["primary"]["fourcc"], facts["primary"]["source"]) == ("XR24", "800x600+0+0")
            read_log("virtio_gpu", "composed")


# 6.12's vkms reflects along the screen's axes where a plane is sideways too; the kernel's documentation, and we, along
# the source's.
TURNS = [1, ROTATE_90, ROTATE_180, 8, 1 | REFLECT_X, 1 | REFLECT_Y, ROTATE_180 | REFLECT_X]


def test_planes_as_the_kernel_composes_them(reader: glreadback.Reader, read_log: ReadLog) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen), cursor=True) as source:
        base = screen.paint(noise(480, 640, 1))
        screen.show(base)
        assert np.array_equal(shot(source, reader), base.pixels[..., :3])
        overlay = screen.paint(premultiplied(noise(90, 160, 2)), "AR24")
        opaque = screen.paint(noise(50, 30, 3), "XR24")
        pointer = screen.paint(premultiplied(noise(64, 64, 4)), "AR24")
        upper, lower, cursor = screen.planes[0][1], screen.planes[0][0], screen.planes[2][0]
        places = ((20, 40), (-30, -20), (560, 420))
        for number, turn in enumerate(TURNS):
            x, y = places[number % 3]
            width, height = (90, 160) if turn & (ROTATE_90 | 8) else (160, 90)
            screen.set(
                {
                    **screen.place(upper, overlay, (x, y, width, height), rotation=turn),
                    **screen.place(lower, opaque, (x + 30, y + 20, 20, 40), (5, 5, 20, 40)),
                    **screen.place(cursor, pointer, (600, -10, 64, 64)),
                }
            )
            kernels = screen.written_back(640, 480)[..., :3]
            got = shot(source, reader)
            assert np.array_equal(got, kernels), f"rotation {turn:#x}: {(got != kernels).any(-1).sum()} pixels differ"
            read_log("vkms", "composed")


def test_a_deep_screen(reader: glreadback.Reader) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        base = screen.paint(noise(480, 640, 1, np.uint16), "XR48")
        screen.set(screen.place(screen.planes[1][0], base, (0, 0, 640, 480)))
        frame = next(source.frames())
        assert frame.buffer.fourcc == "XR48"
        overlay = screen.paint(premultiplied(noise(90, 160, 2)), "AR24")
        screen.set(screen.place(screen.planes[0][0], overlay, (20, 40, 160, 90)))
        kernels = screen.written_back(640, 480, "XR48")[..., [2, 1, 0]]
        surface = reader.read(next(source.frames()))
        assert surface.fourcc == "AB48"
        got = np.asarray(surface)[..., :3]
        # The kernel rounds at each step, to sixteen bits.
        assert np.abs(got.astype(int) - kernels).max() <= 1
        assert np.array_equal(np.delete(got, np.s_[40:130], 0), np.delete(base.pixels[..., [2, 1, 0]], np.s_[40:130], 0))


def test_a_part_of_a_framebuffer_turned_is_read_in_place(reader: glreadback.Reader) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        large = screen.paint(noise(700, 700, 1), "AR24")
        primary = screen.planes[1][0]
        screen.set(screen.place(primary, large, (0, 0, 640, 480), (10, 20, 640, 480)))
        assert np.array_equal(shot(source, reader), screen.written_back(640, 480)[..., :3]), "black lies behind it"
        screen.set(screen.place(primary, large, (0, 0, 640, 480), (10, 20, 640, 480), rotation=ROTATE_180))
        frame = next(source.frames())
        assert (frame.visible, frame.transform, frame.buffer.fourcc) == ((10, 20, 640, 480), "180", "XR24")
        # 6.12's vkms writes rows back to where the topmost plane has them from: of no use where that one is turned.
        assert np.array_equal(shot(source, reader), np.rot90(large.pixels[20:500, 10:650, :3], 2))


def test_one_plane_raw(reader: glreadback.Reader) -> None:
    with client("vkms") as screen:
        screen.show(screen.paint(noise(480, 640)))
        overlay = screen.paint(noise(90, 160, 2), "AR24")
        plane = screen.planes[0][2]
        with KmsSource(card_name("vkms"), plane=plane) as source:
            with pytest.raises(SourceTimeout, match=f"plane {plane} of card[0-9]+ is off"):
                next(source.frames(0.05))
            screen.set(screen.place(plane, overlay, (20, 40, 50, 60), (10, 10, 50, 60), rotation=ROTATE_180))
            surface = reader.read(next(source.frames(0.05)))
            assert surface.fourcc == "AR24"
            assert np.array_equal(np.asarray(surface), overlay.pixels)
        with pytest.raises(SourceError, match=f"{card_name('vkms')} has no plane 9999; there are "):
            KmsSource(card_name("vkms"), plane=9999)


# ---- Screens that change


def test_a_swap_chain_is_imported_once_a_buffer() -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source, glreadback.Reader() as reader:
        buffers = [screen.paint(noise(480, 640, seed)) for seed in range(3)]
        screen.show(buffers[0])
        for turn in range(9):
            shown = buffers[turn % 3]
            screen.set(screen.place(screen.planes[1][0], shown, (0, 0, 640, 480)))
            assert np.array_equal(shot(source, reader), shown.pixels[..., :3])
        (importer,) = reader._open_importers()
        assert importer.imported == 3


def test_buffers_that_are_shown_no_more_are_let_go(handles: Counter[int]) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        for seed in range(12):
            painted = screen.paint(noise(480, 640, seed))
            screen.show(painted)
            next(source.frames())
        assert (+handles).total() <= 5


@pytest.mark.parametrize("driver", ["virtio_gpu", "bochs-drm"])
def test_the_mode_changes_between_frames(driver: str, reader: glreadback.Reader) -> None:
    with client(driver) as screen, KmsSource(_lit(driver, screen)) as source:
        for width, height in ((1024, 768), (640, 480), (1280, 1024)):
            painted = screen.paint(noise(height, width, width))
            screen.show(painted)
            assert np.array_equal(shot(source, reader), painted.pixels[..., :3])


def test_a_screen_that_goes_dark_and_comes_back(reader: glreadback.Reader) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        frames = source.frames(0.1)
        next(frames)
        screen.off()
        with pytest.raises(SourceTimeout, match=r"the screen kms:card\d/Virtual-\d is off; nothing was shown for 0.1 s"):
            next(frames)
        painted = screen.paint(noise(768, 1024, 9))
        screen.show(painted)
        assert np.array_equal(shot(source, reader), painted.pixels[..., :3])
    with client("vkms") as screen:
        screen.off()
        for path in (card_name("vkms"), f"{card_name('vkms')}/Virtual-3", f"{card_name('vkms')}/crtc-{screen.crtc}"):
            with pytest.raises(SourceError, match=r"lit: card\d \(vkms\) has Virtual-3 connected, off"):
                KmsSource(path)
    with pytest.raises(SourceError, match=r"has no output 'HDMI-A-7'; there are Virtual-3, crtc-"):
        KmsSource(f"{card_name('vkms')}/HDMI-A-7")


def test_a_framebuffer_that_goes_between_the_look_and_the_import(
    reader: glreadback.Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        counted = drm.get_fb2
        fresh = iter([screen.paint(noise(480, 640, seed)) for seed in range(40)])
        calls = []

        def vanishing(often: int) -> None:
            def get_fb2(fd: int, fb_id: int) -> drm.Framebuffer:
                calls.append(fb_id)
                if len(calls) <= often:
                    painted = next(fresh)
                    screen.set(screen.place(screen.planes[1][0], painted, (0, 0, 640, 480)))
                    drm.remove_fb(screen.card, fb_id)
                return counted(fd, fb_id)

            calls.clear()
            monkeypatch.setattr(drm, "get_fb2", get_fb2)

        vanishing(1)
        got = shot(source, reader)
        assert len(calls) == 2
        assert np.array_equal(got, noise(480, 640, 0)[..., :3])
        vanishing(1000)
        with pytest.raises(SourceError, match="changes faster than it can be looked at"):
            next(source.frames(1.0))
        vanishing(0)
        assert shot(source, reader).any()


def test_a_framebuffer_removed_under_a_frame_stays_readable(reader: glreadback.Reader) -> None:
    with client("vkms") as screen:
        painted = screen.paint(noise(480, 640, 3))
        screen.show(painted)
        with KmsSource(card_name("vkms")) as source:
            frame = next(source.frames())
            screen.unpaint(painted)
            assert np.array_equal(np.asarray(reader.read(frame))[..., :3], painted.pixels[..., :3])


KILLED = """
    import sys, time
    from screens import Client, noise
    screen = Client("vkms")
    screen.show(screen.paint(noise(480, 640, 7)))
    print("shown", flush=True)
    time.sleep(600)
"""


def _python(code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_killed_client(reader: glreadback.Reader) -> None:
    with _python(KILLED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "shown\n"
        with KmsSource(card_name("vkms")) as source:
            assert np.array_equal(shot(source, reader), noise(480, 640, 7)[..., :3])
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(SourceTimeout, match="is off"):
                next(source.frames(0.2))
            with client("vkms") as screen:
                painted = screen.paint(noise(480, 640, 8))
                screen.show(painted)
                assert np.array_equal(shot(source, reader), painted.pixels[..., :3])
    console("vkms").light()


# ---- Rights


NOBODY = """
    import os
    from glreadback.sources.kms import KmsSource, list_here
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    assert list_here()
    try:
        with KmsSource({card!r}) as source:
            print(source.describe()["planes on"][0]["problem"])
            next(source.frames(0.1))
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


def test_without_rights(reader: glreadback.Reader) -> None:
    card = card_name("virtio_gpu")
    node = Path("/dev/dri") / card
    mode = node.stat().st_mode
    try:
        node.chmod(0o600)
        with _python(NOBODY.format(card=card)) as process:
            said, _ = process.communicate(timeout=60)
        assert said.startswith(f"SourceError: /dev/dri/{card} cannot be opened: Permission denied. Run it as root, or")
        node.chmod(0o666)
        console("virtio_gpu").light()
        with _python(NOBODY.format(card=card)) as process:
            said, _ = process.communicate(timeout=60)
        first, second = said.splitlines()
        assert "can be read only with CAP_SYS_ADMIN, or by the DRM master" in first
        assert second == f"SourceError: {first}"
    finally:
        node.chmod(mode)


def test_without_udmabuf_a_memfd_takes_the_composed_picture(reader: glreadback.Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory.udmabuf, "DEVICE", "/dev/nothing")
    with client("vkms") as screen, KmsSource(_lit("vkms", screen)) as source:
        overlay = screen.paint(noise(90, 160, 2))
        screen.set(screen.place(screen.planes[0][0], overlay, (20, 40, 160, 90)))
        assert np.array_equal(shot(source, reader)[40:130, 20:180], overlay.pixels[..., :3])


# ---- The command


def picture_of(path: Path) -> np.ndarray:
    """The colours of a snapshot in .npy, as its bytes lie."""
    return np.load(path)[..., :3]


def test_a_snapshot_of_the_console_by_command(tmp_path: Path, read_log: ReadLog, capsys: pytest.CaptureFixture[str]) -> None:
    for name, driver in CONSOLES.items():
        screen = console(driver)
        screen.light()
        screen.paint(noise(*reversed(screen.size), seed=6))
        card, out = card_name(driver), tmp_path / f"{name}.npy"
        assert until(lambda card=card, out=out, screen=screen: _shot_is(card, out, screen.pixels()))  # type: ignore[misc]
        said = capsys.readouterr().out.splitlines()[-1]
        assert f"800x600 XR24 from kms:{card}/Virtual-" in said or name != "virtio_gpu", said
        assert main(["info", f"kms:{card}"]) == 0
        info = capsys.readouterr().out
        assert f"{card} ({driver})" in info
        assert "type primary, zpos" in info
        read_log(name, "snapshot")


def _shot_is(card: str, out: Path, pixels: np.ndarray) -> bool:
    assert main(["snapshot", f"kms:{card}", "-o", str(out)]) == 0
    return bool((picture_of(out) == pixels[..., :3]).all())


def test_a_screen_that_goes_dark_in_a_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with client("vkms") as screen:
        card = _lit("vkms", screen)
        ended: list[int] = []
        arguments = ["snapshot", f"kms:{card}", "-o", str(tmp_path / "shot.npy"), "--interval", "0.1", "--timeout", "0.5"]
        running = threading.Thread(target=lambda: ended.append(main([*arguments, "--count", "99"])))
        running.start()
        assert until(lambda: (tmp_path / "shot-0001.npy").exists(), 60)
        screen.off()
        running.join(60)
        err = capsys.readouterr().err
        assert (ended, err.count("\n")) == ([3], 1), err
        assert "is off; nothing was shown for 0.5 s" in err


def test_only_changed_screens_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with client("vkms") as screen:
        ended: list[int] = []
        pictures = [noise(480, 640, 1), noise(480, 640, 2), noise(768, 1024, 3), noise(480, 640, 1)]
        screen.show(screen.paint(pictures[0]))
        arguments = ["snapshot", f"kms:{card_name('vkms')}", "-o", str(tmp_path / "shot.npy"), "--interval", "0.05"]
        running = threading.Thread(
            target=lambda: ended.append(main([*arguments, "--changed", "--count", "4", "--timeout", "60"]))
        )
        running.start()
        for number, pixels in enumerate(pictures, 1):
            if number > 1:
                screen.show(screen.paint(pixels))
            out = tmp_path / f"shot-{number:04}.npy"
            assert until(out.exists, 60)
            assert np.array_equal(picture_of(out), pixels[..., :3])
            if number == 1:
                screen.show(screen.paint(pixels))  # another buffer, the same picture
                assert not until((tmp_path / "shot-0002.npy").exists, 1.0)
        running.join(60)
        assert (ended, capsys.readouterr().err) == ([0], "")


def test_the_device_is_that_of_reads_of_several_planes_too(reader: glreadback.Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "/dev/dri/renderD250"
    with client("vkms") as screen:
        card = _lit("vkms", screen)
        overlay = screen.paint(premultiplied(noise(90, 160, 2)), "AR24")
        screen.set(screen.place(screen.planes[0][0], overlay, (20, 40, 160, 90)))
        kernels = screen.written_back(640, 480)[..., :3]
        with (
            glreadback.open_source(f"kms:{card}", device=nowhere) as source,
            pytest.raises(glreadback.DeviceError, match=nowhere),
        ):
            next(source.frames(2.0))
        monkeypatch.setenv("GLREADBACK_DEVICE", nowhere)
        for isolate in (False, True):
            with glreadback.open_source(f"kms:{card}", device="software", isolate=isolate) as source:
                frame = next(source.frames(2.0))
                with glreadback.Reader("software") as own:
                    assert np.array_equal(np.asarray(own.read(frame))[..., :3], kernels)


def test_sources_lists_the_screens_of_this_moment(capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> list[str]:
        assert main(["sources", "kms"]) == 0
        return capsys.readouterr().out.split("On this machine right now\n")[1].splitlines()

    card = card_name("virtio_gpu")
    console("virtio_gpu").light()
    lines = listed()
    assert f"  kms:{card}  virtio_gpu" in lines or f"  kms:{card}  virtio-pci" in lines, lines
    (screen,) = (line for line in lines if line.startswith(f"    kms:{card}/"))
    name, state, *modes = screen.split()
    assert (state, modes[0]) == ("lit", "800x600")
    assert len(modes) > 3, "all of its modes"
    assert max(map(len, lines)) <= 100
    KmsSource(name.removeprefix("kms:")).close()
    with client("vkms") as drawing:
        drawing.show(drawing.paint(noise(480, 640)))
        assert any(line.startswith(f"    kms:{card_name('vkms')}/Virtual-3  lit") for line in listed())
        drawing.off()
        assert any(line.startswith(f"    kms:{card_name('vkms')}/Virtual-3  connected") for line in listed())
        assert not any("Writeback" in line for line in listed()), "nobody looks at that"
