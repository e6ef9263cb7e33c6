"""The table of imported types: size, memory type and dedication, a test for each cell.

No DMA_BUF: the embedded device has none, and `test_memory_dma_buf.py` is about those of others.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.embedded import foreign
from tests.support.sharing import (
    FD,
    HEAP12,
    HOST,
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    INVALID,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    ON_LINUX,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    UNKNOWN,
    Gpu,
    assert_shared,
    close,
    from_fd,
    from_handle,
    from_handle_nv,
    refused,
)

DEDICATED = vk.VkMemoryDedicatedAllocateInfo
DEDICATED_NV = vk.VkDedicatedAllocationMemoryAllocateInfoNV

OPAQUE = {"nt": NT, "kmt": KMT}
if ON_LINUX:
    OPAQUE["fd"] = FD
RESOURCES = {"texture11": TEXTURE11, "texture11_kmt": TEXTURE11_KMT, "resource12": RESOURCE12}
OPAQUE_TYPES = pytest.mark.parametrize("handle_type", OPAQUE.values(), ids=OPAQUE)
RESOURCE_TYPES = pytest.mark.parametrize("handle_type", RESOURCES.values(), ids=RESOURCES)


# By the rules' names, the column of a type.
SIZE_RULES = {NT: "01743", KMT: "01743", FD: "01742"}
DEDICATION_RULES = {NT: "image-01876", KMT: "image-01876", FD: "image-01878"}
BUFFER_RULES = {NT: "buffer-01877", KMT: "buffer-01877", FD: "buffer-01879"}


@contextmanager
def exported(gpu: Gpu, handle_type: int, *chain: Any, **members: int) -> Iterator[tuple[Any, int]]:
    """Memory and a handle of it, which is closed in the end if it is one to close."""
    memory = gpu.export(handle_type, *chain, **members)
    handle = gpu.get(memory, handle_type)
    yield memory, handle
    if handle_type == NT:
        close(handle)
    elif handle_type == FD:
        os.close(handle)


def importing(handle: int, handle_type: int) -> Any:
    """The structure that imports a handle; of a descriptor a duplicate, which an import takes."""
    return from_handle(handle, handle_type) if handle_type != FD else from_fd(os.dup(handle))


# -- OPAQUE_WIN32, OPAQUE_WIN32_KMT, OPAQUE_FD --------------------------------------------------


@OPAQUE_TYPES
@pytest.mark.parametrize("size", [SIZE, 3 * SIZE])
def test_opaque_has_its_exporters_size(gpu: Gpu, handle_type: int, size: int) -> None:
    with exported(gpu, handle_type, size=2 * SIZE) as (memory, handle):
        wrong = importing(handle, handle_type)
        refused(
            gpu,
            lambda: gpu.allocate(wrong, size=size),
            vuid=SIZE_RULES[handle_type],
            result=INVALID,
        )
        if handle_type == FD:
            os.close(wrong.fd)  # not taken, because it failed
        right = gpu.allocate(importing(handle, handle_type), size=2 * SIZE)
        assert_shared((gpu, memory), (gpu, right))


@OPAQUE_TYPES
@pytest.mark.parametrize("index", [0, 2])
def test_opaque_has_its_exporters_memory_type(gpu: Gpu, handle_type: int, index: int) -> None:
    with exported(gpu, handle_type) as (memory, handle):
        wrong = importing(handle, handle_type)
        refused(
            gpu,
            lambda: gpu.allocate(wrong, index=index),
            vuid=SIZE_RULES[handle_type],
            result=INVALID,
        )
        if handle_type == FD:
            os.close(wrong.fd)
        assert_shared((gpu, memory), (gpu, gpu.allocate(importing(handle, handle_type))))


@OPAQUE_TYPES
def test_opaque_is_dedicated_as_its_exporter(gpu: Gpu, handle_type: int) -> None:
    image, same, wide = (gpu.image(handle_type, width=width) for width in (32, 32, 16))
    buffer = gpu.buffer(handle_type)
    with exported(gpu, handle_type, DEDICATED(image=image)) as (memory, handle):
        for chain, vuid in (
            ([], DEDICATION_RULES[handle_type]),
            ([DEDICATED(image=wide)], DEDICATION_RULES[handle_type]),
            ([DEDICATED(buffer=buffer)], BUFFER_RULES[handle_type]),
        ):
            wrong = importing(handle, handle_type)
            refused(
                gpu,
                lambda wrong=wrong, chain=chain: gpu.allocate(wrong, *chain),
                vuid=vuid,
                result=INVALID,
            )
            if handle_type == FD:
                os.close(wrong.fd)
        right = gpu.allocate(importing(handle, handle_type), DEDICATED(image=same))
        vk.vkBindImageMemory(gpu.device, same, right, 0)
        assert_shared((gpu, memory), (gpu, right))


@OPAQUE_TYPES
def test_opaque_is_not_dedicated_where_its_exporter_was_not(gpu: Gpu, handle_type: int) -> None:
    buffer = gpu.buffer(handle_type)
    with exported(gpu, handle_type) as (memory, handle):
        wrong = importing(handle, handle_type)
        refused(
            gpu,
            lambda: gpu.allocate(wrong, DEDICATED(buffer=buffer)),
            vuid=BUFFER_RULES[handle_type],
            result=INVALID,
        )
        if handle_type == FD:
            os.close(wrong.fd)
        gpu.write(memory, b"as it was")


# -- D3D11_TEXTURE, D3D11_TEXTURE_KMT, D3D12_RESOURCE -------------------------------------------


@contextmanager
def resource(handle_type: int, memory_types: int = 0b010) -> Iterator[tuple[Any, int]]:
    """A stand-in for what D3D made, and its handle or number."""
    if handle_type == RESOURCE12:
        made = foreign.resource12(size=SIZE, memory_types=memory_types)
    else:
        kmt = handle_type == TEXTURE11_KMT
        made = foreign.texture11(size=SIZE, memory_types=memory_types, kmt=kmt)
    with made:
        yield made, made.kmt or made.handle


@RESOURCE_TYPES
@pytest.mark.parametrize("size", [1, SIZE, 1 << 40])
def test_resource_has_its_own_size(gpu: Gpu, handle_type: int, size: int) -> None:
    with resource(handle_type) as (made, handle):
        dedicated = DEDICATED(image=gpu.image(handle_type))
        memory = gpu.allocate(from_handle(handle, handle_type), dedicated, size=size)
        view = vk.vkMapMemory(gpu.device, memory, 0, 1)
        made.view[0] = 77
        assert view[0] == 77
        view[0] = 78
        assert made.view[0] == 78
        del view
        vk.vkUnmapMemory(gpu.device, memory)


@RESOURCE_TYPES
def test_resource_says_its_memory_types(gpu: Gpu, handle_type: int) -> None:
    with resource(handle_type, 0b110) as (_, handle):
        assert gpu.memory_types_of(handle, handle_type) == 0b110
        dedicated = DEDICATED(image=gpu.image(handle_type))
        info = from_handle(handle, handle_type)
        refused(gpu, lambda: gpu.allocate(info, dedicated, index=0), vuid="00645", result=INVALID)
        for index in (1, 2):
            gpu.allocate(
                from_handle(handle, handle_type),
                DEDICATED(image=gpu.image(handle_type)),
                index=index,
            )


@RESOURCE_TYPES
def test_resource_is_always_dedicated(gpu: Gpu, handle_type: int) -> None:
    with resource(handle_type) as (_, handle):
        image = gpu.image(handle_type)
        external = vk.VkMemoryDedicatedRequirements()
        vk.vkGetImageMemoryRequirements2(
            gpu.device,
            vk.VkImageMemoryRequirementsInfo2(image=image),
            vk.VkMemoryRequirements2(pNext=external),
        )
        assert external.requiresDedicatedAllocation
        # No rule says so of imports, but nothing that is not dedicated can be bound.
        refused(gpu, lambda: gpu.take(handle, handle_type), result=INVALID)


# -- D3D12_HEAP ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SIZE, 3 * SIZE])
def test_heap_has_its_own_size_and_it_is_said(gpu: Gpu, size: int) -> None:
    with foreign.heap12(size=2 * SIZE, memory_types=0b010) as heap:
        refused(
            gpu,
            lambda: gpu.take(heap.handle, HEAP12, size=size),
            vuid="00647",
            result=INVALID,
        )
        memory = gpu.take(heap.handle, HEAP12, size=2 * SIZE)
        heap.view[:4] = b"heap"
        assert gpu.read(memory, 4) == b"heap"
        gpu.write(memory, b"back")
        assert bytes(heap.view[:4]) == b"back"


def test_heap_says_its_memory_types(gpu: Gpu) -> None:
    with foreign.heap12(size=SIZE, memory_types=0b110) as heap:
        assert gpu.memory_types_of(heap.handle, HEAP12) == 0b110
        refused(gpu, lambda: gpu.take(heap.handle, HEAP12, index=0), vuid="00645", result=INVALID)
        gpu.take(heap.handle, HEAP12, index=2)


def test_heap_is_dedicated_only_if_reported(gpu: Gpu) -> None:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=3, handleType=HEAP12)
    found = vk.vkGetPhysicalDeviceExternalBufferProperties(gpu.physical, info)
    features = found.externalMemoryProperties.externalMemoryFeatures
    assert not features & vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT
    with foreign.heap12(size=2 * SIZE, memory_types=0b010) as heap:
        memory = gpu.take(heap.handle, HEAP12, size=2 * SIZE)
        # So there is room for two buffers in it.
        for offset in (0, SIZE):
            buffer = gpu.buffer(HEAP12)
            vk.vkBindBufferMemory(gpu.device, buffer, memory, offset)


# -- HOST_* -------------------------------------------------------------------------------------


@contextmanager
def pages(count: int) -> Iterator[int]:
    """The address of whole pages of this program."""
    room = ctypes.create_string_buffer((count + 1) * SIZE)
    yield -(-ctypes.addressof(room) // SIZE) * SIZE
    del room


def from_host(address: int) -> Any:
    return vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=address)


@pytest.mark.parametrize("size", [SIZE - 64, SIZE + 64])
def test_host_memory_is_a_multiple_of_the_alignment(gpu: Gpu, size: int) -> None:
    with pages(2) as address:
        refused(
            gpu,
            lambda: gpu.allocate(from_host(address), size=size),
            vuid="allocationSize-01745",
            result=INVALID,
        )
        gpu.free(gpu.allocate(from_host(address), size=2 * SIZE))


def test_host_memory_says_its_memory_types(gpu: Gpu) -> None:
    with pages(1) as address:
        found = vk.vkGetMemoryHostPointerPropertiesEXT(gpu.device, HOST, address)
        assert found.memoryTypeBits == 0b110
        refused(
            gpu,
            lambda: gpu.allocate(from_host(address), index=0),
            vuid="memoryTypeIndex-01744",
            result=INVALID,
        )
        gpu.free(gpu.allocate(from_host(address), index=2))


def test_host_memory_is_never_dedicated(checked: Gpu) -> None:
    buffer = checked.buffer(HOST)
    with pages(1) as address:
        refused(
            checked,
            lambda: checked.allocate(from_host(address), DEDICATED(buffer=buffer)),
            vuid="pNext-02806",
            result=INVALID,
        )


# -- NV's types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("handle_type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
def test_nv_has_no_rule_for_the_size(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export_nv(handle_type, size=2 * SIZE)
    handle = gpu.get_nv(memory, handle_type)
    whole = gpu.allocate(from_handle_nv(handle, handle_type), size=2 * SIZE)
    part = gpu.allocate(from_handle_nv(handle, handle_type), size=SIZE)
    for each in (whole, part):
        assert_shared((gpu, memory), (gpu, each))
    # But there are no more bytes than there are.
    refused(
        gpu,
        lambda: gpu.allocate(from_handle_nv(handle, handle_type), size=4 * SIZE),
        result=INVALID,
    )
    if handle_type == NT_NV:
        close(handle)


@pytest.mark.parametrize("handle_type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
def test_nv_has_no_rule_for_the_memory_type(gpu: Gpu, handle_type: int) -> None:
    memory = gpu.export_nv(handle_type, index=2)
    handle = gpu.get_nv(memory, handle_type)
    # Without a rule the device is the judge, and wants the exporter's.
    refused(gpu, lambda: gpu.allocate(from_handle_nv(handle, handle_type)), result=INVALID)
    right = gpu.allocate(from_handle_nv(handle, handle_type), index=2)
    assert_shared((gpu, memory), (gpu, right))
    if handle_type == NT_NV:
        close(handle)


@pytest.mark.parametrize("handle_type", [NT_NV, KMT_NV], ids=["nt", "kmt"])
def test_nv_is_dedicated_through_its_own_extension(gpu: Gpu, handle_type: int) -> None:
    external = vk.VkExternalMemoryImageCreateInfoNV
    opted_in = vk.VkDedicatedAllocationImageCreateInfoNV
    image, same = (
        gpu.image(0, external(handleTypes=handle_type), opted_in(dedicatedAllocation=1))
        for _ in range(2)
    )
    memory = gpu.export_nv(handle_type, DEDICATED_NV(image=image))
    handle = gpu.get_nv(memory, handle_type)
    refused(gpu, lambda: gpu.allocate(from_handle_nv(handle, handle_type)), result=INVALID)
    right = gpu.allocate(from_handle_nv(handle, handle_type), DEDICATED_NV(image=same))
    vk.vkBindImageMemory(gpu.device, same, right, 0)
    assert_shared((gpu, memory), (gpu, right))
    if handle_type == NT_NV:
        close(handle)


@pytest.mark.parametrize("handle_type", [IMAGE11_NV, IMAGE11_KMT_NV], ids=["nt", "kmt"])
def test_nv_images_of_d3d11_are_dedicated(gpu: Gpu, handle_type: int) -> None:
    external = vk.VkExternalMemoryImageCreateInfoNV(handleTypes=handle_type)
    image = gpu.image(0, external, vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1))
    kmt = handle_type == IMAGE11_KMT_NV
    with foreign.texture11(size=SIZE, memory_types=0b010, kmt=kmt) as texture:
        handle = texture.kmt or texture.handle
        refused(gpu, lambda: gpu.allocate(from_handle_nv(handle, handle_type)), result=INVALID)
        info = from_handle_nv(handle, handle_type)
        memory = gpu.allocate(info, DEDICATED_NV(image=image))
        texture.view[:4] = b"d3d "
        assert gpu.read(memory, 4) == b"d3d "


def test_nv_dedication_has_the_resources_size(gpu: Gpu) -> None:
    opted_in = vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1)
    image = gpu.image(0, vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV), opted_in)
    if gpu.checks == "off":
        gpu.export_nv(NT_NV, DEDICATED_NV(image=image), size=2 * SIZE)  # the device has no opinion
        return
    refused(
        gpu,
        lambda: gpu.export_nv(NT_NV, DEDICATED_NV(image=image), size=2 * SIZE),
        vuid="image-00652",
        result=UNKNOWN,
    )
