"""`glreadback snapshot`: one picture, or several, from a source to files."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .. import sinks
from ..color import MATRICES, RANGES, SITINGS, TRANSFERS, Color
from ..errors import SinkError, SourceError
from ..frame import TRANSFORMS
from ..plan import ROUTES
from ..reader import Reader
from ..sources import open_source, parse_spec, source_class
from . import _arguments
from ._exit import DONE, report
from ._terminal import Progress, is_terminal

if TYPE_CHECKING:
    from ..frame import Frame
    from ..sources.base import Source
    from ..surface import Surface

HELP = """\
Read a picture from SOURCE and write it to a file. Packed RGB stays in its own pixel format, bit for bit; anything else
becomes AB24, or AB48 where it has more than 8 bits. The file is written whole or not at all.
"""
EXAMPLES = """\
examples:
  glreadback snapshot pattern: -o bars.png
  glreadback snapshot 'pattern:noise?size=637x361&fourcc=AR30' --verify -o noise.npy
  glreadback snapshot 'file:dump.raw?size=1920x1080&fourcc=XR24&stride=8192' -o dump.webp
  glreadback snapshot 'fd:7?size=1920x1080&fourcc=NV12' --fourcc AB24 -o video.jpg
  glreadback snapshot pattern: --rect 0,0,64,64 --format ppm -o - | pnmtopng > corner.png
  glreadback snapshot pattern: --count 10 --interval 0.5 -o shot.png     shot-0001.png to shot-0010.png
"""

_STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _arguments.source(parser)
    add("-o", "--output", metavar="FILE", help="where to write; - is standard output; default: snapshot.png")
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
    add("--interval", metavar="S", type=_arguments.seconds, help="seconds from one picture to the next; default: 1")
    add("--cursor", action="store_true", help="with the mouse pointer, where the source knows it")
    _arguments.json(parser, "print one JSON object a picture instead of words")


def run(args: argparse.Namespace) -> int:
    output, format = _destination(args)
    # The picture has standard output for itself.
    said = sys.stderr if output == _STDOUT else sys.stdout
    with ExitStack() as stack:
        source = stack.enter_context(_open(args))
        reader = stack.enter_context(Reader(args.device, isolate=args.isolate))
        progress = stack.enter_context(Progress(quiet=args.count == 1))
        written = []
        for number, frame in enumerate(_frames(source, args), 1):
            frame = _as_told(frame, args)
            path = output if args.count == 1 or output == _STDOUT else _numbered(output, number, args.count)
            shot = _take(reader, frame, path, format, args)
            written.append(path)
            if args.json:
                _print_json(shot, said)
            elif progress.shown:
                progress.show(f"{number}/{args.count}  {_sentence(shot)}")
            else:
                print(_sentence(shot), file=said, flush=True)
            if number == args.count:
                break
        progress.clear()
        if not written:
            raise SourceError(f"{args.source} gave no picture")
        if progress.shown and not args.json:
            print(f"{len(written)} pictures: {written[0]} to {written[-1]}", file=said)
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
    if args.output == _STDOUT:
        if is_terminal(sys.stdout):
            raise SinkError("a picture is no text for a terminal; give -o FILE, or send standard output to a file or a pipe")
        return _STDOUT, args.format or "png"
    return args.output, args.format


def _open(args: argparse.Namespace) -> Source:
    text = args.source
    if args.cursor:
        spec = parse_spec(text)
        if "cursor" in source_class(spec.scheme).keys:
            text += ("&" if "?" in text else "?") + "cursor=1"
        else:
            report(f"{spec.scheme}: knows no mouse pointer; --cursor changes nothing")
    return open_source(text)


def _frames(source: Source, args: argparse.Namespace) -> Iterator[Frame]:
    """The source's frames, at least an interval apart."""
    interval = 1.0 if args.interval is None else args.interval
    due = time.monotonic()
    for frame in source.frames(args.timeout):
        yield frame
        # From one start to the next: a slow sink does not stretch the interval.
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))


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


def _take(reader: Reader, frame: Frame, path: str, format: str | None, args: argparse.Namespace) -> _Shot:
    release, frame = frame.release, dataclasses.replace(frame, release=None)
    try:
        return _taken(reader, frame, path, format, args)
    finally:
        # Once, when a second read for --verify is over too.
        if release is not None:
            release()


def _taken(reader: Reader, frame: Frame, path: str, format: str | None, args: argparse.Namespace) -> _Shot:
    start = time.perf_counter()
    options: dict[str, Any] = {"tone_map": True} if args.tone_map else {}
    if args.scale is not None:
        options["scale"] = args.scale.of(*(args.rect[2:] if args.rect is not None else frame.size))
    surface = reader.read(frame, fourcc=args.fourcc, rect=args.rect, route=args.route, timeout=args.timeout, **options)
    seconds = time.perf_counter() - start
    verified = None
    if args.verify:
        from ._verify import verify

        if options:
            raise SinkError("--verify compares the buffer's own pixels; it cannot check a scaled or tone-mapped picture")
        verified = verify(reader, frame, surface, args.rect, args.timeout)
    if path == _STDOUT:
        sinks.write(surface, sys.stdout.buffer, format or "png")
        sys.stdout.buffer.flush()
    else:
        sinks.save(surface, path, format)
    return _Shot(path, surface, frame.origin or args.source, seconds, verified)


def _sentence(shot: _Shot) -> str:
    surface, route = shot.surface, shot.surface.route
    assert route is not None
    what = f"{surface.width}x{surface.height} {surface.fourcc} from {shot.source} by {route.name}"
    if route != ROUTES[0] or "; " in route.reason:
        what += f" ({route.reason})"
    if not route.exact:
        what += ", not bit for bit"
    checked = f"; verified: {shot.verified}" if shot.verified else ""
    where = "standard output" if shot.path == _STDOUT else shot.path
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
