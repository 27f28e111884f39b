"""glreadback.testing where there is a /dev/udmabuf: the dma-bufs that its fixture makes are the kernel's."""

from __future__ import annotations

import numpy as np
import pytest

from glreadback import Reader
from glreadback._testing_devices import Factory, no_real_dmabufs
from glreadback.dmabuf import inspect
from glreadback.testing import DmaBufFactory


@pytest.mark.real_dmabuf
@pytest.mark.parametrize("fourcc", ["XR24", "NV12", "P010", "AB4H"])
def test_real_ones_are_made_and_read(dmabuf_factory: DmaBufFactory, fourcc: str) -> None:
    made = [
        dmabuf_factory(64, 48, fourcc, "noise", stride=640, offset=64),
        dmabuf_factory(64, 48, fourcc, "noise", separate=True),
    ]
    assert all(inspect(plane.fd).dmabuf for buf in made for plane in buf.planes)
    with Reader("software") as reader, Factory(real=False) as factory:
        expected = reader.read_planes(factory(64, 48, fourcc, "noise"), route="map")
        for buf in made:
            for one, other in zip(reader.read_planes(buf, route="alias"), expected, strict=True):
                assert np.array_equal(one.view(np.uint8), other.view(np.uint8))


def test_they_are_made_unasked_too(dmabuf_factory: DmaBufFactory) -> None:
    assert no_real_dmabufs() == ""
    assert inspect(dmabuf_factory(4, 4).planes[0].fd).dmabuf


@pytest.mark.real_dmabuf
def test_one_that_is_too_large_fails(dmabuf_factory: DmaBufFactory) -> None:
    """Where a memfd would do without the mark."""
    message = r"/dev/udmabuf makes no dma-buf of 67108868 bytes \(its size_limit_mb is 64\)"
    with pytest.raises(pytest.fail.Exception, match=message):
        dmabuf_factory(16, 16, "XR24", "solid", offset=(64 << 20) + 4 - 1024)
    with Factory(real=False) as factory:
        assert not inspect(factory(16, 16, "XR24", "solid", offset=64 << 20).planes[0].fd).dmabuf
