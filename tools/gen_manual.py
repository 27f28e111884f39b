"""The manual page glreadback(1), from the command's own parsers: run when the wheel is built (tools/hatch_build.py).

python tools/gen_manual.py | man -l -
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from glreadback import __doc__ as about
from glreadback import __version__, cli
from glreadback.cli import _exit
from glreadback.sources import REGISTRY, source_class

PLACE = "share/man/man1/glreadback.1"  # below the installation's prefix

_EXITS = {
    _exit.DONE: "Done.",
    _exit.FAILED: "It failed; standard error says why, in one message.",
    _exit.USAGE: "Wrong usage.",
    _exit.TIMED_OUT: "Nothing came, or the producer did not finish drawing, within --timeout.",
}
ENVIRONMENT = {
    "GLREADBACK_DEVICE": "Where GL runs if --device does not say: software, or a render node such as /dev/dri/renderD128.",
    "GLREADBACK_DEBUG": "Anything but 0: errors come with where they came from.",
    "NO_COLOR": "Anything: no colours on the terminal.",
}


def page() -> str:
    """The page in man(7)'s macros, plain ASCII."""
    top, commands = cli.parsers()
    return "\n".join(_lines(top, commands)) + "\n"


def _lines(top: argparse.ArgumentParser, commands: dict[str, cli.Parser]) -> Iterator[str]:
    name, _, rest = (about or "").partition(": ")
    yield f'.TH GLREADBACK 1 "{_date()}" "glreadback {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{name} \\- {_text(rest.partition('.')[0])}"
    yield ".SH SYNOPSIS"
    for command, parser in commands.items():
        yield from (_synopsis(command, parser), ".br")
    yield ".B glreadback \\-\\-version"
    yield ".SH DESCRIPTION"
    yield _text((top.description or "").partition("\n")[0])
    yield ".PP"
    yield f"A {_italic('SOURCE')} is {_italic('scheme:path?key=value&...')}; SOURCES below has the schemes."
    yield "Quote one with & in it, or the shell takes it apart."
    yield ".SH OPTIONS"
    for action in top._actions:
        yield from _option(action)
    yield ".SH COMMANDS"
    for command, parser in commands.items():
        yield f".SS glreadback {command}"
        yield from (_synopsis(command, parser), ".PP", _text(parser.description or ""))
        for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
            yield from _option(action)
    yield ".SH SOURCES"
    for scheme in REGISTRY:
        yield from (".TP", f"{_bold(scheme + ':')} {_text(source_class(scheme).path_help)}", *_keys(scheme))
    yield ".SH EXIT STATUS"
    for code, means in _EXITS.items():
        yield from (".TP", _bold(str(code)), _text(means))
    yield ".SH ENVIRONMENT"
    for variable, means in ENVIRONMENT.items():
        yield from (".TP", _bold(variable), _text(means))
    yield ".SH EXAMPLES"
    yield ".nf"
    for command in commands:
        examples = import_module(f"glreadback.cli.{command}").EXAMPLES.partition("\n")[2]
        yield from map(_line, textwrap.dedent(examples).splitlines())
    yield ".fi"


def _synopsis(command: str, parser: argparse.ArgumentParser) -> str:
    options = any(action.option_strings and action.dest != "help" for action in parser._actions)
    values = [
        f"[{_italic(str(action.metavar))}]" if action.nargs in ("?", "*") else _italic(str(action.metavar))
        for action in parser._actions
        if not action.option_strings
    ]
    return " ".join([_bold(f"glreadback {command}"), *(["[options]"] if options else []), *values])


def _option(action: argparse.Action) -> Iterator[str]:
    """One option or argument: its names with their value, and what it does."""
    value = ""
    if action.nargs != 0:
        value = action.metavar if isinstance(action.metavar, str) else "{" + ",".join(map(str, action.choices or ())) + "}"
    names = ", ".join(map(_bold, action.option_strings))
    yield ".TP"
    yield f"{names} {_italic(value) if value else ''}".strip()
    yield _text((action.help or "") % {})


def _keys(scheme: str) -> Iterator[str]:
    """A line for each key; those of further planes that say the same share it."""
    lines: dict[str, list[str]] = {}
    for name, key in source_class(scheme).keys.items():
        needed = " (needed)" if key.required else ""
        lines.setdefault(f"{_text(key.help)}{needed}", []).append(_bold(f"{name}="))
    for index, (what, names) in enumerate(lines.items()):
        yield from ([".br"] if index else [])
        yield f"{', '.join(names)} {what}"


def _date() -> str:
    """The day of the build, or that of SOURCE_DATE_EPOCH where builds are to be the same every time."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return now.date().isoformat()


def _bold(text: str) -> str:
    return rf"\fB{_escaped(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{_escaped(text)}\fR"


def _text(text: str) -> str:
    """Words to be filled, a sentence a line as roff likes it."""
    return _line(" ".join(text.split())).replace(". ", ".\n").replace("\n.", "\n\\&.")


def _line(text: str) -> str:
    found = _escaped(text)
    return "\\&" + found if found.startswith((".", "'")) else found


def _escaped(text: str) -> str:
    """Text as roff takes it literally: no hyphen that a copied command would trip over, nothing beyond ASCII."""
    text = (
        text.replace("…", "...")
        .replace("\\", r"\e")
        .replace("-", r"\-")
        .replace("'", r"\(aq")
        .replace("`", r"\(ga")
        .replace("^", r"\(ha")
    )
    return "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text.replace("~", r"\(ti"))


if __name__ == "__main__":
    print(page(), end="")
