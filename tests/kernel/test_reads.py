"""Every driver's buffers by every route: the producer's own bytes, live, with any stride and offset, or a clear refusal."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy
import pytest
from producers import DRIVERS, PRODUCERS, Made, Producer, ReadLog, vivid
from watch import dmabufs, open_fds

from glreadback import Color, DescriptorError, DmaBuf, Fourcc, Frame, Plane, Reader, Surface
from glreadback.kernel.udmabuf import sealed_memfd

SIZE = (101, 33)  # nothing is aligned
# route: formats it takes as they are
PACKED = {
    "alias": ("XR24", "RG16", "XR30", "AB48", "R8"),
    "native": ("XR24", "AR24", "RG16", "AB48", "R8"),
    "draw": ("XR24", "AB24", "XR30"),
    "map": ("XR24", "RG16", "AB48", "R8"),
}
PLANAR = ("NV12", "P010", "YU12", "NV16", "YUYV")
# format, and whether its planes share a buffer
PICTURES = (("NV12", True), ("NV12", False), ("P010", False), ("YU12", True))
CAMERAS = (("NV12", True), ("NV12", False), ("NV16", True), ("YU12", False), ("YUYV", True), ("XR24", True))


def buffer_of(made: Made) -> DmaBuf:
    return DmaBuf(made.width, made.height, made.fourcc, [Plane(*plane) for plane in made.planes], made.modifier)


def components(pixels: bytes, made: Made) -> bytes:
    """The pixels without the bits that no component has: a route may leave anything in an X."""
    layout = made.fourcc.info.planes[0]
    mask = sum(((1 << field.bits) - 1) << field.shift for field in layout.fields if field.component != "X")
    blocks = numpy.frombuffer(pixels, numpy.uint8).reshape(-1, layout.block_bytes)
    return (blocks & numpy.frombuffer(mask.to_bytes(layout.block_bytes, "little"), numpy.uint8)).tobytes()


def check_same(surface: Surface, made: Made) -> None:
    assert surface.fourcc == made.fourcc
    assert components(surface.tobytes(), made) == components(made.expected(), made)
    if surface.route in ("alias", "map"):
        assert surface.tobytes() == made.expected()


def imported(reader: Reader) -> int:
    return sum(importer.imported for importer in reader._open_importers())


def row_bytes(fourcc: str) -> int:
    return Fourcc(fourcc).info.planes[0].row_bytes(SIZE[0])


# ---- Packed formats ----


@pytest.mark.parametrize(("route", "fourcc"), [(route, fourcc) for route, names in PACKED.items() for fourcc in names])
def test_packed(producer: Producer, route: str, fourcc: str, reader: Reader, read_log: ReadLog) -> None:
    # The driver's own stride; and padded rows from the middle of a later page on.
    for stride, offset in ((None, 0), (row_bytes(fourcc) + 24, 4096 + 104)):
        with producer(*SIZE, fourcc, stride=stride, offset=offset) as made:
            buf = buffer_of(made)
            made.fill(seed=1)
            surface = reader.read(buf, route=route)
            assert surface.route == route
            check_same(surface, made)

            before = imported(reader)
            made.fill(seed=2)
            check_same(reader.read(buf, route=route), made)
            made.write(0, bytes(reversed(made.expected())))
            check_same(reader.read(buf, out=surface, route=route), made)
            assert imported(reader) == before, "a later write is seen through the same import"
            read_log(made.producer, route)
            reader.forget(buf)


def test_packed_by_default(producer: Producer, reader: Reader, read_log: ReadLog) -> None:
    with producer(*SIZE, "XR24", stride=448, offset=256) as made:
        made.fill()
        surface = reader.read(buffer_of(made))
        assert surface.route == "alias"
        assert surface.route.exact
        check_same(surface, made)
        read_log(made.producer, str(surface.route))


@pytest.mark.parametrize("route", ["alias", "draw", "map"])
def test_parts(producer: Producer, route: str, reader: Reader) -> None:
    """A rectangle, a picture that is upside down, and damage, of a buffer with padded rows."""
    with producer(64, 48, "AR24", stride=300, offset=4100) as made:
        buf = buffer_of(made)
        made.fill(seed=1)

        def pixels() -> numpy.ndarray:
            return numpy.frombuffer(made.expected(), numpy.uint8).reshape(48, 64, 4)

        part = reader.read(buf, rect=(5, 7, 20, 11), route=route)
        assert numpy.array_equal(numpy.asarray(part), pixels()[7:18, 5:25])
        flipped = reader.read(Frame(buf, y_invert=True), route=route)
        assert numpy.array_equal(numpy.asarray(flipped), pixels()[::-1])

        kept = reader.read(buf, route=route)
        before = pixels().copy()
        made.fill(seed=2)
        before[10:20, 30:50] = pixels()[10:20, 30:50]
        reader.read(buf, out=kept, damage=[(30, 10, 20, 10)], route=route)
        assert numpy.array_equal(numpy.asarray(kept), before)


# ---- Planes ----


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("fourcc", PLANAR)
def test_planes(producer: Producer, fourcc: str, together: bool, reader: Reader, read_log: ReadLog) -> None:
    for stride, offset in ((None, 0), (row_bytes(fourcc) + 26 & ~3, 4096 + 128)):
        with producer(*SIZE, fourcc, stride=stride, offset=offset, together=together) as made:
            buf = buffer_of(made)
            for seed in (1, 2):
                made.fill(seed)
                for route in ("alias", "map"):
                    planes = reader.read_planes(buf, route=route)
                    assert [plane.tobytes() for plane in planes] == [made.expected(n) for n in range(len(made.planes))]
                    read_log(made.producer, f"planes {route}")
            reader.forget(buf)


@pytest.mark.parametrize(("fourcc", "together"), PICTURES)
def test_pictures_of_planes(producer: Producer, fourcc: str, together: bool, reader: Reader, read_log: ReadLog) -> None:
    """Drawn or converted, a kernel's buffer is what the same bytes in a memfd are, to the bit."""
    with producer(*SIZE, fourcc, stride=row_bytes(fourcc) + 26 & ~3, offset=4096 + 192, together=together) as made:
        buf = buffer_of(made)
        for route in ("draw", None):
            for seed in (1, 2):
                made.fill(seed)
                surface = reader.read(buf, route=route)
                assert surface.tobytes() == read_copy(made, reader, route).tobytes()
            read_log(made.producer, f"{surface.route} to {surface.fourcc}")
        reader.forget(buf)


def read_copy(made: Made, reader: Reader, route: str | None = None) -> Surface:
    """The same picture read from memfds with the producer's bytes."""
    made.refresh()
    copies = {memory.fd: sealed_memfd(memory.size) for memory in made.memories}
    try:
        for memory in made.memories:
            os.pwrite(copies[memory.fd], memory.shadow, 0)
        planes = [Plane(copies[fd], offset, stride) for fd, offset, stride in made.planes]
        buf = DmaBuf(made.width, made.height, made.fourcc, planes, made.modifier)
        surface = reader.read(buf, route=route, fourcc=None if made.fourcc.info.model == "yuv" else "AB24")
        reader.forget(buf)
        return surface
    finally:
        for fd in copies.values():
            os.close(fd)


@pytest.mark.parametrize("route", ["draw", None])
@pytest.mark.parametrize("chroma", [(128, 128), (90, 240)])
def test_colours(producer: Producer, chroma: tuple[int, int], route: str | None, reader: Reader) -> None:
    """Against BT.709's own formula: any luma, and one chroma, so that its siting does not matter."""
    with producer(64, 32, "NV12", offset=64, together=False) as made:
        made.fill(seed=3)
        made.write(1, bytes(chroma) * (32 * 16))
        surface = reader.read(Frame(buffer_of(made), color=Color(matrix="709", range="narrow")), fourcc="AB24", route=route)
        y = (numpy.frombuffer(made.expected(0), numpy.uint8).reshape(32, 64) - 16.0) / 219
        blue, red = ((value - 128) / 224 for value in chroma)
        wanted = [y + 1.5748 * red, y - (0.0722 * 1.8556 * blue + 0.2126 * 1.5748 * red) / 0.7152, y + 1.8556 * blue]
        picture = numpy.asarray(surface)
        for channel, values in enumerate(wanted):
            away = numpy.abs(picture[..., channel] - numpy.clip(values, 0, 1) * 255)
            assert away.max() < 1.0
        assert (picture[..., 3] == 255).all()


# ---- Views of the memory ----


def test_map(producer: Producer, reader: Reader, read_log: ReadLog) -> None:
    for stride, offset in ((None, 0), (448, 100), (448, 4096 * 3 + 20)):
        with producer(*SIZE, "XR24", stride=stride, offset=offset) as made:
            made.fill(seed=1)
            with reader.map(buffer_of(made)) as surface:
                assert (surface.route, surface.stride) == ("map", made.planes[0][2])
                assert surface.tobytes() == made.expected()
                made.fill(seed=2)
                assert surface.tobytes() == made.expected(), "no copy: the memory itself"
                assert surface.data.readonly
                rows = numpy.asarray(surface)
                assert rows.tobytes() == made.expected()
                del rows
            read_log(made.producer, "Reader.map")


# ---- Descriptors without DRM_RDWR ----


@pytest.mark.parametrize("name", list(DRIVERS))
@pytest.mark.parametrize("route", ["alias", "native", "draw", "map", None])
def test_read_only(name: str, route: str | None, reader: Reader, read_log: ReadLog) -> None:
    """llvmpipe takes another stride for these without a word. The reader copies first, and says so."""
    with PRODUCERS[name](*SIZE, "AR24", stride=436, offset=4096 + 100, writable=False) as made:
        assert not made.memory(0).writable
        for seed in (1, 2):
            made.fill(seed)
            surface = reader.read(buffer_of(made), route=route)
            check_same(surface, made)
            assert "read-only" in surface.route.reason
        read_log(f"{name} ro", str(surface.route))


@pytest.mark.parametrize("name", list(DRIVERS))
@pytest.mark.parametrize("fourcc", ["NV12", "P010"])
@pytest.mark.parametrize("together", [True, False])
def test_read_only_planes(name: str, fourcc: str, together: bool, reader: Reader, read_log: ReadLog) -> None:
    with PRODUCERS[name](*SIZE, fourcc, stride=256, offset=64, together=together, writable=False) as made:
        made.fill()
        for route in ("alias", "map"):
            planes = reader.read_planes(buffer_of(made), route=route)
            assert [plane.tobytes() for plane in planes] == [made.expected(n) for n in range(2)]
            read_log(f"{name} ro", f"planes {route}")
        for route in ("draw", None):
            surface = reader.read(buffer_of(made), route=route)
            assert surface.tobytes() == read_copy(made, reader, route).tobytes()
            read_log(f"{name} ro", f"{surface.route} to {surface.fourcc}")


@pytest.mark.parametrize("name", list(DRIVERS))
def test_read_only_view(name: str, reader: Reader, read_log: ReadLog) -> None:
    with PRODUCERS[name](*SIZE, "XR24", stride=448, offset=4096 + 100, writable=False) as made:
        made.fill(seed=1)
        with reader.map(buffer_of(made)) as surface:
            made.fill(seed=2)
            assert surface.tobytes() == made.expected()
        read_log(f"{name} ro", "Reader.map")


# ---- A camera ----


@pytest.mark.parametrize(
    ("fourcc", "together", "writable"),
    [*((*camera, True) for camera in CAMERAS), ("NV12", False, False), ("XR24", True, False)],
)
def test_camera(fourcc: str, together: bool, writable: bool, reader: Reader, read_log: ReadLog) -> None:
    name = "vivid" if writable else "vivid ro"
    with vivid(320, 180, fourcc, together=together, writable=writable) as made:
        buf = buffer_of(made)
        for route in ("alias", "map"):
            planes = reader.read_planes(buf, route=route)
            assert [plane.tobytes() for plane in planes] == [made.expected(n) for n in range(len(made.planes))]
            read_log(name, f"planes {route}")
        picture = reader.read(buf, fourcc="AB24")
        assert len(numpy.unique(numpy.asarray(picture).reshape(-1, 4), axis=0)) > 2
        assert picture.tobytes() == read_copy(made, reader).tobytes()
        read_log(name, f"{picture.route} to AB24")
        if len(made.planes) == 1:
            with reader.map(buf) as surface:
                assert surface.tobytes() == made.expected()
            read_log(name, "Reader.map")
        reader.forget(buf)


@pytest.mark.parametrize("fourcc", ["XR24", "RG16"])
def test_camera_packed(fourcc: str, reader: Reader, read_log: ReadLog) -> None:
    with vivid(320, 180, fourcc) as made:
        for route in ("alias", "native", "map"):
            for seed in (0, 1):
                check_same(reader.read(buffer_of(made), route=route), made)
                made.fill(seed)
            check_same(reader.read(buffer_of(made), route=route), made)
            read_log("vivid", route)


# ---- Buffers that are others than before, or not what they are said to be ----


@pytest.mark.parametrize("route", ["alias", "native", "draw", "map"])
def test_another_buffer_behind_the_same_number(producer: Producer, route: str, reader: Reader) -> None:
    with producer(64, 48, "AR24") as one, producer(64, 48, "AR24") as other:
        one.fill(seed=1)
        other.fill(seed=2)
        number = os.dup(one.planes[0][0])
        try:
            buf = DmaBuf(64, 48, "AR24", [Plane(number, 0, one.planes[0][2])])
            out = Surface.allocate(64, 48, "AR24")
            for _ in range(3):  # the third is the shortest way there is
                assert reader.read(buf, out=out, route=route).tobytes() == one.expected()
            os.dup2(other.planes[0][0], number)
            assert reader.read(buf, out=out, route=route).tobytes() == other.expected()
            assert reader.read(buf, route=route).tobytes() == other.expected()
            os.dup2(one.planes[0][0], number)
            assert reader.read(buf, out=out, route=route).tobytes() == one.expected()
        finally:
            os.close(number)


def test_another_number_for_the_same_buffer(producer: Producer, reader: Reader) -> None:
    with producer(64, 48, "AR24") as made:
        made.fill()
        assert reader.read(buffer_of(made)).tobytes() == made.expected()
        before = imported(reader)
        number = os.dup(made.planes[0][0])
        try:
            surface = reader.read(DmaBuf(64, 48, "AR24", [Plane(number, 0, made.planes[0][2])]))
        finally:
            os.close(number)
        assert surface.tobytes() == made.expected()
        assert imported(reader) == before


def test_buffers_go_when_the_reader_lets_go(producer: Producer, reader: Reader) -> None:
    with producer(64, 48, "NV12", together=False) as made:
        inodes = {os.fstat(fd).st_ino for fd, _, _ in made.planes}
        assert inodes <= dmabufs().keys()
        made.fill()
        for route in ("draw", None):
            reader.read(buffer_of(made), route=route)
        reader.read_planes(buffer_of(made))
        reader.forget(buffer_of(made))
    assert not inodes & dmabufs().keys()


def test_a_closed_reader_holds_nothing(producer: Producer) -> None:
    before = open_fds()
    with Reader() as reader, producer(64, 48, "AR24") as made:
        inode = os.fstat(made.planes[0][0]).st_ino
        for route in ("alias", "native", "draw"):
            reader.read(buffer_of(made), route=route)
    assert inode not in dmabufs()
    assert open_fds() == before


def test_a_cache_has_an_end(reader: Reader) -> None:
    from glreadback.importer import CACHE_SIZE

    inodes: set[int] = set()
    for _ in range(CACHE_SIZE + 8):
        with PRODUCERS["vgem"](16, 16, "AR24") as made:
            inodes.add(os.fstat(made.planes[0][0]).st_ino)
            made.fill()
            assert reader.read(buffer_of(made)).tobytes() == made.expected()
    assert len(inodes & dmabufs().keys()) <= CACHE_SIZE


def _too_small(made: Made) -> Sequence[DmaBuf]:
    fd, _, stride = made.planes[0]
    rows = made.memory(0).size // stride
    return (
        DmaBuf(64, rows + 1, "AR24", [Plane(fd, 0, stride)]),
        DmaBuf(64, rows, "AR24", [Plane(fd, 4096, stride)]),
        DmaBuf(64, 48, "AR24", [Plane(fd, made.memory(0).size, stride)]),
    )


def test_a_buffer_smaller_than_said(producer: Producer, reader: Reader) -> None:
    with producer(64, 48, "AR24") as made:
        for buf in _too_small(made):
            for route in ("alias", "native", "draw", "map"):
                with pytest.raises(DescriptorError, match="too small"):
                    reader.read(buf, route=route)
            with pytest.raises(DescriptorError, match="too small"):
                reader.map(buf)
