"""Right calls for command buffers: made, recorded, reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extmem import vk
from tests.fuzz.calls.gpu import Look
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.pool import Thing
from tests.fuzz.calls.resources import bind, create_image, usable
from tests.fuzz.calls.right import right
from tests.fuzz.calls.signals import create_event

__all__ = ["free_pool"]

_BUFFER, _POOL = "VkCommandBuffer", "VkCommandPool"
_GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
_RESET = int(vk.VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT)
_STAGES = (0x1, 0x1000, 0x4000, 0x10000)
_ACCESSES = (0, 0x800, 0x1000, 0x8000, 0x10000)
_STAGES_2 = (0, 0x1000, 0x10000)
_EXTERNAL = 0xFFFF_FFFE
_IGNORED = 0xFFFF_FFFF
_ENOUGH = 12  # commands in one buffer


# -- pools and buffers -----------------------------------------------------------------------------


@right("vkCreateCommandPool")
def create_pool(hand: Hand) -> Call:
    family = hand.dice.below(len(hand.gpu.families))
    info = vk.VkCommandPoolCreateInfo(
        flags=_RESET if hand.dice.odds(0.9) else 0, queueFamilyIndex=family
    )
    return Call("vkCreateCommandPool", [hand.gpu.device, info])


def free_pool(hand: Hand, pool: Thing) -> bool:
    """Whether nothing of a pool is needed."""
    return all(hand.free(each) for each in pool.facts["buffers"])


def _pool(hand: Hand) -> Thing | None:
    return hand.dice.any(hand.pool.those(_POOL, lambda x: free_pool(hand, x)))


@right("vkDestroyCommandPool")
def destroy_pool(hand: Hand) -> Call | None:
    pool = _pool(hand)
    return Call("vkDestroyCommandPool", [hand.gpu.device, pool.handle]) if pool else None


@right("vkResetCommandPool", "vkTrimCommandPool")
def reset_pool(hand: Hand) -> Call | None:
    pool = _pool(hand)
    if pool is None:
        return create_pool(hand) if not hand.pool.count(_POOL) else None
    if hand.dice.odds(0.5):
        return Call("vkTrimCommandPool", [hand.gpu.device, pool.handle, 0])
    return Call("vkResetCommandPool", [hand.gpu.device, pool.handle, hand.dice.below(2)])


@right("vkAllocateCommandBuffers")
def allocate(hand: Hand) -> Call:
    pool = hand.pool.any(hand.dice, _POOL)
    if pool is None:
        return create_pool(hand)
    info = vk.VkCommandBufferAllocateInfo(
        commandPool=pool, level=int(hand.dice.odds(0.25)), commandBufferCount=hand.dice.one((1, 2))
    )
    return Call("vkAllocateCommandBuffers", [hand.gpu.device, info])


@right("vkFreeCommandBuffers")
def free(hand: Hand) -> Call | None:
    buffer = hand.dice.any(hand.pool.those(_BUFFER, hand.free))
    if buffer is None:
        return None
    pool = buffer.facts["pool"].handle
    return Call("vkFreeCommandBuffers", [hand.gpu.device, pool, 1, [buffer.handle]])


def _in(hand: Hand, *states: str) -> Thing | None:
    return hand.dice.any(
        hand.pool.those(_BUFFER, lambda x: x.facts["state"] in states and hand.free(x))
    )


@right("vkBeginCommandBuffer")
def begin(hand: Hand) -> Call:
    buffer = hand.dice.any(
        hand.pool.those(
            _BUFFER,
            lambda x: (
                hand.free(x)
                and (
                    x.facts["state"] == "initial"
                    or (x.facts["state"] in ("executable", "invalid") and x.facts["resets"])
                )
            ),
        )
    )
    if buffer is None:
        return allocate(hand)
    inheritance = vk.VkCommandBufferInheritanceInfo() if buffer.facts["level"] else None
    info = vk.VkCommandBufferBeginInfo(flags=hand.dice.one((0, 0, 1)), pInheritanceInfo=inheritance)
    return Call("vkBeginCommandBuffer", [buffer.handle, info])


@right("vkEndCommandBuffer")
def end(hand: Hand) -> Call:
    found = hand.pool.those(
        _BUFFER, lambda x: x.facts["state"] == "recording" and x.facts["count"] > 1
    )
    buffer = hand.dice.any(found)
    return Call("vkEndCommandBuffer", [buffer.handle]) if buffer is not None else begin(hand)


@right("vkResetCommandBuffer")
def reset(hand: Hand) -> Call | None:
    buffer = hand.dice.any(hand.pool.those(_BUFFER, lambda x: hand.free(x) and x.facts["resets"]))
    return Call("vkResetCommandBuffer", [buffer.handle, hand.dice.below(2)]) if buffer else None


# -- recorded --------------------------------------------------------------------------------------

Recorder = Callable[[Hand, Any], "Call | None"]


def _records(*names: str) -> Callable[[Recorder], Recorder]:
    """A command that is recorded: `maker(hand, command_buffer)`."""

    def register(maker: Recorder) -> Recorder:
        def make(hand: Hand) -> Call | None:
            buffer = _in(hand, "recording")
            if buffer is None:
                return begin(hand)
            if buffer.facts["count"] > _ENOUGH:
                return Call("vkEndCommandBuffer", [buffer.handle])
            return maker(hand, buffer.handle)

        right(*names)(make)
        return maker

    return register


def _two(hand: Hand, kind: str) -> tuple[Thing, Thing] | None:
    found = hand.pool.those(kind, usable)
    first, second = hand.dice.any(found), hand.dice.any(found)
    return (first, second) if first is not None and second is not None else None


def _one(hand: Hand, kind: str) -> Thing | None:
    return hand.dice.any(hand.pool.those(kind, usable))


def _either(hand: Hand, second: str) -> bool:
    """Whether to take the second form of a command."""
    return hand.gpu.has(second) and hand.dice.odds(0.5)


@_records("vkCmdCopyBuffer", "vkCmdCopyBuffer2")
def copy_buffer(hand: Hand, commands: Any) -> Call | None:
    pair = _two(hand, "VkBuffer")
    if pair is None or pair[0] is pair[1]:
        return bind(hand, "VkBuffer")
    source, target = (each.handle for each in pair)
    size = min(each.facts["size"] for each in pair)
    region = (0, 0, hand.dice.one((4, 64, size)))
    if _either(hand, "vkCmdCopyBuffer2"):
        info = vk.VkCopyBufferInfo2(
            srcBuffer=source,
            dstBuffer=target,
            pRegions=[vk.VkBufferCopy2(srcOffset=0, dstOffset=0, size=region[2])],
        )
        return Call("vkCmdCopyBuffer2", [commands, info])
    return Call("vkCmdCopyBuffer", [commands, source, target, 1, [vk.VkBufferCopy(*region)]])


@_records("vkCmdFillBuffer", "vkCmdUpdateBuffer")
def fill(hand: Hand, commands: Any) -> Call | None:
    buffer = _one(hand, "VkBuffer")
    if buffer is None:
        return bind(hand, "VkBuffer")
    if hand.dice.odds(0.5):
        size = hand.dice.one((4, 64, vk.VK_WHOLE_SIZE))
        return Call("vkCmdFillBuffer", [commands, buffer.handle, 0, size, hand.dice.bits(32)])
    data = hand.dice.one((b"1234", bytes(64), bytearray(16), memoryview(b"12345678")))
    return Call("vkCmdUpdateBuffer", [commands, buffer.handle, 0, len(data), data])


def _image(hand: Hand, look_is: Callable[[Look], bool]) -> Thing | None:
    return hand.dice.any(
        hand.pool.those(
            "VkImage",
            lambda x: usable(x) and x.facts["look"] is not None and look_is(x.facts["look"]),
        )
    )


def _layers(look: Look) -> Any:
    return vk.VkImageSubresourceLayers(look.aspect, 0, 0, 1)


def _extent(look: Look) -> Any:
    return vk.VkExtent3D(*look.extent)


@_records("vkCmdCopyBufferToImage", "vkCmdCopyBufferToImage2", "vkCmdCopyImageToBuffer",
          "vkCmdCopyImageToBuffer2")  # fmt: skip
def copy_buffer_image(hand: Hand, commands: Any) -> Call | None:
    image = _image(hand, lambda look: look.samples == 1)
    buffer = hand.dice.any(
        hand.pool.those("VkBuffer", lambda x: usable(x) and x.facts["size"] >= 4096)
    )
    if image is None or buffer is None:
        return bind(hand, "VkImage" if image is None else "VkBuffer")
    look, to_image = image.facts["look"], hand.dice.odds(0.5)
    layers, extent = _layers(look), _extent(look)
    sides = (buffer.handle, image.handle)
    name = "vkCmdCopyBufferToImage" if to_image else "vkCmdCopyImageToBuffer"
    if _either(hand, name + "2"):
        region = vk.VkBufferImageCopy2(imageSubresource=layers, imageExtent=extent)
        if to_image:
            info: Any = vk.VkCopyBufferToImageInfo2(
                srcBuffer=sides[0], dstImage=sides[1], dstImageLayout=_GENERAL, pRegions=[region]
            )
        else:
            info = vk.VkCopyImageToBufferInfo2(
                dstBuffer=sides[0], srcImage=sides[1], srcImageLayout=_GENERAL, pRegions=[region]
            )
        return Call(name + "2", [commands, info])
    place = vk.VkBufferImageCopy(imageSubresource=layers, imageExtent=extent)
    if to_image:
        return Call(name, [commands, *sides, _GENERAL, 1, [place]])
    return Call(name, [commands, sides[1], _GENERAL, sides[0], 1, [place]])


@_records("vkCmdCopyImage", "vkCmdCopyImage2", "vkCmdBlitImage", "vkCmdBlitImage2")
def copy_image(hand: Hand, commands: Any) -> Call | None:
    first = _image(hand, lambda look: look.samples == 1 and look.type == 1 and look.aspect == 1)
    if first is None:
        return bind(hand, "VkImage")
    look = first.facts["look"]
    other = _image(hand, lambda one: (one.format, one.type, one.samples) == (look.format, 1, 1))
    if other is None or other is first:
        return create_image(hand)
    layers, ends = _layers(look), (first.handle, _GENERAL, other.handle, _GENERAL)
    sides = dict(
        zip(("srcImage", "srcImageLayout", "dstImage", "dstImageLayout"), ends, strict=True)
    )
    if hand.gpu.has("vkCmdBlitImage") and hand.dice.odds(0.4):
        return _blit(hand, commands, look, ends, sides)
    places: dict[str, Any] = {
        "srcSubresource": layers, "dstSubresource": layers, "extent": _extent(look)
    }  # fmt: skip
    if _either(hand, "vkCmdCopyImage2"):
        info = vk.VkCopyImageInfo2(**sides, pRegions=[vk.VkImageCopy2(**places)])
        return Call("vkCmdCopyImage2", [commands, info])
    return Call("vkCmdCopyImage", [commands, *ends, 1, [vk.VkImageCopy(**places)]])


def _blit(hand: Hand, commands: Any, look: Look, ends: tuple[Any, ...], sides: Any) -> Call:
    """From one image to another."""

    def region(cls: Any) -> Any:
        made = cls(srcSubresource=_layers(look), dstSubresource=_layers(look))
        made.srcOffsets[1] = made.dstOffsets[1] = vk.VkOffset3D(*look.extent)
        return made

    if _either(hand, "vkCmdBlitImage2"):
        info = vk.VkBlitImageInfo2(**sides, pRegions=[region(vk.VkImageBlit2)], filter=0)
        return Call("vkCmdBlitImage2", [commands, info])
    return Call("vkCmdBlitImage", [commands, *ends, 1, [region(vk.VkImageBlit)], 0])


@_records("vkCmdResolveImage", "vkCmdResolveImage2")
def resolve(hand: Hand, commands: Any) -> Call | None:
    source = _image(hand, lambda look: look.samples == 4)
    target = _image(
        hand, lambda look: look.samples == 1 and look.usage & 0x10 != 0 and look.type == 1
    )
    if source is None or target is None:
        return bind(hand, "VkImage")
    places: dict[str, Any] = {
        "srcSubresource": _layers(Look()), "dstSubresource": _layers(Look()),
        "extent": vk.VkExtent3D(8, 8, 1),
    }  # fmt: skip
    if _either(hand, "vkCmdResolveImage2"):
        info = vk.VkResolveImageInfo2(
            srcImage=source.handle,
            srcImageLayout=_GENERAL,
            dstImage=target.handle,
            dstImageLayout=_GENERAL,
            pRegions=[vk.VkImageResolve2(**places)],
        )
        return Call("vkCmdResolveImage2", [commands, info])
    ends = (source.handle, _GENERAL, target.handle, _GENERAL)
    return Call("vkCmdResolveImage", [commands, *ends, 1, [vk.VkImageResolve(**places)]])


@_records("vkCmdClearColorImage", "vkCmdClearDepthStencilImage")
def clear(hand: Hand, commands: Any) -> Call | None:
    depth = hand.gpu.has("vkCmdClearDepthStencilImage") and hand.dice.odds(0.5)
    image = _image(hand, lambda look: look.aspect == 1 + depth)
    if image is None:
        return bind(hand, "VkImage")
    look = image.facts["look"]
    ranges = [vk.VkImageSubresourceRange(look.aspect, 0, look.levels, 0, look.layers)]
    value: Any = vk.VkClearDepthStencilValue(0.5, 0) if depth else vk.VkClearColorValue()
    name = "vkCmdClearDepthStencilImage" if depth else "vkCmdClearColorImage"
    return Call(name, [commands, image.handle, _GENERAL, value, 1, ranges])


# -- barriers, events and the rest -----------------------------------------------------------------


def _families(hand: Hand) -> tuple[int, int]:
    """A transfer of ownership from or to outside, or none."""
    if hand.dice.odds(0.6) or not hand.gpu.minor:
        return _IGNORED, _IGNORED
    return hand.dice.one(((0, _EXTERNAL), (_EXTERNAL, 0)))


def _barriers(hand: Hand, second: bool) -> tuple[list[Any], list[Any], list[Any]]:
    dice = hand.dice
    masks: dict[str, Any] = {
        "srcAccessMask": dice.one(_ACCESSES), "dstAccessMask": dice.one(_ACCESSES)
    }  # fmt: skip
    if second:
        masks |= {"srcStageMask": 0x10000, "dstStageMask": 0x10000}
    suffix = "2" if second else ""
    memory = [getattr(vk, f"VkMemoryBarrier{suffix}")(**masks)] if dice.odds(0.5) else []
    buffers, images = [], []
    buffer, image = _one(hand, "VkBuffer"), _image(hand, lambda look: True)
    if buffer is not None and dice.odds(0.5):
        source, target = _families(hand)
        cls = getattr(vk, f"VkBufferMemoryBarrier{suffix}")
        buffers = [
            cls(**masks, buffer=buffer.handle, size=vk.VK_WHOLE_SIZE,
                srcQueueFamilyIndex=source, dstQueueFamilyIndex=target)
        ]  # fmt: skip
    if image is not None and dice.odds(0.5):
        source, target = _families(hand)
        look = image.facts["look"]
        where = vk.VkImageSubresourceRange(look.aspect, 0, look.levels, 0, look.layers)
        cls = getattr(vk, f"VkImageMemoryBarrier{suffix}")
        images = [
            cls(**masks, image=image.handle, subresourceRange=where, oldLayout=_GENERAL,
                newLayout=_GENERAL, srcQueueFamilyIndex=source, dstQueueFamilyIndex=target)
        ]  # fmt: skip
    return memory, buffers, images


def _dependency(hand: Hand) -> Any:
    memory, buffers, images = _barriers(hand, second=True)
    return vk.VkDependencyInfo(
        pMemoryBarriers=memory or None,
        pBufferMemoryBarriers=buffers or None,
        pImageMemoryBarriers=images or None,
    )


def _counted(groups: tuple[list[Any], list[Any], list[Any]]) -> list[Any]:
    return [part for each in groups for part in (len(each), each)]


@_records("vkCmdPipelineBarrier", "vkCmdPipelineBarrier2")
def barrier(hand: Hand, commands: Any) -> Call:
    if "synchronization2" in hand.gpu.features and _either(hand, "vkCmdPipelineBarrier2"):
        return Call("vkCmdPipelineBarrier2", [commands, _dependency(hand)])
    stages = [0x10000, 0x10000, 0]
    return Call("vkCmdPipelineBarrier", [commands, *stages, *_counted(_barriers(hand, False))])


@_records("vkCmdSetEvent", "vkCmdResetEvent", "vkCmdSetEvent2", "vkCmdResetEvent2",
          "vkCmdWaitEvents", "vkCmdWaitEvents2")  # fmt: skip
def event(hand: Hand, commands: Any) -> Call | None:
    dice = hand.dice
    if not hand.gpu.has("vkCmdSetEvent"):
        return None
    second = "synchronization2" in hand.gpu.features and _either(hand, "vkCmdSetEvent2")
    sure = hand.pool.those("VkEvent", lambda x: x.facts["set"])
    if sure and dice.odds(0.4):
        which = dice.one(sure).handle
        if second:
            return Call("vkCmdWaitEvents2", [commands, 1, [which], [vk.VkDependencyInfo()]])
        host = [0x4000, 0x10000]
        return Call("vkCmdWaitEvents", [commands, 1, [which], *host, *_counted(([], [], []))])
    thing = dice.any(hand.pool.those("VkEvent", lambda x: not x.facts["set"]))
    if thing is None:
        return create_event(hand)
    name = dice.one(("vkCmdSetEvent", "vkCmdResetEvent")) + ("2" if second else "")
    if name == "vkCmdSetEvent2":
        return Call(name, [commands, thing.handle, _dependency(hand)])
    return Call(name, [commands, thing.handle, 0x10000])


@_records("vkCmdSetDeviceMask")
def device_mask(hand: Hand, commands: Any) -> Call:
    return Call("vkCmdSetDeviceMask", [commands, 1])


@_records("vkCmdExecuteCommands")
def execute(hand: Hand, commands: Any) -> Call | None:
    caller = hand.pool.find(_BUFFER, commands)
    if caller is None or caller.facts["level"]:
        return None
    called = hand.dice.any(
        hand.pool.those(
            _BUFFER,
            lambda x: (
                x.facts["level"] == 1
                and x.facts["state"] == "executable"
                and x.facts["family"] == caller.facts["family"]
                and not x.pins
            ),
        )
    )
    if called is None:
        return None
    return Call("vkCmdExecuteCommands", [commands, 1, [called.handle]])
