"""Chance, from a seed: the few ways in which the fuzzer of calls chooses, made quick."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Dice"]

T = TypeVar("T")

_EDGES = (0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 4095, 4096, 65535, 65536)


class Dice:
    """A source of choices. The same seed makes the same ones."""

    __slots__ = ("_edges", "bits", "random")

    def __init__(self, seed: str) -> None:
        chance = random.Random(seed)
        self.random = chance.random
        self.bits = chance.getrandbits  # so many random bits
        self._edges: dict[tuple[int, int], tuple[int, ...]] = {}

    def odds(self, chance: float) -> bool:
        """True so often, of one."""
        return self.random() < chance

    def below(self, most: int) -> int:
        """From 0 up to, and without, this."""
        return int(self.random() * most)

    def one(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[int(self.random() * len(choices))]

    def any(self, choices: Sequence[T]) -> T | None:
        """One of them; None if there is none."""
        return choices[int(self.random() * len(choices))] if choices else None

    def number(self, low: int, high: int) -> int:
        """A number at the edges of its type, a small one, or random bits."""
        roll = self.random()
        if roll < 0.5:
            edges = self._edges.get((low, high))
            if edges is None:
                edges = self._edges[low, high] = _edges_of(low, high)
            return edges[int(self.random() * len(edges))]
        if roll < 0.8:
            return min(high, int(self.random() * 70))
        return low + self.bits((high - low).bit_length()) % (high - low + 1)


def _edges_of(low: int, high: int) -> tuple[int, ...]:
    found = {each for each in _EDGES if each <= high}
    found |= {high, high - 1, high // 2, high // 2 + 1, low, low + 1}
    found |= {1 << bits for bits in (31, 32, 33, 45, 63) if 1 << bits <= high}
    return tuple(sorted(found))
