"""What the fuzzer has made and not destroyed yet, and what it knows of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extmem.handles.system import kernel
from tests.fuzz.calls.dice import Dice
from tests.fuzz.calls.furniture import Furniture

__all__ = ["Export", "Pool", "Thing"]

Facts = dict[str, Any]


@dataclass(slots=True, eq=False)
class Thing:
    """A living object."""

    kind: str  # as "VkBuffer"
    handle: Any
    facts: Facts = field(default_factory=dict)
    # How many others need it as it is: recorded commands, submissions, views.
    pins: int = 0
    pinned: list[Thing] = field(default_factory=list)  # those that it needs itself

    def pin(self, other: Thing) -> None:
        """This needs the other one."""
        self.pinned.append(other)
        other.pins += 1

    def unpin(self) -> None:
        """This needs nothing any more."""
        for each in self.pinned:
            each.pins -= 1
        self.pinned = []


@dataclass(slots=True, eq=False)
class Export:
    """A descriptor, an NT handle or a number that was fetched, and what an import must know."""

    kind: str  # "fd", "nt" or "kmt"
    object: str  # "VkDeviceMemory", "VkSemaphore" or "VkFence"
    value: int
    handle_type: int
    facts: Facts
    name: str | None = None


class Pool:
    """The objects of one device, those of others, and handles of the system."""

    def __init__(self, furniture: Furniture) -> None:
        self.furniture = furniture
        self.alive: dict[str, dict[int, Thing]] = {}
        self.dead: dict[str, deque[Any]] = {}
        self.foreign: dict[str, list[Any]] = {}  # of other devices
        self.exports: list[Export] = []

    # -- objects ------------------------------------------------------------------------------

    def add(self, handle: Any, facts: Facts | None = None) -> Thing:
        """Something was made. What is known already stays."""
        kind = type(handle).__name__
        known = self.alive.setdefault(kind, {})
        thing = known.get(int(handle))
        if thing is None:
            thing = known[int(handle)] = Thing(kind, handle, facts or {})
        return thing

    def remove(self, kind: str, value: Any) -> Thing | None:
        """Something was destroyed."""
        thing = self.alive.get(kind, {}).pop(int(value or 0), None)
        if thing is not None:
            thing.unpin()
            self.dead.setdefault(kind, deque(maxlen=8)).append(thing.handle)
        return thing

    def find(self, kind: str, value: Any) -> Thing | None:
        """The living object of a handle."""
        return self.alive.get(kind, {}).get(int(value or 0))

    def all(self, kind: str) -> list[Thing]:
        """All that are alive."""
        return list(self.alive.get(kind, {}).values())

    def those(self, kind: str, fits: Callable[[Thing], bool]) -> list[Thing]:
        """All that are alive and fit."""
        return [each for each in self.alive.get(kind, {}).values() if fits(each)]

    def count(self, kind: str) -> int:
        """How many are alive."""
        return len(self.alive.get(kind, ()))

    def any(self, dice: Dice, kind: str | None) -> Any:
        """The handle of one that is alive; None where there is none."""
        found = self.alive.get(kind or "")
        return dice.one(list(found.values())).handle if found else None

    def wrong(self, dice: Dice, kind: str, cls: Any, first: bool = False) -> Any:
        """Something that is no living handle of this kind and this device.

        first: whose command is called; another device's would be right there
        """
        roll = dice.random()
        if roll < 0.3 and self.dead.get(kind):
            handle = dice.one(self.dead[kind])
            if int(handle) not in self.alive.get(kind, ()):
                return handle
        elif roll < 0.5 and self.foreign.get(kind) and not first:
            return dice.one(self.foreign[kind])
        elif roll < 0.7:
            other = dice.any(list(self.alive))
            handle = self.any(dice, other) if other not in (None, kind) else None
            if handle is not None:
                return handle
        elif roll < 0.85:
            number = dice.one((1, 7, 0x1000_0001, (1 << 64) - 1, dice.bits(48)))
            if number not in self.alive.get(kind, ()):
                return cls(number) if dice.odds(0.5) else number
        return None

    # -- handles of the system ------------------------------------------------------------------

    def take(self, export: Export) -> None:
        """A handle was fetched; the oldest goes where there are many."""
        self.exports.append(export)
        if len(self.exports) > 24:
            self.close(self.exports[0])

    def fitting(self, kind: str, object: str) -> list[Export]:
        """Handles of a kind that came from such an object."""
        return [each for each in self.exports if each.kind == kind and each.object == object]

    def close(self, export: Export) -> None:
        """Close a handle, and remember its number."""
        self.exports.remove(export)
        if export.kind == "fd":
            os.close(export.value)
        elif export.kind == "nt":
            kernel().close(export.value)
        if export.kind != "fd":
            self.furniture.closed.append(export.value)

    def consumed(self, fd: int) -> None:
        """A successful import closed a descriptor."""
        if not self.furniture.consumed(fd):
            self.exports = [x for x in self.exports if x.kind != "fd" or x.value != fd]

    def clear(self) -> None:
        """Close all handles of the system; the objects are destroyed by calls."""
        for export in list(self.exports):
            self.close(export)
        self.furniture.closed.clear()
        self.alive.clear()
        self.dead.clear()
        self.foreign.clear()
