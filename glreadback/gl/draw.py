"""The draw route: sample a frame in a shader into a target deep enough, and read that. Context current."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from OpenGL import GLES3 as gl

from .. import plan
from ..color import conversion, usual
from ..dmabuf import Backing, Plane
from ..egl.gaps import delete, generate
from ..errors import ImportRejected
from ..frame import Frame, Rect
from ..plan import ALIASES, Route, alias_bytes
from .program import Fetch, Program, Recipe
from .texture import EXTERNAL, attach, told_by_pyopengl

if TYPE_CHECKING:
    from ..importer import Import, Importer


# EGL_EXT_image_dma_buf_import's hints, for pictures whose YUV the driver decodes: what, and its values by name.
_HINTS = (
    (0x327B, "matrix", {"601": 0x327F, "709": 0x3280, "2020": 0x3281}),  # EGL_YUV_COLOR_SPACE_HINT_EXT
    (0x327C, "range", {"full": 0x3282, "narrow": 0x3283}),  # EGL_SAMPLE_RANGE_HINT_EXT
    (0x327D, "siting", {"left": 0x3284, "topleft": 0x3284, "center": 0x3285}),  # ..._CHROMA_HORIZONTAL_SITING_HINT_EXT
    (0x327E, "siting", {"left": 0x3285, "topleft": 0x3284, "center": 0x3285}),  # ..._CHROMA_VERTICAL_SITING_HINT_EXT
)


class Target(NamedTuple):
    """A texture to draw into, and its framebuffer."""

    key: tuple[int, int, int]  # internal format, width, height
    texture: int
    framebuffer: int


class Drawing:
    """What drawing needs and keeps on one device: programs by recipe, and the last target of each pass."""

    def __init__(self, desktop: bool) -> None:
        self._desktop = desktop
        # Desktop GL's core profile draws nothing without a vertex array object, empty as it may be.
        self.vertices = generate("VertexArrays")
        self._programs: dict[Recipe, Program] = {}
        self._targets: dict[str, Target] = {}
        self._palette = 0
        self._palette_bytes = b""

    def program(self, recipe: Recipe) -> Program:
        if recipe not in self._programs:
            self._programs[recipe] = Program(recipe, self._desktop)
        return self._programs[recipe]

    def target(self, use: str, internal: int, width: int, height: int) -> Target:
        """A target texture of that kind; the last one of each use is kept, as frames tend to be alike."""
        kept = self._targets.get(use)
        if kept is not None and kept.key == (internal, width, height):
            return kept
        if kept is not None:
            self._delete(use)
        texture = _plain_texture()
        try:
            gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, internal, width, height)
            made = Target((internal, width, height), texture, attach(texture))
        except BaseException:
            delete("Textures", texture)
            raise
        self._targets[use] = made
        return made

    def _delete(self, use: str) -> None:
        kept = self._targets.pop(use)
        delete("Framebuffers", kept.framebuffer)
        delete("Textures", kept.texture)

    def delete(self) -> None:
        """Give everything back."""
        for use in list(self._targets):
            self._delete(use)
        for program in self._programs.values():
            program.delete()
        self._programs.clear()
        if self._palette:
            delete("Textures", self._palette)
        delete("VertexArrays", self.vertices)

    def palette(self, colours: Sequence[tuple[int, int, int]]) -> int:
        """A texture of 256 colours; black beyond those given."""
        given = b"".join(bytes((*colour, 255)) for colour in colours)
        wanted = given + b"\0\0\0\xff" * (256 - len(given) // 4)
        if not self._palette:
            self._palette = _plain_texture()
            gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, gl.GL_RGBA8, 256, 1)
        if wanted != self._palette_bytes:
            gl.glBindTexture(gl.GL_TEXTURE_2D, self._palette)
            gl.glTexSubImage2D(gl.GL_TEXTURE_2D, 0, 0, 0, 256, 1, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, wanted)
            self._palette_bytes = wanted
        return self._palette


def _plain_texture() -> int:
    name = generate("Textures")
    gl.glBindTexture(gl.GL_TEXTURE_2D, name)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MAG_FILTER, gl.GL_NEAREST)
    return name


@told_by_pyopengl()
def draw(
    importer: Importer,
    frame: Frame,
    backings: Sequence[Backing],
    region: Rect,
    size: tuple[int, int],
    route: Route,
    tone: str = "",
) -> int:
    """Draw a region of a frame, in pixels of its buffer, upright and scaled to size if that is not its own.

    The framebuffer it is in: to be read by route.access before the next draw. tone maps HDR of that transfer ("pq",
    "hlg") to sRGB. Raises ImportRejected and GLFailure.
    """
    assert route.target is not None
    own = (region.height, region.width) if frame.quarters % 2 else (region.width, region.height)
    with importer.context.drawing():
        final = importer.drawing.target("final", route.target.internal, *size)
        if own == size:
            _draw_picture(importer, frame, backings, region, final, route, tone)
        else:
            # Between the passes nothing may be lost: 16 bits where there are such textures.
            between = route.target if route.target.name in ("RGBA16F", "R8") else _deepest(importer)
            full = importer.drawing.target("full", between.internal, *own)
            plain = replace(route, target=between, fourcc=between.fourcc)
            _draw_picture(importer, frame, backings, region, full, plain, tone)
            _draw_scaled(importer, full, own, final, route)
    return final.framebuffer


def _deepest(importer: Importer) -> plan.Target:
    names = ("RGBA16", "RGBA8")
    able = {target.name: target for target in plan.TARGETS if plan.drawable(target, importer.capabilities)}
    return next(able[name] for name in names if name in able)


def _draw_picture(
    importer: Importer, frame: Frame, backings: Sequence[Backing], region: Rect, target: Target, route: Route, tone: str
) -> None:
    assert route.target is not None
    buf = frame.buffer
    info = buf.fourcc.info
    color = conversion(frame.color, info, frame.area.height) if info.model == "yuv" else None
    palette = frame.palette if info.model == "index" else None
    recipe = Recipe(route.sampler, route.target, route.fourcc, palette=palette is not None, tone=tone)
    if route.raw:
        imports, fetches = _import_planes(importer, frame, backings, route.sampler)
        recipe = recipe._replace(fourcc=buf.fourcc, fetches=fetches, cosited=color.cosited if color else (False, False))
    else:
        hints: list[int] = []
        if info.model == "yuv":
            meant = usual(frame.color, frame.area.height)
            hints = [number for name, what, values in _HINTS for number in (name, values[getattr(meant, what)])]
        imports = [
            importer.get(
                buf,
                backings,
                code=buf.fourcc.code,
                width=buf.width,
                height=buf.height,
                planes=buf.planes,
                sampler=route.sampler,
                hints=hints,
            )
        ]
    program = importer.drawing.program(recipe)
    kind = EXTERNAL if route.sampler == "external" else gl.GL_TEXTURE_2D
    textures = [(f"plane{n}" if route.raw else "picture", kind, found.texture.name) for n, found in enumerate(imports)]
    if palette is not None:
        textures.append(("palette", gl.GL_TEXTURE_2D, importer.drawing.palette(palette)))
    _begin(importer.drawing, program, target, textures)
    for name, pair in zip(("origin", "across", "down"), mapping(frame, region, *target.key[1:]), strict=True):
        gl.glUniform2i(program.place(name), *pair)
    if color is not None and route.raw:
        across, down = info.subsampling
        area = frame.area
        right, bottom = area.x + area.width, area.y + area.height
        gl.glUniform2i(program.place("chroma_first"), area.x // across, area.y // down)
        gl.glUniform2i(program.place("chroma_last"), -(-right // across) - 1, -(-bottom // down) - 1)
        gl.glUniform3f(program.place("offset"), *color.offset)
        gl.glUniformMatrix3fv(program.place("matrix"), 1, gl.GL_TRUE, (ctypes.c_float * 9)(*color.matrix))
    gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)


def _draw_scaled(importer: Importer, full: Target, size: tuple[int, int], target: Target, route: Route) -> None:
    assert route.target is not None
    program = importer.drawing.program(Recipe("2d", route.target, route.fourcc, scale=True))
    _begin(importer.drawing, program, target, [("picture", gl.GL_TEXTURE_2D, full.texture)])
    gl.glUniform2i(program.place("size"), *size)
    gl.glUniform2f(program.place("ratio"), size[0] / target.key[1], size[1] / target.key[2])
    gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)


def _begin(drawing: Drawing, program: Program, target: Target, textures: Sequence[tuple[str, int, int]]) -> None:
    """Bind a target, a program and its textures (uniform, kind, name), a unit each."""
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, target.framebuffer)
    gl.glViewport(0, 0, *target.key[1:])
    gl.glUseProgram(program.name)
    gl.glBindVertexArray(drawing.vertices)
    for unit, (uniform, kind, name) in enumerate(textures):
        gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
        gl.glBindTexture(kind, name)
        gl.glUniform1i(program.place(uniform), unit)
    gl.glActiveTexture(gl.GL_TEXTURE0)


def mapping(frame: Frame, region: Rect, width: int, height: int) -> tuple[tuple[int, int], ...]:
    """(origin, across, down): the buffer's pixel for the picture's pixel (x, y) is origin + across * x + down * y."""

    def place(x: int, y: int) -> tuple[int, int]:
        w, h = width, height
        # wl_output.transform: flipped first, then turned counter-clockwise; that is how picture becomes buffer.
        if frame.transform.startswith("flipped"):
            x = w - 1 - x
        for _ in range(frame.quarters):
            x, y, w, h = y, w - 1 - x, h, w
        if frame.y_invert:
            y = h - 1 - y
        return region.x + x, region.y + y

    origin = place(0, 0)
    right, below = place(1, 0), place(0, 1)
    return origin, (right[0] - origin[0], right[1] - origin[1]), (below[0] - origin[0], below[1] - origin[1])


def _import_planes(
    importer: Importer, frame: Frame, backings: Sequence[Backing], sampler: str
) -> tuple[list[Import], tuple[Fetch, ...]]:
    """Each plane as a texture of plain bytes, and how to fetch from it."""
    buf, limit = frame.buffer, importer.capabilities.max_extent
    imports, fetches = [], []
    for index, (plane, backing, layout) in enumerate(zip(buf.planes, backings, buf.layouts, strict=True)):
        step, rows = buf.step(index), layout.rows(buf.height)
        unit = alias_bytes(layout.block_bytes)
        width = layout.row_bytes(buf.width) // unit
        fetch = Fetch(unit)
        if width > limit:
            # Fold rows that are too wide: with half the pitch, row r is rows 2r and 2r + 1.
            folds = next((n for n in range(2, limit // rows + 1) if step % (n * unit) == 0 and step // (n * unit) <= limit), 0)
            if not folds or plane.offset + step * rows > backing.size:
                raise ImportRejected(
                    f"{importer.display.device.name} takes {limit} texels in a row, plane {index} of {buf} has {width} "
                    f"and a stride ({plane.stride}) that cannot be folded; read_planes reads it",
                    fourcc=buf.fourcc,
                    modifier=buf.modifier,
                    planes=len(buf.planes),
                )
            width, step, rows = step // (folds * unit), step // folds, rows * folds
            fetch = Fetch(unit, width, folds)
        imports.append(
            importer.get(
                buf,
                (backing,),
                code=ALIASES[unit][0].code,
                width=width,
                height=rows,
                planes=(Plane(plane.fd, plane.offset, step),),
                sampler=sampler,
            )
        )
        fetches.append(fetch)
    return imports, tuple(fetches)
