"""Right calls that ask, and those for instances and devices."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.fuzz.calls.gpu import version_of
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.right import right, simple
from tests.fuzz.calls.tables import COMMANDS, STRUCTURES

__all__: list[str] = []

_USAGE = int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
_FORMATS = (37, 9, 44, 97, 109, 124, 126, 130, 1, 145)


def _physical(hand: Hand) -> Any:
    return hand.dice.one(hand.gpu.physicals)


def _instance(hand: Hand) -> Any:
    return hand.gpu.instance


def _device(hand: Hand) -> Any:
    return hand.gpu.device


for _what in ("Features", "Properties", "QueueFamilyProperties", "MemoryProperties"):
    simple(f"vkGetPhysicalDevice{_what}", _physical)
simple("vkGetPhysicalDeviceQueueFamilyProperties2", _physical)
simple("vkGetPhysicalDeviceFormatProperties", _physical, lambda hand: hand.dice.one(_FORMATS))
simple("vkEnumeratePhysicalDevices", _instance)
simple("vkEnumeratePhysicalDeviceGroups", _instance)
simple("vkEnumerateDeviceExtensionProperties", _physical, lambda hand: None)
simple("vkEnumerateDeviceLayerProperties", _physical)
simple("vkGetPhysicalDeviceToolProperties", _physical)
simple("vkGetDeviceGroupPeerMemoryFeatures", _device, *(lambda hand: 0,) * 3)


def _with_chain(name: str, *arguments: Any) -> None:
    """A command that may be given a structure to fill, with a right chain."""

    def make(hand: Hand) -> Call:
        found = [each(hand) for each in arguments]
        if hand.dice.odds(0.5):
            cls = COMMANDS[name].filled
            found.append(_filled(hand, cls))
        return Call(name, found)

    right(name)(make)


def _filled(hand: Hand, cls: Any) -> Any:
    """A structure to fill, with some of what may be behind it, each once."""
    made = last = cls()
    followers = list(STRUCTURES[cls.__name__].followers)
    for _ in range(hand.dice.below(4)):
        if not followers:
            break
        name = followers.pop(hand.dice.below(len(followers)))
        last.pNext = STRUCTURES[name].cls()
        last = last.pNext
    return made


for _what in ("Features2", "Properties2", "MemoryProperties2"):
    _with_chain(f"vkGetPhysicalDevice{_what}", _physical)
_with_chain("vkGetPhysicalDeviceFormatProperties2", _physical, lambda hand: hand.dice.one(_FORMATS))


@right("vkGetPhysicalDeviceImageFormatProperties")
def image_format(hand: Hand) -> Call:
    arguments = [hand.dice.one(_FORMATS), hand.dice.below(3), hand.dice.below(2), _USAGE, 0]
    return Call("vkGetPhysicalDeviceImageFormatProperties", [_physical(hand), *arguments])


@right("vkGetPhysicalDeviceImageFormatProperties2")
def image_format_2(hand: Hand) -> Call:
    chain = None
    if hand.dice.odds(0.5):
        handle_type = hand.dice.one((1, 2, 4, 0x80))
        chain = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type)
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=hand.dice.one(_FORMATS), type=1, tiling=hand.dice.below(2), usage=_USAGE, pNext=chain
    )
    name = "vkGetPhysicalDeviceImageFormatProperties2"
    arguments = [_physical(hand), info]
    if chain is not None:  # without this lavapipe 22.3 ends the process
        outer = vk.VkImageFormatProperties2(pNext=vk.VkExternalImageFormatProperties())
        arguments.append(outer)
    return Call(name, arguments)


@right("vkGetPhysicalDeviceExternalImageFormatPropertiesNV")
def image_format_nv(hand: Hand) -> Call:
    arguments = [37, 1, hand.dice.below(2), _USAGE, 0, hand.dice.one((0, 1, 2, 4, 8))]
    return Call("vkGetPhysicalDeviceExternalImageFormatPropertiesNV", [_physical(hand), *arguments])


@right("vkGetPhysicalDeviceSparseImageFormatProperties")
def sparse_format(hand: Hand) -> Call:
    arguments = [hand.dice.one(_FORMATS[:4]), 1, 1, _USAGE, 0]
    return Call("vkGetPhysicalDeviceSparseImageFormatProperties", [_physical(hand), *arguments])


@right("vkGetPhysicalDeviceSparseImageFormatProperties2")
def sparse_format_2(hand: Hand) -> Call:
    info = vk.VkPhysicalDeviceSparseImageFormatInfo2(
        format=37, type=1, samples=1, usage=_USAGE, tiling=0
    )
    return Call("vkGetPhysicalDeviceSparseImageFormatProperties2", [_physical(hand), info])


@right("vkGetPhysicalDeviceExternalBufferProperties")
def external_buffer(hand: Hand) -> Call:
    info = vk.VkPhysicalDeviceExternalBufferInfo(
        usage=3, handleType=hand.dice.one((1, 2, 4, 8, 0x20, 0x80, 0x200))
    )
    return Call("vkGetPhysicalDeviceExternalBufferProperties", [_physical(hand), info])


@right("vkGetPhysicalDeviceExternalSemaphoreProperties")
def external_semaphore(hand: Hand) -> Call:
    timeline = vk.VkSemaphoreTypeCreateInfo(semaphoreType=hand.dice.below(2))
    info = vk.VkPhysicalDeviceExternalSemaphoreInfo(
        handleType=hand.dice.one((1, 2, 4, 8, 0x10)),
        pNext=timeline if hand.dice.odds(0.5) else None,
    )
    return Call("vkGetPhysicalDeviceExternalSemaphoreProperties", [_physical(hand), info])


@right("vkGetPhysicalDeviceExternalFenceProperties")
def external_fence(hand: Hand) -> Call:
    info = vk.VkPhysicalDeviceExternalFenceInfo(handleType=hand.dice.one((1, 2, 4, 8)))
    return Call("vkGetPhysicalDeviceExternalFenceProperties", [_physical(hand), info])


# -- addresses, queues -----------------------------------------------------------------------------

_NAMES = ("vkAllocateMemory", "vkCreateDevice", "vkNothing", "", "vkCmdFillBuffer", "VkBuffer")


@right("vkGetInstanceProcAddr")
def instance_address(hand: Hand) -> Call:
    return Call("vkGetInstanceProcAddr", [hand.gpu.instance, hand.dice.one(_NAMES)])


@right("vkGetDeviceProcAddr")
def device_address(hand: Hand) -> Call:
    return Call("vkGetDeviceProcAddr", [hand.gpu.device, hand.dice.one(_NAMES)])


@right("vkGetDeviceQueue", "vkGetDeviceQueue2")
def queue(hand: Hand) -> Call:
    family = hand.dice.below(len(hand.gpu.families))
    index = hand.dice.below(hand.gpu.families[family][1])
    if hand.gpu.has("vkGetDeviceQueue2") and hand.dice.odds(0.5):
        info = vk.VkDeviceQueueInfo2(queueFamilyIndex=family, queueIndex=index)
        return Call("vkGetDeviceQueue2", [hand.gpu.device, info])
    return Call("vkGetDeviceQueue", [hand.gpu.device, family, index])


# -- instances and devices: of their own, which are destroyed by the next call ---------------------


@right("vkEnumerateInstanceVersion", "vkEnumerateInstanceExtensionProperties",
       "vkEnumerateInstanceLayerProperties")  # fmt: skip
def before_an_instance(hand: Hand) -> Call:
    keywords = {"driver": hand.driver}
    roll = hand.dice.random()
    if roll < 0.4:
        return Call("vkEnumerateInstanceVersion", [], keywords)
    if roll < 0.8:
        return Call("vkEnumerateInstanceExtensionProperties", [None], keywords)
    return Call("vkEnumerateInstanceLayerProperties", [], keywords)


@right("vkCreateInstance", "vkDestroyInstance")
def instance(hand: Hand) -> Call:
    spare = hand.dice.any(hand.pool.all("VkInstance"))
    if spare is not None:
        return Call("vkDestroyInstance", [spare.handle])
    application = vk.VkApplicationInfo(
        pApplicationName="fuzz", apiVersion=version_of(hand.dice.below(5))
    )
    info = vk.VkInstanceCreateInfo(pApplicationInfo=application)
    checks = hand.dice.one((None, "full", "cheap", "off"))
    return Call("vkCreateInstance", [info], {"driver": hand.driver, "checks": checks})


@right("vkCreateDevice", "vkDestroyDevice")
def device(hand: Hand) -> Call:
    spare = hand.dice.any(hand.pool.all("VkDevice"))
    if spare is not None:
        return Call("vkDestroyDevice", [spare.handle])
    return Call("vkCreateDevice", [hand.gpu.physical, hand.gpu.device_info()])
