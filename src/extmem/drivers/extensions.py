"""Lists of extensions, for drivers that stand on another one: read, longer by some, handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import c_uint32
from typing import Any

from extmem.drivers.driver import Command, Driver
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s

__all__ = [
    "Ask",
    "enabled",
    "longer_list",
    "offered",
    "offered_by",
    "with_extensions",
    "without",
]

# A two-call enumeration of extensions whose other arguments are given: ask(count, array or None).
Ask = Callable[[Any, Any], int]

_INCOMPLETE = int(c.VK_INCOMPLETE)


def offered(ask: Ask) -> tuple[int, dict[str, int]]:
    """The result, and every extension's version by its name."""
    while True:
        count = c_uint32()
        result = int(ask(count, None))
        if result or not count.value:
            return result, {}
        array = (s.VkExtensionProperties * count.value)()
        result = int(ask(count, array))
        if result != _INCOMPLETE:
            found = [array[i] for i in range(count.value)] if result == 0 else []
            return result, {each.extensionName: each.specVersion for each in found}


def _lengthened(
    ask: Ask, more: Callable[[set[str]], dict[str, int]], count: Any, array: Any
) -> int:
    """Answer the same two-call enumeration with more extensions: their versions by name."""
    result, found = offered(ask)
    if result:
        return result
    found |= more(set(found))
    if array is None:
        count.value = len(found)
        return 0
    written = min(count.value, len(found))
    for index, (name, version) in enumerate(list(found.items())[:written]):
        array[index].extensionName = name
        array[index].specVersion = version
    count.value = written
    return 0 if written == len(found) else _INCOMPLETE


def offered_by(driver: Driver, instance: int, physical: int) -> tuple[int, dict[str, int]]:
    """What a driver offers for a physical device: the result, and versions by name."""
    prototype = p.vkEnumerateDeviceExtensionProperties
    listing = driver.instance_command(instance, prototype, prototype.name)
    if listing is None:
        return 0, {}
    return offered(lambda *rest: int(listing(physical, None, *rest)))


def longer_list(below: Command, more: Callable[[set[str]], dict[str, int]]) -> Command:
    """The command that lists extensions, of an instance or a device, with more of them."""

    def enumerate_extensions(*asked: Any) -> int:
        *first, layer, count, array = asked  # a physical device's has that in front
        if layer is not None:
            return int(below(*asked))
        return _lengthened(lambda *rest: int(below(*first, None, *rest)), more, count, array)

    return enumerate_extensions


def enabled(info: Any) -> list[str]:
    """The extensions that a VkInstanceCreateInfo or VkDeviceCreateInfo enables."""
    array = info.ppEnabledExtensionNames
    return [array[i].decode() for i in range(info.enabledExtensionCount)] if array else []


def with_extensions(info: Any, names: Sequence[str]) -> Any:
    """The same create info with these extensions instead. It borrows all else, for one call."""
    copy = type(info).from_buffer_copy(info)
    copy.pNext = info.pNext
    copy.ppEnabledExtensionNames = list(names) or None
    copy.enabledExtensionCount = len(names)
    return copy


def without(names: Iterable[str], gone: Iterable[str]) -> list[str]:
    """The names that are not among `gone`, in order."""
    dropped = set(gone)
    return [name for name in names if name not in dropped]
