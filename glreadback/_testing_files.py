"""Files of glreadback.testing: where a test's pictures go, under which names, and image files as arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import GlReadbackError, SinkError
from .testing import artefacts

if TYPE_CHECKING:
    from .surface import Surface

Array = np.ndarray[Any, np.dtype[Any]]

# ---- names

_ODD = re.compile(r"[^\w.,=+@\[\]-]", re.ASCII)  # what some file system, shell or artefact store does not take
_LONGEST = 100


def file_name(text: str) -> str:
    """text as the name of a file: as it is if it can be one, else with a few digits that no other text has."""
    found = _ODD.sub("_", text)
    if found == text and 0 < len(found) <= _LONGEST and found.strip("."):
        return found
    return f"{found[: _LONGEST - 9]}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def name_of_test(nodeid: str) -> str:
    """The file name of a test within its module: "TestScreen.test_red[XR24]"."""
    rest = nodeid.partition("::")[2] or nodeid
    head, bracket, parameters = rest.partition("[")
    return file_name(head.replace("::", ".") + bracket + parameters)


# ---- artefacts

_NAMES = ("expected", "actual", "difference")
_OURS = re.compile(rf"({'|'.join(_NAMES)})(-[0-9]+)?\.png")


class Artefacts:
    """The folder of a test's pictures. A test's first comparison clears away what an earlier run left there."""

    def __init__(self, nodeid: str) -> None:
        self._all, self._begun = artefacts()
        module = nodeid.partition("::")[0]
        parts = [file_name(part) for part in module.split("/") if part]
        self._folder = self._all.joinpath(*parts, name_of_test(nodeid)) if nodeid else self._all
        if self._folder not in self._begun:
            self._begun[self._folder] = 0
            self._clear()

    def _clear(self) -> None:
        if not self._folder.is_dir():
            return
        with suppress(OSError):
            for path in self._folder.iterdir():
                if _OURS.fullmatch(path.name):
                    path.unlink()
            self._folder.rmdir()  # unless something else is in it

    def leave(self, pictures: Mapping[str, Surface]) -> Iterator[str]:
        """Write pictures under their names, -2, -3 … at the end for a test's further failures. What to say of it."""
        self._begun[self._folder] += 1
        count = self._begun[self._folder]
        again = f"-{count}" if count > 1 else ""
        try:
            self._make()
            notes = []
            for name, surface in pictures.items():
                path = self._folder / f"{name}{again}.png"
                notes += _save(surface, path)
                yield f"{name}.png:".ljust(16) + str(path)
            yield from dict.fromkeys(notes)
        except (OSError, GlReadbackError) as error:
            yield f"pictures: they cannot be written: {error}"

    def _make(self) -> None:
        if not self._all.exists():
            self._all.mkdir(parents=True)
            (self._all / ".gitignore").write_text("*\n")
        self._folder.mkdir(parents=True, exist_ok=True)


def _save(surface: Surface, path: Path) -> list[str]:
    """Write a picture for people to look at; what there is to say if it lost something."""
    try:
        surface.save(path)
    except SinkError as error:
        from .pixels import deep

        if not deep(surface.fourcc.info):
            raise
        surface.to_image().save(path)
        return [f"pictures: rounded to 8 bits ({error})"]
    return []


# ---- image files


class Picture(NamedTuple):
    """What an image file holds: (height, width, channels) of uint8 or uint16; 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""

    pixels: Array
    name: str

    @property
    def most(self) -> int:
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def rgba(self) -> Array:
        """(height, width, 4); what has no alpha is opaque."""
        channels = self.pixels.shape[2]
        found = np.full((*self.pixels.shape[:2], 4), self.most, self.pixels.dtype)
        found[..., :3] = self.pixels[..., : 1 if channels < 3 else 3]
        if channels in (2, 4):
            found[..., 3] = self.pixels[..., -1]
        return found


_DEPTH = 24  # the place of IHDR's bit depth: the signature, length and type, width and height come first


def load(source: Any) -> Array:
    """An image file (a Path) or a Pillow image as (height, width, channels): uint8, or uint16 of a PNG of 16 bits.

    Channels are grey, grey and alpha, RGB or RGBA. Raises GlReadbackError.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, Path):
        return _channels(np.asarray(_plain(source)))
    try:
        with source.open("rb") as file:
            head = file.read(_DEPTH + 1)
        if head.startswith(b"\x89PNG") and head[_DEPTH] == 16:
            return _load16(source)
        with Image.open(source) as image:
            return _channels(np.asarray(_plain(image)))
    except FileNotFoundError:
        raise GlReadbackError(f"the picture {source} is missing") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise GlReadbackError(f"the picture {source} cannot be read: {error}") from None
    except RuntimeError as error:  # imagecodecs'
        raise GlReadbackError(f"the picture {source} cannot be read: {error}") from None


def _load16(path: Path) -> Array:
    """Pillow cuts 16-bit RGB down to 8."""
    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise GlReadbackError(f"the picture {path} has 16 bits a channel: pip install 'glreadback[hdr]' to read it") from None
    return _channels(imagecodecs.png_decode(path.read_bytes()))


def _channels(array: Array) -> Array:
    return array if array.ndim == 3 else array[..., None]


_PLAIN = ("L", "LA", "RGB", "RGBA", "I;16")


def _plain(image: Any) -> Any:
    """A Pillow image in one of the modes that arrays here have."""
    if "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _PLAIN else image.convert("RGBA" if "A" in image.getbands() else "RGB")
