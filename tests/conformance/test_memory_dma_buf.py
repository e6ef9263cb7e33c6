"""DMA_BUF memory, where a driver imports or exports it and the kernel can make one."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Any

import pytest

from extmem import vk
from tests.support.offers import EXPORTABLE, IMPORTABLE, require_buffers
from tests.support.rig import DMA_BUF, Kind, Passport, Rig, pattern, prove_same
from tests.support.strict import driver_cannot, missing

UDMABUF = "/dev/udmabuf"
UDMABUF_CREATE = 0x40187542  # _IOW('u', 0x42, struct udmabuf_create)
UDMABUF_FLAGS_CLOEXEC = 1


@pytest.fixture
def rig(rig: Rig, kind: Kind) -> Rig:
    if "VK_EXT_external_memory_dma_buf" not in rig.extensions:
        driver_cannot("no VK_EXT_external_memory_dma_buf")
    require_buffers(rig, DMA_BUF, kind, IMPORTABLE)
    return rig


def make_dma_buf(size: int) -> tuple[int, int]:
    """A dma-buf of the kernel's over a memfd: both descriptors."""
    if not os.access(UDMABUF, os.R_OK | os.W_OK):
        missing(f"{UDMABUF}: this kernel makes no dma-buf for us", installable=False)
    memfd = os.memfd_create("dma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, size)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    device = os.open(UDMABUF, os.O_RDWR)
    asked = struct.pack("IIQQ", memfd, UDMABUF_FLAGS_CLOEXEC, 0, size)
    fd = fcntl.ioctl(device, UDMABUF_CREATE, bytearray(asked))
    os.close(device)
    return fd, memfd


def test_kernel_memory(rig: Rig, kind: Kind, importer: Any) -> None:
    """A dma-buf that the kernel made, seen by the driver and by the processor."""
    size = 65536
    fd, memfd = make_dma_buf(size)
    properties = vk.vkGetMemoryFdPropertiesKHR(rig.device, DMA_BUF, fd)
    assert properties.memoryTypeBits
    index = (properties.memoryTypeBits & -properties.memoryTypeBits).bit_length() - 1
    offset = 0 if kind.dedicated else 4096
    passport = Passport(size, index, offset, size - offset, kind.dedicated, kind.host_visible)
    blocks = [
        importer.import_fd(number, passport, handle_type=DMA_BUF) for number in (os.dup(fd), fd)
    ]
    with mmap.mmap(memfd, size) as memory:
        memory[offset:] = pattern(1, size - offset)
        assert blocks[0].read() == pattern(1, size - offset)
        blocks[1].write(pattern(2, size - offset))
        assert memory[offset:] == pattern(2, size - offset)
    prove_same(*blocks)
    os.close(memfd)


def test_exported(rig: Rig, kind: Kind, importer: Any) -> None:
    require_buffers(rig, DMA_BUF, kind, EXPORTABLE)
    exported = rig.allocate(kind, export=DMA_BUF)
    fd = exported.export_fd(DMA_BUF)
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/dmabuf:")
    properties = vk.vkGetMemoryFdPropertiesKHR(rig.device, DMA_BUF, fd)
    assert properties.memoryTypeBits >> exported.passport.memory_type & 1
    imported = importer.import_fd(fd, exported.passport, handle_type=DMA_BUF)
    prove_same(exported, imported)
