"""VK_NV_external_memory_win32 on a driver that has VK_KHR_external_memory_win32 alone.

The driver is the embedded device behind C functions, without NV's extensions; it fails on an NV
structure or extension that reaches it. What NV's calls do there is held against what they do on
the embedded device itself, which has both.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.handle_types import MEMORY_NV
from extmem.handles.kernel import ACCESS_READ
from extmem.handles.system import kernel
from tests.support.leaks import windows_handles
from tests.support.through_c import khr_only

NT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV)
KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV)
TEXTURE = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV)
TEXTURE_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV)
VISIBLE = 1  # the embedded device's host-visible, coherent memory type
SIZE = 1 << 16

NV_EXTENSIONS = [
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_NV_dedicated_allocation",
]


class Opened:
    """A device with NV's extensions and nothing else."""

    def __init__(self, driver: str, version: int = vk.VK_API_VERSION_1_1) -> None:
        self.instance = vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(
                pApplicationInfo=vk.VkApplicationInfo(apiVersion=version),
                ppEnabledExtensionNames=["VK_NV_external_memory_capabilities"],
            ),
            driver=driver,
        )
        self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[0]
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
        self.device = vk.vkCreateDevice(
            self.physical,
            vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue], ppEnabledExtensionNames=NV_EXTENSIONS),
        )

    def close(self) -> None:
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)

    def allocate(self, *chain: Any, size: int = SIZE, index: int = VISIBLE) -> vk.VkDeviceMemory:
        info = vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index)
        return vk.vkAllocateMemory(self.device, vk.link(info, *chain))

    def export(self, types: int, *chain: Any) -> vk.VkDeviceMemory:
        return self.allocate(vk.VkExportMemoryAllocateInfoNV(handleTypes=types), *chain)

    def import_nv(self, handle_type: int, handle: int, *chain: Any, **how: Any) -> Any:
        source = vk.VkImportMemoryWin32HandleInfoNV(handleType=handle_type, handle=handle)
        return self.allocate(source, *chain, **how)

    def image(self, types: int, dedicated: bool = False) -> vk.VkImage:
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            extent=vk.VkExtent3D(16, 16, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
            pNext=vk.VkExternalMemoryImageCreateInfoNV(handleTypes=types),
        )
        if dedicated:
            vk.link(info, vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1))
        return vk.vkCreateImage(self.device, info)

    def free(self, *memories: vk.VkDeviceMemory) -> None:
        for memory in memories:
            vk.vkFreeMemory(self.device, memory)

    def write(self, memory: vk.VkDeviceMemory, data: bytes) -> None:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        view[: len(data)] = data
        del view
        vk.vkUnmapMemory(self.device, memory)

    def read(self, memory: vk.VkDeviceMemory, size: int) -> bytes:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        data = bytes(view[:size])
        del view
        vk.vkUnmapMemory(self.device, memory)
        return data


@pytest.fixture
def khr_driver() -> Iterator[str]:
    with khr_only() as name:
        yield name


@pytest.fixture
def gpus(khr_driver: str) -> Iterator[tuple[Opened, Opened]]:
    """Devices of two instances."""
    with ExitStack() as undo:
        opened = []
        for _ in range(2):
            opened.append(Opened(khr_driver))
            undo.callback(opened[-1].close)
        yield opened[0], opened[1]


@pytest.fixture
def gpu(gpus: tuple[Opened, Opened]) -> Opened:
    return gpus[0]


# -- what is said about it ------------------------------------------------------------------------


def test_devices_say_what_carries_what(khr_driver: str) -> None:
    (found, *_) = extmem.physical_devices(khr_driver)
    assert dict(found.carried) == {
        "VK_NV_external_memory": "VK_KHR_external_memory",
        "VK_NV_external_memory_win32": "VK_KHR_external_memory_win32",
        "VK_NV_dedicated_allocation": "VK_KHR_dedicated_allocation",
    }
    assert set(found.carried) <= found.extensions


def test_a_driver_that_has_nv_carries_nothing() -> None:
    (found, *_) = extmem.physical_devices("embedded")
    assert not found.carried
    assert "VK_NV_external_memory_win32" in found.extensions


def test_the_same_is_offered_as_where_nv_is_native(khr_driver: str) -> None:
    (carried, *_), (native, *_) = (extmem.physical_devices(x) for x in (khr_driver, "embedded"))
    own = tuple(dataclasses.replace(each, bridged=None) for each in carried.sharing_nv)
    assert own == native.sharing_nv
    assert all(each.bridged for each in carried.sharing_nv)
    assert {each.handle_type.name for each in native.sharing_nv} == {x.name for x in MEMORY_NV}


def test_extmem_devices_says_so(khr_driver: str, capsys: pytest.CaptureFixture[str]) -> None:
    from extmem.cli.devices import collect, show

    found = collect(khr_driver)
    show(found)
    told = " ".join(capsys.readouterr().out.split())
    assert "VK_NV_external_memory_win32 by VK_KHR_external_memory_win32" in told
    first = json.loads(json.dumps(found))["devices"][0]
    assert first["carried"]["VK_NV_external_memory_win32"] == "VK_KHR_external_memory_win32"
    assert "opaque_win32_nv" in first["nv"]["export"]


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("handle_type", [NT, KMT], ids=["nt", "kmt"])
def test_memory_is_shared_between_instances(gpus: tuple[Opened, Opened], handle_type: int) -> None:
    first, second = gpus
    exported = first.export(handle_type)
    handle = vk.vkGetMemoryWin32HandleNV(first.device, exported, handle_type)
    imported = second.import_nv(handle_type, handle)
    first.write(exported, b"from the exporter")
    assert second.read(imported, 17) == b"from the exporter"
    second.write(imported, b"from the importer")
    assert first.read(exported, 17) == b"from the importer"
    if handle_type == NT:
        win32.CloseHandle(handle)
    second.free(imported)
    first.free(exported)


def test_a_handle_is_fetched_again_also_after_the_first_was_closed(gpu: Opened) -> None:
    memory = gpu.export(NT)
    handles = [vk.vkGetMemoryWin32HandleNV(gpu.device, memory, NT) for _ in range(3)]
    assert len(set(handles)) == 3
    assert all(win32.CompareObjectHandles(handles[0], each) for each in handles)
    for each in handles:
        win32.CloseHandle(each)
    again = vk.vkGetMemoryWin32HandleNV(gpu.device, memory, NT)
    imported = gpu.import_nv(NT, again)
    gpu.write(memory, b"still the same")
    assert gpu.read(imported, 14) == b"still the same"
    win32.CloseHandle(again)
    gpu.free(imported, memory)


def test_nothing_is_kept_after_the_memory_is_freed(gpu: Opened) -> None:
    before = windows_handles()
    for _ in range(10):
        memory = gpu.export(NT)
        handle = vk.vkGetMemoryWin32HandleNV(gpu.device, memory, NT)
        gpu.free(memory)
        assert kernel().info(handle).handle_count == 1
        win32.CloseHandle(handle)
    assert windows_handles() == before


def test_a_kmt_value_is_the_same_each_time(gpu: Opened) -> None:
    memory = gpu.export(KMT)
    first, second = (vk.vkGetMemoryWin32HandleNV(gpu.device, memory, KMT) for _ in range(2))
    assert first == second
    gpu.free(memory)


def _grants(opened: Opened, *chain: Any) -> int:
    memory = opened.export(NT, *chain)
    handle = vk.vkGetMemoryWin32HandleNV(opened.device, memory, NT)
    granted = kernel().info(handle).access
    win32.CloseHandle(handle)
    opened.free(memory)
    return granted


def test_the_handle_grants_what_it_does_where_nv_is_native(gpu: Opened) -> None:
    native = Opened("embedded")
    try:
        read = vk.VkExportMemoryWin32HandleInfoNV
        assert _grants(gpu) == _grants(native)
        assert _grants(gpu, read(dwAccess=ACCESS_READ)) == _grants(
            native, read(dwAccess=ACCESS_READ)
        )
        assert _grants(gpu) != _grants(gpu, read(dwAccess=ACCESS_READ))
    finally:
        native.close()


def test_the_attributes_reach_the_handle(gpu: Opened) -> None:
    attributes = vk.SECURITY_ATTRIBUTES(bInheritHandle=1)
    memory = gpu.export(NT, vk.VkExportMemoryWin32HandleInfoNV(pAttributes=attributes, dwAccess=1))
    handles = [vk.vkGetMemoryWin32HandleNV(gpu.device, memory, NT) for _ in range(2)]
    assert [win32.GetHandleInformation(each) & 1 for each in handles] == [1, 1]
    for each in handles:
        win32.CloseHandle(each)
    gpu.free(memory)


def test_the_handle_stays_the_caller_s_after_an_import_that_fails(gpu: Opened) -> None:
    memory = gpu.export(NT)
    handle = vk.vkGetMemoryWin32HandleNV(gpu.device, memory, NT)
    with pytest.raises(extmem.DriverError) as caught:
        gpu.import_nv(NT, handle, size=SIZE * 2)
    assert caught.value.result == vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
    assert win32.GetHandleInformation(handle) == 0
    win32.CloseHandle(handle)
    gpu.free(memory)


def test_a_handle_type_of_0_turns_the_structures_off(gpu: Opened) -> None:
    gpu.free(gpu.export(0), gpu.import_nv(0, 0xBAD))
    image = gpu.image(0)
    vk.vkDestroyImage(gpu.device, image)


# -- images ---------------------------------------------------------------------------------------


def test_an_image_is_bound_to_imported_memory_that_is_dedicated_to_it(
    gpus: tuple[Opened, Opened],
) -> None:
    first, second = gpus
    images = [each.image(NT, dedicated=True) for each in gpus]
    needs = vk.vkGetImageMemoryRequirements(first.device, images[0])
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    dedications = [vk.VkDedicatedAllocationMemoryAllocateInfoNV(image=each) for each in images]
    exported = first.allocate(
        vk.VkExportMemoryAllocateInfoNV(handleTypes=NT),
        dedications[0],
        size=needs.size,
        index=index,
    )
    handle = vk.vkGetMemoryWin32HandleNV(first.device, exported, NT)
    imported = second.import_nv(NT, handle, dedications[1], size=needs.size, index=index)
    for each, image, memory in zip(gpus, images, (exported, imported), strict=True):
        vk.vkBindImageMemory(each.device, image, memory, 0)
        vk.vkDestroyImage(each.device, image)
    win32.CloseHandle(handle)
    second.free(imported)
    first.free(exported)


@pytest.mark.parametrize("handle_type", [TEXTURE, TEXTURE_KMT], ids=["nt", "kmt"])
def test_a_d3d11_texture_is_imported(gpu: Opened, handle_type: int) -> None:
    image = gpu.image(handle_type, dedicated=True)
    needs = vk.vkGetImageMemoryRequirements(gpu.device, image)
    with foreign.texture11(size=needs.size, kmt=handle_type == TEXTURE_KMT) as texture:
        memory = gpu.import_nv(
            handle_type,
            texture.kmt or texture.handle,
            vk.VkDedicatedAllocationMemoryAllocateInfoNV(image=image),
            size=needs.size,
            index=0,
        )
        vk.vkBindImageMemory(gpu.device, image, memory, 0)
        vk.vkDestroyImage(gpu.device, image)
        gpu.free(memory)


FORMATS = [vk.VK_FORMAT_R8G8B8A8_UNORM, vk.VK_FORMAT_R32_SFLOAT, vk.VK_FORMAT_BC1_RGB_UNORM_BLOCK]


@pytest.mark.parametrize("handle_type", [0, NT, KMT, TEXTURE, TEXTURE_KMT])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_image_queries_answer_as_where_nv_is_native(
    gpu: Opened, format: int, handle_type: int
) -> None:
    native = Opened("embedded")
    try:
        assert _asked(gpu, format, handle_type) == _asked(native, format, handle_type)
    finally:
        native.close()


def _asked(opened: Opened, format: int, handle_type: int) -> Any:
    try:
        found = vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(
            opened.physical,
            format,
            vk.VK_IMAGE_TYPE_2D,
            vk.VK_IMAGE_TILING_OPTIMAL,
            vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
            0,
            handle_type,
        )
    except extmem.DriverError as error:
        return error.result
    return bytes(found)


# -- instances ------------------------------------------------------------------------------------


def test_an_application_of_vulkan_1_0_gets_what_the_carrier_needs(khr_driver: str) -> None:
    opened = Opened(khr_driver, vk.VK_API_VERSION_1_0)
    try:
        answer = _asked(opened, vk.VK_FORMAT_R8G8B8A8_UNORM, NT)
        assert isinstance(answer, bytes)
        memory = opened.export(NT)
        win32.CloseHandle(vk.vkGetMemoryWin32HandleNV(opened.device, memory, NT))
        opened.free(memory)
    finally:
        opened.close()
