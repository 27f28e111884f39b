"""Isolated reads: GL runs in a helper process, and a driver that crashes takes nothing of the caller's with it.

Descriptors go to the helper over a socket; pixels come back in sealed shared memory that is mapped, not copied. A helper
that dies, hangs past the time-out or takes more memory than allowed ends in ReaderCrashed, and the next read has a new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import errors
from .copying import Checked, region_of
from .dmabuf import DmaBuf, check
from .errors import DescriptorError, GlReadbackError, ReaderCrashed
from .fourcc import Fourcc
from .frame import Frame, as_frame
from .helper import AGAIN, DONE, MAX_MESSAGE
from .kernel.udmabuf import sealed_memfd
from .pending import Pending
from .plan import Capabilities, Route, default_fourcc
from .reader import DEFAULT_TIMEOUT, Reader, _request, _wanted_of
from .surface import Surface, array_shape, element, packed_row
from .wire.frames import format_header

if TYPE_CHECKING:
    import numpy

MEMORY_LIMIT = 4 << 30  # bytes of private memory that a helper may take
_START_LIMIT = 30.0  # seconds for Python and the driver to load
_GRACE = 5.0  # seconds beyond the caller's time-out, which is for fences, that a read may take
_KEPT = 8  # pictures the helper remembers
_FREE = 4  # shared memories kept for the next surface


class _Memory:
    """Shared memory for one surface: sealed, so that the helper cannot shrink it under the caller."""

    numbers = itertools.count(1)

    def __init__(self, size: int) -> None:
        self.fd = sealed_memfd(size, "glreadback-surface")
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.size = os.fstat(self.fd).st_size
        self.map = mmap.mmap(self.fd, self.size)
        with contextlib.suppress(OSError):
            self.map.madvise(mmap.MADV_HUGEPAGE)  # where shmem_enabled says advise
        self.number = next(self.numbers)
        self.helper = 0  # the pid of the helper that has it mapped

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Pool:
    """Shared memories: leased to surfaces, back when nothing looks at their pixels any more."""

    def __init__(self) -> None:
        self._free: list[_Memory] = []
        self._leased: dict[int, _Memory] = {}  # by where they begin
        self.dropped: list[int] = []
        self.closed = False

    def lease(self, size: int) -> tuple[_Memory, Any]:
        """Memory of at least size bytes, and the object to view it through: every view of it keeps the lease."""
        fitting = [memory for memory in self._free if size <= memory.size <= 2 * size + mmap.PAGESIZE]
        if fitting:
            memory = min(fitting, key=lambda found: found.size)
            self._free.remove(memory)
        else:
            memory = _Memory(size)
        block = (ctypes.c_ubyte * memory.size).from_buffer(memory.map)
        address = ctypes.addressof(block)
        self._leased[address] = memory
        weakref.finalize(block, self._back, address)
        return memory, block

    def of(self, surface: Surface) -> _Memory | None:
        """The memory a surface lies in, if it is from this pool and begins with it."""
        return None if surface.data.readonly else self._leased.get(surface.address)

    def _back(self, address: int) -> None:
        memory = self._leased.pop(address)
        self._free.append(memory)
        while len(self._free) > (0 if self.closed else _FREE):
            gone = self._free.pop(0)
            self.dropped.append(gone.number)
            gone.close()

    def close(self) -> None:
        self.closed = True
        while self._free:
            self._free.pop().close()


class _Process:
    """One helper process and its socket."""

    def __init__(self, device: str | None, memory: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = ours
        self._poller = select.poll()
        self._poller.register(ours, select.POLLIN)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        environment = dict(os.environ)
        here = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [environment.get("PYTHONPATH")])])
        environment["MESA_SHADER_CACHE_DISABLE"] = "true"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "glreadback.helper", str(theirs.fileno()), device or "", str(memory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=environment,
            )
        try:
            self.facts = self.receive(_START_LIMIT)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, request: dict[str, Any], fds: Sequence[int], seconds: float) -> dict[str, Any]:
        """One request and its answer. Raises ReaderCrashed, and the helper is ended; or the error that it answered."""
        return self._exchange(json.dumps(request, separators=(",", ":")).encode(), fds, seconds)

    def again(self, seconds: float) -> None:
        """The same read as the last one once more. Raises as ask does."""
        self._exchange(AGAIN, (), seconds)

    def _exchange(self, message: bytes, fds: Sequence[int], seconds: float) -> dict[str, Any]:
        if len(message) > MAX_MESSAGE:
            raise DescriptorError(f"the frame takes {len(message)} bytes to describe; at most {MAX_MESSAGE} go to the helper")
        try:
            if fds:
                socket.send_fds(self.sock, [message], list(fds))
            else:
                self.sock.send(message)
        except OSError:
            raise self._crashed("died before it was asked") from None
        reply = self.receive(seconds)
        if "error" in reply:
            raise _as_error(reply)
        return reply

    def receive(self, seconds: float) -> dict[str, Any]:
        if not self._poller.poll(seconds * 1000):
            raise self._crashed(f"did not answer within {seconds:.3g} s and was ended", kill=True)
        try:
            text = self.sock.recv(MAX_MESSAGE)
        except OSError:
            text = b""
        if not text:
            raise self._crashed("")
        if text == DONE:
            return {}
        try:
            reply = json.loads(text)
            if not isinstance(reply, dict):
                raise TypeError
        except (ValueError, TypeError):
            raise self._crashed("answered nonsense and was ended", kill=True) from None
        return reply

    def _crashed(self, what: str, kill: bool = False) -> ReaderCrashed:
        if kill:
            self.process.kill()
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if not what:
            what = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
            if any("MemoryError" in line or "Cannot allocate memory" in line or "bad_alloc" in line for line in lines):
                what += " at its memory limit"
        last = f": {lines[-1][:200]}" if lines else ""
        return ReaderCrashed(f"the helper process that runs GL {what}{last}. The next read starts a new one")

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()
        self._errors.close()


def _as_error(reply: dict[str, Any]) -> GlReadbackError:
    kind = getattr(errors, str(reply["error"]), GlReadbackError)
    error: GlReadbackError = GlReadbackError.__new__(kind)
    error.args = (str(reply.get("message", "")),)
    facts = reply.get("facts")
    for name, value in facts.items() if isinstance(facts, dict) else ():
        setattr(error, str(name), value)
    return error


class IsolatedReader(Reader):
    """A Reader whose GL runs in a helper process. Made by `Reader(isolate=True)`.

    Surfaces that it makes lie in shared memory; read into one of them again (out=) and nothing is copied.
    """

    def __init__(self, device: str | None = None, isolate: bool = True, memory_limit: int = MEMORY_LIMIT) -> None:
        super().__init__(device)
        self._memory_limit = memory_limit
        self._process: _Process | None = None
        self._pool = _Pool()
        self._pictures: dict[int, tuple[Any, int, tuple[tuple[int, int], ...]]] = {}
        self._numbers = itertools.count(1)
        # The last plain read: picture, surface, its descriptors with what is behind them, time-out.
        self._last: tuple[object, Surface, tuple[tuple[int, tuple[int, int]], ...], float] | None = None

    # The helper

    def _ask(self, request: dict[str, Any], fds: Sequence[int], seconds: float) -> dict[str, Any]:
        assert self._process is not None
        self._last = None  # whatever it was, the helper's last request is another now
        try:
            return self._process.ask(request, fds, seconds)
        except ReaderCrashed:
            self._end()
            raise

    def _helper(self) -> _Process:
        if self._closed:
            raise ValueError("the Reader is closed")
        if self._process is None:
            self._process = _Process(self._device, self._memory_limit)
        if self._pool.dropped:
            gone, self._pool.dropped = self._pool.dropped, []
            self._ask({"do": "forget", "pictures": [], "memories": gone}, (), _GRACE)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        self._last = None
        self._pictures.clear()
        if process is not None:
            process.close()

    def _after_fork(self) -> None:
        super()._after_fork()
        if self._process is not None:
            self._process.sock.close()  # the helper is the parent's; its socket must not be held open here
        self._process = None
        self._pictures.clear()
        self._pool = _Pool()

    def _introduce(self, picture: DmaBuf | Frame, checked: Checked) -> tuple[dict[str, Any], list[int]]:
        """What tells the helper of a picture: its number if it knows it, else all of it, and the descriptors."""
        frame = checked.frame
        kept = self._pictures.get(id(picture))
        keys = tuple(backing.key for backing in checked.backings)
        # A fence is good for one read only, so such a frame is told each time.
        if kept is not None and kept[0] is picture and kept[2] == keys and frame.acquire_fence is None:
            return {"picture": kept[1]}, []
        number = next(self._numbers)
        line, fds = format_header(number, frame)
        self._pictures[id(picture)] = picture, number, keys
        gone = []
        while len(self._pictures) > _KEPT:
            gone.append(self._pictures.pop(next(iter(self._pictures)))[1])
        if gone:
            self._ask({"do": "forget", "pictures": gone, "memories": []}, (), _GRACE)
        told = {"picture": number, "header": line.decode().rstrip("\n"), "planes": len(fds), "palette": frame.palette}
        return {**told, "device": frame.device}, fds

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
        if plain and out is not None and self._same(picture, out, timeout):
            return out
        frame = as_frame(picture)
        if damage is not None and (out is None or rect is not None or scale is not None):
            raise DescriptorError("damage updates a surface that holds the whole picture: give out=, no rect= and no scale=")
        with self._lock:
            try:
                checked = Checked(frame, check(frame.buffer), region_of(frame, rect), "")
                if out is not None:
                    fourcc = _wanted_of(out, fourcc)
                request = _request(frame, checked, out, fourcc, route, damage, scale, tone_map)
                wanted = request.fourcc or default_fourcc(frame.buffer.fourcc.info)
                if out is not None and (out.width, out.height) != request.size:
                    have, want = (out.width, out.height), request.size
                    raise DescriptorError("the surface given is {}x{}, the picture to read {}x{}".format(*have, *want))
                process = self._helper()
                surface, memory = self._shared(out, request.size, wanted)
                place = [memory.number, memory.size, surface.width, surface.height, str(wanted), surface.stride]
                told, fds = self._introduce(picture, checked)
                if memory.helper != process.pid:
                    fds = [*fds, memory.fd]
                    memory.helper = process.pid
                options = {
                    "rect": None if rect is None else list(rect),
                    "scale": scale,
                    "tone_map": tone_map or None,
                    "damage": None if damage is None else [list(part) for part in damage],
                    "route": route,
                    "timeout": timeout,
                }
                if out is not None and surface is not out and damage is not None:
                    surface.data[:] = out.data  # the rest of the picture stays
                reply = self._ask({"do": "read", **told, "out": place, "options": options}, fds, timeout + _GRACE)
            finally:
                self._release(frame)
            if out is not None and surface is not out:
                for source, target in zip(surface.rows(), out.rows(), strict=True):
                    target[:] = source
                surface = out
            if plain and surface is out and frame.acquire_fence is None and frame.release is None:
                fds_and_keys = {p.fd: b.key for p, b in zip(frame.buffer.planes, checked.backings, strict=True)}
                self._last = picture, surface, tuple(fds_and_keys.items()), timeout
            said = reply["route"]
            surface.route = Route(str(said["name"]), wanted, bool(said["exact"]), f"{said['reason']}; in a helper process")
            surface.device = reply["device"]
            surface.color = None if tone_map else frame.color
            return surface

    def _same(self, picture: object, out: Surface, timeout: float) -> bool:
        """Whether this was the last read too, of the same buffers: then it has been done once more."""
        last = self._last
        if last is None or last[0] is not picture or last[1] is not out or last[3] != timeout or self._process is None:
            return False
        with self._lock:
            for fd, key in last[2]:
                try:
                    status = os.fstat(fd)
                except OSError:
                    return False
                if (status.st_dev, status.st_ino) != key:
                    return False
            try:
                self._process.again(timeout + _GRACE)
            except ReaderCrashed:
                self._end()
                raise
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
        info = buf.fourcc.info
        if not buf.linear:
            return super().read_planes(picture, route=route, timeout=timeout)  # says what is wrong
        with self._lock:
            try:
                checked = Checked(frame, check(buf), frame.area, "")
                process = self._helper()
                sizes = [layout.rows(buf.height) * layout.row_bytes(buf.width) for layout in info.planes]
                memory, block = self._pool.lease(sum(sizes))
                told, fds = self._introduce(picture, checked)
                if memory.helper != process.pid:
                    fds = [*fds, memory.fd]
                    memory.helper = process.pid
                options = {"route": route, "timeout": timeout}
                place = [memory.number, memory.size]
                self._ask({"do": "planes", **told, "memory": place, "options": options}, fds, timeout + _GRACE)
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
        """The capabilities of the helper's device. Raises DeviceError, ReaderCrashed."""
        with self._lock:
            self._helper()
            found = self._ask({"do": "capabilities"}, (), _START_LIMIT)
        formats = {Fourcc(name): {int(m): bool(e) for m, e in listed.items()} for name, listed in found["formats"].items()}
        return Capabilities(**{**found, "formats": formats, "extensions": frozenset(found["extensions"])})

    def forget(self, picture: DmaBuf | Frame) -> None:
        """Let go of what the helper keeps of a picture's buffers."""
        frame = as_frame(picture)
        keys = {backing.key for backing in check(frame.buffer)}
        with self._lock:
            gone = [key for key, (_, _, inodes) in self._pictures.items() if keys & set(inodes)]
            numbers = [self._pictures.pop(key)[1] for key in gone]
            if numbers and self._process is not None:
                self._ask({"do": "forget", "pictures": numbers, "memories": []}, (), _GRACE)

    def close(self) -> None:
        """End the helper. Surfaces stay good."""
        with self._lock:
            super().close()
            self._end()
            self._pool.close()
