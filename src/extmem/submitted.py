"""What was submitted to queues and may still run, and how it leaves semaphores and fences.

Rules ask it: may this memory be freed, this fence be replaced, this value be signalled? It is told
of a submission before the driver is, because another thread may see the end of the work before the
call that submitted it comes back. It forgets what is known to be finished.

What it does not know is never a reason to refuse anything. At most `MOST` batches are kept of each
queue, the youngest; a program that never waits for anything loses checks, not memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from extmem.world import Record

__all__ = ["NEAR", "Batch", "Payload", "Reach", "Submitted", "current"]

MOST = 64
_MANY = 8  # of a queue, from where on it is worth to ask which of them have finished
# What every device takes as maxTimelineSemaphoreValueDifference, at the least.
NEAR = (1 << 31) - 1


@dataclass(slots=True, eq=False)
class Payload:
    """What a semaphore or a fence refers to: its own, or one that was imported into it."""

    export: int | None  # the handle types that it may be fetched as; None: its exporter's, unknown
    imported: int = 0  # the handle type that it was imported by; 0: it was made with its object
    shared: bool = False  # others may signal it, wait for it or reset it, unseen from here
    # Fences and binary semaphores, once all that was submitted has run. None: nobody here knows.
    signaled: bool | None = None
    signal: Batch | None = None  # of a binary semaphore: the last that signals it


@dataclass(slots=True, eq=False)
class Batch:
    """One VkSubmitInfo, or the fence of a submission without any."""

    queue: int
    waits: list[tuple[Record, int]] = field(default_factory=list)
    signals: list[tuple[Record, int]] = field(default_factory=list)
    memories: frozenset[int] = frozenset()  # VkDeviceMemory that its commands touch
    # Its command buffers, those that they execute, and the buffers, images and events in them.
    uses: frozenset[Record] = frozenset()
    after: list[Batch] = field(default_factory=list)  # that signal the binary ones it waits for
    # A fence whose signal is the only sign of this batch's end, besides timeline semaphores.
    fence: Record | None = None
    finished: bool = False
    forgotten: bool = False  # nothing is known of it any more

    def release(self) -> None:
        """Hold on to nothing: chains of batches must not grow for ever."""
        self.after = []
        self.waits = self.signals = []
        self.memories = frozenset()
        self.uses = frozenset()
        self.fence = None


def current(record: Record) -> Payload:
    """The payload that a semaphore or fence has now: the temporary one, while there is one."""
    payload: Payload = record.facts["borrowed"] or record.facts["payload"]
    return payload


@dataclass(slots=True, eq=False)
class Reach:
    """What all values that were submitted of a timeline lie between, whether they still matter or
    not: enough to see that most new ones are in order without a look at each batch.
    """

    signalled: int = 0  # the highest that is or was to be signalled
    least_awaited: int = (1 << 64) - 1
    most_awaited: int = 0

    def fits(self, value: int, now: int, rising: bool) -> bool:
        """Whether a value is surely near all that was submitted, and above what is to be signalled
        if it is to be signalled itself.

        now: what the timeline has come to
        """
        if self.least_awaited + NEAR < value or self.most_awaited > value + NEAR:
            return False
        if rising:
            return now < value <= now + NEAR and value > self.signalled
        return -NEAR <= value - now <= NEAR and self.signalled <= value + NEAR


def _last_of(batches: deque[Batch], timeline: Record, value: int) -> Batch | None:
    """The youngest that signals a timeline with a value, or less."""
    for batch in reversed(batches):
        for each, least in batch.signals:
            if each is timeline and least <= value:
                return batch
    return None


class Submitted:
    """The batches of one device that are not known to be finished, by queue, oldest first."""

    def __init__(self) -> None:
        self.many = False  # some queue has more of them than is good for who looks at each
        self._queues: dict[int, deque[Batch]] = {}
        self._lock = threading.RLock()

    def __iter__(self) -> Iterator[Batch]:
        with self._lock:
            return iter([batch for queue in self._queues.values() for batch in queue])

    def of_queue(self, queue: int) -> list[Batch]:
        """What is left of one queue."""
        with self._lock:
            return list(self._queues.get(queue, ()))

    def add(self, batches: Iterable[Batch]) -> None:
        """Note what is about to be submitted, in its order."""
        with self._lock:
            for batch in batches:
                self.note(batch)

    def note(self, batch: Batch) -> None:
        """The same of one."""
        with self._lock:
            queue = self._queues.get(batch.queue)
            if queue is None:
                queue = self._queues[batch.queue] = deque()
            queue.append(batch)
            if len(queue) > _MANY:
                self.many = True
                if len(queue) > MOST:
                    oldest = queue.popleft()
                    oldest.forgotten = True
                    oldest.release()
            for record, value in batch.signals:
                reach = record.facts["reach"]
                if reach is not None and value > reach.signalled:
                    reach.signalled = value
            for record, value in batch.waits:
                reach = record.facts["reach"]
                if reach is not None:
                    reach.least_awaited = min(reach.least_awaited, value)
                    reach.most_awaited = max(reach.most_awaited, value)

    def withdraw(self, batches: Iterable[Batch]) -> None:
        """The driver did not take them."""
        with self._lock:
            for batch in batches:
                if batch in self._queues.get(batch.queue, ()):
                    self._queues[batch.queue].remove(batch)
                batch.finished = True
                batch.release()

    def finish(self, batch: Batch | None) -> None:
        """A batch has signalled: it is finished, and so is all that had to come before.

        Both semaphores and fences signal after everything that was submitted to the queue earlier.
        """
        with self._lock:
            todo = [batch] if batch is not None else []
            while todo:
                last = todo.pop()
                if last.finished or last.forgotten:
                    continue
                queue = self._queues.get(last.queue, deque())
                while not last.finished and queue:
                    first = queue.popleft()
                    todo += first.after
                    first.finished = True
                    first.release()

    def reached(self, timeline: Record, now: int) -> None:
        """A timeline has come to a value: who signals that, or less, has finished."""
        with self._lock:
            for batches in self._queues.values():
                if batches:
                    self.finish(_last_of(batches, timeline, now))  # and all before it
            self.many = any(len(batches) > _MANY for batches in self._queues.values())

    def finish_queue(self, queue: int) -> None:
        """All that was submitted to a queue is finished."""
        with self._lock:
            waiting = self._queues.get(queue)
            self.finish(waiting[-1] if waiting else None)

    def finish_all(self) -> None:
        """All that was submitted is finished."""
        with self._lock:
            for queue in list(self._queues):
                self.finish_queue(queue)

    def finish_where(self, fits: Callable[[Batch], bool]) -> None:
        """Those that fit are finished."""
        with self._lock:
            for batch in self:
                if not batch.finished and fits(batch):
                    self.finish(batch)

    def replaced(self, record: Record) -> None:
        """Another payload stands in a semaphore: what it says is of nothing submitted so far."""
        with self._lock:
            for batch in self:
                batch.waits = [each for each in batch.waits if each[0] is not record]
                batch.signals = [each for each in batch.signals if each[0] is not record]

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())
