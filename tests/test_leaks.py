"""Ten thousand times each: reads, reads that fail in every way, sources opened and closed. Nothing more is held afterwards.

Each kind runs in a process of its own, so that nothing but it is measured: descriptors, mappings, GL objects by asking for
each name whether it is one, child processes, and resident memory after a warm-up.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import files_of

ROOT = Path(__file__).parents[1]
CYCLES, WARM = 10_000, 1_000
MOST_GROWN = 2048  # KiB; a leak of one small object a cycle would be more

_OBJECTS = ("Texture", "Framebuffer", "Buffer", "Program", "Shader", "VertexArray", "Renderbuffer", "Sampler")


def _sealed(content: bytes) -> int:
    fd = os.memfd_create("leaky", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


# ---- the kinds: generators that do one cycle each time they are asked; readers are where GL objects are counted


def _reads(readers: list[Any], isolate: bool = False) -> Iterator[None]:
    """A few buffers and options in turn, a new buffer every tenth time."""
    from glreadback import DmaBuf, Frame, Plane, Reader, Surface

    with Reader("software", isolate=isolate) as reader:
        readers.append(reader)
        out = Surface.allocate(16, 16, "XR24")
        fds = [_sealed(bytes(2048)) for _ in range(4)]
        for number in range(1_000_000):
            if number % 10 == 0:
                os.close(fds.pop(0))
                fds.append(_sealed(bytes([number % 256]) * 2048))
            fd = fds[number % len(fds)]
            buf = DmaBuf(16, 16, "XR24", [Plane(fd, 0, 64)])
            kind = number % 20
            if kind < 8:
                assert set(reader.read(buf, out if number % 2 else None).tobytes()) == set(os.pread(fd, 1, 0))
            elif kind < 12:
                reader.read(Frame(buf, y_invert=True, transform="180" if kind == 11 else "normal"))
            elif kind == 12:
                reader.read(buf, scale=(5, 5))
            elif kind == 13:
                reader.read(DmaBuf(16, 16, "NV12", [Plane(fd, 0, 16), Plane(fd, 256, 16)]))
            elif kind == 14:
                reader.read_planes(DmaBuf(16, 16, "NV12", [Plane(fd, 0, 16), Plane(fd, 256, 16)]))
            elif kind == 15:
                reader.map(buf).close()
            elif kind == 16:
                reader.submit(buf).result()
            elif kind == 17:
                reader.read(buf, out, damage=[(1, 1, 3, 3)])
            elif kind == 18:
                reader.read(buf, fourcc="AB24", route="draw")
            else:
                reader.forget(buf)
            yield


def _failures(readers: list[Any], isolate: bool = False) -> Iterator[None]:
    from glreadback import DmaBuf, Frame, GlReadbackError, Plane, Reader, Surface

    good, pipe, eventfd = _sealed(bytes(4096)), os.pipe(), os.eventfd(0)
    plane = Plane(good, 0, 64)
    buf = DmaBuf(16, 16, "XR24", [plane])
    small = Surface.allocate(4, 4, "XR24")
    with Reader("software", isolate=isolate) as reader:
        readers.append(reader)
        ways: list[Callable[[], object]] = [
            lambda: reader.read(DmaBuf(16, 16, "XR24", [Plane(good, 4000, 64)])),
            lambda: reader.read(DmaBuf(16, 16, "XR24", [Plane(pipe[0], 0, 64)])),
            lambda: reader.read(DmaBuf(16, 16, "XR24", [Plane(eventfd, 0, 64)])),
            lambda: reader.read(DmaBuf(16, 16, "XR24", [Plane(1_000_000, 0, 64)])),
            lambda: reader.read(DmaBuf(16, 16, "XR24", [plane], 0x0100000000000001)),  # the driver is asked
            lambda: reader.read(DmaBuf(16, 16, "XR24", [plane], 0x0100000000000001), route="native"),
            lambda: reader.read(DmaBuf(16, 16, "ZZ99", [plane])),
            lambda: reader.read(buf, small),
            lambda: reader.read(buf, route="nowhere"),
            lambda: reader.read(buf, fourcc="C8"),
            lambda: reader.read(buf, rect=(10, 10, 10, 10)),
            lambda: reader.read(buf, tone_map=True),
            lambda: reader.read(buf, scale=(0, 0)),
            lambda: reader.read(Frame(buf, acquire_fence=eventfd), timeout=0.0),
            lambda: reader.read_planes(DmaBuf(16, 16, "NV12", [plane, Plane(good, 4090, 64)])),
            lambda: reader.map(Frame(buf, y_invert=True)),
            lambda: reader.submit(buf, rect=(0, 0, 0, 0)),
            lambda: DmaBuf(0, 16, "XR24", [plane]),
            lambda: Plane(-1, 0, 0),
        ]
        for number in range(1_000_000):
            try:
                ways[number % len(ways)]()
            except GlReadbackError:
                yield
            else:
                raise AssertionError(f"way {number % len(ways)} did not fail")


def _driver_failures(readers: list[Any]) -> Iterator[None]:
    """What fails inside: the driver refuses an import, or the read of one (its answers made up), at every step."""
    from glreadback import DmaBuf, ImportRejected, Plane, Reader
    from glreadback import importer as module
    from glreadback.gl import pixels, texture

    good = _sealed(bytes(4096))
    with Reader("software") as reader:
        readers.append(reader)

        def refuse(*_: Any, **__: Any) -> Any:
            raise texture.GLFailure("made up")

        def rejected(*_: Any, **__: Any) -> Any:
            raise module.Refused("EGL_BAD_ALLOC")

        steps = [
            (module, "create_image", rejected),
            (texture, "image_target_texture_2d", refuse),
            (pixels, "_get_error", lambda: 0x0505),
        ]
        for number in range(1_000_000):
            place, name, made_up = steps[number % len(steps)]
            real = getattr(place, name)
            setattr(place, name, made_up)
            buf = DmaBuf(8, 8, "XR24", [Plane(good, number % 16 * 64, 64)])
            try:
                reader.read(buf, route="native" if number % 2 else None)
            except (ImportRejected, texture.GLFailure):
                pass
            else:
                raise AssertionError(f"{name} did not fail")
            finally:
                setattr(place, name, real)
            with contextlib.suppress(ImportRejected):
                reader.forget(buf)
            yield


def _sources(readers: list[Any]) -> Iterator[None]:
    from glreadback import GlReadbackError, Reader, open_source

    fd = _sealed(bytes(4096))
    with tempfile.TemporaryDirectory() as folder, Reader("software") as reader:
        readers.append(reader)
        path = f"{folder}/frame.raw"
        Path(path).write_bytes(bytes(1024))
        specs = [
            "pattern:smpte?size=16x16&fourcc=XR24",
            "pattern:noise?size=16x16&fourcc=NV12",
            f"file:{path}?size=16x16&fourcc=XR24",
            f"fd:{fd}?size=16x16&fourcc=XR24",
            f"pid:{os.getpid()}/{fd}?size=16x16&fourcc=XR24",
            f"unix:{folder}/socket?listen=1",
        ]
        wrong = [
            "pattern:nothing?size=16x16",
            f"file:{path}?size=64x64&fourcc=XR24",
            f"file:{folder}/missing?size=16x16&fourcc=XR24",
            "fd:999999?size=16x16&fourcc=XR24",
            f"pid:{os.getpid()}/999999?size=16x16&fourcc=XR24",
            f"unix:{folder}/nobody",
            "kms:no-such-card",
            "vfio:6b0c8a2e-0000-0000-0000-000000000000",
            "nothing:at all",
        ]
        for number in range(1_000_000):
            if number % 2:
                try:
                    open_source(wrong[number // 2 % len(wrong)]).close()
                except (GlReadbackError, OSError):
                    yield
                    continue
                raise AssertionError(wrong[number // 2 % len(wrong)])
            spec = specs[number // 2 % len(specs)]
            with open_source(spec) as source:
                if spec.startswith("unix"):
                    _one_frame(source, f"{folder}/socket", fd)
                elif number % 3 == 0:
                    reader.read(next(source.frames(1.0)))
                else:
                    source.describe()
            yield


def _one_frame(source: Any, path: str, fd: int) -> None:
    from glreadback import DmaBuf, Frame, Plane
    from glreadback.wire.frames import format_header

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        text, fds = format_header(1, Frame(DmaBuf(16, 16, "XR24", [Plane(fd, 0, 64)], 0)))
        socket.send_fds(sock, [text], fds)
        next(source.frames(1.0))


def _readers(readers: list[Any]) -> Iterator[None]:
    """Contexts, one after the other."""
    from glreadback import DmaBuf, Plane, Reader

    buf = DmaBuf(16, 16, "XR24", [Plane(_sealed(bytes(4096)), 0, 64)])
    while True:
        with Reader("software") as reader:
            reader.read(buf)
        yield


def _crashes(readers: list[Any]) -> Iterator[None]:
    """Helpers that die, one after the other."""
    import signal

    from glreadback import DmaBuf, Plane, Reader, ReaderCrashed
    from glreadback.isolate import IsolatedReader

    buf = DmaBuf(16, 16, "XR24", [Plane(_sealed(bytes(4096)), 0, 64)])
    with Reader("software", isolate=True) as reader:
        assert isinstance(reader, IsolatedReader)
        out = reader.read(buf)
        while True:
            reader.read(buf, out)
            assert reader._process is not None
            os.kill(reader._process.pid, signal.SIGKILL)
            with contextlib.suppress(ReaderCrashed):
                while True:
                    reader.read(buf, out)
            yield


KINDS: dict[str, tuple[Callable[[list[Any]], Iterator[None]], int, int]] = {
    "reads": (_reads, WARM, CYCLES),
    "failed reads": (_failures, WARM, CYCLES),
    "refusals by the driver": (_driver_failures, WARM, CYCLES),
    "sources": (_sources, WARM, CYCLES),
    "failed isolated reads": (lambda readers: _failures(readers, True), WARM, CYCLES),
    # These cost more: an isolated read tens of microseconds, a context milliseconds, a helper hundreds of them.
    "isolated reads": (lambda readers: _reads(readers, True), WARM, CYCLES),
    "contexts": (_readers, 100, 300),
    "helpers that die": (_crashes, 2, 6),
}


# ---- what is held


def _held(readers: list[Any]) -> dict[str, int]:
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared mappings": sum("/memfd:" in line or "dmabuf" in line for line in lines),
        "mappings": len(lines),
        "children": len(Path("/proc/self/task", str(os.getpid()), "children").read_text().split()),
        "KiB": int(fields["VmRSS"].split()[0]),
    }
    for reader in readers:
        for importer in reader._open_importers():
            with importer.context:
                found.update(_names())
        process = getattr(reader, "_process", None)
        if process is not None:
            found["helper's descriptors"] = len(files_of(process.pid))
            maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            found["helper's shared mappings"] = sum("/memfd:" in line for line in maps)
            status = Path(f"/proc/{process.pid}/status").read_text()
            found["helper's KiB"] = int(status.partition("VmRSS:")[2].split()[0])
    return found


def _names() -> dict[str, int]:
    """How many of GL's names are objects. Context current."""
    from glreadback.egl.gaps import function

    asked = {kind: function(f"glIs{kind}", ctypes.c_ubyte, ctypes.c_uint) for kind in _OBJECTS}
    return {kind: sum(bool(known(name)) for name in range(1, 30_000)) for kind, known in asked.items()}


def measure(kind: str) -> list[dict[str, int]]:
    make, warm, cycles = KINDS[kind]
    readers: list[Any] = []
    todo = make(readers)
    found = []
    for count in (warm, cycles):
        for _ in range(count):
            next(todo)
        _held(readers)  # what the looking itself leaves behind is not counted
        found.append(_held(readers))
    todo.close()  # type: ignore[attr-defined]
    return found


# What may differ from one moment to the next: the allocator's arenas, a few surfaces' memories and imports in caches.
SLACK = {"mappings": 24, "KiB": MOST_GROWN, "helper's KiB": MOST_GROWN}
SLACK_ISOLATED = {"descriptors": 5, "shared mappings": 5, "helper's descriptors": 24, "helper's shared mappings": 24}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_times(kind: str, record_property: Callable[[str, object], None]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, __file__, kind], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    before, after = json.loads(done.stdout)
    slack = SLACK | (SLACK_ISOLATED if "isolated" in kind or "helpers" in kind else {})
    more = {what: (before[what], after[what]) for what in before if after[what] > before[what] + slack.get(what, 0)}
    record_property("tries", KINDS[kind][2])
    record_property(
        "outcome", ", ".join(f"{what} {after[what] - before[what]:+d}" for what in ("descriptors", "shared mappings", "KiB"))
    )
    assert more == {}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
