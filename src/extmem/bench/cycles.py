"""One hand-over, through extmem and through its peers: what `handover` and `objects` measure.

Allocate exportable memory, get its handle, import it, free both.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from extmem import vk, win32
from extmem.bench.rounds import Round, timed
from extmem.errors import DriverNotFound, ExtmemError

__all__ = [
    "REMEDY",
    "SIZE",
    "Opened",
    "Steps",
    "in_ctypes",
    "in_extmem",
    "in_library",
    "in_pypi_vulkan",
    "opened",
    "steps",
]

SIZE = 65536
REMEDY = "" if sys.platform == "win32" else "apt install mesa-vulkan-drivers, or --driver PATH"
_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
_WIN32 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
_EXTENSION = f"VK_KHR_external_memory_{'win32' if sys.platform == 'win32' else 'fd'}"


class Opened(NamedTuple):
    """A device, and what it calls itself."""

    instance: vk.VkInstance
    device: vk.VkDevice
    name: str
    driver: str  # its version, mostly

    def close(self) -> None:
        """Destroy both."""
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)


@contextlib.contextmanager
def in_library(driver: str, checks: str) -> Iterator[Opened]:
    """A device of a driver whose functions others can call as well; DriverNotFound for the embedded
    one, which has none in C.
    """
    if driver == "embedded":
        raise DriverNotFound("the embedded device was asked for, and C cannot call that")
    with opened(driver, checks) as made:
        yield made


@contextlib.contextmanager
def opened(driver: str, checks: str) -> Iterator[Opened]:
    """The same for a `with`."""
    made = _open(driver, checks)
    try:
        yield made
    finally:
        made.close()


def _open(driver: str, checks: str) -> Opened:
    """The first device of a driver. DriverNotFound on Windows, but for the embedded one: its
    drivers have not been measured yet.
    """
    if sys.platform == "win32" and driver != "embedded":
        raise DriverNotFound("on Windows only the embedded device is measured yet")
    application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
    instance = vk.vkCreateInstance(
        vk.VkInstanceCreateInfo(pApplicationInfo=application), driver=driver, checks=checks
    )
    try:
        physical = vk.vkEnumeratePhysicalDevices(instance)[0]
        details = vk.VkPhysicalDeviceDriverProperties()
        properties = vk.vkGetPhysicalDeviceProperties2(
            physical, vk.VkPhysicalDeviceProperties2(pNext=details)
        )
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
        device = vk.vkCreateDevice(
            physical,
            vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue], ppEnabledExtensionNames=[_EXTENSION]),
        )
    except BaseException:
        vk.vkDestroyInstance(instance)
        raise
    name, info = properties.properties.deviceName, details.driverInfo
    return Opened(instance, device, name, f"{details.driverName} {info}".strip())


# -- bare ctypes ----------------------------------------------------------------------------------


class _AllocateInfo(ctypes.Structure):
    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("allocationSize", ctypes.c_uint64),
        ("memoryTypeIndex", ctypes.c_uint32),
    )


class _ExportInfo(ctypes.Structure):
    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("handleTypes", ctypes.c_uint32),
    )


class _ImportInfo(ctypes.Structure):
    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("handleType", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
    )


class _GetInfo(ctypes.Structure):
    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("memory", ctypes.c_uint64),
        ("handleType", ctypes.c_uint32),
    )


def in_ctypes(device: vk.VkDevice, memory_type: int, size: int = SIZE) -> Round:
    """The least that a Python program can do: its own structures, no conveniences."""
    pointer = ctypes.c_void_p
    allocate = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, pointer, pointer)(
        vk.vkGetDeviceProcAddr(device, "vkAllocateMemory")
    )
    free = ctypes.CFUNCTYPE(None, pointer, ctypes.c_uint64, pointer)(
        vk.vkGetDeviceProcAddr(device, "vkFreeMemory")
    )
    get_fd = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, pointer)(
        vk.vkGetDeviceProcAddr(device, "vkGetMemoryFdKHR")
    )
    handle = int(device)
    byref, addressof = ctypes.byref, ctypes.addressof

    def once() -> None:
        exported = _ExportInfo(1000072002, None, _FD)
        first, second = ctypes.c_uint64(), ctypes.c_uint64()
        info = _AllocateInfo(5, addressof(exported), size, memory_type)
        if allocate(handle, byref(info), None, byref(first)):
            raise ExtmemError("vkAllocateMemory failed, called by ctypes")
        fd = ctypes.c_int32()
        if get_fd(handle, byref(_GetInfo(1000074002, None, first.value, _FD)), byref(fd)):
            raise ExtmemError("vkGetMemoryFdKHR failed, called by ctypes")
        imported = _ImportInfo(1000074000, None, _FD, fd.value)
        info = _AllocateInfo(5, addressof(imported), size, memory_type)
        if allocate(handle, byref(info), None, byref(second)):
            raise ExtmemError("vkAllocateMemory failed, called by ctypes")
        free(handle, first, None)
        free(handle, second, None)

    return timed(once)


# -- extmem ---------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """A hand-over through `extmem.vk`, step by step."""

    allocate: Callable[[], vk.VkDeviceMemory]
    fetch: Callable[[vk.VkDeviceMemory], int]
    take: Callable[[int], vk.VkDeviceMemory]  # import it; the handle is gone after that
    free: Callable[[vk.VkDeviceMemory], None]


def steps(device: vk.VkDevice, memory_type: int, size: int = SIZE) -> Steps:
    """Of descriptors, or of NT handles on Windows."""
    kind = _WIN32 if sys.platform == "win32" else _FD

    def allocate() -> vk.VkDeviceMemory:
        return vk.vkAllocateMemory(
            device,
            vk.VkMemoryAllocateInfo(
                pNext=vk.VkExportMemoryAllocateInfo(handleTypes=kind),
                allocationSize=size,
                memoryTypeIndex=memory_type,
            ),
        )

    def fetch_fd(memory: vk.VkDeviceMemory) -> int:
        return vk.vkGetMemoryFdKHR(device, vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=kind))

    def take_fd(handle: int) -> vk.VkDeviceMemory:
        return vk.vkAllocateMemory(
            device,
            vk.VkMemoryAllocateInfo(
                pNext=vk.VkImportMemoryFdInfoKHR(handleType=kind, fd=handle),
                allocationSize=size,
                memoryTypeIndex=memory_type,
            ),
        )

    def fetch_nt(memory: vk.VkDeviceMemory) -> int:
        return vk.vkGetMemoryWin32HandleKHR(
            device, vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=kind)
        )

    def take_nt(handle: int) -> vk.VkDeviceMemory:
        memory = vk.vkAllocateMemory(
            device,
            vk.VkMemoryAllocateInfo(
                pNext=vk.VkImportMemoryWin32HandleInfoKHR(handleType=kind, handle=handle),
                allocationSize=size,
                memoryTypeIndex=memory_type,
            ),
        )
        win32.CloseHandle(handle)
        return memory

    def free(memory: vk.VkDeviceMemory) -> None:
        vk.vkFreeMemory(device, memory)

    if sys.platform == "win32":
        return Steps(allocate, fetch_nt, take_nt, free)
    return Steps(allocate, fetch_fd, take_fd, free)


def in_extmem(device: vk.VkDevice, memory_type: int, size: int = SIZE) -> Round:
    """Through `extmem.vk`."""
    allocate, fetch, take, free = steps(device, memory_type, size)

    def once() -> None:
        first = allocate()
        second = take(fetch(first))
        free(first)
        free(second)

    return timed(once)


# -- PyPI's vulkan --------------------------------------------------------------------------------


def in_pypi_vulkan(name: str, memory_type: int) -> Round:
    """Through PyPI's `vulkan`, on its own device of the same name. ImportError or OSError where it
    cannot be used.
    """
    pv: Any = importlib.import_module("vulkan")

    application = pv.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
    instance = pv.vkCreateInstance(pv.VkInstanceCreateInfo(pApplicationInfo=application), None)
    physical: Any = next(
        each
        for each in pv.vkEnumeratePhysicalDevices(instance)
        if pv.vkGetPhysicalDeviceProperties(each).deviceName == name
    )
    queue = pv.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
    info = pv.VkDeviceCreateInfo(pQueueCreateInfos=[queue], ppEnabledExtensionNames=[_EXTENSION])
    device = pv.vkCreateDevice(physical, info, None)
    get_fd = pv.vkGetDeviceProcAddr(device, "vkGetMemoryFdKHR")

    def once() -> None:
        exported = pv.VkExportMemoryAllocateInfo(handleTypes=_FD)
        info = pv.VkMemoryAllocateInfo(
            pNext=exported, allocationSize=SIZE, memoryTypeIndex=memory_type
        )
        first = pv.vkAllocateMemory(device, info, None)
        fd = get_fd(device, pv.VkMemoryGetFdInfoKHR(memory=first, handleType=_FD))
        imported = pv.VkImportMemoryFdInfoKHR(handleType=_FD, fd=fd)
        info = pv.VkMemoryAllocateInfo(
            pNext=imported, allocationSize=SIZE, memoryTypeIndex=memory_type
        )
        second = pv.vkAllocateMemory(device, info, None)
        pv.vkFreeMemory(device, first, None)
        pv.vkFreeMemory(device, second, None)

    return timed(once)
