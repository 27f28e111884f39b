"""What most tests share: buffers of known random content, a reader of the software device, and a watch over leaks."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import SHRINK, Bytes, Driver, Held, MakePicture, MemFd, Picture, importer_of, write_all

from glreadback import DmaBuf, Fourcc, Modifier, Plane, Reader

# ---- memory


@pytest.fixture
def memfd(leaks: Callable[[], None]) -> Iterator[MemFd]:
    """Makes memfds, closed at the end: of a size (zeros, sparse) or a content, with seals, opened as mode says."""
    made: list[int] = []

    def make(content: int | bytes | Bytes, seals: int = SHRINK, mode: int = os.O_RDWR) -> int:
        fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(fd)
        if isinstance(content, int):
            os.ftruncate(fd, content)
        else:
            write_all(fd, content)
        if seals:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        if mode != os.O_RDWR:
            other = os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC)
            os.dup2(other, fd, inheritable=False)
            os.close(other)
        return fd

    yield make
    for fd in made:
        try:
            os.close(fd)
        except OSError:
            pass  # the test closed it


@pytest.fixture(scope="session")
def noise() -> Bytes:
    """48 MiB of random bytes, always the same."""
    return np.random.default_rng(20250705).integers(0, 256, 48 << 20, dtype=np.uint8)


@pytest.fixture(scope="session")
def noise_fd(noise: Bytes) -> Iterator[int]:
    """A sealed memfd that holds the noise. Don't write to it."""
    fd = os.memfd_create("noise", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    write_all(fd, noise)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SHRINK | fcntl.F_SEAL_GROW)
    yield fd
    os.close(fd)


# ---- pictures


@pytest.fixture
def picture(memfd: MemFd, noise: Bytes, request: pytest.FixtureRequest) -> MakePicture:
    """Makes pictures of random content: planes one after the other from offset on, gap bytes between them, each row pad
    bytes longer than it has to be. own=True gives it a memfd just large enough (and tail bytes more), own=False a place
    in the shared noise, which costs nothing."""

    def make(
        fourcc: str,
        width: int,
        height: int,
        *,
        pad: int = 0,
        offset: int = 0,
        gap: int = 0,
        modifier: int = Modifier.LINEAR,
        own: bool = True,
        seals: int = SHRINK,
        mode: int = os.O_RDWR,
        tail: int = 0,
    ) -> Picture:
        places, end = [], offset
        for layout in Fourcc(fourcc).info.planes:
            row = layout.row_bytes(width)
            line = -(-row // layout.block_height) + pad
            places.append((end, line))
            end += line * layout.block_height * (layout.rows(height) - 1) + row + gap
        end += tail - gap
        assert end <= noise.size, "the noise is too short for that"
        if own:
            # Another stretch of the noise for each size, so that no two pictures of a test are alike.
            start = (width * 7919 + height * 104729 + offset * 31 + pad) % (noise.size - end + 1)
            content = noise[start : start + end].copy()
            fd = memfd(content, seals, mode)
        else:
            content, fd = noise, request.getfixturevalue("noise_fd")
        return Picture(DmaBuf(width, height, fourcc, [Plane(fd, *place) for place in places], modifier), content)

    return make


# ---- readers


@pytest.fixture(scope="session")
def software(noise_fd: int) -> None:
    """Opens the software device for good: what it and the noise keep for the process's life is no leak of a test."""
    memory = os.memfd_create("warm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 4096)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SHRINK)
    with Reader("software") as reader:
        for route in ("alias", "draw"):
            reader.read(DmaBuf(4, 4, "XR24", [Plane(memory, 0, 16)]), route=route)
    os.close(memory)


@pytest.fixture
def leaks(software: None) -> Iterator[Callable[[], None]]:
    """Fails a test that ends with more descriptors or mappings of shared memory than it began with.

    Called, it checks at that place already.
    """
    before = Held.now()

    def check() -> None:
        if Held.now() != before:
            gc.collect()
        assert Held.now() == before

    yield check
    check()


@pytest.fixture
def reader(leaks: Callable[[], None]) -> Iterator[Reader]:
    """A reader of the software device: no GL error before the test and none after it, and nothing left behind."""
    from OpenGL import GLES3 as gl

    with Reader("software") as made:
        importer = importer_of(made)
        with importer.context:
            assert gl.glGetError() == gl.GL_NO_ERROR
        yield made
        if not made.closed:
            with importer.context:
                assert gl.glGetError() == gl.GL_NO_ERROR


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Notes every import that is asked of a driver: a description that is wrong must not get that far."""
    from glreadback import importer

    spy = Driver([])
    get, create = importer.Importer.get, importer.create_image

    def noted_get(self: Any, *args: Any, **options: Any) -> Any:
        spy.calls.append("get")
        return get(self, *args, **options)

    def noted_create(*args: Any, **options: Any) -> Any:
        spy.calls.append("create_image")
        return create(*args, **options)

    monkeypatch.setattr(importer.Importer, "get", noted_get)
    monkeypatch.setattr(importer, "create_image", noted_create)
    return spy


# ---- the package


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of this tree once a run: pip and an own environment take a while."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", os.fspath(folder), os.fspath(Path(__file__).parents[1])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built
