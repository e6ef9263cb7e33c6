"""Both Win32 extensions on the embedded device: the same on Windows' kernel and on our own."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import foreign, objects
from extmem.drivers.embedded.memory import Memory
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel

NT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
NT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV)
KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV)
TEXTURE11 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
TEXTURE11_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT)
HEAP12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
RESOURCE12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT)
IMAGE11_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV)
IMAGE11_KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV)

IMPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
EXPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)
ONLY = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)

REFUSED = vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
TRANSFER = int(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
IMAGE_TRANSFER = int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)

GENERAL = vk.VK_IMAGE_LAYOUT_GENERAL
WHOLE = vk.VkBufferImageCopy(  # an image of 32 by 32 texels, as `Rig.image` makes it
    imageSubresource=vk.VkImageSubresourceLayers(vk.VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1),
    imageExtent=(32, 32, 1),
)

EXTENSIONS = (
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_NV_dedicated_allocation",
)


class Rig:
    """An instance, a device and a queue, and short forms of what most tests need."""

    def __init__(
        self, checks: str, index: int = 0, extensions: tuple[str, ...] = EXTENSIONS
    ) -> None:
        application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_3)
        self.instance = vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(
                pApplicationInfo=application,
                ppEnabledExtensionNames=["VK_NV_external_memory_capabilities"],
            ),
            driver="embedded",
            checks=checks,
        )
        self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
        self.device = vk.vkCreateDevice(
            self.physical,
            vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[queue], ppEnabledExtensionNames=list(extensions)
            ),
        )
        self.queue = vk.vkGetDeviceQueue(self.device, 0, 0)

    def close(self) -> None:
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)
        # pytest keeps this object for longer, and locks are handles on Windows.
        vars(self).clear()

    # -- memory

    def allocate(self, *chain: Any, size: int = 4096, index: int = 1) -> Any:
        info = vk.VkMemoryAllocateInfo(
            allocationSize=size, memoryTypeIndex=index, pNext=link(*chain)
        )
        return vk.vkAllocateMemory(self.device, info)

    def refuse(self, *chain: Any, result: int = REFUSED, **members: int) -> None:
        """By the device with this result, unless a rule is there first."""
        with pytest.raises((extmem.DriverError, extmem.RuleViolation)) as error:
            self.allocate(*chain, **members)
        if isinstance(error.value, extmem.DriverError):
            assert error.value.result == result

    def export(self, *terms: Any, types: int = NT, **members: int) -> Any:
        return self.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=types), *terms, **members)

    def export_nv(self, *terms: Any, types: int = NT_NV, **members: int) -> Any:
        return self.allocate(vk.VkExportMemoryAllocateInfoNV(handleTypes=types), *terms, **members)

    def get(self, memory: Any, type: int = NT) -> int:
        info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=type)
        return vk.vkGetMemoryWin32HandleKHR(self.device, info)

    def get_nv(self, memory: Any, type: int = NT_NV) -> int:
        return vk.vkGetMemoryWin32HandleNV(self.device, memory, type)

    def write(self, memory: Any, data: bytes) -> None:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        view[: len(data)] = data
        del view
        vk.vkUnmapMemory(self.device, memory)

    def read(self, memory: Any, size: int) -> bytes:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        data = bytes(view[:size])
        del view
        vk.vkUnmapMemory(self.device, memory)
        return data

    def free(self, *memories: Any) -> None:
        for memory in memories:
            vk.vkFreeMemory(self.device, memory)

    # -- resources and work

    def buffer(self, size: int = 4096, types: int = 0, nv: bool = False) -> Any:
        chain = []
        if types:
            chain.append(vk.VkExternalMemoryBufferCreateInfo(handleTypes=types))
        if nv:
            chain.append(vk.VkDedicatedAllocationBufferCreateInfoNV(dedicatedAllocation=1))
        info = vk.VkBufferCreateInfo(size=size, usage=TRANSFER, pNext=link(*chain))
        return vk.vkCreateBuffer(self.device, info)

    def image(self, types: int = 0, types_nv: int = 0, nv: bool = False, width: int = 32) -> Any:
        chain: list[Any] = []
        if types:
            chain.append(vk.VkExternalMemoryImageCreateInfo(handleTypes=types))
        if types_nv:
            chain.append(vk.VkExternalMemoryImageCreateInfoNV(handleTypes=types_nv))
        if nv:
            chain.append(vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1))
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            extent=(width, 32, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            usage=IMAGE_TRANSFER,
            pNext=link(*chain),
        )
        return vk.vkCreateImage(self.device, info)

    def record(self, *steps: tuple[Any, ...]) -> tuple[Any, Any]:
        pool = vk.vkCreateCommandPool(self.device, vk.VkCommandPoolCreateInfo())
        info = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        (commands,) = vk.vkAllocateCommandBuffers(self.device, info)
        vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
        for step, *arguments in steps:
            step(commands, *arguments)
        vk.vkEndCommandBuffer(commands)
        return pool, commands

    def run(self, *steps: tuple[Any, ...]) -> None:
        pool, commands = self.record(*steps)
        try:
            vk.vkQueueSubmit(self.queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], None)
            vk.vkQueueWaitIdle(self.queue)
        finally:
            vk.vkDestroyCommandPool(self.device, pool)


def link(*chain: Any) -> Any:
    """Structures after one another; the first."""
    for node, following in zip(chain, [*chain[1:], None], strict=False):
        node.pNext = following
    return chain[0] if chain else None


def handle_info(handle: int | None = None, type: int = NT, name: str | None = None) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=type, handle=handle, name=name)


def handle_info_nv(handle: int, type: int = NT_NV) -> Any:
    return vk.VkImportMemoryWin32HandleInfoNV(handleType=type, handle=handle)


def terms(access: int = ACCESS_READ | ACCESS_WRITE, name: str | None = None, **more: Any) -> Any:
    return vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=access, name=name, **more)


def close(*handles: int) -> None:
    for handle in handles:
        kernel().close(handle)


@pytest.fixture(autouse=True)
def no_handle_left_and_nothing_stumbled(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    # The first name in a process opens the namespace, for good.
    close(kernel().create_section(64, name=f"Local\\extmem-test-{os.getpid()}"))
    gc.collect()
    before = kernel().count_handles()
    yield
    gc.collect()
    # Threads and locks have handles on Windows, those of pytest too, and end when they like.
    until = time.monotonic() + (2 if sys.platform == "win32" else 0)
    while kernel().count_handles() > before and time.monotonic() < until:
        time.sleep(0.05)
    left = kernel().count_handles() - before
    assert left <= 0 if sys.platform == "win32" else left == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.fixture(params=["full", "off"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.close()


@pytest.fixture
def careless() -> Iterator[Rig]:
    """Nothing stands between the test and the driver."""
    made = Rig("off")
    yield made
    made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"Local\\extmem-test-{abs(hash(request.node.nodeid)):x}"


# -- what is said of it -------------------------------------------------------------------------


def test_extensions(rig: Rig) -> None:
    offered = {x.extensionName for x in vk.vkEnumerateDeviceExtensionProperties(rig.physical, None)}
    assert set(EXTENSIONS) <= offered
    assert ("VK_KHR_external_memory_fd" in offered) == (sys.platform == "linux")
    offered = {
        x.extensionName for x in vk.vkEnumerateInstanceExtensionProperties(None, driver="embedded")
    }
    assert {
        "VK_NV_external_memory_capabilities",
        "VK_KHR_external_memory_capabilities",
    } <= offered


BOTH = EXPORTABLE | IMPORTABLE
CAPABILITIES = {  # features for buffers, for images, and whether an import is exported again
    NT: (BOTH, BOTH, True),
    KMT: (BOTH, BOTH, True),
    TEXTURE11: (0, IMPORTABLE | ONLY, False),
    TEXTURE11_KMT: (0, IMPORTABLE | ONLY, False),
    HEAP12: (IMPORTABLE, 0, False),
    RESOURCE12: (IMPORTABLE | ONLY, IMPORTABLE | ONLY, False),
}
CAPABILITIES_NV = {
    NT_NV: (BOTH, True),
    KMT_NV: (BOTH, True),
    IMAGE11_NV: (IMPORTABLE | ONLY, False),
    IMAGE11_KMT_NV: (IMPORTABLE | ONLY, False),
}


def said(properties: Any) -> tuple[int, int, int]:
    return (
        properties.externalMemoryFeatures,
        properties.exportFromImportedHandleTypes,
        properties.compatibleHandleTypes,
    )


@pytest.mark.parametrize("type", CAPABILITIES)
def test_capabilities(rig: Rig, type: int) -> None:
    buffers, images, again = CAPABILITIES[type]
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=TRANSFER, handleType=type)
    found = vk.vkGetPhysicalDeviceExternalBufferProperties(rig.physical, info)
    expected = (buffers, type if again else 0, type) if buffers else (0, 0, 0)
    assert said(found.externalMemoryProperties) == expected
    external = vk.VkExternalImageFormatProperties()
    answer = vk.VkImageFormatProperties2(pNext=external)
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=vk.VK_FORMAT_R8G8B8A8_UNORM,
        type=vk.VK_IMAGE_TYPE_2D,
        usage=IMAGE_TRANSFER,
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=type),
    )
    if images:
        vk.vkGetPhysicalDeviceImageFormatProperties2(rig.physical, info, answer)
        assert said(external.externalMemoryProperties) == (images, type if again else 0, type)
        assert answer.imageFormatProperties.maxExtent.width >= 4096
    else:
        with pytest.raises(extmem.DriverError) as error:
            vk.vkGetPhysicalDeviceImageFormatProperties2(rig.physical, info, answer)
        assert error.value.result == vk.VK_ERROR_FORMAT_NOT_SUPPORTED


def query_nv(rig: Rig, type: int, format: int = vk.VK_FORMAT_R8G8B8A8_UNORM) -> Any:
    image = (format, vk.VK_IMAGE_TYPE_2D, vk.VK_IMAGE_TILING_OPTIMAL, IMAGE_TRANSFER, 0)
    return vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(rig.physical, *image, type)


def test_capabilities_in_the_words_of_nv(rig: Rig) -> None:
    for type, (features, again) in CAPABILITIES_NV.items():
        assert said(query_nv(rig, type)) == (features, type if again else 0, type)
    normal = query_nv(rig, 0)
    assert said(normal) == (0, 0, 0)
    assert normal.imageFormatProperties.maxExtent.width >= 4096
    for type in (0, NT_NV):
        with pytest.raises(extmem.DriverError) as error:
            query_nv(rig, type, vk.VK_FORMAT_BC1_RGB_UNORM_BLOCK)
        assert error.value.result == vk.VK_ERROR_FORMAT_NOT_SUPPORTED


def test_two_types_at_once_are_no_type_of_nv(careless: Rig) -> None:
    with pytest.raises(extmem.DriverError) as error:
        query_nv(careless, NT_NV | KMT_NV)
    assert error.value.result == vk.VK_ERROR_FORMAT_NOT_SUPPORTED


def test_resources_of_d3d_require_a_dedicated_allocation(rig: Rig) -> None:
    for types, types_nv, wanted in ((NT, 0, 0), (TEXTURE11, 0, 1), (0, NT_NV, 0)):
        image = rig.image(types, types_nv)
        dedicated = vk.VkMemoryDedicatedRequirements()
        vk.vkGetImageMemoryRequirements2(
            rig.device,
            vk.VkImageMemoryRequirementsInfo2(image=image),
            vk.VkMemoryRequirements2(pNext=dedicated),
        )
        assert dedicated.requiresDedicatedAllocation == wanted
        vk.vkDestroyImage(rig.device, image)


# -- NT handles ---------------------------------------------------------------------------------


def test_a_handle_keeps_the_payload_and_stays_the_applications(rig: Rig) -> None:
    memory = rig.export()
    handle = rig.get(memory)
    assert handle % 4 == 0
    rig.write(memory, b"shared")
    first, second = rig.allocate(handle_info(handle)), rig.allocate(handle_info(handle))
    assert len({memory, first, second}) == 3
    assert rig.read(first, 6) == b"shared"
    rig.write(second, b"back")
    assert rig.read(memory, 6) == b"backed"
    rig.free(memory, first)
    third = rig.allocate(handle_info(handle))
    close(handle)
    rig.free(second)
    assert rig.read(third, 6) == b"backed"
    rig.free(third)


def test_a_handle_of_nv(rig: Rig) -> None:
    memory = rig.export_nv()
    first, second = rig.get_nv(memory), rig.get_nv(memory)
    assert first != second
    assert kernel().same_object(first, second)
    rig.write(memory, b"nv")
    copies = [rig.allocate(handle_info_nv(handle)) for handle in (first, second)]
    assert [rig.read(copy, 2) for copy in copies] == [b"nv", b"nv"]
    # NV knows no "once": closing them all takes nothing away.
    close(first, second)
    third = rig.get_nv(memory)
    rig.free(memory, *copies)
    last = rig.allocate(handle_info_nv(third))
    assert rig.read(last, 2) == b"nv"
    close(third)
    rig.free(last)


def test_the_same_payload_through_the_other_extension(rig: Rig) -> None:
    one, two = rig.export(), rig.export_nv()
    first, second = rig.get(one), rig.get_nv(two)
    rig.write(one, b"1")
    rig.write(two, b"2")
    by_nv, by_khr = rig.allocate(handle_info_nv(first)), rig.allocate(handle_info(second))
    assert rig.read(by_nv, 1) + rig.read(by_khr, 1) == b"12"
    close(first, second)
    rig.free(one, two, by_nv, by_khr)


def test_a_second_get_duplicates_the_first_as_long_as_it_is_open(careless: Rig) -> None:
    memory = careless.export(terms(ACCESS_READ))
    first = careless.get(memory)
    second = careless.get(memory)
    assert first != second
    assert kernel().same_object(first, second)
    assert kernel().info(first).access == kernel().info(second).access
    close(first, second)
    with pytest.raises(extmem.DriverError) as error:
        careless.get(memory)
    assert error.value.result == vk.VK_ERROR_UNKNOWN
    # Nor is another object taken for it that has got the number since.
    other = kernel().create_section(8192)
    with pytest.raises(extmem.DriverError):
        careless.get(memory)
    close(other)
    careless.free(memory)


def test_imported_memory_is_exported_again_where_it_was_asked_for(rig: Rig) -> None:
    memory = rig.export()
    handle = rig.get(memory)
    again = rig.export(handle_info(handle))
    close(handle)
    second = rig.get(again)
    rig.free(memory, again)
    last = rig.allocate(handle_info(second))
    close(second)
    rig.free(last)


def test_what_is_not_exported_is_not_fetched(careless: Rig) -> None:
    plain, nt, kmt = careless.allocate(), careless.export(), careless.export(types=KMT)
    nv = careless.export_nv()
    for memory, type in ((plain, NT), (nt, KMT), (kmt, NT), (nv, NT), (nt, TEXTURE11), (nt, 0)):
        with pytest.raises(extmem.DriverError) as error:
            careless.get(memory, type)
        assert error.value.result == vk.VK_ERROR_UNKNOWN
    for memory, type in ((plain, NT_NV), (nt, NT_NV), (nv, KMT_NV), (nv, IMAGE11_NV), (nv, 0)):
        with pytest.raises(extmem.DriverError) as error:
            careless.get_nv(memory, type)
        assert error.value.result == vk.VK_ERROR_UNKNOWN
    careless.free(plain, nt, kmt, nv)


# -- names --------------------------------------------------------------------------------------


def test_a_name_stands_for_the_handle_until_the_last_one_is_closed(rig: Rig, name: str) -> None:
    info = terms(name=name)
    memory = rig.export(info)
    info.name = "changed afterwards"
    rig.write(memory, b"named")
    early = rig.allocate(handle_info(name=name))
    handle = rig.get(memory)
    rig.free(memory)
    # The handle has the name now, whoever freed the memory.
    late = rig.allocate(handle_info(name=name))
    assert rig.read(early, 5) == rig.read(late, 5) == b"named"
    close(handle)
    rig.refuse(handle_info(name=name))
    assert rig.read(late, 5) == b"named"
    rig.free(early, late)


def test_a_name_that_was_fetched_and_closed_is_gone(rig: Rig, name: str) -> None:
    memory = rig.export(terms(name=name))
    close(rig.get(memory))
    rig.refuse(handle_info(name=name))
    other = rig.export(terms(name=name))
    rig.free(memory, other)


def test_a_name_is_given_once_and_compared_exactly(rig: Rig, name: str) -> None:
    memory = rig.export(terms(name=name))
    export = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    rig.refuse(export, terms(name=name))
    rig.refuse(export, terms(name=name.removeprefix("Local\\")))
    rig.refuse(handle_info(name=name.upper().replace("LOCAL", "Local")))
    plain = rig.allocate(handle_info(name=name.removeprefix("Local\\")))
    rig.free(memory, plain)
    rig.free(rig.export(terms(name=name)))


@pytest.mark.parametrize("wrong", ["a\\b", "Local\\", "Local\\a\\b", "x" * 300])
def test_names_that_cannot_be(careless: Rig, wrong: str) -> None:
    careless.refuse(vk.VkExportMemoryAllocateInfo(handleTypes=NT), terms(name=wrong))
    careless.refuse(handle_info(name=wrong))


def test_names_and_handles_exclude_each_other(careless: Rig, name: str) -> None:
    memory = careless.export(terms(name=name))
    handle = careless.get(memory)
    careless.refuse(handle_info(handle, name=name))
    careless.refuse(handle_info())
    careless.refuse(handle_info(name=""))
    # An imported payload has its name already.
    export = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    careless.refuse(handle_info(handle), export, terms(name=name + "2"))
    close(handle)
    careless.free(memory)


def test_a_section_of_somebody_else_by_name(careless: Rig, name: str) -> None:
    other = kernel().create_section(8192, name=name)
    careless.refuse(handle_info(name=name))
    careless.refuse(vk.VkExportMemoryAllocateInfo(handleTypes=NT), terms(name=name))
    close(other)


# -- access and security ------------------------------------------------------------------------


def test_rights_are_those_that_were_asked_for(rig: Rig) -> None:
    def granted(*info: Any) -> int:
        memory = rig.export(*info)
        handle = rig.get(memory)
        rights = kernel().info(handle).access
        close(handle)
        rig.free(memory)
        return rights

    write, read = 2, 4  # SECTION_MAP_WRITE, SECTION_MAP_READ
    assert granted() & (read | write) == read | write
    assert granted(terms(ACCESS_READ)) & (read | write) == read
    assert granted(terms(ACCESS_WRITE)) & (read | write) == write
    assert granted(terms(ACCESS_ALL)) & (read | write) == read | write
    memory = rig.export_nv(vk.VkExportMemoryWin32HandleInfoNV(dwAccess=ACCESS_READ))
    handle = rig.get_nv(memory)
    assert kernel().info(handle).access & (read | write) == read
    close(handle)
    rig.free(memory)


def test_attributes_are_copied_and_used(rig: Rig) -> None:
    attributes = security_attributes(inherit=True)
    info = terms(pAttributes=attributes)
    memory = rig.export(info)
    attributes.bInheritHandle = 0
    info.pAttributes = None
    handle = rig.get(memory)
    assert kernel().flags(handle) & 1
    close(handle)
    rig.free(memory)
    memory = rig.export_nv(
        vk.VkExportMemoryWin32HandleInfoNV(
            pAttributes=security_attributes(inherit=True), dwAccess=ACCESS_ALL
        )
    )
    handles = rig.get_nv(memory), rig.get_nv(memory)
    assert all(kernel().flags(handle) & 1 for handle in handles)
    close(*handles)
    rig.free(memory)
    memory = rig.export()
    handle = rig.get(memory)
    assert not kernel().flags(handle) & 1
    close(handle)
    rig.free(memory)


def test_a_descriptor_decides_who_opens_a_name(rig: Rig, name: str) -> None:
    for entries, writable in (("(A;;GR;;;WD)", False), ("(A;;GA;;;WD)", True), ("", None)):
        attributes = security_attributes(f"D:{entries}")
        memory = rig.export(terms(name=name, pAttributes=attributes), index=2)
        if writable is None:
            rig.refuse(handle_info(name=name), index=2)
        else:
            again = rig.allocate(handle_info(name=name), index=2)
            assert payload_of(again).writable == writable
            rig.free(again)
        rig.free(memory)


def payload_of(memory: Any) -> Any:
    return objects.find(Memory, memory).payload


def test_reading_alone(rig: Rig) -> None:
    memory = rig.export(terms(ACCESS_READ))
    handle = rig.get(memory)
    rig.write(memory, b"look")
    import_ = rig.allocate(handle_info(handle))
    close(handle)
    view = vk.vkMapMemory(rig.device, import_, 0, vk.VK_WHOLE_SIZE)
    assert view.readonly
    assert bytes(view[:4]) == b"look"
    with pytest.raises(TypeError):
        view[0] = 0
    del view
    vk.vkUnmapMemory(rig.device, import_)
    mine = rig.allocate()
    source, target = rig.buffer(types=NT), rig.buffer()
    vk.vkBindBufferMemory(rig.device, source, import_, 0)
    vk.vkBindBufferMemory(rig.device, target, mine, 0)
    copy = [vk.VkBufferCopy(size=4096)]
    rig.run((vk.vkCmdCopyBuffer, source, target, 1, copy))
    assert rig.read(mine, 4) == b"look"
    # What would write is refused as a whole, and the device is not lost by it.
    for steps in (
        [(vk.vkCmdFillBuffer, source, 0, 4096, 1)],
        [(vk.vkCmdFillBuffer, target, 0, 4096, 1), (vk.vkCmdCopyBuffer, target, source, 1, copy)],
        [(vk.vkCmdUpdateBuffer, source, 0, 4, b"four")],
    ):
        with pytest.raises(extmem.DriverError) as error:
            rig.run(*steps)
        assert error.value.result == vk.VK_ERROR_VALIDATION_FAILED
    assert rig.read(mine, 4) == b"look"
    rig.run((vk.vkCmdFillBuffer, target, 0, 4096, 0x01010101))
    assert rig.read(mine, 4) == b"\1\1\1\1"
    for buffer in (source, target):
        vk.vkDestroyBuffer(rig.device, buffer)
    rig.free(memory, import_, mine)


def test_images_of_memory_for_reading_alone(careless: Rig) -> None:
    memory = careless.export(terms(ACCESS_READ))
    handle = careless.get(memory)
    careless.write(memory, b"\5" * 4096)
    import_, mine = careless.allocate(handle_info(handle)), careless.allocate()
    close(handle)
    image, buffer = careless.image(NT), careless.buffer()
    vk.vkBindImageMemory(careless.device, image, import_, 0)
    vk.vkBindBufferMemory(careless.device, buffer, mine, 0)
    careless.run((vk.vkCmdCopyImageToBuffer, image, GENERAL, buffer, 1, [WHOLE]))
    assert careless.read(mine, 4096) == b"\5" * 4096
    with pytest.raises(extmem.DriverError) as error:
        careless.run((vk.vkCmdCopyBufferToImage, buffer, image, GENERAL, 1, [WHOLE]))
    assert error.value.result == vk.VK_ERROR_VALIDATION_FAILED
    everything = vk.VkImageSubresourceRange(vk.VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1)
    with pytest.raises(extmem.DriverError) as error:
        careless.run(
            (vk.vkCmdClearColorImage, image, GENERAL, vk.VkClearColorValue(), 1, [everything])
        )
    assert error.value.result == vk.VK_ERROR_VALIDATION_FAILED
    vk.vkDestroyImage(careless.device, image)
    vk.vkDestroyBuffer(careless.device, buffer)
    careless.free(memory, import_, mine)


def test_a_handle_for_reading_is_exported_again_for_reading(rig: Rig) -> None:
    memory = rig.export(terms(ACCESS_READ))
    handle = rig.get(memory)
    again = rig.export(handle_info(handle))
    second = rig.get(again)
    last = rig.allocate(handle_info(second))
    assert not payload_of(last).writable
    export = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    # Nobody gets more out of a handle than it has.
    rig.refuse(handle_info(handle), export, terms(ACCESS_READ | ACCESS_WRITE))
    close(handle, second)
    rig.free(memory, again, last)


# -- KMT numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("nv", [False, True])
def test_a_number_is_the_same_each_time_and_holds_nothing(rig: Rig, nv: bool) -> None:
    before = kernel().count_handles()
    if nv:
        memory = rig.export_nv(types=KMT_NV)
        number, other = rig.get_nv(memory, KMT_NV), rig.get_nv(memory, KMT_NV)
    else:
        memory = rig.export(types=KMT)
        number, other = rig.get(memory, KMT), rig.get(memory, KMT)
    assert number == other
    assert number % 4 == 2
    assert number >> 32 == 0
    if sys.platform != "win32":
        assert kernel().count_handles() == before + 1  # the owner's
    rig.write(memory, b"kmt")
    copies = [
        rig.allocate(handle_info_nv(number, KMT_NV)),
        rig.allocate(handle_info(number, KMT)),
    ]
    assert [rig.read(copy, 3) for copy in copies] == [b"kmt", b"kmt"]
    if sys.platform != "win32":
        assert kernel().count_handles() == before + 1
    rig.free(memory, *copies)
    rig.refuse(handle_info(number, KMT))
    rig.refuse(handle_info_nv(number, KMT_NV))


def test_what_was_imported_by_a_number_is_stale_without_its_owner(rig: Rig) -> None:
    memory = rig.export(types=KMT)
    number = rig.get(memory, KMT)
    mapped, unmapped = (rig.allocate(handle_info(number, KMT)) for _ in range(2))
    again = rig.export(handle_info(number, KMT), types=KMT)
    assert rig.get(again, KMT) == number
    bound, unbound = rig.buffer(types=KMT), rig.buffer(types=KMT)
    vk.vkBindBufferMemory(rig.device, bound, mapped, 0)
    pool, commands = rig.record((vk.vkCmdFillBuffer, bound, 0, 4096, 7))
    view = vk.vkMapMemory(rig.device, mapped, 0, vk.VK_WHOLE_SIZE)
    view[:4] = b"page"
    rig.free(memory)
    # Pages that are mapped stay, and can be unmapped.
    assert bytes(view[:4]) == b"page"
    view[:4] = b"side"
    del view
    vk.vkUnmapMemory(rig.device, mapped)
    for memory_ in (mapped, unmapped):
        with pytest.raises(extmem.DriverError) as error:
            vk.vkMapMemory(rig.device, memory_, 0, vk.VK_WHOLE_SIZE)
        assert error.value.result == vk.VK_ERROR_MEMORY_MAP_FAILED
    for attempt in (
        lambda: vk.vkBindBufferMemory(rig.device, unbound, unmapped, 0),
        lambda: vk.vkQueueSubmit(rig.queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], None),
        lambda: rig.get(again, KMT),
    ):
        with pytest.raises(extmem.DriverError) as error:
            attempt()
        assert error.value.result == vk.VK_ERROR_VALIDATION_FAILED
    vk.vkQueueWaitIdle(rig.queue)  # and the device is not lost
    vk.vkDestroyCommandPool(rig.device, pool)
    for buffer in (bound, unbound):
        vk.vkDestroyBuffer(rig.device, buffer)
    rig.free(mapped, unmapped, again)


def test_an_owner_that_was_killed_leaves_its_imports_stale(careless: Rig) -> None:
    memory = careless.export(types=KMT)
    import_ = careless.allocate(handle_info(careless.get(memory, KMT), KMT))
    assert not payload_of(import_).stale
    # All that the system does for a process that ends: its handles are closed.
    payload = payload_of(memory)
    close(payload.handle)
    payload.handle = 0
    assert payload_of(import_).stale
    with pytest.raises(extmem.DriverError):
        vk.vkMapMemory(careless.device, import_, 0, 64)
    careless.free(memory, import_)


# -- what is refused ----------------------------------------------------------------------------


def test_handles_that_are_no_payloads_are_refused_and_left_open(careless: Rig) -> None:
    closed = kernel().create_section(8192)
    close(closed)
    zeros, small = kernel().create_section(8192), kernel().create_section(64)
    process = kernel().open_process(0x40, False, os.getpid())
    for handle in (closed, zeros, small, process, (1 << 64) - 1, 0xDEAD0, 3, 1 << 40):
        careless.refuse(handle_info(handle))
        careless.refuse(handle_info_nv(handle))
        careless.refuse(handle_info(handle, KMT))
        careless.refuse(handle_info_nv(handle, IMAGE11_NV))
    close(zeros, small, process)


def test_an_import_must_repeat_what_was_exported(careless: Rig) -> None:
    memory = careless.export(size=8192)
    handle = careless.get(memory)
    careless.refuse(handle_info(handle), size=8191)
    careless.refuse(handle_info(handle), size=8193)
    careless.refuse(handle_info(handle), size=0, result=vk.VK_ERROR_UNKNOWN)
    careless.refuse(handle_info(handle), size=8192, index=2)
    for type in (KMT, TEXTURE11, HEAP12, RESOURCE12, NT | KMT, 1, 1 << 20):
        careless.refuse(handle_info(handle, type), size=8192)
    # NV has no rule for the size but that there are as many bytes.
    careless.refuse(handle_info_nv(handle), size=8193)
    careless.refuse(handle_info_nv(handle), size=64, index=2)
    part = careless.allocate(handle_info_nv(handle), size=64)
    assert careless.read(part, 64) == bytes(64)
    other = Rig("off", index=1)
    other.refuse(handle_info(handle), size=8192)
    other.refuse(handle_info_nv(handle), size=8192)
    other.close()
    close(handle)
    careless.free(memory, part)


def test_a_lying_header_is_not_believed(careless: Rig) -> None:
    memory = careless.export(size=8192)
    handle = careless.get(memory)
    address = kernel().map_section(handle, 4096)
    # It says that it is larger than it is.
    size_at = 16
    ctypes.c_uint64.from_address(address + size_at).value = 1 << 30
    careless.refuse(handle_info(handle), size=1 << 30)
    careless.refuse(handle_info(handle), size=8192)
    ctypes.memset(address, 0xFF, 4096)
    careless.refuse(handle_info(handle), size=8192)
    kernel().unmap_section(address, 4096)
    close(handle)
    careless.free(memory)


def test_extensions_are_used_where_they_were_asked_for() -> None:
    for extensions, types, nv in ((EXTENSIONS[1:], NT, False), (EXTENSIONS[:1], NT_NV, True)):
        other = Rig("off", extensions=extensions)
        kind: Any = vk.VkExportMemoryAllocateInfoNV if nv else vk.VkExportMemoryAllocateInfo
        other.refuse(kind(handleTypes=types))
        other.refuse(handle_info_nv(4) if nv else handle_info(4))
        other.close()


def test_exports_and_imports_that_nobody_carries(careless: Rig) -> None:
    for types in (NT | KMT, TEXTURE11, HEAP12, RESOURCE12, NT | 1):
        careless.refuse(vk.VkExportMemoryAllocateInfo(handleTypes=types))
    for types in (NT_NV | KMT_NV, IMAGE11_NV, IMAGE11_KMT_NV, 1 << 9):
        careless.refuse(vk.VkExportMemoryAllocateInfoNV(handleTypes=types))
    both = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    careless.refuse(both, vk.VkExportMemoryAllocateInfoNV(handleTypes=NT_NV))
    memory = careless.export()
    handle = careless.get(memory)
    careless.refuse(handle_info(handle), handle_info_nv(handle))
    careless.refuse(handle_info(handle), vk.VkExportMemoryAllocateInfo(handleTypes=KMT))
    careless.refuse(handle_info(handle), vk.VkExportMemoryAllocateInfoNV(handleTypes=NT_NV))
    close(handle)
    careless.free(memory)


def test_a_type_of_0_is_no_import_and_no_export(rig: Rig) -> None:
    for chain in (
        vk.VkImportMemoryWin32HandleInfoKHR(handleType=0, handle=4),
        vk.VkImportMemoryWin32HandleInfoNV(handleType=0, handle=4),
        vk.VkExportMemoryAllocateInfoNV(handleTypes=0),
    ):
        memory = rig.allocate(chain)
        assert rig.read(memory, 64) == bytes(64)
        rig.free(memory)


def test_one_device_in_the_group(careless: Rig) -> None:
    def mask(value: int) -> Any:
        bit = vk.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
        return vk.VkMemoryAllocateFlagsInfo(flags=bit, deviceMask=value)

    memory = careless.export(mask(1))
    handle = careless.get(memory)
    import_ = careless.allocate(handle_info(handle), mask(1))
    for wrong in (0, 2, 3):
        careless.refuse(mask(wrong), result=vk.VK_ERROR_UNKNOWN)
        careless.refuse(handle_info(handle), mask(wrong), result=vk.VK_ERROR_UNKNOWN)
    close(handle)
    careless.free(memory, import_)


# -- dedicated allocations ----------------------------------------------------------------------


def test_dedicated_payloads_go_to_the_same_resource_only(careless: Rig) -> None:
    image, same, wide = careless.image(NT), careless.image(NT), careless.image(NT, width=16)
    buffer = careless.buffer(types=NT)
    memory = careless.export(vk.VkMemoryDedicatedAllocateInfo(image=image))
    handle = careless.get(memory)
    careless.refuse(handle_info(handle))
    for wrong in ({"image": wide}, {"buffer": buffer}):
        careless.refuse(handle_info(handle), vk.VkMemoryDedicatedAllocateInfo(**wrong))
    import_ = careless.allocate(handle_info(handle), vk.VkMemoryDedicatedAllocateInfo(image=same))
    vk.vkBindImageMemory(careless.device, same, import_, 0)
    close(handle)
    for each in (image, same, wide):
        vk.vkDestroyImage(careless.device, each)
    vk.vkDestroyBuffer(careless.device, buffer)
    careless.free(memory, import_)


def test_dedicated_allocations_of_nv(careless: Rig) -> None:
    dedicated = vk.VkDedicatedAllocationMemoryAllocateInfoNV
    image, same = (careless.image(types_nv=NT_NV, nv=True) for _ in range(2))
    other = careless.image(types_nv=NT_NV)  # did not opt in: not identical
    memory = careless.export_nv(dedicated(image=image))
    handle = careless.get_nv(memory)
    careless.refuse(handle_info_nv(handle))
    careless.refuse(handle_info_nv(handle), dedicated(image=other))
    import_ = careless.allocate(handle_info_nv(handle), dedicated(image=same))
    vk.vkBindImageMemory(careless.device, same, import_, 0)
    close(handle)
    for each in (image, same, other):
        vk.vkDestroyImage(careless.device, each)
    careless.free(memory, import_)
    buffer = careless.buffer(nv=True, types=NT)
    memory = careless.export(dedicated(buffer=buffer))
    vk.vkBindBufferMemory(careless.device, buffer, memory, 0)
    vk.vkDestroyBuffer(careless.device, buffer)
    careless.free(memory)


# -- what other APIs made -----------------------------------------------------------------------


def bits_of(rig: Rig, type: int, handle: int) -> int:
    found = vk.vkGetMemoryWin32HandlePropertiesKHR(rig.device, type, handle)
    return int(found.memoryTypeBits)


@pytest.mark.parametrize("way", ["handle", "name", "kmt"])
def test_a_texture_of_d3d11(rig: Rig, name: str, way: str) -> None:
    texture = foreign.texture11(
        size=4096,
        name=name if way == "name" else None,
        kmt=way == "kmt",
        memory_types=0b011,
        keyed_mutex=True,
    )
    assert texture.keyed_mutex
    texture.view[:4] = b"d3d "
    type, value = (TEXTURE11_KMT, texture.kmt) if way == "kmt" else (TEXTURE11, texture.handle)
    assert bits_of(rig, type, value) == 0b011
    image, mine = rig.image(type), rig.allocate()
    info = handle_info(type=type, name=name) if way == "name" else handle_info(value, type)
    memory = rig.allocate(info, vk.VkMemoryDedicatedAllocateInfo(image=image), index=0)
    vk.vkBindImageMemory(rig.device, image, memory, 0)
    buffer = rig.buffer()
    vk.vkBindBufferMemory(rig.device, buffer, mine, 0)
    rig.run((vk.vkCmdCopyImageToBuffer, image, GENERAL, buffer, 1, [WHOLE]))
    assert rig.read(mine, 4) == b"d3d "
    rig.write(mine, b"back")
    rig.run((vk.vkCmdCopyBufferToImage, buffer, image, GENERAL, 1, [WHOLE]))
    assert bytes(texture.view[:4]) == b"back"
    texture.close()
    # Without its owner a number is worth nothing; an NT import has a reference of its own.
    if way == "kmt":
        with pytest.raises(extmem.DriverError):
            rig.run((vk.vkCmdCopyImageToBuffer, image, GENERAL, buffer, 1, [WHOLE]))
    else:
        rig.run((vk.vkCmdCopyImageToBuffer, image, GENERAL, buffer, 1, [WHOLE]))
    vk.vkDestroyImage(rig.device, image)
    vk.vkDestroyBuffer(rig.device, buffer)
    rig.free(memory, mine)


@pytest.mark.parametrize("kmt", [False, True])
def test_a_texture_of_d3d11_through_nv(rig: Rig, kmt: bool) -> None:
    type = IMAGE11_KMT_NV if kmt else IMAGE11_NV
    with foreign.texture11(size=4096, kmt=kmt) as texture:
        image = rig.image(types_nv=type, nv=True)
        dedicated = vk.VkDedicatedAllocationMemoryAllocateInfoNV(image=image)
        info = handle_info_nv(texture.kmt or texture.handle, type)
        memory = rig.allocate(info, dedicated, index=0)
        vk.vkBindImageMemory(rig.device, image, memory, 0)
        vk.vkDestroyImage(rig.device, image)
        rig.free(memory)
        rig.refuse(info, index=0)


def test_a_heap_of_d3d12(rig: Rig, name: str) -> None:
    with foreign.heap12(size=8192, name=name, memory_types=0b010) as heap:
        assert bits_of(rig, HEAP12, heap.handle) == 0b010
        heap.view[:4] = b"heap"
        first = rig.allocate(handle_info(heap.handle, HEAP12), size=8192)
        second = rig.allocate(handle_info(type=HEAP12, name=name), size=8192)
        assert rig.read(first, 4) == rig.read(second, 4) == b"heap"
        rig.refuse(handle_info(heap.handle, HEAP12), size=4096)
        rig.refuse(handle_info(heap.handle, HEAP12), size=8192, index=2)
        rig.free(first, second)


def test_a_resource_of_d3d12(careless: Rig) -> None:
    with foreign.resource12(size=4096, memory_types=0b111) as resource:
        assert bits_of(careless, RESOURCE12, resource.handle) == 0b111
        buffer = careless.buffer(types=RESOURCE12)
        dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer)
        careless.refuse(handle_info(resource.handle, RESOURCE12))
        # The size is the resource's, whatever is said of it.
        for size in (0, 1, 4096, 1 << 40):
            info = handle_info(resource.handle, RESOURCE12)
            memory = careless.allocate(info, dedicated, size=size)
            if size == 1:
                vk.vkBindBufferMemory(careless.device, buffer, memory, 0)
            if size > 4096:
                # Nobody shall see more bytes than there are.
                with pytest.raises(extmem.DriverError):
                    vk.vkMapMemory(careless.device, memory, 0, vk.VK_WHOLE_SIZE)
            resource.view[0] = 9
            view = vk.vkMapMemory(careless.device, memory, 0, 1)
            assert view[0] == 9
            del view
            careless.free(memory)
        vk.vkDestroyBuffer(careless.device, buffer)


def test_foreign_handles_are_what_they_are(careless: Rig) -> None:
    image, buffer = careless.image(TEXTURE11), careless.buffer(types=RESOURCE12)
    dedicated = vk.VkMemoryDedicatedAllocateInfo
    with (
        foreign.texture11(size=4096, memory_types=0b111) as texture,
        foreign.texture11(size=4096, kmt=True) as numbered,
        foreign.resource12(size=4096) as resource,
        foreign.heap12(size=4096, device=1) as elsewhere,
    ):
        memory = careless.export()
        opaque = careless.get(memory)
        for type, value in (
            (NT, opaque),
            (NT, texture.handle),
            (KMT, numbered.kmt),
            (TEXTURE11, resource.handle),
            (TEXTURE11, opaque),
            (TEXTURE11, 0),
            (TEXTURE11, 0xDEAD0),
            (TEXTURE11_KMT, texture.handle),
            (TEXTURE11, numbered.kmt),
            (RESOURCE12, texture.handle),
            (HEAP12, resource.handle),
            (HEAP12, elsewhere.handle),
            (1, opaque),
        ):
            with pytest.raises(extmem.DriverError) as error:
                bits_of(careless, type, value)
            assert error.value.result == REFUSED
            if (type, value) != (NT, opaque):
                careless.refuse(handle_info(value, type), dedicated(image=image))
        careless.refuse(handle_info(texture.handle, TEXTURE11), dedicated(buffer=buffer))
        careless.refuse(handle_info(texture.handle))
        close(opaque)
        careless.free(memory)
    assert texture.closed
    vk.vkDestroyImage(careless.device, image)
    vk.vkDestroyBuffer(careless.device, buffer)


def test_stand_ins_are_closed_once_and_never_under_a_view() -> None:
    texture = foreign.texture11(size=64)
    part = texture.view[8:16]
    with pytest.raises(BufferError):
        texture.close()
    part[0] = 1
    del part
    assert texture.view[8] == 1
    assert "64 bytes" in repr(texture)
    texture.close()
    texture.close()
    assert "closed" in repr(texture)
    with pytest.raises(ValueError, match="closed"):
        _ = texture.view
    with pytest.raises(ValueError, match="neither"):
        foreign.texture11(size=64, kmt=True, name="x")
    with pytest.raises(ValueError, match="bytes"):
        foreign.heap12(size=0)


# -- images -------------------------------------------------------------------------------------


def test_an_image_is_drawn_here_and_read_there(rig: Rig) -> None:
    there = Rig("full")
    mine, buffer = rig.allocate(), rig.buffer()
    rig.write(mine, bytes(range(256)) * 16)
    vk.vkBindBufferMemory(rig.device, buffer, mine, 0)
    for types, types_nv in ((NT, 0), (KMT, 0), (0, NT_NV), (0, KMT_NV)):
        image, same = rig.image(types, types_nv), there.image(types, types_nv)
        if types:
            memory = rig.export(types=types)
            handle = rig.get(memory, types)
            import_ = there.allocate(handle_info(handle, types))
        else:
            memory = rig.export_nv(types=types_nv)
            handle = rig.get_nv(memory, types_nv)
            import_ = there.allocate(handle_info_nv(handle, types_nv))
        vk.vkBindImageMemory(rig.device, image, memory, 0)
        vk.vkBindImageMemory(there.device, same, import_, 0)
        rig.run((vk.vkCmdCopyBufferToImage, buffer, image, GENERAL, 1, [WHOLE]))
        assert there.read(import_, 4096) == bytes(range(256)) * 16
        vk.vkDestroyImage(rig.device, image)
        vk.vkDestroyImage(there.device, same)
        there.free(import_)
        rig.free(memory)
        if handle % 4 == 0:
            close(handle)
    vk.vkDestroyBuffer(rig.device, buffer)
    rig.free(mine)
    there.close()


# -- two processes: Windows' kernel alone has them so far ----------------------------------------

if sys.platform == "win32":
    CHILD = r"""
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_embedded_win32 import NT, KMT, Rig, handle_info, vk
rig = Rig("full")
name, inherited, number = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for letter, info in (
    (b"n", handle_info(name=name)),
    (b"h", handle_info(inherited)),
    (b"k", handle_info(number, KMT)),
):
    memory = rig.allocate(info)
    assert rig.read(memory, 1) == letter
    rig.write(memory, letter.upper())
    rig.free(memory)
rig.close()
"""

    def test_two_processes(rig: Rig, name: str) -> None:
        inheritable = security_attributes(inherit=True)
        memories = [
            rig.export(terms(name=name)),
            rig.export(terms(pAttributes=inheritable)),
            rig.export(types=KMT),
        ]
        for memory, letter in zip(memories, (b"n", b"h", b"k"), strict=True):
            rig.write(memory, letter)
        handle, number = rig.get(memories[1]), rig.get(memories[2], KMT)
        here = __file__.rpartition("\\")[0]
        child = [sys.executable, "-c", CHILD, here, name, str(handle), str(number)]
        assert subprocess.run(child, timeout=100, close_fds=False).returncode == 0
        assert b"".join(rig.read(memory, 1) for memory in memories) == b"NHK"
        close(handle)
        rig.free(*memories)
