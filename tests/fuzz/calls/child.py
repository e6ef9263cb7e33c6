"""The process in which calls are made: `python -m tests.fuzz.calls.child` and JSON for `main`."""

from __future__ import annotations

import faulthandler
import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extmem.world import payloads, sync_origins
from tests.fuzz.calls import sabotage
from tests.fuzz.calls.coverage import declared
from tests.fuzz.calls.growth import Level, Steps, allowed, memory
from tests.fuzz.calls.page import Page
from tests.fuzz.calls.rounds import Rounds

__all__ = ["FIRST", "Stumbles"]

FIRST = 3  # rounds that fill caches, before anything is judged
_STEPS = 20  # in which memory is measured
_WARM = 0.2  # of all calls are for warming up, too
_KNOWN = 64  # payloads whose origin is remembered


class Stumbles(logging.Handler):
    """Counts what the embedded device answers although it did not expect it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: dict[str, int] = {}
        self.trace = False

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        trace = error.__traceback__ if error is not None else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = ""
        if trace is not None:
            code = trace.tb_frame.f_code
            where = f" at {code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        key = f"{type(error).__name__}{where}" if error is not None else record.getMessage()
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.trace:
            print(f"stumbled: {key}: {error}", flush=True)


def _numbers(only: int | None) -> Iterator[int]:
    """The rounds: all of them, or one after those that fill the caches."""
    if only is None:
        number = 0
        while True:
            yield number
            number += 1
    yield from range(FIRST)
    yield only


class _Judge:
    """Looks at the process after each round."""

    def __init__(self, driver: str, total: int) -> None:
        self.level, self.steps = Level(), Steps(allowed(driver))
        self._total = total
        self._rounds = 0
        self._next = total * _WARM

    def after(self, calls: int) -> list[str]:
        """What there is too much of."""
        self._rounds += 1
        if self._rounds < FIRST:
            return []
        if self._rounds == FIRST:
            self.level.begin()
        found = self.level.excess()
        if calls >= self._next:
            self._next = calls + (1 - _WARM) * self._total / _STEPS
            found += self.steps.add(calls, memory())
        return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    faulthandler.register(signal.SIGUSR1)  # by which the watcher asks where this hangs
    log = logging.getLogger("extmem")
    stumbles = Stumbles()
    log.addHandler(stumbles)
    log.propagate = False
    # What they know of descriptors is bounded. Full from the first rounds on, it is no growth.
    payloads.most = sync_origins.most = _KNOWN
    page = Page(asked["page"])
    rounds = Rounds(asked["driver"], asked["seed"], page.announce)
    judge = _Judge(asked["driver"], asked["calls"])
    total, size, only = asked["calls"], asked["round"], asked["only"]
    since = time.monotonic()
    grown: list[str] = []
    for number in _numbers(only):
        if rounds.made >= total and only is None:
            break
        page.round = number
        rounds.trace = stumbles.trace = number == only
        rounds.round(number, min(size, max(total - rounds.made, 1)) if only is None else size)
        if number >= FIRST and asked["sabotage"]:
            sabotage.after_a_round(asked["sabotage"], rounds)
        page.announce(0, "measuring")
        grown = [f"after round {number}, {each}" for each in judge.after(rounds.made)]
        if grown:
            break
        if number == FIRST - 1 and asked["sabotage"]:
            sabotage.in_calls(asked["sabotage"])
    result: dict[str, Any] = {
        "calls": rounds.made,
        "rounds": rounds.done,
        "seconds": time.monotonic() - since,
        "counts": rounds.counts,
        "reasons": declared(rounds.foreign),
        "finds": rounds.finds,
        "odd": rounds.odd,
        "stumbles": stumbles.seen,
        "first": judge.level.first or {},
        "last": judge.level.last,
        "steps": judge.steps.seen,
        "growth": judge.steps.grown,
        "grown": grown,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # bytes
    }
    rounds.close()
    Path(asked["report"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
