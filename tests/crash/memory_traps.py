"""Memory: sizes, types, handles that are dead or of others; freed while it is used."""

from __future__ import annotations

import gc

from extmem import ViewsAlive, vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import SIZE

_INFO = "VUID-VkMemoryAllocateInfo"
_DEDICATED = "VUID-VkMemoryDedicatedAllocateInfo"


# -- allocating -----------------------------------------------------------------------------------


@trap(f"{_INFO}-allocationSize-07897")
def memory_of_no_bytes(here: Scene) -> None:
    here.allocate(size=0)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01713")
def memory_of_all_bytes_there_are(here: Scene) -> None:
    here.allocate(size=(1 << 64) - 1)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01713")
def memory_of_two_to_the_63_bytes(here: Scene) -> None:
    here.allocate(size=1 << 63)


@trap(ValueError, says=r"allocationSize was given -1, which does not fit")
def memory_of_less_than_nothing(here: Scene) -> None:
    here.allocate(size=-1)


@trap(ValueError, says=r"allocationSize was given \d+, which does not fit")
def memory_of_more_than_64_bits(here: Scene) -> None:
    here.allocate(size=1 << 64)


@trap(TypeError, says="allocationSize was given 0.5")
def memory_of_half_a_byte(here: Scene) -> None:
    here.allocate(size=0.5)  # type: ignore[arg-type]


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714")
def memory_type_past_the_last(here: Scene) -> None:
    here.allocate(index=len(here.types))


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714")
def memory_type_of_all_ones(here: Scene) -> None:
    here.allocate(index=0xFFFFFFFF)


@trap(ValueError, says="memoryTypeIndex was given -1, which does not fit")
def memory_type_below_the_first(here: Scene) -> None:
    here.allocate(index=-1)


@trap("VUID-vkAllocateMemory-pAllocateInfo-parameter")
def allocation_by_no_structure(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, None)  # type: ignore[arg-type]


@trap(TypeError, says="expected a VkMemoryAllocateInfo")
def allocation_by_another_structure(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, vk.VkBufferCreateInfo())  # type: ignore[arg-type]


@trap("VUID-vkAllocateMemory-device-parameter")
def allocation_on_a_number(here: Scene) -> None:
    vk.vkAllocateMemory(int(here.device), here.info())  # type: ignore[arg-type]


@trap("VUID-vkAllocateMemory-device-parameter")
def allocation_on_no_device(here: Scene) -> None:
    vk.vkAllocateMemory(None, here.info())  # type: ignore[arg-type]


@trap("VUID-vkAllocateMemory-device-parameter")
def allocation_on_an_instance(here: Scene) -> None:
    vk.vkAllocateMemory(here.instance, here.info())  # type: ignore[arg-type]


@trap("VUID-vkAllocateMemory-device-parameter")
def allocation_on_a_device_made_by_hand(here: Scene) -> None:
    vk.vkAllocateMemory(vk.VkDevice(int(here.device)), here.info())


@trap("VUID-vkAllocateMemory-device-parameter")
def allocation_on_a_destroyed_device(here: Scene) -> None:
    with Scene(here.driver) as gone:
        info = gone.info()
    vk.vkAllocateMemory(gone.device, info)


@trap(f"{_DEDICATED}-image-01432")
def memory_for_a_buffer_and_an_image(here: Scene) -> None:
    both = vk.VkMemoryDedicatedAllocateInfo(image=here.image(), buffer=here.buffer())
    here.allocate(both, size=1 << 20)


@trap(f"{_DEDICATED}-buffer-02965")
def memory_too_small_for_its_buffer(here: Scene) -> None:
    buffer = here.buffer(4 * SIZE)
    here.allocate(vk.VkMemoryDedicatedAllocateInfo(buffer=buffer), size=SIZE)


@trap(f"{_DEDICATED}-image-02964")
def memory_too_small_for_its_image(here: Scene) -> None:
    image = here.image(256)
    here.allocate(vk.VkMemoryDedicatedAllocateInfo(image=image), size=4096)


@trap(f"{_DEDICATED}-buffer-parameter")
def memory_for_a_destroyed_buffer(here: Scene) -> None:
    buffer = here.buffer()
    vk.vkDestroyBuffer(here.device, buffer)
    here.allocate(vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))


@trap(f"{_DEDICATED}-buffer-parameter", f"{_DEDICATED}-commonparent")
def memory_for_a_buffer_of_another_device(here: Scene) -> None:
    here.allocate(vk.VkMemoryDedicatedAllocateInfo(buffer=here.other.buffer()))


@trap(f"{_DEDICATED}-image-parameter")
def memory_for_a_buffer_that_is_called_an_image(here: Scene) -> None:
    here.allocate(vk.VkMemoryDedicatedAllocateInfo(image=int(here.buffer())))


@trap("VUID-VkMemoryAllocateFlagsInfo-flags-parameter")
def memory_with_flags_that_nobody_knows(here: Scene) -> None:
    here.allocate(vk.VkMemoryAllocateFlagsInfo(flags=1 << 31))


# -- freeing --------------------------------------------------------------------------------------


@trap("VUID-vkFreeMemory-memory-parameter")
def memory_freed_twice(here: Scene) -> None:
    memory = here.allocate()
    vk.vkFreeMemory(here.device, memory)
    vk.vkFreeMemory(here.device, memory)


@trap("VUID-vkFreeMemory-memory-parameter")
def memory_that_was_never_made(here: Scene) -> None:
    vk.vkFreeMemory(here.device, 0xDEADBEEF)


@trap("VUID-vkFreeMemory-memory-parameter")
def memory_of_all_ones(here: Scene) -> None:
    vk.vkFreeMemory(here.device, (1 << 64) - 1)


@trap("VUID-vkFreeMemory-memory-parameter")
def buffer_freed_as_memory(here: Scene) -> None:
    buffer = here.buffer()
    here.still("the buffer", lambda: vk.vkGetBufferMemoryRequirements(here.device, buffer).size)
    vk.vkFreeMemory(here.device, buffer)


@trap("VUID-vkFreeMemory-memory-parent")
def memory_of_another_device_freed(here: Scene) -> None:
    memory = here.other.allocate()
    here.still("the memory", lambda: memory in here.other.world.objects["VkDeviceMemory"])
    vk.vkFreeMemory(here.device, memory)


@trap(TypeError, says="expected a VkDeviceMemory, or None")
def a_word_freed_as_memory(here: Scene) -> None:
    vk.vkFreeMemory(here.device, "memory")  # type: ignore[arg-type]


@trap("VUID-vkFreeMemory-memory-00677")
def memory_freed_while_a_queue_works_with_it(here: Scene) -> None:
    buffer = here.buffer()
    memory = here.allocate(size=4 * SIZE)
    vk.vkBindBufferMemory(here.device, buffer, memory, 0)
    commands = here.commands()
    vk.vkCmdFillBuffer(commands, buffer, 0, SIZE, 7)
    vk.vkEndCommandBuffer(commands)
    gate = here.semaphore(timeline=True)
    fence = here.fence()
    waits = vk.VkSubmitInfo(
        pWaitSemaphores=[gate],
        pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT],
        pCommandBuffers=[commands],
        pNext=vk.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1]),
    )
    vk.vkQueueSubmit(here.queue, 1, [waits], fence)
    try:
        vk.vkFreeMemory(here.device, memory)
    finally:
        vk.vkSignalSemaphore(here.device, vk.VkSemaphoreSignalInfo(semaphore=gate, value=1))
        vk.vkWaitForFences(here.device, 1, [fence], True, 10**10)


@trap(ViewsAlive, says="still alive")
def memory_freed_while_a_view_looks_at_it(here: Scene) -> None:
    memory = here.allocate()
    view = vk.vkMapMemory(here.device, memory, 0, SIZE)
    view[:3] = b"abc"
    try:
        vk.vkFreeMemory(here.device, memory)
    finally:
        assert bytes(view[:3]) == b"abc"
        del view
        gc.collect()
