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
            # Drivers may cut instead of rounding; a value that is a half already stays as it is.
            value = f"unpackHalf2x16(packHalf2x16(vec2(c.{component.lower()}, 0.0))).x"
        else:
            steps = float((1 << depths[channel]) - 1)
            # Drivers may round either way between steps; on a step there is nothing to round.
            value = f"floor(clamp(c.{component.lower()}, 0.0, 1.0) * {steps} + 0.5) / {steps}"
        parts.append(value)
    return f"#define STORE(c) vec4({', '.join(parts)})"


# From raw planes


class Group(NamedTuple):
    """The components of one plane that are sampled alike, fetched together by one GLSL function."""

    plane: int
    components: tuple[str, ...]
    across: int  # samples of each in one block, across and down
    down: int

    @property
    def name(self) -> str:
        return f"fetch{self.plane}_{''.join(self.components)}"

    @property
    def kind(self) -> str:
        return "float" if len(self.components) == 1 else f"vec{len(self.components)}"


def _groups(info: FormatInfo) -> list[Group]:
    found = []
    for index, layout in enumerate(info.planes):
        counts: dict[int, list[str]] = {}
        for component in dict.fromkeys(field.component for field in layout.fields if field.component != "X"):
            counts.setdefault(sum(field.component == component for field in layout.fields), []).append(component)
        for count, components in counts.items():
            # The block's pixels, or one sample of the chroma that they share.
            down = layout.block_height if count >= layout.block_height * layout.block_width else 1
            found.append(Group(index, tuple(sorted(components)), count // down, down))
    return found


def _decoder(recipe: Recipe) -> list[str]:
    assert recipe.fourcc is not None
    info = recipe.fourcc.info
    text, values = [], {}
    in_words = set()
    for group in _groups(info):
        layout, fetch = info.planes[group.plane], recipe.fetches[group.plane]
        body = _whole_bytes(group, layout, fetch) if not info.floating else None
        if body is None:
            body = _from_words(group, layout, info.floating)
            if group.plane not in in_words:
                text.append(_block_function(group.plane, layout, fetch))
                in_words.add(group.plane)
        text.append(f"{group.kind} {group.name}(ivec2 s) {{\n{body}\n}}")
        for place, component in zip("xyzw", group.components, strict=False):
            values[component] = group, "" if len(group.components) == 1 else f".{place}"
    if info.model == "yuv":
        return [*text, *_yuv(recipe, info, values)]
    return [*text, _rgb(info, values, recipe.palette)]


def _texel(index: int, fetch: Fetch, column: str, row: str) -> str:
    if fetch.fold:
        return (
            f"texelFetch(plane{index}, ivec2(({column}) % {fetch.fold}, {row} * {fetch.folds} + ({column}) / {fetch.fold}), 0)"
        )
    return f"texelFetch(plane{index}, ivec2({column}, {row}), 0)"


def _whole_bytes(group: Group, layout: PlaneFormat, fetch: Fetch) -> str | None:
    """The body of a group's function where a block is one texel and its fields begin or end with bytes: no bit work.

    A texel's channels times 255 (65535 of 8-byte ones) are the bytes (words), to a millionth of a step.
    """
    if fetch.unit != layout.block_bytes or group.across * group.down != 1:
        return None
    width = 16 if fetch.unit == 8 else 8
    values = []
    for component in group.components:
        field = next(field for field in layout.fields if field.component == component)
        first, last = field.shift // width, (field.shift + field.bits - 1) // width
        if (field.shift + field.bits) % width or last - first > 1:
            return None
        scales = [float(((1 << width) - 1) << width * (channel - first)) for channel in range(first, last + 1)]
        value = " + ".join(f"t.{'rgba'[first + n]} * {scale}" for n, scale in enumerate(scales))
        below = field.shift % width
        values.append(f"floor(({value} + 0.25) / {float(1 << below)})" if below else value)
    body = values[0] if len(values) == 1 else f"{group.kind}({', '.join(values)})"
    return f"    vec4 t = {_texel(group.plane, fetch, 's.x', 's.y')};\n    return {body};"


def _from_words(group: Group, layout: PlaneFormat, floating: bool) -> str:
    """The body of a group's function by shifts and masks of the block's words."""
    words = -(-layout.block_bytes // 4)
    lines = [f"    uint[{words}] w = block{group.plane}(s / ivec2({group.across}, {group.down}));"]
    if group.across * group.down > 1:
        which = f"s.y % {group.down} * {group.across} + s.x % {group.across}" if group.down > 1 else f"s.x % {group.across}"
        lines.append(f"    int i = {which};")
    values = []
    for component in group.components:
        fields = sorted((f for f in layout.fields if f.component == component), key=lambda f: f.sample)
        codes = [f"unpackHalf2x16({_field(f)}).x" if floating else f"float({_field(f)})" for f in fields]
        chosen = codes[-1]
        for number in range(len(codes) - 2, -1, -1):
            chosen = f"i == {number} ? {codes[number]} : {chosen}"
        values.append(chosen)
    body = values[0] if len(values) == 1 else f"{group.kind}({', '.join(values)})"
    return "\n".join([*lines, f"    return {body};"])


def _block_function(index: int, layout: PlaneFormat, fetch: Fetch) -> str:
    """uvecN block<i>(ivec2 b): the block at column and row b, as little-endian 32-bit words."""
    words = -(-layout.block_bytes // 4)
    count = layout.block_bytes // fetch.unit
    lines = [f"uint[{words}] block{index}(ivec2 b) {{", f"    uint[{words}] w;"]
    lines += [f"    w[{word}] = 0u;" for word in range(words)]
    for step in range(count):
        texel = _texel(index, fetch, f"b.x * {count} + {step}" if count > 1 else "b.x", "b.y")
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


Values = dict[str, tuple[Group, str]]  # component -> the group that fetches it, and which of the group's it is


def _scaled(info: FormatInfo, values: Values, component: str) -> str:
    """A component of the pixel whose groups have been fetched, from 0 to 1."""
    group, place = values[component]
    if info.floating:
        return f"v{group.plane}{place}"
    return f"v{group.plane}{place} / {float((1 << info.bits[component]) - 1)}"


def _rgb(info: FormatInfo, values: Values, palette: bool) -> str:
    groups = dict.fromkeys(group for group, _ in values.values())
    fetched = " ".join(f"{group.kind} v{group.plane} = {group.name}(p);" for group in groups)
    if info.model == "index" and palette:
        body = f"{fetched} return texelFetch(palette, ivec2(int(v0), 0), 0);"
        return f"uniform sampler2D palette;\nvec4 colour(ivec2 p) {{ {body} }}"
    if info.model == "index":
        rgb = [_scaled(info, values, "C")] * 3
    elif info.model == "dark":
        rgb = [f"1.0 - {_scaled(info, values, 'D')}"] * 3
    elif set(info.bits) == {"R"}:
        rgb = [_scaled(info, values, "R")] * 3
    else:
        rgb = [_scaled(info, values, c) if c in values else "0.0" for c in "RGB"]
    alpha = _scaled(info, values, "A") if "A" in values else "1.0"
    return f"vec4 colour(ivec2 p) {{ {fetched} return vec4({', '.join(rgb)}, {alpha}); }}"


def _yuv(recipe: Recipe, info: FormatInfo, values: Values) -> list[str]:
    def of(component: str, at: str) -> str:
        group, place = values[component]
        return f"{group.name}({at}){place}"

    across, down = info.subsampling
    alpha = f"{of('A', 'p')} / {float((1 << info.bits['A']) - 1)}" if "A" in values else "1.0"
    chroma = f"vec2({of('Cb', 's')}, {of('Cr', 's')})" if "Cb" in values else "vec2(0.0)"
    if "Cb" in values and values["Cb"][0] == values["Cr"][0]:
        group = values["Cb"][0]
        chroma = f"{group.name}(s)" + ("" if group.kind == "vec2" else f".{values['Cb'][1][1:]}{values['Cr'][1][1:]}")
    x, y = (str(value).lower() for value in recipe.cosited)
    return [
        f"#define SUB ivec2({across}, {down})",
        f"#define COSITED bvec2({x}, {y})",
        f"float luma(ivec2 p) {{ return {of('Y', 'p')}; }}",
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
