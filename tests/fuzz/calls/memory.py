"""Right calls for memory: allocated, shared, imported, mapped, freed."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.fuzz.calls.furniture import PAGES
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.pool import Export, Thing
from tests.fuzz.calls.right import right

__all__ = ["ADDRESS", "allocation_for"]

_FD, _NT, _KMT, _DMA, _HOST = 0x1, 0x2, 0x4, 0x200, 0x80
_EXPORT, _IMPORT = 2, 4
_VISIBLE = int(vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)
ADDRESS = int(vk.VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT)
_WHOLE = vk.VK_WHOLE_SIZE
_PAGE = 4096
_EXTENSIONS = {
    _FD: "VK_KHR_external_memory_fd",
    _NT: "VK_KHR_external_memory_win32",
    _KMT: "VK_KHR_external_memory_win32",
    _HOST: "VK_EXT_external_memory_host",
}
_MEMORY = "VkDeviceMemory"


def _offered(hand: Hand, types: tuple[int, ...], feature: int) -> list[int]:
    """Handle types that have this feature here."""
    gpu = hand.gpu
    return [
        each
        for each in types
        if _EXTENSIONS[each] in gpu.extensions and gpu.abilities.buffers.get(each, 0) & feature
    ]


def _info(hand: Hand, size: int, index: int, *chain: Any) -> Call:
    made = vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index)
    return Call("vkAllocateMemory", [hand.gpu.device, vk.link(made, *chain)])


# -- allocate -------------------------------------------------------------------------------------


@right("vkAllocateMemory")
def allocate(hand: Hand) -> Call | None:
    dice = hand.dice
    roll = dice.random()
    found: Call | None = None
    if roll < 0.3:
        found = _exportable(hand)
    elif roll < 0.5:
        found = _imported(hand)
    elif roll < 0.57:
        found = _host(hand)
    elif roll < 0.62 and hand.embedded:
        found = _foreign(hand)
    if found is not None:
        return found
    size = dice.one((4096, 10_000, 1 << 16, 1 << 17, 1 << 18))
    return _info(hand, size, dice.below(len(hand.gpu.types)), *_extras(hand))


def _extras(hand: Hand) -> list[Any]:
    """What may be behind any allocation."""
    found: list[Any] = []
    if "bufferDeviceAddress" in hand.gpu.features and hand.dice.odds(0.6):
        found.append(vk.VkMemoryAllocateFlagsInfo(flags=ADDRESS))
    if "VK_EXT_memory_priority" in hand.gpu.extensions and hand.dice.odds(0.2):
        found.append(vk.VkMemoryPriorityAllocateInfoEXT(priority=0.5))
    return found


def _export_info(hand: Hand, handle_type: int) -> list[Any]:
    dice = hand.dice
    possible = "VK_NV_external_memory_win32" in hand.gpu.extensions and handle_type != _FD
    if possible and dice.odds(0.15):
        nv = {_NT: 1, _KMT: 2}[handle_type]
        return [vk.VkExportMemoryAllocateInfoNV(handleTypes=nv)]
    found: list[Any] = [vk.VkExportMemoryAllocateInfo(handleTypes=handle_type)]
    if handle_type == _NT and dice.odds(0.4):
        name = dice.one(hand.furniture.names) if dice.odds(0.5) and hand.embedded else None
        found.append(
            vk.VkExportMemoryWin32HandleInfoKHR(
                dwAccess=0x1000_0000 if dice.odds(0.5) else 6, name=name
            )
        )
    return found


def _exportable(hand: Hand, size: int = 0, index: int = -1, *more: Any) -> Call | None:
    types = _offered(hand, (_FD, _NT, _KMT), _EXPORT)
    if not types:
        return None
    chosen = hand.dice.one(types)
    size = size or hand.dice.one((4096, 10_000, 1 << 16))
    index = index if index >= 0 else hand.dice.below(len(hand.gpu.types))
    return _info(hand, size, index, *_export_info(hand, chosen), *more)


def _imported(hand: Hand) -> Call | None:
    """From something that was fetched."""
    known = [each for each in hand.pool.exports if each.object == _MEMORY]
    export = hand.dice.any([each for each in known if not each.facts["dedicated"]])
    if export is None or _EXTENSIONS.get(export.handle_type) not in hand.gpu.extensions:
        return None
    return _info(hand, export.facts["size"], export.facts["index"], _import_info(hand, export))


def _import_info(hand: Hand, export: Export) -> Any:
    if export.kind == "fd":
        return vk.VkImportMemoryFdInfoKHR(handleType=export.handle_type, fd=export.value)
    if export.name is not None and hand.dice.odds(0.5):
        return vk.VkImportMemoryWin32HandleInfoKHR(handleType=export.handle_type, name=export.name)
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=export.handle_type, handle=export.value)


def _host(hand: Hand) -> Call | None:
    if not _offered(hand, (_HOST,), _IMPORT):
        return None
    dice, gpu = hand.dice, hand.gpu
    size = _PAGE * dice.one((1, 2, 16))
    address = hand.furniture.good + _PAGE * dice.below((PAGES - size) // _PAGE + 1)
    index = dice.any([i for i, flags in enumerate(gpu.types) if flags & _VISIBLE])
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=_HOST, pHostPointer=address)
    return _info(hand, size, index or 0, info)


def _foreign(hand: Hand) -> Call | None:
    """From what D3D made: a heap, or a texture for an image that waits for one."""
    if "VK_KHR_external_memory_win32" not in hand.gpu.extensions or not hand.gpu.minor:
        return None
    texture, number, keyed, heap, resource = hand.furniture.textures
    sources = {0x8: hand.dice.one((texture, keyed)), 0x10: number, 0x40: resource}
    waiting = hand.pool.those("VkImage", lambda x: x.facts["types"] in sources and _unbound(x))
    image = hand.dice.any(waiting)
    if image is None:
        info = vk.VkImportMemoryWin32HandleInfoKHR(handleType=0x20, handle=heap.handle)
        return _info(hand, heap.size, 0, info)
    source = sources[image.facts["types"]]
    info = vk.VkImportMemoryWin32HandleInfoKHR(
        handleType=image.facts["types"], handle=source.kmt or source.handle
    )
    dedicated = vk.VkMemoryDedicatedAllocateInfo(image=image.handle)
    return _info(hand, source.size, 0, info, dedicated)


def _unbound(resource: Thing) -> bool:
    return resource.facts["memory"] is None and not resource.facts["broken"]


def allocation_for(hand: Hand, resource: Thing) -> Call | None:
    """Memory that a resource can be bound to."""
    needs, dice = resource.facts["needs"], hand.dice
    mask = int(needs.memoryTypeBits)
    index = dice.any([i for i in range(len(hand.gpu.types)) if mask >> i & 1])
    if index is None:
        return None
    more = [vk.VkMemoryAllocateFlagsInfo(flags=ADDRESS)] if resource.facts["address"] else []
    if resource.facts["types"] and resource.facts["types"] not in (_FD, _NT, _KMT):
        return None
    size = int(needs.size)
    if dice.odds(0.4) and hand.gpu.minor:
        kind = "buffer" if resource.kind == "VkBuffer" else "image"
        more.append(vk.VkMemoryDedicatedAllocateInfo(**{kind: resource.handle}))
    elif dice.odds(0.5):
        size = max(size, 1 << 17)
    if resource.facts["types"]:
        more.append(vk.VkExportMemoryAllocateInfo(handleTypes=resource.facts["types"]))
    return _info(hand, size, index, *more)


# -- free, map -------------------------------------------------------------------------------------


@right("vkFreeMemory")
def free(hand: Hand) -> Call | None:
    memory = hand.dice.any(hand.pool.those(_MEMORY, hand.free))
    if memory is None:
        return None
    if hand.dice.odds(0.95):
        memory.facts["views"].clear()
    return Call("vkFreeMemory", [hand.gpu.device, memory.handle])


def _mappable(hand: Hand, mapped: bool) -> Thing | None:
    return hand.dice.any(
        hand.pool.those(
            _MEMORY,
            lambda x: (
                (x.facts["mapped"] is not None) == mapped
                and bool(hand.gpu.types[x.facts["index"]] & _VISIBLE)
            ),
        )
    )


@right("vkMapMemory", "vkMapMemory2")
def map(hand: Hand) -> Call | None:
    memory = _mappable(hand, mapped=False)
    if memory is None:
        return None
    dice, size = hand.dice, memory.facts["size"]
    offset = dice.one((0, 0, 64)) if size > 64 else 0
    length = dice.one((_WHOLE, size - offset, min(64, size)))
    if hand.gpu.has("vkMapMemory2") and dice.odds(0.5):
        info = vk.VkMemoryMapInfo(memory=memory.handle, offset=offset, size=length)
        return Call("vkMapMemory2", [hand.gpu.device, info])
    return Call("vkMapMemory", [hand.gpu.device, memory.handle, offset, length, 0])


@right("vkUnmapMemory", "vkUnmapMemory2")
def unmap(hand: Hand) -> Call | None:
    memory = _mappable(hand, mapped=True)
    if memory is None:
        return map(hand)
    if hand.dice.odds(0.9):
        memory.facts["views"].clear()
    if hand.gpu.has("vkUnmapMemory2") and hand.dice.odds(0.5):
        info = vk.VkMemoryUnmapInfo(memory=memory.handle)
        return Call("vkUnmapMemory2", [hand.gpu.device, info])
    return Call("vkUnmapMemory", [hand.gpu.device, memory.handle])


@right("vkFlushMappedMemoryRanges", "vkInvalidateMappedMemoryRanges")
def flush(hand: Hand) -> Call | None:
    memory = _mappable(hand, mapped=True)
    if memory is None:
        return map(hand)
    offset = memory.facts["mapped"][0]
    whole = vk.VkMappedMemoryRange(memory=memory.handle, offset=offset, size=_WHOLE)
    ranges = [whole] * hand.dice.one((1, 1, 2))
    name = hand.dice.one(("vkFlushMappedMemoryRanges", "vkInvalidateMappedMemoryRanges"))
    return Call(name, [hand.gpu.device, len(ranges), ranges])


# -- handles --------------------------------------------------------------------------------------


def _exporting(hand: Hand, types: int) -> Thing | None:
    return hand.dice.any(hand.pool.those(_MEMORY, lambda x: bool(x.facts["export"] & types)))


@right("vkGetMemoryFdKHR")
def get_fd(hand: Hand) -> Call | None:
    memory = _exporting(hand, _FD)
    if memory is None:
        return _exportable(hand)
    info = vk.VkMemoryGetFdInfoKHR(memory=memory.handle, handleType=_FD)
    return Call("vkGetMemoryFdKHR", [hand.gpu.device, info])


@right("vkGetMemoryWin32HandleKHR")
def get_win32(hand: Hand) -> Call | None:
    memory = _exporting(hand, _NT | _KMT)
    if memory is None:
        return _exportable(hand)
    info = vk.VkMemoryGetWin32HandleInfoKHR(
        memory=memory.handle, handleType=memory.facts["export"] & (_NT | _KMT)
    )
    return Call("vkGetMemoryWin32HandleKHR", [hand.gpu.device, info])


@right("vkGetMemoryWin32HandleNV")
def get_win32_nv(hand: Hand) -> Call | None:
    found = hand.pool.those(_MEMORY, lambda x: bool(x.facts["export_nv"]))
    memory = hand.dice.any(found)
    if memory is None:
        return _exportable(hand)
    arguments = [hand.gpu.device, memory.handle, memory.facts["export_nv"]]
    return Call("vkGetMemoryWin32HandleNV", arguments)


@right("vkGetMemoryWin32HandlePropertiesKHR")
def win32_properties(hand: Hand) -> Call | None:
    if not hand.embedded:
        return None  # only D3D's types may be asked about
    texture, number, keyed, heap, resource = hand.furniture.textures
    which, source = hand.dice.one(
        ((0x8, texture), (0x8, keyed), (0x10, number), (0x20, heap), (0x40, resource))
    )
    arguments = [hand.gpu.device, which, source.kmt or source.handle]
    return Call("vkGetMemoryWin32HandlePropertiesKHR", arguments)


@right("vkGetMemoryHostPointerPropertiesEXT")
def host_properties(hand: Hand) -> Call | None:
    address = hand.furniture.good + _PAGE * hand.dice.below(16)
    return Call("vkGetMemoryHostPointerPropertiesEXT", [hand.gpu.device, _HOST, address])


@right("vkGetDeviceMemoryCommitment")
def commitment(hand: Hand) -> Call | None:
    memory = hand.pool.any(hand.dice, _MEMORY)
    return Call("vkGetDeviceMemoryCommitment", [hand.gpu.device, memory]) if memory else None


@right("vkGetDeviceMemoryOpaqueCaptureAddress")
def capture_address(hand: Hand) -> Call | None:
    memory = hand.dice.any(hand.pool.those(_MEMORY, lambda x: bool(x.facts["address"])))
    if memory is None:
        return None
    info = vk.VkDeviceMemoryOpaqueCaptureAddressInfo(memory=memory.handle)
    return Call("vkGetDeviceMemoryOpaqueCaptureAddress", [hand.gpu.device, info])
