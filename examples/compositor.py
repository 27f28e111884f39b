#!/usr/bin/env python3
"""A Wayland compositor that shows nothing: it reads what a client commits and writes the last frame as a picture.

    python examples/compositor.py --socket demo -o shot.png --frames 5 &
    WAYLAND_DISPLAY=demo python examples/client.py --frames 5

It offers wl_compositor and zwp_linux_dmabuf_v1 and no more, so clients that want a window or input turn away. What a real
compositor would take over from here is `Surface.commit`: a Frame of the client's buffer with the damage since its last
one, read into the same memory each time; the buffer is the client's again as soon as that is done.
Needs pywayland (the extra `wayland`). Its wheel brings a libwayland of its own: never give its wl_display to EGL.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pywayland import ffi, lib
from pywayland.protocol.linux_dmabuf_v1 import ZwpLinuxBufferParamsV1, ZwpLinuxDmabufV1
from pywayland.protocol.wayland import WlBuffer, WlCallback, WlCompositor, WlRegion, WlSurface
from pywayland.protocol_core import ArgumentType
from pywayland.server import Display

import glreadback
from glreadback import DmaBuf, Frame, Modifier, Plane, Rect

# ---- what pywayland's server side lacks

_PLAIN: dict[ArgumentType, Callable[[Any], Any]] = {
    ArgumentType.Int: lambda value: value.i,
    ArgumentType.Uint: lambda value: value.u,
    ArgumentType.FileDescriptor: lambda value: value.h,  # ours to close
    ArgumentType.Fixed: lambda value: lib.wl_fixed_to_double(value.f),
    ArgumentType.NewId: lambda value: value.n,
    ArgumentType.Object: lambda value: None if value.o == ffi.NULL else _resource(value.o),
}


def _resource(pointer: Any) -> Any:
    return ffi.from_handle(lib.wl_resource_get_user_data(ffi.cast("struct wl_resource *", pointer)))


@dataclass(frozen=True)
class Request:
    """A request's arguments as a server gets them. pywayland (0.4.19) takes new ids and objects for a client's proxies."""

    message: Any

    def c_to_arguments(self, values: Any) -> list[Any]:
        return [_PLAIN[argument.argument_type](values[index]) for index, argument in enumerate(self.message.arguments)]


_alive: set[Any] = set()  # libwayland knows only the addresses of these


def serve(resource: Any, closed: Callable[[], None] = lambda: None, **requests: Callable[..., object]) -> Any:
    """Answer a resource's requests, given by name and without the resource; closed when it is gone, however that came."""

    def gone(_resource: Any) -> None:
        resource._ptr = None
        _alive.discard(resource)
        closed()

    _alive.add(resource)
    # pywayland (0.4.19) gives its handle as the resource's data alone, and then looks for it in the implementation.
    handle = resource._handle
    lib.wl_resource_set_dispatcher(resource._ptr, lib.dispatcher_func, handle, handle, lib.resource_destroy_func)
    dispatcher = resource.dispatcher
    dispatcher.messages = [Request(message) for message in dispatcher.messages]
    dispatcher.destructor = gone
    if "destroy" in dispatcher._names:
        dispatcher["destroy"] = lambda _resource: resource.destroy()
    for name, answer in requests.items():
        dispatcher[name] = lambda _resource, *values, answer=answer: (answer(*values), None)[1]
    return resource


def child(parent: Any, interface: Any, number: int) -> Any:
    """The new resource that a request of parent asked for."""
    return interface.resource_class(lib.wl_resource_get_client(parent._ptr), min(parent.version, interface.version), number)


# ---- linux-dmabuf


class Params:
    """zwp_linux_buffer_params_v1: collects the planes of a buffer to be."""

    def __init__(self, compositor: Compositor, resource: Any) -> None:
        self.compositor = compositor
        self.planes: dict[int, Plane] = {}
        self.modifier = Modifier(Modifier.INVALID)
        self.resource = serve(
            resource,
            self.close,
            add=self.add,
            create=self.create,
            create_immed=lambda number, *what: self.create(*what, number),
        )

    def add(self, fd: int, index: int, offset: int, stride: int, high: int, low: int) -> None:
        if index in self.planes:
            os.close(fd)
            self.resource._post_error(ZwpLinuxBufferParamsV1.error.plane_set, f"plane {index} was given already")
            return
        self.planes[index] = Plane(fd, offset, stride)
        self.modifier = Modifier(high << 32 | low)

    def create(self, width: int, height: int, code: int, flags: int, number: int = 0) -> None:
        """number is the new wl_buffer's; 0 where the client waits to hear of it."""
        planes = [self.planes[index] for index in sorted(self.planes)]
        try:
            buf = DmaBuf(width, height, code, planes, self.modifier)
            # A client may say anything. Once it has been read, it is known to fit and to be imported.
            self.compositor.reader.read(buf)
        except glreadback.GlReadbackError as error:
            print(f"compositor: refused: {error}", file=sys.stderr)
            if number:
                self.resource._post_error(ZwpLinuxBufferParamsV1.error.invalid_wl_buffer, str(error))
            else:
                self.resource.failed()
            return
        inverted = bool(flags & ZwpLinuxBufferParamsV1.flags.y_invert)
        resource = child(self.resource, WlBuffer, number)
        buffer = Buffer(self.compositor, resource, buf, inverted)
        resource.buffer = buffer
        serve(resource, buffer.close)
        self.planes = {}  # the buffer's to close now
        if not number:
            self.resource.created(resource)

    def close(self) -> None:
        for plane in self.planes.values():
            os.close(plane.fd)


@dataclass
class Buffer:
    """A wl_buffer over a dma-buf. Its descriptors live as long as it does."""

    compositor: Compositor
    resource: Any
    buf: DmaBuf
    inverted: bool

    def release(self) -> None:
        """The client may draw into it again."""
        if self.resource._ptr is not None:
            self.resource.release()

    def close(self) -> None:
        self.compositor.reader.forget(self.buf)
        for fd in {plane.fd for plane in self.buf.planes}:
            os.close(fd)


# ---- surfaces


@dataclass
class Surface:
    """wl_surface: what is pending until the next commit, and the pixels of the last one."""

    compositor: Compositor
    attached: Any = None  # a wl_buffer, new with the next commit
    damage: list[Rect] = field(default_factory=list)
    callbacks: list[Any] = field(default_factory=list)
    pixels: glreadback.Surface | None = None

    def commit(self) -> None:
        buffer = self.attached.buffer if self.attached is not None and self.attached._ptr is not None else None
        if buffer is not None:
            # The whole file is about these lines.
            frame = Frame(buffer.buf, y_invert=buffer.inverted, damage=tuple(self.damage), release=buffer.release)
            same = self.pixels is not None and (self.pixels.width, self.pixels.height) == frame.size
            reader = self.compositor.reader
            try:
                self.pixels = reader.read(frame, self.pixels, damage=frame.damage) if same else reader.read(frame)
            except glreadback.GlReadbackError as error:
                print(f"compositor: {error}", file=sys.stderr)
                self.pixels = None
            else:
                self.compositor.seen(self.pixels)
        self.attached, self.damage = None, []
        now = int(time.monotonic() * 1000) & 0xFFFFFFFF
        for callback in self.callbacks:
            callback.done(now)
            callback.destroy()
        self.callbacks = []

    def attach(self, buffer: Any, _x: int, _y: int) -> None:
        self.attached = buffer

    def damaged(self, x: int, y: int, width: int, height: int) -> None:
        self.damage.append(Rect(x, y, width, height))


class Compositor:
    """The display, its globals and the Reader of all surfaces."""

    def __init__(self, socket: str, path: str, device: str | None) -> None:
        self.path, self.frames, self.surfaces = path, 0, 0
        self.reader = glreadback.Reader(device)
        self.display = Display()
        self.globals = [self._offer(WlCompositor, 4, self._compositor), self._offer(ZwpLinuxDmabufV1, 3, self._dmabuf)]
        self.display.add_socket(socket)

    def _offer(self, interface: Any, version: int, bound: Callable[[Any], None]) -> Any:
        made = interface.global_class(self.display, version)
        made.bind_func = bound
        return made

    def _compositor(self, resource: Any) -> None:
        serve(
            resource,
            create_surface=lambda number: self._surface(child(resource, WlSurface, number)),
            create_region=lambda number: serve(child(resource, WlRegion, number)),
        )

    def _surface(self, resource: Any) -> None:
        surface = Surface(self)

        def frame(number: int) -> None:
            surface.callbacks.append(serve(child(resource, WlCallback, number)))

        def closed() -> None:
            self.surfaces -= 1

        self.surfaces += 1
        # No scale and no transform, so a surface's coordinates are its buffer's.
        serve(
            resource,
            closed,
            attach=surface.attach,
            damage=surface.damaged,
            damage_buffer=surface.damaged,
            frame=frame,
            commit=surface.commit,
        )

    def _dmabuf(self, resource: Any) -> None:
        serve(resource, create_params=lambda number: Params(self, child(resource, ZwpLinuxBufferParamsV1, number)))
        for code in ("XR24", "AR24", "XB24", "AB24", "NV12"):
            for modifier in (Modifier.LINEAR, Modifier.INVALID):
                number = glreadback.Fourcc(code).code
                if resource.version >= 3:
                    resource.modifier(number, modifier >> 32, modifier & 0xFFFFFFFF)
            resource.format(number)

    def seen(self, pixels: glreadback.Surface) -> None:
        self.frames += 1
        print(f"compositor: frame {self.frames}, {pixels.width}x{pixels.height} {pixels.fourcc} by {pixels.route}", flush=True)
        pixels.save(self.path)

    def run(self, frames: int, timeout: float) -> bool:
        """Serve until so many frames have been read and their clients are done; False if that takes too long (seconds)."""
        loop = self.display.get_event_loop()
        end = time.monotonic() + timeout
        while (self.frames < frames or self.surfaces) and time.monotonic() < end:
            loop.dispatch(100)
            self.display.flush_clients()
        return self.frames >= frames

    def close(self) -> None:
        self.display.destroy()  # and with it each client's resources
        self.reader.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--socket", default="glreadback", help="the display's name, in XDG_RUNTIME_DIR")
    parser.add_argument("-o", "--output", default="frame.png", help="the picture that each frame is written to")
    parser.add_argument("--frames", type=int, default=1, help="how many to read before leaving")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for them")
    parser.add_argument("--device", help='"software" or a render node')
    args = parser.parse_args()
    compositor = Compositor(args.socket, args.output, args.device)
    print(f"compositor: listening on {args.socket}", flush=True)
    try:
        done = compositor.run(args.frames, args.timeout)
    finally:
        compositor.close()
    return 0 if done else 3


if __name__ == "__main__":
    sys.exit(main())
