"""`glreadback formats`: every pixel format of DRM's table, and how this machine reads it. Nothing is read; plan() says."""

from __future__ import annotations

import argparse
from typing import Any

from ..dmabuf import DmaBuf, Plane
from ..errors import DescriptorError, DeviceError, ImportRejected
from ..fourcc import FormatInfo, Fourcc
from ..modifier import Modifier
from ..plan import Capabilities, plan
from ..reader import Reader
from . import _arguments
from ._exit import DONE
from ._terminal import paint, table

HELP = """\
List every pixel format of drm_fourcc.h: its planes, the route by which this machine reads it, whether the result is the
buffer's own bits, the pixel format of the result, and the memory layouts (modifiers) that the driver lists for import.
"""
EXAMPLES = """\
examples:
  glreadback formats
  glreadback formats --device /dev/dri/renderD128
  glreadback formats --json | jq -r '.formats[] | select(.route == null) | .fourcc'
"""

_SIZE = 64  # pixels either way: no format or driver minds
_NOT_AT_ALL: dict[str, Any] = {
    "route": None,
    "exact": None,
    "as": None,
    "reason": "exists only in its vendor's compressed layouts, and this device lists none",
}
_HEAD = ("FOURCC", "NAME", "PLANES", "ROUTE", "EXACT", "AS", "DRIVER LISTS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.device(parser)
    _arguments.json(parser, "print one JSON object instead of a table, with each modifier's own route")


def run(args: argparse.Namespace) -> int:
    capabilities, missing = _capabilities(args.device)
    rows = [describe(fourcc, capabilities) for fourcc in Fourcc.all()]
    device = None
    if capabilities is not None:
        device = {"name": capabilities.device, "driver": capabilities.driver, "renderer": capabilities.renderer}
    if args.json:
        import json

        print(json.dumps({"device": device, "missing": missing or None, "formats": rows}))
    else:
        print("\n".join(_table(rows)))
        print()
        print("\n".join(_summary(rows, device, missing)))
    return DONE


def _capabilities(device: str | None) -> tuple[Capabilities | None, str]:
    """The device's capabilities, or why there are none. A device that was asked for has to work."""
    with Reader(device) as reader:
        try:
            return reader.capabilities(), ""
        except DeviceError as error:
            if device is not None:
                raise
            return None, str(error)


def layout_of(info: FormatInfo, modifier: Modifier) -> DmaBuf:
    """A picture of that format as plan() looks at it: of no descriptor."""
    planes = [Plane(0, 0, layout.row_bytes(_SIZE)) for layout in info.planes]
    return DmaBuf(_SIZE, _SIZE, info.fourcc, planes, modifier)


def describe(fourcc: Fourcc, capabilities: Capabilities | None) -> dict[str, Any]:
    """One format as JSON has it: route None, and why, where it cannot be read here."""
    info = fourcc.info
    listed = (capabilities.formats.get(fourcc) or {}) if capabilities else {}
    modifiers = [
        {"modifier": str(Modifier(value)), "external_only": external, **_route(info, Modifier(value), capabilities)}
        for value, external in listed.items()
    ]
    found: dict[str, Any] = {"fourcc": str(fourcc), "name": info.name, "planes": len(info.planes)}
    if info.linear:
        found |= _route(info, Modifier.LINEAR, capabilities)
    else:
        readable = next((entry for entry in modifiers if entry["route"]), None)
        found |= {key: readable[key] for key in _NOT_AT_ALL} if readable else _NOT_AT_ALL
    return {**found, "modifiers": modifiers}


def _route(info: FormatInfo, modifier: Modifier, capabilities: Capabilities | None) -> dict[str, Any]:
    try:
        route = plan(layout_of(info, modifier), None, capabilities)
    except (ImportRejected, DescriptorError) as error:
        return {"route": None, "exact": None, "as": None, "reason": str(error)}
    return {"route": route.name, "exact": route.exact, "as": str(route.fourcc), "reason": route.reason}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        (
            row["fourcc"],
            row["name"],
            str(row["planes"]),
            row["route"] or "-",
            "-" if row["exact"] is None else "yes" if row["exact"] else "no",
            row["as"] or "-",
            _modifiers(row),
        )
        for row in rows
    ]
    head, *lines = table([_HEAD, *cells])
    styles = {"yes": "green", "no": "yellow", "-": "red"}
    return [paint(head, "bold"), *(paint(line, styles[cell[4]]) for line, cell in zip(lines, cells, strict=True))]


def _modifiers(row: dict[str, Any]) -> str:
    names = [entry["modifier"] for entry in row["modifiers"]]
    return ", ".join(names[:2]) + (f", {len(names) - 2} more" if len(names) > 2 else "") or "-"


def _refusals(rows: list[dict[str, Any]]) -> list[str]:
    """Why some are not read at all; formats with the same reason share it."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["route"] is None:
            # "64x64 NV12 (modifier LINEAR) cannot be read as AB24 here: alias: …"
            reasons.setdefault(row["reason"].partition(" here: ")[2] or row["reason"], []).append(row["fourcc"])
    if not reasons:
        return []
    return ["Not read here:", *table([("", " ".join(names) + ": " + why) for why, names in reasons.items()], wrap=True), ""]


def _summary(rows: list[dict[str, Any]], device: dict[str, str] | None, missing: str) -> list[str]:
    exact = sum(row["exact"] is True for row in rows)
    converted = sum(row["exact"] is False for row in rows)
    where = "No device works, so only the map route is left: " + missing
    if device is not None:
        where = f"Device: {device['name']}, {device['driver'] or 'driver unknown'}, {device['renderer']}."
    return [
        *_refusals(rows),
        f"{len(rows)} formats: {exact} read bit for bit, {converted} converted, {len(rows) - exact - converted} not at all.",
        where,
        "ROUTE is for linear buffers. DRIVER LISTS is what the driver claims to import as it is;",
        "it may promise too much. Reader.read_planes reads the planes of every linear format bit for bit.",
    ]
