"""A file that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from ..errors import SinkError
from ..words import shown

_ADVICE = {
    errno.ENOENT: "Make the folder first",
    errno.ENOTDIR: "A part of the path is a file, not a folder",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.EROFS: "Choose another file system",
    errno.ENOSPC: "Make room, or write elsewhere",
    errno.EDQUOT: "Make room, or write elsewhere",
    errno.EFBIG: "Raise the limit on file sizes, or choose a smaller format",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENXIO: "Nothing reads from it",
}


def refusal(path: str, error: OSError) -> SinkError:
    """What to say of a path that could not be written."""
    advice = _ADVICE.get(error.errno or 0)
    return SinkError(f"cannot write {shown(path)}: {error.strerror or error}" + (f". {advice}" if advice else ""))


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file at path when the block ends well; until then, and else, path is as it was.

    The new file lies in the same folder, without a name where the file system can do that, so that even a killed
    process leaves nothing behind. Its mode is the umask's. A symbolic link stays, and what it points to is replaced.
    A pipe, a device or a descriptor (/dev/stdout) is written to directly. Raises OSError.
    """
    if _direct(path):
        with open(path, "wb") as stream:
            yield stream
        return
    target = os.path.realpath(path)
    with ExitStack() as undo:
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, folder)
        name = f".glreadback-{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
            named = False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
            named = True
        remove = undo.enter_context(ExitStack())
        if named:
            remove.callback(os.unlink, name, dir_fd=folder)
        with open(fd, "wb") as stream:
            yield stream
            stream.flush()
            if not named:
                # linkat(2) can give an unnamed file a name, but not one that is taken.
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder, follow_symlinks=True)
                remove.callback(os.unlink, name, dir_fd=folder)
        os.rename(name, os.path.basename(target), src_dir_fd=folder, dst_dir_fd=folder)
        remove.pop_all()


def _direct(path: str) -> bool:
    """Whether path is to be opened as it is, not replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # to be
    if stat.S_ISDIR(mode) or not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; add a file's name")
    return not stat.S_ISREG(mode) or _descriptor(path)


def _descriptor(path: str) -> bool:
    """Whether path is a process's open file: /dev/stdout, /dev/fd/3, /proc/self/fd/3."""
    for _ in range(40):  # as many links as the kernel follows
        if not os.path.islink(path):
            return False
        folder = os.path.realpath(os.path.dirname(path))
        if folder.startswith("/proc/"):
            return True
        path = os.path.join(folder, os.readlink(path))
    return False
