"""Rules of binding buffers and images to memory, by all four commands: each broken and kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import RuleViolation, vk
from extmem.vk.queries import Needs, Queries
from tests.support.bare import HOST, OPAQUE_FD, OPAQUE_WIN32, SIZE, Bare
from tests.support.strict import driver_cannot

BIG = 1 << 20


class Binding:
    """One kind of resource and one way of binding it."""

    def __init__(self, gpu: Bare, what: str, second: bool) -> None:
        self.gpu = gpu
        self.what = what
        self.kind = what.capitalize()
        self.second = second
        self.name = f"vkBind{self.kind}Memory" + "2" * second
        self.command: Any = getattr(vk, self.name)
        self.info: Any = getattr(vk, f"VkBind{self.kind}MemoryInfo")
        gpu.needs(self.name)

    def make(self, types: int = 0, small: bool = False) -> Any:
        if self.what == "buffer":
            return self.gpu.buffer(SIZE // 2 if small else SIZE, types)
        return self.gpu.image(32 if small else 64, types)

    def needed(self, resource: Any) -> Any:
        ask = getattr(vk, f"vkGet{self.kind}MemoryRequirements")
        return ask(self.gpu.device, resource)

    def dedicated(self, resource: Any, **members: Any) -> Any:
        info = vk.VkMemoryDedicatedAllocateInfo(**(members or {self.what: resource}))
        return self.gpu.allocate(info, size=BIG)

    def arguments(self, resource: Any, memory: Any, offset: int) -> tuple[Any, ...]:
        if not self.second:
            return resource, memory, offset
        members = {self.what: resource, "memory": memory, "memoryOffset": offset}
        return 1, [self.info(**members)]

    def vuid(self, buffer: str, image: str, image_info: str = "") -> str:
        last = buffer if self.what == "buffer" else (self.second and image_info) or image
        owner = f"VkBind{self.kind}MemoryInfo" if self.second else self.name
        return f"VUID-{owner}-{last}"

    def refused(
        self, vuids: tuple[str, ...], resource: Any, memory: Any, offset: int = 0
    ) -> list[str]:
        found = self.arguments(resource, memory, offset)
        return self.gpu.breaks(self.vuid(*vuids), self.command, *found)

    def bound(self, resource: Any, memory: Any, offset: int = 0) -> None:
        self.command(self.gpu.device, *self.arguments(resource, memory, offset))


@pytest.fixture(params=["buffer", "buffer 2", "image", "image 2"])
def binding(request: pytest.FixtureRequest, driver: str) -> Iterator[Binding]:
    what, _, second = request.param.partition(" ")
    with Bare(driver) as gpu:
        gpu.take_memory_for_all()
        yield Binding(gpu, what, bool(second))


def test_bound_once(binding: Binding) -> None:
    vuids = ("buffer-07459", "image-07460")
    memory = binding.gpu.allocate(size=BIG)
    resource = binding.make()
    binding.bound(resource, memory)
    binding.refused(vuids, resource, memory)
    if binding.second:
        twice = binding.make()
        members = {binding.what: twice, "memory": memory}
        infos = [binding.info(**members), binding.info(**members)]
        binding.gpu.breaks(binding.vuid(*vuids), binding.command, 2, infos)
        members[binding.what] = binding.make()
        infos[1] = binding.info(**members)
        binding.command(binding.gpu.device, 2, infos)


def test_sparse_resources(binding: Binding) -> None:
    memory = binding.gpu.allocate(size=BIG)
    resource = binding.make()
    binding.gpu.facts(resource)["flags"] = 1
    binding.refused(("buffer-01030", "image-01045"), resource, memory)
    binding.gpu.facts(resource)["flags"] = 0
    binding.bound(resource, memory)


def test_disjoint_images(binding: Binding) -> None:
    if binding.what != "image":
        pytest.skip("hardware: buffers have no planes")
    memory = binding.gpu.allocate(size=BIG)
    resource = binding.make()
    binding.gpu.facts(resource)["flags"] = int(vk.VK_IMAGE_CREATE_DISJOINT_BIT)
    if not binding.second:
        binding.refused(("", "image-01608"), resource, memory)
        return
    planes = [vk.VK_IMAGE_ASPECT_PLANE_0_BIT, vk.VK_IMAGE_ASPECT_PLANE_0_BIT]
    infos = [
        vk.VkBindImageMemoryInfo(
            image=resource,
            memory=memory,
            pNext=vk.VkBindImagePlaneMemoryInfo(planeAspect=plane),
        )
        for plane in planes
    ]
    vuid = binding.vuid("", "image-07460")
    binding.gpu.breaks(vuid, binding.command, 2, infos)


def test_offset_within_the_memory(binding: Binding) -> None:
    resource = binding.make()
    needs = binding.needed(resource)
    size = int(needs.size) + 16 * int(needs.alignment)
    memory = binding.gpu.allocate(size=size)
    vuids = ("memoryOffset-01031", "memoryOffset-01046")
    for offset in (size, size + 4096, (1 << 64) - 4096):
        binding.refused(vuids, resource, memory, offset)
    binding.bound(resource, memory, 16 * int(needs.alignment))


def test_offset_alignment_and_room(binding: Binding) -> None:
    resource = binding.make()
    needs = binding.needed(resource)
    memory = binding.gpu.allocate(size=int(needs.size))
    if needs.alignment > 1:
        vuids = ("None-10739", "None-10735", "pNext-01616")
        binding.refused(vuids, resource, memory, int(needs.alignment) // 2)
    vuids = ("None-10741", "None-10737", "pNext-01617")
    binding.refused(vuids, resource, memory, int(needs.alignment))
    binding.refused(vuids, resource, binding.gpu.allocate(size=int(needs.size) - 1))
    binding.bound(resource, memory)


def test_memory_type(binding: Binding) -> None:
    resource = binding.make()
    needs = binding.needed(resource)
    memory = binding.gpu.allocate(size=BIG)
    facts = binding.gpu.facts(resource)
    other = 0xFFFFFFFF & ~(1 << binding.gpu.visible)
    facts["needs"] = Needs(int(needs.size), int(needs.alignment), other, False)
    binding.refused(("memory-01035", "memory-01047", "pNext-01615"), resource, memory)
    del facts["needs"]
    binding.bound(resource, memory)


def test_dedication_that_is_demanded(binding: Binding) -> None:
    resource = binding.make()
    needs = binding.needed(resource)
    mask = int(needs.memoryTypeBits)
    facts = binding.gpu.facts(resource)
    facts["needs"] = Needs(int(needs.size), int(needs.alignment), mask, True)
    vuids = ("buffer-01444", "image-01445")
    binding.refused(vuids, resource, binding.gpu.allocate(size=BIG))
    binding.bound(resource, binding.dedicated(resource))


def test_memory_that_is_dedicated(binding: Binding) -> None:
    first, second = binding.make(), binding.make()
    memory = binding.dedicated(first)
    vuids = ("memory-01508", "memory-02628")
    binding.refused(vuids, second, memory)
    binding.refused(vuids, first, memory, 4096)
    binding.bound(first, memory)


def test_memory_dedicated_to_an_alias(binding: Binding) -> None:
    if binding.what != "image":
        pytest.skip("hardware: only images have aliases")
    gpu = binding.gpu
    device = gpu.world.find("VkDevice", int(gpu.device))
    device.facts["features"] |= {"dedicatedAllocationImageAliasing"}
    first, alike, small = binding.make(), binding.make(), binding.make(small=True)
    memory = binding.dedicated(small)
    vuids = ("", "memory-02629")
    binding.refused(vuids, first, memory)  # larger than the owner
    memory = binding.dedicated(first)
    binding.refused(vuids, alike, memory, 4096)
    gpu.facts(alike)["format"] += 1
    binding.refused(vuids, alike, memory)
    gpu.facts(alike)["format"] -= 1
    for image in (alike, small):
        binding.bound(image, memory)


def test_memory_dedicated_to_the_other_kind(binding: Binding) -> None:
    gpu = binding.gpu
    other = "image" if binding.what == "buffer" else "buffer"
    foreign = gpu.image() if other == "image" else gpu.buffer()
    memory = binding.dedicated(None, **{other: foreign})
    binding.refused(("memory-10925", "memory-10926"), binding.make(), memory)


def test_dedications_of_nv(binding: Binding) -> None:
    vuids = ("buffer-01038", "image-01050")
    gpu = binding.gpu
    first, alike, other = binding.make(), binding.make(), binding.make(small=True)
    for resource in (first, alike, other):
        gpu.facts(resource)["dedicated_nv"] = True
    plain, memory = gpu.allocate(size=BIG), gpu.allocate(size=BIG)
    gpu.facts(memory)[f"dedicated_{binding.what}_nv"] = int(first)
    binding.refused(vuids, first, plain)
    binding.refused(vuids, other, memory)
    binding.refused(vuids, first, memory, 4096)
    binding.bound(alike, memory)


def test_where_dedication_is_unknown(driver: str) -> None:
    with Bare(driver, version=vk.VK_API_VERSION_1_0) as gpu:
        if gpu.dispatch.enabled("VK_KHR_dedicated_allocation"):
            driver_cannot("it always knows dedicated allocations")
        gpu.take_memory_for_all()
        for what, last in (("buffer", "apiVersion-07920"), ("image", "apiVersion-07921")):
            binding = Binding(gpu, what, second=False)
            memory, resource = gpu.allocate(size=BIG), binding.make()
            gpu.facts(memory)[f"dedicated_{what}_nv"] = int(resource)
            binding.refused((last, last), resource, memory)
            binding.bound(resource, gpu.allocate(size=BIG))


def test_where_dedication_is_unknown_to_the_second_forms(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, resource = binding.gpu.allocate(size=BIG), binding.make()
    binding.gpu.facts(memory)[f"dedicated_{binding.what}_nv"] = int(resource)
    with monkeypatch.context() as patch:
        patch.setattr(type(binding.gpu.dispatch), "enabled", lambda self, name: False)
        binding.refused(("apiVersion-07920", "apiVersion-07921"), resource, memory)
    binding.bound(resource, memory)


def test_exportable_memory(binding: Binding) -> None:
    vuids = ("memory-02726", "memory-02728")
    gpu = binding.gpu
    gpu.needs("vkGetMemoryFdKHR")
    memory = gpu.exportable(size=BIG)
    binding.refused(vuids, binding.make(), memory)
    right = binding.make(OPAQUE_FD)
    gpu.facts(right)["types"] = OPAQUE_WIN32
    binding.refused(vuids, right, memory)
    gpu.facts(right)["types"] = OPAQUE_FD | OPAQUE_WIN32
    binding.bound(right, memory)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
def test_imported_memory(binding: Binding) -> None:
    vuids = ("memory-02985", "memory-02989")
    gpu = binding.gpu
    fd = gpu.fd_of(gpu.exportable(size=BIG))
    memory = gpu.allocate(vk.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd), size=BIG)
    binding.refused(vuids, binding.make(), memory)
    wrong = binding.make()
    gpu.facts(wrong)["types"] = HOST
    binding.refused(vuids, wrong, memory)
    binding.bound(binding.make(OPAQUE_FD), memory)


def test_handles_that_are_not_alive(binding: Binding) -> None:
    resource, memory = binding.make(), binding.gpu.allocate(size=BIG)
    vk.vkFreeMemory(binding.gpu.device, memory)
    name = "pNext-01632" if binding.second else "memory-parameter"
    for dead in (memory, None, 0xDEAD):
        found = binding.arguments(resource, dead, 0)
        vuid = binding.vuid("memory-parameter", name)
        binding.gpu.breaks(vuid, binding.command, *found)


def test_needs_are_asked_once(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    known = Queries._needs

    def counted(self: Queries, *which: Any) -> Needs:
        asked.append(which)
        return known(self, *which)

    monkeypatch.setattr(Queries, "_needs", counted)
    resource = binding.make()
    memory = binding.gpu.allocate(size=BIG)
    for offset in (1 << 30, 1):
        with pytest.raises(RuleViolation):
            binding.bound(resource, memory, offset)
    binding.bound(resource, memory)
    assert len(asked) == 1
