"""Runs the tests that misbehave, and writes what was tried, how often and what came out to docs/robustness.md.

    python tools/robustness_report.py [--vm] [FILE]

Takes some minutes. --vm runs those on real kernel buffers too, in a VM (some minutes more); without it their rows stay as
they are. The last part of the file, which check each test guards, is tools/mutate_checks.py's and stays as well.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "robustness.md"
REST = "## Every check has a test\n"
VM = "kernel/"  # tests below this folder of tests/ run in the VM
JUNIT = ROOT / "build" / "kernel" / "robustness.xml"


class Row(NamedTuple):
    """What was tried, the tests that do it (file and the beginnings of their names), and what comes out when they pass."""

    what: str
    file: str
    tests: tuple[str, ...]
    outcome: str


SECTIONS: dict[str, tuple[Row, ...]] = {
    "Descriptions that lie": (
        Row(
            "a buffer shorter than its description",
            "test_hostile.py",
            ("shorter_than", "empty", "a_later_plane", "each_plane_is_measured"),
            "DescriptorError; the driver was not asked",
        ),
        Row(
            "offsets past the end, negative, beyond 32 and 64 bits",
            "test_hostile.py",
            ("offsets", "numbers_no_plane"),
            "DescriptorError; the driver was not asked",
        ),
        Row("strides shorter than a row, of every plane", "test_hostile.py", ("strides_",), "DescriptorError"),
        Row(
            "sizes of nothing, and larger than the device takes",
            "test_hostile.py",
            ("sizes_",),
            "DescriptorError; the driver was not asked",
        ),
        Row(
            "what is no number, no plane, no format, no modifier",
            "test_hostile.py",
            ("values_that_are_no", "numbers_of_planes", "descriptions_of_the_wrong", "a_fourcc_nobody"),
            "DescriptorError",
        ),
        Row(
            "layouts that only the driver knows, or nobody names",
            "test_hostile.py",
            ("offsets_of_layouts", "a_layout_nobody", "planes_of_tiled"),
            "DescriptorError where what is known of them does not fit",
        ),
        Row(
            "pipes, sockets, folders, devices, processes in place of buffers",
            "test_hostile.py",
            ("descriptors_of_something_else", "descriptors_without", "descriptors_that_are_not_open", "one_bad_plane"),
            "DescriptorError that names it; the driver was not asked",
        ),
        Row(
            "descriptor numbers that are used again between reads",
            "test_hostile.py",
            ("a_number_that_has_become",),
            "the new buffer's pixels, or DescriptorError",
        ),
        Row(
            "read-only, write-sealed and unsealed memory",
            "test_hostile.py",
            ("awkward", "copies_show", "what_is_shared", "sealed_later"),
            "exact pixels, copied first; nothing is written to it",
        ),
        Row("every way of reading: where it looks", "test_hostile.py", ("each_read_is_looked",), "once, in one place"),
        Row(
            "no descriptors left in the process",
            "test_hostile.py",
            ("out_of_descriptors",),
            "an error; then exact pixels again",
        ),
        Row(
            "real dma-bufs of five drivers, smaller than said",
            "kernel/test_reads.py",
            ("a_buffer_smaller",),
            "DescriptorError on every route",
        ),
    ),
    "Producers that misbehave while we read": (
        Row(
            "memory that shrinks between the look and the read, and all the time",
            "test_hostile.py",
            ("truncated",),
            "pixels or DescriptorError; no SIGBUS",
        ),
        Row(
            "the same, read in a helper",
            "test_misbehaviour.py",
            ("memory_that_shrinks",),
            "pixels or DescriptorError; no SIGBUS",
        ),
        Row(
            "a writer that never stops", "test_misbehaviour.py", ("a_writer",), "the read ends; only what was written is in it"
        ),
        Row(
            "descriptors that are not what a peer claims",
            "test_misbehaviour.py",
            ("descriptors_that_are",),
            "DescriptorError, released, and its next frame is read",
        ),
        Row("a new buffer for every frame", "test_misbehaviour.py", ("hundreds_of",), "what is kept is bounded"),
        Row(
            "a producer that is killed, or takes its memory back",
            "test_misbehaviour.py",
            ("a_producer_that",),
            "the picture, or DescriptorError; the next producer is read",
        ),
        Row("fences that are none, or hang up", "test_misbehaviour.py", ("a_fence",), "the picture or an error, in time"),
        Row(
            "fences that never signal",
            "kernel/test_sync.py",
            ("a_fence_that_never", "a_sync_file_that_never"),
            "FenceTimeout in time; read once it signals",
        ),
        Row(
            "half a header, a slow one, silence",
            "test_unix.py",
            ("half_a_line", "a_slow_line", "silence"),
            "SourceTimeout; the next frame is read",
        ),
        Row(
            "nonsense, too many descriptors, none",
            "test_unix.py",
            ("nonsense", "a_line_that_is_wrong", "any_line"),
            "SourceError; no descriptor left, the next producer is read",
        ),
        Row("ten thousand descriptors", "test_unix.py", ("ten_thousand",), "SourceError; no descriptor left"),
        Row("a line of 1 GiB", "test_unix.py", ("a_line_of_a_gigabyte",), "SourceError at 64 KiB"),
        Row(
            "a peer of another user",
            "test_unix.py",
            ("other_users", "a_real_other_user", "the_kernel_says"),
            "refused, unless `any_user=1`",
        ),
        Row(
            "the same, though the socket's mode lets it in",
            "test_misbehaviour.py",
            ("a_stranger",),
            "hung up on; the next producer is read",
        ),
        Row("a process that exits, or whose descriptors change", "test_pid.py", ("",), "the picture or SourceError"),
        Row("vfio's answers at random", "test_vfio_wire.py", ("any_answer",), "a frame or an error of ours"),
        Row(
            "QEMU killed, stopped, talking nonsense, taking its memory back",
            "test_qemu.py",
            (
                "a_killed_qemu",
                "a_stopped_qemu",
                "nonsense_on",
                "a_memfd_that_shrinks",
                "a_buffer_that_is_not",
                "a_qemu_that_falls",
            ),
            "SourceError or SourceTimeout; nothing left",
        ),
        Row(
            "QEMU killed in the middle of a frame, its descriptor under way",
            "test_misbehaviour.py",
            ("a_qemu_that_is_killed", "a_real_qemu"),
            "SourceError; what was handed out stays, another QEMU is read",
        ),
        Row(
            "the same with a GL display's dma-bufs",
            "kernel/test_hostile_kernel.py",
            ("a_gl_qemu",),
            "SourceError; no dma-buf is left",
        ),
        Row(
            "a framebuffer that goes between the look and the import",
            "kernel/test_kms.py",
            ("a_framebuffer_that_goes",),
            "the new picture, or SourceError",
        ),
        Row(
            "a framebuffer removed under a frame, a client that is killed",
            "kernel/test_kms.py",
            ("a_framebuffer_removed", "a_killed_client"),
            "the picture, or SourceTimeout until something is shown",
        ),
        Row(
            "a virtual machine that is killed, a device that is taken away",
            "kernel/test_vfio.py",
            ("a_killed_vmm", "a_device_is_taken"),
            "the picture; then SourceError; the device is free again",
        ),
    ),
    "Isolated reads": (
        Row(
            "every route and option, beside a direct read",
            "test_isolate.py",
            ("pixels_are_those", "planes_are_those", "damage", "map_and_submit", "capabilities"),
            "equal",
        ),
        Row(
            "every error, beside a direct read",
            "test_isolate.py",
            ("errors_are_those", "a_rejection", "a_fence", "no_device"),
            "equal",
        ),
        Row(
            "helpers that are killed, exit, are stopped; before and in a read",
            "test_isolate.py",
            ("a_helper_that", "a_reading_that_hangs", "a_process_that_cannot"),
            "ReaderCrashed that says how; the next read works",
        ),
        Row(
            "waiting for the answer: time-outs, one processor, Ctrl-C",
            "test_isolate.py",
            ("the_waiting", "nobody_is_awake"),
            "ends in time; awake for a millisecond at most",
        ),
        Row(
            "memory beyond the limit",
            "test_isolate.py",
            ("memory_past", "a_limit_that", "memory_taken"),
            "ReaderCrashed, or the driver's refusal; the next read works",
        ),
        Row("Ctrl-C in a read", "test_isolate.py", ("a_read_that_is_broken", "ctrl_c"), "the next read has its own answer"),
        Row(
            "the parent killed, its thread ended, a fork",
            "test_isolate.py",
            ("it_ends", "it_does_not_end", "after_a_fork", "a_forked_child"),
            "the helper ends with the process, not before",
        ),
        Row(
            "running, connecting, writing, removing, signalling with the helper's rights",
            "test_isolate.py",
            ("what_it_cannot_do", "what_the_kernel_says", "it_holds_only", "without_pyseccomp"),
            "refused by the kernel",
        ),
        Row(
            "a helper that lies: nonsense, huge numbers, facts, words for a terminal",
            "test_isolate.py",
            (
                "nonsense",
                "hanging_up",
                "capabilities_that",
                "nothing_is_injected",
                "no_words",
                "what_it_says",
                "descriptors_that_come",
            ),
            "ReaderCrashed, or a plain error of ours",
        ),
        Row(
            "surfaces' memory: shrinking it, keeping views, dropping them in any thread",
            "test_isolate.py",
            ("it_is_sealed", "a_view_keeps", "planes_keep", "views_dropped", "surfaces_hold", "finalizers"),
            "refused; no kept view ever changes",
        ),
        Row(
            "real dma-bufs, and helpers that die with them",
            "kernel/test_hostile_kernel.py",
            ("an_isolated_reader", "a_helper_that_dies"),
            "equal; ReaderCrashed, and the dma-buf is let go",
        ),
        Row("the price at 1080p", "test_isolate.py", ("cost",), "at most 1.3 times a direct read, with the test's slack"),
    ),
    "Files": (
        Row(
            "a full disk, a read-only folder, an error half way",
            "test_sinks.py",
            ("an_error_half_way", "a_full_disk", "a_read_only", "a_folder_that_nobody", "an_encoder_that"),
            "SinkError; the picture that was there is whole",
        ),
        Row(
            "a killed process, and readers meanwhile",
            "test_sinks.py",
            ("a_killed_process", "readers_never"),
            "the old picture or the new one, whole; nothing beside it",
        ),
        Row(
            "standard output that is full, or nobody reads",
            "test_cli.py",
            ("standard_output_is_full", "reader_of"),
            "an exit code, no traceback",
        ),
    ),
    "Fuzzing": (
        Row(
            "random descriptions, hostile and nearly right, by a real driver in a helper",
            "test_fuzz.py",
            ("hostile_descriptions",),
            "no crash, no pixel that is not in the buffer",
        ),
        Row("what the judge of the line above must not let pass", "test_fuzz.py", ("the_judge",), "noticed"),
        Row(
            "wire formats: the corpus",
            "test_fuzz.py",
            ("the_corpus", "every_target"),
            "a value, or one line that says what is wrong",
        ),
        Row(
            "wire formats: random changes to it",
            "test_fuzz.py",
            ("random_changes",),
            "a value, or one line that says what is wrong",
        ),
    ),
    "Leaks": (
        *(
            Row(kind, "test_leaks.py", (f"ten_thousand_times[{kind}]",), "nothing more is held")
            for kind in (
                "reads",
                "failed reads",
                "refusals by the driver",
                "sources",
                "isolated reads",
                "failed isolated reads",
                "contexts",
                "helpers that die",
            )
        ),
        Row(
            "`kms:` sources and their frames, wrong ones, new dma-bufs",
            "kernel/test_hostile_kernel.py",
            ("kms_sources", "wrong_kms", "dma_bufs_leave"),
            "nothing more is held, not a dma-buf in the kernel",
        ),
    ),
    "The GPU is reset (made up: there is none here)": (
        Row(
            "guilty, innocent, unknown resets, on every route",
            "test_misbehaviour.py",
            ("a_reset", "a_context_that", "closing_after", "ctrl_c_is", "surfaces_outlive"),
            "DeviceError that says so; the next read starts anew",
        ),
        Row("the driver's own answer", "test_misbehaviour.py", ("contexts_are_robust",), "asked once a read: no reset"),
    ),
}

TEXT = """\
# Robustness

Nothing that a producer sends can crash or fool the reader. That is a promise about four things:

- **Descriptions.** Sizes, strides, offsets, formats and descriptors are checked in one place before a driver hears of them.
  What does not fit is a `DescriptorError` of one line: the value, the limit, what to do. No pixel comes from outside the
  buffer.
- **Producers.** One that shrinks its memory, breaks off, floods, lies or dies ends in an error of ours, in time. Nothing is
  kept of it, and the next frame is read.
- **Drivers.** `Reader(isolate=True)` and `--isolate` keep GL in a process of its own. If a driver crashes there, hangs or
  eats memory, that is a `ReaderCrashed` that says how; the next read has a new helper.
- **Files.** A picture appears whole or not at all, and the one that was there stays until then.

## What isolation is, and costs

The helper is started at the first read. Descriptors go to it over a socket; pixels come back in shared memory, sealed so
that it cannot shrink, which is the surface: nothing is copied. It has no new privileges, none of the caller's other
descriptors and a limit on its memory (`memory_limit=`, 4 GiB). Landlock, where the kernel has it, takes away writing to
files, running programs and TCP; a seccomp filter, with pyseccomp (`glreadback[sandbox]`), sockets, other processes and
more. What it answers is checked like anything from outside. It is killed with its parent, whatever becomes of that, and
when it has not answered five seconds (a little more for large pictures) after the read's `timeout=`.

It costs a third of a second at the start, {memory} MiB, and at most 1.3 times a direct read at 1080p on a machine with a
processor to spare ([measured](performance.md)), where reads that follow each other at once are waited for awake, for up to
half a millisecond. That is the same picture into the same surface again; buffers that take turns cost some 1.5 times, and
a new `Frame` object each time some 1.7.

## What is not protected

- Without `isolate=True` a driver that crashes on a correct description takes the process with it, and one that hangs holds
  the read: `timeout=` is for fences.
- Isolation ends at the kernel. A bug in a kernel driver, or a GPU that hangs, is beyond it.
- A helper that was taken over can lie about pixels, read the files that the user can read, write to the surfaces it made as
  long as it lives, and to the buffers whose descriptors can be written to. Without pyseccomp it also has sockets.
- A producer that writes while we read and attaches no fence gets a torn picture: its own pixels, of two moments.
- Of a tiled layout only its beginning can be checked here; the rest is the driver's to check.
- A picture may be as large as the device takes: 16384x16384 is a surface of 1 GiB, and a sparse file costs its sender
  nothing. Look at `frame.size` first where that matters.
- A file of a file system that does not answer (FUSE, a lost server) holds whoever looks at it. From strangers take dma-bufs
  and sealed memfds only.
- The same user's processes are trusted to connect to a `unix:` socket, and whoever has `any_user=1`'s socket.
- A file survives a killed process, not a power cut: nothing is synced to the disk.
- Hardware drivers have not been run by us; what a reset GPU answers is made up in the tests below.

## What was tried

Written by `tools/robustness_report.py` from what the tests did; the driver was {driver}.
*Tries* are test cases, or the inputs and cycles that a test counts. Tests in `kernel/` ran on real kernel buffers in a VM
(`make test-vm`). `make fuzz` goes on with the fuzzing for ten minutes, steered by coverage.
"""


class Found(NamedTuple):
    """What became of a test: its outcome, how often it says that it tried, and what it says came out."""

    outcome: str
    tries: int = 1
    said: str = ""


class Results:
    """A pytest plugin that keeps what became of each test, by file and name."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.partition("tests/")[2] or report.nodeid
        found = self.found.get(name, Found("passed"))
        if report.outcome != "passed":
            found = found._replace(outcome=report.outcome)
        elif report.when == "call":
            said = dict(report.user_properties)
            found = found._replace(tries=int(said.get("tries", 1)), said=str(said.get("outcome", "")))
        self.found[name] = found


def from_junit(path: Path) -> dict[str, Found]:
    """The same of a junit file."""
    found = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        file = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
        said = {each.get("name"): each.get("value", "") for each in case.iter("property")}
        bad = any(case.find(what) is not None for what in ("failure", "error"))
        outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        found[f"{file}::{case.get('name')}"] = Found(outcome, int(said.get("tries", 1)), said.get("outcome", ""))
    return found


def matches(row: Row, node: str) -> bool:
    """Whether a test (its file and name) is one of a row's."""
    file, _, name = node.partition("::")
    name = name.rpartition("::")[2]
    return file == row.file and any(name.startswith(f"test_{start}") for start in row.tests)


def tests_in(file: str) -> list[str]:
    """The names of the tests of a file, without running anything."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def line(row: Row, results: Mapping[str, Found]) -> str:
    """A row of the table."""
    found = [result for node, result in results.items() if matches(row, node)]
    ran = [each for each in found if each.outcome != "skipped"]
    failed = sum(each.outcome == "failed" for each in found)
    tries, outcome = f"{sum(each.tries for each in ran):,}", row.outcome
    if failed:
        outcome = f"**{failed} failed**"
    elif not ran:
        outcome = "not run here"
    elif len(ran) == 1 and ran[0].said:
        outcome += f" ({ran[0].said})"
    return f"| {row.what} | {tries} | {outcome} | {row.file} |\n"


def before(row: Row, text: str) -> str:
    """A row as it is in the document; "" where it is not."""
    found = re.search(rf"^\| {re.escape(row.what)} \| .* \| {re.escape(row.file)} \|\n", text, re.MULTILINE)
    return found[0] if found else ""


def report(results: Mapping[str, Found], facts: Mapping[str, object], old: str) -> str:
    """The document: old is what there is of it. Rows of the VM's tests stay as they are if none of those ran."""
    with_vm = any(node.startswith(VM) for node in results)
    text = TEXT.format(**facts)
    for title, rows in SECTIONS.items():
        text += f"\n### {title}\n\n| tried | tries | what came out | tests |\n|---|---|---|---|\n"
        for row in rows:
            kept = "" if with_vm or not row.file.startswith(VM) else before(row, old)
            text += kept or line(row, results)
    rest = old[old.index(REST) :] if REST in old else ""
    return f"{text}\n{rest}" if rest else text


def run_here(files: Sequence[str]) -> dict[str, Found]:
    import pytest

    results = Results()
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "not kernel", *(str(ROOT / "tests" / file) for file in files)]
    pytest.main([*arguments, "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")], plugins=[results])
    return results.found


def run_in_vm(rows: Sequence[Row]) -> dict[str, Found]:
    names = " or ".join(dict.fromkeys(f"test_{start}" for row in rows for start in row.tests))
    files = dict.fromkeys(f"tests/{row.file}" for row in rows)
    command = [sys.executable, "tools/vm.py", "--timeout", "1200", "--junit", str(JUNIT.relative_to(ROOT)), "--pytest", "--"]
    # A failure is for the table to say.
    subprocess.run([*command, *files, "-k", names], cwd=ROOT, check=False)
    return from_junit(JUNIT)


def facts() -> dict[str, object]:
    """What the document says of this machine."""
    from glreadback import DmaBuf, Plane, Reader
    from glreadback.isolate import IsolatedReader
    from glreadback.kernel.udmabuf import sealed_memfd

    fd = sealed_memfd(1920 * 1080 * 4)
    with Reader("software", isolate=True) as reader:
        assert isinstance(reader, IsolatedReader)
        reader.read(DmaBuf(1920, 1080, "XR24", [Plane(fd, 0, 7680)]))
        found = reader.capabilities()
        assert reader._process is not None
        status = Path(f"/proc/{reader._process.pid}/status").read_text()
    anonymous = int(status.partition("RssAnon:")[2].split()[0])
    version = re.search(r"Mesa [\d.]+", found.version)
    driver = f"{found.renderer.partition(' ')[0]}, {version[0] if version else found.version}"
    return {"driver": driver, "memory": -(-anonymous // 10240) * 10}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vm", action="store_true", help="run the tests on real kernel buffers too")
    parser.add_argument("file", nargs="?", type=Path, default=DOC, metavar="FILE", help="default: docs/robustness.md")
    args = parser.parse_args()
    rows = [row for rows in SECTIONS.values() for row in rows]
    results = run_here(list(dict.fromkeys(row.file for row in rows if not row.file.startswith(VM))))
    if args.vm:
        results |= run_in_vm([row for row in rows if row.file.startswith(VM)])
    text = report(results, facts(), args.file.read_text() if args.file.exists() else "")
    args.file.write_text(text)
    failed, missing = len(re.findall(r"\*\*\d+ failed\*\*", text)), text.count("| not run here |")
    print(f"{args.file.name}: {len(rows)} rows, {failed} with failures, {missing} not run")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
