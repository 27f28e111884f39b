"""Commands and Python on the pages that need a screen, a vGPU or a real dma-buf, and the sources that do."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

import producing
from doc_commands import VM, Block, Place, blocks, run_python, where
from screens import card_name, console
from templates import use_source
from test_export import delete, upload
from test_vfio import Vgpu

import glreadback
from glreadback.cli import main
from glreadback.egl.context import Context
from glreadback.egl.device import open_display


@pytest.fixture(autouse=True)
def _software(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What a card's own node offers here is a software driver too, which takes ten seconds to start.
    monkeypatch.setenv("GLREADBACK_DEVICE", "software")
    monkeypatch.chdir(tmp_path)


# ---- what is given


@contextmanager
def _screen() -> Iterator[str]:
    console("virtio_gpu").light()
    yield f"kms:{card_name('virtio_gpu')}"


@contextmanager
def _device() -> Iterator[str]:
    with Vgpu("mdpy", "vga") as vgpu:
        yield f"vfio:{vgpu.id}"


def give_screen(place: Place) -> None:
    """A lit screen at the place of card0's; kms: alone is the first that is lit."""
    place.replaced["kms:card0"] = place.stack.enter_context(_screen())


def give_vgpu(place: Place) -> None:
    """A vGPU at the place of UUID."""
    place.replaced["vfio:UUID"] = place.stack.enter_context(_device())


def give_texture(place: Place) -> None:
    """A texture of a compositor's own context, which is current."""
    context = Context(open_display("software"))
    place.stack.callback(context.close)
    place.stack.enter_context(context)
    texture = upload("RGBA8", 64, 48, bytes(64 * 48 * 4))
    place.stack.callback(delete, texture)
    place.names["texture"] = texture


def give_library(place: Place) -> None:
    place.names["glreadback"] = glreadback


GIVERS: Mapping[str, Callable[[Place], None]] = {
    name.removeprefix("give_"): value for name, value in globals().items() if name.startswith("give_")
}


# ---- the pages

COMMANDS = [
    pytest.param(command, id=f"{block}-{number}")
    for block in blocks("sh")
    for number, command in enumerate(block.commands())
    if where(command, "sh") == VM
]
PYTHON = [block for block in blocks("python") if where(block.text, "python") == VM]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands(command: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: starting one takes an emulated CPU ten seconds."""
    program, *words = shlex.split(place.supply(command, "sh", GIVERS), comments=True)
    assert program == "glreadback"
    assert main(words) == 0, capsys.readouterr().err
    if "-o" in words:
        written = Path(words[words.index("-o") + 1])
        assert list(place.folder.glob(f"{written.stem}*{written.suffix}"))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_the_python(block: Block, place: Place) -> None:
    made = run_python(block, place.supply(block.text, "python", GIVERS), place)
    if "export_texture" in block.text:
        for fd in {plane.fd for plane in made["buf"].planes}:
            os.close(fd)  # the page says whose they are


# ---- sources/base.py


SOURCES: dict[str, Callable[[], AbstractContextManager[str]]] = {"kms": _screen, "vfio": _device}


@pytest.mark.parametrize("scheme", sorted(producing.KERNEL))
def test_a_source_keeps_the_templates_promises(scheme: str) -> None:
    with SOURCES[scheme]() as text:
        use_source(text)
