"""`glreadback info`: what a source says of its picture, and how a read would go about it. No pixel is read."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..dmabuf import Backing, check, inspect
from ..errors import DescriptorError, DeviceError, GlReadbackError
from ..kernel.dmabuf import exporter
from ..plan import plan
from ..reader import Reader
from ..sources import open_source
from . import _arguments
from ._exit import DONE
from ._terminal import facts

if TYPE_CHECKING:
    from ..dmabuf import DmaBuf
    from ..fourcc import FormatInfo
    from ..frame import Frame

HELP = """\
Describe the picture that SOURCE gives: size, pixel format, memory layout, planes, what memory it is, and by which route
a read would take it. No pixel is read.
"""
EXAMPLES = """\
examples:
  glreadback info pattern:
  glreadback info 'fd:7?size=1920x1080&fourcc=NV12' --json
"""

_MODELS = {"rgb": "RGB", "yuv": "Y'CbCr", "index": "palette indices", "dark": "darkness"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.source(parser)
    _arguments.device(parser)
    _arguments.timeout(parser)
    _arguments.json(parser, "print one JSON object instead of words")


def run(args: argparse.Namespace) -> int:
    with open_source(args.source, device=args.device) as source, Reader(args.device) as reader:
        frame = next(source.frames(args.timeout))
        found = describe(frame, reader)
        found["origin"] = found["origin"] or args.source
        about = source.describe()
    if args.json:
        import json

        print(json.dumps({**found, "about": about}))
    else:
        print("\n".join(facts(_lines(found, about))))
    if "problem" in found:
        raise DescriptorError(f"this picture cannot be read: {found['problem']}")
    return DONE


def describe(frame: Frame, reader: Reader) -> dict[str, Any]:
    """What is known of a frame, as JSON has it. "problem" is there if the buffers are not what the frame says."""
    buf = frame.buffer
    found: dict[str, Any] = {
        "origin": frame.origin,
        "width": buf.width,
        "height": buf.height,
        "fourcc": str(buf.fourcc),
        "format": _format_words(buf.fourcc.info) if buf.fourcc.known else "not in drm_fourcc.h",
        "modifier": str(buf.modifier),
        "modifier_value": int(buf.modifier),
        "planes": [
            {"fd": plane.fd, "offset": plane.offset, "stride": plane.stride, "samples": samples}
            for plane, samples in zip(buf.planes, _samples(buf), strict=True)
        ],
        "buffers": [_buffer(fd) for fd in dict.fromkeys(plane.fd for plane in buf.planes)],
        "visible": list(frame.area),
        "y_invert": frame.y_invert,
        "transform": frame.transform,
        "color": _color(frame),
        "damage": None if frame.damage is None else [list(rect) for rect in frame.damage],
        "acquire_fence": frame.acquire_fence is not None,
        "device": frame.device,
    }
    try:
        check(buf)
    except DescriptorError as error:
        found["problem"] = str(error)
    else:
        found["route"] = _route(frame, reader)
    return found


def _format_words(info: FormatInfo) -> str:
    """ "NV12: Y'CbCr, chroma 2x2, 2 planes" """
    words = [_MODELS[info.model]]
    if info.floating:
        words.append("half floats")
    if info.subsampling != (1, 1):
        words.append("chroma {}x{}".format(*info.subsampling))
    if len(info.planes) > 1:
        words.append(f"{len(info.planes)} planes")
    return f"{info.name}: {', '.join(words)}"


def _samples(buf: DmaBuf) -> list[str]:
    """What lies in each plane, "4 bytes a pixel, B8 G8 R8 X8 from the lowest bit"; nothing where that is not known."""
    if not buf.linear:
        return [""] * len(buf.planes)
    found = []
    for layout in buf.layouts:
        fields = " ".join(f"{field.component}{field.bits}" for field in layout.fields)
        pixels = layout.block_width * layout.block_height
        of = "a sample" if pixels == 1 else f"for {layout.block_width}x{layout.block_height} samples"
        found.append(f"{layout.block_bytes} byte{'s' * (layout.block_bytes != 1)} {of}, {fields} from the lowest bit")
    return found


def _buffer(fd: int) -> dict[str, Any]:
    try:
        backing = inspect(fd)
    except DescriptorError as error:
        return {"fd": fd, "kind": None, "problem": str(error)}
    return {
        "fd": fd,
        "kind": _kind(fd, backing),
        "bytes": backing.size,
        "exporter": exporter(fd) if backing.dmabuf else None,
        "copied_first": _why_copied(backing),
    }


def _kind(fd: int, backing: Backing) -> str:
    if backing.dmabuf:
        return "dma-buf"
    return "memfd" if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:") else "file"


def _why_copied(backing: Backing) -> str | None:
    if not backing.steady:
        return "it can shrink (no F_SEAL_SHRINK)"
    return None if backing.writable else "its descriptor is read-only"


def _color(frame: Frame) -> dict[str, Any] | None:
    if frame.color is None:
        return None
    import dataclasses

    return {name: value for name, value in dataclasses.asdict(frame.color).items() if value is not None}


def _route(frame: Frame, reader: Reader) -> dict[str, Any]:
    """How `Reader.read` would take it; name None, and why, where it could not."""
    try:
        capabilities = reader.capabilities(frame)
        device, missing = capabilities.device, ""
    except DeviceError as error:
        capabilities, device, missing = None, "", str(error)
    try:
        route = plan(frame, None, capabilities)
    except GlReadbackError as error:
        return {"name": None, "reason": str(error), "device": device or None}
    return {
        "name": route.name,
        "fourcc": str(route.fourcc),
        "exact": route.exact,
        "reason": f"{route.reason}; {missing}" if missing else route.reason,
        "device": device or None,
    }


def _lines(found: dict[str, Any], about: dict[str, object]) -> list[tuple[str, str]]:
    lines = [
        ("source", found["origin"]),
        ("size", f"{found['width']}x{found['height']} pixels"),
        ("fourcc", f"{found['fourcc']} ({found['format']})"),
        ("modifier", f"{found['modifier']} (0x{found['modifier_value']:x})"),
    ]
    for index, plane in enumerate(found["planes"]):
        where = f"fd {plane['fd']}, offset {plane['offset']}, stride {plane['stride']}"
        lines.append((f"plane {index}", f"{where}; {plane['samples']}" if plane["samples"] else where))
    lines += [(f"fd {buffer['fd']}", _buffer_words(buffer)) for buffer in found["buffers"]]
    if found["visible"] != [0, 0, found["width"], found["height"]]:
        lines.append(("visible", "{2}x{3}+{0}+{1}".format(*found["visible"])))
    if found["y_invert"]:
        lines.append(("rows", "from the bottom up"))
    if found["transform"] != "normal":
        lines.append(("transform", found["transform"]))
    if found["color"]:
        lines.append(("colour", ", ".join(f"{name} {value}" for name, value in found["color"].items())))
    if found["damage"] is not None:
        lines.append(("damage", ", ".join("{2}x{3}+{0}+{1}".format(*rect) for rect in found["damage"]) or "nothing"))
    if found["acquire_fence"]:
        lines.append(("fence", "the producer may still be drawing: reads wait for its fence"))
    if found["device"]:
        lines.append(("device", found["device"]))
    # What the lines above do not say already.
    lines += [(name, _words(value)) for name, value in about.items() if name not in ("buffers", "bytes")]
    if "route" in found:
        lines.append(("read by", _route_words(found["route"])))
    return lines


def _buffer_words(buffer: dict[str, Any]) -> str:
    if "problem" in buffer:
        return str(buffer["problem"])
    what = f"{buffer['kind']} of {buffer['bytes']} bytes"
    if buffer["exporter"]:
        what += f", made by {buffer['exporter']}"
    if buffer["copied_first"]:
        what += f"; copied before it is read: {buffer['copied_first']}"
    return what


def _route_words(route: dict[str, Any]) -> str:
    if route["name"] is None:
        return f"no route: {route['reason']}"
    where = f" on {route['device']}" if route["device"] else ""
    exact = "bit for bit" if route["exact"] else "not bit for bit"
    return f"{route['name']}{where}, as {route['fourcc']}, {exact}\n({route['reason']})"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "\n".join(_words(part) for part in value) or "none"
    return str(value)
