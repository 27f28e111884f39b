"""Another project's pixel tests: docs/testing.md's example with the wheel installed, alone and through docs/ci's steps."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from doc_commands import blocks_of
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(ROOT / "tools"))
import ci_steps  # noqa: E402

PAGE = ROOT / "docs" / "testing.md"
CI = {path.name: path for path in sorted((ROOT / "docs" / "ci").glob("*.yml"))}
GOLDEN = "goldens/test_screen/test_two_windows.png"
RIGHT, WRONG = "draw_window(screen, 20, 30,", "draw_window(screen, 21, 30,"  # what the page's failure is of


def example() -> str:
    """The page's test_screen.py."""
    (found,) = [block.text for block in blocks_of(PAGE) if block.text.startswith("# test_screen.py\n")]
    return found


def screen(first_window: int = 20) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What the example draws, (240, 320, 3), red first: said here once more."""
    picture = np.full((240, 320, 3), 0x20, np.uint8)
    picture[30:150, first_window : first_window + 160] = (255, 0, 0)
    picture[90:220, 100:280] = (0, 0x80, 255)
    return picture


def image(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as found:
        assert (found.mode, found.size) == ("RGB", (320, 240))
        return np.asarray(found)


def check_pictures(folder: Path) -> None:
    """The three pictures of the failure, pixel by pixel."""
    expected, actual = screen(), screen(21)
    assert {path.name for path in folder.iterdir()} == {"expected.png", "actual.png", "difference.png"}
    assert np.array_equal(image(folder / "expected.png"), expected)
    assert np.array_equal(image(folder / "actual.png"), actual)
    difference = np.zeros_like(expected)
    difference[30:150, 20] = difference[30:90, 180] = (255, 64 + round(191 * 32 / 223), 64 + round(191 * 32 / 223))
    assert np.array_equal(image(folder / "difference.png"), difference)


# ---- the wheel, pytest and what they need in an environment with nothing else, without network


def closure(names: list[str]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions and all that they need here."""
    from packaging.requirements import Requirement

    known: set[str] = set()
    todo = list(names)
    while todo:
        found = importlib.metadata.distribution(todo.pop())
        if found.name not in known:
            known.add(found.name)
            yield found
            needs = [Requirement(text) for text in found.requires or ()]
            todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


class Environment(NamedTuple):
    """A virtual environment of its own."""

    folder: Path

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, with nothing of the caller's set-up."""
        bare = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        program = os.fspath(self.folder / "bin" / words[0])
        return subprocess.run([program, *words[1:]], cwd=cwd, env=bare, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel by pip, what it needs as links to what is installed here already: nothing is fetched."""
    folder = tmp_path_factory.mktemp("scratch") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in closure(["PyOpenGL", "numpy", "Pillow", "jeepney", "pytest"]):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(os.fspath(distribution.locate_file(top)))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        wheel,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "bin" / "pytest").write_text(f"#!{folder}/bin/python\nimport sys, pytest\nsys.exit(pytest.main())\n")
    (folder / "bin" / "pytest").chmod(0o755)
    return Environment(folder)


@pytest.mark.slow
def test_a_project_that_installs_the_wheel(environment: Environment, tmp_path: Path) -> None:
    """The page's example from beginning to end: no golden yet, made, passing, failing on purpose."""
    project = tmp_path / "project"
    project.mkdir()
    test = project / "test_screen.py"
    test.write_text(example())

    def pytest_(*options: str, passed: int, failed: int = 0) -> str:
        done = environment.run("pytest", "-W", "error", "--strict-markers", *options, cwd=project)
        assert done.returncode == bool(failed), done.stdout + done.stderr
        counts = {
            what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout.splitlines()[-1])
        }
        assert counts == {what: count for what, count in (("passed", passed), ("failed", failed)) if count}, done.stdout
        return done.stdout

    # It is the wheel's plugin, found by the wheel's entry point.
    where = environment.run("python", "-c", "import glreadback.testing as t; print(t.__file__)", cwd=project).stdout
    assert where.startswith(os.fspath(environment.folder))
    assert "plugins: glreadback-" in pytest_("-k", "video", passed=1)

    said = pytest_(passed=1, failed=1)
    assert f"there is no golden picture {project / GOLDEN} yet" in said
    assert not (project / "goldens").exists()
    assert f"written: {project / GOLDEN}" in pytest_("--update-goldens", passed=2)
    assert np.array_equal(image(project / GOLDEN), screen())
    pytest_(passed=2)

    test.write_text(example().replace(RIGHT, WRONG))
    said = pytest_(passed=1, failed=1)
    report = "\n".join(line for line in said.splitlines() if line.startswith("E  "))
    (shown,) = [block.text.rstrip() for block in blocks_of(PAGE) if block.language == "text" and block.text.startswith("E ")]
    assert report.replace(f"{project}/", "") == shown, report
    check_pictures(project / "glreadback-artefacts" / "test_screen.py" / "test_two_windows")
    assert np.array_equal(image(project / GOLDEN), screen()), "a failing test wrote its golden"

    test.write_text(example())
    pytest_(passed=2)
    assert not list((project / "glreadback-artefacts").rglob("*.png"))


# ---- the steps of docs/ci


def test_both_files_are_workflows() -> None:
    """Each is read as its CI reads it, and every line of shell in it is a step that is run below."""
    assert set(CI) == {"github-actions.yml", "gitlab-ci.yml"}
    for path in CI.values():
        workflow = ci_steps.parse(path)
        scripts = "\n".join(step.script for step in workflow.steps)
        lines = re.findall(r"^\s*(?:- |run: )?((?:sudo|apt-get|python3|\.venv/bin/\S+) .*)$", path.read_text(), re.MULTILINE)
        assert len(lines) >= 6
        for line in lines:
            assert line in scripts.splitlines(), f"{path.name}: {line}"
        assert {step.when for step in workflow.steps} == {"success"}
        assert path.name in PAGE.read_text()
    assert ci_steps.parse(CI["github-actions.yml"]).uses == ("actions/checkout@v4", "actions/upload-artifact@v4")


@pytest.mark.slow
@pytest.mark.parametrize("name", CI)
def test_the_steps_of_ci(name: str, wheel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As they are written, in a fresh checkout: they pass; they fail where the picture is wrong, and keep three pictures."""
    workflow = ci_steps.parse(CI[name])
    project = tmp_path / "project"
    (project / GOLDEN).parent.mkdir(parents=True)
    (project / "test_screen.py").write_text(example())
    Image.fromarray(screen()).save(project / GOLDEN)
    machine = ci_steps.Machine(project, wheel, tmp_path / "machine", None)

    def statuses() -> list[int]:
        return [status for _, status in ci_steps.run(workflow, machine)]

    assert statuses() == [0] * len(workflow.steps), capfd.readouterr()
    said = capfd.readouterr().out
    assert "Verdict: pictures can be read here" in said
    assert "2 passed" in said
    assert not (project / workflow.pictures).exists()

    (project / "test_screen.py").write_text(example().replace(RIGHT, WRONG))
    assert statuses() == [0] * (len(workflow.steps) - 1) + [1], capfd.readouterr()
    assert "1 failed, 1 passed" in capfd.readouterr().out
    check_pictures(project / workflow.pictures / "test_screen.py" / "test_two_windows")
    if name == "gitlab-ci.yml":
        assert 'failures="1"' in (project / "report.xml").read_text()


def test_steps_stop_at_the_first_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a script too: each CI's shell ends at the first line that fails."""
    machine = ci_steps.Machine(tmp_path, None, tmp_path / "machine", None)
    github = 'jobs: {a: {runs-on: x, steps: [{run: "false\\necho on"}, {run: echo next}, {run: echo saved, if: failure()}, '
    github += "{uses: a/upload-artifact@v1, with: {path: p}}]}}"
    gitlab = "a: {image: x, before_script: ['false | true'], script: [echo on], artifacts: {paths: [p]}}"
    for text, expected in ((github, [1, 0]), (gitlab, [1])):
        (tmp_path / "ci.yml").write_text(text)
        assert [status for _, status in ci_steps.run(ci_steps.parse(tmp_path / "ci.yml"), machine)] == expected
    assert capfd.readouterr().out == "saved\n"
    (tmp_path / "ci.yml").write_text("a: 1")
    with pytest.raises(ValueError, match=r"ci.yml is no workflow of one job"):
        ci_steps.parse(tmp_path / "ci.yml")


def test_apt_leaves_alone_what_is_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    machine = ci_steps.Machine(tmp_path, None, tmp_path / "machine", None)
    assert machine.run("sudo apt-get update && sudo apt-get install --yes libc6 python3-venv", {}) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "apt-get install: all of it is there"
