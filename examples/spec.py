"""Both Win32 extensions, spelled as in the specification: python examples/spec.py khr, or nv

This process allocates memory and gets its NT handle; another one, which it starts, imports the
handle and writes. A handle is a number of one process alone, so it is duplicated into the other.
"""

import os
import subprocess
import sys

import extmem
from extmem import vk, win32

SIZE = 65536


def visible(gpu: extmem.Device) -> int:
    """The index of a memory type that the processor sees."""
    return next(each.index for each in gpu.physical.memory_types if "host_visible" in each.flags)


def export(gpu: extmem.Device, form: str) -> tuple[vk.VkDeviceMemory, int]:
    """Memory that can be exported, and its NT handle, which is ours to close."""
    if form == "khr":
        khr = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT
        terms = vk.VkExportMemoryAllocateInfo(handleTypes=khr)
    else:
        nv = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV
        terms = vk.VkExportMemoryAllocateInfoNV(handleTypes=nv)
    info = vk.VkMemoryAllocateInfo(allocationSize=SIZE, memoryTypeIndex=visible(gpu), pNext=terms)
    memory = vk.vkAllocateMemory(gpu.handle, info)
    if form == "khr":
        asked = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=khr)
        return memory, vk.vkGetMemoryWin32HandleKHR(gpu.handle, asked)
    return memory, vk.vkGetMemoryWin32HandleNV(gpu.handle, memory, nv)


def take(gpu: extmem.Device, form: str, handle: int) -> vk.VkDeviceMemory:
    """The same memory, imported by a handle of this process, which stays ours to close."""
    if form == "khr":
        khr = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT
        source = vk.VkImportMemoryWin32HandleInfoKHR(handleType=khr, handle=handle)
    else:
        nv = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV
        source = vk.VkImportMemoryWin32HandleInfoNV(handleType=nv, handle=handle)
    info = vk.VkMemoryAllocateInfo(allocationSize=SIZE, memoryTypeIndex=visible(gpu), pNext=source)
    return vk.vkAllocateMemory(gpu.handle, info)


def first_byte(gpu: extmem.Device, memory: vk.VkDeviceMemory, new: int) -> int:
    """What the memory begins with; from now on it begins with something else."""
    pages = vk.vkMapMemory(gpu.handle, memory, 0, vk.VK_WHOLE_SIZE, 0)
    old, pages[0] = pages[0], new
    del pages  # mapped memory that is looked at cannot be unmapped
    vk.vkUnmapMemory(gpu.handle, memory)
    return old


def importer(form: str) -> None:
    with extmem.open_device() as gpu:
        print(os.getpid(), flush=True)
        handle = int(input())
        memory = take(gpu, form, handle)
        win32.CloseHandle(handle)
        print(f"{form}: the importer found {first_byte(gpu, memory, 9)}", flush=True)
        vk.vkFreeMemory(gpu.handle, memory)


def main(form: str) -> None:
    command = [sys.executable, __file__, form, "importer"]
    with extmem.open_device() as gpu:
        memory, handle = export(gpu, form)
        first_byte(gpu, memory, 7)
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as child:
            process = win32.OpenProcess(
                win32.PROCESS_DUP_HANDLE, False, int(child.stdout.readline())
            )
            there = win32.DuplicateHandle(
                win32.GetCurrentProcess(), handle, process, 0, False, win32.DUPLICATE_SAME_ACCESS
            )
            said, _ = child.communicate(f"{there}\n")
            print(said, end="")
        win32.CloseHandle(process)
        win32.CloseHandle(handle)
        print(f"{form}: the exporter found {first_byte(gpu, memory, 0)}")
        vk.vkFreeMemory(gpu.handle, memory)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/spec.py khr|nv")
    (importer if sys.argv[2:] else main)(sys.argv[1])
