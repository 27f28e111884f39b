"""`glreadback snapshot`: one picture, or several, from a source to files."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .. import sinks
from ..color import MATRICES, RANGES, SITINGS, TRANSFERS, Color
from ..errors import SinkError, SourceError
from ..frame import TRANSFORMS
from ..plan import ROUTES
from ..reader import Reader
from ..sources import open_source, parse_spec, source_class
from ..sources.base import SourceTimeout
from . import _arguments
from ._exit import DONE, report
from ._terminal import Progress, bar, is_terminal

if TYPE_CHECKING:
    from ..frame import Frame, Rect
    from ..sources.base import Source
    from ..surface import Surface
    from ._changes import Changes

HELP = """\
Read a picture from SOURCE and write it to a file. Packed RGB stays in its own pixel format, bit for bit; anything else
becomes AB24, or AB48 where it has more than 8 bits. The file is written whole or not at all.
"""
EXAMPLES = """\
examples:
  glreadback snapshot pattern: -o bars.png
  glreadback snapshot pattern: -o term:     shows it in the terminal
  glreadback snapshot 'pattern:noise?size=637x361&fourcc=AR30' --verify -o noise.npy
  glreadback snapshot 'file:dump.raw?size=1920x1080&fourcc=XR24&stride=8192' -o dump.webp
  glreadback snapshot 'fd:7?size=1920x1080&fourcc=NV12' --fourcc AB24 -o video.jpg
  glreadback snapshot pattern: --rect 0,0,64,64 --format ppm -o - | pnmtopng > corner.png
  glreadback snapshot pattern: --count 10 --interval 0.5 -o shot.png     shot-0001.png to shot-0010.png
  glreadback snapshot kms: --count 10 --changed --timeout 60 -o step.png     the next ten different screens
"""

_STDOUT = "-"
_BAR = 16  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _arguments.source(parser)
    add("-o", "--output", metavar="FILE", type=_arguments.output,
        help="where to write; - is standard output, term: the terminal (or term:kitty, term:sixel, term:blocks); "
        "default: snapshot.png")  # fmt: skip
    add("--format", metavar="F", choices=sorted(sinks.REGISTRY),
        help=f"{', '.join(sinks.REGISTRY)}; default: by FILE's ending, png for standard output")  # fmt: skip
    add("--fourcc", metavar="C", type=_arguments.fourcc, help="the pixel format to read as, such as AB24 (bytes R G B A)")
    add("--rect", metavar="X,Y,W,H", type=_arguments.rect, help="only this rectangle of the picture, in pixels")
    add("--transform", metavar="T", choices=TRANSFORMS,
        help=f"undo this turn of the content: {', '.join(TRANSFORMS)}; default: what the source says")  # fmt: skip
    add("--scale", metavar="SIZE", type=_arguments.scale, help="scale to 320x180, to 320x0 (the height follows) or by 25%%")
    add("--matrix", choices=list(MATRICES), help="of Y'CbCr; default: what the source says, or 709 from 720 lines on, else 601")
    add("--range", choices=RANGES, help="of Y'CbCr: narrow (video, the default) or full")
    add("--siting", choices=SITINGS, help="where subsampled chroma lies; default: left, topleft for BT.2020")
    add("--transfer", choices=TRANSFERS, help="what the numbers mean; pq and hlg are HDR")
    add("--tone-map", action="store_true", help="bring HDR (pq, hlg) to sRGB by BT.2390's curve")
    _arguments.device(parser)
    add("--isolate", action="store_true", help="run GL in a helper process, for buffers of producers you do not trust")
    add("--route", metavar="R", choices=ROUTES,
        help=f"how to read: {', '.join(ROUTES)} (map uses no GL); default: the first that is exact")  # fmt: skip
    add("--verify", action="store_true", help="read again by another route and fail on the first pixel that differs")
    _arguments.timeout(parser)
    add("--count", metavar="N", type=_arguments.count, default=1, help="this many pictures, to numbered files")
    add("--interval", metavar="S", type=_arguments.seconds,
        help="seconds from one look to the next; default: 1, with --changed 0.1")  # fmt: skip
    add("--changed", action="store_true", help="of those looks, write only pictures that differ from the last one written")
    add("--cursor", action="store_true", help="with the mouse pointer, where the source knows it")
    _arguments.json(parser, "print one JSON object a picture instead of words")


def run(args: argparse.Namespace) -> int:
    output, format = _destination(args)
    if args.changed and args.count == 1:
        report("--changed is about what comes after the first picture; give --count N")
    # The picture has standard output for itself.
    said = sys.stderr if _streams(output) else sys.stdout
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=args.count == 1))
        written: list[str] = []

        def show(what: str) -> None:
            share = len(written) / args.count
            progress.show(f"{bar(share, _BAR) if written else '':<{_BAR}} {len(written)}/{args.count}  {what}")

        show(f"opening {args.source} …")
        source = stack.enter_context(_open(args))
        reader = stack.enter_context(Reader(args.device, isolate=args.isolate))
        camera = _Camera(reader, format, args)
        show(f"waiting for a picture of {args.source} …")
        for frame in _frames(source, args, written):
            number = len(written) + 1
            path = output if args.count == 1 or _streams(output) else _numbered(output, number, args.count)
            shot = camera.take(_as_told(frame, args), path)
            if shot is None:
                show(f"waiting for {args.source} to change …")
                continue
            written.append(path)
            if args.json:
                _print_json(shot, said)
            elif progress.shown:
                show(_sentence(shot))
            else:
                print(_sentence(shot), file=said, flush=True)
            if number == args.count:
                break
        progress.clear()
        if len(written) < args.count:
            raise SourceError(f"{args.source} {_ended(written, args.count)}")
        if progress.shown and not args.json:
            where = "standard output" if _streams(output) else f"{written[0]} to {written[-1]}"
            print(f"{len(written)} pictures: {where}", file=said)
    return DONE


def _as_told(frame: Frame, args: argparse.Namespace) -> Frame:
    """The frame with what the command line says of it."""
    if args.transform is not None:
        frame = dataclasses.replace(frame, transform=args.transform)
    said = {name: getattr(args, name) for name in ("matrix", "range", "siting", "transfer") if getattr(args, name) is not None}
    if said:
        frame = dataclasses.replace(frame, color=dataclasses.replace(frame.color or Color(), **said))
    return frame


def _destination(args: argparse.Namespace) -> tuple[str, str | None]:
    """Where to, and the format if the file's ending is not to say it."""
    if args.output is None:
        return f"snapshot.{args.format or 'png'}", args.format
    if args.output.startswith(_arguments.TERM):
        if args.format not in (None, "term"):
            raise SinkError(f"{args.output} shows the picture, not {args.format}; leave --format out, or give -o FILE")
        return args.output, "term"
    if args.output == _STDOUT:
        if is_terminal(sys.stdout) and args.format != "term":
            raise SinkError(
                "a picture is no text for a terminal; give -o FILE, send standard output to a file or a pipe, or give -o term:"
            )
        return _STDOUT, args.format or "png"
    return args.output, args.format


def _streams(output: str) -> bool:
    """Whether pictures go to standard output."""
    return output == _STDOUT or output.startswith(_arguments.TERM)


def _open(args: argparse.Namespace) -> Source:
    text = args.source
    if args.cursor:
        spec = parse_spec(text)
        if "cursor" in source_class(spec.scheme).keys:
            text += ("&" if "?" in text else "?") + "cursor=1"
        else:
            report(f"{spec.scheme}: knows no mouse pointer; --cursor changes nothing")
    return open_source(text, device=args.device, isolate=args.isolate)


def _frames(source: Source, args: argparse.Namespace, written: list[str]) -> Iterator[Frame]:
    """The source's frames, at least an interval apart.

    With --changed the time-out is for the next picture that is written, however many frames come meanwhile.
    """
    interval = args.interval if args.interval is not None else 0.1 if args.changed else 1.0
    now = due = time.monotonic()
    known, until = 0, now + args.timeout
    while True:
        left = round(max(0.0, until - now), 2) if args.changed and written else args.timeout
        try:
            frame = next(source.frames(left), None)
        except SourceTimeout as error:
            if not (args.changed and written):
                raise
            # What it says of its last moments is no news.
            why = f" ({error})" if left > args.timeout / 2 else ""
            raise SourceTimeout(_unchanged(args, written) + why) from None
        if frame is None:
            return
        yield frame
        # From one start to the next: a slow sink does not stretch the interval.
        due, now = due + interval, time.monotonic()
        if len(written) > known:
            known, until = len(written), max(due, now) + args.timeout
        elif args.changed and now >= until:
            raise SourceTimeout(_unchanged(args, written))
        time.sleep(max(0.0, min(due, until) - now))
        now = time.monotonic()


def _unchanged(args: argparse.Namespace, written: list[str]) -> str:
    return f"{args.source} did not change within {args.timeout:g} s; {len(written)} of {args.count} pictures were written"


def _ended(written: list[str], count: int) -> str:
    return f"ended after {len(written)} of {count} pictures" if written else "gave no picture"


def _numbered(path: str, number: int, count: int) -> str:
    stem, ending = os.path.splitext(path)
    return f"{stem}-{number:0{max(4, len(str(count)))}}{ending}"


@dataclasses.dataclass(frozen=True)
class _Shot:
    """A picture that was written."""

    path: str
    surface: Surface
    source: str
    seconds: float  # of the read alone
    verified: str | None  # what a second read found equal


class _Camera:
    """Reads frames as the command line says, and writes those that are to be written."""

    def __init__(self, reader: Reader, format: str | None, args: argparse.Namespace) -> None:
        self._reader, self._format, self._args = reader, format, args
        self._options: dict[str, Any] = {"tone_map": True} if args.tone_map else {}
        self._changes: Changes | None = None
        self._drawn = False  # whether a picture is on the screen that the next one may replace
        if args.changed:
            from ._changes import Changes

            self._changes = Changes(self._read, partly=args.rect is None and args.scale is None and not args.tone_map)

    def take(self, frame: Frame, path: str) -> _Shot | None:
        """Read a frame and write it to path; None where --changed leaves it out."""
        release, frame = frame.release, dataclasses.replace(frame, release=None)
        try:
            return self._taken(frame, path)
        finally:
            # Once, when a second read for --verify is over too.
            if release is not None:
                release()

    def _read(self, frame: Frame, out: Surface | None = None, damage: Iterable[Rect] | None = None) -> Surface:
        args, options = self._args, dict(self._options)
        if args.scale is not None:
            options["scale"] = args.scale.of(*(args.rect[2:] if args.rect is not None else frame.size))
        return self._reader.read(
            frame, out, fourcc=args.fourcc, rect=args.rect, damage=damage, route=args.route, timeout=args.timeout, **options
        )

    def _taken(self, frame: Frame, path: str) -> _Shot | None:
        args, start = self._args, time.perf_counter()
        surface = self._read(frame) if self._changes is None else self._changes.look(frame)
        seconds = time.perf_counter() - start
        if surface is None:
            return None
        verified = None
        if args.verify:
            from ._verify import verify

            if args.scale is not None or args.tone_map:
                raise SinkError("--verify compares the buffer's own pixels; it cannot check a scaled or tone-mapped picture")
            verified = verify(self._reader, frame, surface, args.rect, args.timeout)
        if _streams(path):
            sinks.write(surface, sys.stdout.buffer, self._format or "png", **self._screen(path))
            sys.stdout.buffer.flush()
        else:
            sinks.save(surface, path, self._format)
        return _Shot(path, surface, frame.origin or args.source, seconds, verified)

    def _screen(self, path: str) -> dict[str, Any]:
        """The options of a picture in the terminal: further ones go where the first is, if nothing is said between."""
        if self._format != "term":
            return {}
        over, self._drawn = self._drawn, is_terminal(sys.stdout) and not (self._args.json and is_terminal(sys.stderr))
        return {"how": path.partition(":")[2] or None, "over": over}


def _sentence(shot: _Shot) -> str:
    surface, route = shot.surface, shot.surface.route
    assert route is not None
    what = f"{surface.width}x{surface.height} {surface.fourcc} from {shot.source} by {route.name}"
    if route != ROUTES[0] or "; " in route.reason:
        what += f" ({route.reason})"
    if not route.exact:
        what += ", not bit for bit"
    checked = f"; verified: {shot.verified}" if shot.verified else ""
    where = "standard output" if _streams(shot.path) else shot.path
    return f"{where}: {what}{checked}"


def _print_json(shot: _Shot, stream: Any) -> None:
    import json

    surface, route = shot.surface, shot.surface.route
    assert route is not None
    facts = {
        "path": shot.path,
        "width": surface.width,
        "height": surface.height,
        "fourcc": str(surface.fourcc),
        "stride": surface.stride,
        "route": {"name": route.name, "exact": route.exact, "reason": route.reason},
        "device": surface.device,
        "source": shot.source,
        "ms": round(shot.seconds * 1e3, 3),
        "verified": shot.verified,
    }
    print(json.dumps(facts), file=stream, flush=True)
