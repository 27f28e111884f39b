"""Y'CbCr in planes to 8-bit RGB on the CPU: on a software device several times faster than a draw, and as exact.

Fixed point in numpy, in bands of rows. What a numpy operation costs is its pass over memory, so every one runs along
plain lines of it: all arrays of a band have one pitch, the chroma's width and a repeated sample at either end, and pixels
that lie alike to their chroma sample are an array of their own. What is right of a sample is then the array one value on,
what is below it the array one pitch on. All operations of a band are written down once and done for every band.

The error is below 0.51 of a step of 255, of which 0.5 is the rounding to whole steps. With _ONE = 2^21:
- a factor is off by 2^-22 at most and a code of 12 bits by 2^12 from its zero, so three of them by 3 * 2^-10; deeper
  codes have factors of 12 bits more. A shift to the right drops less than 1/_ONE, and a pixel sees fewer than 20: 2^-16;
- nothing overflows: a product is below 550 (BT.2020's blue, narrow: 1.8814 * 255 * 256 / 224), luma, chroma and all
  constants together are between -576 and 612, and 2^31 is 1024 * _ONE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Step = tuple[Callable[..., Any], tuple[Any, ...]]  # a numpy operation and what it is called with, its output last

_FRACTION_BITS = 21
_ONE = 1 << _FRACTION_BITS
_DEEP, _MORE_BITS = 12, 12  # codes of more bits than _DEEP need factors of _MORE_BITS more

# Pixels of a band: few enough for the caches, enough for a numpy call's own microsecond not to count. Two threads with
# half the bands each were no faster than one on two cores, at 1080p and at 2160p.
_BAND_PIXELS = 3 << 16
_KEPT = 2  # for how many kinds of pictures a converter keeps its memory


# ---- which formats


class Component(NamedTuple):
    """Where one component lies: its plane, the bytes of a block there, and the bits in a block as a little-endian word."""

    plane: int
    block_bytes: int
    shift: int
    bits: int


@functools.cache
def components(fourcc: Fourcc) -> Mapping[str, Component]:
    """Y, Cb and Cr of a format of two or three planes whose samples have a byte or 16 bits of their own; else nothing."""
    info = fourcc.info
    if info.model != "yuv" or not info.linear or len(info.planes) not in (2, 3):
        return {}
    found, words = {}, set()
    for index, layout in enumerate(info.planes):
        fields = sorted((field.shift, field.bits, field.component) for field in layout.fields if field.component != "X")
        word = layout.block_bytes * 8 // len(fields)
        words.add(word)
        for place, (shift, bits, component) in enumerate(fields):
            if layout.block_width * layout.block_height > 1 or not word * place <= shift <= word * (place + 1) - bits:
                return {}
            found[component] = Component(index, layout.block_bytes, shift, bits)
    luma, *chroma = info.planes
    alike = len({(layout.hsub, layout.vsub) for layout in chroma}) == 1
    # The luma beside one chroma sample is taken as one word, of 32 bits at most.
    if not alike or found.keys() != {"Y", "Cb", "Cr"} or words not in ({8}, {16}) or luma.block_bytes * chroma[0].hsub > 4:
        return {}
    return found


def supported(info: FormatInfo, wanted: Fourcc) -> bool:
    """Whether a Converter makes pictures of wanted, four bytes a pixel in any order, of this format. Loads no numpy."""
    return len(byte_order(wanted.info)) == 4 and bool(components(info.fourcc))


# ---- pictures


class Converter:
    """Converts pictures, and keeps what the next one of the same kind needs: a few megabytes.

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._kept: dict[_Kind, _Bands] = {}

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
        """Fill out with a region of a picture; alpha and padding become 255.

        planes are buffers that begin with their plane's first byte; strides are bytes from row to row; neither needs any
        alignment. width and height are the whole picture's, in pixels, and region (None = all of it) a rectangle of it:
        chroma around the region counts, so that it looks as it does in the whole. color is as in `color.conversion`.
        reverse puts the region's last row first. No view of planes or out is kept.

        Raises DescriptorError where out and region differ in size, ValueError where a plane is too short.
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
        kind = _Kind(info.fourcc, out.fourcc, conversion(color, info, height), len(columns), len(rows))
        job = _Job(sources, target[::-1] if reverse else target, region, columns.start)
        self._bands(kind).convert(job, rows)

    def _bands(self, kind: _Kind) -> _Bands:
        bands = self._kept.pop(kind, None) or _Bands(kind)
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[kind] = bands  # the one used last is the last to go
        return bands


class _Kind(NamedTuple):
    """What a picture must have in common with an earlier one for the same memory and numbers to do."""

    fourcc: Fourcc
    wanted: Fourcc
    conversion: Conversion
    columns: int  # of chroma samples
    rows: int


class _Job(NamedTuple):
    """One call's picture."""

    sources: list[Array]  # every plane: (rows, bytes of a row)
    target: Array  # (height, width) of the region, pixels as words
    region: Rect
    left: int  # the first column of chroma samples


class _Bands:
    """Memory for a band of pictures of one kind, and what is done in it, band after band."""

    def __init__(self, kind: _Kind) -> None:
        import numpy as np

        info = kind.fourcc.info
        self.across, self.down = info.subsampling
        self.columns, pitch = kind.columns, kind.columns + 2
        bands = -(-kind.rows * kind.columns * self.across * self.down // _BAND_PIXELS)
        self.rows = rows = -(-kind.rows // bands)
        luma, *chroma = info.planes
        # The pixels beside one chroma sample are one word, and rows that lie alike to the chroma's lie together.
        self.luma = np.zeros((self.down, rows, pitch), f"<u{luma.block_bytes * self.across}")
        self.chroma = [np.zeros((rows + 2, pitch), f"<u{layout.block_bytes}") for layout in chroma]
        pixels = np.zeros((self.down, self.across, rows * pitch), np.int32)
        self.steps = list(_steps(kind, pitch, self.luma, self.chroma, pixels))
        self.pixels = pixels.reshape(self.down, self.across, rows, pitch)[..., 1:-1]

    def convert(self, job: _Job, rows: range) -> None:
        """Convert the pixels beside these rows of chroma samples."""
        for top in range(rows.start, rows.stop, self.rows):
            # All bands have one size. What the last one has below the region is never stored.
            self._load(job, top)
            for operation, arguments in self.steps:
                operation(*arguments)
            self._store(job, top)

    def _load(self, job: _Job, top: int) -> None:
        luma, *chroma = job.sources
        size, down = self.luma.itemsize, self.down
        part = luma[top * down : (top + self.rows) * down, job.left * size : (job.left + self.columns) * size]
        # Where the height is odd the last row is short of lines, where the width is each line of pixels: never stored.
        whole, width = len(part) // down, part.shape[1]
        to = self.luma.view("u1").swapaxes(0, 1)[:, :, size : size + width]
        to[:whole] = part[: whole * down].reshape(whole, down, width)
        for n, line in enumerate(part[whole * down :]):
            to[whole, n] = line
        for words, source in zip(self.chroma, chroma, strict=True):
            load_around(words, source, top - 1, job.left - 1)

    def _store(self, job: _Job, top: int) -> None:
        region, down = job.region, self.down
        start = top * down - region.y
        # Line after line of the target, which is why rows are not done phase by phase; but some may be cut by its edges.
        first = max(-(start // down), 0)
        last = max(min((region.height - start) // down, self.rows), first)
        for x in range(self.across):
            columns, to_columns = places(job.left * self.across + x - region.x, self.across, self.columns, region.width)
            to = job.target[:, to_columns]
            pixels = self.pixels[:, x, :, columns].swapaxes(0, 1)
            lines = to[start + down * first : start + down * last]
            lines.reshape(last - first, down, to.shape[1])[...] = pixels[first:last]
            for row in (*range(first), *range(last, self.rows)):
                for y in range(max(start + row * down, 0), min(start + (row + 1) * down, region.height)):
                    to[y] = pixels[row, y - start - row * down]


def load_around(words: Array, source: Array, top: int, left: int) -> None:
    """Fill words, (rows, columns), from a plane's bytes from that row and column on. What lies outside repeats the edge."""
    size, (rows, columns) = words.itemsize, words.shape
    height, width = source.shape[0], source.shape[1] // size
    first, last = max(top, 0), min(top + rows, height)
    begin, end = max(left, 0), min(left + columns, width)
    inside = words.view("u1")[first - top : last - top, (begin - left) * size : (end - left) * size]
    inside[...] = source[first:last, begin * size : end * size]
    if first > top:
        words[0] = words[1]
    if last < top + rows:
        words[last - top :] = words[last - top - 1]
    if begin > left:
        words[:, 0] = words[:, 1]
    if end < left + columns:
        words[:, -1] = words[:, -2]


def places(first: int, step: int, count: int, extent: int) -> tuple[slice, slice]:
    """Of count values, of which value n belongs to place first + step * n: those within extent, and their places."""
    skipped = -(min(first, 0) // step)
    first += step * skipped
    count = min(count - skipped, -(-(extent - first) // step))
    return slice(skipped, skipped + count), slice(first, first + step * count, step)


# ---- what is done between loading and storing


def _steps(kind: _Kind, pitch: int, luma: Array, chroma: Sequence[Array], pixels: Array) -> Iterator[Step]:
    """From loaded words to finished pixels: (rows beside a chroma sample, columns beside one, values)."""
    import numpy as np

    down, across, line = pixels.shape
    bits, found = kind.fourcc.info.bits["Y"], components(kind.fourcc)
    light, sums = np.zeros_like(pixels), np.zeros_like(pixels)
    codes = {name: np.zeros(line + 2 * pitch, np.int32) for name in ("Cb", "Cr")}
    tint, more = np.zeros_like(codes["Cb"]), np.zeros_like(codes["Cb"])
    between, spare = np.zeros((down, line), np.int32), np.zeros(pixels.size + 2 * pitch, np.int32)

    size, shift = found["Y"].block_bytes, found["Y"].shift
    for n in range(across):
        yield from take(luma.reshape(down, line), shift + 8 * size * n, bits, light[:, n], spare)
    yield from weigh(light, Factor.of(255 * kind.conversion.matrix[0], bits), light, spare)
    for name, values in codes.items():
        yield from take(chroma[found[name].plane - 1].reshape(-1), found[name].shift, bits, values, spare)

    over, under = (phases(size, sited) for size, sited in zip((across, down), kind.conversion.cosited, strict=True))
    lines = [between[n] for n in range(down)]
    if down == 1:
        between = tint[pitch:-pitch].reshape(1, line)
    inner, lit = ([array[:, n, 1:-1] for n in range(across)] for array in (sums, light))  # the very ends are repeated values
    parts_under = {eighths: np.zeros_like(tint) for eighths in needed(under)}
    parts_over = {eighths: np.zeros_like(between) for eighths in needed(over)}

    for output in outputs(kind):
        (name, factor), *others = output.factors.items()
        yield from weigh(codes[name], factor, tint, spare)
        for name, factor in others:
            yield from weigh(codes[name], factor, more, spare)
            yield np.add, (tint, more, tint)
        least = -256 if output.carries else 0
        yield np.add, (tint, np.int32(round((output.constant + least) * _ONE)), tint)

        # To the pixels' places: down first, as that is fewer values.
        if down > 1:
            yield from spread(tint, pitch, under, lines, parts_under)
        yield from spread(between, 1, over, inner, parts_over, lit)
        yield sums.clip, (np.int32(least * _ONE), np.int32((least + 256) * _ONE - 1), sums)
        yield from pack(sums, output, pixels)


class Factor(NamedTuple):
    """A factor in 1/_ONE: whole, and for deep codes its next _MORE_BITS bits."""

    whole: int
    more: int

    @classmethod
    def of(cls, value: float, bits: int) -> Factor:
        if bits <= _DEEP:
            return cls(round(value * _ONE), 0)
        return cls(*divmod(round(value * (_ONE << _MORE_BITS)), 1 << _MORE_BITS))

    @property
    def value(self) -> float:
        return (self.whole + self.more / (1 << _MORE_BITS)) / _ONE


class Output(NamedTuple):
    """How one of red, green and blue comes about."""

    factors: dict[str, Factor]  # of Cb and Cr, where they count
    constant: float  # what the zero points come to, in steps of 255, and a half for the rounding
    shift: int  # its place in a pixel
    first: bool  # of the three
    carries: bool  # alpha in the byte above: 256 is taken off every value, and the sign fills that byte


def outputs(kind: _Kind) -> list[Output]:
    """Red, green and blue in the order of their places in a pixel."""
    order = byte_order(kind.wanted.info)
    matrix, zero = kind.conversion.matrix, kind.conversion.offset
    bits = kind.fourcc.info.bits["Y"]
    found: list[Output] = []
    for place, name in enumerate(order):
        if name in "RGB":
            row = [Factor.of(255 * value, bits) for value in matrix[3 * "RGB".index(name) :][:3]]
            constant = 0.5 - sum(factor.value * offset for factor, offset in zip(row, zero, strict=True))
            factors = {which: factor for which, factor in zip(("Cb", "Cr"), row[1:], strict=True) if factor.value}
            alpha_above = place == 2 and order[3] not in "RGB"
            found.append(Output(factors, constant, 8 * place, not found, alpha_above))
    return found


def signed(word: int) -> int:
    """32 bits as numpy's int32 takes them."""
    return word - (1 << 32) if word >> 31 else word


def take(words: Array, shift: int, bits: int, out: Array, spare: Array) -> Iterator[Step]:
    """out = the bits of every word from shift on."""
    import numpy as np

    # Words narrower than out are cheaper to take apart before they are widened.
    memory = out if words.itemsize == out.itemsize else spare
    taken = memory.view(words.dtype)
    if memory is spare:
        taken = taken[: words.size].reshape(words.shape)
    above = 8 * words.itemsize - shift - bits
    if shift:
        yield np.right_shift, (words, shift, taken)
        words = taken
    if above:
        yield np.bitwise_and, (words, (1 << bits) - 1, taken)
        words = taken
    if memory is spare or words is not taken:
        yield functools.partial(np.copyto, casting="unsafe"), (out, words)


def weigh(codes: Array, factor: Factor, out: Array, spare: Array) -> Iterator[Step]:
    """out = codes * factor, in 1/_ONE."""
    import numpy as np

    if not factor.more:
        yield np.multiply, (codes, np.int32(factor.whole), out)
        return
    rest = spare[: codes.size].reshape(codes.shape)
    yield np.multiply, (codes, np.int32(factor.more), rest)
    yield np.right_shift, (rest, _MORE_BITS, rest)
    yield np.multiply, (codes, np.int32(factor.whole), out)
    yield np.add, (out, rest, out)


def pack(sums: Array, output: Output, pixels: Array) -> Iterator[Step]:
    """Put the whole steps of one output in their place of the pixels."""
    import numpy as np

    into = pixels if output.first else sums
    move = _FRACTION_BITS - output.shift
    yield np.right_shift if move > 0 else np.left_shift, (sums, abs(move), into)
    if output.first:
        if output.shift:
            yield np.bitwise_or, (into, 255, into)  # alpha is below
        return
    yield np.bitwise_and, (into, signed((0xFFFF if output.carries else 0xFF) << output.shift), into)
    yield np.bitwise_or, (pixels, into, pixels)


class Phase(NamedTuple):
    """Where pixels lie on the chroma's grid: between the sample `first` after their own (-1: the one before it) and the
    next one, so many eighths of the way."""

    first: int
    eighths: int


def phases(extent: int, cosited: bool) -> list[Phase]:
    """The phases of the pixels beside a chroma sample that spans 1, 2 or 4, in order; as in shaders/yuv.glsl."""
    return [Phase(*divmod(4 * (2 * pixel + (0 if cosited else 1 - extent)) // extent, 8)) for pixel in range(extent)]


# By eighths: up to a half of a value as a shift to the right and a factor.
_EIGHTHS = {1: (3, 1), 2: (2, 1), 3: (3, 3), 4: (1, 1)}


def needed(taken: Sequence[Phase]) -> list[int]:
    """The eighths of values that these phases are made of; what is left of one comes after it."""
    return sorted({part for phase in taken if phase.eighths for part in (phase.eighths, 8 - phase.eighths)})


def spread(
    values: Array,
    step: int,
    taken: Sequence[Phase],
    outs: Sequence[Array],
    parts: Mapping[int, Array],
    more: Sequence[Array] = (),
) -> Iterator[Step]:
    """An out a phase: values interpolated between neighbours that are step apart, but for a step at either end; plus more.

    parts is memory for the eighths of values. One and what is left add up to the value to the last bit: where nothing
    changes, nothing does.
    """
    import numpy as np

    for eighths, part in parts.items():
        if eighths > 4:
            yield np.subtract, (values, parts[8 - eighths], part)
            continue
        shift, factor = _EIGHTHS[eighths]
        yield np.right_shift, (values, shift, part)
        if factor > 1:
            yield np.multiply, (part, factor, part)
    length = values.shape[-1] - 2 * step
    for n, ((first, eighths), out) in enumerate(zip(taken, outs, strict=True)):
        own, next_ = (slice(start, start + length) for start in (step * (1 + first), step * (2 + first)))
        if eighths:
            yield np.add, (parts[8 - eighths][..., own], parts[eighths][..., next_], out)
            if more:
                yield np.add, (out, more[n], out)
        elif more:
            yield np.add, (values[..., own], more[n], out)
        else:
            yield np.copyto, (out, values[..., own])
