"""Frame to texture: import a dma-buf on one device, once, and keep the import as long as it is used.

The cache is keyed by the buffers themselves (their inodes), never by descriptor numbers, which are recycled.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .dmabuf import Backing, DmaBuf, Plane
from .egl.context import Borrowed, Context
from .egl.device import CURRENT, open_display, too_old
from .egl.image import Refused, create_image, destroy_image, rejected
from .errors import DescriptorError, DeviceError, ImportRejected
from .fds import OwnedFd
from .frame import Rect
from .gl import pixels
from .gl.capabilities import ask
from .gl.texture import GLFailure, Scrap, Texture
from .modifier import Modifier
from .plan import Access

if TYPE_CHECKING:
    from .gl.draw import Drawing
    from .gl.ring import Slot
    from .pending import Pending

# An import pins the producer's memory. Enough for a swap chain of a few buffers with a few planes each.
CACHE_SIZE = 16

# Drivers compute in signed 32-bit integers: llvmpipe crashes, or reads elsewhere, in larger images.
_MOST_BYTES = 2**31 - 1

Key = tuple[object, ...]


class Import:
    """A cached import: the texture, and duplicates of the descriptors so that the buffers' inodes stay theirs."""

    __slots__ = ("alive", "fds", "inodes", "key", "texture")

    def __init__(self, key: Key, texture: Texture, planes: Sequence[Plane], backings: Sequence[Backing]) -> None:
        self.key, self.texture, self.alive = key, texture, True
        self.inodes = frozenset(backing.key for backing in backings)
        self.fds = [OwnedFd.dup(fd) for fd in {plane.fd for plane in planes}]


class Importer:
    """One device's context and its imports. Its methods are called with the context active (`with importer.context:`)."""

    Failure = GLFailure

    def __init__(self, device: str) -> None:
        """device is a device's name, or "current" to borrow the context that is current on this thread."""
        self.context = Borrowed() if device == CURRENT else Context(open_display(device))
        self.display = self.context.display
        with self.context:
            self.capabilities = ask(self.display)
            old = too_old(self.capabilities.version) if self.capabilities.software else ""
        if old:
            self.context.close()
            raise DeviceError(old)
        if isinstance(self.context, Borrowed):
            from .gl.state import Traits, copying, drawing

            with self.context:
                traits = Traits.ask(self.capabilities.desktop, self.capabilities.extensions)
            self.context.keep, self.context.keep_drawing = partial(copying, traits), partial(drawing, traits)
        self._drawing: Drawing | None = None
        self._scrap: Scrap | None = None
        self.can_reverse = "GL_ANGLE_pack_reverse_row_order" in self.capabilities.extensions
        self._cache: OrderedDict[Key, Import] = OrderedDict()
        self.flying: deque[Pending] = deque()  # submitted reads, oldest first
        self._slots: list[Slot] = []
        self.imported = 0  # imports made so far, for tests and benchmarks

    def get(
        self,
        buf: DmaBuf,
        backings: Sequence[Backing],
        *,
        code: int,
        width: int,
        height: int,
        planes: Sequence[Plane],
        sampler: str | None = None,
        hints: Sequence[int] = (),
    ) -> Import:
        """The import of planes of buf imported as another (or its own) fourcc code and size.

        backings are those of the planes. sampler None: to be read through a framebuffer; "2d", "external": to be
        sampled. hints are further EGL attributes. Raises ImportRejected, speaking of buf.
        """
        key: Key = (
            *(code, width, height, buf.modifier, sampler == "external", *hints),
            *((b.device, b.inode, b.size, p.offset, p.stride) for b, p in zip(backings, planes, strict=True)),
        )
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            if not self.capabilities.software and sampler != "external":
                found.texture.rebind()
        else:
            found = self._import(key, buf, code, width, height, planes, backings, sampler == "external", hints)
            self._cache[key] = found
            while len(self._cache) > CACHE_SIZE:
                self._drop(next(iter(self._cache)))
        if sampler is None:
            try:
                found.texture.attach()
            except GLFailure as error:
                self._drop(key)
                raise self._rejected(buf, str(error)) from None
        return found

    @property
    def drawing(self) -> Drawing:
        """What the draw route keeps, made when it is first needed."""
        if self._drawing is None:
            from .gl.draw import Drawing

            self._drawing = Drawing(self.capabilities.desktop)
        return self._drawing

    def copies(
        self, framebuffer: int, rect: Rect, access: Access, offset: int, stride: int, reverse: bool = False
    ) -> list[pixels.Copy]:
        """The copies that bring a rectangle of a framebuffer to memory (gl/pixels.py)."""
        return pixels.copies(framebuffer, rect, access, offset, stride, reverse, self.can_reverse)

    copy = staticmethod(pixels.read)

    def free_slot(self) -> Slot | None:
        """A pixel buffer that no read is filling; None when the whole ring is in flight."""
        from .gl.ring import SLOTS, Slot

        for slot in self._slots:
            if slot.fence is None:
                return slot
        if len(self._slots) < SLOTS:
            self._slots.append(Slot())
            return self._slots[-1]
        return None

    @property
    def lost(self) -> str:
        """Why the context is gone for good (a GPU reset), "" while it is not."""
        return "" if isinstance(self.context, Borrowed) else self.context.lost

    def touch(self, found: Import) -> None:
        """Mark an import as just used."""
        self._cache.move_to_end(found.key)

    def _import(
        self,
        key: Key,
        buf: DmaBuf,
        code: int,
        width: int,
        height: int,
        planes: Sequence[Plane],
        backings: Sequence[Backing],
        external: bool,
        hints: Sequence[int],
    ) -> Import:
        span = max(plane.stride for plane in planes) * height
        if span > _MOST_BYTES:
            raise DescriptorError(
                f"{buf}: its rows span {span} bytes, more than the {_MOST_BYTES} that drivers address in one image. "
                "Read it in parts: a DmaBuf per part, with its own offset"
            )
        with contextlib.ExitStack() as undo, _positions_kept(planes, backings):
            try:
                image = create_image(self.display, width, height, code, planes, buf.modifier, hints)
            except Refused as refused:
                raise self._rejected(buf, str(refused)) from None
            undo.callback(destroy_image, self.display, image)
            try:
                texture = Texture(image, external)
            except GLFailure as error:
                raise self._rejected(buf, str(error)) from None
            undo.callback(texture.delete)
            if self.display.driver == "kms_swrast":
                # Somebody else's context on a card without a GPU. It imports other devices' buffers where the kernel's
                # driver lets it, but cannot map them: a read then fails, a draw ends the process.
                try:
                    texture.attach()
                    pixels.prove(texture.framebuffer)
                except GLFailure as error:
                    raise self.refused(buf, error) from None
            made = Import(key, texture, planes, backings)
            undo.pop_all()
        self.imported += 1
        return made

    def refused(self, buf: DmaBuf, error: GLFailure) -> ImportRejected:
        """The error for a read of buf that failed only after its import."""
        return ImportRejected(
            f"{self.display.device.name} ({self.display.driver or self.display.vendor}) imported {buf} "
            f"but cannot read it: {error}",
            fourcc=buf.fourcc,
            modifier=buf.modifier,
            planes=len(buf.planes),
        )

    def _rejected(self, buf: DmaBuf, code: str) -> ImportRejected:
        listed = self.capabilities.formats.get(buf.fourcc) or {}
        return rejected(buf, self.display, code, tuple(Modifier(value) for value in listed))

    def _drop(self, key: Key) -> None:
        entry = self._cache.pop(key)
        entry.alive = False
        entry.texture.delete()
        destroy_image(self.display, entry.texture.image)
        for fd in entry.fds:
            fd.close()

    def forget(self, inodes: frozenset[tuple[int, int]]) -> None:
        """Drop every import of these buffers: the producer's memory is no longer pinned."""
        keys = [key for key, entry in self._cache.items() if entry.inodes & inodes]
        for key in keys:
            self._drop(key)
        # A borrowed context is not ours to draw in; its owner's next draw does the same.
        if keys and not isinstance(self.context, Borrowed):
            self._scrap = self._scrap or Scrap()
            self._scrap.use(self._drawing is not None)

    def abandon(self) -> None:
        """Close the descriptors of all imports and forget them, without GL: its context is not ours any more."""
        for entry in self._cache.values():
            entry.alive = False
            for fd in entry.fds:
                fd.close()
        self._cache.clear()

    def close(self) -> None:
        """Drop all imports and the context. Not with the context active."""
        if self.context.current:
            with self.context:
                for key in list(self._cache):
                    self._drop(key)
                for slot in self._slots:
                    slot.delete()
                if self._drawing is not None:
                    self._drawing.delete()
                if self._scrap is not None:
                    self._scrap.delete()
        else:
            # A borrowed context that is not current, or a lost one: its GL names go with it, the descriptors are ours to close.
            for entry in self._cache.values():
                destroy_image(self.display, entry.texture.image)
            for slot in self._slots:
                slot.finish()
            self.abandon()
        self.context.close()


@contextlib.contextmanager
def _positions_kept(planes: Sequence[Plane], backings: Sequence[Backing]) -> Iterator[None]:
    """llvmpipe asks a file's size by seeking; the file position is shared with the caller's descriptor."""
    files = [plane.fd for plane, backing in zip(planes, backings, strict=True) if not backing.dmabuf]
    positions = [(fd, os.lseek(fd, 0, os.SEEK_CUR)) for fd in files]
    try:
        yield
    finally:
        for fd, position in positions:
            os.lseek(fd, position, os.SEEK_SET)
