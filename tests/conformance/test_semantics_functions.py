"""The functions of shared memory: what each takes, gives and refuses. A test for each statement.

The table of imported types is in `test_semantics_imports.py`. No DMA_BUF: the embedded device has
none, and `test_memory_dma_buf.py` is about those of others.
"""

from __future__ import annotations

from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import foreign
from extmem.handles.kernel import ACCESS_READ
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from tests.support.sharing import (
    HEAP12,
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    IMAGE_TRANSFER,
    INVALID,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    RESOURCE12,
    RGBA,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    TRANSFER,
    UNKNOWN,
    Gpu,
    assert_shared,
    close,
    from_handle,
    from_handle_nv,
    open_sections,
    refused,
    terms,
)

EXPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)
IMPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
NO_FORMAT = vk.VK_ERROR_FORMAT_NOT_SUPPORTED
BLOCKS = vk.VK_FORMAT_BC1_RGB_UNORM_BLOCK  # which this device does not have

OPAQUE = pytest.mark.parametrize("handle_type", [NT, KMT], ids=["nt", "kmt"])
OPAQUE_NV = pytest.mark.parametrize("handle_type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
ALL_NV = {"nt": NT_NV, "kmt": KMT_NV, "image11": IMAGE11_NV, "image11_kmt": IMAGE11_KMT_NV}
FOREIGN = {
    "texture11": TEXTURE11,
    "texture11_kmt": TEXTURE11_KMT,
    "heap12": HEAP12,
    "resource12": RESOURCE12,
}


# -- vkGetPhysicalDeviceExternalImageFormatPropertiesNV -----------------------------------------


def query_nv(gpu: Gpu, handle_type: int, form: int = RGBA) -> Any:
    image = (form, vk.VK_IMAGE_TYPE_2D, vk.VK_IMAGE_TILING_OPTIMAL, IMAGE_TRANSFER, 0)
    return vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(gpu.physical, *image, handle_type)


@pytest.mark.parametrize("handle_type", ALL_NV.values(), ids=ALL_NV)
def test_nv_query_is_compatible_with_what_it_was_asked_for(gpu: Gpu, handle_type: int) -> None:
    found = query_nv(gpu, handle_type)
    assert found.compatibleHandleTypes & handle_type
    assert found.externalMemoryFeatures & IMPORTABLE
    again = found.exportFromImportedHandleTypes
    assert again == (handle_type if found.externalMemoryFeatures & EXPORTABLE else 0)
    plain = query_nv(gpu, 0).imageFormatProperties
    assert 0 < found.imageFormatProperties.maxExtent.width <= plain.maxExtent.width


@pytest.mark.parametrize("handle_type", ALL_NV.values(), ids=ALL_NV)
def test_nv_query_of_an_unknown_format(gpu: Gpu, handle_type: int) -> None:
    refused(gpu, lambda: query_nv(gpu, handle_type, BLOCKS), result=NO_FORMAT)


def test_nv_query_takes_one_type(gpu: Gpu) -> None:
    refused(gpu, lambda: query_nv(gpu, NT_NV | KMT_NV), vuid="07721", result=NO_FORMAT)


# -- the core's queries -------------------------------------------------------------------------


def query_image(gpu: Gpu, handle_type: int, form: int = RGBA) -> Any:
    """The answer, and what it says of sharing."""
    external = vk.VkExternalImageFormatProperties()
    answer = vk.VkImageFormatProperties2(pNext=external)
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=form,
        type=vk.VK_IMAGE_TYPE_2D,
        usage=IMAGE_TRANSFER,
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type),
    )
    vk.vkGetPhysicalDeviceImageFormatProperties2(gpu.physical, info, answer)
    return external.externalMemoryProperties


def query_buffer(gpu: Gpu, handle_type: int) -> Any:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=TRANSFER, handleType=handle_type)
    found = vk.vkGetPhysicalDeviceExternalBufferProperties(gpu.physical, info)
    return found.externalMemoryProperties


def test_image_query_refuses_a_type_that_does_not_fit(gpu: Gpu) -> None:
    # A heap is for buffers here; and no type makes a format that the device does not have.
    refused(gpu, lambda: query_image(gpu, HEAP12), result=NO_FORMAT)
    refused(gpu, lambda: query_image(gpu, NT, BLOCKS), result=NO_FORMAT)


@pytest.mark.parametrize("handle_type", [TEXTURE11, TEXTURE11_KMT], ids=["nt", "kmt"])
def test_buffer_query_says_0_for_what_it_cannot(gpu: Gpu, handle_type: int) -> None:
    found = query_buffer(gpu, handle_type)
    assert not found.externalMemoryFeatures
    # And 0 means that it cannot be used so.
    buffer = gpu.buffer()
    with foreign.texture11(size=SIZE, kmt=handle_type != TEXTURE11, memory_types=2) as texture:
        info = from_handle(texture.kmt or texture.handle, handle_type)
        dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer)
        with pytest.raises((extmem.RuleViolation, extmem.DriverError)):
            gpu.allocate(info, dedicated)


def test_nt_and_kmt_are_not_compatible(gpu: Gpu) -> None:
    for query in (query_buffer, query_image):
        assert query(gpu, NT).compatibleHandleTypes == NT
        assert query(gpu, KMT).compatibleHandleTypes == KMT
    refused(gpu, lambda: gpu.export(NT | KMT), vuid="handleTypes-09860", result=INVALID)


# -- vkAllocateMemory, export -------------------------------------------------------------------


def test_export_copies_name_access_and_attributes(gpu: Gpu, name: str) -> None:
    attributes = security_attributes(inherit=True)
    info = terms(ACCESS_READ, name, pAttributes=attributes)
    memory = gpu.export(NT, info)
    attributes.bInheritHandle = 0
    info.name, info.dwAccess, info.pAttributes = "changed", 0, None
    del attributes, info
    handle = gpu.get(memory, NT)
    found = kernel().info(handle)
    may_write, may_read = 2, 4
    assert found.name == name
    assert found.access & (may_read | may_write) == may_read
    assert kernel().flags(handle) & 1
    close(handle)


@OPAQUE
def test_export_of_an_import_is_legal_where_it_is_announced(gpu: Gpu, handle_type: int) -> None:
    assert query_buffer(gpu, handle_type).exportFromImportedHandleTypes == handle_type
    memory = gpu.export(handle_type)
    first = gpu.get(memory, handle_type)
    again = gpu.export(handle_type, from_handle(first, handle_type))
    second = gpu.get(again, handle_type)
    last = gpu.take(second, handle_type)
    if handle_type == NT:
        gpu.free(again)
        close(first, second)
    assert_shared((gpu, memory), (gpu, last))


@OPAQUE
def test_export_of_an_import_needs_its_own_export_info(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    handle = gpu.get(memory, handle_type)
    imported = gpu.take(handle, handle_type)
    refused(gpu, lambda: gpu.get(imported, handle_type), vuid="00662", result=UNKNOWN)
    if handle_type == NT:
        close(handle)


@pytest.mark.parametrize("handle_type", FOREIGN.values(), ids=FOREIGN)
def test_export_of_d3d_types_is_none(gpu: Gpu, handle_type: int) -> None:
    refused(gpu, lambda: gpu.export(handle_type), vuid="handleTypes-09860", result=INVALID)


# -- vkAllocateMemory, import -------------------------------------------------------------------


def test_import_from_one_source_at_most(checked: Gpu) -> None:
    memory = checked.export(NT)
    handle = checked.get(memory, NT)
    pointer = vk.VkImportMemoryHostPointerInfoEXT(handleType=0x80, pHostPointer=1 << 20)
    refused(
        checked,
        lambda: checked.allocate(from_handle(handle), pointer),
        vuid="None-06657",
        result=INVALID,
    )
    close(handle)


@OPAQUE
def test_import_leaves_the_contents(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    pattern = bytes(range(256)) * (SIZE // 256)
    gpu.write(memory, pattern)
    handle = gpu.get(memory, handle_type)
    imported = gpu.take(handle, handle_type)
    assert gpu.read(imported, SIZE) == gpu.read(memory, SIZE) == pattern
    if handle_type == NT:
        close(handle)


def test_import_counts_as_an_allocation(checked: Gpu) -> None:
    memory = checked.export(KMT)
    number = checked.get(memory, KMT)
    dispatch: Any = checked.device.dispatch
    alive = dispatch.world.objects["VkDeviceMemory"]
    before = len(alive)
    checked.take(number, KMT)
    # The same number that rule 04101 compares with maxMemoryAllocationCount.
    assert len(alive) == before + 1


def test_import_takes_nothing_from_the_heap(unchecked: Gpu) -> None:
    properties = vk.vkGetPhysicalDeviceMemoryProperties(unchecked.physical)
    heap = properties.memoryHeaps[properties.memoryTypes[1].heapIndex].size
    # More than half: a second one of it would be refused, an import of it is not.
    size = (heap // 2 & ~0xFFFF) + 0x10000
    memory = unchecked.export(NT, size=size)
    handle = unchecked.get(memory, NT)
    refused(
        unchecked,
        lambda: unchecked.allocate(size=size),
        result=vk.VK_ERROR_OUT_OF_DEVICE_MEMORY,
    )
    imported = unchecked.take(handle, NT, size=size)
    assert_shared((unchecked, memory), (unchecked, imported))
    close(handle)


def test_import_of_zeroed_memory_is_forbidden(checked: Gpu) -> None:
    memory = checked.export(NT)
    handle = checked.get(memory, NT)
    zeroed = int(vk.VK_MEMORY_ALLOCATE_ZERO_INITIALIZE_BIT_EXT)
    flags = vk.VkMemoryAllocateFlagsInfo(flags=zeroed)
    refused(checked, lambda: checked.take(handle, NT, flags), vuid="flags-10760", result=INVALID)
    close(handle)


def test_import_at_a_capture_address_is_forbidden(checked: Gpu) -> None:
    memory = checked.export(NT)
    handle = checked.get(memory, NT)
    address = vk.VkMemoryOpaqueCaptureAddressAllocateInfo(opaqueCaptureAddress=1 << 20)
    refused(checked, lambda: checked.take(handle, NT, address), vuid="03333", result=INVALID)
    close(handle)


@pytest.mark.parametrize("nv", [False, True], ids=["khr", "nv"])
def test_import_refuses_what_is_no_memory_and_leaves_it_alone(gpu: Gpu, nv: bool) -> None:
    plain = kernel().create_section(2 * SIZE)
    before = open_sections()
    for handle in (plain, 0xDEAD0, (1 << 64) - 1):
        info = from_handle_nv(handle) if nv else from_handle(handle)
        vuid = "handle-01328" if nv else "handleType-00661"
        refused(gpu, lambda info=info: gpu.allocate(info), vuid=vuid, result=INVALID)
    assert open_sections() == before
    close(plain)


def test_import_that_fails_leaves_the_handle_to_the_caller(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    handle = gpu.get(memory, NT)
    with pytest.raises((extmem.RuleViolation, extmem.DriverError)):
        gpu.take(handle, NT, size=2 * SIZE)
    assert_shared((gpu, memory), (gpu, gpu.take(handle, NT)))
    close(handle)


# -- vkGetMemoryWin32HandlePropertiesKHR --------------------------------------------------------


@OPAQUE
def test_properties_of_opaque_types_are_not_to_be_asked(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export(handle_type)
    handle = gpu.get(memory, handle_type)
    refused(
        gpu,
        lambda: gpu.memory_types_of(handle, handle_type),
        vuid="handleType-00666",
        result=INVALID,
    )
    if handle_type == NT:
        close(handle)


@pytest.mark.parametrize("what", ["texture11", "texture11_kmt", "heap12", "resource12"])
def test_properties_of_what_others_made(gpu: Gpu, what: str) -> None:
    make = getattr(foreign, what.removesuffix("_kmt"))
    kmt = {"kmt": True} if what == "texture11_kmt" else {}
    with make(size=SIZE, memory_types=0b110, **kmt) as made:
        handle = made.handle or made.kmt
        before = open_sections()
        assert gpu.memory_types_of(handle, FOREIGN[what]) == 0b110
        # The handle stays whose it was, and another is not left.
        assert open_sections() == before
        assert gpu.memory_types_of(handle, FOREIGN[what]) == 0b110


def test_properties_of_another_object(gpu: Gpu) -> None:
    plain = kernel().create_section(2 * SIZE)

    def ask() -> int:
        return gpu.memory_types_of(plain, TEXTURE11)

    refused(gpu, ask, vuid="handle-00665", result=INVALID)
    close(plain)
    refused(gpu, ask, vuid="handle-00665", result=INVALID)
