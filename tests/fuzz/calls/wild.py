"""Arguments of all kinds, made from the types of parameters and members alone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.tables import COMMANDS, HANDLES, STRUCTURES, Command, Input, Member

__all__ = ["JUNK", "SIZES", "TIMEOUTS", "Wild", "put"]

# Of the wrong Python type, or out of all ranges.
JUNK: tuple[Any, ...] = (
    *("text", b"bytes", 1.5, float("nan"), [], {}, None, True, -1, 1 << 64, 1 << 70, (1, 2)),
    *(range(3), object(), bytearray(4), memoryview(b"1234"), int, vk.VkBuffer(7)),
)
# Nothing between what is small and what no machine has: it might be given.
SIZES = (0, 1, 64, 4096, 4097, 1 << 16, 1 << 17, 1 << 45, 1 << 63, (1 << 64) - 1)
TIMEOUTS = (0, 0, 1, 1_000, 100_000)  # nanoseconds, and of keyed mutexes milliseconds
_SMALL = {
    "commandBufferCount",  # of VkCommandBufferAllocateInfo: so many are made
    "privateDataSlotRequestCount",
}
_DEPTH = 3

_CHAINED = tuple(name for name, shape in STRUCTURES.items() if shape.chained)


def put(owner: Any, name: str, value: Any) -> None:
    """Set a member, where its type takes the value."""
    with suppress(TypeError, ValueError, OverflowError):
        setattr(owner, name, value)


class Wild:
    """Makes them, with what a `Hand` has."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.dice = hand.dice

    # -- single values --------------------------------------------------------------------------

    def handle(self, kind: str) -> Any:
        """A handle: mostly one that is alive and of the right kind."""
        if self.dice.odds(0.8):
            found = self.hand.handle(kind)
            if found is not None:
                return found
        return self.hand.pool.wrong(self.dice, kind, HANDLES[kind])

    def number(self, member: Member) -> int:
        """A number for a member or a parameter."""
        dice = self.dice
        name = member.name
        if name in ("timeout", "pAcquireTimeouts", "pAcquireTimeoutMilliseconds"):
            return dice.one(TIMEOUTS)
        if name == "allocationSize":
            return dice.one(SIZES)
        if name in _SMALL:
            return dice.below(6)
        if name == "memoryTypeIndex" and dice.odds(0.7):
            return dice.below(len(self.hand.gpu.types))
        if member.low == member.high:  # a float
            return dice.below(3)
        return dice.number(member.low, member.high)

    def value(self, member: Member) -> Any:
        """A value for a member or a parameter that is no structure."""
        dice, kind, furniture = self.dice, member.kind, self.hand.furniture
        if kind == "number":
            return self.number(member)
        if kind == "enum":
            if member.values and dice.odds(0.85):
                return dice.one(member.values)
            return dice.number(member.low, member.high)
        if kind in ("bit", "flags"):
            return self.flags(member)
        if kind == "handle":
            return self.handle(member.type)
        if kind == "bool":
            return dice.one((0, 1, 1, 2, member.high))
        if kind == "reserved":
            return 0 if dice.odds(0.7) else dice.number(member.low, member.high)
        if kind == "fd":
            exports = [each for each in self.hand.pool.exports if each.kind == "fd"]
            return dice.one(exports).value if exports and dice.odds(0.6) else furniture.fd(dice)
        if kind == "oshandle":
            exports = [each for each in self.hand.pool.exports if each.kind != "fd"]
            return dice.one(exports).value if exports and dice.odds(0.6) else furniture.handle(dice)
        if kind == "name":
            return furniture.name(dice)
        if kind == "security":
            return furniture.security(dice)
        if kind == "address":
            return self.address(member)
        if kind == "string":
            return dice.one((None, "fuzz", "", "vkAllocateMemory", "ä" * 300, "a\0b", "\ud800"))
        return None

    def flags(self, member: Member) -> int:
        """One bit, some, none, or some that nobody knows."""
        dice = self.dice
        roll = dice.random()
        if not member.bits or roll < 0.05:
            return dice.number(member.low, member.high)
        if roll < 0.1:
            return 0
        found = dice.one(member.bits)
        while dice.odds(0.3) and member.kind == "flags":
            found |= dice.one(member.bits)
        return found & member.high

    def address(self, member: Member) -> int | None:
        """An address. Where nobody can check it, it is one that may be used."""
        if member.owner in (
            "VkImportMemoryHostPointerInfoEXT",
            "vkGetMemoryHostPointerPropertiesEXT",
        ):
            return self.hand.furniture.address(self.dice)
        return self.hand.furniture.good

    # -- structures -----------------------------------------------------------------------------

    def structure(self, name: str, depth: int = 0, chained: bool = True) -> Any:
        """A structure with values in most of its members, and sometimes a chain."""
        shape = STRUCTURES[name]
        made = shape.cls()
        self.fill(made, name, depth)
        if shape.chained and chained and depth < _DEPTH and self.dice.odds(0.35):
            self.chain(made, name, depth + 1)
        return made

    def fill(self, made: Any, name: str, depth: int = 0) -> None:
        """Set most of its members."""
        dice = self.dice
        odds = 0.8 if len(STRUCTURES[name].members) < 20 else 0.05
        for member in STRUCTURES[name].members:
            if dice.random() < odds:
                self.member(made, member, depth)

    def member(self, made: Any, member: Member, depth: int = 0) -> None:
        """Set one of its members."""
        kind = member.kind
        if kind == "struct":
            self.fill(getattr(made, member.name), member.type, depth + 1)
            return
        if kind == "skip":
            return
        put(made, member.name, self.pointed(member, depth))

    def pointed(self, member: Member, depth: int) -> Any:
        """What a member is set to, arrays included."""
        dice, kind = self.dice, member.kind
        if kind == "structs":
            if depth >= _DEPTH or dice.odds(0.1):
                return None
            return [self.structure(member.type, depth + 1) for _ in range(dice.below(3))]
        if kind == "handles":
            return [self.handle(member.type) or 0 for _ in range(dice.below(4))]
        if kind == "numbers":
            return [self.number(member) for _ in range(dice.below(4))] if dice.odds(0.9) else None
        if kind == "strings":
            known = (*self.hand.gpu.offered[:40], "VK_KHR_nothing", "", "ä")
            return [dice.one(known) for _ in range(dice.below(3))]
        return self.value(member)

    def chain(self, head: Any, name: str, depth: int = 0) -> None:
        """Put something behind a structure: what may be there, what may not, twice, in a circle."""
        dice = self.dice
        shape = STRUCTURES.get(name)
        followers = shape.followers if shape is not None else ()
        last = head
        while True:
            wanted = followers if followers and dice.odds(0.85) else _CHAINED
            made = self.structure(dice.one(wanted), depth + 1, chained=False)
            put(last, "pNext", made)
            last = made
            roll = dice.random()
            if roll < 0.03:
                put(last, "pNext", head)
                return
            if roll < 0.05:
                last.sType = dice.number(0, (1 << 31) - 1)
            if roll < 0.7:
                return

    # -- calls ----------------------------------------------------------------------------------

    def argument(self, each: Input) -> Any:
        """An argument for one parameter."""
        dice, member = self.dice, each.member
        if each.how == "struct":
            if member.kind == "skip":  # the one union
                return each.python() if dice.odds(0.9) else None
            return None if dice.odds(0.04) else self.structure(each.python.__name__)
        if each.how == "values":
            if member.kind == "structs":
                return [self.structure(member.type, 1) for _ in range(dice.below(3))]
            return [self.handle(member.type) for _ in range(dice.below(3))]
        if each.how == "data":
            if each.name == "pData":
                return dice.one((b"", b"1234", b"x" * 64, bytearray(8), memoryview(b"12345678")))
            return self.value(member)
        return self.value(member)

    def call(self, name: str) -> Call:
        """A call of a command."""
        command = COMMANDS[name]
        arguments = [self.argument(each) for each in command.inputs]
        self.count(command, arguments)
        if command.inputs and command.inputs[0].how == "handle":
            arguments[0] = self.first(name, command.inputs[0].member.type)
        if command.filled is not None and self.dice.odds(0.3):
            arguments.append(self.output(command))
        nobodys = command.prototype.level == "global"  # neither an instance's nor a device's
        return Call(name, arguments, {"driver": self.hand.driver} if nobodys else {})

    def first(self, name: str, kind: str) -> Any:
        """What a command is called of: mostly what is right."""
        pool, dice = self.hand.pool, self.dice
        if name.endswith("WaitIdle"):  # which may be for ever
            return pool.wrong(dice, kind, HANDLES[kind], first=True)
        if name in ("vkDestroyInstance", "vkDestroyDevice"):
            found = pool.any(dice, kind)  # one to throw away, and never our own
        else:
            found = self.hand.handle(kind)
        if found is None or dice.odds(0.03):
            return pool.wrong(dice, kind, HANDLES[kind], first=True)
        return found

    def output(self, command: Command) -> Any:
        """A structure to be filled, with a chain that the caller made."""
        made = command.filled()
        if STRUCTURES[command.filled.__name__].chained and self.dice.odds(0.8):
            self.chain(made, command.filled.__name__, _DEPTH - 1)
        return made

    def count(self, command: Command, arguments: list[Any]) -> None:
        """Make counts fit to their arrays, mostly."""
        names = [each.name for each in command.inputs]
        for each, value in zip(command.inputs, arguments, strict=True):
            if each.how == "values" and each.length in names and isinstance(value, list):
                if self.dice.odds(0.9):
                    arguments[names.index(each.length)] = len(value)
            elif each.how == "data" and each.name == "pData" and self.dice.odds(0.8):
                arguments[names.index("dataSize")] = len(value) & ~3
