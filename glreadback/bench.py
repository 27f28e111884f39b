"""Measuring reads against memcpy of the same bytes, in the same run: what `glreadback bench` and tests/bench share.

Contenders take turns (A B C A B C …), and a ratio is the median of the rounds' own ratios: what slows the machine for
a while slows all of them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .dmabuf import DmaBuf, Plane, check
from .errors import DescriptorError, GlReadbackError
from .fourcc import Fourcc
from .frame import Frame
from .plan import ROUTES
from .reader import Reader
from .surface import Surface

_WORDS = {
    "alias": "imported as plain bytes, import kept",
    "native": "imported as it is, import kept",
    "draw": "sampled by a shader into a target, import kept",
    "map": "mmap, copy and munmap, no GL",
}
MEMCPY = "memcpy"
HEADLESS = "egl-headless"
SWSCALE = "swscale"
FRESH = "fresh import"
FRESH_MEMCPY = "fresh mmap"
TINY = "1x1"


@dataclass(frozen=True)
class Contender:
    """One way to do the work: its name, what it does in words, and doing it once."""

    name: str
    what: str
    run: Callable[[], object]
    beside: str = MEMCPY  # the contender that it is a ratio to


@dataclass(frozen=True)
class Measure:
    """What came of a contender. seconds: the median of a run; ratio, low, high: median and quartiles over the rounds."""

    name: str
    what: str
    beside: str
    seconds: float
    ratio: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Skipped:
    """A contender that cannot be measured here, and why."""

    name: str
    why: str


def alternate(
    contenders: Sequence[Contender], seconds: float, least: int = 5, tick: Callable[[float], None] | None = None
) -> list[Measure]:
    """Let the contenders take turns for about that many seconds, at least `least` rounds each.

    tick is told the share that is done, after each round.
    """
    times: list[list[float]] = [[] for _ in contenders]
    start = now = time.perf_counter()
    while len(times[0]) < least or now - start < seconds:
        for contender, taken in zip(contenders, times, strict=True):
            # Twice, and the second time counts: whatever the one before left in the caches, each finds what it leaves itself.
            contender.run()
            before = time.perf_counter()
            contender.run()
            taken.append(time.perf_counter() - before)
        now = time.perf_counter()
        if tick is not None:
            tick(min((now - start) / seconds, 1.0) if seconds else 1.0)
    by_name = {contender.name: taken for contender, taken in zip(contenders, times, strict=True)}
    return [_measure(contender, by_name[contender.name], by_name[contender.beside]) for contender in contenders]


def _measure(contender: Contender, taken: Sequence[float], base: Sequence[float]) -> Measure:
    ratios = [own / other for own, other in zip(taken, base, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Measure(contender.name, contender.what, contender.beside, statistics.median(taken), ratio, low, high, len(taken))


@contextmanager
def contenders(
    frame: Frame, device: str | None = None, source: object = None, fourcc: Fourcc | None = None
) -> Iterator[tuple[list[Contender], list[Skipped], Surface]]:
    """Every way to read frame that works here, memcpy first, all into the one surface; and those that do not, with why.

    A source that has ways of its own (vfio: by GL and by the region) adds them.

    Raises DescriptorError, ImportRejected or DeviceError where the frame cannot be read at all.
    """
    with ExitStack() as stack:

        def new_reader() -> Reader:
            # One each, as a program has that reads in one way: a Reader remembers its last reads.
            return stack.enter_context(Reader(device))

        out = new_reader().read(frame, fourcc=fourcc)
        found = [_memcpy(frame, out)]
        skipped: list[Skipped] = []
        ways: dict[str, Callable[[], list[Contender]]] = {
            **{name: functools.partial(_route, new_reader, frame, out, name) for name in ROUTES},
            SWSCALE: functools.partial(_swscale, new_reader, frame, out),
            HEADLESS: functools.partial(_headless, new_reader, frame, out, stack),
            FRESH: functools.partial(_fresh, new_reader, frame, out),
        }
        own = getattr(sys.modules.get(type(source).__module__), "contenders", None)
        if own is not None:
            ways["source"] = lambda: [Contender(*way) for way in own(source, new_reader())]
        for name, make in ways.items():
            try:
                found += make()
            except (GlReadbackError, OSError) as error:
                skipped.append(Skipped(name, _short(error)))
        yield found, skipped, out


def _short(error: Exception) -> str:
    """Why, without the picture's own description: "… by the native route: why"."""
    first = str(error).splitlines()[0]
    return first.partition(" route: ")[2] or first


def _memcpy(frame: Frame, out: Surface) -> Contender:
    """The bar: ctypes.memmove from the buffer's own mapping, or from other memory where it cannot be mapped."""
    size, address = len(out.data), out.address
    buf, plane = frame.buffer, frame.buffer.planes[0]
    mapping: mmap.mmap | None = None
    if buf.linear and len(buf.planes) == 1:
        try:
            mapping = mmap.mmap(plane.fd, plane.offset + size, mmap.MAP_SHARED)
        except (OSError, ValueError):
            pass  # the exporter allows no mapping, or the picture is converted and needs more bytes than there are
    if mapping is None:
        other = Surface.allocate(out.width, out.height, out.fourcc)
        ctypes.memset(other.address, 0x5A, len(other.data))
        source = other.address
        what = "memcpy of as many bytes of other memory"
        return Contender(MEMCPY, what, lambda kept=other: ctypes.memmove(address, source, size))  # type: ignore[misc]
    view = (ctypes.c_char * len(mapping)).from_buffer(mapping)
    start = ctypes.addressof(view) + plane.offset
    # The view keeps the mapping; both go with the contender.
    return Contender(MEMCPY, "memcpy of the same bytes", lambda kept=view: ctypes.memmove(address, start, size))  # type: ignore[misc]


def _route(new_reader: Callable[[], Reader], frame: Frame, out: Surface, name: str) -> list[Contender]:
    reader = new_reader()
    reader.read(frame, out, route=name)
    return [Contender(name, _WORDS[name], lambda: reader.read(frame, out, route=name))]


# What PyAV calls the formats that swscale is asked to convert beside us.
_AV_SOURCES = {"NV12": "nv12", "P010": "p010le", "YU12": "yuv420p"}
_AV_TARGETS = {"AB24": "rgba", "AR24": "bgra", "XR24": "bgra"}


def _swscale(new_reader: Callable[[], Reader], frame: Frame, out: Surface) -> list[Contender]:
    """PyAV's swscale, as it comes: its default interpolates chroma less than we do (docs/accuracy.md)."""
    buf = frame.buffer
    if buf.fourcc not in _AV_SOURCES or out.fourcc not in _AV_TARGETS or (buf.width | buf.height) % 2:
        raise DescriptorError("swscale is asked for NV12, P010 and YU12 into AB24, AR24 and XR24 alone")
    try:
        import av
        from av.video.reformatter import VideoReformatter
    except ImportError:
        raise DescriptorError("PyAV is not installed: pip install 'glreadback[video]'") from None
    picture = av.VideoFrame(buf.width, buf.height, _AV_SOURCES[buf.fourcc])
    for plane, rows in zip(picture.planes, new_reader().read_planes(frame), strict=True):
        row = rows.reshape(rows.shape[0], -1).view("u1")
        padded = b"".join(line.tobytes().ljust(plane.line_size, b"\0") for line in row)
        plane.update(padded)
    reformatter, target = VideoReformatter(), _AV_TARGETS[out.fourcc]
    what = "PyAV's swscale, its default flags, into a frame of its own"
    return [Contender(SWSCALE, what, lambda: reformatter.reformat(picture, format=target))]


def _headless(new_reader: Callable[[], Reader], frame: Frame, out: Surface, stack: ExitStack) -> list[Contender]:
    buf = frame.buffer
    if len(buf.planes) > 1 or out.fourcc.info.bytes_per_pixel != 4 or not out.packed:
        raise DescriptorError("it reads packed pixels of four bytes and no others")
    from .importer import Importer

    importer = Importer(new_reader().capabilities(frame).device)
    stack.callback(importer.close)
    with importer.context:
        from .gl.peer import EglHeadless

        found = importer.get(buf, check(buf), code=buf.fourcc.code, width=buf.width, height=buf.height, planes=buf.planes)
        peer = EglHeadless(found.texture.framebuffer, buf.width, buf.height)

    def close() -> None:
        with importer.context:
            peer.close()

    stack.callback(close)

    def run() -> None:
        with importer.context:
            peer.read(out.address)

    return [Contender(HEADLESS, "QEMU's way: blit into an own texture, read BGRA", run)]


def _fresh(new_reader: Callable[[], Reader], frame: Frame, out: Surface) -> list[Contender]:
    buf, plane, size = frame.buffer, frame.buffer.planes[0], len(out.data)
    if not (buf.linear and len(buf.planes) == 1 and out.fourcc == buf.fourcc):
        raise DescriptorError(f"{buf} is not one linear plane")

    reader = new_reader()

    def import_read_drop() -> None:
        reader.read(frame, out)
        reader.forget(frame)

    def map_copy_unmap() -> None:
        with (
            mmap.mmap(plane.fd, plane.offset + size, mmap.MAP_SHARED, mmap.PROT_READ) as mapping,
            memoryview(mapping) as view,
            view[plane.offset :] as pixels,
        ):
            out.data[:] = pixels

    map_copy_unmap()
    return [
        Contender(FRESH_MEMCPY, "mmap, memcpy, munmap in Python, each time", map_copy_unmap),
        Contender(FRESH, "import, read, drop, each time", import_read_drop, beside=FRESH_MEMCPY),
    ]


def tiny(frame: Frame, device: str | None = None, runs: int = 2000) -> float:
    """Median seconds of a 1x1 read of the frame's buffer into a given surface: everything but the pixels."""
    buf = frame.buffer
    if not buf.linear or len(buf.planes) > 1:
        raise DescriptorError(f"{buf} is not one linear plane")
    pixel = DmaBuf(1, 1, buf.fourcc, [Plane(plane.fd, plane.offset, plane.stride) for plane in buf.planes], buf.modifier)
    with Reader(device) as reader:
        out = reader.read(pixel)
        taken = []
        for _ in range(runs):
            before = time.perf_counter()
            reader.read(pixel, out)
            taken.append(time.perf_counter() - before)
    return statistics.median(taken)
