"""The state of a borrowed context: what glreadback touches is saved, made neutral, and put back. Context current.

Tables of (what to ask, how to set it). A copy touches little and is done for every frame; a draw touches the rest.
Kept out of the tables because GL cannot ask for it: an active query counts our triangle's samples too, and conditional
rendering may discard it; a GL error that was pending on entry is lost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..egl.gaps import function

_int, _uint = ctypes.c_int, ctypes.c_uint
_get_integers = function("glGetIntegerv", None, _uint, ctypes.c_void_p)
_is_enabled = function("glIsEnabled", ctypes.c_ubyte, _uint)
_enable = function("glEnable", None, _uint)
_disable = function("glDisable", None, _uint)
_get_error = function("glGetError", _uint)
_active_texture = function("glActiveTexture", None, _uint)
_bind_texture = function("glBindTexture", None, _uint, _uint)
_pixel_store = function("glPixelStorei", None, _uint, _int)
_color_mask = function("glColorMask", None, *[ctypes.c_ubyte] * 4)
_viewport = function("glViewport", None, _int, _int, _int, _int)


def _setter(name: str, *fixed: int) -> Callable[[int], None]:
    call = function(name, None, *[_uint] * (len(fixed) + 1))
    return lambda value: call(*fixed, value)


class Traits(NamedTuple):
    """What kind of context it is: some state exists only in one kind."""

    desktop: bool
    extensions: frozenset[str]
    units: int = 4  # texture units a draw uses: at most four planes, and a palette in the place of the second


class _Binding(NamedTuple):
    query: int
    set: Callable[[int], None]
    neutral: int | None  # None: saved only, as the work itself sets it


_FRAMEBUFFER_BINDINGS = (
    _Binding(0x8CA6, _setter("glBindFramebuffer", 0x8CA9), None),  # DRAW_FRAMEBUFFER
    _Binding(0x8CAA, _setter("glBindFramebuffer", 0x8CA8), None),  # READ_FRAMEBUFFER
)
_PACK_BUFFER = _Binding(0x88ED, _setter("glBindBuffer", 0x88EB), 0)  # PIXEL_PACK_BUFFER
_DRAW_BINDINGS = (
    _Binding(0x88EF, _setter("glBindBuffer", 0x88EC), 0),  # PIXEL_UNPACK_BUFFER
    _Binding(0x8B8D, _setter("glUseProgram"), None),
    _Binding(0x85B5, _setter("glBindVertexArray"), None),
)
# Pixel store: name, neutral. The desktop's byte orders, MESA_pack_invert and ANGLE_pack_reverse_row_order where they are.
_PACK = ((0x0D05, 1), (0x0D02, 0), (0x0D03, 0), (0x0D04, 0))  # ALIGNMENT, ROW_LENGTH, SKIP_ROWS, SKIP_PIXELS
_PACK_DESKTOP = ((0x0D00, 0), (0x0D01, 0))  # SWAP_BYTES, LSB_FIRST
_PACK_EXTRA = {"GL_MESA_pack_invert": (0x8758, 0), "GL_ANGLE_pack_reverse_row_order": (0x93A4, 0)}
_UNPACK = ((0x0CF5, 4), (0x0CF2, 0), (0x0CF3, 0), (0x0CF4, 0))
_UNPACK_DESKTOP = ((0x0CF0, 0), (0x0CF1, 0))
# Enables that would change or stop a plain triangle. BLEND, CULL_FACE, DEPTH_TEST, DITHER, SCISSOR_TEST, STENCIL_TEST,
# RASTERIZER_DISCARD, SAMPLE_ALPHA_TO_COVERAGE, SAMPLE_COVERAGE; the desktop's COLOR_LOGIC_OP, FRAMEBUFFER_SRGB,
# POLYGON_SMOOTH, SAMPLE_MASK, CLIP_DISTANCE0 to 7.
_ENABLES = (0x0BE2, 0x0B44, 0x0B71, 0x0BD0, 0x0C11, 0x0B90, 0x8C89, 0x809E, 0x80A0)
_ENABLES_DESKTOP = (0x0BF2, 0x8DB9, 0x0B41, 0x8E51, *range(0x3000, 0x3008))
_TEXTURES = ((0x8069, 0x0DE1), (0x8D67, 0x8D65))  # TEXTURE_BINDING_2D, _EXTERNAL_OES, and their targets
_FEEDBACK_PAUSED, _FEEDBACK_ACTIVE = 0x8E23, 0x8E24


def _ask(name: int, count: int = 1) -> Any:
    values = (_int * max(count, 4))()
    _get_integers(name, values)
    return values[0] if count == 1 else tuple(values[:count])


@contextmanager
def copying(traits: Traits) -> Iterator[None]:
    """For importing and glReadPixels: framebuffers, the bound texture of the active unit, pixel packing."""
    packs = [*_PACK, *(_PACK_DESKTOP if traits.desktop else ())]
    packs += [pair for name, pair in _PACK_EXTRA.items() if name in traits.extensions]
    bindings = (*_FRAMEBUFFER_BINDINGS, _PACK_BUFFER)
    bound = [_ask(binding.query) for binding in bindings]
    stores = [_ask(name) for name, _ in packs]
    textures = [(target, _ask(query)) for query, target in _targets(traits)]
    _PACK_BUFFER.set(0)
    for name, neutral in packs:
        _pixel_store(name, neutral)
    try:
        yield
    finally:
        for binding, value in zip(bindings, bound, strict=True):
            binding.set(value)
        for (name, _), value in zip(packs, stores, strict=True):
            _pixel_store(name, value)
        for target, value in textures:
            _bind_texture(target, value)
        while _get_error():  # what we caused is ours
            pass


def _targets(traits: Traits) -> tuple[tuple[int, int], ...]:
    return _TEXTURES if "GL_OES_EGL_image_external" in traits.extensions else _TEXTURES[:1]


@contextmanager
def drawing(traits: Traits) -> Iterator[None]:
    """For a draw, within `copying`: programs, vertex arrays, units, enables, masks, the viewport."""
    enables = [*_ENABLES, *(_ENABLES_DESKTOP if traits.desktop else ())]
    stores = [*_UNPACK, *(_UNPACK_DESKTOP if traits.desktop else ())]
    on = [name for name in enables if _is_enabled(name)]
    bound = [_ask(binding.query) for binding in _DRAW_BINDINGS]
    unpack = [_ask(name) for name, _ in stores]
    viewport, mask = _ask(0x0BA2, 4), _ask(0x0C23, 4)
    unit = _ask(0x84E0)
    feeding = _ask(_FEEDBACK_ACTIVE) and not _ask(_FEEDBACK_PAUSED)
    fill = _ask(0x0B40, 2) if traits.desktop else None
    indexed = _IndexedState() if traits.desktop else None
    samplers, textures = [], []
    bind_sampler = function("glBindSampler", None, _uint, _uint)
    for index in range(traits.units):
        _active_texture(0x84C0 + index)
        samplers.append(_ask(0x8919))
        textures.append([(target, _ask(query)) for query, target in _targets(traits)])
        bind_sampler(index, 0)
    if feeding:
        function("glPauseTransformFeedback", None)()
    for binding in _DRAW_BINDINGS:
        if binding.neutral is not None:
            binding.set(binding.neutral)
    for name, neutral in stores:
        _pixel_store(name, neutral)
    for name in enables:
        _disable(name)
    _color_mask(1, 1, 1, 1)
    if fill is not None:
        function("glPolygonMode", None, _uint, _uint)(0x0408, 0x1B02)
    try:
        yield
    finally:
        if fill is not None:
            function("glPolygonMode", None, _uint, _uint)(0x0408, fill[0])
        _viewport(*viewport)
        _color_mask(*mask)
        for name in enables:
            _disable(name)
        for name in on:
            _enable(name)
        if indexed is not None:
            indexed.restore()
        for (name, _), value in zip(stores, unpack, strict=True):
            _pixel_store(name, value)
        for binding, value in zip(_DRAW_BINDINGS, bound, strict=True):
            binding.set(value)
        for index in range(traits.units):
            _active_texture(0x84C0 + index)
            bind_sampler(index, samplers[index])
            for target, value in textures[index]:
                _bind_texture(target, value)
        _active_texture(unit)
        if feeding:
            function("glResumeTransformFeedback", None)()


class _IndexedState:
    """Blending, colour masks and viewports that differ from one draw buffer or viewport to the next (desktop GL)."""

    def __init__(self) -> None:
        self._enabled = function("glIsEnabledi", ctypes.c_ubyte, _uint, _uint)
        booleans = function("glGetBooleani_v", None, _uint, _uint, ctypes.c_void_p)
        self._blend, self._masks = [], []
        for index in range(_ask(0x8824)):  # MAX_DRAW_BUFFERS
            self._blend.append(bool(self._enabled(0x0BE2, index)))
            mask = (ctypes.c_ubyte * 4)()
            booleans(0x0C23, index, mask)
            self._masks.append(tuple(mask))
        self._viewports: list[Any] = []
        self._scissors: list[bool] = []
        if _ask(0x821B) * 10 + _ask(0x821C) >= 41:  # GL 4.1 has viewport arrays
            floats = function("glGetFloati_v", None, _uint, _uint, ctypes.c_void_p)
            for index in range(_ask(0x825B)):  # MAX_VIEWPORTS
                viewport = (ctypes.c_float * 4)()
                floats(0x0BA2, index, viewport)
                self._viewports.append(viewport)
                self._scissors.append(bool(self._enabled(0x0C11, index)))

    def restore(self) -> None:
        mask_of = function("glColorMaski", None, _uint, *[ctypes.c_ubyte] * 4)
        switch = {flag: function(name, None, _uint, _uint) for flag, name in ((True, "glEnablei"), (False, "glDisablei"))}
        for index, (blend, mask) in enumerate(zip(self._blend, self._masks, strict=True)):
            switch[blend](0x0BE2, index)
            mask_of(index, *mask)
        for index, (viewport, scissor) in enumerate(zip(self._viewports, self._scissors, strict=True)):
            function("glViewportIndexedfv", None, _uint, ctypes.c_void_p)(index, viewport)
            switch[scissor](0x0C11, index)
