"""Descriptions of buffers, hostile and nearly right, read by a real driver in a helper process.

Every buffer is filled with one byte of its own, every surface with another before it is read into. Whatever a description
says, what comes out is that buffer's byte, or it is refused: a pixel that is anything else came from somewhere else.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from dataclasses import dataclass
from dataclasses import field as made
from typing import Any

import numpy as np
from hypothesis import strategies as st

from glreadback import DescriptorError, DmaBuf, Fourcc, Frame, ImportRejected, Modifier, Plane, Reader, Surface

POISON = 0xEE
# Bytes of each buffer, odd ones so that its last page has a tail that is not the buffer's; and its byte.
BUFFERS = ((100, 0x5A), (4096, 0x3C), (12_289, 0xC3), (70_001, 0x96), (1 << 20, 0x69))
LINEAR = tuple(str(code) for code in Fourcc.all() if code.info.linear)
_NEAR = (-4096, -64, -4, -2, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 64, 4096)
_FAR = (0, 1, 2, 63, 64, 255, 4095, 4096, 16384, 16385, 65535, 65536, 2**30, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -1, -64)


@dataclass
class Case:
    """One description, and how it is to be read."""

    width: int
    height: int
    fourcc: str | int
    planes: list[tuple[int, int, int]]  # which descriptor of Bench.fds, offset, stride
    modifier: int
    options: dict[str, Any] = made(default_factory=dict)
    frame: dict[str, Any] = made(default_factory=dict)


class Bench:
    """The buffers, and descriptors that are none."""

    def __init__(self) -> None:
        self.fds, self.bytes = [], []
        for size, value in BUFFERS:
            fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
            os.pwrite(fd, bytes([value]) * size, 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self.fds.append(fd)
            self.bytes.append(value)
        unsealed = os.memfd_create("fuzz")
        os.pwrite(unsealed, bytes([0xA5]) * 20_000, 0)
        readable = os.open(f"/proc/self/fd/{self.fds[2]}", os.O_RDONLY)
        pipe = os.pipe()
        self.fds += [unsealed, readable, *pipe, os.eventfd(0), 1_000_000]
        self.bytes += [0xA5, self.bytes[2]]
        self.seen: Counter[str] = Counter()

    def close(self) -> None:
        for fd in self.fds[:-1]:
            os.close(fd)


@st.composite
def cases(draw: st.DrawFn, driver: bool = True) -> Case:
    """driver: also what only a shader can do, which costs a compilation each."""
    fourcc = draw(st.sampled_from(LINEAR if draw(st.integers(0, 4)) else ("XR24", "AR24", "AB24", "NV12", "R8", "RG16")))
    info = Fourcc(fourcc).info
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    buffer = draw(st.integers(0, len(BUFFERS) + 1))
    planes, offset = [], draw(st.sampled_from((0, 0, 1, 4, 64, 4096)))
    for layout in info.planes:
        stride = -(-layout.row_bytes(width) // layout.block_height) + draw(st.sampled_from((0, 0, 0, 1, 4, 60)))
        planes.append((buffer, offset, stride))
        offset += stride * layout.block_height * (layout.rows(height) - 1) + layout.row_bytes(width)
    if draw(st.booleans()):
        # As large as the buffer just takes, or a row or pixel more.
        size = (*(size for size, _ in BUFFERS), 20_000, BUFFERS[2][0])[buffer]
        stride = planes[0][2]
        height = max(1, size // max(stride, 1) + draw(st.sampled_from((-1, 0, 0, 1))))
    case = Case(width, height, fourcc, planes, 0)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 4)))):
        _disturb(draw, case)
    _ask(draw, case, driver)
    return case


def _number(draw: st.DrawFn, value: int) -> int:
    way = draw(st.integers(0, 5))
    return value + draw(st.sampled_from(_NEAR)) if way < 4 else draw(st.sampled_from(_FAR)) if way == 4 else draw(st.integers())


def _disturb(draw: st.DrawFn, case: Case) -> None:
    what = draw(st.sampled_from(("width", "height", "offset", "stride", "fd", "planes", "modifier", "fourcc")))
    if what == "width":
        case.width = _number(draw, case.width)
    elif what == "height":
        case.height = _number(draw, case.height)
    elif what == "modifier":
        case.modifier = draw(st.sampled_from((int(Modifier.INVALID), 0x0100000000000001, 1, 0, 2**64 - 1, 2**64, -1)))
    elif what == "fourcc":
        case.fourcc = draw(st.sampled_from((*LINEAR, "ZZ99", "Y0L2", "Q410")) | st.integers(0, 2**32))
    elif what == "planes":
        case.planes = (case.planes * 3)[: draw(st.integers(0, 5))]
    elif case.planes:
        index = draw(st.integers(0, len(case.planes) - 1))
        fd, offset, stride = case.planes[index]
        if what == "fd":
            fd = draw(st.integers(0, len(BUFFERS) + 5))
        elif what == "offset":
            offset = _number(draw, offset)
        else:
            stride = _number(draw, stride)
        case.planes[index] = fd, offset, stride


def _ask(draw: st.DrawFn, case: Case, driver: bool) -> None:
    routes = (None, None, None, "alias", "map", "planes", *(("native", "draw") if driver else ()))
    case.options["route"] = draw(st.sampled_from(routes))
    if draw(st.integers(0, 3)) == 0:
        case.options["rect"] = _rect(draw, case)
    if draw(st.integers(0, 3)) == 0:
        case.frame["y_invert"] = True
    if draw(st.integers(0, 5)) == 0:
        case.frame["visible"] = _rect(draw, case)
    if driver and draw(st.integers(0, 5)) == 0:
        case.frame["transform"] = draw(st.sampled_from(("90", "180", "flipped", "nothing")))
    if driver and draw(st.integers(0, 5)) == 0:
        case.options["scale"] = draw(st.integers(0, 90)), draw(st.integers(1, 90))
    if driver and draw(st.integers(0, 3)) == 0:
        case.options["fourcc"] = draw(st.sampled_from(("AB24", "AR24", "AB48")))


def _rect(draw: st.DrawFn, case: Case) -> tuple[int, ...]:
    """Within the picture, or beside it by a little."""
    width, height = max(1, min(case.width, 200)), max(1, min(case.height, 200))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    found = [x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))]
    found[draw(st.integers(0, 3))] += draw(st.sampled_from((0, 0, 0, 0, 1, -1)))
    return tuple(found)


def check(case: Case, bench: Bench, reader: Reader) -> str:
    """Read a case, and say what came out: "read" or the error's kind. AssertionError where a promise is broken; any other
    exception is a broken promise too: ReaderCrashed first of all."""
    outcome = "read"
    try:
        planes = [Plane(bench.fds[index], offset, stride) for index, offset, stride in case.planes]
        frame = Frame(DmaBuf(case.width, case.height, case.fourcc, planes, case.modifier), **case.frame)
        _read(case, frame, bench, reader)
    except (DescriptorError, ImportRejected) as error:
        outcome = type(error).__name__
        said = str(error)
        assert len(said.splitlines()) == 1, said
        assert said.isprintable(), said
        assert len(said) < 1500, said
    bench.seen[outcome] += 1
    return outcome


def _read(case: Case, frame: Frame, bench: Bench, reader: Reader) -> None:
    used = {index for index, _, _ in case.planes}
    if case.options["route"] == "planes":
        for (index, _, _), plane in zip(case.planes, reader.read_planes(frame), strict=True):
            found = np.unique(np.frombuffer(plane.tobytes(), np.uint8)).tolist()
            assert found == [bench.bytes[index]], f"{found} in plane of {bench.bytes[index]:#x}"
        return
    surface = reader.read(frame, **case.options)
    for _ in range(2):
        _all_the_buffers(case, frame, surface, {bench.bytes[index] for index in used})
        np.frombuffer(surface.data, np.uint8)[:] = POISON
        rest = {name: value for name, value in case.options.items() if name != "fourcc"}
        assert reader.read(frame, surface, **rest) is surface


def _alike(fourcc: Fourcc) -> bool:
    """Whether all pixels of a format are alike when all of their bytes are: not where samples start within a byte."""
    places: dict[str, set[int]] = {}
    for layout in fourcc.info.planes:
        for field in layout.fields:
            places.setdefault(field.component, set()).add(field.shift % 8)
    return all(len(starts) == 1 for starts in places.values())


def _all_the_buffers(case: Case, frame: Frame, surface: Surface, values: set[int]) -> None:
    """Every pixel is made of the buffer's bytes and nothing else."""
    content = np.frombuffer(surface.tobytes(), np.uint8)
    layout = surface.fourcc.info.planes[0]
    assert surface.route is not None
    plain = surface.fourcc == frame.buffer.fourcc and surface.route.name in ("alias", "map")
    if plain:
        found = set(np.unique(content).tolist())
        assert found == values, f"{found} came out of a buffer of {values} ({surface.route})"
        return
    # Converted, or with alpha forced: all of the buffer's bytes are alike, so all of the picture's pixels are. Drivers'
    # rounding of a mean of equal values may differ by one.
    if (layout.block_width, layout.block_height) != (1, 1) or len(values) > 1 or not _alike(frame.buffer.fourcc):
        return
    pixels = content.reshape(-1, layout.block_bytes)
    assert np.all(np.abs(pixels.astype(int) - pixels[0]) <= 1), f"pixels differ in a buffer of {values} ({surface.route})"
    assert not np.all(pixels == POISON), f"nothing was written ({surface.route})"
