"""D-Bus messages (dbus.freedesktop.org's specification): bytes in, messages out, and back. jeepney does the types.

jeepney believes what it reads, so the sizes and signatures that would keep it busy for ever are refused before.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from jeepney import low_level  # type: ignore[import-untyped]

from ..errors import SourceError

PREFIX = 16  # bytes of a message that tell its size
MAX_MESSAGE = 1 << 27  # bytes, the specification's limit
MAX_HEADER = 1 << 14  # bytes of header fields; real ones have a few hundred
MAX_FDS = 16  # descriptors with one message, dbus-daemon's own limit
_MAX_PLAIN = 1 << 16  # bytes of a body that is no picture

CALL, RETURN, ERROR, SIGNAL = (low_level.MessageType[name] for name in ("method_call", "method_return", "error", "signal"))
_FIELD = low_level.HeaderFields
_KINDS = {1: CALL, 2: RETURN, 3: ERROR, 4: SIGNAL}
PROPERTIES = "org.freedesktop.DBus.Properties"


class Message(NamedTuple):
    """A message taken apart. Descriptors in body are places in the list that came with it."""

    kind: Any
    serial: int
    wants_reply: bool
    path: str
    interface: str
    member: str
    signature: str
    reply_to: int
    error: str
    sender: str
    body: tuple[Any, ...]


def message_size(prefix: bytes | bytearray) -> int:
    """The size in bytes of the message that starts with these 16. Raises SourceError where no message does."""
    if prefix[:1] not in (b"l", b"B") or prefix[1] not in _KINDS or prefix[3] != 1:
        raise SourceError(f"what came is no D-Bus message: it starts with {prefix[:4].hex(' ')}")
    fields = _number(prefix, 12)
    size = PREFIX + -(-fields // 8) * 8 + _number(prefix, 4)
    if fields > MAX_HEADER or size > MAX_MESSAGE:
        raise SourceError(f"a D-Bus message of {size} bytes came, {fields} of them header; it may have {MAX_MESSAGE}")
    return size


def parse(data: bytes | bytearray, nfds: int) -> Message:
    """A whole message, with which nfds descriptors came. Raises SourceError."""
    try:
        return _parse(data, nfds)
    except SourceError:
        raise
    except Exception as error:  # jeepney: ValueError, KeyError, IndexError, struct.error, AssertionError …
        raise SourceError(f"a D-Bus message is broken: {type(error).__name__}: {ascii(str(error))[:200]}") from None


def _parse(data: bytes | bytearray, nfds: int) -> Message:
    end = PREFIX + _number(data, 12)
    # An array of empty structures never ends.
    if b"()" in data[:end]:
        raise SourceError("a D-Bus message has an empty structure")
    header, pos = low_level.Header.from_buffer(data[: -(-end // 8) * 8])
    fields = header.fields
    signature = _text(fields, _FIELD.signature)
    if int(fields.get(_FIELD.unix_fds, 0)) != nfds:
        raise SourceError(f"a D-Bus message speaks of {fields.get(_FIELD.unix_fds, 0)} descriptors, {nfds} came")
    body: tuple[Any, ...] = ()
    if signature:
        if len(data) - end > _MAX_PLAIN and "ay" not in signature:
            raise SourceError(f"a D-Bus message of {len(data)} bytes has no picture in it ({signature})")
        if "v" in signature and b"()" in data[end:]:
            raise SourceError("a D-Bus message has an empty structure")
        kind = low_level.parse_signature(list(f"({signature})"))
        body, read = kind.parse_data(data, -(-pos // 8) * 8, header.endianness, fds=range(nfds))
        if read > len(data):
            raise SourceError("a D-Bus message ends too early")
    return Message(
        kind=header.message_type,
        serial=header.serial,
        wants_reply=not header.flags & low_level.MessageFlag.no_reply_expected,
        path=_text(fields, _FIELD.path),
        interface=_text(fields, _FIELD.interface),
        member=_text(fields, _FIELD.member),
        signature=signature,
        reply_to=int(fields.get(_FIELD.reply_serial, 0)),
        error=_text(fields, _FIELD.error_name),
        sender=_text(fields, _FIELD.sender),
        body=body,
    )


def _number(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little" if data[:1] == b"l" else "big")


def _text(fields: dict[Any, Any], field: Any) -> str:
    found = fields.get(field, "")
    if not isinstance(found, str):
        raise SourceError(f"a D-Bus message's {field.name} is no text")
    return found


# ---- the other way


def call(
    serial: int,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: Sequence[Any] = (),
    *,
    destination: str = "",
) -> tuple[bytes, list[int]]:
    """A method call's bytes and the descriptors in it. destination is for a bus; a peer has no name."""
    fields = {_FIELD.path: path, _FIELD.interface: interface, _FIELD.member: member}
    if destination:
        fields[_FIELD.destination] = destination
    return _serialise(serial, CALL, fields, signature, body)


def reply(serial: int, to: Message, signature: str = "", body: Sequence[Any] = ()) -> bytes:
    """The answer to a call."""
    return _serialise(serial, RETURN, _back(to), signature, body)[0]


def error(serial: int, to: Message, name: str, text: str) -> bytes:
    """The refusal of a call; name is one of org.freedesktop.DBus.Error's."""
    fields = _back(to) | {_FIELD.error_name: f"org.freedesktop.DBus.Error.{name}"}
    return _serialise(serial, ERROR, fields, "s", (text,))[0]


def _back(to: Message) -> dict[Any, Any]:
    fields: dict[Any, Any] = {_FIELD.reply_serial: to.serial}
    return fields | ({_FIELD.destination: to.sender} if to.sender else {})


def _serialise(serial: int, kind: Any, fields: dict[Any, Any], signature: str, body: Sequence[Any]) -> tuple[bytes, list[int]]:
    if signature:
        fields[_FIELD.signature] = signature
    header = low_level.Header(low_level.Endianness.little, kind, 0, 1, 0, serial, fields)
    fds = array.array("i")
    return low_level.Message(header, tuple(body)).serialise(serial=serial, fds=fds), list(fds)


# ---- authentication (the specification's chapter of that name)


class Login:
    """The client's half of the conversation: EXTERNAL by user id, then descriptors. Send `first`, feed the lines."""

    def __init__(self, uid: int) -> None:
        self.first = b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n"
        self._stage = 0

    def feed(self, line: bytes) -> bytes | None:
        """The answer to a line of the server; None once all is said. Raises SourceError where the server refuses."""
        expected, answer = ((b"OK ", b"NEGOTIATE_UNIX_FD\r\n"), (b"AGREE_UNIX_FD", b"BEGIN\r\n"))[self._stage]
        if not line.startswith(expected):
            raise SourceError(f"the D-Bus server refuses: {ascii(line.decode('latin-1').strip())[:200]}")
        self._stage += 1
        return answer

    @property
    def done(self) -> bool:
        return self._stage == 2


def bus_socket(address: str) -> str:
    """The path (or "\\0" and the name) of the first UNIX socket in a bus address. Raises SourceError without one."""
    from jeepney.bus import get_connectable_addresses  # type: ignore[import-untyped]

    try:
        return str(next(get_connectable_addresses(address)))
    except (ValueError, RuntimeError, StopIteration):
        raise SourceError(
            f"{ascii(address)[:200]} is no bus address that can be used; it must be like unix:path=/run/user/1000/bus"
        ) from None
