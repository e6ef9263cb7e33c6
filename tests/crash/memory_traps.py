"""What a careless or hostile caller does with memory, descriptors and host pointers.

Each case makes the call that crashes, hangs or quietly fools some driver, and says which rule has
to catch it. `run_all` runs each in a process of its own, on one driver.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from extmem import ExtmemError, RuleViolation, vk
from tests.support.bare import (
    DMA_BUF,
    FOREIGN,
    HOST,
    OPAQUE_FD,
    OPAQUE_WIN32,
    SIZE,
    Bare,
    fd_info,
)
from tests.support.second import Channel

__all__ = ["CASES", "run_all"]

Case = Callable[[Bare], object]
CASES: dict[str, tuple[str, Case]] = {}

_PATIENCE = 20.0  # seconds that a case may take
_IMPORT = "VUID-VkImportMemoryFdInfoKHR"
_HOST = "VUID-VkImportMemoryHostPointerInfoEXT"
_INFO = "VUID-VkMemoryAllocateInfo"
_GET = "VUID-VkMemoryGetFdInfoKHR"


def trap(vuid: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES[case.__name__] = (vuid, case)
        return case

    return register


def _import(gpu: Bare, fd: int, handle_type: int = OPAQUE_FD, **members: Any) -> Any:
    return gpu.allocate(vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd), **members)


def _at(gpu: Bare, address: int | None, handle_type: int = HOST, **members: Any) -> Any:
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=handle_type, pHostPointer=address)
    return gpu.allocate(info, **members)


def _pages(size: int = SIZE, rights: int = mmap.PROT_READ | mmap.PROT_WRITE) -> int:
    """Mapped pages that stay until the process ends, with nothing mapped behind them."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, size + 2 * SIZE, rights, flags, -1, 0)
    libc.munmap(address + size, 2 * SIZE)
    return int(address)


# -- descriptors ----------------------------------------------------------------------------------


@trap(f"{_IMPORT}-handleType-00670")
def empty_pipe(gpu: Bare) -> None:
    _import(gpu, os.pipe()[0])


@trap(f"{_IMPORT}-handleType-00670")
def writing_end_of_a_pipe(gpu: Bare) -> None:
    _import(gpu, os.pipe()[1], DMA_BUF)


@trap(f"{_IMPORT}-handleType-00670")
def socket_of_a_peer(gpu: Bare) -> None:
    one, other = socket.socketpair()
    with one, other:
        _import(gpu, one.fileno())


@trap(f"{_IMPORT}-handleType-00670")
def directory(gpu: Bare) -> None:
    _import(gpu, os.open("/", os.O_RDONLY))


@trap(f"{_IMPORT}-handleType-00670")
def event(gpu: Bare) -> None:
    _import(gpu, os.eventfd(0))


@trap(f"{_IMPORT}-handleType-00670")
def file_on_disk(gpu: Bare) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * SIZE)
        _import(gpu, file.fileno())


@trap(f"{_IMPORT}-handleType-00670")
def device_of_zeros(gpu: Bare) -> None:
    _import(gpu, os.open("/dev/zero", os.O_RDWR))


@trap(f"{_IMPORT}-handleType-00670")
def closed_number(gpu: Bare) -> None:
    _import(gpu, 9999)


@trap(f"{_IMPORT}-handleType-00670")
def negative_number(gpu: Bare) -> None:
    _import(gpu, -1)


@trap(f"{_IMPORT}-handleType-00670")
def one_number_imported_twice(gpu: Bare) -> None:
    fd = gpu.fd_of(gpu.exportable())
    _import(gpu, fd)
    _import(gpu, fd)


@trap(f"{_IMPORT}-handleType-00670")
def opaque_descriptor_as_a_dma_buf(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), DMA_BUF)


@trap(f"{_IMPORT}-handleType-00670")
def plain_memfd_as_a_dma_buf(gpu: Bare) -> None:
    fd = os.memfd_create("plain")
    os.truncate(fd, SIZE)
    _import(gpu, fd, DMA_BUF)


@trap(f"{_IMPORT}-handleType-00669")
def windows_type_with_a_descriptor(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), OPAQUE_WIN32)


@trap(f"{_IMPORT}-handleType-00669")
def host_type_with_a_descriptor(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), HOST)


@trap(f"{_INFO}-allocationSize-01742")
def file_shorter_than_it_claims(gpu: Bare) -> None:
    fd = os.memfd_create("short")
    os.truncate(fd, 100)
    _import(gpu, fd)


@trap(f"{_INFO}-allocationSize-01742")
def import_of_no_bytes(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), size=0)


@trap(f"{_INFO}-allocationSize-01742")
def import_of_fewer_bytes(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), size=SIZE - 4096)


@trap(f"{_INFO}-allocationSize-01742")
def import_of_one_byte_more(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), size=SIZE + 1)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714")
def import_with_memory_type_31(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), index=31)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714")
def import_with_memory_type_of_all_ones(gpu: Bare) -> None:
    _import(gpu, gpu.fd_of(gpu.exportable()), index=0xFFFFFFFF)


@trap("VUID-vkGetMemoryFdPropertiesKHR-fd-00673")
def question_about_a_plain_memfd(gpu: Bare) -> None:
    vk.vkGetMemoryFdPropertiesKHR(gpu.device, DMA_BUF, os.memfd_create("plain"))


@trap("VUID-vkGetMemoryFdPropertiesKHR-fd-00673")
def question_about_a_closed_number(gpu: Bare) -> None:
    vk.vkGetMemoryFdPropertiesKHR(gpu.device, DMA_BUF, 9999)


@trap(f"{_IMPORT}-fd-00668")
def payload_of_another_driver(gpu: Bare) -> None:
    stranger = "embedded" if "embedded" not in gpu.dispatch.driver.name else "system"
    with Bare(stranger) as other:
        fd = other.fd_of(other.exportable())
        _import(gpu, fd)


# -- fetching and freeing -------------------------------------------------------------------------


@trap(f"{_GET}-memory-parameter")
def descriptor_of_no_memory(gpu: Bare) -> None:
    vk.vkGetMemoryFdKHR(gpu.device, fd_info(None))


@trap(f"{_GET}-memory-parameter")
def descriptor_of_freed_memory(gpu: Bare) -> None:
    memory = gpu.exportable()
    vk.vkFreeMemory(gpu.device, memory)
    vk.vkGetMemoryFdKHR(gpu.device, fd_info(memory))


@trap(f"{_GET}-handleType-00671")
def descriptor_of_private_memory(gpu: Bare) -> None:
    vk.vkGetMemoryFdKHR(gpu.device, fd_info(gpu.allocate()))


@trap(f"{_GET}-handleType-00671")
def descriptor_of_imported_memory(gpu: Bare) -> None:
    memory = _import(gpu, gpu.fd_of(gpu.exportable()))
    vk.vkGetMemoryFdKHR(gpu.device, fd_info(memory))


@trap(f"{_GET}-handleType-00671")
def descriptor_of_another_type(gpu: Bare) -> None:
    vk.vkGetMemoryFdKHR(gpu.device, fd_info(gpu.exportable(), DMA_BUF))


@trap("VUID-vkFreeMemory-memory-parameter")
def memory_freed_twice(gpu: Bare) -> None:
    memory = gpu.allocate()
    vk.vkFreeMemory(gpu.device, memory)
    vk.vkFreeMemory(gpu.device, memory)


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
def export_as_an_address(gpu: Bare) -> None:
    gpu.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=FOREIGN))


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
def export_as_two_types(gpu: Bare) -> None:
    gpu.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD | DMA_BUF))


@trap("VUID-vkAllocateMemory-pAllocateInfo-01713")
def export_of_32_terabytes(gpu: Bare) -> None:
    gpu.exportable(size=1 << 45)


# -- host pointers --------------------------------------------------------------------------------


@trap(f"{_HOST}-handleType-01750")
def pointer_to_null(gpu: Bare) -> None:
    _at(gpu, None)


@trap(f"{_HOST}-handleType-01750")
def pointer_to_nothing(gpu: Bare) -> None:
    _at(gpu, _pages() + SIZE)


@trap(f"{_HOST}-handleType-01750")
def pointer_into_the_kernel(gpu: Bare) -> None:
    _at(gpu, 0xFFFF_8000_0000_0000)


@trap(f"{_HOST}-handleType-01750")
def pointer_to_pages_without_access(gpu: Bare) -> None:
    _at(gpu, _pages(rights=0))


@trap(f"{_HOST}-handleType-01750")
def pointer_to_pages_for_reading(gpu: Bare) -> None:
    _at(gpu, _pages(rights=mmap.PROT_READ))


@trap(f"{_HOST}-handleType-01750")
def pointer_to_too_few_pages(gpu: Bare) -> None:
    _at(gpu, _pages(), size=2 * SIZE)


@trap(f"{_HOST}-pHostPointer-01749")
def pointer_between_pages(gpu: Bare) -> None:
    _at(gpu, _pages(2 * SIZE) + 8)


@trap(f"{_INFO}-allocationSize-01745")
def half_a_page(gpu: Bare) -> None:
    _at(gpu, _pages(), size=2048)


@trap(f"{_INFO}-allocationSize-01745")
def pages_of_no_size(gpu: Bare) -> None:
    _at(gpu, _pages(), size=0)


@trap(f"{_HOST}-handleType-01747")
def memory_of_a_foreign_device(gpu: Bare) -> None:
    _at(gpu, _pages(), FOREIGN)


# -- using it -------------------------------------------------------------------------------------


@trap("VUID-vkMapMemory-size-00681")
def mapping_past_the_end(gpu: Bare) -> None:
    vk.vkMapMemory(gpu.device, gpu.allocate(), 0, SIZE + 1)


@trap("VUID-vkMapMemory-memory-parameter")
def mapping_of_freed_memory(gpu: Bare) -> None:
    memory = gpu.allocate()
    vk.vkFreeMemory(gpu.device, memory)
    vk.vkMapMemory(gpu.device, memory, 0, SIZE)


@trap("VUID-vkBindBufferMemory-None-10741")
def buffer_larger_than_its_memory(gpu: Bare) -> None:
    vk.vkBindBufferMemory(gpu.device, gpu.buffer(4 * SIZE), gpu.allocate(), 0)


@trap("VUID-VkBindImageMemoryInfo-pNext-01632")
def image_without_memory(gpu: Bare) -> None:
    vk.vkBindImageMemory2(gpu.device, 1, [vk.VkBindImageMemoryInfo(image=gpu.image())])


# -- the processes --------------------------------------------------------------------------------


def run_all(channel: Channel, driver: str) -> dict[str, Any]:
    """Run every case in a fork of this process, which has no driver loaded and no threads."""
    return {name: _forked(driver, case) for name, (_, case) in CASES.items()}


def _forked(driver: str, case: Case) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            report = json.dumps(_caught(driver, case)).encode()
            os.write(writing, report)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = b""
        while select.select([pipe], [], [], _PATIENCE)[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            said += part
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "it hung"
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return json.loads(said) if code == 0 and said else f"it ended with {code}"


def _caught(driver: str, case: Case) -> Any:
    """The rules that a case broke, or what happened instead."""
    with Bare(driver) as gpu:
        try:
            case(gpu)
        except RuleViolation as error:
            return [problem.vuid for problem in error.problems]
        except ExtmemError as error:
            return f"{type(error).__name__}: {error}"
        return "it succeeded"
