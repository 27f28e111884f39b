"""Reading every frame: pytest-benchmark's tables of what a frame costs (`make bench`), and the promises (`make test`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from promises import promised

from glreadback import DmaBuf, Frame, Plane, Reader, Surface, bench, bench_frames, open_source
from glreadback.bench import Contender
from glreadback.bench_frames import CHAIN, GROWTH, LARGE, SMALL, Frames, Growth, Row
from glreadback.cli import _frames

pytestmark = pytest.mark.slow


class Ways:
    """Ways to get at a frame, by name; what each is a ratio to."""

    def __init__(self, size: tuple[int, int], stack: ExitStack) -> None:
        frame = next(stack.enter_context(open_source(f"pattern:?size={size[0]}x{size[1]}&fourcc=XR24")).frames())
        found, _, out = stack.enter_context(bench.contenders(frame, "software"))
        self.by_name = {contender.name: contender for contender in found}
        reader, other = (stack.enter_context(Reader("software")) for _ in range(2))
        buf = frame.buffer
        reader.read(buf, out)

        def anew() -> None:
            plane = buf.planes[0]
            again = DmaBuf(buf.width, buf.height, buf.fourcc, [Plane(plane.fd, plane.offset, plane.stride)], buf.modifier)
            reader.read(Frame(again), out)

        for name, beside, run in (
            ("read", bench.MEMCPY, lambda: reader.read(frame, out)),
            ("new frame", bench.MEMCPY, anew),
            ("damage", "read", lambda: reader.read(frame, out, damage=[(500, 500, 64, 64)])),
            ("map", bench.MEMCPY, lambda: reader.map(frame).close()),
            ("submit", "read", lambda: other.submit(frame, out).result()),
        ):
            self.by_name[name] = Contender(name, "", run, beside)

    def ratio(self, name: str, beside: str | None = None, seconds: float = 1.0) -> float:
        """Of name to what it stands beside, the median of rounds in which both took turns."""
        own = self.by_name[name]
        other = self.by_name[beside or own.beside]
        pair = [Contender(other.name, "", other.run, other.name), Contender(name, "", own.run, other.name)]
        return bench.alternate(pair, seconds, least=15)[1].ratio


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=["1080p", "2160p"])
def ways(request: pytest.FixtureRequest) -> Iterator[Ways]:
    with ExitStack() as stack:
        yield Ways(request.param, stack)


@pytest.mark.parametrize(
    "name", [bench.MEMCPY, "read", "new frame", "damage", "map", "submit", bench.FRESH_MEMCPY, bench.FRESH, bench.HEADLESS]
)
def test_time(name: str, ways: Ways, benchmark: Any, request: pytest.FixtureRequest) -> None:
    benchmark.group = f"every frame, {request.node.callspec.id.partition('-')[0]}"
    benchmark.pedantic(ways.by_name[name].run, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("size", GROWTH, ids=[f"{width}x{height}" for width, height in GROWTH])
def test_time_by_size(size: tuple[int, int], benchmark: Any) -> None:
    benchmark.group = "a frame by size"
    with ExitStack() as stack:
        frame = next(stack.enter_context(open_source(f"pattern:?size={size[0]}x{size[1]}&fourcc=XR24")).frames())
        reader = stack.enter_context(Reader("software"))
        out = reader.read(frame)
        benchmark.pedantic(lambda: reader.read(frame, out), rounds=9, warmup_rounds=2)


# ---- the promises


def test_a_known_buffer_costs_a_memcpy(ways: Ways) -> None:
    promised(lambda: ways.ratio("read"), 1.10)


def test_a_new_frame_of_a_known_buffer_does_too(ways: Ways) -> None:
    """A compositor makes a Frame for each commit: known is the buffer, not the object."""
    promised(lambda: ways.ratio("new frame"), 1.5)


def test_a_buffer_never_seen_before(ways: Ways, request: pytest.FixtureRequest) -> None:
    if "1080p" in request.node.name:
        promised(lambda: ways.ratio(bench.FRESH), 1.3)


def test_damage_costs_its_area(ways: Ways, request: pytest.FixtureRequest) -> None:
    if "2160p" in request.node.name:
        promised(lambda: ways.ratio("damage"), 1 / 20)


def test_a_view_costs_next_to_nothing(ways: Ways, request: pytest.FixtureRequest) -> None:
    if "2160p" in request.node.name:
        promised(lambda: ways.ratio("map"), 1 / 20)


def test_submit_costs_a_read(ways: Ways) -> None:
    promised(lambda: ways.ratio("submit"), 1.15)


def test_the_cost_is_linear_in_pixels() -> None:
    """Over memcpy, which itself gets slower where the caches end: 36 times the pixels, not 36 times the ratio."""

    def worst() -> float:
        with ExitStack() as stack:
            return max(Ways(size, stack).ratio("read", seconds=0.3) for size in GROWTH[1:])

    promised(worst, 1.2)


def test_a_swap_chain_keeps_nothing() -> None:
    descriptors, memory = bench_frames.memory_of_a_chain(frames=10_000)
    assert descriptors.value == 0
    assert memory.value <= memory.limit


# ---- the report


FOUND = Frames(
    rows=[
        Row("kept", "memcpy", 1.0, 1.10, seconds=1e-3),
        Row("missed", "memcpy", 2.0, 1.10),
        Row("a part", "the whole", 0.01, 0.05),
        Row("none", "nothing", 0, 0, ""),
        Row("some", "nothing", 1, 0, ""),
        Row("time", "nothing", 9.9, 40.0, "µs"),
    ],
    growth=[Growth(100, 10, 1e-6, 1.5), Growth(1000, 100, 1e-4, 1.0)],
    device="software, a renderer",
    memory="memfd",
)


def test_the_lines() -> None:
    text = "\n".join(_frames.lines(FOUND))
    for row, words in (
        ("kept", "1.00 ×"),
        ("missed", "2.00 ×"),
        ("a part", "1/100"),
        ("a part", "1/20"),
        ("time", "9.9 µs"),
        ("1000x100", "1.000 ns"),
    ):
        assert any(row in line and words in line for line in text.splitlines()), (row, words)
    assert [line.split()[0] for line in text.splitlines() if line.endswith("missed")] == ["missed", "some"]
    assert FOUND.growth[1].per_pixel == pytest.approx(1.0)


def test_the_picture(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "frames.png"
    _frames.plot(os.fspath(path), FOUND)
    with Image.open(path) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 16)}
    assert {(0x2F, 0x6F, 0x9F), (0xB0, 0x64, 0x3C)} <= colours


def test_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, where no promise is kept: each row of the promises is there, and the sizes grow."""
    for name, value in (("SMALL", (64, 48)), ("LARGE", (1100, 1100)), ("GROWTH", ((64, 48), (96, 64)))):
        monkeypatch.setattr(bench_frames, name, value)
    monkeypatch.setattr(bench_frames, "_NAMES", {(64, 48): "1080p", (1100, 1100): "2160p"})
    shares: list[float] = []
    found = bench_frames.measure_frames(seconds=0, frames=150, tick=shares.append)
    assert shares[-1] == 1.0
    assert [(round(row.limit, 3), row.unit) for row in found.rows] == [
        *((1.1, "×"), (1.5, "×"), (0.05, "×"), (1.3, "×"), (1.3, "×")),
        *((1.1, "×"), (1.5, "×"), (0.083, "×")),
        *((0.05, "×"), (0.05, "×"), (1.15, "×"), (40.0, "µs"), (0, ""), (1024, "KiB")),
    ]
    assert [(growth.width, growth.height) for growth in found.growth] == [(64, 48), (96, 64)]
    assert all(row.value >= 0 for row in found.rows)
    assert _frames.lines(found)


def test_a_chain_that_leaks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    real = Reader.read

    def leaking(self: Reader, *arguments: Any, **options: Any) -> Surface:
        kept.append(os.dup(0))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Reader, "read", leaking)
    descriptors, _ = bench_frames.memory_of_a_chain(frames=150)
    for fd in kept:
        os.close(fd)
    assert descriptors.value == 50
    assert not descriptors.kept
    assert CHAIN == 3
