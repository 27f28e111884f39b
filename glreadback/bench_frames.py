"""Reading every frame, measured: each promise of docs/performance.md beside what it is a ratio to, in one run.

`measure_frames()` is what `glreadback bench --frames` prints and tests/bench/test_frame_costs.py keeps an eye on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from . import bench
from .bench import Contender, Measure, alternate
from .dmabuf import DmaBuf, Plane
from .frame import Frame
from .kernel.dmabuf import is_dmabuf
from .reader import Reader
from .sources import open_source
from .surface import Surface

SMALL, LARGE = (1920, 1080), (3840, 2160)
GROWTH = ((1280, 720), SMALL, (2560, 1440), LARGE, (5120, 2880), (7680, 4320))
CHAIN = 3  # buffers of a swap chain
EARLY, LATE = 100, 10_000  # frames
_NAMES = {SMALL: "1080p", LARGE: "2160p"}


@dataclass(frozen=True)
class Row:
    """A promise and what came of it: value must be at most limit, both in unit ("×", "µs", "KiB" or "" for a count)."""

    name: str
    beside: str  # what it is measured beside
    value: float
    limit: float
    unit: str = "×"
    seconds: float | None = None  # a frame's own time

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Growth:
    """What a frame of a size costs: seconds, and as a ratio to memcpy of as many bytes."""

    width: int
    height: int
    seconds: float
    ratio: float

    @property
    def per_pixel(self) -> float:
        """Nanoseconds."""
        return self.seconds * 1e9 / (self.width * self.height)


@dataclass(frozen=True)
class Frames:
    """The whole of it. device is what read, memory where the buffers came from (udmabuf or memfd)."""

    rows: Sequence[Row]
    growth: Sequence[Growth]
    device: str
    memory: str


def measure_frames(
    device: str = "software", seconds: float = 20.0, frames: int = LATE, tick: Callable[[float], None] | None = None
) -> Frames:
    """Measure every promise, and how the cost grows with the size, in about that many seconds; XR24 throughout.

    frames is how long the swap chain is watched. tick is told the share that is done.
    """
    rows: list[Row] = []
    growth: list[Growth] = []
    steps: list[Callable[[float], None]] = [
        lambda share: rows.extend(_whole(SMALL, device, share, 20)),
        lambda share: rows.append(_isolated(device, share)),
        lambda share: rows.extend(_whole(LARGE, device, share, 12)),
        lambda share: rows.extend(_parts(device, share)),
        lambda _share: rows.append(_tiny(device)),
        lambda _share: rows.extend(memory_of_a_chain(device, frames)),
        *(lambda share, size=size: growth.append(_grown(size, device, share)) for size in GROWTH),
    ]
    for index, step in enumerate(steps):
        step(seconds / len(steps))
        if tick is not None:
            tick((index + 1) / len(steps))
    with open_source("pattern:?size=8x8") as source, Reader(device) as reader:
        frame = next(source.frames())
        found = reader.capabilities(frame)
        return Frames(
            rows, growth, f"{found.device}, {found.renderer}", "udmabuf" if is_dmabuf(frame.buffer.planes[0].fd) else "memfd"
        )


def _source(size: tuple[int, int]) -> str:
    return f"pattern:?size={size[0]}x{size[1]}&fourcc=XR24"


def _whole(size: tuple[int, int], device: str, seconds: float, headless: int) -> list[Row]:
    """A frame into a given surface: known, in a new Frame, and never seen before."""
    name = _NAMES[size]
    with ExitStack() as stack:
        source = stack.enter_context(open_source(_source(size)))
        frame = next(source.frames())
        made, _, out = stack.enter_context(bench.contenders(frame, device))
        known = {contender.name: contender for contender in made}
        reader = stack.enter_context(Reader(device))
        buf = frame.buffer

        def anew() -> None:
            plane = buf.planes[0]
            again = DmaBuf(buf.width, buf.height, buf.fourcc, [Plane(plane.fd, plane.offset, plane.stride)], buf.modifier)
            reader.read(Frame(again), out)

        anew()
        chosen = [known[key] for key in (bench.MEMCPY, "alias", bench.HEADLESS, bench.FRESH_MEMCPY, bench.FRESH)]
        found = _by_name(alternate([*chosen, Contender("new frame", "", anew)], seconds, least=11))
    alias, peer, fresh = found["alias"], found[bench.HEADLESS], found[bench.FRESH]
    rows = [
        Row(f"{name}, cached import, given surface", "memcpy", alias.ratio, 1.10, seconds=alias.seconds),
        Row(f"{name}, the same in a new Frame each time", "memcpy", found["new frame"].ratio, 1.5),
        Row(f"{name}, beside egl-headless's way", "egl-headless", alias.seconds / peer.seconds, 1 / headless),
    ]
    if size == SMALL:
        beside = "mmap + memcpy + munmap"
        rows.append(Row(f"{name}, a buffer never seen before", beside, fresh.ratio, 1.3, seconds=fresh.seconds))
    return rows


def _isolated(device: str, seconds: float) -> Row:
    """A read in a helper process beside one in this process, each into a surface of its own kind."""
    with ExitStack() as stack:
        source = stack.enter_context(open_source(_source(SMALL)))
        frame = next(source.frames())
        ways = []
        for name, isolate in (("direct", False), ("isolated", True)):
            reader = stack.enter_context(Reader(device, isolate=isolate))
            ways.append(Contender(name, "", partial(reader.read, frame, reader.read(frame)), "direct"))
        found = alternate(ways, seconds, least=11)[1]
    return Row(f"{_NAMES[SMALL]}, isolated in a helper process", "a direct read", found.ratio, 1.3, seconds=found.seconds)


def _parts(device: str, seconds: float) -> list[Row]:
    """What costs less than a frame: a damaged rectangle, a view; and what may not cost more: submit."""
    with ExitStack() as stack:
        source = stack.enter_context(open_source(_source(LARGE)))
        frame = next(source.frames())
        reader, other = (stack.enter_context(Reader(device)) for _ in range(2))
        out = reader.read(frame)
        made, _, _ = stack.enter_context(bench.contenders(frame, device))
        memcpy = next(contender for contender in made if contender.name == bench.MEMCPY)
        found = _by_name(
            alternate(
                [
                    memcpy,
                    Contender("read", "", lambda: reader.read(frame, out)),
                    Contender("damage", "", lambda: reader.read(frame, out, damage=[(1000, 1000, 64, 64)]), "read"),
                    Contender("map", "", lambda: reader.map(frame).close()),
                    Contender("submit", "", lambda: other.submit(frame, out).result(), "read"),
                ],
                seconds,
                least=11,
            )
        )
    return [
        Row("a 64x64 rectangle of damage of 2160p", "the full frame", found["damage"].ratio, 1 / 20),
        Row("a mapped view of 2160p, taken and given back", "memcpy", found["map"].ratio, 1 / 20),
        Row("2160p, submit and result", "read", found["submit"].ratio, 1.15),
    ]


def _tiny(device: str) -> Row:
    with open_source("pattern:?size=64x64&fourcc=XR24") as source:
        taken = bench.tiny(next(source.frames()), device)
    return Row("Python's own time a frame (a 1x1 read)", "all but the pixels", taken * 1e6, 40.0, "µs", taken)


def memory_of_a_chain(device: str = "software", frames: int = LATE) -> list[Row]:
    """What a swap chain of three buffers has added after so many frames, to what it held after a hundred."""
    with ExitStack() as stack:
        sources = [stack.enter_context(open_source(_source((640, 480)))) for _ in range(CHAIN)]
        buffers = [next(source.frames()).buffer for source in sources]
        reader = stack.enter_context(Reader(device))
        out = Surface.allocate(640, 480, "XR24")
        held = resident = 0
        for number in range(frames):
            if number == EARLY:
                held, resident = _descriptors(), _resident()
            reader.read(Frame(buffers[number % CHAIN]), out)
        more, grown = _descriptors() - held, max(0, _resident() - resident)
    beside = f"after {EARLY} of {frames} frames"
    return [
        Row("a swap chain of 3: descriptors and mappings more", beside, more, 0, ""),
        Row("a swap chain of 3: memory more", beside, grown / 1024, 1024, "KiB"),
    ]


def _descriptors() -> int:
    with open("/proc/self/maps") as lines:
        return len(os.listdir("/proc/self/fd")) + sum("memfd:" in line or "dmabuf" in line for line in lines)


def _resident() -> int:
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _grown(size: tuple[int, int], device: str, seconds: float) -> Growth:
    with ExitStack() as stack:
        frame = next(stack.enter_context(open_source(_source(size))).frames())
        made, _, _ = stack.enter_context(bench.contenders(frame, device))
        chosen = [contender for contender in made if contender.name in (bench.MEMCPY, "alias")]
        alias = _by_name(alternate(chosen, seconds, least=7))["alias"]
    return Growth(*size, alias.seconds, alias.ratio)


def _by_name(measures: Sequence[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}
