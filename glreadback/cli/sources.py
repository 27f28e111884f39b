"""`glreadback sources`: where pictures can come from, and the keys of each."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from ..sources import REGISTRY, source_class
from . import _arguments
from ._exit import DONE
from ._terminal import paint, table

HELP = "List the schemes of SOURCE, scheme:path?key=value&…, what each takes, and what this machine has to read."
EXAMPLES = """\
examples:
  glreadback sources
  glreadback sources file         one of them, with what it does
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scheme", metavar="SCHEME", nargs="?", choices=[*REGISTRY], help=f"one of {', '.join(REGISTRY)}")
    _arguments.json(parser, "print one JSON object instead of words")


def run(args: argparse.Namespace) -> int:
    found = {scheme: _describe(scheme) for scheme in ([args.scheme] if args.scheme else REGISTRY)}
    here = _here([args.scheme] if args.scheme else list(REGISTRY))
    if args.json:
        import json

        print(json.dumps({**found, "here": here}))
        return DONE
    for number, (scheme, facts) in enumerate(found.items()):
        print(("\n" if number else "") + paint(f"{scheme}:", "bold") + f"  {facts['path']}")
        print("\n".join(table(_rows(facts["keys"]), wrap=True)))
        if args.scheme:
            print(f"\n{facts['about']}")
    print("\n" + paint("On this machine right now", "bold"))
    print("\n".join(f"  {line}" for line in _lines(here)) or "  no screens and no mediated devices")
    return DONE


def _here(schemes: list[str]) -> list[dict[str, Any]]:
    """What there is to open now, as each source that can say so lists it; no rights are needed."""
    found: list[dict[str, Any]] = []
    for scheme in schemes:
        home = sys.modules[source_class(scheme).__module__]
        found += getattr(home, "list_here", list)()
    return found


def _lines(here: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each thing, and for each connector of a card."""
    for thing in here:
        facts = [str(value) for key, value in thing.items() if key not in ("source", "connectors") and value]
        yield "  ".join([thing["source"], *facts])
        for connector in thing.get("connectors", ()):
            modes = connector.get("modes") or []
            state = "lit" if connector.get("lit") else "connected" if connector.get("connected") else "not connected"
            yield f"  {connector['source']}  {state}" + (f"  {modes[0]}, {len(modes)} modes" if modes else "")


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
