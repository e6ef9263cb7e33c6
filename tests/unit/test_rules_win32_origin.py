"""Rules about where imported Windows handles come from, each broken and kept.

The embedded device knows: the first page of what it shares says what made it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.driver import HandleOrigin, Provenance
from extmem.drivers.embedded import foreign
from extmem.drivers.embedded.limits import DRIVER_UUID, IDENTITIES
from extmem.handles.system import kernel
from extmem.vk.queries import Limits, Queries
from tests.support.strict_side import StrictSide
from tests.support.win32 import (
    HEAP12,
    KMT,
    NT,
    RESOURCE12,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    unique_name,
)

IMPORT = "VUID-VkImportMemoryWin32HandleInfoKHR"
INFO = "VUID-VkMemoryAllocateInfo"
DEDICATED = "VUID-VkMemoryDedicatedAllocateInfo"
BOTH = 0x80000001  # DXGI_SHARED_RESOURCE_READ and WRITE

Dedicated = vk.VkMemoryDedicatedAllocateInfo


@pytest.fixture
def gpu() -> Iterator[StrictSide]:
    with StrictSide() as made:
        yield made


@pytest.fixture
def other() -> Iterator[StrictSide]:
    """The other physical device."""
    with StrictSide(index=1) as made:
        yield made


def by(type: int, handle: int | None = None, name: str | None = None) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=type, handle=handle, name=name)


def named(gpu: StrictSide) -> tuple[str, int]:
    """A name of exported memory, and the handle that holds it."""
    name = unique_name()
    terms = vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=BOTH, name=name)
    return name, gpu.get(gpu.export(NT, terms))


# -- the question ---------------------------------------------------------------------------------


def test_the_embedded_device_answers(gpu: StrictSide) -> None:
    driver = gpu.dispatch.driver
    assert isinstance(driver, Provenance)
    handle = gpu.get(gpu.export(NT, size=8192))
    found = driver.origin_of(NT, handle, None)
    assert found == HandleOrigin(
        types=NT,
        device=IDENTITIES[0].uuid,
        driver=DRIVER_UUID,
        size=8192,
        type_index=1,
        mask=1,
        dedicated="",
    )
    before = kernel().count_handles()
    section = kernel().create_section(8192)
    nothing = HandleOrigin(types=0)
    assert driver.origin_of(NT, section, None) == nothing
    kernel().close(section)
    for type, value, name in ((NT, section, None), (KMT, 6, None), (NT, 0, unique_name())):
        assert driver.origin_of(type, value, name) == nothing
    assert driver.origin_of(1, 3, None) is None  # a descriptor
    assert kernel().count_handles() == before


def test_it_answers_of_what_others_made(gpu: StrictSide) -> None:
    ask = gpu.dispatch.driver.origin_of
    with foreign.texture11(size=SIZE, kmt=True, memory_types=0b011, device=1) as texture:
        found = ask(TEXTURE11_KMT, texture.kmt, None)
        assert (found.types, found.by_vulkan, found.size) == (TEXTURE11_KMT, False, SIZE)
        assert (found.memory_types, found.device) == (0b011, IDENTITIES[1].uuid)
        assert (found.type_index, found.dedicated) == (None, None)


def test_fingerprints_are_those_of_the_create_info(gpu: StrictSide, other: StrictSide) -> None:
    driver = gpu.dispatch.driver

    def of(side: StrictSide, image: Any) -> bytes | None:
        found: bytes | None = driver.fingerprint(int(side.device), "VkImage", int(image))
        return found

    first, wide = gpu.shared_picture(NT), gpu.shared_picture(NT, side=16)
    assert of(gpu, first) == of(other, other.shared_picture(NT))
    assert len({of(gpu, first), of(gpu, wide), of(gpu, gpu.shared_picture(KMT))}) == 3
    assert driver.fingerprint(int(gpu.device), "VkBuffer", int(first)) is None
    assert driver.fingerprint(int(gpu.device), "VkImage", 0xDEAD) is None


# -- of that type ---------------------------------------------------------------------------------


def test_handles_of_another_type(gpu: StrictSide) -> None:
    vuid = f"{IMPORT}-handleType-00661"
    opaque = gpu.get(gpu.export(NT))
    with (
        foreign.heap12(size=SIZE, memory_types=0b010) as heap,
        foreign.resource12(size=SIZE, memory_types=0b010) as resource,
        foreign.texture11(size=SIZE, kmt=True, memory_types=0b010) as numbered,
    ):
        image = gpu.shared_picture(TEXTURE11)
        for type, value, was in (
            (TEXTURE11, heap.handle, "d3d12_heap"),
            (TEXTURE11, opaque, "opaque_win32"),
            (TEXTURE11, resource.handle, "d3d12_resource"),
        ):
            assert f"shared as {was}" in gpu.refuses(vuid, by(type, value), Dedicated(image=image))
        for type, value in ((NT, heap.handle), (HEAP12, opaque), (HEAP12, resource.handle)):
            gpu.refuses(vuid, by(type, value))
        assert "d3d11_texture_kmt" in gpu.refuses(vuid, by(KMT, numbered.kmt))
        gpu.allocate(by(HEAP12, heap.handle))
        numbers = gpu.shared_picture(TEXTURE11_KMT)
        gpu.allocate(by(TEXTURE11_KMT, numbered.kmt), Dedicated(image=numbers))
    gpu.allocate(by(NT, opaque))


def test_names_of_another_type(gpu: StrictSide) -> None:
    vuid = f"{IMPORT}-handleType-01440"
    name, _ = named(gpu)
    number = gpu.get(gpu.export(KMT), KMT)
    heap_name = unique_name()
    with foreign.heap12(size=SIZE, name=heap_name, memory_types=0b010):
        gpu.refuses(vuid, by(HEAP12, name=name))
        gpu.refuses(vuid, by(NT, name=heap_name))
        # What a number is carried by is no name to import.
        gpu.refuses(vuid, by(NT, name=f"Local\\extmem-kmt-{number}"))
        gpu.allocate(by(HEAP12, name=heap_name))
    gpu.allocate(by(NT, name=name))


# -- size and memory type -------------------------------------------------------------------------


@pytest.mark.parametrize("type", [NT, KMT])
def test_size_and_memory_type_of_the_exporter(gpu: StrictSide, type: int) -> None:
    vuid = f"{INFO}-allocationSize-01743"
    handle = gpu.get(gpu.export(type), type)
    for size in (0, 1, SIZE - 1, SIZE + 1, 2 * SIZE):
        text = gpu.refuses(vuid, by(type, handle), size=size)
    assert f"allocationSize {SIZE}" in text
    for index in (0, 2):
        assert "memoryTypeIndex 1" in gpu.refuses(vuid, by(type, handle), index=index)
    gpu.refuses(vuid, by(type, handle), index=2, size=1)
    gpu.allocate(by(type, handle))


def test_size_by_name(gpu: StrictSide) -> None:
    name, _ = named(gpu)
    gpu.refuses(f"{INFO}-allocationSize-01743", by(NT, name=name), size=SIZE + 1)
    gpu.allocate(by(NT, name=name))


def test_size_of_a_heap(gpu: StrictSide) -> None:
    vuid, name = f"{INFO}-allocationSize-00647", unique_name()
    with foreign.heap12(size=8192, memory_types=0b010, name=name) as heap:
        for size in (0, 4096, 8191, 16384):
            gpu.refuses(vuid, by(HEAP12, heap.handle), size=size)
            gpu.refuses(vuid, by(HEAP12, name=name), size=size)
        gpu.allocate(by(HEAP12, heap.handle), size=8192)
        gpu.allocate(by(HEAP12, name=name), size=8192)


def test_memory_types_that_the_device_names(gpu: StrictSide) -> None:
    vuid, name = f"{INFO}-memoryTypeIndex-00645", unique_name()
    with foreign.heap12(size=SIZE, memory_types=0b101, name=name) as heap:
        gpu.refuses(vuid, by(HEAP12, heap.handle), index=1)
        gpu.refuses(vuid, by(HEAP12, name=name), index=1)
        for index in (0, 2):
            gpu.allocate(by(HEAP12, heap.handle), index=index)
            gpu.allocate(by(HEAP12, name=name), index=index)
    with foreign.texture11(size=SIZE, kmt=True, memory_types=0b010) as texture:
        image = gpu.shared_picture(TEXTURE11_KMT)
        gpu.refuses(vuid, by(TEXTURE11_KMT, texture.kmt), Dedicated(image=image), index=0)
        gpu.allocate(by(TEXTURE11_KMT, texture.kmt), Dedicated(image=image), index=1)


def test_the_size_of_a_resource_is_ignored(gpu: StrictSide) -> None:
    for type, make in ((TEXTURE11, foreign.texture11), (RESOURCE12, foreign.resource12)):
        with make(size=SIZE, memory_types=0b010) as resource:
            for size in (0, 1, 1 << 45):
                image = gpu.shared_picture(type)
                block = gpu.allocate(by(type, resource.handle), Dedicated(image=image), size=size)
                vk.vkBindImageMemory(gpu.device, image, block.memory, 0)
                vk.vkDestroyImage(gpu.device, image)
                block.free()


# -- device and driver ----------------------------------------------------------------------------


def test_memory_of_another_device(gpu: StrictSide, other: StrictSide) -> None:
    name, handle = named(gpu)
    number = gpu.get(gpu.export(KMT), KMT)
    elsewhere = {f"{IMPORT}-handle-00659", f"{INFO}-None-00644"}
    for source in (by(NT, handle), by(KMT, number)):
        text = other.refuses(elsewhere | {f"{IMPORT}-handle-01518"}, source)
        assert IDENTITIES[0].uuid.hex() in text
        assert IDENTITIES[1].uuid.hex() in text
    other.refuses(elsewhere | {f"{IMPORT}-name-01519"}, by(NT, name=name))
    gpu.allocate(by(NT, handle))
    gpu.allocate(by(NT, name=name))
    gpu.allocate(by(KMT, number))


def test_another_apis_memory_of_another_device(gpu: StrictSide, other: StrictSide) -> None:
    with foreign.heap12(size=SIZE, memory_types=0b010) as heap:
        vuids = {f"{IMPORT}-handle-00659", f"{IMPORT}-handle-01518"}
        other.refuses(vuids, by(HEAP12, heap.handle))
        gpu.allocate(by(HEAP12, heap.handle))


@contextmanager
def changed(handle: int, offset: int, data: bytes) -> Iterator[None]:
    """Other bytes in the first page of a payload, as another release would write them."""
    address = kernel().map_section(handle, 4096)
    before = ctypes.string_at(address + offset, len(data))
    try:
        ctypes.memmove(address + offset, data, len(data))
        yield
    finally:
        ctypes.memmove(address + offset, before, len(data))
        kernel().unmap_section(address, 4096)


def test_memory_of_another_driver(gpu: StrictSide) -> None:
    name, handle = named(gpu)
    newer = bytes(range(16))
    with changed(handle, 40, newer):
        text = gpu.refuses(f"{IMPORT}-handle-01518", by(NT, handle))
        assert newer.hex() in text
        assert DRIVER_UUID.hex() in text
        gpu.refuses(f"{IMPORT}-name-01519", by(NT, name=name))
        # Nothing else is read that another release may mean otherwise.
        gpu.refuses(f"{IMPORT}-handle-01518", by(NT, handle), size=1, index=2)
    gpu.allocate(by(NT, handle))
    gpu.allocate(by(NT, name=name))


def masked(mask: int) -> Any:
    flag = vk.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
    return vk.VkMemoryAllocateFlagsInfo(flags=flag, deviceMask=mask)


def test_device_mask_of_the_exporter(gpu: StrictSide) -> None:
    vuid = f"{INFO}-None-00643"
    for block in (gpu.export(NT), gpu.export(NT, masked(1))):
        handle = gpu.get(block)
        for mask in (2, 3):
            gpu.refuses(vuid, by(NT, handle), masked(mask))
        gpu.allocate(by(NT, handle), masked(1))
        gpu.allocate(by(NT, handle), vk.VkMemoryAllocateFlagsInfo(deviceMask=2))  # not asked for


# -- dedicated allocations ------------------------------------------------------------------------


@pytest.mark.parametrize("type", [NT, KMT])
@pytest.mark.parametrize("member", ["image", "buffer"])
def test_dedicated_as_the_exporter(gpu: StrictSide, member: str, type: int) -> None:
    last = {"image": "image-01876", "buffer": "buffer-01877"}
    make: dict[str, Callable[..., Any]] = {"image": gpu.shared_picture, "buffer": gpu.buffer}
    mine, alike = make[member](type), make[member](type)
    smaller = gpu.shared_picture(type, side=16) if member == "image" else gpu.buffer(type, size=64)
    another = "buffer" if member == "image" else "image"
    vuid = f"{DEDICATED}-{last[member]}"
    handle = gpu.get(gpu.export(type, Dedicated(**{member: mine})), type)
    text = gpu.refuses(vuid, by(type, handle), Dedicated(**{member: smaller}))
    assert "was not created as" in text
    stranger = Dedicated(**{another: make[another](type)})
    text = gpu.refuses(f"{DEDICATED}-{last[another]}", by(type, handle), stranger)
    assert member in text
    for chain in ([], [Dedicated()]):
        assert "dedicates it to nothing" in gpu.refuses(vuid, by(type, handle), *chain)
    gpu.allocate(by(type, handle), Dedicated(**{member: alike}))


@pytest.mark.parametrize("member", ["image", "buffer"])
def test_not_dedicated_as_the_exporter(gpu: StrictSide, member: str) -> None:
    last = {"image": "image-01876", "buffer": "buffer-01877"}[member]
    resource = gpu.shared_picture(NT) if member == "image" else gpu.buffer(NT)
    handle = gpu.get(gpu.export(NT))
    text = gpu.refuses(f"{DEDICATED}-{last}", by(NT, handle), Dedicated(**{member: resource}))
    assert "dedicated to nothing" in text
    gpu.allocate(by(NT, handle), Dedicated())


# -- imports have their address, contents and source ----------------------------------------------


def test_imports_are_not_zeroed_nor_placed(gpu: StrictSide) -> None:
    handle = gpu.get(gpu.export(NT))
    zeroed = vk.VkMemoryAllocateFlagsInfo(flags=vk.VK_MEMORY_ALLOCATE_ZERO_INITIALIZE_BIT_EXT)
    gpu.refuses("VUID-VkMemoryAllocateFlagsInfo-flags-10760", by(NT, handle), zeroed)
    capture = vk.VkMemoryOpaqueCaptureAddressAllocateInfo(opaqueCaptureAddress=4096)
    gpu.refuses(f"{INFO}-opaqueCaptureAddress-03333", by(NT, handle), capture)
    pointer = vk.VkImportMemoryHostPointerInfoEXT(handleType=0x80, pHostPointer=4096)
    both = {f"{INFO}-None-06657", f"{INFO}-pNext-pNext"}  # the extension is not enabled either
    gpu.refuses(both, by(NT, handle), pointer, size=4096)
    gpu.allocate(by(NT, handle), vk.VkMemoryAllocateFlagsInfo())
    gpu.allocate(by(NT, handle), vk.VkMemoryOpaqueCaptureAddressAllocateInfo())


def test_sizes_of_what_is_no_import(gpu: StrictSide) -> None:
    gpu.refuses(f"{INFO}-allocationSize-07897", size=0)
    gpu.refuses(f"{INFO}-allocationSize-07897", by(0, 4), size=0)
    export = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    gpu.refuses(f"{INFO}-allocationSize-07899", export, size=0)
    gpu.allocate(by(0, 4))
    gpu.allocate(export)


def test_imports_count_as_allocations(gpu: StrictSide, monkeypatch: pytest.MonkeyPatch) -> None:
    block = gpu.export(NT)
    handle = gpu.get(block)
    with monkeypatch.context() as patch:
        patch.setattr(Queries, "limits", lambda self: Limits(1, 64))
        gpu.refuses("VUID-vkAllocateMemory-maxMemoryAllocationCount-04101", by(NT, handle))
    gpu.allocate(by(NT, handle))
