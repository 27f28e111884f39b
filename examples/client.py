#!/usr/bin/env python3
"""A Wayland client for examples/compositor.py: two dma-bufs in turn, a square that moves, damage where it was and is.

The memory is a udmabuf where /dev/udmabuf can be opened, else a memfd that stands in for one: only a software device
reads those. It says which. Needs pywayland (the extra `wayland`).
"""

from __future__ import annotations

import argparse
import mmap
import os
import sys
from typing import Any

from pywayland.client import Display
from pywayland.protocol.linux_dmabuf_v1 import ZwpLinuxDmabufV1
from pywayland.protocol.wayland import WlCompositor

from glreadback import Fourcc, Modifier
from glreadback.kernel import dmabuf, udmabuf

WIDTH, HEIGHT, SIDE, STEP = 320, 240, 48, 24
STRIDE = WIDTH * 4 + 64  # padded, as most drivers do
_CODE = Fourcc("XR24").code


def corner(number: int) -> tuple[int, int]:
    """Where frame number has its square."""
    return number * STEP % (WIDTH - SIDE), number * STEP % (HEIGHT - SIDE)


def row(number: int, y: int) -> bytes:
    """Line y of frame number: a slope of blue, green by line, and a red square."""
    left, top = corner(number)
    line = bytearray()
    for x in range(WIDTH):
        inside = left <= x < left + SIDE and top <= y < top + SIDE
        line += bytes((0, 0, 255, 0) if inside else (x & 0xFF, y & 0xFF, 0, 0))
    return bytes(line)


def damage(number: int) -> list[tuple[int, int, int, int]]:
    """What differs between a frame and the one before it."""
    if number == 0:
        return [(0, 0, 2**31 - 1, 2**31 - 1)]
    return [(*corner(n), SIDE, SIDE) for n in (number - 1, number)]


class Buffer:
    """A wl_buffer over shareable memory. busy from a commit to the compositor's release."""

    def __init__(self, importer: Any) -> None:
        size = STRIDE * HEIGHT
        self.fd, self.kind = udmabuf.allocate(size, "client")
        self.memory = mmap.mmap(self.fd, size)
        params = importer.create_params()
        params.add(self.fd, 0, 0, STRIDE, Modifier.LINEAR >> 32, Modifier.LINEAR & 0xFFFFFFFF)
        self.proxy = params.create_immed(WIDTH, HEIGHT, _CODE, 0)
        params.destroy()
        self.busy = False
        self.proxy.dispatcher["release"] = self._released

    def _released(self, _proxy: Any) -> None:
        self.busy = False

    def draw(self, number: int) -> None:
        if self.kind == "udmabuf":
            dmabuf.sync_start(self.fd, dmabuf.WRITE)
        for y in range(HEIGHT):
            self.memory[y * STRIDE : y * STRIDE + WIDTH * 4] = row(number, y)
        if self.kind == "udmabuf":
            dmabuf.sync_end(self.fd, dmabuf.WRITE)

    def close(self) -> None:
        self.proxy.destroy()
        self.memory.close()
        os.close(self.fd)


def show(display: Display, found: dict[str, Any], frames: int) -> None:
    """Commit frames one after the other, each when the compositor has taken the one before."""
    surface = found["wl_compositor"].create_surface()
    buffers = [Buffer(found["zwp_linux_dmabuf_v1"]) for _ in range(2)]
    print(f"client: {WIDTH}x{HEIGHT} XR24 in two {buffers[0].kind}s", flush=True)
    for number in range(frames):
        buffer = buffers[number % 2]
        while buffer.busy:
            display.dispatch(block=True)
        buffer.draw(number)
        buffer.busy = True
        surface.attach(buffer.proxy, 0, 0)
        for rect in damage(number):
            surface.damage_buffer(*rect)
        surface.commit()
        display.roundtrip()
    for buffer in buffers:
        while buffer.busy:
            display.dispatch(block=True)
        buffer.close()
    surface.destroy()
    display.roundtrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--display", default=os.environ.get("WAYLAND_DISPLAY", "glreadback"))
    parser.add_argument("--frames", type=int, default=1)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    wanted = {"wl_compositor": (WlCompositor, 4), "zwp_linux_dmabuf_v1": (ZwpLinuxDmabufV1, 3)}
    with Display(args.display) as display:
        registry = display.get_registry()

        def offered(_registry: Any, name: int, interface: str, version: int) -> None:
            if interface in wanted:
                kind, most = wanted[interface]
                found[interface] = registry.bind(name, kind, min(version, most))

        registry.dispatcher["global"] = offered
        display.roundtrip()
        lacking = wanted.keys() - found.keys()
        if lacking:
            print(f"client: {args.display} does not offer {', '.join(sorted(lacking))}", file=sys.stderr)
            return 1
        try:
            show(display, found, args.frames)
        except RuntimeError as error:  # the compositor has left, or found a fault
            print(f"client: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
