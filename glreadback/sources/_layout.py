"""Where the planes of a linear picture lie in one piece of memory, from as little as the caller says."""

from __future__ import annotations

from collections.abc import Mapping

from ..dmabuf import DmaBuf
from ..errors import DescriptorError, SourceSyntaxError
from ..fourcc import FormatInfo, PlaneFormat

PLANES = range(4)


def check_linear(info: FormatInfo) -> None:
    """Raises DescriptorError for the formats that have no linear layout."""
    if not info.linear:
        raise DescriptorError(
            f"{info.fourcc} ({info.name}) exists only in its vendor's compressed layouts; choose another fourcc"
        )


def check_places(scheme: str, info: FormatInfo, places: Mapping[str, int], names: tuple[str, ...], planes: int) -> None:
    """Refuse stride2 where there are two planes: SourceSyntaxError; TypeError for what is none of names."""
    for place in places:
        name = place.rstrip("0123456789")
        if name not in names:
            raise TypeError(f"{scheme}: unexpected argument {place!r}")
        if int(place[len(name) :] or 0) >= planes:
            raise SourceSyntaxError(f"{scheme}: {place}= is given, but {info.fourcc} has {planes} plane{'s' * (planes != 1)}")


def strides(info: FormatInfo, width: int, places: Mapping[str, int]) -> list[int]:
    """The stride of each plane in bytes: stride, stride1 … of places, else packed, or in proportion to plane 0's."""
    first = info.planes[0]
    packed = _packed(first, width)
    found = [places.get("stride", packed)]
    for index, plane in enumerate(info.planes[1:], 1):
        share = -(-found[0] * _weight(plane) // _weight(first)) if found[0] != packed else 0
        found.append(places.get(f"stride{index}", max(share, _packed(plane, width))))
    return found


def _packed(plane: PlaneFormat, width: int) -> int:
    # DRM's stride is that of one line, also where blocks are several lines high.
    return -(-plane.row_bytes(width) // plane.block_height)


def _weight(plane: PlaneFormat) -> int:
    """Bytes for 48 pixels of a line: a number that all blocks and subsamplings of the table divide."""
    return 48 * plane.block_bytes // (plane.block_width * plane.block_height * plane.hsub)


def lay_out(info: FormatInfo, width: int, height: int, places: Mapping[str, int]) -> list[tuple[int, int]]:
    """(offset, stride) of each plane: as places says, else one plane after the other."""
    laid: list[tuple[int, int]] = []
    end = 0
    for index, (plane, stride) in enumerate(zip(info.planes, strides(info, width, places), strict=True)):
        offset = places.get(f"offset{index or ''}", end)
        laid.append((offset, stride))
        end = offset + stride * plane.block_height * plane.rows(height)
    return laid


def end_of(buffer: DmaBuf) -> int:
    """The first byte past the picture."""
    return max(buffer.plane_end(index) for index in range(len(buffer.planes)))
