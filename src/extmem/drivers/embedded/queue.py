"""Queues: each runs what is submitted to it on its own thread, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.objects import SUCCESS, Failure, Object, chained, find, result_of
from extmem.drivers.embedded.sync import Fence, Semaphore, wait_until
from extmem.vk import _constants as c

__all__ = ["Queue", "Step"]

Step = Callable[[], None]
_NO_TIMEOUT = (1 << 64) - 1


@dataclass(slots=True)
class Submission:
    """Wait for these, run this, signal those."""

    waits: list[tuple[Semaphore, int]] = field(default_factory=list)
    steps: list[Sequence[Step]] = field(default_factory=list)
    signals: list[tuple[Semaphore, int]] = field(default_factory=list)
    fence: Fence | None = None


class Queue(Object):
    """A queue, and its thread once there is something to run."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.device = device
        self.pending: deque[Submission] = deque()
        self.thread: threading.Thread | None = None

    def submit(self, submissions: list[Submission]) -> None:
        with self.device.changed:
            if self.device.lost:
                raise Failure(c.VK_ERROR_DEVICE_LOST, "the device is lost")
            self.pending.extend(submissions)
            if self.thread is None:
                # Not waited for at exit: a forgotten device must not keep the interpreter.
                self.thread = threading.Thread(
                    target=self._run, name="extmem embedded queue", daemon=True
                )
                self.thread.start()
            self.device.changed.notify_all()

    def stop(self) -> None:
        """End the thread; the device says `closing` already."""
        if self.thread is not None:
            self.thread.join()

    def _run(self) -> None:
        device = self.device
        while (submission := self._next()) is not None:
            try:
                for steps in submission.steps:
                    for step in steps:
                        with device.access:
                            step()
                with device.changed:
                    for semaphore, value in submission.signals:
                        semaphore.signal(value)
                    if submission.fence is not None:
                        submission.fence.signaled = True
                    self.pending.popleft()
                    device.changed.notify_all()
            except Exception as problem:
                result_of(problem)
                device.lose()

    def _next(self) -> Submission | None:
        """The next submission whose waits have been met, or None when it is time to go."""
        device = self.device
        with device.changed:
            while not device.closing:
                if device.lost:
                    # Nothing is executed any more, and nobody waits for what was pending.
                    self.pending.clear()
                    device.changed.notify_all()
                elif self.pending and all(s.reached(value) for s, value in self.pending[0].waits):
                    for semaphore, _ in self.pending[0].waits:
                        semaphore.consume()
                    return self.pending[0]
                device.changed.wait()
        return None


# -- reading what is submitted ----------------------------------------------------------------


def _steps(device: Device, handle: int | None) -> Sequence[Step]:
    from extmem.drivers.embedded.commands import CommandBuffer

    return find(CommandBuffer, handle, device).submitted()


def _values(node: Any, count: str, values: str) -> list[int]:
    return [getattr(node, values)[i] for i in range(getattr(node, count))] if node else []


def _pairs(device: Device, handles: Any, count: int, values: list[int]) -> list[Any]:
    """Semaphores with their values; a binary one has none and gets 1."""
    found = []
    for i in range(count):
        semaphore = find(Semaphore, handles[i], device)
        if semaphore.timeline and i >= len(values):
            raise Failure(c.VK_ERROR_UNKNOWN, "a timeline semaphore without a value")
        found.append((semaphore, values[i] if semaphore.timeline else 1))
    return found


def _read(device: Device, info: Any) -> Submission:
    node = chained(info).get(c.VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO)
    wait_values = _values(node, "waitSemaphoreValueCount", "pWaitSemaphoreValues")
    signal_values = _values(node, "signalSemaphoreValueCount", "pSignalSemaphoreValues")
    return Submission(
        _pairs(device, info.pWaitSemaphores, info.waitSemaphoreCount, wait_values),
        [_steps(device, info.pCommandBuffers[i]) for i in range(info.commandBufferCount)],
        _pairs(device, info.pSignalSemaphores, info.signalSemaphoreCount, signal_values),
    )


def _read2(device: Device, info: Any) -> Submission:
    def pairs(infos: Any, count: int) -> list[tuple[Semaphore, int]]:
        return [(find(Semaphore, infos[i].semaphore, device), infos[i].value) for i in range(count)]

    return Submission(
        pairs(info.pWaitSemaphoreInfos, info.waitSemaphoreInfoCount),
        [
            _steps(device, info.pCommandBufferInfos[i].commandBuffer)
            for i in range(info.commandBufferInfoCount)
        ],
        pairs(info.pSignalSemaphoreInfos, info.signalSemaphoreInfoCount),
    )


def _submit(
    handle: int, count: int, infos: Any, fence: int, read: Callable[[Device, Any], Submission]
) -> int:
    queue = find(Queue, handle)
    device = queue.device
    submissions = [read(device, infos[i]) for i in range(count)]
    if fence:
        # A fence of its own makes "after everything before" true for an empty submit as well.
        submissions.append(Submission(fence=find(Fence, fence, device)))
    queue.submit(submissions)
    return SUCCESS


def vkQueueSubmit(handle: int, count: int, infos: Any, fence: int) -> int:
    return _submit(handle, count, infos, fence, _read)


def vkQueueSubmit2(handle: int, count: int, infos: Any, fence: int) -> int:
    return _submit(handle, count, infos, fence, _read2)


def _wait_idle(device: Device, queues: list[Queue]) -> int:
    result = wait_until(device, lambda: not any(queue.pending for queue in queues), _NO_TIMEOUT)
    # The queues of a lost device are empty too.
    return int(c.VK_ERROR_DEVICE_LOST) if device.lost else result


def vkQueueWaitIdle(handle: int) -> int:
    queue = find(Queue, handle)
    return _wait_idle(queue.device, [queue])


def vkDeviceWaitIdle(handle: int) -> int:
    device = find(Device, handle)
    return _wait_idle(device, list(device.queues.values()))
