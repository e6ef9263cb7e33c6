"""The shared word: a number in a shared page that several processes read, change and wait for.

    offset   0   the value: 64 bits, written by one aligned store, read by one aligned load.
                 On Linux its lower half is the futex that sleepers sleep on: a change that leaves
                 that half as it is wakes those who sleep, and is seen at the end of a slice by
                 who was about to.
             8   Linux: not 0 if somebody may be asleep. Windows: the events of those who sleep, 8
                 bytes each

A change is made under a lock between processes that the kernel keeps, and which it drops when its
owner dies, however it dies: a killed writer leaves the old value or the new one. A peer that never
gives the lock back costs whoever changes this word a timeout, and nobody else anything.

Nothing in the page is believed: a value is only a number, and everything else can at worst wake
somebody too often, or a little too late, because nobody sleeps for more than two seconds at a time.
The slices are also what keeps Ctrl-C and the death of a peer from being missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["END", "PATIENCE", "SLICE", "WORD_SIZE", "Ready", "Watching", "WordLike", "pause"]

END = 1 << 64  # values are below it
WORD_SIZE = 256  # bytes that a word takes in its page
PATIENCE = 1.0  # seconds that a change waits for the lock, unless it is told otherwise
SLICE = 0.25  # seconds of sleep at a time
# Where nobody can be told that we sleep (a page that we may only read, too many sleepers): at first
# and at last, so that a long wait does not keep a core busy.
SHORTEST, LONGEST = 0.0005, 0.01

Ready = Callable[[int], bool]


class WordLike(Protocol):
    """What `Word` does, on both systems."""

    @property
    def value(self) -> int:
        """The number now; one load, without the lock. ValueError once closed."""

    def change(self, to: Callable[[int], int | None], timeout: float = PATIENCE) -> int | None:
        """Replace the value by what `to` makes of it, and wake all who wait; the new value.

        None from `to` leaves it as it is. TimeoutError if another process keeps the lock.
        PermissionError if the page may only be read.
        """

    def put(self, value: int) -> None:
        """Store a value, and wake all who wait, without the lock between processes.

        For who alone changes the word at the moment, by whatever the word is for: a semaphore has
        one signaller at a time. Where that is not so, one of the values stays.
        """

    def advance(self, value: int) -> bool:
        """As `put`, of a number that only grows. False, and no change, where it is there already,
        or the word is closed or cannot be changed here.
        """

    def wait(self, ready: Ready, timeout: float | None = None) -> bool:
        """Sleep until `ready(value)`; False if the seconds passed before. None: for ever."""

    def close(self) -> None:
        """Let the page go. Who waits here meets ValueError. Safe to call again."""


class Watching(Protocol):
    """What `Watcher` does: one thread at a time sleeps on several words, and on a bell."""

    def wait(
        self, words: Sequence[WordLike], ready: Callable[[], bool], timeout: float | None = None
    ) -> bool:
        """Sleep until `ready()`, which is asked anew after each change and each ring."""

    def ring(self) -> None:
        """Have `ready` asked again; from any thread of this process."""

    def close(self) -> None:
        """Give back what the system lent. Safe to call again."""


def pause(short: float, left: float) -> float:
    """The next sleep of somebody who cannot be woken; ever longer ones."""
    return min(max(short, SHORTEST), LONGEST, left)
