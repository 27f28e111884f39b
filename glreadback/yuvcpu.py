"""Y'CbCr in planes to 8-bit RGB on the CPU: on a software device several times faster than a draw, and as exact.

Fixed point in numpy, in bands of rows that stay in the caches. A numpy operation costs its passes over memory, so all of
them run along one line of memory: every array has the same pitch, the chroma's width and a repeated sample at either
end, and pixels that lie alike to their chroma sample are an array of their own. What is right of a sample is then the
line one element on, what is below it one pitch on.

The error against exact numbers stays below 0.51 of a step of 255, 0.5 of it the rounding itself. With _ONE = 2^21:
- A factor is off by at most 2^-22, a code by at most 2^12 from its zero: three factors, 3 * 2^-10. Deeper codes have
  12 more bits of factor. Shifts to the right drop less than 1/_ONE each, and a pixel sees fewer than 20: 2^-16.
- No sum overflows: codes times factors stay below 547 (BT.2020's blue, narrow: 255 * 255/224 * 1.8814), luma and chroma
  together with all constants within -320 and 610, and 2^31 is 1024 * _ONE.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from .color import Color, Conversion, conversion
from .errors import DescriptorError
from .fourcc import FormatInfo, Fourcc
from .frame import Rect
from .pixels import byte_order
from .surface import Surface

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

_FRACTION_BITS = 21
_ONE = 1 << _FRACTION_BITS
_DEEP, _MORE_BITS = 12, 12  # codes of more bits than these need factors of so many more

# Pixels of a band: few enough for the caches, enough for a numpy call's own microsecond not to count.
_BAND_PIXELS = 1 << 17
# From so many pixels on a second thread pays; more of them wait for memory.
_TWO_THREADS_FROM = 6 << 20
_KEPT = 2  # pictures of how many kinds a converter remembers


class Component(NamedTuple):
    """Where the samples of one component lie: the plane, and the place in a block of it, read as a little-endian word."""

    plane: int
    block_bytes: int
    shift: int
    bits: int


class Phase(NamedTuple):
    """Pixels that lie alike to the chroma: between the sample `first` after their own (-1: the one before) and the
    next, so many eighths of the way."""

    first: int
    eighths: int


@functools.cache
def components(fourcc: Fourcc) -> Mapping[str, Component]:
    """Y, Cb and Cr of a format of two or three planes whose samples are whole bytes or 16-bit words, else nothing."""
    info = fourcc.info
    if info.model != "yuv" or not info.linear or len(info.planes) not in (2, 3):
        return {}
    found, words = {}, set()
    for index, layout in enumerate(info.planes):
        fields = [field for field in layout.fields if field.component != "X"]
        if layout.block_width * layout.block_height > 1 or layout.block_bytes % len(fields):
            return {}
        word = layout.block_bytes // len(fields) * 8
        words.add(word)
        for place, field in enumerate(sorted(fields, key=lambda field: field.shift)):
            if not word * place <= field.shift <= field.shift + field.bits <= word * (place + 1):
                return {}
            found[field.component] = Component(index, layout.block_bytes, field.shift, field.bits)
    luma, *chroma = info.planes
    alike = len({(layout.hsub, layout.vsub) for layout in chroma}) == 1 and (luma.hsub, luma.vsub) == (1, 1)
    pixels_of_a_sample = luma.block_bytes * chroma[0].hsub  # the luma beside one chroma sample is taken as one word
    if not alike or found.keys() != {"Y", "Cb", "Cr"} or words not in ({8}, {16}) or pixels_of_a_sample > 4:
        return {}
    return found


def supported(info: FormatInfo, wanted: Fourcc) -> bool:
    """Whether a Converter makes pictures of wanted, four bytes a pixel in any order, of this format. Loads no numpy."""
    return len(byte_order(wanted.info)) == 4 and bool(components(info.fourcc))


def phases(pixels: int, cosited: bool) -> list[Phase]:
    """The phases of a chroma sample that spans so many pixels, in order."""
    # The pixels' centres on the chroma's grid, as in shaders/yuv.glsl; spans are 1, 2 or 4 pixels.
    return [Phase(*divmod(4 * (2 * pixel + (0 if cosited else 1 - pixels)) // pixels, 8)) for pixel in range(pixels)]


class Converter:
    """Converts pictures, one after another, and keeps what the next one of the same kind needs: a few megabytes.

    threads: how many share the rows of a large picture; None = as measured to pay. They live as long as the call.
    Used by one thread at a time.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._kept: dict[_Kind, list[_Worker]] = {}

    def convert(
        self,
        planes: Sequence[Any],
        strides: Sequence[int],
        width: int,
        height: int,
        info: FormatInfo,
        color: Color | None,
        out: Surface,
        region: Rect | None = None,
        reverse: bool = False,
    ) -> None:
        """Fill out with a region of a picture, alpha or padding with 255.

        planes are buffers that begin with their plane's first byte; strides are bytes from row to row; both need no
        alignment. width and height are the whole picture's, in pixels, and region (None = all of it) a rectangle of it:
        chroma around the region counts, so that it looks as it does in the whole. color as in `color.conversion`.
        reverse puts the region's last row first. No view of planes or out is kept.

        Raises DescriptorError where out has another size than the region, ValueError where a plane is too short.
        """
        import numpy as np

        assert supported(info, out.fourcc), f"{info.fourcc} to {out.fourcc}"
        region = region or Rect(0, 0, width, height)
        if (out.width, out.height) != (region.width, region.height):
            raise DescriptorError(f"the surface is {out.width}x{out.height}, the region {region.width}x{region.height}")
        sources = []
        for plane, stride, layout in zip(planes, strides, info.planes, strict=True):
            shape = layout.rows(height), layout.row_bytes(width)
            sources.append(np.ndarray(shape, np.uint8, np.frombuffer(plane, np.uint8), 0, (stride, 1)))
        pixels = np.frombuffer(out.data, np.uint8)
        target: Array = np.ndarray((out.height, out.width), "<i4", pixels, 0, (out.stride, 4))

        across, down = info.subsampling
        columns = range(region.x // across, -(-(region.x + region.width) // across))
        rows = range(region.y // down, -(-(region.y + region.height) // down))
        threads = self._threads or (1 if out.width * out.height < _TWO_THREADS_FROM else min(2, cpus()))
        kind = _Kind(info.fourcc, out.fourcc, conversion(color, info, height), len(columns), min(len(rows), height))
        job = _Job(sources, target[::-1] if reverse else target, region, columns.start)
        self._run(self._workers(kind, min(threads, len(rows))), job, rows)

    def _workers(self, kind: _Kind, count: int) -> list[_Worker]:
        workers = self._kept.pop(kind, [])
        while len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[kind] = workers  # the last one used is the last one dropped
        workers.extend(_Worker(kind) for _ in range(count - len(workers)))
        return workers[:count]

    def _run(self, workers: Sequence[_Worker], job: _Job, rows: range) -> None:
        if len(workers) == 1:
            workers[0].convert(job, rows)
            return
        share = -(-len(rows) // len(workers))
        with ThreadPoolExecutor(len(workers) - 1) as others:
            parts = [rows[start : start + share] for start in range(0, len(rows), share)]
            waiting = [others.submit(worker.convert, job, part) for worker, part in zip(workers[1:], parts[1:], strict=False)]
            workers[0].convert(job, parts[0])
            for one in waiting:
                one.result()


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class _Kind(NamedTuple):
    """What a worker is made for."""

    fourcc: Fourcc
    wanted: Fourcc
    conversion: Conversion
    columns: int  # of chroma samples
    rows: int


class _Job(NamedTuple):
    sources: list[Array]  # (rows, bytes of a row) of every plane
    target: Array  # (height, width) of the region, pixels as words
    region: Rect
    left: int  # the first column of chroma samples


class _Factor(NamedTuple):
    """A factor in 1/_ONE: whole, and for deep codes its next _MORE_BITS bits."""

    whole: int
    more: int

    @classmethod
    def of(cls, value: float, bits: int) -> _Factor:
        if bits <= _DEEP:
            return cls(round(value * _ONE), 0)
        return cls(*divmod(round(value * (_ONE << _MORE_BITS)), 1 << _MORE_BITS))

    @property
    def value(self) -> float:
        return (self.whole + self.more / (1 << _MORE_BITS)) / _ONE


class _Output(NamedTuple):
    """How one of red, green and blue comes about: factors of Cb and Cr, what is added, and its place in the pixel."""

    chroma: list[tuple[str, _Factor]]
    constant: int
    shift: int


class _Worker:
    """One thread's numbers and memory for pictures of one kind."""

    def __init__(self, kind: _Kind) -> None:
        import numpy as np

        info = kind.fourcc.info
        self.components = components(kind.fourcc)
        self.phases = [
            phases(size, cosited) for size, cosited in zip(info.subsampling, kind.conversion.cosited, strict=True)
        ]
        across, down = info.subsampling
        luma = self.components["Y"]
        # Pixels beside one chroma sample are one word.
        self.luma = [
            Component(0, luma.block_bytes * across, luma.shift + 8 * luma.block_bytes * n, luma.bits) for n in range(across)
        ]
        self._compile(kind)

        self.pitch = pitch = kind.columns + 2
        bands = -(-kind.rows * pitch * across * down // _BAND_PIXELS)
        self.rows = rows = -(-kind.rows // bands)
        chroma, line = (rows + 2) * pitch, rows * pitch
        self.luma_words = np.zeros((down, rows, pitch), f"<u{luma.block_bytes * across}")
        self.chroma_words = [np.zeros((rows + 2, pitch), f"<u{layout.block_bytes}") for layout in info.planes[1:]]
        self.codes = {name: np.zeros(chroma, np.int32) for name in ("Cb", "Cr")}
        self.tint, self.spare = np.zeros(chroma, np.int32), np.zeros(max(chroma, across * down * line), np.int32)
        self.between = np.zeros((down, line), np.int32)
        self.light, self.sums, self.pixels = (np.zeros((down, across, line), np.int32) for _ in range(3))
        self.parts = [
            {eighths: np.zeros(shape, np.int32) for eighths in needed(taken)}
            for taken, shape in zip(self.phases, ((down, line), (chroma,)), strict=True)
        ]

    def _compile(self, kind: _Kind) -> None:
        """The numbers of this conversion, red, green and blue in the order of their places in the pixel."""
        matrix, offset = kind.conversion.matrix, kind.conversion.offset
        bits = self.components["Y"].bits
        self.luma_factor = _Factor.of(255 * matrix[0], bits)
        self.outputs = []
        order = byte_order(kind.wanted.info)
        for place, name in enumerate(order):
            if name not in "RGB":
                continue
            _, *row = matrix[3 * "RGB".index(name) :][:3]
            factors = [(which, _Factor.of(255 * value, bits)) for which, value in zip(("Cb", "Cr"), row, strict=True) if value]
            zero = self.luma_factor.value * offset[0]
            zero += sum(factor.value * offset[("Y", "Cb", "Cr").index(which)] for which, factor in factors)
            self.outputs.append(_Output(factors, round((0.5 - zero) * _ONE), 8 * place))
        self.opaque = signed(255 << 8 * next(n for n, name in enumerate(order) if name not in "RGB"))

    def convert(self, job: _Job, rows: range) -> None:
        """Convert the pixels beside these rows of chroma samples."""
        for top in range(rows.start, rows.stop, self.rows):
            self._band(job, top, min(self.rows, rows.stop - top))

    def _band(self, job: _Job, top: int, rows: int) -> None:
        import numpy as np

        line = rows * self.pitch
        light, sums, pixels = (array[..., :line] for array in (self.light, self.sums, self.pixels))
        self._take_luma(job, top, rows, light)
        self._take_chroma(job, top, rows)
        for output in self.outputs:
            self._add_chroma(light, self._tint(output, rows), sums)
            sums.clip(np.int32(0), np.int32((256 << _FRACTION_BITS) - 1), out=sums)
            into = pixels if output is self.outputs[0] else sums
            move = _FRACTION_BITS - output.shift
            if move > 0:
                np.right_shift(sums, move, out=into)
            else:
                np.left_shift(sums, -move, out=into)
            if output.shift:
                into &= signed(255 << output.shift)
            if into is sums:
                pixels |= sums
        pixels |= self.opaque
        self._store(job, top, rows, pixels)

    def _take_luma(self, job: _Job, top: int, rows: int, light: Array) -> None:
        """The luma times its factor, an array a phase."""
        down = len(self.luma_words)
        words = self.luma_words[:, :rows]
        for phase in range(down):
            load(words[phase], job.sources[0][phase::down], top, job.left - 1)
        flat = words.reshape(down, -1)
        for phase, component in enumerate(self.luma):
            take(flat, component, light[:, phase], self.spare)
        times(light, self.luma_factor, light, self.spare)

    def _take_chroma(self, job: _Job, top: int, rows: int) -> None:
        for words, source in zip(self.chroma_words, job.sources[1:], strict=True):
            load(words[: rows + 2], source, top - 1, job.left - 1)
        for name, codes in self.codes.items():
            component = self.components[name]
            words = self.chroma_words[component.plane - 1][: rows + 2].reshape(-1)
            take(words, component, codes[: words.size], self.spare)

    def _tint(self, output: _Output, rows: int) -> Array:
        """What the chroma and the constants add to one output, still a value a chroma sample."""
        size = (rows + 2) * self.pitch
        tint, spare = self.tint[:size], self.spare[:size]
        (which, factor), *others = output.chroma
        times(self.codes[which][:size], factor, tint, self.spare)
        for which, factor in others:
            times(self.codes[which][:size], factor, spare, self.between[0])
            tint += spare
        tint += output.constant
        return tint

    def _add_chroma(self, light: Array, tint: Array, sums: Array) -> None:
        """sums = light + the tint at each pixel's place: first down, which is fewer values, then across."""
        import numpy as np

        across, down = self.phases
        line = light.shape[-1]
        between = self.between[:, :line]
        parts = split(tint, self.parts[1])
        for n, (first, eighths) in enumerate(down):
            start = (1 + first) * self.pitch
            if eighths:
                below = start + self.pitch
                np.add(parts[8 - eighths][start : start + line], parts[eighths][below : below + line], out=between[n])
            else:
                between[n] = tint[start : start + line]
        parts = split(between, self.parts[0])
        for n, (first, eighths) in enumerate(across):
            if eighths:
                # The line's first and last values are repeated ones, which no pixel needs.
                inner = slice(-first, line - 1 - first)
                out = sums[:, n, inner]
                np.add(parts[8 - eighths][:, :-1], parts[eighths][:, 1:], out=out)
                out += light[:, n, inner]
            else:
                np.add(between, light[:, n], out=sums[:, n])

    def _store(self, job: _Job, top: int, rows: int, pixels: Array) -> None:
        region = job.region
        across, down = (len(found) for found in self.phases)
        shaped = pixels.reshape(down, across, rows, self.pitch)[..., 1:-1]
        for y in range(down):
            from_rows, to_rows = places(top * down + y - region.y, down, rows, region.height)
            for x in range(across):
                from_columns, to_columns = places(job.left * across + x - region.x, across, self.pitch - 2, region.width)
                job.target[to_rows, to_columns] = shaped[y, x, from_rows, from_columns]


def signed(word: int) -> int:
    """32 bits as numpy's int32 takes them."""
    return word - (1 << 32) if word >> 31 else word


def needed(taken: Iterable[Phase]) -> list[int]:
    """Which eighths of a value these phases take, in the order in which `split` makes them."""
    return sorted({part for _, eighths in taken if eighths for part in (eighths, 8 - eighths)})


# A part of up to a half as a shift to the right and a factor.
_EIGHTHS = {1: (3, 1), 2: (2, 1), 3: (3, 3), 4: (1, 1)}


def split(values: Array, parts: Mapping[int, Array]) -> dict[int, Array]:
    """So many eighths of the values, in parts' memory. A part and its complement add up to the value, to the last bit."""
    import numpy as np

    made: dict[int, Array] = {}
    for eighths, memory in parts.items():
        made[eighths] = part = memory[..., : values.shape[-1]]
        if eighths > 4:
            np.subtract(values, made[8 - eighths], out=part)
            continue
        shift, factor = _EIGHTHS[eighths]
        np.right_shift(values, shift, out=part)
        if factor > 1:
            part *= factor
    return made


def load(words: Array, source: Array, top: int, left: int) -> None:
    """Fill words, (rows, columns), from a plane's bytes from that row and column on. What lies outside repeats the edge."""
    size, (rows, columns) = words.itemsize, words.shape
    height, width = source.shape[0], -(-source.shape[1] // size)
    first, last = max(top, 0), min(top + rows, height)
    begin, end = max(left, 0), min(left + columns, width)
    part = source[first:last, begin * size : end * size]  # the last word may be short of a pixel
    start = (begin - left) * size
    words.view("u1")[first - top : last - top, start : start + part.shape[1]] = part
    if first > top:
        words[0] = words[1]
    if last < top + rows:
        words[last - top :] = words[last - top - 1]
    if begin > left:
        words[:, 0] = words[:, 1]
    if end < left + columns:
        words[:, end - left :] = words[:, end - left - 1, None]


def take(words: Array, component: Component, out: Array, spare: Array) -> None:
    """One component of every word as int32."""
    import numpy as np

    wide = words.itemsize == out.itemsize
    memory = out if wide else spare[: words.size]
    memory = memory.view(words.dtype)
    memory = memory if wide else memory[: words.size].reshape(words.shape)
    if component.shift:
        np.right_shift(words, component.shift, out=memory)
        words = memory
    if component.shift + component.bits < 8 * component.block_bytes:
        np.bitwise_and(words, (1 << component.bits) - 1, out=memory)
        words = memory
    if words is not memory or not wide:
        np.copyto(out, words, casting="unsafe")


def times(codes: Array, factor: _Factor, out: Array, spare: Array) -> None:
    """out = codes * factor, in 1/_ONE."""
    import numpy as np

    if factor.more:
        rest = spare[: codes.size].reshape(codes.shape)
        np.multiply(codes, factor.more, out=rest)
        rest >>= _MORE_BITS
    np.multiply(codes, factor.whole, out=out)
    if factor.more:
        out += rest


def places(first: int, step: int, count: int, extent: int) -> tuple[slice, slice]:
    """Of count values, of which value n belongs to place first + step * n: those within extent, and their places."""
    skipped = -(min(first, 0) // step)
    first += step * skipped
    count = min(count - skipped, -(-(extent - first) // step))
    return slice(skipped, skipped + count), slice(first, first + step * count, step)
