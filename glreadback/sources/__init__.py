"""Where frames come from: `open_source("scheme:path?key=value&…")`. One module each, loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .spec import Spec, parse

if TYPE_CHECKING:
    from .base import Source

# scheme: (module of this folder, its class)
REGISTRY = {
    "pattern": ("pattern", "PatternSource"),
    "file": ("file", "FileSource"),
    "fd": ("fd", "FdSource"),
    "pid": ("pid", "PidSource"),
    "unix": ("unix", "UnixSource"),
    "kms": ("kms", "KmsSource"),
    "vfio": ("vfio", "VfioSource"),
    "qemu": ("qemu", "QemuSource"),
}

__all__ = ["REGISTRY", "Spec", "open_source", "parse_spec", "source_class"]


def parse_spec(text: str) -> Spec:
    """Take a SOURCE string apart; pure. Raises SourceSyntaxError: no such source, an option without name or value."""
    return parse(text, REGISTRY)


def source_class(scheme: str) -> type[Source]:
    """The class behind a scheme of the registry; its module is loaded now."""
    module, name = REGISTRY[scheme]
    found: type[Source] = getattr(import_module(f".{module}", __name__), name)
    return found


def open_source(text: str, *, device: str | None = None, isolate: bool = False) -> Source:
    """Open the source that a SOURCE string names. The caller closes it.

    device and isolate are a Reader's, for a source that has to read pictures itself before it gives one out: kms: where a
    screen is several planes, qemu: where a console is a dma-buf. Others have no use for them.

    Raises SourceSyntaxError for a string that is none, SourceError where it cannot be opened, DescriptorError where the
    keys describe a buffer that cannot be.
    """
    spec = parse_spec(text)
    kind = source_class(spec.scheme)
    reading = {name: value for name, value in (("device", device), ("isolate", isolate)) if name in kind.reading}
    return kind(spec.path, **spec.values(kind.keys), **reading)
