"""Takes each check away, one at a time in a copy of the tree, and runs the tests that should miss it.

    python tools/mutate_checks.py [--only WORDS] [--write]

A check is an `if` that raises one of our errors (it is made never to hold), an `except` that makes one of another error (the
other one is let through), or one of the lines below. --write puts the result into docs/robustness.md. By hand, not in CI:
it takes half an hour; less where that document says already which test to try first.
"""

from __future__ import annotations

import argparse
import ast
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "robustness.md"
HEADING = "## Every check has a test\n"
SECONDS, FEW = 300, 60  # for whole files, on a busy machine, and for a few tests: a mutant may hang
_TIME_OVER, _NO_SUCH_TEST, _NOTHING_RUN = 124, 4, 5  # the last two are pytest's

# Whose checks, and the tests that should miss them, the quickest first.
TESTS: dict[str, tuple[str, ...]] = {
    "glreadback/dmabuf.py": ("test_dmabuf.py", "test_hostile.py"),
    "glreadback/frame.py": ("test_frame.py", "test_reader.py"),
    "glreadback/damage.py": ("test_damage.py",),
    "glreadback/sync.py": ("test_hostile.py", "test_isolate.py", "test_reader.py", "test_submit.py"),
    "glreadback/mapped.py": ("test_hostile.py", "test_map.py", "test_reader.py"),
    "glreadback/copying.py": ("test_cache.py", "test_hostile.py", "test_misbehaviour.py", "test_reader.py"),
    "glreadback/importer.py": ("test_reader.py", "test_hostile.py", "test_device.py", "test_misbehaviour.py"),
    "glreadback/reader.py": (
        *("test_reader.py", "test_hostile.py", "test_map.py", "test_submit.py", "test_misbehaviour.py", "test_isolate.py"),
    ),
    "glreadback/surface.py": ("test_surface.py", "test_reader.py", "test_hostile.py"),
    "glreadback/isolate.py": ("test_isolate.py",),
    "glreadback/helper.py": ("test_isolate.py",),
    "glreadback/wire/frames.py": ("test_unix.py", "test_isolate.py"),
    "glreadback/wire/dbus.py": ("test_qemu.py", "test_fuzz.py"),
    "glreadback/wire/display.py": ("test_qemu.py", "test_fuzz.py"),
    "glreadback/wire/qmp.py": ("test_qemu.py", "test_fuzz.py"),
    "glreadback/sources/_lines.py": ("test_unix.py", "test_qemu.py", "test_misbehaviour.py"),
    "glreadback/sources/_layout.py": ("test_sources.py",),
    "glreadback/sources/_memory.py": ("test_sources.py", "test_misbehaviour.py"),
    "glreadback/sources/_qemu_dbus.py": ("test_qemu.py", "test_misbehaviour.py"),
    "glreadback/sources/_qemu_screen.py": ("test_qemu.py", "test_misbehaviour.py"),
    "glreadback/sources/fd.py": ("test_sources.py",),
    "glreadback/sources/file.py": ("test_sources.py", "test_misbehaviour.py"),
    "glreadback/sources/pid.py": ("test_pid.py",),
    "glreadback/sources/spec.py": ("test_sources.py", "test_fuzz.py"),
    "glreadback/sources/unix.py": ("test_unix.py", "test_misbehaviour.py", "test_fuzz.py"),
    "glreadback/sinks/_replace.py": ("test_sinks.py",),
    "glreadback/egl/context.py": ("test_misbehaviour.py", "test_current.py"),
    "glreadback/gl/pixels.py": ("test_reader.py",),
    "glreadback/kernel/landlock.py": ("test_isolate.py",),
}

# Checks that are no `if … raise`: what is there, and what it becomes.
LINES: tuple[tuple[str, str, str], ...] = (
    ("glreadback/dmabuf.py", "steady, writable = bool(seals & _SEAL_SHRINK)", "steady, writable = True"),
    ("glreadback/dmabuf.py", "writable and not seals & _SEALS_WRITE", "writable"),
    ("glreadback/dmabuf.py", "writable = access == os.O_RDWR", "writable = True"),
    ("glreadback/dmabuf.py", "status.st_size, False, writable, False)", "status.st_size, False, writable, True)"),
    ("glreadback/reader.py", "if not reason:\n            return checked", "if True:\n            return checked"),
    ("glreadback/reader.py", "        return Checked(frame, check(copied),", "        return Checked(frame, checked.backings,"),
    ("glreadback/reader.py", "        self._let_go_of_lost()\n        for name in", "        for name in"),
    ("glreadback/copying.py", "backing.size >= self.end", "True"),
    ("glreadback/copying.py", "and backing.steady and", "and"),
    ("glreadback/copying.py", "and backing.writable", ""),
    ("glreadback/copying.py", "importer.lost or out.data.readonly", "out.data.readonly"),
    ("glreadback/importer.py", "(fd, os.lseek(fd, 0, os.SEEK_CUR)) for fd in files", "(fd, 0) for fd in files"),
    ("glreadback/gl/pixels.py", "        if code:\n", "        if False:\n"),
    ("glreadback/egl/context.py", "status = _reset_status() if self._robust else 0", "status = 0"),
    ("glreadback/isolate.py", "fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL", "fcntl.F_SEAL_GROW"),
    ("glreadback/isolate.py", "if self._process is not None and self._process.busy:", "if False:"),
    ("glreadback/isolate.py", "if memory.forked:", "if False:"),
    ("glreadback/isolate.py", "weakref.finalize(block, self._back, memory).atexit = False", "self._back(memory)"),
    ("glreadback/isolate.py", "if memory.helper != process.number:", "if memory.helper == 0:"),
    ("glreadback/isolate.py", "and kept[2] == keys", ""),
    ("glreadback/isolate.py", "status.st_ino != inode or status.st_dev != device", "False"),
    ("glreadback/isolate.py", "last[1] is not out or", ""),
    ("glreadback/isolate.py", "        self._last = None  # whatever", "        pass  # whatever"),
    ("glreadback/isolate.py", "out.closed or ", ""),
    ("glreadback/isolate.py", "start_new_session=True,", ""),
    ("glreadback/isolate.py", "    if count == 1:\n", "    if False:\n"),
    ("glreadback/isolate.py", 'int(words[3].partition(b"/")[0]) < count', "True"),
    ("glreadback/isolate.py", "len(words) > 3 and", ""),
    ("glreadback/isolate.py", "self._row > 1 and _processors_idle(self._load, len(mine))", "True"),
    ("glreadback/isolate.py", "self._place(os.sched_getaffinity(0))", "pass"),
    ("glreadback/isolate.py", "while time.perf_counter() < until:", "while True:"),
    ("glreadback/isolate.py", "os.sched_yield()", "pass"),
    ("glreadback/isolate.py", "if os.path.isabs(entry)", ""),
    ("glreadback/isolate.py", "fcntl.fcntl(self._said, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)", "pass"),
    ("glreadback/isolate.py", "character if character.isprintable() else ascii(character)[1:-1]", "character"),
    ("glreadback/isolate.py", 'warnings.warn("unclosed', '0 and warnings.warn("unclosed'),
    ("glreadback/isolate.py", "            self._gone.append(kept[1])", "            pass"),
    ("glreadback/isolate.py", "                self._gone.append(told", "                str(told"),
    ("glreadback/isolate.py", "            check_fence(fence)", "            pass"),
    ("glreadback/isolate.py", "        process.abandon()", "        pass"),
    ("glreadback/isolate.py", "self._process.wait(_REAP)\n        except", "self._process.wait()\n        except"),
    ("glreadback/helper.py", "    end_with(lifeline)", "    pass"),
    ("glreadback/helper.py", "    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):", "    if False:"),
    ("glreadback/helper.py", "    rules.load()", "    pass"),
    ("glreadback/helper.py", 'deny("clone", arg', 'str(("clone", arg'),
    ("glreadback/helper.py", 'deny("prlimit64", arg', 'str(("prlimit64", arg'),
    ("glreadback/helper.py", "for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):", "for limit in ():"),
    ("glreadback/helper.py", 'Path("/proc/self/oom_score_adj").write_text("1000")', "pass"),
    ("glreadback/helper.py", "            memory.close()", "            pass"),
    ("glreadback/kernel/landlock.py", "_call(_RESTRICT_SELF,", "str((_RESTRICT_SELF,"),
    ("glreadback/sources/_lines.py", "if cut or len(self._fds) > self._most_fds:", "if False:"),
    ("glreadback/sources/unix.py", "if self._any_user or peer(sock)[1] == os.geteuid():", "if True:"),
    ("glreadback/sources/unix.py", "            close_fds(line.fds)\n", ""),
    ("glreadback/sinks/_replace.py", "    if _direct(path):", "    if True:"),
    ("glreadback/sinks/_replace.py", "remove.callback(os.unlink, name, dir_fd=folder)\n        with", "pass\n        with"),
)
_ERRORS = {
    *("DescriptorError", "ImportRejected", "DeviceError", "FenceTimeout", "ReaderCrashed"),
    *("SourceError", "SourceSyntaxError", "SourceTimeout", "SinkError"),
}
_KEPT = {"isolate.py": {"current"}}  # functions whose raising is all that they do


class Mutant(NamedTuple):
    """One check: where it is, what it looks like, the file without it, and what it says."""

    path: str
    line: int
    shown: str
    text: str
    says: str = ""


def _raised(node: ast.stmt) -> str:
    if not isinstance(node, ast.Raise) or node.exc is None:
        return ""
    called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""


def _is_ours(name: str) -> bool:
    return name in _ERRORS or name in ("nonsense", "crashed", "_broken", "_rejected", "_is_lost", "ValueError", "TypeError")


def _replaced(text: str, node: ast.expr | ast.stmt, by: str) -> str:
    lines = text.splitlines(keepends=True)
    assert node.end_lineno is not None
    # Columns count bytes.
    first, last = lines[node.lineno - 1].encode(), lines[node.end_lineno - 1].encode()
    middle = first[: node.col_offset] + by.encode() + last[node.end_col_offset :]
    return "".join([*lines[: node.lineno - 1], middle.decode(), *lines[node.end_lineno :]])


def _strings(node: ast.AST) -> str:
    return " ".join(part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def _phrases(text: str) -> set[tuple[str, ...]]:
    """Any two words that follow each other."""
    words = re.findall(r"[a-z']+", text.lower())
    return set(itertools.pairwise(words))


@functools.cache
def _quoted(file: str) -> dict[str, set[tuple[str, ...]]]:
    """The phrases in each test of a file and in the tables that it uses."""
    text = (ROOT / "tests" / file).read_text()
    lines, tables, tests = text.splitlines(), dict[str, str](), dict[str, str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            tests[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    tables[target.id] = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return {
        name: _phrases(said).union(*(_phrases(table) for word, table in tables.items() if re.search(rf"\b{word}\b", said)))
        for name, said in tests.items()
    }


def likely(mutant: Mutant) -> list[str]:
    """The tests that quote what the check says, the longest quotations first: a few, to begin with."""
    wanted, found = _phrases(mutant.says), []
    for file in TESTS[mutant.path]:
        found += [(-len(said & wanted), f"tests/{file}::{name}") for name, said in _quoted(file).items() if said & wanted]
    return [test for _, test in sorted(found)[:3]]


def found_in(path: str) -> Iterator[Mutant]:
    """Every `if` and `except` of a file that raises an error of ours."""
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    kept = _KEPT.get(Path(path).name, set())
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name in kept:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.If) and any(_is_ours(_raised(part)) for part in node.body):
                shown = " ".join(ast.unparse(node.test).split())
                without = _replaced(text, node.test, "False")
                yield Mutant(path, node.lineno, f"`{function.name}`: if {shown}", without, _strings(node))
            if not isinstance(node, ast.ExceptHandler) or node.type is None or len(node.body) != 1:
                continue
            if _raised(node.body[0]) in _ERRORS:
                shown = " ".join(ast.unparse(node.type).split())
                without = _replaced(text, node.body[0], "raise")
                yield Mutant(path, node.lineno, f"`{function.name}`: except {shown}", without, _strings(node))


def mutants() -> Iterator[Mutant]:
    for path in TESTS:
        seen = set()
        for mutant in found_in(path):
            if mutant.line not in seen:  # nested functions are walked twice
                seen.add(mutant.line)
                yield mutant
        text = (ROOT / path).read_text()
        for where, old, new in LINES:
            if where != path:
                continue
            if text.count(old) < 1:
                raise SystemExit(f"{path} has no {old!r} any more: mend LINES")
            if new.startswith("str((") and ")" in text[text.index(old) :]:
                # Close the bracket that was opened, at the end of that line.
                start = text.index(old)
                end = text.index("\n", start)
                rest, comment, words = text[start + len(old) : end].partition("  #")
                changed = f"{text[:start]}{new}{rest.rstrip()}){comment}{words}{text[end:]}"
            else:
                changed = text.replace(old, new, 1)
            shown = " ".join(old.split())
            yield Mutant(path, text[: text.index(old)].count("\n") + 1, shown, changed)


def _pytest(folder: Path, *arguments: str, seconds: int = SECONDS) -> tuple[int, str]:
    """The exit status and what was said; 124 where the time was over."""
    options = ["-v", "-p", "no:cacheprovider", "--tb=no", "-rfE", "-m", "not kernel and not slow"]
    options.append(f"--basetemp={folder / 'tmp'}")  # other runs of pytest tidy up the usual one
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # and all that it started
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            said, _ = process.communicate()
            status = _TIME_OVER
    return status, said.decode(errors="replace")


def already_broken(folder: Path) -> list[str]:
    """The tests that fail though no check was taken away."""
    files = dict.fromkeys(f"tests/{name}" for names in TESTS.values() for name in names)
    status, said = _pytest(folder, *files, seconds=1200)
    if status not in (0, 1):
        raise SystemExit(f"{said[-2000:]}\nthe tests do not run as they are")
    return re.findall(r"^(?:FAILED|ERROR) (tests/\S+)", said, re.MULTILINE)


def known(text: str) -> dict[tuple[str, str], str]:
    """Which test failed without which check (file, check), as the document has it."""
    rows = re.findall(r"^\| (\S+) \| (.*) \| (test_\w+\.py::test_\w+)[^|]*\|$", text.partition(HEADING)[2], re.MULTILINE)
    return {(path, shown): test for path, shown, test in rows}


def run(mutant: Mutant, folder: Path, broken: list[str], first: str = "") -> str:
    """The first test that fails without the check; "" if none does. broken ones fail with it too, and are left out; first
    is one to begin with."""
    target = folder / mutant.path
    before = target.read_text()
    try:
        compile(mutant.text, mutant.path, "exec")
        target.write_text(mutant.text)
        for tests in ([f"tests/{first}"] if first else [], likely(mutant), *([f"tests/{file}"] for file in TESTS[mutant.path])):
            if not tests:
                continue
            seconds = SECONDS if tests[0].endswith(".py") else FEW
            status, said = _pytest(folder, "-x", *(f"--deselect={name}" for name in broken), *tests, seconds=seconds)
            if status == _TIME_OVER or status < 0:
                begun = re.findall(r"^tests/(\w+\.py::\w+)", said, re.MULTILINE)
                return f"{begun[-1] if begun else tests[0]} {'hangs' if status > 0 else 'dies'}"
            if failed := re.search(r"^(?:FAILED|ERROR) tests/(\S+?)(?:\[|\s|$)", said, re.MULTILINE):
                return failed[1]
            if status not in (0, _NOTHING_RUN, _NO_SUCH_TEST):
                raise SystemExit(f"{said[-2000:]}\npytest ends with {status} at {mutant.path}:{mutant.line}")
        return ""
    finally:
        target.write_text(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="checks whose file or text has these words")
    parser.add_argument("--list", action="store_true", help="the checks, nothing run")
    parser.add_argument("--write", action="store_true", help=f"put the result into {DOC.name}")
    args = parser.parse_args()
    todo = [mutant for mutant in mutants() if args.only in mutant.path or args.only in mutant.shown]
    rows, survivors = [], 0
    with tempfile.TemporaryDirectory(prefix="glreadback-mutants-") as name:
        folder = Path(name)
        for part in ("glreadback", "shaders", "tests", "fuzz", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache", "found"))
            else:
                shutil.copy(source, folder / part)
        broken = [] if args.list else already_broken(folder)
        for name in broken:
            print(f"{name} fails anyway", flush=True)
        hints = known(DOC.read_text()) if DOC.exists() else {}
        for mutant in todo:
            place = mutant.path.removeprefix("glreadback/"), mutant.shown.replace("|", "\\|")[:140]
            killer = "" if args.list else run(mutant, folder, broken, hints.get(place, ""))
            survivors += not killer
            print(f"{mutant.path}:{mutant.line}: {mutant.shown[:100]}: {killer or '-'}", flush=True)
            rows.append(f"| {' | '.join(place)} | {killer or '**none**'} |\n")
    if args.write:
        text = DOC.read_text() if DOC.exists() else ""
        head = text.partition(HEADING)[0]
        words = (
            f"Without each of these {len(rows)} checks, one at a time, the test named fails. By `tools/mutate_checks.py`. The\n"
            "checks of `kms:` and `vfio:`, whose tests run in the VM, are not among them.\n"
        )
        DOC.write_text(f"{head}{HEADING}\n{words}\n| file | check | test |\n|---|---|---|\n{''.join(rows)}")
    print(f"{len(rows)} checks, {survivors} that no test misses")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
