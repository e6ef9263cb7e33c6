#!/usr/bin/env python3
"""What waiting costs on a GPU: CUDA's signals and Vulkan's, seen by our host wait.

    python bench/gpu/waiting.py [--driver PATH] [--rounds N] [--checks off] [--json]

Needs an NVIDIA GPU with its Vulkan driver, and cuda-bindings. Times are microseconds of one clock
of all processes (CLOCK_MONOTONIC), from the entry of the call that signals, or from its return, to
the return of the wait. Whoever signals says afterwards, through a pipe, when that was; the waits
themselves need no message.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import extmem
from extmem import vk

AWAKE = 200.0  # microseconds before each signal, in which the other side begins to wait
ASLEEP = 0.0005  # the same in seconds, where whoever signals sleeps through it and wakes up cold

Times = tuple[float, float]  # entry and return of the call that signals


def now() -> float:
    """Microseconds."""
    return time.monotonic_ns() / 1000


class Cuda:
    """A CUDA stream, and a timeline semaphore as CUDA knows it."""

    def __init__(self, device_uuid: bytes, fd: int) -> None:
        from cuda.bindings import driver as cu

        self.cu = cu
        self.did(cu.cuInit(0))
        for number in range(self.did(cu.cuDeviceGetCount())):
            self.device = self.did(cu.cuDeviceGet(number))
            if bytes(self.did(cu.cuDeviceGetUuid(self.device)).bytes) == device_uuid:
                break
        self.did(cu.cuCtxSetCurrent(self.did(cu.cuDevicePrimaryCtxRetain(self.device))))
        self.stream = self.did(cu.cuStreamCreate(1))  # CU_STREAM_NON_BLOCKING
        about = cu.CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC()
        kinds = cu.CUexternalSemaphoreHandleType
        about.type = kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD
        about.handle.fd = fd  # CUDA's from here on
        self.semaphore = self.did(cu.cuImportExternalSemaphore(about))
        self.signals = cu.CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS()
        self.waits = cu.CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS()

    @staticmethod
    def did(answer: Any) -> Any:
        result, *values = answer
        if int(result):
            raise RuntimeError(f"CUDA: {result}")
        return values[0] if values else None

    def signal(self, value: int) -> Callable[[], None]:
        """When the stream comes to it."""
        self.signals.params.fence.value = value
        call = self.cu.cuSignalExternalSemaphoresAsync
        return lambda: self.did(call([self.semaphore], [self.signals], 1, self.stream))

    def wait(self, value: int) -> None:
        """On the stream, and for the stream."""
        self.waits.params.fence.value = value
        call = self.cu.cuWaitExternalSemaphoresAsync
        self.did(call([self.semaphore], [self.waits], 1, self.stream))
        self.did(self.cu.cuStreamSynchronize(self.stream))

    def close(self) -> None:
        self.did(self.cu.cuDestroyExternalSemaphore(self.semaphore))
        self.did(self.cu.cuDevicePrimaryCtxRelease(self.device))


def submitting(semaphore: Any) -> Callable[[int], Callable[[], None]]:
    """vkQueueSubmit that signals: the value is written first, and what is timed is the call."""
    queue = semaphore.device.queue
    values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
    info = vk.VkSubmitInfo(pNext=values, pSignalSemaphores=[semaphore.handle])
    box = values.pSignalSemaphoreValues

    def prepare(value: int) -> Callable[[], None]:
        box[0] = value
        return submit

    def submit() -> None:
        vk.vkQueueSubmit(queue, 1, [info], None)

    return prepare


def timed(prepare: Callable[[int], Callable[[], None]], value: int, rested: bool = False) -> Times:
    signal = prepare(value)
    until = now() + AWAKE
    while not rested and now() < until:
        pass
    if rested:
        time.sleep(ASLEEP)
    entered = now()
    signal()
    return entered, now()


def other(semaphore: Any, handle: Any, how: str, pipe: Any) -> None:
    """The other process: does as it is told, and says when."""
    uuid = semaphore.device.physical.device_uuid
    cuda = Cuda(uuid, handle.detach()) if how.startswith("cuda") else None
    handle.close()
    prepare = cuda.signal if cuda else submitting(semaphore)
    pipe.send("ready")
    while (value := pipe.recv()) is not None:
        if how == "cuda waits":
            assert cuda
            cuda.wait(value)
            pipe.send((now(), 0.0))
        else:
            pipe.send(timed(prepare, value, how.endswith("rested")))
    if cuda:
        cuda.close()
    semaphore.close()


def wait_natively(semaphore: Any, value: int) -> None:
    """The driver's own wait alone."""
    device = semaphore.device.handle
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[semaphore.handle], pValues=[value])
    vk.vkWaitSemaphores(device, info, (1 << 64) - 1)


def wait_well(semaphore: Any, value: int) -> None:
    semaphore.wait(value)


def across(gpu: Any, how: str, wait: Callable[[Any, int], None], rounds: int) -> list[Times]:
    """Another process signals; this one waits: microseconds from entry and from return."""
    context = multiprocessing.get_context("spawn")
    found = []
    with gpu.semaphore(export="opaque_fd") as semaphore:
        ours, theirs = context.Pipe()
        with semaphore.export() as handle:
            process = context.Process(target=other, args=(semaphore, handle, how, theirs))
            process.start()
        assert ours.recv() == "ready"
        signal = submitting(semaphore)
        for value in range(1, rounds + 1):
            ours.send(value)
            if how == "cuda waits":
                entered, after = timed(signal, value)
                woken, _ = ours.recv()
            else:
                wait(semaphore, value)
                woken = now()
                entered, after = ours.recv()
            found.append((woken - entered, woken - after))
        ours.send(None)
        process.join()
        assert process.exitcode == 0
    return found


def within(gpu: Any, how: str, wait: Callable[[Any, int], None], rounds: int) -> list[Times]:
    """One thread of this process signals and then waits."""
    found = []
    with gpu.semaphore(export="opaque_fd") as semaphore:
        uuid = gpu.physical.device_uuid
        cuda = Cuda(uuid, semaphore.export().detach()) if how == "cuda" else None
        signal = cuda.signal if cuda else submitting(semaphore)
        for value in range(1, rounds + 1):
            entered, after = timed(signal, value)
            wait(semaphore, value)
            woken = now()
            found.append((woken - entered, woken - after))
        if cuda:
            cuda.close()
    return found


def summary(found: list[Times]) -> dict[str, float]:
    entry = sorted(each for each, _ in found[len(found) // 10 :])  # the first tenth warms up
    after = sorted(each for _, each in found[len(found) // 10 :])
    return {
        "entry_p50": round(statistics.median(entry), 1),
        "entry_p95": round(entry[int(len(entry) * 0.95)], 1),
        "after_p50": round(statistics.median(after), 1),
        "after_p95": round(after[int(len(after) * 0.95)], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--driver", default="system")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--checks", default="off", help="off, cheap or full")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, slow = options.rounds, min(options.rounds, 60)
    results: dict[str, dict[str, float]] = {}
    with extmem.open_device(driver=options.driver, checks=options.checks) as gpu:
        for name, measure in (
            ("CUDA signals, our wait, one process", lambda: within(gpu, "cuda", wait_well, rounds)),
            (
                "CUDA signals, vkWaitSemaphores, one process",
                lambda: within(gpu, "cuda", wait_natively, slow),
            ),
            (
                "CUDA signals in another process, our wait",
                lambda: across(gpu, "cuda", wait_well, rounds),
            ),
            (
                "CUDA signals in another process after a sleep, our wait",
                lambda: across(gpu, "cuda rested", wait_well, rounds),
            ),
            (
                "CUDA signals in another process, vkWaitSemaphores",
                lambda: across(gpu, "cuda", wait_natively, slow),
            ),
            (
                "vkQueueSubmit, our wait, one process",
                lambda: within(gpu, "vulkan", wait_well, rounds),
            ),
            (
                "vkQueueSubmit, vkWaitSemaphores, one process",
                lambda: within(gpu, "vulkan", wait_natively, rounds),
            ),
            (
                "vkQueueSubmit in another process, our wait",
                lambda: across(gpu, "vulkan", wait_well, rounds),
            ),
            (
                "vkQueueSubmit in another process after a sleep, our wait",
                lambda: across(gpu, "vulkan rested", wait_well, rounds),
            ),
            (
                "vkQueueSubmit in another process, vkWaitSemaphores",
                lambda: across(gpu, "vulkan", wait_natively, rounds),
            ),
            (
                "vkQueueSubmit here, CUDA stream waits in another process",
                lambda: across(gpu, "cuda waits", wait_well, rounds),
            ),
        ):
            results[name] = summary(measure())
            if not options.json:
                row = "".join(f"{value:12.1f}" for value in results[name].values())
                print(f"{name:58}{row}", flush=True)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
