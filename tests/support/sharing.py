"""A device with every way of sharing that the embedded device has, for tests of what is shared.

    with Gpu() as gpu:
        memory = gpu.export(NT)
        handle = gpu.get(memory, NT)
        again = gpu.take(handle, NT)
        assert_shared((gpu, memory), (gpu, again))

With checks a wrong call breaks a rule, without them the driver answers with a code: `refused` says
both at once, so that one test is right on both devices.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import objects
from extmem.drivers.embedded.memory import Memory
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.vk import memories
from tests.support.leaks import windows_handles

__all__ = [
    "FD",
    "HEAP12",
    "HOST",
    "IMAGE11_KMT_NV",
    "IMAGE11_NV",
    "IMAGE_TRANSFER",
    "INVALID",
    "KMT",
    "KMT_NV",
    "NT",
    "NT_NV",
    "ON_LINUX",
    "RESOURCE12",
    "RGBA",
    "SIZE",
    "TEXTURE11",
    "TEXTURE11_KMT",
    "TRANSFER",
    "UNKNOWN",
    "Gpu",
    "assert_shared",
    "close",
    "from_fd",
    "from_handle",
    "from_handle_nv",
    "mapped_at",
    "open_sections",
    "payload_of",
    "refused",
    "terms",
    "unique_name",
    "use_once",
]

ON_LINUX = sys.platform == "linux"

NT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
HOST = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)
TEXTURE11 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
TEXTURE11_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT)
HEAP12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
RESOURCE12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT)
NT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV)
KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV)
IMAGE11_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV)
IMAGE11_KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV)

SIZE = 4096
INVALID = vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
UNKNOWN = vk.VK_ERROR_UNKNOWN
TRANSFER = int(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
IMAGE_TRANSFER = int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
RGBA = vk.VK_FORMAT_R8G8B8A8_UNORM

_EXTENSIONS = [
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_NV_dedicated_allocation",
    "VK_EXT_external_memory_host",
    *(["VK_KHR_external_memory_fd"] if ON_LINUX else []),
]


class Gpu:
    """One device of the embedded driver, and short forms. What is alive in the end goes with it."""

    def __init__(self, checks: str = "full", index: int = 0, beside: Gpu | None = None) -> None:
        """index: which physical device; beside: another device, whose instance is used."""
        self._owns = beside is None
        self.instance: Any = _instance(checks) if beside is None else beside.instance
        self.checks = checks
        self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
        info = vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue], ppEnabledExtensionNames=_EXTENSIONS)
        self.device = vk.vkCreateDevice(self.physical, info)
        self._alive: list[tuple[Callable[..., Any], Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for destroy, what in reversed(self._alive):
            destroy(self.device, what)
        vk.vkDestroyDevice(self.device)
        if self._owns:
            vk.vkDestroyInstance(self.instance)
        # pytest keeps this object for longer, and locks are handles on Windows.
        vars(self).clear()

    # -- memory

    def allocate(self, *chain: Any, size: int = SIZE, index: int = 1) -> Any:
        info = vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index)
        memory = vk.vkAllocateMemory(self.device, vk.link(info, *chain))
        self._alive.append((vk.vkFreeMemory, memory))
        return memory

    def free(self, *memories: Any) -> None:
        for memory in memories:
            self._alive = [each for each in self._alive if each[1] is not memory]
            vk.vkFreeMemory(self.device, memory)

    def export(self, types: int, *chain: Any, **members: int) -> Any:
        info = vk.VkExportMemoryAllocateInfo(handleTypes=types)
        return self.allocate(info, *chain, **members)

    def export_nv(self, types: int, *chain: Any, **members: int) -> Any:
        info = vk.VkExportMemoryAllocateInfoNV(handleTypes=types)
        return self.allocate(info, *chain, **members)

    def get(self, memory: Any, handle_type: int) -> int:
        """A handle, or a descriptor."""
        if handle_type == FD:
            fd_info = vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=FD)
            return vk.vkGetMemoryFdKHR(self.device, fd_info)
        info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=handle_type)
        return vk.vkGetMemoryWin32HandleKHR(self.device, info)

    def get_nv(self, memory: Any, handle_type: int) -> int:
        return vk.vkGetMemoryWin32HandleNV(self.device, memory, handle_type)

    def take(self, handle: int, handle_type: int, *chain: Any, **members: int) -> Any:
        """Import a handle or a KMT number, which stay the caller's, or a descriptor, which goes."""
        make = from_fd if handle_type == FD else from_handle
        return self.allocate(make(handle, handle_type), *chain, **members)

    def take_name(self, name: str, handle_type: int = NT, *chain: Any, **members: int) -> Any:
        return self.allocate(from_handle(None, handle_type, name), *chain, **members)

    def write(self, memory: Any, data: bytes) -> None:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        try:
            view[: len(data)] = data
        finally:
            del view
            vk.vkUnmapMemory(self.device, memory)

    def read(self, memory: Any, size: int) -> bytes:
        view = vk.vkMapMemory(self.device, memory, 0, vk.VK_WHOLE_SIZE)
        data = bytes(view[:size])
        del view
        vk.vkUnmapMemory(self.device, memory)
        return data

    def reads_only(self, memory: Any) -> bool:
        """Whether mapped memory may be read and not written."""
        return memories.is_read_only(self.device, memory)

    def memory_types_of(self, handle: int, handle_type: int) -> int:
        """What vkGetMemoryWin32HandlePropertiesKHR says, as a mask."""
        found = vk.vkGetMemoryWin32HandlePropertiesKHR(self.device, handle_type, handle)
        return int(found.memoryTypeBits)

    # -- resources

    def buffer(self, types: int = 0, size: int = SIZE, *chain: Any) -> Any:
        if types:
            chain = (vk.VkExternalMemoryBufferCreateInfo(handleTypes=types), *chain)
        info = vk.link(vk.VkBufferCreateInfo(size=size, usage=TRANSFER), *chain)
        made = vk.vkCreateBuffer(self.device, info)
        self._alive.append((vk.vkDestroyBuffer, made))
        return made

    def image(self, types: int = 0, *chain: Any, width: int = 32) -> Any:
        """An image of 4 KiB, 32 by 32 texels, unless it is to be another one."""
        if types:
            chain = (vk.VkExternalMemoryImageCreateInfo(handleTypes=types), *chain)
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=RGBA,
            extent=(width, 32, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            usage=IMAGE_TRANSFER,
        )
        made = vk.vkCreateImage(self.device, vk.link(info, *chain))
        self._alive.append((vk.vkDestroyImage, made))
        return made

    def destroy(self, *resources: Any) -> None:
        for resource in resources:
            (destroy,) = (each[0] for each in self._alive if each[1] is resource)
            self._alive = [each for each in self._alive if each[1] is not resource]
            destroy(self.device, resource)

    def bind_buffer(self, buffer: Any, memory: Any) -> None:
        vk.vkBindBufferMemory(self.device, buffer, memory, 0)


def _instance(checks: str) -> Any:
    info = vk.VkInstanceCreateInfo(
        pApplicationInfo=vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_3),
        ppEnabledExtensionNames=["VK_NV_external_memory_capabilities"],
    )
    return vk.vkCreateInstance(info, driver="embedded", checks=checks)


# -- structures ---------------------------------------------------------------------------------


def from_handle(handle: int | None, handle_type: int = NT, name: str | None = None) -> Any:
    return vk.VkImportMemoryWin32HandleInfoKHR(handleType=handle_type, handle=handle, name=name)


def from_handle_nv(handle: int, handle_type: int = NT_NV) -> Any:
    return vk.VkImportMemoryWin32HandleInfoNV(handleType=handle_type, handle=handle)


def from_fd(fd: int, handle_type: int = FD) -> Any:
    return vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)


def terms(access: int = ACCESS_READ | ACCESS_WRITE, name: str | None = None, **more: Any) -> Any:
    """On which terms an NT handle is exported."""
    return vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=access, name=name, **more)


def unique_name(prefix: str = "Local\\") -> str:
    """A name that nobody else in this session has."""
    return f"{prefix}extmem-test-{os.getpid()}-{secrets.token_hex(8)}"


# -- what is so ---------------------------------------------------------------------------------

_counter = itertools.count(1)


def assert_shared(one: tuple[Gpu, Any], other: tuple[Gpu, Any]) -> None:
    """Bytes that are written on each side are read on the other."""
    for (writer, source), (reader, target) in ((one, other), (other, one)):
        mark = b"mark %8d" % next(_counter)
        writer.write(source, mark)
        assert reader.read(target, len(mark)) == mark


def refused(
    gpu: Gpu, call: Callable[..., Any], *arguments: Any, vuid: str = "", result: int
) -> None:
    """A call fails: by this rule where rules are checked (vuid: the end of its name), else with
    this code of the driver's. Without a rule, the driver answers in either case.
    """
    with pytest.raises((extmem.RuleViolation, extmem.DriverError)) as error:
        call(*arguments)
    if isinstance(error.value, extmem.DriverError):
        assert gpu.checks == "off" or not vuid, f"the driver was asked: {error.value}"
        assert error.value.result == result
    else:
        assert isinstance(error.value, extmem.RuleViolation)
        broken = [problem.vuid for problem in error.value.problems]
        assert vuid, broken
        assert any(each.endswith(vuid) for each in broken), broken


def payload_of(memory: Any) -> Any:
    """What the embedded device has behind a memory object."""
    return objects.find(Memory, memory).payload


def mapped_at(address: int) -> bool:
    """Whether anything of this process is at an address."""
    if sys.platform == "win32":
        query = ctypes.WinDLL("kernel32").VirtualQuery
        query.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        found = (ctypes.c_uint64 * 6)()
        assert query(address, found, ctypes.sizeof(found))
        free = 0x10000
        return found[4] & 0xFFFFFFFF != free
    from extmem.handles.host_memory import examine

    looked = examine(address, 1)
    assert looked is not None
    return not looked.problem


def close(*handles: int) -> None:
    for handle in handles:
        kernel().close(handle)


def open_sections() -> int:
    """How many handles of sections this process has: all of what is shared here is one.

    On Windows it has others that come and go, those of threads and of locks.
    """
    return windows_handles()["Section" if sys.platform == "win32" else "in the table"]


def use_once() -> None:
    """Open what the first name and the first device in a process open for good."""
    with Gpu() as gpu:
        gpu.export(NT, terms(name=unique_name()))
