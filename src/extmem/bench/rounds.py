"""How everything is measured: in rounds, in which all contestants take turns.

A machine that changes its speed changes it for all of them then, and a ratio is taken within a
round. What is told of each is the median of its rounds, with the lowest and the highest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from extmem.bench.report import Row

__all__ = ["Effort", "Round", "Tally", "Watch", "p95", "take_turns", "timed"]

Round = Callable[[int], list[float]]  # how long each of so many actions took


class Watch(Protocol):
    """Who wants to know how far a part is."""

    def steps(self, number: int) -> None:
        """So many steps there are in this part."""

    def step(self, what: str) -> None:
        """The next step begins."""


@dataclass(frozen=True)
class Effort:
    """How much is to be done."""

    watch: Watch
    rounds: int | None = None  # None: each part has a number of its own
    quick: bool = False  # as little as shows that it works
    driver: str = "system"  # whose hand-overs are measured
    largest: int = 1 << 30  # bytes of a frame

    def of(self, rounds: int) -> int:
        """How many rounds of a part that takes so many by itself."""
        if self.rounds is not None:
            return self.rounds
        return 1 if self.quick else rounds

    def some(self, number: int, quick: int) -> int:
        """So many, or fewer."""
        return quick if self.quick else number

    def some_of(self, numbers: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        """These, or those."""
        return quick if self.quick else numbers


def timed(action: Callable[[], object]) -> Round:
    """A round that times `action` so many times, in microseconds.

    >>> len(timed(lambda: None)(3))
    3
    """
    clock = time.perf_counter_ns

    def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            start = clock()
            action()
            taken.append((clock() - start) / 1000)
        return taken

    return run


def p95(values: list[float]) -> float:
    """The 95th percentile.

    >>> p95([float(each) for each in range(1, 101)])
    95.95
    """
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


class Tally:
    """What each round of each contestant took.

    >>> tally = Tally()
    >>> for mine, theirs in (([2.0], [1.0]), ([4.0], [1.0]), ([9.0], [3.0])):
    ...     tally.add("mine", mine)
    ...     tally.add("theirs", theirs)
    >>> row = tally.rows(["theirs"])[0]
    >>> row.p50, row.lowest, row.highest, row.ratios
    (4.0, 2.0, 9.0, {'theirs': 3.0})
    """

    def __init__(self) -> None:
        self._taken: dict[tuple[str, float | None], list[list[float]]] = {}

    def add(self, label: str, values: list[float], x: float | None = None) -> None:
        """One round."""
        self._taken.setdefault((label, x), []).append(values)

    def rounds(self, label: str, x: float | None = None) -> list[list[float]]:
        """What was added."""
        return self._taken[label, x]

    def ratio(
        self,
        mine: tuple[str, float | None],
        theirs: tuple[str, float | None],
        of: Callable[[list[float]], float] = statistics.median,
    ) -> float | None:
        """The median of the rounds' own ratios; None if one of them did not take part in all."""
        ours, others = self._taken.get(mine, []), self._taken.get(theirs, [])
        if not ours or len(ours) != len(others):
            return None
        pairs = [(of(a), of(b)) for a, b in zip(ours, others, strict=True)]
        if not all(b for _, b in pairs):  # of a clock that is too coarse for it
            return None
        return statistics.median(a / b for a, b in pairs)

    def rows(self, peers: Iterable[str] = ()) -> list[Row]:
        """What is told of each, with the ratios to those peers at the same x."""
        peers = list(peers)
        rows = []
        for (label, x), taken in self._taken.items():
            middles = [statistics.median(each) for each in taken]
            ratios = {peer: self.ratio((label, x), (peer, x)) for peer in peers}
            rows.append(
                Row(
                    label=label,
                    x=x,
                    p50=_rounded(statistics.median(middles)),
                    lowest=_rounded(min(middles)),
                    highest=_rounded(max(middles)),
                    p95=_rounded(statistics.median(p95(each) for each in taken)),
                    rounds=len(taken),
                    count=len(taken[0]),
                    ratios={
                        peer: round(ratio, 3) for peer, ratio in ratios.items() if ratio is not None
                    },
                )
            )
        return rows


def _rounded(value: float) -> float:
    return round(value, 2)


def take_turns(
    contestants: dict[str, tuple[int, Round]],
    rounds: int,
    watch: Watch,
    x: float | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Let everybody warm up, and then take turns: `label: (actions in a round, round)`."""
    tally = tally or Tally()
    for count, act in contestants.values():
        act(count)
    for number in range(rounds):
        for label, (count, act) in contestants.items():
            watch.step(f"round {number + 1} of {rounds}: {label}")
            tally.add(label, act(count), x)
    return tally
