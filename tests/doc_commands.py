"""The commands and the Python on README.md, CONTRIBUTING.md and docs/, and what each needs to be run.

test_docs.py runs them here, kernel/test_docs_kernel.py those that need a kernel's drivers. A command that nothing is said
of is run as it is, in an empty folder.
"""

from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HOST, VM = "test_docs.py", "kernel/test_docs_kernel.py"


class Need(NamedTuple):
    """What a command or a piece of Python that matches `words` needs: by whom it is run, and what that one gives it."""

    words: str
    where: str
    given: str


# What the pages name stands for what the test brings; Python's unknown names are things given by their own name.
NEEDS = (
    Need(r"\bkms:", VM, "screen"),
    Need(r"\bvfio:", VM, "vgpu"),
    Need(r"\bqemu:", HOST, "guest"),
    Need(r"\bpid:", HOST, "process"),
    Need(r"\bunix:", HOST, "producer"),
    Need(r"/dev/shm/", HOST, "shared_memory"),
    Need(r"Reader\.current\(", HOST, "context"),
    Need(r"export_texture\(", VM, "texture"),
    Need(r"bench.* --frames", HOST, "small_frames"),
    Need(r"^pytest\b", HOST, "pixel_test"),
    Need(r"^pytest\b", HOST, "test_files"),
    Need(r"^make (demo|docs)$|\.venv/|pip install \.|tools/", HOST, "checkout"),
    # What CI is itself, or takes as long: make says what it would do, so the target is there.
    Need(r"^make (check|test|test-vm|bench)\b", HOST, "dry_checkout"),
)
# Python's names that a block uses and does not make.
NAMES = {
    "glreadback": (HOST, "library"),
    "fd": (HOST, "buffer"),
    "buf": (HOST, "buffer"),
    "frame": (HOST, "buffer"),
    "reader": (HOST, "a_reader"),
    "sock": (HOST, "reader_at_a_socket"),
    "texture": (VM, "texture"),
}
SHOWN = {"text", "yaml", "toml", "json", "c"}  # languages that are only looked at


class Block(NamedTuple):
    """Code on a page: line is its first one's number."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[str]:
        """Each command of a block of shell, in one line."""
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()

    def pieces(self) -> Sequence[str]:
        """What is run at once: a command, or all of the Python."""
        return list(self.commands()) if self.language == "sh" else [self.text]


_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        code = "\n".join(line.removeprefix(found[1]) for line in found[3].splitlines())
        yield Block(page.relative_to(ROOT).as_posix(), text.count("\n", 0, found.start()) + 2, found[2], code)


def blocks(language: str) -> list[Block]:
    """Every block in that language, of all pages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def free_names(code: str) -> set[str]:
    """The names that a piece of Python uses and does not make."""
    used: dict[bool, set[str]] = {True: set(), False: set()}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            used[isinstance(node.ctx, ast.Load)].add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            used[False] |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            used[False].add(node.name)
        elif isinstance(node, ast.arg):
            used[False].add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            used[False].add(node.name)
    return used[True] - used[False] - set(dir(builtins))


def needs(piece: str, language: str) -> list[tuple[str, str]]:
    """(where, what is given) of all that a piece needs. Raises KeyError for a name of Python's that nobody gives."""
    found = [(need.where, need.given) for need in NEEDS if re.search(need.words, piece)]
    if language == "python":
        found += [NAMES[name] for name in sorted(free_names(piece))]
    return list(dict.fromkeys(found))


def where(piece: str, language: str) -> str:
    """Who runs a piece: VM where anything of it needs that."""
    return VM if any(place == VM for place, _ in needs(piece, language)) else HOST


# ---- where they are run


@dataclass
class Place:
    """A folder, the page that is followed in it, and what its needs have put there: text for what it says, names for Python."""

    folder: Path
    stack: ExitStack
    page: str = ""
    replaced: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    def supply(self, piece: str, language: str, givers: Mapping[str, Callable[[Place], None]]) -> str:
        """Bring what a piece needs; the piece as it is to be run."""
        for _, given in needs(piece, language):
            if given not in self.given:
                self.given.add(given)
                if given in givers:  # the VM needs nothing of what the host gives besides
                    givers[given](self)
        for said, really in self.replaced.items():
            piece = piece.replace(said, really)
        return piece


def run_command(command: str, place: Place) -> str:
    """What is wrong with how a command ends; "" if nothing is."""
    paths = place.environment.get("PATH"), str(Path(sys.executable).parent), os.environ["PATH"]
    environment = os.environ | {"GLREADBACK_DEVICE": "software"} | place.environment
    environment["PATH"] = os.pathsep.join(filter(None, paths))
    words, text = ["bash", "-c", command], {"text": True, "errors": "replace"}
    done = subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, timeout=120, **text)
    return f"$ {command}\n{done.stderr[-2000:]}{done.stdout[-500:]}(exit {done.returncode})" if done.returncode else ""


_HOME = re.compile(r"# glreadback/(\w+)/(\w+)\.py\n")


def run_python(block: Block, code: str, place: Place) -> dict[str, Any]:
    """Run a block; its names. One that says which module it is becomes that module. Tracebacks name the page."""
    module = types.ModuleType("__main__")
    if home := _HOME.match(code):
        module = types.ModuleType(f"glreadback.{home[1]}.{home[2]}")
        module.__package__ = f"glreadback.{home[1]}"
        sys.modules[module.__name__] = module
        place.stack.callback(sys.modules.pop, module.__name__)
    vars(module).update(place.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile("\n" * (block.line - 1) + code, block.page, "exec", dont_inherit=True), vars(module))
    return vars(module)


# Of the checkout, what installing it, its tools and its site take.
_TREE = (
    *("Makefile", "README.md", "LICENSE", "pyproject.toml", "mkdocs.yml", ".gitignore"),
    *("glreadback", "shaders", "tools", "docs"),
)


def copy_checkout(folder: Path) -> None:
    """A copy of this checkout whose virtual environment is the one that runs this; nothing is installed into it."""
    for name in _TREE:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    environment = folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".runtime", ".dev"):
        (environment / stamp).touch()
