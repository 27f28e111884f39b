"""Landlock (linux/landlock.h): a process gives up changing the file system, for itself and all that it starts."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

# The same numbers on every architecture but alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE = 1 << 1
_TRUNCATE = 1 << 14
# LANDLOCK_ACCESS_FS_…: EXECUTE, WRITE_FILE, REMOVE_DIR to MAKE_SYM; REFER came with the second ABI, TRUNCATE with the third.
_CHANGES = 1 | _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
_LATER = ((2, 1 << 13), (3, _TRUNCATE))
_NETWORK = 3  # LANDLOCK_ACCESS_NET_BIND_TCP and CONNECT_TCP: the fourth
_SCOPES = 3  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and SIGNAL: the sixth

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    done = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if done < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return done


def restrict(writable: Iterable[str] = ()) -> bool:
    """Give up, for good: running programs, writing to any file that is opened from now on but those at or below the
    paths that are writable, making and removing files; TCP, and signals to other processes, where the kernel can.

    False where the kernel has no Landlock. It needs no_new_privs.
    """
    try:
        version = _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return False
    changes = _CHANGES | sum(right for since, right in _LATER if version >= since)
    fields = (changes, *([_NETWORK] if version >= 4 else []), *([_SCOPES] if version >= 6 else []))
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in writable:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                rule = struct.pack("=Qi", (_WRITE_FILE | _TRUNCATE) & changes, place)
                _call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
            finally:
                os.close(place)
        _call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))
    finally:
        os.close(rules)
    return True
