"""Reading what is submitted: VkSubmitInfo and VkSubmitInfo2 with their chains, deeply and at once.

Nothing is changed here but keyed mutexes, which are acquired before anything is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from extmem.drivers.embedded import keyed_mutex
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.keyed_mutex import KeyedMutex
from extmem.drivers.embedded.objects import SUCCESS, Failure, chained, find
from extmem.drivers.embedded.sync import Semaphore
from extmem.vk import _constants as c

__all__ = ["Asked", "Step", "acquire", "read", "read2"]

Step = Callable[[], None]

_TIMELINE = int(c.VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO)
_D3D12 = int(c.VK_STRUCTURE_TYPE_D3D12_FENCE_SUBMIT_INFO_KHR)
_MUTEX = int(c.VK_STRUCTURE_TYPE_WIN32_KEYED_MUTEX_ACQUIRE_RELEASE_INFO_KHR)
_MUTEX_NV = int(c.VK_STRUCTURE_TYPE_WIN32_KEYED_MUTEX_ACQUIRE_RELEASE_INFO_NV)


@dataclass(slots=True)
class Asked:
    """One batch."""

    waits: list[tuple[Semaphore, int]]
    steps: list[Sequence[Step]]
    signals: list[tuple[Semaphore, int]]
    acquires: list[tuple[KeyedMutex, int, int]] = field(default_factory=list)  # key, milliseconds
    releases: list[tuple[KeyedMutex, int]] = field(default_factory=list)  # key


def _steps(device: Device, handle: int | None) -> Sequence[Step]:
    from extmem.drivers.embedded.commands import CommandBuffer

    return find(CommandBuffer, handle, device).submitted()


def _values(node: Any, count: str, values: str) -> list[int]:
    array = getattr(node, values) if node is not None else None
    return [array[i] for i in range(getattr(node, count))] if array else []


def _pairs(
    device: Device, handles: Any, count: int, values: list[int], values12: list[int]
) -> list[tuple[Semaphore, int]]:
    """Semaphores with their values. A timeline has one, and a binary semaphore that is a fence of
    D3D12; others get 1.
    """
    found = []
    for i in range(count):
        semaphore = find(Semaphore, handles[i], device)
        semaphore.payload.require()
        given = values if semaphore.timeline else values12
        if not semaphore.payload.counts:
            found.append((semaphore, 1))
        elif i < len(given):
            found.append((semaphore, given[i]))
        else:
            what = "a timeline semaphore" if semaphore.timeline else "a fence of D3D12"
            raise Failure(c.VK_ERROR_UNKNOWN, f"{what} without a value")
    return found


def read(device: Device, info: Any) -> Asked:
    """A VkSubmitInfo."""
    nodes = chained(info)
    node, node12 = nodes.get(_TIMELINE), nodes.get(_D3D12)
    return _with_mutexes(
        device,
        nodes,
        Asked(
            _pairs(
                device,
                info.pWaitSemaphores,
                info.waitSemaphoreCount,
                _values(node, "waitSemaphoreValueCount", "pWaitSemaphoreValues"),
                _values(node12, "waitSemaphoreValuesCount", "pWaitSemaphoreValues"),
            ),
            [_steps(device, info.pCommandBuffers[i]) for i in range(info.commandBufferCount)],
            _pairs(
                device,
                info.pSignalSemaphores,
                info.signalSemaphoreCount,
                _values(node, "signalSemaphoreValueCount", "pSignalSemaphoreValues"),
                _values(node12, "signalSemaphoreValuesCount", "pSignalSemaphoreValues"),
            ),
        ),
    )


def read2(device: Device, info: Any) -> Asked:
    """A VkSubmitInfo2."""

    def pairs(infos: Any, count: int) -> list[tuple[Semaphore, int]]:
        found = []
        for i in range(count):
            semaphore = find(Semaphore, infos[i].semaphore, device)
            semaphore.payload.require()
            found.append((semaphore, infos[i].value))
        return found

    return _with_mutexes(
        device,
        chained(info),
        Asked(
            pairs(info.pWaitSemaphoreInfos, info.waitSemaphoreInfoCount),
            [
                _steps(device, info.pCommandBufferInfos[i].commandBuffer)
                for i in range(info.commandBufferInfoCount)
            ],
            pairs(info.pSignalSemaphoreInfos, info.signalSemaphoreInfoCount),
        ),
    )


# -- keyed mutexes ------------------------------------------------------------------------------


def _with_mutexes(device: Device, nodes: dict[int, Any], asked: Asked) -> Asked:
    for stype, extension, timeouts in (
        (_MUTEX, "VK_KHR_win32_keyed_mutex", "pAcquireTimeouts"),
        (_MUTEX_NV, "VK_NV_win32_keyed_mutex", "pAcquireTimeoutMilliseconds"),
    ):
        node: Any = nodes.get(stype)
        if node is None:
            continue
        if extension not in device.extensions:
            raise Failure(c.VK_ERROR_UNKNOWN, f"{extension} is not enabled")
        for i in range(node.acquireCount):
            mutex = _mutex(device, node.pAcquireSyncs[i])
            asked.acquires.append((mutex, node.pAcquireKeys[i], getattr(node, timeouts)[i]))
        for i in range(node.releaseCount):
            mutex = _mutex(device, node.pReleaseSyncs[i])
            asked.releases.append((mutex, node.pReleaseKeys[i]))
    return asked


def _mutex(device: Device, handle: int | None) -> KeyedMutex:
    from extmem.drivers.embedded.memory import Memory
    from extmem.drivers.embedded.sections import Section

    payload = find(Memory, handle, device).payload
    mutex = payload.mutex if isinstance(payload, Section) else None
    if mutex is None:
        raise Failure(c.VK_ERROR_UNKNOWN, "this memory is of no texture with a keyed mutex")
    return mutex


_RESULTS = {
    keyed_mutex.TIMEOUT: int(c.VK_TIMEOUT),
    keyed_mutex.ABANDONED: int(c.VK_ERROR_INITIALIZATION_FAILED),
    keyed_mutex.STOPPED: int(c.VK_ERROR_DEVICE_LOST),
}


def acquire(asked: Asked, stop: Callable[[], bool]) -> int:
    """Acquire all keyed mutexes of a batch, or none; a VkResult. It blocks: see `keyed_mutex`."""
    got: list[tuple[KeyedMutex, int]] = []
    result = int(c.VK_ERROR_UNKNOWN)
    try:
        for mutex, key, milliseconds in asked.acquires:
            answer = mutex.acquire(key, milliseconds, stop)
            if answer != keyed_mutex.GOT:
                result = _RESULTS[answer]
                return result
            got.append((mutex, key))
        result = SUCCESS
    except PermissionError as problem:
        raise Failure(c.VK_ERROR_VALIDATION_FAILED, str(problem)) from None
    finally:
        if result != SUCCESS:
            for mutex, key in reversed(got):
                mutex.release(key)  # as if nothing had been
    return result
