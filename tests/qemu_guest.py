"""A real QEMU whose guest is 512 bytes: pictures that are known to the byte, the next one at each key.

`Program` puts a boot sector together, `Guest` runs it. Nothing here is imported by the library.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

QEMU = "qemu-system-x86_64"
_START = 10.0  # seconds for QEMU and SeaBIOS to come up on a busy machine


class Stage(NamedTuple):
    """A picture: the code that shows it, its size, and the colour of its pixel number n, 0xrrggbb, where that is known."""

    code: bytes
    width: int
    height: int
    pixel: Callable[[int], int] | None


# ---- real-mode code, 16 bit with 32-bit registers by prefix


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _mode(number: int) -> bytes:
    return b"\xb8" + _u16(number) + b"\xcd\x10"  # mov ax, number; int 0x10


def text(words: bytes) -> Stage:
    """VGA text mode, 720x400: every character of the screen is one of words, in turn, in changing colours."""
    fill = b"\xb8\x00\xb8\x8e\xc0\x31\xff"  # mov ax, 0xb800; mov es, ax; xor di, di
    fill += b"\xb9" + _u16(80 * 25)  # mov cx, 2000
    #     mov ax, di; and al, 0x3e; add al, '0'; and ah, 0x7f (no blinking); or ah, 1; stosw; loop
    loop = b"\x89\xf8\x24\x3e\x04" + words[:1] + b"\x80\xe4\x7f\x80\xcc\x01\xab"
    hide_cursor = b"\xb4\x01\xb9\x00\x20\xcd\x10"  # mov ah, 1; mov cx, 0x2000; int 0x10
    return Stage(_mode(3) + hide_cursor + fill + loop + b"\xe2" + _back(loop), 720, 400, None)


def _back(loop: bytes) -> bytes:
    """The operand of a two-byte jump at the loop's end to its start."""
    return (-len(loop) - 2 & 0xFF).to_bytes(1, "little")


def mode13() -> Stage:
    """320x200 in 256 colours, the BIOS's palette; QEMU shows every pixel four times."""
    fill = b"\xb8\x00\xa0\x8e\xc0\x31\xff"  # mov ax, 0xa000; mov es, ax; xor di, di
    #     mov ax, di; xor al, ah; stosb; test di, di; jnz
    loop = b"\x89\xf8\x30\xe0\xaa\x85\xff"
    return Stage(_mode(0x13) + fill + loop + b"\x75" + _back(loop), 320, 200, None)


_SPREAD = 0x9E3779B1  # odd, so that every pixel number has a colour of its own


def linear(width: int, height: int, depth: int) -> Stage:
    """A linear framebuffer of the Bochs display interface, at 32 or 16 bits a pixel, written bank by bank."""
    code = b""
    for index, value in ((4, 0), (1, width), (2, height), (3, depth), (4, 0x41)):
        code += _dispi(index) + b"\xb8" + _u16(value) + b"\xef"  # mov ax, value; out dx, ax
    code += b"\xb8\x00\xa0\x8e\xc0\x66\x31\xf6\x31\xed"  # mov ax, 0xa000; mov es, ax; xor esi, esi; xor bp, bp
    bank = _dispi(5) + b"\x89\xe8\xef\x31\xff"  # mov ax, bp; out dx, ax; xor di, di
    store = b"\x66\xab" if depth == 32 else b"\x66\xc1\xe8\x10\xab"  # stosd | shr eax, 16; stosw
    #         imul eax, esi, _SPREAD; …; inc esi; test di, di; jnz
    pixels = b"\x66\x69\xc6" + _u32(_SPREAD) + store + b"\x66\x46\x85\xff"
    pixels += b"\x75" + _back(pixels)
    banks = -(-width * height * depth // 8 // 65536)
    bank += pixels + b"\x45\x83\xfd" + bytes([banks])  # inc bp; cmp bp, banks
    code += bank + b"\x72" + _back(bank)  # jb
    return Stage(code, width, height, _rgb32 if depth == 32 else _rgb16)


def _dispi(index: int) -> bytes:
    """Choose a register: mov dx, 0x1ce; mov ax, index; out dx, ax; inc dx."""
    return b"\xba\xce\x01\xb8" + _u16(index) + b"\xef\x42"


def _rgb32(n: int) -> int:
    return n * _SPREAD & 0xFFFFFF


def _rgb16(n: int) -> int:
    """r5g6b5 as QEMU's VGA widens it: zeros at the end."""
    word = n * _SPREAD >> 16
    return (word >> 8 & 0xF8) << 16 | (word >> 3 & 0xFC) << 8 | (word << 3 & 0xF8)


def boot_sector(stages: Iterable[Stage]) -> bytes:
    """Show one picture after the other, each when a key is pressed, and write a letter to the debug port once it is whole."""
    code = b"\xfc"  # cld
    for number, stage in enumerate(stages):
        code += stage.code
        code += b"\xb0" + bytes([ord("a") + number]) + b"\xe6\xe9"  # mov al, letter; out 0xe9, al
        code += b"\x31\xc0\xcd\x16"  # xor ax, ax; int 0x16
    code += b"\xf4\xeb\xfd"  # hlt; jmp
    if len(code) > 510:
        raise ValueError(f"the pictures take {len(code)} bytes of code, a boot sector has 510")
    return code.ljust(510, b"\0") + b"\x55\xaa"


# ---- the machine


class Guest:
    """A QEMU that shows the stages. `qmp` is the socket for whoever takes pictures; `ask` is the test's own."""

    def __init__(self, stages: Iterable[Stage], display: str = "dbus,p2p=yes", devices: str = "-vga std"):
        self.stages = list(stages)
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))
        self.qmp = self.folder / "qmp"
        disk = self.folder / "disk"
        disk.write_bytes(boot_sector(self.stages))
        self._log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            f"{QEMU} -accel tcg -m 16 -nodefaults -name guest -display {display} {devices} -debugcon file:{self.folder}/port "
            f"-qmp unix:{self.qmp},server=on,wait=off -qmp unix:{self.folder}/own,server=on,wait=off "
            f"-drive file={disk},format=raw,if=ide,snapshot=on".split(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._shown = 0
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._until(lambda: self._sock.connect_ex(os.fspath(self.folder / "own")) == 0)
            self._sock.settimeout(_START)
            self._file = self._sock.makefile("rwb")
            self._file.readline()
            self.ask("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> Any:
        """A QMP command on the test's own socket."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._file.flush()
        for line in self._file:
            found = json.loads(line)
            if "error" in found:
                raise RuntimeError(found["error"])
            if "return" in found:
                return found["return"]
        raise RuntimeError("QEMU hung up")

    def show(self, number: int) -> Stage:
        """Go on to that stage, and wait until its picture is whole."""
        for current in itertools.count(self._shown):
            letter = bytes([ord("a") + current])
            port = self.folder / "port"
            self._until(lambda: port.exists() and letter in port.read_bytes())  # noqa: B023 - used at once
            if current >= number:
                break
            self.press()
        self._shown = number
        return self.stages[number]

    def press(self) -> None:
        self.ask("send-key", keys=[{"type": "qcode", "data": "spc"}])

    def screendump(self) -> tuple[int, int, bytes]:
        """Width, height and RGB bytes of QEMU's own picture."""
        path = self.folder / "dump.ppm"
        self.ask("screendump", filename=os.fspath(path))
        magic, size, most, pixels = path.read_bytes().split(b"\n", 3)
        assert (magic, most) == (b"P6", b"255")
        width, height = map(int, size.split())
        return width, height, pixels

    def stop(self) -> None:
        """As a process: nothing of it runs."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START
        while not done():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"QEMU did not come up: {self.log}")
            time.sleep(0.01)

    def close(self) -> None:
        self.kill()
        self._log.close()
        self._sock.close()
        if hasattr(self, "_file"):
            self._file.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
