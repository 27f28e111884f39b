"""The parts of tools/vm.py that need no VM: what it takes for a failure, what it packs, which kernel it picks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import vm  # noqa: E402
import vm_kernel  # noqa: E402


def _junit(path: Path, **counts: int) -> Path:
    words = " ".join(f'{name}="{count}"' for name, count in counts.items())
    path.write_text(f'<testsuites><testsuite name="pytest" {words}></testsuite></testsuites>')
    return path


def test_results_that_count_as_passed(tmp_path: Path) -> None:
    good = _junit(tmp_path / "j.xml", tests=3, failures=0, errors=0, skipped=0)
    assert vm.check_junit(good) == "3 tests passed under the guest's kernel"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"tests": 0}, "no test ran"),
        ({}, "no test ran"),
        ({"tests": 3, "skipped": 1}, "of 3 tests not all passed: 1 skipped"),
        ({"tests": 3, "failures": 1, "errors": 2}, "1 failures, 2 errors"),
    ],
)
def test_results_that_do_not(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(vm.VmError, match=message):
        vm.check_junit(_junit(tmp_path / "j.xml", **counts))


def test_missing_and_broken_results(tmp_path: Path) -> None:
    with pytest.raises(vm.VmError, match="no usable test results"):
        vm.check_junit(tmp_path / "none.xml")
    (tmp_path / "half.xml").write_text("<testsuites><testsuite")
    with pytest.raises(vm.VmError, match="no usable test results"):
        vm.check_junit(tmp_path / "half.xml")


def test_yesterdays_results_go(tmp_path: Path) -> None:
    old = _junit(tmp_path / "j.xml", tests=3)
    assert vm._shares(None, old) == {"share0": tmp_path}
    assert not old.exists()


@pytest.mark.parametrize(
    ("log", "status_lines", "cause"),
    [
        (b"x\r\nKernel panic - not syncing: Fatal exception\r\n", [], "kernel panicked: Fatal exception"),
        (b"BUG: kernel NULL pointer\r\nKernel panic - not syncing: Oops\r\n", [], "panicked: Oops (BUG: kernel NULL pointer)"),
        (b"", ["stage kernel 6.12 is up"], "without the command's exit status; the last news was: kernel 6.12 is up"),
        (b"", ["error mount: no such device"], "the guest failed: mount: no such device"),
        (b"", ["exit"], "without the command's exit status"),
    ],
)
def test_a_dead_vm_is_explained(log: bytes, status_lines: list[str], cause: str) -> None:
    report = vm.Report(kernel_log=bytearray(log))
    for line in status_lines:
        report.take(line)
    assert report.status is None
    assert cause in report.cause_of_death()


def test_the_job_gets_what_it_needs_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LP_NUM_THREADS", "2")
    monkeypatch.setenv("GITHUB_TOKEN", "hunter2")
    job = vm._job(["echo", "it's", "$HOME"], {"share0": Path("/a b")}).content.decode()
    assert "LP_NUM_THREADS=2" in job
    assert "PYTHONDONTWRITEBYTECODE=1" in job
    assert "hunter2" not in job
    assert "share0='/a b'" in job
    assert job.count("""echo 'it'"'"'s' '$HOME'""") == 1


@pytest.mark.skipif(not shutil.which("cpio") and not shutil.which("busybox"), reason="no cpio here")
def test_the_archive_is_one(tmp_path: Path) -> None:
    archive = vm_kernel.cpio([vm_kernel.Entry("a", 0o040755), vm_kernel.Entry("a/b", 0o100644, b"hello")])
    assert len(archive) % 4 == 0
    program = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run([*program, "-id"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a" / "b").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("shown", "package"),
    [
        (["linux-image-6.1.0-56-amd64 (= 6.1.192-2)"], ""),
        (
            ["linux-image-6.1.0-56-amd64 (= 6.1.192-2)", "linux-image-6.12.95+deb12-amd64 (= 1)"],
            "linux-image-6.12.95+deb12-amd64",
        ),
        (["linux-image-6.12.9+deb13-amd64", "linux-image-6.12.107+deb13-amd64"], "linux-image-6.12.107+deb13-amd64"),
        (["linux-image-7.0.1+deb14-amd64", "linux-image-6.12.1+deb13-amd64"], "linux-image-6.12.1+deb13-amd64"),
        (["linux-image-7.0.1+deb14-amd64"], "linux-image-7.0.1+deb14-amd64"),
        (["linux-image-6.12.1+deb13-amd64-unsigned"], ""),
        ([], ""),
    ],
)
def test_which_kernel(monkeypatch: pytest.MonkeyPatch, shown: list[str], package: str) -> None:
    monkeypatch.setattr(vm_kernel, "_apt", lambda *_: ("Size: 5\n", ""))
    records = "\n".join(f"Package: linux-image-amd64\nDepends: {name}\nSize: 1500\n" for name in shown)
    assert vm_kernel._newest_kernel(records, []) == (package, 5 if package else 0)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    kernel = vm_kernel.Kernel(tmp_path, "6.12")
    kernel.modules.mkdir(parents=True)
    (kernel.modules / "modules.dep").write_text("k/a-b.ko.xz: k/c.ko.xz k/d.ko.xz\nk/c.ko.xz: k/d.ko.xz\nk/d.ko.xz:\n")
    (kernel.modules / "modules.builtin").write_text("kernel/e.ko\n")
    order = [(path.name, words) for path, words in vm_kernel._load_order(kernel, {"e": "", "c": "x=1", "a_b": ""})]
    assert order == [("d.ko.xz", ""), ("c.ko.xz", "x=1"), ("a-b.ko.xz", "")]
    with pytest.raises(vm.VmError, match="no module f"):
        list(vm_kernel._load_order(kernel, {"f": ""}))


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert vm_kernel.cache_folder() == tmp_path / ".cache" / "glreadback" / "vm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert vm_kernel.cache_folder() == Path("/elsewhere/glreadback/vm")
