"""A terminal for programs under test: a pty that shows what they write and answers as it is told to."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

# What a terminal writes back to something it was sent, or nothing.
Answer = Callable[[bytes], bytes]

Picture = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width, 3)
Color = tuple[int, int, int] | None
Cell = tuple[str, Color, Color]
BLANK: Cell = (" ", None, None)


class Terminal:
    """A program on a terminal of its own, the controlling one. size is rows, columns, and pixels across and down."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        size: tuple[int, int, int, int] = (24, 80, 0, 0),
        answer: Answer = lambda sent: b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._fd, theirs = pty.openpty()
        rows, columns, width, height = size
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))
        self._answer, self.shown = answer, b""
        # Not pty.fork(): a forked copy of a process with threads is no place for Python.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            cwd=cwd,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read_until(self, *marks: str, patience: float = 30.0) -> str:
        """What it shows from here on until all marks were in it."""
        start, end = len(self.shown), time.monotonic() + patience
        while not all(mark.encode() in self.shown[start:] for mark in marks):
            assert self._read(end - time.monotonic()), f"{marks!r} did not come: {self.shown[start:]!r}"
        return self.shown[start:].decode(errors="replace")

    def read_all(self, patience: float = 60.0) -> bytes:
        """All that it shows until the program ends."""
        end = time.monotonic() + patience
        while self._read(end - time.monotonic()):
            pass
        self.process.wait(timeout=max(1.0, end - time.monotonic()))
        return self.shown

    def _read(self, patience: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, patience))
        try:
            sent = os.read(self._fd, 1 << 16) if ready else b""
        except OSError:  # EIO: nobody has the other side open
            sent = b""
        self.shown += sent
        if back := self._answer(sent) if sent else b"":
            os.write(self._fd, back)
        return bool(sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)  # hangs up
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Display:
    """What a terminal makes of bytes: cells of (character, foreground, background), and pictures where they were put.

    It knows what glreadback sends, and fails on anything else. A colour is (red, green, blue), or None for the default.
    """

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.rows, self.columns = rows, columns
        self.cells: list[list[Cell]] = [[BLANK] * columns for _ in range(rows)]
        self.pictures: list[tuple[int, int, Picture]] = []  # row, column, what
        self.row = self.column = 0
        self._saved = (0, 0)
        self._colors: list[Color] = [None, None]
        self._parts: list[bytes] = []  # of a kitty picture
        self.fed = b""

    def feed(self, data: bytes) -> None:
        self.fed += data
        at = 0
        while at < len(data):
            found = _TOKEN.match(data, at)
            assert found, f"what is {data[at : at + 40]!r}?"
            at = found.end()
            kind = found.lastgroup
            assert kind
            getattr(self, f"_{kind}")(found[kind])

    def text(self) -> str:
        return "\n".join("".join(cell[0] for cell in line).rstrip() for line in self.cells).rstrip()

    def pixels(self, top: int, height: int, width: int) -> Picture:
        """Lines of upper half blocks as pixels: twice as many as lines; what has no colour is black."""
        found = np.zeros((2 * height, width, 3), np.uint8)
        for y in range(height):
            for x in range(width):
                sign, upper, lower = self.cells[top + y][x]
                assert sign == "▀"
                found[2 * y, x], found[2 * y + 1, x] = upper or (0, 0, 0), lower or (0, 0, 0)
        return found

    def _new_line(self) -> None:
        self.row += 1
        if self.row == self.rows:
            self.row -= 1
            self.cells = [*self.cells[1:], [BLANK] * self.columns]
            self.pictures = [(row - 1, column, picture) for row, column, picture in self.pictures]

    def _control(self, sign: bytes) -> None:
        if sign == b"\n":
            self._new_line()
            self.column = 0  # as the tty has it (onlcr)
        elif sign == b"\r":
            self.column = 0
        elif sign == b"\x1b7":
            self._saved = (self.row, self.column)
        else:
            self.row, self.column = self._saved

    def _csi(self, body: bytes) -> None:
        values, final = body[:-1].decode(), chr(body[-1])
        count = int(values or 1) if ";" not in values else 0
        if final == "m":
            self._style([int(value or 0) for value in values.split(";")])
        elif final in "AF":
            self.row = max(0, self.row - count)
            self.column = 0 if final == "F" else self.column
        elif final == "B":
            self.row = min(self.rows - 1, self.row + count)
        else:
            assert body == b"K", body
            self.cells[self.row][self.column :] = [BLANK] * (self.columns - self.column)

    def _style(self, values: list[int]) -> None:
        while values:
            kind = values.pop(0)
            if kind in (38, 48):
                color = tuple(values[1:4]) if values[0] == 2 else xterm(values[1])
                del values[: 4 if values[0] == 2 else 2]
                self._colors[kind == 48] = color
            elif kind == 0:
                self._colors = [None, None]
            else:
                assert kind == 49, kind
                self._colors[1] = None

    def _text(self, text: bytes) -> None:
        for sign in text.decode():
            if self.column == self.columns:
                self._new_line()
                self.column = 0
            self.cells[self.row][self.column] = (sign, *self._colors)
            self.column += 1

    def _apc(self, body: bytes) -> None:
        keys, _, payload = body.partition(b";")
        said = dict(key.split("=") for key in keys.decode().split(","))
        assert len(payload) <= 4096
        assert said["q"] == "2", "its answer would be taken for keys"
        if said.get("a") == "d":
            assert said["d"] == "C"
            self.pictures = [found for found in self.pictures if found[:2] != (self.row, self.column)]
            return
        if not self._parts:
            assert (said["a"], said["f"], said["C"]) == ("T", "100", "1")
        else:
            assert set(said) == {"q", "m"}
        self._parts.append(payload)
        if said["m"] == "0":
            with Image.open(io.BytesIO(base64.b64decode(b"".join(self._parts)))) as image:
                self.pictures.append((self.row, self.column, np.asarray(image.convert("RGB"))))
            self._parts = []

    def _dcs(self, body: bytes) -> None:
        picture = sixels(body)
        # Pixels replace pixels.
        self.pictures = [found for found in self.pictures if found[:2] != (self.row, self.column)]
        self.pictures.append((self.row, self.column, picture))


def sixels(body: bytes) -> Picture:
    """The pixels of a sixel picture, between DCS and ST (VT330/340 manual, chapter 14); every one has to be set."""
    start = re.match(rb'0;1;0q"1;1;(\d+);(\d+)', body)
    assert start
    width, height = int(start[1]), int(start[2])
    found = np.full((height, width, 3), -1)
    palette: dict[int, np.ndarray[Any, Any]] = {}
    color, x, y = 0, 0, 0
    for token in re.finditer(rb"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", body[start.end() :]):
        if token[2]:
            palette[int(token[1])] = np.rint([int(part) * 2.55 for part in token.groups()[1:4]])
        elif token[1]:
            color = int(token[1])
        elif token[8]:
            x, y = 0, y + 6 * (token[8] == b"-")
        else:
            count, bits = int(token[5] or 1), (token[6] or token[7])[0] - 63
            for bit in range(6):
                if bits >> bit & 1:
                    assert y + bit < height
                    assert x + count <= width
                    found[y + bit, x : x + count] = palette[color]
            x += count
    assert (found >= 0).all()
    return found.astype(np.uint8)


def xterm(index: int) -> Color:
    """xterm's colours 16 to 255, by its 256colres.h."""
    assert 16 <= index < 256
    if index >= 232:
        return (8 + 10 * (index - 232),) * 3
    red, green, blue = ((index - 16) // step % 6 for step in (36, 6, 1))
    return tuple(level and 55 + 40 * level for level in (red, green, blue))  # type: ignore[return-value]


_TOKEN = re.compile(
    rb"\x1b\[(?P<csi>[0-9;]*[A-Za-z])|\x1b_G(?P<apc>[^\x1b]*)\x1b\\|\x1bP(?P<dcs>[^\x1b]*)\x1b\\"
    rb"|(?P<control>[\n\r]|\x1b[78])|(?P<text>[^\x00-\x1f]+)"
)
