"""The embedded device as a native driver would be: behind C functions, with KHR's extension alone.

Everything crosses C's calling convention as it does with a driver's library: structures and chains
arrive as addresses, handles in boxes. So what stands on a native driver can be run where there is
none: `drivers.nv_by_khr`, and the types in `vk._prototypes`.

    with khr_only() as name:
        instance = vk.vkCreateInstance(info, driver=name)
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from extmem.drivers import open as drivers
from extmem.drivers.driver import Command
from extmem.drivers.embedded import EmbeddedDriver
from extmem.drivers.extensions import enabled, offered
from extmem.drivers.nv_by_khr import NvByKhr
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk._prototype import Param, Prototype

__all__ = ["ThroughC", "khr_only"]

HIDDEN = {
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_NV_external_memory_capabilities",
    "VK_NV_dedicated_allocation",
}

_function_type: Any = ctypes.WINFUNCTYPE if sys.platform == "win32" else ctypes.CFUNCTYPE


class ThroughC:
    """A driver whose commands are C functions, without NV's extensions."""

    name = "khr-only"
    origin = "the embedded device behind C functions"

    def __init__(self) -> None:
        self._below = EmbeddedDriver()
        self._made: dict[str, tuple[Any, Any]] = {}  # callbacks live as long as their driver

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        return {}

    def origin_of(self, *asked: Any) -> None:
        return None  # a native driver knows nothing that Vulkan does not ask

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        return self._in_c(prototype, spelling, self._below.global_command(prototype, spelling))

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        if spelling == "vkGetPhysicalDeviceExternalImageFormatPropertiesNV":
            return None
        found = self._below.instance_command(instance, prototype, spelling)
        return self._in_c(prototype, spelling, found)

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        if spelling == "vkGetMemoryWin32HandleNV":
            return None
        found = self._below.device_command(instance, device, prototype, spelling)
        return self._in_c(prototype, spelling, found)

    def _in_c(self, prototype: Prototype, spelling: str, command: Command | None) -> Command | None:
        if command is None:
            return None
        if spelling not in self._made:
            without_nv = _FILTERS.get(prototype.name)
            inner = without_nv(command) if without_nv is not None else command

            def called(*raw: Any) -> Any:
                named = dict(zip((x.name for x in prototype.params), raw, strict=True))
                return inner(*(_as_python(x, named) for x in prototype.params))

            kind = _function_type(prototype.restype, *prototype.argtypes)
            callback = kind(called)
            address = ctypes.cast(callback, ctypes.c_void_p).value
            self._made[spelling] = callback, kind(address)
        return self._made[spelling][1]


def _as_python(param: Param, raw: dict[str, Any]) -> Any:
    """What the embedded device is given for an argument that came through C."""
    value = raw[param.name]
    if param.kind == "struct":
        return value.contents if value else None
    if param.kind == "values":
        if not value:
            return None
        count = raw.get(param.length, 1) if param.length else 1
        element = param.ctype._type_
        return (element * count).from_address(ctypes.addressof(value.contents))
    if param.kind in ("out_list", "out_array"):
        return value if value else None
    if param.kind in ("out", "out_count"):
        return value.contents if value else None
    return value


def _lists_without_nv(command: Command) -> Command:
    def listing(*asked: Any) -> int:
        *first, count, array = asked
        result, found = offered(lambda *rest: int(command(*first, *rest)))
        kept = [each for each in found.items() if each[0] not in HIDDEN]
        if array is None or result:
            count.value = len(kept)
            return result
        for index, (name, version) in enumerate(kept[: count.value]):
            array[index].extensionName = name
            array[index].specVersion = version
        complete = count.value >= len(kept)
        count.value = min(count.value, len(kept))
        return 0 if complete else int(c.VK_INCOMPLETE)

    return listing


def _refuses_extensions_of_nv(command: Command) -> Command:
    def create(*asked: Any) -> int:
        info = asked[-3]
        if HIDDEN & set(enabled(info)):
            return int(c.VK_ERROR_EXTENSION_NOT_PRESENT)
        return int(command(*asked))

    return create


def _refuses_structures_of_nv(command: Command) -> Command:
    def create(device: int, info: Any, allocator: Any, box: Any) -> int:
        node = info.pNext
        while node is not None:
            if type(node).__name__.endswith("NV"):
                return int(c.VK_ERROR_UNKNOWN)
            node = node.pNext
        return int(command(device, info, allocator, box))

    return create


_FILTERS = {
    p.vkEnumerateInstanceExtensionProperties.name: _lists_without_nv,
    p.vkEnumerateDeviceExtensionProperties.name: _lists_without_nv,
    p.vkCreateInstance.name: _refuses_extensions_of_nv,
    p.vkCreateDevice.name: _refuses_extensions_of_nv,
    p.vkAllocateMemory.name: _refuses_structures_of_nv,
    p.vkCreateImage.name: _refuses_structures_of_nv,
    p.vkCreateBuffer.name: _refuses_structures_of_nv,
}


@contextmanager
def khr_only() -> Iterator[str]:
    """The name of a driver that has KHR's extension natively and NV's carried by it."""
    key = os.path.realpath(ThroughC.name)
    drivers._drivers[key] = NvByKhr(ThroughC())
    try:
        yield ThroughC.name
    finally:
        del drivers._drivers[key]
