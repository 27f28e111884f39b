"""`glreadback bench`: each way to read a source's picture, as a ratio to memcpy of the same bytes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import bench
from ..errors import DescriptorError, DeviceError
from ..reader import Reader
from ..sources import open_source
from . import _arguments
from ._exit import DONE
from ._terminal import Progress, bar, paint, table

if TYPE_CHECKING:
    from ..bench import Measure, Skipped
    from ..frame import Frame
    from ..plan import Capabilities

HELP = """\
Measure every way to read SOURCE's picture into a given surface, and print each as a ratio to memcpy of the same bytes
in the same run: the routes with the import kept, import, read and drop of each frame beside mmap, memcpy and munmap of
each, and the way in which QEMU's egl-headless reads. They take turns; the ratios are medians over the rounds.
"""
EXAMPLES = """\
examples:
  glreadback bench
  glreadback bench 'pattern:?size=3840x2160&fourcc=XR24' --seconds 10 --plot bench.png
  glreadback bench --json | jq '.measures[] | select(.name == "alias").ratio'
"""

_DEFAULT = "pattern:?size=1920x1080&fourcc=XR24"
_BAR = 32  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.source(parser, _DEFAULT)
    _arguments.device(parser)
    parser.add_argument("--frames", action="store_true", help="what reading every frame costs, each beside its limit: a minute")
    parser.add_argument("--fourcc", metavar="C", type=_arguments.fourcc, help="the pixel format to read as, such as AB24")
    parser.add_argument("--seconds", metavar="S", type=_arguments.seconds, default=5.0, help="about how long; default: 5")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios as a bar chart, too")
    _arguments.timeout(parser)
    _arguments.json(parser, "print one JSON object instead of a table")


def _run_frames(args: argparse.Namespace) -> int:
    """What a program pays that reads every frame: docs/performance.md's table."""
    from ..bench_frames import measure_frames
    from . import _frames

    with Progress() as progress:
        progress.show("bench: every frame …")
        found = measure_frames(args.device)
    print("\n".join(_frames.lines(found)))
    if args.plot:
        _frames.plot(args.plot, found)
        print(f"plot: {args.plot}")
    return DONE


def run(args: argparse.Namespace) -> int:
    if args.frames:
        return _run_frames(args)
    with open_source(args.source, device=args.device) as source, Progress() as progress:
        frame = next(source.frames(args.timeout))
        progress.show("bench: first reads …")
        capabilities = _capabilities(frame, args.device)
        with bench.contenders(frame, args.device, source, args.fourcc) as (contenders, skipped, out):

            def tick(share: float) -> None:
                progress.show(f"bench: {bar(share, 30):<30} {share:4.0%}")

            measures = bench.alternate(contenders, args.seconds, tick=tick)
            what: dict[str, Any] = {
                "source": frame.origin or args.source,
                "width": out.width,
                "height": out.height,
                "fourcc": str(frame.buffer.fourcc),
                "read_as": str(out.fourcc),
                "bytes": len(out.data),
                "device": capabilities and capabilities.device,
                "renderer": capabilities and capabilities.renderer,
            }
        try:
            what["1x1_us"] = round(bench.tiny(frame, args.device) * 1e6, 2)
        except DescriptorError:
            what["1x1_us"] = None
    if args.json:
        _print_json(what, measures, skipped)
    else:
        print("\n".join(_report(what, measures, skipped)))
    if args.plot:
        from ._plot import plot

        plot(args.plot, _title(what), measures)
        if not args.json:
            print(f"plot: {args.plot}")
    return DONE


def _capabilities(frame: Frame, device: str | None) -> Capabilities | None:
    with Reader(device) as reader:
        try:
            return reader.capabilities(frame)
        except DeviceError:
            if device is not None:
                raise
            return None  # map is left


def _title(what: dict[str, Any]) -> str:
    read_as = f" read as {what['read_as']}" if what["read_as"] != what["fourcc"] else ""
    where = f"{what['device']}, {what['renderer']}" if what["device"] else "no GL"
    return f"{what['source']} {what['width']}x{what['height']} {what['fourcc']}{read_as}, {what['bytes'] / 1e6:.1f} MB; {where}"


def _report(what: dict[str, Any], measures: Sequence[Measure], skipped: Sequence[Skipped]) -> list[str]:
    base = measures[0].seconds
    longest = max(measure.seconds for measure in measures)
    rows = [("", "median", "× memcpy", "")]
    for measure in measures:
        # Bars show the time; the ratio of a pair that belongs together is said below.
        ratio = measure.ratio if measure.beside == bench.MEMCPY else measure.seconds / base
        rows.append((measure.name, f"{measure.seconds * 1e3:8.3f} ms", f"{ratio:8.2f}", bar(measure.seconds / longest, _BAR)))
    head, *lines = table(rows)
    notes = [f"{measure.name}: {measure.what}" for measure in measures]
    return [
        paint(_title(what), "bold"),
        "",
        paint(head, "dim"),
        *lines,
        *(f"{skip.name}: not here: {skip.why}" for skip in skipped),
        "",
        *_comparisons(what, measures),
        "",
        *(paint(note, "dim") for note in notes),
        paint(f"Medians of {measures[0].rounds} rounds in which all took turns.", "dim"),
    ]


def _comparisons(what: dict[str, Any], measures: Sequence[Measure]) -> list[str]:
    """The sentences that the numbers are for."""
    found = {measure.name: measure for measure in measures}
    said = []
    ours = found.get("alias") or found.get("native")
    if ours is not None:
        said.append(f"{ours.name} takes {ours.ratio:.2f} × memcpy (quartiles {ours.low:.2f} to {ours.high:.2f}).")
        if bench.HEADLESS in found:
            times = found[bench.HEADLESS].seconds / ours.seconds
            said.append(f"QEMU egl-headless's way takes {times:.1f} × as long as {ours.name}.")
    if bench.FRESH in found:
        said.append(f"A buffer never seen before: {found[bench.FRESH].ratio:.2f} × mmap, memcpy and munmap of it.")
    for measure in measures:
        if measure.beside not in (bench.MEMCPY, bench.FRESH_MEMCPY):
            quartiles = f"quartiles {measure.low:.2f} to {measure.high:.2f}"
            said.append(f"{measure.name} takes {measure.ratio:.2f} × {measure.beside} ({quartiles}).")
    if what["1x1_us"] is not None:
        said.append(f"A 1x1 read: {what['1x1_us']:.1f} µs, which is all that comes on top of the pixels.")
    return said


def _print_json(what: dict[str, Any], measures: Sequence[Measure], skipped: Sequence[Skipped]) -> None:
    import dataclasses
    import json

    found = {
        **what,
        "measures": [dataclasses.asdict(measure) for measure in measures],
        "skipped": [dataclasses.asdict(skip) for skip in skipped],
    }
    print(json.dumps(found))
