"""glreadback.testing: each promise of the pytest plugin, on projects that pytest runs for it and on its own functions."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Held, linear_formats
from PIL import Image

from glreadback import DescriptorError, Fourcc, GlReadbackError, Reader, Surface
from glreadback._testing_compare import GoldenFolder
from glreadback._testing_devices import Factory
from glreadback._testing_files import file_name, name_of_test
from glreadback.testing import DmaBufFactory, assert_surface_equal

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
FILLER = 0xA5


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """What pytest runs for us does without the plugins that take long to load, and has lines that are long enough."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:benchmark -p no:hypothesispytest")
    monkeypatch.setenv("COLUMNS", "200")
    return pytester


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- it is there, and costs nothing


def test_the_entry_point_is_installed() -> None:
    found = importlib.metadata.entry_points(group="pytest11", name="glreadback.testing")
    assert [point.value for point in found] == ["glreadback.testing"]


def test_help_lists_the_options_in_a_group_of_their_own(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--help").stdout.str()
    group = shown.partition("glreadback: pictures of dma-bufs:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (--[\w-]+)", group, re.MULTILINE) == ["--glreadback-artefacts", "--update-goldens"]
    assert "glreadback-artefacts in the rootdir" in " ".join(group.split())


def test_marks_and_fixtures_are_described(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--markers").stdout.str()
    assert "@pytest.mark.real_dmabuf: the test needs dma-bufs of the kernel" in shown
    shown = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in ("reader", "dmabuf_factory", "assert_surface_equal", "golden"):
        assert re.search(rf"^{name} -- .*testing\.py:\d+\n    \w", shown, re.MULTILINE), name


def test_importing_the_plugin_loads_nothing_else() -> None:
    code = "import sys, pytest; before = {*sys.modules}; import glreadback.testing; print(*sorted({*sys.modules} - before))"
    assert python(code).split() == ["glreadback", "glreadback.testing"]


def test_a_run_that_does_not_use_it_loads_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import json, sys\n"
        "def pytest_sessionfinish(session):\n"
        "    open('modules.json', 'w').write(json.dumps(sorted(sys.modules)))\n"
    )
    pytester.makepyfile("def test(): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    loaded = json.loads((pytester.path / "modules.json").read_text())
    heads = {name.partition(".")[0] for name in loaded}
    assert heads.isdisjoint({"numpy", "OpenGL", "PIL", "imagecodecs"})
    assert [name for name in loaded if name.startswith("glreadback")] == ["glreadback", "glreadback.testing"]


def test_pytest_is_no_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    assert not [name for name in needed if "pytest" in name]
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import glreadback\n"
        "try:\n    import glreadback.testing\nexcept ModuleNotFoundError as error:\n    print(error.name, error, sep='|')"
    )
    assert python(code).strip() == "pytest|glreadback.testing is a plugin of pytest: pip install pytest"


@pytest.mark.parametrize("autoload", ["", "1"])
def test_by_name_and_by_entry_point_it_is_one_plugin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, autoload: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", autoload)
    pytester.makepyfile("def test(pytestconfig): assert pytestconfig.getoption('update_goldens')")
    pytester.runpytest_subprocess("-p", "glreadback.testing", "--update-goldens").assert_outcomes(passed=1)


def test_a_project_can_do_without_it(pytester: pytest.Pytester) -> None:
    ran = pytester.runpytest_subprocess("-p", "no:glreadback.testing", "--update-goldens")
    ran.stderr.fnmatch_lines(["*unrecognized arguments: --update-goldens"])


def test_a_strict_project_with_a_reader_of_its_own(pytester: pytest.Pytester) -> None:
    """Nothing of the plugin is a warning or an unknown mark; a project's fixtures come before the plugin's."""
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config -W error\n")
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef reader(): return 'own'\n")
    pytester.makepyfile(
        """
        import pytest

        def test_own(reader): assert reader == 'own'

        def test_factory(dmabuf_factory, golden, assert_surface_equal): assert dmabuf_factory(4, 4).width == 4

        @pytest.mark.real_dmabuf
        @pytest.mark.skip
        def test_mark(): pass
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2, skipped=1)


# ---- reader


BREAK = """
    from glreadback.egl.gaps import function
    import ctypes
    def break_(reader):
        for importer in reader._open_importers():
            with importer.context:
                function("glBindTexture", None, ctypes.c_uint, ctypes.c_uint)(0xBAD, 0)
"""


def test_reader_is_of_the_software_device_and_new_for_each_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        BREAK
        + """
    seen = []

    def test_one(reader):
        seen.append(reader)
        caps = reader.capabilities()
        assert (caps.device, caps.software) == ("software", True)

    def test_two(reader):
        assert reader is not seen[0] and seen[0].closed

    def test_breaks(reader): break_(reader)

    def test_after(reader): pass

    def test_closes(reader): reader.close()
    """
    )
    ran = pytester.runpytest_subprocess("-W", "error")
    ran.assert_outcomes(passed=5, errors=1)
    ran.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_breaks*",
            "the test left a GL error in the reader's context: GL_INVALID_ENUM",
        ]
    )


def test_a_reader_begins_without_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        BREAK.replace("\n    ", "\n")
        + "from glreadback import Reader\n"
        + "def capabilities(self, *args, before=Reader.capabilities):\n"
        + "    found = before(self, *args)\n    break_(self)\n    return found\n"
        + "Reader.capabilities = capabilities\n"
    )
    pytester.makepyfile("def test(reader): assert False, 'it ran'")
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["the new context has a GL error already: GL_INVALID_ENUM"])


def test_without_a_software_device_it_says_what_to_install(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", "/nonexistent")  # libglvnd then finds no driver
    pytester.makepyfile("def test(reader): assert False, 'it ran'")
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)  # neither passed nor skipped
    ran.stdout.fnmatch_lines(
        [
            "EGL has no *; install Mesa 25.0.3 or newer (libegl-mesa0, libgl1-mesa-dri), or a GPU's driver",
            "Debian trixie, Ubuntu 24.04 with updates and newer: apt install libegl1 libgles2 libegl-mesa0 libgl1-mesa-dri",
            "*glreadback doctor*",
        ]
    )
    ran.stdout.no_fnmatch_line("*another exception*")
    ran.stdout.no_fnmatch_line("*_testing_devices.py:*")


# ---- dmabuf_factory


def memory_of(fd: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(os.pread(fd, os.fstat(fd).st_size, 0), np.uint8)


@pytest.mark.parametrize("fourcc", linear_formats())
def test_every_format_lies_where_it_was_asked_to(dmabuf_factory: DmaBufFactory, fourcc: Fourcc) -> None:
    """By the descriptor's own bytes: the rows at offset and stride, the filler everywhere else."""
    width, height = 37, 19
    layouts = fourcc.info.planes
    content = np.random.default_rng(1).integers(0, 256, sum(p.rows(height) * p.row_bytes(width) for p in layouts), np.uint8)
    stride = [p.row_bytes(width) + 13 + index for index, p in enumerate(layouts)]
    buf = dmabuf_factory(width, height, fourcc, content.tobytes(), stride=stride, offset=100)
    expected = np.full_like(memory_of(buf.planes[0].fd), FILLER)
    at, end = 0, 100
    for plane, layout, step in zip(buf.planes, layouts, stride, strict=True):
        assert plane.stride == step
        assert plane.offset == end
        for row in range(layout.rows(height)):
            size = layout.row_bytes(width)
            place = plane.offset + row * step * layout.block_height
            expected[place : place + size] = content[at : at + size]
            at += size
        end += step * layout.block_height * layout.rows(height)
    assert np.array_equal(memory_of(buf.planes[0].fd), expected)
    assert at == content.size


@pytest.mark.parametrize("fourcc", ["XR24", "NV12", "P010", "AB4H", "RG24", "YUYV"])
@pytest.mark.parametrize("content", ["smpte", "noise?seed=7", "solid?color=ff8000"])
def test_patterns_are_those_of_the_source(reader: Reader, dmabuf_factory: DmaBufFactory, fourcc: str, content: str) -> None:
    from glreadback import open_source

    buf = dmabuf_factory(64, 48, fourcc, content)
    more = f"{'&' if '?' in content else '?'}size=64x48&fourcc={fourcc}"
    with open_source(f"pattern:{content}{more}") as source:
        theirs = reader.read_planes(next(source.frames()))
    for ours, other in zip(reader.read_planes(buf), theirs, strict=True):
        assert np.array_equal(ours, other)


def test_kinds_of_content(reader: Reader, dmabuf_factory: DmaBufFactory, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (6, 10, 4), np.uint8)
    buf = dmabuf_factory(10, 6, "AR24", pixels)
    assert np.array_equal(reader.read(buf).array(), pixels)
    # Any stride of the array itself.
    assert np.array_equal(reader.read(dmabuf_factory(10, 6, "AR24", pixels[::-1, ::-1])).array(), pixels[::-1, ::-1])
    again = dmabuf_factory(10, 6, "AR24", reader.read(buf))
    assert np.array_equal(reader.read(again).array(), pixels)
    planes = [rng.integers(0, 256, (6, 10), np.uint8), rng.integers(0, 256, (3, 5, 2), np.uint8)]
    for ours, theirs in zip(reader.read_planes(dmabuf_factory(10, 6, "NV12", planes)), planes, strict=True):
        assert np.array_equal(ours, theirs)
    # A picture: red first in a file, blue first in AR24's memory.
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., [2, 1, 0, 3]]))
    picture.save(tmp_path / "picture.png")
    for content in (picture, tmp_path / "picture.png"):
        assert np.array_equal(reader.read(dmabuf_factory(10, 6, "AR24", content)).array(), pixels)
    # And in Y'CbCr: narrow BT.601's red.
    red = dmabuf_factory(10, 6, "NV12", Image.new("RGB", (10, 6), (255, 0, 0)))
    luma, chroma = reader.read_planes(red)
    assert {*luma.flat} == {81}
    assert {tuple(pair) for pair in chroma.reshape(-1, 2)} == {(90, 240)}


def test_planes_in_places_of_their_own(reader: Reader, dmabuf_factory: DmaBufFactory) -> None:
    buf = dmabuf_factory(10, 6, "NV12", "noise", stride=(64, 32), offset=(4096, 16))
    assert [(plane.offset, plane.stride) for plane in buf.planes] == [(4096, 64), (16, 32)]
    assert len({plane.fd for plane in buf.planes}) == 1
    apart = dmabuf_factory(10, 6, "NV12", "noise", separate=True, offset=8)
    assert [plane.offset for plane in apart.planes] == [8, 8]
    assert len({os.fstat(plane.fd).st_ino for plane in apart.planes}) == 2
    for one, other in zip(reader.read_planes(buf), reader.read_planes(apart), strict=True):
        assert np.array_equal(one, other)
    assert dmabuf_factory(10, 6, "XR24", modifier="INVALID").modifier.is_invalid


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "the width is 0; it must be between 1"),
        ({"width": 2.5}, "the width is 2.5; it must be a whole number"),
        ({"fourcc": "XR25"}, "'XR25' is not in drm_fourcc.h"),
        ({"fourcc": "YU08"}, "exists only in its vendor's compressed layouts"),
        ({"stride": 7}, "plane 0 has a stride of 7 bytes, a row needs 40"),
        ({"stride": "64"}, "a plane's stride is '64'; it must be a whole number"),
        ({"offset": -1}, "a plane's offset is -1; it must be between 0"),
        ({"offset": [0, 64]}, "2 values of offset are given; XR24 has 1 plane"),
        ({"modifier": 0x0100000000000001}, "modifier is .*; dmabuf_factory makes rows of pixels"),
        ({"content": "smtpe"}, r"there is no pattern 'smtpe' \(did you mean smpte\?\)"),
        ({"content": "solid?size=4x4"}, "pattern: has no key 'size'; there are seed, color"),
        ({"content": b"123"}, "the content is 3 bytes; 10x6 XR24 has 240: rows without padding"),
        ({"content": np.zeros((6, 10), "u1")}, r"plane 0 of the content is \(6, 10\) of uint8; 10x6 XR24 has \(6, 10, 4\)"),
        ({"content": np.zeros((6, 10, 4))}, r"is \(6, 10, 4\) of float64; 10x6 XR24 has \(6, 10, 4\) of uint8"),
        ({"content": [], "fourcc": "NV12"}, "the content is 0 arrays; 10x6 NV12 has 2 planes"),
        ({"content": 7}, "the content is of type int; give a pattern's name"),
        ({"content": Surface.allocate(10, 6, "XB24")}, "the content is a surface of 10x6 XB24, the buffer 10x6 XR24"),
        ({"content": Image.new("L", (10, 7))}, "the content is a picture of 10x7 pixels, the buffer 10x6 XR24"),
        ({"content": Path("missing.png")}, "the picture missing.png is missing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_dmabuf_can_be(dmabuf_factory: DmaBufFactory, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlReadbackError, match=message) as caught:
        dmabuf_factory(**{"width": 10, "height": 6, **options})
    assert "\n" not in str(caught.value)


def test_everything_is_given_back() -> None:
    with Factory(real=False) as factory:
        factory(4, 4)  # what is loaded at the first use
    before = Held.now()
    with Factory(real=False) as factory:
        for fourcc in ("XR24", "NV12"):
            factory(64, 48, fourcc, separate=True)
        with pytest.raises(DescriptorError):
            factory(64, 48, "XR24", b"")
        assert Held.now() != before
    assert Held.now() == before


def test_a_memfd_in_its_place_is_sealed(dmabuf_factory: DmaBufFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glreadback.kernel.udmabuf.DEVICE", "/nonexistent/udmabuf")
    buf = dmabuf_factory(4, 4)
    assert fcntl.fcntl(buf.planes[0].fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK


def test_to_insist_on_real_ones_where_there_are_none(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from glreadback.kernel import udmabuf\nudmabuf.DEVICE = '/nonexistent/udmabuf'\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.real_dmabuf
        def test_marked(): assert False, "it ran"

        def test_not_marked(dmabuf_factory): dmabuf_factory(4, 4)
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1, passed=1)
    ran.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_marked*",
            "the test is marked real_dmabuf, but no dma-buf can be made here",
            "*/nonexistent/udmabuf is missing*",
            "*modprobe udmabuf*",
        ]
    )
    ran.stdout.no_fnmatch_line("*testing.py:*")


# ---- assert_surface_equal


@pytest.fixture
def folder(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any) -> Path:
    """Where this test's pictures go."""
    monkeypatch.setattr(pytestconfig.option, "glreadback_artefacts", str(tmp_path / "artefacts"))
    return tmp_path / "artefacts" / "tests" / "test_testing.py" / request.node.name


def surface(fourcc: str, array: Any) -> Surface:
    """A surface of what is in an array: its shape is (height, width, …)."""
    array = np.asarray(array)
    made = Surface.allocate(array.shape[1], array.shape[0], fourcc)
    made.array()[...] = array
    return made


def complaint(actual: Any, expected: Any, tolerance: float = 0) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_surface_equal(actual, expected, tolerance)
    return str(caught.value)


def image(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as found:
        return np.asarray(found)


def test_equal_is_silent_and_leaves_nothing(folder: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 7, 4), np.uint8)
    assert_surface_equal(surface("AR24", pixels), surface("AR24", pixels))
    assert_surface_equal(surface("AR24", pixels), pixels)
    assert_surface_equal(pixels, pixels.copy())
    assert not folder.exists()


def test_the_failure_says_where_how_many_and_by_how_much(folder: Path) -> None:
    """Text and pictures of a known difference, pixel by pixel."""
    expected = np.random.default_rng(4).integers(20, 230, (20, 30, 4), np.uint8)  # blue, green, red, padding
    actual = expected.copy()
    actual[..., 3] ^= 0xFF  # padding is nobody's business
    actual[5, 7, 2] += 10  # red
    actual[9, 3, 0] -= 4  # blue
    actual[9, 4, 0] += 2
    actual[9, 3, 1] += 1
    actual[19, 29, 1] += 1  # within the tolerance
    found = complaint(surface("XR24", actual), surface("XR24", expected), 1).splitlines()
    blue, green, red = expected[5, 7, :3]
    assert found == [
        "3 of 600 pixels (0.50%) differ by more than 1 step",
        "where:    5x5+3+5: columns 3 to 7, rows 5 to 9",
        f"first:    (7, 5): actual R={red + 10} G={green} B={blue}, expected R={red} G={green} B={blue}",
        "R:        1 differ, by 10 at most, 10 on average",
        "G:        within the tolerance, 1 at most",
        "B:        2 differ, by 4 at most, 3 on average",
        "steps:    of XR24 (bits: R 8, G 8, B 8)",
        "actual:   30x20 XR24",
        "expected: 30x20 XR24",
        f"expected.png:   {folder / 'expected.png'}",
        f"actual.png:     {folder / 'actual.png'}",
        f"difference.png: {folder / 'difference.png'}",
    ]
    assert np.array_equal(image(folder / "expected.png"), expected[..., 2::-1])
    assert np.array_equal(image(folder / "actual.png"), actual[..., 2::-1])
    difference = np.zeros((20, 30, 3), np.uint8)
    difference[5, 7] = (255, 0, 0)  # the largest: white of its channel
    difference[9, 3] = (0, 64 + round(191 / 10), 64 + round(191 * 4 / 10))
    difference[9, 4] = (0, 0, 64 + round(191 * 2 / 10))
    assert np.array_equal(image(folder / "difference.png"), difference)
    assert {path.name for path in folder.iterdir()} == {"expected.png", "actual.png", "difference.png"}


def test_the_share_of_one_pixel_is_no_zero(folder: Path) -> None:
    one, other = np.zeros((2, 300, 300), np.uint8)
    other[1, 1] = 1
    assert complaint(one, other).startswith("1 of 90000 pixels (less than 0.01%) differ\n")


def test_a_further_failure_has_pictures_of_its_own(folder: Path) -> None:
    one, two = (surface("R8", np.full((4, 4), value, np.uint8)) for value in (1, 2))
    complaint(one, two)
    again = complaint(two, one)
    names = ("expected", "actual", "difference")
    assert {path.name for path in folder.iterdir()} == {f"{name}{end}.png" for name in names for end in ("", "-2")}
    assert str(folder / "actual-2.png") in again
    assert image(folder / "actual-2.png")[0, 0] == 2
    assert image(folder / "actual.png")[0, 0] == 1


def packed(fourcc: str, *values: dict[str, int]) -> Surface:
    """A surface of one row, its components' values by name."""
    made = Surface.allocate(len(values), 1, fourcc)
    layout = Fourcc(fourcc).info.planes[0]
    words = [sum(value.get(field.component, 0) << field.shift for field in layout.fields) for value in values]
    made.data[:] = b"".join(word.to_bytes(layout.block_bytes, "little") for word in words)
    return made


@pytest.mark.parametrize(
    ("fourcc", "component", "most"),
    [("XR24", "R", 255), ("RG16", "G", 63), ("RG16", "B", 31), ("AR30", "G", 1023), ("AR30", "A", 3), ("AB48", "B", 65535),
     ("R8", "R", 255), ("RG24", "B", 255), ("C8", "C", 255), ("R16", "R", 65535), ("AR15", "A", 1)],
)  # fmt: skip
def test_tolerance_is_in_steps_of_the_format(folder: Path, fourcc: str, component: str, most: int) -> None:
    full, less = packed(fourcc, {component: most}, {}), packed(fourcc, {component: most - 1}, {})
    assert_surface_equal(full, less, 1)
    assert_surface_equal(less, full, 1.5)
    said = complaint(full, less)
    assert said.startswith("1 of 2 pixels (50.00%) differ\nwhere:    1x1+0+0: columns 0 to 0, rows 0 to 0\n")
    assert re.search(rf"^{component}: +1 differ, by 1 at most, 1 on average$", said, re.MULTILINE)
    assert f"{component}={most}" in said.splitlines()[2]


def test_half_floats_are_compared_by_representable_values(folder: Path) -> None:
    one = np.ones((1, 2, 4), np.float16)
    other = one.copy()
    other[0, 1, 0] = np.nextafter(np.float16(1), np.float16(2))
    assert_surface_equal(surface("AB4H", one), surface("AB4H", other), 1)
    assert "R:        1 differ, by 1 at most" in complaint(surface("AB4H", one), surface("AB4H", other))
    # Across zero: the smallest numbers of either sign are two apart, and the zeros are one.
    small = np.float16(6e-8)
    for left, right, apart in ((small, -small, 2), (np.float16(0), np.float16(-0.0), 0)):
        sides = [surface("AB4H", np.full((1, 1, 4), value, np.float16)) for value in (left, right)]
        assert_surface_equal(*sides, tolerance=apart)
        if apart:
            complaint(*sides, tolerance=apart - 1)
    # NaN equals NaN of any payload, and is further from a number than any tolerance of use.
    nans = [surface("AB4H", np.full((1, 1, 4), bits, np.uint16).view(np.float16)) for bits in (0x7E00, 0xFFFF)]
    assert_surface_equal(*nans)
    assert "R:        1 differ, NaN\n" in complaint(nans[0], surface("AB4H", one[:, :1]), 70000)


MODES = {"XR24": "RGB", "AR24": "RGBA", "BG24": "RGB", "RG16": "RGB", "AR15": "RGBA", "GR88": "RGB"}
MODES |= dict.fromkeys(("R8", "C8", "D8", "R1"), "L")


@pytest.mark.parametrize(("fourcc", "mode"), MODES.items())
def test_a_png_of_a_surface_equals_it(
    folder: Path, tmp_path: Path, reader: Reader, dmabuf_factory: DmaBufFactory, fourcc: str, mode: str
) -> None:
    made = Surface.wrap(reader.read_planes(dmabuf_factory(32, 8, fourcc, "noise"))[0], 32, 8, fourcc)
    made.save(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as picture:
        assert picture.mode == mode
        assert_surface_equal(made, picture)
    assert_surface_equal(made, tmp_path / "shot.png")
    assert_surface_equal(str(tmp_path / "shot.png"), made)
    changed = made.array().copy()
    changed[0, 0] ^= 0xFF
    said = complaint(Surface.wrap(changed, 32, 8, fourcc), tmp_path / "shot.png")
    assert f"expected: 32x8 picture, 8 bits, {tmp_path / 'shot.png'}" in said
    with Image.open(folder / "expected.png") as left, Image.open(tmp_path / "shot.png") as right:
        assert left.mode == right.mode == mode
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("fourcc", ["AR30", "XB48", "R16", "XR4H", "AB4H"])
def test_deep_formats_against_16_bits(
    folder: Path, tmp_path: Path, reader: Reader, dmabuf_factory: DmaBufFactory, fourcc: str
) -> None:
    import imagecodecs

    made = reader.read(dmabuf_factory(16, 8, fourcc, "gradient"), fourcc=fourcc)
    made.save(tmp_path / "shot.png")
    assert_surface_equal(made, tmp_path / "shot.png")
    changed = Surface.wrap(made.array().copy(), 16, 8, fourcc)
    changed.data[8 * 20 + 1] ^= 2
    complaint(changed, made)
    complaint(changed, tmp_path / "shot.png")
    for name, picture in (("actual", changed), ("expected", made), ("actual-2", changed), ("expected-2", made)):
        picture.save(tmp_path / "own.png")
        left, right = (imagecodecs.png_decode(path.read_bytes()) for path in (folder / f"{name}.png", tmp_path / "own.png"))
        assert left.dtype == np.uint16
        assert np.array_equal(left[..., :3], right[..., :3])


def test_deep_formats_without_imagecodecs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = packed("AR30", {"G": 1023}), packed("AR30", {"G": 1021})
    one.save(tmp_path / "deep.png")
    monkeypatch.setattr("glreadback.sinks.png.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    said = complaint(one, other)
    assert "G:        1 differ, by 2 at most" in said
    assert "pictures: rounded to 8 bits" in said.splitlines()[-1]
    assert tuple(image(folder / "actual.png")[0, 0]) == (0, 255, 0, 0)
    with pytest.raises(GlReadbackError, match=r"has 16 bits a channel: pip install 'glreadback\[hdr\]' to read it"):
        assert_surface_equal(one, tmp_path / "deep.png")


def test_an_8_bit_picture_of_a_deep_surface_is_said_to_be_one(folder: Path) -> None:
    deep = packed("XR30", {"R": 513})
    eight = Image.new("RGB", (1, 1), (128, 0, 0))  # 513.5 of 1023
    said = complaint(packed("XR30", {"R": 511}), eight)
    assert "steps:    of XR30 (bits: R 10, G 10, B 10); the picture has only 8 bits" in said
    assert_surface_equal(deep, eight, 1)


def test_grey_and_alpha_of_pictures(folder: Path) -> None:
    red = surface("XR24", np.full((1, 1, 4), (0, 0, 255, 0), np.uint8))
    grey = surface("AR24", np.full((1, 1, 4), (9, 9, 9, 255), np.uint8))
    assert_surface_equal(grey, Image.new("L", (1, 1), 9))
    assert_surface_equal(grey, Image.new("RGB", (1, 1), (9, 9, 9)))
    assert_surface_equal(red, Image.new("RGBA", (1, 1), (255, 0, 0, 255)))
    palette = Image.new("RGB", (1, 1), (255, 0, 0)).quantize(2)
    assert palette.mode == "P"
    assert_surface_equal(red, palette)
    palette.info["transparency"] = 0
    assert "is not opaque" in complaint(red, palette)
    assert "A:        1 differ, by 1 at most" in complaint(grey, Image.new("RGBA", (1, 1), (9, 9, 9, 254)))
    assert "is not opaque, XR24 has no alpha" in complaint(red, Image.new("RGBA", (1, 1), (255, 0, 0, 7)))
    assert image(folder / "expected-3.png").tolist() == [[[255, 0, 0, 7]]]
    assert image(folder / "actual-3.png").tolist() == [[[255, 0, 0]]]
    assert "has colours, R8 has one component" in complaint(surface("R8", [[9]]), Image.new("RGB", (1, 1), (9, 9, 8)))


def test_alphas_difference_is_grey(folder: Path) -> None:
    one = np.zeros((1, 2, 4), np.uint8)
    other = one.copy()
    other[0, 0, 3] = 5
    complaint(surface("AR24", one), surface("AR24", other))
    assert image(folder / "difference.png").tolist() == [[[255] * 3, [0] * 3]]


def test_two_files(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 2), (1, 2, 4)).save(tmp_path / "b.png")
    assert_surface_equal(tmp_path / "a.png", tmp_path / "a.png")
    assert "B:        6 differ, by 1 at most" in complaint(tmp_path / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize(
    ("shape", "dtype", "fourcc"),
    [((2, 3), "u1", "R8"), ((2, 3, 3), "u1", "BG24"), ((2, 3, 4), "u1", "AB24"), ((2, 3, 4), "u2", "AB48"),
     ((2, 3, 4), "f2", "AB4H")],
)  # fmt: skip
def test_arrays_by_themselves_are_red_first(folder: Path, shape: tuple[int, ...], dtype: str, fourcc: str) -> None:
    one, other = np.zeros(shape, dtype), np.zeros(shape, dtype)
    other[(1, 2, 0)[: other.ndim]] = 1
    said = complaint(other, one)
    assert f"actual:   array of shape {shape}, {one.dtype}, taken as {fourcc}" in said
    assert said.splitlines()[3].startswith("R:        1 differ")
    assert "where:    1x1+2+1" in said


def test_packed_chroma_is_where_its_pixels_are(folder: Path) -> None:
    """YUYV: one Cb for two pixels; the pictures are its luma, in grey."""
    made, other = (Surface.allocate(4, 2, "YUYV") for _ in range(2))
    made.array()[1, 1, 1] = 3  # Cb of the pixels 2 and 3 of row 1
    made.array()[0, 1, 0] = 7  # Y of pixel 2 of row 0
    said = complaint(made, other)
    assert said.startswith("3 of 8 pixels (37.50%) differ\nwhere:    2x2+2+0: columns 2 to 3, rows 0 to 1\n")
    assert "Y:        1 differ, by 7 at most" in said
    assert "Cb:       2 differ, by 3 at most" in said
    assert "Cr:       equal" in said
    assert image(folder / "actual.png").tolist() == [[0, 0, 7, 0], [0, 0, 0, 0]]


def test_pixels_of_several_lines_in_a_block_are_compared_as_bytes(folder: Path) -> None:
    made, other = (Surface.allocate(4, 4, "X0L2") for _ in range(2))
    made.data[5] = 1
    assert complaint(made, other).startswith("1 of 32 bytes (3.12%) differ\nwhere:    1x1+5+0")


def test_what_differs_before_any_pixel(folder: Path) -> None:
    one = surface("XR24", np.zeros((4, 6, 4), np.uint8))
    said = complaint(one, surface("XR24", np.zeros((5, 6, 4), np.uint8)))
    assert said.startswith("the sizes differ: actual is 6x4 pixels, expected is 6x5\n")
    assert image(folder / "actual.png").shape == (4, 6, 3)
    assert image(folder / "expected.png").shape == (5, 6, 3)
    assert not (folder / "difference.png").exists()
    said = complaint(one, surface("XB24", np.zeros((4, 6, 4), np.uint8)))
    assert said.startswith(
        "the formats differ: actual is XR24, expected is XB24. A Reader reads it as another with fourcc='XB24'"
    )
    said = complaint(one, np.zeros((4, 6, 3), np.uint8))
    assert said == "the shapes differ: the array is (4, 6, 3) of uint8, the 6x4 XR24 surface is (4, 6, 4) of uint8"


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), True, "2", None])
def test_what_no_tolerance_can_be(tolerance: Any) -> None:
    with pytest.raises(GlReadbackError, match="tolerance is .*; give a number of steps, 0 or more"):
        assert_surface_equal(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), tolerance)


def test_what_is_no_picture(tmp_path: Path) -> None:
    made = surface("R8", np.zeros((1, 1), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(16) + b"\x10" + bytes(40))
    closed = surface("R8", np.zeros((1, 1), np.uint8))
    closed.close()
    for what, message in (
        ("missing.png", "the picture missing.png is missing"),
        (tmp_path, "cannot be read"),
        (tmp_path / "bad.png", "cannot be read"),
        (tmp_path / "deep.png", "cannot be read"),
        (7, "expected is of type int; give a glreadback.Surface"),
        (closed, "expected is a surface that is closed"),
    ):
        with pytest.raises(GlReadbackError, match=message) as caught:
            assert_surface_equal(made, what)
        assert "\n" not in str(caught.value)
    for bad in (np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((0, 0), np.uint8)):
        with pytest.raises(GlReadbackError, match="actual is an array of shape"):
            assert_surface_equal(bad, np.zeros((2, 2), np.uint8))
    with pytest.raises(GlReadbackError, match="YUYV is Y'CbCr, which has to be converted first"):
        assert_surface_equal(Surface.allocate(2, 2, "YUYV"), Image.new("RGB", (2, 2)))


# ---- artefacts


def test_names_of_files() -> None:
    assert file_name("test_red[XR24-1.5]") == "test_red[XR24-1.5]"
    odd = ["a b", "a/b", "a:b", "a\nb", "ä", "..", ".", "", "x" * 300, "x" * 299 + "y"]
    found = [file_name(text) for text in odd]
    assert len({*found}) == len(odd)
    for name in found:
        assert re.fullmatch(r"[\w.\[\]=,+@-]{1,100}", name, re.ASCII)
        assert name.strip(".")
    assert name_of_test("tests/test_a.py::TestX::test_b[c]") == "TestX.test_b[c]"
    assert name_of_test("tests/test_a.py::test_b[c::d]") != name_of_test("tests/test_a.py::test_b[c.d]")


FAILS = """
    import numpy as np
    import pytest
    from glreadback.testing import assert_surface_equal

    @pytest.mark.parametrize("value", range(1, 9))
    def test_fails(value):
        assert_surface_equal(np.full((2, 2), value, np.uint8), np.zeros((2, 2), np.uint8))

    class TestClass:
        @pytest.mark.parametrize("odd", ["a/b", "../c"])
        def test_odd(self, odd, assert_surface_equal):
            assert_surface_equal(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
"""


def pngs(folder: Path) -> dict[str, list[str]]:
    """Which pictures are in which folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.name)
    return found


ALL = ["actual.png", "difference.png", "expected.png"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 3])
def test_each_test_has_a_folder_of_its_own(pytester: pytest.Pytester, processes: int) -> None:
    """With xdist, too."""
    pytester.makepyfile(**{"test_a": FAILS, "sub/test_a": FAILS, "sub/__init__": "", "__init__": ""})
    ran = pytester.runpytest_subprocess("-n", str(processes), "--glreadback-artefacts=out/pictures")
    ran.assert_outcomes(failed=20)
    found = pngs(pytester.path / "out" / "pictures")
    assert len(found) == 20
    assert all(names == ALL for names in found.values()), found
    for module in ("test_a.py", "sub/test_a.py"):
        for value in range(1, 9):
            assert image(pytester.path / "out/pictures" / module / f"test_fails[{value}]" / "actual.png")[0, 0] == value
    assert (pytester.path / "out/pictures/.gitignore").read_text() == "*\n"


@pytest.mark.slow
def test_the_default_folder_and_what_an_earlier_run_left(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    code = """
    import os
    from glreadback.testing import assert_surface_equal
    import numpy as np

    def test(reader):
        for value in range(int(os.environ["WRONG"])):
            try:
                assert_surface_equal(np.full((2, 2), 1 + value, np.uint8), np.zeros((2, 2), np.uint8))
            except AssertionError:
                pass
        assert_surface_equal(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    """
    (pytester.path / "sub").mkdir()
    path = pytester.makepyfile(**{"sub/test_default": code})
    folder = pytester.path / "glreadback-artefacts" / "sub" / "test_default.py" / "test"

    def run(wrong: int) -> None:
        os.environ["WRONG"] = str(wrong)
        os.chdir(pytester.path / "sub")  # not the rootdir
        pytester.runpytest_subprocess(path).assert_outcomes(passed=1)

    run(2)
    assert len([*folder.iterdir()]) == 6
    (folder / "note.txt").touch()
    run(1)
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([*ALL, "note.txt"])
    (folder / "note.txt").unlink()
    run(0)
    assert not folder.exists()
    # The folder is none of pytest's business, whatever its parts are called.
    pytester.runpytest_subprocess(pytester.path, "--collect-only", "-q").stdout.fnmatch_lines(["1 test collected*"])


def test_a_folder_that_cannot_be_written_hides_nothing(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(pytestconfig.option, "glreadback_artefacts", str(tmp_path / "file" / "below"))
    said = complaint(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)).splitlines()
    assert said[0] == "1 of 1 pixels (100.00%) differ"
    assert said[-1].startswith("pictures: they cannot be written: ")


def test_outside_of_pytest(tmp_path: Path) -> None:
    code = (
        f"import os; os.chdir({str(tmp_path)!r}); os.environ.pop('PYTEST_CURRENT_TEST', None)\n"
        "import numpy as np; from glreadback.testing import assert_surface_equal\n"
        "try:\n    assert_surface_equal(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8))\n"
        "except AssertionError as error:\n    print(error)"
    )
    assert "1 of 1 pixels" in python(code)
    assert pngs(tmp_path) == {"glreadback-artefacts": ALL}


def test_the_traceback_ends_in_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import numpy as np

        def test_differs(assert_surface_equal):
            assert_surface_equal(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8))

        def test_no_tolerance(assert_surface_equal):
            assert_surface_equal(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8), tolerance=-1)

        def test_golden(golden):
            golden(np.zeros((1, 1), np.uint8))

        def test_factory(dmabuf_factory):
            dmabuf_factory(4, 4, stride=1)
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(failed=4)
    ran.stdout.no_re_match_line(r".*testing\w*\.py:\d+")
    ran.stdout.fnmatch_lines(
        [
            ">*assert_surface_equal(*",
            "E       AssertionError: 1 of 1 pixels (100.00%) differ",
            "test_the_traceback_ends_in_the_test.py:4: AssertionError",
            "*test_differs - AssertionError: 1 of 1 pixels *",
        ]
    )


# ---- golden pictures


GOLDEN = """
    import os
    import numpy as np
    import pytest

    VALUE = int(os.environ["VALUE"])
    MADE = [np.full((2, 3, 3), VALUE, np.uint8), np.full((2, 3, 4), 9, np.uint8)]

    @pytest.mark.parametrize("index", [0, 1])
    def test_golden(golden, index): golden(MADE[index])

    class TestClass:
        def test_named(self, golden):
            golden(MADE[0], name="first")
            golden(MADE[1], name="of two")

    def test_tolerance(golden): golden(MADE[0], tolerance=3)
"""


@pytest.mark.slow
def test_goldens(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(**{"sub/test_shots": GOLDEN})
    folder = pytester.path / "sub" / "goldens" / "test_shots"

    def run(value: int, *options: str, **outcomes: int) -> pytest.RunResult:
        monkeypatch.setenv("VALUE", str(value))
        ran = pytester.runpytest_subprocess(*options)
        ran.assert_outcomes(**outcomes)
        return ran

    # Missing: it fails, says how to make it, shows what it would be, and writes none.
    ran = run(5, failed=4)
    ran.stdout.fnmatch_lines(
        [
            f"E * AssertionError: there is no golden picture {folder}/test_golden[[]0[]].png yet",
            "E * actual.png: *glreadback-artefacts/sub/test_shots.py/test_golden[[]0[]]/actual.png",
            "E * golden: * pytest --update-goldens 'sub/test_shots.py::test_golden[[]0[]]'",
        ]
    )
    assert not folder.exists()
    assert pngs(pytester.path / "glreadback-artefacts/sub/test_shots.py")["test_golden[0]"] == ["actual.png"]

    # The line that the failure gives makes that one.
    ran = run(5, "--update-goldens", "sub/test_shots.py::test_golden[0]", passed=1)
    ran.stdout.fnmatch_lines([f"written: {folder}/test_golden[[]0[]].png", "1 written. *"])
    assert [path.name for path in folder.iterdir()] == ["test_golden[0].png"]

    ran = run(5, "--update-goldens", passed=4)
    ran.stdout.fnmatch_lines(["4 written. *"])
    named = ["TestClass.test_named.first.png", f"TestClass.test_named.{file_name('of two')}.png"]
    assert {path.name for path in folder.iterdir()} == {
        *("test_golden[0].png", "test_golden[1].png", "test_tolerance.png"),
        *named,
    }
    assert image(folder / "test_golden[0].png").tolist() == [[[5] * 3] * 3] * 2
    run(5, passed=4)

    # Another picture: the report, and the goldens as they were.
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    ran = run(7, failed=2, passed=2)
    ran.stdout.fnmatch_lines(
        [
            "E * AssertionError: 6 of 6 pixels (100.00%) differ",
            f"E * expected: 3x2 picture, 8 bits, {folder}/test_golden[[]0[]].png",
            "E * difference.png: *",
            "E * golden: * if the actual picture is right: pytest --update-goldens *",
        ]
    )
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before

    # An update writes what does not fit, and leaves alone what does, be it by its tolerance.
    run(7, "--update-goldens", passed=4).stdout.fnmatch_lines(["2 written. *"])
    changed = {path.name for path, was in before.items() if path.read_bytes() != was[0]}
    assert changed == {"test_golden[0].png", "TestClass.test_named.first.png"}
    assert {path.name for path, was in before.items() if path.stat().st_mtime_ns != was[1]} == changed
    run(7, passed=4)


@pytest.mark.slow
def test_goldens_of_several_processes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the workers wrote is in the summary of the whole."""
    monkeypatch.setenv("VALUE", "5")
    pytester.makepyfile(test_shots=GOLDEN)
    ran = pytester.runpytest_subprocess("-n", "2", "--update-goldens")
    ran.assert_outcomes(passed=4)
    ran.stdout.fnmatch_lines([f"written: {pytester.path}/goldens/test_shots/test_golden[[]0[]].png", "5 written. *"])
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=4)


def test_misuse_of_goldens(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import numpy as np
        import pytest
        from glreadback import GlReadbackError, Surface

        MADE = np.zeros((1, 1), np.uint8)

        def test_twice(golden):
            golden(MADE)
            with pytest.raises(GlReadbackError, match=r"test_twice.png is compared twice in one test; .*name="):
                golden(MADE + 1)

        @pytest.mark.parametrize("name", ["", 7])
        def test_name(golden, name):
            with pytest.raises(GlReadbackError, match="name is .*; give a word"):
                golden(MADE, name=name)

        def test_ycbcr(golden):
            with pytest.raises(GlReadbackError, match="YUYV is Y'CbCr"):
                golden(Surface.allocate(2, 2, "YUYV"))

        def test_tolerance(golden):
            golden(MADE, name="one")
            with pytest.raises(GlReadbackError, match="tolerance is -1"):
                golden(MADE, name="../one", tolerance=-1)
        """
    )
    (pytester.path / "goldens" / "test_misuse_of_goldens").mkdir(parents=True)
    ran = pytester.runpytest_subprocess("--update-goldens")
    ran.assert_outcomes(passed=5)
    assert sorted(pngs(pytester.path / "goldens")) == ["test_misuse_of_goldens"]


def test_a_golden_that_no_surface_of_the_format_can_equal(folder: Path, tmp_path: Path) -> None:
    """Alpha where the format has none now: reported and updated as any other difference is."""
    first, then = surface("AR24", np.full((1, 1, 4), 7, np.uint8)), surface("XR24", np.full((1, 1, 4), 7, np.uint8))

    def golden(actual: Surface, update: bool) -> Exception | None:
        return GoldenFolder(tmp_path / "test_a.py", "test_a.py::test", update).verdict(actual, None, 0)

    assert golden(first, True) is None
    said = str(golden(then, False))
    assert "is not opaque, XR24 has no alpha" in said
    assert said.endswith("golden:   if the actual picture is right: pytest --update-goldens test_a.py::test")
    assert golden(then, True) is None
    assert golden(then, False) is None
    # What cannot be read is nobody's picture; it is not replaced unasked.
    (tmp_path / "goldens/test_a/test.png").write_bytes(b"not one")
    assert "cannot be read" in str(golden(then, True))


@pytest.mark.slow
def test_goldens_of_all_kinds_of_formats(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("fourcc", ["XR24", "AR24", "RG16", "AR30", "XB48", "AB4H", "NV12", "R8"])
        def test(golden, reader, dmabuf_factory, fourcc):
            golden(reader.read(dmabuf_factory(33, 9, fourcc, "noise")))
        """
    )
    pytester.runpytest_subprocess("--update-goldens").stdout.fnmatch_lines(["8 written*"])
    pytester.runpytest_subprocess().assert_outcomes(passed=8)
