"""plan(): the whole table of which route is taken when, with devices made up for it. No GL, no descriptors."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pictures import linear_formats, one_plane_formats

from glreadback import DescriptorError, DmaBuf, Fourcc, Frame, ImportRejected, Modifier, Plane, Rect, Route
from glreadback.plan import (
    ALIASES,
    NATIVE,
    ROUTES,
    TARGETS,
    Access,
    Capabilities,
    Match,
    alias_bytes,
    default_fourcc,
    match,
    plan,
    target_for,
)

LINEAR, INVALID = Modifier.LINEAR, Modifier.INVALID
X_TILED = Modifier("I915_X_TILED")
DRAWS = frozenset({"GL_EXT_texture_norm16", "GL_EXT_color_buffer_float"})


def picture(fourcc: str, modifier: int = LINEAR, width: int = 64, height: int = 32) -> DmaBuf:
    code = Fourcc(fourcc)
    planes = code.info.planes if code.known else range(1)
    return DmaBuf(width, height, code, [Plane(0, 0, width * 16) for _ in planes], modifier)


def device(formats: Mapping[str, Mapping[int, bool]], extensions: frozenset[str] = DRAWS, **more: object) -> Capabilities:
    listed = {Fourcc(code): dict(modifiers) for code, modifiers in formats.items()}
    return Capabilities(device="/dev/dri/renderD128", software=False, formats=listed, extensions=extensions, **more)


COMMON = ("R8", "GR88", "AB24", "AB48", "AR24", "XR24", "XB24", "RG16", "AR30", "AB4H", "NV12", "P010", "YUYV")
# Linear into framebuffers, as Mesa's drivers do it.
MESA = device({code: {LINEAR: False, X_TILED: False} for code in COMMON} | {"NV12": {LINEAR: True, X_TILED: True}})
# Linear can be sampled as external only, tiled is free: NVIDIA's.
NVIDIA = device({code: {LINEAR: True, X_TILED: False} for code in COMMON} | {"NV12": {LINEAR: True, X_TILED: True}})
# Whatever it is, it can be sampled and no more.
EXTERNAL = device({code: {LINEAR: True, X_TILED: True} for code in COMMON})
# Nothing is said: a driver without EGL_EXT_image_dma_buf_import_modifiers.
SILENT = device({})
# Lists other formats, but none that bytes could be aliased to.
NARROW = device({"XR24": {LINEAR: False}, "AR30": {LINEAR: False}})
NO_NORM16 = device({code: {LINEAR: False} for code in COMMON}, frozenset())


@pytest.mark.parametrize(
    ("fourcc", "modifier", "wanted", "caps", "route", "sampler"),
    [
        # linear, into a framebuffer: bytes
        ("XR24", LINEAR, None, MESA, "alias", ""),
        ("XR24", LINEAR, "AR24", MESA, "alias", ""),
        ("XR24", LINEAR, "AB24", MESA, "alias", ""),
        ("RG24", LINEAR, None, MESA, "alias", ""),
        ("AR30", LINEAR, None, SILENT, "alias", ""),
        ("YUYV", LINEAR, "YUYV", MESA, "alias", ""),
        # linear, but not the same bytes
        ("XR24", LINEAR, "AB4H", MESA, "draw", "2d"),
        ("NV12", LINEAR, None, MESA, "draw", "2d"),
        ("YUYV", LINEAR, None, MESA, "draw", "2d"),
        ("RG24", LINEAR, "AB24", MESA, "draw", "2d"),
        # linear is external only
        ("XR24", LINEAR, None, NVIDIA, "draw", "external"),
        ("XR24", LINEAR, "AB24", NVIDIA, "draw", "external"),
        ("NV12", LINEAR, None, NVIDIA, "draw", "external"),
        # tiled
        ("XR24", X_TILED, None, MESA, "native", ""),
        ("XR24", X_TILED, None, NVIDIA, "native", ""),
        ("AR24", X_TILED, "AB24", MESA, "native", ""),
        ("RG16", X_TILED, None, MESA, "native", ""),
        ("AR30", X_TILED, None, MESA, "draw", "2d"),
        ("XR24", X_TILED, "AB48", MESA, "draw", "2d"),
        ("NV12", X_TILED, None, MESA, "draw", "external"),
        ("YUYV", X_TILED, None, MESA, "draw", "external"),
        # nobody says
        ("XR24", INVALID, None, MESA, "native", ""),
        ("XR24", INVALID, None, SILENT, "native", ""),
        ("XR24", INVALID, None, NVIDIA, "native", ""),
        ("AR30", INVALID, None, MESA, "draw", "2d"),
        ("NV12", INVALID, None, MESA, "draw", "external"),
        ("XR24", INVALID, None, EXTERNAL, "draw", "external"),
        # no bytes to alias to
        ("XR24", LINEAR, None, NARROW, "native", ""),
        ("AR30", LINEAR, None, NARROW, "draw", "2d"),
        # no GL
        ("XR24", LINEAR, None, None, "map", ""),
        ("XR24", LINEAR, "AR24", None, "map", ""),
        ("RG24", LINEAR, None, None, "map", ""),
    ],
)
def test_the_table(fourcc: str, modifier: int, wanted: str | None, caps: Capabilities | None, route: str, sampler: str) -> None:
    found = plan(picture(fourcc, modifier), wanted, caps)
    assert (found.name, found.sampler) == (route, sampler), found.reason
    assert found.fourcc == (wanted or default_fourcc(Fourcc(fourcc).info))
    assert found.reason
    assert (found.access is None) == (route == "map")
    assert (found.target is None) == (route != "draw")


@pytest.mark.parametrize(
    ("fourcc", "modifier", "wanted", "caps"),
    [
        ("XR24", Modifier("I915_Y_TILED"), None, MESA),  # tiled in a way the driver does not list
        ("XR24", X_TILED, None, SILENT),
        ("XR24", X_TILED, None, None),
        ("XR24", INVALID, None, None),
        ("NV12", INVALID, None, None),
        ("NV12", LINEAR, "AB4H", None),
        ("NV12", Modifier("I915_Y_TILED"), None, NVIDIA),
        ("RG24", INVALID, None, MESA),  # not listed at all
        ("P010", LINEAR, "AB48", NO_NORM16),
        ("XR24", LINEAR, "AB24", None),
    ],
)
def test_what_a_device_cannot_read(fourcc: str, modifier: Modifier, wanted: str | None, caps: Capabilities | None) -> None:
    """The error tells what was tried and why not, route by route."""
    with pytest.raises(ImportRejected) as caught:
        plan(picture(fourcc, modifier), wanted, caps)
    message = str(caught.value)
    assert f"64x32 {fourcc} (modifier {modifier}) cannot be read as" in message
    for route in ROUTES:
        assert f"{route}: " in message
    assert caught.value.fourcc == fourcc
    assert caught.value.modifier == modifier
    assert caught.value.planes == len(Fourcc(fourcc).info.planes)
    assert caught.value.accepted == tuple(caps.formats.get(Fourcc(fourcc), {})) if caps else not caught.value.accepted


@pytest.mark.parametrize(
    ("fourcc", "modifier", "wanted", "route", "why"),
    [
        ("XR24", X_TILED, None, "alias", "by the alias route: modifier I915_X_TILED is not LINEAR"),
        ("XR24", INVALID, None, "alias", "by the alias route: modifier INVALID is not LINEAR"),
        ("XR24", X_TILED, None, "map", "by the map route: modifier I915_X_TILED is not LINEAR"),
        ("XR24", INVALID, None, "map", "by the map route: modifier INVALID is not LINEAR"),
        ("NV12", LINEAR, None, "alias", "NV12 is no plain copy of AB24"),
        ("NV12", LINEAR, None, "native", "no read pair is exact for NV12"),
        ("AR30", LINEAR, None, "native", "no read pair is exact for AR30"),
        ("RG16", LINEAR, "AB24", "native", "RG16 is no plain copy of AB24"),
        ("XR24", LINEAR, "AB24", "map", "XR24 is no plain copy of AB24"),
        ("XR24", LINEAR, "RG16", "draw", "nothing can be drawn as RG16"),
    ],
)
def test_a_route_that_was_asked_for(fourcc: str, modifier: int, wanted: str | None, route: str, why: str) -> None:
    """By name: that one or an error, never another one."""
    with pytest.raises(DescriptorError, match=why):
        plan(picture(fourcc, modifier), wanted, MESA, route=route)


@pytest.mark.parametrize("route", ROUTES)
def test_routes_that_are_possible_are_taken_when_asked_for(route: str) -> None:
    assert plan(picture("AR24"), None, MESA, route=route) == route


def test_routes_nobody_knows() -> None:
    with pytest.raises(DescriptorError, match="route 'blit' is unknown; there are alias, native, draw, map"):
        plan(picture("XR24"), None, MESA, route="blit")


def test_targets_that_cannot_be() -> None:
    with pytest.raises(
        DescriptorError, match=r"64x32 XR24 .*cannot be read as NV12: ask for XR24, or a format that can be drawn \(AB24, "
    ):
        plan(picture("XR24"), "NV12", MESA)


# ---- what must never happen


EVERY_MODIFIER = (INVALID, X_TILED, Modifier("AMD:0x1"), Modifier("NVIDIA:0x10"), Modifier(0x7F00000000000001))


@pytest.mark.parametrize("fourcc", linear_formats())
def test_only_linear_is_ever_taken_for_bytes(fourcc: Fourcc) -> None:
    """Whatever the driver promises: a layout that is unknown or tiled is neither aliased nor mapped nor drawn from bytes."""
    promises = device({str(code): {int(m): False for m in (LINEAR, *EVERY_MODIFIER)} for code in (*COMMON, fourcc)})
    for modifier, caps, wanted in itertools.product(EVERY_MODIFIER, (promises, SILENT, None), (None, fourcc)):
        try:
            found = plan(picture(fourcc, modifier), wanted, caps)
        except (ImportRejected, DescriptorError):
            continue
        assert found.name in ("native", "draw")
        assert not found.raw
        assert modifier != INVALID or caps is not None


@pytest.mark.parametrize("fourcc", [code for code in Fourcc.all() if not code.info.linear])
def test_formats_without_a_linear_layout(fourcc: Fourcc) -> None:
    """DRM has three whose planes exist in no linear buffer: LINEAR said of one is not believed."""
    promises = device({str(code): {LINEAR: False} for code in (*COMMON, fourcc)})
    found = plan(picture(fourcc, LINEAR), "AB24", promises)
    assert found == "draw"
    assert not found.raw
    with pytest.raises(ImportRejected):
        plan(picture(fourcc, LINEAR), "AB24", None)


@pytest.mark.parametrize("fourcc", one_plane_formats())
def test_every_linear_format_is_read_as_it_is(fourcc: Fourcc) -> None:
    for caps, name in ((SILENT, "alias"), (None, "map")):
        found = plan(picture(fourcc), fourcc, caps)
        assert found == name
        assert found.exact
        assert not found.opaque


@pytest.mark.parametrize("fourcc", linear_formats())
def test_every_linear_format_has_a_default(fourcc: Fourcc) -> None:
    info = fourcc.info
    found = plan(picture(fourcc), None, SILENT)
    if info.model == "rgb" and len(info.planes) == 1:
        assert found.fourcc == fourcc
        assert found.exact
    else:
        assert found.fourcc == ("AB48" if info.depth > 8 else "AB24")
        assert found == "draw"
        assert not found.exact


# ---- pictures that are turned, scaled, part of a buffer


@pytest.mark.parametrize("transform", ["90", "180", "270", "flipped", "flipped-90"])
def test_turned_pictures_are_drawn(transform: str) -> None:
    frame = Frame(picture("XR24"), transform=transform)
    found = plan(frame, None, MESA)
    assert found == "draw"
    assert found.exact, "turning moves pixels and changes none"
    for route in ("alias", "native", "map"):
        with pytest.raises(DescriptorError, match=rf"the picture is turned \({transform}\)"):
            plan(frame, None, MESA, route=route)
    with pytest.raises(ImportRejected):
        plan(frame, None, None)


@pytest.mark.parametrize("changed", ["scaled", "tone-mapped"])
@pytest.mark.parametrize("transform", ["normal", "90"])
def test_changed_pictures_are_drawn_and_not_exact(changed: str, transform: str) -> None:
    frame = Frame(picture("XR24"), transform=transform)
    found = plan(frame, None, MESA, changed=changed)
    assert found == "draw"
    assert not found.exact
    with pytest.raises(DescriptorError, match=f"the picture is {changed}"):
        plan(frame, None, MESA, route="alias", changed=changed)


def test_upside_down_and_parts_cost_no_draw() -> None:
    frame = Frame(picture("XR24"), y_invert=True, visible=Rect(1, 1, 5, 5))
    assert plan(frame, None, MESA) == "alias"
    assert plan(frame, None, None) == "map"


# ---- limits


@pytest.mark.parametrize(("width", "height"), [(2049, 1), (1, 2049)])
def test_the_devices_limit(width: int, height: int) -> None:
    small = device({code: {LINEAR: False} for code in COMMON}, max_extent=2048)
    plan(picture("XR24", width=2048, height=2048), None, small)
    with pytest.raises(DescriptorError, match=rf"{width}x{height} XR24 is larger than this device takes: at most 2048 pixels"):
        plan(picture("XR24", width=width, height=height), None, small)
    assert plan(picture("XR24", width=width, height=height), None, None) == "map"


def test_deep_targets_need_what_they_need() -> None:
    for wanted, extension in (("AB48", "GL_EXT_texture_norm16"), ("AB4H", "GL_EXT_color_buffer_float")):
        with pytest.raises(ImportRejected, match=f"this device lacks {extension}"):
            plan(picture("XR24"), wanted, NO_NORM16)
        enough = device({code: {LINEAR: False} for code in COMMON}, frozenset({extension}))
        assert plan(picture("XR24"), wanted, enough) == "draw"


def test_not_a_picture() -> None:
    with pytest.raises(DescriptorError, match="a DmaBuf or a Frame is needed, not str"):
        plan("XR24", None, MESA)  # type: ignore[arg-type]


# ---- the pieces


@pytest.mark.parametrize(
    ("source", "wanted", "found"),
    [
        ("XR24", "XR24", Match(False, False)),
        ("XR24", "AR24", Match(False, True)),
        ("AR24", "XR24", Match(False, False)),
        ("XR24", "XB24", Match(True, False)),
        ("XR24", "AB24", Match(True, True)),
        ("AB24", "AR24", Match(True, False)),
        ("XB48", "AB48", Match(False, True)),
        ("XR30", "AR30", Match(False, True)),
        ("AR30", "AB30", None),  # 10 bits are no bytes to swap
        ("XR48", "XB48", None),  # nor does a pair swap 16
        ("XR15", "AR15", Match(False, True)),
        ("AR15", "AB15", None),
        ("RX24", "BX24", None),  # BGRA swaps the first and the third byte: here that is not red and blue
        ("XR24", "RX24", None),
        ("RG24", "BG24", None),
        ("RG24", "AB24", None),
        ("AB48", "AB4H", None),
        ("XB4H", "AB4H", Match(False, True)),
        ("AYUV", "XYUV", None),
        ("YUYV", "YVYU", None),
        ("NV12", "NV12", Match(False, False)),
        ("R8", "C8", None),
        ("GR88", "RG88", None),
        ("XR24_BE", "BX24", Match(False, False)),
    ],
)
def test_match(source: str, wanted: str, found: Match | None) -> None:
    assert match(Fourcc(source), Fourcc(wanted)) == found


@pytest.mark.parametrize("source", one_plane_formats())
def test_match_is_true_to_the_bits(source: Fourcc) -> None:
    """Against every other format: wherever it says so, each component of the result comes from the same component."""
    for wanted in one_plane_formats():
        found = match(source, wanted)
        if found is None or source == wanted:
            continue
        a, b = (code.info.planes[0] for code in (source, wanted))
        assert a.block_bytes == b.block_bytes
        moved = {0: 16, 16: 0} if found.swap else {}
        place = {field.component: (moved.get(field.shift, field.shift), field.bits) for field in a.fields}
        missing = [f.component for f in b.fields if f.component != "X" and place.get(f.component) != (f.shift, f.bits)]
        assert missing == (["A"] if found.opaque else []), (source, wanted)
        assert not found.swap or all(field.bits == 8 for field in a.fields)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("AB24", "RGBA8"), ("XR24", "RGBA8"), ("BA24", "RGBA8"), ("RX24", "RGBA8"), ("AR30", "RGB10_A2"), ("XB30", "RGB10_A2"),
        ("AB48", "RGBA16"), ("XR48", "RGBA16"), ("AB4H", "RGBA16F"), ("AR4H", "RGBA16F"), ("R8", "R8"),
        ("NV12", None), ("RG24", None), ("RG16", None), ("C8", None), ("RA30", None), ("R16", None),
    ],
)  # fmt: skip
def test_target_for(wanted: str, name: str | None) -> None:
    found = target_for(Fourcc(wanted))
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("fourcc", "default"),
    [("XR24", "XR24"), ("RG24", "RG24"), ("AB4H", "AB4H"), ("NV12", "AB24"), ("P010", "AB48"), ("Y410", "AB48"),
     ("YUYV", "AB24"), ("C8", "AB24"), ("D1", "AB24"), ("R8", "R8"), ("R16", "R16")],
)  # fmt: skip
def test_default_fourcc(fourcc: str, default: str) -> None:
    assert default_fourcc(Fourcc(fourcc).info) == default


@pytest.mark.parametrize(
    ("unit", "steps", "found"),
    [
        (4, (), 4),
        (8, (8, 16), 8),
        (8, (8, 4), 4),
        (8, (8, 6), 2),
        (4, (7,), 1),
        (3, (3, 9), 1),
        (6, (12,), 2),
        (16, (16,), 8),
        (5, (), 1),
    ],
)
def test_alias_bytes(unit: int, steps: tuple[int, ...], found: int) -> None:
    assert alias_bytes(unit, *steps) == found


def test_the_tables_agree_with_the_formats() -> None:
    """Each pair moves as many bytes as a pixel has."""
    for size, (code, access) in ALIASES.items():
        assert code.info.planes[0].block_bytes == access.bytes == size
    for code, access in NATIVE.items():
        assert code.info.planes[0].block_bytes == access.bytes
    for target in TARGETS:
        assert target.fourcc.info.planes[0].block_bytes == target.access.bytes
        assert target_for(target.fourcc) == target


def test_a_route_equals_its_name() -> None:
    route = Route("alias", Fourcc("XR24"), True, "because", Access(0x1908, 0x1401, 4))
    assert route == "alias"
    assert route != "native"
    assert "alias" == route  # noqa: SIM300  # from the left too
    assert str(route) == f"{route}" == "alias"
    assert hash(route) == hash("alias")
    assert {route: 1}["alias"] == 1
    assert route == Route("alias", Fourcc("XR24"), True, "because", Access(0x1908, 0x1401, 4))
    assert route != Route("alias", Fourcc("XR24"), True, "for another reason")
    assert route != 7
    with pytest.raises(AttributeError):
        route.name = "native"  # type: ignore[misc]


def test_planning_needs_no_gl() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, glreadback.plan; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert not {"OpenGL", "numpy", "PIL"} & set(done.stdout.split())
