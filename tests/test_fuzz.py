"""A short turn of the fuzzers, the same each time: the corpus, random changes to it, hostile descriptions by a real driver.

`make fuzz` goes on for ten minutes, with other inputs each time; fuzz/run.py says how.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from glreadback import DescriptorError, ImportRejected, Reader, ReaderCrashed, Surface

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.append(str(FUZZ))
targets: Any = importlib.import_module("targets")
mutate: Any = importlib.import_module("mutate")
descriptors: Any = importlib.import_module("descriptors")

SECONDS = 1.0  # for each format
LONGEST = 1.0  # seconds that one input may take


def _corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in (FUZZ / "corpus").iterdir()} == set(targets.TARGETS)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus(name: str) -> None:
    for data in _corpus(name):
        targets.TARGETS[name](data)


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_random_changes(name: str, record_property: Callable[[str, object], None]) -> None:
    end, slowest, count = time.monotonic() + SECONDS, 0.0, 0
    for data in mutate.inputs(_corpus(name), 1):
        count += 1
        start = time.thread_time()  # ours, not what other work on the machine takes
        targets.TARGETS[name](data)
        slowest = max(slowest, time.thread_time() - start)
        if time.monotonic() > end:
            break
    record_property("tries", count)
    record_property("outcome", f"a value or one line that says what is wrong; slowest {slowest * 1000:.0f} ms")
    assert count > 100
    assert slowest < LONGEST


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    made = descriptors.Bench()
    yield made
    made.close()


@pytest.mark.slow
def test_hostile_descriptions(bench: Any, software: None, record_property: Callable[[str, object], None]) -> None:
    """No crash, and no pixel that is not in the buffer."""
    with Reader("software", isolate=True) as reader:

        @settings(max_examples=1200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(descriptors.cases())
        def some(case: Any) -> None:
            descriptors.check(case, bench, reader)

        bench.seen.clear()
        some()
    record_property("tries", sum(bench.seen.values()))
    record_property("outcome", ", ".join(f"{what} {count}" for what, count in sorted(bench.seen.items())))
    assert bench.seen["read"] > 150, "too few are nearly right: this test shows little"
    assert bench.seen["DescriptorError"] > 150


# ---- the judge itself: what it must not let pass


class Liar:
    """A reader that gives what it is told to give."""

    def __init__(self, fill: Callable[[Surface], None], error: Exception | None = None) -> None:
        self._fill, self._error = fill, error

    def read(self, frame: Any, out: Surface | None = None, **options: Any) -> Surface:
        from glreadback import Route

        if self._error is not None:
            raise self._error
        surface = out or Surface.allocate(frame.buffer.width, frame.buffer.height, options.get("fourcc") or frame.buffer.fourcc)
        surface.route = Route("alias", surface.fourcc, True, "")
        self._fill(surface)
        return surface


def _case(fourcc: str | None = None) -> Any:
    return descriptors.Case(4, 4, "XR24", [(1, 0, 16)], 0, {"route": None, "fourcc": fourcc})


def _fill(value: int, wrong: int | None = None) -> Callable[[Surface], None]:
    def fill(surface: Surface) -> None:
        surface.data[:] = bytes([value]) * surface.data.nbytes
        if wrong is not None:
            surface.data[17] = wrong

    return fill


def test_the_judge_lets_the_truth_pass(bench: Any) -> None:
    assert descriptors.check(_case(), bench, Liar(_fill(0x3C))) == "read"
    assert descriptors.check(_case("AB24"), bench, Liar(_fill(0x3C))) == "read"
    assert descriptors.check(_case(), bench, Liar(_fill(0), DescriptorError("no"))) == "DescriptorError"


@pytest.mark.parametrize(
    ("fourcc", "fill", "error"),
    [
        (None, _fill(0x3C, 0), None),
        (None, _fill(0x5A), None),
        (None, _fill(descriptors.POISON), None),
        ("AB24", _fill(0x3C, 0x5A), None),
        ("AB24", _fill(descriptors.POISON), None),
        (None, _fill(0x3C), DescriptorError("two\nlines")),
        (None, _fill(0x3C), ImportRejected("\x1b[31m")),
        (None, _fill(0x3C), ReaderCrashed("dead")),
        (None, _fill(0x3C), ValueError("what")),
    ],
)
def test_the_judge_lets_nothing_else_pass(
    bench: Any, fourcc: str | None, fill: Callable[[Surface], None], error: Exception | None
) -> None:
    with pytest.raises((AssertionError, ReaderCrashed, ValueError)):
        descriptors.check(_case(fourcc), bench, Liar(fill, error))
    bench.seen.clear()


def test_the_judge_of_messages() -> None:
    for bad in ("", "two\nlines", "\x1b]0;", "x" * 3000):
        with pytest.raises(AssertionError), targets.expected(ValueError):
            raise ValueError(bad)
    with pytest.raises(KeyError), targets.expected(ValueError):
        raise KeyError("x")
