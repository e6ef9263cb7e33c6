"""What the world learns from a call that succeeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extmem.handle_types import MEMORY
from extmem.vk._base import Structure, VkHandle
from extmem.vk._dispatch import Dispatch
from extmem.vk._prototype import Prototype
from extmem.vk.queries import Queries
from extmem.vk.record_commands import CHANGES as RECORDING
from extmem.vk.record_commands import command_buffer_facts, recorded
from extmem.vk.record_submits import BEFORE, ENDED, Undo
from extmem.vk.record_sync import fence_facts, semaphore_facts
from extmem.world import Origin, World, payloads

__all__ = [
    "begins",
    "chain_of",
    "done",
    "fetched",
    "made",
    "made_with",
    "memory_facts",
]

Facts = dict[str, Any]

# What the caller writes of their size is ignored: the system knows it.
_SIZED_ELSEWHERE = sum(each.bit for each in MEMORY if each.size == "handle")


def chain_of(item: Any) -> dict[str, Structure]:
    """The structures of a chain by name, the first included."""
    found: dict[str, Structure] = {}
    while item is not None and type(item).__name__ not in found:
        found[type(item).__name__] = item
        item = item.pNext if type(item)._stype_ is not None else None
    return found


def made(prototype: Prototype, dispatch: Dispatch, arguments: list[Any], handle: VkHandle) -> None:
    """An object came to be."""
    kind = type(handle).__name__
    facts: Facts = {}
    parent = None
    gather = _FACTS.get(kind)
    if gather is not None:
        info = next((a for a in arguments if isinstance(a, Structure)), None)
        facts = gather(info, chain_of(info), arguments)
    if kind == "VkCommandBuffer":
        parent = dispatch.world.find("VkCommandPool", facts["pool"])
    dispatch.world.add(kind, int(handle), parent, **facts)


def begins(prototype: Prototype, dispatch: Dispatch, arguments: list[Any]) -> Undo | None:
    """A command is about to be driven. What comes back is to be called if it fails."""
    note = BEFORE.get(prototype.name)
    return note(dispatch, arguments) if note is not None else None


def done(prototype: Prototype, dispatch: Dispatch, arguments: list[Any], result: Any = 0) -> None:
    """A command without output succeeded."""
    name = prototype.name
    change = _CHANGES.get(name)
    if change is not None:
        change(dispatch, arguments)
    elif name in ENDED:
        ENDED[name](dispatch, arguments, result)
    elif name.startswith("vkCmd"):
        recorded(name, prototype.params, dispatch, arguments)
    elif name.startswith("vkDestroy") and len(arguments) > 1:
        param = prototype.params[1]
        if arguments[1]:
            dispatch.world.remove(param.python.__name__, int(arguments[1]))


def fetched(
    dispatch: Dispatch, memory: int, handle_type: int, fd: int = -1, *, nv: bool = False
) -> None:
    """A handle of this type was fetched from a memory object; `fd` if it is a descriptor.

    NV's types are numbers of their own, and are noted apart.
    """
    found = dispatch.world.find("VkDeviceMemory", int(memory))
    if found is None:
        return
    found.facts["fetched_nv" if nv else "fetched"].add(int(handle_type))
    if fd < 0:
        return
    asked = Queries(dispatch)
    seen = asked.descriptor(fd)
    # Behind a character device there is a driver, not a payload: all of its fds look the same.
    if seen is None or seen.kind not in ("memfd", "dma-buf"):
        return
    facts = found.facts
    dedicated = ""
    created = None
    for kind, resource in (
        ("VkBuffer", facts["dedicated_buffer"] or facts["dedicated_buffer_nv"]),
        ("VkImage", facts["dedicated_image"] or facts["dedicated_image_nv"]),
    ):
        if resource:
            dedicated, created = kind, made_with(dispatch.world, kind, resource)
    device, driver = asked.identity() or (None, None)
    payloads.add(
        seen.identity,
        Origin(
            types=int(handle_type),
            size=facts["size"],
            type_index=facts["type_index"],
            device=device,
            driver=driver,
            mask=facts["mask"],
            dedicated=dedicated,
            made_with=created,
            length=seen.size,
        ),
    )


def made_with(world: World, kind: str, resource: int) -> tuple[Any, ...] | None:
    """How a buffer or image was created, comparable; None if it is not alive."""
    found = world.find(kind, int(resource))
    if found is None:
        return None
    later = ("memory", "bound", "offset", "needs")  # what became of it afterwards
    return tuple((name, found.facts[name]) for name in sorted(found.facts) if name not in later)


# -- what is kept of each kind --------------------------------------------------------------------


def _external_types(chain: dict[str, Structure], *names: str) -> int:
    for name in names:
        if name in chain:
            return int(chain[name].handleTypes)
    return 0


def _buffer(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    nv = chain.get("VkDedicatedAllocationBufferCreateInfoNV")
    return {
        "size": info.size,
        "usage": info.usage,
        "flags": info.flags,
        "sharing": info.sharingMode,
        "types": _external_types(chain, "VkExternalMemoryBufferCreateInfo"),
        "dedicated_nv": bool(nv is not None and nv.dedicatedAllocation),
        "memory": None,  # the handle, and the object behind it
        "bound": None,
    }


def _image(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    nv = chain.get("VkDedicatedAllocationImageCreateInfoNV")
    return {
        "format": info.format,
        "flags": info.flags,
        "tiling": info.tiling,
        "usage": info.usage,
        "sharing": info.sharingMode,
        "type": info.imageType,
        "extent": (info.extent.width, info.extent.height, info.extent.depth),
        "levels": info.mipLevels,
        "layers": info.arrayLayers,
        "samples": info.samples,
        "types": _external_types(chain, "VkExternalMemoryImageCreateInfo"),
        "types_nv": _external_types(chain, "VkExternalMemoryImageCreateInfoNV"),
        "dedicated_nv": bool(nv is not None and nv.dedicatedAllocation),
        "memory": None,  # the handle, and the object behind it
        "bound": None,
    }


def memory_facts(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    """What is kept of an allocation; `extmem.vk.memories` adds what only it knows."""
    dedicated = chain.get("VkMemoryDedicatedAllocateInfo")
    dedicated_nv = chain.get("VkDedicatedAllocationMemoryAllocateInfoNV")
    fd = chain.get("VkImportMemoryFdInfoKHR")
    host = chain.get("VkImportMemoryHostPointerInfoEXT")
    imported = 0
    for source in (fd, host, chain.get("VkImportMemoryWin32HandleInfoKHR")):
        if source is not None and source.handleType:
            imported = int(source.handleType)
    # Not an "import operation" in the specification's words, so no rule of imports asks for it.
    source_nv = chain.get("VkImportMemoryWin32HandleInfoNV")
    flags = chain.get("VkMemoryAllocateFlagsInfo")
    return {
        "size": 0 if imported & _SIZED_ELSEWHERE else info.allocationSize,  # 0: unknown here
        "type_index": info.memoryTypeIndex,
        "export": _external_types(chain, "VkExportMemoryAllocateInfo"),
        "export_nv": _external_types(chain, "VkExportMemoryAllocateInfoNV"),
        "import": imported,
        "import_nv": int(source_nv.handleType) if source_nv is not None else 0,
        "dedicated_buffer": dedicated.buffer if dedicated is not None else 0,
        "dedicated_image": dedicated.image if dedicated is not None else 0,
        "dedicated_buffer_nv": dedicated_nv.buffer if dedicated_nv is not None else 0,
        "dedicated_image_nv": dedicated_nv.image if dedicated_nv is not None else 0,
        "flags": int(flags.flags) if flags is not None else 0,
        "mask": int(flags.deviceMask) if flags is not None and flags.flags & 1 else 0,
        "mapped": None,
        "fetched": set(),
        "fetched_nv": set(),
    }


def _fence(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    return fence_facts(info, _external_types(chain, "VkExportFenceCreateInfo"))


def _semaphore(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    kind = chain.get("VkSemaphoreTypeCreateInfo")
    timeline = bool(kind is not None and kind.semaphoreType == 1)
    return semaphore_facts(info, timeline, _external_types(chain, "VkExportSemaphoreCreateInfo"))


def _command_pool(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    return {"family": info.queueFamilyIndex, "flags": info.flags}


def _command_buffer(info: Any, chain: dict[str, Structure], arguments: list[Any]) -> Facts:
    return command_buffer_facts(info)


_FACTS: dict[str, Callable[[Any, dict[str, Structure], list[Any]], Facts]] = {
    "VkBuffer": _buffer,
    "VkImage": _image,
    "VkFence": _fence,
    "VkSemaphore": _semaphore,
    "VkCommandPool": _command_pool,
    "VkCommandBuffer": _command_buffer,
}


# -- what changes later ---------------------------------------------------------------------------


def _bound(dispatch: Dispatch, kind: str, resource: Any, memory: Any, offset: int) -> None:
    found = dispatch.world.find(kind, int(resource))
    if found is not None:
        found.facts["memory"] = int(memory)
        found.facts["bound"] = dispatch.world.find("VkDeviceMemory", int(memory))
        found.facts["offset"] = offset


def _bind_buffer(dispatch: Dispatch, arguments: list[Any]) -> None:
    _, buffer, memory, offset = arguments
    _bound(dispatch, "VkBuffer", buffer, memory, offset)


def _bind_image(dispatch: Dispatch, arguments: list[Any]) -> None:
    _, image, memory, offset = arguments
    _bound(dispatch, "VkImage", image, memory, offset)


def _bind_buffers(dispatch: Dispatch, arguments: list[Any]) -> None:
    for index in range(arguments[1]):
        info = arguments[2][index]
        _bound(dispatch, "VkBuffer", info.buffer, info.memory, info.memoryOffset)


def _bind_images(dispatch: Dispatch, arguments: list[Any]) -> None:
    for index in range(arguments[1]):
        info = arguments[2][index]
        _bound(dispatch, "VkImage", info.image, info.memory, info.memoryOffset)


def _free_command_buffers(dispatch: Dispatch, arguments: list[Any]) -> None:
    for value in arguments[3] or ():
        if value:
            dispatch.world.remove("VkCommandBuffer", value)


_CHANGES: dict[str, Callable[[Dispatch, list[Any]], None]] = {
    "vkBindBufferMemory": _bind_buffer,
    "vkBindImageMemory": _bind_image,
    "vkBindBufferMemory2": _bind_buffers,
    "vkBindImageMemory2": _bind_images,
    "vkFreeCommandBuffers": _free_command_buffers,
    **RECORDING,
}
