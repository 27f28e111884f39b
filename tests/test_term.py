"""The terminal preview: what a terminal shows of the bytes, and which of the ways a terminal gets."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminals import Display, Picture, Terminal, xterm

from glreadback import Surface, open_source, pixels, read
from glreadback.errors import SinkError
from glreadback.sinks import SCREENS, term, write
from glreadback.sinks.term import DRAWN, Screen, drawn

ROOT = Path(__file__).parents[1]
CELL = (10, 20)
SIZES = [(1, 1), (2, 2), (7, 5), (13, 7), (41, 30)]


def noise(width: int, height: int) -> Picture:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)


def few_colors(width: int, height: int) -> Picture:
    """Sixteen colours that sixel's percent say exactly."""
    levels = np.rint(np.array([0, 20, 60, 100]) * 2.55).astype(np.uint8)
    return levels[np.random.default_rng(width).integers(0, 4, (height, width, 1))] * np.ones(3, np.uint8)


def shown(picture: Picture, screen: Screen, **options: Any) -> Display:
    display = Display(rows=80, columns=screen.columns)
    display.feed(drawn(Image.fromarray(picture), screen, **options))
    return display


# ---- the bytes


def test_the_ways_are_those_that_are_offered() -> None:
    assert tuple(DRAWN) == SCREENS


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_kitty_gets_every_pixel(width: int, height: int) -> None:
    picture = noise(width, height)
    display = shown(picture, Screen(80, 20, CELL, "kitty"))
    ((row, column, found),) = display.pictures
    assert (row, column) == (0, 0)
    assert np.array_equal(found, picture)
    assert (display.row, display.column) == (-(-height // CELL[1]), 0)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("registers", [4, 256])
def test_sixel_gets_every_pixel_of_few_colors(width: int, height: int, registers: int) -> None:
    picture = few_colors(width, height)
    display = shown(picture, Screen(80, 20, CELL, "sixel", registers=registers))
    ((row, column, found),) = display.pictures
    assert (row, column) == (0, 0)
    assert np.array_equal(found, picture)
    assert (display.row, display.column) == (-(-height // CELL[1]), 0)


@pytest.mark.parametrize("registers", [2, 16, 256])
def test_sixel_keeps_to_the_palette(registers: int) -> None:
    y, x = np.mgrid[:60, :200]
    picture = np.stack([x, 4 * y, 200 - x], axis=-1).astype(np.uint8)
    ((_, _, found),) = shown(picture, Screen(80, 20, CELL, "sixel", registers=registers)).pictures
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= registers
    # Dithered: what an area looks like is what it was.
    areas = (found.astype(float) - picture).reshape(6, 10, 20, 10, 3).mean(axis=(1, 3))
    assert abs(areas).mean() < {2: 60, 16: 12, 256: 1}[registers]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_blocks_are_two_pixels_each(width: int, height: int) -> None:
    picture = noise(width, height)
    display = shown(picture, Screen(80, 20))
    lines = -(-height // 2)
    found = display.pixels(0, lines, width)
    assert np.array_equal(found[:height], picture)
    assert display.text().count("▀") == lines * width
    assert (display.row, display.column) == (lines, 0)


def test_blocks_of_256_colors_are_the_nearest() -> None:
    picture = noise(40, 30)
    found = shown(picture, Screen(80, 20, colors=256)).pixels(0, 15, 40).astype(int)
    palette = np.array([xterm(index) for index in range(16, 256)])
    off = abs(found - picture).sum(axis=-1)
    nearest = abs(palette - picture[:, :, None].astype(int)).sum(axis=-1).min(axis=-1)
    # Pillow looks in a coarse table first; what it takes is never far from the best.
    assert (off - nearest).max() <= 40
    assert (off - nearest).mean() < 3
    exact = palette.astype(np.uint8).reshape(12, 20, 3)
    assert abs(shown(exact, Screen(80, 20, colors=256)).pixels(0, 6, 20) - exact.astype(int)).max() <= 4


def test_without_colors_there_are_shades_and_no_escape_sequences() -> None:
    ramp = np.repeat(np.arange(0, 250, 50, dtype=np.uint8)[None, :, None] + 25, 3, axis=2)
    assert drawn(Image.fromarray(np.repeat(ramp, 2, axis=0)), Screen(colors=0)).decode() == " ░▒▓█\n"


@pytest.mark.parametrize("how", DRAWN)
@pytest.mark.parametrize("size", [(1920, 1080), (300, 3000), (3000, 20), (1, 5000)])
@pytest.mark.parametrize("cell", [(10, 20), (9, 21), (0, 0)])
def test_it_fits_and_keeps_its_proportions(how: str, size: tuple[int, int], cell: tuple[int, int]) -> None:
    screen = Screen(80, 22, cell, how)
    across, down = cell if all(cell) else (8, 16)
    display = shown(np.zeros((size[1], size[0], 3), np.uint8), screen)
    if how == "blocks":
        # Half a cell is the finest there is.
        seen, grain = (max(map(len, display.text().split("\n"))) * across, display.row * down), (across, down)
    else:
        ((_, _, found),) = display.pictures
        seen, grain = (found.shape[1], found.shape[0]), (1, 1)
    assert seen[0] <= 80 * across
    assert seen[1] <= 22 * down
    tall = size[1] / size[0]
    assert abs(seen[1] - seen[0] * tall) <= grain[1] + grain[0] * tall
    full = (seen[0] > 80 * across - grain[0], seen[1] > 22 * down - grain[1], seen == size)
    assert any(full)


def test_sixel_stays_within_what_xterm_shows() -> None:
    ((_, _, found),) = shown(np.zeros((1080, 1920, 3), np.uint8), Screen(190, 60, CELL, "sixel")).pictures
    assert found.shape == (562, 1000, 3)


@pytest.mark.parametrize("how", DRAWN)
def test_a_large_picture_is_made_smaller_by_averaging(how: str) -> None:
    y, x = np.mgrid[:480, :640]
    picture = np.stack([x * 255 // 639, y * 255 // 479, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    picture[::2] ^= 8  # finer than the result
    screen = Screen(32, 24, (10, 10), how)
    display = shown(picture, screen)
    found = display.pictures[0][2] if how != "blocks" else display.pixels(0, display.row, 32)
    expected = np.asarray(Image.fromarray(picture).resize(found.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert abs(found - expected).mean() < (6 if how == "sixel" else 2)


@pytest.mark.parametrize("how", DRAWN)
def test_a_second_picture_takes_the_place_of_the_first(how: str) -> None:
    screen = Screen(40, 10, CELL, how)
    for scrolled in (0, 8):  # at the top, and at the bottom, where the first scrolls the screen
        display = Display(rows=12, columns=40)
        display.feed(b"\n" * scrolled)
        first, second = few_colors(30, 12), few_colors(30, 12)[::-1].copy()
        display.feed(drawn(Image.fromarray(first), screen))
        where = display.row, display.column
        display.feed(b"a line begun")
        display.feed(drawn(Image.fromarray(second), screen, over=True))
        assert (display.row, display.column) == where
        if how == "blocks":
            assert np.array_equal(display.pixels(where[0] - 6, 6, 30), second)
        else:
            ((row, column, found),) = display.pictures
            assert (row, column) == (where[0] - 1, 0)
            assert np.array_equal(found, second)
        assert "begun" not in display.text()


def test_alpha_is_left_out_and_deep_colors_are_rounded() -> None:
    for fourcc, bits in (("AR24", bytes((10, 20, 30, 0))), ("AB48", bytes((0, 30, 0, 20, 0, 10, 0, 0)))):
        surface = Surface.wrap(bits * 8, 4, 2, fourcc)
        display = Display(columns=80)
        stream = io.BytesIO()
        write(surface, stream, "term")
        display.feed(stream.getvalue())
        assert np.array_equal(display.pixels(0, 1, 4), pixels.rgba8(surface)[..., :3])
        assert tuple(display.pixels(0, 1, 4)[0, 0]) == (30, 20, 10)


@pytest.mark.parametrize(("options", "message"), [({"how": "sixels"}, "did you mean sixel?"), ({"over": 1}, "True or False")])
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SinkError, match=re.escape(message)):
        write(Surface.allocate(4, 4, "XR24"), io.BytesIO(), "term", **options)


# ---- the command on terminals


def answering(attributes: bytes, kitty: bool, registers: int = 256) -> Callable[[bytes], bytes]:
    """A terminal that answers what terminals do, in the order in which it was asked."""
    answers = {
        rb"\x1b\[6n": b"\x1b[1;1R",
        rb"\x1b\[c": attributes,
        rb"\x1b\[16t": b"\x1b[6;%d;%dt" % CELL[::-1],
        rb"\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\": b"\x1b_Gi=31;OK\x1b\\" if kitty else b"",
        rb"\x1b\[\?1;1;0S": b"\x1b[?1;0;%dS" % registers if b";4" in attributes else b"",
        rb"\x1bP\+q[^\x1b]*\x1b\\": b"\x1bP0+r\x1b\\",
    }

    def answer(sent: bytes) -> bytes:
        found = sorted((match.start(), back) for asked, back in answers.items() for match in re.finditer(asked, sent))
        return b"".join(back for _, back in found)

    return answer


COMMAND = [sys.executable, "-m", "glreadback"]
LACKS = "import sys; sys.modules['blessed'] = None; from glreadback.cli import main; sys.exit(main())"
WITHOUT_BLESSED = [sys.executable, "-c", LACKS]
WITHOUT_STDIN = ["sh", "-c", 'exec "$0" "$@" < /dev/null', *COMMAND]

TERMINALS = {
    "kitty": answering(b"\x1b[?62;c", kitty=True),
    "sixel": answering(b"\x1b[?62;4;22c", kitty=False),
    "both": answering(b"\x1b[?62;4;22c", kitty=True),
    "vt340": answering(b"\x1b[?63;4c", kitty=False, registers=16),
    "neither": answering(b"\x1b[?62;22c", kitty=False),
}
ASKED = re.compile(rb"\x1b\[(?:6n|c|>q|16t|\?1;1;0S)|\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\|\x1bP\+q[^\x1b]*\x1b\\")


def environment(**changes: str) -> dict[str, str]:
    terminals = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES", "KITTY", "GLREADBACK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(terminals)}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONWARNINGS": "error", **changes}


def snapshot(
    name: str, *arguments: str, source: str = "pattern:smpte?size=70x40", pixels: tuple[int, int] = (800, 480), **options: Any
) -> tuple[Display, int]:
    """The display of a terminal of 24 lines after `glreadback snapshot`, without the questions, and the exit code."""
    command = [*options.pop("command", COMMAND), "snapshot", source, *arguments]
    env = environment(**options.pop("env", {}))
    with Terminal(command, size=(24, 80, *pixels), answer=TERMINALS[name], env=env, cwd=ROOT, **options) as terminal:
        sent = terminal.read_all()
    display = Display(24, 80)
    display.feed(ASKED.sub(b"", sent))
    return display, terminal.process.returncode


def expected(source: str = "pattern:smpte?size=70x40") -> Picture:
    with open_source(source) as opened:
        return pixels.rgba8(read(next(opened.frames())))[..., :3]


@pytest.mark.parametrize(("name", "off"), [("kitty", 0), ("both", 0), ("sixel", 2)])
@pytest.mark.parametrize("size", [(800, 480), (0, 0)])
def test_a_terminal_that_can_show_pictures_gets_one(name: str, off: int, size: tuple[int, int]) -> None:
    display, code = snapshot(name, "-o", "term:", pixels=size)
    assert code == 0
    ((row, column, found),) = display.pictures
    assert (row, column) == (0, 0)
    assert abs(found.astype(int) - expected()).max() <= off
    # 40 pixels are two lines of 20; what is said stands below.
    assert display.text().split("\n")[2:] == ["standard output: 70x40 XR24 from pattern:smpte by alias"]


def test_sixel_has_as_many_colors_as_the_terminal() -> None:
    display, _ = snapshot("vt340", "-o", "term:", source="pattern:gradient?size=70x40")
    ((_, _, found),) = display.pictures
    assert 8 <= len(np.unique(found.reshape(-1, 3), axis=0)) <= 16


@pytest.mark.parametrize("name", ["kitty", "sixel", "neither"])
def test_the_whole_picture_stays_on_the_screen(name: str) -> None:
    display, _ = snapshot(name, "-o", "term:", source="pattern:smpte?size=480x1080")
    # 22 lines of 24; one for what is said, one for the prompt.
    assert display.text().split("\n")[22:] == ["standard output: 480x1080 XR24 from pattern:smpte by alias"]
    assert (display.row, display.column) == (23, 0)
    if name != "neither":
        ((row, _, found),) = display.pictures
        assert (row, found.shape[0]) == (0, 22 * CELL[1])


@pytest.mark.parametrize(("changes", "most"), [({"COLORTERM": "truecolor"}, 0), ({}, 48)])
def test_another_one_gets_blocks(changes: dict[str, str], most: int) -> None:
    display, code = snapshot("neither", "-o", "term:", env=changes)
    assert code == 0
    assert not display.pictures
    found = display.pixels(0, 20, 70)
    assert abs(found.astype(int) - expected()).max() <= most
    assert display.text().split("\n")[20].startswith("standard output: 70x40 XR24")


@pytest.mark.parametrize("how", SCREENS)
def test_what_is_asked_for_is_what_a_terminal_gets(how: str) -> None:
    display, code = snapshot("neither", "-o", f"term:{how}", command=WITHOUT_BLESSED)
    assert code == 0
    assert len(display.pictures) == (how != "blocks")


def test_without_the_library_it_is_named() -> None:
    display, code = snapshot("neither", "-o", "term:", command=WITHOUT_BLESSED)
    assert code == 1
    text = display.text().replace("\n", "")  # it is longer than a line
    assert "pip install 'glreadback[term]'" in text
    assert "-o term:kitty, term:sixel, term:blocks" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", TERMINALS)
def test_pictures_follow_one_another_in_one_place(name: str) -> None:
    display, code = snapshot(name, "-o", "term:", "--count", "3", "--interval", "0.02", env={"COLORTERM": "truecolor"})
    assert code == 0
    lines = 20 if name == "neither" else 2  # of 20 pixels, or of two
    if name == "neither":
        assert np.array_equal(display.pixels(0, 20, 70), expected())
    else:
        assert [found[:2] for found in display.pictures] == [(0, 0)]
    assert display.text().split("\n")[lines:] == ["3 pictures: standard output"]


def test_with_json_between_them_they_stay() -> None:
    display, code = snapshot("kitty", "-o", "term:", "--count", "2", "--interval", "0", "--json", source="pattern:?size=9x9")
    assert code == 0
    assert len(display.pictures) == 2
    assert display.text().count('"path": "term:"') == 2
    assert all(not display.cells[row][0][0].strip() for row, _, _ in display.pictures)


@pytest.mark.slow
def test_a_terminal_that_says_nothing_gets_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setitem(TERMINALS, "mute", lambda sent: asked.append(sent) or b"")
    display, code = snapshot("mute", "-o", "term:", env={"BLESSED_QUERY_TIMEOUT_SECONDS": "0.2"})
    assert code == 0
    assert display.text().count("▀") == 20 * 70
    # Nobody waits for further answers where the first ones do not come.
    assert b"\x1b[6n" in b"".join(asked)
    assert b"a=q" not in b"".join(asked)


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_colors_are_not_wanted_there_are_shades(changes: dict[str, str]) -> None:
    display, code = snapshot("kitty", "-o", "term:", env=changes)
    assert code == 0
    assert not display.pictures
    assert {cell[1:] for line in display.cells for cell in line} == {(None, None)}
    assert set(display.text().split("\n")[0]) <= set(" ░▒▓█")
    assert "TERM" not in changes or b"\x1b" not in display.fed


def test_a_terminal_that_cannot_answer_gets_blocks() -> None:
    """Its keys, where answers come from, are somebody else's."""
    display, code = snapshot("kitty", "-o", "term:", command=WITHOUT_STDIN)
    assert code == 0
    assert display.text().count("▀") == 20 * 70


# ---- no terminal


def piped(*arguments: str, **changes: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "glreadback", "snapshot", *arguments]
    return subprocess.run(command, env=environment(**changes), capture_output=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_a_pipe_gets_blocks_of_all_colors() -> None:
    """For `less -R`, and for the logs of CI, which show them."""
    done = piped("pattern:smpte?size=70x40", "-o", "term:")
    display = Display(24, 80)
    display.feed(done.stdout)
    assert np.array_equal(display.pixels(0, 20, 70), expected())
    assert done.stderr.startswith(b"standard output: 70x40")
    narrow = Display(24, 80)
    narrow.feed(piped("pattern:smpte?size=70x40", "-o", "-", "--format", "term", COLUMNS="35").stdout)
    assert narrow.row == 10
    assert narrow.text().count("▀") == 350
    assert set(piped("pattern:?size=70x40", "-o", "term:", NO_COLOR="1").stdout.decode()) <= set(" ░▒▓█\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-o", "term:siksel"), 2, "give term: or term:kitty, term:sixel, term:blocks"),
        (("-o", "term:", "--format", "png"), 1, "leave --format out"),
    ],
)
def test_what_cannot_be_is_named(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = piped("pattern:?size=8x8", *arguments)
    assert done.returncode == code
    assert done.stdout == b""
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_file_may_have_it_too(tmp_path: Path) -> None:
    done = piped("pattern:?size=8x8", "-o", str(tmp_path / "shot.term"))
    assert done.returncode == 0
    assert (tmp_path / "shot.term").read_text().count("▀") == 32


def test_the_module_is_light() -> None:
    code = "import sys; from glreadback.sinks import term; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"blessed", "numpy", "PIL"} & {*loaded}
    assert term.DRAWN
