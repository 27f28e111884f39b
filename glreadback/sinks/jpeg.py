"""JPEG: small and lossy, no alpha."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ._pillow import PillowSink
from .base import between


class JpegSink(PillowSink):
    """JPEG with chroma at full resolution (4:4:4), which keeps coloured text legible. Alpha is dropped.

    quality: libjpeg's, 1 to 100; 90 unless told.
    """

    name = "JPEG"
    kind = "JPEG"
    alpha = False
    options: ClassVar[Mapping[str, str]] = {"quality": "1 to 100; default: 90"}
    extent = 65500  # libjpeg's JPEG_MAX_DIMENSION

    def __init__(self, quality: int = 90) -> None:
        self.quality = between("quality", quality, 1, 100)

    def parameters(self) -> dict[str, Any]:
        return {"quality": self.quality, "subsampling": "4:4:4"}
