"""Structures, chains and sequences: what they take, what they keep alive, what they refuse."""

from __future__ import annotations

import ctypes
import gc
import weakref

import pytest

from extmem import vk


def test_members_by_keyword_and_stype_filled_in() -> None:
    info = vk.VkMemoryAllocateInfo(allocationSize=65536, memoryTypeIndex=3)
    assert info.sType == vk.VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO
    assert (info.allocationSize, info.memoryTypeIndex, info.pNext) == (65536, 3, None)


def test_pnext_at_construction_and_later() -> None:
    export = vk.VkExportMemoryAllocateInfo(handleTypes=1)
    early = vk.VkMemoryAllocateInfo(pNext=export)
    late = vk.VkMemoryAllocateInfo()
    late.pNext = export
    for info in (early, late):
        assert isinstance(info.pNext, vk.VkExportMemoryAllocateInfo)
        assert info.pNext.handleTypes == 1
    late.pNext = None
    assert late.pNext is None


@pytest.mark.parametrize("late", [False, True])
def test_a_chain_keeps_its_structures_alive(late: bool) -> None:
    export = vk.VkExportMemoryWin32HandleInfoKHR(name=r"Local\frame", dwAccess=0x10000000)
    gone = weakref.finalize(export, lambda: None)
    info = vk.VkMemoryAllocateInfo() if late else vk.VkMemoryAllocateInfo(pNext=export)
    if late:
        info.pNext = export
    del export
    gc.collect()
    assert gone.alive
    found = info.pNext
    assert found.name == r"Local\frame"
    assert found.dwAccess == 0x10000000
    del info, found
    gc.collect()
    assert not gone.alive


def test_a_structure_copied_into_an_array_keeps_what_it_points_to() -> None:
    array = (vk.VkSubmitInfo * 2)()
    array[0] = vk.VkSubmitInfo(
        pNext=vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[7, 8]),
        pSignalSemaphores=[1, 2],
    )
    array[1].pNext = vk.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[9])
    gc.collect()
    [bytearray(64) for _ in range(1000)]  # reuse what was freed by mistake
    assert array[0].pNext.pSignalSemaphoreValues[1] == 8
    assert list(array[0].pSignalSemaphores[:2]) == [1, 2]
    assert array[1].pNext.pWaitSemaphoreValues[0] == 9


def test_what_was_read_from_a_chain_outlives_it() -> None:
    info = vk.VkMemoryAllocateInfo(pNext=vk.VkExportMemoryAllocateInfo(handleTypes=5))
    array = (vk.VkMemoryAllocateInfo * 1)(info)
    queues = vk.VkDeviceCreateInfo(
        pQueueCreateInfos=[vk.VkDeviceQueueCreateInfo(queueFamilyIndex=9)]
    )
    found, copied, queue = info.pNext, array[0].pNext, queues.pQueueCreateInfos[0]
    info.pNext = array[0].pNext = None
    queues.pQueueCreateInfos = None
    del info, array, queues
    gc.collect()
    [bytearray(32) for _ in range(1000)]
    assert found.handleTypes == copied.handleTypes == 5
    assert queue.queueFamilyIndex == 9


def test_pnext_gives_back_the_same_object() -> None:
    export = vk.VkExportMemoryAllocateInfo()
    assert vk.VkMemoryAllocateInfo(pNext=export).pNext is export


def test_a_sequence_sets_its_count() -> None:
    info = vk.VkDeviceCreateInfo(
        pQueueCreateInfos=[vk.VkDeviceQueueCreateInfo(pQueuePriorities=(0.5, 1.0))],
        ppEnabledExtensionNames=("VK_KHR_external_memory_fd", "VK_EXT_external_memory_host"),
    )
    gc.collect()
    assert info.queueCreateInfoCount == 1
    assert info.pQueueCreateInfos[0].queueCount == 2
    assert info.pQueueCreateInfos[0].pQueuePriorities[1] == 1.0
    assert info.enabledExtensionCount == 2
    assert info.ppEnabledExtensionNames[1] == b"VK_EXT_external_memory_host"
    info.pQueueCreateInfos = None
    info.ppEnabledExtensionNames = []
    assert info.enabledExtensionCount == 0
    assert not info.ppEnabledExtensionNames


def test_a_count_may_be_lower_but_not_higher_than_the_sequence() -> None:
    lower = vk.VkSubmitInfo(pWaitSemaphores=[1, 2, 3], waitSemaphoreCount=2)
    assert lower.waitSemaphoreCount == 2
    higher = vk.VkSubmitInfo(pWaitSemaphores=[1, 2], waitSemaphoreCount=3)
    with pytest.raises(
        ValueError, match=r"waitSemaphoreCount is 3, but pWaitSemaphores was given 2"
    ):
        vk.VkBindSparseInfo(pNext=higher)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vk.VkMemoryAllocateInfo(pNext=4096), TypeError, "structure with an sType"),
        (lambda: vk.VkMemoryAllocateInfo(pNext=vk.VkExtent3D(1, 2, 3)), TypeError, "sType"),
        (lambda: vk.VkMemoryAllocateInfo(alocationSize=1), TypeError, "alocationSize"),
        (lambda: vk.VkMemoryAllocateInfo(allocationSize=-1), ValueError, "allocationSize.*-1"),
        (lambda: vk.VkMemoryAllocateInfo(memoryTypeIndex=1 << 32), ValueError, "does not fit"),
        (lambda: vk.VkMemoryAllocateInfo(memoryTypeIndex="1"), TypeError, "an integer"),
        (lambda: vk.VkSubmitInfo(pWaitSemaphores=5), TypeError, "a sequence of"),
        (lambda: vk.VkSubmitInfo(pWaitSemaphores="ab"), TypeError, "a sequence of"),
        (lambda: vk.VkApplicationInfo(pApplicationName=5), TypeError, "a str"),
        (lambda: vk.VkApplicationInfo(pApplicationName="a\0b"), TypeError, "NUL"),
        (lambda: vk.VkImportMemoryWin32HandleInfoKHR(name=b"x"), TypeError, "a str"),
        (lambda: vk.VkImportMemoryHostPointerInfoEXT(pHostPointer=1.5), TypeError, "address"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(make, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        make()


def test_attributes_that_do_not_exist_cannot_be_set() -> None:
    info = vk.VkMemoryAllocateInfo()
    with pytest.raises(AttributeError):
        info.allocationsize = 5


def test_wide_strings_are_utf16_everywhere() -> None:
    info = vk.VkExportMemoryWin32HandleInfoKHR(name="Local\\größe 𝄞")
    wanted = "Local\\größe 𝄞\0".encode("utf-16-le")  # read no further: what follows is not ours
    start = ctypes.cast(info.__class__.name.get(info), ctypes.c_void_p).value
    assert ctypes.string_at(start, len(wanted)) == wanted
    assert info.name == "Local\\größe 𝄞"


def test_narrow_strings_are_str_both_ways() -> None:
    info = vk.VkApplicationInfo(pApplicationName="größe")
    gc.collect()
    assert info.pApplicationName == "größe"
    properties = vk.VkExtensionProperties(extensionName="VK_KHR_external_memory")
    assert properties.extensionName == "VK_KHR_external_memory"


def test_bytes_given_as_data_stay_alive() -> None:
    info = vk.VkImportMemoryHostPointerInfoEXT(pHostPointer=bytes(range(64)))
    gc.collect()
    [bytes(64) for _ in range(1000)]
    assert ctypes.string_at(info.pHostPointer, 64) == bytes(range(64))


def test_writable_data_is_the_caller_s_own() -> None:
    data = bytearray(16)
    info = vk.VkImportMemoryHostPointerInfoEXT(pHostPointer=data)
    ctypes.memset(info.pHostPointer, 7, 16)
    assert data == b"\7" * 16


def test_aliases_are_the_same_objects() -> None:
    assert vk.VkExportMemoryAllocateInfoKHR is vk.VkExportMemoryAllocateInfo
    assert vk.VkMemoryDedicatedAllocateInfoKHR is vk.VkMemoryDedicatedAllocateInfo
    assert vk.vkBindBufferMemory2KHR is vk.vkBindBufferMemory2
    assert vk.vkMapMemory2KHR is vk.vkMapMemory2
    assert (
        vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT_KHR
        is vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
    )
    assert vk.VkExternalMemoryHandleTypeFlagBitsKHR is vk.VkExternalMemoryHandleTypeFlagBits


def test_link_walk_and_find() -> None:
    export = vk.VkExportMemoryAllocateInfo(handleTypes=1)
    dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=5)
    info = vk.link(vk.VkMemoryAllocateInfo(allocationSize=1), export, None, dedicated)
    names = [type(item).__name__ for item in vk.walk(info)]
    assert names == [
        "VkMemoryAllocateInfo",
        "VkExportMemoryAllocateInfo",
        "VkMemoryDedicatedAllocateInfo",
    ]
    found = vk.find(info, vk.VkMemoryDedicatedAllocateInfo)
    assert found is not None
    assert found.buffer == 5
    assert vk.find(info, vk.VkImportMemoryFdInfoKHR) is None
    with pytest.raises(ValueError, match="part of a chain"):
        vk.link(vk.VkMemoryAllocateInfo(), export)


def test_a_circle_is_found() -> None:
    first, second = vk.VkMemoryAllocateInfo(), vk.VkExportMemoryAllocateInfo()
    first.pNext = second
    second.pNext = first
    with pytest.raises(ValueError, match="does not end"):
        list(vk.walk(first))
    second.pNext = None


def test_repr_shows_what_is_set() -> None:
    info = vk.VkMemoryAllocateInfo(
        allocationSize=65536, pNext=vk.VkExportMemoryAllocateInfo(handleTypes=1)
    )
    assert repr(info) == (
        "VkMemoryAllocateInfo(pNext=VkExportMemoryAllocateInfo(handleTypes=1), "
        "allocationSize=65536)"
    )


def test_handles_are_integers_that_say_what_they_are() -> None:
    memory = vk.VkDeviceMemory(0x1234)
    assert memory == 0x1234
    assert repr(memory) == "<VkDeviceMemory 0x1234>"
    assert vk.VkMemoryGetFdInfoKHR(memory=memory).memory == 0x1234
    assert vk.VkMemoryGetFdInfoKHR(memory=None).memory == 0


def test_security_attributes_have_windows_shape() -> None:
    attributes = vk.SECURITY_ATTRIBUTES(bInheritHandle=1)
    assert attributes.nLength == ctypes.sizeof(vk.SECURITY_ATTRIBUTES) == 24
