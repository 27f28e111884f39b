"""OwnedFd: closed once, and loud when forgotten."""

from __future__ import annotations

import os
import warnings

import pytest

from glreadback.fds import OwnedFd


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_it_closes_once() -> None:
    fd = os.eventfd(0)
    owned = OwnedFd(fd)
    assert owned.fileno() == fd
    assert not owned.closed
    owned.close()
    assert owned.closed
    assert not _open(fd)
    other = os.eventfd(0)
    assert other == fd, "the kernel gives the lowest free number"
    owned.close()
    assert _open(other), "the number is somebody else's by now"
    os.close(other)


def test_in_a_with_statement() -> None:
    with OwnedFd(os.eventfd(0)) as owned:
        fd = owned.fileno()
    assert owned.closed
    assert not _open(fd)


def test_closed_is_said() -> None:
    owned = OwnedFd(os.eventfd(0))
    owned.close()
    with pytest.raises(ValueError, match="the descriptor is closed"):
        owned.fileno()
    with pytest.raises(ValueError, match="the descriptor is closed"):
        owned.release()
    assert repr(owned) == "OwnedFd(closed)"


def test_dup_leaves_the_callers_alone() -> None:
    fd = os.eventfd(0)
    with OwnedFd.dup(fd) as owned:
        assert owned.fileno() != fd
        assert os.fstat(owned.fileno()).st_ino == os.fstat(fd).st_ino
        assert not os.get_inheritable(owned.fileno())
        assert repr(owned) == f"OwnedFd({owned.fileno()})"
    assert _open(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        OwnedFd.dup(fd)


def test_release_gives_it_away() -> None:
    owned = OwnedFd(os.eventfd(0))
    fd = owned.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        owned.close()
        del owned
    assert _open(fd)
    os.close(fd)


def test_a_forgotten_one_warns_and_closes() -> None:
    owned = OwnedFd(os.eventfd(0))
    fd = owned.fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed descriptor {fd}"):
        del owned
    assert not _open(fd)


def test_one_that_was_never_made() -> None:
    """A constructor that failed leaves nothing to warn of."""
    with pytest.raises(TypeError):
        OwnedFd()  # type: ignore[call-arg]
