"""The examples run: a compositor reads what a Wayland client sends it, and survives one that lies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wayland_pair
from PIL import Image

pytest.importorskip("pywayland", reason="pywayland has no wheel here")


@pytest.fixture(scope="module")
def drawn() -> Any:
    """The client's own module: what it draws."""
    spec = importlib.util.spec_from_file_location("client", wayland_pair.EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gl") as path:  # tmp_path can be too long for a socket's
        yield Path(path)


def expected(drawn: Any, number: int) -> Any:
    rows = [np.frombuffer(drawn.row(number, y), np.uint8).reshape(-1, 4) for y in range(drawn.HEIGHT)]
    return np.stack(rows)[..., [2, 1, 0]]


@pytest.mark.parametrize("frames", [1, 7])
def test_the_compositor_reads_the_clients_frames(folder: Path, drawn: Any, frames: int) -> None:
    """The last picture is the client's last one, put together of the damage of all of them."""
    with wayland_pair.compositor(folder, frames) as compositor:
        done = wayland_pair.client(folder, frames)
        said, _ = compositor.communicate(timeout=60)
    assert done.returncode == 0, done.stderr + said
    assert compositor.returncode == 0, said
    assert said.count("320x240 XR24 by alias") == frames
    assert "client: 320x240 XR24 in two" in done.stdout
    with Image.open(folder / "frame.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), expected(drawn, frames - 1))


def test_damage_is_all_that_changes(drawn: Any) -> None:
    """What the client says is damaged is what differs, and so the frames above could only be right if both are."""
    for number in range(1, 8):
        before, after = expected(drawn, number - 1), expected(drawn, number)
        for x, y, width, height in drawn.damage(number):
            before[y : y + height, x : x + width] = after[y : y + height, x : x + width]
        assert np.array_equal(before, after)


def test_a_client_that_lies_is_turned_away(folder: Path, drawn: Any) -> None:
    """Its buffer is shorter than it says: it gets a protocol error, and the next client is served."""
    liar = (
        "import sys; sys.argv = ['client', '--frames', '1']\n"
        f"sys.path.insert(0, {str(wayland_pair.EXAMPLES)!r})\n"
        "import client\n"
        "real = client.udmabuf.allocate\n"
        "client.udmabuf.allocate = lambda size, name: real(4096, name)\n"
        "client.mmap.mmap = lambda fd, size: bytearray(size)\n"
        "sys.exit(client.main())\n"
    )
    with wayland_pair.compositor(folder, 2) as compositor:
        environment = wayland_pair.environment(folder)
        lied = subprocess.run([sys.executable, "-c", liar], env=environment, capture_output=True, text=True, timeout=60)
        assert lied.returncode == 1, lied.stderr
        honest = wayland_pair.client(folder, 2)
        said, _ = compositor.communicate(timeout=60)
    assert honest.returncode == 0, honest.stderr + said
    assert "refused: the buffer is too small for its description" in said
    assert compositor.returncode == 0, said
    with Image.open(folder / "frame.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), expected(drawn, 1))


def test_a_client_that_leaves_early(folder: Path) -> None:
    """In the middle of everything, without a word: its resources go, the compositor stays."""
    rude = (
        "import os, sys; sys.argv = ['client', '--frames', '2']\n"
        f"sys.path.insert(0, {str(wayland_pair.EXAMPLES)!r})\n"
        "import client\n"
        "client.Buffer.draw = lambda self, number: os._exit(7)\n"
        "client.main()\n"
    )
    with wayland_pair.compositor(folder, 1) as compositor:
        environment = wayland_pair.environment(folder)
        assert subprocess.run([sys.executable, "-c", rude], env=environment, timeout=60).returncode == 7
        assert wayland_pair.client(folder, 1).returncode == 0
        said, _ = compositor.communicate(timeout=60)
    assert compositor.returncode == 0, said
    assert "Traceback" not in said


def test_nobody_listens(folder: Path) -> None:
    done = wayland_pair.client(folder, 1, ["--display", os.fspath(folder / "nobody")])
    assert done.returncode != 0


def test_nobody_comes(folder: Path) -> None:
    with wayland_pair.compositor(folder, 1, timeout=0.3) as compositor:
        compositor.communicate(timeout=60)
    assert compositor.returncode == 3
