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

from glreadback import DescriptorError, DmaBuf, Frame, ImportRejected, Plane, Reader, ReaderCrashed, Rect, Surface
from glreadback.errors import SourceError, SourceSyntaxError
from glreadback.sources import spec
from glreadback.sources.unix import UnixSource
from glreadback.sources.vfio import VfioSource
from glreadback.wire import dbus, frames

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


def test_the_longest_line_fits() -> None:
    """As large as each part of a frame can be, its line can be sent and is understood."""
    most = 2**31 - 1
    planes = [Plane(fd, most, most) for fd in range(4)]
    frame = Frame(
        DmaBuf(most, most, "ABGR16161616F", planes, 2**56 - 1 | 1 << 56),
        visible=Rect(most - 1, most - 1, 1, 1),
        y_invert=True,
        transform="flipped-270",
        damage=[(1_999_999_999, 1_999_999_999, 147_483_648, 147_483_648)] * frames.MAX_DAMAGE,
        acquire_fence=4,
        palette=[(255, 255, 255)] * 256,
        time=0.1 + 1e15,
    )
    line, fds = frames.format_header(2**63 - 1, frame)
    assert fds == [0, 1, 2, 3, 4]
    assert 40_000 < len(line) <= frames.MAX_LINE - 4096
    assert frames.parse_header(line, 5).with_fds(fds).damage == frame.damage


def test_a_message_that_reaches_past_its_end() -> None:
    """jeepney takes what there is of an array."""
    data, _ = dbus.call(1, "/a", "b.c", "D", "ay", [b"abcd"])
    assert dbus.parse(data, 0).body == (b"abcd",)
    assert data[-8:] == b"\4\0\0\0abcd"
    with pytest.raises(SourceError, match="a D-Bus message ends too early"):
        dbus.parse(data[:-8] + b"\5\0\0\0abcd", 0)


def test_a_message_whose_path_is_a_number() -> None:
    data, _ = dbus.call(1, "/a", "b.c", "D")
    assert b"\1\1o\0" in data
    with pytest.raises(SourceError, match="a D-Bus message's path is no text"):
        dbus.parse(data.replace(b"\1\1o\0", b"\1\1t\0"), 0)


@pytest.mark.parametrize("lines", [[b"REJECTED EXTERNAL\r\n"], [b"OK 01\r\n", b"ERROR no descriptors\x1b[31m\r\n"]])
def test_a_bus_that_refuses(lines: list[bytes]) -> None:
    conversation = dbus.Login(1000)
    with pytest.raises(SourceError, match="^the D-Bus server refuses: '(REJECTED|ERROR)") as caught:
        for line in lines:
            conversation.feed(line)
    assert str(caught.value).isprintable()
    assert not conversation.done


def test_a_switch_that_is_neither_on_nor_off() -> None:
    with pytest.raises(SourceSyntaxError, match="it must be 0 or 1"):
        spec.parse("unix:/run/frames?listen=2", ["unix"]).values(UnixSource.keys)


def test_a_word_that_is_not_among_a_keys_words() -> None:
    found = spec.parse("vfio:6b0c8a2e?plane=third", ["vfio"])
    with pytest.raises(SourceSyntaxError, match="no such plane"):
        found.values(VfioSource.keys)


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
