"""Reading without GL: a linear plane's rows by mmap, or by pread where a mapping could be pulled from under us."""

from __future__ import annotations

import mmap
import os

from .dmabuf import Backing, DmaBuf, Plane
from .errors import DescriptorError, ImportRejected
from .frame import Rect


def copy_plane(
    buf: DmaBuf, index: int, backing: Backing, rect: Rect, target: memoryview, stride: int, reverse: bool = False
) -> None:
    """Copy a rectangle of a plane (x and width in bytes, y and height in rows of blocks) to target, rows stride apart.

    reverse puts the rectangle's last row first. Bracket it with sync.cpu_access. Raises ImportRejected where the exporter
    does not allow mapping, DescriptorError where a file shrank meanwhile.
    """
    plane, step = buf.planes[index], buf.step(index)
    first = plane.offset + rect.y * step + rect.x
    if not backing.steady:
        _copy_file(plane.fd, first, step, rect, target, stride, reverse)
        return
    mapping, view = map_range(buf, plane, backing, first, (rect.height - 1) * step + rect.width)
    with mapping, view:
        if step == stride == rect.width and not reverse:
            target[: rect.height * stride] = view
            return
        for y in range(rect.height):
            to = (rect.height - 1 - y if reverse else y) * stride
            target[to : to + rect.width] = view[y * step : y * step + rect.width]


def map_range(buf: DmaBuf, plane: Plane, backing: Backing, first: int, size: int) -> tuple[mmap.mmap, memoryview]:
    """size bytes of a plane's buffer from byte first: a read-only mapping and the view of just them. Close both.

    Raises ImportRejected where the exporter does not allow it.
    """
    # Many exporters ignore where in a dma-buf a mapping is to start and give its beginning: DRM's shmem helper (vgem,
    # virtio_gpu; its fault handler counts from the mapping's start), V4L2's vmalloc memory. Map it from there.
    start = 0 if backing.dmabuf else first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(plane.fd, first - start + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
    except OSError as error:
        advice = "" if backing.writable else "; it is read-only: export it with DRM_RDWR or O_RDWR"
        raise ImportRejected(
            f"{buf}: the exporter does not let descriptor {plane.fd} be mapped ({error.strerror}){advice}"
        ) from None
    with memoryview(mapping) as view:
        return mapping, view[first - start :]


def _copy_file(fd: int, first: int, step: int, rect: Rect, target: memoryview, stride: int, reverse: bool) -> None:
    # Reading past the end of a mapping is a signal, past the end of a file it is an answer.
    packed = step == stride == rect.width and not reverse
    runs = [(0, rect.height * stride)] if packed else [(y, rect.width) for y in range(rect.height)]
    for y, size in runs:
        to = (rect.height - 1 - y if reverse else y) * stride
        done = 0
        while done < size:
            at = first + y * step + done
            got = os.preadv(fd, [target[to + done : to + size]], at)
            if not got:
                raise DescriptorError(
                    f"descriptor {fd} shrank while it was read: there is no byte {at} any more. Seal it with F_SEAL_SHRINK"
                )
            done += got
