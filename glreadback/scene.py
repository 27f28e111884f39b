"""What a display controller makes of planes, as plain values: which are seen, in what order, turned and blended how.

Nothing is opened here. The rules are those of the kernel's Documentation/gpu/drm-kms.rst, "Plane Composition Properties".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

from .color import Color
from .errors import DescriptorError
from .fourcc import Fourcc
from .frame import TRANSFORMS, Rect

KINDS = ("overlay", "primary", "cursor")  # DRM_PLANE_TYPE_*
_BOTTOM_UP = ("primary", "overlay", "cursor")  # where no zpos says it

# DRM_MODE_ROTATE_* and DRM_MODE_REFLECT_*
ROTATE_0, ROTATE_90, ROTATE_180, ROTATE_270, REFLECT_X, REFLECT_Y = (1 << bit for bit in range(6))
_QUARTERS = {ROTATE_0: 0, ROTATE_90: 1, ROTATE_180: 2, ROTATE_270: 3}

NONE, PREMULTIPLIED, COVERAGE = "None", "Pre-multiplied", "Coverage"  # the words of "pixel blend mode"
OPAQUE = 0xFFFF  # of "alpha"

_MATRICES = {"ITU-R BT.601 YCbCr": "601", "ITU-R BT.709 YCbCr": "709", "ITU-R BT.2020 YCbCr": "2020"}
_RANGES = {"YCbCr limited range": "narrow", "YCbCr full range": "full"}


class Area(NamedTuple):
    """A rectangle of a framebuffer, in pixels and parts of them."""

    x: float
    y: float
    width: float
    height: float

    def __str__(self) -> str:
        return f"{self.width:g}x{self.height:g}+{self.x:g}+{self.y:g}"

    @property
    def whole(self) -> Rect:
        """The pixels that it touches."""
        left, top = floor(self.x), floor(self.y)
        return Rect(left, top, ceil(self.x + self.width) - left, ceil(self.y + self.height) - top)


@dataclass(frozen=True, slots=True)
class Layer:
    """A plane as it is shown.

    source    the part of its framebuffer that is shown, in pixels before rotation
    target    where on the screen; it may reach beyond
    zpos      None where the driver does not say
    rotation  DRM_MODE_ROTATE_* | DRM_MODE_REFLECT_*
    alpha     of the whole plane, 0 to 1
    blend     a word of "pixel blend mode": what the pixels' own alpha does
    """

    plane: int
    kind: str
    framebuffer: int
    fourcc: Fourcc
    size: tuple[int, int]
    source: Area
    target: Rect
    zpos: int | None = None
    rotation: int = ROTATE_0
    alpha: float = 1.0
    blend: str = PREMULTIPLIED
    color: Color | None = None

    @property
    def has_alpha(self) -> bool:
        """Whether its pixels have an alpha of their own, used or not."""
        return not self.fourcc.known or self.fourcc.info.has_alpha

    @property
    def see_through(self) -> bool:
        """Whether what lies below takes part in what is seen."""
        return self.alpha < 1 or (self.blend != NONE and self.has_alpha)

    @property
    def transform(self) -> str:
        """The rotation in a Frame's words."""
        return transform_of(self.rotation)

    @property
    def sideways(self) -> bool:
        """Whether width and height change places."""
        return bool(self.rotation & (ROTATE_90 | ROTATE_270))

    @property
    def scaled(self) -> bool:
        """Whether the pixels shown are not one for one those of the framebuffer."""
        width, height = self.target.width, self.target.height
        return self.source != (*self.source.whole[:2], *((height, width) if self.sideways else (width, height)))

    def covers(self, width: int, height: int) -> bool:
        """Whether it reaches over all of a screen of that size."""
        x, y = self.target.x, self.target.y
        return x <= 0 and y <= 0 and x + self.target.width >= width and y + self.target.height >= height

    def touches(self, width: int, height: int) -> bool:
        """Whether any of it is on a screen of that size."""
        x, y, w, h = self.target
        return w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0


def layer(
    plane: int, framebuffer: int, fourcc: int, size: tuple[int, int], values: Mapping[str, int], words: Mapping[str, str]
) -> Layer:
    """A Layer of a plane's properties: their values by name, and the words of those that are enumerations.

    Raises DescriptorError where the rectangle is outside of the framebuffer: the two are not of the same moment.
    """
    source = Area(*(values.get(f"SRC_{name}", 0) / 65536 for name in "XYWH"))
    target = Rect(*(_signed(values.get(f"CRTC_{name}", 0)) for name in "XYWH"))
    width, height = size
    if source.width <= 0 or source.height <= 0 or source.x + source.width > width or source.y + source.height > height:
        raise DescriptorError(f"plane {plane} shows {source} of a framebuffer of {width}x{height} pixels")
    matrix, span = _MATRICES.get(words.get("COLOR_ENCODING", "")), _RANGES.get(words.get("COLOR_RANGE", ""))
    code = Fourcc(fourcc)
    yuv = code.known and code.info.model == "yuv"
    return Layer(
        plane,
        KINDS[values["type"]] if values.get("type", 0) < len(KINDS) else KINDS[0],
        framebuffer,
        code,
        size,
        source,
        target,
        values.get("zpos"),
        values.get("rotation", ROTATE_0),
        min(values.get("alpha", OPAQUE), OPAQUE) / OPAQUE,
        # Drivers without the property blend pre-multiplied pixels.
        words.get("pixel blend mode", PREMULTIPLIED),
        Color(matrix=matrix, range=span) if yuv and (matrix or span) else None,
    )


def _signed(value: int) -> int:
    """A signed property's value; the kernel gives 64 bits, some drivers fill 32."""
    if value >= 1 << 63:
        return value - (1 << 64)
    return int(struct.unpack("=i", struct.pack("=I", value & 0xFFFFFFFF))[0])


def transform_of(rotation: int) -> str:
    """The transform of a Frame whose content a plane shows with that rotation.

    A plane reflects first and then turns its content counter-clockwise to show it; a transform says how the content had
    been turned before, which is undone by turning it clockwise and reflecting it last.
    """
    quarters = next((turn for bit, turn in _QUARTERS.items() if rotation & bit), 0)
    if rotation & REFLECT_Y:  # that along the other axis, upside down
        quarters += 2
    if bool(rotation & REFLECT_X) != bool(rotation & REFLECT_Y):
        return TRANSFORMS[4 + quarters % 4]
    return TRANSFORMS[-quarters % 4]


def seen(layers: Iterable[Layer], width: int, height: int, cursor: bool) -> list[Layer]:
    """The layers that are seen on a screen of that size, from bottom to top; the cursor only if wanted."""
    found = [layer for layer in layers if layer.touches(width, height) and layer.alpha and (cursor or layer.kind != KINDS[2])]
    stated = all(layer.zpos is not None for layer in found)
    # Of equal ones the higher id is on top (drm_blend.c).
    found.sort(key=lambda layer: ((layer.zpos or 0) if stated else _BOTTOM_UP.index(layer.kind), layer.plane))
    hiding = [number for number, layer in enumerate(found) if layer.covers(width, height) and not layer.see_through]
    return found[hiding[-1] :] if hiding else found


def alone(layers: list[Layer], width: int, height: int) -> tuple[Rect, str, Fourcc] | None:
    """How the screen is read from a single framebuffer: (visible, transform, fourcc); None where it must be composed.

    The fourcc is that without alpha: behind the lowest layer there is black, not nothing.
    """
    if len(layers) != 1:
        return None
    (only,) = layers
    if only.target != (0, 0, width, height) or only.scaled or only.alpha < 1:
        return None
    code = only.fourcc
    if only.has_alpha:
        twin = _without_alpha(code)
        if twin is None or only.blend == COVERAGE:
            return None
        code = twin
    return only.source.whole, only.transform, code


def _without_alpha(fourcc: Fourcc) -> Fourcc | None:
    """The format of the same bytes with padding for alpha; None where DRM has none."""
    if not fourcc.known:
        return None
    name = fourcc.info.name.replace("A", "X", 1)
    return next((code for code in Fourcc.all() if code.info.name == name and len(code.info.planes) == 1), None)


def deep(layers: Iterable[Layer]) -> bool:
    """Whether a picture of them takes more than eight bits a colour."""
    return any(layer.fourcc.known and layer.fourcc.info.depth > 8 for layer in layers)
