"""QEMU's machine protocol (docs/interop/qmp-spec.rst): lines of JSON, as much of it as handing over a socket takes."""

from __future__ import annotations

import json
from typing import Any

from ..errors import SourceError
from .frames import parse_object

MAX_LINE = 1 << 20  # bytes; QEMU's replies to what is asked here are a few hundred


def command(name: str, **arguments: Any) -> bytes:
    """A command's line."""
    return json.dumps({"execute": name} | ({"arguments": arguments} if arguments else {})).encode() + b"\n"


def is_greeting(line: bytes) -> bool:
    """Whether the first line is QEMU's. Raises SourceError for what is not even JSON."""
    return "QMP" in parse_object(line, "the first line of the QMP socket")


def reply(line: bytes) -> Any:
    """What a command returned; None for a line that is an event. Raises SourceError with QEMU's own words for an error."""
    found = parse_object(line, "QEMU's line")
    if "error" in found:
        error = found["error"]
        said = error.get("desc") if isinstance(error, dict) else error
        raise SourceError(f"QEMU says: {ascii(said)[1:-1][:300]}")
    return found.get("return")
