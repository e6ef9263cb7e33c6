"""Rules of creating resources for Windows handles and of binding them, each broken and kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.embedded import foreign
from extmem.vk.queries import Needs, Queries
from tests.support.strict_side import StrictSide
from tests.support.win32 import HEAP12, KMT, NT, NT_NV, RESOURCE12, SIZE, TEXTURE11

Dedicated = vk.VkMemoryDedicatedAllocateInfo
BIG = 4 * SIZE


@pytest.fixture
def gpu() -> Iterator[StrictSide]:
    with StrictSide() as made:
        yield made


def by(type: int, handle: int) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=type, handle=handle)


class Way:
    """One kind of resource, bound by one of its two commands."""

    def __init__(self, gpu: StrictSide, what: str) -> None:
        self.gpu = gpu
        self.what, _, second = what.partition(" ")
        kind = self.what.capitalize()
        self.second = bool(second)
        self.command = getattr(vk, f"vkBind{kind}Memory{second}")
        self.info = getattr(vk, f"VkBind{kind}MemoryInfo")
        self.owner = f"VkBind{kind}MemoryInfo" if second else f"vkBind{kind}Memory"

    def make(self, types: int, small: bool = False) -> Any:
        if self.what == "buffer":
            return self.gpu.buffer(types, size=SIZE // 2 if small else SIZE)
        external = [vk.VkExternalMemoryImageCreateInfo(handleTypes=types)] if types else []
        return self.gpu.picture(*external, side=16 if small else 32)

    def dedicated(self, resource: Any) -> Any:
        return Dedicated(**{self.what: resource})

    def _arguments(self, resource: Any, memory: Any, offset: int) -> tuple[Any, ...]:
        if not self.second:
            return self.gpu.device, resource, memory, offset
        members = {self.what: resource, "memory": memory, "memoryOffset": offset}
        return self.gpu.device, 1, [self.info(**members)]

    def refused(
        self, vuids: tuple[str, str], resource: Any, block: Any, offset: int = 0, *more: str
    ) -> None:
        """By the rule for buffers or that for images, and by `more` of its owner's."""
        names = {vuids[self.what == "image"], *more}
        wanted = {f"VUID-{self.owner}-{name}" for name in names}
        self.gpu.breaks(wanted, self.command, *self._arguments(resource, block.memory, offset))

    def bound(self, resource: Any, block: Any, offset: int = 0) -> None:
        self.command(*self._arguments(resource, block.memory, offset))


@pytest.fixture(params=["buffer", "buffer 2", "image", "image 2"])
def way(request: pytest.FixtureRequest, gpu: StrictSide) -> Way:
    return Way(gpu, request.param)


# -- creating -------------------------------------------------------------------------------------


def image_breaks(gpu: StrictSide, vuids: str | set[str], *chain: Any, **members: Any) -> None:
    gpu.breaks(vuids, vk.vkCreateImage, gpu.device, gpu.picture_info(*chain, **members))


def external(types: int) -> Any:
    return vk.VkExternalMemoryImageCreateInfo(handleTypes=types)


def external_nv(types: int) -> Any:
    return vk.VkExternalMemoryImageCreateInfoNV(handleTypes=types)


def test_structures_are_not_mixed(gpu: StrictSide) -> None:
    vuid = "VUID-VkImageCreateInfo-pNext-00988"
    for core, nv in ((NT, NT_NV), (NT, 0), (0, NT_NV), (0, 0)):  # by presence
        image_breaks(gpu, vuid, external(core), external_nv(nv))
    for one in (external(NT), external(0), external_nv(NT_NV), external_nv(0)):
        gpu.picture(one)


def test_types_that_go_together(gpu: StrictSide) -> None:
    both = NT | KMT
    image_breaks(gpu, "VUID-VkImageCreateInfo-pNext-00990", external(both))
    info = vk.VkBufferCreateInfo(
        size=SIZE, usage=1, pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=both)
    )
    gpu.breaks("VUID-VkBufferCreateInfo-pNext-00920", vk.vkCreateBuffer, gpu.device, info)
    for types in (NT, KMT):
        gpu.picture(external(types))
        gpu.buffer(types)


@pytest.mark.parametrize("shared", [external(NT), external(TEXTURE11), external_nv(NT_NV)])
def test_shared_images_start_undefined(gpu: StrictSide, shared: Any) -> None:
    linear = {"tiling": vk.VK_IMAGE_TILING_LINEAR}
    first = vk.VK_IMAGE_LAYOUT_PREINITIALIZED
    kind, types = type(shared), shared.handleTypes
    image_breaks(
        gpu,
        "VUID-VkImageCreateInfo-pNext-01443",
        kind(handleTypes=types),
        initialLayout=first,
        **linear,
    )
    gpu.picture(kind(handleTypes=types), initialLayout=vk.VK_IMAGE_LAYOUT_UNDEFINED)
    gpu.picture(kind(handleTypes=0), initialLayout=first, **linear)


# -- types of memory and resource -----------------------------------------------------------------


@pytest.mark.parametrize("type", [NT, KMT])
def test_exportable_memory(way: Way, type: int) -> None:
    vuids = ("memory-02726", "memory-02728")
    block = way.gpu.export(type, size=BIG)
    for types in (0, NT ^ KMT ^ type):
        way.refused(vuids, way.make(types), block)
    way.bound(way.make(type), block)
    way.bound(way.make(type), block, SIZE)


@pytest.mark.parametrize("type", [NT, KMT])
def test_imported_memory(way: Way, type: int) -> None:
    vuids = ("memory-02985", "memory-02989")
    gpu = way.gpu
    block = gpu.allocate(by(type, gpu.get(gpu.export(type), type)))
    for types in (0, NT ^ KMT ^ type):
        way.refused(vuids, way.make(types), block)
    way.bound(way.make(type), block)


def test_an_imported_heap(gpu: StrictSide) -> None:
    way = Way(gpu, "buffer")
    with foreign.heap12(size=BIG, memory_types=0b010) as heap:
        block = gpu.allocate(by(HEAP12, heap.handle), size=BIG)
        for types in (0, NT):
            way.refused(("memory-02985", ""), way.make(types), block)
        way.bound(way.make(HEAP12), block, SIZE)
        block.free()


def test_memory_through_nv_is_no_import_operation(way: Way) -> None:
    """Bind rules know of KHR's imports and exports alone; that it is NV's is known all the same."""
    gpu = way.gpu
    exported = gpu.export_nv(NT_NV)
    handle = gpu.get_nv(exported)
    block = gpu.allocate(vk.VkImportMemoryWin32HandleInfoNV(handleType=NT_NV, handle=handle))
    facts = gpu.facts(block.memory)
    assert (facts["import"], facts["import_nv"]) == (0, NT_NV)
    assert gpu.facts(exported.memory)["export_nv"] == NT_NV
    way.bound(way.make(0), block)
    way.bound(way.make(0), exported)


# -- dedicated memory -----------------------------------------------------------------------------


def test_dedicated_memory_is_for_its_owner(way: Way) -> None:
    gpu, vuids = way.gpu, ("memory-01508", "memory-02628")
    owner, other = way.make(NT), way.make(NT)
    exported = gpu.export(NT, way.dedicated(owner))
    handle = gpu.get(exported)
    way.refused(vuids, other, exported)
    way.bound(owner, exported)
    imported = gpu.allocate(by(NT, handle), way.dedicated(other))
    third = way.make(NT)
    way.refused(vuids, third, imported)
    way.bound(other, imported)


def test_dedicated_memory_is_bound_at_its_start(way: Way) -> None:
    gpu, vuids = way.gpu, ("memory-01508", "memory-02628")
    owner = way.make(NT)
    block = gpu.export(NT, way.dedicated(owner), size=BIG)
    way.refused(vuids, owner, block, 1024)
    way.bound(owner, block)


def test_dedicated_memory_is_for_its_kind(way: Way) -> None:
    gpu, vuids = way.gpu, ("memory-10925", "memory-10926")
    another = Way(gpu, "image" if way.what == "buffer" else "buffer")
    owner = another.make(NT)
    block = gpu.export(NT, another.dedicated(owner))
    way.refused(vuids, way.make(NT), block)
    another.bound(owner, block)


def test_an_equal_image_where_aliasing_is_on(gpu: StrictSide) -> None:
    """dedicatedAllocationImageAliasing, which no device here has: as if it had been enabled."""
    way = Way(gpu, "image")
    device = gpu.world.find("VkDevice", int(gpu.device))
    device.facts["features"] = {"dedicatedAllocationImageAliasing"}
    owner = way.make(NT)
    block = gpu.export(NT, way.dedicated(owner), size=BIG)
    way.refused(("", "memory-02629"), way.make(KMT), block, 0, "memory-02728")
    way.refused(("", "memory-02629"), owner, block, 1024)
    way.bound(way.make(NT, small=True), block)


def test_a_resource_of_another_api_is_dedicated(gpu: StrictSide) -> None:
    for what, type in (("image", TEXTURE11), ("buffer", RESOURCE12), ("image", RESOURCE12)):
        way = Way(gpu, what)
        make = foreign.texture11 if type == TEXTURE11 else foreign.resource12
        with make(size=SIZE, memory_types=0b010) as resource:
            owner, plain = way.make(type), gpu.allocate(size=BIG)
            way.refused(("buffer-01444", "image-01445"), owner, plain)
            block = gpu.allocate(by(type, resource.handle), way.dedicated(owner))
            way.bound(owner, block)
            block.free()


# -- places ---------------------------------------------------------------------------------------


def test_a_place_within_shared_memory(way: Way) -> None:
    gpu = way.gpu
    exported = gpu.export(NT, size=BIG)
    block = gpu.allocate(by(NT, gpu.get(exported)), size=BIG)
    end = {"buffer": "None-10741", "image": "None-10737"}[way.what]
    align = {"buffer": "None-10739", "image": "None-10735"}[way.what]
    if way.owner == "VkBindImageMemoryInfo":
        end, align = "pNext-01617", "pNext-01616"
    beyond = ("memoryOffset-01031", "memoryOffset-01046")
    for memory in (exported, block):
        resource = way.make(NT)
        way.refused(beyond, resource, memory, BIG)
        way.refused((end, end), resource, memory, BIG - 1024)
        way.refused((align, align), resource, memory, 1)
        way.bound(resource, memory, BIG - SIZE)
        way.refused(("buffer-07459", "image-07460"), resource, memory)


def test_memory_types_of_an_import(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = way.gpu
    block = gpu.allocate(by(NT, gpu.get(gpu.export(NT))))
    name = "memory-01035" if way.what == "buffer" else "memory-01047"
    if way.owner == "VkBindImageMemoryInfo":
        name = "pNext-01615"
    resource = way.make(NT)
    with monkeypatch.context() as patch:
        patch.setattr(Queries, f"{way.what}_needs", lambda self, which: Needs(64, 64, 0b101, False))
        way.refused((name, name), resource, block)
    way.bound(resource, block)
