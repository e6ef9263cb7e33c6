"""A handle type of 0, and structures that are missing: a test for each row.

Not here yet: imports of semaphores and fences, which the embedded device does not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import extmem
from extmem import vk
from tests.support.sharing import (
    FD,
    IMAGE_TRANSFER,
    INVALID,
    KMT_NV,
    NT,
    NT_NV,
    ON_LINUX,
    RGBA,
    TRANSFER,
    UNKNOWN,
    Gpu,
    close,
    from_handle,
    from_handle_nv,
    open_sections,
    refused,
    terms,
)

IMPORTS: list[Any] = [
    pytest.param(lambda handle: from_handle(handle, 0), id="khr"),
    pytest.param(lambda handle: from_handle_nv(handle, 0), id="nv"),
]
if ON_LINUX:
    fd_import = vk.VkImportMemoryFdInfoKHR
    IMPORTS.append(pytest.param(lambda fd: fd_import(handleType=0, fd=fd), id="fd"))

Make = Callable[[int], Any]


# -- imports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", IMPORTS)
def test_import_of_0_is_an_ordinary_allocation(gpu: Gpu, make: Make) -> None:
    shared = gpu.export(FD if ON_LINUX else NT)
    gpu.write(shared, b"not yours")
    handle = gpu.get(shared, FD if ON_LINUX else NT)
    memory = gpu.allocate(make(handle))
    assert gpu.read(memory, 9) == bytes(9)
    if ON_LINUX:
        os.close(handle)  # which was not taken
    else:
        close(handle)


@pytest.mark.parametrize("make", IMPORTS)
@pytest.mark.parametrize("value", [0, 4, 0x7FFF_FFFF])
def test_import_of_0_looks_at_no_handle(gpu: Gpu, make: Make, value: int) -> None:
    memory = gpu.allocate(make(value))
    gpu.write(memory, b"plain")
    assert gpu.read(memory, 5) == b"plain"


@pytest.mark.parametrize("make", IMPORTS)
def test_import_of_0_needs_a_size(gpu: Gpu, make: Make) -> None:
    refused(gpu, lambda: gpu.allocate(make(4), size=0), vuid="allocationSize-07897", result=UNKNOWN)


@pytest.mark.parametrize("make", IMPORTS)
def test_import_of_0_is_in_the_callers_chain_afterwards(gpu: Gpu, make: Make) -> None:
    zero, export = make(4), vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    info = vk.link(vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=1), zero, export)
    memory = vk.vkAllocateMemory(gpu.device, info)
    assert info.pNext is zero
    assert zero.pNext is export
    # What stands behind it counts.
    close(gpu.get(memory, NT))
    vk.vkFreeMemory(gpu.device, memory)


@pytest.mark.parametrize("number", ["01439", "01441"])
def test_import_of_0_with_handle_and_name_is_an_error(checked: Gpu, name: str, number: str) -> None:
    refused(
        checked,
        lambda: checked.allocate(from_handle(4, 0, name)),
        vuid=number,
        result=INVALID,
    )


@pytest.mark.parametrize("zero", ["khr", "nv"])
def test_import_structures_of_both_kinds_are_an_error_even_with_0(checked: Gpu, zero: str) -> None:
    memory = checked.export(NT)
    handle = checked.get(memory, NT)
    chain = (
        from_handle(handle, 0 if zero == "khr" else NT),
        from_handle_nv(handle, 0 if zero == "nv" else NT_NV),
    )
    refused(checked, lambda: checked.allocate(*chain), vuid="pNext-00641", result=INVALID)
    close(handle)


def test_host_pointer_of_0_is_an_error_by_its_implicit_rule(gpu: Gpu) -> None:
    # Its prose says that nothing is imported then, its derived rule does not allow it. The rule is
    # what programs are checked with; a device that is asked all the same follows the prose.
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=0, pHostPointer=4096)
    if gpu.checks == "off":
        memory = gpu.allocate(info)
        assert gpu.read(memory, 4) == bytes(4)
        return
    refused(
        gpu,
        lambda: gpu.allocate(info),
        vuid="VkImportMemoryHostPointerInfoEXT-handleType-parameter",
        result=INVALID,
    )


# -- exports ------------------------------------------------------------------------------------


def test_export_of_0_is_as_if_it_were_absent(gpu: Gpu) -> None:
    handles = open_sections()
    memory = gpu.export(0)
    assert open_sections() == handles
    refused(gpu, lambda: gpu.get(memory, NT), vuid="handleType-00662", result=UNKNOWN)


def test_export_of_0_through_nv_is_as_if_it_were_absent(gpu: Gpu) -> None:
    memory = gpu.export_nv(0)
    for handle_type in (NT_NV, KMT_NV):
        refused(
            gpu,
            lambda handle_type=handle_type: gpu.get_nv(memory, handle_type),
            vuid="handleType-01326",
            result=UNKNOWN,
        )


@pytest.mark.parametrize("kind", ["buffer", "image", "image_nv"])
def test_resource_of_0_is_as_if_it_were_absent(gpu: Gpu, kind: str) -> None:
    memory = gpu.allocate()
    if kind == "buffer":
        made = gpu.buffer(0, 4096, vk.VkExternalMemoryBufferCreateInfo(handleTypes=0))
        gpu.bind_buffer(made, memory)
    else:
        structure = (
            vk.VkExternalMemoryImageCreateInfo
            if kind == "image"
            else vk.VkExternalMemoryImageCreateInfoNV
        )
        made = gpu.image(0, structure(handleTypes=0))
        vk.vkBindImageMemory(gpu.device, made, memory, 0)


def test_resource_of_0_takes_no_shared_memory(checked: Gpu) -> None:
    memory = checked.export(NT)
    made = checked.buffer(0, 4096, vk.VkExternalMemoryBufferCreateInfo(handleTypes=0))
    refused(checked, lambda: checked.bind_buffer(made, memory), vuid="02726", result=UNKNOWN)


def test_export_attributes_alone_break_a_rule(gpu: Gpu, name: str) -> None:
    # The prose has them ignored, the rule forbids them: the rule is reported, and without rules
    # the device ignores them, so there is neither a handle nor a name.
    if gpu.checks == "off":
        memory = gpu.allocate(terms(name=name))
        refused(gpu, lambda: gpu.get(memory, NT), result=UNKNOWN)
        refused(gpu, lambda: gpu.take_name(name), result=INVALID)
        return
    refused(gpu, lambda: gpu.allocate(terms(name=name)), vuid="00657", result=UNKNOWN)


# -- queries ------------------------------------------------------------------------------------


def _image_info(chained: Any) -> Any:
    return vk.VkPhysicalDeviceImageFormatInfo2(
        format=RGBA, type=vk.VK_IMAGE_TYPE_2D, usage=IMAGE_TRANSFER, pNext=chained
    )


def test_image_query_of_0_is_as_without_it(gpu: Gpu) -> None:
    plain = vk.VkImageFormatProperties2()
    vk.vkGetPhysicalDeviceImageFormatProperties2(gpu.physical, _image_info(None), plain)
    unwritten = vk.VkExternalImageFormatProperties()
    unwritten.externalMemoryProperties.externalMemoryFeatures = 7
    answer = vk.VkImageFormatProperties2(pNext=unwritten)
    zero = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=0)
    vk.vkGetPhysicalDeviceImageFormatProperties2(gpu.physical, _image_info(zero), answer)
    assert bytes(answer.imageFormatProperties) == bytes(plain.imageFormatProperties)
    assert unwritten.externalMemoryProperties.externalMemoryFeatures == 7


def test_nv_query_of_0_gives_normal_limits(gpu: Gpu) -> None:
    image = (RGBA, vk.VK_IMAGE_TYPE_2D, vk.VK_IMAGE_TILING_OPTIMAL, IMAGE_TRANSFER, 0)
    plain = vk.vkGetPhysicalDeviceImageFormatProperties(gpu.physical, *image)
    found = vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(gpu.physical, *image, 0)
    assert bytes(found.imageFormatProperties) == bytes(plain)
    assert not found.externalMemoryFeatures
    assert not found.exportFromImportedHandleTypes
    assert not found.compatibleHandleTypes


def test_buffer_query_of_0_is_no_query(checked: Gpu) -> None:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=TRANSFER, handleType=0)
    with pytest.raises(extmem.RuleViolation, match="handleType-parameter"):
        vk.vkGetPhysicalDeviceExternalBufferProperties(checked.physical, info)


# -- fetching -----------------------------------------------------------------------------------


def test_get_of_0_is_invalid(gpu: Gpu) -> None:
    memory = gpu.export(NT)
    refused(
        gpu,
        lambda: gpu.get(memory, 0),
        vuid="VkMemoryGetWin32HandleInfoKHR-handleType-parameter",
        result=UNKNOWN,
    )


def test_get_of_0_through_nv_is_invalid(gpu: Gpu) -> None:
    memory = gpu.export_nv(NT_NV)
    refused(gpu, lambda: gpu.get_nv(memory, 0), vuid="handleType-01326", result=UNKNOWN)


if ON_LINUX:

    def test_get_of_0_as_fd_is_invalid(gpu: Gpu) -> None:
        memory = gpu.export(FD)
        info = vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=0)
        refused(
            gpu,
            lambda: vk.vkGetMemoryFdKHR(gpu.device, info),
            vuid="VkMemoryGetFdInfoKHR-handleType-parameter",
            result=UNKNOWN,
        )
