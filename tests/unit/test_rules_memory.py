"""Rules of vkAllocateMemory, dedicated allocations and exports: each broken and kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extmem import vk
from extmem.vk.queries import External, Limits, Queries
from tests.support.bare import DMA_BUF, HOST, OPAQUE_FD, OPAQUE_WIN32, Bare, fd_info

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")

MASKED = vk.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
IMPORT = "VUID-VkImportMemoryFdInfoKHR"
INFO = "VUID-VkMemoryAllocateInfo"


@pytest.fixture
def gpu(driver: str) -> Iterator[Bare]:
    with Bare(driver) as found:
        yield found


def from_fd(fd: int, handle_type: int = OPAQUE_FD) -> Any:
    return vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)


def exporting(types: int = OPAQUE_FD) -> Any:
    return vk.VkExportMemoryAllocateInfo(handleTypes=types)


def from_host(address: int = 0) -> Any:
    return vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=address)


def from_win32(handle_type: int) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=handle_type, handle=4)


def dedicated(**members: Any) -> Any:
    return vk.VkMemoryDedicatedAllocateInfo(**members)


@pytest.fixture
def shared(gpu: Bare) -> Iterator[int]:
    """A descriptor of SIZE bytes of exportable memory; closed afterwards unless consumed."""
    fd = gpu.fd_of(gpu.exportable())
    found = os.fstat(fd)
    yield fd
    try:
        if os.path.samestat(os.fstat(fd), found):
            os.close(fd)
    except OSError:
        pass


# -- allocating -----------------------------------------------------------------------------------


def test_sizes_are_not_zero(gpu: Bare) -> None:
    gpu.refuses(f"{INFO}-allocationSize-07897", size=0)
    gpu.refuses(f"{INFO}-allocationSize-07899", exporting(), size=0)
    gpu.refuses(f"{INFO}-allocationSize-01742", from_fd(-1), size=0)
    gpu.refuses(f"{INFO}-allocationSize-07897", from_fd(-1, DMA_BUF), size=0)
    gpu.refuses(f"{INFO}-allocationSize-07897", from_fd(-1, 0), size=0)
    gpu.allocate(size=1)
    gpu.exportable(size=4096)


def test_one_source(gpu: Bare) -> None:
    gpu.refuses(f"{INFO}-None-06657", from_fd(-1), from_host(4096))
    gpu.passes(from_fd(-1, 0), from_win32(0))  # type 0 turns an import off


def test_what_shares_comes_with_its_extension(gpu: Bare) -> None:
    """A driver passes over what was not enabled, and what looks shared is not."""
    chain = f"{INFO}-pNext-pNext"
    gpu.refuses(chain, vk.VkExportMemoryWin32HandleInfoNV(dwAccess=1))
    gpu.refuses(chain, vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=1))
    gpu.refuses(chain, from_win32(OPAQUE_WIN32))
    fence = vk.VkExportFenceWin32HandleInfoKHR()
    gpu.breaks(
        "VUID-VkFenceCreateInfo-pNext-pNext", vk.vkCreateFence, vk.VkFenceCreateInfo(pNext=fence)
    )
    gpu.passes(from_win32(0))  # no import, and so nothing is lost
    host = vk.VkPhysicalDeviceExternalMemoryHostPropertiesEXT()  # a question, not to the device
    vk.vkGetPhysicalDeviceProperties2(gpu.physical, vk.VkPhysicalDeviceProperties2(pNext=host))


def test_structures_are_not_mixed(gpu: Bare) -> None:
    for other in (vk.VkExportMemoryAllocateInfoNV(), vk.VkExportMemoryWin32HandleInfoNV()):
        gpu.refuses(f"{INFO}-pNext-00640", exporting(), other)
    nv = vk.VkImportMemoryWin32HandleInfoNV(handleType=0)
    gpu.refuses(f"{INFO}-pNext-00641", from_win32(0), nv)


def test_memory_type_exists(gpu: Bare) -> None:
    for index in (len(gpu.types), 31, 0xFFFFFFFF):
        gpu.refuses("VUID-vkAllocateMemory-pAllocateInfo-01714", index=index)
    for index in range(len(gpu.types)):
        gpu.allocate(index=index)


def test_memory_type_of_an_import_exists(gpu: Bare, shared: int) -> None:
    gpu.refuses("VUID-vkAllocateMemory-pAllocateInfo-01714", from_fd(shared), index=0xFFFFFFFF)


def test_size_fits_the_heap(gpu: Bare) -> None:
    vuid = "VUID-vkAllocateMemory-pAllocateInfo-01713"
    gpu.refuses(vuid, size=gpu.heaps[gpu.visible] + 1)
    gpu.refuses(vuid, exporting(), size=1 << 45)
    # Direct3D knows how large its textures are: what is written here does not count.
    vuids = gpu.refuses(
        f"{INFO}-None-06657",
        from_win32(int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)),
        from_fd(-1),
        size=1 << 45,
    )
    assert vuid not in vuids


def test_allocations_are_counted(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queries, "limits", lambda self: Limits(2, 64))
    first = gpu.allocate()
    gpu.allocate()
    gpu.refuses("VUID-vkAllocateMemory-maxMemoryAllocationCount-04101")
    vk.vkFreeMemory(gpu.device, first)
    gpu.allocate()


def test_memory_is_for_devices_with_queues(gpu: Bare) -> None:
    gpu.allocate()
    device = gpu.device.dispatch.world.find("VkDevice", int(gpu.device))
    assert device.facts["queues"] == 1
    device.facts["queues"] = 0  # not every driver makes such a device
    gpu.refuses("VUID-vkAllocateMemory-device-queuecount", size=8192)


def test_imports_have_their_address_and_contents(gpu: Bare) -> None:
    def capture() -> Any:
        return vk.VkMemoryOpaqueCaptureAddressAllocateInfo(opaqueCaptureAddress=4096)

    gpu.refuses(f"{INFO}-opaqueCaptureAddress-03333", from_fd(-1), capture())
    gpu.refuses(f"{INFO}-pNext-03332", from_host(4096), capture())
    zeroed = vk.VkMemoryAllocateFlagsInfo(flags=vk.VK_MEMORY_ALLOCATE_ZERO_INITIALIZE_BIT_EXT)
    gpu.refuses("VUID-VkMemoryAllocateFlagsInfo-flags-10760", from_fd(-1), zeroed)
    gpu.allocate(vk.VkMemoryAllocateFlagsInfo())


def test_a_dma_buf_has_one_instance(gpu: Bare) -> None:
    def mask(devices: int) -> Any:
        return vk.VkMemoryAllocateFlagsInfo(flags=MASKED, deviceMask=devices)

    vuid = f"{INFO}-None-12523"
    gpu.refuses(vuid, from_fd(-1, DMA_BUF), mask(0b11))
    vuids = gpu.refuses(f"{IMPORT}-handleType-00670", from_fd(-1, OPAQUE_FD), mask(0b11))
    assert vuid not in vuids

    memory = gpu.allocate()
    gpu.facts(memory).update(export=DMA_BUF, mask=0b11)
    gpu.needs("vkGetMemoryFdKHR")
    vuid = "VUID-VkMemoryGetFdInfoKHR-handleType-12524"
    gpu.breaks(vuid, vk.vkGetMemoryFdKHR, fd_info(memory, DMA_BUF))


# -- dedicated allocations ------------------------------------------------------------------------


def test_dedicated_to_one(gpu: Bare) -> None:
    both = dedicated(buffer=gpu.buffer(), image=gpu.image())
    gpu.refuses("VUID-VkMemoryDedicatedAllocateInfo-image-01432", both, size=1 << 20)
    gpu.allocate(dedicated())
    gpu.allocate(dedicated(buffer=gpu.buffer()), size=_needed(gpu, gpu.buffer()))


def _needed(gpu: Bare, resource: Any) -> int:
    if isinstance(resource, vk.VkBuffer):
        return int(vk.vkGetBufferMemoryRequirements(gpu.device, resource).size)
    return int(vk.vkGetImageMemoryRequirements(gpu.device, resource).size)


def test_dedicated_memory_is_large_enough(gpu: Bare) -> None:
    buffer, image = gpu.buffer(), gpu.image()
    for resource, last in ((buffer, "buffer-02965"), (image, "image-02964")):
        member = last.split("-")[0]
        size = _needed(gpu, resource)
        info = dedicated(**{member: resource})
        gpu.refuses(f"VUID-VkMemoryDedicatedAllocateInfo-{last}", info, size=size - 1)
        gpu.allocate(dedicated(**{member: resource}), size=size)


def test_dedicated_to_what_has_one_piece(gpu: Bare) -> None:
    parent = "VUID-VkMemoryDedicatedAllocateInfo"
    image, buffer = gpu.image(), gpu.buffer()
    for resource, member, flag, last in (
        (image, "image", vk.VK_IMAGE_CREATE_SPARSE_BINDING_BIT, "image-01434"),
        (image, "image", vk.VK_IMAGE_CREATE_DISJOINT_BIT, "image-01797"),
        (buffer, "buffer", vk.VK_BUFFER_CREATE_SPARSE_BINDING_BIT, "buffer-01436"),
    ):
        gpu.facts(resource)["flags"] = int(flag)
        gpu.refuses(f"{parent}-{last}", dedicated(**{member: resource}), size=1 << 20)
        gpu.facts(resource)["flags"] = 0
        gpu.allocate(dedicated(**{member: resource}), size=1 << 20)


def test_host_memory_is_not_dedicated(gpu: Bare) -> None:
    buffer = gpu.buffer()
    gpu.refuses(f"{INFO}-pNext-02806", from_host(4096), dedicated(buffer=buffer))
    nv = vk.VkDedicatedAllocationMemoryAllocateInfoNV(buffer=buffer)
    gpu.refuses(f"{INFO}-pNext-02805", from_host(4096), nv)


# -- exporting ------------------------------------------------------------------------------------


def test_types_can_be_exported(gpu: Bare) -> None:
    vuid = "VUID-VkExportMemoryAllocateInfo-handleTypes-09860"
    gpu.refuses(vuid, exporting(HOST << 1))
    gpu.refuses(vuid, exporting(OPAQUE_FD | OPAQUE_WIN32))
    gpu.exportable()
    for member, resource in (("buffer", gpu.buffer()), ("image", gpu.image())):
        info = dedicated(**{member: resource})
        gpu.refuses(vuid, info, exporting(HOST << 1), size=1 << 20)
    gpu.passes(exporting(0))


def test_types_can_be_exported_together_and_again(
    gpu: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    vuid = "VUID-VkExportMemoryAllocateInfo-handleTypes-09860"
    both = OPAQUE_FD | DMA_BUF
    offers = {OPAQUE_FD: External(6, OPAQUE_FD, 0), DMA_BUF: External(6, both, both)}
    monkeypatch.setattr(Queries, "external_plain", lambda self, which: offers[which])
    gpu.refuses(vuid, exporting(both))  # opaque_fd alone is compatible with itself only
    gpu.refuses(vuid, exporting(), from_fd(-1))
    vuids = gpu.refuses(f"{IMPORT}-handleType-00670", exporting(), from_fd(-1, DMA_BUF))
    assert vuid not in vuids
    gpu.allocate(exporting())


def test_dedicated_where_demanded(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    vuid = f"{INFO}-pNext-00639"
    only = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
    offer = External(6 | only, OPAQUE_FD, OPAQUE_FD)
    monkeypatch.setattr(Queries, "external_plain", lambda self, which: offer)
    monkeypatch.setattr(Queries, "external_buffer", lambda self, *which: offer)
    gpu.refuses(vuid, exporting())
    gpu.allocate(exporting(), dedicated(buffer=gpu.buffer(types=OPAQUE_FD)), size=1 << 20)


def test_fetched_type_was_announced(gpu: Bare) -> None:
    gpu.needs("vkGetMemoryFdKHR")
    get, vuid = vk.vkGetMemoryFdKHR, "VUID-VkMemoryGetFdInfoKHR-handleType-00671"
    gpu.breaks(vuid, get, fd_info(gpu.allocate()))
    memory = gpu.exportable()
    gpu.breaks(vuid, get, fd_info(memory, DMA_BUF))
    gpu.breaks("VUID-VkMemoryGetFdInfoKHR-handleType-00672", get, fd_info(memory, OPAQUE_WIN32))
    gpu.breaks("VUID-VkMemoryGetFdInfoKHR-memory-parameter", get, fd_info(None))
    gpu.breaks("VUID-VkMemoryGetFdInfoKHR-memory-parameter", get, fd_info(0xDEAD))
    os.close(gpu.fd_of(memory))


def test_imported_memory_is_not_fetched(gpu: Bare, shared: int) -> None:
    memory = gpu.allocate(from_fd(shared))
    vuid = "VUID-VkMemoryGetFdInfoKHR-handleType-00671"
    gpu.breaks(vuid, vk.vkGetMemoryFdKHR, fd_info(memory))


def test_freed_once(gpu: Bare) -> None:
    memory = gpu.allocate()
    vk.vkFreeMemory(gpu.device, memory)
    vk.vkFreeMemory(gpu.device, None)
    gpu.breaks("VUID-vkFreeMemory-memory-parameter", vk.vkFreeMemory, memory)
    gpu.breaks("VUID-vkFreeMemory-memory-parameter", vk.vkFreeMemory, 0x1234)


# -- all of them ----------------------------------------------------------------------------------


def test_every_rule_of_memory_is_broken_somewhere() -> None:
    from extmem.rules import (
        allocate,
        bind,
        engine,
        export,
        fd,
        get_win32,
        host,
        import_win32,
        mapping,
        nv,
        origins,
    )

    listed = (allocate, bind, export, fd, get_win32, host, import_win32, mapping, nv, origins)
    modules = {each.__name__ for each in listed}
    files = Path(__file__).parent.glob("test_rules_*.py")
    text = "".join(file.read_text() for file in files)
    ours = [each.vuid for each in engine.rules() if each.function.__module__ in modules]
    assert len(set(ours)) > 100
    assert [vuid for vuid in ours if vuid.rsplit("-", 1)[1] not in text] == []
