"""What a read costs beside memcpy: pytest-benchmark's tables (`make bench`), and the promises (`make test`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from promises import promised

from glreadback import DmaBuf, Frame, Plane, Reader, Surface, bench, open_source

SIZES = ("1920x1080", "3840x2160")
NAMES = (bench.MEMCPY, "alias", "native", "map", bench.HEADLESS, bench.FRESH_MEMCPY, bench.FRESH)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SIZES)
def contenders(request: pytest.FixtureRequest) -> Iterator[dict[str, bench.Contender]]:
    with ExitStack() as stack:
        source = stack.enter_context(open_source(f"pattern:?size={request.param}&fourcc=XR24"))
        found, _, _ = stack.enter_context(bench.contenders(next(source.frames()), "software"))
        yield {contender.name: contender for contender in found}


@pytest.mark.parametrize("name", NAMES)
def test_time(name: str, contenders: dict[str, bench.Contender], benchmark: Any, request: pytest.FixtureRequest) -> None:
    size = request.node.callspec.params["contenders"]
    benchmark.group = size
    benchmark.extra_info["what"] = contenders[name].what
    benchmark.pedantic(contenders[name].run, rounds=15, warmup_rounds=2)


def test_time_of_a_tiny_read(benchmark: Any) -> None:
    benchmark.group = "1x1"
    with open_source("pattern:?size=64x64") as source, Reader("software") as reader:
        buf = next(source.frames()).buffer
        pixel = DmaBuf(1, 1, buf.fourcc, [Plane(buf.planes[0].fd, 0, buf.planes[0].stride)])
        out = reader.read(pixel)
        benchmark.pedantic(lambda: reader.read(pixel, out), rounds=20, iterations=100, warmup_rounds=2)


# ---- the promises


def ratio(contenders: dict[str, bench.Contender], name: str, beside: str, seconds: float = 1.0) -> Callable[[], float]:
    def measure() -> float:
        pair = [contenders[beside], contenders[name]]
        return bench.alternate([bench.Contender(c.name, c.what, c.run, beside) for c in pair], seconds, least=11)[1].ratio

    return measure


def test_alias_costs_a_memcpy(contenders: dict[str, bench.Contender]) -> None:
    promised(ratio(contenders, "alias", bench.MEMCPY), 1.10)


def test_egl_headless_costs_many(contenders: dict[str, bench.Contender], request: pytest.FixtureRequest) -> None:
    times = {"1920x1080": 20, "3840x2160": 12}[request.node.callspec.params["contenders"]]
    promised(ratio(contenders, "alias", bench.HEADLESS), 1 / times)


def test_fresh_import_beside_mmap(contenders: dict[str, bench.Contender], request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["contenders"] == "1920x1080":
        promised(ratio(contenders, bench.FRESH, bench.FRESH_MEMCPY), 1.3)


def test_a_tiny_read_costs_microseconds() -> None:
    with open_source("pattern:?size=64x64") as source:
        frame = next(source.frames())
        promised(lambda: bench.tiny(frame, "software") * 1e6, 40.0)


# ---- the measuring itself


class Clock:
    """A clock that only moves when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


def test_alternate_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", clock)
    order: list[str] = []

    def contender(name: str, seconds: float, beside: str) -> bench.Contender:
        work = clock.work(seconds)
        return bench.Contender(name, "", lambda: (order.append(name), work()), beside)

    shares: list[float] = []
    found = bench.alternate([contender("a", 1, "a"), contender("b", 3, "a")], 100, tick=shares.append)
    assert order[:8] == ["a", "a", "b", "b", "a", "a", "b", "b"]
    assert [(m.name, m.seconds, m.ratio, m.low, m.high) for m in found] == [("a", 1, 1, 1, 1), ("b", 3, 3, 3, 3)]
    assert found[0].rounds == 13  # eight seconds a round
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_ratios_are_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", clock)
    slowness = iter([1.0, 1.0, 1.0, 1.0] * 2 + [50.0, 50.0, 50.0, 50.0] * 3)  # the machine gets busy

    def contender(name: str, seconds: float) -> bench.Contender:
        def run() -> None:
            clock.now += seconds * next(slowness)

        return bench.Contender(name, "", run, "a")

    found = bench.alternate([contender("a", 1), contender("b", 2)], 0, least=5)
    assert [m.ratio for m in found] == [1.0, 2.0]
    assert found[1].seconds == statistics.median([2, 2, 100, 100, 100])


def test_contenders_all_read_the_picture() -> None:
    """Each leaves the same pixels in the surface; memcpy and the peer too."""
    with open_source("pattern:gradient?size=64x48&fourcc=XB24") as source:
        frame = next(source.frames())
        with Reader("software") as reader:
            right = reader.read(frame).tobytes()
        with bench.contenders(frame, "software") as (found, _, out):
            wrong = []
            for contender in found:
                out.data[:] = bytes(len(out.data))
                contender.run()
                if out.tobytes() != right:
                    wrong.append(contender.name)
    # egl-headless swaps red and blue of what is not XR24, and puts 255 into X; native and draw put it into X too.
    assert set(wrong) <= {bench.HEADLESS, "native", "draw"}


def test_headless_reads_xr24_as_qemu_does() -> None:
    with open_source("pattern:gradient?size=64x48&fourcc=XR24") as source:
        frame: Frame = next(source.frames())
        with bench.contenders(frame, "software") as (found, _, out):
            assert isinstance(out, Surface)
            (peer,) = [contender for contender in found if contender.name == bench.HEADLESS]
            right = out.tobytes()
            out.data[:] = bytes(len(out.data))
            peer.run()
            read = out.tobytes()
    for component in range(3):
        assert read[component::4] == right[component::4]
    assert set(read[3::4]) == {255}
