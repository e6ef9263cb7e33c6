"""What the fuzzer's process must not have more of from round to round, and who judges that.

Counts stay level: once the objects of a round are destroyed, nothing of the system's and nothing in
the package's books may be there that was not there when the first rounds had ended. Memory may move
a little, and not steadily: what each call leaves adds up.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from extmem import world
from extmem.drivers.embedded import objects
from tests.support.leaks import held

__all__ = ["Counts", "Level", "Memory", "Steps", "allowed", "counts", "memory"]

Counts = dict[str, int]
Memory = dict[str, int]

MiB = 1 << 20
_PATIENCE = 3.0  # seconds that threads and processes get to end
_MACHINES = ("files in /dev/shm", "sockets with a name")  # not of this process alone


def counts() -> Counts:
    """What has to be level."""
    found = {what: sum(each.values()) for what, each in held().items() if what not in _MACHINES}
    worlds = list(world._worlds)
    found["worlds of instances and devices"] = len(worlds)
    found["objects in those"] = sum(sum(each.count().values()) for each in worlds)
    found["objects of the embedded device"] = len(objects._objects)
    return found


def memory() -> Memory:
    """What may move, and not grow. What the collector frees is freed first."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "bytes of memory": pages * resource.getpagesize(),
        "blocks of Python's memory": sys.getallocatedblocks(),
        "objects of Python": len(gc.get_objects()),
    }


class Level:
    """Judges what has to be level."""

    def __init__(self, take: Callable[[], Counts] = counts, patience: float = _PATIENCE) -> None:
        self._take = take
        self._patience = patience  # seconds
        self.first: Counts | None = None
        self.last: Counts = {}

    def begin(self) -> None:
        """From now on nothing may be there that is not there now."""
        gc.collect()
        self.first = self.last = self._take()

    def excess(self) -> list[str]:
        """What there is more of, a sentence each. What ends by itself gets a little time."""
        if self.first is None:
            return []
        until = time.monotonic() + self._patience
        while True:
            self.last = self._take()
            more = {what: now for what, now in self.last.items() if now > self.first.get(what, 0)}
            if not more or time.monotonic() > until:
                break
            gc.collect()
            time.sleep(0.02)
        return [
            f"{what}: {now}, and there were {self.first.get(what, 0)}" for what, now in more.items()
        ]


# What may be more at the end than after the warming up: so much, and so much for each call. Caches
# fill a little all the time: of shapes of calls, and of types of arrays. A leak of 100 bytes in
# each call is four times what is allowed here.
_ALLOWED: Mapping[str, tuple[float, float]] = {
    "bytes of memory": (16 * MiB, 24.0),
    "blocks of Python's memory": (6_000, 0.01),
    "objects of Python": (2_000, 0.003),
}
_COMPILED = 40 * MiB  # what drivers that compile keep of that, until they know all that is asked


def allowed(driver: str) -> Mapping[str, tuple[float, float]]:
    """What may be more on a driver: bytes or items, always and for each call."""
    if driver == "embedded":
        return _ALLOWED
    always, each = _ALLOWED["bytes of memory"]
    return {**_ALLOWED, "bytes of memory": (always + _COMPILED, each)}


class Steps:
    """Judges memory: step by step, after the warming up."""

    def __init__(self, allowed: Mapping[str, tuple[float, float]]) -> None:
        self._allowed = allowed
        self.seen: list[tuple[int, Memory]] = []  # with the number of calls until then

    def add(self, calls: int, now: Memory) -> list[str]:
        """Note a step. What has grown too much since the first one, a sentence each."""
        self.seen.append((calls, now))
        since, first = self.seen[0]
        found = []
        for what, (always, each) in self._allowed.items():
            most = int(always + each * (calls - since))
            more = now[what] - first[what]
            if more > most:
                found.append(
                    f"{what}: {more} more after {calls - since} calls, and {most} are allowed"
                )
        return found

    @property
    def grown(self) -> Memory:
        """From the first step to the last."""
        if not self.seen:
            return {}
        first, last = self.seen[0][1], self.seen[-1][1]
        return {what: last[what] - first[what] for what in first}
