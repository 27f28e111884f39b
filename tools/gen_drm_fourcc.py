"""Writes glreadback/_drm_fourcc.py, DRM's pixel formats and modifiers as plain tables, from the kernel's drm_fourcc.h.

    python tools/gen_drm_fourcc.py             write the module
    python tools/gen_drm_fourcc.py --check     exit 1 if the module is not what the header gives

The header says in comments what a pixel's bits mean. What is read of them, most significant bit first:

    [31:0] x:R:G:B 8:8:8:8                     one plane; without the widths, all fields are equally wide
    index 1 = Cr:Cb plane, [15:0] Cr:Cb        one plane of several; "or" lists alternatives, which
    2x2 subsampled Cr:Cb plane                 the comment beside the define chooses from

A comment that is not understood is an error: better no table than a wrong one.
To update: replace tools/drm_fourcc.h by a newer kernel's include/uapi/drm/drm_fourcc.h, correct SOURCE, run this.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).resolve().parent
HEADER = TOOLS / "drm_fourcc.h"
MODULE = TOOLS.parent / "glreadback" / "_drm_fourcc.py"
SOURCE = "Linux 6.12.95"  # from Debian's linux-libc-dev 6.12.95-1~bpo12+1

# Blocks of more than one row: the header draws them as a row of bits and says "2x2 tile" in prose alone.
BLOCKS = {
    "Y0L0": (2, 2),
    "X0L0": (2, 2),
    "Y0L2": (2, 2),
    "X0L2": (2, 2),
}
# "The component ordering is specified (Y, followed by U then V), but the exact Linear layout is undefined": these exist
# only with a non-linear modifier. What they get here is nominal: the order, the depth and the size of the samples of
# the smallest block that fills whole bytes.
NOMINAL = {
    "YUV420_8BIT": ("[47:0] Cr0:Cb0:Y3:Y2:Y1:Y0", (2, 2)),
    "YUV420_10BIT": ("[119:0] Cr1:Cr0:Cb1:Cb0:Y7:Y6:Y5:Y4:Y3:Y2:Y1:Y0", (4, 2)),
    "VUY101010": ("[119:0] Cr3:Cb3:Y3:Cr2:Cb2:Y2:Cr1:Cb1:Y1:Cr0:Cb0:Y0", (4, 1)),
}

COMPONENTS = {name: name for name in ("R", "G", "B", "A", "Y", "Cb", "Cr", "C", "D")} | dict.fromkeys("xX0", "X")

# Macros that give modifiers, but no family of their own.
NOT_FAMILIES = {
    "ARM_CODE",  # what AFBC, AFRC and the rest of Arm's are made with
    "NVIDIA_16BX2_BLOCK",  # NVIDIA_BLOCK_LINEAR_2D with one parameter
}

LAYOUT = re.compile(r"\[(?P<top>\d+):0\] (?P<names>[A-Za-z0-9:]+)(?: \[?(?P<widths>\d+(?::\d+)*)\]?)?(?= |$)")
INDEX = re.compile(r"index (?P<index>\d) ?[:=] (?P<label>[\w:]+) plane, ")
SUBSAMPLED = re.compile(r"(?P<hsub>\d)x(?P<vsub>\d) subsampled|non-subsampled")
DEFINE_OR_COMMENT = re.compile(
    r"#define DRM_FORMAT_(?P<name>\w+)\s+fourcc_code\((?P<code>'.', *'.', *'.', *'.')\)"
    r"(?:[ \t]*/\*(?P<note>.*?)\*/)?"
    r"|/\*(?P<section>.*?)\*/",
    re.DOTALL,
)


class HeaderError(Exception):
    """The header says something that this generator does not understand."""


class Field(NamedTuple):
    component: str
    shift: int
    bits: int
    sample: int


class Plane(NamedTuple):
    block_bytes: int
    block_width: int
    block_height: int
    hsub: int
    vsub: int
    fields: tuple[Field, ...]


class Format(NamedTuple):
    name: str
    model: str
    floating: bool
    linear: bool
    planes: tuple[Plane, ...]


# ---- formats


def parse_formats(header: str) -> dict[str, Format]:
    """Every pixel format of the header by its four characters, trailing spaces stripped, in the header's order."""
    formats: dict[str, Format] = {}
    by_name: dict[str, Format] = {}
    section = ""
    for match in DEFINE_OR_COMMENT.finditer(header):
        if match["section"] is not None:
            section = _prose(match["section"])
            continue
        name, code = match["name"], "".join(re.findall(r"'(.)'", match["code"])).rstrip()
        fmt = _parse_format(name, _prose(match["note"] or ""), section, by_name)
        if code in formats or name in by_name:
            raise HeaderError(f"{name} ({code}) is defined twice")
        formats[code] = by_name[name] = fmt
    defined = len(re.findall(r"^#define\s+DRM_FORMAT_\w+\s+fourcc_code\(", header, re.MULTILINE))
    if len(formats) != defined:
        raise HeaderError(f"{defined} formats are defined, {len(formats)} were understood")
    if strangers := (BLOCKS.keys() | NOMINAL.keys()) - by_name.keys():
        raise HeaderError(f"{', '.join(sorted(strangers))}: described here, but not in the header")
    return formats


def _prose(comment: str) -> str:
    """A comment's words, without its stars and line ends."""
    return " ".join(re.sub(r"^\s*\*", "", comment, flags=re.MULTILINE).split())


def _parse_format(name: str, note: str, section: str, known: dict[str, Format]) -> Format:
    try:
        linear = "non-linear modifier" not in f"{note} {section}".lower()
        if linear != (name not in NOMINAL):
            raise HeaderError("the header and NOMINAL disagree on whether it can be linear")
        if name in NOMINAL:
            planes: tuple[Plane, ...] = (_parse_plane(*NOMINAL[name]),)
        elif LAYOUT.search(note) or not INDEX.search(section):
            planes = (_parse_plane(note if LAYOUT.search(note) else section, BLOCKS.get(name)),)
        else:
            planes = _parse_planes(name, note, section, known)
        return Format(name, _model(planes), _floating(name, section, planes), linear, planes)
    except HeaderError as error:
        raise HeaderError(f"DRM_FORMAT_{name}: {error}; its comments: {note!r}, {section!r}") from None


def _parse_planes(name: str, note: str, section: str, known: dict[str, Format]) -> tuple[Plane, ...]:
    """The planes of a format whose section lists them by index."""
    hsub, vsub = _subsampling(note) or _subsampling(section) or (1, 1)
    chosen = dict(re.findall(r"(\w+) \((\d)\)", note))  # "4x4 subsampled Cb (1) and Cr (2) planes"
    wanted = {index: component for component, index in chosen.items()}
    if pair := re.search(r"(\w+:\w+) plane", note):  # "2x2 subsampled Cr:Cb plane"
        wanted["1"] = pair[1]
    planes: list[Plane] = []
    for index in sorted({match["index"] for match in INDEX.finditer(section)}):
        found = [
            section[match.end() :]
            for match in INDEX.finditer(section)
            if match["index"] == index and match["label"] == wanted.get(index, match["label"])
        ]
        if len(found) != 1:
            raise HeaderError(f"{len(found)} descriptions fit plane {index}")
        if found[0].startswith("same format as the corresponding non _A8 format has"):
            if name.removesuffix("_A8") not in known:
                raise HeaderError("there is no corresponding non _A8 format")
            planes += known[name.removesuffix("_A8")].planes
            continue
        plane = _parse_plane(found[0])
        if any(field.component in ("Cb", "Cr") for field in plane.fields):
            plane = plane._replace(hsub=hsub, vsub=vsub)
        planes.append(plane)
    if (stated := re.match(r"(\d) plane", section)) is None or int(stated[1]) != len(planes):
        raise HeaderError(f"{len(planes)} planes are described")
    return tuple(planes)


def _subsampling(comment: str) -> tuple[int, int] | None:
    if (match := SUBSAMPLED.search(comment)) is None:
        return None
    return (int(match["hsub"]), int(match["vsub"])) if match["hsub"] else (1, 1)


def _parse_plane(comment: str, block: tuple[int, int] | None = None) -> Plane:
    """The plane that the first layout in comment describes. block is its width and height, if not one row."""
    if (match := LAYOUT.search(comment)) is None:
        raise HeaderError("no layout is given")
    total, names = int(match["top"]) + 1, match["names"].split(":")
    if match["widths"]:
        widths = [int(width) for width in match["widths"].split(":")]
    else:
        widths = [total // len(names)] * len(names)
    if len(names) != len(widths) or sum(widths) != total or total % 8:
        raise HeaderError(f"{match[0]!r} does not add up")
    fields: list[Field] = []
    padding = 0
    shift = 0
    for name, bits in zip(reversed(names), reversed(widths), strict=True):
        word = re.fullmatch(r"(0|[A-Za-z]+)(\d*)", name)
        if word is None or word[1] not in COMPONENTS:
            raise HeaderError(f"{name!r} is no component")
        component = COMPONENTS[word[1]]
        sample = int(word[2] or 0)
        if component == "X":  # whatever it is called, padding is counted upwards from bit 0
            sample, padding = padding, padding + 1
        fields.append(Field(component, shift, bits, sample))
        shift += bits
    counts = Counter(field.component for field in fields if field.component != "X")
    if any({f.sample for f in fields if f.component == c} != set(range(n)) for c, n in counts.items()):
        raise HeaderError(f"{match[0]!r} names a sample twice, or leaves one out")
    if block is None and counts["Cb"] and counts["Y"] > 2 * counts["Cb"]:
        raise HeaderError(f"{match[0]!r} has much luma: is its block more than one line high? BLOCKS must say")
    width, height = block or (max(counts.values()), 1)
    if max(counts.values()) != width * height:
        raise HeaderError(f"{match[0]!r} does not fill a block of {width}x{height}")
    return Plane(total // 8, width, height, 1, 1, tuple(fields))


def _floating(name: str, section: str, planes: tuple[Plane, ...]) -> bool:
    """Whether the components are IEEE 754 floating point numbers: the section and an F in the name both say so."""
    stated = re.search(r"Floating point .* binary(\d+)", section)
    if bool(stated) != name.endswith("F"):
        raise HeaderError("the name and the comment disagree on whether it is floating point")
    if stated and any(field.bits != int(stated[1]) for plane in planes for field in plane.fields):
        raise HeaderError(f"a component is not binary{stated[1]}")
    return bool(stated)


def _model(planes: tuple[Plane, ...]) -> str:
    components = {field.component for plane in planes for field in plane.fields} - {"X", "A"}
    for model, of in {"rgb": {*"RGB"}, "yuv": {"Y", "Cb", "Cr"}, "index": {"C"}, "dark": {"D"}}.items():
        if components and components <= of:
            return model
    raise HeaderError(f"no colour model has the components {', '.join(sorted(components))}")


# ---- modifiers


class Macros:
    """The header's macros, expanded and worked out as C would, as far as drm_fourcc.h needs it."""

    DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(?:\(([^)]*)\))?(?:[ \t]+(.*))?$", re.MULTILINE)

    def __init__(self, header: str) -> None:
        code = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL).replace("\\\n", " ")
        self.defined: dict[str, tuple[list[str] | None, str]] = {}  # name: (its parameters if it takes any, body)
        for name, params, body in (match.groups() for match in self.DEFINE.finditer(code)):
            self.defined[name] = (params.replace(" ", "").split(",") if params is not None else None, body or "")

    def value(self, expression: str) -> int:
        """What a constant C expression of the header's macros is."""
        text = re.sub(r"\(\s*(?:__u64|__u32|int)\s*\)", "", self._expand(expression))
        text = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
        if not re.fullmatch(r"[\s0-9a-fA-FxX()|&~<>+-]+", text):
            raise HeaderError(f"{expression} is not a constant: {text}")
        return int(eval(text, {"__builtins__": {}}))

    def call(self, name: str, *arguments: int) -> int:
        """What a function-like macro gives for these arguments."""
        return self.value(f"{name}({', '.join(map(str, arguments))})")

    def starting(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The plain constants called prefix…, without the prefix, in the header's order."""
        for name, (params, body) in self.defined.items():
            if params is None and body and name.startswith(prefix):
                yield name.removeprefix(prefix), self.value(name)

    def _expand(self, text: str) -> str:
        out, at = "", 0
        while word := re.compile(r"\b[A-Za-z_]\w*").search(text, at):
            out, at = out + text[at : word.start()], word.end()
            if word[0] not in self.defined:
                out += word[0]
                continue
            params, body = self.defined[word[0]]
            if params is not None:
                arguments, at = self._arguments(text, at)
                if len(arguments) != len(params):
                    raise HeaderError(f"{word[0]} takes {len(params)} arguments, not {len(arguments)}")
                for param, argument in zip(params, arguments, strict=True):
                    body = re.sub(rf"\s*##\s*{param}\b", argument, body)
                    body = re.sub(rf"\b{param}\b", f"({argument})", body)
            out += f"({self._expand(body)})"
        return out + text[at:]

    @staticmethod
    def _arguments(text: str, at: int) -> tuple[list[str], int]:
        """The arguments in the parentheses that open at text[at], and where the text goes on."""
        arguments, depth = [""], 0
        for end in range(at, len(text)):
            char = text[end]
            depth += {"(": 1, ")": -1}.get(char, 0)
            if char == ")" and depth == 0:
                return [argument.strip() for argument in arguments], end + 1
            if char == "," and depth == 1:
                arguments.append("")
            elif not (char == "(" and depth == 1):
                arguments[-1] += char
        raise HeaderError(f"unbalanced parentheses: {text}")


class Parameter(NamedTuple):
    """A bit field of a parametric modifier: its name, its place and the names of values that have one."""

    label: str
    shift: int
    bits: int
    words: dict[int, str]


class Family(NamedTuple):
    """Modifiers that are one base value and parameters."""

    base: int
    parameters: tuple[Parameter, ...]


def parse_vendors(macros: Macros) -> dict[str, int]:
    return dict(macros.starting("DRM_FORMAT_MOD_VENDOR_"))


def parse_modifiers(macros: Macros) -> dict[str, int]:
    """The modifiers that have a name of their own. Of several names for one value the one to print comes first."""
    names: dict[str, int] = {}
    aliases: dict[str, int] = {}
    for name, (params, body) in macros.defined.items():
        spelled = re.fullmatch(r"(?:DRM_FORMAT_MOD_(?!VENDOR_|ARM_TYPE_)|(\w+_)FORMAT_MOD_|)(\w+)", name)
        if params is not None or spelled is None or "fourcc_mod_code" not in body + _bodies(macros, body):
            continue
        short = (spelled[1] or "") + spelled[2]
        (names if "(" in body else aliases)[short] = macros.value(name)
    # DRM_FORMAT_MOD_NONE is a bare 0 in the header: an old name of LINEAR.
    aliases["NONE"] = macros.value("DRM_FORMAT_MOD_NONE")
    for short, value in aliases.items():
        if value not in names.values():
            raise HeaderError(f"{short} is another name of nothing known")
    return names | aliases


def _bodies(macros: Macros, body: str) -> str:
    """The bodies of all macros that body is built from."""
    found = ""
    for word in re.findall(r"\b[A-Za-z_]\w*", body):
        if word in macros.defined and word != "fourcc_mod_code":
            found += macros.defined[word][1] + _bodies(macros, macros.defined[word][1])
    return found


def parse_families(macros: Macros) -> dict[str, Family]:
    """The modifiers with parameters."""
    prefix = "DRM_FORMAT_MOD_"
    families = {
        "AMD": _amd(macros),
        "ARM_AFBC": _arm_afbc(macros),
        "ARM_AFRC": _arm_afrc(macros),
        "AMLOGIC_FBC": _amlogic_fbc(macros),
    }
    for name, (params, _) in macros.defined.items():
        short = name.removeprefix(prefix)
        if params is None and name.startswith(prefix + "VIVANTE_"):
            families[short] = _vivante(macros, name)
        elif params and name.startswith(prefix) and short not in families and short not in NOT_FAMILIES:
            families[short] = _by_macro(macros, name)
    for name, family in families.items():
        covered = family.base
        words = [word for parameter in family.parameters for word in parameter.words.values()]
        for parameter in family.parameters:
            bits = (1 << parameter.bits) - 1 << parameter.shift
            if covered & bits:
                raise HeaderError(f"{name}: the bits of {parameter.label} are taken")
            covered |= bits
        if len(words) != len(set(words)):
            raise HeaderError(f"{name}: a word means two things")
    return families


def _amd(macros: Macros) -> Family:
    """AMD_FMT_MOD: fields by their _SHIFT and _MASK."""
    values = dict(macros.starting("AMD_FMT_MOD_"))
    words = {
        "TILE_VERSION": _words(values, r"TILE_VER_(\w+)"),
        "TILE": _words(values, r"TILE_GFX\d+_(\w+)"),
        "DCC_MAX_COMPRESSED_BLOCK": _words(values, r"(DCC_BLOCK_\w+)"),
    }
    labels = [name.removesuffix("_SHIFT") for name in values if name.endswith("_SHIFT")]
    fields = {label: _field(values[f"{label}_MASK"] << values[f"{label}_SHIFT"]) for label in labels}
    return Family(
        macros.value("AMD_FMT_MOD"),
        tuple(Parameter(label, *field, words.get(label, {})) for label, field in fields.items()),
    )


def _arm_afbc(macros: Macros) -> Family:
    values = dict(macros.starting("AFBC_FORMAT_MOD_"))
    sizes = _words(values, r"BLOCK_SIZE_(\d\w+)")
    flags = {name: mask for name, mask in values.items() if not name.startswith("BLOCK_SIZE_")}
    return Family(
        macros.call("DRM_FORMAT_MOD_ARM_AFBC", 0),
        (Parameter("BLOCK_SIZE", *_field(values["BLOCK_SIZE_MASK"]), sizes), *_flags(flags)),
    )


def _arm_afrc(macros: Macros) -> Family:
    """Coding unit sizes, one for plane 0 and one for planes 1 and 2, and flags."""
    values = dict(macros.starting("AFRC_FORMAT_MOD_"))
    sizes = _words(values, r"CU_SIZE_(\d+)")
    units = []
    for planes in ("P0", "P12"):
        mask = macros.call(f"AFRC_FORMAT_MOD_CU_SIZE_{planes}", values["CU_SIZE_MASK"])
        words = {value: f"{planes}_CU_{size}" for value, size in sizes.items()}
        units.append(Parameter(f"CU_SIZE_{planes}", *_field(mask), words))
    flags = {name: mask for name, mask in values.items() if not name.startswith("CU_SIZE_")}
    return Family(macros.call("DRM_FORMAT_MOD_ARM_AFRC", 0), (*units, *_flags(flags)))


def _amlogic_fbc(macros: Macros) -> Family:
    values = dict(macros.starting("AMLOGIC_FBC_"))
    macro = "DRM_FORMAT_MOD_AMLOGIC_FBC"
    base = macros.call(macro, 0, 0)
    options = {
        name.removeprefix("OPTION_"): macros.call(macro, 0, value) & ~base
        for name, value in values.items()
        if name.startswith("OPTION_")
    }
    layout = Parameter("LAYOUT", *_field(macros.call(macro, -1, 0) & ~base), _words(values, r"LAYOUT_(\w+)"))
    return Family(base, (layout, *_flags(options)))


def _by_macro(macros: Macros, name: str) -> Family:
    """A family whose macro takes its fields: each argument's place is the bits that it can set."""
    params = macros.defined[name][0] or []
    base = macros.call(name, *[0] * len(params))
    fields = {param: _field(macros.call(name, *[-1 if other == param else 0 for other in params]) & ~base) for param in params}
    in_order = sorted(fields, key=lambda param: fields[param])
    return Family(base, tuple(Parameter(p if len(params) > 1 else "", *fields[p], {}) for p in in_order))


def _vivante(macros: Macros, tiling: str) -> Family:
    """One of Vivante's tilings with its extensions: tile status and compression."""
    values = dict(macros.starting("VIVANTE_MOD_"))
    extensions = []
    for kind in ("TS", "COMP"):
        shift, bits = _field(values.pop(f"{kind}_MASK"))
        words = {value >> shift: word for value, word in _words(values, rf"({kind}_\w+)").items()}
        extensions.append(Parameter(kind, shift, bits, words))
    return Family(macros.value(tiling), tuple(extensions))


def _field(mask: int) -> tuple[int, int]:
    """Where the lowest bit of a mask is, and how many bits it has."""
    shift = (mask & -mask).bit_length() - 1
    if not mask or (mask >> shift) & ((mask >> shift) + 1):
        raise HeaderError(f"{mask:#x} is no bit field")
    return shift, mask.bit_count()


def _flags(masks: dict[str, int]) -> Iterator[Parameter]:
    for name, mask in masks.items():
        shift, bits = _field(mask)
        if bits != 1:
            raise HeaderError(f"{name} is no flag: {mask:#x}")
        yield Parameter(name, shift, bits, {})


def _words(values: dict[str, int], pattern: str) -> dict[int, str]:
    """The values whose constants' names fit the pattern, and what its group catches of each."""
    return {value: match[1] for name, value in values.items() if (match := re.fullmatch(pattern, name))}


# ---- the module


def generate(header: str) -> str:
    """The text of glreadback/_drm_fourcc.py."""
    macros = Macros(header)
    lines = [
        f'"""DRM\'s pixel formats and modifiers: what drm_fourcc.h of {SOURCE} says, as tables.',
        "",
        "Written by tools/gen_drm_fourcc.py; change that, not this.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        f"SOURCE = {_quoted(SOURCE)}",
        "",
        "# (component, shift, bits, sample)",
        "Field = tuple[str, int, int, int]",
        "# (block_bytes, block_width, block_height, hsub, vsub, fields)",
        "Plane = tuple[int, int, int, int, int, tuple[Field, ...]]",
        "",
        "# fourcc: (name, model, floating, linear, planes)",
        "FORMATS: dict[str, tuple[str, str, bool, bool, tuple[Plane, ...]]] = {",
        *(f"    {_quoted(code)}: {_literal(tuple(fmt))}," for code, fmt in parse_formats(header).items()),
        "}",
        "",
        "VENDORS: dict[str, int] = {",
        *(f"    {_quoted(name)}: {value:#04x}," for name, value in parse_vendors(macros).items()),
        "}",
        "",
        "# Of several names for one value, the first is the one to print.",
        "MODIFIERS: dict[str, int] = {",
        *(f"    {_quoted(name)}: {value:#018x}," for name, value in parse_modifiers(macros).items()),
        "}",
        "",
        "# (label, shift, bits, {value: its name})",
        "Parameter = tuple[str, int, int, dict[int, str]]",
        '# family: (base value, parameters); a label of "" is a number alone',
        "FAMILIES: dict[str, tuple[int, tuple[Parameter, ...]]] = {",
    ]
    for name, family in parse_families(macros).items():
        lines += [f"    {_quoted(name)}: ({family.base:#018x}, ("]
        lines += [f"        {_literal(tuple(parameter))}," for parameter in family.parameters]
        lines += ["    )),"]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return f'"{text}"'


def _literal(value: object) -> str:
    """value as Python source."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: gen_drm_fourcc.py [--check]", file=sys.stderr)
        return 2
    try:
        text = generate(HEADER.read_text(encoding="utf-8"))
    except HeaderError as error:
        print(f"gen_drm_fourcc.py: {error}", file=sys.stderr)
        return 1
    if not arguments:
        MODULE.write_text(text, encoding="utf-8")
    elif not MODULE.exists() or MODULE.read_text(encoding="utf-8") != text:
        print(f"gen_drm_fourcc.py: {MODULE.name} is not what the header gives: run this script", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
