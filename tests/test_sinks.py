"""Sinks: what each file holds, read back by another program; and that no file is ever half written."""

from __future__ import annotations

import errno
import io
import os
import random
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image
from templates import check_sink

from glreadback import pixels, sinks
from glreadback.errors import GlReadbackError, SinkError
from glreadback.fourcc import Fourcc
from glreadback.sinks import REGISTRY, _pillow, save, write
from glreadback.sinks.base import Sink
from glreadback.surface import Surface

FORMATS = list(REGISTRY)
ONE_PLANE = [fourcc for fourcc in Fourcc.all() if fourcc.info.linear and len(fourcc.info.planes) == 1]
PICTURES = [fourcc for fourcc in ONE_PLANE if fourcc.info.model != "yuv"]
SHALLOW = [fourcc for fourcc in PICTURES if not pixels.deep(fourcc.info)]
DEEP = [fourcc for fourcc in PICTURES if pixels.deep(fourcc.info)]
SIZES = [(1, 1, 0), (13, 7, 0), (13, 7, 9)]


def random_surface(fourcc: str, width: int = 13, height: int = 7, padding: int = 0) -> Surface:
    layout = Fourcc(fourcc).info.planes[0]
    row, rows = layout.row_bytes(width), layout.rows(height)
    data = random.Random(f"{fourcc}{width}").randbytes((row + padding) * max(rows, height))
    return Surface.wrap(bytearray(data), width, height, fourcc, row + padding)


def written(surface: Surface, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    write(surface, stream, format, **options)
    return stream.getvalue()


# ---- what every sink promises (sinks/base.py)


@pytest.mark.parametrize("format", FORMATS)
def test_a_sink_follows_the_template(format: str) -> None:
    check_sink(format)


def test_every_module_with_a_sink_is_in_the_registry() -> None:
    homes = {module for module, _ in REGISTRY.values()}
    for path in Path(sinks.__file__).parent.glob("[!_]*.py"):
        if re.search(r"^class [A-Z]\w*\((?:\w*Sink)\)", path.read_text(), re.MULTILINE):
            assert path.stem in homes | {"base"}, path.name


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_only_the_sink_that_is_used_is_loaded() -> None:
    homes = {f"glreadback.sinks.{module}" for module, _ in REGISTRY.values()}
    assert not homes & loaded_by("import glreadback.sinks")
    loaded = loaded_by("from glreadback.sinks import sink_class, REGISTRY\nfor name in REGISTRY: sink_class(name)")
    assert homes <= loaded
    assert not {"numpy", "OpenGL", "PIL", "imagecodecs"} & loaded


def test_plain_files_of_byte_pixels_need_neither_numpy_nor_pillow(tmp_path: Path) -> None:
    code = "from glreadback.surface import Surface; from glreadback.sinks import save\n"
    for format in ("ppm", "pam", "npy", "raw"):
        code += f"save(Surface.allocate(4, 4, 'AR24'), {str(tmp_path / ('x.' + format))!r})\n"
    assert not {"numpy", "PIL"} & loaded_by(code)


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_gets_what_a_file_gets(format: str, tmp_path: Path) -> None:
    surface = random_surface("XB24")
    save(surface, tmp_path / "x", format)
    assert (tmp_path / "x").read_bytes() == written(surface, format)
    save(surface, tmp_path / f"y.{format.upper()}")
    assert (tmp_path / f"y.{format.upper()}").read_bytes() == written(surface, format)
    surface.save(tmp_path / f"z.{format}")
    assert (tmp_path / f"z.{format}").read_bytes() == written(surface, format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_is_written_in_order_and_stays_open(format: str) -> None:
    read, end = os.pipe()
    received: list[bytes] = []
    with open(end, "wb") as stream, open(read, "rb") as reader:
        thread = threading.Thread(target=lambda: received.append(reader.read()))
        thread.start()
        surface = random_surface("XB24", 200, 100)
        write(surface, stream, format)
        stream.close()
        thread.join()
    assert received == [written(surface, format)]


# ---- what the files hold


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("fourcc", SHALLOW)
def test_lossless_pictures_come_back(fourcc: Fourcc, format: str) -> None:
    for width, height, padding in SIZES:
        surface = random_surface(fourcc, width, height, padding)
        with Image.open(io.BytesIO(written(surface, format))) as image:
            assert image.size == (width, height)
            if format == "png":
                assert image.mode == pixels.mode(fourcc.info)
            assert np.array_equal(np.asarray(image.convert("RGBA")), pixels.rgba8(surface))


def gradient(fourcc: str, width: int = 64, height: int = 48) -> Surface:
    """Smooth, which lossy formats keep well."""
    surface = Surface.allocate(width, height, fourcc)
    y, x = np.mgrid[:height, :width]
    surface.array()[:] = np.stack([3 * x, 4 * y, 255 - 3 * x, 255 - 4 * y], axis=-1)[..., : surface.array().shape[-1]]
    return surface


@pytest.mark.parametrize(("format", "options"), [("jpg", {}), ("jpeg", {}), ("webp", {"quality": 90}), ("avif", {})])
@pytest.mark.parametrize("fourcc", ["XR24", "AB24", "BG24"])
def test_lossy_pictures_come_back_nearly(fourcc: str, format: str, options: dict[str, int]) -> None:
    surface = gradient(fourcc)
    with Image.open(io.BytesIO(written(surface, format, **options))) as image:
        keeps_alpha = fourcc == "AB24" and not format.startswith("jp")
        assert image.mode == ("RGBA" if keeps_alpha else "RGB")
        off = np.asarray(image).astype(int) - pixels.rgba8(surface)[..., : len(image.mode)]
    assert abs(off).mean() < 3
    assert abs(off).max() < 40


@pytest.mark.parametrize("format", ["jpg", "avif"])
def test_grey_pictures_may_be_lossy_too(format: str) -> None:
    surface = Surface.wrap(bytes(range(64)) * 64, 64, 64, "R8")
    with Image.open(io.BytesIO(written(surface, format))) as image:
        assert abs(np.asarray(image.convert("L")).astype(int) - surface.array()).mean() < 3


def test_options_reach_the_encoder() -> None:
    surface = gradient("XR24")
    assert len(written(surface, "jpg", quality=20)) < len(written(surface, "jpg")) < len(written(surface, "jpg", quality=100))
    assert len(written(surface, "webp", quality=5)) < len(written(surface, "webp"))
    assert len(written(surface, "avif", quality=5)) < len(written(surface, "avif"))
    assert len(written(surface, "png", level=9)) < len(written(surface, "png", level=0))


def netpbm(data: bytes) -> tuple[dict[str, str], np.ndarray[Any, Any]]:
    """P6 and P7 as netpbm's manual has them."""
    if data.startswith(b"P6"):
        found = re.match(rb"P6\n(\d+) (\d+)\n(\d+)\n", data)
        assert found
        header = dict(zip(("WIDTH", "HEIGHT", "MAXVAL"), (part.decode() for part in found.groups()), strict=True))
        header |= {"DEPTH": "3", "TUPLTYPE": "RGB"}
        body = data[found.end() :]
    else:
        text, body = data.split(b"ENDHDR\n", 1)
        magic, *lines = text.decode().splitlines()
        assert magic == "P7"
        header = dict(line.split(" ") for line in lines)
    width, height, depth = (int(header[name]) for name in ("WIDTH", "HEIGHT", "DEPTH"))
    samples = np.frombuffer(body, "u1" if int(header["MAXVAL"]) < 256 else ">u2")
    return header, samples.reshape(height, width, depth)


@pytest.mark.parametrize("fourcc", PICTURES)
def test_pam_holds_every_picture_exactly(fourcc: Fourcc) -> None:
    for width, height, padding in SIZES:
        surface = random_surface(fourcc, width, height, padding)
        header, found = netpbm(written(surface, "pam"))
        most = 255 if fourcc in SHALLOW else 65535
        assert header["MAXVAL"] == str(most)
        assert header["TUPLTYPE"] == {1: "GRAYSCALE", 3: "RGB", 4: "RGB_ALPHA"}[found.shape[2]]
        assert np.array_equal(found, pixels.samples(surface, most))
        if not fourcc.info.floating:
            # Nothing was lost: the field's own value can be had back.
            for index, component in enumerate(pixels.mode(fourcc.info)):
                bits = next(iter(fourcc.info.bits.values())) if component == "L" else fourcc.info.bits.get(component)
                if bits:
                    own = np.rint(found[..., index] / most * ((1 << bits) - 1))
                    assert np.array_equal(np.rint(own / ((1 << bits) - 1) * most), found[..., index])


@pytest.mark.parametrize("fourcc", PICTURES)
def test_ppm_holds_the_colours(fourcc: Fourcc) -> None:
    for width, height, padding in SIZES:
        surface = random_surface(fourcc, width, height, padding)
        data = written(surface, "ppm")
        header, found = netpbm(data)
        most = int(header["MAXVAL"])
        assert most == (255 if fourcc in SHALLOW else 65535)
        wanted = pixels.samples(surface, most)
        assert np.array_equal(found, np.repeat(wanted, 3, axis=2) if wanted.shape[2] == 1 else wanted[..., :3])
        if most == 255:
            with Image.open(io.BytesIO(data)) as image:
                assert np.array_equal(np.asarray(image), found)


@pytest.mark.parametrize("fourcc", ONE_PLANE)
def test_npy_is_the_array_and_raw_its_bytes(fourcc: Fourcc) -> None:
    for width, height, padding in ((1, 2, 0), (13, 8, 0), (13, 8, 9)):
        surface = random_surface(fourcc, width, height, padding)
        array = np.load(io.BytesIO(data := written(surface, "npy")))
        own = surface.array()
        assert (array.dtype, array.shape) == (own.dtype, own.shape)
        assert array.tobytes() == own.tobytes() == written(surface, "raw")
        header = io.BytesIO()
        np.lib.format.write_array(header, own)
        assert data == header.getvalue(), "the same file as numpy writes"


def test_raw_comes_back_as_a_source(tmp_path: Path) -> None:
    from glreadback.sources import open_source

    surface = random_surface("AR30", 13, 7, 9)
    save(surface, tmp_path / "x.raw")
    with open_source(f"file:{tmp_path}/x.raw?size=13x7&fourcc=AR30") as source:
        fd = next(source.frames()).buffer.planes[0].fd
        assert os.pread(fd, 13 * 7 * 4, 0) == surface.tobytes()


# ---- what is refused


@pytest.mark.parametrize("format", ["jpg", "webp", "avif", "png"])
@pytest.mark.parametrize("fourcc", DEEP)
def test_deep_colours_are_never_lost_silently(
    fourcc: Fourcc, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glreadback.sinks.png.find_spec", lambda name: None)
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(SinkError, match=r"has (\d\d bits a colour|half floats).* pam, npy or raw.*--fourcc AB24") as error:
        save(random_surface(fourcc), tmp_path / "old", format)
    assert ("pip install 'glreadback[hdr]'" in str(error.value)) == (format == "png")
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("fourcc", DEEP)
def test_deep_png_is_given_16_bits(fourcc: Fourcc, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray[Any, Any]] = []

    def png_encode(array: np.ndarray[Any, Any], level: int, **_: Any) -> bytes:
        given.append(array)
        return b"png"

    fake = SimpleNamespace(png_encode=png_encode)
    monkeypatch.setattr("glreadback.sinks.png.find_spec", lambda name: fake)
    monkeypatch.setitem(sys.modules, "imagecodecs", fake)
    surface = random_surface(fourcc, 13, 7, 9)
    assert written(surface, "png") == b"png"
    assert given[0].dtype == np.uint16
    assert given[0].shape == (7, 13, len(pixels.mode(fourcc.info)))
    assert np.array_equal(given[0], pixels.samples(surface, 65535))


@pytest.mark.parametrize("fourcc", DEEP)
def test_deep_png_comes_back(fourcc: Fourcc) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    for width, height, padding in SIZES:
        surface = random_surface(fourcc, width, height, padding)
        found = imagecodecs.png_decode(written(surface, "png"))
        wanted = pixels.samples(surface, 65535)
        assert found.dtype == np.uint16
        assert np.array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"raw", "npy"}))
def test_yuv_is_no_picture(format: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"YUYV is Y'CbCr, which has to be converted first.*--fourcc AB24"):
        save(random_surface("YUYV"), tmp_path / f"x.{format}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("format", "most"), [("jpg", 65500), ("webp", 16383), ("avif", 65536)])
def test_a_picture_too_large_for_its_format(format: str, most: int, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=f"at most {most} pixels either way, the picture has {most + 1}x1"):
        save(Surface.allocate(most + 1, 1, "R8"), tmp_path / f"x.{format}")
    if format != "avif":
        save(Surface.allocate(most, 1, "R8"), tmp_path / f"x.{format}")


@pytest.mark.parametrize(
    ("name", "format", "options", "says"),
    [
        ("x.pngg", None, {}, "ends in '.pngg', no picture format (did you mean png?); there are png, jpg, jpeg"),
        ("x", None, {}, "has no ending to tell its format by; there are png"),
        ("x.png", "bmp", {}, "'bmp' is no picture format; there are"),
        ("x.png", "", {}, "no picture format was given"),
        ("x.png", None, {"levle": 1}, "PNG has no option 'levle' (did you mean level?); there is level"),
        ("x.ppm", None, {"level": 1}, "PPM has no option 'level'; there are none"),
        ("x.png", None, {"level": 10}, "level is 10; it must be a whole number from 0 to 9"),
        ("x.png", None, {"level": "1"}, "level is '1'; it must be a whole number"),
        ("x.jpg", None, {"quality": 0}, "quality is 0; it must be a whole number from 1 to 100"),
        ("x\0.png", None, {}, "zero byte"),
    ],
)
def test_what_was_asked_wrongly_is_named(
    name: str, format: str | None, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(SinkError) as error:
        save(random_surface("XR24"), f"{tmp_path}/{name}", format, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


# ---- files: whole, or as they were


@pytest.fixture(params=["unnamed", "named"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's unnamed files, and as on file systems that have none."""
    if request.param == "named":
        real = os.open

        def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real(path, flags, *more, **options)

        monkeypatch.setattr(os, "open", refuse)
    return str(request.param)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A file that is there before, in a folder that has nothing else before and after."""
    path = tmp_path / "old.ppm"
    path.write_bytes(b"old")
    yield path
    assert os.listdir(tmp_path) == ["old.ppm"]


def test_a_file_is_replaced(old: Path, either_way: str) -> None:
    surface = random_surface("XR24")
    reader = old.open("rb")
    save(surface, old)
    assert old.read_bytes() == written(surface, "ppm")
    assert reader.read() == b"old", "replaced, not written over"
    reader.close()


def test_the_mode_is_the_umasks(tmp_path: Path, either_way: str) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            save(random_surface("XR24"), tmp_path / "x.ppm")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "x.ppm").stat().st_mode) == 0o666 & ~mask


class HalfWay(Sink):
    """Writes a little and then fails."""

    name = "half"
    error: BaseException = OSError(errno.EIO, "Input/output error")

    def write(self, surface: Surface, stream: BinaryIO) -> None:
        stream.write(b"x" * 100_000)
        stream.flush()
        raise self.error


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(errno.EIO, "Input/output error"), SinkError),
        (SinkError("the encoder says no"), SinkError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_an_error_half_way_changes_nothing(
    old: Path, either_way: str, error: BaseException, becomes: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glreadback.sinks.ppm.PpmSink", HalfWay)
    monkeypatch.setattr(HalfWay, "error", error)
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(becomes):
        save(random_surface("XR24"), old)
    assert old.read_bytes() == b"old"
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_changes_nothing(old: Path, either_way: str, format: str) -> None:
    """The limit on file sizes stops write(2) where a full disk would; the kernel says EFBIG instead of ENOSPC."""
    surface = random_surface("XR24", 300, 200)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(SinkError, match=r"cannot write '.*old.ppm': File too large\. Raise the limit") as error:
            save(surface, old, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert old.read_bytes() == b"old"


def test_a_full_disk_is_named() -> None:
    with pytest.raises(SinkError, match=r"cannot write '/dev/full': No space left on device\. Make room"):
        save(random_surface("XR24"), "/dev/full", "ppm")
    with pytest.raises(OSError, match="No space"), open("/dev/full", "wb", buffering=0) as stream:
        write(random_surface("XR24"), stream, "ppm")  # the caller's stream: its errors go through


def test_a_target_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.ppm").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name, says in (
        ("folder.ppm", "it is a folder; add a file's name"),
        ("missing/x.ppm", r"No such file or directory\. Make the folder first"),
        ("file/x.ppm", r"Not a directory\. A part of the path is a file"),
        ("x" * 300 + ".ppm", r"File name too long\. Choose a shorter name"),
        ("line\nbreak/x.ppm", "No such file"),
    ):
        with pytest.raises(SinkError, match=says) as error:
            save(random_surface("XR24"), tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(SinkError, match="it is a folder"):
        save(random_surface("XR24"), f"{tmp_path}/new/", "ppm")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.ppm"]


def test_a_read_only_folder_is_named() -> None:
    surface = random_surface("XR24")
    written(surface, "ppm")  # loads the module while everything may be read
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        (folder / "old.ppm").write_bytes(b"old")
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            for target in ("old.ppm", "new.ppm"):
                with pytest.raises(SinkError, match=r"Permission denied\. Choose a folder"):
                    save(surface, folder / target)
        finally:
            os.seteuid(user)
        assert os.listdir(folder) == ["old.ppm"]
        assert (folder / "old.ppm").read_bytes() == b"old"
        folder.chmod(0o755)


def test_a_folder_that_nobody_may_write_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot write '/proc/x\.ppm'"):
        save(random_surface("XR24"), "/proc/x.ppm")


def test_a_link_stays_a_link(tmp_path: Path, either_way: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.ppm").symlink_to("folder/real.ppm")
    surface = random_surface("XR24")
    for _ in range(2):  # to nothing yet, then to a file
        save(surface, tmp_path / "link.ppm")
        assert (tmp_path / "link.ppm").is_symlink()
        assert (tmp_path / "folder" / "real.ppm").read_bytes() == written(surface, "ppm")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SinkError, match="cannot write"):
        save(surface, tmp_path / "loop", "ppm")


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(path.read_bytes()))
    thread.start()
    surface = random_surface("XR24")
    save(surface, path, "ppm")
    thread.join()
    assert received == [written(surface, "ppm")]
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_name(name: str, tmp_path: Path) -> None:
    code = (
        "from glreadback.surface import Surface; from glreadback.sinks import save\n"
        f"save(Surface.wrap(bytes(range(16)), 2, 2, 'XR24'), {name!r}, 'raw')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == bytes(range(16))
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=out)
        assert os.fstat(out.fileno()).st_size == 16, "the file that the shell opened"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_killed_process_leaves_the_old_file(old: Path, moment: str) -> None:
    stop = "print('now', flush=True); time.sleep(60)"
    code = f"""
import os, time
from glreadback.surface import Surface
from glreadback import sinks
from glreadback.sinks import ppm
class Slow(ppm.PpmSink):
    def write(self, surface, stream):
        super().write(surface, stream)
        stream.flush()
        if {moment == "writing"}:
            {stop}
real = os.open
ppm.PpmSink = Slow
if {moment == "renaming"}:
    def link(*_, **__):
        {stop}
    os.link = link
sinks.save(Surface.allocate(640, 480, "XR24"), {str(old)!r})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"now\n"
        process.kill()
    assert old.read_bytes() == b"old"


def test_readers_never_see_half_a_file(old: Path, either_way: str) -> None:
    surface = Surface.allocate(640, 480, "XR24")
    sizes = {3, len(written(surface, "ppm"))}
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(len(old.read_bytes()))

    thread = threading.Thread(target=watch)
    thread.start()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        save(surface, old)
    done.set()
    thread.join()
    assert seen <= sizes


def test_an_encoder_that_fails_is_a_sink_error(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("encoding error 5")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SinkError, match="Pillow cannot make WebP of 13x7 pixels: encoding error 5"):
        save(random_surface("XR24"), old, "webp")
    assert old.read_bytes() == b"old"
    assert issubclass(SinkError, GlReadbackError)
    assert _pillow.PillowSink.__doc__
