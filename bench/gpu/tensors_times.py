"""Sections of `tensors.py` that time: importing, hand-overs beside others, and queues."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import common
from common import MIB, check, mib, now, rest, row, summary
from raw_c import RawC
from tensors_peers import OPERATION, Bare, hand_over

import extmem
from extmem import vk
from extmem.handles.handle import Handle
from extmem.interop import cuda

RAW_C = 325.0  # microseconds of C for the same, where there is no gcc: an earlier measurement


# -- importing ------------------------------------------------------------------------------------


def importing(driver: str, seconds: float) -> dict[str, Any]:
    """Import into torch, and free, beside the driver's calls alone, in Python and, where there is
    a compiler, in C, and beside the calls and a tensor of something else that torch makes after
    them; in turn.
    """
    torch = common.need_cuda()
    other = partial(torch.from_dlpack, torch.zeros(16, device="cuda"))
    bare, raw = Bare(), RawC.made()
    found: dict[str, dict[str, float]] = {}
    with common.vulkan(driver) as device:
        for size, rounds in ((MIB, 60), (64 * MIB, 40), (1 << 30, 24)):
            with (
                device.allocate(size, export="opaque_fd", memory="device_local") as memory,
                memory.export() as handle,
            ):
                asked = handle, memory.allocation_size, memory.dedicated
                ways = {
                    "ours": partial(_into_torch, handle, size),
                    "the calls": partial(_by_the_calls, bare, *asked),
                    "the calls, and a tensor": partial(_by_the_calls, bare, *asked, other),
                }
                if raw is not None:
                    ways["C"] = partial(_in_c, raw, *asked)
                times = _in_turn(ways, rounds)
            found[mib(size)] = {}
            calls = summary([each for each, _ in times["the calls"]])["p50"]
            for who, pairs in times.items():
                imported = summary([each for each, _ in pairs])
                freed = summary([each for _, each in pairs])
                ratio = found[mib(size)][who] = round(imported["p50"] / calls, 3)
                row(f"import of {mib(size)}, {who}, µs", **imported, ratio=ratio)
                row(f"freeing {mib(size)}, {who}, µs", **freed)
    last = found["1 GiB"]
    row("target: 1 GiB within 5 % of the bare calls", met=last["ours"] <= 1.05,
        of_calls_and_tensor=round(last["ours"] / last["the calls, and a tensor"], 3))  # fmt: skip
    return {"ratios": found}


def _in_turn(
    ways: Mapping[str, Callable[[], tuple[float, float]]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Each as often, and each in every place of the order."""
    torch = common.need_cuda()
    times: dict[str, list[tuple[float, float]]] = {who: [] for who in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for who in names[first:] + names[:first]:
            torch.cuda.synchronize()
            times[who].append(ways[who]())
    return times


def _into_torch(handle: Handle, size: int) -> tuple[float, float]:
    """How long it takes, and how long to free it again."""
    torch = common.need_cuda()
    began = now()
    there = cuda.import_memory(handle)
    tensor = torch.from_dlpack(there.array(size))
    imported = now() - began
    began = now()
    there.close()
    del tensor
    freed = now() - began
    check(there.freed, "it is not freed with its last tensor")
    return imported, freed


def _by_the_calls(
    bare: Bare,
    handle: Handle,
    size: int,
    dedicated: bool,
    then: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """then: what follows, with the processor's caches as the calls leave them"""
    # Who keeps its descriptor duplicates it; that is not counted here.
    again = handle.duplicate().detach()
    began = now()
    made, pointer = bare.memory(again, size, dedicated)
    then()
    imported = now() - began
    began = now()
    bare.free(made, pointer)
    return imported, now() - began


def _in_c(raw: RawC, handle: Handle, size: int, dedicated: bool) -> tuple[float, float]:
    return raw.import_and_free(handle.duplicate().detach(), size, dedicated)


# -- streams --------------------------------------------------------------------------------------


ORDERS = ("submit, then leave", "leave, then submit")
HOWS = ("waits here", "waits on the GPU")


def streams(driver: str, seconds: float) -> dict[str, Any]:
    """From the entry of vkQueueSubmit in the publisher to the frame, and to a torch operation on
    it done, in another process; checks full. The publisher's device works with a queue that draws,
    too, or with one that only copies.
    """
    common.need_cuda()
    until = time.monotonic() + seconds - 5
    found: dict[str, Any] = {}
    least = RAW_C
    with common.vulkan(driver, checks="off") as device:
        if (times := hand_over(device, "C", "waits on the GPU")) is not None:
            found["C"] = {"done": summary(times[1])}
            least = found["C"]["done"]["p50"]
            row("C, waits on the GPU: operation done, µs", **found["C"]["done"])
    with common.process(watching, driver) as pipe:
        assert pipe.recv() == "ready"
        for queue in ("any", "copy"):
            with common.vulkan(driver, queue=queue) as device:
                row(f"queue={queue!r}", family=device.queue_family)
                for size in (MIB, 64 * MIB, 1 << 30):
                    for order in ORDERS:
                        for how in HOWS:
                            key = f"{queue}, {mib(size)}, {order}, {how}"
                            if time.monotonic() > until:
                                row(key, there="no time was left")
                                continue
                            hands, done = stream_rounds(device, pipe, size, order, how)
                            found[key] = {"hands": summary(hands), "done": summary(done)}
                            row(f"{key}: in hands, µs", **found[key]["hands"])
                            row(f"{key}: operation done, µs", **found[key]["done"])
        pipe.send(None)
    for queue in ("any", "copy"):
        for order in ORDERS:
            for how in HOWS:
                same = [
                    each
                    for key, each in found.items()
                    if key.startswith(f"{queue}, ") and key.endswith(f"{order}, {how}")
                ]
                if same:
                    most = max(each["hands"]["p50"] for each in same)
                    last = max(each["done"]["p50"] for each in same)
                    row(f"any size, {queue}, {order}, {how}: p50", hands=most, done=last,
                        hands_met=most <= 20, done_met=last <= least * 1.05)  # fmt: skip
    return {"streams": found}


def submitting(device: extmem.Device) -> Callable[[int, int], None]:
    """vkQueueSubmit of a signal, with what it says made before."""
    values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
    info: Any = None
    queue = device.queue

    def submit(semaphore: int, value: int) -> None:
        nonlocal info
        if info is None:
            info = vk.VkSubmitInfo(pNext=values, pSignalSemaphores=[semaphore])
        values.pSignalSemaphoreValues[0] = value
        vk.vkQueueSubmit(queue, 1, [info], None)

    return submit


def stream_rounds(
    device: extmem.Device, pipe: Any, size: int, order: str, how: str, rounds: int = 150
) -> tuple[list[float], list[float]]:
    name = "bench-tensors-stream"
    hands: list[float] = []
    done: list[float] = []
    with extmem.publish(
        name, shape=size, dtype="uint8", device=device, memory="device_local"
    ) as stream:
        pipe.send((name, how == "waits on the GPU"))
        assert pipe.recv() == "joined"
        submit = submitting(device)
        for _ in range(rounds):
            pipe.send("next")
            rest(now())
            if order == "submit, then leave":
                with stream.frame() as frame:
                    ((semaphore, value),) = frame.promise()
                    entered = now()
                    submit(semaphore.handle, value)
            else:
                with stream.frame() as frame:
                    ((semaphore, value),) = frame.promise()
                entered = now()
                submit(semaphore.handle, value)
            in_hands, finished, sequence = pipe.recv()
            check(sequence == stream.sequence, f"frame {sequence} instead of {stream.sequence}")
            hands.append(in_hands - entered)
            done.append(finished - entered)
        pipe.send(None)
        assert pipe.recv() == "left"
    return hands, done


def watching(pipe: Any, driver: str) -> None:
    import torch

    scratch = torch.empty(OPERATION, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream()
    with common.vulkan(driver) as device:
        pipe.send("ready")
        while (told := pipe.recv()) is not None:
            name, pending = told
            with extmem.subscribe(name, timeout=20, device=device, pending=pending) as arriving:
                pipe.send("joined")
                while pipe.recv() is not None:
                    frame = next(arriving)
                    in_hands = now()
                    tensor = torch.from_dlpack(frame)
                    scratch.copy_(tensor[:OPERATION])
                    stream.synchronize()
                    finished = now()
                    pipe.send((in_hands, finished, frame.sequence))
                    del tensor
            pipe.send("left")


# -- which queue ----------------------------------------------------------------------------------


def queues(driver: str, seconds: float) -> dict[str, Any]:
    """Whether another queue family spares the change from the Vulkan to the CUDA context: each
    signals, and CUDA's stream waits in another process.
    """
    common.need_cuda()
    until = time.monotonic() + seconds - 5
    found: dict[str, Any] = {}
    with common.vulkan(driver, checks="off") as gpu:
        families = vk.vkGetPhysicalDeviceQueueFamilyProperties(gpu.vk_physical)
        for family, about in enumerate(families):
            if time.monotonic() > until:
                row(f"queue family {family}", there="no time was left")
                continue
            try:
                times = family_rounds(gpu, family)
            except (extmem.ExtmemError, RuntimeError, TimeoutError) as error:
                row(f"queue family {family}, flags {int(about.queueFlags):#x}", failed=str(error))
                continue
            found[str(family)] = summary(times)
            row(f"queue family {family}, flags {int(about.queueFlags):#x}: done, µs",
                **summary(times))  # fmt: skip
        for name, priority in (("high", 512), ("realtime", 1024)):
            try:
                times = family_rounds(gpu, 0, priority=priority)
            except (extmem.ExtmemError, RuntimeError, TimeoutError) as error:
                row(f"queue family 0, global priority {name}", failed=str(error))
                continue
            row(f"queue family 0, global priority {name}: done, µs", **summary(times))
    return {"queues": found}


class _Priority(ctypes.Structure):
    """VkDeviceQueueGlobalPriorityCreateInfoKHR, of an extension that extmem has no need of."""

    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("globalPriority", ctypes.c_int32),
    )
    extension = "VK_KHR_global_priority"
    of_this = 1000174000


def family_rounds(
    gpu: extmem.Device, family: int, rounds: int = 100, priority: int = 0
) -> list[float]:
    """priority: a VkQueueGlobalPriority; 0: the driver's choice"""
    info = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=family, pQueuePriorities=[1.0])
    extensions = list(gpu.extensions)
    chained = _Priority(_Priority.of_this, None, priority)
    if priority:
        there = vk.vkEnumerateDeviceExtensionProperties(gpu.vk_physical, None)
        if _Priority.extension not in {each.extensionName for each in there}:
            raise extmem.Unsupported(f"no {_Priority.extension}")
        extensions.append(_Priority.extension)
        # As C would: the structure has none of our classes.
        ctypes.c_uint64.from_address(ctypes.addressof(info) + 8).value = ctypes.addressof(chained)
    device = vk.vkCreateDevice(
        gpu.vk_physical,
        vk.VkDeviceCreateInfo(
            pNext=vk.VkPhysicalDeviceTimelineSemaphoreFeatures(timelineSemaphore=1),
            pQueueCreateInfos=[info],
            ppEnabledExtensionNames=extensions,
        ),
    )
    times = []
    semaphore = None
    try:
        queue = vk.vkGetDeviceQueue(device, family, 0)
        opaque = vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD_BIT
        made = vk.VkSemaphoreCreateInfo(pNext=vk.VkExportSemaphoreCreateInfo(handleTypes=opaque))
        vk.link(made, vk.VkSemaphoreTypeCreateInfo(semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE))
        semaphore = vk.vkCreateSemaphore(device, made)
        fd = vk.vkGetSemaphoreFdKHR(
            device, vk.VkSemaphoreGetFdInfoKHR(semaphore=semaphore, handleType=opaque)
        )
        values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
        info = vk.VkSubmitInfo(pNext=values, pSignalSemaphores=[semaphore])
        # A Handle, so that the descriptor travels to the other process.
        with Handle(fd, "opaque_fd") as handle, common.process(family_side, handle) as pipe:
            assert pipe.recv() == "ready"
            for value in range(1, rounds + 1):
                values.pSignalSemaphoreValues[0] = value
                pipe.send(value)
                rest(now())
                entered = now()
                vk.vkQueueSubmit(queue, 1, [info], None)
                times.append(pipe.recv() - entered)
            pipe.send(None)
        vk.vkDeviceWaitIdle(device)
    finally:
        if semaphore is not None:
            vk.vkDestroySemaphore(device, semaphore)
        vk.vkDestroyDevice(device)
    return times


def family_side(pipe: Any, handle: Handle) -> None:
    import torch

    scratch = torch.empty(OPERATION, dtype=torch.uint8, device="cuda")
    bare = Bare()
    semaphore = bare.timeline(handle.detach())
    stream = torch.cuda.current_stream()
    pipe.send("ready")
    while (value := pipe.recv()) is not None:
        bare.wait(semaphore, value, 1)
        scratch.zero_()
        stream.synchronize()
        pipe.send(now())
    bare.did(bare.cu.cuDestroyExternalSemaphore(semaphore))
