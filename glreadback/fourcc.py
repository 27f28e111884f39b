"""DRM's pixel formats: their four-character codes, their names, and where in a block of bytes each sample lies.

Everything here follows the kernel's include/uapi/drm/drm_fourcc.h, from which _drm_fourcc.py is generated.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import SupportsIndex

from ._drm_fourcc import FORMATS, SOURCE
from .errors import DescriptorError

BIG_ENDIAN = 1 << 31  # DRM_FORMAT_BIG_ENDIAN
_BIG_ENDIAN_SUFFIX = "_BE"
_PREFIX = "DRM_FORMAT_"
_CODES = {fmt[0]: code for code, fmt in FORMATS.items()}  # name: fourcc


@dataclass(frozen=True, slots=True)
class Field:
    """One sample, or padding, in a block.

    component: "R" "G" "B" "A" "Y" "Cb" "Cr", "C" (palette index), "D" (darkness: 0 is white) or
    "X" (padding, of any value).
    shift, bits: its place, in bits from the least significant bit of the block read as one little-endian integer.
    sample: which of the block's samples of that component it is, left to right, then top to bottom.
    """

    component: str
    shift: int
    bits: int
    sample: int = 0


@dataclass(frozen=True, slots=True)
class PlaneFormat:
    """What one plane is made of: blocks, each the smallest whole number of bytes that holds whole samples.

    block_bytes: bytes of a block. block_width, block_height: its size in samples of this plane.
    hsub, vsub: image pixels to one sample of this plane; 2 = half as many samples as pixels.
    fields: what is in a block, from its least significant bit upwards, without gaps.

    The chroma of packed YUV is subsampled inside the block, not by hsub and vsub: see FormatInfo.subsampling.
    DRM's stride is bytes from one line of samples to the next, even where a block is several lines high: rows of blocks
    then lie block_height * stride bytes apart.
    """

    block_bytes: int
    block_width: int
    block_height: int
    hsub: int
    vsub: int
    fields: tuple[Field, ...]

    def row_bytes(self, width: int) -> int:
        """Bytes that one row of blocks needs for an image width pixels wide. Odd sizes round up."""
        return -(-width // (self.hsub * self.block_width)) * self.block_bytes

    def rows(self, height: int) -> int:
        """Rows of blocks that an image height pixels high needs. Odd sizes round up."""
        return -(-height // (self.vsub * self.block_height))


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """What drm_fourcc.h says about one pixel format.

    name: DRM's, without DRM_FORMAT_: "XRGB8888".
    model: "rgb" (R and RG formats too), "yuv", "index" (C1 to C8) or "dark" (D1 to D8).
    floating: the components are IEEE 754 numbers of their width (half floats), not integers.
    linear: False for the three formats that exist only with a non-linear modifier. Their planes are nominal: the
    samples, their order and their depth are DRM's, but no buffer has them in these places.
    """

    fourcc: Fourcc
    name: str
    model: str
    planes: tuple[PlaneFormat, ...]
    floating: bool
    linear: bool

    @property
    def bits(self) -> dict[str, int]:
        """Bits of each component. Padding is none."""
        fields = (field for plane in self.planes for field in plane.fields)
        return {field.component: field.bits for field in fields if field.component != "X"}

    @property
    def depth(self) -> int:
        """Bits of the widest colour component: neither alpha nor padding."""
        return max(bits for component, bits in self.bits.items() if component != "A")

    @property
    def has_alpha(self) -> bool:
        """Whether pixels have an alpha of their own, in whatever plane."""
        return "A" in self.bits

    @property
    def opaque(self) -> bool:
        """Whether pixels have no alpha. Padding is not alpha: a producer leaves there what it likes."""
        return not self.has_alpha

    @property
    def bytes_per_pixel(self) -> int | None:
        """Bytes of a pixel, or None where pixels are not alike: several planes, or several pixels to a block."""
        plane, *others = self.planes
        return None if others or plane.block_width * plane.block_height > 1 else plane.block_bytes

    @property
    def subsampling(self) -> tuple[int, int]:
        """Pixels to one chroma sample, across and down: (2, 2) is 4:2:0. (1, 1) where there is no chroma."""
        for plane in self.planes:
            # In a packed block all chroma samples lie in one line.
            if across := sum(field.component == "Cb" for field in plane.fields):
                return plane.hsub * plane.block_width // across, plane.vsub * plane.block_height
        return 1, 1


class Fourcc(str):
    """A DRM pixel format code, as its four characters without trailing spaces: "XR24", "R8", big-endian "XR24_BE".

    Made from those, from DRM's name ("XRGB8888", "DRM_FORMAT_XRGB8888"; capitals matter only where two would be alike),
    or from the number. Being a str it compares with "XR24" and goes into JSON; int() gives the number.
    Four characters that drm_fourcc.h does not have are taken as they are: `known` is then False.

    Raises DescriptorError for a name that is none, and for a number that is not four printable characters.
    """

    __slots__ = ()

    def __new__(cls, value: str | SupportsIndex) -> Fourcc:
        if isinstance(value, Fourcc):
            return value
        return str.__new__(cls, _from_text(value) if isinstance(value, str) else _from_code(operator.index(value)))

    @classmethod
    def all(cls) -> tuple[Fourcc, ...]:
        """Every format of drm_fourcc.h, in its order, little-endian."""
        return tuple(str.__new__(cls, code) for code in FORMATS)

    @property
    def code(self) -> int:
        """The number: fourcc_code(a, b, c, d) of the header, and bit 31 if big-endian."""
        characters, big_endian = _split(self)
        return int.from_bytes(characters.ljust(4).encode("ascii"), "little") | (BIG_ENDIAN if big_endian else 0)

    def __int__(self) -> int:
        return self.code

    def __index__(self) -> int:
        return self.code

    @property
    def known(self) -> bool:
        """Whether `info` can describe it."""
        return _describe(self) is not None

    @property
    def info(self) -> FormatInfo:
        """What the format is made of. Raises DescriptorError where that is unknown.

        Big-endian: the fields where they lie when the bytes are read as a little-endian integer all the same, for
        single planes of 16, 32 or 64-bit pixels. A field that then falls apart (RGB565's green) cannot be described.
        """
        if (info := _describe(self)) is not None:
            return info
        characters, big_endian = _split(self)
        if big_endian and characters in FORMATS:
            raise DescriptorError(
                f"{self} cannot be described: its bytes swapped are not one plane of 16, 32 or 64-bit pixels "
                f"with each component in one piece. If the buffer is little-endian, say {characters}."
            )
        raise DescriptorError(f"{_shown(self)} is not in drm_fourcc.h as of {SOURCE}{_close_matches(characters)}.")

    @property
    def name(self) -> str:
        """DRM's name without DRM_FORMAT_ ("XRGB8888", "XRGB8888_BE"), or the four characters if it has none."""
        characters, big_endian = _split(self)
        name = FORMATS[characters][0] if characters in FORMATS else characters
        return name + _BIG_ENDIAN_SUFFIX * big_endian

    def __repr__(self) -> str:
        return f"Fourcc({str.__repr__(self)})"

    def __reduce__(self) -> tuple[type[Fourcc], tuple[int]]:
        # By number: as text, an unknown "xr24" would come back as XR24.
        return Fourcc, (self.code,)


# ---- from text and numbers


def _from_text(text: str) -> str:
    base, big_endian = _split(text.rstrip(" "), fold=True)
    base = base.rstrip(" ")
    code = _lookup(base)
    if code is None and _printable(base, big_endian):
        code = base
    if code is None:
        raise DescriptorError(
            f"{_shown(text)} is no pixel format{_close_matches(base)}. "
            "Give a fourcc such as XR24, or a name of drm_fourcc.h such as XRGB8888."
        )
    return code + _BIG_ENDIAN_SUFFIX * big_endian


def _from_code(code: int) -> str:
    if code == 0:
        raise DescriptorError("0 is no pixel format: DRM_FORMAT_INVALID. Was the format left out?")
    if 0 < code < 1 << 32:
        big_endian = code >= BIG_ENDIAN
        characters = (code & ~BIG_ENDIAN).to_bytes(4, "little").decode("latin-1").rstrip(" ")
        if _printable(characters, big_endian):
            return characters + _BIG_ENDIAN_SUFFIX * big_endian
    number = f"{code:#x}" if abs(code) < 1 << 64 else "a number of more than 64 bits"
    raise DescriptorError(f"{number} is no pixel format: not four printable ASCII characters, as 0x34325258 is XR24.")


def _split(text: str, *, fold: bool = False) -> tuple[str, bool]:
    """The part before _BE, and whether there was one. Four characters that end so are just these."""
    suffix = text[-len(_BIG_ENDIAN_SUFFIX) :]
    if len(text) > 4 and (suffix.upper() if fold else suffix) == _BIG_ENDIAN_SUFFIX:
        return text[: -len(_BIG_ENDIAN_SUFFIX)], True
    return str(text), False


def _lookup(text: str) -> str | None:
    """The fourcc of the header that text means: letter by letter, else in any capitals if only one fits."""
    prefixed = text[: len(_PREFIX)].upper() == _PREFIX
    name = text[len(_PREFIX) :] if prefixed else text
    if name in FORMATS and not prefixed:
        return name
    if name in _CODES:
        return _CODES[name]
    folded = name.upper()
    fits = {code for drm_name, code in _CODES.items() if folded == drm_name.upper()}
    if not prefixed:
        fits |= {code for code in FORMATS if folded == code.upper()}
    return fits.pop() if len(fits) == 1 else None


def _printable(characters: str, big_endian: bool) -> bool:
    # One character and _BE could not be told from four characters that end in _BE.
    return 1 + big_endian <= len(characters) <= 4 and characters.isascii() and characters.isprintable()


def _shown(text: str) -> str:
    """text as a message quotes it: one line, whatever it is."""
    return ascii(str(text)) if len(text) <= 40 else ascii(text[:40]) + "…"


def _close_matches(text: str) -> str:
    if not 1 <= len(text) <= 40:
        return ""
    from difflib import get_close_matches

    text = text.upper().removeprefix(_PREFIX)
    found = get_close_matches(text, [*FORMATS, *_CODES], n=20)
    found.sort(key=lambda name: not name.startswith(text[:3]))  # rather mistaken in the end than in the beginning
    codes = dict.fromkeys(code if code in FORMATS else _CODES[code] for code in found)
    listed = [code if FORMATS[code][0] == code else f"{code} ({FORMATS[code][0]})" for code in codes]
    return f"; close to it: {', '.join(listed[:3])}" if listed else ""


# ---- descriptions

_described: dict[str, FormatInfo | None] = {}


def _describe(fourcc: Fourcc) -> FormatInfo | None:
    if fourcc in _described:
        return _described[fourcc]
    characters, big_endian = _split(fourcc)
    if characters not in FORMATS:
        return None  # not kept: a producer could send any number of them
    _name, model, floating, linear, table = FORMATS[characters]
    planes = tuple(PlaneFormat(*plane[:5], tuple(Field(*field) for field in plane[5])) for plane in table)
    info: FormatInfo | None
    if not big_endian:
        info = FormatInfo(fourcc, fourcc.name, model, planes, floating, linear)
    elif swapped := _swap_bytes(planes):
        info = FormatInfo(fourcc, fourcc.name, model, swapped, floating, linear)
    else:
        info = None
    _described[fourcc] = info
    return info


def _swap_bytes(planes: tuple[PlaneFormat, ...]) -> tuple[PlaneFormat] | None:
    """The plane with the bytes of each pixel in reverse, or None if that leaves no whole fields."""
    plane, *others = planes
    if others or plane.block_width * plane.block_height > 1 or plane.block_bytes not in (2, 4, 8):
        return None
    fields = []
    for field in plane.fields:
        byte, bit = divmod(field.shift, 8)
        if bit + field.bits > 8:
            return None
        fields.append(Field(field.component, (plane.block_bytes - 1 - byte) * 8 + bit, field.bits, field.sample))
    in_order = tuple(sorted(fields, key=lambda field: field.shift))
    return (PlaneFormat(plane.block_bytes, 1, 1, plane.hsub, plane.vsub, in_order),)
