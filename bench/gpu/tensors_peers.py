"""What streams of tensors are compared with: the bare calls, in Python and C, and CUDA IPC."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import common
from common import MIB, mib, now, rest, row, summary
from raw_c import RawC

import extmem
from extmem import vk
from extmem.handles.handle import Handle

OPERATION = MIB  # bytes that the operation on each frame reads
TIMELINE_FD, MEMORY_FD = 9, 1  # CUDA's handle types

HOWS = ("reads the counter", "waits on the GPU")


class Bare:
    """CUDA's driver by cuda-bindings alone, as C would call it."""

    def __init__(self) -> None:
        from cuda.bindings import driver as cu

        self.cu = cu
        self.did(cu.cuInit(0))
        device = self.did(cu.cuDeviceGet(0))
        self.did(cu.cuCtxSetCurrent(self.did(cu.cuDevicePrimaryCtxRetain(device))))

    @staticmethod
    def did(answer: Any) -> Any:
        result, *values = answer
        if int(result):
            raise RuntimeError(f"CUDA: {result}")
        return values[0] if values else None

    def memory(self, fd: int, size: int, dedicated: bool) -> tuple[Any, int]:
        """The import and its address. The descriptor is CUDA's from here on."""
        cu = self.cu
        about = cu.CUDA_EXTERNAL_MEMORY_HANDLE_DESC()
        about.type = cu.CUexternalMemoryHandleType(MEMORY_FD)
        about.handle.fd, about.size = fd, size
        about.flags = cu.CUDA_EXTERNAL_MEMORY_DEDICATED if dedicated else 0
        made = self.did(cu.cuImportExternalMemory(about))
        part = cu.CUDA_EXTERNAL_MEMORY_BUFFER_DESC()
        part.offset, part.size, part.flags = 0, size, 0
        return made, int(self.did(cu.cuExternalMemoryGetMappedBuffer(made, part)))

    def free(self, made: Any, pointer: int) -> None:
        self.did(self.cu.cuMemFree(pointer))
        self.did(self.cu.cuDestroyExternalMemory(made))

    def timeline(self, fd: int) -> Any:
        cu = self.cu
        about = cu.CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC()
        about.type = cu.CUexternalSemaphoreHandleType(TIMELINE_FD)
        about.handle.fd = fd
        return self.did(cu.cuImportExternalSemaphore(about))

    def wait(self, semaphore: Any, value: int, stream: int) -> None:
        about = self.cu.CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS()
        about.params.fence.value = value
        self.did(self.cu.cuWaitExternalSemaphoresAsync([semaphore], [about], 1, stream))


def peers(driver: str, seconds: float) -> dict[str, Any]:
    """The same hand-over by the bare calls, and by PyTorch's own CUDA IPC; and torch alone."""
    torch = common.need_cuda()
    found: dict[str, Any] = {}
    with common.vulkan(driver, checks="off") as device:
        for who in ("bare calls", "C"):
            for how in HOWS:
                key = f"{who}, {how}"
                times = hand_over(device, who, how)
                if times is None:
                    row(key, there="gcc is not installed")
                    continue
                hands, done = times
                found[key] = {"hands": summary(hands), "done": summary(done)}
                row(f"{key}: seen, µs", **found[key]["hands"])
                row(f"{key}: operation done, µs", **found[key]["done"])
    scratch = torch.empty(OPERATION, dtype=torch.uint8, device="cuda")
    source = torch.ones(OPERATION, dtype=torch.uint8, device="cuda")
    alone = []
    for _ in range(200):
        began = now()
        scratch.copy_(source)
        torch.cuda.synchronize()
        alone.append(now() - began)
    row("the operation alone, one process, µs", **summary(alone))
    for size in (MIB, 64 * MIB, 1 << 30):
        times_of_torch = ipc_rounds(torch, size)
        found[f"CUDA IPC {mib(size)}"] = summary(times_of_torch)
        row(f"PyTorch's CUDA IPC, {mib(size)}: operation done, µs", **summary(times_of_torch))
    return {"peers": found}


def hand_over(
    device: extmem.Device, who: str, how: str, rounds: int = 200
) -> tuple[list[float], list[float]] | None:
    """From the entry of vkQueueSubmit to what another process has seen, and has copied by then.

    who: "bare calls" or "C"; None comes back where it cannot be compiled
    """
    raw = RawC.made() if who == "C" else None
    if who == "C" and raw is None:
        return None
    hands: list[float] = []
    done: list[float] = []
    with (
        device.allocate(64 * MIB, export="opaque_fd", memory="device_local") as memory,
        device.semaphore(export="opaque_fd") as timeline,
        memory.export() as there,
        timeline.export() as signal,
        common.process(_other_side, there, signal, timeline, who, how) as pipe,
    ):
        assert pipe.recv() == "ready"
        signalled = _signalling(device, timeline, raw)
        for value in range(1, rounds + 1):
            pipe.send(value)
            entered = signalled(value)
            seen, finished = pipe.recv()
            hands.append(seen - entered)
            done.append(finished - entered)
        pipe.send(None)
    return hands, done


def _address(device: vk.VkDevice, name: bytes) -> int:
    """What C would call, by the loader that the driver "system" is reached through."""
    look = ctypes.CDLL("libvulkan.so.1").vkGetDeviceProcAddr
    look.restype = ctypes.c_void_p
    found = look(ctypes.c_void_p(int(device)), name)
    assert found, name
    return int(found)


def _signalling(device: extmem.Device, timeline: Any, raw: RawC | None) -> Callable[[int], float]:
    """What stays awake for a while and signals a value then, and says when it entered."""
    if raw is not None:
        address = _address(device.handle, b"vkQueueSubmit")
        return lambda value: raw.signal_after(
            common.AWAKE, int(device.queue), address, int(timeline.handle), value
        )
    values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
    info = vk.VkSubmitInfo(pNext=values, pSignalSemaphores=[timeline.handle])
    infos = (vk.VkSubmitInfo * 1)(info)
    dispatch: Any = device.queue.dispatch
    command, queue = dispatch.vkQueueSubmit, int(device.queue)

    def signal(value: int) -> float:
        values.pSignalSemaphoreValues[0] = value
        rest(now())
        entered = now()
        result = command(queue, 1, infos, 0)
        assert not result, result
        return entered

    return signal


def _other_side(
    pipe: Any, there: Handle, signal: Handle, timeline: Any, who: str, how: str
) -> None:
    import torch

    scratch = torch.empty(OPERATION, dtype=torch.uint8, device="cuda")
    bare = Bare()
    passport: Any = there.passport
    made, pointer = bare.memory(
        there.detach(), passport.allocation_size, passport.dedicated is not None
    )
    semaphore = bare.timeline(signal.detach())
    if who == "C":
        copied = _copying_in_c(timeline, how, int(semaphore), scratch.data_ptr(), pointer)
    else:
        copied = _copying(bare, timeline, how, semaphore, scratch.data_ptr(), pointer)
    pipe.send("ready")
    while (value := pipe.recv()) is not None:
        pipe.send(copied(value))
    torch.cuda.synchronize()
    bare.free(made, pointer)
    bare.did(bare.cu.cuDestroyExternalSemaphore(semaphore))
    timeline.close()


def _copying(
    bare: Bare, timeline: Any, how: str, semaphore: Any, to: int, origin: int
) -> Callable[[int], tuple[float, float]]:
    """What waits for a value and copies then, and says when it was seen, and done."""
    dispatch: Any = timeline.device.handle.dispatch
    read = dispatch.vkGetSemaphoreCounterValue
    number, handle, box = int(timeline.device.handle), int(timeline.handle), ctypes.c_uint64()

    def copied(value: int) -> tuple[float, float]:
        if how == "reads the counter":
            while True:
                read(number, handle, box)
                if box.value >= value:
                    break
        else:
            bare.wait(semaphore, value, 1)
        seen = now()
        bare.did(bare.cu.cuMemcpyDtoDAsync(to, origin, OPERATION, 1))
        bare.did(bare.cu.cuStreamSynchronize(1))
        return seen, now()

    return copied


def _copying_in_c(
    timeline: Any, how: str, semaphore: int, to: int, origin: int
) -> Callable[[int], tuple[float, float]]:
    raw = RawC.made()
    assert raw is not None
    if how == "waits on the GPU":
        return lambda value: raw.copy_after(semaphore, value, to, origin, OPERATION)
    device = timeline.device.handle
    counter = _address(device, b"vkGetSemaphoreCounterValue")
    return lambda value: raw.copy_when_seen(
        int(device), counter, int(timeline.handle), value, to, origin, OPERATION
    )


def ipc_rounds(torch: Any, size: int, rounds: int = 60) -> list[float]:
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    there, back = context.Queue(), context.Queue()
    child = context.Process(target=ipc_side, args=(there, back), daemon=True)
    child.start()
    times = []
    try:
        assert back.get(timeout=60) == "ready"
        tensor = torch.ones(size, dtype=torch.uint8, device="cuda")
        for _ in range(rounds):
            torch.cuda.synchronize()
            rest(now())
            entered = now()
            there.put(tensor)
            times.append(back.get(timeout=30) - entered)
        there.put(None)
        child.join(20)
    finally:
        if child.is_alive():
            child.kill()
        child.join()
    return times


def ipc_side(there: Any, back: Any) -> None:
    import torch

    scratch = torch.empty(OPERATION, dtype=torch.uint8, device="cuda")
    back.put("ready")
    while (tensor := there.get()) is not None:
        scratch.copy_(tensor[:OPERATION])
        torch.cuda.synchronize()
        back.put(now())
        del tensor
