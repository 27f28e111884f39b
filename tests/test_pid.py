"""pid: another process's buffer, by its descriptor."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from pictures import no_descriptor_left

from glreadback.errors import DescriptorError, SourceError, SourceSyntaxError
from glreadback.kernel import pidfd
from glreadback.sources import pid as module
from glreadback.sources.fd import FdSource
from glreadback.sources.pid import PidSource

# A process that draws 4x2 XR24 pixels, 0 to 31, into a sealed memfd, 90 to 97 into another, and says where.
PRODUCER = """
import fcntl, os, sys
found = []
for pixels in (bytes(range(32)), bytes(range(90, 98))):
    fd = os.memfd_create("pixels", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    os.pwrite(fd, pixels, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    found.append(fd)
print(*found, *os.pipe(), flush=True)
for line in sys.stdin:
    os.pwrite(found[0], bytes.fromhex(line), 0)
    print(flush=True)
"""


class Producer:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", PRODUCER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.first, self.second, self.pipe, _ = map(int, self.process.stdout.readline().split())
        self.pid = self.process.pid

    def draws(self, pixels: bytes) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(pixels.hex() + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.kill()
        self.process.wait(5)


@pytest.fixture
def producer() -> Iterator[Producer]:
    with no_descriptor_left():
        made = Producer()
        yield made
        made.end()


SIZE = {"size": (4, 2), "fourcc": "XR24"}


def test_the_pixels_are_the_processs_own(producer: Producer) -> None:
    with PidSource(f"{producer.pid}/{producer.first}", **SIZE) as source:
        frames = source.frames(timeout=0)
        frame = next(frames)
        assert frame.origin == f"pid:{producer.pid}/{producer.first}"
        fd = frame.buffer.planes[0].fd
        assert os.pread(fd, 32, 0) == bytes(range(32))
        assert not os.get_inheritable(fd)
        producer.draws(b"\xee" * 32)
        assert os.pread(next(frames).buffer.planes[0].fd, 32, 0) == b"\xee" * 32


def test_what_is_known_of_the_process_and_its_buffers(producer: Producer) -> None:
    where = f"{producer.pid}/{producer.first}"
    with PidSource(where, size=(2, 2), fourcc="NV12", fd1=producer.second) as source:
        first, second = next(source.frames()).buffer.planes
        assert os.pread(first.fd, 4, first.offset) == bytes(range(4))
        assert os.pread(second.fd, 2, second.offset) == bytes([90, 91])
        facts = source.describe()
        assert facts["process"] == producer.pid
        assert facts["command"] == os.path.basename(sys.executable)
        assert facts["buffers"] == [
            {"fd": fd, "kind": "memfd", "bytes": 4096, "writable": True, "steady": True}
            for fd in (producer.first, producer.second)
        ]


def test_the_buffer_outlives_its_process_but_another_frame_does_not_come(producer: Producer) -> None:
    with PidSource(f"{producer.pid}/{producer.first}", **SIZE) as source:
        producer.process.kill()
        os.waitid(os.P_PID, producer.pid, os.WEXITED | os.WNOWAIT)
        frames = source.frames()
        frame = next(frames)
        assert os.pread(frame.buffer.planes[0].fd, 32, 0) == bytes(range(32))
        with pytest.raises(SourceError, match=rf"process {producer.pid} \(python.*\) has ended"):
            next(frames)
        with pytest.raises(SourceError, match="has ended"):
            next(source.frames())
        assert os.pread(frame.buffer.planes[0].fd, 32, 0) == bytes(range(32))


def test_a_process_that_has_ended_is_not_opened() -> None:
    producer = Producer()
    producer.end()
    with no_descriptor_left(), pytest.raises(SourceError, match=rf"process {producer.pid} .* there is no such process"):
        PidSource(f"{producer.pid}/{producer.first}", **SIZE)


def test_a_descriptor_that_is_not_there(producer: Producer) -> None:
    with no_descriptor_left():
        with pytest.raises(SourceError, match=f"descriptor 999 of process {producer.pid} .* no such descriptor") as error:
            PidSource(f"{producer.pid}/999", **SIZE)
        assert f"/proc/{producer.pid}/fd" in str(error.value)
        with pytest.raises(SourceError, match="descriptor 998 of process"):
            PidSource(f"{producer.pid}/{producer.first}", size=(2, 2), fourcc="NV12", fd1=998)


def test_messages_name_their_numbers_not_ours(producer: Producer) -> None:
    with no_descriptor_left(), pytest.raises(DescriptorError) as error:
        PidSource(f"{producer.pid}/{producer.pipe}", **SIZE)
    assert str(error.value).startswith(f"descriptor {producer.pipe} of process {producer.pid} is a pipe")


@pytest.mark.parametrize("path", ["", "1", "/7", "1/", "1/x", "-1/7", "1/7/7", "99999999999/1", "4294967296/1", "1/4294967296"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(SourceSyntaxError, match=r"is not PID/FD: pid:1234/7\?size="):
        PidSource(path, **SIZE)


def test_no_process_has_this_number() -> None:
    with no_descriptor_left():
        for number in (0, 2**31 - 1):
            with pytest.raises(SourceError, match=f"process {number} cannot be opened"):
                PidSource(f"{number}/0", **SIZE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_ptrace_access_the_message_says_what_is_needed(producer: Producer) -> None:
    """In a process of another user, really."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        text = "nothing raised"
        try:
            os.setgid(65534)
            os.setuid(65534)
            PidSource(f"{producer.pid}/{producer.first}", **SIZE)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            theirs.sendall(text.encode())
            os._exit(0)
    with ours, theirs:
        os.waitpid(child, 0)
        said = ours.recv(4096).decode()
    assert said.startswith(f"SourceError: pid: descriptor {producer.first} of process {producer.pid} cannot be had: ")
    assert "needs ptrace access. Run as the process's user (uid 0) or as root (CAP_SYS_PTRACE)" in said
    assert "\n" not in said


@pytest.mark.parametrize(("scope", "says"), [("1\n", "kernel.yama.ptrace_scope is 1: set it to 0"), (None, "the same user")])
def test_the_same_user_is_told_of_yama(
    producer: Producer, monkeypatch: pytest.MonkeyPatch, scope: str | None, says: str
) -> None:
    def refused(process: int, fd: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    def fake(path: str, *args: object, **options: object) -> object:
        import io

        if "yama" not in path:
            return open(path, *args, **options)  # type: ignore[call-overload]
        if scope is None:
            raise FileNotFoundError(path)
        return io.StringIO(scope)

    monkeypatch.setattr(pidfd, "get_fd", refused)
    monkeypatch.setattr(module, "open", fake, raising=False)
    with no_descriptor_left(), pytest.raises(SourceError) as error:
        PidSource(f"{producer.pid}/{producer.first}", **SIZE)
    assert says in str(error.value)


def test_an_old_kernel_is_named(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfd, "_PIDFD_GETFD", 5000)
    with no_descriptor_left(), pytest.raises(SourceError, match=r"Linux 5\.6 is needed"):
        PidSource(f"{producer.pid}/{producer.first}", **SIZE)


def test_pidfds_are_the_kernels(producer: Producer) -> None:
    process = pidfd.open_process(producer.pid)
    try:
        assert os.readlink(f"/proc/self/fd/{process}") == "anon_inode:[pidfd]"
        assert not pidfd.exited(process)
        producer.process.kill()
        deadline = time.monotonic() + 5
        while not pidfd.exited(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pidfd.exited(process)
        with pytest.raises(ProcessLookupError):
            pidfd.get_fd(process, producer.first)
    finally:
        os.close(process)


def test_the_keys_are_those_of_fd() -> None:
    assert PidSource.keys is FdSource.keys
    document = inspect.getdoc(PidSource) or ""
    assert all(name.rstrip("123") in document for name in PidSource.keys)
