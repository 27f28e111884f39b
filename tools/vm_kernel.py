"""The Debian kernel that tools/vm.py boots: fetched by apt once, kept in the user's cache, packed into an initramfs."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]

# The amd64 flavour: cloud-amd64 lacks vgem, virtio_gpu, bochs, 9p and sync files. Debian 12 has 6.12 under the first
# name (bookworm-security), Debian 13 under the second.
META_PACKAGES = ("linux-image-6.12-amd64", "linux-image-amd64")
OLDEST = (6, 12)

# Modules and their parameters, in the order they are loaded; what they need comes before them.
ROOT_MODULES = {"9pnet_virtio": "", "9p": "", "overlay": ""}
DEVICE_MODULES = {
    "vgem": "",
    "virtio_gpu": "",
    "bochs": "",
    # Two cameras, the first with single-planar formats, the second with multi-planar ones; no radio, no VBI.
    "vivid": "n_devs=2 node_types=0x1,0x1 multiplanar=1,2",
}

_UNPACK: dict[str, Callable[[bytes], bytes]] = {".ko": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}


@dataclass(frozen=True, slots=True)
class Built:
    """A module that was built (vm_modules.py): its file, the modules to load before it, its parameters."""

    file: Path
    needs: tuple[str, ...]
    parameters: str


class VmError(Exception):
    """The VM cannot be prepared, did not come up, or died. The message is one line."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package: folder/vmlinuz, and folder/lib/modules/release."""

    folder: Path
    release: str

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.folder / "lib" / "modules" / self.release


def cache_folder() -> Path:
    """Where kernels are kept, as the XDG base directory specification says."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "glreadback" / "vm"


def prepare(scripts: Path, say: Say, modules: bool = False) -> tuple[Kernel, bytes]:
    """The newest kernel in the cache, fetched if there is none, and its initramfs (a cpio archive). Raises VmError.

    modules: with those of vm_modules.py, which are built for it if need be.
    """
    if platform.machine() != "x86_64":
        raise VmError(f"the kernel lane runs on x86-64 only, this machine is {platform.machine()}")
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock", say):
            for killed in cache.glob("fetching-*"):  # the lock is ours: nobody works in it
                shutil.rmtree(killed, ignore_errors=True)
            kernel = _cached(cache) or _fetch(cache, say)
            built: list[Built] = []
            if modules:
                from vm_modules import NoHeadersError, build

                try:
                    built = build(cache, kernel, say)
                except NoHeadersError as error:
                    say(str(error))
                    newer = _fetch(cache, say)
                    if newer.release == kernel.release:
                        raise
                    kernel = newer
                    built = build(cache, kernel, say)
            return kernel, _initramfs(cache, kernel, scripts, built, say)
    except OSError as error:
        raise VmError(f"cannot keep a kernel in {cache}: {error}") from error


@contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that prepares the kernel")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _cached(cache: Path) -> Kernel | None:
    found = sorted(cache.glob("kernels/*/lib/modules/*/modules.dep"), key=lambda path: numbers(path.parent.name))
    return Kernel(found[-1].parents[3], found[-1].parent.name) if found else None


# ---- Fetching ----


def _fetch(cache: Path, say: Say) -> Kernel:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise VmError(
            "the kernel lane boots a Debian kernel and there is no apt-get here to get one with; "
            "on a machine that has the devices itself, run pytest -m kernel"
        )
    depmod = shutil.which("depmod", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if not depmod:
        raise VmError("depmod is missing; install the package kmod")
    (cache / "kernels").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        temporary = Path(name)
        package = _download(temporary, say)
        unpacked, kept = temporary / "unpacked", temporary / "kept"
        _run(["dpkg-deb", "-x", str(package), str(unpacked)])
        images = list(unpacked.glob("boot/vmlinuz-*"))
        # Debian 13 moved them under usr.
        modules = [*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")]
        if len(images) != 1 or len(modules) != 1:
            raise VmError(f"{package.name} is not laid out like a Debian kernel package")
        release = modules[0].name
        (kept / "lib" / "modules").mkdir(parents=True)
        # Some depmods look below lib, some below usr/lib.
        (kept / "usr").mkdir()
        (kept / "usr" / "lib").symlink_to("../lib")
        images[0].rename(kept / "vmlinuz")
        modules[0].rename(kept / "lib" / "modules" / release)
        _run([depmod, "-b", str(kept), release])
        target = cache / "kernels" / package.stem
        shutil.rmtree(target, ignore_errors=True)
        kept.rename(target)
    say(f"unpacked {package.name}")
    return Kernel(target, release)


def _download(folder: Path, say: Say) -> Path:
    """Download the kernel package into folder."""

    def choose(options: list[str]) -> dict[str, int]:
        package, size = _newest_kernel(_apt("apt-cache", options, ["show", *META_PACKAGES])[0], options)
        return {package: size} if package else {}

    if packages := download(folder, choose, say):
        return packages[0]
    why = f"apt knows no kernel from {'.'.join(map(str, OLDEST))} on"
    raise VmError(f"cannot get a kernel package ({', '.join(META_PACKAGES)}): {why}")


def download(folder: Path, choose: Callable[[list[str]], Mapping[str, int]], say: Say) -> list[Path]:
    """Download packages into folder, by the system's package lists or else by fresh ones of our own.

    choose is given apt's options and says which ones, with their sizes in bytes, or none where the lists lack them: then
    none come back. Raises VmError where apt fails.
    """
    # Only root may refresh the system's lists, and they are not ours to change.
    lists, cache = folder / "apt" / "lists", folder / "apt" / "cache"
    own_lists = [f"Dir::State::Lists={lists}", f"Dir::Cache={cache}", "Acquire::Languages=none"]
    failure = ""
    for options in ([], own_lists):
        if options:
            say("refreshing package lists of our own")
            for part in (lists / "partial", cache / "archives" / "partial"):
                part.mkdir(parents=True)
            failure = _apt("apt-get", options, ["update"])[1] or failure
        if not (wanted := choose(options)):
            continue
        what = next(iter(wanted)) + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
        say(f"downloading {what} ({sum(wanted.values()) / 1e6:.0f} MB, once)")
        failure = _apt("apt-get", options, ["download", *wanted], folder, say)[1]
        packages = list(folder.glob("*.deb"))
        if not failure and len(packages) == len(wanted):
            return packages
    if failure:
        raise VmError(f"cannot get packages: {failure}")
    return []


def packages_of(names: Iterable[str], options: list[str], version: str = "") -> dict[str, dict[str, str]]:
    """The records of packages (apt-cache show) by name: of that version where there is one, else of the newest."""
    found: dict[str, dict[str, str]] = {}
    for text in _apt("apt-cache", options, ["show", *names])[0].split("\n\n"):
        record = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", text, re.MULTILINE))
        name = record.get("Package", "")
        if name and (name not in found or record.get("Version") == version):
            found[name] = record
    return found


def _newest_kernel(shown: str, options: list[str]) -> tuple[str, int]:
    """The package that the meta packages' records (apt-cache show) depend on, and its size in bytes."""
    # 6.12 wins over newer ones: it is what the tests are known to run on.
    names = set(re.findall(r"^Depends:.*?\b(linux-image-\d+\.\d+\.[\w.+~-]*?amd64)\b(?!-)", shown, re.MULTILINE))
    usable = [name for name in names if numbers(name)[:2] >= OLDEST]
    if not usable:
        return "", 0
    name = max(usable, key=lambda name: (numbers(name)[:2] == OLDEST, numbers(name)))
    sizes = re.findall(r"^Size: (\d+)$", _apt("apt-cache", options, ["show", name])[0], re.MULTILINE)
    return name, int(sizes[0]) if sizes else 0


def _apt(
    program: str, options: list[str], arguments: list[str], folder: Path | None = None, say: Say | None = None
) -> tuple[str, str]:
    """Run apt; return what it printed and, if it failed, the first error line."""
    # As root apt would otherwise drop to a user who may not write into a folder of ours.
    settings = [word for option in ("APT::Sandbox::User=root", *options) for word in ("-o", option)]
    with subprocess.Popen(
        [program, "-q", *settings, *arguments],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    if folder and say:
                        say(f"downloading: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB so far")
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return output, ""
    lines = [line for line in errors.splitlines() if line.startswith("E:")] or errors.splitlines()
    return output, lines[0] if lines else f"{program} failed with status {process.returncode}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


# ---- The initramfs ----


def _initramfs(cache: Path, kernel: Kernel, scripts: Path, built: list[Built], say: Say) -> bytes:
    """The archive for this kernel, these scripts, modules and this busybox: from the cache, or packed anew."""
    busybox = _static_busybox()
    fixed = {"init": (scripts / "init").read_bytes(), "run.sh": (scripts / "run").read_bytes()}
    wanted = {**ROOT_MODULES, **DEVICE_MODULES, **{name: "" for module in built for name in module.needs}}
    ingredients = repr((kernel.folder.name, fixed, wanted, built)).encode() + busybox
    path = cache / f"initramfs-{hashlib.sha256(ingredients).hexdigest()[:16]}.cpio"
    if path.exists():
        return path.read_bytes()
    say("packing the initramfs")
    folders = ("bin", "dev", "lower", "modules", "new", "proc", "sys", "tmp", "upper")
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in folders]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("bin/busybox", stat.S_IFREG | 0o755, busybox))
    entries += [Entry(name, stat.S_IFREG | 0o755, content) for name, content in fixed.items()]
    order = []
    for module, parameters in _load_order(kernel, wanted):
        name = module.name.split(".")[0] + ".ko"
        entries.append(Entry(f"modules/{name}", stat.S_IFREG | 0o644, _module(module)))
        order.append(f"{name} {parameters}".rstrip() + "\n")
    for extra in built:
        entries.append(Entry(f"modules/{extra.file.name}", stat.S_IFREG | 0o644, extra.file.read_bytes()))
        order.append(f"{extra.file.name} {extra.parameters}".rstrip() + "\n")
    entries.append(Entry("modules/order", stat.S_IFREG | 0o644, "".join(order).encode()))
    archive = cpio(entries)
    # With and without modules: two are in use.
    for old in sorted(cache.glob("initramfs-*"), key=lambda old: old.stat().st_mtime)[:-1]:
        old.unlink()
    with tempfile.NamedTemporaryFile(dir=cache, prefix="initramfs-", suffix=".new", delete=False) as file:
        file.write(archive)
    os.rename(file.name, path)
    return archive


def _load_order(kernel: Kernel, wanted: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The wanted modules' files with their parameters, each after what modules.dep says it needs."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        file, _, after = line.partition(":")
        needs[file] = after.split()
        by_name[_module_name(file)] = file
    builtin = {_module_name(line) for line in (kernel.modules / "modules.builtin").read_text().splitlines()}
    given: set[str] = set()
    for name, parameters in wanted.items():
        if name in builtin:
            continue
        if name not in by_name:
            raise VmError(f"kernel {kernel.release} has no module {name}")
        # modules.dep lists them from the last to load to the first.
        for file in [*reversed(needs[by_name[name]]), by_name[name]]:
            if file not in given:
                given.add(file)
                yield kernel.modules / file, parameters if file == by_name[name] else ""


def _module_name(file: str) -> str:
    return file.rpartition("/")[2].split(".")[0].replace("-", "_")


def _module(path: Path) -> bytes:
    unpack = _UNPACK.get(path.suffix)
    if unpack is None:
        raise VmError(f"{path.name}: do not know how to unpack {path.suffix}")
    return unpack(path.read_bytes())


def _static_busybox() -> bytes:
    for folder in (*os.environ.get("PATH", os.defpath).split(":"), "/usr/bin", "/bin"):
        if path := shutil.which("busybox", path=folder):
            content = Path(path).read_bytes()
            if b"/ld-linux" not in content[:4096]:  # a dynamic program names its loader
                return content
    raise VmError("a static busybox is missing; install the package busybox-static")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or device of a cpio archive; mode is st_mode."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[Entry]) -> bytes:
    """An archive in the "newc" format (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).

    Archives may be put one after the other; in case of doubt the later file wins.
    """
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, int(time.time()), len(entry.content), 0, 0, *entry.device, len(name), 0)
        for part in (b"070701" + b"".join(b"%08x" % field for field in fields) + name, entry.content):
            archive += part
            archive += bytes(-len(archive) % 4)
    return bytes(archive)
