"""What misbehaves, with real dma-bufs: helpers that die, a GL QEMU that is killed, and hundreds of cycles of it all."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from producers import PRODUCERS, Producer, ReadLog
from screens import card_name, client, noise
from test_reads import SIZE, buffer_of, check_same
from watch import dmabufs

from glreadback import DescriptorError, DmaBuf, Frame, Plane, Reader, ReaderCrashed, open_source
from glreadback.errors import SourceError
from glreadback.isolate import IsolatedReader
from glreadback.sources.base import SourceTimeout
from glreadback.sources.qemu import QemuSource

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

import qemu_guest
from pictures import Held
from test_qemu_gl import guest  # noqa: F401 - a fixture

CYCLES = 300  # of what could leak; an emulated machine is ten times as slow (tests/test_leaks.py: ten thousand)


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedReader]:
    with Reader("software", isolate=True) as made:
        assert isinstance(made, IsolatedReader)
        yield made


# ---- isolated


def test_an_isolated_reader_reads_dma_bufs(producer: Producer, isolated: IsolatedReader, read_log: ReadLog) -> None:
    with producer(*SIZE, "AR24", stride=448, offset=4096) as made:
        buf = buffer_of(made)
        surface = None
        for seed in (1, 2, 3):
            made.fill(seed)
            surface = isolated.read(buf, surface)
            check_same(surface, made)
            assert [plane.tobytes() for plane in isolated.read_planes(buf)] == [made.expected()]
        small = DmaBuf(made.width, made.height + made.memory(0).size // 448, "AR24", [Plane(made.planes[0][0], 0, 448)])
        with pytest.raises(DescriptorError, match="the buffer is too small .* the dma-buf holds"):
            isolated.read(small)
        read_log(made.producer, "isolated")
        isolated.forget(buf)


def test_a_helper_that_dies_lets_go_of_dma_bufs(isolated: IsolatedReader, reader: Reader) -> None:
    """The kernel frees what it had; the caller and other readers do not notice."""
    with PRODUCERS["vgem"](*SIZE, "AR24") as made:
        buf, inode = buffer_of(made), os.fstat(made.planes[0][0]).st_ino
        made.fill(1)
        check_same(isolated.read(buf), made)
        assert isolated._process is not None
        os.kill(isolated._process.pid, signal.SIGKILL)
        with pytest.raises(ReaderCrashed, match="was killed by SIGKILL"):
            isolated.read(buf)
        made.fill(2)
        check_same(isolated.read(buf), made)
        check_same(reader.read(buf), made)
        reader.forget(buf)
        isolated.forget(buf)
    gc.collect()
    assert inode not in dmabufs()


# ---- a QEMU that shows dma-bufs is killed


def test_a_gl_qemu_that_is_killed_in_the_middle_of_a_frame(guest: qemu_guest.Guest, reader: Reader) -> None:  # noqa: F811
    before = len(dmabufs())
    with QemuSource(os.fspath(guest.qmp)) as source:
        frames = source.frames(timeout=30)
        guest.show(0)
        kept = next(frames)
        expected = reader.read(kept).tobytes()
        # It changes its mode, and whoever listens sleeps: messages with dma-bufs are on their way.
        os.kill(source._process.pid, signal.SIGSTOP)
        guest.press()
        guest.kill()
        assert reader.read(kept).tobytes() == expected
        os.kill(source._process.pid, signal.SIGCONT)
        with pytest.raises(SourceError, match="QEMU has ended") as caught:
            for kept in frames:
                assert reader.read(kept).tobytes()
        assert not isinstance(caught.value, SourceTimeout)
        assert reader.read(kept).tobytes()
        reader.forget(kept)
    assert len(dmabufs()) <= before + 1


# ---- hundreds of times: descriptors, mappings, dma-bufs, imports


Unchanged = Callable[[Callable[[int], None]], None]


@pytest.fixture
def unchanged(reader: Reader, request: pytest.FixtureRequest) -> Unchanged:
    """Asserts that no more is held after many cycles than after a few: call it with a function of a number."""

    def held() -> tuple[int, ...]:
        gc.collect()
        found, kept = Held.now(), sum(len(importer._cache) for importer in reader._open_importers())
        return len(found.fds), len(found.mappings), len(dmabufs()), kept

    def check(cycle: Callable[[int], None]) -> None:
        found = []
        for start, end in ((0, 50), (50, 50 + CYCLES)):
            for number in range(start, end):
                cycle(number)
            found.append(held())
        request.node.user_properties.append(("tries", CYCLES))  # for tools/robustness_report.py, by junit
        assert all(after <= before for before, after in zip(*found, strict=True)), found

    return check


def test_kms_sources_leave_nothing(reader: Reader, unchanged: Unchanged) -> None:
    name = card_name("vkms")

    def cycle(number: int) -> None:
        with open_source(f"kms:{name}") as source:
            if number % 10 == 0:
                frame = next(source.frames(2.0))
                reader.read(frame)
                reader.forget(frame)
            else:
                source.describe()

    with client("vkms") as screen:
        screen.show(screen.paint(noise(480, 640, 3)))
        unchanged(cycle)


def test_wrong_kms_sources_leave_nothing(unchanged: Unchanged) -> None:
    paths = (f"{card_name('vkms')}/HDMI-A-77", "card77", f"{card_name('vkms')}/crtc-99999", "card0/../..")

    def cycle(number: int) -> None:
        with pytest.raises(SourceError):
            open_source(f"kms:{paths[number % len(paths)]}").close()

    unchanged(cycle)


def test_dma_bufs_leave_nothing(reader: Reader, unchanged: Unchanged) -> None:
    """A new buffer each time, read or refused, forgotten or pushed out of the cache."""
    makers = [PRODUCERS[name] for name in ("udmabuf", "vgem")]

    def cycle(number: int) -> None:
        with makers[number % 2](16, 16, "AR24") as made:
            buf = buffer_of(made)
            kind = number % 5
            if kind == 0:
                reader.read(Frame(buf, y_invert=True))
            elif kind == 1:
                with pytest.raises(DescriptorError):
                    reader.read(DmaBuf(16, 4000, "AR24", buf.planes))
            elif kind == 2:
                reader.map(buf).close()
            elif kind == 3:
                reader.read_planes(buf)
            else:
                reader.read(buf)
            reader.forget(buf)

    unchanged(cycle)
