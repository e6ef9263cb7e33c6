"""Right calls with something wrong in them.

On the embedded device anything may be. A driver in C is given only what a rule or the types must
refuse, and values that a checked rule names: what no rule in scope forbids is the caller's own
business there, and ends where the driver likes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.tables import COMMANDS, HANDLES, STRUCTURES, Command, Input, Member
from tests.fuzz.calls.wild import JUNK, Wild, put

__all__ = ["Damage"]

_NEVER = 3  # the number of no handle


def _behind(item: Any) -> Any:
    """What follows in a chain, as what it was made: one that goes by its sType, which may have been
    spoilt, is not written into.
    """
    return getattr(item, "_next", None)


class Items:
    """A sequence to Python, and nothing more: no list, and without a length."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


class Damage:
    """Spoils arguments, in place where it can."""

    def __init__(self, hand: Hand, wild: Wild) -> None:
        self.hand = hand
        self.dice = hand.dice
        self.wild = wild

    def spoil(self, call: Call) -> None:
        """Change one thing, or a few."""
        command = COMMANDS[call.name]
        inputs = command.inputs
        if not inputs:
            return
        while True:
            index = self.dice.below(len(inputs))
            if index == 0 and len(inputs) > 1 and self.dice.odds(0.7):
                index = len(inputs) - 1
            if index < len(call.arguments):
                call.arguments[index] = self._argument(command, index, call.arguments[index])
            if self.dice.odds(0.7):
                return

    # -- arguments ------------------------------------------------------------------------------

    def _argument(self, command: Command, index: int, value: Any) -> Any:
        dice, each = self.dice, command.inputs[index]
        if dice.odds(0.06):
            return self._junk(each)
        if each.how == "struct":
            return self._structure(each, value)
        if each.how == "values":
            return self._values(each, value)
        if each.how == "data":
            return self._data(each, value)
        if each.how == "handle":
            return self._handle(each, value, first=index == 0)
        return self._value(each.member, value)

    def _junk(self, each: Input) -> Any:
        """Something of another type."""
        while True:
            value = self.dice.one(JUNK)
            if each.how == "data" and isinstance(value, int):
                continue  # an address
            taken = isinstance(value, (int, bytes, bytearray, memoryview, tuple, range, list, dict))
            if taken and each.how != "struct" and not self._refused(each.member):
                continue  # numbers are handles, and nobody looks at these
            return value

    def _refused(self, member: Member) -> bool:
        """Whether what is no handle is refused, or does no harm."""
        handles = member.kind in ("handle", "handles")
        return self.hand.careless or member.ruled or (handles and member.checked)

    def _handle(self, each: Input, value: Any, first: bool) -> Any:
        kind = each.member.type
        if each.name in ("instance", "device") and type(value) is not HANDLES[kind]:
            return value
        if not first and self._free(each.member) and self.dice.odds(0.3):
            return self.wild.handle(kind)
        return self._wrong(each.member, value, first)

    def _wrong(self, member: Member, value: Any, first: bool = False) -> Any:
        """What must be refused in the place of a handle."""
        found = self.hand.pool.wrong(self.dice, member.type, HANDLES[member.type], first)
        if found is None and not member.required and not self._free(member):
            return _NEVER if member.checked else value
        if not member.checked and not self._free(member):
            return value
        return found

    def _free(self, member: Member) -> bool:
        """Whether a value may be anything: nothing in C gets to see it unchecked."""
        return self.hand.careless or member.ruled

    def _value(self, member: Member, value: Any) -> Any:
        """A number, a name or an enumerator."""
        if self._free(member):
            return self.wild.value(member)
        dice = self.dice
        if member.kind == "enum" and member.known and member.checked:
            return 0x7FFF_0000 + dice.below(1000)  # nobody's
        if member.kind in ("bit", "flags") and member.checked:
            unknown = ~member.known & member.high
            return member.high if unknown else value
        if member.kind == "reserved":
            return dice.number(1, member.high)
        if member.kind in ("fd", "oshandle", "name", "security"):
            return self.wild.value(member)
        if member.name == "timeout":
            return self.wild.number(member)
        return value

    def _data(self, each: Input, value: Any) -> Any:
        if each.name != "pData":
            return self.wild.address(each.member)
        short = bytes(value)[:-1] if isinstance(value, (bytes, bytearray, memoryview)) else b"123"
        return self.dice.one((None, b"", short, bytearray(short), "text", 1.5))

    # -- structures -----------------------------------------------------------------------------

    def _structure(self, each: Input, value: Any) -> Any:
        dice = self.dice
        if each.member.kind == "skip" or not isinstance(value, vk.Structure):
            return None if dice.odds(0.5) and self.hand.careless else value
        if dice.odds(0.06):
            wrong = STRUCTURES[dice.one(tuple(STRUCTURES))].cls
            return None if wrong is each.python or dice.odds(0.5) else wrong()
        self._within(value, type(value).__name__)
        return value

    def _within(self, value: Any, name: str, depth: int = 0) -> None:
        """Spoil one member of a structure, or its chain."""
        dice, shape = self.dice, STRUCTURES.get(name)
        if shape is None:
            return
        if shape.chained and depth < 3:
            roll = dice.random()
            if roll < 0.05:
                value.sType = dice.one((0, 1, 48, 0x7FFF_FFFF, value.sType ^ 1))
                return
            if roll < 0.3:
                self._chain(value, name, depth)
                return
        if not shape.members:
            return
        member = dice.one(shape.members)
        if member.kind == "struct":
            self._within(getattr(value, member.name), member.type, depth + 1)
        elif member.kind in ("structs", "handles", "numbers", "strings"):
            self._array(value, member, depth)
        elif member.kind == "handle":
            before = getattr(value, member.name)
            if self._free(member) and dice.odds(0.3):
                put(value, member.name, self.wild.handle(member.type))
            else:
                put(value, member.name, self._wrong(member, before))
        elif member.kind != "skip" and not (member.counts and depth):
            if dice.odds(0.04) and member.kind != "address":
                junk = JUNK[:9] if self._free(member) else ([], {}, object())
                put(value, member.name, dice.one(junk))
            else:
                before = getattr(value, member.name)
                put(value, member.name, self._value(member, before))

    def _chain(self, head: Any, name: str, depth: int) -> None:
        """Something in the chain: spoilt, taken out, put in, twice, or in a circle."""
        dice = self.dice
        following = _behind(head)
        roll = dice.random()
        if following is not None and roll < 0.5:
            self._within(following, type(following).__name__, depth + 1)
        elif following is not None and roll < 0.6:
            after = _behind(following)
            put(head, "pNext", after if self.hand.careless or dice.odds(0.5) else head)
        elif roll < 0.65:
            last = head
            for _ in range(dice.below(6)):
                last = _behind(last) or last
            put(last, "pNext", head if dice.odds(0.5) else last)
        elif self.hand.careless:
            self.wild.chain(head, name, depth)
            if dice.odds(0.5) and following is not None:
                vk.link(head, following) if _behind(following) is None else None
        else:
            self._insert(head, name)

    def _insert(self, head: Any, name: str) -> None:
        """What C may see: what cannot follow, or what may, with nothing in it but what is ruled."""
        dice, followers = self.dice, STRUCTURES[name].followers
        if not followers or dice.odds(0.3):
            made = STRUCTURES[dice.one(("VkApplicationInfo", "VkMemoryAllocateInfo"))].cls()
        else:
            made = self._modest(dice.one(followers))
        put(made, "pNext", _behind(head))
        put(head, "pNext", made)

    def _modest(self, name: str) -> Any:
        made = STRUCTURES[name].cls()
        for member in STRUCTURES[name].members:
            if member.ruled and member.kind not in ("struct", "structs", "skip", "address"):
                self.wild.member(made, member)
        return made

    # -- arrays ---------------------------------------------------------------------------------

    def _array(self, owner: Any, member: Member, depth: int) -> None:
        """An array behind a pointer: missing, shorter, longer, or with a spoilt element."""
        dice = self.dice
        counter = type(owner)._counts_.get(member.name)
        count = getattr(owner, counter) if counter else 1
        # The count may have been spoilt already.
        count = min(count, getattr(owner, "_given", {}).get(member.name, count))
        roll = dice.random()
        if member.kind == "structs" and getattr(owner, member.name) and count and roll < 0.6:
            element = getattr(owner, member.name)[dice.below(count)]
            self._within(element, member.type, depth + 1)
        elif counter and roll < 0.7:
            # More than there are is refused by the types; fewer is another call, as right.
            more = () if depth else (count + 1, (1 << 32) - 1)
            put(owner, counter, dice.one((0, max(count, 1) - 1, *more)))
        elif roll < 0.75:
            if member.required or self.hand.careless:
                put(owner, member.name, None)
        elif roll < 0.8:
            put(owner, member.name, dice.one(("text", 3, [object()], [None], {})))
        elif self._free(member) or self.hand.careless:
            put(owner, member.name, self.wild.pointed(member, depth))
        elif member.kind == "handles" and member.checked:
            before = list(getattr(owner, member.name)[:count]) if count else []
            put(owner, member.name, [*before, _NEVER])

    def _values(self, each: Input, value: Any) -> Any:
        """The elements of a parameter that is an array."""
        dice, member = self.dice, each.member
        items = list(value) if isinstance(value, (list, tuple)) else []
        if not items:
            return dice.one((None, [], ())) if self.hand.careless else value
        roll = dice.random()
        index = dice.below(len(items))
        if roll < 0.5:
            item = items[index]
            if isinstance(item, vk.Structure):
                self._within(item, type(item).__name__)
            elif member.kind == "handles":
                free = self._free(member) and dice.odds(0.3)
                items[index] = self.wild.handle(member.type) if free else self._wrong(member, item)
            return items
        if roll < 0.6:
            # Fewer than are counted; of none, only a rule says that they are needed.
            return items[:index] if index or member.required or self.hand.careless else items
        if roll < 0.7:
            return None if member.required or self.hand.careless else items
        if roll < 0.8:
            return [*items[:index], dice.one((None, 1.5, "text", object())), *items[index + 1 :]]
        if roll < 0.9:
            return dice.one((tuple(items), Items(items), items[0]))
        if isinstance(items[0], vk.Structure):
            # What was spoilt before may have put something else among them, which no array takes.
            same = all(type(item) is type(items[0]) for item in items)
            return (type(items[0]) * len(items))(*items) if same else items
        numbers = [int(item) if isinstance(item, int) else 0 for item in items]
        return (ctypes.c_uint64 * len(items))(*(each & (1 << 64) - 1 for each in numbers))

    # -- what is certainly wrong ----------------------------------------------------------------

    def poison(self, call: Call) -> bool:
        """Put in something that a rule refuses whatever the rest is. False: there is no place."""
        places = []
        inputs = COMMANDS[call.name].inputs
        for index, each in enumerate(inputs):
            value = call.arguments[index]
            if (
                (index and each.how == "handle" and each.member.checked)
                or (
                    each.how == "struct"
                    and isinstance(value, vk.Structure)
                    and value._stype_ is not None
                )
                or (each.how == "values" and each.member.kind == "handles" and each.member.required)
            ):
                places.append(index)
        index_or_none = self.dice.any(places)
        if index_or_none is None:
            return False
        each, value = inputs[index_or_none], call.arguments[index_or_none]
        if each.how == "handle":
            call.arguments[index_or_none] = _NEVER
        elif each.how == "values":
            call.arguments[index_or_none] = [*(value or ()), _NEVER]
            names = [one.name for one in inputs]
            if each.length in names:
                call.arguments[names.index(each.length)] = len(value or ()) + 1
        else:
            wrong = vk.VkApplicationInfo()
            wrong.pNext = _behind(value)
            value.pNext = wrong
        return True
