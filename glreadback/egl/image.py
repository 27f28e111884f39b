"""EGL images of dma-bufs: EGL_EXT_image_dma_buf_import and its modifiers, and the way back (MESA_image_dma_buf_export)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from OpenGL.EGL.EXT import image_dma_buf_import as dma
from OpenGL.EGL.KHR.image_base import eglCreateImageKHR, eglDestroyImageKHR

from ..dmabuf import DmaBuf, Plane
from ..errors import DeviceError, ImportRejected
from ..modifier import Modifier
from .device import Display
from .gaps import egl, error_name, function, get_integer, handle_value, is_null

# Per plane: fd, offset, pitch, and modifier low and high (EGL_EXT_image_dma_buf_import_modifiers).
_PLANE_ATTRIBUTES = (
    (dma.EGL_DMA_BUF_PLANE0_FD_EXT, dma.EGL_DMA_BUF_PLANE0_OFFSET_EXT, dma.EGL_DMA_BUF_PLANE0_PITCH_EXT, 0x3443, 0x3444),
    (dma.EGL_DMA_BUF_PLANE1_FD_EXT, dma.EGL_DMA_BUF_PLANE1_OFFSET_EXT, dma.EGL_DMA_BUF_PLANE1_PITCH_EXT, 0x3445, 0x3446),
    (dma.EGL_DMA_BUF_PLANE2_FD_EXT, dma.EGL_DMA_BUF_PLANE2_OFFSET_EXT, dma.EGL_DMA_BUF_PLANE2_PITCH_EXT, 0x3447, 0x3448),
    (0x3440, 0x3441, 0x3442, 0x3449, 0x344A),
)

# What each EGL error of an import usually means, for people.
_ADVICE = {
    "EGL_BAD_MATCH": "this driver does not take that fourcc with that modifier",
    "EGL_BAD_PARAMETER": "the driver finds the description incomplete",
    "EGL_BAD_ALLOC": "the buffer is another device's, or the driver cannot map it",
    "EGL_BAD_ACCESS": "the driver does not take that stride or offset",
    "EGL_BAD_ATTRIBUTE": "the driver does not know one of the attributes",
    "EGL_SUCCESS": "the driver gives no reason",
}


def create_image(
    display: Display, width: int, height: int, code: int, planes: Sequence[Plane], modifier: Modifier, hints: Sequence[int] = ()
) -> Any:
    """An EGL image over the planes of a dma-buf; the driver keeps its own references, the fds stay the caller's.

    width and height in pixels, code a DRM fourcc, hints further EGL attributes. Raises ImportRejected.
    """
    attributes = [egl.EGL_WIDTH, width, egl.EGL_HEIGHT, height, dma.EGL_LINUX_DRM_FOURCC_EXT, code]
    # INVALID means that the producer said nothing; the attribute is left out then. A driver without the modifiers
    # extension takes none at all, and dropping LINEAR is safe where dropping a tiled one would read garbage.
    with_modifier = not modifier.is_invalid
    if with_modifier and "EGL_EXT_image_dma_buf_import_modifiers" not in display.extensions:
        if modifier.tiled:
            raise ImportRejected(
                f"{display.device.name} cannot be told of modifiers, and {modifier} is needed to read this buffer",
                modifier=modifier,
                planes=len(planes),
            )
        with_modifier = False
    for names, plane in zip(_PLANE_ATTRIBUTES, planes, strict=False):
        attributes += [names[0], plane.fd, names[1], plane.offset, names[2], plane.stride]
        if with_modifier:
            # EGLint is signed: the halves go in as the same 32 bits.
            attributes += [names[3], _signed(modifier & 0xFFFFFFFF), names[4], _signed(modifier >> 32)]
    attributes += hints
    attributes.append(_NONE)
    # Straight to the driver, as a buffer may be new in every frame: PyOpenGL takes as long over the list as all else does.
    image = _create(handle_value(display.handle), None, _LINUX_DMA_BUF, None, (ctypes.c_int * len(attributes))(*attributes))
    if not image:
        raise Refused(_ERRORS.get(code := int(egl.eglGetError()), hex(code)))
    return image


_NONE, _LINUX_DMA_BUF = 0x3038, 0x3270
_pointer = ctypes.c_void_p
_create = function("eglCreateImageKHR", _pointer, _pointer, _pointer, ctypes.c_uint, _pointer, _pointer)
_destroy = function("eglDestroyImageKHR", ctypes.c_uint, _pointer, _pointer)
_ERRORS = {int(getattr(egl, name)): name for name in (*_ADVICE, "EGL_NOT_INITIALIZED", "EGL_BAD_DISPLAY", "EGL_CONTEXT_LOST")}


class Refused(Exception):
    """The EGL code alone; `rejected` makes the message of it, knowing the buffer."""


def _signed(half: int) -> int:
    return half - (1 << 32) if half & 0x80000000 else half


def rejected(buf: DmaBuf, display: Display, code: str, accepted: Sequence[int]) -> ImportRejected:
    """The error for a driver that refused buf with an EGL code; accepted are the modifiers it does take."""
    takes = ", ".join(str(Modifier(value)) for value in accepted)
    return ImportRejected(
        f"{display.device.name} ({display.driver or display.vendor}) refused to import {buf}, modifier {buf.modifier}, "
        f"{len(buf.planes)} plane{'s' * (len(buf.planes) != 1)}: {code} ({_ADVICE.get(code, 'unexpected')}). "
        + (f"For {buf.fourcc} it takes {takes}" if takes else f"It lists no modifier for {buf.fourcc}"),
        egl_code=code,
        fourcc=buf.fourcc,
        modifier=buf.modifier,
        planes=len(buf.planes),
        accepted=accepted,
    )


def destroy_image(display: Display, image: Any) -> None:
    """Give the image back. The driver lets go of the buffer when no texture uses it any more."""
    _destroy(handle_value(display.handle), image)


_EXPORT = "EGL_MESA_image_dma_buf_export"
_GL_TEXTURE_2D = 0x30B1  # EGL_GL_TEXTURE_2D
_TEXTURE_WIDTH, _TEXTURE_HEIGHT = 0x1000, 0x1001


def export_texture(texture: int) -> DmaBuf:
    """A dma-buf over a GL texture of the current context, the way virtio-gpu hands out a texture it rendered.

    texture is the name of a complete GL_TEXTURE_2D; its first level is exported. What was drawn into it so far is
    finished first. The caller owns the descriptors of the planes and closes each of them (`os.close(plane.fd)`);
    they may be the same number for several planes. Raises DeviceError without a current context or
    EGL_MESA_image_dma_buf_export (llvmpipe has it where /dev/udmabuf can be opened), ImportRejected if the driver
    will not export this texture.
    """
    from OpenGL import GLES3 as gl
    from OpenGL.EGL.MESA.image_dma_buf_export import eglExportDMABUFImageMESA, eglExportDMABUFImageQueryMESA

    display, context = egl.eglGetCurrentDisplay(), egl.eglGetCurrentContext()
    if is_null(context):
        raise DeviceError("export_texture needs the texture's context to be current on this thread")
    if _EXPORT not in egl.eglQueryString(display, egl.EGL_EXTENSIONS).decode().split():
        raise DeviceError(f"this display lacks {_EXPORT}; on the software device /dev/udmabuf must be accessible")
    before = get_integer(gl.GL_TEXTURE_BINDING_2D)
    gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
    size = (ctypes.c_int * 2)()
    # GLES 3.1 and every desktop GL; PyOpenGL's GLES3 module has it not.
    level_parameter = function("glGetTexLevelParameteriv", None, *(ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p))
    for index, name in enumerate((_TEXTURE_WIDTH, _TEXTURE_HEIGHT)):
        level_parameter(gl.GL_TEXTURE_2D, 0, name, ctypes.addressof(size) + 4 * index)
    gl.glBindTexture(gl.GL_TEXTURE_2D, before)
    gl.glFinish()
    try:
        image = eglCreateImageKHR(display, context, _GL_TEXTURE_2D, ctypes.c_void_p(texture), [egl.EGL_NONE])
    except egl.EGLError as error:
        raise ImportRejected(f"texture {texture} has no EGL image: {error_name(error)}", egl_code=error_name(error)) from None
    try:
        code, count, modifier = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint64()
        if not eglExportDMABUFImageQueryMESA(display, image, code, count, modifier) or not 1 <= count.value <= 4:
            raise ImportRejected(f"the driver does not say how texture {texture} would be exported")
        fds, strides, offsets = ((ctypes.c_int * count.value)() for _ in range(3))
        if not eglExportDMABUFImageMESA(display, image, fds, strides, offsets):
            raise ImportRejected(f"the driver does not export texture {texture}")
    except egl.EGLError as error:
        raise ImportRejected(f"texture {texture} cannot be exported: {error_name(error)}", egl_code=error_name(error)) from None
    finally:
        eglDestroyImageKHR(display, image)
    # A driver gives -1 for a plane that shares the descriptor before it.
    known: list[int] = []
    for fd in fds:
        known.append(fd if fd >= 0 else known[-1])
    try:
        planes = [Plane(fd, offset, stride) for fd, offset, stride in zip(known, offsets, strides, strict=True)]
        return DmaBuf(size[0], size[1], code.value & 0xFFFFFFFF, planes, modifier.value)
    except BaseException:
        for fd in {*known}:
            os.close(fd)
        raise
