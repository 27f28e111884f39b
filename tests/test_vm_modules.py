"""The parts of tools/vm_modules.py that build nothing: which packages, what of the cache is used, what is changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import vm_kernel  # noqa: E402
import vm_modules  # noqa: E402

RELEASE, VERSION = "6.12.9+deb12-amd64", "6.12.9-1~deb12u1"
HEADERS, COMMON, KBUILD = f"linux-headers-{RELEASE}", "linux-headers-6.12.9+deb12-common", "linux-kbuild-6.12.9+deb12"


def _record(name: str, version: str = VERSION, depends: str = "") -> str:
    return f"Package: {name}\nVersion: {version}\nDepends: {depends}\nDescription: words\n more: words\nSize: 100\n"


ARCHIVE = {
    HEADERS: _record(HEADERS, depends=f"linux-base (>= 4), {COMMON} (= 6), linux-image-{RELEASE} (= 6), {KBUILD}, gcc-12"),
    COMMON: _record(COMMON),
    KBUILD: _record(KBUILD),
    "linux-source-6.12": _record("linux-source-6.12", "6.12.10-1") + "\n" + _record("linux-source-6.12"),
}


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What apt knows; take entries away."""
    known = dict(ARCHIVE)

    def apt(_program: str, _options: list[str], arguments: list[str], *_more: object) -> tuple[str, str]:
        return "\n".join(known[name] for name in arguments[1:] if name in known), ""

    monkeypatch.setattr(vm_kernel, "_apt", apt)
    return known


@pytest.fixture
def kernel(tmp_path: Path) -> vm_kernel.Kernel:
    return vm_kernel.Kernel(tmp_path / "kernel", RELEASE)


def test_the_headers_what_they_need_and_the_source_of_the_same_version(
    archive: dict[str, str], kernel: vm_kernel.Kernel
) -> None:
    wanted = {f"{name}={VERSION}": 100 for name in (HEADERS, COMMON, KBUILD, "linux-source-6.12")}
    assert vm_modules._packages(kernel, []) == wanted


@pytest.mark.parametrize("missing", ARCHIVE)
def test_nothing_is_fetched_where_one_of_them_is_missing(
    archive: dict[str, str], kernel: vm_kernel.Kernel, missing: str, tmp_path: Path
) -> None:
    del archive[missing]
    assert vm_modules._packages(kernel, []) == {}
    with pytest.raises(vm_modules.NoHeadersError, match=f"no headers of kernel {RELEASE.replace('+', '.')}"):
        vm_modules.build(tmp_path, kernel, lambda _: None)
    assert not [*tmp_path.glob("fetching-*")]
    assert not [*tmp_path.glob("modules/*")]


def test_the_source_of_another_version_is_better_than_none(archive: dict[str, str], kernel: vm_kernel.Kernel) -> None:
    archive["linux-source-6.12"] = _record("linux-source-6.12", "6.12.10-1")
    assert "linux-source-6.12=6.12.10-1" in vm_modules._packages(kernel, [])


def test_what_was_built_is_used_again(kernel: vm_kernel.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_cache: Path, _kernel: vm_kernel.Kernel, target: Path, _say: object) -> None:
        assert not target.exists()
        target.mkdir(parents=True)

    monkeypatch.setattr(vm_modules, "_build", build)
    first = vm_modules.build(tmp_path, kernel, lambda _: None)
    assert vm_modules.build(tmp_path, kernel, lambda _: None) == first
    assert [module.file.name for module in first] == ["vkms.ko", "mdpy.ko", "mbochs.ko", "mbochsrw.ko"]
    assert all(RELEASE in str(module.file) for module in first)
    # Another recipe is another build.
    changed = {**vm_modules.RECIPES, "vkms": vm_modules.Recipe("drivers/gpu/drm/vkms", "CONFIG_DRM_VKMS", (), "other=1")}
    monkeypatch.setattr(vm_modules, "RECIPES", changed)
    assert vm_modules.build(tmp_path, kernel, lambda _: None)[0].file != first[0].file


def test_a_twin_differs_where_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(vm_modules, "_run", commands.append)
    (tmp_path / "Makefile").write_text("")
    (tmp_path / "mbochs.c").write_text('#define NAME "mbochs"\n\texp_info.priv = dmabuf;\n')
    recipes = {name: recipe for name, recipe in vm_modules.RECIPES.items() if name.startswith("mbochs")}
    vm_modules._make(tmp_path, tmp_path, recipes)
    twin = (tmp_path / "mbochsrw.c").read_text()
    assert twin == '#define NAME "mbochsrw"\n\texp_info.priv = dmabuf;\n\texp_info.flags = O_RDWR | O_CLOEXEC;\n'
    assert (tmp_path / "Makefile").read_text() == "obj-$(CONFIG_SAMPLE_VFIO_MDEV_MBOCHSRW) += mbochsrw.o\n"
    assert "CONFIG_SAMPLE_VFIO_MDEV_MBOCHSRW=m" in commands[0]
    (tmp_path / "mbochs.c").write_text('#define NAME "mbochs"\n')
    with pytest.raises(vm_kernel.VmError, match=r"mbochs.c has no 'exp_info.priv = dmabuf;' any more"):
        vm_modules._make(tmp_path, tmp_path, recipes)


@pytest.mark.parametrize("missing", ["make", "gcc-12"])
def test_a_missing_compiler_is_named(
    kernel: vm_kernel.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(vm_modules.shutil, "which", lambda program: None if program == missing else "/usr/bin/it")
    folder = tmp_path / "usr" / "src" / HEADERS
    folder.mkdir(parents=True)
    (folder / "Makefile").write_text("include /usr/src/common/Makefile\n")
    (folder / ".kernelvariables").write_text("CC = $(CROSS_COMPILE)gcc-12\n")
    run = {
        "make": lambda: vm_modules._build(tmp_path, kernel, tmp_path / "modules" / "x", lambda _: None),
        "gcc-12": lambda: vm_modules._headers(tmp_path, kernel),
    }
    with pytest.raises(vm_kernel.VmError, match=f"{missing} is missing, .* install the package {missing}"):
        run[missing]()


def test_the_headers_are_used_where_they_were_unpacked(kernel: vm_kernel.Kernel, tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "src" / HEADERS
    folder.mkdir(parents=True)
    (folder / "Makefile").write_text("include /usr/src/common/Makefile\n")
    assert vm_modules._headers(tmp_path, kernel) == folder
    assert (folder / "Makefile").read_text() == f"include {tmp_path}/usr/src/common/Makefile\n"
