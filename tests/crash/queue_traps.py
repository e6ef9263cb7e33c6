"""Queues: submissions with wrong values, dead objects and nothing at all; keyed mutexes."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_SUBMIT = "VUID-VkSubmitInfo"
_ALL = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
_MUTEX = "VUID-VkWin32KeyedMutexAcquireReleaseInfoKHR"
_MUTEX_NV = "VUID-VkWin32KeyedMutexAcquireReleaseInfoNV"


def _submit(here: Scene, fence: Any = None, **members: Any) -> None:
    vk.vkQueueSubmit(here.queue, 1, [vk.VkSubmitInfo(**members)], fence)


def _times(waits: list[int] | None = None, signals: list[int] | None = None) -> Any:
    return vk.VkTimelineSemaphoreSubmitInfo(
        pWaitSemaphoreValues=waits, pSignalSemaphoreValues=signals
    )


# -- who, and where -------------------------------------------------------------------------------


@trap("VUID-vkQueueSubmit-queue-parameter")
def submission_to_no_queue(here: Scene) -> None:
    vk.vkQueueSubmit(None, 0, None, None)  # type: ignore[arg-type]


@trap("VUID-vkQueueSubmit-queue-parameter")
def submission_to_a_device(here: Scene) -> None:
    vk.vkQueueSubmit(here.device, 0, None, None)  # type: ignore[arg-type]


@trap("VUID-vkQueueSubmit-queue-parameter")
def submission_to_a_number(here: Scene) -> None:
    vk.vkQueueSubmit(int(here.queue), 0, None, None)  # type: ignore[arg-type]


@trap("VUID-vkQueueWaitIdle-queue-parameter")
def wait_for_a_queue_of_a_destroyed_device(here: Scene) -> None:
    with Scene(here.driver) as gone:
        queue = gone.queue
    vk.vkQueueWaitIdle(queue)


@trap("VUID-vkGetDeviceQueue-queueFamilyIndex-00384")
def queue_of_a_family_that_is_not_there(here: Scene) -> None:
    vk.vkGetDeviceQueue(here.device, 99, 0)


@trap("VUID-vkGetDeviceQueue-queueIndex-00385")
def queue_past_the_last(here: Scene) -> None:
    vk.vkGetDeviceQueue(here.device, 0, 77)


@trap("VUID-vkGetDeviceQueue-queueIndex-00385")
def queue_of_all_ones(here: Scene) -> None:
    vk.vkGetDeviceQueue(here.device, 0, 0xFFFFFFFF)


@trap("VUID-VkDeviceQueueInfo2-queueIndex-01843", needs="vkGetDeviceQueue2")
def queue_by_a_structure_past_the_last(here: Scene) -> None:
    vk.vkGetDeviceQueue2(here.device, vk.VkDeviceQueueInfo2(queueIndex=77))


@trap("VUID-vkGetDeviceQueue2-pQueueInfo-parameter", needs="vkGetDeviceQueue2")
def queue_by_no_structure(here: Scene) -> None:
    vk.vkGetDeviceQueue2(here.device, None)  # type: ignore[arg-type]


# -- what is submitted ----------------------------------------------------------------------------


@trap("VUID-vkQueueSubmit-fence-parameter")
def submission_with_a_destroyed_fence(here: Scene) -> None:
    fence = here.fence()
    vk.vkDestroyFence(here.device, fence)
    _submit(here, fence)


@trap("VUID-vkQueueSubmit-fence-parameter")
def submission_with_a_semaphore_as_its_fence(here: Scene) -> None:
    _submit(here, here.semaphore())


@trap("VUID-vkQueueSubmit-fence-parent", "VUID-vkQueueSubmit-commonparent")
def submission_with_a_fence_of_another_device(here: Scene) -> None:
    _submit(here, vk.vkCreateFence(here.other.device, vk.VkFenceCreateInfo()))


@trap(f"{_SUBMIT}-pCommandBuffers-parameter")
def submission_of_null_commands(here: Scene) -> None:
    _submit(here, pCommandBuffers=[0])


@trap(f"{_SUBMIT}-pCommandBuffers-parameter")
def submission_of_commands_that_were_never_made(here: Scene) -> None:
    _submit(here, pCommandBuffers=[0xDEADBEEF])


@trap(f"{_SUBMIT}-pSignalSemaphores-parameter")
def signal_of_a_null_semaphore(here: Scene) -> None:
    _submit(here, pSignalSemaphores=[0])


@trap(f"{_SUBMIT}-pSignalSemaphores-parameter", f"{_SUBMIT}-commonparent")
def signal_of_a_semaphore_of_another_device(here: Scene) -> None:
    theirs = vk.vkCreateSemaphore(here.other.device, vk.VkSemaphoreCreateInfo())
    _submit(here, pSignalSemaphores=[theirs])


@trap(f"{_SUBMIT}-pWaitSemaphores-parameter")
def wait_of_a_queue_for_a_destroyed_semaphore(here: Scene) -> None:
    gone = here.semaphore()
    vk.vkDestroySemaphore(here.device, gone)
    _submit(here, pWaitSemaphores=[gone], pWaitDstStageMask=[_ALL])


@trap(f"{_SUBMIT}-pWaitSemaphores-03239")
def timeline_without_a_value(here: Scene) -> None:
    _submit(here, pSignalSemaphores=[here.semaphore(timeline=True)])


@trap(f"{_SUBMIT}-pNext-03241")
def timeline_with_fewer_values_than_signals(here: Scene) -> None:
    several = [here.semaphore(timeline=True) for _ in range(3)]
    _submit(here, pSignalSemaphores=several, pNext=_times(signals=[1]))


@trap(f"{_SUBMIT}-pNext-03240")
def timeline_with_fewer_values_than_waits(here: Scene) -> None:
    waits = [here.semaphore(timeline=True) for _ in range(2)]
    _submit(here, pWaitSemaphores=waits, pWaitDstStageMask=[_ALL] * 2, pNext=_times(waits=[0]))


@trap(f"{_SUBMIT}-pSignalSemaphores-03242")
def timeline_signalled_with_a_value_of_the_past(here: Scene) -> None:
    past = here.semaphore(timeline=True, value=10)
    _submit(here, pSignalSemaphores=[past], pNext=_times(signals=[3]))


@trap(f"{_SUBMIT}-pSignalSemaphores-03242")
def timeline_signalled_twice_with_less(here: Scene) -> None:
    made = here.semaphore(timeline=True)
    _submit(here, pSignalSemaphores=[made, made], pNext=_times(signals=[20, 19]))


@trap(ValueError, says=r"pSignalSemaphoreValues\[0\] was given 18446744073709551621")
def timeline_signalled_with_more_than_64_bits(here: Scene) -> None:
    made = here.semaphore(timeline=True)
    _submit(here, pSignalSemaphores=[made], pNext=_times(signals=[2**64 + 5]))


@trap(ValueError, says="waitSemaphoreCount is 2, but pWaitDstStageMask was given 1")
def wait_of_a_queue_with_fewer_stages_than_semaphores(here: Scene) -> None:
    waits = [here.semaphore(timeline=True, value=1) for _ in range(2)]
    _submit(here, pWaitSemaphores=waits, pWaitDstStageMask=[_ALL], pNext=_times(waits=[1, 1]))


@trap(ValueError, says="signalSemaphoreValueCount is 40")
def timeline_with_a_count_of_values_that_lies(here: Scene) -> None:
    times = _times(signals=[1])
    times.signalSemaphoreValueCount = 40
    _submit(here, pSignalSemaphores=[here.semaphore(timeline=True)], pNext=times)


@trap(
    "VUID-VkTimelineSemaphoreSubmitInfo-pSignalSemaphoreValues-parameter", f"{_SUBMIT}-pNext-03241"
)
def timeline_with_values_that_are_not_there(here: Scene) -> None:
    times = vk.VkTimelineSemaphoreSubmitInfo(signalSemaphoreValueCount=5)
    _submit(here, pSignalSemaphores=[here.semaphore(timeline=True)], pNext=times)


@trap("VUID-VkDeviceGroupSubmitInfo-signalSemaphoreCount-00084")
def submission_to_a_group_with_a_signal_for_no_device(here: Scene) -> None:
    _submit(here, pSignalSemaphores=[here.semaphore()], pNext=vk.VkDeviceGroupSubmitInfo())


@trap("VUID-VkDeviceGroupSubmitInfo-waitSemaphoreCount-00082")
def submission_to_a_group_with_a_wait_of_no_device(here: Scene) -> None:
    waits = [here.semaphore()]
    _submit(
        here,
        pWaitSemaphores=waits,
        pWaitDstStageMask=[_ALL],
        pNext=vk.VkDeviceGroupSubmitInfo(),
    )


@trap("VUID-VkDeviceGroupSubmitInfo-commandBufferCount-00083")
def submission_to_a_group_with_more_masks_than_commands(here: Scene) -> None:
    _submit(here, pNext=vk.VkDeviceGroupSubmitInfo(pCommandBufferDeviceMasks=[1]))


@trap("VUID-vkQueueSubmit-pWaitSemaphores-03238")
def wait_of_a_queue_for_what_nobody_signals(here: Scene) -> None:
    _submit(here, pWaitSemaphores=[here.semaphore()], pWaitDstStageMask=[_ALL])


@trap("VUID-vkQueueSubmit-fence-00063")
def submission_with_a_signalled_fence(here: Scene) -> None:
    _submit(here, here.fence(signaled=True))


@trap("VUID-VkSemaphoreSubmitInfo-semaphore-parameter", needs="vkQueueSubmit2")
def second_submission_with_a_null_semaphore(here: Scene) -> None:
    info = vk.VkSubmitInfo2(pSignalSemaphoreInfos=[vk.VkSemaphoreSubmitInfo(value=1)])
    vk.vkQueueSubmit2(here.queue, 1, [info], None)


@trap("VUID-VkCommandBufferSubmitInfo-commandBuffer-parameter", needs="vkQueueSubmit2")
def second_submission_with_null_commands(here: Scene) -> None:
    info = vk.VkSubmitInfo2(pCommandBufferInfos=[vk.VkCommandBufferSubmitInfo()])
    vk.vkQueueSubmit2(here.queue, 1, [info], None)


@trap("VUID-vkQueueSubmit2-commandBuffer-03874", needs="vkQueueSubmit2")
def second_submission_of_what_is_still_recorded(here: Scene) -> None:
    commands = vk.VkCommandBufferSubmitInfo(commandBuffer=here.commands())
    info = vk.VkSubmitInfo2(pCommandBufferInfos=[commands])
    vk.vkQueueSubmit2(here.queue, 1, [info], None)


@trap("VUID-vkQueueSubmit2-pSubmits-parameter", needs="vkQueueSubmit2")
def second_submissions_that_are_not_there(here: Scene) -> None:
    vk.vkQueueSubmit2(here.queue, 3, None, None)


@trap("VUID-VkSubmitInfo2-semaphore-03882", needs="vkQueueSubmit2")
def second_submission_that_signals_a_value_of_the_past(here: Scene) -> None:
    past = here.semaphore(timeline=True, value=10)
    signal = vk.VkSemaphoreSubmitInfo(semaphore=past, value=5, stageMask=_ALL)
    vk.vkQueueSubmit2(here.queue, 1, [vk.VkSubmitInfo2(pSignalSemaphoreInfos=[signal])], None)


@trap("VUID-VkSubmitInfo2-pNext-pNext", needs="vkQueueSubmit2")
def second_submission_with_the_first_ones_values(here: Scene) -> None:
    vk.vkQueueSubmit2(here.queue, 1, [vk.VkSubmitInfo2(pNext=_times())], None)


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def commands_for_one_use_submitted_twice(here: Scene) -> None:
    commands = here.commands(begun=False)
    once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
    vk.vkEndCommandBuffer(commands)
    here.submit(commands)
    here.submit(commands)


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def commands_whose_memory_has_a_successor(here: Scene) -> None:
    buffer = here.bound()
    found = here.world.find("VkBuffer", int(buffer)).facts["bound"]
    commands = here.commands()
    vk.vkCmdFillBuffer(commands, buffer, 0, 64, 7)
    here.ended(commands)
    vk.vkFreeMemory(here.device, found.value)
    # Where handles are addresses this one mostly has the old one's.
    info = vk.VkMemoryAllocateInfo(
        allocationSize=found.facts["size"], memoryTypeIndex=found.facts["type_index"]
    )
    vk.vkAllocateMemory(here.device, info)
    here.submit(commands)


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070", needs="vkCmdSetEvent")
def commands_whose_event_was_destroyed(here: Scene) -> None:
    event = vk.vkCreateEvent(here.device, vk.VkEventCreateInfo())
    commands = here.commands()
    vk.vkCmdSetEvent(commands, event, _ALL)
    here.ended(commands)
    vk.vkDestroyEvent(here.device, event)
    here.submit(commands)


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def commands_that_call_what_was_recorded_anew(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo(flags=2))
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, level=1, commandBufferCount=1)
    (inner,) = vk.vkAllocateCommandBuffers(here.device, info)
    begin = vk.VkCommandBufferBeginInfo(pInheritanceInfo=vk.VkCommandBufferInheritanceInfo())
    vk.vkBeginCommandBuffer(inner, begin)
    vk.vkEndCommandBuffer(inner)
    outer = here.commands()
    vk.vkCmdExecuteCommands(outer, 1, [inner])
    here.ended(outer)
    vk.vkBeginCommandBuffer(inner, begin)
    vk.vkEndCommandBuffer(inner)
    here.submit(outer)


@trap("VUID-vkQueueBindSparse-pBindInfo-parameter", needs="vkQueueBindSparse")
def sparse_bindings_that_are_not_there(here: Scene) -> None:
    vk.vkQueueBindSparse(here.queue, 2, None, None)


@trap("VUID-VkSparseBufferMemoryBindInfo-buffer-parameter", needs="vkQueueBindSparse")
def sparse_binding_of_no_buffer(here: Scene) -> None:
    binds = vk.VkSparseBufferMemoryBindInfo(pBinds=[vk.VkSparseMemoryBind(size=4096)])
    info = vk.VkBindSparseInfo(pBufferBinds=[binds])
    vk.vkQueueBindSparse(here.queue, 1, [info], None)


# -- keyed mutexes --------------------------------------------------------------------------------


def _mutex(here: Scene, **members: Any) -> Any:
    if not here.dispatch.enabled("VK_KHR_win32_keyed_mutex"):
        driver_cannot("no VK_KHR_win32_keyed_mutex")
    return vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(**members)


@trap(f"{_MUTEX}-pAcquireSyncs-00081", needs="vkGetMemoryWin32HandleKHR")
def mutex_of_private_memory(here: Scene) -> None:
    info = _mutex(here, pAcquireSyncs=[here.allocate()], pAcquireKeys=[0], pAcquireTimeouts=[0])
    _submit(here, pNext=info)


@trap(f"{_MUTEX}-pAcquireSyncs-parameter", needs="vkGetMemoryWin32HandleKHR")
def mutex_of_no_memory(here: Scene) -> None:
    _submit(here, pNext=_mutex(here, pAcquireSyncs=[0], pAcquireKeys=[0], pAcquireTimeouts=[0]))


@trap(f"{_MUTEX}-pReleaseSyncs-parameter", needs="vkGetMemoryWin32HandleKHR")
def mutex_of_freed_memory(here: Scene) -> None:
    memory = here.allocate()
    vk.vkFreeMemory(here.device, memory)
    _submit(here, pNext=_mutex(here, pReleaseSyncs=[memory], pReleaseKeys=[0]))


@trap(f"{_MUTEX}-pReleaseKeys-parameter", needs="vkGetMemoryWin32HandleKHR")
def mutex_without_keys(here: Scene) -> None:
    _submit(here, pNext=_mutex(here, pReleaseSyncs=[here.allocate()]))


@trap(ValueError, says="acquireCount is 3, but pAcquireTimeouts was given 1",
      needs="vkGetMemoryWin32HandleKHR")  # fmt: skip
def mutex_with_fewer_times_than_keys(here: Scene) -> None:
    info = _mutex(
        here,
        pAcquireTimeouts=[0],
        pAcquireKeys=[0, 0, 0],
        pAcquireSyncs=[here.allocate() for _ in range(3)],
    )
    _submit(here, pNext=info)


@trap(f"{_MUTEX_NV}-pAcquireSyncs-parameter", needs="vkGetMemoryWin32HandleNV")
def nv_mutex_of_no_memory(here: Scene) -> None:
    info = vk.VkWin32KeyedMutexAcquireReleaseInfoNV(
        pAcquireSyncs=[0], pAcquireKeys=[0], pAcquireTimeoutMilliseconds=[0]
    )
    _submit(here, pNext=info)
