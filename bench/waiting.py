"""From a signal in one process to the return of the wait in another; and what a long wait costs.

    python bench/waiting.py [--rounds 7] [--minute] [--json]

Two processes, each on a core of its own where the system lets it choose. One signals, and writes
down when: just before the call, on the clock that both have. The other one waits, and looks at that
clock when the wait has returned. The embedded device's timeline semaphore takes turns with a plain
pair of Python's eventfds (Linux), round by round, so that a machine that changes its speed changes
it for both. Each figure is the median of the rounds' own, with the spread of those.

- awake: the next signal comes some 60 us after the waiter is ready for it, so it is still reading
- 16 ms: the waiter sleeps for the time of a frame before each signal
- idle: processor time of one wait that nobody ends
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import extmem

GAP = 60_000  # nanoseconds between the waiter's word and the signal: it is waiting by then
FRAME = 16_000_000  # nanoseconds
PATIENCE = 60.0
WARM = 20  # signals before those that count

now = time.monotonic_ns


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
WAITER, SIGNALLER = CORES[:2] if len(CORES) > 1 else (None, None)


class Pair(Protocol):
    """Two things to signal and to wait for: one each way."""

    def signal(self, which: int, number: int) -> None: ...

    def wait(self, which: int, number: int) -> None: ...


class Timelines:
    """Two timeline semaphores."""

    def __init__(self, semaphores: list[extmem.Semaphore]) -> None:
        self.semaphores = semaphores

    def signal(self, which: int, number: int) -> None:
        self.semaphores[which].signal(number)

    def wait(self, which: int, number: int) -> None:
        self.semaphores[which].wait(number, timeout=PATIENCE)

    def close(self) -> None:
        for each in self.semaphores:
            each.close()


class EventFds:
    """Two of Linux's eventfds, read and written with nothing between."""

    def __init__(self, fds: list[Any]) -> None:
        self.fds = [each if isinstance(each, int) else each.detach() for each in fds]

    def signal(self, which: int, number: int) -> None:
        os.write(self.fds[which], b"\1\0\0\0\0\0\0\0")

    def wait(self, which: int, number: int) -> None:
        os.read(self.fds[which], 8)

    def close(self) -> None:
        for each in self.fds:
            os.close(each)


def alone_on(core: int | None) -> None:
    """Stay on one core, if there are two to choose from."""
    if core is not None:
        os.sched_setaffinity(0, {core})


# -- the process that signals ---------------------------------------------------------------------


def signals(
    kind: Callable[[list[Any]], Any], ends: list[Any], stamps: Any, awake: bool, core: int | None
) -> None:
    alone_on(core)
    pair = kind(ends)
    pair.wait(1, 1)
    due = now()
    for index in range(len(stamps)):
        if awake:
            if index:
                pair.wait(1, index + 1)
            due = now() + GAP
            while now() < due:
                pass
        else:
            due += FRAME
            time.sleep(max(due - now(), 0) / 1e9)
        stamps[index] = now()
        pair.signal(0, index + 1)
    pair.wait(1, len(stamps) + 2)
    pair.close()


# -- the process that waits -----------------------------------------------------------------------


def one_round(
    kind: type[Timelines] | type[EventFds],
    ends: list[Any],
    passed: list[Any],
    count: int,
    awake: bool,
) -> list[float]:
    """Microseconds from each signal to the return of its wait."""
    context = multiprocessing.get_context("spawn")
    stamps = context.RawArray("q", count)
    process = context.Process(target=signals, args=(kind, passed, stamps, awake, SIGNALLER))
    process.start()
    pair: Pair = kind(ends)
    returned = [0] * count
    used = 0
    for index in range(count):
        if awake or index == 0:
            pair.signal(1, index + 1)
        if index == WARM:
            used = time.process_time_ns()
        pair.wait(0, index + 1)
        returned[index] = now()
    if not awake:
        used_by.setdefault(kind.__name__, []).append(time.process_time_ns() - used)
    pair.signal(1, count + 2)
    process.join(PATIENCE)
    if process.exitcode != 0:
        raise SystemExit(f"the other process ended with {process.exitcode}")
    process.close()
    return [(r - s) / 1000 for r, s in zip(returned, stamps, strict=True)][WARM:]


used_by: dict[str, list[int]] = {}  # processor time of the frames of each round, in nanoseconds


def timelines(gpu: extmem.Device, count: int, awake: bool) -> list[float]:
    kind = "opaque_win32" if sys.platform == "win32" else "opaque_fd"
    made = [gpu.semaphore(export=kind) for _ in range(2)]
    try:
        return one_round(Timelines, made, made, count, awake)
    finally:
        for each in made:
            each.close()


def eventfds(count: int, awake: bool) -> list[float]:
    made = [os.eventfd(0) for _ in range(2)]
    try:
        return one_round(EventFds, made, [Passed(fd) for fd in made], count, awake)
    finally:
        for fd in made:
            os.close(fd)


class Passed:
    """A descriptor on its way to the other process, where it is a number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        from multiprocessing import reduction

        return _taken, (reduction.DupFd(self.fd),)


def _taken(travelling: Any) -> int:
    fd: int = travelling.detach()
    return fd


# -- a wait that nobody ends ----------------------------------------------------------------------


def idle(gpu: extmem.Device, seconds: float) -> float:
    """Processor seconds of this process while it waits."""
    with gpu.semaphore(export="opaque_fd") as never:
        before = time.process_time()
        with contextlib.suppress(TimeoutError):
            never.wait(1, timeout=seconds)
        return time.process_time() - before


# -- all of it ------------------------------------------------------------------------------------


def summary(rounds: list[list[float]]) -> dict[str, float]:
    """Of the rounds' own percentiles: the median, and the lowest and highest p50."""
    middles = [statistics.median(each) for each in rounds]
    highs = [statistics.quantiles(each, n=20)[-1] for each in rounds]
    return {
        "p50": round(statistics.median(middles), 1),
        "lowest_p50": round(min(middles), 1),
        "highest_p50": round(max(middles), 1),
        "p95": round(statistics.median(highs), 1),
    }


def measure(rounds: int, count: int, frames: int, seconds: float) -> dict[str, Any]:
    """Everything, as one JSON-able object."""
    alone_on(WAITER)
    found: dict[str, list[list[float]]] = {}
    checked = extmem.open_device(driver="embedded", checks="full")
    unchecked = extmem.open_device(driver="embedded", checks="off")
    with checked, unchecked:
        for _ in range(rounds):
            for awake, label, number in ((True, "awake", count), (False, "16 ms", frames)):
                kinds: dict[str, Callable[[], list[float]]] = {
                    "extmem, full checks": lambda n=number, a=awake: timelines(checked, n, a),
                    "extmem, checks off": lambda n=number, a=awake: timelines(unchecked, n, a),
                }
                if hasattr(os, "eventfd"):
                    kinds["Python's eventfds"] = lambda n=number, a=awake: eventfds(n, a)
                for name, run in kinds.items():
                    found.setdefault(f"{label}: {name}", []).append(run())
        used = idle(checked, seconds)
    ratios = {}
    for label, values in found.items():
        peer = found.get(label.split(":")[0] + ": Python's eventfds")
        if peer is not None:
            ratios[label] = statistics.median(
                statistics.median(mine) / statistics.median(theirs)
                for mine, theirs in zip(values, peer, strict=True)
            )
    return {
        "what": "signal in one process to the return of the wait in another",
        "device": "the embedded device",
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": rounds,
        "microseconds": {
            label: {**summary(values), "over_eventfd": round(ratios.get(label, 0), 2)}
            for label, values in found.items()
        },
        "idle": {"seconds": seconds, "processor_ms": round(used * 1000, 2)},
        "percent_of_a_core_at_16_ms": {
            name: round(100 * statistics.median(spent) / ((frames - WARM) * FRAME), 2)
            for name, spent in used_by.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--signals", type=int, default=500, help="in each round, awake")
    parser.add_argument("--frames", type=int, default=120, help="in each round, of 16 ms")
    parser.add_argument("--minute", action="store_true", help="wait a minute for what never comes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds = 60.0 if options.minute else 5.0
    result = measure(options.rounds, options.signals + WARM, options.frames + WARM, seconds)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['what']}\n{result['device']}; {result['machine']}")
    print(f"{'':28}{'p50':>8}{'lowest':>8}{'highest':>9}{'p95':>8}{'x eventfd':>11}   (us)")
    for label, row in result["microseconds"].items():
        print(
            f"{label:28}{row['p50']:8.1f}{row['lowest_p50']:8.1f}{row['highest_p50']:9.1f}"
            f"{row['p95']:8.1f}{row['over_eventfd']:11.2f}"
        )
    for name, percent in result["percent_of_a_core_at_16_ms"].items():
        print(f"16 ms: {name} took {percent} % of a core")
    waited = result["idle"]
    print(f"a wait of {waited['seconds']:.0f} s took {waited['processor_ms']} ms of a processor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
