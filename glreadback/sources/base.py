"""What a source is. Whoever adds one reads this file and sources/file.py, and puts a line into the registry.

A source is a module of this folder with one class over `Source`:

    class MySource(Source):
        \"\"\"What comes out of it, and what its path and keys mean.\"\"\"

        scheme = "my"                                  # my:PATH?key=value
        path_help = "what PATH is"
        keys = {"rate": Key(number, "60", "frames a second; default: 60")}

        def __init__(self, path: str, *, rate: int = 60) -> None:  # the keys' names; defaults for all but the required
            with ExitStack() as stack:
                self._fd = stack.enter_context(OwnedFd(…))
                self._keep(stack)                      # last: from here on, close() undoes what the stack holds

        def frames(self, timeout: float | None = None) -> Iterator[Frame]: …
        def describe(self) -> dict[str, object]: …

A source that reads pictures itself, before it gives one out, takes device= and isolate= as a Reader does, and says so by
`reading = ("device", "isolate")`. Nothing else is needed; `tests/test_sources.py` checks every source in the registry
against this page. A module here imports neither numpy nor OpenGL nor Pillow when it is loaded: `glreadback snapshot`
loads only the source that it uses. Whatever goes wrong is a SourceError (a producer's fault), a SourceSyntaxError (a bad
path or key) or a DescriptorError (a buffer that cannot be as it was described), with a message of one line.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Self

from ..errors import SourceError
from ..frame import Frame
from .spec import Key


class SourceTimeout(SourceError, TimeoutError):
    """No frame came within the caller's time-out."""


class Source(ABC):
    """Where frames come from. A context manager; close() lets go of every descriptor and mapping, once.

    Frames' descriptors belong to the source: they are good until its next frame, or until close(). A reader that keeps
    them longer dups them.
    """

    scheme: ClassVar[str]
    path_help: ClassVar[str]
    keys: ClassVar[Mapping[str, Key]]
    reading: ClassVar[tuple[str, ...]] = ()  # a Reader's arguments that the constructor takes for reads of its own

    _held: ExitStack | None = None

    @abstractmethod
    def __init__(self, path: str, **options: Any) -> None:
        """Open it: path and the values of the keys, by name. Raises SourceError and its kin, leaving nothing open."""

    @abstractmethod
    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """The frames, one after the other, for as long as the producer makes some.

        A source whose buffer does not announce changes (pattern, file, fd) yields that buffer again and again, at once:
        the caller says how often it wants to look. timeout is in seconds, for each next frame; None waits for ever.
        Raises SourceTimeout when one did not come in time, SourceError when the producer is gone or talks nonsense,
        ValueError if the source is closed. Asked for again, it goes on where the last one stopped.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What is known of the source besides its frames, for `glreadback info`: short names, values that JSON has."""

    def close(self) -> None:
        """Let go of everything. Doing it twice is fine."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    @property
    def closed(self) -> bool:
        return self._held is None

    def _keep(self, stack: ExitStack) -> None:
        """Make what stack holds this source's own: the last thing a constructor does."""
        self._held = stack.pop_all()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"the {self.scheme}: source is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(f"unclosed source {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()


class StillSource(Source):
    """A source of one buffer that lies still or changes without a word: every frame is that buffer."""

    _frame: Frame

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """The same frame again and again, at once; timeout never runs out."""
        while True:
            self._check_open()
            yield self._frame
