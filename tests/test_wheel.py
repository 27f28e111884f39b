"""The wheel: built from the tree, installed into an empty environment, it takes a snapshot with its own shaders."""

from __future__ import annotations

import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_shaders_are_inside(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for shader in (ROOT / "shaders").iterdir():
        assert f"glreadback/shaders/{shader.name}" in inside
    assert "glreadback/py.typed" in inside
    assert not [name for name in inside if name.startswith(("tests/", "tools/"))]


SHELL_FILES = (
    "share/bash-completion/completions/glreadback",
    "share/zsh/site-functions/_glreadback",
    "share/fish/vendor_completions.d/glreadback.fish",
    "share/man/man1/glreadback.1",
)


@pytest.mark.slow
def test_completion_and_the_manual_page_are_data_of_the_wheel(wheel: Path) -> None:
    # What they say is tests/test_completion.py's; built here where nothing that glreadback needs is installed.
    with zipfile.ZipFile(wheel) as inside:
        data = {name.partition(".data/data/")[2]: name for name in inside.namelist()}
        for place in SHELL_FILES:
            assert b"pattern:smpte" in inside.read(data[place])


@pytest.mark.slow
def test_an_editable_install_has_them_too(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-e", ROOT, cwd=tmp_path)
    assert all((tmp_path / "env" / place).is_file() for place in SHELL_FILES)


@pytest.mark.slow
def test_installed_wheel_takes_a_snapshot(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=tmp_path)
    out = tmp_path / "shot.png"
    # The draw route reads the shaders; NV12 needs most of them. cwd keeps the tree's own package out of sight.
    run(
        *(tmp_path / "env/bin/glreadback", "snapshot", "pattern:?size=64x48&fourcc=NV12"),
        *("--route", "draw", "--device", "software", "-o", out),
        cwd=tmp_path,
    )
    assert all((tmp_path / "env" / place).is_file() for place in SHELL_FILES)
    home = run(python, "-c", "import glreadback; print(glreadback.__file__)", cwd=tmp_path)
    assert str(tmp_path) in home
    assert out.read_bytes().startswith(b"\x89PNG")
