"""What the kernel itself says: which dma-bufs there are, with which fences, and who told it of access by the CPU."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

DEBUGFS = Path("/sys/kernel/debug")
GROUP = "glreadback_tests"
# Where every ioctl on a dma-buf returns: struct file *, command, argument. dma_buf_begin_cpu_access and its counterpart
# would be nearer to the matter, but compilers put the second one into its caller.
PROBE = "r:{group}/sync dma_buf_ioctl file=$arg1:x64 command=$arg2:x32 flags=+u0($arg3):u64 result=$retval:s32"
SYNC = 0x40086200  # DMA_BUF_IOCTL_SYNC, linux/dma-buf.h, and its flags
READ, WRITE, END = 1, 2, 4


def open_fds() -> dict[int, str]:
    """This process's descriptors, and what each is."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except FileNotFoundError:
            pass  # the one that lists the folder
    return found


def dmabufs() -> dict[int, list[str]]:
    """Every dma-buf in the system by its inode, with its fences that have not signalled."""
    found: dict[int, list[str]] = {}
    inode = -1
    for line in (DEBUGFS / "dma_buf" / "bufinfo").read_text().splitlines():
        # size, flags, mode, count, exporter, inode, name
        if buffer := re.match(r"\d+\t[0-9a-f]+\t[0-9a-f]+\t\d+\t\S+\t(\d+)\t", line):
            inode = int(buffer[1])
            found[inode] = []
        elif re.match(r"\t\w+ fence:", line) and "unsignalled" in line:
            found[inode].append(line.strip())
    return found


class Event(NamedTuple):
    """One line of the trace. what is "begin", "end", or a mark of the test; access is READ or WRITE."""

    what: str
    buffer: int = 0  # the address of its struct file
    access: int = 0


class Trace:
    """The calling thread's accesses by the CPU, as the kernel sees them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self) -> None:
        (self._folder / "trace").write_text("")

    def mark(self, word: str) -> None:
        """Put a word between the kernel's own events."""
        (self._folder / "trace_marker").write_text(word)

    def events(self) -> list[Event]:
        """Everything since `clear`, in order."""
        found = []
        for line in (self._folder / "trace").read_text().splitlines():
            if line.startswith("#"):
                continue
            if call := re.search(r": sync: .* file=0x([0-9a-f]+) command=0x[0-9a-f]+ flags=(\d+) result=(-?\d+)", line):
                flags = int(call[2])
                assert call[3] == "0", f"DMA_BUF_IOCTL_SYNC failed: {line}"
                found.append(Event("end" if flags & END else "begin", int(call[1], 16), flags & ~END))
            elif mark := re.search(r": tracing_mark_write: (.*)", line):
                found.append(Event(mark[1]))
            else:
                raise AssertionError(f"a line of another kind: {line}")
        return found


def check_paired(events: list[Event], *, buffers: int, pairs: int | None = None) -> None:
    """Every begin has its end, on so many buffers, for the same access; pairs is how many in all (None: one each)."""
    begun: list[tuple[int, int]] = []
    unfinished: Counter[tuple[int, int]] = Counter()
    for event in events:
        if event.what == "begin":
            begun.append(event[1:])
            unfinished[event[1:]] += 1
        elif event.what == "end":
            unfinished[event[1:]] -= 1
            assert unfinished[event[1:]] >= 0, f"an end before its begin: {events}"
    assert not +unfinished, f"never ended: {events}"
    assert len({buffer for buffer, _ in begun}) == buffers, events
    assert len(begun) == (buffers if pairs is None else pairs), events


@contextmanager
def tracing() -> Iterator[Trace]:
    """Watch DMA_BUF_IOCTL_SYNC of the calling thread. Needs root, and a kernel with kprobes (Debian's has them)."""
    root = next(path for path in (Path("/sys/kernel/tracing"), DEBUGFS / "tracing") if (path / "kprobe_events").exists())
    folder = root / "instances" / GROUP
    folder.mkdir(exist_ok=True)
    try:
        _append(root / "kprobe_events", PROBE.format(group=GROUP))
        try:
            (folder / "set_event_pid").write_text(f"{os.getpid()}")  # a thread's number; the main one's is the process's
            (folder / "events" / GROUP / "sync" / "filter").write_text(f"command == {SYNC:#x}")
            (folder / "events" / GROUP / "enable").write_text("1")
            yield Trace(folder)
            (folder / "events" / GROUP / "enable").write_text("0")
        finally:
            _append(root / "kprobe_events", f"-:{GROUP}/sync")
    finally:
        folder.rmdir()


def _append(path: Path, line: str) -> None:
    # Not open(path, "a"): that looks for the end, which these files have not.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)
