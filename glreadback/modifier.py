"""DRM's format modifiers: how a buffer's pixels are laid out in memory, as numbers and as names.

Everything here follows the kernel's include/uapi/drm/drm_fourcc.h, from which _drm_fourcc.py is generated.
"""

from __future__ import annotations

import operator
from typing import ClassVar, SupportsIndex

from ._drm_fourcc import FAMILIES, MODIFIERS, VENDORS, Parameter
from .errors import DescriptorError

_VENDOR_SHIFT = 56
_VENDOR_VALUE = (1 << _VENDOR_SHIFT) - 1

_NAMES: dict[int, str] = {}
for _name, _value in MODIFIERS.items():
    _NAMES.setdefault(_value, _name)
_VENDOR_NAMES = {number: name for name, number in VENDORS.items()}


class Modifier(int):
    """A DRM format modifier: 64 bits, of which the upper eight are the vendor and the rest is the vendor's own.

    Made from the number, as an int or written in any base; from a name of drm_fourcc.h, with or without
    DRM_FORMAT_MOD_ or FORMAT_MOD_; or from what str() gives. str() gives, in this order of preference:

        LINEAR, I915_X_TILED                    the header's name
        AMD(GFX10_RBPLUS,64K_R_X,DCC,PACKERS=3) a family of the header and the parameters that are not 0
        QCOM:0x2a, 0x1f:0x1                     the vendor and its 56 bits

    LINEAR is 0: rows of pixels. INVALID is "the driver knows": the layout has been agreed on elsewhere, or not at all.
    Raises DescriptorError for a number of more than 64 bits and for a name that is none.
    """

    LINEAR: ClassVar[Modifier]
    INVALID: ClassVar[Modifier]

    def __new__(cls, value: str | SupportsIndex) -> Modifier:
        number = _parse(value.strip()) if isinstance(value, str) else operator.index(value)
        if not 0 <= number < 1 << 64:
            raise DescriptorError(
                f"{_shown(value)} is no modifier: a modifier is a number of 64 bits, 0 to 0xffffffffffffffff."
            )
        return int.__new__(cls, number)

    @property
    def name(self) -> str:
        """Its name, from which Modifier() makes it again."""
        number = int(self)
        if number in _NAMES:
            return _NAMES[number]
        for family, (base, parameters) in FAMILIES.items():
            if number & ~_mask(parameters) == base:
                return f"{family}({','.join(_spell(number, parameters))})"
        return f"{self.vendor}:{number & _VENDOR_VALUE:#x}"

    @property
    def vendor(self) -> str:
        """The vendor as the header calls it ("NONE", "INTEL", "AMD", …), or its number ("0x1f")."""
        number = int(self) >> _VENDOR_SHIFT
        return _VENDOR_NAMES.get(number, f"{number:#x}")

    @property
    def is_linear(self) -> bool:
        """Whether rows of pixels lie one after the other, a stride apart."""
        return int(self) == MODIFIERS["LINEAR"]

    @property
    def is_invalid(self) -> bool:
        """Whether it says nothing about the layout."""
        return int(self) == MODIFIERS["INVALID"]

    @property
    def tiled(self) -> bool:
        """Whether it names a layout that is not linear: tiled, compressed or both."""
        return not (self.is_linear or self.is_invalid)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Modifier({self.name!r})"


Modifier.LINEAR = Modifier(MODIFIERS["LINEAR"])
Modifier.INVALID = Modifier(MODIFIERS["INVALID"])


# ---- from numbers to text


def _mask(parameters: tuple[Parameter, ...]) -> int:
    return sum((1 << bits) - 1 << shift for _, shift, bits, _ in parameters)


def _spell(number: int, parameters: tuple[Parameter, ...]) -> list[str]:
    """The parameters that are not 0: as the value's own name, as a flag, or as label=value."""
    spelled = []
    for label, shift, bits, words in parameters:
        if not (value := number >> shift & (1 << bits) - 1):
            continue
        if value in words:
            spelled.append(words[value])
        elif bits == 1:
            spelled.append(label)
        else:
            spelled.append(f"{label}={value}" if label else str(value))
    return spelled


# ---- from text to numbers


def _parse(text: str) -> int:
    for read in (_parse_name, _parse_number, _parse_family, _parse_vendor):
        if (number := read(text)) is not None:
            return number
    raise DescriptorError(
        f"{_shown(text)} is no modifier{_close_matches(text)}. "
        "Give a name of drm_fourcc.h such as LINEAR or I915_X_TILED, or the number."
    )


def _fold(name: str) -> str:
    """A name as it is compared: capitals, and without what all of the header's names have in common."""
    return name.upper().removeprefix("DRM_").replace("FORMAT_MOD_", "", 1)


def _parse_name(text: str) -> int | None:
    if text in MODIFIERS:
        return MODIFIERS[text]
    # No two of the header's names differ in capitals alone.
    return {_fold(name): value for name, value in MODIFIERS.items()}.get(_fold(text))


def _parse_number(text: str) -> int | None:
    try:
        return int(text, 10 if text.isdecimal() else 0)
    except ValueError:
        return None


def _parse_family(text: str) -> int | None:
    """AMD(GFX9,DCC,PIPE_XOR_BITS=2): None if this is not of that form, DescriptorError if a parameter is wrong."""
    head, opening, rest = text.partition("(")
    family = next((name for name in FAMILIES if _fold(name) == _fold(head)), None)
    if family is None or not opening or not rest.endswith(")"):
        return None
    number, parameters = FAMILIES[family]
    given: set[int] = set()
    for part in filter(None, (part.strip() for part in rest[:-1].split(","))):
        shift, bits, value = _parse_parameter(family, parameters, part)
        if shift in given:
            raise DescriptorError(f"{_shown(text)} is no modifier: {_shown(part)} sets again what was set before it.")
        if not 0 <= value < 1 << bits:
            raise DescriptorError(f"{_shown(text)} is no modifier: {_shown(part)} is not in 0 to {(1 << bits) - 1}.")
        given.add(shift)
        number |= value << shift
    return number


def _parse_parameter(family: str, parameters: tuple[Parameter, ...], part: str) -> tuple[int, int, int]:
    """Shift, bits and value of one parameter."""
    name, equals, number = (piece.strip().upper() for piece in part.partition("="))
    for label, shift, bits, words in parameters:
        if not equals and (found := [value for value, word in words.items() if word.upper() == name]):
            return shift, bits, found[0]
        if not equals and bits == 1 and label.upper() == name:
            return shift, bits, 1
        written = number if equals and label.upper() == name else name if not equals and not label else ""
        if written and (value := _parse_number(written)) is not None:
            return shift, bits, value
    takes: list[str] = []
    for label, _, bits, words in parameters:
        takes += [*words.values(), label if bits == 1 else f"{label}=number" if label else "a number"]
    raise DescriptorError(f"{family} has no parameter {_shown(part)}. It takes {', '.join(takes)}.")


def _parse_vendor(text: str) -> int | None:
    """VENDOR:0x…, the vendor by name or number."""
    vendor, colon, value = text.partition(":")
    if not colon:
        return None
    number, low = VENDORS.get(vendor.upper(), _parse_number(vendor)), _parse_number(value)
    if number is None or low is None or not (0 <= number < 1 << 8 and 0 <= low <= _VENDOR_VALUE):
        return None
    return number << _VENDOR_SHIFT | low


def _shown(value: str | SupportsIndex) -> str:
    """value as a message quotes it: one line, whatever it is."""
    if not isinstance(value, str):
        number = operator.index(value)
        return f"{number:#x}" if abs(number) < 1 << 128 else "a number of more than 128 bits"
    return ascii(value) if len(value) <= 80 else ascii(value[:80]) + "…"


def _close_matches(text: str) -> str:
    if not 1 <= len(text) <= 80:
        return ""
    from difflib import get_close_matches

    names = {_fold(name): name for name in (*MODIFIERS, *(f"{family}(…)" for family in FAMILIES))}
    found = get_close_matches(_fold(text), names, n=3)
    return f"; close to it: {', '.join(names[name] for name in found)}" if found else ""
