/* One hand-over in C: allocate exportable memory, get its descriptor, import it, free both.
 *
 * Built as a library and called from bench/handover.py, so that C, ctypes, PyPI's vulkan and
 * extmem are timed in one process on one driver. Types are spelled out here: no Vulkan headers
 * are needed to build it.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>

typedef struct { int32_t sType; const void *pNext; uint64_t allocationSize; uint32_t memoryTypeIndex; } AllocateInfo;
typedef struct { int32_t sType; const void *pNext; uint32_t handleTypes; } ExportInfo;
typedef struct { int32_t sType; const void *pNext; uint32_t handleType; int fd; } ImportInfo;
typedef struct { int32_t sType; const void *pNext; uint64_t memory; uint32_t handleType; } GetInfo;

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
