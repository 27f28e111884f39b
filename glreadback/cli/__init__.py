"""The command `glreadback`. One module a command, loaded when it is used: start-up time is part of a snapshot's time."""

from __future__ import annotations

import argparse
import gc
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..words import choices
from ._exit import USAGE, ends_quietly, report

# command: what it does. Its module has the same name and HELP, EXAMPLES, add_arguments(parser), run(args) -> exit code.
COMMANDS = {
    "snapshot": "read a picture and write it to a file",
    "info": "describe a source's picture without reading it",
    "formats": "list the pixel formats and how this machine reads each",
    "doctor": "say what this machine can do, and what would let it do more",
    "bench": "measure the routes against memcpy",
    "sources": "list where pictures can come from",
}

_DESCRIPTION = """\
Turn any dma-buf into a CPU surface: EGL imports it, glReadPixels reads it, exactly and at the speed of memcpy.

commands:
"""
_EPILOG = """\
examples:
  glreadback snapshot pattern:                      a test picture, to snapshot.png
  glreadback snapshot file:frame.raw?size=640x480&fourcc=NV12 -o frame.png
  glreadback info fd:7?size=1920x1080&fourcc=XR24   7 is a descriptor that this process inherits
  glreadback doctor                                 when something does not work

Each command has its own --help. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out.
Quote a SOURCE with & in it, or your shell takes it apart. GLREADBACK_DEBUG=1 shows where an error came from.
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, like all the others."""

    def error(self, message: str) -> NoReturn:
        report(f"{message}. See {self.prog} --help")
        raise SystemExit(USAGE)


class _Versions(argparse.Action):
    """--version: what is to be said is found out, and loaded, when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ._versions import lines

        for line in lines():
            print(line, flush=True)
        parser.exit()


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=min(100, _columns() - 2))


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _top() -> Parser:
    listing = "".join(f"  {name:<10}{what}\n" for name, what in COMMANDS.items())
    parser = Parser(
        prog="glreadback",
        usage="glreadback COMMAND [options]",
        description=_DESCRIPTION + listing,
        epilog=_EPILOG,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Versions, nargs=0, help="glreadback's, PyOpenGL's and Mesa's versions")
    return parser


def parser_of(command: str) -> Parser:
    """The parser of one command; its module is loaded now."""
    module = import_module(f".{command}", __name__)
    parser = Parser(
        prog=f"glreadback {command}",
        description=module.HELP,
        epilog=module.EXAMPLES,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of what stands before the command, and those of all commands: shell completion and the manual page are
    made of them when the wheel is built, where nothing that glreadback needs is installed."""
    return _top(), {command: parser_of(command) for command in COMMANDS}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    if not arguments or arguments[0] not in COMMANDS:
        parser = _top()
        parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
        parser.parse_known_args(arguments)  # --help and --version end here
        parser.error(_why_no_command(arguments))
    return parser_of(arguments[0]).parse_args(arguments[1:])


def _why_no_command(arguments: Sequence[str]) -> str:
    if not arguments:
        return "no command was given"
    first = arguments[0]
    if first.startswith("-"):
        return f"there is no option {first!r} before the command"
    return f"there is no command {first!r}{choices(first, COMMANDS)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: this process's own); the exit code. What a user can do wrong is one message on stderr."""
    if arguments is not None:
        return _run(arguments)
    # Looking for garbage while modules load, and all through them at exit, would take a tenth of a snapshot's time.
    gc.set_threshold(50_000)
    code = _run(sys.argv[1:])
    gc.freeze()
    return code


def _run(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes, and a message characters, that the terminal's encoding has not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with ends_quietly() as ending:
        args = _parse(arguments)
        ending.code = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is to be noticed here, not at exit
    return ending.code
