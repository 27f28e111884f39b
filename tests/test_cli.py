"""The command, as a shell runs it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glreadback import FenceTimeout, Fourcc, Reader, Surface, cli
from glreadback.cli import _exit, _terminal, doctor
from glreadback.cli._verify import first_difference
from glreadback.errors import SourceError
from glreadback.sources.pattern import pattern_planes
from glreadback.sources.patterns import NAMES

Patch, Captured = pytest.MonkeyPatch, pytest.CaptureFixture[str]

COMMAND = [sys.executable, "-m", "glreadback"]
ROOT = Path(__file__).parents[1]
SMALL = "pattern:?size=33x21&fourcc=XR24"
NO_EGL = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}  # libglvnd then finds no driver


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLREADBACK_", "NO_COLOR", "PYTHONUNB"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **changes}


def run(*arguments: str | Path, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    changes = options.pop("env", {})
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(**changes), text=True, capture_output=True, timeout=60, **options)


def ok(*arguments: str | Path, **options: Any) -> str:
    """A run that must do well and say nothing on stderr; what it printed."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    out: str = done.stdout
    return out


def ends_with(arguments: list[str]) -> int:
    """The exit code of a run in this process."""
    try:
        return cli.main(arguments)
    except SystemExit as exited:
        return int(exited.code or 0)


def assert_one_message(text: str) -> None:
    """`glreadback: …`, with further lines indented under it, and nothing else."""
    first, *more = text.splitlines()
    assert first.startswith("glreadback: ")
    assert all(line.startswith(" " * 12) for line in more), text
    assert len(more) <= 1
    assert "Traceback" not in text


def picture(name: str, width: int, height: int, fourcc: str) -> bytes:
    """The bytes of a pattern of one plane."""
    (rows,) = pattern_planes(name, width, height, fourcc)
    return b"".join(row * count for count, row in rows)


# ---- the command itself


def test_help_lists_every_command() -> None:
    text = ok("--help")
    assert all(re.search(rf"^  {command} ", text, re.MULTILINE) for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str) -> None:
    parser = cli.parser_of(command)
    text = parser.format_help()
    assert text.startswith(f"usage: glreadback {command}")
    assert max(map(len, text.splitlines())) <= 128
    # Every option that is listed says what it does.
    assert all(action.help for action in parser._actions)


def test_every_command_of_the_design_is_there() -> None:
    assert [*cli.COMMANDS] == ["snapshot", "info", "formats", "doctor", "bench", "sources"]


def test_version() -> None:
    from glreadback import __version__

    assert ok("--version").startswith(f"glreadback {__version__}\nPyOpenGL ")  # the rest is in test_completion.py


def test_examples_of_the_help_are_real(tmp_path: Path) -> None:
    """Those that need nothing but a pattern are run."""
    found = [line.split("     ")[0].strip() for line in cli.parser_of("snapshot").epilog.splitlines() if "pattern:" in line]  # type: ignore[union-attr]
    assert len(found) >= 3
    for line in found:
        if "|" in line or "--count" in line:
            continue
        small = line.replace("glreadback ", "").replace("'", "").replace("pattern: ", "pattern:?size=8x8 ")
        assert cli.main([part.replace("bars.png", f"{tmp_path}/bars.png").replace("noise.npy", f"{tmp_path}/noise.npy")
                         for part in small.split()]) == 0  # fmt: skip


# ---- mistakes

WRONG_USAGE = [
    ([], "no command was given"),
    (["snapshoot"], "did you mean snapshot?"),
    (["--verbose", "snapshot"], "there is no option '--verbose' before the command"),
    (["snapshot"], "SOURCE"),
    (["snapshot", "patern:"], "did you mean pattern?"),
    (["snapshot", "pattern:smpt"], "did you mean smpte?"),
    (["snapshot", "pattern:?size=0x8"], "WIDTHxHEIGHT"),
    (["snapshot", "pattern:?sice=8x8"], "did you mean size?"),
    (["snapshot", "pattern:?fourcc=XR23"], "XR24"),
    (["snapshot", "file:x.raw"], "size= and fourcc="),
    (["snapshot", SMALL, "--route", "magic"], "magic"),
    (["snapshot", SMALL, "--fourcc", "XR23"], "XR24 (XRGB8888)"),
    (["snapshot", SMALL, "--rect", "1,2,3"], "X,Y,WIDTH,HEIGHT"),
    (["snapshot", SMALL, "--rect", "1,2,3,-4"], "X,Y,WIDTH,HEIGHT"),
    (["snapshot", SMALL, "--timeout", "soon"], "give seconds"),
    (["snapshot", SMALL, "--timeout", "nan"], "give seconds"),
    (["snapshot", SMALL, "--count", "0"], "whole number from 1 on"),
    (["snapshot", SMALL, "--format", "gif"], "gif"),
    (["snapshot", SMALL, "--transform", "45"], "45"),
    (["snapshot", SMALL, "--ver"], "--ver"),
    (["info"], "SOURCE"),
    (["sources", "nope"], "nope"),
    (["bench", "--seconds", "-1"], "give seconds"),
    (["doctor", "now"], "now"),
]

FAILURES = [
    (["snapshot", "fd:77?size=8x8&fourcc=XR24"], "descriptor 77 is not open"),
    (["snapshot", "fd:0?size=8x8&fourcc=XR24"], "descriptor 0"),
    (["snapshot", "./missing.raw?size=8x8&fourcc=XR24"], "missing.raw"),
    (["snapshot", SMALL, "-o", "/nonexistent/x.png"], "Make the folder first"),
    (["snapshot", SMALL, "-o", "shot.gif"], "png, jpg"),
    (["snapshot", SMALL, "-o", "shot"], "--format"),
    (["snapshot", SMALL, "--format", "png", "-o", "."], "folder"),
    (["snapshot", SMALL, "--rect", "0,0,34,21"], "33x21 pixels"),
    (["snapshot", SMALL, "--device", "gpu"], "software"),
    (["snapshot", SMALL, "--device", "/dev/dri/renderD250"], "/dev/dri/renderD250"),
    (["snapshot", "pattern:?size=8x8&fourcc=NV12", "--route", "alias"], "by the alias route"),
    (["snapshot", "pattern:?size=8x8&fourcc=NV12&stride=4"], "stride of 4"),
    (["snapshot", "pattern:?size=8x8&fourcc=YU08"], "compressed layouts"),
    (["info", "fd:77?size=8x8&fourcc=XR24"], "descriptor 77 is not open"),
    (["formats", "--device", "gpu"], "software"),
    (["bench", "fd:77?size=8x8&fourcc=XR24"], "descriptor 77 is not open"),
    (["bench", SMALL, "--device", "gpu"], "software"),
]


@pytest.mark.parametrize(("arguments", "words", "code"),
    [(*case, 2) for case in WRONG_USAGE] + [(*case, 1) for case in FAILURES],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_a_mistake_is_one_message(
    arguments: list[str],
    words: str,
    code: int,
    tmp_path: Path,
    monkeypatch: Patch,
    capfd: Captured,
) -> None:
    # In this process, for speed; those below show that a process of its own is no different.
    monkeypatch.chdir(tmp_path)
    ended = ends_with(arguments)
    out, err = capfd.readouterr()
    assert_one_message(err)
    assert words in err
    assert ended == code
    assert out == ""
    assert os.listdir(tmp_path) == []


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    for arguments, code in (
        (["snapshot", "patern:"], 2),
        (["snapshot", "--route", "x"], 2),
        (["snapshot", SMALL, "-o", "x.gif"], 1),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert_one_message(done.stderr)
        assert (done.returncode, done.stdout) == (code, "")


def test_a_message_names_the_value_and_the_limit(tmp_path: Path) -> None:
    (tmp_path / "frame").write_bytes(bytes(1000))
    with open(tmp_path / "frame", "rb") as frame:
        done = run("snapshot", f"fd:{frame.fileno()}?size=100x10&fourcc=XR24", pass_fds=[frame.fileno()], cwd=tmp_path)
    assert_one_message(done.stderr)
    assert done.returncode == 1
    assert "plane 0 ends at byte 4000" in done.stderr
    assert "holds 1000" in done.stderr


def test_further_lines_are_indented(capsys: Captured) -> None:
    _exit.report("too small\n(it is \x1b[31mred)")
    assert capsys.readouterr().err == "glreadback: too small\n            (it is \\x1b[31mred)\n"


def test_no_escape_sequence_reaches_the_terminal() -> None:
    done = run("snapshot", "pattern:\x1b[2J\n?size=8x8")
    assert_one_message(done.stderr)
    assert "\x1b" not in done.stderr


def test_debugging_shows_where_it_came_from() -> None:
    done = run("snapshot", "fd:77?size=8x8&fourcc=XR24", env={"GLREADBACK_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("glreadback: ")


@pytest.mark.parametrize(("error", "code", "said"),
    [
        (FenceTimeout("no fence"), 3, "glreadback: no fence\n"),
        (TimeoutError("late"), 3, "glreadback: late\n"),
        (SourceError("gone"), 1, "glreadback: gone\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device", "x.png"), 1, "glreadback: x.png: No space left on device\n"),
        (MemoryError(), 1, "glreadback: out of memory\n"),
    ],
    ids=lambda value: type(value).__name__)  # fmt: skip
def test_exit_codes(error: BaseException, code: int, said: str, capsys: Captured) -> None:
    with _exit.ends_quietly() as ending:
        raise error
    assert (ending.code, capsys.readouterr().err) == (code, said)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), _exit.ends_quietly():
        _ = 1 / 0


# ---- snapshot


def test_snapshot_is_the_picture(tmp_path: Path) -> None:
    out = tmp_path / "shot.raw"
    said = ok("snapshot", SMALL, "-o", out)
    assert out.read_bytes() == picture("smpte", 33, 21, "XR24")
    assert said == f"{out}: 33x21 XR24 from pattern:smpte by alias\n"


def test_snapshot_without_a_name(tmp_path: Path) -> None:
    assert ok("snapshot", SMALL, cwd=tmp_path).startswith("snapshot.png: ")
    assert (tmp_path / "snapshot.png").read_bytes().startswith(b"\x89PNG")
    assert ok("snapshot", SMALL, "--format", "ppm", cwd=tmp_path).startswith("snapshot.ppm: ")
    assert sorted(os.listdir(tmp_path)) == ["snapshot.png", "snapshot.ppm"]


def test_snapshot_to_standard_output() -> None:
    done = subprocess.run([*COMMAND, "snapshot", SMALL, "--format", "raw", "-o", "-"], capture_output=True, env=environment())
    assert done.stdout == picture("smpte", 33, 21, "XR24")
    assert done.stderr == b"standard output: 33x21 XR24 from pattern:smpte by alias\n"


def test_snapshot_options_reach_the_reader(tmp_path: Path) -> None:
    out = tmp_path / "shot.npy"
    said = json.loads(ok("snapshot", SMALL, "--rect", "3,2,10,5", "--fourcc", "AB24", "--route", "native", "-o", out, "--json"))
    whole = np.frombuffer(picture("smpte", 33, 21, "AB24"), np.uint8).reshape(21, 33, 4)
    assert np.array_equal(np.load(out), whole[2:7, 3:13])
    assert said["route"]["name"] == "native"


def test_snapshot_json(tmp_path: Path) -> None:
    out = tmp_path / "shot.ppm"
    said = json.loads(ok("snapshot", SMALL, "-o", out, "--json", "--verify", "--device", "software"))
    milliseconds = said.pop("ms")
    assert 0 < milliseconds < 10_000
    assert said == {
        "path": str(out),
        "width": 33,
        "height": 21,
        "fourcc": "XR24",
        "stride": 132,
        "route": {"name": "alias", "exact": True, "reason": "linear: the same bytes as AB24"},
        "device": "software",
        "source": "pattern:smpte",
        "verified": "identical by alias and map",
    }


@pytest.mark.parametrize("transform", ["90", "flipped-270"])
def test_snapshot_transform(transform: str, tmp_path: Path) -> None:
    said = json.loads(ok("snapshot", SMALL, "--transform", transform, "-o", tmp_path / "shot.npy", "--json"))
    assert (said["width"], said["height"]) == (21, 33)


def test_snapshot_says_why_it_was_a_fallback(tmp_path: Path) -> None:
    said = ok("snapshot", SMALL, "-o", tmp_path / "shot.ppm", env=NO_EGL)
    assert " by map (" in said
    assert "no device can read" in said
    assert said.count("\n") == 1


def test_snapshot_of_an_inherited_descriptor(tmp_path: Path) -> None:
    bytes_ = picture("gradient", 33, 21, "XR24")
    (tmp_path / "frame").write_bytes(bytes_)
    with open(tmp_path / "frame", "rb") as frame:
        source = f"fd:{frame.fileno()}?size=33x21&fourcc=XR24"
        said = ok("snapshot", source, "-o", tmp_path / "out.raw", "--verify", pass_fds=[frame.fileno()])
    assert (tmp_path / "out.raw").read_bytes() == bytes_
    assert "copied first: it is a file that can shrink" in said


def test_several_snapshots(tmp_path: Path) -> None:
    said = ok("snapshot", SMALL, "--count", "3", "--interval", "0", "-o", tmp_path / "shot.ppm").splitlines()
    names = [f"shot-{number:04}.ppm" for number in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == names
    assert [line.partition(": ")[0] for line in said] == [str(tmp_path / name) for name in names]


def test_the_interval_is_from_start_to_start(tmp_path: Path) -> None:
    start = time.monotonic()
    assert cli.main(["snapshot", SMALL, "--count", "4", "--interval", "0.2", "-o", str(tmp_path / "shot.ppm")]) == 0
    assert 0.6 <= time.monotonic() - start < 2.0


def test_cursor_of_a_source_without_one(tmp_path: Path) -> None:
    done = run("snapshot", SMALL, "--cursor", "-o", tmp_path / "shot.ppm")
    assert done.returncode == 0
    assert_one_message(done.stderr)
    assert "pattern: knows no mouse pointer" in done.stderr


# ---- snapshot: whoever reads goes away, or there is no room


def test_reader_of_standard_output_goes_away() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "snapshot", "pattern:", "--format", "raw", "-o", "-"],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_reader_of_a_fifo_goes_away(tmp_path: Path) -> None:
    fifo = tmp_path / "shot.raw"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [*COMMAND, "snapshot", "pattern:", "-o", fifo], stderr=subprocess.PIPE, text=True, env=environment()
    ) as ours:
        with open(fifo, "rb") as reading:
            assert reading.read(1000)
        _, err = ours.communicate(timeout=30)
    assert ours.returncode == 1
    assert_one_message(err)
    assert os.listdir(tmp_path) == ["shot.raw"]


@pytest.mark.parametrize("arguments", [["snapshot", SMALL, "--format", "raw", "-o", "-"], ["info", SMALL], ["sources"]])
def test_standard_output_is_full(arguments: Sequence[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 1
    assert_one_message(done.stderr)
    assert "No space left" in done.stderr


def test_standard_output_is_closed(tmp_path: Path) -> None:
    done = run("snapshot", SMALL, "-o", tmp_path / "shot.ppm", preexec_fn=lambda: os.close(1))
    assert done.returncode == 0
    assert (tmp_path / "shot.ppm").exists()


def test_a_picture_is_no_text_for_a_terminal(monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["snapshot", SMALL, "-o", "-"]) == 1
    assert "-o FILE" in capsys.readouterr().err


def test_interrupted_between_two_pictures(tmp_path: Path) -> None:
    command = [*COMMAND, "snapshot", SMALL, "--count", "100", "--interval", "60", "-o", tmp_path / "shot.png"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as ours:
        assert ours.stdout is not None
        assert "shot-0001.png" in ours.stdout.readline()
        ours.send_signal(signal.SIGINT)
        out, err = ours.communicate(timeout=30)
    assert (ours.returncode, out, err) == (130, "", "")
    assert os.listdir(tmp_path) == ["shot-0001.png"]


# ---- snapshot --verify


@pytest.mark.parametrize("size", ["1x1", "7x5", "33x21", "637x361"])
@pytest.mark.parametrize("name", NAMES)
def test_verify_all_patterns(name: str, size: str, tmp_path: Path, capsys: Captured) -> None:
    for fourcc, stride in (("XR24", ""), ("AR30", "&stride=4096&offset=64"), ("RG24", ""), ("R8", ""), ("AB4H", "")):
        source = f"pattern:{name}?size={size}&fourcc={fourcc}{stride}"
        assert cli.main(["snapshot", source, "--verify", "--device", "software", "-o", str(tmp_path / "shot.raw")]) == 0
        assert "verified: identical by alias and map" in capsys.readouterr().out


@pytest.mark.parametrize("fourcc", ["NV12", "P010", "YUYV", "YU12"])
def test_verify_of_a_conversion_compares_the_planes(fourcc: str, tmp_path: Path, capsys: Captured) -> None:
    source = f"pattern:noise?size=33x21&fourcc={fourcc}"
    assert cli.main(["snapshot", source, "--verify", "-o", str(tmp_path / "shot.npy")]) == 0
    assert re.search("verified: the raw planes? (is|are) identical by alias and map", capsys.readouterr().out)


def test_verify_names_the_first_pixel(tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    read = Reader.read

    def misread(self: Reader, *args: Any, **options: Any) -> Surface:
        found = read(self, *args, **options)
        if found.route == "map":
            found.data[found.stride * 4 + 7 * 4 + 1] ^= 0x10
        return found

    monkeypatch.setattr(Reader, "read", misread)
    out = tmp_path / "shot.ppm"
    assert cli.main(["snapshot", "pattern:solid?size=9x9&color=102030", "--verify", "-o", str(out)]) == 1
    assert "pixel (7, 4) is B 48 G 32 R 16 by alias and B 48 G 48 R 16 by map" in capsys.readouterr().err
    assert not out.exists()


def test_verify_names_the_first_sample_of_a_plane(tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    read = Reader.read_planes

    def misread(self: Reader, *args: Any, **options: Any) -> Any:
        found = read(self, *args, **options)
        if options.get("route") == "map":
            found[1][2, 3, 1] ^= 1
        return found

    monkeypatch.setattr(Reader, "read_planes", misread)
    assert cli.main(["snapshot", "pattern:?size=9x9&fourcc=NV12", "--verify", "-o", str(tmp_path / "shot.ppm")]) == 1
    assert "sample (3, 2) of plane 1 is [" in capsys.readouterr().err


@pytest.mark.parametrize(("fourcc", "byte", "change", "expected"),
    [
        ("XR24", 4 * (12 * 3 + 5) + 3, 0xFF, None),  # X
        ("AR24", 4 * (12 * 3 + 5) + 3, 0xFF, (5, 3)),
        ("XR15", 2 * (12 * 3 + 5) + 1, 0x80, None),
        ("XR15", 2 * (12 * 3 + 5) + 1, 0x40, (5, 3)),
        ("R1", 2 * 3 + 1, 0x10, (11, 3)),  # the most significant bit comes first: 8 + 3
        ("AB48", 8 * (12 * 3 + 5) + 6, 0x01, (5, 3)),
    ])  # fmt: skip
def test_first_difference(fourcc: str, byte: int, change: int, expected: tuple[int, int] | None) -> None:
    one, other = (Surface.allocate(12, 7, fourcc) for _ in range(2))
    assert first_difference(one, other) is None
    other.data[byte] ^= change
    found = first_difference(one, other)
    assert (found and found[:2]) == expected


# ---- info


def test_info() -> None:
    lines = dict(
        re.split(r"  +", line, maxsplit=1)
        for line in ok("info", f"{SMALL}&stride=256&offset=64").splitlines()
        if line[0] != " "
    )
    assert lines["source"] == "pattern:smpte"
    assert lines["size"] == "33x21 pixels"
    assert lines["fourcc"] == "XR24 (XRGB8888: RGB)"
    assert lines["modifier"] == "LINEAR (0x0)"
    assert re.fullmatch(r"fd \d+, offset 64, stride 256; 4 bytes a sample, B8 G8 R8 X8 from the lowest bit", lines["plane 0"])
    assert re.match("udmabuf|memfd", lines["memory"])
    assert lines["read by"].startswith("alias on ")


def test_info_json() -> None:
    found = json.loads(ok("info", "pattern:?size=33x21&fourcc=NV12", "--json"))
    assert (found["width"], found["height"], found["fourcc"]) == (33, 21, "NV12")
    assert [plane["stride"] for plane in found["planes"]] == [33, 34]
    assert found["route"]["name"] == "map"  # converted on the CPU, as drawing would be too
    assert found["about"]["pattern"] == "smpte"


def test_info_of_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "frame").write_bytes(bytes(1000))
    with open(tmp_path / "frame", "rb") as frame:
        done = run("info", f"fd:{frame.fileno()}?size=100x10&fourcc=XR24", pass_fds=[frame.fileno()])
    assert done.returncode == 1
    assert "100x10 pixels" in done.stdout
    assert "read by" not in done.stdout
    assert_one_message(done.stderr)


def test_info_without_egl() -> None:
    said = ok("info", SMALL, env=NO_EGL)
    assert "read by" in said
    assert "map, as XR24" in said


def test_info_reads_no_pixels(monkeypatch: Patch, capsys: Captured) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("info must not read")

    for name in ("read", "read_planes"):
        monkeypatch.setattr(Reader, name, never)
    assert cli.main(["info", SMALL]) == 0


# ---- formats


def test_formats() -> None:
    lines = ok("formats", "--device", "software").splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1 : 1 + len(Fourcc.all())]] == list(Fourcc.all())
    assert "\x1b" not in "".join(lines)
    row = next(line for line in lines if line.startswith("XR24 ")).split()
    assert row == ["XR24", "XRGB8888", "1", "alias", "yes", "XR24", "LINEAR"]


def test_formats_json() -> None:
    found = json.loads(ok("formats", "--json", "--device", "software"))
    assert found["device"]["name"] == "software"
    rows = {row["fourcc"]: row for row in found["formats"]}
    assert set(rows) == set(Fourcc.all())
    assert rows["XR24"]["route"] == "alias"
    assert rows["XR24"]["modifiers"][0]["modifier"] == "LINEAR"
    assert (rows["NV12"]["route"], rows["NV12"]["exact"], rows["NV12"]["as"]) == ("map", False, "AB24")
    assert (rows["P010"]["as"], rows["YU08"]["route"]) == ("AB48", None)
    assert all(row["reason"] for row in rows.values())


def test_formats_without_egl() -> None:
    text = ok("formats", env=NO_EGL)
    assert "only the map route is left" in text
    assert re.search(r"^XR24 .* map +yes +XR24", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100 or "left" in max(text.splitlines(), key=len)


# ---- doctor


def test_doctor() -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("Python", "PyOpenGL", "the software device works", "udmabuf", "CAP_SYS_ADMIN", "pid:", "imagecodecs"):
        assert words in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Verdict: pictures can be read here, on the software device")
    assert max(map(len, done.stdout.splitlines())) <= 102


def test_doctor_without_egl() -> None:
    done = run("doctor", env=NO_EGL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[FAIL]" in done.stdout
    assert "apt install" in done.stdout
    assert "by the map route" in done.stdout.splitlines()[-1]


def test_doctor_survives_a_driver_that_does_not(monkeypatch: Patch, capsys: Captured, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho \'{"trying": "the EGL device software"}\'\nkill -SEGV $$\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert cli.main(["doctor"]) == 0
    assert "trying the EGL device software ended with SIGSEGV" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_doctor_says_when_nothing_works(monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setattr(doctor, "_probe", lambda: doctor.Probed([], "EGL is broken"))
    monkeypatch.setattr(doctor, "_map_works", lambda: False)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Verdict: no picture can be read here."


def test_doctor_outlives_its_own_checks(monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setattr(doctor, "_probe", lambda: doctor.Probed([], ""))
    monkeypatch.setattr(doctor.udmabuf, "allocate", None)
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: True)
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert "this check failed itself: TypeError" in out
    assert "Verdict: " in out


@pytest.mark.parametrize(("scope", "mark"), [("0", "ok"), ("1", "no"), ("2", "no"), ("3", "no"), ("9", "no")])
def test_doctor_knows_every_ptrace_scope(scope: str, mark: str, monkeypatch: Patch, tmp_path: Path) -> None:
    import builtins

    real = builtins.open
    (tmp_path / "scope").write_text(f"{scope}\n")
    monkeypatch.setattr(
        builtins,
        "open",
        lambda path, *more, **options: real(tmp_path / "scope" if "yama" in str(path) else path, *more, **options),
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor._ptrace().mark == mark


# ---- bench


def test_bench_json(tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    found = json.loads(
        ok("bench", "pattern:?size=64x48", "--seconds", "0.05", "--json", "--plot", plot, "--device", "software")
    )
    names = {measure["name"] for measure in found["measures"]}
    assert names >= {"memcpy", "alias", "native", "map", "egl-headless", "fresh mmap", "fresh import"}
    assert found["measures"][0] == {**found["measures"][0], "name": "memcpy", "ratio": 1.0}
    assert all(measure["seconds"] > 0 and measure["rounds"] >= 5 for measure in found["measures"])
    assert found["bytes"] == 64 * 48 * 4
    assert found["1x1_us"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_bench_table() -> None:
    text = ok("bench", "pattern:?size=64x48&fourcc=RG24", "--seconds", "0.05")
    assert re.search(r"^memcpy +[\d.]+ ms +1\.00 ", text, re.MULTILINE)
    assert re.search("^native: not here: no read pair is exact for RG24$", text, re.MULTILINE)
    assert re.search(r"alias takes [\d.]+ × memcpy", text)


def test_bench_without_egl() -> None:
    found = json.loads(ok("bench", "pattern:?size=64x48", "--seconds", "0.05", "--json", env=NO_EGL))
    assert [measure["name"] for measure in found["measures"]][:2] == ["memcpy", "map"]
    assert {skip["name"] for skip in found["skipped"]} >= {"alias", "egl-headless"}


# ---- sources


def test_sources() -> None:
    from glreadback.sources import REGISTRY

    text = ok("sources")
    assert all(re.search(rf"^{scheme}:", text, re.MULTILINE) for scheme in REGISTRY)
    assert max(map(len, text.splitlines())) <= 100
    assert "fourcc" in json.loads(ok("sources", "file", "--json"))["file"]["keys"]


# ---- terminals


class FakeTerminal:
    closed = False

    def isatty(self) -> bool:
        return True


def test_colour_only_where_it_is_wanted(monkeypatch: Patch) -> None:
    terminal: Any = FakeTerminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert _terminal.paint("x", "red", terminal) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert _terminal.paint("x", "red", terminal) == "x"
    assert _terminal.paint("x", "red") == "x"  # pytest's stdout is none


def test_table_keeps_to_its_width() -> None:
    rows = [("a", "b" * 20), ("ccc", "d e " * 40)]
    assert max(map(len, _terminal.table(rows, 40))) == 40
    wrapped = _terminal.table(rows, 40, wrap=True)
    assert max(map(len, wrapped)) <= 40
    assert all(line.startswith(" " * 5) for line in wrapped[2:])


@pytest.mark.parametrize(
    ("share", "width", "expected"), [(1.0, 4, "████"), (0.5, 4, "██"), (0.0, 4, "▏"), (7, 2, "██"), (0.3125, 4, "█▎")]
)
def test_bar(share: float, width: int, expected: str) -> None:
    assert _terminal.bar(share, width) == expected
