"""What the world learns of submissions: what may run, and what is known to have ended.

`extmem.submitted` says what is kept. Submissions are noted before the driver has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extmem.submitted import Batch, Payload, Submitted, current
from extmem.vk import _structures as s
from extmem.vk._dispatch import Dispatch
from extmem.vk.chain import find
from extmem.vk.record_commands import touched
from extmem.world import Record, World

__all__ = ["BEFORE", "ENDED", "Undo", "submits_at_a_glance"]

Undo = Callable[[], None]

_WAIT_ANY = 1
_SUCCESS = 0


# -- submissions, noted before the driver has them ------------------------------------------------


class _Submission:
    """The batches of one call, and how to take back what they changed here."""

    def __init__(self, dispatch: Dispatch, queue: int) -> None:
        self.world: World = dispatch.world
        if self.world.submitted is None:
            self.world.submitted = Submitted()
            dispatch.signals_freely = False
        self.submitted: Submitted = self.world.submitted
        self.queue = queue
        self.batches: list[Batch] = []
        self._before: list[tuple[Record, Payload, bool | None, Batch | None, Payload | None]] = []
        self._fences: list[tuple[Record, Batch | None]] = []

    def add(
        self,
        waits: list[tuple[int, int]],
        commands: list[int],
        signals: list[tuple[int, int]],
    ) -> None:
        batch = Batch(self.queue)
        for value, target in waits:
            record = self.world.find("VkSemaphore", value)
            if record is not None:
                batch.waits.append((record, target))
                self._wait(batch, record)
        for value, target in signals:
            record = self.world.find("VkSemaphore", value)
            if record is not None:
                batch.signals.append((record, target))
                self._signal(batch, record)
        if commands:
            batch.memories, batch.uses = touched(self.world, commands)
        self.batches.append(batch)

    def _remember(self, record: Record, payload: Payload) -> None:
        borrowed = record.facts["borrowed"]
        self._before.append((record, payload, payload.signaled, payload.signal, borrowed))

    def _wait(self, batch: Batch, record: Record) -> None:
        if record.facts["timeline"]:
            return
        payload = current(record)
        self._remember(record, payload)
        if payload.signal is not None and not payload.signal.finished:
            batch.after.append(payload.signal)
        if payload.signaled is not None:
            payload.signaled = False
        record.facts["borrowed"] = None  # the wait takes the temporary payload with it

    def _signal(self, batch: Batch, record: Record) -> None:
        if record.facts["timeline"]:
            return
        payload = current(record)
        self._remember(record, payload)
        payload.signal = batch
        if payload.signaled is not None:
            payload.signaled = True

    def fence(self, value: int) -> None:
        """The fence of the call; it signals when all of it has ended."""
        record = self.world.find("VkFence", value) if value else None
        if record is None:
            return
        if not self.batches:
            self.batches.append(Batch(self.queue))
        payload = current(record)
        self._remember(record, payload)
        self._fences.append((record, record.facts["pending"]))
        record.facts["pending"] = self.batches[-1]
        if payload.signaled is not None:
            payload.signaled = True
        for batch in reversed(self.batches):
            batch.fence = record
            # Who waits for a binary semaphore of an earlier batch may know of its end before.
            earlier = self.batches[: self.batches.index(batch)]
            if earlier and any(not each.facts["timeline"] for each, _ in earlier[-1].signals):
                return

    def submit(self) -> Undo:
        self.submitted.add(self.batches)
        return self.undo

    def undo(self) -> None:
        """The driver refused them."""
        for record, payload, signaled, signal, borrowed in reversed(self._before):
            payload.signaled, payload.signal = signaled, signal
            record.facts["borrowed"] = borrowed
        for record, pending in self._fences:
            record.facts["pending"] = pending
        self.submitted.withdraw(self.batches)


def _handles(array: Any, count: int) -> list[int]:
    return [int(array[index] or 0) for index in range(count)] if array else []


def _valued(handles: list[int], values: Any, count: int) -> list[tuple[int, int]]:
    """Semaphores with their values, 0 for those that have none."""
    return [
        (handle, int(values[index]) if values and index < count else 0)
        for index, handle in enumerate(handles)
    ]


def _semaphores(info: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What a VkSubmitInfo or VkBindSparseInfo waits for and signals."""
    waits = _handles(info.pWaitSemaphores, info.waitSemaphoreCount)
    signals = _handles(info.pSignalSemaphores, info.signalSemaphoreCount)
    times = find(info, s.VkTimelineSemaphoreSubmitInfo)
    if times is None:
        return _valued(waits, None, 0), _valued(signals, None, 0)
    return (
        _valued(waits, times.pWaitSemaphoreValues, times.waitSemaphoreValueCount),
        _valued(signals, times.pSignalSemaphoreValues, times.signalSemaphoreValueCount),
    )


def _submit(dispatch: Dispatch, arguments: list[Any]) -> Undo:
    queue, count, infos, fence = arguments
    made = _Submission(dispatch, int(queue))
    for index in range(count):
        info = infos[index]
        waits, signals = _semaphores(info)
        made.add(waits, _handles(info.pCommandBuffers, info.commandBufferCount), signals)
    made.fence(fence)
    return made.submit()


def submits_at_a_glance(dispatch: Dispatch, batch: Batch, commands: list[int], fence: int) -> Undo:
    """The same of one batch whose semaphores are timelines, and known."""
    if commands:
        batch.memories, batch.uses = touched(dispatch.world, commands)
    submitted: Submitted | None = dispatch.world.submitted
    if not fence and submitted is not None:
        submitted.note(batch)
        return lambda: submitted.withdraw([batch])
    made = _Submission(dispatch, batch.queue)
    made.batches.append(batch)
    if fence:
        made.fence(fence)
    return made.submit()


def _submit2(dispatch: Dispatch, arguments: list[Any]) -> Undo:
    queue, count, infos, fence = arguments
    made = _Submission(dispatch, int(queue))
    for index in range(count):
        info = infos[index]
        made.add(
            [
                (int(each.semaphore or 0), int(each.value))
                for each in _items(info.pWaitSemaphoreInfos, info.waitSemaphoreInfoCount)
            ],
            [
                int(each.commandBuffer or 0)
                for each in _items(info.pCommandBufferInfos, info.commandBufferInfoCount)
            ],
            [
                (int(each.semaphore or 0), int(each.value))
                for each in _items(info.pSignalSemaphoreInfos, info.signalSemaphoreInfoCount)
            ],
        )
    made.fence(fence)
    return made.submit()


def _items(array: Any, count: int) -> Iterator[Any]:
    for index in range(count if array else 0):
        yield array[index]


def _bind_sparse(dispatch: Dispatch, arguments: list[Any]) -> Undo:
    queue, count, infos, fence = arguments
    made = _Submission(dispatch, int(queue))
    for index in range(count):
        waits, signals = _semaphores(infos[index])
        made.add(waits, [], signals)
    made.fence(fence)
    return made.submit()


# Told before the call; what comes back takes it back.
BEFORE: dict[str, Callable[[Dispatch, list[Any]], Undo]] = {
    "vkQueueSubmit": _submit,
    "vkQueueSubmit2": _submit2,
    "vkQueueBindSparse": _bind_sparse,
}


# -- what tells that something has ended ----------------------------------------------------------


def _fence_seen(dispatch: Dispatch, value: int) -> None:
    record = dispatch.world.find("VkFence", value)
    submitted = dispatch.world.submitted
    if record is not None and submitted is not None:
        submitted.finish(record.facts["pending"])


def _wait_fences(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    _, count, fences, wait_all, _ = arguments
    if result == _SUCCESS and (wait_all or count == 1):
        for value in _handles(fences, count):
            _fence_seen(dispatch, value)


def _fence_status(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    if result == _SUCCESS:
        _fence_seen(dispatch, int(arguments[1]))


def _reset_fences(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    for value in _handles(arguments[2], arguments[1]):
        _fence_seen(dispatch, value)
        record = dispatch.world.find("VkFence", value)
        if record is not None:
            record.facts["borrowed"] = None
            record.facts["pending"] = None
            if record.facts["payload"].signaled is not None:
                record.facts["payload"].signaled = False


def _destroy_fence(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    if arguments[1]:
        _fence_seen(dispatch, int(arguments[1]))
        dispatch.world.remove("VkFence", int(arguments[1]))


def _destroy_semaphore(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    if not arguments[1]:
        return
    record = dispatch.world.find("VkSemaphore", int(arguments[1]))
    submitted = dispatch.world.submitted
    if submitted is not None:
        # Nobody may destroy what a queue still needs.
        submitted.finish_where(
            lambda batch: any(each is record for each, _ in batch.waits + batch.signals)
        )
    dispatch.world.remove("VkSemaphore", int(arguments[1]))


def _wait_semaphores(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    _, info, _ = arguments
    submitted = dispatch.world.submitted
    if result != _SUCCESS or submitted is None or not len(submitted):
        return
    if info.flags & _WAIT_ANY and info.semaphoreCount != 1:
        return
    reached = {
        int(info.pSemaphores[index]): int(info.pValues[index])
        for index in range(info.semaphoreCount)
    }
    submitted.finish_where(
        lambda batch: any(
            record.facts["timeline"] and reached.get(record.value, -1) >= value
            for record, value in batch.signals
        )
    )


def _queue_idle(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    if dispatch.world.submitted is not None:
        dispatch.world.submitted.finish_queue(int(arguments[0]))


def _device_idle(dispatch: Dispatch, arguments: list[Any], result: int) -> None:
    if dispatch.world.submitted is not None:
        dispatch.world.submitted.finish_all()


# Told after the call, with its VkResult.
ENDED: dict[str, Callable[[Dispatch, list[Any], int], None]] = {
    "vkWaitForFences": _wait_fences,
    "vkGetFenceStatus": _fence_status,
    "vkResetFences": _reset_fences,
    "vkDestroyFence": _destroy_fence,
    "vkDestroySemaphore": _destroy_semaphore,
    "vkWaitSemaphores": _wait_semaphores,
    "vkQueueWaitIdle": _queue_idle,
    "vkDeviceWaitIdle": _device_idle,
}
