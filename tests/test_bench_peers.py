"""The peers that `glreadback bench` measures beside our routes."""

from __future__ import annotations

import pytest

from glreadback import Fourcc, bench, open_source


@pytest.mark.parametrize("fourcc", ["NV12", "P010", "YU12"])
def test_swscale_stands_beside_our_conversion(fourcc: str) -> None:
    with open_source(f"pattern:?size=64x48&fourcc={fourcc}") as source:
        frame = next(iter(source.frames()))
        with bench.contenders(frame, "software", fourcc=Fourcc("AB24")) as (found, skipped, _):
            names = {contender.name for contender in found}
            assert {bench.SWSCALE, "map", "draw"} <= names
            assert all(skip.why for skip in skipped)
            for contender in found:
                contender.run()


def test_rgb_has_no_swscale() -> None:
    with open_source("pattern:?size=64x48") as source:
        with bench.contenders(next(iter(source.frames())), "software") as (found, skipped, _):
            assert bench.SWSCALE not in {contender.name for contender in found}
            assert bench.SWSCALE in {skip.name for skip in skipped}
