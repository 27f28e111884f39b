"""AVIF: very small and lossy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ._pillow import PillowSink
from .base import between


class AvifSink(PillowSink):
    """AVIF with chroma at full resolution (4:4:4) and alpha where the pixels have it; lossy.

    quality: 0 to 100; 85 unless told.
    speed: libavif's, 0 (slow, small) to 10; 9 unless told, since 6 takes ten times as long.
    """

    name = "AVIF"
    kind = "AVIF"
    options: ClassVar[Mapping[str, str]] = {"quality": "0 to 100; default: 85", "speed": "0, slow and small, to 10; default: 9"}
    extent = 65536

    def __init__(self, quality: int = 85, speed: int = 9) -> None:
        self.quality = between("quality", quality, 0, 100)
        self.speed = between("speed", speed, 0, 10)

    def parameters(self) -> dict[str, Any]:
        return {"quality": self.quality, "speed": self.speed, "subsampling": "4:4:4"}
