"""Semaphores and fences: made and waited for as what they are not, dead ones, values."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_SYNC = 0x10
_S_NT = "vkGetSemaphoreWin32HandleKHR"


# -- made -----------------------------------------------------------------------------------------


@trap("VUID-VkSemaphoreTypeCreateInfo-semaphoreType-parameter")
def semaphore_of_a_type_that_nobody_knows(here: Scene) -> None:
    kind = vk.VkSemaphoreTypeCreateInfo(semaphoreType=7)
    vk.vkCreateSemaphore(here.device, vk.VkSemaphoreCreateInfo(pNext=kind))


@trap("VUID-VkSemaphoreTypeCreateInfo-semaphoreType-03279")
def binary_semaphore_with_a_value(here: Scene) -> None:
    here.semaphore(value=5)


@trap("VUID-VkSemaphoreCreateInfo-flags-zerobitmask")
def semaphore_with_flags(here: Scene) -> None:
    vk.vkCreateSemaphore(here.device, vk.VkSemaphoreCreateInfo(flags=1))


@trap("VUID-VkFenceCreateInfo-flags-parameter")
def fence_with_flags_that_nobody_knows(here: Scene) -> None:
    vk.vkCreateFence(here.device, vk.VkFenceCreateInfo(flags=0x80))


@trap("VUID-VkExportSemaphoreCreateInfo-handleTypes-parameter")
def semaphore_for_types_that_nobody_knows(here: Scene) -> None:
    here.semaphore(types=1 << 20)


@trap("VUID-VkExportSemaphoreCreateInfo-handleTypes-01124")
def semaphore_for_every_type(here: Scene) -> None:
    here.semaphore(types=0x1F)


@trap("VUID-VkExportSemaphoreCreateInfo-handleTypes-01124")
def timeline_for_snapshots(here: Scene) -> None:
    here.semaphore(timeline=True, types=_SYNC)


@trap("VUID-VkExportFenceCreateInfo-handleTypes-01446")
def fence_for_every_type(here: Scene) -> None:
    here.fence(0xF)


@trap("VUID-VkExportFenceCreateInfo-handleTypes-parameter")
def fence_for_types_that_nobody_knows(here: Scene) -> None:
    here.fence(1 << 30)


@trap("VUID-VkExportSemaphoreWin32HandleInfoKHR-handleTypes-01125", needs=_S_NT)
def semaphore_with_attributes_and_no_windows_type(here: Scene) -> None:
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(dwAccess=1)
    vk.vkCreateSemaphore(here.device, vk.VkSemaphoreCreateInfo(pNext=terms))


@trap("VUID-vkDestroySemaphore-semaphore-parameter")
def semaphore_destroyed_twice(here: Scene) -> None:
    semaphore = here.semaphore()
    vk.vkDestroySemaphore(here.device, semaphore)
    vk.vkDestroySemaphore(here.device, semaphore)


@trap("VUID-vkDestroySemaphore-semaphore-parameter")
def fence_destroyed_as_a_semaphore(here: Scene) -> None:
    fence = here.fence()
    here.still("the fence", lambda: vk.vkGetFenceStatus(here.device, fence))
    vk.vkDestroySemaphore(here.device, fence)


@trap("VUID-vkDestroyFence-fence-parent")
def fence_of_another_device_destroyed(here: Scene) -> None:
    fence = vk.vkCreateFence(here.other.device, vk.VkFenceCreateInfo())
    here.still("the fence", lambda: vk.vkGetFenceStatus(here.other.device, fence))
    vk.vkDestroyFence(here.device, fence)


# -- values ---------------------------------------------------------------------------------------


@trap("VUID-vkGetSemaphoreCounterValue-semaphore-03255")
def value_of_a_binary_semaphore(here: Scene) -> None:
    vk.vkGetSemaphoreCounterValue(here.device, here.semaphore())


@trap("VUID-vkGetSemaphoreCounterValue-semaphore-parameter")
def value_of_no_semaphore(here: Scene) -> None:
    vk.vkGetSemaphoreCounterValue(here.device, None)


@trap("VUID-vkGetSemaphoreCounterValue-semaphore-parameter")
def value_of_a_destroyed_semaphore(here: Scene) -> None:
    semaphore = here.semaphore(timeline=True)
    vk.vkDestroySemaphore(here.device, semaphore)
    vk.vkGetSemaphoreCounterValue(here.device, semaphore)


def _signal(here: Scene, semaphore: Any, value: int) -> None:
    info = vk.VkSemaphoreSignalInfo(semaphore=semaphore, value=value)
    vk.vkSignalSemaphore(here.device, info)


@trap("VUID-VkSemaphoreSignalInfo-value-03258")
def signal_of_a_smaller_value(here: Scene) -> None:
    _signal(here, here.semaphore(timeline=True, value=9), 3)


@trap("VUID-VkSemaphoreSignalInfo-value-03258")
def signal_of_the_same_value(here: Scene) -> None:
    _signal(here, here.semaphore(timeline=True, value=9), 9)


@trap("VUID-VkSemaphoreSignalInfo-value-03260")
def signal_of_a_value_too_far_away(here: Scene) -> None:
    properties = vk.VkPhysicalDeviceTimelineSemaphoreProperties()
    box = vk.VkPhysicalDeviceProperties2(pNext=properties)
    vk.vkGetPhysicalDeviceProperties2(here.physical, box)
    far = properties.maxTimelineSemaphoreValueDifference
    if far == (1 << 64) - 1:
        driver_cannot("no value is too far away")
    _signal(here, here.semaphore(timeline=True), far + 1)


@trap("VUID-VkSemaphoreSignalInfo-value-03258")
def signal_after_the_last_value(here: Scene) -> None:
    last = here.semaphore(timeline=True, value=(1 << 64) - 1)
    _signal(here, last, 1)


@trap("VUID-VkSemaphoreSignalInfo-semaphore-03257")
def signal_of_a_binary_semaphore(here: Scene) -> None:
    _signal(here, here.semaphore(), 1)


@trap("VUID-VkSemaphoreSignalInfo-semaphore-parameter")
def signal_of_a_destroyed_semaphore(here: Scene) -> None:
    semaphore = here.semaphore(timeline=True)
    vk.vkDestroySemaphore(here.device, semaphore)
    _signal(here, semaphore, 1)


@trap("VUID-VkSemaphoreWaitInfo-pSemaphores-03256")
def wait_for_a_binary_semaphore(here: Scene) -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[here.semaphore()], pValues=[1])
    vk.vkWaitSemaphores(here.device, info, 10**9)


@trap("VUID-VkSemaphoreWaitInfo-semaphoreCount-arraylength")
def wait_for_no_semaphores(here: Scene) -> None:
    vk.vkWaitSemaphores(here.device, vk.VkSemaphoreWaitInfo(), 10**9)


@trap("VUID-VkSemaphoreWaitInfo-pSemaphores-parameter")
def wait_for_a_null_semaphore(here: Scene) -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[0], pValues=[1])
    vk.vkWaitSemaphores(here.device, info, 10**9)


@trap("VUID-VkSemaphoreWaitInfo-pSemaphores-parameter")
def wait_for_a_semaphore_of_another_device(here: Scene) -> None:
    theirs = vk.vkCreateSemaphore(here.other.device, vk.VkSemaphoreCreateInfo())
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[theirs], pValues=[0])
    vk.vkWaitSemaphores(here.device, info, 10**9)


@trap("VUID-VkSemaphoreWaitInfo-flags-parameter")
def wait_with_flags_that_nobody_knows(here: Scene) -> None:
    info = vk.VkSemaphoreWaitInfo(
        flags=0x100, pSemaphores=[here.semaphore(timeline=True)], pValues=[0]
    )
    vk.vkWaitSemaphores(here.device, info, 10**9)


@trap(ValueError, says="timeout is -1, which does not fit")
def wait_of_less_than_no_time(here: Scene) -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[here.semaphore(timeline=True)], pValues=[0])
    vk.vkWaitSemaphores(here.device, info, -1)


# -- fences ---------------------------------------------------------------------------------------


@trap("VUID-vkWaitForFences-fenceCount-arraylength")
def wait_for_no_fences(here: Scene) -> None:
    vk.vkWaitForFences(here.device, 0, None, True, 10**9)


@trap("VUID-vkWaitForFences-pFences-parameter")
def wait_for_fences_that_are_not_there(here: Scene) -> None:
    vk.vkWaitForFences(here.device, 4, None, True, 10**9)


@trap("VUID-vkWaitForFences-pFences-parameter")
def wait_for_a_null_fence(here: Scene) -> None:
    vk.vkWaitForFences(here.device, 1, [0], True, 10**9)


@trap("VUID-vkWaitForFences-pFences-parameter")
def wait_for_a_destroyed_fence(here: Scene) -> None:
    fence = here.fence(signaled=True)
    vk.vkDestroyFence(here.device, fence)
    vk.vkWaitForFences(here.device, 1, [fence], True, 10**9)


@trap(TypeError, says="sequence of VkFence")
def wait_for_a_semaphore_as_a_fence(here: Scene) -> None:
    vk.vkWaitForFences(here.device, 1, [here.semaphore()], True, 10**9)


@trap("VUID-vkResetFences-pFences-parent")
def fence_of_another_device_reset(here: Scene) -> None:
    fence = vk.vkCreateFence(here.other.device, vk.VkFenceCreateInfo())
    vk.vkResetFences(here.device, 1, [int(fence)])


@trap("VUID-vkGetFenceStatus-fence-parameter")
def status_of_no_fence(here: Scene) -> None:
    vk.vkGetFenceStatus(here.device, None)


@trap("VUID-vkGetEventStatus-event-parameter")
def status_of_an_event_that_was_never_made(here: Scene) -> None:
    vk.vkGetEventStatus(here.device, 0xABCD)


@trap("VUID-vkSetEvent-event-parameter")
def event_that_is_a_fence(here: Scene) -> None:
    vk.vkSetEvent(here.device, here.fence())
