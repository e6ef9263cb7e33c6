"""Rules of the NV extensions: handles, queries and dedicated allocations, each broken and kept."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.embedded import foreign
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from extmem.vk._base import SECURITY_ATTRIBUTES
from tests.support.strict_side import StrictSide
from tests.support.win32 import (
    EXTENSIONS,
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    SIZE,
)

INVALID = (1 << 64) - 1
UNKNOWN_BIT = 1 << 20

IMPORT = "VUID-VkImportMemoryWin32HandleInfoNV"
EXPORT = "VUID-VkExportMemoryAllocateInfoNV"
TERMS = "VUID-VkExportMemoryWin32HandleInfoNV"
GET = "VUID-vkGetMemoryWin32HandleNV"
QUERY = "VUID-vkGetPhysicalDeviceExternalImageFormatPropertiesNV"
DEDICATED = "VUID-VkDedicatedAllocationMemoryAllocateInfoNV"
INFO = "VUID-VkMemoryAllocateInfo"

Dedicated = vk.VkDedicatedAllocationMemoryAllocateInfoNV


@pytest.fixture
def gpu() -> Iterator[StrictSide]:
    with StrictSide() as made:
        yield made


@pytest.fixture
def handle(gpu: StrictSide) -> int:
    """An NT handle of SIZE bytes that NV exported."""
    return gpu.get_nv(gpu.export_nv())


def by(type: int, handle: int | None) -> Any:
    return vk.VkImportMemoryWin32HandleInfoNV(handleType=type, handle=handle)


def exporting(types: int = NT_NV) -> Any:
    return vk.VkExportMemoryAllocateInfoNV(handleTypes=types)


def opted_in(gpu: StrictSide, types: int = NT_NV, side: int = 32) -> Any:
    """An image for a dedicated allocation of NV's kind."""
    return gpu.picture(
        vk.VkExternalMemoryImageCreateInfoNV(handleTypes=types),
        vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1),
        side=side,
    )


def opted_in_buffer(gpu: StrictSide, size: int = SIZE) -> Any:
    chosen = vk.VkDedicatedAllocationBufferCreateInfoNV(dedicatedAllocation=1)
    return gpu.buffer(NT, chosen, size=size)


# -- importing ------------------------------------------------------------------------------------


def test_one_type_at_most(gpu: StrictSide, handle: int) -> None:
    for types in (NT_NV | KMT_NV, NT_NV | IMAGE11_NV):
        gpu.refuses(f"{IMPORT}-handleType-01327", by(types, handle))
    gpu.refuses(f"{IMPORT}-handleType-parameter", by(UNKNOWN_BIT, handle))
    gpu.allocate(by(NT_NV, handle))
    gpu.allocate(by(0, handle))


def test_handles_that_are_open(gpu: StrictSide, handle: int) -> None:
    vuid = f"{IMPORT}-handle-01328"
    section = kernel().create_section(65536)
    try:
        for wrong in (None, 12344, INVALID, section):
            gpu.refuses(vuid, by(NT_NV, wrong))
    finally:
        kernel().close(section)
    gpu.refuses(vuid, by(NT_NV, section))
    gpu.allocate(by(NT_NV, handle))


def test_numbers_that_somebody_holds(gpu: StrictSide, handle: int) -> None:
    vuid = f"{IMPORT}-handle-01328"
    block = gpu.export_nv(KMT_NV)
    number = gpu.get_nv(block, KMT_NV)
    gpu.allocate(by(KMT_NV, number))
    for wrong in (None, handle, number ^ 4, number | 1 << 40):
        gpu.refuses(vuid, by(KMT_NV, wrong))
    block.free()
    assert "no living memory" in gpu.refuses(vuid, by(KMT_NV, number))


def test_handles_of_another_source(gpu: StrictSide, handle: int) -> None:
    vuid = f"{IMPORT}-handle-01328"
    with (
        foreign.texture11(size=SIZE, memory_types=0b010) as texture,
        foreign.texture11(size=SIZE, memory_types=0b010, kmt=True) as numbered,
        foreign.heap12(size=SIZE) as heap,
    ):
        for type, value, was in (
            (NT_NV, texture.handle, "d3d11_texture"),
            (NT_NV, heap.handle, "d3d12_heap"),
            (IMAGE11_NV, handle, "opaque_win32"),
            (IMAGE11_NV, heap.handle, "d3d12_heap"),
            (KMT_NV, numbered.kmt, "d3d11_texture_kmt"),
        ):
            assert f"shared as {was}" in gpu.refuses(vuid, by(type, value))
        for type, value in ((IMAGE11_NV, texture.handle), (IMAGE11_KMT_NV, numbered.kmt)):
            image = opted_in(gpu, type)
            gpu.allocate(by(type, value), Dedicated(image=image)).free()


def test_what_khr_exported_is_the_drivers_to_judge(gpu: StrictSide) -> None:
    """The specification says nothing of it, so no rule is made up; this device takes it."""
    one, number = gpu.get(gpu.export(NT)), gpu.get(gpu.export(KMT), KMT)
    gpu.allocate(by(NT_NV, one))
    gpu.allocate(by(KMT_NV, number))
    back = vk.VkImportMemoryWin32HandleInfoKHR(handleType=NT, handle=gpu.get_nv(gpu.export_nv()))
    gpu.allocate(back)


def test_it_is_not_an_import_that_may_leave_the_size_out(gpu: StrictSide, handle: int) -> None:
    for type in (NT_NV, 0):
        gpu.refuses(f"{INFO}-allocationSize-07897", by(type, handle), size=0)
    gpu.allocate(by(NT_NV, handle))
    gpu.allocate(by(NT_NV, handle), size=64)  # there is no rule for another size


def test_structures_say_what_they_are(gpu: StrictSide, handle: int) -> None:
    for owner, item in (
        (IMPORT, by(NT_NV, handle)),
        (EXPORT, exporting()),
        (TERMS, vk.VkExportMemoryWin32HandleInfoNV()),
    ):
        item.sType = 5
        gpu.refuses(f"{owner}-sType-sType", item)
    dedicated = Dedicated(image=opted_in(gpu))
    dedicated.sType = 5
    gpu.refuses(f"{DEDICATED}-sType-sType", dedicated)
    for item in (
        vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV),
        vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1),
    ):
        info = gpu.picture_info(item)
        item.sType = 5
        vuid = f"VUID-{type(item).__name__}-sType-sType"
        gpu.breaks(vuid, vk.vkCreateImage, gpu.device, info)
    chosen = vk.VkDedicatedAllocationBufferCreateInfoNV(dedicatedAllocation=1)
    info = vk.VkBufferCreateInfo(size=SIZE, usage=1, pNext=chosen)
    chosen.sType = 5
    vuid = f"VUID-{type(chosen).__name__}-sType-sType"
    gpu.breaks(vuid, vk.vkCreateBuffer, gpu.device, info)


# -- exporting and fetching -----------------------------------------------------------------------


def test_types_that_nv_knows(gpu: StrictSide) -> None:
    gpu.refuses(f"{EXPORT}-handleTypes-parameter", exporting(UNKNOWN_BIT))
    image = gpu.picture_info(vk.VkExternalMemoryImageCreateInfoNV(handleTypes=UNKNOWN_BIT))
    parameter = "VUID-VkExternalMemoryImageCreateInfoNV-handleTypes-parameter"
    together = "VUID-VkImageCreateInfo-pNext-00991"
    gpu.breaks(parameter, vk.vkCreateImage, gpu.device, image)
    both = gpu.picture_info(vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV | KMT_NV))
    gpu.breaks(together, vk.vkCreateImage, gpu.device, both)
    gpu.picture(vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV))
    for types in (0, NT_NV, KMT_NV):
        gpu.export_nv(types)


def test_attributes_that_can_be_read(gpu: StrictSide) -> None:
    def terms(attributes: Any) -> Any:
        return vk.VkExportMemoryWin32HandleInfoNV(pAttributes=attributes, dwAccess=0x80000001)

    vuid = f"{TERMS}-pAttributes-parameter"
    short = SECURITY_ATTRIBUTES(nLength=ctypes.sizeof(SECURITY_ATTRIBUTES) - 1)
    junk = SECURITY_ATTRIBUTES(lpSecurityDescriptor=bytes(64))
    for wrong in (short, junk):
        gpu.refuses(vuid, exporting(), terms(wrong))
    for right in (None, security_attributes("D:(A;;GA;;;WD)")):
        gpu.get_nv(gpu.export_nv(NT_NV, terms(right)))


def test_fetched_as_types_that_were_announced(gpu: StrictSide) -> None:
    get, vuid = vk.vkGetMemoryWin32HandleNV, f"{GET}-handleType-01326"
    nv, core, plain = gpu.export_nv(), gpu.export(NT), gpu.allocate()
    for block, type in ((nv, KMT_NV), (nv, NT_NV | KMT_NV), (core, NT_NV), (plain, NT_NV)):
        gpu.breaks(vuid, get, gpu.device, block.memory, type)
    gpu.breaks({vuid, f"{GET}-handleType-requiredbitmask"}, get, gpu.device, nv.memory, 0)
    gpu.breaks({vuid, f"{GET}-handleType-parameter"}, get, gpu.device, nv.memory, UNKNOWN_BIT)
    gpu.breaks(f"{GET}-memory-parameter", get, gpu.device, 0xDEAD, NT_NV)
    with StrictSide() as other:
        gpu.breaks(f"{GET}-memory-parent", get, gpu.device, other.export_nv().memory, NT_NV)
    gpu.get_nv(nv)
    gpu.get_nv(nv)  # as often as one likes
    assert gpu.facts(nv.memory)["fetched_nv"] == {NT_NV}
    assert gpu.facts(nv.memory)["fetched"] == set()


# -- asking ---------------------------------------------------------------------------------------


def test_one_type_per_question(gpu: StrictSide) -> None:
    ask = vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV
    form, usage = vk.VK_FORMAT_R8G8B8A8_UNORM, vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT
    right: dict[str, int] = {
        "format": form,
        "type": vk.VK_IMAGE_TYPE_2D,
        "tiling": vk.VK_IMAGE_TILING_OPTIMAL,
        "usage": usage,
        "flags": 0,
        "externalHandleType": NT_NV,
    }
    for member, wrong, last in (
        ("externalHandleType", NT_NV | KMT_NV, "externalHandleType-07721"),
        ("externalHandleType", UNKNOWN_BIT, "externalHandleType-parameter"),
        ("format", 0x7FFF, "format-parameter"),
        ("type", 9, "type-parameter"),
        ("tiling", 9, "tiling-parameter"),
        ("usage", 0, "usage-requiredbitmask"),
        ("usage", 1 << 31, "usage-parameter"),
        ("flags", 1 << 31, "flags-parameter"),
    ):
        values = (right | {member: wrong}).values()
        gpu.breaks(f"{QUERY}-{last}", ask, gpu.physical, *values)
    for type in (0, NT_NV, KMT_NV, IMAGE11_NV, IMAGE11_KMT_NV):
        ask(gpu.physical, *(right | {"externalHandleType": type}).values())


# -- dedicated allocations ------------------------------------------------------------------------


def test_dedicated_to_one_resource_that_opted_in(gpu: StrictSide) -> None:
    image, buffer = opted_in(gpu), opted_in_buffer(gpu)
    gpu.refuses(f"{DEDICATED}-image-00649", Dedicated(image=image, buffer=buffer))
    plain = gpu.picture(vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV))
    gpu.refuses(f"{DEDICATED}-image-00650", Dedicated(image=plain))
    gpu.refuses(f"{DEDICATED}-buffer-00651", Dedicated(buffer=gpu.buffer()))
    gpu.refuses(f"{DEDICATED}-image-parameter", Dedicated(image=0xDEAD))
    gpu.refuses(f"{DEDICATED}-buffer-parameter", Dedicated(buffer=0xDEAD))
    with StrictSide() as other:
        theirs = opted_in(other)
        gpu.refuses(f"{DEDICATED}-commonparent", Dedicated(image=theirs))
    gpu.allocate(Dedicated(image=image))
    gpu.allocate(Dedicated(buffer=buffer))


def test_dedicated_with_exactly_the_size(gpu: StrictSide) -> None:
    image, buffer = opted_in(gpu), opted_in_buffer(gpu)
    for size in (SIZE - 64, SIZE + 64):
        gpu.refuses(f"{DEDICATED}-image-00652", Dedicated(image=image), size=size)
        gpu.refuses(f"{DEDICATED}-buffer-00653", Dedicated(buffer=buffer), size=size)
    gpu.allocate(Dedicated(image=image))
    gpu.allocate(Dedicated(buffer=buffer))


@pytest.mark.parametrize("core", [False, True], ids=["nv", "khr"])
def test_dedicated_as_the_exporter(gpu: StrictSide, core: bool) -> None:
    """Of imports through NV's structure, and through KHR's."""
    handle = 0

    def source() -> Any:
        if core:
            return vk.VkImportMemoryWin32HandleInfoKHR(handleType=NT, handle=handle)
        return by(NT_NV, handle)

    image, alike = opted_in(gpu), opted_in(gpu)
    other, buffer = opted_in(gpu, types=KMT_NV), opted_in_buffer(gpu)
    handle = gpu.get_nv(gpu.export_nv(NT_NV, Dedicated(image=image)))
    gpu.refuses(f"{DEDICATED}-image-00654", source(), Dedicated(image=other))
    text = gpu.refuses(f"{DEDICATED}-buffer-00655", source(), Dedicated(buffer=buffer))
    assert "dedicated to an image" in text
    gpu.allocate(source(), Dedicated(image=alike))
    handle = gpu.get_nv(gpu.export_nv())
    text = gpu.refuses(f"{DEDICATED}-image-00654", source(), Dedicated(image=alike))
    assert "dedicated to nothing" in text
    handle = gpu.get_nv(gpu.export_nv(NT_NV, Dedicated(buffer=buffer)))
    gpu.allocate(source(), Dedicated(buffer=opted_in_buffer(gpu)))


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
def test_dedicated_as_the_exporter_of_a_descriptor() -> None:
    fd_type = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
    with StrictSide(extensions=(*EXTENSIONS, "VK_KHR_external_memory_fd")) as gpu:

        def buffer(size: int = SIZE) -> Any:
            chosen = vk.VkDedicatedAllocationBufferCreateInfoNV(dedicatedAllocation=1)
            return gpu.buffer(fd_type, chosen, size=size)

        def source() -> Any:
            return vk.VkImportMemoryFdInfoKHR(handleType=fd_type, fd=fd)

        block = gpu.export(fd_type, Dedicated(buffer=buffer()))
        info = vk.VkMemoryGetFdInfoKHR(memory=block.memory, handleType=fd_type)
        fd = vk.vkGetMemoryFdKHR(gpu.device, info)
        image = Dedicated(image=opted_in(gpu))
        gpu.refuses(f"{DEDICATED}-image-00654", source(), image)
        gpu.refuses(f"{DEDICATED}-buffer-00655", source(), Dedicated(buffer=buffer(SIZE - 32)))
        gpu.allocate(source(), Dedicated(buffer=buffer()))  # which takes the descriptor


def test_no_dedication_of_sparse_resources(gpu: StrictSide) -> None:
    chosen = vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1)
    sparse = int(vk.VK_IMAGE_CREATE_SPARSE_BINDING_BIT)
    vuid = "VUID-VkDedicatedAllocationImageCreateInfoNV-dedicatedAllocation-00994"
    info = gpu.picture_info(chosen, flags=sparse)
    gpu.breaks(vuid, vk.vkCreateImage, gpu.device, info)
    info = vk.VkBufferCreateInfo(
        size=SIZE,
        usage=1,
        flags=int(vk.VK_BUFFER_CREATE_SPARSE_BINDING_BIT),
        pNext=vk.VkDedicatedAllocationBufferCreateInfoNV(dedicatedAllocation=1),
    )
    gpu.breaks("VUID-VkBufferCreateInfo-pNext-01571", vk.vkCreateBuffer, gpu.device, info)
    opted_in(gpu)
    opted_in_buffer(gpu)


def test_bound_to_what_is_dedicated_to_it(gpu: StrictSide) -> None:
    image, alike, other = opted_in(gpu), opted_in(gpu), opted_in(gpu, types=KMT_NV)
    block = gpu.export_nv(NT_NV, Dedicated(image=image))
    vuid = "VUID-vkBindImageMemory-image-01050"
    bind, plain = vk.vkBindImageMemory, gpu.allocate()
    for wrong, memory in ((other, block), (image, plain)):
        gpu.breaks(vuid, bind, gpu.device, wrong, memory.memory, 0)
    bind(gpu.device, image, block.memory, 0)
    bind(gpu.device, alike, block.memory, 0)  # created identically
    buffer, twin = opted_in_buffer(gpu), opted_in_buffer(gpu)
    block = gpu.export(NT, Dedicated(buffer=buffer))
    vuid = "VUID-vkBindBufferMemory-buffer-01038"
    gpu.breaks(vuid, vk.vkBindBufferMemory, gpu.device, twin, gpu.allocate().memory, 0)
    vk.vkBindBufferMemory(gpu.device, buffer, block.memory, 0)
