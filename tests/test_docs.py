"""README.md, CONTRIBUTING.md and docs/: every command and all Python on them is run, and the site is built of them."""

from __future__ import annotations

import builtins
import html
import importlib
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import markdown
import producing
import pytest
from doc_commands import (
    HOST,
    NAMES,
    NEEDS,
    PAGES,
    ROOT,
    SHOWN,
    VM,
    Block,
    Place,
    blocks,
    blocks_of,
    copy_checkout,
    run_command,
    run_python,
    where,
)
from templates import check_sink, check_source, use_source

import glreadback
from glreadback import bench_frames, sinks, sources
from glreadback.cli import parsers

# ---- what commands and Python are given


# What a page says, and who stands in for it.
_PRODUCERS = {
    "guest": ("/run/vm/qmp.sock", producing.guest),
    "process": ("4711/23", producing.process),
    "producer": ("/run/me/frames", producing.sender),
}


def _give(said: str, producer: Callable[[], AbstractContextManager[str]], place: Place) -> None:
    place.replaced[said] = place.stack.enter_context(producer())


def give_shared_memory(place: Place) -> None:
    """A name of our own in /dev/shm, gone afterwards."""
    path = Path(f"/dev/shm/glreadback-{os.getpid()}")
    place.replaced["/dev/shm/frame"] = os.fspath(path)
    place.stack.callback(path.unlink, missing_ok=True)


_SMALL = """#!{python}
import functools, sys
from glreadback import bench_frames
from glreadback.cli import main
bench_frames.SMALL, bench_frames.LARGE, bench_frames.GROWTH = (64, 48), (1100, 1100), ((64, 48), (96, 64))
bench_frames._NAMES = {{(64, 48): "1080p", (1100, 1100): "2160p"}}
bench_frames.measure_frames = functools.partial(bench_frames.measure_frames, seconds=0, frames=150)
sys.exit(main())
"""


def give_test_files(place: Place) -> None:
    """The page's own tests, the blocks that begin with "# test_….py"."""
    for block in blocks_of(ROOT / place.page):
        if name := re.match(r"# (test_\w+\.py)\n", block.text):
            (place.folder / name[1]).write_text(block.text)
    (place.folder / "pytest.ini").write_text("[pytest]\n")  # so that this folder is where goldens and artefacts go


def give_small_frames(place: Place) -> None:
    """A glreadback whose bench --frames takes seconds."""
    program = place.folder / "bin" / "glreadback"
    program.parent.mkdir()
    program.write_text(_SMALL.format(python=sys.executable))
    program.chmod(0o755)
    place.environment["PATH"] = os.fspath(program.parent)


def give_pixel_test(place: Place) -> None:
    """The test that docs/testing.md shows."""
    (block,) = [block for block in blocks("python") if block.text.startswith("# test_screen.py\n")]
    (place.folder / "test_screen.py").write_text(block.text)


def give_checkout(place: Place) -> None:
    """A copy of the checkout, in which pip installs to a folder, of what is there."""
    if not (place.folder / "Makefile").exists():
        copy_checkout(place.folder)
    target = os.fspath(place.folder / "installed")
    place.environment |= {"PIP_TARGET": target, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}


def give_dry_checkout(place: Place) -> None:
    """A copy of the checkout in which make only says what it would do."""
    if not (place.folder / "Makefile").exists():
        copy_checkout(place.folder)
    place.environment["MAKEFLAGS"] = "n"


def give_library(place: Place) -> None:
    place.names["glreadback"] = glreadback


def give_buffer(place: Place) -> None:
    """A picture of 1920x1080 XR24."""
    source = place.stack.enter_context(glreadback.open_source("pattern:noise"))
    frame = next(source.frames())
    place.names |= {"frame": frame, "buf": frame.buffer, "fd": frame.buffer.planes[0].fd}


def give_a_reader(place: Place) -> None:
    place.names["reader"] = place.stack.enter_context(glreadback.Reader("software"))


def give_context(place: Place) -> None:
    """A compositor's own context, current here."""
    from glreadback.egl.context import Context
    from glreadback.egl.device import open_display

    context = Context(open_display("software"))
    place.stack.callback(context.close)
    place.stack.enter_context(context)


def give_reader_at_a_socket(place: Place) -> None:
    """A connected socket, and who reads what comes."""
    folder = place.stack.enter_context(producing.folder())
    source = place.stack.enter_context(glreadback.open_source(f"unix:{folder}/frames?listen=1"))
    place.names["sock"] = sock = place.stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.connect(f"{folder}/frames")

    def read() -> None:
        with glreadback.Reader("software") as reader:
            for frame in source.frames(10.0):
                reader.read(frame)

    thread = threading.Thread(target=read)
    thread.start()
    place.stack.callback(thread.join, 10)
    place.stack.callback(sock.close)


GIVERS: Mapping[str, Callable[[Place], None]] = {
    **{name: partial(_give, *what) for name, what in _PRODUCERS.items()},
    **{name.removeprefix("give_"): value for name, value in globals().items() if name.startswith("give_")},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLREADBACK_DEVICE", "software")
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


# ---- commands and Python


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_the_commands(block: Block, place: Place) -> None:
    """One after the other in the same folder, as somebody who tries them does; those for the VM are run there."""
    place.page = block.page
    ours = [command for command in block.commands() if where(command, "sh") == HOST]
    wrong = [run_command(place.supply(command, "sh", GIVERS), place) for command in ours]
    assert not any(wrong), "\n".join(filter(None, wrong))


HERE = [block for block in blocks("python") if where(block.text, "python") == HOST]


@pytest.mark.parametrize("block", HERE, ids=str)
def test_the_python(block: Block, place: Place) -> None:
    run_python(block, place.supply(block.text, "python", GIVERS), place)


def test_all_that_is_needed_is_given() -> None:
    """By this file, or by the kernel lane's; and nothing is said of commands that are on no page any more."""
    kernel = (ROOT / "tests" / VM).read_text()
    for runner, given in [*((need.where, need.given) for need in NEEDS), *NAMES.values()]:
        assert (given in GIVERS) if runner == HOST else f"def give_{given}(" in kernel, f"{runner} gives no {given}"
    pieces = [piece for language in ("sh", "python") for block in blocks(language) for piece in block.pieces()]
    for need in NEEDS:
        assert any(re.search(need.words, piece) for piece in pieces), f"no page has {need.words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """sh and python are run, others are known not to be; a block that is only indented would be neither."""
    found = list(blocks_of(page))
    for block in found:
        assert block.language in {"sh", "python"} | SHOWN, f"{block}: {block.language or 'no language'}"
    shown = markdown.markdown(page.read_text(), extensions=["fenced_code", "tables"])
    assert shown.count("<pre>") == len(found), "a block is indented; write ```sh, ```python or ```text above it"
    for block in found:
        if block.language == "text":
            assert not re.search(r"^\s*(\$|glreadback|make|pip|python3?) ", block.text, re.MULTILINE), f"{block} is a command"


# ---- what the pages name


# Options of other programs that the pages name.
OTHERS = {"--strict": "mypy"}


def test_every_option_exists() -> None:
    top, commands = parsers()
    helps = [parser.format_help() for parser in (top, *commands.values())]
    pytest_help = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True)
    known = {option for text in (*helps, pytest_help.stdout) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)}
    for script in (*(ROOT / "tools").glob("*.py"), *(ROOT / "fuzz").glob("*.py")):
        known |= set(re.findall(r"""["'](--[a-z-]+)["']""", script.read_text()))
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
        assert named - known - set(OTHERS) == set(), page.name


def test_commands_within_sentences_parse() -> None:
    """Those are not run, as they say SOURCE and PATH; but the command takes such words."""
    _, commands = parsers()
    found = 0
    for page in PAGES:
        for text in re.findall(r"(?<!`)`glreadback ([a-z][^`]*)`(?!`)", page.read_text()):
            command, *words = shlex.split(text)
            assert command in commands, f"{page.name}: {text}"
            if words:
                commands[command].parse_args(words)
            found += 1
    assert found > 10


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= targets, page.name


def test_every_environment_variable_exists() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "glreadback").rglob("*.py"))
    for page in PAGES:
        for name in re.findall(r"GLREADBACK_\w+", page.read_text()):
            assert name in code, f"{page.name}: {name}"


def test_files_that_are_named_exist() -> None:
    paths = re.compile(r"(?<![\w/.-])(?:(?:glreadback|tests|tools|docs|shaders|examples)/[\w./-]*\w(?:\.\w+)?|\.ci/\w+)")
    examples = {f"glreadback/{kind}" for kind in ("sources/grey.py", "sinks/farbfeld.py")}
    for page in PAGES:
        for name in set(paths.findall(page.read_text())) - examples:
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_source_has_its_section() -> None:
    """With its keys, what it needs, what it is tested with, its limits, and a command."""
    sections = dict(
        re.findall(r"^## (\w+):\n(.*?)(?=^## |\Z)", (ROOT / "docs/sources.md").read_text(), re.MULTILINE | re.DOTALL)
    )
    assert set(sections) == set(sources.REGISTRY)
    for scheme, text in sections.items():
        keys = set(sources.source_class(scheme).keys)
        named = {key for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)=`", row)}
        assert named == keys or (scheme == "pid" and "The keys are fd:'s" in text), scheme
        for word in ("**Needs**", "**Tested with**", "**Limits**", "```sh"):
            assert word in text, f"{scheme}: {word}"


def test_every_sink_and_every_extra_is_named() -> None:
    import tomllib

    formats = (ROOT / "docs/formats.md").read_text()
    for name in sinks.REGISTRY:
        assert re.search(rf"^\| [\w, ]*\b{name.replace('jpeg', 'jpg')}\b", formats, re.MULTILINE), name
    start = (ROOT / "docs/start.md").read_text()
    for extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]:
        assert f"| `{extra}` |" in start, extra


def test_contributing_is_one_page() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 60
    for room in sorted(path.name for path in (ROOT / "glreadback").iterdir() if (path / "__init__.py").exists()):
        assert f"{room}/" in text, room
    for path in (ROOT / "glreadback").glob("*.py"):
        assert path.name.startswith("_") or re.search(rf"\b{path.stem}\b", text), path.name


@pytest.mark.slow
def test_the_measured_table_has_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its limit: docs/performance.md is of this version's `bench --frames`. What was measured is any number."""
    growth = [f"{width}x{height}" for width, height in bench_frames.GROWTH]
    small = {
        "SMALL": (64, 48),
        "LARGE": (1100, 1100),
        "GROWTH": ((64, 48),),
        "_NAMES": {(64, 48): "1080p", (1100, 1100): "2160p"},
    }
    for name, value in small.items():
        monkeypatch.setattr(bench_frames, name, value)
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = importlib.import_module("performance_report")

    def promises(text: str) -> list[tuple[str, str, str]]:
        rows = [line.strip("| ").split(" | ") for line in text[: text.index("How the cost")].splitlines() if line[:1] == "|"]
        return [(what, beside.replace(" 150 ", " 10000 "), limit) for what, beside, _, limit in rows[2:]]

    text = (ROOT / "docs/performance.md").read_text()
    shown = text[text.index(tool.BEGIN) : text.index(tool.END)]
    assert promises(shown) == promises(tool.report(bench_frames.measure_frames(seconds=0, frames=150), 0.0)), tool.__doc__
    assert re.findall(r"^\| (\d+x\d+) \|", shown, re.MULTILINE) == growth


# ---- the examples of how to add one


def _example(home: str, place: Place) -> dict[str, Any]:
    (block,) = [block for block in blocks("python") if block.text.startswith(f"# {home}\n")]
    return run_python(block, block.text, place)


def test_the_example_source_is_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _example("glreadback/sources/grey.py", place)["GreySource"]
    monkeypatch.setitem(sources.REGISTRY, "grey", ("grey", "GreySource"))
    check_source("grey")
    use_source("grey:200?size=5x3")
    with kind("200", size=(5, 3)) as source, glreadback.Reader("software") as reader:
        assert reader.read(next(source.frames())).tobytes() == bytes([200]) * 15
    with pytest.raises(glreadback.SourceError, match="grey: '256': it must be a whole number from 0 to 255"):
        glreadback.open_source("grey:256")


def test_the_example_sink_is_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _example("glreadback/sinks/farbfeld.py", place)
    monkeypatch.setitem(sinks.REGISTRY, "ff", ("farbfeld", "FarbfeldSink"))
    check_sink("ff")
    surface = glreadback.Surface.wrap(bytes(range(24)), 3, 2, "AB24")
    surface.save("picture.ff")
    content = Path("picture.ff").read_bytes()
    assert content[:16] == b"farbfeld\0\0\0\3\0\0\0\2"
    assert content[16::2] == content[17::2] == bytes(range(24))


# ---- the site


class Site:
    """The built pages."""

    def __init__(self, folder: Path, said: str) -> None:
        self.folder, self.said = folder, said
        self.pages = {path.name: path.read_text() for path in folder.glob("*.html")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """By `make docs`, of a copy of the checkout. A broken link, or a name that is not there, fails it."""
    folder = tmp_path_factory.mktemp("site")
    copy_checkout(folder)
    done = subprocess.run(["make", "docs"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Site(folder / "build" / "site", done.stdout)


@pytest.mark.slow
def test_make_docs_says_where_the_site_is(site: Site) -> None:
    assert f"{site.folder}/index.html" in site.said
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= set(site.pages)


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Site) -> None:
    """Whatever a browser loads by itself lies in the site; the one outside host is in MkDocs's own link in the footer."""
    for path in site.folder.rglob("*"):
        if path.suffix not in {".html", ".css", ".js"}:
            continue
        text = path.read_text()
        loaded = re.findall(r"""(?:\bsrc=|<link[^>]*\bhref=|\burl\(|@import\s+)["']?((?:https?:)?//[^"')\s>]+)""", text)
        assert loaded == [], path.name
        if path.suffix == ".html":
            hosts = set(re.findall(r"""["'(](?:https?:)?//([\w.-]+\.\w+)""", text))
            assert hosts <= {"www.mkdocs.org"}, path.name


@pytest.mark.slow
def test_every_link_and_picture_is_there(site: Site) -> None:
    for name, text in site.pages.items():
        assert not re.search(r"<strong>\w+</strong>\.py", text), f"{name}: write `__init__.py` as code"
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            path, _, anchor = html.unescape(target).partition("#")
            if path.startswith(("https://www.mkdocs.org", "data:")) or name == "404.html":
                continue
            found = site.folder / (path or name)
            assert found.is_file(), f"{name}: {target}"
            if anchor and found.suffix == ".html":
                assert f'id="{anchor}"' in found.read_text(), f"{name}: {target}"


PUBLIC = [name for name in glreadback.__all__ if name != "__version__"]
# Public by their name alone: what a Reader does to its own.
INTERNAL = {"Pending.take", "Pending.give_up"}


def _members(name: str) -> Iterator[tuple[str, Any]]:
    """A public name and, of a class, what it has itself: methods and properties."""
    value = getattr(glreadback, name)
    yield name, value
    if inspect.isclass(value):
        for member, what in vars(value).items():
            known = inspect.isfunction(what) or isinstance(what, property | classmethod | staticmethod)
            if known and not member.startswith("_") and f"{name}.{member}" not in INTERNAL:
                yield f"{name}.{member}", what


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Site) -> None:
    reference = site.pages["reference.html"]
    for public in PUBLIC:
        for name, what in _members(public):
            assert f'id="glreadback.{name}"' in reference, name
            first = (inspect.getdoc(what) or "").split("\n\n")[0].split()
            assert set(re.findall(r"\w+", " ".join(first))) <= set(re.findall(r"\w+", reference)), name
    assert "glreadback.__version__" in reference
    # Columns are tables, and nothing was taken for one that is none.
    rows = re.findall(r"<td><code>([\w, …]+)</code></td>\s*<td>(.*?)</td>", reference)
    assert ("acquire_fence", "a sync file's descriptor to wait for before reading; it stays the caller's") in [
        (name, html.unescape(means)) for name, means in rows
    ]


@pytest.mark.parametrize("public", PUBLIC)
def test_docstrings_are_there_and_name_errors_that_exist(public: str) -> None:
    homes = [builtins, *(importlib.import_module(f"glreadback.{name}") for name in ("errors", "send", "sources.base", "sinks"))]
    homes.append(importlib.import_module("io"))
    for name, what in _members(public):
        text = inspect.getdoc(what) or ""
        assert text, f"{name} has no docstring"
        for error in re.findall(r"\b([A-Z]\w*(?:Error|Timeout|Rejected|Crashed|UnsupportedOperation))s?\b", text):
            assert any(hasattr(home, error) for home in homes), f"{name}: {error}"


def test_functions_say_what_they_raise() -> None:
    """Those that take something of the caller's, whether they raise it themselves or by what they call."""
    for public in PUBLIC:
        for name, what in _members(public):
            function = getattr(what, "__func__", what)
            if not inspect.isfunction(function) or len(inspect.signature(function).parameters) < 2:
                continue
            text = inspect.getdoc(what) or ""
            assert re.search(r"[Rr]aise[sd]|[Ee]rrors as|Error\b", text), f"{name} does not say what it raises"
