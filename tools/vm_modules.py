"""Kernel modules that Debian does not ship, built from its source package for the kernel that tools/vm.py boots.

mbochs and mdpy are the kernel's own examples of a vGPU's display, vkms is its display without hardware: many planes, and
a writeback connector, by which the kernel itself says what the screen shows. Built once, in seconds, and kept in the
user's cache; of the packages nothing else is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vm_kernel import Built, Kernel, Say, VmError, _run, download, numbers, packages_of


@dataclass(frozen=True, slots=True)
class Recipe:
    """A module: where its source is, what switches it on in its Makefile, what is loaded before it, and with what.

    twin_of: it is that module's file under another name, with these pieces of text replaced.
    """

    folder: str
    option: str
    needs: tuple[str, ...]
    parameters: str = ""
    twin_of: str = ""
    replaced: tuple[tuple[str, str], ...] = ()


_SAMPLES, _VFIO = "samples/vfio-mdev", ("vfio", "vfio_iommu_type1", "mdev")
RECIPES = {
    "vkms": Recipe(
        "drivers/gpu/drm/vkms",
        "CONFIG_DRM_VKMS",
        ("drm_shmem_helper", "drm_kms_helper"),
        "enable_cursor=1 enable_overlay=1 enable_writeback=1",
    ),
    "mdpy": Recipe(_SAMPLES, "CONFIG_SAMPLE_VFIO_MDEV_MDPY", _VFIO),
    "mbochs": Recipe(_SAMPLES, "CONFIG_SAMPLE_VFIO_MDEV_MBOCHS", _VFIO),
    # mbochs exports its dma-buf read-only and lets nobody map such a one. So do no real vGPUs: this one can be mapped.
    "mbochsrw": Recipe(
        _SAMPLES,
        "CONFIG_SAMPLE_VFIO_MDEV_MBOCHSRW",
        _VFIO,
        twin_of="mbochs",
        replaced=(
            ('"mbochs"', '"mbochsrw"'),
            ("exp_info.priv = dmabuf;", "exp_info.priv = dmabuf;\n\texp_info.flags = O_RDWR | O_CLOEXEC;"),
        ),
    ),
}
_PROGRAMS = {"make": "make", "strip": "binutils", "xz": "xz-utils"}  # and the Debian packages that have them


class NoHeadersError(VmError):
    """The archive no longer has the headers of this kernel: only a newer kernel can have modules built."""


def build(cache: Path, kernel: Kernel, say: Say) -> list[Built]:
    """The modules for this kernel, from the cache or built anew. The caller holds the cache's lock. Raises VmError."""
    recipe = hashlib.sha256(repr(sorted(RECIPES.items())).encode()).hexdigest()[:8]
    folder = cache / "modules" / f"{kernel.release}-{recipe}"
    if not folder.is_dir():
        _build(cache, kernel, folder, say)
    return [Built(folder / f"{name}.ko", recipe.needs, recipe.parameters) for name, recipe in RECIPES.items()]


def _build(cache: Path, kernel: Kernel, target: Path, say: Say) -> None:
    _check_programs(_PROGRAMS)
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        temporary = Path(name)
        packages = download(temporary, lambda options: _packages(kernel, options), say)
        if not packages:
            raise NoHeadersError(f"apt has no headers of kernel {kernel.release} and no source of its series")
        for file in packages:
            _run(["dpkg-deb", "-x", str(file), str(temporary / "unpacked")])
            file.unlink()
        headers = _headers(temporary / "unpacked", kernel)
        (source,) = (temporary / "unpacked").glob("usr/src/linux-source-*.tar.*")
        say("building modules for it")
        folders = sorted({recipe.folder for recipe in RECIPES.values()})
        root = source.name.partition(".tar")[0]
        _run(["tar", "-xf", str(source), "-C", str(temporary), *(f"{root}/{folder}" for folder in folders)])
        for folder in folders:
            _make(headers, temporary / root / folder, {n: recipe for n, recipe in RECIPES.items() if recipe.folder == folder})
        kept = temporary / "kept"
        kept.mkdir()
        for module, recipe in RECIPES.items():
            _run(["strip", "--strip-debug", str(temporary / root / recipe.folder / f"{module}.ko")])
            (temporary / root / recipe.folder / f"{module}.ko").rename(kept / f"{module}.ko")
        for old in target.parent.iterdir():
            shutil.rmtree(old, ignore_errors=True)
        kept.rename(target)


def _check_programs(programs: Mapping[str, str]) -> None:
    for program, package in programs.items():
        if not shutil.which(program):
            raise VmError(f"{program} is missing, which building kernel modules needs; install the package {package}")


def _packages(kernel: Kernel, options: list[str]) -> dict[str, int]:
    """The packages to build with, and their sizes: the headers with what they depend on, and the source."""
    name = f"linux-headers-{kernel.release}"
    headers = packages_of([name], options)
    if name not in headers:
        return {}
    depends = re.findall(r"\blinux-(?:headers|kbuild)-\d[\w.+~-]*", headers[name].get("Depends", ""))
    series = ".".join(map(str, numbers(kernel.release)[:2]))
    wanted = packages_of([name, *depends, f"linux-source-{series}"], options, headers[name]["Version"])
    if f"linux-source-{series}" not in wanted or len(wanted) < len(depends) + 2:
        return {}
    return {f"{package}={record['Version']}": int(record.get("Size", 0)) for package, record in wanted.items()}


def _headers(unpacked: Path, kernel: Kernel) -> Path:
    """The folder to build against: its Makefile includes another package's by the path that it would be installed at."""
    folder = unpacked / "usr" / "src" / f"linux-headers-{kernel.release}"
    makefile = folder / "Makefile"
    makefile.write_text(re.sub(r"(?m)^(include) /usr/", rf"\1 {unpacked}/usr/", makefile.read_text()))
    variables = folder / ".kernelvariables"
    # They name the compiler that the kernel was built with, and no other will do.
    if variables.exists() and (compiler := re.search(r"\bgcc-\d+\b", variables.read_text())):
        _check_programs({compiler[0]: compiler[0]})
    return folder


def _make(headers: Path, folder: Path, recipes: Mapping[str, Recipe]) -> None:
    for name, recipe in recipes.items():
        if recipe.twin_of:
            text = (folder / f"{recipe.twin_of}.c").read_text()
            for old, new in recipe.replaced:
                if old not in text:
                    raise VmError(f"{recipe.twin_of}.c has no {old!r} any more: change RECIPES")
                text = text.replace(old, new)
            (folder / f"{name}.c").write_text(text)
            with open(folder / "Makefile", "a") as makefile:
                makefile.write(f"obj-$({recipe.option}) += {name}.o\n")
    options = [f"{recipe.option}=m" for recipe in recipes.values()]
    # Type information for BPF needs the kernel's own file with symbols; no test asks for it.
    jobs = f"-j{os.cpu_count() or 1}"
    _run(["make", jobs, "-C", str(headers), f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", *options, "modules"])
