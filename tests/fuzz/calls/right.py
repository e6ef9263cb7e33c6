"""Calls that keep all rules, for each command: what brings the fuzzer deep into a driver.

Each function makes a call, or another one that has to be made before it; or None, where there is
nothing to make it with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fuzz.calls.hand import Call, Hand

__all__ = ["RIGHT", "Maker", "right"]

Maker = Callable[[Hand], Call | None]

RIGHT: dict[str, Maker] = {}


def right(*names: str) -> Callable[[Maker], Maker]:
    """Register a function that makes calls of these commands: `maker(hand)`."""

    def register(maker: Maker) -> Maker:
        for name in names:
            RIGHT[name] = maker
        return maker

    return register


def simple(name: str, *arguments: Callable[[Hand], Any]) -> None:
    """Register a command whose arguments do not depend on one another. None: there are none."""

    def make(hand: Hand) -> Call | None:
        found = [each(hand) for each in arguments]
        return None if any(each is NOTHING for each in found) else Call(name, found)

    RIGHT[name] = make


NOTHING = object()  # what an argument is made of is not there
