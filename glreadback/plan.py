"""Which route a read takes: a pure function of the frame's layout, the wanted fourcc and the device's capabilities.

Everything here is data and set arithmetic over DRM's format table; no GL, no descriptors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from . import yuvcpu
from .dmabuf import DmaBuf, check_extent
from .errors import DescriptorError, ImportRejected
from .fourcc import FormatInfo, Fourcc
from .frame import Frame, as_frame
from .modifier import Modifier

ROUTES = ("alias", "native", "draw", "map")


class Access(NamedTuple):
    """A pair for glReadPixels, as GL's numbers, and the bytes of a pixel read with it."""

    format: int
    type: int
    bytes: int


_RED, _RG, _RGB, _RGBA, _BGRA = 0x1903, 0x8227, 0x1907, 0x1908, 0x80E1
_UBYTE, _USHORT, _HALF = 0x1401, 0x1403, 0x140B
_565, _4444_REV, _1555_REV, _2101010_REV = 0x8363, 0x8365, 0x8366, 0x8368

# Formats that read as a plain copy of memory, by bytes. Any linear bytes can be imported as one of these.
ALIASES: Mapping[int, tuple[Fourcc, Access]] = {
    1: (Fourcc("R8"), Access(_RED, _UBYTE, 1)),
    2: (Fourcc("GR88"), Access(_RG, _UBYTE, 2)),
    4: (Fourcc("AB24"), Access(_RGBA, _UBYTE, 4)),
    8: (Fourcc("AB48"), Access(_RGBA, _USHORT, 8)),
}
_SWAPPED = Access(_BGRA, _UBYTE, 4)

# The one pair that is exact for a format imported as it is. ES accepts others and silently loses bits: a whitelist.
# For X formats the driver puts 1 into X, so the X bits alone are not the buffer's.
NATIVE: Mapping[Fourcc, Access] = {
    Fourcc("AR24"): Access(_BGRA, _UBYTE, 4),
    Fourcc("XR24"): Access(_BGRA, _UBYTE, 4),
    Fourcc("AB24"): Access(_RGBA, _UBYTE, 4),
    Fourcc("XB24"): Access(_RGBA, _UBYTE, 4),
    Fourcc("RG16"): Access(_RGB, _565, 2),
    Fourcc("AR15"): Access(_BGRA, _1555_REV, 2),
    Fourcc("AR12"): Access(_BGRA, _4444_REV, 2),
    Fourcc("AB30"): Access(_RGBA, _2101010_REV, 4),
    Fourcc("AB4H"): Access(_RGBA, _HALF, 8),
    Fourcc("XB4H"): Access(_RGBA, _HALF, 8),
    Fourcc("AB48"): Access(_RGBA, _USHORT, 8),
    Fourcc("XB48"): Access(_RGBA, _USHORT, 8),
    Fourcc("R8"): Access(_RED, _UBYTE, 1),
    Fourcc("R16"): Access(_RED, _USHORT, 2),
    Fourcc("GR88"): Access(_RG, _UBYTE, 2),
}


class Target(NamedTuple):
    """What a draw renders into: GL's internal format, the pair that reads it back exactly, its fourcc."""

    name: str
    internal: int
    access: Access
    fourcc: Fourcc


# A wanted fourcc can be drawn if its components are one of these with the components in any order: the shader
# puts them there, so that the read-back is always the target's own pair.
TARGETS: tuple[Target, ...] = (
    Target("RGBA8", 0x8058, Access(_RGBA, _UBYTE, 4), Fourcc("AB24")),
    Target("RGB10_A2", 0x8059, Access(_RGBA, _2101010_REV, 4), Fourcc("AB30")),
    Target("RGBA16", 0x805B, Access(_RGBA, _USHORT, 8), Fourcc("AB48")),
    Target("RGBA16F", 0x881A, Access(_RGBA, _HALF, 8), Fourcc("AB4H")),
    Target("R8", 0x8229, Access(_RED, _UBYTE, 1), Fourcc("R8")),
)
_NEEDS = {"RGBA16": "GL_EXT_texture_norm16", "RGBA16F": "GL_EXT_color_buffer_float"}


@dataclass(frozen=True)
class Capabilities:
    """What a device can do, asked once.

    formats maps fourcc -> modifier -> whether it can only be sampled as an external texture, as the driver lists them.
    It is empty where the driver cannot be asked. max_extent is in pixels; desktop tells a
    borrowed desktop GL context from GLES. Driver lists promise too much
    (llvmpipe's NV12): plan() relies on them only for the alias formats and for tiled modifiers.
    """

    device: str = "software"
    driver: str = ""
    renderer: str = ""
    version: str = ""
    software: bool = True
    desktop: bool = False
    max_extent: int = 16384
    formats: Mapping[Fourcc, Mapping[int, bool]] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()

    def sampler(self, fourcc: Fourcc, modifier: int) -> str | None:
        """ "2d" or "external": how such an import can be used; None where the driver does not list it."""
        if not self.formats:
            return None if Modifier(modifier).tiled else "2d"
        modifiers = self.formats.get(fourcc)
        if modifiers is None:
            return None
        # INVALID is taken by every driver and listed by none.
        if Modifier(modifier).is_invalid:
            return "external" if modifiers and all(modifiers.values()) else "2d"
        external = modifiers.get(int(modifier))
        return None if external is None else "external" if external else "2d"


@dataclass(frozen=True, slots=True)
class Route:
    """How one read is done. str(route) is its name, and a route equals its name.

    name       "alias", "native", "draw" or "map"
    fourcc     of the surface that comes out
    exact      whether every bit of every component is the buffer's
    reason     why this one, for people
    access     the pair the pixels leave GL with; None for map
    sampler    draw only: "2d" or "external"
    raw        draw only: planes are imported as plain bytes and decoded by the shader, not by the driver
    opaque     alpha is forced to 1 after the read
    converted  map only: the planes are converted on the CPU (yuvcpu.py)
    target     draw only: what is rendered into
    """

    name: str
    fourcc: Fourcc
    exact: bool
    reason: str
    access: Access | None = None
    sampler: str = ""
    raw: bool = False
    opaque: bool = False
    converted: bool = False
    target: Target | None = None

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.name == other
        if not isinstance(other, Route):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(self.name)


class Match(NamedTuple):
    """How the bytes of one fourcc become another's at no cost beyond the read: red and blue swapped, alpha forced."""

    swap: bool
    opaque: bool


@functools.cache
def match(source: Fourcc, wanted: Fourcc) -> Match | None:
    """The Match from source to wanted, None if the read alone cannot do it."""
    if source == wanted:
        return Match(False, False)
    one, other = source.info, wanted.info
    if len(one.planes) > 1 or len(other.planes) > 1 or one.floating != other.floating or one.model != other.model:
        return None
    a, b = one.planes[0], other.planes[0]
    if (a.block_bytes, a.block_width, a.block_height) != (b.block_bytes, b.block_width, b.block_height):
        return None
    if one.model != "rgb" or (a.block_width, a.block_height) != (1, 1):
        return None
    for swap in (False, True) if a.block_bytes == 4 else (False,):
        # BGRA for RGBA exchanges the first and third byte.
        place = {0: 16, 16: 0} if swap else {}
        have = {(place.get(f.shift, f.shift), f.bits): f.component for f in a.fields}
        if swap and any(f.bits != 8 for f in a.fields):
            continue
        opaque = False
        for f in b.fields:
            found = have.get((f.shift, f.bits))
            if f.component == "A" and found == "X":
                opaque = True
            elif f.component != "X" and found != f.component:
                break
        else:
            return Match(swap, opaque)
    return None


@functools.cache
def target_for(wanted: Fourcc) -> Target | None:
    """The draw target whose components, in some order, are wanted's."""
    info = wanted.info
    if info.model != "rgb" or len(info.planes) > 1:
        return None
    layout = info.planes[0]
    shape = (layout.block_bytes, info.floating, sorted((f.shift, f.bits) for f in layout.fields))
    for target in TARGETS:
        own = target.fourcc.info
        if shape == (own.planes[0].block_bytes, own.floating, sorted((f.shift, f.bits) for f in own.planes[0].fields)):
            return target
    return None


def drawable(target: Target, capabilities: Capabilities) -> bool:
    """Whether a device can render into a target."""
    need = _NEEDS.get(target.name)
    return need is None or need in capabilities.extensions


def default_fourcc(info: FormatInfo) -> Fourcc:
    """What a read gives when nobody asks: packed RGB stays as it is, anything else becomes AB24, or AB48 if deeper."""
    if info.model == "rgb" and len(info.planes) == 1 and info.linear:
        return info.fourcc
    return Fourcc("AB48") if info.depth > 8 else Fourcc("AB24")


def alias_bytes(unit: int, *steps: int) -> int:
    """The widest alias of at most unit bytes that divides every offset, stride and row length given."""
    return next(size for size in (8, 4, 2, 1) if unit % size == 0 and all(step % size == 0 for step in steps))


def plan(
    picture: Frame | DmaBuf,
    fourcc: Fourcc | str | int | None = None,
    capabilities: Capabilities | None = None,
    *,
    route: str | None = None,
    changed: str = "",
) -> Route:
    """How to read picture as fourcc (None: the default one) on a device with these capabilities.

    capabilities None means that no GL works: only map is left. route asks for one route by name. changed says what else
    happens to the pixels ("scaled", "tone-mapped"): only a draw can do that.
    Raises DescriptorError where the wanted fourcc or the asked route is impossible for such a picture, and
    ImportRejected where this device has no way to read it.
    """
    frame = as_frame(picture)
    buf = frame.buffer
    info = buf.fourcc.info
    wanted = default_fourcc(info) if fourcc is None else Fourcc(fourcc)
    if route is not None and route not in ROUTES:
        raise DescriptorError(f"route {route!r} is unknown; there are {', '.join(ROUTES)}")
    if capabilities is not None:
        check_extent(buf, capabilities.max_extent)
    if frame.transform != "normal":
        turned = f"turned ({frame.transform})"
        changed = f"{changed} and {turned}" if changed else turned
    tried: list[str] = []
    for name in (route,) if route else ROUTES:
        found = _PLANNERS[name](frame, info, wanted, capabilities, changed, asked=route is not None)
        if isinstance(found, Route):
            return found
        tried.append(f"{name}: {found}")
    what = f"{buf} (modifier {buf.modifier}) cannot be read as {wanted}"
    if route:
        raise DescriptorError(f"{what} by the {route} route: {tried[0].partition(': ')[2]}")
    if target_for(wanted) is None and fourcc is not None:
        names = ", ".join(str(target.fourcc) for target in TARGETS)
        raise DescriptorError(
            f"{what}: ask for {buf.fourcc}, or a format that can be drawn ({names} in any order of components)"
        )
    raise ImportRejected(
        f"{what} here: {'; '.join(tried)}",
        fourcc=buf.fourcc,
        modifier=buf.modifier,
        planes=len(buf.planes),
        accepted=tuple((capabilities.formats.get(buf.fourcc) or {}) if capabilities else ()),
    )


def _alias(frame: Frame, info: FormatInfo, wanted: Fourcc, caps: Capabilities | None, changed: str, asked: bool) -> Route | str:
    if caps is None:
        return "no GL works"
    if not frame.buffer.linear:
        return f"modifier {frame.buffer.modifier} is not LINEAR"
    if changed:
        return f"the picture is {changed}"
    found = match(info.fourcc, wanted)
    if found is None or len(info.planes) > 1:
        return f"{info.fourcc} is no plain copy of {wanted}"
    unit = 4 if found.swap else alias_bytes(info.planes[0].block_bytes)
    alias, access = ALIASES[unit]
    if caps.sampler(alias, Modifier.LINEAR) != "2d":
        return f"this device takes no linear {alias} into a framebuffer"
    how = f"linear: the same bytes as {alias}"
    if found.swap:
        how += ", red and blue swapped by the read"
    return Route("alias", wanted, True, how, _SWAPPED if found.swap else access, opaque=found.opaque)


def _native(
    frame: Frame, info: FormatInfo, wanted: Fourcc, caps: Capabilities | None, changed: str, asked: bool
) -> Route | str:
    if caps is None:
        return "no GL works"
    if changed:
        return f"the picture is {changed}"
    access = NATIVE.get(info.fourcc)
    if access is None:
        return f"no read pair is exact for {info.fourcc}"
    found = match(info.fourcc, wanted)
    if found is None or (found.swap and (access.type != _UBYTE or access.bytes != 4)):
        return f"{info.fourcc} is no plain copy of {wanted}"
    if caps.sampler(info.fourcc, frame.buffer.modifier) != "2d":
        return f"this device does not attach {info.fourcc}, modifier {frame.buffer.modifier}, to a framebuffer"
    if found.swap:
        access = access._replace(format=_RGBA if access.format == _BGRA else _BGRA)
    how = "imported as it is, read with its exact pair"
    # The driver puts 1 into X by itself, so alpha needs no forcing.
    return Route("native", wanted, True, how, access)


def _draw(frame: Frame, info: FormatInfo, wanted: Fourcc, caps: Capabilities | None, changed: str, asked: bool) -> Route | str:
    if caps is None:
        return "no GL works"
    buf = frame.buffer
    if caps.software and not asked:
        # A software device draws on the CPU too, and takes eight times as long as converting there.
        instead = _map(frame, info, wanted, caps, changed, asked=True)
        if isinstance(instead, Route) and instead.converted:
            return instead
    target = target_for(wanted)
    if target is None:
        return f"nothing can be drawn as {wanted}"
    if not drawable(target, caps):
        return f"this device lacks {_NEEDS[target.name]}, so it cannot draw {target.name}"
    raw = caps.sampler(ALIASES[1][0], Modifier.LINEAR) if buf.linear else None
    if raw is not None:
        units = {alias_bytes(layout.block_bytes) for layout in info.planes}
        samplers = {caps.sampler(ALIASES[unit][0], Modifier.LINEAR) for unit in units}
        if None not in samplers:
            sampler = "external" if "external" in samplers else "2d"
            exact = match(info.fourcc, wanted) is not None and (not changed or changed.startswith("turned"))
            return Route("draw", wanted, exact, f"planes as bytes, decoded by a shader into {target.name}",
                         target.access, sampler, raw=True, target=target)  # fmt: skip
    sampler_whole = caps.sampler(info.fourcc, buf.modifier)
    if sampler_whole is None:
        return f"this device does not import {info.fourcc}, modifier {buf.modifier}"
    if info.model == "yuv":
        sampler_whole = "external"  # as a 2D texture some drivers hand out raw YUV as if it were RGB
    return Route("draw", wanted, False, f"sampled by the driver into {target.name}",
                 target.access, sampler_whole, target=target)  # fmt: skip


def _map(frame: Frame, info: FormatInfo, wanted: Fourcc, caps: Capabilities | None, changed: str, asked: bool) -> Route | str:
    if not asked and caps is not None:
        return "only on demand, or where no GL works"
    if not frame.buffer.linear:
        return f"modifier {frame.buffer.modifier} is not LINEAR"
    if changed:
        return f"the picture is {changed}"
    found = match(info.fourcc, wanted)
    if found is None or found.swap or len(info.planes) > 1:
        across, down = info.subsampling
        if yuvcpu.supported(info, wanted) and not (frame.area.x % across or frame.area.y % down):
            return Route("map", wanted, False, "planes mapped and converted on the CPU", converted=True)
        return f"{info.fourcc} is no plain copy of {wanted}, and not converted to it on the CPU"
    return Route("map", wanted, True, "mapped and copied, no GL", opaque=found.opaque)


_PLANNERS = {"alias": _alias, "native": _native, "draw": _draw, "map": _map}
