"""glreadback: any dma-buf, from any producer, becomes a CPU surface.

EGL imports the buffer (EGL_EXT_image_dma_buf_import) into a texture and glReadPixels pulls it into memory.
Names are loaded when they are first used: `import glreadback` loads neither numpy nor OpenGL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module it lives in.
_HOMES = {
    "Color": "color",
    "DescriptorError": "errors",
    "DeviceError": "errors",
    "DmaBuf": "dmabuf",
    "FenceTimeout": "errors",
    "Fourcc": "fourcc",
    "Frame": "frame",
    "GlReadbackError": "errors",
    "ImportRejected": "errors",
    "Modifier": "modifier",
    "Pending": "pending",
    "Plane": "dmabuf",
    "Reader": "reader",
    "ReaderCrashed": "errors",
    "Rect": "frame",
    "Route": "plan",
    "SinkError": "errors",
    "SourceError": "errors",
    "Surface": "surface",
    "export_texture": "egl.image",
    "open_source": "sources",
    "read": "reader",
    "send_frame": "send",
}

if TYPE_CHECKING:
    from .color import Color
    from .dmabuf import DmaBuf, Plane
    from .egl.image import export_texture
    from .errors import (
        DescriptorError,
        DeviceError,
        FenceTimeout,
        GlReadbackError,
        ImportRejected,
        ReaderCrashed,
        SinkError,
        SourceError,
    )
    from .fourcc import Fourcc
    from .frame import Frame, Rect
    from .modifier import Modifier
    from .pending import Pending
    from .plan import Route
    from .reader import Reader, read
    from .send import send_frame
    from .sources import open_source
    from .surface import Surface

__all__ = [
    "Color",
    "DescriptorError",
    "DeviceError",
    "DmaBuf",
    "FenceTimeout",
    "Fourcc",
    "Frame",
    "GlReadbackError",
    "ImportRejected",
    "Modifier",
    "Pending",
    "Plane",
    "Reader",
    "ReaderCrashed",
    "Rect",
    "Route",
    "SinkError",
    "SourceError",
    "Surface",
    "__version__",
    "export_texture",
    "open_source",
    "read",
    "send_frame",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
