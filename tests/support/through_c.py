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
from extmem.drivers.driver import Command, Driver
from extmem.drivers.embedded import EmbeddedDriver
from extmem.drivers.extensions import enabled, offered
from extmem.drivers.nv_by_khr import NvByKhr
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk._prototype import Param, Prototype

__all__ = ["FD_ONLY", "KHR_ONLY", "ThroughC", "fd_only", "khr_only", "opened_as", "through_c"]

KHR_ONLY, FD_ONLY = "khr-only", "fd-only"  # the names of the two

OF_NV = frozenset(
    (
        "VK_NV_external_memory",
        "VK_NV_external_memory_win32",
        "VK_NV_external_memory_capabilities",
        "VK_NV_dedicated_allocation",
        "VK_NV_win32_keyed_mutex",
    )
)
OF_WINDOWS = OF_NV | {
    "VK_KHR_external_memory_win32",
    "VK_KHR_external_semaphore_win32",
    "VK_KHR_external_fence_win32",
    "VK_KHR_win32_keyed_mutex",
}

_function_type: Any = ctypes.WINFUNCTYPE if sys.platform == "win32" else ctypes.CFUNCTYPE


class ThroughC:
    """A driver whose commands are C functions, without some of the device's extensions."""

    origin = "the embedded device behind C functions"

    def __init__(self, name: str, hidden: frozenset[str]) -> None:
        self.name = name
        self._hidden = hidden
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
        if self._hides(prototype, spelling):
            return None
        found = self._below.instance_command(instance, prototype, spelling)
        return self._in_c(prototype, spelling, found)

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        if self._hides(prototype, spelling):
            return None
        found = self._below.device_command(instance, device, prototype, spelling)
        return self._in_c(prototype, spelling, found)

    def _hides(self, prototype: Prototype, spelling: str) -> bool:
        return bool(self._hidden.intersection(prototype.provided[spelling]))

    def _in_c(self, prototype: Prototype, spelling: str, command: Command | None) -> Command | None:
        if command is None:
            return None
        if spelling not in self._made:
            filtered = _FILTERS.get(prototype.name)
            inner = filtered(command, self._hidden) if filtered is not None else command

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


def _shorter_list(command: Command, hidden: frozenset[str]) -> Command:
    def listing(*asked: Any) -> int:
        *first, count, array = asked
        result, found = offered(lambda *rest: int(command(*first, *rest)))
        kept = [each for each in found.items() if each[0] not in hidden]
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


def _refuses_extensions(command: Command, hidden: frozenset[str]) -> Command:
    def create(*asked: Any) -> int:
        info = asked[-3]
        if hidden.intersection(enabled(info)):
            return int(c.VK_ERROR_EXTENSION_NOT_PRESENT)
        return int(command(*asked))

    return create


def _refuses_structures(command: Command, hidden: frozenset[str]) -> Command:
    ends = ("NV", "Win32HandleInfoKHR") if hidden == OF_WINDOWS else ("NV",)

    def create(device: int, info: Any, allocator: Any, box: Any) -> int:
        node = info.pNext
        while node is not None:
            if type(node).__name__.endswith(ends):
                return int(c.VK_ERROR_UNKNOWN)
            node = node.pNext
        return int(command(device, info, allocator, box))

    return create


_FILTERS = {
    p.vkEnumerateInstanceExtensionProperties.name: _shorter_list,
    p.vkEnumerateDeviceExtensionProperties.name: _shorter_list,
    p.vkCreateInstance.name: _refuses_extensions,
    p.vkCreateDevice.name: _refuses_extensions,
    p.vkAllocateMemory.name: _refuses_structures,
    p.vkCreateImage.name: _refuses_structures,
    p.vkCreateBuffer.name: _refuses_structures,
    p.vkCreateSemaphore.name: _refuses_structures,
    p.vkCreateFence.name: _refuses_structures,
}


@contextmanager
def opened_as(name: str, driver: Driver) -> Iterator[str]:
    """A driver that can be opened by this name meanwhile."""
    key = os.path.realpath(name)
    drivers._drivers[key] = driver
    try:
        yield name
    finally:
        del drivers._drivers[key]


@contextmanager
def khr_only() -> Iterator[str]:
    """The name of a driver that has KHR's extension natively and NV's carried by it."""
    with opened_as(KHR_ONLY, NvByKhr(ThroughC(KHR_ONLY, OF_NV))) as name:
        yield name


@contextmanager
def fd_only() -> Iterator[str]:
    """The name of a driver that has descriptors natively, and Windows handles carried by them."""
    from extmem.drivers.bridge import Bridge

    with opened_as(FD_ONLY, NvByKhr(Bridge(through_c()))) as name:
        yield name


def through_c() -> ThroughC:
    """What is below the bridge there."""
    return ThroughC(FD_ONLY, OF_WINDOWS)
