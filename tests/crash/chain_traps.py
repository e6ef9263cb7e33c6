"""Structures and their chains: circles, garbage, strangers, counts and pointers that lie."""

from __future__ import annotations

import ctypes
from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import OPAQUE_FD, SIZE

_INFO = "VUID-VkMemoryAllocateInfo"
_NEXT = f"{_INFO}-pNext-pNext"
_UNIQUE = f"{_INFO}-sType-unique"
_GARBAGE = 0x0000_6666_6666_6660  # an address of nothing

_Address = ctypes.c_uint64


def _poked(info: Any, address: int, member: str = "pNext") -> Any:
    """A structure with an address in a pointer member, as other libraries' bytes may have one."""
    offset = getattr(type(info), member).offset
    _Address.from_buffer(info, offset).value = address
    return info


def _copied(info: Any) -> Any:
    """The same bytes as another structure, that knows nothing of how they were made."""
    return type(info).from_buffer_copy(info)


# -- chains ---------------------------------------------------------------------------------------


@trap(_UNIQUE)
def chain_that_is_a_circle(here: Scene) -> None:
    one, other = vk.VkExportMemoryAllocateInfo(), vk.VkMemoryDedicatedAllocateInfo()
    one.pNext, other.pNext = other, one
    vk.vkAllocateMemory(here.device, vk.VkMemoryAllocateInfo(allocationSize=SIZE, pNext=one))


@trap(_UNIQUE)
def chain_that_comes_back_to_its_head(here: Scene) -> None:
    info = here.info()
    info.pNext = vk.VkExportMemoryAllocateInfo(pNext=info)
    vk.vkAllocateMemory(here.device, info)


@trap(_NEXT, _UNIQUE)
def chain_of_one_that_follows_itself(here: Scene) -> None:
    info = here.info()
    info.pNext = info
    vk.vkAllocateMemory(here.device, info)


@trap(_UNIQUE)
def chain_with_a_double(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryAllocateInfo(), vk.VkExportMemoryAllocateInfo())


@trap(_UNIQUE)
def chain_of_a_thousand(here: Scene) -> None:
    head = vk.VkExportMemoryAllocateInfo()
    for _ in range(1000):
        head = vk.VkExportMemoryAllocateInfo(pNext=head)
    vk.vkAllocateMemory(here.device, vk.VkMemoryAllocateInfo(allocationSize=SIZE, pNext=head))


@trap(_UNIQUE, _NEXT)
def chain_of_a_thousand_strangers(here: Scene) -> None:
    head = vk.VkFenceCreateInfo()
    for _ in range(1000):
        head = vk.VkFenceCreateInfo(pNext=head)
    vk.vkAllocateMemory(here.device, vk.VkMemoryAllocateInfo(allocationSize=SIZE, pNext=head))


@trap(_NEXT)
def chain_with_a_structure_of_something_else(here: Scene) -> None:
    here.allocate(vk.VkSemaphoreTypeCreateInfo())


@trap(_NEXT)
def chain_with_another_head(here: Scene) -> None:
    here.allocate(vk.VkMemoryAllocateInfo(allocationSize=SIZE))


@trap(f"{_INFO}-sType-sType")
def head_that_says_it_is_something_else(here: Scene) -> None:
    info = here.info()
    info.sType = vk.VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO
    vk.vkAllocateMemory(here.device, info)


@trap("VUID-VkExportMemoryAllocateInfo-sType-sType")
def follower_that_says_it_is_something_else(here: Scene) -> None:
    export = vk.VkExportMemoryAllocateInfo()
    export.sType = vk.VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR
    here.allocate(export)


@trap("VUID-VkExportMemoryAllocateInfo-sType-sType")
def follower_that_is_of_no_type(here: Scene) -> None:
    export = vk.VkExportMemoryAllocateInfo()
    export.sType = -1
    here.allocate(export)


@trap(TypeError, says=r"pNext was given \d+")
def chain_that_is_a_number(here: Scene) -> None:
    here.info().pNext = _GARBAGE


@trap(TypeError, says="pNext was given")
def chain_with_a_structure_that_cannot_be_chained(here: Scene) -> None:
    here.info().pNext = vk.VkExtent3D(1, 1, 1)


@trap(TypeError, says="pNext was given")
def chain_with_bytes(here: Scene) -> None:
    here.info().pNext = bytes(64)


@trap(_NEXT, ValueError, says="pNext")
def chain_with_an_address_of_nothing(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, _poked(here.info(), _GARBAGE))


@trap(_NEXT, ValueError, says="pNext")
def chain_with_an_address_of_nothing_in_copied_bytes(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, _copied(_poked(here.info(), _GARBAGE)))


@trap(_NEXT, ValueError, says="pNext")
def chain_with_the_address_one(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, _copied(_poked(here.info(), 1)))


@trap(_NEXT, ValueError, says="pNext")
def chain_into_the_kernel(here: Scene) -> None:
    vk.vkAllocateMemory(here.device, _copied(_poked(here.info(), 0xFFFF_8000_0000_0000)))


@trap(_NEXT, ValueError, says="pNext")
def follower_with_an_address_of_nothing(here: Scene) -> None:
    export = _copied(_poked(vk.VkExportMemoryAllocateInfo(), _GARBAGE))
    vk.vkAllocateMemory(here.device, vk.VkMemoryAllocateInfo(allocationSize=SIZE, pNext=export))


@trap(_NEXT, ValueError, says="pNext")
def chain_with_bytes_of_no_structure(here: Scene) -> None:
    noise = (ctypes.c_ubyte * 64)(*[0x5A] * 64)
    vk.vkAllocateMemory(here.device, _copied(_poked(here.info(), ctypes.addressof(noise))))


@trap("VUID-VkBufferCreateInfo-pNext-pNext")
def buffer_with_a_stranger_behind_it(here: Scene) -> None:
    info = vk.VkBufferCreateInfo(size=64, usage=3, pNext=vk.VkExportMemoryAllocateInfo())
    vk.vkCreateBuffer(here.device, info)


@trap("VUID-VkSubmitInfo-pNext-pNext")
def submission_with_a_stranger_behind_it(here: Scene) -> None:
    info = vk.VkSubmitInfo(pNext=vk.VkExportMemoryAllocateInfo())
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap("VUID-VkMemoryRequirements2-pNext-pNext")
def output_with_a_stranger_behind_it(here: Scene) -> None:
    box = vk.VkMemoryRequirements2(pNext=vk.VkExportMemoryAllocateInfo())
    info = vk.VkBufferMemoryRequirementsInfo2(buffer=here.buffer())
    vk.vkGetBufferMemoryRequirements2(here.device, info, box)


@trap("VUID-VkMemoryRequirements2-sType-sType")
def output_that_says_it_is_something_else(here: Scene) -> None:
    box = vk.VkMemoryRequirements2()
    box.sType = 0
    info = vk.VkBufferMemoryRequirementsInfo2(buffer=here.buffer())
    vk.vkGetBufferMemoryRequirements2(here.device, info, box)


@trap("VUID-VkMemoryRequirements2-sType-unique")
def output_with_a_double_behind_it(here: Scene) -> None:
    twice = vk.VkMemoryDedicatedRequirements(pNext=vk.VkMemoryDedicatedRequirements())
    info = vk.VkBufferMemoryRequirementsInfo2(buffer=here.buffer())
    vk.vkGetBufferMemoryRequirements2(here.device, info, vk.VkMemoryRequirements2(pNext=twice))


@trap(TypeError, says="VkMemoryRequirements2 to fill")
def output_of_another_class(here: Scene) -> None:
    info = vk.VkBufferMemoryRequirementsInfo2(buffer=here.buffer())
    box: Any = vk.VkMemoryRequirements()
    vk.vkGetBufferMemoryRequirements2(here.device, info, box)


# -- counts and arrays ----------------------------------------------------------------------------


@trap(ValueError, says="submitCount is 5, but pSubmits has 1 element")
def more_submissions_than_there_are(here: Scene) -> None:
    vk.vkQueueSubmit(here.queue, 5, [vk.VkSubmitInfo()], None)


@trap(ValueError, says="submitCount is -1, which does not fit")
def fewer_submissions_than_none(here: Scene) -> None:
    vk.vkQueueSubmit(here.queue, -1, [vk.VkSubmitInfo()], None)


@trap("VUID-vkQueueSubmit-pSubmits-parameter")
def submissions_that_are_not_there(here: Scene) -> None:
    vk.vkQueueSubmit(here.queue, 2, None, None)


@trap(TypeError, says="a sequence of VkSubmitInfo")
def submissions_that_are_something_else(here: Scene) -> None:
    vk.vkQueueSubmit(here.queue, 1, [vk.VkFenceCreateInfo()], None)


@trap(TypeError, says="a sequence of VkSubmitInfo")
def submissions_that_are_a_number(here: Scene) -> None:
    vk.vkQueueSubmit(here.queue, 1, 4096, None)


@trap(ValueError, says=r"waitSemaphoreCount is 7, but pWaitSemaphores was given 1 element")
def count_that_is_raised_afterwards(here: Scene) -> None:
    info = vk.VkSubmitInfo(
        pWaitSemaphores=[here.semaphore()],
        pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT],
    )
    info.waitSemaphoreCount = 7
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap(ValueError, says=r"commandBufferCount is \d+, but pCommandBuffers was given 1 element")
def count_of_all_ones(here: Scene) -> None:
    info = vk.VkSubmitInfo(pCommandBuffers=[here.commands()])
    info.commandBufferCount = 0xFFFFFFFF
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap(
    ValueError,
    "VUID-VkSubmitInfo-pWaitDstStageMask-parameter",
    says="pWaitDstStageMask",
)
def fewer_stages_than_semaphores(here: Scene) -> None:
    info = vk.VkSubmitInfo(
        pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT],
        pWaitSemaphores=[here.semaphore(), here.semaphore(), here.semaphore()],
    )
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap("VUID-VkSubmitInfo-pWaitDstStageMask-parameter")
def semaphores_without_stages(here: Scene) -> None:
    info = vk.VkSubmitInfo(pWaitSemaphores=[here.semaphore()])
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap(ValueError, "VUID-VkSemaphoreWaitInfo-pValues-parameter", says="semaphoreCount|pValues")
def fewer_values_than_semaphores(here: Scene) -> None:
    several = [here.semaphore(timeline=True) for _ in range(4)]
    info = vk.VkSemaphoreWaitInfo(pValues=[0], pSemaphores=several)
    vk.vkWaitSemaphores(here.device, info, 0)


@trap("VUID-VkSemaphoreWaitInfo-pValues-parameter")
def semaphores_without_values(here: Scene) -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[here.semaphore(timeline=True)])
    vk.vkWaitSemaphores(here.device, info, 0)


def _array(address: int, element: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(address), ctypes.POINTER(element))


@trap(ValueError, says="pWaitSemaphores points to 0x66")
def array_at_an_address_of_nothing(here: Scene) -> None:
    info = vk.VkSubmitInfo(
        waitSemaphoreCount=1,
        pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT],
    )
    info.pWaitSemaphores = _array(_GARBAGE, ctypes.c_uint64)
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap(ValueError, says="pWaitSemaphores points to 0x66")
def array_at_an_address_of_nothing_in_copied_bytes(here: Scene) -> None:
    info = vk.VkSubmitInfo(
        pWaitSemaphores=[here.semaphore()],
        pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT],
    )
    info = _copied(_poked(info, _GARBAGE, "pWaitSemaphores"))
    vk.vkQueueSubmit(here.queue, 1, [info], None)


@trap(ValueError, says="pQueuePriorities points to")
def array_within_an_array_at_an_address_of_nothing(here: Scene) -> None:
    queue = vk.VkDeviceQueueCreateInfo(queueCount=1)
    queue.pQueuePriorities = _array(_GARBAGE, ctypes.c_float)
    info = vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue])
    vk.vkCreateDevice(here.physical, info)


@trap(ValueError, says=r"commandBufferCount is 9, but pCommandBuffers was given 1 element")
def count_that_is_raised_in_an_array_of_ones_own(here: Scene) -> None:
    info = vk.VkSubmitInfo(pCommandBuffers=[here.commands()])
    info.commandBufferCount = 9
    vk.vkQueueSubmit(here.queue, 1, (vk.VkSubmitInfo * 1)(info), None)


@trap(TypeError, says="an array of WCHAR that ends with a zero")
def name_without_an_end(here: Scene) -> None:
    vk.VkImportMemoryWin32HandleInfoKHR(name=(vk.WCHAR * 3)(*map(vk.WCHAR, b"abc")))


@trap(ValueError, says="name points to 0x66", needs="vkGetMemoryWin32HandleKHR")
def name_at_an_address_of_nothing(here: Scene) -> None:
    name = ctypes.cast(ctypes.c_void_p(_GARBAGE), vk.LPCWSTR)
    here.import_nt(None, name=name)  # type: ignore[arg-type]


@trap(
    "VUID-VkExportMemoryWin32HandleInfoKHR-pAttributes-parameter",
    on="linux",
    needs="vkGetMemoryWin32HandleKHR",
)
def security_at_an_address_of_nothing(here: Scene) -> None:
    security = vk.SECURITY_ATTRIBUTES(lpSecurityDescriptor=_GARBAGE)
    here.shared(2, vk.VkExportMemoryWin32HandleInfoKHR(pAttributes=security, dwAccess=1))


@trap(TypeError, says="pWaitSemaphores was given")
def array_of_words(here: Scene) -> None:
    vk.VkSubmitInfo(pWaitSemaphores=["one", "two"])


@trap(TypeError, says="pSignalSemaphores was given 7")
def array_that_is_a_number(here: Scene) -> None:
    vk.VkSubmitInfo(pSignalSemaphores=7)


@trap(TypeError, says="handleType")
def member_that_is_not_there(here: Scene) -> None:
    vk.VkExportMemoryAllocateInfo(handleType=OPAQUE_FD)  # type: ignore[call-arg]


@trap(TypeError, ValueError, says="VkExtent3D|too many|positional")
def more_members_than_there_are(here: Scene) -> None:
    vk.VkExtent3D(1, 2, 3, 4)


@trap(TypeError, says="name was given")
def name_with_a_zero_in_it(here: Scene) -> None:
    vk.VkImportMemoryWin32HandleInfoKHR(name="one\0two")


@trap(TypeError, ValueError, says="pApplicationName|NUL")
def string_with_a_zero_in_it(here: Scene) -> None:
    vk.VkApplicationInfo(pApplicationName="one\0two")


@trap(TypeError, says="pApplicationName was given")
def string_that_is_a_number(here: Scene) -> None:
    vk.VkApplicationInfo(pApplicationName=12345)
