"""What a speed promise is held to in `make test`."""

from __future__ import annotations

from collections.abc import Callable

SLACK = 1.5


def promised(measure: Callable[[], float], most: float, tries: int = 6) -> None:
    """The least of a few measurements must come near the promise: other work on the machine only ever adds, and caches are
    shared. The promise itself is measured by `make bench` on a quiet machine (docs/performance.md)."""
    found: list[float] = []
    while len(found) < tries and (not found or min(found) > most * SLACK):
        found.append(measure())
    assert min(found) <= most * SLACK, found
