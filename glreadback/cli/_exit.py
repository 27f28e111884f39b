"""How a command ends: exceptions to exit codes, and messages to one `glreadback: …` on stderr."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from ..errors import GlReadbackError, SourceSyntaxError

DONE, FAILED, USAGE, TIMED_OUT = 0, 1, 2, 3
_INTERRUPTED = 128 + 2  # as shells count signals: SIGINT
_PIPE_CLOSED = 128 + 13  # SIGPIPE

# The first that fits. SystemExit is argparse's own: --help and usage errors.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (KeyboardInterrupt, _INTERRUPTED),
    (BrokenPipeError, _PIPE_CLOSED),
    (SourceSyntaxError, USAGE),
    (TimeoutError, TIMED_OUT),  # FenceTimeout and SourceTimeout too
    (GlReadbackError, FAILED),
    (OSError, FAILED),
    (MemoryError, FAILED),
)
_QUIET = (_INTERRUPTED, _PIPE_CLOSED)

_PREFIX = "glreadback: "


def report(message: str) -> None:
    """A message on stderr, further lines indented under the first."""
    lines = message.split("\n")
    text = ("\n" + " " * len(_PREFIX)).join("".join(map(_visible, line)) for line in lines)
    try:
        print(_PREFIX + text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is there to be told


def code_of(error: BaseException) -> int | None:
    """The exit code that says what went wrong; None for a bug of ours."""
    return next((code for expected, code in _CODES if isinstance(error, expected)), None)


def _visible(character: str) -> str:
    # A producer's words go to a terminal: no escape sequences.
    return character if character.isprintable() else ascii(character)[1:-1]


class ends_quietly:  # noqa: N801  # reads as what it does
    """A block that ends in an exit code instead of an exception, where it is no bug of ours. Bugs keep their traceback."""

    def __init__(self) -> None:
        self.code = DONE

    def __enter__(self) -> ends_quietly:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None:
            return False
        code = code_of(error)
        if code is None:
            return False
        self.code = code
        if os.environ.get("GLREADBACK_DEBUG") not in (None, "", "0"):
            import traceback

            traceback.print_exception(error)
        if code not in _QUIET:
            report(_message(error))
        if sys.stdout is not None:
            _settle_stdout()
        return True


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, GlReadbackError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return where + error.strerror
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) or type(error).__name__


def _settle_stdout() -> None:
    """Write out what stdout still holds; if nobody takes it, let the interpreter's own flush at exit go nowhere."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
