"""The same as `tensors_peers.Bare` does, in C: one function for each step that is timed.

It is compiled when it is measured, from standard input. Types are spelled out, so that neither
Vulkan's nor CUDA's headers are needed; the functions that it calls are given to it.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["RawC"]

_SOURCE = r"""
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>

typedef struct {
    int32_t sType; const void *pNext; uint32_t waits; const uint64_t *waitValues;
    uint32_t signals; const uint64_t *signalValues;
} Times;
typedef struct {
    int32_t sType; const void *pNext; uint32_t waits; const uint64_t *waitFor;
    const uint32_t *stages; uint32_t commands; void *const *run; uint32_t signals;
    const uint64_t *signal;
} Submit;
typedef struct {
    int32_t type; union { int fd; struct { void *handle; const void *name; } win32; } handle;
    uint64_t size; uint32_t flags; uint32_t reserved[16];
} Memory;
typedef struct { uint64_t offset, size; uint32_t flags; uint32_t reserved[16]; } Buffer;

typedef int32_t (*QueueSubmit)(void *, uint32_t, const Submit *, uint64_t);
typedef int32_t (*Counter)(void *, uint64_t, uint64_t *);
typedef int (*Import)(void **, const Memory *);
typedef int (*Map)(uint64_t *, void *, const Buffer *);
typedef int (*Free)(uint64_t);
typedef int (*Destroy)(void *);
typedef int (*Wait)(void *const *, const void *, unsigned, void *);
typedef int (*Copy)(uint64_t, uint64_t, uint64_t, void *);
typedef int (*Synchronize)(void *);

/* Microseconds of the clock that all processes share. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Stays awake, and signals; when it entered. */
int32_t signal_after(double microseconds, void *queue, QueueSubmit submit, uint64_t semaphore,
                     uint64_t value, double *entered) {
    Times times = {1000207003, 0, 0, 0, 1, &value};
    Submit one = {4, &times, 0, 0, 0, 0, 0, 1, &semaphore};
    for (double began = now(); now() < began + microseconds;) {}
    *entered = now();
    return submit(queue, 1, &one, 0);
}

static int copied(Copy copy, Synchronize synchronize, uint64_t to, uint64_t from, uint64_t size,
                  double *done) {
    void *legacy = (void *)1;
    int result = copy(to, from, size, legacy);
    if (!result) result = synchronize(legacy);
    *done = now();
    return result;
}

/* Reads the counter until the value is there, then copies. */
int32_t copy_when_seen(void *device, Counter counter, uint64_t semaphore, uint64_t value,
                       Copy copy, Synchronize synchronize, uint64_t to, uint64_t from,
                       uint64_t size, double *seen, double *done) {
    uint64_t is = 0;
    while (is < value) {
        int32_t result = counter(device, semaphore, &is);
        if (result) return result;
    }
    *seen = now();
    return copied(copy, synchronize, to, from, size, done);
}

/* Has the stream wait on the GPU, and copy then. */
int32_t copy_after(Wait wait, void *semaphore, uint64_t value, Copy copy, Synchronize synchronize,
                   uint64_t to, uint64_t from, uint64_t size, double *seen, double *done) {
    uint64_t until[32] = {value};  /* CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS is shorter */
    int result = wait(&semaphore, until, 1, (void *)1);
    *seen = now();
    if (result) return result;
    return copied(copy, synchronize, to, from, size, done);
}

/* Imports memory and maps it whole; how long that took, and how long freeing it. */
int32_t import_and_free(Import import, Map map, Free release, Destroy destroy, int fd,
                        uint64_t size, int32_t dedicated, double *imported, double *freed) {
    void *memory;
    uint64_t pointer;
    double began = now();
    Memory about = {.type = 1, .handle.fd = fd, .size = size, .flags = dedicated ? 1 : 0};
    int result = import(&memory, &about);
    if (result) return result;
    Buffer whole = {.size = size};
    result = map(&pointer, memory, &whole);
    *imported = now() - began;
    began = now();
    if (!result) result = release(pointer);
    int last = destroy(memory);
    *freed = now() - began;
    return result ? result : last;
}
"""

_double, _void, _u64 = ctypes.c_double, ctypes.c_void_p, ctypes.c_uint64


class RawC:
    """These functions, with times in microseconds. `made` gives None where there is no gcc."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._cuda = ctypes.CDLL("libcuda.so.1")  # what cuda-bindings has loaded

    @classmethod
    def made(cls) -> RawC | None:
        compiler = shutil.which("gcc")
        if compiler is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            library = str(Path(folder, "raw.so"))
            command = [compiler, "-O2", "-Wall", "-shared", "-fPIC", "-x", "c", "-o", library, "-"]
            subprocess.run(command, input=_SOURCE.encode(), check=True)
            return cls(ctypes.CDLL(library))

    def _of_cuda(self, *names: str) -> list[ctypes.c_void_p]:
        return [ctypes.cast(getattr(self._cuda, name), ctypes.c_void_p) for name in names]

    @staticmethod
    def _did(result: int) -> None:
        if result:
            raise RuntimeError(f"the driver answered C with {result}")

    def signal_after(
        self, microseconds: float, queue: int, submit: int, semaphore: int, value: int
    ) -> float:
        """Stay awake for so long, then signal by vkQueueSubmit, at `submit`; when it entered."""
        entered = _double()
        self._did(
            self._library.signal_after(
                _double(microseconds), _void(queue), _void(submit), _u64(semaphore), _u64(value),
                ctypes.byref(entered),
            )
        )  # fmt: skip
        return entered.value

    def copy_when_seen(
        self, device: int, counter: int, semaphore: int, value: int, to: int, origin: int, size: int
    ) -> tuple[float, float]:
        """Read the counter, by vkGetSemaphoreCounterValue at `counter`, until the value is there,
        and copy then; when it was seen, and when the copy was done.
        """
        seen, done = _double(), _double()
        self._did(
            self._library.copy_when_seen(
                _void(device), _void(counter), _u64(semaphore), _u64(value),
                *self._of_cuda("cuMemcpyDtoDAsync_v2", "cuStreamSynchronize"),
                _u64(to), _u64(origin), _u64(size), ctypes.byref(seen), ctypes.byref(done),
            )
        )  # fmt: skip
        return seen.value, done.value

    def copy_after(
        self, semaphore: int, value: int, to: int, origin: int, size: int
    ) -> tuple[float, float]:
        """Have CUDA's stream wait for the value, and copy; when that was said, and when the copy
        was done.
        """
        wait, *rest = self._of_cuda(
            "cuWaitExternalSemaphoresAsync", "cuMemcpyDtoDAsync_v2", "cuStreamSynchronize"
        )
        seen, done = _double(), _double()
        self._did(
            self._library.copy_after(
                wait, _void(semaphore), _u64(value), *rest,
                _u64(to), _u64(origin), _u64(size), ctypes.byref(seen), ctypes.byref(done),
            )
        )  # fmt: skip
        return seen.value, done.value

    def import_and_free(self, fd: int, size: int, dedicated: bool) -> tuple[float, float]:
        """How long importing took, and freeing. The descriptor is CUDA's from here on."""
        imported, freed = _double(), _double()
        self._did(
            self._library.import_and_free(
                *self._of_cuda(
                    "cuImportExternalMemory", "cuExternalMemoryGetMappedBuffer",
                    "cuMemFree_v2", "cuDestroyExternalMemory",
                ),
                ctypes.c_int(fd), _u64(size), ctypes.c_int(dedicated),
                ctypes.byref(imported), ctypes.byref(freed),
            )
        )  # fmt: skip
        return imported.value, freed.value
