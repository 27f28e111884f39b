"""open_source: what a source reads with, where it has to read before it gives a frame out, is what the caller reads with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_qemu import FakeQemu, Memory, pixels_of, share

from glreadback import DeviceError, cli, open_source, sources
from glreadback.sources import source_class

NOWHERE = "/dev/dri/renderD250"


def test_only_sources_that_read_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Any]] = []

    class Taking:
        keys = source_class("kms").keys
        reading: tuple[str, ...] = ()

        def __init__(self, path: str, **options: Any) -> None:
            taken.append(options)

    monkeypatch.setattr(sources, "source_class", lambda scheme: Taking)
    for reading in ((), ("device",), ("device", "isolate")):
        monkeypatch.setattr(Taking, "reading", reading)
        open_source("kms:?cursor=1", device="software", isolate=True)
    assert taken == [
        {"cursor": True},
        {"cursor": True, "device": "software"},
        {"cursor": True, "device": "software", "isolate": True},
    ]


def test_who_reads() -> None:
    assert {scheme: source_class(scheme).reading for scheme in sources.REGISTRY if source_class(scheme).reading} == {
        "kms": ("device", "isolate"),
        "qemu": ("device",),
    }


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeQemu]:
    with contextlib.closing(FakeQemu(tmp_path / "qmp")) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[Memory]:
    with contextlib.closing(Memory()) as made:
        yield made


def test_a_guests_dma_buf_is_read_on_the_callers_device(
    fake: FakeQemu, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLREADBACK_DEVICE", NOWHERE)
    with open_source(f"qemu:{fake.path}", device="software") as source:
        drawn = memory.draw(7)
        share(fake, memory)
        assert pixels_of(next(source.frames(timeout=10))) == drawn


def test_a_guests_dma_buf_is_read_on_no_other_device(fake: FakeQemu, memory: Memory) -> None:
    with open_source(f"qemu:{fake.path}", device=NOWHERE) as source:
        share(fake, memory)
        with pytest.raises(DeviceError, match=NOWHERE):
            next(source.frames(timeout=10))


@pytest.mark.parametrize("command", ["snapshot", "info", "bench"])
def test_the_commands_device_is_the_sources_too(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glreadback.cli import bench, info, snapshot

    class Seen(Exception):
        pass

    def seeing(text: str, **options: Any) -> None:
        raise Seen(text, options)

    for module in (snapshot, info, bench):
        monkeypatch.setattr(module, "open_source", seeing)
    with pytest.raises(Seen) as seen:
        cli.main([command, "kms:card7", "--device", NOWHERE, *(["--isolate"] if command == "snapshot" else [])])
    text, options = seen.value.args
    assert (text, options["device"]) == ("kms:card7", NOWHERE)
    assert options.get("isolate") is (True if command == "snapshot" else None)
