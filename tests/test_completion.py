"""Shell completion, asked of the shells themselves, and the manual page, as man shows it."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from terminals import Terminal

from glreadback import Fourcc, Reader, __version__, cli
from glreadback.frame import TRANSFORMS
from glreadback.plan import ROUTES
from glreadback.sinks import REGISTRY as SINKS
from glreadback.sources import REGISTRY as SOURCES
from glreadback.sources.patterns import NAMES

ROOT = Path(__file__).parents[1]
SHELLS = ("bash", "zsh", "fish")

PATTERNS = {f"pattern:{name}" for name in NAMES}
SCHEMES = {f"{scheme}:" for scheme in SOURCES}

# What is on the line, and every word that may stand in the last one's place.
CASES: list[tuple[str, set[str]]] = [
    ("glreadback ", {*cli.COMMANDS}),
    ("glreadback sn", {"snapshot"}),
    ("glreadback --ver", {"--version"}),
    ("glreadback snapshot ", {*SCHEMES, *PATTERNS}),
    ("glreadback snapshot km", {"kms:"}),
    ("glreadback snapshot pattern:s", {"pattern:smpte", "pattern:solid"}),
    ("glreadback info --device software pattern:no", {"pattern:noise"}),
    ("glreadback snapshot file:fr", {"file:frame.raw", "file:frame two.raw"}),
    ("glreadback snapshot file:inner/", {"file:inner/deep.raw"}),
    ("glreadback snapshot ./frame.", {"./frame.raw"}),
    ("glreadback snapshot pattern: --rou", {"--route"}),
    ("glreadback snapshot pattern: --route ", {*ROUTES}),
    ("glreadback snapshot pattern: --format ", {*SINKS}),
    ("glreadback snapshot pattern: --format a", {"avif"}),
    ("glreadback snapshot pattern: --transform ", {*TRANSFORMS}),
    ("glreadback snapshot pattern: --transform flipped-1", {"flipped-180"}),
    ("glreadback snapshot pattern: --fourcc ", {str(fourcc) for fourcc in Fourcc.all()}),
    ("glreadback snapshot pattern: --fourcc NV1", {"NV12", "NV15", "NV16"}),
    ("glreadback snapshot pattern: --device soft", {"software"}),
    ("glreadback snapshot pattern: -o fr", {"frame.raw", "frame two.raw"}),
    ("glreadback snapshot pattern: --output inner/", {"inner/deep.raw"}),
    ("glreadback snapshot pattern: -o term:k", {"term:kitty"}),
    ("glreadback bench --plot fr", {"frame.raw", "frame two.raw"}),
    ("glreadback sources k", {"kms"}),
    ("glreadback doctor --", {"--help"}),
]


@functools.cache
def script(shell: str) -> str:
    """What the wheel has for that shell; made in a process of its own, with the library as it is when one is built."""
    command = [sys.executable, ROOT / "tools/gen_completion.py", shell]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shells stand: a few files, and the scripts outside of it."""
    home = tmp_path_factory.mktemp("completion")
    inside = home / "inside"
    (inside / "inner").mkdir(parents=True)
    for name in ("frame.raw", "frame two.raw", "inner/deep.raw"):
        (inside / name).touch()
    for shell in SHELLS:
        (home / shell).mkdir()
        (home / shell / "_glreadback").write_text(script(shell))
    (home / "zsh" / ".zshrc").write_text(_ZSH)
    return inside


# ---- bash: its function is given the line as readline gives it, and what it leaves in COMPREPLY is put back on the line

_BASH = """
source ../bash/_glreadback
while IFS= read -r COMP_LINE; do
  COMP_POINT=${#COMP_LINE} COMPREPLY=()
  _glreadback
  printf '%s\\n' "${COMPREPLY[@]}" END
done
"""


@functools.cache
def bash_answers(folder: Path) -> dict[str, set[str]]:
    lines = [line for line, _ in CASES]
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH], input="\n".join(lines) + "\n", cwd=folder, capture_output=True, text=True, check=True
    )
    # compopt works only where readline asks; its complaints are ours to ignore.
    assert not [line for line in done.stderr.splitlines() if "compopt" not in line]
    answers = done.stdout.split("END\n")
    # Readline keeps what stands before the last of its word breaks.
    kept = [re.match(r"(?:.*[:=])?", line.rsplit(" ", 1)[1]) for line in lines]
    return {
        line: {before[0] + word for word in answer.splitlines() if word}
        for line, answer, before in zip(lines, answers, kept, strict=False)
        if before
    }


# ---- zsh: on a terminal, the lines are typed and TAB is pressed; what it lists is read, and what is on the line after

_ZSH = """
bindkey -e
unsetopt zle_bracketed_paste prompt_cr prompt_sp list_ambiguous auto_menu beep
LISTMAX=100000
fpath=(../zsh $fpath); autoload -Uz compinit; compinit -u -D
tell() { print -nr -- "LINE<$BUFFER>LINE" > /dev/tty; BUFFER= }; zle -N tell; bindkey '^T' tell
stty -echo
print READY
"""


@functools.cache
def zsh_answers(folder: Path) -> dict[str, tuple[set[str], str]]:
    """For each line, the words that zsh lists (none where there is but one) and the line that it makes of it."""
    found = {}
    environment = {**os.environ, "TERM": "dumb", "PS1": "", "ZDOTDIR": "../zsh"}
    with Terminal(["zsh", "-d", "-i"], size=(1000, 500, 0, 0), cwd=folder, env=environment) as zsh:
        zsh.read_until("READY")
        for line, _ in CASES:
            zsh.type(f"{line}\t\x14")
            text = zsh.read_until("LINE<", ">LINE")
            listing, _, after = text.replace("\r", "").rpartition("LINE<")
            rows = [row.split("  -- ")[0] for row in listing.split("\n")[1:]]
            words = {word.replace("\\", "").strip() for row in rows for word in re.split(" {2,}", row) if word.strip()}
            words = {word for word in words if not word.startswith("glreadback")}  # the line itself, shown again
            found[line] = (words, after.partition(">LINE")[0].replace("\\", ""))
    return found


# ---- the tests


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_bash(line: str, words: set[str], folder: Path) -> None:
    assert bash_answers(folder)[line] == words


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_fish(line: str, words: set[str], folder: Path) -> None:
    script = 'source ../fish/_glreadback; complete -C "$argv"'
    done = subprocess.run(["fish", "--no-config", "-c", script, line], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert {answer.partition("\t")[0] for answer in done.stdout.splitlines()} == words


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_zsh(line: str, words: set[str], folder: Path) -> None:
    listed, after = zsh_answers(folder)[line]
    if len(words) == 1:
        # Put onto the line, with a space where the word is whole.
        assert after.rstrip() == line.rpartition(" ")[0] + " " + words.pop()
        return
    # Of paths zsh lists the last part.
    assert listed in (words, {re.split("[:/]", word)[-1] for word in words})


# What readline makes of the answers: colons, spaces and folders on a line.
TYPED = [
    ("glreadback snapshot km", "glreadback snapshot kms:"),
    ("glreadback snapshot pattern:sm", "glreadback snapshot pattern:smpte "),
    ("glreadback snapshot 'pattern:sm", "glreadback snapshot 'pattern:smpte' "),
    ("glreadback snapshot pattern: --format=np", "glreadback snapshot pattern: --format=npy "),
    ("glreadback snapshot file:frame\\ t", "glreadback snapshot file:frame\\ two.raw "),
    ("glreadback snapshot pattern: -o inn", "glreadback snapshot pattern: -o inner/"),
    ("glreadback snapshot pattern: -o term:si", "glreadback snapshot pattern: -o term:sixel "),
]
_BASHRC = """
bind 'set enable-bracketed-paste off'; stty -echo; PS1=
bind -x '"\\C-t": printf "LINE<%s>LINE" "$READLINE_LINE"; READLINE_LINE='
source ../bash/_glreadback
echo READY
"""


def test_bash_on_a_terminal(folder: Path) -> None:
    (folder.parent / "bashrc").write_text(_BASHRC)
    command = ["bash", "--noprofile", "--rcfile", "../bashrc", "-i"]
    with Terminal(command, size=(50, 200, 0, 0), cwd=folder, env={**os.environ, "TERM": "dumb"}) as bash:
        bash.read_until("READY")
        for line, expected in TYPED:
            bash.type(f"{line}\t\x14")
            assert bash.read_until("LINE<", ">LINE").split("LINE<")[1].split(">LINE")[0] == expected


# ---- the manual page


@pytest.fixture(scope="module")
def page() -> str:
    command = [sys.executable, ROOT / "tools/gen_manual.py"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


RENDERERS = {
    "groff": ["groff", "-man", "-ww", "-rLL=100n", "-Tascii", "-P-cbou"],
    "mandoc": ["mandoc", "-Wwarning", "-Owidth=100", "-Tascii"],
}


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_manual_says_all_there_is(renderer: str, page: str) -> None:
    done = subprocess.run(RENDERERS[renderer], input=page, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)  # mandoc strikes bold letters twice
    assert "\\" not in text
    top, commands = cli.parsers()
    before, _, inside = text.partition("\nCOMMANDS\n")
    inside, _, rest = inside.partition("\nSOURCES\n")
    parts = re.split(rf"^ +glreadback ({'|'.join(commands)})\n\n? +glreadback \1", inside, flags=re.MULTILINE)[1:]
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    assert [*shown] == [*commands]
    for part, parser in [(before, top), *((shown[name], commands[name]) for name in commands)]:
        for action in parser._actions:
            for word in (*action.option_strings, action.metavar, *(action.choices or ())):
                assert word is None or str(word).replace("…", "...") in part, word
            # Hyphenation and filling aside, the help is there to the word.
            said = re.sub(r"\W", "", (action.help or "").replace("%%", ""))
            assert said in re.sub(r"\W", "", part), action.help
    for scheme in SOURCES:
        assert f"{scheme}:" in rest
    variables = {
        found for file in (ROOT / "glreadback").rglob("*.py") for found in re.findall(r"GLREADBACK_[A-Z]+", file.read_text())
    }
    assert all(variable in rest for variable in variables)
    for heading in (
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "SOURCES",
        "EXIT STATUS",
        "ENVIRONMENT",
        "EXAMPLES",
    ):
        assert re.search(f"^{heading}$", text, re.MULTILINE)


def test_the_manual_is_the_same_for_the_same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, ROOT / "tools/gen_manual.py"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "86400"})
    assert text.stdout.startswith('.TH GLREADBACK 1 "1970-01-02"')


# ---- where both are made


def test_nothing_that_glreadback_needs_is_needed_to_build_it(tmp_path: Path) -> None:
    """The wheel is built in an environment that has the build's own needs only."""
    block = "import sys\nfor name in ('numpy', 'OpenGL', 'PIL', 'jeepney', 'blessed'): sys.modules[name] = None\n"
    code = f"{block}import runpy\nsys.argv[1:] = ['bash']\n"
    for tool in ("gen_completion", "gen_manual"):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}runpy.run_path({str(ROOT / 'tools' / tool)!r} + '.py', run_name='__main__')"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > 5000


def test_version_names_what_is_in_use(tmp_path: Path) -> None:
    def said(**changes: str) -> list[str]:
        command = [sys.executable, "-m", "glreadback", "--version"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
        done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    own, binding, mesa = said()
    assert own == f"glreadback {__version__}"
    assert binding == f"PyOpenGL {version('PyOpenGL')}"
    with Reader("software") as reader:
        device = reader.capabilities()
    found = re.fullmatch(r"Mesa (\d+\.\d+\S*), (.+)", mesa)
    assert found
    assert f"Mesa {found[1]}" in device.version
    assert found[2] == device.renderer
    # Where there is no driver it says so, and the rest.
    assert said(__EGL_VENDOR_LIBRARY_DIRS="/nonexistent")[:2] == [own, binding]
    assert said(__EGL_VENDOR_LIBRARY_DIRS="/nonexistent")[2].startswith("Mesa: no software device: ")
