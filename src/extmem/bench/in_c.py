"""A hand-over in C, through the same functions of the same driver: the floor of all others.

It is compiled when it is measured, from standard input. Types are spelled out, so that no Vulkan
headers are needed.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

from extmem import vk
from extmem.bench.cycles import SIZE
from extmem.bench.rounds import Round
from extmem.errors import ExtmemError

__all__ = ["in_c"]

_SOURCE = r"""
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>

typedef struct {
    int32_t sType; const void *pNext; uint64_t allocationSize; uint32_t memoryTypeIndex;
} AllocateInfo;
typedef struct { int32_t sType; const void *pNext; uint32_t handleTypes; } ExportInfo;
typedef struct { int32_t sType; const void *pNext; uint32_t handleType; int fd; } ImportInfo;
typedef struct {
    int32_t sType; const void *pNext; uint64_t memory; uint32_t handleType;
} GetInfo;

typedef int32_t (*Allocate)(void *, const AllocateInfo *, const void *, uint64_t *);
typedef void (*Free)(void *, uint64_t, const void *);
typedef int32_t (*GetFd)(void *, const GetInfo *, int *);

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Runs `count` hand-overs and writes how long each took, in nanoseconds. 0, or a VkResult. */
int32_t handovers(void *device, Allocate allocate, Free release, GetFd get_fd, uint64_t size,
                  uint32_t type, uint32_t count, int64_t *nanoseconds) {
    for (uint32_t i = 0; i < count; i++) {
        int64_t start = now();
        ExportInfo exported = {1000072002, 0, 1};
        AllocateInfo first = {5, &exported, size, type};
        uint64_t a, b;
        int fd;
        int32_t result = allocate(device, &first, 0, &a);
        if (result) return result;
        GetInfo get = {1000074002, 0, a, 1};
        result = get_fd(device, &get, &fd);
        if (result) return result;
        ImportInfo imported = {1000074000, 0, 1, fd};
        AllocateInfo second = {5, &imported, size, type};
        result = allocate(device, &second, 0, &b);
        if (result) return result;
        release(device, a, 0);
        release(device, b, 0);
        nanoseconds[i] = now() - start;
    }
    return 0;
}
"""


def in_c(device: vk.VkDevice, memory_type: int) -> Round | None:
    """Rounds of hand-overs; None where there is no gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder, "handover.so"))
        command = [compiler, "-O2", "-shared", "-fPIC", "-x", "c", "-o", library, "-"]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
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
            raise ExtmemError(f"the hand-over in C failed with VkResult {result}")
        return [value / 1000 for value in taken]

    return run
