"""What the numbers of a picture mean: matrix, range, chroma siting, transfer and primaries (H.273, sync.md's table)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import DescriptorError


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
