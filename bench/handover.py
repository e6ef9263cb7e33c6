"""The cost of one hand-over, side by side: C, bare ctypes, PyPI's `vulkan`, extmem.

    python bench/handover.py [--driver system] [--rounds 15] [--json]

Allocate exportable memory, get its descriptor, import it, free both; 64 KiB. All in one process
on one device of one driver; the four take turns, round by round, so that a machine that changes
its speed changes it for all. Each figure is the median of the rounds' medians, with the spread
of those. extmem is measured with checks off and, for what they cost, with cheap and full checks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extmem import vk

SIZE = 65536
OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
HERE = Path(__file__).resolve().parent

Round = Callable[[int], list[float]]


def timed(action: Callable[[], None]) -> Round:
    """A round that times `action` many times, in microseconds."""

    def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            start = time.perf_counter_ns()
            action()
            taken.append((time.perf_counter_ns() - start) / 1000)
        return taken

    return run


def in_c(device: Any, memory_type: int, folder: str) -> Round:
    """The same in C, through the same driver functions."""
    library = f"{folder}/handover.so"
    source = str(HERE / "handover.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    handovers = ctypes.CDLL(library).handovers
    functions = [
        ctypes.c_void_p(vk.vkGetDeviceProcAddr(device, name))
        for name in ("vkAllocateMemory", "vkFreeMemory", "vkGetMemoryFdKHR")
    ]

    def run(count: int) -> list[float]:
        taken = (ctypes.c_int64 * count)()
        result = handovers(
            ctypes.c_void_p(device),
            *functions,
            ctypes.c_uint64(SIZE),
            ctypes.c_uint32(memory_type),
            ctypes.c_uint32(count),
            taken,
        )
        if result:
            raise SystemExit(f"C failed with VkResult {result}")
        return [value / 1000 for value in taken]

    return run


def in_ctypes(device: Any, memory_type: int) -> Round:
    """The least that a Python program can do: its own structures, no conveniences."""

    class AllocateInfo(ctypes.Structure):
        _fields_ = [
            ("sType", ctypes.c_int32),
            ("pNext", ctypes.c_void_p),
            ("allocationSize", ctypes.c_uint64),
            ("memoryTypeIndex", ctypes.c_uint32),
        ]

    class ExportInfo(ctypes.Structure):
        _fields_ = [
            ("sType", ctypes.c_int32),
            ("pNext", ctypes.c_void_p),
            ("handleTypes", ctypes.c_uint32),
        ]

    class ImportInfo(ctypes.Structure):
        _fields_ = [
            ("sType", ctypes.c_int32),
            ("pNext", ctypes.c_void_p),
            ("handleType", ctypes.c_uint32),
            ("fd", ctypes.c_int32),
        ]

    class GetInfo(ctypes.Structure):
        _fields_ = [
            ("sType", ctypes.c_int32),
            ("pNext", ctypes.c_void_p),
            ("memory", ctypes.c_uint64),
            ("handleType", ctypes.c_uint32),
        ]

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
        exported = ExportInfo(1000072002, None, OPAQUE_FD)
        first, second = ctypes.c_uint64(), ctypes.c_uint64()
        info = AllocateInfo(5, addressof(exported), SIZE, memory_type)
        if allocate(handle, byref(info), None, byref(first)):
            raise SystemExit("vkAllocateMemory failed")
        fd = ctypes.c_int32()
        if get_fd(handle, byref(GetInfo(1000074002, None, first.value, OPAQUE_FD)), byref(fd)):
            raise SystemExit("vkGetMemoryFdKHR failed")
        imported = ImportInfo(1000074000, None, OPAQUE_FD, fd.value)
        info = AllocateInfo(5, addressof(imported), SIZE, memory_type)
        if allocate(handle, byref(info), None, byref(second)):
            raise SystemExit("vkAllocateMemory failed")
        free(handle, first, None)
        free(handle, second, None)

    return timed(once)


def in_extmem(device: vk.VkDevice, memory_type: int) -> Round:
    """Through `extmem.vk`."""

    def once() -> None:
        first = vk.vkAllocateMemory(
            device,
            vk.VkMemoryAllocateInfo(
                pNext=vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD),
                allocationSize=SIZE,
                memoryTypeIndex=memory_type,
            ),
        )
        fd = vk.vkGetMemoryFdKHR(
            device, vk.VkMemoryGetFdInfoKHR(memory=first, handleType=OPAQUE_FD)
        )
        second = vk.vkAllocateMemory(
            device,
            vk.VkMemoryAllocateInfo(
                pNext=vk.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd),
                allocationSize=SIZE,
                memoryTypeIndex=memory_type,
            ),
        )
        vk.vkFreeMemory(device, first)
        vk.vkFreeMemory(device, second)

    return timed(once)


def in_pypi_vulkan(name: str, memory_type: int) -> Round | None:
    """Through PyPI's `vulkan`, on its own device of the same name; None where not installed."""
    try:
        import vulkan as pv
    except (ImportError, OSError):
        return None
    application = pv.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
    instance = pv.vkCreateInstance(pv.VkInstanceCreateInfo(pApplicationInfo=application), None)
    physical = next(
        each
        for each in pv.vkEnumeratePhysicalDevices(instance)
        if pv.vkGetPhysicalDeviceProperties(each).deviceName == name
    )
    queue = pv.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
    info = pv.VkDeviceCreateInfo(
        pQueueCreateInfos=[queue], ppEnabledExtensionNames=["VK_KHR_external_memory_fd"]
    )
    device = pv.vkCreateDevice(physical, info, None)
    get_fd = pv.vkGetDeviceProcAddr(device, "vkGetMemoryFdKHR")

    def once() -> None:
        exported = pv.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD)
        info = pv.VkMemoryAllocateInfo(
            pNext=exported, allocationSize=SIZE, memoryTypeIndex=memory_type
        )
        first = pv.vkAllocateMemory(device, info, None)
        fd = get_fd(device, pv.VkMemoryGetFdInfoKHR(memory=first, handleType=OPAQUE_FD))
        imported = pv.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd)
        info = pv.VkMemoryAllocateInfo(
            pNext=imported, allocationSize=SIZE, memoryTypeIndex=memory_type
        )
        second = pv.vkAllocateMemory(device, info, None)
        pv.vkFreeMemory(device, first, None)
        pv.vkFreeMemory(device, second, None)

    return timed(once)


def open_device(driver: str, checks: str) -> tuple[vk.VkInstance, vk.VkDevice, str, str]:
    application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
    instance = vk.vkCreateInstance(
        vk.VkInstanceCreateInfo(pApplicationInfo=application), driver=driver, checks=checks
    )
    physical = vk.vkEnumeratePhysicalDevices(instance)[0]
    details = vk.VkPhysicalDeviceDriverProperties()
    properties = vk.vkGetPhysicalDeviceProperties2(
        physical, vk.VkPhysicalDeviceProperties2(pNext=details)
    )
    queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
    device = vk.vkCreateDevice(
        physical,
        vk.VkDeviceCreateInfo(
            pQueueCreateInfos=[queue], ppEnabledExtensionNames=["VK_KHR_external_memory_fd"]
        ),
    )
    return instance, device, properties.properties.deviceName, details.driverInfo


def measure(driver: str, rounds: int, count: int) -> dict[str, Any]:
    """Everything, as one JSON-able object."""
    memory_type = 0
    instance, device, name, version = open_device(driver, "off")
    checked_instance, checked, _, _ = open_device(driver, "full")
    cheap_instance, cheap, _, _ = open_device(driver, "cheap")
    with tempfile.TemporaryDirectory() as folder:
        contestants: dict[str, Round | None] = {
            "C": in_c(device, memory_type, folder),
            "ctypes": in_ctypes(device, memory_type),
            "extmem, checks off": in_extmem(device, memory_type),
            "extmem, cheap checks": in_extmem(cheap, memory_type),
            "extmem, full checks": in_extmem(checked, memory_type),
            "PyPI vulkan": in_pypi_vulkan(name, memory_type),
        }
        medians: dict[str, list[float]] = {}
        for each in contestants.values():
            if each is not None:
                each(count)  # warm up
        for _ in range(rounds):
            for label, each in contestants.items():
                if each is not None:
                    medians.setdefault(label, []).append(statistics.median(each(count)))
    opened = ((device, instance), (checked, checked_instance), (cheap, cheap_instance))
    for closing, over in opened:
        vk.vkDestroyDevice(closing)
        vk.vkDestroyInstance(over)
    return {
        "what": "allocate + export + get fd + import + free both, 64 KiB",
        "device": name,
        "driver": version,
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rounds": rounds,
        "cycles_per_round": count,
        "microseconds": {
            label: {
                "median": round(statistics.median(values), 2),
                "lowest": round(min(values), 2),
                "highest": round(max(values), 2),
                "over_C": round(
                    statistics.median(v / c for v, c in zip(values, medians["C"], strict=True)), 2
                ),
                "over_ctypes": round(
                    statistics.median(
                        v / c for v, c in zip(values, medians["ctypes"], strict=True)
                    ),
                    2,
                ),
            }
            for label, values in medians.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--driver", default="system", help="system, or a path")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cycles", type=int, default=1000, help="hand-overs per round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.driver, options.rounds, options.cycles)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['what']}\n{result['device']}, {result['driver']}; {result['machine']}")
    print(f"{'':22}{'median':>9}{'lowest':>9}{'highest':>9}{'x C':>7}{'x ctypes':>10}   (µs)")
    for label, row in result["microseconds"].items():
        print(
            f"{label:22}{row['median']:9.1f}{row['lowest']:9.1f}{row['highest']:9.1f}"
            f"{row['over_C']:7.2f}{row['over_ctypes']:10.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
