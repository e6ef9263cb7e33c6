"""The process in which one target is fuzzed: `python -m tests.fuzz.child TARGET RUNS REPORT ...`.

What follows is for libFuzzer. The process ends with 0 if nothing was found and all was counted.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import random
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import atheris

_WATCHED = ("handle_types", "handles", "share")  # what reads bytes of others, and what that uses


def _others() -> list[str]:
    """All other modules of the package: to instrument them too would take more than a second."""
    spec = importlib.util.find_spec("extmem")  # which does not import it
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    found = (each.relative_to(root).with_suffix("").parts for each in root.rglob("*.py"))
    return [
        ".".join(("extmem", *(part for part in parts if part != "__init__")))
        for parts in found
        if parts[0] not in _WATCHED
    ]


with atheris.instrument_imports(include=["extmem"], exclude=_others()):
    from extmem.handles.directory import service  # noqa: F401 - instrumented by this import
    from extmem.share import channel  # noqa: F401
from tests.fuzz.targets import BROKEN, TARGETS  # noqa: E402

_WARM = 5  # one in so many inputs is for warming up: caches fill, and the corpus grows
_AFRESH = 0.3  # of the changes are made to a seed: what is refused once mostly stays refused
_KINDS = 2048  # of refusals that are told apart
# What differs from input to input in a sentence: numbers, and what is quoted from the input.
_DIFFERS = re.compile(
    r"(?s)0x[0-9a-f]+|\d+|'.*'|\".*\"|unknown field `.*?`(?= - at|$)|(?<=passport for ).*"
)


class _Refusals:
    """Tells the fuzzer why an input was refused, as if each reason were a branch of ours.

    The decoders are compiled, so that the fuzzer does not see how far an input got in them.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, int] = {}
        self._free = [atheris._reserve_counter() for _ in range(_KINDS)]

    def seen(self, error: BaseException) -> None:
        kind = _DIFFERS.sub("#", f"{type(error).__name__} {error}")[:200]
        counter = self._kinds.get(kind)
        if counter is None:
            if not self._free:
                return
            counter = self._kinds[kind] = self._free.pop()
        atheris._trace_branch(counter)

    def __len__(self) -> int:
        return len(self._kinds)


def _held() -> dict[str, int]:
    """What this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * resource.getpagesize(),  # bytes
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
    }


def main() -> None:
    name, runs, report, *options = sys.argv[1:]
    target = {**TARGETS, **BROKEN}[name]
    seeds = target.seeds()
    last = int(runs)
    logging.getLogger("extmem").addHandler(logging.NullHandler())
    logging.getLogger("extmem").propagate = False
    refusals = _Refusals()
    refused = count = 0
    warm: dict[str, int] = {}
    since = time.monotonic()
    opened = target.open()
    function = opened.__enter__()  # and never left: libFuzzer ends the process

    def one(data: bytes) -> None:
        nonlocal count, refused, warm
        try:
            function(data)
        except target.refusals as error:
            refused += 1
            refusals.seen(error)
        count += 1
        if count == max(1, last // _WARM):
            warm = _held()
        if count == last:
            result: dict[str, Any] = {
                "runs": count,
                "refused": refused,
                "reasons": len(refusals),
                "seconds": time.monotonic() - since,
                "warm": warm,
                "end": _held(),
                "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # bytes
            }
            Path(report).write_text(json.dumps(result))

    def change(data: bytes, largest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < _AFRESH:
            data = chance.choice(seeds)
        return target.change(data, largest, chance, lambda each: atheris.Mutate(each, largest))

    words = [sys.argv[0], f"-runs={last}", *options]
    atheris.Setup(words, one, custom_mutator=change, internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
