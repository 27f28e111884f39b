"""Where surfaces go: `save` to a file, `write` to a stream. One module a format, loaded when it is used."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import GlReadbackError, SinkError
from ..words import choices, shown
from ._replace import refusal, replacing

if TYPE_CHECKING:
    from ..surface import Surface
    from .base import Sink

# a file's ending, which is the format's name too: (module of this folder, its class)
REGISTRY = {
    "png": ("png", "PngSink"),
    "jpg": ("jpeg", "JpegSink"),
    "jpeg": ("jpeg", "JpegSink"),
    "webp": ("webp", "WebpSink"),
    "avif": ("avif", "AvifSink"),
    "ppm": ("ppm", "PpmSink"),
    "pam": ("pam", "PamSink"),
    "npy": ("npy", "NpySink"),
    "raw": ("raw", "RawSink"),
    "term": ("term", "TermSink"),
}

# The ways in which "term" shows a picture, best first.
SCREENS = ("kitty", "sixel", "blocks")

__all__ = ["REGISTRY", "SCREENS", "save", "sink_class", "write"]


def sink_class(format: str) -> type[Sink]:
    """The class behind a format of the registry; its module is loaded now. Raises SinkError if there is none."""
    try:
        module, name = REGISTRY[format.lower()]
    except KeyError:
        what = f"{shown(format)} is no picture format" if format else "no picture format was given"
        raise SinkError(f"{what}{choices(format.lower(), REGISTRY)}") from None
    found: type[Sink] = getattr(import_module(f".{module}", __name__), name)
    return found


def save(surface: Surface, path: str | os.PathLike[str], format: str | None = None, **options: Any) -> None:
    """Write a surface to a file. format is one of the registry's, that of path's ending if None; options are the sink's.

    The file appears whole or not at all: it is written in the same folder and renamed, and until then, and if anything
    goes wrong, what was at path stays. A pipe or a device is written to directly. Raises SinkError, in one line.
    """
    name = os.fsdecode(path)
    if "\0" in name:
        raise SinkError(f"cannot write {shown(name)}: no file's name has a zero byte in it")
    if format is None:
        format = os.path.splitext(name)[1][1:]
        if format.lower() not in REGISTRY:
            what = f"ends in {shown('.' + format)}, no picture format" if format else "has no ending to tell its format by"
            raise SinkError(f"{shown(name)} {what}{choices(format.lower(), REGISTRY)}. Or give the format (--format)")
    sink = _make(surface, format, options)
    try:
        with replacing(name) as stream:
            sink.write(surface, stream)
    except OSError as error:
        raise refusal(name, error) from error


def write(surface: Surface, stream: BinaryIO, format: str, **options: Any) -> None:
    """Write a surface to a binary stream, from its first byte to its last. The stream stays open and is not flushed.

    Raises SinkError for what the format cannot hold; the stream's own errors (OSError, BrokenPipeError) go through.
    """
    _make(surface, format, options).write(surface, stream)


def _make(surface: Surface, format: str, options: dict[str, Any]) -> Sink:
    """The sink with its options, having looked at the surface."""
    kind = sink_class(format)
    for option in options:
        if option not in kind.options:
            raise SinkError(f"{kind.name} has no option {shown(option)}{choices(option, kind.options)}")
    try:
        sink = kind(**options)
        sink.check(surface)
    except (GlReadbackError, ValueError) as error:
        raise error if isinstance(error, SinkError) else SinkError(str(error)) from None
    return sink
