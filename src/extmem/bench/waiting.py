"""From a signal in one process to the return of the wait in another; and what a long wait costs.

Two processes, each on a core of its own where the system lets it choose. One signals, and writes
down when: just before the call, on the clock that both have. The other one waits, and looks at that
clock when the wait has returned. The embedded device's timeline semaphore takes turns with what
Python has: the semaphores of multiprocessing, and a pair of Linux' eventfds with nothing between.

- awake: the next signal comes some 60 us after the waiter is ready for it, so it is still reading
- frame: the waiter sleeps for 16 ms, the time of a frame, before each signal
- idle: processor time of one wait that nobody ends
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import extmem
from extmem.bench import machine
from extmem.bench.report import Measurement, Missing
from extmem.bench.rounds import Effort, Tally
from extmem.errors import ExtmemError

__all__ = ["measure"]

_GAP = 60_000  # nanoseconds between the waiter's word and the signal: it is waiting by then
_FRAME = 16_000_000  # nanoseconds
_PATIENCE = 60.0
_WARM = 20  # signals before those that count
_CORES = machine.cores()  # of this process, before it stays on one of them

now = time.perf_counter_ns  # one clock for all processes, and on Windows the only fine one


class Pair(Protocol):
    """Two things to signal and to wait for: one each way."""

    def signal(self, which: int, number: int) -> None:
        """Signal one of them, for this time."""

    def wait(self, which: int, number: int) -> None:
        """Wait for one of them."""

    def close(self) -> None:
        """Give them back."""


class Timelines:
    """Two timeline semaphores."""

    def __init__(self, semaphores: list[extmem.Semaphore]) -> None:
        self._semaphores = semaphores

    def signal(self, which: int, number: int) -> None:
        """Signal one of them, for this time."""
        self._semaphores[which].signal(number)

    def wait(self, which: int, number: int) -> None:
        """Wait for one of them."""
        self._semaphores[which].wait(number, timeout=_PATIENCE)

    def close(self) -> None:
        """Give them back."""
        for each in self._semaphores:
            each.close()


class Semaphores:
    """Two of multiprocessing's semaphores."""

    def __init__(self, semaphores: list[Any]) -> None:
        self._semaphores = semaphores

    def signal(self, which: int, number: int) -> None:
        """Signal one of them, for this time."""
        self._semaphores[which].release()

    def wait(self, which: int, number: int) -> None:
        """Wait for one of them."""
        if not self._semaphores[which].acquire(timeout=_PATIENCE):
            raise TimeoutError("the other process does not signal")

    def close(self) -> None:
        """Give them back."""


class EventFds:
    """Two of Linux' eventfds, read and written with nothing between."""

    def __init__(self, fds: list[Any]) -> None:
        self._fds = [each if isinstance(each, int) else each.detach() for each in fds]

    def signal(self, which: int, number: int) -> None:
        """Signal one of them, for this time."""
        os.write(self._fds[which], b"\1\0\0\0\0\0\0\0")

    def wait(self, which: int, number: int) -> None:
        """Wait for one of them."""
        os.read(self._fds[which], 8)

    def close(self) -> None:
        """Give them back."""
        for each in self._fds:
            os.close(each)


class _Passed:
    """A descriptor on its way to the other process, where it is a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> Any:
        from multiprocessing import reduction

        duplicate: Any = reduction.DupFd  # type: ignore[attr-defined, unused-ignore]
        return _taken, (duplicate(self._fd),)


def _taken(travelling: Any) -> int:
    fd: int = travelling.detach()
    return fd


# -- the two processes ----------------------------------------------------------------------------


def _signals(
    kind: Callable[[list[Any]], Pair], ends: list[Any], stamps: Any, awake: bool, core: int | None
) -> None:
    machine.end_with_parent()
    machine.alone_on(core)
    pair = kind(ends)
    pair.wait(1, 1)
    due = now()
    for index in range(len(stamps)):
        if awake:
            if index:
                pair.wait(1, index + 1)
            due = now() + _GAP
            while now() < due:
                pass
        else:
            due += _FRAME
            time.sleep(max(due - now(), 0) / 1e9)
        stamps[index] = now()
        pair.signal(0, index + 1)
    pair.wait(1, len(stamps) + 2)
    pair.close()


def _one_round(
    kind: Callable[[list[Any]], Pair],
    ends: list[Any],
    passed: list[Any],
    count: int,
    awake: bool,
) -> tuple[list[float], float]:
    """Microseconds from each signal to the return of its wait; and how much of a core this side
    took, in percent.
    """
    context = multiprocessing.get_context("spawn")
    core = _CORES[1] if len(_CORES) > 1 else None
    stamps = context.RawArray("q", count)
    process = context.Process(target=_signals, args=(kind, passed, stamps, awake, core))
    process.start()
    pair = kind(ends)
    returned = [0] * count
    used = began = 0
    try:
        for index in range(count):
            if awake or index == 0:
                pair.signal(1, index + 1)
            if index == _WARM:
                used, began = time.process_time_ns(), now()
            pair.wait(0, index + 1)
            returned[index] = now()
        used, took = time.process_time_ns() - used, now() - began
        pair.signal(1, count + 2)
        process.join(_PATIENCE)
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()
    if process.exitcode != 0:
        raise ExtmemError(f"the other process ended with {process.exitcode}; see above")
    process.close()
    taken = [(r - s) / 1000 for r, s in zip(returned, stamps, strict=True)]
    return taken[_WARM:], 100 * used / took


def _timelines(gpu: extmem.Device, count: int, awake: bool) -> tuple[list[float], float]:
    made = [gpu.semaphore(export=_handle_type()) for _ in range(2)]
    try:
        return _one_round(Timelines, made, made, count, awake)
    finally:
        for each in made:
            each.close()


def _semaphores(count: int, awake: bool) -> tuple[list[float], float]:
    context = multiprocessing.get_context("spawn")
    made = [context.Semaphore(0) for _ in range(2)]
    return _one_round(Semaphores, made, made, count, awake)


def _eventfds(count: int, awake: bool) -> tuple[list[float], float]:
    if sys.platform == "win32":
        raise NotImplementedError
    # Two signals before one wait are two: under load the waiter may be late by a frame.
    made = [os.eventfd(0, os.EFD_SEMAPHORE) for _ in range(2)]
    try:
        return _one_round(EventFds, list(made), [_Passed(fd) for fd in made], count, awake)
    finally:
        for fd in made:
            os.close(fd)


def _handle_type() -> str:
    return "opaque_win32" if sys.platform == "win32" else "opaque_fd"


def _idle(gpu: extmem.Device, seconds: float) -> float:
    """Processor seconds of this process while it waits for what never comes."""
    with gpu.semaphore(export=_handle_type()) as never:
        before = time.process_time()
        with contextlib.suppress(TimeoutError):
            never.wait(1, timeout=seconds)
        return time.process_time() - before


# -- all of it ------------------------------------------------------------------------------------


def measure(effort: Effort) -> list[Measurement]:
    """Both, and the wait that nobody ends."""
    rounds, seconds = effort.of(5), effort.some(5, 1)
    counts = {"awake": effort.some(500, 50) + _WARM, "frame": effort.some(120, 20) + _WARM}
    tallies = {way: Tally() for way in counts}
    used: dict[str, list[float]] = {}
    missing = []
    full = extmem.open_device(driver="embedded", checks="full")
    off = extmem.open_device(driver="embedded", checks="off")
    with full, off:
        kinds: dict[str, Callable[[int, bool], tuple[list[float], float]]] = {
            "extmem, full checks": lambda n, awake: _timelines(full, n, awake),
            "extmem, checks off": lambda n, awake: _timelines(off, n, awake),
            "multiprocessing.Semaphore": _semaphores,
        }
        if hasattr(os, "eventfd"):
            kinds["eventfd"] = _eventfds
        else:
            missing.append(Missing("eventfd", "it is Linux' own", ""))
        effort.watch.steps(rounds * len(counts) * len(kinds) + 1)
        machine.alone_on(_CORES[0] if len(_CORES) > 1 else None)
        try:
            for number in range(rounds):
                for way, count in counts.items():
                    for label, act in kinds.items():
                        effort.watch.step(f"round {number + 1} of {rounds}: {way}, {label}")
                        taken, percent = act(count, way == "awake")
                        tallies[way].add(label, taken)
                        if way == "frame":
                            used.setdefault(label, []).append(percent)
            effort.watch.step(f"a wait of {seconds} s that nobody ends")
            idle = _idle(full, seconds)
        finally:
            machine.stay_on(_CORES)
    facts = {
        f"{label}: percent of a core": round(sorted(each)[len(each) // 2], 2)
        for label, each in used.items()
    }
    facts[f"a wait of {seconds} s that nobody ended: ms of a processor"] = round(idle * 1000, 2)
    peers = ["eventfd", "multiprocessing.Semaphore"]
    return [
        Measurement(
            "waiting-awake",
            "waiting",
            "A signal to another process that still reads when it comes",
            tallies["awake"].rows(peers),
            missing=missing,
        ),
        Measurement(
            "waiting-frame",
            "waiting",
            "A signal to another process that has slept for 16 ms",
            tallies["frame"].rows(peers),
            facts=facts,
        ),
    ]
