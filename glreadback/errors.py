"""The exceptions glreadback raises. Every message names the value, the limit and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class GlReadbackError(Exception):
    """The root of all errors that glreadback raises on purpose."""


class DescriptorError(GlReadbackError, ValueError):
    """A buffer's description is impossible, or does not fit what its descriptors hold."""


class ImportRejected(GlReadbackError):
    """The driver refused to import the buffer.

    egl_code is the EGL error's name ("EGL_BAD_MATCH", or "EGL_SUCCESS" from drivers that say nothing);
    accepted lists the modifiers the driver takes for this fourcc, empty if it takes none.
    """

    def __init__(
        self,
        message: str,
        *,
        egl_code: str = "",
        fourcc: str = "",
        modifier: int | None = None,
        planes: int = 0,
        accepted: Sequence[int] = (),
    ) -> None:
        super().__init__(message)
        self.egl_code = egl_code
        self.fourcc = fourcc
        self.modifier = modifier
        self.planes = planes
        self.accepted = tuple(accepted)


class DeviceError(GlReadbackError):
    """No usable display. tried maps each device that was tried to why it failed."""

    def __init__(self, message: str, tried: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.tried = dict(tried or {})


class FenceTimeout(GlReadbackError, TimeoutError):
    """A fence of the producer did not signal within the caller's time-out."""


class SourceError(GlReadbackError):
    """A source cannot be opened, or its producer went away or misbehaved."""


class SourceSyntaxError(SourceError, ValueError):
    """A SOURCE string is not of the form scheme:path?key=value&…, or a key's value is wrong."""


class SinkError(GlReadbackError):
    """A picture cannot be written: an unknown file kind, a full disk, a fourcc the format cannot hold."""


class ReaderCrashed(GlReadbackError):
    """The helper process of an isolated read died, hung or took too much memory. Only with isolate=True."""
