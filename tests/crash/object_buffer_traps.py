"""Buffers as objects: over what is not there, of others, closed."""

from __future__ import annotations

import extmem
from extmem import (
    ClosedError,
    ExtmemError,
    RuleViolation,
    Unsupported,
)
from tests.crash.scene import Scene
from tests.crash.trap import trap


@trap(ValueError, says="is of another device")
def buffer_over_memory_of_another_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as other, other.allocate(64) as memory:
        here.gpu.buffer(memory)


@trap("VUID-vkBindBufferMemory-memoryOffset-01031", ValueError, Unsupported, says="size is|bytes")
def buffer_over_what_is_behind_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, offset=1 << 30, size=64)


@trap("VUID-vkBindBufferMemory-None-10741")
def buffer_over_more_than_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, size=1 << 20)


@trap(ValueError, says="size is|offset|fit")
def buffer_from_before_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, offset=-64)


@trap(ValueError, says="size is 0; expected at least 1 byte")
def buffer_over_nothing(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, size=0)


@trap(ClosedError, says="this memory is closed")
def buffer_over_closed_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        pass
    here.gpu.buffer(memory)


@trap(ClosedError, says="this buffer is closed")
def copy_from_a_closed_buffer(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as target:
        with here.gpu.buffer(memory) as source:
            pass
        here.gpu.copy(source, target)


@trap(ExtmemError, says="memory|closed|destroyed")
def fill_of_a_buffer_whose_memory_is_closed(here: Scene) -> None:
    memory = here.gpu.allocate(4096)
    buffer = here.gpu.buffer(memory)
    memory.close()
    here.gpu.fill(buffer, 7)


@trap(ValueError, says="cannot copy 100000 bytes from 4096 bytes to 4096 bytes")
def copy_of_more_than_the_buffers(here: Scene) -> None:
    with (
        here.gpu.allocate(4096) as one,
        here.gpu.allocate(4096) as other,
        here.gpu.buffer(one) as source,
        here.gpu.buffer(other) as target,
    ):
        here.gpu.copy(source, target, 100_000)


@trap(ValueError, says="cannot copy -1 bytes")
def copy_of_less_than_nothing(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.copy(buffer, buffer, -1)


@trap(ValueError, RuleViolation, says="another device|belongs to")
def copy_to_a_buffer_of_another_gpu(here: Scene) -> None:
    with (
        extmem.open_device(driver=here.driver) as other,
        other.allocate(4096) as theirs,
        other.buffer(theirs) as target,
        here.gpu.allocate(4096) as memory,
        here.gpu.buffer(memory) as source,
    ):
        here.gpu.copy(source, target)


@trap(ValueError, says="data is 4294967296, which does not fit 32 bits|fit")
def fill_with_more_than_32_bits(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.fill(buffer, 1 << 32)


@trap(TypeError, says="data was given 1.5|expected an integer|float")
def fill_with_a_fraction(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.fill(buffer, 1.5)  # type: ignore[arg-type]


@trap(AttributeError, TypeError, says="Buffer|ownership|str")
def fill_of_a_word(here: Scene) -> None:
    here.gpu.fill("a buffer", 0)  # type: ignore[arg-type]
