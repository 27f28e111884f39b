"""DRM's modifiers: numbers to names and back, for every 64-bit number."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glreadback._drm_fourcc import FAMILIES, MODIFIERS
from glreadback.errors import DescriptorError
from glreadback.modifier import Modifier

HEADER = Path(__file__).resolve().parent.parent / "tools/drm_fourcc.h"


def numbers() -> st.SearchStrategy[int]:
    """All 64-bit numbers, most of them near something that has a name."""
    anything = st.integers(0, (1 << 64) - 1)
    vendors = st.builds(lambda vendor, low: vendor << 56 | low, st.integers(0, 12), st.integers(0, 64))

    def of_family(family: tuple[int, tuple[tuple[str, int, int, dict[int, str]], ...]]) -> st.SearchStrategy[int]:
        base, parameters = family
        values = [st.integers(0, (1 << bits) - 1).map(lambda v, s=shift: v << s) for _, shift, bits, _ in parameters]
        return st.tuples(*values).map(lambda parts: base | sum(parts))

    families = st.sampled_from(sorted(FAMILIES.items())).flatmap(lambda item: of_family(item[1]))
    return anything | vendors | families | st.sampled_from(sorted(MODIFIERS.values()))


@settings(deadline=None, max_examples=400)
@given(numbers())
def test_every_number_comes_back_from_its_name(number: int) -> None:
    modifier = Modifier(number)
    for text in (str(modifier), modifier.name, f"{modifier}", str(modifier).lower(), hex(number), str(number)):
        assert Modifier(text) == number
    assert "\n" not in str(modifier)
    assert eval(repr(modifier)) == modifier
    assert pickle.loads(pickle.dumps(modifier)) == modifier
    assert modifier.tiled == (number not in (0, 0x00FFFFFFFFFFFFFF))


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("AMDFIX9_T(),:=0x1f ", max_size=24))
def test_any_text_is_a_modifier_or_a_descriptor_error(text: str) -> None:
    with contextlib.suppress(DescriptorError):
        modifier = Modifier(text)
        assert Modifier(str(modifier)) == modifier


@pytest.mark.parametrize(
    ("number", "name", "vendor"),
    [
        (0, "LINEAR", "NONE"),
        (0x00FFFFFFFFFFFFFF, "INVALID", "NONE"),
        (0x0100000000000001, "I915_X_TILED", "INTEL"),
        (0x0100000000000003, "I915_Yf_TILED", "INTEL"),
        (0x0200000000000000, "AMD_FMT_MOD", "AMD"),
        (0x0200000000003901, "AMD(GFX9,64K_S_X,DCC)", "AMD"),
        (0x020000001860BB03, "AMD(GFX10_RBPLUS,64K_R_X,DCC,DCC_PIPE_ALIGN,PIPE_XOR_BITS=3,PACKERS=3)", "AMD"),
        (0x0200000400040304, "AMD(GFX11,64K_2D,DCC_BLOCK_128B,PIPE=2)", "AMD"),
        (0x0300000000000001, "NVIDIA_TEGRA_TILED", "NVIDIA"),
        (0x0300000000000014, "NVIDIA_16BX2_BLOCK_SIXTEEN_GOB", "NVIDIA"),
        (0x0300000000606014, "NVIDIA_BLOCK_LINEAR_2D(h=4,k=6,g=2,s)", "NVIDIA"),
        (0x0300000000E08014, "NVIDIA_BLOCK_LINEAR_2D(h=4,k=8,g=2,s,c=1)", "NVIDIA"),
        (0x0400000000000002, "SAMSUNG_16_16_TILE", "SAMSUNG"),
        (0x0500000000000001, "QCOM_COMPRESSED", "QCOM"),
        (0x0500000000000063, "QCOM:0x63", "QCOM"),
        (0x0600000000000002, "VIVANTE_SUPER_TILED", "VIVANTE"),
        (0x0611000000000002, "VIVANTE_SUPER_TILED(TS_64_4,COMP_DEC400)", "VIVANTE"),
        (0x0700000000000004, "BROADCOM_SAND128", "BROADCOM"),
        (0x0700000000043804, "BROADCOM_SAND128_COL_HEIGHT(1080)", "BROADCOM"),
        (0x0700000000000006, "BROADCOM_UIF", "BROADCOM"),
        (0x0800000000000051, "ARM_AFBC(16x16,YTR,SPARSE)", "ARM"),
        (0x0810000000000001, "ARM_16X16_BLOCK_U_INTERLEAVED", "ARM"),
        (0x0820000000000112, "ARM_AFRC(P0_CU_24,P12_CU_16,LAYOUT_SCAN)", "ARM"),
        (0x0900000000000001, "ALLWINNER_TILED", "ALLWINNER"),
        (0x0A00000000000102, "AMLOGIC_FBC(SCATTER,MEM_SAVING)", "AMLOGIC"),
        (0x1F00000000000001, "0x1f:0x1", "0x1f"),
        (0x0000000000000005, "NONE:0x5", "NONE"),
        (0xFFFFFFFFFFFFFFFF, "0xff:0xffffffffffffff", "0xff"),
    ],
)
def test_names(number: int, name: str, vendor: str) -> None:
    modifier = Modifier(number)
    assert (str(modifier), modifier.vendor, Modifier(name)) == (name, vendor, number)


def test_every_plain_name_of_the_header_is_known() -> None:
    header = HEADER.read_text(encoding="utf-8")
    names = re.findall(r"^#define ((?:DRM|I915)_FORMAT_MOD_(?!VENDOR|ARM_TYPE)\w+|AMD_FMT_MOD)\s", header, re.MULTILINE)
    assert len(names) > 45
    for name in names:
        short = name.replace("DRM_FORMAT_MOD_", "").replace("I915_FORMAT_MOD_", "I915_")
        assert Modifier(name) == Modifier(short) == Modifier(name.lower())


def test_plain_names_have_the_numbers_of_the_header() -> None:
    """Worked out here without the generator, for the names that are a vendor and a plain number."""
    header = HEADER.read_text(encoding="utf-8")
    vendors = dict(re.findall(r"^#define DRM_FORMAT_MOD_VENDOR_(\w+)\s+(\w+)", header, re.MULTILINE))
    plain = re.findall(r"^#define (\w+_MOD\w*)\s+fourcc_mod_code\((\w+), (\d+)\)", header, re.MULTILINE)
    assert len(plain) > 30
    for name, vendor, low in plain:
        assert Modifier(name) == int(vendors[vendor], 0) << 56 | int(low)


@pytest.mark.parametrize(
    ("spelling", "number"),
    [
        ("DRM_FORMAT_MOD_NONE", 0),
        ("GENERIC_16_16_TILE", 0x0400000000000002),
        ("0x100000000000001", 0x0100000000000001),
        (" 72057594037927937 ", 0x0100000000000001),
        ("0010", 10),
        ("AMD( dcc, gfx9 )", 0x0200000000002001),
        ("AMD(TILE_VERSION=0x2,DCC=1)", 0x0200000000002002),
        ("DRM_FORMAT_MOD_BROADCOM_SAND64_COL_HEIGHT(8)", 0x0700000000000803),
        ("amd:0x1", 0x0200000000000001),
        ("2:1", 0x0200000000000001),
    ],
)
def test_other_spellings(spelling: str, number: int) -> None:
    assert Modifier(spelling) == number


def test_linear_and_invalid_are_apart() -> None:
    linear, invalid, tiled = Modifier.LINEAR, Modifier.INVALID, Modifier("I915_X_TILED")
    assert (linear, invalid) == (0, 0x00FFFFFFFFFFFFFF)
    assert [(m.is_linear, m.is_invalid, m.tiled) for m in (linear, invalid, tiled)] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_is_a_number() -> None:
    modifier = Modifier("I915_Y_TILED")
    assert json.dumps({"modifier": modifier}) == '{"modifier": 72057594037927938}'
    assert f"{modifier:#x}" == "0x100000000000002"
    assert {0x0100000000000002: "here"}[modifier] == "here"
    assert Modifier(modifier) == modifier


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1, "64 bits"),
        (1 << 64, "64 bits"),
        (1 << 400, "64 bits"),
        ("0x10000000000000000", "64 bits"),
        ("9" * 5000, "…"),
        ("", "LINEAR"),
        ("LINAER", "LINEAR"),
        ("I915_XTILED", "I915_X_TILED"),
        ("I915\n", r"'I915'"),
        ("X\nY", r"'X\\nY'"),
        ("AMD(GFX9", "no modifier"),
        ("AMD(GFX99)", "AMD has no parameter 'GFX99'. It takes GFX9, "),
        ("AMD(GFX9,GFX10)", "sets again"),
        ("AMD(PIPE=8)", "0 to 7"),
        ("AMD(DCC=2)", "0 to 1"),
        ("AMD(PIPE)", "no parameter 'PIPE'"),
        ("AMD(9)", "no parameter '9'"),
        ("BROADCOM_SAND32_COL_HEIGHT(tall)", "takes a number"),
        ("BROADCOM_SAND32_COL_HEIGHT(-1)", "0 to"),
        ("AMD:0x100000000000000", "no modifier"),
        ("300:1", "no modifier"),
        ("ACME:1", "no modifier"),
    ],
)
def test_what_is_no_modifier_is_refused_in_one_line(value: str | int, says: str) -> None:
    with pytest.raises(DescriptorError, match=says) as caught:
        Modifier(value)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("value", [None, 0.0, b"LINEAR"])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        Modifier(value)
