"""EGL images of dma-bufs: EGL_EXT_image_dma_buf_import and its modifiers, and the way back (MESA_image_dma_buf_export)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OpenGL.EGL.EXT import image_dma_buf_import as dma
from OpenGL.EGL.KHR.image_base import eglCreateImageKHR, eglDestroyImageKHR

from ..dmabuf import DmaBuf, Plane
from ..errors import ImportRejected
from ..modifier import Modifier
from .device import Display
from .gaps import egl, error_name, is_null

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
    try:
        image = eglCreateImageKHR(
            display.handle, egl.EGL_NO_CONTEXT, dma.EGL_LINUX_DMA_BUF_EXT, None, [*attributes, *hints, egl.EGL_NONE]
        )
    except egl.EGLError as error:
        raise Refused(error_name(error)) from None
    if is_null(image):
        raise Refused("EGL_SUCCESS")
    return image


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
    eglDestroyImageKHR(display.handle, image)
