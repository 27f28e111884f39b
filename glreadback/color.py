"""What the numbers of a picture mean: matrix, range, chroma siting, transfer and primaries (H.273, sync.md's table)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import DescriptorError
from .fourcc import FormatInfo


class Matrix(NamedTuple):
    """The luma weights of a Y'CbCr matrix; Kg is what is left of 1."""

    kr: float
    kb: float


MATRICES = {
    "601": Matrix(0.299, 0.114),
    "709": Matrix(0.2126, 0.0722),
    "2020": Matrix(0.2627, 0.0593),
}
RANGES = ("narrow", "full")
SITINGS = ("left", "center", "topleft")
# cd/m2: what HDR content is taken to reach where nothing says otherwise, and the white of SDR in it (BT.2408).
HDR_PEAK, SDR_WHITE = 1000.0, 203.0
TRANSFERS = ("srgb", "bt1886", "pq", "hlg", "linear")


@dataclass(frozen=True, slots=True)
class Color:
    """How a picture's numbers become colours. None means: as usual for such a picture.

    matrix is "601", "709" or "2020"; range "narrow" or "full"; siting (of subsampled chroma) "left", "center" or
    "topleft"; transfer "srgb", "bt1886", "pq", "hlg" or "linear"; primaries "709" or "2020".
    Raises DescriptorError for any other word.
    """

    matrix: str | None = None
    range: str | None = None
    siting: str | None = None
    transfer: str | None = None
    primaries: str | None = None

    def __post_init__(self) -> None:
        for what, allowed in (
            ("matrix", tuple(MATRICES)),
            ("range", RANGES),
            ("siting", SITINGS),
            ("transfer", TRANSFERS),
            ("primaries", ("709", "2020")),
        ):
            value = getattr(self, what)
            if value is not None and value not in allowed:
                raise DescriptorError(f"{what} is {value!r}; it must be one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class Conversion:
    """Y'CbCr code values to R'G'B' from 0 to 1: rgb = matrix (row by row) * (ycbcr - offset)."""

    matrix: tuple[float, ...]
    offset: tuple[float, float, float]
    cosited: tuple[bool, bool]  # whether the first chroma sample lies on the first pixel: across, down


def usual(color: Color | None, height: int) -> Color:
    """color with what it leaves open filled in as video people expect: BT.709 from 720 lines on, BT.601 below;
    narrow range; chroma sited left, or top left for BT.2020."""
    given = color or Color()
    matrix = given.matrix or ("709" if height >= 720 else "601")
    siting = given.siting or ("topleft" if matrix == "2020" else "left")
    return Color(matrix, given.range or "narrow", siting, given.transfer, given.primaries)


def conversion(color: Color | None, info: FormatInfo, height: int) -> Conversion:
    """The Conversion of a YUV format: BT.601, BT.709 or BT.2020 (non-constant luminance), H.273's quantisation.

    height, in pixels, decides the matrix where color does not.
    """
    meant = usual(color, height)
    assert meant.matrix is not None
    kr, kb = MATRICES[meant.matrix]
    kg = 1 - kr - kb
    bits = info.bits["Y"]
    one = 1 << (bits - 8)
    luma, chroma = 219.0 * one, 224.0 * one
    black, grey = 16.0 * one, 128.0 * one
    if meant.range == "full":
        luma = chroma = float((1 << bits) - 1)
        black, grey = 0.0, float(1 << (bits - 1))
    red, blue = 2 * (1 - kr), 2 * (1 - kb)
    matrix = (
        *(1 / luma, 0.0, red / chroma),
        *(1 / luma, -blue * kb / kg / chroma, -red * kr / kg / chroma),
        *(1 / luma, blue / chroma, 0.0),
    )
    return Conversion(matrix, (black, grey, grey), (meant.siting != "center", meant.siting == "topleft"))
