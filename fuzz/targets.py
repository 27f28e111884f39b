"""What is fuzzed: everything that takes bytes or text from outside apart, one function a format.

Each takes the input and does nothing, or raises what no caller expects: any exception but the format's own, a message of
several lines, a value that does not come back as it went.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from glreadback import Fourcc, GlReadbackError, Modifier
from glreadback.errors import DescriptorError, ImportRejected, SourceError, SourceSyntaxError
from glreadback.isolate import _NONSENSE, _as_capabilities, _as_error, _as_route
from glreadback.kernel import vfio
from glreadback.sources import spec
from glreadback.wire import dbus, display, frames, qmp


@contextlib.contextmanager
def expected(*kinds: type[Exception]) -> Iterator[None]:
    """These errors are fine, if they say what is wrong in one printable line."""
    try:
        yield
    except kinds as error:
        said = str(error)
        assert said, f"{type(error).__name__} says nothing"
        assert said.isprintable(), f"{type(error).__name__} has more than one line, or what no terminal should get: {said!r}"
        assert len(said) < 2000, f"{type(error).__name__} says {len(said)} characters"


def header(data: bytes) -> None:
    """A frame's line on a UNIX socket. The first byte says how many descriptors came with it."""
    with expected(SourceError):
        found = frames.parse_header(data[1:], data[0] % 7 if data else 0)
        line, places = frames.format_header(found.number, found.frame)
        assert len(places) <= frames.MAX_FDS
        again = frames.parse_header(line, len(places))
        assert again.number == found.number
        # Places are numbered anew, in the order in which they are first spoken of.
        assert again.with_fds(places) == found.with_fds(range(7))
        found.with_fds(range(100, 107))


def release(data: bytes) -> None:
    """A reader's answer to a frame."""
    with expected(SourceError):
        assert frames.parse_release(frames.format_release(frames.parse_release(data))) >= 0


def message(data: bytes) -> None:
    """A D-Bus message of QEMU's display, and what is made of it. The first byte says how many descriptors came."""
    if len(data) < 1 + dbus.PREFIX:
        return
    nfds, data = data[0] % 18, data[1:]
    with expected(SourceError):
        size = dbus.message_size(data[: dbus.PREFIX])
        assert dbus.PREFIX <= size <= dbus.MAX_MESSAGE
        found = dbus.parse(data[:size], nfds)
        event = display.event(found)
        if isinstance(event, display.Shared):
            # Places are those of descriptors that came.
            assert all(0 <= plane.fd < nfds for plane in event.frame.buffer.planes)
            event.with_fds(list(range(100, 100 + nfds)))
        if isinstance(event, display.Mapped):
            assert 0 <= event.place < nfds
        if isinstance(event, display.Picture):
            assert len(event.data) <= len(data)
        display.property_answer(found)


def login(data: bytes) -> None:
    """A D-Bus server's lines before the first message."""
    with expected(SourceError):
        conversation = dbus.Login(1000)
        for line in data.split(b"\n"):
            if conversation.done:
                break
            conversation.feed(line)


def machine(data: bytes) -> None:
    """A line of QEMU's machine protocol."""
    with expected(SourceError):
        qmp.is_greeting(data)
    with expected(SourceError):
        qmp.reply(data)


def structures(data: bytes) -> None:
    """vfio's answers: a plane, and a region."""
    for size, unpack in ((vfio.GFX_PLANE_SIZE, vfio.unpack_plane), (32, vfio.unpack_region)):
        try:
            unpack(data)  # type: ignore[operator]
        except ValueError as error:
            assert len(data) < size
            assert str(error).isprintable()
        else:
            assert len(data) >= size


_SCHEMES = ("pattern", "file", "fd", "pid", "unix", "kms", "vfio", "qemu")


def source(data: bytes) -> None:
    """A SOURCE string, and its options as the source's values. Nothing is opened."""
    from importlib import import_module

    with expected(SourceSyntaxError):
        found = spec.parse(data.decode("utf-8", "surrogateescape"), _SCHEMES)
        assert found.scheme in _SCHEMES
        assert "\0" not in found.path
        module = import_module(f"glreadback.sources.{found.scheme}")
        (kind,) = [
            value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
            and getattr(value, "scheme", None) == found.scheme
        ]  # fmt: skip
        found.values(kind.keys)


def fourcc(data: bytes) -> None:
    """A pixel format by name or number."""
    text = data.decode("utf-8", "surrogateescape")
    with expected(DescriptorError):
        found = Fourcc(text)
        assert Fourcc(found.code) == found
        assert 0 < found.code < 1 << 32


def modifier(data: bytes) -> None:
    """A memory layout by name or number."""
    text = data.decode("utf-8", "surrogateescape")
    with expected(DescriptorError):
        found = Modifier(text)
        assert 0 <= int(found) < 1 << 64
        assert Modifier(str(found)) == found


def reply(data: bytes) -> None:
    """What a helper of isolated reads answers: an error of ours, a route, capabilities, or nonsense."""
    try:
        said = frames.parse_object(data)
    except SourceError:
        return
    for make in (_as_error, lambda said: _as_route(said, Fourcc("AB24")), _as_capabilities):
        try:
            found = make(said)  # type: ignore[operator]
        except (GlReadbackError, *_NONSENSE):
            continue
        if isinstance(found, GlReadbackError):
            assert str(found).isprintable()
            names = {"egl_code", "fourcc", "modifier", "planes", "accepted"} if isinstance(found, ImportRejected) else {"tried"}
            assert vars(found).keys() <= names
        json.dumps(str(found))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (header, release, message, login, machine, structures, source, fourcc, modifier, reply)
}
