"""What the world learns of command buffers: which resources their commands touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extmem.vk import _structures as s
from extmem.vk._base import Structure
from extmem.vk._dispatch import Dispatch
from extmem.world import Record, World

__all__ = [
    "CHANGES",
    "EXECUTABLE",
    "INITIAL",
    "RECORDING",
    "command_buffer_facts",
    "recorded",
    "spent",
    "touched",
]

# The states of a command buffer; anything else says why it cannot be used.
INITIAL, RECORDING, EXECUTABLE = "initial", "recording", "executable"
_SPENT = "it was recorded to be submitted once, and it was"
_ONCE = 1  # VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT


def command_buffer_facts(info: Any) -> dict[str, Any]:
    """A new command buffer."""
    return {
        "pool": info.commandPool,
        "level": info.level,
        "state": INITIAL,
        "once": False,  # to be submitted once
        "uses": set(),  # the buffers, images and events that its commands touch
        "times": 0,  # how often it was begun or reset
        "calls": set(),  # secondary command buffers, each with its `times` then
        "tells": False,  # it sets an event, by which the host can see how far it came
    }


def touched(world: World, commands: list[int]) -> tuple[frozenset[int], frozenset[Record]]:
    """The memory that command buffers touch; and they themselves, those that they execute, and the
    resources in them. Nothing where an event may tell that they are done.
    """
    memories: set[int] = set()
    todo = [world.find("VkCommandBuffer", value) for value in commands]
    seen: set[Record] = set()
    while todo:
        record = todo.pop()
        if record is None or record in seen:
            continue
        seen.add(record)
        if record.facts["tells"]:
            return frozenset(), frozenset()
        todo += [each for each, _ in record.facts["calls"]]
        for resource in record.facts["uses"]:
            seen.add(resource)
            memory = resource.facts.get("memory")
            if memory is not None and world.has(resource):
                memories.add(memory)
    return frozenset(memories), frozenset(seen)


def _handles(array: Any, count: int) -> list[int]:
    return [int(array[index] or 0) for index in range(count)] if array else []


def _items(array: Any, count: int) -> Iterator[Any]:
    for index in range(count if array else 0):
        yield array[index]


def _forget(record: Record) -> None:
    record.facts["uses"] = set()
    record.facts["calls"] = set()
    record.facts["times"] += 1
    record.facts["tells"] = False


def _reset(dispatch: Dispatch, arguments: list[Any]) -> None:
    record = dispatch.world.find("VkCommandBuffer", int(arguments[0]))
    if record is not None:
        _forget(record)
        record.facts["state"] = INITIAL


def _begun(dispatch: Dispatch, arguments: list[Any]) -> None:
    record = dispatch.world.find("VkCommandBuffer", int(arguments[0]))
    if record is not None:
        _forget(record)
        record.facts["state"] = RECORDING
        record.facts["once"] = bool(arguments[1].flags & _ONCE)


def _ended(dispatch: Dispatch, arguments: list[Any]) -> None:
    record = dispatch.world.find("VkCommandBuffer", int(arguments[0]))
    if record is not None:
        record.facts["state"] = EXECUTABLE


def _pool_reset(dispatch: Dispatch, arguments: list[Any]) -> None:
    pool = dispatch.world.find("VkCommandPool", int(arguments[1]))
    for record in list(dispatch.world.objects.get("VkCommandBuffer", {}).values()):
        if record.parent is pool:
            _forget(record)
            record.facts["state"] = INITIAL


def spent(dispatch: Dispatch, commands: list[int]) -> None:
    """They were submitted."""
    for value in commands:
        record = dispatch.world.find("VkCommandBuffer", value)
        if record is not None and record.facts["once"]:
            record.facts["state"] = _SPENT


def _submitted(dispatch: Dispatch, arguments: list[Any]) -> None:
    for index in range(arguments[1]):
        info = arguments[2][index]
        spent(dispatch, _handles(info.pCommandBuffers, info.commandBufferCount))


def _submitted2(dispatch: Dispatch, arguments: list[Any]) -> None:
    for index in range(arguments[1]):
        info = arguments[2][index]
        infos = _items(info.pCommandBufferInfos, info.commandBufferInfoCount)
        spent(dispatch, [int(each.commandBuffer or 0) for each in infos])


# Members and parameters that name what a command touches.
_TOUCHED = {
    "buffer": "VkBuffer",
    "srcBuffer": "VkBuffer",
    "dstBuffer": "VkBuffer",
    "image": "VkImage",
    "srcImage": "VkImage",
    "dstImage": "VkImage",
    "event": "VkEvent",
}


def recorded(name: str, params: Any, dispatch: Dispatch, arguments: list[Any]) -> None:
    """A command was recorded."""
    found = dispatch.world.find("VkCommandBuffer", int(arguments[0]))
    if found is None:
        return
    if name.startswith("vkCmdSetEvent"):
        found.facts["tells"] = True
    elif name == "vkCmdExecuteCommands":
        for each in _handles(arguments[2], arguments[1]):
            inner = dispatch.world.find("VkCommandBuffer", each)
            if inner is not None:
                found.facts["calls"].add((inner, inner.facts["times"]))
        return
    uses: set[tuple[str, int]] = set()
    for param, value in zip(params, arguments, strict=False):
        kind = _TOUCHED.get(param.name)
        if kind is not None and value:
            uses.add((kind, int(value)))
        elif param.name == "pEvents":
            uses.update(("VkEvent", each) for each in _handles(value, arguments[1]))
        elif isinstance(value, Structure):
            _touched(uses, value)
        elif param.name in _BARRIERS and value is not None:
            for each in value:
                _touched(uses, each)
    touched = (dispatch.world.find(kind, handle) for kind, handle in uses)
    found.facts["uses"].update(each for each in touched if each is not None)


_BARRIERS = ("pBufferMemoryBarriers", "pImageMemoryBarriers")


def _touched(uses: set[tuple[str, int]], item: Any) -> None:
    for member in item._fields_:
        kind = _TOUCHED.get(member[0])
        if kind is not None:
            handle = getattr(item, member[0])
            if handle:
                uses.add((kind, int(handle)))
    if isinstance(item, s.VkDependencyInfo):
        for each in _items(item.pBufferMemoryBarriers, item.bufferMemoryBarrierCount):
            _touched(uses, each)
        for each in _items(item.pImageMemoryBarriers, item.imageMemoryBarrierCount):
            _touched(uses, each)


CHANGES: dict[str, Callable[[Dispatch, list[Any]], None]] = {
    "vkBeginCommandBuffer": _begun,
    "vkEndCommandBuffer": _ended,
    "vkResetCommandBuffer": _reset,
    "vkResetCommandPool": _pool_reset,
    "vkQueueSubmit": _submitted,
    "vkQueueSubmit2": _submitted2,
}
