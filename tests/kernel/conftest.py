"""The kernel lane: everything below this folder reads dma-bufs of real drivers and runs with `pytest -m kernel` only.

`make test-vm` runs it in a VM that has the drivers. There a missing device fails a test; nothing is ever skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from producers import PRODUCERS, Producer, ReadLog
from watch import Trace, tracing

from glreadback import Reader

HERE = Path(__file__).parent
_READS = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker("kernel")
    if "kernel" not in config.option.markexpr:
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and HERE in item.path.parents and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: the kernel lane never skips"
    return report


@pytest.fixture
def read_log(request: pytest.FixtureRequest) -> ReadLog:
    """Call it with a producer's name and a route for each buffer that was read and found equal: the report lists them."""
    reads = request.config.stash.setdefault(_READS, Counter())

    def note(producer: str, route: str) -> None:
        reads[producer, route] += 1

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reads = config.stash.get(_READS, Counter())
    if not reads:
        return
    terminalreporter.section("kernel buffers read")
    for producer in dict.fromkeys(producer for producer, _ in reads):
        routes = {route: count for (name, route), count in reads.items() if name == producer}
        words = ", ".join(f"{route} {count}" for route, count in sorted(routes.items()))
        terminalreporter.write_line(f"{producer:12} {sum(routes.values()):4}   ({words})")


@pytest.fixture(params=list(PRODUCERS))
def producer(request: pytest.FixtureRequest) -> Producer:
    """Each driver in turn: call it with a size and a fourcc for a buffer."""
    return PRODUCERS[request.param]


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """A reader of the default device, kept from test to test: opening EGL takes seconds in an emulated machine."""
    with Reader() as shared:
        yield shared


@pytest.fixture(scope="session")
def _tracing() -> Iterator[Trace]:
    with tracing() as started:
        yield started


@pytest.fixture
def trace(_tracing: Trace) -> Trace:
    """When this thread's access to dma-bufs began and ended, as the kernel sees it, from here on."""
    _tracing.clear()
    return _tracing
