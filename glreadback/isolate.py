"""Isolated reads: GL runs in a helper process, and a driver that crashes takes nothing of the caller's with it.

Descriptors go to the helper over a socket; pixels come back in sealed shared memory that is mapped, not copied. A helper
that dies, hangs past the time-out or takes more memory than allowed ends in ReaderCrashed, and the next read has a new one.
What the helper answers is checked like anything else that comes from outside: a driver may have been taken over.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import json
import mmap
import operator
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .copying import Checked, region_of
from .damage import merged
from .dmabuf import DmaBuf, check
from .errors import (
    DescriptorError,
    DeviceError,
    FenceTimeout,
    GlReadbackError,
    ImportRejected,
    ReaderCrashed,
    SourceError,
)
from .fourcc import Fourcc
from .frame import Frame, as_frame
from .helper import AGAIN, DONE, MAX_MESSAGE
from .kernel.mapping import map_shared, unmap
from .kernel.udmabuf import sealed_memfd
from .pending import Pending
from .plan import ROUTES, Capabilities, Route, default_fourcc
from .reader import DEFAULT_TIMEOUT, Reader, _request, _wanted_of
from .surface import Surface, array_shape, element, packed_row
from .sync import check_fence
from .wire.frames import format_header, parse_object

if TYPE_CHECKING:
    import numpy

MEMORY_LIMIT = 4 << 30  # bytes of private memory that a helper may take
_START_LIMIT = 30.0  # seconds for Python and the driver to load
# Seconds that a read may take beyond the caller's time-out, which is for fences: these, and this long for each pixel.
_GRACE, _GRACE_PIXEL = 5.0, 2e-7
_LONGEST = 1e6  # seconds
_ROW = 2e-3  # seconds after a read within which another one follows it at once
_AWAKE = 5e-4  # seconds to wait for an answer without sleeping
_REAP = 2.0  # seconds for a killed process to be gone
_KEPT = 8  # pictures the helper remembers
_FREE = 4  # shared memories kept for the next surface
_SAID = 1 << 16  # bytes of what the helper may say on stderr


# ---- Shared memory


class _Memory:
    """Shared memory for one surface: sealed, so that the helper cannot shrink it under the caller."""

    numbers = itertools.count(1)

    def __init__(self, size: int) -> None:
        self.fd = sealed_memfd(size, "glreadback-surface")
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.size = os.fstat(self.fd).st_size
            self.address = map_shared(self.fd, self.size)
        except BaseException:
            os.close(self.fd)
            raise
        self.number = next(self.numbers)
        self.helper = 0  # the number of the helper that has it mapped
        self.forked = False  # a child process may look at it too

    def close(self) -> None:
        unmap(self.address, self.size)
        os.close(self.fd)


class _Pool:
    """Shared memories: leased to surfaces, back when nothing looks at their pixels any more.

    They come back from finalizers, which run in any thread and at any place: all that they touch is atomic.
    """

    def __init__(self) -> None:
        self._free: deque[_Memory] = deque()
        self._leased: dict[int, _Memory] = {}  # by where they begin
        self.dropped: deque[int] = deque()  # what the helper may unmap
        self._closed = False
        _pools.add(self)

    def lease(self, size: int) -> tuple[_Memory, Any]:
        """Memory of at least size bytes, and the object to view it through: every view of it keeps the lease."""
        memory, others = None, []
        with contextlib.suppress(IndexError):
            while True:
                found = self._free.popleft()
                if memory is None and size <= found.size <= 2 * size + mmap.PAGESIZE:
                    memory = found
                else:
                    others.append(found)
        self._free.extend(others)
        if memory is None:
            memory = _Memory(size)
        block = (ctypes.c_ubyte * memory.size).from_address(memory.address)
        self._leased[memory.address] = memory
        weakref.finalize(block, self._back, memory).atexit = False
        return memory, block

    def of(self, surface: Surface) -> _Memory | None:
        """The memory a surface lies in, if it is from this pool and begins with it."""
        return None if surface.data.readonly else self._leased.get(surface.address)

    def _back(self, memory: _Memory) -> None:
        del self._leased[memory.address]
        if memory.forked:
            self._drop(memory)
        else:
            self._free.append(memory)
        self._trim(0 if self._closed else _FREE)

    def _trim(self, most: int) -> None:
        while len(self._free) > most:
            with contextlib.suppress(IndexError):
                self._drop(self._free.popleft())

    def _drop(self, memory: _Memory) -> None:
        self.dropped.append(memory.number)
        memory.close()

    def before_fork(self) -> None:
        for memory in list(self._leased.values()):
            memory.forked = True

    def close(self) -> None:
        self._closed = True
        self._trim(0)


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _before_fork() -> None:
    # The child's surfaces are the same memory as the parent's. It must not become another picture's.
    for pool in list(_pools):
        pool.before_fork()


os.register_at_fork(before=_before_fork)


# ---- The process


class _Process:
    """One helper process, its socket and the pipe that it hangs on: when our end is closed, by whatever, it is killed."""

    numbers = itertools.count(1)

    def __init__(self, device: str | None, memory: int) -> None:
        self.number = next(self.numbers)
        self._timeout = 0.0
        self._answer = memoryview(bytearray(MAX_MESSAGE))
        self._processors = os.sched_getaffinity(0)  # the helper's, which it has from us
        self._answered, self._row = 0.0, 0  # when the last read was, how many followed at once
        self.busy = False  # asked, and not answered
        with contextlib.ExitStack() as undo:
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._sock.close)
            self._load = _open_load()
            undo.callback(os.close, self._load)
            with theirs:
                hanging, self._lifeline = os.pipe()
                undo.callback(os.close, self._lifeline)
                try:
                    # What it says is kept only so far: a driver must not fill the disk, nor wait for us to listen.
                    self._said = sealed_memfd(_SAID, "glreadback-helper")
                    undo.callback(os.close, self._said)
                    fcntl.fcntl(self._said, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
                    self._process = self._start(device, memory, theirs.fileno(), hanging)
                finally:
                    os.close(hanging)
            undo.callback(self._reap)
            self.rights = self._receive(_START_LIMIT)
            undo.pop_all()

    def _start(self, device: str | None, memory: int, sock: int, lifeline: int) -> subprocess.Popen[bytes]:
        # The child finds modules where we do. The empty path is the current folder, where anybody's files may be.
        path = os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
        arguments = [str(sock), str(lifeline), str(memory), *([device] if device else [])]
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "glreadback.helper", *arguments],
                pass_fds=[sock, lifeline],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env={**os.environ, "PYTHONPATH": path, "MESA_SHADER_CACHE_DISABLE": "true"},
                start_new_session=True,  # no terminal of ours to type into, and no Ctrl-C of its own
            )
        except OSError as error:
            raise DeviceError(f"the helper process cannot be started ({sys.executable}: {error.strerror})") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any], fds: Sequence[int], seconds: float) -> dict[str, Any]:
        """One request and its answer. Raises the error that was answered, ReaderCrashed if none was."""
        message = json.dumps(request, separators=(",", ":")).encode()
        self._place(os.sched_getaffinity(0))  # threads that it starts stay where it is
        self._send(lambda: socket.send_fds(self._sock, [message], list(fds)))
        return self._receive(seconds)

    def again(self, seconds: float) -> None:
        """The same read as the last one once more. Raises as ask does.

        Falling asleep and being woken takes a quarter as long as a picture of 1080p. So when one read follows another
        and a processor idles, the helper works on that one, and its answer is waited for awake. With pauses between
        reads that would not pay: the idle processor's caches are cold.
        """
        mine = os.sched_getaffinity(0)
        self._row = self._row + 1 if time.perf_counter() - self._answered < _ROW else 0
        awake = self._row > 1 and _processors_idle(self._load, len(mine))
        self._place(mine - {_sched_getcpu()} if awake else mine)
        self._send(lambda: self._sock.send(AGAIN))
        self._receive(seconds, _AWAKE if awake else 0.0)
        self._answered = time.perf_counter()

    def _place(self, processors: set[int]) -> None:
        """Have the helper run on these processors."""
        if processors and processors != self._processors:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self.pid, processors)
            self._processors = processors

    def _send(self, send: Callable[[], object]) -> None:
        self.busy = True
        try:
            send()
        except ConnectionError:  # EPIPE, ECONNRESET
            raise self.crashed("") from None

    def _receive(self, seconds: float, awake: float = 0.0) -> dict[str, Any]:
        if seconds != self._timeout:
            seconds = min(max(seconds, 0.001), _LONGEST)
            whole = int(seconds)
            timeval = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._timeout = seconds
        try:
            text = bytes(self._answer[: self._next(awake)])
        except BlockingIOError:
            raise self.crashed(f"did not answer within {seconds:.3g} s and was ended") from None
        except OSError:
            text = b""
        if not text:
            raise self.crashed("")
        self.busy = False
        if text == DONE:
            return {}
        try:
            reply = parse_object(text)
            error = _as_error(reply) if "error" in reply else None
        except (SourceError, *_NONSENSE):
            raise self.nonsense() from None
        if error is not None:
            raise error
        return reply

    def _next(self, awake: float) -> int:
        """The size of the next message, which lies in _answer then; waited for awake so many seconds, then asleep.

        Raises BlockingIOError when its time is over.
        """
        until = time.perf_counter() + awake
        while time.perf_counter() < until:
            try:
                return self._sock.recv_into(self._answer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        return self._sock.recv_into(self._answer)

    def nonsense(self) -> ReaderCrashed:
        """The error for an answer that no helper of ours gives."""
        return self.crashed("answered nonsense and was ended")

    def crashed(self, what: str) -> ReaderCrashed:
        """What became of the helper: what is known of it or, where that is empty, how it ended."""
        status = None
        if not what:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(_REAP)
        last = self._last_words()
        if status is None:
            what = what or "closed its socket and was ended"
        else:
            what = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        if any(words in last for words in _MEMORY_WORDS):
            what += " at its memory limit"
        return ReaderCrashed(f"the helper process that runs GL {what}{last and ': '}{last}. The next read starts a new one")

    def _last_words(self) -> str:
        lines = os.pread(self._said, _SAID, 0).rstrip(b"\0").decode(errors="replace").split("\n")
        return _line(next((line for line in reversed(lines) if line.strip()), ""), 200)

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._sock.close()
        os.close(self._lifeline)
        os.close(self._said)
        os.close(self._load)
        self._reap()

    def _reap(self) -> None:
        self._process.kill()
        try:
            self._process.wait(_REAP)
        except subprocess.TimeoutExpired:
            # It is deep within a driver of the kernel's, from where no signal gets it. It goes when it comes out.
            threading.Thread(target=self._process.wait, daemon=True).start()

    def abandon(self) -> None:
        """In a forked child: it is the parent's, and must not be kept alive from here."""
        self._sock.close()
        os.close(self._lifeline)
        os.close(self._said)
        os.close(self._load)
        self._process.returncode = 0  # nothing to wait for


def _open_load() -> int:
    """A descriptor that says how much is running; that of nothing where the kernel does not say."""
    try:
        return os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _processors_idle(load: int, count: int) -> bool:
    """Whether less is running on the whole machine, this thread included, than there are processors for us."""
    if count == 1:
        return False
    words = os.pread(load, 100, 0).split()  # 0.20 0.18 0.12 1/80 11206: proc(5)
    return len(words) > 3 and int(words[3].partition(b"/")[0]) < count


_sched_getcpu: Callable[[], int] = ctypes.CDLL(None).sched_getcpu

_MEMORY_WORDS = ("MemoryError", "Cannot allocate memory", "bad_alloc", "out of memory", "File too large")

# ---- What a helper may answer

_NONSENSE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _line(text: Any, most: int = 2000) -> str:
    """text on one line without anything that a terminal takes for a command. Raises one of _NONSENSE for what is no text."""
    text = " ".join(text[:most].split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _number(value: object, bits: int = 64) -> int:
    if type(value) is not int or value < 0 or value.bit_length() > bits:
        raise ValueError
    return value


def _rejected(reply: dict[str, Any], message: str) -> ImportRejected:
    modifier = reply["modifier"]
    return ImportRejected(
        message,
        egl_code=_line(reply["egl_code"], 40),
        fourcc=_line(reply["fourcc"], 40),
        modifier=None if modifier is None else _number(modifier),
        planes=_number(reply["planes"], 8),
        accepted=[_number(found) for found in reply["accepted"]],
    )


def _no_device(reply: dict[str, Any], message: str) -> DeviceError:
    return DeviceError(message, {_line(name, 200): _line(why) for name, why in reply["tried"].items()})


_ERRORS: dict[str, Callable[[dict[str, Any], str], GlReadbackError]] = {
    "DescriptorError": lambda _, message: DescriptorError(message),
    "ImportRejected": _rejected,
    "DeviceError": _no_device,
    "FenceTimeout": lambda _, message: FenceTimeout(message),
}


def _as_error(reply: dict[str, Any]) -> GlReadbackError:
    return _ERRORS[reply["error"]](reply, _line(reply["message"]))


def _as_route(reply: dict[str, Any], wanted: Fourcc) -> tuple[Route, str | None]:
    """The route of a read and the device that did it."""
    name, exact, device = reply["route"], reply["exact"], reply["device"]
    if name not in ROUTES or not isinstance(exact, bool):
        raise ValueError
    reason = f"{_line(reply['reason'])}; in a helper process"
    return Route(name, wanted, exact, reason), None if device is None else _line(device, 200)


def _as_capabilities(reply: dict[str, Any]) -> Capabilities:
    words = {name: _line(reply[name], 200) for name in ("device", "driver", "renderer", "version")}
    if not isinstance(reply["software"], bool) or not isinstance(reply["desktop"], bool):
        raise TypeError
    formats = {
        Fourcc(_line(code, 40)): {_number(int(modifier[:20])): bool(external) for modifier, external in listed.items()}
        for code, listed in reply["formats"].items()
    }
    return Capabilities(
        **words,
        software=reply["software"],
        desktop=reply["desktop"],
        max_extent=_number(reply["max_extent"], 31),
        formats=formats,
        extensions=frozenset(_line(name, 200) for name in reply["extensions"]),
    )


# ---- The reader


class IsolatedReader(Reader):
    """A Reader whose GL runs in a helper process. Made by `Reader(isolate=True)`.

    Surfaces that it makes lie in shared memory, one descriptor each, which the helper can write to as long as it lives;
    after a fork, parent and child share them. Read into one of them again (out=) and nothing is copied.
    """

    def __init__(self, device: str | None = None, isolate: bool = True, memory_limit: int = MEMORY_LIMIT) -> None:
        super().__init__(device)
        if memory_limit < 1:
            raise ValueError(f"memory_limit is {memory_limit}; it must be a number of bytes, at least 1")
        self._memory_limit = memory_limit
        self._process: _Process | None = None
        self._pool = _Pool()
        self._pictures: dict[int, tuple[object, int, tuple[tuple[int, int], ...]]] = {}
        self._gone: list[int] = []  # pictures that the helper may forget
        self._numbers = itertools.count(1)
        # The last plain read, with the default time-out: picture, surface, its descriptors with what is behind them.
        self._last: tuple[object, Surface, tuple[tuple[int, tuple[int, int]], ...]] | None = None

    @classmethod
    def current(cls) -> Any:
        raise DeviceError("a borrowed context is this process's own; an isolated Reader cannot use it")

    # The helper

    def _helper(self) -> _Process:
        if self._closed:
            raise ValueError("the Reader is closed")
        if self._process is not None and self._process.busy:
            self._end()  # a read was broken off (Ctrl-C): its answer must not be taken for the next one's
        if self._process is None:
            self._process = _Process(self._device, self._memory_limit)
        return self._process

    def _ask(self, request: dict[str, Any], fds: Sequence[int], seconds: float) -> dict[str, Any]:
        process = self._helper()
        self._last = None  # whatever it was, the helper's last request is another now
        if self._gone:
            request["forget"], self._gone = self._gone, []
        dropped = self._pool.dropped
        if dropped:
            request["unmap"] = [dropped.popleft() for _ in range(len(dropped))]
        with self._ended_with_trouble():
            return process.ask(request, fds, seconds)

    @contextlib.contextmanager
    def _ended_with_trouble(self) -> Any:
        try:
            yield
        except BaseException as error:
            if isinstance(error, ReaderCrashed) or not isinstance(error, GlReadbackError):
                self._end()
            raise

    def _understood(self, make: Callable[[], Any]) -> Any:
        """What a reply means. Raises ReaderCrashed, and the helper is ended, where it makes no sense."""
        assert self._process is not None
        with self._ended_with_trouble():
            try:
                return make()
            except (GlReadbackError, *_NONSENSE):
                raise self._process.nonsense() from None

    def _end(self) -> None:
        process, self._process = self._process, None
        self._last = None
        self._pictures.clear()
        self._gone.clear()
        self._pool.dropped.clear()
        if process is not None:
            process.close()

    def _after_fork(self) -> None:
        super()._after_fork()
        process, self._process = self._process, None
        if process is not None:
            process.abandon()
        self._end()
        self._pool.close()
        self._pool = _Pool()

    def _introduce(self, picture: DmaBuf | Frame, checked: Checked) -> tuple[dict[str, Any], list[int]]:
        """What tells the helper of a picture: its number if it knows it, else all of it, and the descriptors."""
        process, frame = self._helper(), checked.frame
        assert process is self._process
        kept = self._pictures.pop(id(picture), None)
        keys = tuple(backing.key for backing in checked.backings)
        # A fence is good for one read only, so such a frame is told each time.
        if kept is not None and kept[0] is picture and kept[2] == keys and frame.acquire_fence is None:
            self._pictures[id(picture)] = kept
            return {"picture": kept[1]}, []
        number = next(self._numbers)
        if kept is not None:
            self._gone.append(kept[1])
        if frame.acquire_fence is None:
            self._pictures[id(picture)] = picture, number, keys
        while len(self._pictures) > _KEPT:
            self._gone.append(self._pictures.pop(next(iter(self._pictures)))[1])
        said = Frame(
            frame.buffer,
            visible=frame.visible,
            y_invert=frame.y_invert,
            transform=frame.transform,
            acquire_fence=frame.acquire_fence,
            color=frame.color,
            palette=frame.palette,
        )
        line, fds = format_header(number, said)
        told = {"picture": number, "header": line.decode().rstrip("\n"), "device": frame.device, "called": fds}
        return told, fds

    def _ask_about(
        self, picture: DmaBuf | Frame, checked: Checked, memory: _Memory | None, request: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Ask something about a picture, to be answered in memory."""
        fence = checked.frame.acquire_fence
        if fence is not None:
            check_fence(fence)
        told, fds = self._introduce(picture, checked)
        request.update(told)
        process = self._process
        assert process is not None
        if memory is not None:
            request["memory"] = [memory.number, memory.size]
            if memory.helper != process.number:
                fds = [*fds, memory.fd]
                memory.helper = process.number  # the helper maps it before anything else; if it dies, that number does too
        buf = checked.buf
        try:
            return self._ask(request, fds, seconds + _GRACE + buf.width * buf.height * _GRACE_PIXEL)
        finally:
            if fence is not None and self._process is not None:
                self._gone.append(told["picture"])

    # Public

    def read(
        self,
        picture: DmaBuf | Frame,
        out: Surface | None = None,
        *,
        fourcc: Fourcc | str | int | None = None,
        rect: Iterable[int] | None = None,
        scale: tuple[int, int] | None = None,
        tone_map: bool = False,
        damage: Iterable[Iterable[int]] | None = None,
        route: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Surface:
        """As `Reader.read`, in the helper. Raises ReaderCrashed if that dies, hangs or takes too much memory."""
        plain = all(option is None for option in (rect, scale, damage, route)) and not tone_map
        if damage is not None and (out is None or rect is not None or scale is not None):
            raise DescriptorError("damage updates a surface that holds the whole picture: give out=, no rect= and no scale=")
        with self._lock:
            if out is not None:
                if plain and self._same(picture, out, fourcc, timeout):
                    return out
                fourcc = _wanted_of(out, fourcc)
            frame = as_frame(picture)
            try:
                return self._read(picture, frame, out, fourcc, rect, scale, tone_map, damage, route, timeout, plain)
            finally:
                self._release(frame)

    def _read(
        self,
        picture: DmaBuf | Frame,
        frame: Frame,
        out: Surface | None,
        fourcc: Fourcc | str | int | None,
        rect: Iterable[int] | None,
        scale: tuple[int, int] | None,
        tone_map: bool,
        damage: Iterable[Iterable[int]] | None,
        route: str | None,
        timeout: float,
        plain: bool,
    ) -> Surface:
        rect = tuple(rect) if isinstance(rect, Iterable) else rect
        checked = Checked(frame, check(frame.buffer), region_of(frame, rect), "")
        request = _request(frame, checked, out, fourcc, route, damage, scale, tone_map)
        wanted = request.fourcc or default_fourcc(frame.buffer.fourcc.info)
        width, height = request.size
        if out is not None and (out.width, out.height) != (width, height):
            raise DescriptorError(f"the surface given is {out.width}x{out.height}, the picture to read {width}x{height}")
        surface, memory = self._shared(out, (width, height), wanted)
        options = {
            "rect": None if rect is None else list(map(operator.index, rect)),
            "scale": None if scale is None else [width, height],
            "tone_map": tone_map or None,
            "damage": None if damage is None else merged(damage, width, height),
            "route": route,
            "timeout": float(timeout),
        }
        if surface is not out and out is not None and damage is not None:
            surface.data[:] = out.data  # the rest of the picture stays
        place = [surface.width, surface.height, str(wanted), surface.stride]
        seconds = timeout + width * height * _GRACE_PIXEL
        reply = self._ask_about(picture, checked, memory, {"do": "read", "out": place, "options": options}, seconds)
        said, device = self._understood(lambda: _as_route(reply, wanted))
        if out is not None and surface is not out:
            for source, target in zip(surface.rows(), out.rows(), strict=True):
                target[:] = source
            surface = out
        elif out is not None and plain and timeout == DEFAULT_TIMEOUT and (frame.acquire_fence, frame.release) == (None, None):
            seen = {plane.fd: backing.key for plane, backing in zip(frame.buffer.planes, checked.backings, strict=True)}
            self._last = picture, surface, tuple(seen.items())
        surface.route, surface.device, surface.color = said, device, None if request.tone else frame.color
        return surface

    def _same(self, picture: object, out: Surface, fourcc: Fourcc | str | int | None, timeout: float) -> bool:
        """Whether this was the last read too, of the same buffers: then it has been done once more."""
        last, process = self._last, self._process
        if last is None or last[0] is not picture or last[1] is not out or process is None or process.busy:
            return False
        if out.closed or (fourcc is not None and Fourcc(fourcc) != out.fourcc) or timeout != DEFAULT_TIMEOUT:
            return False
        try:
            for fd, (device, inode) in last[2]:
                status = os.fstat(fd)
                if status.st_ino != inode or status.st_dev != device:
                    return False
        except OSError:
            return False
        with self._ended_with_trouble():
            process.again(timeout + _GRACE + out.width * out.height * _GRACE_PIXEL)
        return True

    def _shared(self, out: Surface | None, size: tuple[int, int], wanted: Fourcc) -> tuple[Surface, _Memory]:
        """The surface in shared memory to read into: out itself if it is one."""
        if out is not None:
            memory = self._pool.of(out)
            if memory is not None:
                return out, memory
            if out.data.readonly:
                raise DescriptorError("the surface given is read-only; wrap writable memory")
        width, height = size
        stride = out.stride if out is not None else packed_row(wanted, width, height)
        rows = wanted.info.planes[0].rows(height)
        memory, block = self._pool.lease(stride * rows)
        return Surface(block, width, height, wanted, stride), memory

    def read_planes(
        self, picture: DmaBuf | Frame, *, route: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> list[numpy.ndarray[Any, Any]]:
        """As `Reader.read_planes`, in the helper; the arrays lie in shared memory."""
        import numpy

        frame = as_frame(picture)
        buf = frame.buffer
        if not buf.linear or route not in (None, "alias", "map"):
            return super().read_planes(picture, route=route, timeout=timeout)  # says what is wrong
        info = buf.fourcc.info
        with self._lock:
            try:
                checked = Checked(frame, check(buf), frame.area, "")
                sizes = [layout.rows(buf.height) * layout.row_bytes(buf.width) for layout in info.planes]
                memory, block = self._pool.lease(sum(sizes))
                options = {"route": route, "timeout": float(timeout)}
                self._ask_about(picture, checked, memory, {"do": "planes", "options": options}, timeout)
            finally:
                self._release(frame)
        arrays, start = [], 0
        for layout, size in zip(info.planes, sizes, strict=True):
            found = element(layout, info.floating)
            flat = numpy.frombuffer(block, found.type, size // found.item_bytes, start)
            arrays.append(flat.reshape(array_shape(layout, buf.width, buf.height, info.floating)))
            start += size
        return arrays

    def submit(self, picture: DmaBuf | Frame, out: Surface | None = None, **options: Any) -> Pending:
        """As `Reader.submit`; an isolated read is over when it returns."""
        return Pending(self.read(picture, out, **options))

    def capabilities(self, picture: DmaBuf | Frame | None = None) -> Capabilities:
        """As `Reader.capabilities`, of the helper's device. Raises ReaderCrashed too."""
        with self._lock:
            if picture is None:
                reply = self._ask({"do": "capabilities"}, (), _START_LIMIT)
            else:
                frame = as_frame(picture)
                checked = Checked(frame, check(frame.buffer), frame.area, "")
                reply = self._ask_about(picture, checked, None, {"do": "capabilities"}, _START_LIMIT)
            found: Capabilities = self._understood(lambda: _as_capabilities(reply))
            return found

    def forget(self, picture: DmaBuf | Frame) -> None:
        """Let go of what the helper keeps of a picture's buffers."""
        keys = {backing.key for backing in check(as_frame(picture).buffer)}
        with self._lock:
            known = [key for key, (_, _, inodes) in self._pictures.items() if keys & set(inodes)]
            self._gone += [self._pictures.pop(key)[1] for key in known]
            if self._gone and self._process is not None:
                self._ask({"do": "forget"}, (), _GRACE)

    def close(self) -> None:
        """End the helper. Surfaces stay good."""
        with self._lock:
            super().close()
            self._end()
            self._pool.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            warnings.warn("unclosed glreadback.Reader", ResourceWarning, source=self, stacklevel=2)
            self._end()
        if hasattr(self, "_pool"):
            self._pool.close()
