"""Textures that GL hands out as dma-bufs come back equal, the way virtio-gpu shares what it rendered."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy
import pytest
from producers import ReadLog
from watch import Trace, check_paired, dmabufs, open_fds

import glreadback
from glreadback import DeviceError, DmaBuf, ImportRejected, Reader, export_texture
from glreadback.egl.context import Context
from glreadback.egl.device import open_display
from glreadback.kernel import dmabuf

RGBA, RGB, RED, RG = 0x1908, 0x1907, 0x1903, 0x8227
UBYTE, USHORT, HALF, SHORT_565, INT_2101010_REV = 0x1401, 0x1403, 0x140B, 0x8363, 0x8368
# What is uploaded: internal format, the pixels' format and type, bytes of one; and as what it has to come back.
TEXTURES = {
    "RGBA8": (0x8058, RGBA, UBYTE, 4, "AB24"),
    "RGB565": (0x8D62, RGB, SHORT_565, 2, "RG16"),
    "RGB10_A2": (0x8059, RGBA, INT_2101010_REV, 4, "AB30"),
    "RGBA16F": (0x881A, RGBA, HALF, 8, "AB4H"),
    "RGBA16": (0x805B, RGBA, USHORT, 8, "AB48"),
    "R8": (0x8229, RED, UBYTE, 1, "R8"),
    "RG8": (0x822B, RG, UBYTE, 2, "GR88"),
}
SIZES = ((64, 48), (101, 33), (1, 1))


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    """A renderer's own context. Not the reader's: what is shared goes by the dma-buf alone."""
    made = Context(open_display("software"))
    yield made
    made.close()


def upload(kind: str, width: int, height: int, content: bytes) -> int:
    from OpenGL import GLES3 as gl

    internal, layout, word, _, _ = TEXTURES[kind]
    texture = int(gl.glGenTextures(1))
    gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
    gl.glTexStorage2D(gl.GL_TEXTURE_2D, 1, internal, width, height)
    gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
    gl.glTexSubImage2D(gl.GL_TEXTURE_2D, 0, 0, 0, width, height, layout, word, content)
    gl.glBindTexture(gl.GL_TEXTURE_2D, 0)
    return texture


def delete(texture: int) -> None:
    from OpenGL import GLES3 as gl

    gl.glDeleteTextures(1, [texture])


def close(buf: DmaBuf) -> None:
    for fd in {plane.fd for plane in buf.planes}:
        os.close(fd)


def noise(size: int) -> bytes:
    # No NaN among the half floats: an upload may rewrite them.
    return (numpy.random.default_rng(size).integers(0, 256, size, numpy.uint8) & 0x7B).tobytes()


@pytest.mark.parametrize("kind", list(TEXTURES))
def test_a_texture_comes_back(kind: str, context: Context, reader: Reader, read_log: ReadLog) -> None:
    *_, size, fourcc = TEXTURES[kind]
    for width, height in SIZES:
        content = noise(width * height * size)
        with context:
            texture = upload(kind, width, height, content)
            buf = export_texture(texture)
        try:
            fd = buf.planes[0].fd
            assert dmabuf.is_dmabuf(fd)
            assert (buf.width, buf.height, str(buf.fourcc), len(buf.planes)) == (width, height, fourcc, 1)
            assert not os.get_inheritable(fd)
            for route in ("alias", "native", "map"):
                surface = reader.read(buf, route=route)
                assert surface.tobytes() == content
                read_log("GL texture", route)
            if kind == "RGBA8":
                assert reader.read(buf, route="draw").tobytes() == content
                read_log("GL texture", "draw")
            reader.forget(buf)
        finally:
            close(buf)
            with context:
                delete(texture)


def test_a_texture_that_was_rendered(context: Context, reader: Reader, read_log: ReadLog, trace: Trace) -> None:
    from OpenGL import GLES3 as gl

    width, height = 40, 30
    wanted = numpy.zeros((height, width, 4), numpy.uint8)
    with context:
        texture = upload("RGBA8", width, height, bytes(width * height * 4))
        framebuffer = int(gl.glGenFramebuffers(1))
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, framebuffer)
        gl.glFramebufferTexture2D(gl.GL_FRAMEBUFFER, gl.GL_COLOR_ATTACHMENT0, gl.GL_TEXTURE_2D, texture, 0)

        def rectangle(x: int, y: int, w: int, h: int, colour: tuple[int, int, int, int]) -> None:
            gl.glEnable(gl.GL_SCISSOR_TEST)
            gl.glScissor(x, y, w, h)
            gl.glClearColor(*(value / 255 for value in colour))
            gl.glClear(gl.GL_COLOR_BUFFER_BIT)
            gl.glDisable(gl.GL_SCISSOR_TEST)
            wanted[y : y + h, x : x + w] = colour

        rectangle(0, 0, width, height, (255, 128, 0, 255))
        rectangle(5, 7, 20, 11, (1, 2, 3, 4))
        buf = export_texture(texture)
    try:
        assert numpy.array_equal(numpy.asarray(reader.read(buf)), wanted)
        with context:
            rectangle(30, 20, 10, 10, (9, 8, 7, 6))
            gl.glFinish()
        trace.clear()
        surface = reader.read(buf)
        check_paired(trace.events(), buffers=1)
        assert numpy.array_equal(numpy.asarray(surface), wanted), "what is rendered later is seen through the same dma-buf"
        read_log("GL texture", str(surface.route))
        reader.forget(buf)
    finally:
        close(buf)
        with context:
            gl.glDeleteFramebuffers(1, [framebuffer])
            delete(texture)


def test_the_descriptors_are_the_callers(context: Context, reader: Reader) -> None:
    with context:
        texture = upload("RGBA8", 64, 48, noise(64 * 48 * 4))
        close(export_texture(texture))  # the texture's memory may become a dma-buf now, and stays one
        before = open_fds()
        first, second = export_texture(texture), export_texture(texture)
    assert len(open_fds()) == len(before) + len({plane.fd for buf in (first, second) for plane in buf.planes})
    inode = os.fstat(first.planes[0].fd).st_ino
    close(second)
    assert reader.read(first).tobytes() == noise(64 * 48 * 4)
    with context:
        delete(texture)
    assert reader.read(first).tobytes() == noise(64 * 48 * 4), "the memory lives as long as the descriptor"
    reader.forget(first)
    close(first)
    assert inode not in dmabufs()
    assert set(open_fds()) <= set(before)


def test_the_callers_bindings_stay(context: Context) -> None:
    from OpenGL import GLES3 as gl

    with context:
        one, other = upload("RGBA8", 8, 8, bytes(256)), upload("RGBA8", 8, 8, bytes(256))
        gl.glBindTexture(gl.GL_TEXTURE_2D, other)
        close(export_texture(one))
        assert int(gl.glGetIntegerv(gl.GL_TEXTURE_BINDING_2D)) == other
        assert gl.glGetError() == gl.GL_NO_ERROR
        delete(one)
        delete(other)


def test_what_cannot_be_exported(context: Context) -> None:
    before = open_fds()
    with pytest.raises(DeviceError, match="current"):
        glreadback.export_texture(1)
    with context:
        for name in (0, 12345):
            with pytest.raises(ImportRejected, match=f"texture {name}"):
                export_texture(name)
        from OpenGL import GLES3 as gl

        assert gl.glGetError() == gl.GL_NO_ERROR
    assert open_fds() == before
