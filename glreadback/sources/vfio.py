"""`vfio:` the display of a vGPU or another vfio device, as its driver shows it to the host."""

from __future__ import annotations

import errno
import math
import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..dmabuf import DmaBuf, Plane
from ..errors import DescriptorError, SourceError, SourceSyntaxError
from ..fds import OwnedFd
from ..fourcc import Fourcc
from ..frame import Frame
from ..kernel import dmabuf, udmabuf, vfio
from ..words import shown
from . import spec
from .base import Source, SourceTimeout

if TYPE_CHECKING:
    from ..reader import Reader

BUSES = tuple(Path(f"/sys/bus/{bus}/devices") for bus in ("mdev", "pci"))
_PLANES = {"primary": vfio.PRIMARY, "cursor": vfio.CURSOR}
_KINDS = {vfio.DMABUF: "dma-buf", vfio.REGION: "region"}
_POLL = 0.01  # seconds between looks at a plane that is off: nothing tells when it comes on
_KEPT = 16  # dma-bufs of former ids that are kept: a swap chain's come back, and must not be asked for twice
_AGAIN = 5  # times to ask again for what failed for a moment
_GONE = {errno.ENODEV, errno.EIO, errno.ENXIO, errno.EBADF}
MEMCPY = "memcpy"  # what `bench` has beside everything


class VfioSource(Source):
    """A vfio device's display: `vfio:UUID` of an mdev, `vfio:0000:01:00.0`, or the path of a vfio device in /sys.

    plane     primary (default) or cursor
    fd        a descriptor of the device, open already, such as a VMM's: a device can be opened once only. Then the path
              is but a name

    A plane given as a dma-buf is passed on as it is; one given as a region of the device's memory is copied, for each
    frame, into a udmabuf or a sealed memfd. Every frame asks anew and comes at once; only while the plane is off one is
    waited for. Raises SourceError where the device cannot be opened, has no display, or has gone.
    """

    scheme = "vfio"
    path_help = "an mdev's UUID, a PCI address, or a vfio device's path in /sys"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "plane": spec.Key(spec.choice(_PLANES, "plane"), "cursor", "primary or cursor; default: primary"),
        "fd": spec.Key(spec.number, "7", "the device's descriptor, if it is open already; default: it is opened"),
    }

    def __init__(self, path: str = "", *, plane: str = "primary", fd: int | None = None) -> None:
        if plane not in _PLANES:
            raise SourceSyntaxError(f"vfio: plane is {shown(plane)}; it must be primary or cursor")
        with ExitStack() as stack:
            folder = _folder(path) if fd is None else None
            self._device = stack.enter_context(_open(stack, folder) if folder is not None else _borrowed(fd))
            self._name = folder.name if folder is not None else path or f"fd {fd}"
            self._plane, self._folder = plane, folder
            self._kind = self._probe()
            self._node = _render_node(folder)
            self._fetched: OrderedDict[int, OwnedFd] = OrderedDict()  # by id, the last used last
            stack.callback(self._drop, 0)
            self._copies = stack.enter_context(_Copies(self._device))
            self._keep(stack)

    def _probe(self) -> int:
        device = self._device.fileno()
        for kind in _KINDS:
            if vfio.probe(device, kind, _PLANES[self._plane]):
                return kind
        raise SourceError(
            f"the vfio device {self._name} has no display ({self._plane} plane): its driver shows none to the host"
        )

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """What the plane shows now, each time anew; timeout is for how long it may be off."""
        while True:
            self._check_open()
            yield self._next(timeout, self._kind)

    def _next(self, timeout: float | None, kind: int) -> Frame:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            now = self._query(kind)
            if now.fourcc:
                buffer = self._shared(now) if kind == vfio.DMABUF else self._copies.copy(now)
                if buffer is not None:
                    # A copy is in no device's memory.
                    node = self._node if kind == vfio.DMABUF else None
                    return Frame(buffer, time=time.monotonic(), origin=f"vfio:{self._name}", device=node)
            if time.monotonic() >= until:
                raise SourceTimeout(f"the {self._plane} plane of {self._name} is off; nothing was shown for {timeout:g} s")
            time.sleep(min(_POLL, max(0.0, until - time.monotonic())))

    def _query(self, kind: int) -> vfio.GfxPlane:
        for left in reversed(range(_AGAIN)):
            try:
                return vfio.query_plane(self._device.fileno(), kind, _PLANES[self._plane])
            except OSError as error:
                # mbochs makes a new mode's buffer, and fails once after.
                if error.errno != errno.ENOMEM or not left:
                    raise self._lost(error) from None
        raise AssertionError

    def _lost(self, error: OSError) -> SourceError:
        if error.errno in _GONE:
            return SourceError(f"the vfio device {self._name} has gone ({error.strerror})")
        return SourceError(f"the vfio device {self._name} does not give its {self._plane} plane: {error.strerror}")

    def _shared(self, now: vfio.GfxPlane) -> DmaBuf | None:
        """The plane's dma-buf; None if its id went between the two questions."""
        fd = self._fetched.get(now.index)
        if fd is None:
            try:
                fd = OwnedFd(vfio.get_dmabuf(self._device.fileno(), now.index))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return None
                raise self._lost(error) from None
            self._fetched[now.index] = fd
        self._fetched.move_to_end(now.index)
        self._drop(_KEPT)
        return DmaBuf(now.width, now.height, Fourcc(now.fourcc), [Plane(fd.fileno(), 0, now.stride)], now.modifier)

    def _drop(self, kept: int) -> None:
        while len(self._fetched) > kept:
            self._fetched.popitem(last=False)[1].close()

    def describe(self) -> dict[str, object]:
        found: dict[str, object] = {"vfio device": self._name, "plane": self._plane, "given as": _KINDS[self._kind]}
        if self._folder is not None:
            found |= _mdev_facts(self._folder)
        device = self._device.fileno()
        found["planes"] = [_plane_facts(device, plane, kind) for plane in _PLANES for kind in _KINDS]
        return found


def _plane_facts(device: int, plane: str, kind: int) -> dict[str, object]:
    """One of a device's planes as one kind, for `info`."""
    facts: dict[str, object] = {"type": plane, "as": _KINDS[kind]}
    if not vfio.probe(device, kind, _PLANES[plane]):
        return facts | {"state": "not offered"}
    try:
        now = vfio.query_plane(device, kind, _PLANES[plane])
        if not now.fourcc:
            return facts | {"state": "off"}
        # mdpy does not look which plane it is asked for.
        if plane != "primary" and replace(now, plane=vfio.PRIMARY) == vfio.query_plane(device, kind, vfio.PRIMARY):
            return facts | {"state": "the driver gives the primary plane"}
    except OSError as error:
        return facts | {"problem": error.strerror}
    facts |= {"fourcc": str(Fourcc(now.fourcc)), "size": f"{now.width}x{now.height}", "stride": now.stride}
    facts |= {"id" if kind == vfio.DMABUF else "region": now.index, "position": f"{now.x},{now.y}"}
    if vfio.NO_HOT_SPOT not in (now.hot_x, now.hot_y):
        facts["hot spot"] = f"{now.hot_x},{now.hot_y}"
    return facts


# ---- Opening


def _folder(path: str) -> Path:
    """The device's folder in /sys. Raises SourceError, or SourceSyntaxError for no path."""
    if not path:
        raise SourceSyntaxError("vfio: needs a device: vfio:UUID of an mdev; `glreadback sources` lists them")
    places = [Path(path)] if path.startswith("/") else [bus / path for bus in BUSES] if "/" not in path else []
    folder = next((place for place in places if (place / "subsystem").exists()), None)
    if folder is None:
        raise SourceError(f"there is no vfio device {shown(path)}; `glreadback sources` lists them")
    folder = folder.resolve()
    if not (folder / "iommu_group").exists():
        raise SourceError(f"{folder.name} is not given to vfio: it has no IOMMU group. Bind it to a vfio driver")
    return folder


_ADVICE = {
    errno.EACCES: "run it as root, or give yourself that file, which then gives you the device",
    errno.EPERM: "run it as root, or give yourself that file, which then gives you the device",
    errno.EBUSY: "it is in use, by a VM that runs; only the program that has it open can pass it on (vfio:?fd=N)",
    errno.ENOENT: "load the module vfio, and bind the device to a vfio driver",
    errno.ENODEV: "load the modules vfio and vfio_iommu_type1",
}


def _open(stack: ExitStack, folder: Path) -> OwnedFd:
    """The device, opened by its group; the stack keeps what it takes."""
    group = (folder / "iommu_group").resolve().name
    container = stack.enter_context(_opened("vfio"))
    owned = stack.enter_context(_opened(group))
    try:
        return OwnedFd(vfio.open_device(owned.fileno(), container.fileno(), folder.name))
    except OSError as error:
        raise SourceError(f"the vfio device {folder.name} cannot be opened: {error.strerror}") from None


def _opened(name: str) -> OwnedFd:
    path = f"{vfio.FOLDER}/{name}"
    try:
        return OwnedFd(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        raise SourceError(f"{path} cannot be opened: {error.strerror}" + (f"; {advice}" if advice else "")) from None


def _borrowed(number: int | None) -> OwnedFd:
    try:
        fd = OwnedFd.dup(number if number is not None else -1)
    except OSError:
        raise DescriptorError(f"descriptor {number} is not open") from None
    try:
        vfio.region_count(fd.fileno())
    except OSError as error:
        fd.close()
        raise SourceError(f"descriptor {number} is no vfio device ({error.strerror})") from None
    return fd


def _render_node(folder: Path | None) -> str | None:
    """The render node of the GPU that the device is a part of, or is."""
    if folder is None:
        return None
    nodes = [node.name for device in (folder, folder.parent) for node in sorted((device / "drm").glob("renderD*"))]
    return f"/dev/dri/{nodes[0]}" if nodes else None


# ---- Planes that are a region


class _Copies:
    """Regions of a device, mapped once each, and memory of our own to copy them to.

    write(2) does the copying: where the device takes its memory away it fails, and a memcpy would be the end of us.
    """

    def __init__(self, device: OwnedFd) -> None:
        self._device = device
        self._regions: dict[int, tuple[vfio.Region, mmap.mmap | None]] = {}
        self._size = 0
        self._memory: OwnedFd | None = None  # to write to
        self._shared: OwnedFd | None = None  # the same as a dma-buf, or itself

    def __enter__(self) -> _Copies:
        return self

    def __exit__(self, *_: object) -> None:
        for _region, mapping in self._regions.values():
            if mapping is not None:
                mapping.close()
        self._regions.clear()
        self._forget()

    def _forget(self) -> None:
        for fd in (self._memory, self._shared):
            if fd is not None:
                fd.close()
        self._memory = self._shared = None

    def copy(self, now: vfio.GfxPlane) -> DmaBuf:
        """The plane's pixels as they are now. Raises SourceError, DescriptorError."""
        # Checked as a description first: DmaBuf knows what a picture can be.
        wanted = DmaBuf(now.width, now.height, Fourcc(now.fourcc), [Plane(0, 0, now.stride)], now.modifier)
        end = wanted.plane_end(0) if wanted.linear else now.size
        region, mapping = self._region(now.index)
        if end > region.size:
            raise DescriptorError(
                f"{wanted} with stride {now.stride} ends at byte {end}, region {now.index} of the device holds {region.size}"
            )
        fd = self._room(end)
        self._fill(region, mapping, end)
        return DmaBuf(now.width, now.height, wanted.fourcc, [Plane(fd, 0, now.stride)], now.modifier)

    def _region(self, index: int) -> tuple[vfio.Region, mmap.mmap | None]:
        if index not in self._regions:
            try:
                self._regions[index] = self._mapped(vfio.region(self._device.fileno(), index))
            except (OSError, ValueError, OverflowError) as error:
                raise SourceError(f"region {index} of the device, which the display is in, cannot be had: {error}") from None
        return self._regions[index]

    def _mapped(self, region: vfio.Region) -> tuple[vfio.Region, mmap.mmap | None]:
        if not region.flags & vfio.MAPPABLE or not region.size:
            return region, None
        return region, mmap.mmap(self._device.fileno(), region.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=region.offset)

    def _room(self, size: int) -> int:
        """A descriptor of at least size bytes of memory."""
        if self._shared is None or self._size < size:
            self._forget()
            try:
                self._memory = OwnedFd(udmabuf.sealed_memfd(size))
                self._size = os.fstat(self._memory.fileno()).st_size
                try:
                    self._shared = OwnedFd(udmabuf.create(self._memory.fileno(), self._size))
                except OSError:
                    self._shared = OwnedFd.dup(self._memory.fileno())
            except OSError as error:
                raise SourceError(f"no memory of {size} bytes can be had: {error.strerror}") from None
        return self._shared.fileno()

    def _fill(self, region: vfio.Region, mapping: mmap.mmap | None, size: int) -> None:
        assert self._memory is not None
        assert self._shared is not None
        with ExitStack() as stack:
            if dmabuf.is_dmabuf(self._shared.fileno()):
                dmabuf.sync_start(self._shared.fileno(), dmabuf.WRITE)
                stack.callback(dmabuf.sync_end, self._shared.fileno(), dmabuf.WRITE)
            view = stack.enter_context(memoryview(mapping)) if mapping is not None else None
            done = 0
            while done < size:
                try:
                    if view is not None:
                        with view[done:size] as rest:
                            done += os.pwrite(self._memory.fileno(), rest, done)
                        continue
                    piece = os.pread(self._device.fileno(), min(size - done, 1 << 20), region.offset + done)
                    if not piece:
                        raise OSError(errno.EIO, "it ends")
                    done += os.pwrite(self._memory.fileno(), piece, done)
                except OSError as error:
                    raise SourceError(
                        f"region {region.index} of the device cannot be read from byte {done} on: {error.strerror}"
                    ) from None


# ---- For `bench` and `sources`


def contenders(source: VfioSource, reader: Reader) -> list[tuple[str, str, Callable[[], object], str]]:
    """The ways to a picture of this device, to be timed beside each other: (name, what it is, do it once, beside which).

    Each asks the device and brings the picture into memory of ours. GL is beside the region where the device has one: of
    a region's copy, and of the dma-buf if there is one too. Where there is none, a dma-buf mapped by the CPU costs what a
    region would. Raises as frames() and read() do.
    """
    device, plane = source._device.fileno(), _PLANES[source._plane]
    kinds = [kind for kind in _KINDS if vfio.probe(device, kind, plane)]
    out = reader.read(source._next(1.0, kinds[0]))

    def by(kind: int, route: str | None) -> Callable[[], object]:
        return lambda: reader.read(source._next(1.0, kind), out, route=route)

    found = []
    if vfio.REGION in kinds:
        peer = "vfio region"
        found = [
            (peer, "query, copy the region out of its mapping", lambda: source._next(1.0, vfio.REGION), MEMCPY),
            ("vfio region, GL", "the same, and read the copy through GL", by(vfio.REGION, None), peer),
        ]
    else:
        peer = "vfio dma-buf, map"
        found = [(peer, "query, copy the dma-buf by mmap: what a region costs", by(vfio.DMABUF, "map"), MEMCPY)]
    if vfio.DMABUF in kinds:
        found.append(("vfio dma-buf, GL", "query, read the dma-buf through GL", by(vfio.DMABUF, None), peer))
    return found


def list_here() -> list[dict[str, object]]:
    """The mdevs of this machine, for `glreadback sources`; from sysfs, which anyone may read.

    Each is {"source": "vfio:UUID", "type": …, "parent": …, "description": …}. Whether its planes are dma-bufs or regions
    only the opened device says, and a device can be opened once: by its VM.
    """
    devices = sorted(BUSES[0].iterdir()) if BUSES[0].is_dir() else []
    return [{"source": f"vfio:{device.name}"} | _mdev_facts(device.resolve()) for device in devices]


def _mdev_facts(folder: Path) -> dict[str, object]:
    kind = folder / "mdev_type"
    if not kind.exists():
        return {}
    facts: dict[str, object] = {"type": kind.resolve().name, "parent": folder.parent.name}
    try:
        facts["description"] = " ".join((kind / "description").read_text().split())
    except OSError:
        pass  # it is optional
    return facts
