"""The process in which calls are made: `python -m tests.fuzz.calls.child` and JSON for `main`."""

from __future__ import annotations

import gc
import json
import logging
import mmap
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.calls.rounds import Rounds
from tests.fuzz.calls.tables import COMMANDS

__all__ = ["PAGE", "PLACES", "Stumbles"]

PAGE = struct.Struct("<QQI")  # the number of a call, of its round, and what it is
PLACES = ("opening", "closing", *COMMANDS)  # what a process can be at

_STEPS = 5  # the first is for warming up


class Stumbles(logging.Handler):
    """Counts what the embedded device answers although it did not expect it."""

    def __init__(self, trace: bool) -> None:
        super().__init__(logging.ERROR)
        self.seen: dict[str, int] = {}
        self.trace = trace

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


def _memory() -> dict[str, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * resource.getpagesize(),
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    log = logging.getLogger("extmem")
    stumbles = Stumbles(asked["trace"])
    log.addHandler(stumbles)
    log.propagate = False
    with open(asked["page"], "r+b") as file:
        page = mmap.mmap(file.fileno(), PAGE.size)
    numbers = {name: index for index, name in enumerate(PLACES)}
    pack, at = PAGE.pack_into, [0]

    def announce(number: int, name: str) -> None:
        pack(page, 0, number, at[0], numbers[name])

    rounds = Rounds(asked["driver"], asked["seed"], announce, asked["trace"])
    since = time.monotonic()
    total, size = asked["calls"], asked["round"]
    steps: list[dict[str, int]] = []
    held: list[dict[str, int]] = []
    number = 0 if asked["only"] is None else asked["only"]
    while rounds.made < total:
        at[0] = number
        rounds.round(number, min(size, total - rounds.made) if number else min(size, total))
        number += 1
        if rounds.made >= total * (len(steps) + 1) // _STEPS:
            steps.append(_memory())
        gc.collect() if number < 3 else None
        held.append(rounds.held())
        if asked["only"] is not None:
            break
    result: dict[str, Any] = {
        "calls": rounds.made,
        "rounds": number,
        "seconds": time.monotonic() - since,
        "counts": rounds.counts,
        "missing": sorted(rounds.missing),
        "finds": rounds.finds,
        "odd": rounds.odd,
        "stumbles": stumbles.seen,
        "steps": steps,
        "held": [held[min(1, len(held) - 1)], held[-1]],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    rounds.close()
    Path(asked["report"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
