"""A surface: packed pixels in CPU memory, top row first. What QEMU calls a DisplaySurface.

The memory comes first; a numpy array is made of it only when somebody asks (importing numpy costs a command 80 ms).
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from .errors import DescriptorError
from .fourcc import FormatInfo, Fourcc, PlaneFormat

if TYPE_CHECKING:
    import numpy
    from PIL import Image

    from .color import Color
    from .plan import Route

_EXPORTS_ITSELF = sys.version_info >= (3, 12)  # PEP 688: __buffer__

# pixman.h: PIXMAN_FORMAT(bits per pixel, type, a, r, g, b), the type by the order of the components.
_PIXMAN_TYPES = {
    ("B", "G", "R"): 2,  # PIXMAN_TYPE_ARGB: blue in the lowest bits, the rest above
    ("R", "G", "B"): 3,  # PIXMAN_TYPE_ABGR
    ("A", "R", "G", "B"): 8,  # PIXMAN_TYPE_BGRA: alpha in the lowest bits
    ("A", "B", "G", "R"): 9,  # PIXMAN_TYPE_RGBA
}
_PIXMAN_BYTES_ONLY = (8, 9)  # of these types pixman has only formats of 8 bits a component


class Element(NamedTuple):
    """What one column of a plane is in an array: numpy's type string, and the shape it adds to rows and columns.

    A column is a block, for almost every format one pixel; a byte where blocks have an odd size (NV15: five bytes).
    """

    type: str
    shape: tuple[int, ...] = ()

    @property
    def item_bytes(self) -> int:
        return int(self.type[2:])

    @property
    def bytes(self) -> int:
        """Bytes from one column to the next."""
        return self.item_bytes * math.prod(self.shape)


@functools.cache
def element(layout: PlaneFormat, floating: bool = False) -> Element:
    """The natural array element of a plane: its components where each has bytes of its own (padding bits included),
    else the whole block as one integer, else bytes."""
    colours = [field for field in layout.fields if field.component != "X"]
    for bits in (8, 16, 32):
        words = [field.shift // bits for field in colours]
        whole = all(field.shift % bits + field.bits <= bits for field in colours)
        if whole and len(set(words)) == len(words) and layout.block_bytes * 8 % bits == 0:
            count = layout.block_bytes * 8 // bits
            if len(words) * 2 > count or count == 1:
                return Element(_type(bits // 8, floating), (count,) if count > 1 else ())
    if layout.block_bytes in (1, 2, 4, 8):
        return Element(_type(layout.block_bytes))
    return Element(_type(1))


def _type(size: int, floating: bool = False) -> str:
    return f"{'|' if size == 1 else '<'}{'f' if floating else 'u'}{size}"


def array_shape(layout: PlaneFormat, width: int, height: int, floating: bool = False) -> tuple[int, ...]:
    """The shape of the array of a plane of a picture of width x height pixels: rows, columns, and what a block adds."""
    found = element(layout, floating)
    return layout.rows(height), layout.row_bytes(width) // found.bytes, *found.shape


_CTYPES = {"|u1": ctypes.c_ubyte, "<u2": ctypes.c_uint16, "<u4": ctypes.c_uint32, "<u8": ctypes.c_uint64}


@functools.lru_cache(maxsize=64)
def _exporting(base: Any, kind: str, shape: tuple[int, ...]) -> type[Any] | None:
    """Before Python 3.12 only C types can take part in the buffer protocol: base with a ctypes array of that shape."""
    if kind not in _CTYPES:
        return None
    array: Any = _CTYPES[kind]
    for extent in reversed(shape):
        array = array * extent
    made: type[Any] = type(array)(
        base.__name__, (base, array), {"__module__": base.__module__, "__qualname__": base.__qualname__}
    )
    return made


def allocate_memory(size: int) -> mmap.mmap:
    """size bytes of anonymous memory, in huge pages where the kernel has them: fewest faults for a large copy."""
    try:
        memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise DescriptorError(f"no memory for a picture of {size} bytes can be had; read a part of it with rect=") from None
    if size >= 1 << 21:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without transparent huge pages
    return memory


class Surface:
    """Packed pixels in CPU memory, top row first. Made by a read, by `Surface.allocate` or by `Surface.wrap`.

    width   in pixels
    height  in pixels
    stride  bytes from row to row
    fourcc  what a pixel is, in memory order
    route   how a read filled it; None if no read did
    device  which device read it, "software" or a render node; None if none did, as by the map route
    color   what the numbers mean, as the frame said; None = as usual for the format

    `numpy.asarray(surface)` is a view: (height, width, n) of
    uint8, uint16 or float16 where every component has bytes of its own, (height, width) of uint16 or uint32 where they
    share them (RG16, AR30), (rows, blocks) of uint8 or more where pixels share bytes (R1: 8 pixels a byte).
    The buffer protocol gives the same view (before Python 3.12 only without padding between rows).
    """

    width: int
    height: int
    stride: int
    fourcc: Fourcc
    route: Route | None
    device: str | None = None  # which device read it; None if none did, as by the map route
    color: Color | None = None  # what the numbers mean, as the frame said; None = as usual

    def __new__(
        cls,
        memory: Any,
        width: int,
        height: int,
        fourcc: Fourcc | str | int,
        stride: int | None = None,
        offset: int = 0,
        route: Route | None = None,
        held: ExitStack | None = None,
    ) -> Self:
        code = Fourcc(fourcc)
        row = packed_row(code, width, height)
        stride = row if stride is None else stride
        if stride < row:
            raise DescriptorError(f"the surface's stride is {stride} bytes, a row of {width} {code} pixels needs {row}")
        view = memoryview(memory)
        if not view.c_contiguous:
            raise DescriptorError("the surface's memory must be one contiguous block; give its base and a stride")
        view = view.cast("B") if view.format != "B" or view.ndim != 1 else view
        size = stride * (code.info.planes[0].rows(height) - 1) + row
        if offset < 0 or offset + size > view.nbytes:
            raise DescriptorError(
                f"the surface's memory holds {view.nbytes} bytes, {width}x{height} {code} with stride {stride} "
                f"from byte {offset} needs {offset + size}"
            )
        view = view[offset : offset + size]
        kind = None
        if not _EXPORTS_ITSELF and stride == row and not view.readonly and held is None:
            layout = code.info.planes[0]
            shape = array_shape(layout, width, height, code.info.floating)
            owner: Any = cls  # mypy takes a class of Self for unhashable
            kind = _exporting(owner, element(layout, code.info.floating).type, shape)
        self: Self = kind.from_buffer(view) if kind is not None else object.__new__(cls)
        self.width, self.height, self.stride, self.fourcc, self.route = width, height, stride, code, route
        self._view, self._held = view, held
        return self

    _view: memoryview | None
    _held: ExitStack | None  # what is given back when the surface is closed: a mapping and its synchronisation

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass  # __new__ did it all: ctypes' from_buffer makes the object before 3.12

    @classmethod
    def allocate(cls, width: int, height: int, fourcc: Fourcc | str | int, stride: int | None = None) -> Self:
        """A surface with memory of its own. Reuse it: the first write to new memory costs several copies.

        stride is in bytes, packed rows if None. Raises DescriptorError for a format of several planes or a short stride.
        """
        row = packed_row(Fourcc(fourcc), width, height)
        rows = Fourcc(fourcc).info.planes[0].rows(height)
        return cls(allocate_memory((stride or row) * rows), width, height, fourcc, stride)

    @classmethod
    def wrap(
        cls, memory: Any, width: int, height: int, fourcc: Fourcc | str | int, stride: int | None = None, offset: int = 0
    ) -> Self:
        """A surface over the caller's memory: anything with the buffer protocol, contiguous, of any item type.

        stride and offset are in bytes. The memory is kept alive and stays the caller's. It must be writable to be read
        into. Raises DescriptorError if it is too small.
        """
        return cls(memory, width, height, fourcc, stride, offset)

    __hash__ = object.__hash__  # ctypes' arrays have none

    # The memory

    @property
    def data(self) -> memoryview:
        """The bytes, from the first pixel to the end of the last row, rows stride bytes apart: no copy."""
        if self._view is None:
            raise ValueError("the surface is closed")
        return self._view

    @property
    def row_bytes(self) -> int:
        """The bytes of one row that are pixels; stride minus the padding."""
        return packed_row(self.fourcc, self.width, self.height)

    @property
    def packed(self) -> bool:
        """Whether there is no padding between rows."""
        return self.stride == self.row_bytes

    @functools.cached_property
    def address(self) -> int:
        """Where the first pixel is in memory. Raises ValueError for read-only memory."""
        if self.data.readonly:
            raise ValueError("the surface's memory is read-only")
        # The view stays in self, so the address stays good as long as the surface does.
        return ctypes.addressof(ctypes.c_char.from_buffer(self.data))

    def tobytes(self) -> bytes:
        """A copy of the pixels without padding: height * row_bytes bytes."""
        if self.packed:
            return self.data.tobytes()
        return b"".join(self.rows())

    def rows(self) -> Iterator[memoryview]:
        """The rows in order, each a memoryview of row_bytes bytes."""
        row = self.row_bytes
        count = self.fourcc.info.planes[0].rows(self.height)
        return (self.data[start : start + row] for start in range(0, count * self.stride, self.stride))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """numpy's view of the pixels: shape and strides as the class says, no copy."""
        info = self.fourcc.info
        layout, pixel = info.planes[0], element(info.planes[0], info.floating)
        strides = (pixel.bytes, pixel.item_bytes) if pixel.shape else (pixel.bytes,)
        return {
            "version": 3,
            "shape": array_shape(layout, self.width, self.height, info.floating),
            "typestr": pixel.type,
            "strides": (self.stride, *strides),
            "data": self.data[:],
        }

    def array(self) -> numpy.ndarray[Any, Any]:
        """The same view as a numpy array; it keeps the memory alive."""
        import numpy

        interface = self.__array_interface__
        flat = numpy.frombuffer(interface["data"], numpy.uint8)
        return numpy.ndarray(interface["shape"], interface["typestr"], flat, 0, interface["strides"])

    if _EXPORTS_ITSELF:

        def __buffer__(self, flags: int) -> memoryview:
            return memoryview(self.array())  # type: ignore[arg-type]  # 3.11's stubs know no buffers

    def __dlpack__(self, **options: Any) -> Any:
        """A DLPack capsule of the same view (numpy's; CPU memory, no copy)."""
        return self.array().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU

    # What it is

    @property
    def pixman_format(self) -> int:
        """The pixman_format_code_t (pixman.h) of these pixels, 0 where pixman has none."""
        return pixman_format(self.fourcc.info)

    def rgba(self) -> numpy.ndarray[Any, Any]:
        """A new (height, width, 4) uint8 array, red first: values rounded to 8 bits, alpha 255 where there is none."""
        from . import pixels

        return pixels.rgba8(self)

    def to_image(self) -> Image.Image:
        """A Pillow image with pixels of its own: "RGBA" where the format has alpha, "L" for one component, else "RGB"."""
        from . import pixels

        return pixels.to_image(self)

    def save(self, path: str | os.PathLike[str], format: str | None = None, **options: Any) -> None:
        """Write the picture to a file; its ending picks the format unless told: png, jpg, webp, avif, ppm, pam, npy, raw.

        Written beside and renamed: path is either whole or as it was. Raises SinkError.
        """
        from .sinks import save

        save(self, path, format, **options)

    # Its end

    def close(self) -> None:
        """Let go of the memory. Once; a surface from `Reader.map` must be closed, others may just be dropped.

        Raises BufferError while a view of a mapped surface (an array, a memoryview) is still in use: the mapping stays.
        """
        view, self._view = self._view, None
        held, self._held = self._held, None
        if held is None:
            return
        try:
            if view is not None:
                view.release()
        except BufferError:
            pass  # the mapping will say so too, after the synchronisation has ended
        try:
            held.close()
        except BufferError:
            raise BufferError(
                "a view of the mapped surface is still in use; drop arrays and memoryviews of it before closing"
            ) from None

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._view is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None:
            warnings.warn("unclosed mapped glreadback.Surface", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __bytes__(self) -> bytes:
        return self.tobytes()

    def __repr__(self) -> str:
        how = f", route={self.route}" if self.route is not None else ""
        return f"<Surface {self.width}x{self.height} {self.fourcc}, stride {self.stride}{how}>"


@functools.lru_cache(maxsize=256)
def packed_row(fourcc: Fourcc, width: int, height: int) -> int:
    """The bytes of a row without padding. Raises DescriptorError where no surface of that kind can be."""
    if width < 1 or height < 1:
        raise DescriptorError(f"a surface of {width}x{height} pixels: both must be at least 1")
    info = fourcc.info
    if len(info.planes) > 1 or not info.linear:
        what = f"has {len(info.planes)} planes" if len(info.planes) > 1 else "has no linear layout"
        raise DescriptorError(f"{fourcc} {what}; a surface holds packed pixels. read_planes gives the planes")
    return info.planes[0].row_bytes(width)


def pixman_format(info: FormatInfo) -> int:
    """The pixman_format_code_t of a format: PIXMAN_FORMAT(bpp, type, a, r, g, b), 0 where pixman has none."""
    layout = info.planes[0]
    if info.model != "rgb" or info.floating or len(info.planes) > 1 or layout.block_bytes > 4 or layout.block_width > 1:
        return 0
    fields = sorted(layout.fields, key=lambda field: field.shift)
    order = tuple("A" if field.component == "X" else field.component for field in fields)
    found = next((kind for start, kind in _PIXMAN_TYPES.items() if order[: len(start)] == start), 0)
    bits = info.bits
    if not found or bits.keys() - {"R", "G", "B", "A"}:
        return 0
    if found in _PIXMAN_BYTES_ONLY and set(bits.values()) != {8}:
        return 0
    depths = bits.get("A", 0) << 12 | bits["R"] << 8 | bits["G"] << 4 | bits["B"]
    return layout.block_bytes * 8 << 24 | found << 16 | depths
