"""The draw route: sample a frame in a shader into a target deep enough, and read that. Context current."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from OpenGL import GLES3 as gl

from ..color import conversion
from ..dmabuf import Backing, Plane
from ..errors import ImportRejected
from ..frame import Frame, Rect
from ..plan import ALIASES, Route, alias_bytes
from ..surface import Surface
from . import pixels
from .program import Fetch, Program, Recipe
from .texture import EXTERNAL, attach

if TYPE_CHECKING:
    from ..importer import Import, Importer


class Drawing:
    """What drawing needs and keeps on one device: programs by recipe, and one target."""

    def __init__(self) -> None:
        self._programs: dict[Recipe, Program] = {}
        self._target: tuple[int, int, int] | None = None  # internal format, width, height
        self._texture = self._framebuffer = 0

    def program(self, recipe: Recipe) -> Program:
        if recipe not in self._programs:
            self._programs[recipe] = Program(recipe)
        return self._programs[recipe]

    def target(self, internal: int, width: int, height: int) -> int:
        """The framebuffer of a target texture of that kind; the last one is kept, as frames tend to be alike."""
        if self._target != (internal, width, height):
            self._drop_target()
            self._texture = int(gl.glGenTextures(1))
            gl.glBindTexture(gl.GL_TEXTURE_2D, self._texture)
            gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, internal, width, height)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
            self._framebuffer = attach(self._texture)
            self._target = internal, width, height
        return self._framebuffer

    def _drop_target(self) -> None:
        if self._target is not None:
            gl.glDeleteFramebuffers(1, [self._framebuffer])
            gl.glDeleteTextures(1, [self._texture])
            self._target = None


def draw(importer: Importer, frame: Frame, backings: Sequence[Backing], region: Rect, out: Surface, route: Route) -> None:
    """Draw a region of a frame, in pixels of its buffer, upright into a target of out's size, and read that into out.

    Raises ImportRejected and GLFailure.
    """
    assert route.target is not None
    assert route.access is not None
    buf = frame.buffer
    if route.raw:
        imports, fetches = _import_planes(importer, frame, backings, route.sampler)
        info = buf.fourcc.info
        color = conversion(frame.color, info, buf.height) if info.model == "yuv" else None
        cosited = color.cosited if color is not None else (False, False)
        recipe = Recipe(route.sampler, route.target, route.fourcc, buf.fourcc, fetches, cosited)
    else:
        whole = importer.get(
            *(buf, backings), code=buf.fourcc.code, width=buf.width, height=buf.height, planes=buf.planes, sampler=route.sampler
        )
        imports, color = [whole], None
        recipe = Recipe(route.sampler, route.target, route.fourcc)
    framebuffer = importer.drawing.target(route.target.internal, out.width, out.height)
    program = importer.drawing.program(recipe)

    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, framebuffer)
    gl.glViewport(0, 0, out.width, out.height)
    gl.glUseProgram(program.name)
    kind = EXTERNAL if route.sampler == "external" else gl.GL_TEXTURE_2D
    for unit, found in enumerate(imports):
        gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
        gl.glBindTexture(kind, found.texture.name)
        gl.glUniform1i(program.place(f"plane{unit}" if route.raw else "picture"), unit)
    gl.glActiveTexture(gl.GL_TEXTURE0)
    for name, pair in zip(("origin", "across", "down"), mapping(frame, region, out.width, out.height), strict=True):
        gl.glUniform2i(program.place(name), *pair)
    if color is not None:
        across, down = buf.fourcc.info.subsampling
        gl.glUniform2i(program.place("chroma_last"), -(-buf.width // across) - 1, -(-buf.height // down) - 1)
        gl.glUniform3f(program.place("offset"), *color.offset)
        gl.glUniformMatrix3fv(program.place("matrix"), 1, gl.GL_TRUE, (ctypes.c_float * 9)(*color.matrix))
    gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)

    if out.stride % route.access.bytes:
        packed = Surface.allocate(out.width, out.height, out.fourcc)
        _read(importer, framebuffer, packed, route)
        for source, to in zip(packed.rows(), out.rows(), strict=True):
            to[:] = source
    else:
        _read(importer, framebuffer, out, route)


def _read(importer: Importer, framebuffer: int, out: Surface, route: Route) -> None:
    assert route.access is not None
    whole = Rect(0, 0, out.width, out.height)
    pixels.read(pixels.copies(framebuffer, whole, route.access, 0, out.stride, False, importer.can_reverse), out.address)


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
                    f"{importer.display.device.name} takes {limit} texels in a row, plane {index} of {buf} has {width} and a stride "
                    f"({plane.stride}) that cannot be folded; read_planes reads it",
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
