"""A read under way: what `Reader.submit` gives."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .errors import DeviceError, FenceTimeout, ImportRejected
from .surface import Surface

if TYPE_CHECKING:
    from .gl.ring import Slot
    from .importer import Importer

Runs = Sequence[tuple[int, int]]  # bytes of a surface: (offset, length)


class Pending:
    """A picture that is being read. `result()` gives its Surface; until then its buffer belongs to the read.

    A Pending need not be waited for: the Reader finishes the oldest when its ring is full. Any thread may ask, one at a
    time, as for the Reader. On a software device a read has nothing to overlap with and is over when submit returns.
    """

    def __init__(
        self,
        surface: Surface,
        settle: Callable[[Pending, float], None] | None = None,
        importer: Importer | None = None,
        slot: Slot | None = None,
        runs: Runs = (),
        finish: Callable[[], None] | None = None,
    ) -> None:
        self._surface = surface
        self._settle = settle  # the Reader's: with its lock held and the context current, call `take`
        self._error: BaseException | None = None
        self.importer, self.slot, self.runs, self.finish = importer, slot, runs, finish

    def done(self) -> bool:
        """Whether the pixels are there; result() will not wait then."""
        if self._settle is None:
            return True
        try:
            self._settle(self, 0.0)
        except FenceTimeout:
            return False
        except ImportRejected:
            pass  # result() raises it
        return True

    def result(self, timeout: float = 5.0) -> Surface:
        """The surface, once its pixels are there; the same one each time. timeout is in seconds.

        Raises FenceTimeout if the GPU, or the producer that it waits for, is not done by then (ask again later),
        ImportRejected if the read failed, and DeviceError in a process that was forked meanwhile.
        """
        if self._settle is not None:
            self._settle(self, timeout)
        if self._error is not None:
            raise self._error
        return self._surface

    def fileno(self) -> int:
        """A descriptor for an event loop that polls readable when the read is over: a sync file, the caller's to close.

        Raises io.UnsupportedOperation where the device's fences have no descriptors, or the read is over already.
        """
        slot = self.slot
        if self._settle is None or slot is None or slot.fence is None:
            raise io.UnsupportedOperation("the read is over already; ask result()")
        if not slot.fence.native:
            raise io.UnsupportedOperation("this device has no native fences (EGL_ANDROID_native_fence_sync); ask done()")
        return slot.fence.fileno()

    def take(self, timeout: float) -> None:
        """Bring the pixels to the surface. Called by the Reader, with the context current. Raises FenceTimeout."""
        if self._settle is None:
            return
        assert self.slot is not None
        assert self.importer is not None
        started = time.monotonic()
        if not self.slot.done(timeout):
            waited = time.monotonic() - started
            raise FenceTimeout(f"the GPU was not done with the read after {waited:.3g} s; is its producer still drawing?")
        slot, self._settle, self.slot = self.slot, None, None
        try:
            slot.take(self.runs, self._surface.address)
        except self.importer.Failure as error:
            self._error = ImportRejected(f"{self.importer.display.device.name}: {error}")
            raise self._error from None
        except BaseException as error:  # the surface was closed, or its memory has gone
            self._error = error
            raise
        finally:
            slot.finish()
            if self.finish is not None:
                self.finish()

    def give_up(self, error: DeviceError) -> None:
        """There will be no pixels; GL is left alone."""
        self._settle, self.slot, self._error = None, None, error
