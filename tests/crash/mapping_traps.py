"""Mapping, flushing and binding memory: out of range, twice, of what is gone."""

from __future__ import annotations

from extmem import ViewsAlive, vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import SIZE
from tests.support.strict import driver_cannot

_MAP = "VUID-vkMapMemory"
_RANGE = "VUID-VkMappedMemoryRange"
_BIND = "VUID-vkBindBufferMemory"
_WHOLE = vk.VK_WHOLE_SIZE


# -- mapping --------------------------------------------------------------------------------------


@trap(f"{_MAP}-size-00680")
def mapping_of_no_bytes(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), 0, 0)


@trap(f"{_MAP}-size-00681")
def mapping_past_the_end(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), 0, SIZE + 1)


@trap(f"{_MAP}-size-00681")
def mapping_whose_end_wraps_around(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), 64, (1 << 64) - 64)


@trap(f"{_MAP}-offset-00679")
def mapping_from_the_end(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), SIZE, _WHOLE)


@trap(f"{_MAP}-offset-00679")
def mapping_from_all_ones(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), (1 << 64) - 1, 1)


@trap(ValueError, says="does not fit 64 bits")
def mapping_from_before_the_start(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), -1, SIZE)


@trap(f"{_MAP}-memory-00678")
def mapping_of_mapped_memory(here: Scene) -> None:
    memory = here.allocate()
    vk.vkMapMemory(here.device, memory, 0, SIZE)
    vk.vkMapMemory(here.device, memory, 0, SIZE)


@trap(f"{_MAP}-memory-parameter")
def mapping_of_freed_memory(here: Scene) -> None:
    memory = here.allocate()
    vk.vkFreeMemory(here.device, memory)
    vk.vkMapMemory(here.device, memory, 0, SIZE)


@trap(f"{_MAP}-memory-parameter")
def mapping_of_no_memory(here: Scene) -> None:
    vk.vkMapMemory(here.device, None, 0, SIZE)  # type: ignore[arg-type]


@trap(f"{_MAP}-memory-parent")
def mapping_of_memory_of_another_device(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.other.allocate(), 0, SIZE)


@trap(f"{_MAP}-memory-00682")
def mapping_of_memory_that_the_host_cannot_see(here: Scene) -> None:
    hidden = [i for i, flags in enumerate(here.types) if not flags & 2]
    if not hidden:
        driver_cannot("the host sees all of its memory")
    vk.vkMapMemory(here.device, here.allocate(index=hidden[0]), 0, SIZE)


@trap(f"{_MAP}-flags-parameter", f"{_MAP}-flags-zerobitmask")
def mapping_with_flags_that_nobody_knows(here: Scene) -> None:
    vk.vkMapMemory(here.device, here.allocate(), 0, SIZE, 1 << 30)


@trap("VUID-vkUnmapMemory-memory-00689")
def unmapping_of_what_is_not_mapped(here: Scene) -> None:
    vk.vkUnmapMemory(here.device, here.allocate())


@trap("VUID-vkUnmapMemory-memory-parameter")
def unmapping_of_no_memory(here: Scene) -> None:
    vk.vkUnmapMemory(here.device, None)  # type: ignore[arg-type]


@trap(ViewsAlive, says="still alive")
def unmapping_while_a_slice_looks_at_it(here: Scene) -> None:
    memory = here.allocate()
    part = vk.vkMapMemory(here.device, memory, 0, SIZE)[100:200]
    try:
        vk.vkUnmapMemory(here.device, memory)
    finally:
        part[0] = 1
        del part


@trap("VUID-VkMemoryMapInfo-size-07961", needs="vkMapMemory2")
def mapping_by_a_structure_past_the_end(here: Scene) -> None:
    info = vk.VkMemoryMapInfo(memory=here.allocate(), offset=4096, size=SIZE)
    vk.vkMapMemory2(here.device, info)


@trap("VUID-VkMemoryMapInfo-memory-parameter", needs="vkMapMemory2")
def mapping_by_a_structure_without_memory(here: Scene) -> None:
    vk.vkMapMemory2(here.device, vk.VkMemoryMapInfo(size=SIZE))


@trap("VUID-vkUnmapMemory2-pMemoryUnmapInfo-parameter", needs="vkUnmapMemory2")
def unmapping_by_no_structure(here: Scene) -> None:
    vk.vkUnmapMemory2(here.device, None)  # type: ignore[arg-type]


# -- flushing -------------------------------------------------------------------------------------


def _range(here: Scene, **members: int) -> list[vk.VkMappedMemoryRange]:
    memory = here.allocate()
    vk.vkMapMemory(here.device, memory, 0, SIZE // 2)
    return [vk.VkMappedMemoryRange(memory=memory, **members)]


@trap(f"{_RANGE}-size-00685")
def flush_past_the_mapping(here: Scene) -> None:
    vk.vkFlushMappedMemoryRanges(here.device, 1, _range(here, offset=0, size=SIZE))


@trap(f"{_RANGE}-size-00685")
def invalidation_whose_end_wraps_around(here: Scene) -> None:
    ranges = _range(here, offset=4096, size=(1 << 64) - 4096)
    vk.vkInvalidateMappedMemoryRanges(here.device, 1, ranges)


@trap(f"{_RANGE}-memory-00684")
def flush_of_what_is_not_mapped(here: Scene) -> None:
    whole = vk.VkMappedMemoryRange(memory=here.allocate(), size=_WHOLE)
    vk.vkFlushMappedMemoryRanges(here.device, 1, [whole])


@trap(f"{_RANGE}-memory-parameter")
def flush_of_freed_memory(here: Scene) -> None:
    memory = here.allocate()
    vk.vkFreeMemory(here.device, memory)
    whole = vk.VkMappedMemoryRange(memory=memory, size=_WHOLE)
    vk.vkFlushMappedMemoryRanges(here.device, 1, [whole])


@trap("VUID-vkFlushMappedMemoryRanges-memoryRangeCount-arraylength")
def flush_of_no_ranges(here: Scene) -> None:
    vk.vkFlushMappedMemoryRanges(here.device, 0, None)


@trap("VUID-vkFlushMappedMemoryRanges-pMemoryRanges-parameter")
def flush_of_ranges_that_are_not_there(here: Scene) -> None:
    vk.vkFlushMappedMemoryRanges(here.device, 3, None)


@trap(ValueError, says="memoryRangeCount is 1000, but pMemoryRanges has 1 element")
def flush_of_more_ranges_than_there_are(here: Scene) -> None:
    vk.vkFlushMappedMemoryRanges(here.device, 1000, _range(here, offset=0, size=64))


# -- binding --------------------------------------------------------------------------------------


@trap(f"{_BIND}-None-10741")
def buffer_larger_than_its_memory(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(4 * SIZE), here.allocate(), 0)


@trap(f"{_BIND}-memoryOffset-01031")
def buffer_behind_its_memory(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(4096), here.allocate(), SIZE)


@trap(f"{_BIND}-memoryOffset-01031")
def buffer_at_all_ones(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(4096), here.allocate(), (1 << 64) - 16)


@trap(f"{_BIND}-None-10739")
def buffer_between_two_units(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(4096), here.allocate(), 1)


@trap(f"{_BIND}-buffer-07459")
def buffer_bound_twice(here: Scene) -> None:
    buffer = here.buffer(4096)
    vk.vkBindBufferMemory(here.device, buffer, here.allocate(), 0)
    vk.vkBindBufferMemory(here.device, buffer, here.allocate(), 0)


@trap("VUID-VkBindBufferMemoryInfo-buffer-07459")
def buffer_bound_twice_at_once(here: Scene) -> None:
    buffer, memory = here.buffer(4096), here.allocate()
    info = vk.VkBindBufferMemoryInfo(buffer=buffer, memory=memory)
    vk.vkBindBufferMemory2(here.device, 2, [info, info])


@trap(f"{_BIND}-memory-parameter")
def buffer_without_memory(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(), None, 0)


@trap(f"{_BIND}-buffer-parameter")
def memory_without_a_buffer(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, None, here.allocate(), 0)


@trap(f"{_BIND}-buffer-parameter")
def buffer_that_is_an_image(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.image(), here.allocate(), 0)


@trap(f"{_BIND}-memory-parent")
def buffer_in_memory_of_another_device(here: Scene) -> None:
    vk.vkBindBufferMemory(here.device, here.buffer(), here.other.allocate(), 0)


@trap("VUID-VkBindImageMemoryInfo-pNext-01632")
def image_without_memory(here: Scene) -> None:
    vk.vkBindImageMemory2(here.device, 1, [vk.VkBindImageMemoryInfo(image=here.image())])


@trap("VUID-vkBindImageMemory-memory-parameter")
def image_in_freed_memory(here: Scene) -> None:
    image, memory = here.image(), here.allocate()
    vk.vkFreeMemory(here.device, memory)
    vk.vkBindImageMemory(here.device, image, memory, 0)


@trap("VUID-vkBindImageMemory-memoryOffset-01046")
def image_behind_its_memory(here: Scene) -> None:
    vk.vkBindImageMemory(here.device, here.image(), here.allocate(), 1 << 40)


@trap("VUID-vkBindImageMemory-memory-10926")
def image_in_memory_of_a_buffer(here: Scene) -> None:
    buffer = here.buffer(1 << 20)
    needs = vk.vkGetBufferMemoryRequirements(here.device, buffer)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    alone = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer)
    memory = here.allocate(alone, size=needs.size, index=index)
    vk.vkBindImageMemory(here.device, here.image(), memory, 0)


@trap(f"{_BIND}-memory-01508")
def buffer_in_memory_of_another_buffer(here: Scene) -> None:
    owner, other = here.buffer(), here.buffer()
    needs = vk.vkGetBufferMemoryRequirements(here.device, owner)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    alone = vk.VkMemoryDedicatedAllocateInfo(buffer=owner)
    memory = here.allocate(alone, size=needs.size, index=index)
    vk.vkBindBufferMemory(here.device, other, memory, 0)


@trap("VUID-vkGetDeviceMemoryCommitment-memory-parameter")
def commitment_of_no_memory(here: Scene) -> None:
    vk.vkGetDeviceMemoryCommitment(here.device, None)
