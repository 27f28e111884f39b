"""Shell completion of the command, from its own parsers: run when the wheel is built (tools/hatch_build.py).

    python tools/gen_completion.py bash|zsh|fish

shtab knows the parsers and the shells; tools/completion/ has what it cannot know: that SOURCE, -o and --device take more
than files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import shtab

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent))

from glreadback import cli  # noqa: E402
from glreadback.cli._arguments import TERM  # noqa: E402
from glreadback.fourcc import Fourcc  # noqa: E402
from glreadback.sinks import SCREENS  # noqa: E402
from glreadback.sources import REGISTRY, patterns  # noqa: E402

# shell: the file's place below the installation's prefix, where that shell looks for it
PLACES = {
    "bash": "share/bash-completion/completions/glreadback",
    "zsh": "share/zsh/site-functions/_glreadback",
    "fish": "share/fish/vendor_completions.d/glreadback.fish",
}

_PATH_SCHEMES = ("file", "unix", "qemu")  # those whose path is one of the file system
_SOURCES = (*(f"{scheme}:" for scheme in REGISTRY), *(f"pattern:{name}" for name in patterns.NAMES))
_SCREENS = (TERM, *(TERM + how for how in SCREENS))
_WORDS = {"@SOURCES@": " ".join(_SOURCES), "@SCREENS@": " ".join(_SCREENS), "@PATHS@": "|".join(_PATH_SCHEMES)}


def _function(name: str) -> dict[str, str]:
    return {"bash": f"_glreadback_{name}", "zsh": f"_glreadback_{name}", "fish": f"(__glreadback_{name})"}


# metavar: the shells' own ways to complete it
_COMPLETED: dict[str, Any] = {
    "SOURCE": _function("source"),
    "FILE": shtab.FILE,
    "D": _function("device"),
}


def whole() -> argparse.ArgumentParser:
    """One parser with every command as a subparser, which says how each value is completed."""
    top, commands = cli.parsers()
    below = top.add_subparsers(metavar="COMMAND")
    for name, parser in commands.items():
        below.add_parser(name, help=cli.COMMANDS[name], description=cli.COMMANDS[name], parents=[parser], add_help=False)
        for action in parser._actions:
            if action.metavar == "C":
                action.choices = [str(fourcc) for fourcc in Fourcc.all()]
            elif str(action.metavar).startswith("SCHEME"):
                action.choices = [*REGISTRY]
            elif "--output" in action.option_strings:
                action.complete = _function("output")  # type: ignore[attr-defined]
            elif action.metavar in _COMPLETED:
                action.complete = _COMPLETED[action.metavar]  # type: ignore[attr-defined]
    return top


def script(shell: str) -> str:
    """The completion of one shell of PLACES, as the text of its file."""
    preamble = _filled(shell)
    text = shtab.complete(whole(), shell, preamble=preamble)
    if shell == "bash":
        # Ours in place of shtab's registration, which comes last.
        text = text[: text.rindex("\ncomplete ")] + "\n" + _filled("bash.end")
    return text.rstrip("\n") + "\n"


def _filled(name: str) -> str:
    text = (TOOLS / "completion" / name).read_text()
    for mark, words in _WORDS.items():
        text = text.replace(mark, words)
    return text


if __name__ == "__main__":
    print(script(sys.argv[1]), end="")
