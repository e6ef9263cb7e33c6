"""What a frame costs by its size, from being written in one process to another one having it.

A publisher and a subscriber, each on a core of its own, and the embedded device; `frames` says how
frames are written and read. Beside the stream, taking turns with it:

- shared_memory, copied: copied into multiprocessing.shared_memory, the news through a queue, and
  copied out again, because nothing keeps it from being overwritten
- pickled: the frame itself goes through the queue
- pyzmq: through an ipc socket, to a subscriber
- iceoryx2: a publisher and a subscriber of bytes, in Rust below a thin layer of Python
"""

from __future__ import annotations

import statistics

from extmem.bench import machine
from extmem.bench.frames import WAYS, one_round
from extmem.bench.report import Measurement, Missing, Row
from extmem.bench.rounds import Effort, Tally
from extmem.bench.senders import KINDS, PEERS
from extmem.cli.words import size_of

__all__ = ["measure", "peers"]

_SIZES = (4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20, 256 << 20, 1 << 30)
_QUICK = (4 << 10, 1 << 20)
_LARGEST = {"pickled": 8 << 20, "pyzmq": 64 << 20, "shared_memory, copied": 256 << 20}
_COPIES = 4  # of a frame, that are there at once at the most, by all kinds
_NEVER_COLD = ("pickled", "pyzmq")  # a frame takes them so long that it makes no difference
_FLAT = (4 << 10, 256 << 20)  # between these sizes the p50 shall not differ much

_WHAT = {
    "filled": "the processor fills it just before, and reads all of it",
    "cold": "filled and read, with caches that are equally cold for all sizes",
    "stamped": "the processor writes and reads eight bytes of it",
    "paced": "eight bytes are written and read, 16 ms after the readers were ready",
}


def peers() -> tuple[list[str], list[Missing]]:
    """The kinds that are here, and what is missing."""
    found = {kind: machine.missing(*PEERS[kind]) for kind in KINDS if kind in PEERS}
    return (
        [kind for kind in KINDS if found.get(kind) is None],
        [each for each in found.values() if each is not None],
    )


def measure(effort: Effort) -> list[Measurement]:
    """All ways."""
    kinds, missing = peers()
    rounds = effort.of(3)
    sizes = [each for each in effort.some_of(_SIZES, _QUICK) if each <= effort.largest]
    runs: list[tuple[int, str]] = []
    for size in sizes:
        for kind in kinds:
            why = _why_not(kind, size)
            if why:
                missing.append(Missing(f"{kind}, {size_of(size)}", why, ""))
            else:
                runs.append((size, kind))
    effort.watch.steps(rounds * len(runs))
    tallies = {way: Tally() for way in WAYS}
    for number in range(rounds):
        for size, kind in runs:
            effort.watch.step(f"round {number + 1} of {rounds}: {kind}, {size_of(size)}")
            for way, times in one_round(kind, size, _ways(effort, kind, size)).items():
                tallies[way].add(kind, times.first, size)
    return [
        Measurement(
            name=f"streams-{way}",
            part="streams",
            what=f"A frame to another process: {_WHAT[way]}",
            rows=(rows := tally.rows(KINDS[1:])),
            axis="size of a frame",
            axis_unit="bytes",
            facts=_flatness(rows),
            missing=missing if way == WAYS[0] else [],
        )
        for way, tally in tallies.items()
    ]


def _ways(effort: Effort, kind: str, size: int) -> list[tuple[str, int]]:
    """How many frames of each way. What is flat comes first, with the most of them."""
    many = effort.some(40, 10)
    filled = effort.some(min(many, max(4, (512 << 20) // size)), 5)
    if kind in _LARGEST and size > 1 << 20:
        many = 4  # of those that copy
    cold = [] if kind in _NEVER_COLD else [("cold", effort.some(8 if size < 1 << 30 else 3, 3))]
    return [("stamped", many), ("paced", min(many, 20)), *cold, ("filled", filled)]


def _why_not(kind: str, size: int) -> str:
    if size > _LARGEST.get(kind, size):
        return f"it takes too long: {kind} is measured up to {size_of(_LARGEST[kind])}"
    there = machine.available()
    need = _COPIES * size
    if there is not None and need > there // 2:
        return (
            f"it takes {size_of(need)} of memory, and half of what is free is {size_of(there // 2)}"
        )
    return ""


def _flatness(rows: list[Row]) -> dict[str, float]:
    """By how many percent the p50 differs between those sizes, for those that copy nothing."""
    found = {}
    for label in dict.fromkeys(row.label for row in rows if row.label not in _LARGEST):
        values = [
            row.p50
            for row in rows
            if row.label == label and row.x is not None and _FLAT[0] <= row.x <= _FLAT[1]
        ]
        sizes = {row.x for row in rows if row.label == label}
        if set(_FLAT) <= sizes:
            found[f"{label}: p50 differs by percent, 4 KiB to 256 MiB"] = round(
                100 * (max(values) / min(values) - 1), 1
            )
            middle = statistics.median(values)
            found[f"{label}: farthest from its median in percent"] = round(
                100 * max(abs(each / middle - 1) for each in values), 1
            )
    return found
