#!/usr/bin/env python3
"""Run a command under a Debian kernel that has real dma-buf drivers, in a QEMU guest on this machine's own files.

    python tools/vm.py [--results DIR] [--junit FILE] [--timeout S] [--modules] -- COMMAND…
    python tools/vm.py --pytest [-- PYTEST'S ARGUMENTS…]

The guest sees the machine's whole root file system, at the same paths, and keeps what it writes to itself; only DIR
is shared for writing. It has udmabuf, dma-heap, vgem, virtio_gpu, bochs and two vivid cameras, and no network; with --modules
also vkms, mbochs and mdpy, which are built from the kernel's source (vm_modules.py).
The CPU is emulated (TCG) always: nested KVM often cannot boot, and the lane must not depend on it.

--pytest is the kernel lane: `pytest -m kernel tests/kernel`, with --modules and with the checks of --junit on
build/kernel/junit.xml.

The exit status is COMMAND's. 124 means that the time was over, 125 that the VM could not be had or died, or that
the results are missing: never 0. No temporary file is made, and QEMU dies with this process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from vm_kernel import Entry, Kernel, VmError, cpio, prepare

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tools" / "vm"
LANE, LANE_JUNIT = "tests/kernel", Path("build/kernel/junit.xml")
TIME_OVER, VM_FAILED, INTERRUPTED = 124, 125, 130
BOOT_LIMIT = 240.0  # seconds until the command starts; 5 to 10 on an idle machine
SILENCE = 30.0  # seconds of silence after which a sign of life is given

# What the command gets of our environment: what makes programs, Python and Mesa behave as here.
PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|CI|VIRTUAL_ENV|XDG_(CACHE|CONFIG|DATA|STATE)_\w+"
    r"|(PYTHON|PYTEST|HYPOTHESIS|GLREADBACK|LIBGL|EGL|GBM|MESA|GALLIUM|LP|LLVM)_?\w+|LD_LIBRARY_PATH|NO_COLOR|COLUMNS"
)


class TimeOverError(VmError):
    """The command, or the boot, took longer than allowed."""


@dataclass
class Report:
    """What came out of the VM besides the command's output."""

    started: float = field(default_factory=time.monotonic)
    stage: str = "the kernel starts"
    running: bool = False
    status: int | None = None
    error: str = ""
    kernel_log: bytearray = field(default_factory=bytearray)

    def say(self, text: str) -> None:
        """One line of progress, with the seconds since the start."""
        print(f"vm: {time.monotonic() - self.started:5.1f} s  {text}", file=sys.stderr, flush=True)

    def take(self, line: str) -> None:
        """One line of the guest's status port (see vm/init)."""
        kind, _, rest = line.partition(" ")
        if kind == "stage":
            self.stage = rest
            self.running = rest == "the command runs"
            self.say(rest)
        elif kind == "exit" and rest.isdigit():
            self.status = int(rest)
        elif kind == "error":
            self.error = rest

    def cause_of_death(self) -> str:
        """One line on why a VM without an exit status is gone."""
        log = self.kernel_log.decode(errors="replace").replace("\r", "")
        if self.error:
            return f"the guest failed: {self.error}"
        if panic := re.search(r"Kernel panic - not syncing: (.*)", log):
            what = re.search(r"(?:BUG: |Oops: |general protection fault)(.*)", log)
            return f"the guest's kernel panicked: {panic[1]}" + (f" ({what[0]})" if what else "")
        return f"the VM ended without the command's exit status; the last news was: {self.stage}"


def main() -> int:
    arguments = _arguments()
    report = Report()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        shares = _shares(arguments.results, arguments.junit)
        kernel, initramfs = prepare(SCRIPTS, report.say, arguments.modules)
        job = _job(arguments.command, shares)
        with _boot(kernel, initramfs + cpio([job]), shares, arguments.memory) as guest:
            _follow(guest, report, arguments.timeout)
        if report.status is None:
            raise VmError(report.cause_of_death())
        report.say(f"the command ended with status {report.status}")
        if report.status == 0 and arguments.junit:
            report.say(check_junit(arguments.junit))
        return report.status
    except KeyboardInterrupt:
        print("vm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        print("vm: nobody reads the output", file=sys.stderr)
        return VM_FAILED
    except VmError as error:
        if arguments.verbose or (report.status is None and report.kernel_log):
            _show_tail(report.kernel_log)
        print(f"vm: {error}", file=sys.stderr)
        return TIME_OVER if isinstance(error, TimeOverError) else VM_FAILED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vm.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, metavar="DIR", help="share this folder with the guest for writing")
    parser.add_argument(
        "--junit",
        type=Path,
        metavar="FILE",
        help="share FILE's folder for writing, and fail unless COMMAND leaves in FILE"
        " (pytest --junitxml FILE) at least one test and none that failed or was skipped",
    )
    parser.add_argument("--timeout", type=float, default=1200, metavar="S", help="the VM's seconds (default 1200)")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB", help="the guest's memory (default 3072)")
    parser.add_argument("--modules", action="store_true", help="with modules built for it: vkms, mbochs, mdpy")
    parser.add_argument("--verbose", action="store_true", help="show the end of the kernel's log on any failure")
    parser.add_argument("--pytest", action="store_true", help="COMMAND is arguments for pytest, run on the kernel lane")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="put -- before it")
    arguments = parser.parse_args()
    if arguments.pytest:
        os.chdir(ROOT)
        arguments.modules = True
        arguments.junit = arguments.junit or LANE_JUNIT
        # Which tests may be said; else it is all of the lane.
        named = any(os.path.exists(word.partition("::")[0]) for word in arguments.command)
        # Importing these two takes ten seconds of an emulated CPU.
        unused = ("-p", "no:hypothesispytest", "-p", "no:benchmark")
        command = [sys.executable, "-m", "pytest", *unused, "-m", "kernel", "--junitxml", str(arguments.junit)]
        command += arguments.command
        arguments.command = command if named else [*command, LANE]
    elif not arguments.command:
        parser.error("there is no COMMAND")
    return arguments


def _leave(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _shares(results: Path | None, junit: Path | None) -> dict[str, Path]:
    """The folders that the guest may write to, by 9p mount tag. They are made here if need be."""
    folders = []
    try:
        for folder in (results, junit and junit.parent):
            if folder is not None and folder.resolve() not in folders:
                folder.mkdir(parents=True, exist_ok=True)
                folders.append(folder.resolve())
        if junit:
            junit.unlink(missing_ok=True)  # yesterday's must not pass for today's
    except OSError as error:
        raise VmError(f"cannot write results: {error}") from error
    return {f"share{number}": folder for number, folder in enumerate(folders)}


def _job(command: list[str], shares: dict[str, Path]) -> Entry:
    """The part of the initramfs that differs from run to run: a shell script that vm/init and vm/run read."""
    environment = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    # The bytecode would be written to memory and thrown away; a pipe's reader wants to see each line.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "TERM": "dumb"}
    # Emulated CPUs have no wide vectors: llvmpipe draws a third faster with narrow ones.
    environment |= {"LP_NATIVE_VECTOR_WIDTH": "128"}
    if sys.stdout.isatty():
        environment |= {"PY_COLORS": "1", "COLUMNS": str(shutil.get_terminal_size().columns)}
    directory = os.getcwd()
    settings = [f"{name}={value}" for name, value in environment.items()]
    words = ["/usr/bin/env", "-i", "-C", directory, *settings, *command]
    lines = [f"directory={shlex.quote(directory)}", f"shares={shlex.quote(' '.join(shares))}"]
    lines += [f"{tag}={shlex.quote(str(folder))}" for tag, folder in shares.items()]
    lines += ["job() {", f"    exec {shlex.join(words)}", "}"]
    return Entry("job.sh", 0o100644, "".join(f"{line}\n" for line in lines).encode())


# ---- The guest ----


@dataclass
class Guest:
    """A QEMU that runs, and our ends of its three lines: the command's output, the status, the kernel's log."""

    process: subprocess.Popen[bytes]
    output: socket.socket
    status: socket.socket
    log: socket.socket


@contextmanager
def _boot(kernel: Kernel, initramfs: bytes, shares: dict[str, Path], memory: int) -> Iterator[Guest]:
    """Start QEMU; it is gone when the context is left, however that comes about."""
    program = shutil.which("qemu-system-x86_64")
    if not program:
        raise VmError("qemu-system-x86_64 is missing; install the package qemu-system-x86")
    with ExitStack() as stack:
        ours, theirs = {}, {}
        for name in ("output", "status", "log"):
            ours[name], theirs[name] = (stack.enter_context(end) for end in socket.socketpair())
        lines = {name: end.fileno() for name, end in theirs.items()}
        memfd = os.memfd_create("initramfs")
        stack.callback(os.close, memfd)
        with open(memfd, "wb", closefd=False) as file:
            file.write(initramfs)
        process = subprocess.Popen(
            [program, *_qemu_options(kernel, memfd, lines, shares, memory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=lines["log"],
            pass_fds=[memfd, *lines.values()],
            start_new_session=True,  # Ctrl-C is for us; we kill it by its pid
            preexec_fn=_die_with_parent,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        for end in theirs.values():
            end.close()
        yield Guest(process, **ours)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, linux/prctl.h


def _qemu_options(kernel: Kernel, initramfs: int, lines: dict[str, int], shares: dict[str, Path], memory: int) -> Iterator[str]:
    yield from ("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", f"{memory}M")
    yield from ("-smp", str(max(2, min(4, os.cpu_count() or 1))))
    yield from ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none", "-nic", "none")
    yield from ("-kernel", str(kernel.image), "-initrd", f"/proc/self/fd/{initramfs}")
    # An oops in a driver is a failure, not a line in a log. TCG on a busy machine is slow enough for the watchdogs.
    yield from ("-append", "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nowatchdog nosoftlockup")
    yield from ("-chardev", f"socket,id=log,fd={lines['log']}", "-serial", "chardev:log")
    yield from ("-device", "virtio-serial-pci")
    for name in ("status", "output"):
        yield from ("-chardev", f"socket,id={name},fd={lines[name]}")
        yield from ("-device", f"virtserialport,chardev={name},name={name}")
    yield from ("-device", "virtio-gpu-pci,xres=800,yres=600", "-device", "bochs-display,vgamem=64M")
    # remap: other file systems mounted below / reuse its inode numbers.
    yield from ("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap")
    yield from ("-device", "virtio-9p-pci,fsdev=root,mount_tag=root")
    for tag, folder in shares.items():
        path = str(folder).replace(",", ",,")  # as QEMU's options want a comma
        yield from ("-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap")
        yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _follow(guest: Guest, report: Report, limit: float) -> None:
    """Pass the command's output on and collect the rest until the VM is gone. Raises TimeOverError."""
    partial = bytearray()
    heard = time.monotonic()
    booted = time.monotonic()
    over = booted + limit
    with selectors.DefaultSelector() as selector:
        for end in (guest.output, guest.status, guest.log):
            selector.register(end, selectors.EVENT_READ, end)
        while selector.get_map():
            now = time.monotonic()
            if now > over and report.status is None:
                raise TimeOverError(f"time is over: {limit:.0f} s passed, and the last news is: {report.stage}")
            if now > over:
                return  # all is known; it only fails to switch itself off
            if not report.running and now - booted > BOOT_LIMIT:
                raise TimeOverError(f"the command did not start within {BOOT_LIMIT:.0f} s; the last news is: {report.stage}")
            if now - heard > SILENCE:
                report.say(f"no output for {SILENCE:.0f} s; the last news is: {report.stage}")
                heard = now
            for key, _ in selector.select(timeout=1.0):
                line: socket.socket = key.data
                data = line.recv(1 << 16)
                if not data:
                    selector.unregister(line)
                elif line is guest.output:
                    heard = time.monotonic()
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                elif line is guest.log:
                    report.kernel_log += data
                else:
                    heard = time.monotonic()
                    *whole, rest = bytes(partial + data).split(b"\n")
                    partial = bytearray(rest)
                    for text in whole:
                        report.take(text.decode(errors="replace"))
                    if report.status is not None:
                        over = min(over, now + 10)


def _show_tail(log: bytearray) -> None:
    """The kernel's last words: from the first that tells of trouble, or else the last few."""
    lines = log.decode(errors="replace").replace("\r", "").splitlines()
    trouble = (number for number, line in enumerate(lines) if re.search(r"BUG|Oops|Kernel panic|fault", line))
    for line in lines[next(trouble, -10) :][:30]:
        print(f"vm: | {line}", file=sys.stderr)


# ---- The results ----

_BAD = ("failures", "errors", "skipped")


def check_junit(path: Path) -> str:
    """A word on what a junit file holds. Raises VmError unless tests ran and each of them passed."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError) as error:
        raise VmError(f"no usable test results in {path}: {error}") from error
    tests, *bad = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", *_BAD))
    if not tests:
        raise VmError(f"no test ran, says {path}")
    if any(bad):
        counts = ", ".join(f"{count} {name}" for name, count in zip(_BAD, bad, strict=True) if count)
        raise VmError(f"of {tests} tests not all passed: {counts}, says {path}")
    return f"{tests} tests passed under the guest's kernel"


if __name__ == "__main__":
    sys.exit(main())
