"""Every way to read that the library has, as a table: what holds for one of them has to hold for all."""

from __future__ import annotations

from collections.abc import Callable

from glreadback import DmaBuf, Frame, Reader, Surface

Read = Callable[[float], bytes]  # with the time-out in seconds
Way = Callable[[Reader, DmaBuf | Frame], Read]


def _route(name: str | None) -> Way:
    def way(reader: Reader, picture: DmaBuf | Frame) -> Read:
        return lambda timeout: reader.read(picture, route=name, timeout=timeout).tobytes()

    return way


def _planes(route: str) -> Way:
    def way(reader: Reader, picture: DmaBuf | Frame) -> Read:
        return lambda timeout: b"".join(plane.tobytes() for plane in reader.read_planes(picture, route=route, timeout=timeout))

    return way


def _size(picture: DmaBuf | Frame) -> tuple[int, int]:
    buf = picture.buffer if isinstance(picture, Frame) else picture
    return buf.width, buf.height


def _again(route: str) -> Way:
    """The same picture object into the same surface: from the second time on, all that can be skipped is skipped."""

    def way(reader: Reader, picture: DmaBuf | Frame) -> Read:
        out = Surface.allocate(*_size(picture), "AR24")
        return lambda timeout: reader.read(picture, out=out, route=route, timeout=timeout).tobytes()

    return way


def _damage(reader: Reader, picture: DmaBuf | Frame) -> Read:
    width, height = _size(picture)
    out = Surface.allocate(width, height, "AR24")
    halves = [(0, 0, width // 2, height), (width // 2, 0, width - width // 2, height)]
    return lambda timeout: reader.read(picture, out=out, damage=halves, timeout=timeout).tobytes()


def _submit(reader: Reader, picture: DmaBuf | Frame) -> Read:
    return lambda timeout: reader.submit(picture, timeout=timeout).result(timeout).tobytes()


def _map(reader: Reader, picture: DmaBuf | Frame) -> Read:
    def read(timeout: float) -> bytes:
        with reader.map(picture, timeout=timeout) as surface:
            return surface.tobytes()

    return read


# Each gives an AR24 picture's own bytes.
WAYS: dict[str, Way] = {
    "alias": _route("alias"),
    "native": _route("native"),
    "draw": _route("draw"),
    "map": _route("map"),
    "alias again": _again("alias"),
    "native again": _again("native"),
    "damage": _damage,
    "submit": _submit,
    "planes alias": _planes("alias"),
    "planes map": _planes("map"),
    "Reader.map": _map,
}

# Each takes an NV12 picture; "planes …" give its own bytes, the others a picture made of them.
PLANAR_WAYS: dict[str, Way] = {
    "draw": _route("draw"),
    "converted": _route(None),
    "planes alias": _planes("alias"),
    "planes map": _planes("map"),
}
