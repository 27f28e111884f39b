"""`glreadback sources`: where pictures can come from, the keys of each, and what there is to read right now."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import GlReadbackError
from ..sources import REGISTRY, Spec, parse_spec, source_class
from ..words import choices
from . import _arguments
from ._exit import DONE, FAILED, code_of, report
from ._terminal import WIDTH, paint, table

HELP = """\
List the schemes of SOURCE, scheme:path?key=value&…, what each takes, and what this machine has to read right now: cards
with connectors and modes, mediated devices, and the consoles of each running QEMU that is named. Asking a QEMU that runs
with p2p=yes ends the connection of another client of its display.
"""
EXAMPLES = """\
examples:
  glreadback sources
  glreadback sources file                   one of them, with what it does
  glreadback sources qemu:/run/vm/qmp.sock qemu:dbus    what is here, and what these guests show
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = f"one of {', '.join(REGISTRY)}; or a running QEMU, qemu:SOCKET or qemu:dbus:ADDRESS"
    parser.add_argument("what", metavar="SCHEME|qemu:…", nargs="*", type=_what, help=what)
    _arguments.json(parser, "print one JSON object instead of words")


def run(args: argparse.Namespace) -> int:
    schemes = [what for what in args.what if what in REGISTRY]
    given = [parse_spec(what) for what in args.what if what not in REGISTRY]
    found = {scheme: _describe(scheme) for scheme in schemes or ([] if given else REGISTRY)}
    here = _here(schemes or list(REGISTRY))
    asked, code = _ask(given)
    here += asked
    if args.json:
        import json

        print(json.dumps({**found, "here": here}))
        return code
    for number, (scheme, facts) in enumerate(found.items()):
        print(("\n" if number else "") + paint(f"{scheme}:", "bold") + f"  {facts['path']}")
        print("\n".join(table(_rows(facts["keys"]), wrap=True)))
        if schemes:
            print(f"\n{facts['about']}")
    print(("\n" if found else "") + paint("On this machine right now", "bold"))
    print("\n".join(f"  {line}" for thing in here for line in _lines(thing)) or "  no screens and no mediated devices")
    return code


def _what(text: str) -> str:
    """A scheme's name, or a qemu: SOURCE."""
    if text in REGISTRY:
        return text
    spec = parse_spec(text) if ":" in text else None
    if spec is None:
        raise argparse.ArgumentTypeError(f"there is no scheme {text!r}{choices(text, REGISTRY)}")
    if spec.scheme != "qemu" or not spec.path:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no running QEMU; give qemu:SOCKET or qemu:dbus. Of others, `glreadback info` says more"
        )
    if spec.options:
        raise argparse.ArgumentTypeError(f"{text!r}: all consoles are listed; leave out what follows the ?")
    return text


def _here(schemes: list[str]) -> list[dict[str, Any]]:
    """What there is to open now, as each source that can say so lists it; no rights are needed."""
    found: list[dict[str, Any]] = []
    for scheme in schemes:
        home = sys.modules[source_class(scheme).__module__]
        found += getattr(home, "list_here", list)()
    return found


def _ask(given: list[Spec]) -> tuple[list[dict[str, Any]], int]:
    """What each of these has, and an exit code. One that does not answer is a message, and does not stop the others."""
    found: list[dict[str, Any]] = []
    failed = []
    for spec in given:
        name = f"{spec.scheme}:{spec.path}"
        try:
            found.append(sys.modules[source_class(spec.scheme).__module__].list_given(spec.path))
        except GlReadbackError as error:
            found.append({"source": name, "error": str(error)})
            failed.append(code_of(error) or FAILED)
            report(f"{name}: {str(error).removeprefix(spec.scheme + ': ')}")
    return found, min(failed, default=DONE)


def _lines(thing: dict[str, Any]) -> Iterator[str]:
    """A line for each thing, and for each connector of a card or console of a guest."""
    if "error" in thing:
        return  # which is said on stderr
    facts = [str(value) for key, value in thing.items() if key != "source" and value and not isinstance(value, list)]
    yield "  ".join([thing["source"], *facts])
    for connector in thing.get("connectors", ()):
        state = "lit" if connector["lit"] else "connected" if connector["connected"] else "not connected"
        yield from _wrapped(f"  {connector['source']}  {state}", connector["modes"])
    for console in thing.get("consoles", ()):
        shows = console["shows"]
        words = "{size} {fourcc}, given as {given as}".format(**shows) if isinstance(shows, dict) else f"shows {shows}"
        yield f"  {console['source']}  {console['label'] or console['type']}  {words}"


def _wrapped(head: str, words: list[str]) -> Iterator[str]:
    """A line with words after it, as many as have room, the rest below each other."""
    import textwrap

    indent = " " * (len(head) + 2)
    lines = textwrap.wrap(" ".join(words), WIDTH - len(indent) - 2)
    yield f"{head}  {lines[0]}" if lines else head
    yield from (indent + line for line in lines[1:])


def _describe(scheme: str) -> dict[str, Any]:
    kind = source_class(scheme)
    return {
        "path": kind.path_help,
        "keys": {name: {"help": key.help, "example": key.example, "required": key.required} for name, key in kind.keys.items()},
        "about": inspect.getdoc(kind) or "",
    }


def _rows(keys: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """One row a key; keys of further planes that say the same share it."""
    rows: dict[str, tuple[list[str], str]] = {}
    for name, key in keys.items():
        names, _ = rows.setdefault(name.rstrip("123"), ([], key["help"]))
        names.append(f"{name}=")
    needed = {name for name, key in keys.items() if key["required"]}
    return [("  " + " ".join(names), "needed" if stem in needed else "", text) for stem, (names, text) in rows.items()]
