"""What exporter and importer agree on: the kinds of memory, and what travels beside a handle."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from extmem import vk

__all__ = [
    "BYTES",
    "DMA_BUF",
    "EXTENT",
    "FORMAT",
    "HOST",
    "OPAQUE_FD",
    "SIZE",
    "Kind",
    "Passport",
    "pattern",
    "prove_same",
]

OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
DMA_BUF = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
HOST = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)

SIZE = 16384  # bytes of a buffer
EXTENT = (64, 48)  # pixels of an image
BYTES = EXTENT[0] * EXTENT[1] * 4
FORMAT = vk.VK_FORMAT_R8G8B8A8_UNORM


@dataclass(frozen=True)
class Kind:
    """How memory is allocated: the two pairs of variants that Vulkan's conformance tests have."""

    dedicated: bool  # to one resource alone; else the resource lies within a larger allocation
    host_visible: bool  # written and read through a mapping; else by copies on the queue

    def __str__(self) -> str:
        return (
            f"{'dedicated' if self.dedicated else 'suballocated'}-"
            f"{'host_visible' if self.host_visible else 'device_only'}"
        )


@dataclass(frozen=True)
class Passport:
    """What an importer has to know beside the handle. Made of numbers, so that JSON carries it."""

    allocation_size: int
    memory_type: int
    offset: int
    size: int  # of the buffer
    dedicated: bool
    host_visible: bool

    def json(self) -> dict[str, Any]:
        return asdict(self)


def pattern(seed: int, size: int = SIZE) -> bytes:
    """Bytes that no shift and no other seed repeats."""
    return random.Random(seed).randbytes(size)


def prove_same(*allocations: Any) -> None:
    """What each of several writes, all of them read."""
    for seed, writer in enumerate(allocations):
        data = pattern(seed, writer.size)
        writer.write(data)
        for reader in allocations:
            assert reader.read() == data
