"""What a call that succeeded has changed: the fuzzer's own books, read from the arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from extmem import vk
from extmem.vk.chain import walk
from tests.fuzz.calls.gpu import Look
from tests.fuzz.calls.hand import Batch, Call, Hand
from tests.fuzz.calls.pool import Export, Thing
from tests.fuzz.calls.signals import PATIENCE

__all__ = ["note"]

_TEMPORARY = 1
_COPIES = {"VkSemaphore": 0x10, "VkFence": 0x8}  # SYNC_FD
_NT = {"VkDeviceMemory": ~0x14, "VkSemaphore": ~0x4, "VkFence": ~0x4}  # the others are numbers

Note = Callable[[Hand, list[Any], Any], None]


def note(hand: Hand, call: Call, result: Any) -> None:
    """Read what a call changed. Every handle that came back is to be destroyed one day."""
    name, arguments = call.name, call.arguments
    change = _CHANGES.get(name)
    if change is not None:
        change(hand, arguments, result)
    elif name.startswith("vkDestroy"):
        kind = "Vk" + name.removeprefix("vkDestroy")
        which = arguments[0] if len(arguments) == 1 else arguments[1]
        gone = hand.pool.remove(kind, which)
        if gone is not None and hand.owed.pop(gone, None) is not None:
            hand.blocked = True
    elif name.startswith("vkCmd"):
        _recorded(hand, name, arguments)
    elif name.startswith("vkCreate"):
        hand.pool.add(result)


def _chain(head: Any) -> dict[str, Any]:
    return {type(each).__name__: each for each in walk(head)} if head is not None else {}


def _types(chain: dict[str, Any], name: str) -> int:
    return int(chain[name].handleTypes) if name in chain else 0


# -- memory and what is bound to it ----------------------------------------------------------------


def _allocated(hand: Hand, arguments: list[Any], memory: Any) -> None:
    info = arguments[1]
    chain = _chain(info)
    imported, keyed = 0, False
    for each in ("MemoryFdInfoKHR", "MemoryWin32HandleInfoKHR", "MemoryHostPointerInfoEXT"):
        source = chain.get(f"VkImport{each}")
        if source is not None and source.handleType:
            imported = int(source.handleType)
            if each == "MemoryFdInfoKHR":
                hand.pool.consumed(source.fd)
            elif each == "MemoryWin32HandleInfoKHR":
                keyed = source.handle == hand.furniture.textures[2].handle
    dedicated = chain.get("VkMemoryDedicatedAllocateInfo")
    flags = chain.get("VkMemoryAllocateFlagsInfo")
    terms = chain.get("VkExportMemoryWin32HandleInfoKHR")
    hand.pool.add(
        memory,
        {
            "size": int(info.allocationSize),
            "index": int(info.memoryTypeIndex),
            "export": _types(chain, "VkExportMemoryAllocateInfo"),
            "export_nv": _types(chain, "VkExportMemoryAllocateInfoNV"),
            "imported": imported,
            "keyed": keyed,
            "dedicated": int(dedicated.image or dedicated.buffer) if dedicated else None,
            "address": bool(flags is not None and flags.flags & 2),
            "name": terms.name if terms is not None else None,
            "mapped": None,
            "views": [],
            "resources": [],
        },
    )


def _freed(hand: Hand, arguments: list[Any], result: Any) -> None:
    memory = hand.pool.remove("VkDeviceMemory", arguments[1])
    if memory is not None:
        for each in memory.facts["resources"]:
            each.facts["broken"] = True


def _resource(info: Any, external: str) -> dict[str, Any]:
    return {
        "usage": int(info.usage),
        "types": _types(_chain(info), external),
        "memory": None,
        "broken": False,
        "needs": None,
        "address": False,
    }


def _buffer(hand: Hand, arguments: list[Any], buffer: Any) -> None:
    info = arguments[1]
    facts = _resource(info, "VkExternalMemoryBufferCreateInfo")
    facts["size"] = int(info.size)
    facts["address"] = bool(info.usage & 0x20000)
    if info.flags or info.sharingMode:
        facts["broken"] = True  # nothing is done with it
    hand.pool.add(buffer, facts)


def _image(hand: Hand, arguments: list[Any], image: Any) -> None:
    info = arguments[1]
    facts = _resource(info, "VkExternalMemoryImageCreateInfo")
    made = Look(
        info.format,
        info.imageType,
        (info.extent.width, info.extent.height, info.extent.depth),
        info.mipLevels,
        info.arrayLayers,
        info.samples,
        info.tiling,
        info.usage,
        info.flags,
    )
    known = made in hand.gpu.abilities.looks
    facts |= {"look": made if known else None, "tiling": int(info.tiling), "general": False}
    facts["broken"] = not known
    hand.pool.add(image, facts)


def _needs(kind: str, second: bool) -> Note:
    def change(hand: Hand, arguments: list[Any], result: Any) -> None:
        which = getattr(arguments[1], kind[2:].lower()) if second else arguments[1]
        thing = hand.pool.find(kind, which)
        if thing is not None:
            thing.facts["needs"] = result.memoryRequirements if second else result

    return change


def _bind(hand: Hand, kind: str, resource: Any, memory: Any) -> None:
    thing, where = hand.pool.find(kind, resource), hand.pool.find("VkDeviceMemory", memory)
    if thing is not None and where is not None:
        thing.facts["memory"] = where
        where.facts["resources"].append(thing)


def _bound(kind: str) -> Note:
    return lambda hand, arguments, result: _bind(hand, kind, arguments[1], arguments[2])


def _bound_2(kind: str) -> Note:
    def change(hand: Hand, arguments: list[Any], result: Any) -> None:
        infos = arguments[2]
        infos = [infos] if isinstance(infos, vk.Structure) else list(infos or ())
        for each in infos[: arguments[1]]:
            _bind(hand, kind, getattr(each, kind[2:].lower()), each.memory)

    return change


def _mapped(hand: Hand, arguments: list[Any], view: Any) -> None:
    first = arguments[1]
    info = first if isinstance(first, vk.VkMemoryMapInfo) else None
    memory = hand.pool.find("VkDeviceMemory", info.memory if info is not None else first)
    if memory is not None:
        offset = int(info.offset if info is not None else arguments[2])
        memory.facts["mapped"] = (offset, view.nbytes)
        memory.facts["views"].append(view)
        if not view.readonly and view.nbytes >= 4:
            view[:4] = b"fuzz"
        assert len(bytes(view[:64])) == min(64, view.nbytes)


def _unmapped(hand: Hand, arguments: list[Any], result: Any) -> None:
    first = arguments[1]
    which = first.memory if isinstance(first, vk.VkMemoryUnmapInfo) else first
    memory = hand.pool.find("VkDeviceMemory", which)
    if memory is not None:
        memory.facts["mapped"] = None


def _view(kind: str) -> Note:
    def change(hand: Hand, arguments: list[Any], view: Any) -> None:
        made = hand.pool.add(view)
        thing = hand.pool.find(kind, getattr(arguments[1], kind[2:].lower()))
        if thing is not None:
            made.pin(thing)

    return change


def _transitioned(hand: Hand, arguments: list[Any], result: Any) -> None:
    moves = arguments[2]
    for each in [moves] if isinstance(moves, vk.Structure) else list(moves or ()):
        image = hand.pool.find("VkImage", each.image)
        if image is not None:
            image.facts["general"] = True


# -- handles of the system -------------------------------------------------------------------------


def _fetched(kind: str, nv: bool = False) -> Note:
    member = "memory" if kind == "VkDeviceMemory" else kind[2:].lower()

    def change(hand: Hand, arguments: list[Any], value: Any) -> None:
        info = arguments[1]
        which = info if nv else getattr(info, member)
        handle_type = {1: 2, 2: 4}.get(arguments[2], 0) if nv else int(info.handleType)
        thing = hand.pool.find(kind, which)
        form = "fd" if "Fd" in type(info).__name__ else "nt"
        if form == "nt" and not handle_type & _NT[kind]:
            form = "kmt"
        if form == "fd" and value < 0:
            return  # it was signalled already
        if thing is None or (kind == "VkDeviceMemory" and not handle_type):
            os.close(value) if form == "fd" else None
            return
        name = thing.facts.get("name") if form == "nt" else None
        hand.pool.take(Export(form, kind, int(value), handle_type, thing.facts, name))
        if kind in _COPIES and handle_type & _COPIES[kind]:
            thing.facts["state"] = "reset"
        thing.facts["shared"] = True

    return change


def _imported(kind: str) -> Note:
    def change(hand: Hand, arguments: list[Any], result: Any) -> None:
        info = arguments[1]
        thing = hand.pool.find(kind, getattr(info, kind[2:].lower()))
        if "Fd" in type(info).__name__ and info.fd >= 0:
            hand.pool.consumed(info.fd)
        if thing is not None:
            thing.facts["shared"] = True
            thing.facts["value"] = None
            if not info.flags & _TEMPORARY:
                thing.facts["types"] = int(info.handleType)

    return change


# -- fences, semaphores and events -----------------------------------------------------------------


def _fence(hand: Hand, arguments: list[Any], fence: Any) -> None:
    info = arguments[1]
    facts = {
        "types": _types(_chain(info), "VkExportFenceCreateInfo"),
        "state": "signaled" if info.flags & 1 else "reset",
        "shared": False,
        "timeline": False,
        "value": 0,
    }
    hand.pool.add(fence, facts)


def _semaphore(hand: Hand, arguments: list[Any], semaphore: Any) -> None:
    chain = _chain(arguments[1])
    kind = chain.get("VkSemaphoreTypeCreateInfo")
    timeline = kind is not None and kind.semaphoreType == 1
    facts = {
        "types": _types(chain, "VkExportSemaphoreCreateInfo"),
        "timeline": timeline,
        "value": int(kind.initialValue) if timeline else 0,
        "state": "reset",
        "shared": False,
        "queue": None,
    }
    hand.pool.add(semaphore, facts)


def _event(hand: Hand, arguments: list[Any], event: Any) -> None:
    hand.pool.add(event, {"set": False})


def _event_set(hand: Hand, arguments: list[Any], result: Any) -> None:
    event = hand.pool.find("VkEvent", arguments[1])
    if event is not None:
        event.facts["set"] = True


def _event_reset(hand: Hand, arguments: list[Any], result: Any) -> None:
    event = hand.pool.find("VkEvent", arguments[1])
    if event is not None:
        event.facts["set"] = False


def _ended(hand: Hand, batches: list[Batch]) -> None:
    """These are known to have ended."""
    for batch in batches:
        hand.batches.remove(batch)
        batch.needs.unpin()
        if batch.fence is not None and batch.fence.facts["state"] == "pending":
            batch.fence.facts["state"] = "signaled"
        for each in batch.commands:
            if each.facts["state"] == "pending":
                each.facts["state"] = "invalid" if each.facts["once"] else "executable"


def _fence_seen(hand: Hand, fence: Thing | None) -> None:
    """A fence is signalled: so is all that was submitted to its queue before."""
    if fence is None or fence.facts["shared"]:
        return
    for batch in hand.batches:
        if batch.fence is fence:
            index = hand.batches.index(batch)
            before = [x for x in hand.batches[: index + 1] if x.queue == batch.queue]
            _ended(hand, before)
            return


def _fences_waited(hand: Hand, arguments: list[Any], result: Any) -> None:
    # What came in time may be late another day, and then another run would follow: only those that
    # are waited for until they end.
    _, count, fences, wait_all, timeout = arguments
    if timeout == PATIENCE and (wait_all or count == 1):
        fences = [fences] if isinstance(fences, int) else list(fences or ())
        for each in fences[:count]:
            _fence_seen(hand, hand.pool.find("VkFence", each))


def _fences_reset(hand: Hand, arguments: list[Any], result: Any) -> None:
    fences = arguments[2]
    for each in [fences] if isinstance(fences, int) else list(fences or ())[: arguments[1]]:
        fence = hand.pool.find("VkFence", each)
        if fence is not None:
            fence.facts["state"] = "reset"


def _idle(hand: Hand, arguments: list[Any], result: Any) -> None:
    whose = arguments[0]
    every = isinstance(whose, vk.VkDevice)
    _ended(hand, [each for each in hand.batches if every or each.queue == int(whose)])


def _signaled(hand: Hand, arguments: list[Any], result: Any) -> None:
    info = arguments[1]
    semaphore = hand.pool.find("VkSemaphore", info.semaphore)
    if semaphore is not None:
        semaphore.facts["value"] = max(int(info.value), semaphore.facts["value"] or 0)
        if info.value >= hand.owed.get(semaphore, 1 << 64):
            del hand.owed[semaphore]


def _counted(hand: Hand, arguments: list[Any], result: Any) -> None:
    semaphore = hand.pool.find("VkSemaphore", arguments[1])
    if semaphore is not None and semaphore.facts["value"] is None:
        semaphore.facts["value"] = int(result)


# -- submissions -----------------------------------------------------------------------------------


def _submitted(hand: Hand, arguments: list[Any], result: Any) -> None:
    queue, count, infos, fence = arguments
    needs = Thing("batch", None)
    infos = [infos] if isinstance(infos, vk.Structure) else list(infos or ())
    commands: list[Thing] = []
    for info in infos[:count]:
        waits, signals, handles = _parts(info)
        for handle in handles:
            thing = hand.pool.find("VkCommandBuffer", handle)
            if thing is not None:
                commands.append(thing)
                thing.facts["state"] = "pending"
                needs.pin(thing)
        for handle, value in waits:
            _waited(hand, needs, hand.pool.find("VkSemaphore", handle), value)
        for handle, value in signals:
            _signals(needs, hand.pool.find("VkSemaphore", handle), value, int(queue))
    thing = hand.pool.find("VkFence", fence)
    if thing is not None:
        thing.facts["state"] = "pending"
        needs.pin(thing)
    hand.batches.append(Batch(int(queue), needs, commands, thing))


def _waited(hand: Hand, needs: Thing, thing: Thing | None, value: int) -> None:
    if thing is None:
        return
    needs.pin(thing)
    if not thing.facts["timeline"]:
        hand.blocked |= thing.facts["state"] != "signaled" or thing.facts["shared"]
        thing.facts["state"] = "reset"
    elif thing.facts["shared"] or thing.facts["value"] is None:
        hand.blocked = True
    elif value > thing.facts["value"]:
        if value > thing.facts["value"] + 1:
            hand.blocked = True
        hand.owed[thing] = max(value, hand.owed.get(thing, 0))


def _signals(needs: Thing, thing: Thing | None, value: int, queue: int) -> None:
    if thing is None:
        return
    needs.pin(thing)
    if thing.facts["timeline"]:
        thing.facts["value"] = max(value, thing.facts["value"] or 0)
        thing.facts["queue"] = queue
    else:
        thing.facts["state"] = "signaled"


_Pairs = list[tuple[Any, int]]


def _parts(info: Any) -> tuple[_Pairs, _Pairs, list[Any]]:
    """What is waited for and signalled, with values, and the command buffers."""
    if isinstance(info, vk.VkSubmitInfo2):
        waits = info.pWaitSemaphoreInfos[: info.waitSemaphoreInfoCount]
        signals = info.pSignalSemaphoreInfos[: info.signalSemaphoreInfoCount]
        commands = info.pCommandBufferInfos[: info.commandBufferInfoCount]
        return (
            [(each.semaphore, int(each.value)) for each in waits],
            [(each.semaphore, int(each.value)) for each in signals],
            [each.commandBuffer for each in commands],
        )
    if not isinstance(info, vk.VkSubmitInfo):
        return [], [], []
    times = _chain(info).get("VkTimelineSemaphoreSubmitInfo")
    sides = []
    for side in ("Wait", "Signal"):
        small = side.lower()
        handles = getattr(info, f"p{side}Semaphores")[: getattr(info, f"{small}SemaphoreCount")]
        values: Any = ()
        if times is not None:
            count = getattr(times, f"{small}SemaphoreValueCount")
            values = getattr(times, f"p{side}SemaphoreValues")[:count]
        padded = [*values, *[0] * len(handles)]
        sides.append(list(zip(handles, padded, strict=False)))
    return sides[0], sides[1], list(info.pCommandBuffers[: info.commandBufferCount])


# -- command buffers -------------------------------------------------------------------------------


def _pool(hand: Hand, arguments: list[Any], pool: Any) -> None:
    info = arguments[1]
    facts = {"family": int(info.queueFamilyIndex), "resets": bool(info.flags & 2), "buffers": []}
    hand.pool.add(pool, facts)


def _pool_destroyed(hand: Hand, arguments: list[Any], result: Any) -> None:
    pool = hand.pool.remove("VkCommandPool", arguments[1])
    for each in pool.facts["buffers"] if pool is not None else ():
        hand.pool.remove("VkCommandBuffer", each.handle)


def _buffers(hand: Hand, arguments: list[Any], handles: Any) -> None:
    info = arguments[1]
    pool = hand.pool.find("VkCommandPool", info.commandPool)
    if pool is None:
        return
    for handle in handles:
        facts = {
            "state": "initial",
            "level": int(info.level),
            "pool": pool,
            "family": pool.facts["family"],
            "resets": pool.facts["resets"],
            "once": False,
            "count": 0,
        }
        pool.facts["buffers"].append(hand.pool.add(handle, facts))


def _buffers_freed(hand: Hand, arguments: list[Any], result: Any) -> None:
    handles = arguments[3]
    for each in [handles] if isinstance(handles, int) else list(handles or ())[: arguments[2]]:
        gone = hand.pool.remove("VkCommandBuffer", each)
        if gone is not None:
            gone.facts["pool"].facts["buffers"].remove(gone)


def _to(thing: Thing | None, state: str, once: bool = False) -> None:
    if thing is not None:
        thing.unpin()
        thing.facts |= {"state": state, "count": 0, "once": once}


def _begun(hand: Hand, arguments: list[Any], result: Any) -> None:
    once = bool(arguments[1].flags & 1)
    _to(hand.pool.find("VkCommandBuffer", arguments[0]), "recording", once)


def _finished(hand: Hand, arguments: list[Any], result: Any) -> None:
    thing = hand.pool.find("VkCommandBuffer", arguments[0])
    if thing is not None:
        thing.facts["state"] = "executable"


def _reset(hand: Hand, arguments: list[Any], result: Any) -> None:
    _to(hand.pool.find("VkCommandBuffer", arguments[0]), "initial")


def _pool_reset(hand: Hand, arguments: list[Any], result: Any) -> None:
    pool = hand.pool.find("VkCommandPool", arguments[1])
    for each in pool.facts["buffers"] if pool is not None else ():
        _to(each, "initial")


_HANDLES = (vk.VkBuffer, vk.VkImage, vk.VkEvent, vk.VkCommandBuffer)
_MEMBERS = {
    "buffer": "VkBuffer", "srcBuffer": "VkBuffer", "dstBuffer": "VkBuffer",
    "image": "VkImage", "srcImage": "VkImage", "dstImage": "VkImage",
}  # fmt: skip


def _recorded(hand: Hand, name: str, arguments: list[Any]) -> None:
    """A command was recorded: its buffer needs all that it names."""
    buffer = hand.pool.find("VkCommandBuffer", arguments[0])
    if buffer is None:
        return
    buffer.facts["count"] += 1
    todo: list[Any] = arguments[1:]
    while todo:
        each = todo.pop()
        if isinstance(each, (list, tuple)):
            todo += each
        elif isinstance(each, _HANDLES):
            _pin(hand, buffer, type(each).__name__, each)
        elif isinstance(each, vk.VkDependencyInfo):
            todo += each.pBufferMemoryBarriers[: each.bufferMemoryBarrierCount]
            todo += each.pImageMemoryBarriers[: each.imageMemoryBarrierCount]
        elif isinstance(each, vk.Structure):
            for member, *_ in each._fields_:
                if member in _MEMBERS:
                    _pin(hand, buffer, _MEMBERS[member], getattr(each, member))


def _pin(hand: Hand, buffer: Thing, kind: str, value: Any) -> None:
    thing = hand.pool.find(kind, value)
    if thing is not None:
        buffer.pin(thing)
        memory = thing.facts.get("memory")
        if memory is not None:
            buffer.pin(memory)


_CHANGES: dict[str, Note] = {
    "vkAllocateMemory": _allocated,
    "vkFreeMemory": _freed,
    "vkCreateBuffer": _buffer,
    "vkCreateImage": _image,
    "vkGetBufferMemoryRequirements": _needs("VkBuffer", False),
    "vkGetBufferMemoryRequirements2": _needs("VkBuffer", True),
    "vkGetImageMemoryRequirements": _needs("VkImage", False),
    "vkGetImageMemoryRequirements2": _needs("VkImage", True),
    "vkBindBufferMemory": _bound("VkBuffer"),
    "vkBindBufferMemory2": _bound_2("VkBuffer"),
    "vkBindImageMemory": _bound("VkImage"),
    "vkBindImageMemory2": _bound_2("VkImage"),
    "vkMapMemory": _mapped,
    "vkMapMemory2": _mapped,
    "vkUnmapMemory": _unmapped,
    "vkUnmapMemory2": _unmapped,
    "vkCreateBufferView": _view("VkBuffer"),
    "vkCreateImageView": _view("VkImage"),
    "vkTransitionImageLayout": _transitioned,
    "vkGetMemoryFdKHR": _fetched("VkDeviceMemory"),
    "vkGetMemoryWin32HandleKHR": _fetched("VkDeviceMemory"),
    "vkGetMemoryWin32HandleNV": _fetched("VkDeviceMemory", nv=True),
    "vkGetSemaphoreFdKHR": _fetched("VkSemaphore"),
    "vkGetSemaphoreWin32HandleKHR": _fetched("VkSemaphore"),
    "vkGetFenceFdKHR": _fetched("VkFence"),
    "vkGetFenceWin32HandleKHR": _fetched("VkFence"),
    "vkImportSemaphoreFdKHR": _imported("VkSemaphore"),
    "vkImportSemaphoreWin32HandleKHR": _imported("VkSemaphore"),
    "vkImportFenceFdKHR": _imported("VkFence"),
    "vkImportFenceWin32HandleKHR": _imported("VkFence"),
    "vkCreateFence": _fence,
    "vkCreateSemaphore": _semaphore,
    "vkCreateEvent": _event,
    "vkSetEvent": _event_set,
    "vkResetEvent": _event_reset,
    "vkWaitForFences": _fences_waited,
    "vkResetFences": _fences_reset,
    "vkQueueWaitIdle": _idle,
    "vkDeviceWaitIdle": _idle,
    "vkSignalSemaphore": _signaled,
    "vkGetSemaphoreCounterValue": _counted,
    "vkQueueSubmit": _submitted,
    "vkQueueSubmit2": _submitted,
    "vkQueueBindSparse": _submitted,
    "vkCreateCommandPool": _pool,
    "vkDestroyCommandPool": _pool_destroyed,
    "vkAllocateCommandBuffers": _buffers,
    "vkFreeCommandBuffers": _buffers_freed,
    "vkBeginCommandBuffer": _begun,
    "vkEndCommandBuffer": _finished,
    "vkResetCommandBuffer": _reset,
    "vkResetCommandPool": _pool_reset,
}
