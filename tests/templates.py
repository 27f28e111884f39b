"""What sources/base.py and sinks/base.py promise of every source and sink, as checks: each raises AssertionError."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import json
import mmap
import os
import sys
import warnings
from itertools import islice
from types import ModuleType

import pytest
from pictures import no_descriptor_left

from glreadback import Fourcc, SinkError, Surface
from glreadback.dmabuf import check
from glreadback.errors import GlReadbackError, SourceError, SourceSyntaxError
from glreadback.sinks import sink_class
from glreadback.sinks.base import Sink
from glreadback.sources import open_source, source_class
from glreadback.sources.base import Source


def _only_class(module: ModuleType, kind: type) -> type:
    """The one class of that kind that a module has: base classes for others begin with _."""
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, kind) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    assert len(found) == 1, f"{module.__name__} has {found}"
    return found[0]


def _same_signature(kind: type, base: type, method: str) -> None:
    ours, theirs = (inspect.signature(getattr(each, method)) for each in (kind, base))
    assert str(ours) == str(theirs), f"{kind.__name__}.{method}{ours}"


# ---- sources


def check_source(scheme: str) -> None:
    """A source's class follows sources/base.py. Nothing is opened."""
    kind = source_class(scheme)
    assert kind is _only_class(sys.modules[kind.__module__], Source)
    assert kind.scheme == scheme
    assert kind.path_help
    assert "\n" not in kind.path_help
    assert kind.frames.__doc__
    for method in ("frames", "describe", "close"):
        _same_signature(kind, Source, method)
    document = inspect.getdoc(kind) or ""
    assert f"`{scheme}:" in document
    assert "Error" in document, "what is raised?"
    path, *parameters = inspect.signature(kind).parameters.values()
    assert path.name == "path"
    taken = {each.name: each for each in parameters}
    assert all(each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD) for each in parameters), "options go by name"
    for name, key in kind.keys.items():
        assert name in document or name.rstrip("0123456789") in document, f"{name}= is not in the docstring"
        key.parse(key.example)
        assert key.help
        assert name in taken or any(each.kind is each.VAR_KEYWORD for each in parameters), f"{name}= is no argument"
        if name in taken:
            assert (taken[name].default is inspect.Parameter.empty) == key.required
    named = set(taken) - {each.name for each in parameters if each.kind is each.VAR_KEYWORD}
    assert named <= {*kind.keys, *getattr(kind, "reading", ())}, "an argument that is no key"
    with no_descriptor_left(), pytest.raises(SourceSyntaxError, match=f"^{scheme}: has no key 'nonsense'") as error:
        open_source(f"{scheme}:?nonsense=1")
    assert str(error.value).isprintable()


def use_source(text: str, timeout: float = 10.0) -> None:
    """The source of a SOURCE string, whose producer is there, does what sources/base.py says that every source does."""
    scheme = text.partition(":")[0]
    with no_descriptor_left():
        with open_source(text) as source:
            assert not source.closed
            for frame in islice(source.frames(timeout=timeout), 2):
                assert frame.origin.startswith(f"{scheme}:")
                check(frame.buffer)
                assert all(not os.get_inheritable(plane.fd) for plane in frame.buffer.planes)
                if frame.release is not None:
                    frame.release()
            facts = json.loads(json.dumps(source.describe()))
            assert facts
            assert all(isinstance(name, str) for name in facts)
            # Asked for again, it goes on; and nothing of it is left once it is closed.
            next(source.frames(timeout=timeout))
            later = source.frames(timeout=timeout)
        assert source.closed
        source.close()
        with pytest.raises(ValueError, match="closed") as error:
            next(later)
        assert not isinstance(error.value, GlReadbackError)
    with no_descriptor_left():
        forgotten = [open_source(text)]
        with pytest.warns(ResourceWarning, match="unclosed source"):
            _forget(forgotten)


def _forget(things: list[Source]) -> None:
    things.clear()
    gc.collect()


def refuse_source(text: str) -> None:
    """A SOURCE string whose producer is not there is a SourceError in one line, and nothing stays open."""
    with no_descriptor_left(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((SourceError, ValueError)) as error, open_source(text) as source:
            next(source.frames(timeout=0.0))
        assert isinstance(error.value, GlReadbackError), f"{text}: {error.value!r}"
        assert str(error.value).isprintable(), text


# ---- sinks


class _Forward(io.RawIOBase):
    """A stream that cannot be sought in, told or read, as a pipe."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.parts.append(bytes(data))
        return len(memoryview(data).cast("B"))


def check_sink(format: str) -> None:
    """A sink's class follows sinks/base.py, and it writes to what cannot be sought in."""
    kind = sink_class(format)
    assert kind is _only_class(sys.modules[kind.__module__], Sink)
    assert kind.name
    document = inspect.getdoc(kind) or ""
    assert len(document) > 40
    parameters = inspect.signature(kind).parameters
    if kind.__init__ is Sink.__init__:
        parameters = {}
    assert set(parameters) == set(kind.options), "an option that is no argument, or an argument that is no option"
    for option, means in kind.options.items():
        assert option in document
        assert means
        assert parameters[option].default is not inspect.Parameter.empty
        with pytest.raises((SinkError, ValueError)):
            kind(**{option: object()})
    for method in ("write", "check"):
        _same_signature(kind, Sink, method)
    stream = _Forward()
    surface = Surface.wrap(bytes(range(48)), 4, 3, "XR24")
    sink = kind()
    sink.check(surface)
    sink.write(surface, stream)  # type: ignore[arg-type]
    assert not stream.closed
    assert b"".join(stream.parts)
    if kind.extent is not None:
        # Memory that nobody touches costs nothing.
        large = Surface.wrap(mmap.mmap(-1, kind.extent + 1), kind.extent + 1, 1, "R8")
        with pytest.raises(SinkError, match=f"at most {kind.extent} pixels"):
            sink.check(large)
    # What it cannot hold is refused by check(), before anything is written.
    for fourcc in (code for code in Fourcc.all() if code.info.linear and len(code.info.planes) == 1):
        surface = Surface.allocate(8, 4, fourcc)
        with contextlib.suppress(GlReadbackError):
            sink.check(surface)
            try:
                sink.write(surface, _Forward())  # type: ignore[arg-type]
            except GlReadbackError as error:
                raise AssertionError(f"check() let {fourcc} pass") from error
