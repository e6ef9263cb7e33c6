"""What can be seen at a glance to break no rule of vkQueueSubmit: see `rules.glances`.

Somebody waits for what is submitted, often on the other side of a process boundary. Known here is
one batch that waits for timelines, runs primary command buffers and signals timelines, with a fence
or without. Binary semaphores and every other chain are left to the rules.

A structure that is submitted again and again is taken apart once: as long as its bytes are the
same, its arrays lie where they lay.
"""

from __future__ import annotations

from ctypes import addressof, c_uint32, c_uint64
from struct import Struct
from typing import Any

from extmem.submitted import Batch, Reach, Submitted, current
from extmem.vk._structures import VkSubmitInfo, VkTimelineSemaphoreSubmitInfo
from extmem.vk.record_commands import EXECUTABLE
from extmem.world import Record, World

__all__ = ["as_array", "learn_submission", "submission"]

_MOST = 256  # shapes that are kept of a device
_MOST_OF_A_KIND = 8  # semaphores or command buffers; a batch that has more is in no hurry

# sType, pNext, and three arrays with their counts, each at its place in C.
_submit_info = Struct("I4xQI4xQQI4xQI4xQ").unpack_from
_times_info = Struct("I4xQI4xQI4xQ").unpack_from
_arrays = ("pWaitSemaphores", "pWaitDstStageMask", "pCommandBuffers", "pSignalSemaphores")
_values = ("pWaitSemaphoreValues", "pSignalSemaphoreValues")
_NONE: dict[str, int] = {}
_NO_RECORDS: dict[int, Record] = {}
# A view of one structure as the array of one element that it is, which copies nothing.
as_array = (VkSubmitInfo * 1).from_buffer


class _Parts:
    """A structure taken apart: where its arrays are. They are looked at each time."""

    __slots__ = (
        "alone", "commands", "given", "own_bytes", "plain_in", "queue", "several", "signal_values",
        "signals", "stages", "static", "times", "times_bytes", "times_given", "wait_values",
        "waits",
    )  # fmt: skip

    alone: Any  # the structure as an array, for the driver
    several: bool  # semaphores, which may be the same one
    # The shapes (`World.plain`) of the device where it was last seen to be plain, and the queue.
    plain_in: Any
    queue: int

    own_bytes: bytes  # of the structure, when it was taken apart
    given: dict[str, int]  # how many elements its arrays were given by Python
    times: Any  # the structure behind it, if there is one
    times_bytes: bytes
    times_given: dict[str, int]
    static: tuple[Any, ...]  # what rules look at and is the same each time
    stages: Any
    waits: Any
    wait_values: Any
    commands: Any
    signals: Any
    signal_values: Any

    def fit(self, info: Any) -> bool:
        """Whether they still are its parts."""
        times = self.times
        return (
            self.own_bytes == bytes(info)
            and info._next is times
            and self.given == info._given
            and (
                times is None
                or (
                    self.times_bytes == bytes(times)
                    and self.times_given == getattr(times, "_given", _NONE)
                )
            )
        )

    def plain(self, shapes: dict[Any, Any], queue: int) -> bool:
        """Whether it has a shape that kept all rules on a device, sent to this queue."""
        if self.plain_in is shapes and self.queue == queue and not self.stages:
            return True  # shapes are never forgotten while the device is there
        if self.shape(queue) not in shapes:
            return False
        self.plain_in, self.queue = shapes, queue
        return True

    def shape(self, queue: int) -> tuple[Any, ...]:
        """All that is the same each time."""
        if self.stages:
            return ("submit", queue, *self.static, *self.stages)
        return ("submit", queue, *self.static)


def _elements(kind: Any, address: int, count: int) -> Any:
    return (kind * count).from_address(address) if count else ()


def _taken_apart(info: Any) -> _Parts | None:
    """None if it is of a form that is not known here."""
    try:
        times, given = info._next, info._given
    except AttributeError:  # made from an address, or nothing was assigned
        return None
    stype, following, waits, waits_at, stages_at, commands, commands_at, signals, signals_at = (
        _submit_info(info)
    )
    counts = (waits, waits, commands, signals)
    if max(counts) > _MOST_OF_A_KIND:
        return None
    places = (waits_at, stages_at, commands_at, signals_at)
    for name, count, address in zip(_arrays, counts, places, strict=True):
        # Arrays that Python was given live as long as the structure; bare pointers may not.
        if count and (not address or given.get(name, -1) < count):
            return None
    parts = _Parts()
    parts.alone, parts.several = as_array(info), waits + signals > 1
    parts.plain_in, parts.queue = None, 0
    parts.own_bytes, parts.given = bytes(info), dict(given)
    parts.times, parts.times_bytes, parts.times_given = times, b"", _NONE
    parts.wait_values = parts.signal_values = ()
    second = 0
    if times is None:
        if following or waits or signals:
            return None
    else:
        if type(times) is not VkTimelineSemaphoreSubmitInfo or following != addressof(times):
            return None
        second, after, of_waits, wait_values, of_signals, signal_values = _times_info(times)
        known = getattr(times, "_given", _NONE)
        if after or (of_waits, of_signals) != (waits, signals):
            return None
        for name, count, address in zip(
            _values, (waits, signals), (wait_values, signal_values), strict=True
        ):
            if count and (not address or known.get(name, -1) < count):
                return None
        parts.times_bytes, parts.times_given = bytes(times), dict(known)
        parts.wait_values = _elements(c_uint64, wait_values, waits)
        parts.signal_values = _elements(c_uint64, signal_values, signals)
    parts.static = stype, second, waits, commands, signals
    parts.stages = _elements(c_uint32, stages_at, waits)
    parts.waits = _elements(c_uint64, waits_at, waits)
    parts.commands = _elements(c_uint64, commands_at, commands)
    parts.signals = _elements(c_uint64, signals_at, signals)
    return parts


def submission(
    dispatch: Any, queue: int, info: Any, fence: Any
) -> tuple[Batch, list[int], Any] | None:
    """Of vkQueueSubmit with one batch: that, its command buffers, and the array to be submitted;
    if every rule holds.
    """
    # As few steps as can be: somebody waits, and each finds nothing in the processor's caches.
    if type(info) is not VkSubmitInfo or not (fence is None or isinstance(fence, int)):
        return None
    parts: _Parts | None = getattr(info, "_parts", None)
    if parts is None or not parts.fit(info):
        parts = info._parts = _taken_apart(info)
        if parts is None:
            return None
    world: World = dispatch.world
    number = int(queue)
    if not parts.plain(world.plain, number):
        return None
    if fence:
        record = world.find("VkFence", int(fence))
        if record is None or current(record).signaled:
            return None
    commands: list[int] = []
    if parts.commands:
        commands = list(parts.commands)
        for value in commands:
            found = world.find("VkCommandBuffer", value)
            if found is None or not _can_run(world, found.facts):
                return None
    batch = Batch(number)
    if parts.waits and not _fit(dispatch, parts.waits, parts.wait_values, batch.waits, False):
        return None
    if parts.signals and not _fit(
        dispatch, parts.signals, parts.signal_values, batch.signals, True
    ):
        return None
    if parts.several and len({each for each, _ in batch.waits + batch.signals}) < len(
        batch.waits
    ) + len(batch.signals):
        return None
    return batch, commands, parts.alone


def _can_run(world: World, facts: dict[str, Any]) -> bool:
    """Whether a command buffer is a primary one, recorded to its end, and all that it uses is
    there. One that executes others is left to the rules.
    """
    if facts["level"] or facts["state"] != EXECUTABLE or facts["calls"]:
        return False
    for resource in facts["uses"]:
        memory = resource.facts.get("bound")
        if not world.has(resource) or (memory is not None and not world.has(memory)):
            return False
    return True


def _fit(
    dispatch: Any, handles: Any, values: Any, found: list[tuple[Record, int]], rising: bool
) -> bool:
    """Whether these are timelines, with values near all others of theirs, and above them if they
    are to be signalled. `found` gets them.

    That is more than the rules ask, where other queues are concerned.
    """
    world: World = dispatch.world
    semaphores = world.objects.get("VkSemaphore", _NO_RECORDS)
    for handle, value in zip(handles, values, strict=True):
        timeline = semaphores.get(handle)
        if timeline is None:
            return False
        reach: Reach | None = timeline.facts["reach"]
        counter = c_uint64()
        if reach is None or dispatch.vkGetSemaphoreCounterValue(dispatch.device, handle, counter):
            return False
        if not reach.fits(value, counter.value, rising):
            return False
        submitted: Submitted | None = world.submitted
        if submitted is not None and submitted.many:
            submitted.reached(timeline, counter.value)
        found.append((timeline, value))
    return True


def learn_submission(dispatch: Any, queue: int, info: Any) -> None:
    """A batch kept all rules."""
    if type(info) is not VkSubmitInfo or len(dispatch.world.plain) >= _MOST:
        return
    parts = _taken_apart(info)
    if parts is not None:
        dispatch.world.plain[parts.shape(int(queue))] = True
