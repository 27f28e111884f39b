#!/bin/sh
# Install what the system lacks for `make demo` (runtime) or `make test` (runtime and test).
# Quick when nothing is missing: one dpkg query, no network.
set -eu

mesa_wanted=25.0.3
runtime="libegl1 libgles2 libegl-mesa0 libgl1-mesa-dri"
# The kernel lane (tools/vm.py) boots a Debian kernel under QEMU, with sample drivers built for it; the qemu: source is tested against real guests.
lane="qemu-system-x86 qemu-system-modules-opengl dbus-daemon busybox-static kmod gcc binutils xz-utils"
# Desktop OpenGL, for contexts of other libraries.
desktop="libgl1"
# Whose completion, and what renders the manual page.
shells="zsh fish groff-base mandoc"

case "${1:-}" in
    runtime) packages="$runtime" ;;
    test) packages="$runtime $lane $desktop $shells" ;;
    *) echo "usage: tools/setup.sh runtime|test" >&2; exit 2 ;;
esac
python="${PYTHON:-python3}"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: $python is missing or older than 3.11; set PYTHON to a newer one" >&2
    exit 1
fi

if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
    # Not Debian: say what is missing by what it provides, and go on when it is there.
    missing=""
    for library in libEGL.so.1 libGLESv2.so.2; do
        "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null || missing="$missing $library"
    done
    if [ "$1" = test ]; then
        for program in qemu-system-x86_64 busybox modprobe gcc ld xz zsh fish groff mandoc; do
            command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
        done
    fi
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python-venv"
    [ -z "$missing" ] && exit 0
    echo "setup: this is not a Debian system; install what provides:$missing" >&2
    echo "setup: (Debian's names: $packages; Mesa must be $mesa_wanted or newer)" >&2
    exit 1
fi

"$python" -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3-venv"

installed() {  # the installed version of a package, or nothing
    dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p' | head -n 1
}

missing=""
for package in $packages; do
    version=$(installed "$package")
    case "$package" in
        libegl-mesa0 | libgl1-mesa-dri)
            [ -n "$version" ] && dpkg --compare-versions "$version" ge "$mesa_wanted" && continue ;;
        *) [ -n "$version" ] && continue ;;
    esac
    missing="$missing $package"
done
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: not root and no sudo here; as root, run: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

echo "setup: installing$missing"
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A second apt at the same time is waited for, not run into.
apt -o DPkg::Lock::Timeout=300 update

. /etc/os-release
target=""
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    # Bookworm's own Mesa is 22.3, which cannot import dma-bufs in software. Backports are on the
    # mirror that this system already uses, under the key it already trusts.
    if ! apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx bookworm-backports; then
        mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | sed -n 's/ bookworm$//p' | head -n 1)
        if [ -z "$mirror" ]; then
            echo "setup: no bookworm mirror in apt's sources to take bookworm-backports from" >&2
            exit 1
        fi
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm-backports main\n' "$mirror" |
            $as_root tee /etc/apt/sources.list.d/glreadback-backports.list >/dev/null
        apt -o DPkg::Lock::Timeout=300 update
    fi
    target="-t bookworm-backports"
fi
# shellcheck disable=SC2086  # lists of words
apt -o DPkg::Lock::Timeout=300 install --no-install-recommends $target $missing

version=$(installed libegl-mesa0)
if ! dpkg --compare-versions "$version" ge "$mesa_wanted"; then
    echo "setup: Mesa is $version; the software device needs $mesa_wanted or newer (Debian trixie, or bookworm-backports)" >&2
    exit 1
fi
