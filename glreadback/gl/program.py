"""GLSL programs put together from shaders/ and a format's table entry. Compiling: call with the context current."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from OpenGL import GLES3 as gl

from ..color import HDR_PEAK, SDR_WHITE
from ..fourcc import Field, FormatInfo, Fourcc, PlaneFormat
from ..plan import Target
from .texture import GLFailure


class Fetch(NamedTuple):
    """How one plane's bytes are fetched: bytes of a texel, and the fold (texels in a folded row, 0 = not folded).

    A row that is wider than the device takes is folded: the texture is that much narrower and higher.
    """

    unit: int
    fold: int = 0
    folds: int = 1


class Recipe(NamedTuple):
    """All that a program depends on; equal recipes share a program."""

    sampler: str  # "2d" or "external"
    target: Target
    wanted: Fourcc  # decides where each component goes in the target
    fourcc: Fourcc | None = None  # decoded from raw planes; None: sampled by the driver
    fetches: tuple[Fetch, ...] = ()
    cosited: tuple[bool, bool] = (False, False)
    palette: bool = False
    tone: str = ""  # the HDR transfer to map to sRGB: "pq", "hlg", "" for none
    scale: bool = False  # the second pass: scale what a first one drew


@functools.cache
def shader_text(name: str) -> str:
    """The text of a file of shaders/: inside the package when installed, beside it in the tree."""
    inside = resources.files(__package__.rpartition(".")[0]) / "shaders" / name
    if inside.is_file():
        return inside.read_text()
    return (Path(__file__).parents[2] / "shaders" / name).read_text()


_HEADER = """#version {version}
{extension}
precision highp float;
precision highp int;
precision highp sampler2D;
"""
_SAMPLERS = {
    # The packing functions are in GLSL ES 3; desktop GLSL 3.30 takes them from an extension, which ES does not know.
    "2d": ("#ifndef GL_ES\n#extension GL_ARB_shading_language_packing : enable\n#endif", "sampler2D"),
    "external": ("#extension GL_OES_EGL_image_external_essl3 : require", "samplerExternalOES"),
}


def sources(recipe: Recipe, version: str = "300 es") -> tuple[str, str]:
    """The vertex and fragment shader of a recipe, as GLSL ES 3."""
    if recipe.scale:
        parts = [
            _HEADER.format(version=version, extension=""),
            _store(recipe.target, recipe.wanted.info),
            shader_text("scale.frag"),
        ]
        return _HEADER.format(version=version, extension="") + shader_text("picture.vert"), "\n".join(parts)
    extension, sampler = _SAMPLERS[recipe.sampler]
    fragment = [_HEADER.format(version=version, extension=extension), f"#define SAMPLER {sampler}"]
    if recipe.fourcc is None:
        fragment.append(shader_text("sampled.glsl"))
    else:
        fragment += [f"#define PLANES {len(recipe.fetches)}", shader_text("planes.glsl"), *_decoder(recipe)]
    if recipe.tone:
        fragment += ["#define TONE", f"#define TONE_{recipe.tone.upper()}"]
        fragment += [f"#define PEAK {HDR_PEAK}", f"#define WHITE {SDR_WHITE}", shader_text("tonemap.glsl")]
    fragment += [_store(recipe.target, recipe.wanted.info), shader_text("picture.frag")]
    return _HEADER.format(version=version, extension="") + shader_text("picture.vert"), "\n".join(fragment)


def _store(target: Target, wanted: FormatInfo) -> str:
    """STORE(c): the wanted format's components in the order of the target's, rounded to its steps."""
    own = {field.shift: field.component for field in target.fourcc.info.planes[0].fields}
    place = {own[field.shift]: field.component for field in wanted.planes[0].fields}
    depths = target.fourcc.info.bits
    parts = []
    for channel in "RGBA":
        component = place.get(channel)
        if component is None or component == "X":
            value = "1.0"
        elif target.fourcc.info.floating:
            value = f"c.{component.lower()}"
        else:
            steps = float((1 << depths[channel]) - 1)
            # Drivers may round either way between steps; on a step there is nothing to round.
            value = f"floor(clamp(c.{component.lower()}, 0.0, 1.0) * {steps} + 0.5) / {steps}"
        parts.append(value)
    return f"#define STORE(c) vec4({', '.join(parts)})"


# From raw planes


def _decoder(recipe: Recipe) -> list[str]:
    assert recipe.fourcc is not None
    info = recipe.fourcc.info
    text = [
        _block_function(index, layout, fetch)
        for index, (layout, fetch) in enumerate(zip(info.planes, recipe.fetches, strict=True))
    ]
    where = {field.component: index for index, layout in enumerate(info.planes) for field in layout.fields}
    parts = {component: _component(component, index, info.planes[index], info.floating) for component, index in where.items()}
    text += [parts[component] for component in parts if component != "X"]
    if info.model == "yuv":
        return [*text, *_yuv(recipe, info, parts)]
    return [*text, _rgb(info, parts, recipe.palette)]


def _block_function(index: int, layout: PlaneFormat, fetch: Fetch) -> str:
    """uvecN block<i>(ivec2 b): the block at column and row b, as little-endian 32-bit words."""
    words = -(-layout.block_bytes // 4)
    count = layout.block_bytes // fetch.unit
    lines = [f"uint[{words}] block{index}(ivec2 b) {{", f"    uint[{words}] w;"]
    lines += [f"    w[{word}] = 0u;" for word in range(words)]
    for step in range(count):
        column = f"b.x * {count} + {step}" if count > 1 else "b.x"
        at = f"ivec2({column}, b.y)"
        if fetch.fold:
            at = f"ivec2(({column}) % {fetch.fold}, b.y * {fetch.folds} + ({column}) / {fetch.fold})"
        texel = f"texelFetch(plane{index}, {at}, 0)"
        byte = step * fetch.unit
        if fetch.unit == 8:
            lines += [
                f"    uvec2 t{step} = bytes8({texel});",
                f"    w[{byte // 4}] = t{step}.x;",
                f"    w[{byte // 4 + 1}] = t{step}.y;",
            ]
        else:
            lines.append(f"    w[{byte // 4}] |= bytes{fetch.unit}({texel}) << {byte % 4 * 8};")
    return "\n".join([*lines, "    return w;", "}"])


def _field(field: Field) -> str:
    """The expression for a field of the words w."""
    word, shift = divmod(field.shift, 32)
    mask = f"0x{(1 << field.bits) - 1:X}u"
    if shift + field.bits <= 32:
        return f"(w[{word}] >> {shift} & {mask})"
    return f"((w[{word}] >> {shift} | w[{word + 1}] << {32 - shift}) & {mask})"


def _component(component: str, index: int, layout: PlaneFormat, floating: bool) -> str:
    """float raw_<C>(ivec2 s): the component's code value at its own sample s of plane index (halves as they are)."""
    fields = sorted((f for f in layout.fields if f.component == component), key=lambda f: f.sample)
    # Samples of this component in one block, across and down: the block's pixels, or one for the chroma they share.
    down = layout.block_height if len(fields) >= layout.block_height * layout.block_width else 1
    wide = len(fields) // down
    lines = [
        f"float raw_{component}(ivec2 s) {{",
        f"    uint[{-(-layout.block_bytes // 4)}] w = block{index}(s / ivec2({wide}, {down}));",
    ]
    values = [f"unpackHalf2x16({_field(f)}).x" if floating else f"float({_field(f)})" for f in fields]
    if len(values) > 1:
        which = f"s.y % {down} * {wide} + s.x % {wide}" if down > 1 else f"s.x % {wide}"
        lines.append(f"    int i = {which};")
    chosen = values[-1]
    for number in range(len(values) - 2, -1, -1):
        chosen = f"i == {number} ? {values[number]} : {chosen}"
    return "\n".join([*lines, f"    return {chosen};", "}"])


def _scaled(info: FormatInfo, component: str, at: str) -> str:
    if info.floating:
        return f"raw_{component}({at})"
    return f"raw_{component}({at}) / {float((1 << info.bits[component]) - 1)}"


def _rgb(info: FormatInfo, parts: dict[str, str], palette: bool) -> str:
    if info.model == "index" and palette:
        return "uniform sampler2D palette;\nvec4 colour(ivec2 p) { return texelFetch(palette, ivec2(int(raw_C(p)), 0), 0); }"
    if info.model == "index":
        rgb = [_scaled(info, "C", "p")] * 3
    elif info.model == "dark":
        rgb = [f"1.0 - {_scaled(info, 'D', 'p')}"] * 3
    elif set(info.bits) == {"R"}:
        rgb = [_scaled(info, "R", "p")] * 3
    else:
        rgb = [_scaled(info, c, "p") if c in parts else "0.0" for c in "RGB"]
    alpha = _scaled(info, "A", "p") if "A" in parts else "1.0"
    if len(set(rgb)) == 1:
        return f"vec4 colour(ivec2 p) {{ return vec4(vec3({rgb[0]}), {alpha}); }}"
    return f"vec4 colour(ivec2 p) {{ return vec4({', '.join(rgb)}, {alpha}); }}"


def _yuv(recipe: Recipe, info: FormatInfo, parts: dict[str, str]) -> list[str]:
    across, down = info.subsampling
    alpha = _scaled(info, "A", "p") if "A" in parts else "1.0"
    chroma = "vec2(raw_Cb(s), raw_Cr(s))" if "Cb" in parts else "vec2(0.0)"
    x, y = (str(value).lower() for value in recipe.cosited)
    return [
        f"#define SUB ivec2({across}, {down})",
        f"#define COSITED bvec2({x}, {y})",
        "float luma(ivec2 p) { return raw_Y(p); }",
        f"vec2 chroma(ivec2 s) {{ return {chroma}; }}",
        f"float alpha(ivec2 p) {{ return {alpha}; }}",
        shader_text("yuv.glsl"),
    ]


# Compiling


class Program:
    """A linked program and its uniforms' places, by name."""

    def __init__(self, recipe: Recipe, desktop: bool = False) -> None:
        # GL_ARB_ES3_compatibility is part of GL 4.3; before, 3.30 with one extension says the same.
        vertex, fragment = sources(recipe, "330" if desktop else "300 es")
        self.name = int(gl.glCreateProgram())
        for kind, text in ((gl.GL_VERTEX_SHADER, vertex), (gl.GL_FRAGMENT_SHADER, fragment)):
            shader = gl.glCreateShader(kind)
            gl.glShaderSource(shader, text)
            gl.glCompileShader(shader)
            if not gl.glGetShaderiv(shader, gl.GL_COMPILE_STATUS):
                log = gl.glGetShaderInfoLog(shader)
                raise GLFailure(f"a shader for {recipe.fourcc or 'sampling'} does not compile: {log!r}\n{text}")
            gl.glAttachShader(self.name, shader)
            gl.glDeleteShader(shader)
        gl.glLinkProgram(self.name)
        if not gl.glGetProgramiv(self.name, gl.GL_LINK_STATUS):
            raise GLFailure(f"a program for {recipe.fourcc or 'sampling'} does not link: {gl.glGetProgramInfoLog(self.name)!r}")
        self._places: dict[str, int] = {}

    def place(self, uniform: str) -> int:
        """A uniform's location, -1 if the program has no use for it."""
        if uniform not in self._places:
            self._places[uniform] = int(gl.glGetUniformLocation(self.name, uniform))
        return self._places[uniform]

    def delete(self) -> None:
        gl.glDeleteProgram(self.name)
