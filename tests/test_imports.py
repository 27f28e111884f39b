"""What is loaded when, and who may import whom: start-up time is part of a snapshot's time, and the layers are the design."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "glreadback"

# ---- what is loaded

# Each costs a run 5 to 90 ms, and no small task needs it.
HEAVY = {"numpy", "PIL", "asyncio", "email", "http", "unittest", "typing_extensions", "importlib.metadata", "json", "jeepney"}
# PyOpenGL loads logging, subprocess and tempfile by itself, so only what does without GL can do without them.
HEAVY_WITHOUT_GL = HEAVY | {"OpenGL", "ctypes", "logging", "subprocess", "tempfile", "dataclasses", "inspect"}

CASES = {
    "import": ("import glreadback", HEAVY_WITHOUT_GL | {"argparse", "importlib.util"}, {"glreadback"}),
    "help": (
        "from glreadback.cli import main; main(['--help'])",
        HEAVY_WITHOUT_GL,
        {"glreadback", "glreadback.cli", "glreadback.cli._exit", "glreadback.errors", "glreadback.words"},
    ),
    "ppm": (
        "from glreadback.cli import main; main(['snapshot', 'pattern:', '--device', 'software', '-o', OUT + '.ppm'])",
        HEAVY,
        None,
    ),
    "raw": (
        "from glreadback.cli import main; main(['snapshot', 'pattern:', '--device', 'software', '-o', OUT + '.raw'])",
        HEAVY,
        None,
    ),
    "map": (
        "from glreadback.cli import main; main(['snapshot', 'pattern:', '--route', 'map', '-o', OUT + '.npy'])",
        HEAVY | {"OpenGL", "logging", "subprocess"},
        None,
    ),
}
# What a PPM snapshot by the alias route has no use for, of our own.
UNUSED = {
    *("bench", "send", "pending", "wire", "gl.draw", "gl.program", "gl.peer", "sources.file", "sources.fd", "sources._encode"),
    *("sources.unix", "sources.pid", "sinks._pillow", "sinks.png", "cli.info", "cli.formats", "cli.doctor", "cli._verify"),
    *("cli._changes",),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded(case: str, tmp_path: Path) -> None:
    code, unwanted, ours = CASES[case]
    probe = (
        f"import sys; OUT = {str(tmp_path / 'shot')!r}\n"
        f"try:\n    {code}\nexcept SystemExit:\n    pass\n"
        "names = sorted(sys.modules)\nimport json\nprint('\\n' + json.dumps(names))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=_bare_environment())
    loaded = set(json.loads(done.stdout.splitlines()[-1])) - _bare()
    assert sorted(loaded & unwanted) == []
    own = {name for name in loaded if name.partition(".")[0] == "glreadback"}
    if ours is not None:
        assert own == ours
    if case == "ppm":
        assert sorted(own & {f"glreadback.{name}" for name in UNUSED}) == []


def _bare_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}


def _bare() -> set[str]:
    """What an interpreter has loaded before any line of ours (an editable install may load things of its own)."""
    probe = "import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=_bare_environment())
    return set(done.stdout.split())


# ---- who may import whom

# Modules live in rooms; a folder is a room.
ROOMS = {
    "vocabulary": {"errors", "words", "fds", "fourcc", "modifier", "color", "_drm_fourcc"},
    "values": {"dmabuf", "frame", "surface", "pixels", "damage", "scene"},
    "plan": {"plan"},
    "cpu": {"sync", "mapped", "pending", "yuvcpu"},  # what a read does without GL
    "importer": {"importer"},
    "reader": {"reader", "copying", "isolate", "helper"},
    "composing": {"compose"},
    "sending": {"send"},
    "tools": {"bench", "bench_frames", "testing", "_testing_compare", "_testing_devices", "_testing_files", "__main__"},
}
FOLDERS = {"kernel", "wire", "egl", "gl", "sources", "sinks", "cli"}

# The arrows of design.md: a room may import from itself and from these.
ARROWS: dict[str, set[str]] = {
    "vocabulary": set(),
    "kernel": set(),
    "values": {"vocabulary", "kernel"},
    "wire": {"vocabulary", "values"},
    "plan": {"vocabulary", "values"},
    "cpu": {"vocabulary", "kernel", "values"},
    "composing": {"vocabulary", "values"},
    "egl": {"vocabulary", "kernel", "values"},
    "gl": {"vocabulary", "values", "plan", "egl"},
    "importer": {"vocabulary", "values", "plan", "egl", "gl"},
    "reader": {"vocabulary", "kernel", "values", "wire", "plan", "cpu", "egl", "gl", "importer"},
    "sending": {"vocabulary", "values", "wire"},
    # Two sources read for themselves: a screen made of several planes, and a guest that must not wait for our caller.
    "sources": {"vocabulary", "kernel", "values", "wire", "plan", "reader", "composing"},
    "sinks": {"vocabulary", "values"},
}
ARROWS["cli"] = ARROWS["tools"] = {*ROOMS, *FOLDERS}
# Against the current: conveniences of a value that are loaded when they are called.
EXCEPTIONS = {("surface", "sinks"), ("copying", "gl.draw"), ("plan", "yuvcpu")}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name within the package ("" for the package itself), and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


NAMES = {name for name, _ in modules()}


def room_of(module: str) -> str:
    head = module.partition(".")[0]
    found = [room for room, members in ROOMS.items() if head in members] or [head] * (head in FOLDERS)
    assert found, f"{module} has no room yet: put it into ROOMS"
    return found[0]


def imports(name: str, path: Path) -> Iterator[str]:
    """What a module imports when it runs, in functions too: own modules as ".name", others by their full name."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue  # for type checkers alone
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                yield child.module or ""
            elif isinstance(child, ast.ImportFrom):
                base = [*package[: len(package) - child.level + 1], *filter(None, [child.module])]
                for alias in child.names:
                    whole = ".".join([*base, alias.name])
                    yield "." + (whole if whole in NAMES else ".".join(base))
            yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


@pytest.mark.parametrize(("name", "path"), [case for case in modules() if case[0]], ids=lambda value: str(value))
def test_arrows(name: str, path: Path) -> None:
    room = room_of(name)
    for target in imports(name, path):
        own, target = target.startswith("."), target.removeprefix(".")
        assert own or target.partition(".")[0] != "glreadback", f"{name} imports {target}: relative imports here"
        if not own or not target or (name, target) in EXCEPTIONS:
            continue
        assert room_of(target) in {room, *ARROWS[room]}, f"{name} ({room}) must not import {target} ({room_of(target)})"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value))
def test_only_egl_and_gl_import_opengl(name: str, path: Path) -> None:
    found = [target for target in imports(name, path) if target.partition(".")[0] == "OpenGL"]
    assert not found or room_of(name) in ("egl", "gl"), f"{name} imports {found}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value))
def test_only_sources_and_sinks_import_what_is_theirs(name: str, path: Path) -> None:
    found = [
        target
        for target in imports(name, path)
        if target.partition(".")[0] in ("jeepney", "imagecodecs", "av", "pywayland", "blessed")
    ]
    # bench measures PyAV's swscale beside us; goldens of deep formats are 16-bit PNG.
    assert not found or name in ("bench", "_testing_files") or room_of(name) in ("sources", "sinks", "wire"), (
        f"{name} imports {found}"
    )


def test_every_room_is_real() -> None:
    heads = {name.partition(".")[0] for name in NAMES}
    assert heads >= FOLDERS
    assert {member for members in ROOMS.values() for member in members} - heads <= {"testing"}
