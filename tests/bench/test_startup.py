"""How long a whole process takes: a snapshot beside the smallest program that has an EGL context of the software device."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from promises import promised

HERE = Path(__file__).parent
SMALLEST = [sys.executable, str(HERE / "smallest_egl.py")]
# As the console script does it.
SNAPSHOT = [sys.executable, "-c", "import sys; from glreadback.cli import main; sys.exit(main())"]

pytestmark = pytest.mark.slow


def environment(bytecode: Path) -> dict[str, str]:
    # An installed package has its bytecode; this shell may have told Python to write none.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(HERE.parents[1]), "PYTHONPYCACHEPREFIX": str(bytecode)}


def seconds(command: list[str], env: dict[str, str]) -> float:
    Path("x.ppm").unlink(missing_ok=True)  # freeing an old picture's pages is not the start-up
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    return time.perf_counter() - start


def medians_ratio(command: list[str], beside: list[str], env: dict[str, str], rounds: int) -> float:
    return statistics.median(seconds(command, env) / seconds(beside, env) for _ in range(rounds))


@pytest.mark.parametrize(("arguments", "most"), [(["snapshot", "pattern:", "-o", "x.ppm"], 1.6), (["--help"], 0.5)])
def test_start_up(arguments: list[str], most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = environment(tmp_path / "bytecode")
    command = [*SNAPSHOT, *arguments]
    for warm_up in (SMALLEST, command):
        seconds(warm_up, env)
    promised(lambda: medians_ratio(command, SMALLEST, env, 9), most)
