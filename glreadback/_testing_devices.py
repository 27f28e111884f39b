"""What the fixtures `reader` and `dmabuf_factory` of glreadback.testing are made of: the software device, and memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import pytest

from ._testing_files import Picture, load
from .cli.doctor import _INSTALL_MESA, Finding
from .cli.doctor import _memory as memory_findings
from .dmabuf import DmaBuf, Plane
from .errors import DescriptorError, DeviceError, GlReadbackError, SourceSyntaxError
from .fourcc import FormatInfo, Fourcc
from .modifier import Modifier
from .reader import Reader
from .sources import parse_spec, patterns
from .sources._layout import check_linear, lay_out
from .sources._memory import FILLER, Memory
from .sources.pattern import PatternSource, pattern_planes
from .surface import Surface, array_shape, element
from .words import choices, shown

Array = np.ndarray[Any, np.dtype[Any]]

# ---- the software device


def software_reader() -> Reader:
    """A Reader with its context made. Fails the test where there is no usable software device, and says what to install."""
    __tracebackhide__ = True
    made = Reader("software")
    missing = ""
    try:
        made.capabilities()
    except DeviceError as error:
        missing = str(error)
    if missing:
        made.close()
        pytest.fail(f"{missing}\n{_INSTALL_MESA}\n`glreadback doctor` says more.", pytrace=False)
    if found := gl_errors(made):
        made.close()
        pytest.fail(f"the new context has a GL error already: {found}", pytrace=False)
    return made


def gl_errors(reader: Reader) -> str:
    """The names of the GL errors that are set in a reader's contexts, which clears them; "" if there are none."""
    from .gl.pixels import _get_error
    from .gl.texture import ERRORS

    found = []
    for importer in reader._open_importers():
        with importer.context:
            while code := _get_error():
                found.append(ERRORS.get(code, hex(code)))
    return ", ".join(found)


# ---- memory


_REAL = "udmabuf"  # Memory's word


def no_real_dmabufs() -> str:
    """Why no udmabuf can be made here and what to do; "" if one can be."""
    with Memory(1) as memory:
        if memory.kind == _REAL:
            return ""
    finding: Finding = next(iter(memory_findings()))
    return "\n".join(["no dma-buf can be made here", finding.text, finding.advice]).strip()


class Factory:
    """`glreadback.testing.DmaBufFactory`, and what is given back at the end of the test."""

    def __init__(self, real: bool) -> None:
        self._real = real
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __call__(
        self,
        width: int,
        height: int,
        fourcc: Fourcc | str | int = "XR24",
        content: Any = "smpte",
        *,
        stride: int | list[int] | tuple[int, ...] | None = None,
        offset: int | list[int] | tuple[int, ...] = 0,
        modifier: Modifier | int | str = Modifier.LINEAR,
        separate: bool = False,
    ) -> DmaBuf:
        __tracebackhide__ = True
        try:
            return self._make(width, height, Fourcc(fourcc), content, stride, offset, Modifier(modifier), separate)
        except GlReadbackError as error:
            raise error.with_traceback(None) from None

    def _make(
        self,
        width: int,
        height: int,
        fourcc: Fourcc,
        content: Any,
        stride: int | list[int] | tuple[int, ...] | None,
        offset: int | list[int] | tuple[int, ...],
        modifier: Modifier,
        separate: bool,
    ) -> DmaBuf:
        info = fourcc.info
        check_linear(info)
        if modifier.tiled:
            raise DescriptorError(f"modifier is {modifier}; dmabuf_factory makes rows of pixels: LINEAR (0), or INVALID")
        # Refuses a size that cannot be before anything is laid out.
        DmaBuf(width, height, fourcc, [Plane(0, 0, 2**31 - 1)] * len(info.planes))
        places = _places("stride", stride, info) | _places("offset", offset, info, every=separate)
        layout = lay_out(info, width, height, places)
        wanted = DmaBuf(width, height, fourcc, [Plane(0, *place) for place in layout], modifier)
        rows = _rows(wanted, content)
        # The last row has its whole stride too, as drivers want it.
        ends = [
            plane.offset + wanted.step(index) * shape.rows(height)
            for index, (plane, shape) in enumerate(zip(wanted.planes, info.planes, strict=True))
        ]
        memories = [self._memory(end) for end in ends] if separate else [self._memory(max(ends))] * len(ends)
        for memory in dict.fromkeys(memories):
            with memory.writing() as view:
                flat = np.frombuffer(view, np.uint8)
                flat[:] = FILLER
                for index, plane in enumerate(rows):
                    if memories[index] is memory:
                        steps = wanted.step(index), 1
                        np.lib.stride_tricks.as_strided(flat[wanted.planes[index].offset :], plane.shape, steps)[...] = plane
                del flat  # the view cannot be closed before
        planes = [Plane(memory.fileno(), *place) for memory, place in zip(memories, layout, strict=True)]
        return DmaBuf(width, height, fourcc, planes, modifier)

    def _memory(self, size: int) -> Memory:
        __tracebackhide__ = True
        made = self._stack.enter_context(Memory(size))
        if self._real and made.kind != _REAL:
            _not_real(size)
        return made


def _not_real(size: int) -> NoReturn:
    __tracebackhide__ = True
    limit = Path("/sys/module/udmabuf/parameters/size_limit_mb")
    most = f" (its size_limit_mb is {limit.read_text().strip()})" if limit.exists() else ""
    pytest.fail(
        f"the test is marked real_dmabuf, but /dev/udmabuf makes no dma-buf of {size} bytes{most}. Choose a smaller size, or "
        "raise the limit: udmabuf.size_limit_mb=… on the kernel's command line",
        pytrace=False,
    )


def _places(
    name: str, given: int | list[int] | tuple[int, ...] | None, info: FormatInfo, every: bool = False
) -> dict[str, int]:
    """What was given for the planes, as a SOURCE has it: offset, offset1 … every: one number is meant for each plane."""
    count = len(info.planes)
    if given is None:
        return {}
    if isinstance(given, list | tuple):
        values = list(given)
        if len(values) != count:
            raise DescriptorError(
                f"{len(values)} values of {name} are given; {info.fourcc} has {count} plane{'s' * (count != 1)}"
            )
    else:
        values = [given] * (count if every else 1)
    # Plane checks the numbers.
    return {f"{name}{index or ''}": getattr(Plane(0, **{name: value}), name) for index, value in enumerate(values)}


# ---- content


def _rows(buf: DmaBuf, content: Any) -> list[Array]:
    """The bytes of each plane without padding, (rows, bytes of a row)."""
    if isinstance(content, str):
        return _pattern(buf, content)
    if isinstance(content, Path) or (hasattr(content, "convert") and hasattr(content, "getbands")):
        return _encoded(buf, content)
    if isinstance(content, Surface):
        if (content.width, content.height, content.fourcc) != (buf.width, buf.height, buf.fourcc):
            raise DescriptorError(
                f"the content is a surface of {content.width}x{content.height} {content.fourcc}, the buffer {buf}"
            )
        content = content.array()
    if isinstance(content, bytes | bytearray | memoryview):
        return _cut(buf, content)
    arrays = [content] if isinstance(content, np.ndarray) else content
    if not isinstance(arrays, list | tuple) or not all(isinstance(array, np.ndarray) for array in arrays):
        raise DescriptorError(
            f"the content is of type {type(content).__name__}; give a pattern's name, an array, a list of arrays, bytes, a "
            "Surface, a pathlib.Path or a Pillow image"
        )
    if len(arrays) != len(buf.layouts):
        raise DescriptorError(
            f"the content is {len(arrays)} array{'s' * (len(arrays) != 1)}; {buf} has {len(buf.layouts)} planes"
        )
    return [_checked(buf, index, array) for index, array in enumerate(arrays)]


def _shape(buf: DmaBuf, index: int) -> tuple[int, int]:
    layout = buf.layouts[index]
    return layout.rows(buf.height), layout.row_bytes(buf.width)


def _checked(buf: DmaBuf, index: int, array: Array) -> Array:
    layout, floating = buf.layouts[index], buf.fourcc.info.floating
    shape, kind = array_shape(layout, buf.width, buf.height, floating), np.dtype(element(layout, floating).type)
    if array.shape != shape or array.dtype != kind:
        raise DescriptorError(
            f"plane {index} of the content is {array.shape} of {array.dtype}; {buf} has {shape} of {kind}, in memory order"
        )
    return np.ascontiguousarray(array).view(np.uint8).reshape(_shape(buf, index))


def _cut(buf: DmaBuf, content: bytes | bytearray | memoryview) -> list[Array]:
    """Rows without padding, plane after plane."""
    flat = np.frombuffer(content, np.uint8)
    shapes = [_shape(buf, index) for index in range(len(buf.layouts))]
    sizes = [rows * row for rows, row in shapes]
    if flat.size != sum(sizes):
        raise DescriptorError(
            f"the content is {flat.size} bytes; {buf} has {sum(sizes)}: rows without padding, plane after plane"
        )
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _pattern(buf: DmaBuf, text: str) -> list[Array]:
    spec = parse_spec(f"pattern:{text}")
    if spec.path not in patterns.NAMES:
        raise SourceSyntaxError(
            f"there is no pattern {shown(spec.path)}{choices(spec.path, patterns.NAMES)}; a picture is given as a pathlib.Path"
        )
    options = spec.values({name: PatternSource.keys[name] for name in ("seed", "color")})
    planes = pattern_planes(spec.path, buf.width, buf.height, buf.fourcc, **options)
    return [np.concatenate([np.tile(np.frombuffer(row, np.uint8), (count, 1)) for count, row in rows]) for rows in planes]


def _encoded(buf: DmaBuf, content: Any) -> list[Array]:
    """A picture in the buffer's format, as `pattern:` encodes its own."""
    from .sources._encode import encode

    picture = Picture(load(content), "")
    height, width = picture.pixels.shape[:2]
    if (width, height) != (buf.width, buf.height):
        raise DescriptorError(f"the content is a picture of {width}x{height} pixels, the buffer {buf}")
    return encode(buf.fourcc.info, np.moveaxis(picture.rgba / picture.most, 2, 0))
