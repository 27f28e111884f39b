"""Fuzz for as long as told: `python fuzz/run.py [--seconds 600] [TARGET …]`. What `make fuzz` runs.

Half of the time goes to descriptions of buffers (descriptors.py: hypothesis, a real driver in a helper process), the rest to
the wire formats (targets.py), each in a process of its own: steered by coverage where atheris is installed (`make fuzz`
does it), by random changes to the corpus elsewhere. An input that breaks something is written to fuzz/found/ and named, a
description is printed; make it a test, mend it, and move it to the corpus.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE / "found"
sys.path[:0] = [str(HERE), str(HERE.parent)]

DESCRIPTORS = "descriptors"
_ATHERIS = "atheris"


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]


def with_atheris(name: str, seconds: float) -> None:
    """Does not come back: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["glreadback", "jeepney"]):
        import targets
    new = FOUND / "corpus" / name  # what covered more, for the next run to begin with
    new.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={max(1, int(seconds))}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=70000", "-verbosity=0"]
    arguments = [sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={FOUND}/{name}-"]
    atheris.Setup([*arguments, str(new), str(HERE / "corpus" / name)], targets.TARGETS[name])
    atheris.Fuzz()


def with_changes(name: str, seconds: float) -> int:
    from mutate import inputs
    from targets import TARGETS

    end, seed = time.monotonic() + seconds, int.from_bytes(os.urandom(4), "little")
    for count, data in enumerate(inputs(corpus(name), seed), 1):
        try:
            TARGETS[name](data)
        except Exception:
            FOUND.mkdir(exist_ok=True)
            path = FOUND / f"{name}-{seed}-{count}"
            path.write_bytes(data)
            print(f"{name}: {path} breaks it", file=sys.stderr)
            raise
        if time.monotonic() > end:
            break
    print(f"{count:,} inputs")
    return 0


def descriptions(seconds: float) -> int:
    from descriptors import Bench, cases, check
    from hypothesis import HealthCheck, given, seed, settings

    from glreadback import Reader

    bench, end = Bench(), time.monotonic() + seconds
    with Reader("software", isolate=True) as reader:
        while time.monotonic() < end:

            @seed(int.from_bytes(os.urandom(8), "little"))
            @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(cases())
            def some(case: object) -> None:
                check(case, bench, reader)  # type: ignore[arg-type]

            some()
    print(f"{sum(bench.seen.values()):,} descriptions: {', '.join(f'{kind} {count:,}' for kind, count in bench.seen.items())}")
    bench.close()
    return 0


def have_atheris() -> bool:
    import importlib.util

    return importlib.util.find_spec(_ATHERIS) is not None


def said(output: str) -> str:
    """How much a process did: its last words, or libFuzzer's statistics in short."""
    counted = dict(re.findall(r"^stat::(\w+): +(\d+)", output, re.MULTILINE))
    if "number_of_executed_units" not in counted:
        return output.strip().rpartition("\n")[2]
    return f"{int(counted['number_of_executed_units']):,} inputs, {counted.get('new_units_added', 0)} that covered more"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all by default")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        (name,) = args.targets
        if name == DESCRIPTORS:
            return descriptions(args.seconds)
        if have_atheris():
            with_atheris(name, args.seconds)
        return with_changes(name, args.seconds)
    known = sorted(path.name for path in (HERE / "corpus").iterdir())
    names = args.targets or [DESCRIPTORS, *known]
    if unknown := [name for name in names if name not in (DESCRIPTORS, *known)]:
        parser.error(f"no target {unknown[0]}; there are {', '.join((DESCRIPTORS, *known))}")
    shares = {name: len(known) if name == DESCRIPTORS else 1 for name in names}
    print(f"the wire formats are fuzzed {'by atheris' if have_atheris() else 'by random changes: atheris is not installed'}")
    failed = []
    for name in names:
        seconds = args.seconds * shares[name] / sum(shares.values())
        print(f"{name}: {seconds:.0f} s … ", end="", flush=True)
        command = [sys.executable, __file__, "--one", "--seconds", str(seconds), name]
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if done.returncode:
            failed.append(name)
            print(f"broken\n{done.stdout}")
        else:
            print(said(done.stdout), flush=True)
    if failed:
        print(f"broken: {', '.join(failed)}; see above, and {FOUND}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
