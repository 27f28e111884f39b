"""SOURCE strings, `scheme:path?key=value&…`: text in, values out. Nothing is opened here.

path and values may hold any byte as %XX (%3F is "?", %26 is "&", %25 is "%", %23 is "#"); a % that no two hexadecimal
digits follow stands for itself. Key names and schemes are plain words. A text without a scheme that has a "/" or a "."
is the path of a file: `./shot.raw?size=…` is `file:./shot.raw?size=…`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SourceSyntaxError
from ..fourcc import Fourcc
from ..modifier import Modifier
from ..words import choices, shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+-]*):")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+", re.ASCII)
_EXTENT = re.compile(r"([0-9]{1,10})[xX×]([0-9]{1,10})", re.ASCII)
_COLOR = re.compile(r"#?([0-9A-Fa-f]{6})")
_LARGEST = 2**31 - 1  # what EGL's attributes can say of sizes, offsets and strides


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a source: parse turns its text into the value, or raises ValueError saying what the value must be.

    example is a value that could be given; help is for people, with the default if there is one.
    """

    parse: Callable[[str], Any]
    example: str
    help: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """A SOURCE string taken apart: path and options are decoded, options are text still."""

    scheme: str
    path: str
    options: Mapping[str, str]

    def values(self, keys: Mapping[str, Key]) -> dict[str, Any]:
        """The options that were given, as values. Raises SourceSyntaxError: a key unknown, missing or wrong."""
        values = {}
        for name, text in self.options.items():
            if name not in keys:
                raise SourceSyntaxError(f"{self.scheme}: has no key {shown(name)}{choices(name, keys)}")
            try:
                values[name] = keys[name].parse(text)
            except ValueError as error:
                raise SourceSyntaxError(f"{self.scheme}: {name}={shown(text)}: {error}") from None
        missing = [name for name, key in keys.items() if key.required and name not in values]
        if missing:
            example = "&".join(f"{name}={keys[name].example}" for name in missing)
            raise SourceSyntaxError(f"{self.scheme}: needs {'= and '.join(missing)}=, such as {self.scheme}:…?{example}")
        return values


def parse(text: str, schemes: Iterable[str]) -> Spec:
    """Take a SOURCE string apart. Raises SourceSyntaxError for a scheme that is none of schemes and for bad options."""
    schemes = tuple(schemes)
    head, question, tail = text.partition("?")
    if found := _SCHEME.match(head):
        scheme, path = found[1].lower(), head[found.end() :]
    elif head in schemes:
        scheme, path = head, ""
    elif "/" in head or "." in head:
        scheme, path = "file", head
    else:
        scheme, path = head, ""
    if scheme not in schemes:
        what = f"{shown(scheme)} is no source" if scheme else "no source was named"
        raise SourceSyntaxError(
            f"{what}{choices(scheme, schemes)}. A source is scheme:path?key=value&…, such as pattern:smpte; "
            "a file in this folder is ./NAME"
        )
    return Spec(scheme, _decode(path, scheme), _options(tail, scheme) if question else {})


def _options(text: str, scheme: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, equals, value = part.partition("=")
        if not name:
            raise SourceSyntaxError(f"{scheme}: {shown('?' + text)} has an option without a name. Write key=value&key=value")
        if not equals or not value:
            raise SourceSyntaxError(f"{scheme}: {shown(name)} has no value. Write {_plain(name)}=…, or leave it out")
        if name in options:
            raise SourceSyntaxError(f"{scheme}: {shown(name)} is given twice")
        options[name] = _decode(value, scheme)
    return options


def _decode(text: str, scheme: str) -> str:
    decoded = _ESCAPES.sub(lambda found: os.fsdecode(bytes.fromhex(found[0].replace("%", ""))), text)
    if "\0" in decoded:
        raise SourceSyntaxError(f"{scheme}: {shown(text)} has a zero byte in it; no path or value can")
    return decoded


def _plain(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 20 else "key"


# ---- kinds of values


def number(text: str, least: int = 0, most: int = _LARGEST) -> int:
    """A whole number, decimal or 0x…, between least and most."""
    allowed = f"it must be a whole number from {least} to {most}, decimal or 0x…"
    if not _NUMBER.fullmatch(text) or len(text) > 20:
        raise ValueError(allowed)
    value = int(text, 16 if text[:2].lower() == "0x" else 10)
    if not least <= value <= most:
        raise ValueError(allowed)
    return value


def extent(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    found = _EXTENT.fullmatch(text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (1 <= width <= _LARGEST and 1 <= height <= _LARGEST):
        raise ValueError(f"it must be WIDTHxHEIGHT in pixels, such as 1920x1080, each from 1 to {_LARGEST}")
    return width, height


def fourcc(text: str) -> Fourcc:
    """A format that DRM's table has: XR24, XRGB8888 or its number."""
    found = Fourcc(number(text, most=2**32 - 1) if _NUMBER.fullmatch(text) and len(text) > 4 else text)
    _ = found.info  # raises DescriptorError, a ValueError, with what is close
    return found


def modifier(text: str) -> Modifier:
    """A memory layout by DRM's name or by number."""
    return Modifier(text)


def color(text: str) -> tuple[int, int, int]:
    """#rrggbb, or without the # that shells take for a comment."""
    found = _COLOR.fullmatch(text)
    if not found:
        raise ValueError("it must be six hexadecimal digits, rrggbb")
    red, green, blue = bytes.fromhex(found[1])
    return red, green, blue


def choice(allowed: Iterable[str], what: str) -> Callable[[str], str]:
    """One word of several."""
    words = tuple(allowed)

    def parse_choice(text: str) -> str:
        if text not in words:
            raise ValueError(f"no such {what}{choices(text, words)}")
        return text

    return parse_choice


SIZE = Key(extent, "1920x1080", "width and height in pixels", required=True)
FOURCC = Key(fourcc, "XR24", "the pixel format: DRM's code, name or number", required=True)
STRIDE = Key(number, "7680", "bytes from row to row; default: packed rows, those of further planes in proportion to plane 0's")
OFFSET = Key(number, "0", "the plane's first byte; default: 0, and where the plane before it ends")


def numbered(name: str, key: Key, planes: range) -> dict[str, Key]:
    """The same key once for each of those planes: offset, offset1, offset2 …; plane 0's has no number."""
    return {f"{name}{index or ''}": key for index in planes}
