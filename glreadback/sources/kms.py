"""`kms:` the picture on a screen, or one plane of it, from the kernel's display driver."""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .. import scene as screen_scene
from ..dmabuf import DmaBuf, Plane
from ..errors import DescriptorError, GlReadbackError, SourceError, SourceSyntaxError
from ..fds import OwnedFd
from ..fourcc import Fourcc
from ..frame import Frame
from ..kernel import drm
from ..modifier import Modifier
from ..words import choices, shown
from . import spec
from ._memory import Memory
from .base import Source, SourceTimeout

if TYPE_CHECKING:
    from ..reader import Reader

DEVICES, SYSFS = Path("/dev/dri"), Path("/sys/class/drm")
_PATH = re.compile(r"(?:/dev/dri/)?(card[0-9]+)(?:/(.+))?", re.ASCII)
_CRTC = re.compile(r"crtc-([0-9]+)", re.ASCII)
_GONE = {errno.ENOENT, errno.EINVAL}  # what the kernel says of a framebuffer or a handle that is no more
_AGAIN = 8  # times to look anew where the screen changes while we look
_POLL = 0.01  # seconds between looks at a dark screen
_KEPT = 4  # buffers that are not shown now and are kept: those of a swap chain come back


class KmsSource(Source):
    """The picture on a screen: `kms:`, `kms:card0`, `kms:card0/HDMI-A-1`, `kms:card0/crtc-51`; or of one plane of it.

    path      a card, and one of its connectors or CRTCs; default: the first that is lit
    plane     the id of one plane (`info` lists them): its whole framebuffer, as it is
    cursor    1 = with the mouse pointer; default: without

    A screen that is one framebuffer is given as that framebuffer, without a copy. One that is several planes, or a blended
    or scaled one, is put together by us: planes in order, cut, scaled, turned and blended as the driver was told to, before
    the CRTC's colour correction. Every frame looks anew at what is shown and comes at once; only while the screen, or the
    plane, is off one is waited for.

    Several planes are read with a Reader of device= and isolate=; on the command line, --device and --isolate.

    It needs CAP_SYS_ADMIN, or to be the DRM master. The screen's user is not disturbed: we are never master.
    Raises SourceError where no such screen is lit or the right is missing.
    """

    scheme = "kms"
    path_help = "card0, card0/CONNECTOR or card0/crtc-ID; none: the first lit screen"
    keys: ClassVar[Mapping[str, spec.Key]] = {
        "plane": spec.Key(
            lambda text: spec.number(text, 1), "31", "one plane's id: its framebuffer as it is; default: all planes"
        ),
        "cursor": spec.Key(lambda text: bool(spec.number(text, 0, 1)), "1", "1: with the mouse pointer; default: 0"),
    }

    reading = ("device", "isolate")

    def __init__(
        self,
        path: str = "",
        *,
        plane: int | None = None,
        cursor: bool = False,
        device: str | None = None,
        isolate: bool = False,
    ) -> None:
        card_name, output = _parse(path)
        with ExitStack() as stack:
            card, crtc = _find(card_name, output, plane)
            self._card = stack.enter_context(card)
            self._buffers = stack.enter_context(_Buffers(card))
            self._parts = stack.enter_context(ExitStack())  # what composing takes, made when it is first needed
            self._crtc, self._plane, self._cursor = crtc, plane, cursor
            self._device, self._isolate = device, isolate
            self._origin = f"kms:{card.name}?plane={plane}" if plane else f"kms:{card.name}/{card.output_name(crtc)}"
            self._memory: Memory | None = None
            self._reader: Reader | None = None
            self._keep(stack)

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """What is shown now, each time anew; timeout is for how long the screen may be dark."""
        while True:
            self._check_open()
            yield self._next(timeout)

    def _next(self, timeout: float | None) -> Frame:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with _asking(self._card.name):
                frame = self._plane_frame() if self._plane else self._screen_frame(timeout)
            if frame is not None:
                return frame
            if time.monotonic() >= until:
                what = f"plane {self._plane} of {self._card.name}" if self._plane else f"the screen {self._origin}"
                raise SourceTimeout(f"{what} is off; nothing was shown for {timeout:g} s")
            time.sleep(min(_POLL, max(0.0, until - time.monotonic())))

    def _plane_frame(self) -> Frame | None:
        for _ in range(_AGAIN):
            state = drm.get_plane(self._card.fileno(), self._plane or 0)
            if not state.framebuffer:
                return None
            with self._buffers.collecting():
                buffer = self._buffers.take(state.framebuffer)
            if buffer is not None:
                return self._frame(buffer)
        raise SourceError(f"plane {self._plane} of {self._card.name} changes faster than it can be looked at")

    def _screen_frame(self, timeout: float | None) -> Frame | None:
        for left in reversed(range(_AGAIN)):
            now = self._card.screen(self._crtc)
            if now is None:
                return None
            scene: dict[screen_scene.Layer, DmaBuf] = {}
            with self._buffers.collecting():
                try:
                    for state in now.planes:
                        if (buffer := self._buffers.take(state.framebuffer)) is not None:
                            scene[self._card.layer(state, buffer, now)] = buffer
                except DescriptorError:  # properties of one moment and a framebuffer of another
                    continue
            # One has gone, or another is shown instead meanwhile, whose number may even be the same.
            if len(scene) < len(now.planes) or (left and self._card.screen(self._crtc) != now):
                continue
            layers = screen_scene.seen(scene, now.width, now.height, self._cursor)
            if not layers:
                return None
            return self._single(layers, scene, now) or self._composed(layers, scene, now, timeout)
        raise SourceError(f"the screen {self._origin} changes faster than it can be looked at")

    def _single(
        self, layers: list[screen_scene.Layer], scene: Mapping[screen_scene.Layer, DmaBuf], now: _Screen
    ) -> Frame | None:
        alone = screen_scene.alone(layers, now.width, now.height)
        if alone is None:
            return None
        visible, transform, fourcc = alone
        raw = scene[layers[0]]
        buffer = DmaBuf(raw.width, raw.height, fourcc, raw.planes, raw.modifier)
        whole = visible == (0, 0, raw.width, raw.height)
        return replace(self._frame(buffer), visible=None if whole else visible, transform=transform, color=layers[0].color)

    def _frame(self, buffer: DmaBuf) -> Frame:
        return Frame(buffer, time=time.monotonic(), origin=self._origin, device=self._card.render_node)

    def _composed(
        self, layers: list[screen_scene.Layer], scene: Mapping[screen_scene.Layer, DmaBuf], now: _Screen, timeout: float | None
    ) -> Frame:
        import numpy

        from ..compose import compose
        from ..reader import DEFAULT_TIMEOUT, Reader

        deep = screen_scene.deep(layers)
        # Four components either way; with eight bits in the order that screens have.
        pixel, size = ("AB48", 8) if deep else ("AR24", 4)
        if self._memory is None or self._memory.size < now.width * now.height * size:
            if self._memory is not None:
                self._memory.close()
            self._memory = self._parts.enter_context(Memory(now.width * now.height * size))
        if self._reader is None:
            self._reader = self._parts.enter_context(Reader(self._device, self._isolate))
        pictures = []
        for layer in layers:
            frame = replace(self._frame(scene[layer]), visible=layer.source.whole, color=layer.color)
            wait = DEFAULT_TIMEOUT if timeout is None else timeout
            pictures.append((layer, self._reader.read(frame, fourcc=pixel, timeout=wait)))
        with self._memory.writing() as view:
            canvas = numpy.frombuffer(view, "<u2" if deep else "u1", now.width * now.height * 4)
            compose(pictures, canvas.reshape(now.height, now.width, 4))
            del canvas
        plane = Plane(self._memory.fileno(), 0, now.width * size)
        buffer = DmaBuf(now.width, now.height, "AB48" if deep else "XR24", [plane])
        return Frame(buffer, time=time.monotonic(), origin=self._origin)

    def describe(self) -> dict[str, object]:
        card = self._card
        with _asking(card.name):
            now = card.screen(self._crtc)
            return {
                "card": f"{card.name} ({card.driver})",
                "connector": card.connector_name(self._crtc),
                "crtc": self._crtc,
                "mode": now.mode if now else "off",
                "planes on": [self._plane_facts(state, now) for state in card.planes() if state.framebuffer],
            }

    def _plane_facts(self, state: drm.PlaneState, now: _Screen | None) -> dict[str, object]:
        facts: dict[str, object] = {"id": state.id, "crtc": state.crtc, "framebuffer": state.framebuffer}
        try:
            buffer = self._buffers.take(state.framebuffer)
            if buffer is None:
                return facts
            layer = self._card.layer(state, buffer, now)
        except (SourceError, DescriptorError) as error:
            return facts | {"problem": str(error)}
        facts |= {"type": layer.kind, "zpos": layer.zpos, "fourcc": str(layer.fourcc), "modifier": str(buffer.modifier)}
        facts |= {"size": "{}x{}".format(*layer.size), "source": str(layer.source), "target": str(layer.target)}
        return facts | {"transform": layer.transform, "alpha": layer.alpha, "blend": layer.blend}


@contextmanager
def _asking(card: str) -> Iterator[None]:
    """A block of calls that fail only when the card has gone."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GlReadbackError):
            raise  # time-outs are both
        raise SourceError(f"{card} cannot be asked what it shows: {error.strerror}") from None


def _parse(path: str) -> tuple[str, str]:
    """(card, output) of a path, each "" where it is not said."""
    if not path:
        return "", ""
    found = _PATH.fullmatch(path)
    if not found:
        raise SourceSyntaxError(
            f"kms: {shown(path)} is no card: kms:card0, kms:card0/HDMI-A-1, kms:card0/crtc-51, or kms: alone"
        )
    return found[1], found[2] or ""


def _find(card_name: str, output: str, plane: int | None) -> tuple[_Card, int]:
    """The card and the CRTC that are meant; the card is the caller's to close. Raises SourceError."""
    looked = []
    # Dark cards last: who opens one and closes it again makes the kernel bring its console back.
    for name in [card_name] if card_name else sorted(_cards(), key=lambda name: not _said_to_be_lit(name)):
        with ExitStack() as stack:
            try:
                card = stack.enter_context(_Card(name))
            except SourceError as error:
                if card_name:
                    raise
                looked.append(str(error))
                continue
            with _asking(name):
                if crtc := card.find(output, plane):
                    stack.pop_all()
                    return card, crtc
                looked.append(card.outlook())
    raise SourceError(f"no screen is lit: {'; '.join(looked) or f'there is no card in {DEVICES}'}")


def _cards() -> list[str]:
    """The names of the cards in /dev/dri, in the order of their numbers."""
    names = [path.name for path in DEVICES.glob("card*") if path.name[4:].isdigit()]
    return sorted(names, key=lambda name: int(name[4:]))


# ---- The card


@dataclass(frozen=True, slots=True)
class _Screen:
    """What a CRTC shows: its size in pixels, its mode in words, the planes that are on, their properties' values."""

    width: int
    height: int
    mode: str
    origin: tuple[int, int]  # of the screen in the primary plane's framebuffer, for drivers without atomic properties
    planes: tuple[drm.PlaneState, ...]


class _Card(OwnedFd):
    """An open card. We are not its master, whatever the kernel does with who opens a card first."""

    __slots__ = ("_names", "atomic", "driver", "name", "render_node")

    def __init__(self, name: str) -> None:
        path = DEVICES / name
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            super().__init__(-1)
            raise SourceError(f"{path} cannot be opened: {error.strerror}{_ADVICE.get(error.errno or 0, '')}") from None
        try:
            drm.drop_master(self.fileno())
        except OSError:
            pass  # somebody else is: so we were not
        self.name = name
        self._names: dict[int, drm.Property] = {}  # properties never change
        self.render_node = _render_node(name)
        try:
            self.driver = drm.driver_name(self.fileno())
            drm.set_client_cap(self.fileno(), drm.CLIENT_CAP_UNIVERSAL_PLANES)
            self.atomic = self._ask(drm.CLIENT_CAP_ATOMIC)
            self._ask(drm.CLIENT_CAP_CURSOR_PLANE_HOTSPOT)
        except OSError as error:
            self.close()
            what = "it has no display part" if error.errno in (errno.EOPNOTSUPP, errno.EINVAL) else error.strerror
            raise SourceError(f"{path} shows nothing: {what}") from None

    def _ask(self, cap: int) -> bool:
        try:
            drm.set_client_cap(self.fileno(), cap)
        except OSError:
            return False
        return True

    # What there is

    def find(self, output: str, plane: int | None) -> int:
        """The id of the CRTC that is meant; 0 if that is none and nothing was named. Raises SourceError."""
        fd = self.fileno()
        crtcs = drm.resources(fd).crtcs
        if plane is not None:
            if plane not in drm.plane_ids(fd):
                listed = ", ".join(map(str, drm.plane_ids(fd)))
                raise SourceError(f"{self.name} has no plane {plane}; there are {listed or 'none'}")
            return drm.get_plane(fd, plane).crtc or (crtcs[0] if crtcs else 0)
        if not output:
            return next((crtc for crtc in crtcs if self._lit(crtc)), 0)
        named = _CRTC.fullmatch(output)
        if named and int(named[1]) in crtcs:
            crtc = int(named[1])
        else:
            outputs = self._outputs()
            if output not in outputs:
                every = [*outputs, *(f"crtc-{number}" for number in crtcs)]
                raise SourceError(f"{self.name} has no output {shown(output)}{choices(output, every)}")
            crtc = outputs[output][1]
        if not crtc or not self._lit(crtc):
            raise SourceError(f"{self.name}/{output} is not lit: {self.outlook()}")
        return crtc

    def _lit(self, crtc: int) -> bool:
        now = self.screen(crtc)
        return now is not None and bool(now.planes)

    def _outputs(self) -> dict[str, tuple[drm.Connector, int]]:
        """The connectors by name, each with its CRTC or 0."""
        fd = self.fileno()
        found = {}
        for number in drm.resources(fd).connectors:
            connector = drm.get_connector(fd, number)
            found[connector.name] = connector, drm.get_encoder(fd, connector.encoder).crtc if connector.encoder else 0
        return found

    def connector_name(self, crtc: int) -> str | None:
        """The first connector that shows a CRTC's picture."""
        return next((name for name, (_, shows) in self._outputs().items() if shows == crtc), None)

    def output_name(self, crtc: int) -> str:
        """Its connector, or itself if no connector shows it."""
        return self.connector_name(crtc) or f"crtc-{crtc}"

    def outlook(self) -> str:
        """The card and its connectors, in words."""
        words = []
        for name, (connector, crtc) in self._outputs().items():
            state = {drm.CONNECTED: "connected", drm.DISCONNECTED: "nothing connected"}.get(connector.connection, "unknown")
            words.append(f"{name} {state}, {'lit' if crtc and self._lit(crtc) else 'off'}")
        return f"{self.name} ({self.driver}) has {', '.join(words) or 'no connectors'}"

    # What it shows now

    def planes(self) -> list[drm.PlaneState]:
        """All planes of the card."""
        return [drm.get_plane(self.fileno(), number) for number in drm.plane_ids(self.fileno())]

    def screen(self, crtc: int) -> _Screen | None:
        """What a CRTC shows; None while it is off."""
        state = drm.get_crtc(self.fileno(), crtc)
        if state.mode is None:
            return None
        planes = tuple(plane for plane in self.planes() if plane.crtc == crtc and plane.framebuffer)
        mode = state.mode
        return _Screen(mode.width, mode.height, f"{mode.width}x{mode.height} at {mode.refresh} Hz", (state.x, state.y), planes)

    def layer(self, state: drm.PlaneState, buffer: DmaBuf, now: _Screen | None) -> screen_scene.Layer:
        """A plane with its framebuffer as a layer. Raises DescriptorError where they do not fit each other."""
        fd = self.fileno()
        values, words = {}, {}
        for number, value in drm.property_values(fd, state.id, drm.OBJECT_PLANE).items():
            known = self._names.get(number) or self._names.setdefault(number, drm.get_property(fd, number))
            values[known.name] = value
            if value in known.names:
                words[known.name] = known.names[value]
        if not self.atomic and now is not None:
            # Such drivers do not say where a plane is; the primary one fills the screen.
            (x, y), width, height = now.origin, now.width, now.height
            values |= {"CRTC_X": 0, "CRTC_Y": 0, "CRTC_W": width, "CRTC_H": height}
            values |= {"SRC_X": x << 16, "SRC_Y": y << 16, "SRC_W": width << 16, "SRC_H": height << 16}
        return screen_scene.layer(state.id, state.framebuffer, int(buffer.fourcc), (buffer.width, buffer.height), values, words)


_ADVICE = {
    errno.EACCES: ". Run it as root, or join the group that owns it (often `video`) and have CAP_SYS_ADMIN",
    errno.ENOENT: f"; `glreadback sources` lists the cards, they are in {DEVICES}",
}


def _render_node(card: str) -> str | None:
    """The render node of the same device, if it has one."""
    nodes = sorted((SYSFS / card / "device" / "drm").glob("renderD*"))
    return str(DEVICES / nodes[0].name) if nodes else None


# ---- Its buffers


class _Buffer:
    """A handle on the card and the dma-buf behind it. While both are open, another export is the same dma-buf."""

    __slots__ = ("fd", "handle")

    def __init__(self, handle: int, fd: OwnedFd) -> None:
        self.handle, self.fd = handle, fd


class _Buffers:
    """The framebuffers' memory: exported, kept while it is shown and a while longer, given back once.

    A new export of the same memory would be another dma-buf if we had let go of the first one, and no reader could know
    it again; so buffers are kept, by their inodes, with the handles that hold them.
    """

    def __init__(self, card: _Card) -> None:
        self._card = card
        self._known: dict[tuple[int, int], _Buffer] = {}  # the last used last
        self._used: set[tuple[int, int]] = set()

    def __enter__(self) -> _Buffers:
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._known.values():
            self._end(buffer.handle)
            buffer.fd.close()
        self._known.clear()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A block at whose end the buffers that it did not take are given back, but for the last few."""
        self._used = set()
        yield
        unused = [key for key in self._known if key not in self._used]
        for key in unused[: max(0, len(unused) - _KEPT)]:
            buffer = self._known.pop(key)
            self._end(buffer.handle)
            buffer.fd.close()

    def take(self, framebuffer: int) -> DmaBuf | None:
        """A framebuffer's buffer; None if it has gone meanwhile. Raises SourceError where the right to it is missing."""
        fd = self._card.fileno()
        try:
            found = drm.get_fb2(fd, framebuffer)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise SourceError(f"{self._card.name} does not show its framebuffer: {error.strerror}") from None
        handles = list(dict.fromkeys(handle for handle, _, _ in found.planes))
        if not all(handles):
            raise SourceError(
                f"what {self._card.name} shows can be read only with CAP_SYS_ADMIN, or by the DRM master (the program that "
                "draws the screen): run it as root"
            )
        fds: dict[int, int] = {}
        try:
            for handle in handles:
                fds[handle] = self._export(handle)
        except OSError as error:
            for handle in handles[len(fds) :]:
                self._end(handle)
            if error.errno in _GONE:
                return None
            raise SourceError(f"{self._card.name} does not give out its framebuffer: {error.strerror}") from None
        planes = [Plane(fds[handle], offset, pitch) for handle, offset, pitch in found.planes]
        modifier = Modifier.INVALID if found.modifier is None else Modifier(found.modifier)
        return DmaBuf(found.width, found.height, Fourcc(found.fourcc), planes, modifier)

    def _export(self, handle: int) -> int:
        """The descriptor of what a new handle means; the handle is kept with it, or ended if the buffer is known."""
        card = self._card.fileno()
        try:
            number = drm.export_handle(card, handle)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
                raise
            number = drm.export_handle(card, handle, writable=False)
        fd = OwnedFd(number)
        status = os.fstat(number)
        key = status.st_dev, status.st_ino
        self._used.add(key)
        known = self._known.pop(key, None)
        if known is not None:
            fd.close()
            if known.handle != handle:
                self._end(handle)
        else:
            known = _Buffer(handle, fd)
        self._known[key] = known
        return known.fd.fileno()

    def _end(self, handle: int) -> None:
        try:
            drm.gem_close(self._card.fileno(), handle)
        except OSError:
            pass  # the card has gone, and its handles with it


# ---- What this machine has


def list_here() -> list[dict[str, object]]:
    """The cards of this machine with their connectors, for `glreadback sources`; from sysfs, which anyone may read.

    Each is {"source": "kms:card0", "driver": …, "connectors": [{"source": "kms:card0/DP-1", "connected": …, "lit": …,
    "modes": ["1920x1080", …]}, …]}, cards without a display and connectors that lead to memory (writeback) left out.
    """
    found: list[dict[str, object]] = []
    for card in _cards():
        folders = [path for path in sorted(SYSFS.glob(f"{card}-*")) if not path.name.startswith(f"{card}-Writeback")]
        connectors = [_connector_facts(card, path) for path in folders]
        if connectors:
            found.append({"source": f"kms:{card}", "driver": _driver(card), "connectors": connectors})
    return found


def _said_to_be_lit(card: str) -> bool:
    return any(_connector_facts(card, path)["lit"] for path in SYSFS.glob(f"{card}-*"))


def _connector_facts(card: str, folder: Path) -> dict[str, object]:
    modes = _text(folder / "modes").split()
    return {
        "source": f"kms:{card}/{folder.name.partition('-')[2]}",
        "connected": _text(folder / "status").strip() == "connected",
        "lit": _text(folder / "enabled").strip() == "enabled" and _text(folder / "dpms").strip() == "On",
        "modes": list(dict.fromkeys(modes)),
    }


def _driver(card: str) -> str:
    try:
        return Path(os.readlink(SYSFS / card / "device" / "driver")).name
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
