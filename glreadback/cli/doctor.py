"""`glreadback doctor`: what this machine can do, in plain words, and what to install or permit so that it can do more."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

from ..kernel import udmabuf
from ._exit import DONE, FAILED
from ._terminal import WIDTH, paint

HELP = """\
Say what this machine can do, and what to install or permit so that it can do more. Exits with 0 if pictures can be read
here at all, on the software device or without GL, else with 1.
"""
EXAMPLES = ""

_PATIENCE = 60  # seconds for all of the drivers
_CAP_SYS_ADMIN = 21  # linux/capability.h


class Finding(NamedTuple):
    """One thing that was looked at. mark: "ok", "no" (something that helps is missing), "bad" (something is wrong)."""

    mark: str
    text: str
    advice: str = ""


_MARKS = {"ok": (" ok ", "green"), "no": (" -- ", "yellow"), "bad": ("FAIL", "red")}

Findings = Iterator[Finding]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """doctor takes none."""


def run(args: argparse.Namespace) -> int:
    probed = _probe()
    sections: tuple[tuple[str, Callable[[], Findings]], ...] = (
        ("Python", _python),
        ("EGL and GL", lambda: _gl(probed)),
        ("dma-bufs", _memory),
        ("Sources", _rights),
        ("Extras", _extras),
    )
    for title, look in sections:
        print(paint(title, "bold"))
        for finding in _surely(look):
            _print(finding)
        print()
    good, verdict = _verdict(probed)
    print(paint("Verdict: " + verdict, "green" if good else "red"))
    return DONE if good else FAILED


def _print(finding: Finding) -> None:
    import textwrap

    mark, style = _MARKS[finding.mark]
    print(
        f"  [{paint(mark, style)}] "
        + textwrap.fill(finding.text, WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9).lstrip()
    )
    for line in finding.advice.splitlines():
        print(textwrap.fill(line, WIDTH, initial_indent=" " * 9 + "→ ", subsequent_indent=" " * 11))


def _surely(look: Callable[[], Findings]) -> Findings:
    """Whatever a check runs into on a strange machine, the others still run."""
    try:
        yield from look()
    except Exception as error:  # a doctor that dies of the patient's illness is of no use
        yield Finding("bad", f"this check failed itself: {type(error).__name__}: {error}")


# ---- Python


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "version unknown"


def _python() -> Findings:
    from .. import __version__

    yield Finding("ok", f"glreadback {__version__}, Python {sys.version.split()[0]}")
    for module, name, use in (
        ("OpenGL", "PyOpenGL", "EGL and GL, so without it only the map route"),
        ("numpy", "numpy", "arrays, and formats of more than 8 bits"),
        ("PIL", "Pillow", "PNG, JPEG, WebP and AVIF"),
        ("jeepney", "jeepney", "QEMU's D-Bus display"),
    ):
        if find_spec(module) is not None:
            yield Finding("ok", f"{name} {_version(name)}")
        else:
            yield Finding("bad", f"{name} is missing: it is needed for {use}", f"pip install {name}")


# ---- EGL and GL


class Probed(NamedTuple):
    """What cli/_probe.py found: the devices, and what went wrong with EGL itself or with the process."""

    devices: list[dict[str, Any]]
    trouble: str


def _probe() -> Probed:
    import json
    import subprocess

    command = [sys.executable, "-m", f"{__package__}._probe"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
        out, complaint, code = ended.stdout, ended.stderr, ended.returncode
    except subprocess.TimeoutExpired as expired:
        out, complaint, code = _text(expired.stdout), "", None
    except OSError as error:
        return Probed([], f"{command[0]} cannot be started: {error.strerror}")
    devices, doing, trouble = [], "to start", ""
    for line in out.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # drivers talk
        if "device" in said:
            devices.append(said["device"])
        doing, trouble = said.get("trying", doing), said.get("error", trouble)
    if code is None:
        trouble = f"trying {doing} took more than {_PATIENCE} seconds: the driver hangs"
    elif code < 0:
        trouble = f"trying {doing} ended with {_signal(-code)}: the driver crashed"
    elif code:
        trouble = f"trying {doing} failed: {(complaint.strip().splitlines() or ['no reason given'])[-1]}"
    return Probed(devices, trouble)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _signal(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mesa(device: dict[str, Any]) -> str:
    """Mesa's version in a device's GL_VERSION, "" if it is not Mesa."""
    _, mesa, version = str(device.get("version", "")).partition("Mesa ")
    return version.split()[0] if mesa and version else ""


def _software(probed: Probed) -> dict[str, Any] | None:
    return next((device for device in probed.devices if device["name"] == "software"), None)


_INSTALL_MESA = (
    "Debian trixie, Ubuntu 24.04 with updates and newer: apt install libegl1 libgles2 libegl-mesa0 libgl1-mesa-dri\n"
    "Debian bookworm: the same from bookworm-backports (apt install -t bookworm-backports …)\n"
    "Fedora: dnf install mesa-libEGL mesa-libGLES mesa-dri-drivers"
)


def _gl(probed: Probed) -> Findings:
    if probed.trouble:
        yield Finding("bad", probed.trouble, _INSTALL_MESA)
    software = _software(probed)
    if software is None and not probed.trouble:
        yield Finding("bad", "there is no software device: Mesa's software driver is missing", _INSTALL_MESA)
    for device in probed.devices:
        name = "the software device" if device is software else device["name"]
        if not device["works"]:
            advice = _INSTALL_MESA if device is software else ""
            yield Finding("bad" if device is software else "no", f"{name} does not work: {device['why']}", advice)
            continue
        mesa = _mesa(device)
        driver = ", ".join(part for part in (device["driver"], device["renderer"], f"Mesa {mesa}" if mesa else "") if part)
        if device is software:
            yield Finding("ok", f"{name} works: {driver}; a test picture was read bit for bit")
        elif device["hardware"]:
            yield Finding("ok", f"{name} opens: {driver}; it lists {device['formats']} formats for import")
        else:
            yield Finding("no", f"{name} opens, but no GPU is behind it: {driver}. It reads its own buffers only")
    yield from _trap(probed)
    forced = os.environ.get("GLREADBACK_DEVICE")
    if forced:
        yield Finding("ok", f"GLREADBACK_DEVICE is set: every read goes to {forced!r} unless --device says otherwise")


def _trap(probed: Probed) -> Findings:
    """EGL's surfaceless platform, which programs that read dma-bufs often ask for."""
    if not _software(probed):
        return
    if not glob.glob("/dev/dri/*[0-9]"):
        yield Finding("ok", "there is no DRM node, so EGL's surfaceless platform is the software device too")
    elif not any(device.get("hardware") for device in probed.devices):
        yield Finding(
            "ok",
            "a DRM node without a GPU driver: for other programs EGL's surfaceless platform becomes kms_swrast here, which "
            "reads only that node's own buffers. glreadback asks for the software device by name, which reads all",
        )


# ---- memory and rights


def _owner(path: str) -> str:
    """ "root:kvm, mode 0660" """
    import pwd

    status = os.stat(path)
    try:
        user: object = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = status.st_uid
    return f"{user}:{_group(path)}, mode {status.st_mode & 0o7777:04o}"


def _group(path: str) -> str:
    import grp

    gid = os.stat(path).st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _join(path: str) -> str:
    """How to be let in."""
    group = _group(path)
    if group in ("root", "0"):
        return (
            f'Let a group in with a udev rule: KERNEL=="{os.path.basename(path)}", GROUP="video", MODE="0660" in '
            "/etc/udev/rules.d/99-glreadback.rules"
        )
    return f"Join its group: sudo usermod -aG {group} $USER, then log in again"


def _memory() -> Findings:
    device = udmabuf.DEVICE
    if not os.path.exists(device):
        yield Finding(
            "no",
            f"{device} is missing: pattern: and file: use sealed memfds in place of dma-bufs, "
            "which only the software device takes",
            "sudo modprobe udmabuf (a kernel with CONFIG_UDMABUF); to load it at boot: echo udmabuf | sudo tee "
            f"/etc/modules-load.d/udmabuf.conf\nIn a container, hand it in: --device {device}",
        )
    else:
        yield _udmabuf(device)
    heaps = sorted(glob.glob("/dev/dma_heap/*"))
    for heap in heaps:
        usable = os.access(heap, os.R_OK)
        yield Finding(
            "ok" if usable else "no",
            f"{heap} ({_owner(heap)}){'' if usable else ': no permission'}",
            "" if usable else _join(heap),
        )
    if not heaps:
        yield Finding("ok", "/dev/dma_heap has no heaps; nothing of glreadback needs them")


def _udmabuf(device: str) -> Finding:
    try:
        fd, kind = udmabuf.allocate(4096)
    except OSError as error:
        return Finding("bad", f"no shareable memory at all: {error.strerror}")
    os.close(fd)
    if kind == "udmabuf":
        return Finding("ok", f"{device} works: pattern: and file: make real dma-bufs")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding("no", f"{device} ({_owner(device)}): no permission to open it", _join(device))
    return Finding("no", f"{device} opens, but the kernel makes no dma-buf of a memfd")


def _rights() -> Findings:
    nodes = sorted(glob.glob("/dev/dri/*[0-9]"))
    for node in nodes:
        usable = os.access(node, os.R_OK | os.W_OK)
        yield Finding(
            "ok" if usable else "no",
            f"{node} ({_owner(node)}){'' if usable else ': no permission'}",
            "" if usable else _join(node),
        )
    if not nodes:
        yield Finding(
            "no",
            "there is no /dev/dri/card* or renderD*: no screens to capture (kms:) and no GPU",
            "In a container, hand the host's in: --device /dev/dri",
        )
    if _capable(_CAP_SYS_ADMIN):
        yield Finding("ok", "this process has CAP_SYS_ADMIN: kms: may see other programs' framebuffers")
    else:
        yield Finding(
            "no",
            "this process lacks CAP_SYS_ADMIN: kms: cannot see other programs' framebuffers",
            "Run kms: captures with sudo",
        )
    yield _ptrace()


def _capable(number: int) -> bool:
    with open("/proc/self/status") as lines:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) >> number & 1 for line in lines)


# Yama's ptrace_scope (Documentation/admin-guide/LSM/Yama.rst): mark, what pid: may do, what to do.
_RELAX = "Run as root, or for this boot: sudo sysctl kernel.yama.ptrace_scope=0"
_SCOPES = {
    "0": ("ok", "descriptors of all your own processes can be taken", ""),
    "1": ("no", "descriptors can be taken only from processes started by this one, or as root", _RELAX),
    "2": ("no", "descriptors can be taken only as root", _RELAX),
    "3": ("no", "no process may look into another until the next boot", ""),
}


def _ptrace() -> Finding:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as scope:
            value = scope.read().strip()
    except OSError:
        return Finding("ok", "pid: no Yama in this kernel: descriptors of all your own processes can be taken")
    mark, text, advice = _SCOPES.get(value, ("no", "unknown to this version", ""))
    if os.geteuid() == 0 and value in "12":
        mark, text, advice = "ok", "this process is root, so descriptors of all processes can be taken", ""
    return Finding(mark, f"pid: ptrace_scope is {value}: {text}", advice)


# ---- extras


def _extras() -> Findings:
    for module, extra, use in (
        ("imagecodecs", "hdr", "16-bit PNG"),
        ("pywayland", "wayland", "Wayland examples"),
        ("av", "video", "video tools for comparison"),
        ("blessed", "term", "asking the terminal how it shows pictures (-o term:)"),
    ):
        if find_spec(module) is not None:
            yield Finding("ok", f"{module} {_version(module)}: {use}")
        else:
            yield Finding("no", f"{module} is not installed: no {use}", f"pip install 'glreadback[{extra}]'")


# ---- verdict


def _verdict(probed: Probed) -> tuple[bool, str]:
    works = [device for device in probed.devices if device["works"]]
    software = _software(probed)
    gpus = [device["name"] for device in works if device.get("hardware")]
    if software in works:
        more = f", and {', '.join(gpus)} for GPU buffers" if gpus else ""
        return True, f"pictures can be read here, on the software device{more}."
    if _map_works():
        more = f" {', '.join(gpus)} may read GPU buffers." if gpus else ""
        return True, f"the software device does not work; linear buffers can be read without GL, by the map route.{more}"
    return False, "no picture can be read here."


def _map_works() -> bool:
    try:
        from ..reader import Reader
        from ..sources import open_source

        with open_source("pattern:solid?size=8x8&fourcc=XR24") as source, Reader() as reader:
            reader.read(next(source.frames()), route="map")
    except Exception:  # whatever it is, it does not work
        return False
    return True
