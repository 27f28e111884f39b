"""Screens to test with: a client that draws on one as its DRM master, and the kernel's own view of what it shows."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from producers import open_card

from glreadback.fourcc import Fourcc
from glreadback.kernel import dmabuf, drm

GRAPHICS = Path("/sys/class/graphics")


def card_name(driver: str) -> str:
    """ "card1" of the first card of a driver."""
    card = open_card(driver)
    try:
        return Path(os.readlink(f"/proc/self/fd/{card}")).name
    finally:
        os.close(card)


# ---- The console


@dataclass
class Console:
    """The framebuffer device of a card: what /dev/fbN holds is what its screen shows."""

    folder: Path

    @property
    def size(self) -> tuple[int, int]:
        width, height = (self.folder / "virtual_size").read_text().split(",")
        return int(width), int(height)

    @property
    def path(self) -> Path:
        return Path("/dev") / self.folder.name

    def light(self) -> None:
        """Switch it on: only the first console is at boot."""
        (self.folder / "blank").write_text("0")

    def pixels(self) -> np.ndarray:
        """(height, width, 4) uint8, as they lie in memory."""
        (width, height), stride = self.size, int((self.folder / "stride").read_text())
        with open(self.path, "rb") as file:
            rows = np.frombuffer(file.read(stride * height), np.uint8).reshape(height, stride)
        return rows[:, : width * 4].reshape(height, width, 4)

    def paint(self, pixels: np.ndarray) -> None:
        """Put pixels there by mmap, as programs do."""
        stride = int((self.folder / "stride").read_text())
        rows = np.zeros((pixels.shape[0], stride), np.uint8)
        rows[:, : pixels.shape[1] * 4] = pixels.reshape(pixels.shape[0], -1)
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with mmap.mmap(fd, rows.size) as memory:
                memory[:] = rows.tobytes()
        finally:
            os.close(fd)


def console(driver: str) -> Console:
    """The console of a driver's card."""
    name = f"{driver}drmfb"
    return next(Console(file.parent) for file in GRAPHICS.glob("fb*/name") if file.read_text().strip() == name)


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it became true in that time. Consoles copy what was painted a moment later."""
    end = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


# ---- A client


@dataclass
class Painted:
    """A framebuffer of a client's: its id, its dumb buffer, what is in it as (height, width, n)."""

    id: int
    dumb: drm.Dumb
    pixels: np.ndarray


class Client:
    """The DRM master of a card: what a compositor is to the kernel. The card is its own until the context ends."""

    def __init__(self, driver: str) -> None:
        self.card = open_card(driver)
        try:
            drm.set_master(self.card)
            drm.set_client_cap(self.card, drm.CLIENT_CAP_UNIVERSAL_PLANES)
            drm.set_client_cap(self.card, drm.CLIENT_CAP_ATOMIC)
            for cap in (drm.CLIENT_CAP_WRITEBACK_CONNECTORS, drm.CLIENT_CAP_CURSOR_PLANE_HOTSPOT):
                try:
                    drm.set_client_cap(self.card, cap)
                except OSError:
                    pass
            found = drm.resources(self.card)
            connectors = [drm.get_connector(self.card, number) for number in found.connectors]
            self.connector = next(connector for connector in connectors if connector.connection == drm.CONNECTED)
            self.writeback = next((c for c in connectors if c.name.startswith("Writeback")), None)
            self.crtc = found.crtcs[0]
            self.planes: dict[int, list[int]] = {kind: [] for kind in range(3)}
            for plane in drm.plane_ids(self.card):
                self.planes[drm.object_properties(self.card, plane, drm.OBJECT_PLANE)["type"]].append(plane)
        except BaseException:
            os.close(self.card)
            raise

    def close(self) -> None:
        os.close(self.card)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def mode(self, width: int, height: int) -> drm.Mode:
        return next(mode for mode in self.connector.modes if (mode.width, mode.height) == (width, height))

    def paint(self, pixels: np.ndarray, fourcc: str = "XR24", modifier: int | None = None) -> Painted:
        """A new framebuffer that holds pixels, (height, width, n) of uint8 or uint16."""
        height, width = pixels.shape[:2]
        bits = pixels[0, 0].nbytes * 8
        dumb = drm.create_dumb(self.card, width * bits // 32, height, 32)
        with mmap.mmap(self.card, dumb.size, offset=drm.map_dumb(self.card, dumb.handle)) as memory:
            rows = np.zeros((height, dumb.pitch), np.uint8)
            rows[:, : width * bits // 8] = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
            memory[: rows.size] = rows.tobytes()
        number = drm.add_fb2(self.card, width, height, int(Fourcc(fourcc)), [(dumb.handle, 0, dumb.pitch)], modifier)
        return Painted(number, dumb, pixels)

    def unpaint(self, painted: Painted) -> None:
        drm.remove_fb(self.card, painted.id)
        drm.destroy_dumb(self.card, painted.dumb.handle)

    def show(self, painted: Painted) -> None:
        """As the whole screen, in the mode of its size, by the old interface."""
        height, width = painted.pixels.shape[:2]
        drm.set_crtc(self.card, self.crtc, painted.id, [self.connector.id], self.mode(width, height))

    def off(self) -> None:
        drm.set_crtc(self.card, self.crtc, 0, [], None)

    def set(self, changes: Mapping[tuple[int, int], Mapping[str, int]]) -> None:
        """One atomic commit of properties by name: {(object, its OBJECT_ type): {name: value}}."""
        numbered = {}
        for (number, kind), values in changes.items():
            ids = {drm.get_property(self.card, p).name: p for p in drm.property_values(self.card, number, kind)}
            numbered[number] = {ids[name]: value for name, value in values.items()}
        drm.atomic_commit(self.card, numbered)

    def place(
        self,
        plane: int,
        painted: Painted,
        target: tuple[int, int, int, int],
        source: tuple[float, float, float, float] | None = None,
        **more: int,
    ) -> dict[tuple[int, int], dict[str, int]]:
        """The change that shows a framebuffer on a plane, for set()."""
        height, width = painted.pixels.shape[:2]
        fixed = [round(value * 65536) for value in source or (0, 0, width, height)]
        values = {"FB_ID": painted.id, "CRTC_ID": self.crtc}
        values |= dict(zip(("SRC_X", "SRC_Y", "SRC_W", "SRC_H"), fixed, strict=True))
        values |= dict(zip(("CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H"), target, strict=True))
        return {(plane, drm.OBJECT_PLANE): values | more}

    def hide(self, plane: int) -> dict[tuple[int, int], dict[str, int]]:
        """The change that switches a plane off, for set()."""
        return {(plane, drm.OBJECT_PLANE): {"FB_ID": 0, "CRTC_ID": 0}}

    def written_back(self, width: int, height: int, fourcc: str = "XR24") -> np.ndarray:
        """What the kernel itself says the screen shows: its writeback connector's picture, (height, width, 4)."""
        assert self.writeback is not None
        deep = Fourcc(fourcc).info.depth > 8
        target = self.paint(np.zeros((height, width, 4), np.uint16 if deep else np.uint8), fourcc)
        fd = drm.export_handle(self.card, target.dumb.handle)
        try:
            blank = target.pixels.tobytes()
            # One connector at a time: 6.12's vkms does not say that it can feed two, and is refused it.
            self.set(
                {
                    (self.connector.id, drm.OBJECT_CONNECTOR): {"CRTC_ID": 0},
                    (self.writeback.id, drm.OBJECT_CONNECTOR): {"WRITEBACK_FB_ID": target.id, "CRTC_ID": self.crtc},
                }
            )

            def content() -> bytes:
                with mmap.mmap(fd, target.dumb.size, prot=mmap.PROT_READ) as memory:
                    dmabuf.sync_start(fd)
                    rows = np.frombuffer(memory[: target.dumb.pitch * height], np.uint8).reshape(height, -1)
                    dmabuf.sync_end(fd)
                    return rows[:, : width * (8 if deep else 4)].tobytes()

            # It is done with the next vertical blank: wait until it is there, and until it no longer changes.
            assert until(lambda: content() != blank)
            before = b""
            while before != (before := content()):
                time.sleep(0.1)
            return np.frombuffer(before, "<u2" if deep else np.uint8).reshape(height, width, 4)
        finally:
            os.close(fd)
            self.set(
                {
                    (self.writeback.id, drm.OBJECT_CONNECTOR): {"CRTC_ID": 0},
                    (self.connector.id, drm.OBJECT_CONNECTOR): {"CRTC_ID": self.crtc},
                }
            )
            self.unpaint(target)


@contextmanager
def client(driver: str) -> Iterator[Client]:
    """A client on a card of a driver; the console is back when it has gone."""
    with ExitStack() as stack:
        stack.callback(console(driver).light)
        yield stack.enter_context(Client(driver))


def noise(height: int, width: int, seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    """(height, width, 4) of random values; the same for a seed."""
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, (height, width, 4), kind)


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    """Pixels whose colours are no larger than their alpha, the last component."""
    return np.minimum(pixels, pixels[..., 3:])
