"""The import cache: keyed by the buffers themselves and their layout, bounded, and let go of when asked to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Held, MakePicture, MemFd, importer_of, mapped, pixels

from glreadback import Color, DescriptorError, DmaBuf, FenceTimeout, Frame, Plane, Reader, Surface
from glreadback.gl import texture
from glreadback.importer import CACHE_SIZE
from glreadback.kernel.udmabuf import sealed_memfd

WIDTH, HEIGHT = 64, 32
SIZE = WIDTH * HEIGHT * 4


def solid(value: int, size: int = SIZE) -> int:
    """A new buffer full of one value; the caller closes it."""
    fd = sealed_memfd(size)
    with mapped(fd) as memory:
        memory[:] = bytes([value]) * len(memory)
    return fd


def buf_of(fd: int, **options: Any) -> DmaBuf:
    given = {"fourcc": "XR24", "width": WIDTH, "height": HEIGHT, "offset": 0, "stride": WIDTH * 4} | options
    return DmaBuf(given["width"], given["height"], given["fourcc"], [Plane(fd, given["offset"], given["stride"])])


def held_memfds() -> int:
    """Descriptors and mappings of shared memory together: what an import pins."""
    held = Held.now()
    return sum("/memfd:glreadback" in fd for fd in held.fds) + sum("/memfd:glreadback" in line for line in held.mappings)


# ---- never the number


@pytest.mark.parametrize("same", [True, False], ids=["same-object", "new-object"])
@pytest.mark.parametrize("given", [True, False], ids=["out", "new-surface"])
def test_a_recycled_number_is_another_buffer(reader: Reader, same: bool, given: bool) -> None:
    """The same fd number, the same description, even the very same DmaBuf object: what counts is what is behind it."""
    target = os.dup(0)
    kept = buf_of(target)
    out = Surface.allocate(WIDTH, HEIGHT, "XR24")
    for value in range(1, 3 * CACHE_SIZE):
        fd = solid(value)
        os.dup2(fd, target)
        os.close(fd)
        buf = kept if same else buf_of(target)
        for _ in range(2):
            found = reader.read(buf, out) if given else reader.read(buf)
            assert set(found.tobytes()) == {value}
    assert importer_of(reader).imported == 3 * CACHE_SIZE - 1
    os.close(target)


def test_an_old_buffer_comes_back(reader: Reader) -> None:
    """A compositor's clients send new descriptors of old buffers: another number, the same import."""
    one, two = solid(1), solid(2)
    for _ in range(20):
        for fd, value in ((one, 1), (two, 2)):
            again = os.dup(fd)
            assert set(reader.read(buf_of(again)).tobytes()) == {value}
            os.close(again)
    assert importer_of(reader).imported == 2
    os.close(one)
    os.close(two)


def test_the_inode_cannot_be_recycled_under_an_import(reader: Reader) -> None:
    """The cache holds the buffer by a descriptor of its own, so its inode number is nobody else's meanwhile."""
    fd = solid(1)
    inode = os.fstat(fd).st_ino
    reader.read(buf_of(fd))
    os.close(fd)
    (entry,) = importer_of(reader)._cache.values()
    assert [os.fstat(own.fileno()).st_ino for own in entry.fds] == [inode]


# ---- by layout


@pytest.mark.parametrize(
    "other",
    [
        {"width": WIDTH - 1},
        {"height": HEIGHT - 1},
        {"offset": 4, "height": HEIGHT - 1},
        {"stride": WIDTH * 4 + 4, "height": HEIGHT - 1},
        {"fourcc": "RG16", "width": WIDTH * 2},
    ],
)
def test_another_layout_is_another_import(reader: Reader, memfd: MemFd, other: dict[str, Any]) -> None:
    content = np.arange(SIZE, dtype=np.uint32).astype(np.uint8)
    fd = memfd(content)
    for options in ({}, other, {}, other):
        buf = buf_of(fd, **options)
        found = pixels(reader.read(buf))
        at, row = buf.planes[0].offset, buf.planes[0].stride
        for y in range(buf.height):
            assert np.array_equal(found[y], content[at + y * row : at + y * row + found.shape[1]])
    assert importer_of(reader).imported == 2


def test_colour_hints_are_part_of_the_key(reader: Reader, picture: MakePicture) -> None:
    """Where the driver decodes YUV, it was told how when the buffer was imported."""
    from glreadback.gl.draw import _HINTS

    made = picture("YUYV", 64, 32)
    importer = importer_of(reader)
    before = importer.imported
    keys = []
    with importer.context:
        from glreadback.dmabuf import check

        for matrix in ("601", "709", "601"):
            hints = [_HINTS[0][0], _HINTS[0][2][matrix]]
            backings = check(made.buf)
            found = importer.get(
                *(made.buf, backings),
                code=made.buf.fourcc.code,
                width=64,
                height=32,
                planes=made.buf.planes,
                sampler="external",
                hints=hints,
            )
            keys.append(id(found))
    assert importer.imported == before + 2
    assert keys[0] == keys[2] != keys[1]


def test_the_same_for_other_colours(reader: Reader, picture: MakePicture) -> None:
    """Whichever way the matrix gets there, each read has its own."""
    made = picture("YUYV", 64, 32)
    found = {}
    for _ in range(2):
        for matrix in ("601", "709"):
            pixel = reader.read(Frame(made.buf, color=Color(matrix=matrix)), route="draw").tobytes()  # type: ignore[arg-type]
            assert found.setdefault(matrix, pixel) == pixel
    assert found["601"] != found["709"]


# ---- bound again


def test_reused_imports_are_bound_again_where_a_gpu_reads(
    reader: Reader, memfd: MemFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """glEGLImageTargetTexture2DOES anew for each frame, as hardware drivers want; not for external textures, nor on the CPU."""
    bound: list[int] = []
    real = texture.image_target_texture_2d

    def noted(target: int, image: Any) -> None:
        bound.append(target)
        real(target, image)

    monkeypatch.setattr(texture, "image_target_texture_2d", noted)
    buf, out = buf_of(memfd(SIZE)), Surface.allocate(WIDTH, HEIGHT, "XR24")
    for _ in range(4):
        reader.read(buf, out)
    assert bound == [0x0DE1]
    bound.clear()
    importer = importer_of(reader)
    importer.capabilities = dataclasses.replace(importer.capabilities, software=False)
    reader._again.clear()
    for _ in range(4):
        reader.read(buf, out)
    assert bound == [0x0DE1] * 4
    bound.clear()
    camera = DmaBuf(WIDTH, HEIGHT, "YUYV", [Plane(memfd(SIZE), 0, WIDTH * 2)])
    for _ in range(4):
        reader.read(camera, route="draw")
    assert bound.count(0x8D65) <= 1


# ---- bounded, and let go


def test_it_is_bounded(reader: Reader) -> None:
    """Buffers never seen before, for ever: no more of them are pinned than the cache holds."""
    before = held_memfds()
    for number in range(5 * CACHE_SIZE):
        fd = solid(number % 250)
        reader.read(buf_of(fd))
        os.close(fd)
        # Each import is one descriptor of ours, one of the driver's and one mapping; Mesa may keep the last two read.
        assert held_memfds() - before <= 3 * (CACHE_SIZE + 2)
    assert importer_of(reader).imported == 5 * CACHE_SIZE
    assert len(importer_of(reader)._cache) == CACHE_SIZE


def test_forget_lets_the_memory_go(reader: Reader) -> None:
    before = held_memfds()
    out = Surface.allocate(WIDTH, HEIGHT, "XR24")
    fds = [solid(n) for n in range(3)]
    for _ in range(2):
        for fd in fds:
            reader.read(buf_of(fd), out)
            reader.read(buf_of(fd, width=16), Surface.allocate(16, HEIGHT, "XR24"))
            reader.read(buf_of(fd), fourcc="AB24", route="draw")
    kept = buf_of(fds[0])
    reader.read(kept, out)
    for fd in fds:
        again = os.dup(fd)  # by any descriptor and any description of it
        reader.forget(buf_of(again, height=1))
        os.close(again)
    for fd in fds:
        os.close(fd)
    assert held_memfds() == before
    assert not importer_of(reader)._cache


def test_forget_leaves_the_others(reader: Reader) -> None:
    one, two = solid(1), solid(2)
    for fd in (one, two):
        reader.read(buf_of(fd))
    reader.forget(buf_of(one))
    imported = importer_of(reader).imported
    reader.read(buf_of(two))
    assert importer_of(reader).imported == imported
    assert set(reader.read(buf_of(one)).tobytes()) == {1}
    assert importer_of(reader).imported == imported + 1
    for fd in (one, two):
        os.close(fd)


def test_forget_knows_planes_in_several_buffers(reader: Reader) -> None:
    before = held_memfds()
    luma, chroma = solid(120), solid(130)
    nv12 = DmaBuf(WIDTH, HEIGHT, "NV12", [Plane(luma, 0, WIDTH), Plane(chroma, 0, WIDTH)])
    for _ in range(2):
        reader.read(nv12, route="draw")
        reader.read_planes(nv12)
    assert importer_of(reader)._cache
    reader.forget(nv12)
    assert not importer_of(reader)._cache
    os.close(luma)
    os.close(chroma)
    assert held_memfds() == before


def test_forgetting_what_was_never_read(reader: Reader, memfd: MemFd) -> None:
    reader.forget(buf_of(memfd(SIZE)))
    with Reader("software") as unused:
        unused.forget(buf_of(memfd(SIZE)))


# ---- a swap chain


@pytest.mark.parametrize("frames", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["read", "submit", "map"])
def test_a_swap_chain_costs_the_same_after_many_frames(
    reader: Reader, memfd: MemFd, frames: int, way: str, leaks: Callable[[], None]
) -> None:
    """Three buffers in turn, new Frames and new descriptors each time: after all of them as after the first hundred."""
    chain = [memfd(np.full(256 * 256 * 4, n + 1, np.uint8)) for n in range(3)]
    out = Surface.allocate(256, 256, "XR24")
    released = 0

    def release() -> None:
        nonlocal released
        released += 1

    def frame(number: int) -> None:
        fd = os.dup(chain[number % 3])
        picture = Frame(DmaBuf(256, 256, "XR24", [Plane(fd, 0, 1024)]), release=release)
        if way == "map":
            with reader.map(picture) as surface:
                assert surface.data[0] == number % 3 + 1
        elif way == "submit":
            assert reader.submit(picture, out).result().data[0] == number % 3 + 1
        else:
            assert reader.read(picture, out).data[-1] == number % 3 + 1
        os.close(fd)

    def state() -> tuple[Any, ...]:
        return Held.now(), importer_of(reader).imported, len(importer_of(reader)._cache), len(reader._again)

    for number in range(100):
        frame(number)
    early, memory = state(), resident()
    for number in range(100, frames):
        frame(number)
    assert released == frames
    assert state() == early
    assert importer_of(reader).imported == (0 if way == "map" else 3)
    assert resident() - memory < 1 << 20


def resident() -> int:
    """Bytes of memory the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_surface_is_told_of_each_frame(reader: Reader, memfd: MemFd) -> None:
    """Pictures of one shape are read the same way, and still each has its own colour, fence and release."""
    fd, out = memfd(SIZE), Surface.allocate(WIDTH, HEIGHT, "XR24")
    released: list[int] = []
    for number, color in enumerate([Color(transfer="pq"), None, Color(transfer="hlg"), None, Color(transfer="pq")]):
        assert reader.read(Frame(buf_of(fd), color=color, release=lambda: released.append(1)), out).color == color
        assert len(released) == number + 1
        assert out.device == "software"
    reader.read(buf_of(fd), out)
    assert out.color is None


def test_what_fails_on_the_short_way_releases_once(reader: Reader, memfd: MemFd) -> None:
    fd, out = memfd(SIZE), Surface.allocate(WIDTH, HEIGHT, "XR24")
    released: list[int] = []
    for _ in range(2):
        reader.read(Frame(buf_of(fd)), out)
    ready, signal = os.pipe()
    frame = Frame(buf_of(fd), acquire_fence=ready, release=lambda: released.append(1))
    with pytest.raises(FenceTimeout):
        reader.read(frame, out, timeout=0.02)
    assert released == [1]
    os.write(signal, b"!")
    reader.read(frame, out)
    assert released == [1, 1]
    os.close(ready)
    os.close(signal)
    for bad in (ready, memfd(100)):
        with pytest.raises(DescriptorError):
            reader.read(Frame(buf_of(bad), release=lambda: released.append(1)), out)
    assert len(released) == 4


@pytest.mark.parametrize(
    "other", [{"offset": 4}, {"stride": WIDTH * 4 + 4}, {"height": HEIGHT - 1}, {"y_invert": True}, {"fourcc": "AB24"}]
)
def test_another_shape_is_read_its_own_way(reader: Reader, memfd: MemFd, other: dict[str, Any]) -> None:
    """In turns with the usual one, into the same surface where that fits."""
    content = np.random.default_rng(3).integers(0, 256, 2 * SIZE, np.uint8)
    fd = memfd(content)
    y_invert = other.pop("y_invert", False)
    for _ in range(3):
        for options, turned in (({}, False), (other, y_invert)):
            buf = buf_of(fd, **options)
            out = Surface.allocate(WIDTH, buf.height, "XR24")
            found = pixels(reader.read(Frame(buf, y_invert=turned), out))
            at, row = buf.planes[0].offset, buf.planes[0].stride
            lines = np.stack([content[at + y * row : at + y * row + WIDTH * 4] for y in range(buf.height)])
            if buf.fourcc == "AB24":
                lines = lines.reshape(buf.height, WIDTH, 4)[..., [2, 1, 0, 3]].reshape(buf.height, -1)
            assert np.array_equal(found, lines[:: -1 if turned else 1])


def test_what_is_remembered_of_pictures_is_bounded(reader: Reader, memfd: MemFd) -> None:
    fd, out = memfd(SIZE), Surface.allocate(WIDTH, HEIGHT, "XR24")
    for _ in range(100):
        buf = buf_of(fd)
        for _ in range(2):
            reader.read(buf, out)
    assert len(reader._again) <= 16
