"""What each further subscriber of a stream costs, from 1 to 16 of them.

Frames of 64 KiB, of which the processor writes and reads eight bytes. The publisher has a core of
its own, and all subscribers share the others: on two cores the last of sixteen has its frame when
fifteen others were woken before it.
"""

from __future__ import annotations

from extmem.bench.frames import one_round
from extmem.bench.report import Measurement
from extmem.bench.rounds import Effort, Tally
from extmem.bench.streams import peers

__all__ = ["measure"]

_NUMBERS = (1, 2, 4, 8, 16)
_QUICK = (1, 2)
_SIZE = 64 << 10
_PEERS = ("shared_memory, copied", "pyzmq", "iceoryx2")


def measure(effort: Effort) -> list[Measurement]:
    """Until the last one has it, until the first one has, and what the publisher spends."""
    kinds, missing = peers()
    kinds = [each for each in kinds if each == "extmem" or each in _PEERS]
    rounds = effort.of(3)
    numbers = effort.some_of(_NUMBERS, _QUICK)
    effort.watch.steps(rounds * len(numbers) * len(kinds))
    tallies = {name: Tally() for name in _WHAT}
    for number in range(rounds):
        for readers in numbers:
            for kind in kinds:
                effort.watch.step(f"round {number + 1} of {rounds}: {kind}, {readers}")
                ways = [("stamped", effort.some(40, 5))]
                times = one_round(kind, _SIZE, ways, readers)["stamped"]
                tallies["subscribers-last"].add(kind, times.last, readers)
                tallies["subscribers-first"].add(kind, times.first, readers)
                tallies["subscribers-publishing"].add(kind, times.publishing, readers)
    return [
        Measurement(
            name=name,
            part="subscribers",
            what=_WHAT[name],
            rows=tally.rows(_PEERS),
            axis="subscribers",
            missing=missing if name == "subscribers-last" else [],
        )
        for name, tally in tallies.items()
    ]


_WHAT = {
    "subscribers-last": "A frame of 64 KiB, until the last subscriber has it",
    "subscribers-first": "A frame of 64 KiB, until the first subscriber has it",
    "subscribers-publishing": "A frame of 64 KiB, until the publisher may go on",
}
