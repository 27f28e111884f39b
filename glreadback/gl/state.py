"""The state of a borrowed context: what glreadback touches is saved, made neutral, and put back. Context current.

Tables of (what to ask, how to set it). A copy touches little and is done for every frame; a draw touches the rest.
Kept out of the tables because GL cannot ask for it, or not stop it: an active query counts our triangle's samples too, and
conditional rendering may discard it. A program that uses subroutines has to choose them again, as after any glUseProgram.
"""

from __future__ import annotations

import ctypes
import itertools
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
_unmap_buffer = function("glUnmapBuffer", ctypes.c_ubyte, _uint)


def _setter(name: str, *fixed: int) -> Callable[[int], None]:
    call = function(name, None, *[_uint] * (len(fixed) + 1))
    return lambda value: call(*fixed, value)


class Traits(NamedTuple):
    """What kind of context it is: some state exists only in one kind."""

    desktop: bool
    extensions: frozenset[str]
    compatible: bool = False  # a desktop context with what GL 3.1 took away
    indexed: bool = False  # blending and masks of each draw buffer
    viewports: bool = False  # an array of viewports
    units: int = 4  # texture units a draw uses: at most four planes, and a palette in the place of the second

    @classmethod
    def ask(cls, desktop: bool, extensions: frozenset[str]) -> Traits:
        """The traits of the current context."""
        version = _ask(0x821B) * 10 + _ask(0x821C)  # MAJOR_VERSION, MINOR_VERSION
        return cls(
            desktop,
            extensions,
            # CONTEXT_PROFILE_MASK: COMPATIBILITY. 3.1 has no profiles, and as an extension what it took away.
            desktop and (bool(_ask(0x9126) & 2) if version >= 32 else True),
            desktop or version >= 32 or bool(extensions & _INDEXED),
            version >= 41 if desktop else version >= 31 and bool(extensions & _VIEWPORTS),
        )


_INDEXED = frozenset({"GL_EXT_draw_buffers_indexed", "GL_OES_draw_buffers_indexed"})
_VIEWPORTS = frozenset({"GL_OES_viewport_array", "GL_NV_viewport_array"})


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
# POLYGON_SMOOTH, SAMPLE_MASK; CLIP_DISTANCE0 to 7; ALPHA_TEST and POLYGON_STIPPLE of old.
_ENABLES = (0x0BE2, 0x0B44, 0x0B71, 0x0BD0, 0x0C11, 0x0B90, 0x8C89, 0x809E, 0x80A0)
_ENABLES_DESKTOP = (0x0BF2, 0x8DB9, 0x0B41, 0x8E51)
_ENABLES_CLIP = tuple(range(0x3000, 0x3008))
_ENABLES_COMPATIBLE = (0x0BC0, 0x0B42)
# glPixelTransfer, which old desktop contexts let each glReadPixels go through: name, neutral. MAP_COLOR, then the scales
# (even) and biases (odd) of red, green, blue and alpha.
_TRANSFER = ((0x0D10, 0.0), *((name, 1.0 - name % 2) for name in (0x0D14, 0x0D15, *range(0x0D18, 0x0D1E))))
_CLAMP_READ = 0x891C  # CLAMP_READ_COLOR: numbers below 0 and above 1 would be cut
# How to make a GL error again that was pending when we were called; the first one is all that most drivers keep.
_PENDING: dict[int, Callable[[], object]] = {
    0x0500: lambda: _enable(0),
    0x0501: lambda: _viewport(0, 0, -1, -1),
    0x0502: lambda: _unmap_buffer(0x88EB),  # of no buffer
}
_TEXTURES = ((0x8069, 0x0DE1), (0x8D67, 0x8D65))  # TEXTURE_BINDING_2D, _EXTERNAL_OES, and their targets
_FEEDBACK_PAUSED, _FEEDBACK_ACTIVE = 0x8E23, 0x8E24


def _ask(name: int, count: int = 1) -> Any:
    values = (_int * max(count, 4))()
    _get_integers(name, values)
    return values[0] if count == 1 else tuple(values[:count])


def _errors() -> list[int]:
    """The GL errors that are pending, which are then none. A lost context has one without end."""
    return list(itertools.takewhile(bool, (_get_error() for _ in range(8))))


@contextmanager
def copying(traits: Traits) -> Iterator[None]:
    """For importing and glReadPixels: framebuffers, the bound texture of the active unit, pixel packing."""
    pending = _errors()
    packs = [*_PACK, *(_PACK_DESKTOP if traits.desktop else ())]
    packs += [pair for name, pair in _PACK_EXTRA.items() if name in traits.extensions]
    bindings = (*_FRAMEBUFFER_BINDINGS, _PACK_BUFFER)
    bound = [_ask(binding.query) for binding in bindings]
    stores = [_ask(name) for name, _ in packs]
    textures = [(target, _ask(query)) for query, target in _targets(traits)]
    transfer = _Transfer() if traits.compatible else None
    clamp = _ask(_CLAMP_READ) if traits.desktop else 0
    if clamp:
        function("glClampColor", None, _uint, _uint)(_CLAMP_READ, 0)
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
        if transfer is not None:
            transfer.restore()
        if clamp:
            function("glClampColor", None, _uint, _uint)(_CLAMP_READ, clamp)
        _errors()  # what we caused is ours
        for code in pending[:1]:
            _again(code)


def _again(code: int) -> None:
    before = _ask(_PACK_BUFFER.query)
    _PACK_BUFFER.set(0)
    _PENDING.get(code, bool)()
    _PACK_BUFFER.set(before)


class _Transfer:
    """glPixelTransfer's scales and biases, made neutral."""

    def __init__(self) -> None:
        ask = function("glGetFloatv", None, _uint, ctypes.c_void_p)
        self._set = function("glPixelTransferf", None, _uint, ctypes.c_float)
        self._values = []
        for name, neutral in _TRANSFER:
            value = ctypes.c_float()
            ask(name, ctypes.addressof(value))
            if value.value != neutral:
                self._values.append((name, value.value))
                self._set(name, neutral)

    def restore(self) -> None:
        for name, value in self._values:
            self._set(name, value)


def _targets(traits: Traits) -> tuple[tuple[int, int], ...]:
    return _TEXTURES if "GL_OES_EGL_image_external" in traits.extensions else _TEXTURES[:1]


@contextmanager
def drawing(traits: Traits) -> Iterator[None]:
    """For a draw, within `copying`: programs, vertex arrays, units, enables, masks, the viewport."""
    enables = [*_ENABLES, *(_ENABLES_DESKTOP if traits.desktop else ())]
    if traits.desktop or "GL_EXT_clip_cull_distance" in traits.extensions:
        enables += _ENABLES_CLIP
    enables += _ENABLES_COMPATIBLE if traits.compatible else ()
    stores = [*_UNPACK, *(_UNPACK_DESKTOP if traits.desktop else ())]
    on = [name for name in enables if _is_enabled(name)]
    bound = [_ask(binding.query) for binding in _DRAW_BINDINGS]
    unpack = [_ask(name) for name, _ in stores]
    viewport, mask = _ask(0x0BA2, 4), _ask(0x0C23, 4)
    unit = _ask(0x84E0)
    feeding = _ask(_FEEDBACK_ACTIVE) and not _ask(_FEEDBACK_PAUSED)
    fill = _ask(0x0B40, 2) if traits.desktop else None
    indexed = _IndexedState(traits) if traits.indexed else None
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
            faces = ((0x0404, fill[0]), (0x0405, fill[1])) if traits.compatible else ((0x0408, fill[0]),)
            for face, mode in faces:
                function("glPolygonMode", None, _uint, _uint)(face, mode)
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
    """Blending, colour masks and viewports that differ from one draw buffer or viewport to the next."""

    def __init__(self, traits: Traits) -> None:
        self._suffix = suffix = _suffix(traits.extensions & _INDEXED) if not traits.desktop else ""
        self._enabled = function(f"glIsEnabledi{suffix}", ctypes.c_ubyte, _uint, _uint)
        integers = function("glGetIntegeri_v", None, _uint, _uint, ctypes.c_void_p)
        self._blend, self._masks = [], []
        for index in range(_ask(0x8824)):  # MAX_DRAW_BUFFERS
            self._blend.append(bool(self._enabled(0x0BE2, index)))
            mask = (_int * 4)()
            integers(0x0C23, index, mask)
            self._masks.append(tuple(mask))
        self._viewports: list[Any] = []
        self._scissors: list[bool] = []
        self._own = _suffix(traits.extensions & _VIEWPORTS) if not traits.desktop else ""
        if traits.viewports:
            floats = function(f"glGetFloati_v{self._own}", None, _uint, _uint, ctypes.c_void_p)
            for index in range(_ask(0x825B)):  # MAX_VIEWPORTS
                viewport = (ctypes.c_float * 4)()
                floats(0x0BA2, index, viewport)
                self._viewports.append(viewport)
                self._scissors.append(bool(self._enabled(0x0C11, index)))

    def restore(self) -> None:
        mask_of = function(f"glColorMaski{self._suffix}", None, _uint, *[ctypes.c_ubyte] * 4)
        names = (f"glDisablei{self._suffix}", f"glEnablei{self._suffix}")
        switch = [function(name, None, _uint, _uint) for name in names]
        for index, (blend, mask) in enumerate(zip(self._blend, self._masks, strict=True)):
            switch[blend](0x0BE2, index)
            mask_of(index, *mask)
        for index, (viewport, scissor) in enumerate(zip(self._viewports, self._scissors, strict=True)):
            function(f"glViewportIndexedfv{self._own}", None, _uint, ctypes.c_void_p)(index, viewport)
            switch[scissor](0x0C11, index)


def _suffix(extensions: frozenset[str]) -> str:
    """The ending of an ES extension's functions: OES, EXT, NV."""
    return max(extensions).split("_")[1] if extensions else ""
