"""Queues: each runs what is submitted to it on its own thread, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.keyed_mutex import KeyedMutex
from extmem.drivers.embedded.objects import SUCCESS, Failure, Object, find, result_of
from extmem.drivers.embedded.signals import Local, Signal
from extmem.drivers.embedded.submits import Asked, Step, acquire, read, read2
from extmem.drivers.embedded.sync import Fence
from extmem.drivers.embedded.waiting import FOREVER, Wait, wait_for, wait_until
from extmem.handles.words import Watcher
from extmem.vk import _constants as c

__all__ = ["Queue", "Step"]


@dataclass(slots=True)
class Submission:
    """Wait for these, run this, release and signal those."""

    waits: list[Wait] = field(default_factory=list)
    steps: list[Sequence[Step]] = field(default_factory=list)
    releases: list[tuple[KeyedMutex, int]] = field(default_factory=list)
    signals: list[Wait] = field(default_factory=list)
    fence: Signal | None = None
    owned: list[Signal] = field(default_factory=list)  # payloads that nobody else has any more

    @classmethod
    def of(cls, asked: Asked) -> Submission:
        """What was asked for, with the payloads that the semaphores have now."""
        made = cls(steps=asked.steps, releases=asked.releases)
        for semaphore, value in asked.waits:
            payload, owned = semaphore.awaited()
            made.waits.append((payload, value))
            if owned:
                made.owned.append(payload)
        for semaphore, value in asked.signals:
            made.signals.append((_pending(semaphore.payload), value))
        return made

    def drop(self) -> None:
        """It is done, or never will be."""
        for payload in self.owned:
            payload.close()


def _pending(payload: Signal) -> Signal:
    if isinstance(payload, Local):
        payload.pending += 1
    return payload


class Queue(Object):
    """A queue, and its thread once there is something to run."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.device = device
        self.pending: deque[Submission] = deque()
        self.thread: threading.Thread | None = None

    def submit(self, submissions: list[Submission]) -> None:
        with self.device.changed:
            self.pending.extend(submissions)
            if self.thread is None:
                # Not waited for at exit: a forgotten device must not keep the interpreter.
                self.thread = threading.Thread(
                    target=self._run, name="extmem embedded queue", daemon=True
                )
                self.thread.start()
            self.device.announce()

    def stop(self) -> None:
        """End the thread; the device says `closing` already."""
        if self.thread is not None:
            self.thread.join()
        while self.pending:
            self.pending.popleft().drop()

    def _run(self) -> None:
        device = self.device
        watcher: Watcher | None = None
        try:
            while (submission := self._next()) is not None:
                try:
                    # Only who shares something has to sleep on more than the device.
                    if watcher is None and any(x.word is not None for x, _ in submission.waits):
                        watcher = Watcher()
                    if not self._obtain(submission, watcher):
                        continue
                    for steps in submission.steps:
                        for step in steps:
                            with device.access:
                                step()
                    self._finish(submission)
                except Exception as problem:
                    result_of(problem)
                    device.lose()
        finally:
            if watcher is not None:
                watcher.close()

    def _next(self) -> Submission | None:
        """What is to be done next, or None when it is time to go."""
        device = self.device
        with device.changed:
            while not device.closing:
                if device.lost:
                    # Nothing is executed any more, and nobody waits for what was pending.
                    while self.pending:
                        self.pending.popleft().drop()
                    device.changed.notify_all()
                elif self.pending:
                    return self.pending[0]
                device.changed.wait()
        return None

    def _obtain(self, submission: Submission, watcher: Watcher | None) -> bool:
        """Wait for all that it waits for, one after another; False if it shall not be run."""
        for payload, value in submission.waits:
            result = wait_for(
                self.device,
                [(payload, value)],
                all,
                FOREVER,
                stop=lambda: self.device.closing,
                watcher=watcher,
            )
            if result != SUCCESS:
                return False
            if not payload.counts:
                payload.reset()
        return True

    def _finish(self, submission: Submission) -> None:
        """Tell everybody who waits for it. The fence comes last: then all else has happened."""
        for mutex, key in submission.releases:
            try:
                mutex.release(key)
            except ValueError as problem:
                raise Failure(c.VK_ERROR_UNKNOWN, str(problem)) from None
        for payload, value in submission.signals:
            payload.signal(value)
        with self.device.changed:
            if submission.fence is not None:
                submission.fence.signal(1)
            self.pending.popleft().drop()
            self.device.announce()


# -- commands -----------------------------------------------------------------------------------


def _submit(
    handle: int, count: int, infos: Any, fence: int, reader: Callable[[Device, Any], Asked]
) -> int:
    queue = find(Queue, handle)
    device = queue.device
    batches = [reader(device, infos[i]) for i in range(count)]
    last = find(Fence, fence, device).payload if fence else None
    if last is not None:
        last.require()
    if device.lost:
        raise Failure(c.VK_ERROR_DEVICE_LOST, "the device is lost")
    if any(batch.acquires for batch in batches):
        # One after another: what the first gives back may be what the second needs.
        for batch in batches:
            result = acquire(batch, lambda: device.lost)
            if result != SUCCESS:
                return result
            queue.submit([Submission.of(batch)])
        submissions = []
    else:
        submissions = [Submission.of(batch) for batch in batches]
    if last is not None:
        # A fence of its own makes "after everything before" true for an empty submit as well.
        submissions.append(Submission(fence=_pending(last)))
    queue.submit(submissions)
    return SUCCESS


def vkQueueSubmit(handle: int, count: int, infos: Any, fence: int) -> int:
    return _submit(handle, count, infos, fence, read)


def vkQueueSubmit2(handle: int, count: int, infos: Any, fence: int) -> int:
    return _submit(handle, count, infos, fence, read2)


def _wait_idle(device: Device, queues: list[Queue]) -> int:
    result = wait_until(device, lambda: not any(queue.pending for queue in queues), FOREVER)
    # The queues of a lost device are empty too.
    return int(c.VK_ERROR_DEVICE_LOST) if device.lost else result


def vkQueueWaitIdle(handle: int) -> int:
    queue = find(Queue, handle)
    return _wait_idle(queue.device, [queue])


def vkDeviceWaitIdle(handle: int) -> int:
    device = find(Device, handle)
    return _wait_idle(device, list(device.queues.values()))
