"""Rules for what queues and hosts wait for and signal, and for what may not end before they do.

A timeline never falls, so that its value now proves which operations are still to come. What others
signal on a shared one in between is not known, and not guessed: waiting for what nobody has
submitted yet is allowed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.submitted import NEAR
from extmem.world import Record, World

_TIMES = "VkTimelineSemaphoreSubmitInfo"
_SECOND = "VkSubmitInfo2"


class _Side(NamedTuple):
    """What a submission waits for, or what it signals."""

    found: list[Record | None]
    any_timeline: bool
    given: int | None  # how many values there are; None: no structure says any
    timelines: list[tuple[int, Record, int]]  # with their places and values


def _side(call: Call, site: Site, side: str) -> _Side:
    """side: "Wait" or "Signal". Read once: several rules ask."""
    found: _Side = call.asked.now((side, site.path), lambda: _read(call, site, side))
    return found


_NOTHING = _Side([], False, None, [])


def _read(call: Call, site: Site, side: str) -> _Side:
    small = side.lower()
    if site.owner == _SECOND:
        return _read_infos(call, site, side)
    count = int(site.value(f"{small}SemaphoreCount"))
    if not count:
        return _NOTHING
    array = site.value(f"p{side}Semaphores")
    found = [call.world.find("VkSemaphore", int(array[index] or 0)) for index in range(count)]
    if not any(record is not None and record.facts["timeline"] for record in found):
        return _Side(found, False, None, [])
    times = site.chain.get(_TIMES)
    if times is None:
        return _Side(found, True, None, [])
    given = int(getattr(times, f"{small}SemaphoreValueCount"))
    values = getattr(times, f"p{side}SemaphoreValues")
    timelines = [
        (index, record, int(values[index]))
        for index, record in enumerate(found[: given if values else 0])
        if record is not None and record.facts["timeline"]
    ]
    return _Side(found, True, given, timelines)


def _read_infos(call: Call, site: Site, side: str) -> _Side:
    """The same of a VkSubmitInfo2, where each semaphore stands beside its value."""
    count = int(site.value(f"{side.lower()}SemaphoreInfoCount"))
    array: Any = site.value(f"p{side}SemaphoreInfos") if count else None
    found: list[Record | None] = []
    timelines = []
    for index in range(count if array else 0):
        record = call.world.find("VkSemaphore", int(array[index].semaphore or 0))
        found.append(record)
        if record is not None and record.facts["timeline"]:
            timelines.append((index, record, int(array[index].value)))
    return _Side(found, bool(timelines), len(found), timelines)


def _member(site: Site, side: str, index: int) -> str:
    return f"p{side}Semaphore{'Infos' if site.owner == _SECOND else 's'}[{index}]"


# -- how many values ------------------------------------------------------------------------------


@rule("VUID-VkD3D12FenceSubmitInfoKHR-waitSemaphoreValuesCount-00079", stage="chain")
def a_value_for_each_wait_on_a_d3d12_fence(call: Call, site: Site) -> Findings:
    yield from _as_many(site, "waitSemaphoreValuesCount", "waitSemaphoreCount")


@rule("VUID-VkD3D12FenceSubmitInfoKHR-signalSemaphoreValuesCount-00080", stage="chain")
def a_value_for_each_signal_of_a_d3d12_fence(call: Call, site: Site) -> Findings:
    yield from _as_many(site, "signalSemaphoreValuesCount", "signalSemaphoreCount")


def _as_many(site: Site, member: str, counted: str) -> Findings:
    given, wanted = int(site.value(member)), int(getattr(site.head, counted))
    if given != wanted:
        yield site.broken(
            member,
            f"is {given}, but {counted} is {wanted}.",
            "Give one value for each semaphore; those of other types are not looked at.",
        )


@rule("VUID-VkSubmitInfo-pWaitSemaphores-03239", stage="state")
def values_where_there_are_timelines(call: Call, site: Site) -> Findings:
    if _TIMES in site.chain:
        return  # the next two rules look at it
    for side in ("Wait", "Signal"):
        for index, record in enumerate(_side(call, site, side).found):
            if record is not None and record.facts["timeline"]:
                yield site.broken(
                    f"p{side}Semaphores[{index}]",
                    f"is a timeline, and no {_TIMES} says which value is meant.",
                    f"Chain {_TIMES} to this VkSubmitInfo.",
                )
                return


@rule("VUID-VkSubmitInfo-pNext-03240", stage="state")
def a_value_for_each_wait(call: Call, site: Site) -> Findings:
    yield from _counted(call, site, "Wait")


@rule("VUID-VkSubmitInfo-pNext-03241", stage="state")
def a_value_for_each_signal(call: Call, site: Site) -> Findings:
    yield from _counted(call, site, "Signal")


def _counted(call: Call, site: Site, side: str) -> Findings:
    if _TIMES not in site.chain:
        return
    found, small = _side(call, site, side), side.lower()
    if found.any_timeline and found.given != len(found.found):
        yield site.broken(
            "pNext",
            f"{_TIMES}.{small}SemaphoreValueCount is {found.given}, but {small}SemaphoreCount is "
            f"{len(found.found)}.",
            "Give one value for each semaphore; those of binary ones are not looked at.",
        )


# -- which values ---------------------------------------------------------------------------------


@rule(
    "VUID-VkSubmitInfo-pSignalSemaphores-03242",
    "VUID-VkSubmitInfo2-semaphore-03882",
    stage="device",
)
def a_value_that_is_still_to_come(call: Call, site: Site) -> Findings:
    queue = int(call.arguments["queue"])
    here: dict[Record, int] = {}  # the most that this batch signals, up to each place
    for index, record, value in _side(call, site, "Signal").timelines:
        above = here.get(record)
        here[record] = value if above is None else max(value, above)
        counter = call.asked.counter(record.value)
        if counter is not None and value <= counter:
            before = f"it has come to {counter} already"
        elif above is not None and value <= above:
            before = f"{above} stands before it in the same array"
        else:
            last = _signalled_before(call, site, queue, record)
            if last is None or value > last:
                continue
            before = f"{last} is signalled before on the same queue"
        yield site.broken(
            _member(site, "Signal", index),
            f"is to be signalled with {value}, but {before}.",
            "A timeline only rises: signal a larger value.",
        )


def _signalled_before(call: Call, site: Site, queue: int, record: Record) -> int | None:
    """The largest value that what came before on the same queue signals.

    Other queues may run later.
    """
    submitted = call.world.submitted
    values = [
        value
        for batch in (submitted.of_queue(queue) if submitted is not None else ())
        for each, value in batch.signals
        if each is record
    ]
    for other in call.sites:
        if other is site:
            break
        if other.owner == site.owner:
            earlier = _side(call, other, "Signal").timelines
            values += [value for _, each, value in earlier if each is record]
    return max(values, default=None)


@rule(
    "VUID-VkSubmitInfo-pWaitSemaphores-03243",
    "VUID-VkSubmitInfo2-semaphore-03884",
    stage="device",
)
def a_value_to_wait_for_that_is_near(call: Call, site: Site) -> Findings:
    yield from _near(call, site, "Wait")


@rule(
    "VUID-VkSubmitInfo-pSignalSemaphores-03244",
    "VUID-VkSubmitInfo2-semaphore-03883",
    stage="device",
)
def a_value_to_signal_that_is_near(call: Call, site: Site) -> Findings:
    yield from _near(call, site, "Signal")


def _near(call: Call, site: Site, side: str) -> Findings:
    for index, record, value in _side(call, site, side).timelines:
        far = _far(call, record, value)
        if far is not None:
            verb = "waited for" if side == "Wait" else "signalled"
            yield site.broken(
                _member(site, side, index),
                f"is {verb} with {value}, which is more than {call.asked.timeline_difference()} "
                f"(maxTimelineSemaphoreValueDifference) away from {far}.",
                "Keep the values that are in use close together.",
            )


def _far(call: Call, record: Record, value: int) -> int | None:
    """A value of a timeline that another one is too far away from: now, or still to come."""
    most, counter = call.asked.timeline_difference(), call.asked.counter(record.value)
    if most is None or counter is None:
        return None
    for other in [counter, *_outstanding(call, record, counter, waits=True)]:
        if abs(value - other) > most:
            return other
    return None


def _outstanding(call: Call, record: Record, counter: int, *, waits: bool) -> list[int]:
    """The values above the counter that queues are to signal (or wait for)."""
    return [
        value
        for batch in call.world.submitted or ()
        for each, value in (batch.signals + batch.waits if waits else batch.signals)
        if each is record and value > counter
    ]


# -- from the host --------------------------------------------------------------------------------


@rule("VUID-VkSemaphoreSignalInfo-value-03258", stage="device")
def a_larger_value_from_the_host(call: Call, site: Site) -> Findings:
    found = _timeline(call, site)
    counter = call.asked.counter(found.value) if found is not None else None
    value = int(site.value("value"))
    if counter is not None and value <= counter:
        yield site.broken(
            "value",
            f"is {value}, but the semaphore has come to {counter} already.",
            f"A timeline only rises: signal {counter + 1} or more.",
        )


@rule("VUID-VkSemaphoreSignalInfo-value-03259", stage="device")
def a_value_below_those_of_queues(call: Call, site: Site) -> Findings:
    found = _timeline(call, site)
    counter = call.asked.counter(found.value) if found is not None else None
    if found is None or counter is None:
        return
    pending, value = _outstanding(call, found, counter, waits=False), int(site.value("value"))
    if pending and value >= min(pending):
        yield site.broken(
            "value",
            f"is {value}, but a queue is still to signal {min(pending)}, which must be more.",
            f"Signal less than {min(pending)}, or wait for the queue first.",
        )


@rule("VUID-VkSemaphoreSignalInfo-value-03260", stage="device")
def a_value_from_the_host_that_is_near(call: Call, site: Site) -> Findings:
    found, value = _timeline(call, site), int(site.value("value"))
    far = _far(call, found, value) if found is not None else None
    if far is not None:
        yield site.broken(
            "value",
            f"is {value}, which is more than {call.asked.timeline_difference()} "
            f"(maxTimelineSemaphoreValueDifference) away from {far}.",
            "Keep the values that are in use close together.",
        )


def is_plainly_right(world: World, semaphore: int, counter: int, value: int) -> bool:
    """Whether a host's signal keeps all of its rules, as can be told at a glance.

    Whoever signals through an object is waited for, and has a structure that was made right. Where
    this says no, the rules are run: they know more, and say what is wrong.
    """
    found = world.find("VkSemaphore", semaphore)
    return (
        found is not None
        and found.facts["timeline"]
        and 0 < value - counter <= NEAR
        and not any(
            each is found
            for batch in world.submitted or ()
            for each, _ in (*batch.signals, *batch.waits)
        )
    )


def _timeline(call: Call, site: Site) -> Record | None:
    found = call.world.find("VkSemaphore", int(site.value("semaphore")))
    return found if found is not None and found.facts["timeline"] else None


# -- what has to stay until the work is done ------------------------------------------------------


@rule("VUID-vkFreeMemory-memory-00677", stage="device")
def memory_that_no_queue_uses(call: Call, site: Site) -> Findings:
    memory = int(site.value("memory") or 0)
    for batch in call.world.submitted or ():
        if memory in batch.memories and call.asked.unfinished(batch):
            yield site.broken(
                "memory",
                f"is still used by what was submitted to the queue {batch.queue:#x}.",
                "Wait for its fence or its timeline first (or vkDeviceWaitIdle).",
            )
            return
