"""`fd:` a buffer whose descriptor this process inherited, or has open."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import ClassVar

from ..dmabuf import Backing, DmaBuf, Plane, inspect
from ..errors import SourceSyntaxError
from ..fds import OwnedFd
from ..fourcc import FormatInfo, Fourcc
from ..frame import Frame
from ..kernel import dmabuf as kernel
from ..modifier import Modifier
from ..words import shown
from . import spec
from ._layout import PLANES, check_places, lay_out
from .base import StillSource


class FdSource(StillSource):
    """A buffer by its descriptor's number: `fd:NUMBER?size=WxH&fourcc=CODE`.

    size, fourcc           needed
    stride, stride1 …      bytes from row to row of each plane; default: packed rows, further planes in proportion
    offset, offset1 …      each plane's first byte; default: 0, and where the plane before it in the same buffer ends
    fd1, fd2, fd3          the descriptors of further planes; default: the same one
    modifier               the memory layout, LINEAR; by DRM's name or as a number. A tiled one needs every stride

    The source dups the descriptors; the given ones stay as they are. Nothing is read or copied. Raises DescriptorError
    for a descriptor that is not open or is no buffer, and for a description that no buffer can have.
    """

    scheme = "fd"
    path_help = "an inherited descriptor's number"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "size": spec.SIZE,
        "fourcc": spec.FOURCC,
        "modifier": spec.Key(spec.modifier, "LINEAR", "the memory layout: DRM's name or number; default: LINEAR"),
        **spec.numbered("fd", spec.Key(spec.number, "7", "the descriptor of a further plane; default: plane 0's"), PLANES[1:]),
        **spec.numbered("offset", spec.OFFSET, PLANES),
        **spec.numbered("stride", spec.STRIDE, PLANES),
    }

    def __init__(
        self,
        path: str,
        *,
        size: tuple[int, int],
        fourcc: Fourcc | str,
        modifier: Modifier | int | str = Modifier.LINEAR,
        **places: int,
    ) -> None:
        try:
            first = spec.number(path)
        except ValueError:
            raise SourceSyntaxError(f"fd: {shown(path)} is no descriptor's number: fd:7?size=1920x1080&fourcc=XR24") from None
        (width, height), info, layout = size, Fourcc(fourcc).info, Modifier(modifier)
        count = len(info.planes)
        if layout.tiled:  # it may have planes of its own, for compression
            count = max([count, *(int(name[-1]) + 1 for name in places if name[-1].isdigit())])
        check_places(self.scheme, info, places, ("fd", "offset", "stride"), count)
        numbers = [first, *(places.get(f"fd{index}", first) for index in range(1, count))]
        where = _tiled_places(count, places) if layout.tiled else _linear_places(info, width, height, numbers, places)
        with ExitStack() as stack:
            self._backings = {number: inspect(number) for number in dict.fromkeys(numbers)}
            own = {number: stack.enter_context(OwnedFd.dup(number)).fileno() for number in self._backings}
            planes = [Plane(own[number], *place) for number, place in zip(numbers, where, strict=True)]
            self._own = own
            self._frame = Frame(DmaBuf(width, height, info.fourcc, planes, layout), time=time.monotonic(), origin=f"fd:{path}")
            self._keep(stack)

    def describe(self) -> dict[str, object]:
        return {"buffers": [_facts(number, self._own[number], backing) for number, backing in self._backings.items()]}


def _linear_places(
    info: FormatInfo, width: int, height: int, numbers: list[int], places: dict[str, int]
) -> list[tuple[int, int]]:
    # A descriptor of its own starts with its plane.
    own = {f"offset{index}": 0 for index, number in enumerate(numbers) if index and number not in numbers[:index]}
    return lay_out(info, width, height, own | places)


def _tiled_places(count: int, places: dict[str, int]) -> list[tuple[int, int]]:
    wanted = [f"stride{index or ''}" for index in range(count)]
    if missing := [name for name in wanted if name not in places]:
        raise SourceSyntaxError(f"fd: needs {'= and '.join(missing)}=: only the producer knows a tiled buffer's strides")
    return [(places.get(f"offset{index or ''}", 0), places[stride]) for index, stride in enumerate(wanted)]


def _facts(number: int, own: int, backing: Backing) -> dict[str, object]:
    """What a descriptor turned out to be."""
    facts: dict[str, object] = {"fd": number, "kind": "dma-buf" if backing.dmabuf else "file", "bytes": backing.size}
    if backing.dmabuf:
        facts["exporter"] = kernel.exporter(own)
    elif os.readlink(f"/proc/self/fd/{own}").startswith("/memfd:"):
        facts["kind"] = "memfd"
    return facts | {"writable": backing.writable, "steady": backing.steady}
