"""Frames from a process that writes to some that read, timed: one round of one kind of sender.

All readers say that they are ready, and 0.2 ms later the writer writes a frame and publishes
it. A frame is written and read in one of these ways:

- stamped: the processor writes and reads eight bytes of it. The rest is for others to write: a
  device, a camera
- paced: the same, but the frame comes 16 ms later, as those of a camera do. Readers sleep then, and
  caches have forgotten something
- filled: the processor writes all of the frame, and readers sum all of it up
- cold: the same; and then, before it is published, the writer walks over a buffer of its own that
  is larger than the last-level cache, and so do readers before they wait. So the caches are equally
  cold whatever the size of the frame
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import time
from typing import Any, NamedTuple

import numpy as np

from extmem.bench import machine
from extmem.bench.senders import PATIENCE, READERS, WRITERS, Frame, now
from extmem.errors import ExtmemError
from extmem.waiting import let_go

__all__ = ["WAYS", "Times", "one_round"]

WAYS = ("stamped", "paced", "cold", "filled")
_SLOTS = 3  # of a stream
_GAP = 200_000  # nanoseconds between the readers' word and the frame: they are waiting by then
_LOOK = 50_000_000  # nanoseconds
_PACE = 0.016  # seconds
_LINE = 8  # numbers of eight bytes in a line of the cache


class Times(NamedTuple):
    """Of the frames of one way, in microseconds."""

    first: list[float]  # from being written to the first reader having it
    last: list[float]  # to the last one
    publishing: list[float]  # until the writer may go on


class _Work:
    """What is done to a frame on one side."""

    def __init__(self, ways: list[tuple[str, int]]) -> None:
        self._buffer: Frame | None = None
        if any(way == "cold" for way, _ in ways):
            size = machine.last_level_cache() // 8 * 9
            self._buffer = np.ones(size // 8, "uint64")  # written: zeros would all be one page

    def walk(self) -> None:
        assert self._buffer is not None
        int(self._buffer[::_LINE].sum())

    def write(self, way: str, value: int, frame: Frame) -> None:
        if way in ("stamped", "paced"):
            frame[:8] = value
            return
        frame.fill(value)
        if way == "cold":
            self.walk()

    def read(self, way: str, value: int, frame: Frame) -> None:
        # What came is looked at in all ways: a frame that is late or torn is no frame.
        if int(frame[0]) != value or int(frame[7]) != value:
            raise ExtmemError(f"frame {value} came with {frame[:8]} at its beginning")
        if way in ("filled", "cold"):
            int(frame.view("uint64").sum())
        if way == "cold":
            self.walk()


def _warm(way: str, ways: list[tuple[str, int]]) -> int:
    """How many frames of a way do not count: until all slots were written, where that is new."""
    touched = way == "paced" or (way == "filled" and any(each == "cold" for each, _ in ways))
    return 1 if touched else _SLOTS


def _value(index: int) -> int:
    return index % 251 + 1


def _reads(
    kind: str,
    name: str,
    size: int,
    ways: list[tuple[str, int]],
    news: Any,
    ready: Any,
    had: Any,
    number: int,
    core: int | None,
) -> None:
    """A process that reads."""
    machine.end_with_parent()
    machine.alone_on(core)
    work = _Work(ways)
    frames = READERS[kind](name, size, news)
    next(frames)
    total = sum(count for _, count in ways)
    ready[number] = 1
    index = 0
    for way, count in ways:
        for _ in range(count):
            frame = next(frames)
            had[number * total + index] = now()
            assert frame is not None
            work.read(way, _value(index), frame)
            del frame
            index += 1
            ready[number] = index + 1
    with contextlib.suppress(StopIteration):
        next(frames)


def one_round(
    kind: str, size: int, ways: list[tuple[str, int]], readers: int = 1
) -> dict[str, Times]:
    """Frames of `size` bytes, so many of each way. Readers stay on the first cores, all but one."""
    cores = machine.cores()
    reading: list[int | None] = [None] if len(cores) < 2 else [*cores[:-1]]
    machine.alone_on(None if len(cores) < 2 else cores[-1])
    try:
        return _one_round(kind, size, ways, readers, reading)
    finally:
        if len(cores) > 1:
            machine.stay_on(cores)


def _one_round(
    kind: str,
    size: int,
    ways: list[tuple[str, int]],
    readers: int,
    cores: list[int | None],
) -> dict[str, Times]:
    ways = [(way, count + _warm(way, ways)) for way, count in ways]
    total = sum(count for _, count in ways)
    context = multiprocessing.get_context("spawn")
    name = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    ready, had = context.RawArray("q", readers), context.RawArray("q", readers * total)
    news = [context.Queue() for _ in range(readers)]
    work = _Work(ways)
    writer = WRITERS[kind](name, size, readers, news)
    processes = [
        context.Process(
            target=_reads,
            args=(kind, name, size, ways, news[n], ready, had, n, cores[n % len(cores)]),
        )
        for n in range(readers)
    ]
    written, done = [0] * total, [0] * total
    try:
        for each in processes:
            each.start()
        _await(ready, 1, processes)
        writer.ready(readers)
        index = 0
        for way, count in ways:
            for _ in range(count):
                _await(ready, index + 1, processes)
                if way == "paced":
                    time.sleep(_PACE)
                value = _value(index)
                written[index] = writer.put(
                    lambda frame, way=way, value=value: work.write(way, value, frame)  # type: ignore[misc]
                )
                done[index] = now()
                index += 1
        _await(ready, total + 1, processes)
    finally:
        writer.close()
        for each in processes:
            each.join(PATIENCE)
            if each.exitcode is None:
                each.kill()
                each.join()
        writer.end()
        for queue in news:
            queue.close()
            queue.join_thread()
    for each in processes:
        if each.exitcode != 0:
            raise ExtmemError(f"a reader of {kind} ended with {each.exitcode}; see above")
        each.close()
    return _times(ways, readers, written, had, done)


def _await(ready: Any, index: int, processes: list[Any]) -> None:
    """Until all readers are ready for a frame, and a little longer."""
    until, look = now() + int(PATIENCE * 1e9), 0
    while any(each < index for each in ready):
        if now() > look:  # who has died is looked for now and then
            look = now() + _LOOK
            if look > until or any(each.exitcode is not None for each in processes):
                raise ExtmemError("the readers do not read; see above")
        let_go()  # not to sleep: what wakes up late publishes late
    due = now() + _GAP
    while now() < due:
        pass


def _times(
    ways: list[tuple[str, int]], readers: int, written: list[int], had: Any, done: list[int]
) -> dict[str, Times]:
    total, index = len(written), 0
    found = {}
    for way, count in ways:
        times = Times([], [], [])
        for at in range(index + _warm(way, ways), index + count):
            came = [had[reader * total + at] for reader in range(readers)]
            times.first.append((min(came) - written[at]) / 1000)
            times.last.append((max(came) - written[at]) / 1000)
            times.publishing.append((done[at] - written[at]) / 1000)
        found[way] = times
        index += count
    return found
