"""What every maker of calls has at hand: chance, the device, what is alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.calls.dice import Dice
from tests.fuzz.calls.furniture import Furniture
from tests.fuzz.calls.gpu import Gpu
from tests.fuzz.calls.pool import Pool, Thing

__all__ = ["Batch", "Call", "Hand"]


@dataclass(slots=True)
class Call:
    """A call that is to be made."""

    name: str
    arguments: list[Any]
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Batch:
    """What one call submitted to a queue: all that it needs is pinned to `needs`."""

    queue: int
    needs: Thing
    commands: list[Thing]
    fence: Thing | None


class Hand:
    """One device, and what is done with it."""

    def __init__(self, dice: Dice, gpu: Gpu, furniture: Furniture, driver: str) -> None:
        self.dice = dice
        self.gpu = gpu
        self.furniture = furniture
        self.driver = driver
        self.embedded = driver == "embedded"
        # Whether what no rule forbids may be done all the same: to the embedded device, which has
        # an answer to everything. A driver in C has none.
        self.careless = False
        self.pool = Pool(furniture)
        self.batches: list[Batch] = []  # that are not known to have ended
        # Timelines that a queue waits for, with the value that the host has yet to signal.
        self.owed: dict[Thing, int] = {}
        self.blocked = False  # a queue may wait for what nobody will signal
        self.lost = False  # the device is

    def handle(self, kind: str) -> Any:
        """A living handle of a kind; None where there is none."""
        gpu = self.gpu
        if kind == "VkDevice":
            return gpu.device
        if kind == "VkQueue":
            return self.dice.one(gpu.queues)
        if kind == "VkPhysicalDevice":
            return gpu.physical
        if kind == "VkInstance":
            return gpu.instance
        return self.pool.any(self.dice, kind)

    def free(self, thing: Thing) -> bool:
        """Whether it may be destroyed or changed: nothing needs it as it is."""
        return thing.pins == 0 or self.careless

    @property
    def idle(self) -> bool:
        """Whether all that is submitted will end by itself."""
        return not self.owed and not self.blocked
