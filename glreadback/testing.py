"""A pytest plugin for pixel tests: "this dma-buf shows that picture", on Mesa's software driver, with no GPU.

Installing glreadback makes it available; `pytest -p no:glreadback.testing` does without. Fixtures: `reader`,
`dmabuf_factory`, `assert_surface_equal` (a function to import, too) and `golden`. Mark: `real_dmabuf`.
Options: `--glreadback-artefacts` and `--update-goldens`. docs/testing.md says how another project uses it.

pytest loads this module in every run of every project that has glreadback installed: what the fixtures need is loaded when
one of them is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("glreadback.testing is a plugin of pytest: pip install pytest", name="pytest") from None

if TYPE_CHECKING:
    from pathlib import Path

    from . import DmaBuf, Reader, Surface
    from .fourcc import Fourcc
    from .modifier import Modifier

__all__ = ["DmaBufFactory", "Golden", "assert_surface_equal"]

GOLDEN_WRITTEN = "glreadback golden"  # the user property that tells the summary, also from another process (xdist)
_ARTEFACTS = "glreadback-artefacts"


class DmaBufFactory(Protocol):
    """The fixture `dmabuf_factory`: makes dma-bufs of known content."""

    def __call__(
        self,
        width: int,
        height: int,
        fourcc: Fourcc | str | int = "XR24",
        content: Any = "smpte",
        *,
        stride: int | list[int] | tuple[int, ...] | None = None,
        offset: int | list[int] | tuple[int, ...] = 0,
        modifier: Modifier | int | str = 0,
        separate: bool = False,
    ) -> DmaBuf:
        """A dma-buf of width x height pixels; it lives until the test ends.

        content is what it shows:

        - a pattern's name: "smpte", "gradient", "checker", "noise", "solid"; "solid?color=ff0000", "noise?seed=3";
        - an array in memory order, of the shape and dtype that `numpy.asarray(surface)` or `Reader.read_planes` gives;
          for several planes a list of such arrays;
        - bytes: rows without padding, plane after plane;
        - a Surface of the same size and fourcc;
        - a picture, as a pathlib.Path or a Pillow image: brought to the fourcc, Y'CbCr too.

        stride is bytes from row to row: of plane 0, those of further planes in proportion; or one for each plane. offset is
        the first byte: of plane 0, further planes follow; or one for each. separate gives every plane a buffer of its own.
        modifier is LINEAR (0) or INVALID ("the driver knows"). Bytes that are no pixels are 0xA5.

        The memory is a udmabuf where one can be made, else a sealed memfd, which only software drivers take for a dma-buf.
        In a test marked real_dmabuf it is a udmabuf, or the test fails. Raises DescriptorError or SourceError.
        """


class Golden(Protocol):
    """The fixture `golden`: compares with a PNG beside the test."""

    def __call__(self, actual: Any, *, name: str | None = None, tolerance: float = 0) -> None:
        """Compare actual with goldens/MODULE/TEST.png, TEST.NAME.png for one of several in a test.

        actual and tolerance are as for `assert_surface_equal`. A golden that is missing fails the test and says how to make
        it; `--update-goldens` writes those that are missing or no longer fit, and nothing else ever does. 16-bit pictures
        need the extra "hdr".
        """


def assert_surface_equal(actual: Any, expected: Any, tolerance: float = 0) -> None:
    """Raise AssertionError unless two pictures are equal, each component within tolerance steps.

    Either is a Surface, a numpy array as `numpy.asarray(surface)` gives it (memory order; without a Surface beside it
    grey, RGB or RGBA), a path of a PNG, or a Pillow image. Two Surfaces must be of one fourcc. A step is the format's own:
    1/255 of 8 bits, 1/1023 of 10 bits, the next representable number of half floats (1/65535 against a PNG). A PNG is
    first brought to the nearest steps of the Surface's format; what has no alpha is opaque. Padding bits are not compared.

    The failure says where, how many and by how much, and leaves expected.png, actual.png and difference.png in the test's
    folder below `--glreadback-artefacts`. In difference.png equal pixels (within the tolerance) are black, the others
    have each component's distance from 64 to 255, that being the largest.

    Raises GlReadbackError for what cannot be compared: no picture, a negative tolerance, Y'CbCr against RGB.
    """
    __tracebackhide__ = True
    from . import _testing_compare

    wrong = _testing_compare.verdict(actual, expected, tolerance)
    if wrong is not None:
        raise wrong.with_traceback(None) from None


# ---- fixtures


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A glreadback.Reader of the software device, with a context of its own. A GL error left in it fails the test."""
    from . import _testing_devices as devices

    made = devices.software_reader()
    with made:
        yield made
        left = devices.gl_errors(made)
    if left:
        pytest.fail(f"the test left a GL error in the reader's context: {left}", pytrace=False)


@pytest.fixture
def dmabuf_factory(request: pytest.FixtureRequest) -> Iterator[DmaBufFactory]:
    """Makes dma-bufs: dmabuf_factory(width, height, fourcc, content, stride=…, offset=…); see testing.DmaBufFactory."""
    from ._testing_devices import Factory

    with Factory(real=request.node.get_closest_marker("real_dmabuf") is not None) as factory:
        yield factory


@pytest.fixture(name="assert_surface_equal")
def _assert_surface_equal() -> Any:
    """glreadback.testing.assert_surface_equal(actual, expected, tolerance=0): says where, how many and by how much."""
    return assert_surface_equal


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares with a PNG beside the test: golden(surface, name=…, tolerance=…). pytest --update-goldens writes it."""
    from ._testing_compare import GoldenFolder

    folder = GoldenFolder(request.path, request.node.nodeid, request.config.getoption("update_goldens"))

    def compare(actual: Surface | Any, *, name: str | None = None, tolerance: float = 0) -> None:
        __tracebackhide__ = True
        wrong = folder.verdict(actual, name, tolerance)
        for written in folder.written():
            request.node.user_properties.append((GOLDEN_WRITTEN, written))
        if wrong is not None:
            raise wrong.with_traceback(None) from None

    return compare


# ---- hooks

_configs: list[pytest.Config] = []  # of the runs under way, the innermost last


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("glreadback", "glreadback: pictures of dma-bufs")
    group.addoption(
        "--glreadback-artefacts",
        metavar="DIR",
        default=None,
        help=f"where failing comparisons leave expected.png, actual.png and difference.png, in a folder for each test; "
        f"default: {_ARTEFACTS} in the rootdir",
    )
    group.addoption(
        "--update-goldens",
        action="store_true",
        default=False,
        help="write the golden pictures that are missing or no longer fit; look at them before you commit them",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "real_dmabuf: the test needs dma-bufs of the kernel (/dev/udmabuf), not memfds in their place; without them it fails",
    )
    # Made absolute here: workers of xdist may live elsewhere.
    given = config.getoption("glreadback_artefacts")
    config.option.glreadback_artefacts = str(config.invocation_params.dir / given if given else config.rootpath / _ARTEFACTS)
    _configs.append(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    if config in _configs:
        _configs.remove(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_dmabuf") is not None:
        from ._testing_devices import no_real_dmabufs

        if why := no_real_dmabufs():
            pytest.fail(f"the test is marked real_dmabuf, but {why}", pytrace=False)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("update_goldens"):
        return
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    written = sorted({value for name, value in properties if name == GOLDEN_WRITTEN})
    terminalreporter.section("golden pictures")
    for path in written:
        terminalreporter.write_line(f"written: {path}")
    terminalreporter.write_line(f"{len(written)} written. Look at them before you commit them.")


# ---- for the comparison


def current_test() -> str:
    """The node id of the test that runs, "" outside of one."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


_BEGUN = pytest.StashKey[dict["Path", int]]()
_outside: dict[Path, int] = {}


def artefacts() -> tuple[Path, dict[Path, int]]:
    """The folder of all artefacts, not made yet, and each test's folder in it with how many comparisons failed in this run.

    Outside of pytest the folder is one in the working folder.
    """
    from pathlib import Path

    if not _configs:
        return Path(_ARTEFACTS), _outside
    config = _configs[-1]
    return Path(config.option.glreadback_artefacts), config.stash.setdefault(_BEGUN, {})
