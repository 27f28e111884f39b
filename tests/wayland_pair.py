"""Runs examples/compositor.py and examples/client.py together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
SOCKET = "demo"


@contextmanager
def compositor(folder: Path, frames: int, device: str = "software", timeout: float = 120) -> Iterator[subprocess.Popen[str]]:
    """A compositor that listens in folder and writes folder/frame.png. folder must be short: a socket's path is."""
    folder.chmod(0o700)
    command = [sys.executable, EXAMPLES / "compositor.py", "--socket", SOCKET, "-o", folder / "frame.png"]
    command += ["--frames", str(frames), "--device", device, "--timeout", str(timeout)]
    with subprocess.Popen(command, env=environment(folder), stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder), "WAYLAND_DISPLAY": SOCKET}


def client(folder: Path, frames: int, more: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "client.py", "--frames", str(frames), *more]
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=120)
