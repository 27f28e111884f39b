"""Run the steps of a workflow of docs/ci on this machine, line by line, as its CI would: for tests, and to try it by hand.

    .venv/bin/python tools/ci_steps.py docs/ci/gitlab-ci.yml PROJECT --wheel dist/glreadback-0.1.0-py3-none-any.whl

PROJECT is the checkout that the steps run in; --root is a folder with a fresh system to run them in (root's rights, and a
mirror to install from):

    debootstrap --variant=minbase trixie /tmp/trixie            # what the image debian:trixie is

The steps are taken as they are written. What a hosted machine has and this one may not: `sudo`, which is a script that runs
its arguments. Without --root `apt-get install` leaves alone what is there already, and `apt-get update` is left to it.
With --wheel pip takes that for glreadback, by a constraint; the step is not changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_BARE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Step:
    """One shell's worth of lines, and when it runs: "success", "failure" or "always"."""

    name: str
    script: str
    when: str = "success"


@dataclass(frozen=True)
class Workflow:
    """What a file of CI runs, in order; uses are the actions of others, which are not run; pictures is what it keeps."""

    steps: tuple[Step, ...]
    uses: tuple[str, ...]
    pictures: str
    system: str  # the runner's or the image's name
    variables: Mapping[str, str]


def parse(path: Path) -> Workflow:
    """Raises ValueError for a file that is of neither kind, or of more than one job."""
    found = yaml.safe_load(path.read_text())
    if isinstance(found, dict) and "jobs" in found:
        (job,) = found["jobs"].values()
        return _github(job)
    jobs = [job for job in found.values() if isinstance(job, dict) and "script" in job] if isinstance(found, dict) else []
    if len(jobs) != 1:
        raise ValueError(f"{path} is no workflow of one job, neither GitHub's nor GitLab's")
    return _gitlab(jobs[0])


_WHEN = {None: "success", "failure()": "failure", "always()": "always"}


def _github(job: Mapping[str, Any]) -> Workflow:
    """Each `run` is a script of its own; without shell: it is `bash -e`."""
    steps = [
        Step(step.get("name", step["run"]), f"set -e\n{step['run']}", _WHEN[step.get("if")])
        for step in job["steps"]
        if "run" in step
    ]
    (kept,) = [step["with"]["path"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    uses = tuple(step["uses"] for step in job["steps"] if "uses" in step)
    variables = {"CI": "true", "GITHUB_ACTIONS": "true", **job.get("env", {})}
    return Workflow(tuple(steps), uses, kept, job["runs-on"], variables)


def _gitlab(job: Mapping[str, Any]) -> Workflow:
    """before_script and script are one script, in one shell, with errexit and pipefail."""
    lines = "\n".join([*job.get("before_script", ()), *job["script"]])
    (kept,) = job["artifacts"]["paths"]
    variables = {"CI": "true", "GITLAB_CI": "true", **job.get("variables", {})}
    return Workflow((Step("script", f"set -eo pipefail\n{lines}"),), (), kept, job["image"], variables)


# ---- machines


# On a machine that is in use: what is there is not installed again, which needs no network and no rights.
_APT_GET = r"""#!/bin/sh
real=$(PATH={path} command -v apt-get) || {{ echo "no apt-get here: install what provides: $*" >&2; exit 1; }}
case "$1" in
    update) echo "apt-get update: left to an install that needs it"; exit 0 ;;
    install) ;;
    *) exec "$real" "$@" ;;
esac
missing=""
for word in "$@"; do
    case "$word" in
        install | -*) continue ;;
        python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null && continue ;;
    esac
    state=$(dpkg-query -W -f='${{db:Status-Status}}' "$word" 2>/dev/null)
    [ "$state" = installed ] || missing="$missing $word"
done
[ -z "$missing" ] && {{ echo "apt-get install: all of it is there"; exit 0; }}
echo "apt-get install: missing are$missing"
[ "$(id -u)" = 0 ] || {{ echo "not root: install$missing first" >&2; exit 1; }}
"$real" -q update && exec "$real" -o DPkg::Lock::Timeout=300 "$@"
"""
_SUDO = '#!/bin/sh\nexec "$@"\n'


class Machine:
    """Where steps run: this machine, or the system in the folder root. checkout is the folder that they run in."""

    def __init__(self, checkout: Path, wheel: Path | None, scratch: Path, root: Path | None) -> None:
        self._checkout, self._root = checkout, root
        self._environment = {"HOME": "/root" if root else os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
        programs = {"sudo": _SUDO} if root else {"sudo": _SUDO, "apt-get": _APT_GET.format(path=_BARE_PATH)}
        for name, text in programs.items():
            program = self._put(scratch, f"bin/{name}", text.encode())
            program.chmod(0o755)
        self._environment["PATH"] = f"{self._seen(scratch)}/bin:{_BARE_PATH if root else os.environ['PATH']}"
        if root is None:
            # How this machine's pip finds packages and certificates is its own business.
            self._environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        elif certificates := os.environ.get("PIP_CERT"):
            place = self._put(scratch, "certificates.crt", Path(certificates).read_bytes())
            self._environment["PIP_CERT"] = str(self._seen(place))
        if wheel is not None:
            place = self._put(scratch, wheel.name, wheel.read_bytes())
            self._put(scratch, "constraints.txt", f"glreadback @ file://{self._seen(place)}\n".encode())
            self._environment["PIP_CONSTRAINT"] = f"{self._seen(scratch)}/constraints.txt"

    def _put(self, scratch: Path, name: str, content: bytes) -> Path:
        place = scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    def _seen(self, path: Path) -> Path:
        """A path as the machine itself sees it."""
        return path if self._root is None else Path("/", path.relative_to(self._root))

    def run(self, script: str, variables: Mapping[str, str]) -> int:
        """Run a script in the checkout, its output where ours goes. Its exit status."""
        command = ["bash", "--noprofile", "--norc", "-c", script]
        environment = self._environment | dict(variables)
        if self._root is None:
            return subprocess.run(command, cwd=self._checkout, env=environment, check=False).returncode
        # Mounts of a name space of its own: they go with it.
        mount = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc"'
        enter = 'exec chroot "$0" sh -c \'cd "$0" && exec "$@"\' "$@"'
        words = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{mount} && {enter}",
            str(self._root),
            str(self._seen(self._checkout)),
            *command,
        ]
        return subprocess.run(words, env=environment, check=False).returncode


def run(workflow: Workflow, machine: Machine) -> Iterator[tuple[Step, int]]:
    """Run the steps in order; each that ran, and its exit status."""
    failed = False
    for step in workflow.steps:
        if step.when not in ("failure" if failed else "success", "always"):
            continue
        status = machine.run(step.script, workflow.variables)
        failed = failed or status != 0
        yield step, status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="the workflow")
    parser.add_argument("project", type=Path, help="the checkout to run it in; with --root a copy of it")
    parser.add_argument("--wheel", type=Path, help="what pip takes for glreadback")
    parser.add_argument("--root", type=Path, help="a folder with a fresh system to run in")
    args = parser.parse_args()
    workflow = parse(args.file)
    with tempfile.TemporaryDirectory(prefix="ci-", dir=args.root and args.root / "tmp") as folder:
        scratch, checkout = Path(folder).resolve(), args.project.resolve()
        root = args.root and args.root.resolve()
        if root is not None:
            checkout = Path(shutil.copytree(checkout, scratch / "checkout"))
        worst = 0
        for step, status in run(workflow, Machine(checkout, args.wheel, scratch, root)):
            print(f"== {step.name.splitlines()[0]}: {status}", flush=True)
            worst = worst or status
        for path in sorted((checkout / workflow.pictures).rglob("*.png")):
            print(f"== kept: {path.relative_to(checkout)}")
    for action in workflow.uses:
        print(f"== not run: {action}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
