"""What EGL and GL can do here, tried out: a process of its own for `glreadback doctor`, since a bad driver may end it.

Writes one JSON object a line as it goes: {"trying": what} before each step that a driver could die in, then
{"device": {…}} with what came of it, or {"error": why} where EGL itself does not work.
"""

from __future__ import annotations

import json
from typing import Any

from ..egl.device import SOFTWARE, Device, devices
from ..errors import GlReadbackError
from ..importer import Importer
from ..reader import Reader
from ..sources import open_source

# An offset and a padded stride: Mesa before 25.0.3 ignores the one, read-only imports get the other wrong.
_PICTURE = "pattern:gradient?size=33x17&fourcc=XR24&offset=64&stride=192"


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def _try(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {"name": device.name, "card": device.card, "works": False, "why": ""}
    try:
        importer = Importer(device.name)
        try:
            capabilities = importer.capabilities
            found |= {"driver": capabilities.driver, "renderer": capabilities.renderer, "version": capabilities.version}
            found |= {"hardware": importer.display.hardware, "formats": len(capabilities.formats)}
        finally:
            importer.close()
        # Hardware drivers take no files or memfds, and few take udmabufs: an import there would prove nothing.
        if device.name == SOFTWARE:
            _say(trying=f"a read on {device.name}")
            found["why"] = _read(device.name)
        found["works"] = not found["why"]
    except GlReadbackError as error:
        found["why"] = str(error)
    return found


def _read(device: str) -> str:
    """Read a test picture; why it did not come out right, "" if it did."""
    with open_source(_PICTURE) as source, Reader(device) as reader:
        frame = next(source.frames())
        right = reader.read(frame, route="map").tobytes()
        return "" if reader.read(frame, route="alias").tobytes() == right else "a test picture came out wrong"


def main() -> None:
    """Try every EGL device."""
    _say(trying="to list the EGL devices")
    try:
        found = devices()
    except GlReadbackError as error:
        _say(error=str(error))
        return
    for device in found:
        _say(trying=f"the EGL device {device.name}")
        _say(device=_try(device))


if __name__ == "__main__":
    main()
