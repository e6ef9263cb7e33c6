"""What can be called, and with what: read once from the prototypes and the structures."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from extmem import vk
from extmem.rules import engine
from extmem.rules.implicit import enumeration_values, known_bits
from extmem.vk import _constants, _prototypes, _structures, _validity
from extmem.vk._base import LPCWSTR, SECURITY_ATTRIBUTES
from extmem.vk._prototype import Prototype

__all__ = ["COMMANDS", "HANDLES", "OPEN", "STRUCTURES", "Command", "Input", "Member", "Shape"]

# What a rule names and nothing checks to the end: a driver in C is not given all values there.
OPEN = {
    ("vkFreeCommandBuffers", "pCommandBuffers"): "whether they are alive is not looked at",
    ("vkFreeMemory", "memory"): "it is refused only on proof that a queue still uses it",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure, or what a parameter is.

    `kind`: number, bool, enum, bit, flags, reserved, handle, handles, struct, structs, numbers,
    string, strings, name, fd, oshandle, security, address, or skip where nothing is to be set.
    """

    owner: str  # the structure or the command
    name: str
    kind: str
    type: str = ""  # of an enumeration, a handle or a structure
    python: Any = None  # the class of a structure
    low: int = 0  # of numbers
    high: int = 0
    required: bool = False  # 0 and None are refused
    checked: bool = False  # the registry's rules look at it
    ruled: bool = False  # a rule of the specification names it, and is checked
    values: tuple[int, ...] = ()  # of an enumeration: what the package names
    bits: tuple[int, ...] = ()  # of flags, the same
    known: int = 0  # of flags: all bits that are known
    counts: bool = False  # how many elements an array has


@dataclass(frozen=True, slots=True)
class Shape:
    """A structure."""

    name: str
    cls: Any
    members: tuple[Member, ...]
    followers: tuple[str, ...]  # that may be behind it
    chained: bool  # it has an sType
    returned: bool  # it is only filled


@dataclass(frozen=True, slots=True)
class Input:
    """A parameter that is given: how it travels (see `Param.kind`), and what it is."""

    name: str
    how: str
    member: Member
    python: Any  # of structures and handles: their class
    length: str | None  # the parameter that counts it


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it takes, and what it takes to fill."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    filled: Any  # the class of the structure that may be given to be filled
    prototype: Prototype = field(repr=False)


_RULED = {tuple(each.vuid.split("-")[1:3]) for each in engine.rules()} - set(OPEN)
_ARRAYS = {"enums", "flags*", "bits*"}


def _range(ctype: Any) -> tuple[int, int]:
    size = 8 * ctypes.sizeof(ctype)
    if ctype in (ctypes.c_int32, ctypes.c_int64):
        return -(1 << size - 1), (1 << size - 1) - 1
    return 0, (1 << size) - 1


def _enumeration(name: str) -> dict[str, Any]:
    members = getattr(_constants, name, None)
    if members is None:
        return {}
    values = tuple(sorted({int(each) for each in members.__members__.values()}))
    bits = tuple(each for each in values if each > 0 and not each & (each - 1))
    return {"values": values, "bits": bits}


def _member(owner: str, entry: _validity.Entry, ctype: Any) -> Member:
    """A member, from what the registry says of it and what it is in C."""
    name, kind, type_name, _length, letters = entry
    found: dict[str, Any] = {
        "owner": owner,
        "name": name,
        "type": type_name,
        "required": "o" not in letters and "n" not in letters,
        "checked": "n" not in letters and "w" not in letters,
        "ruled": (owner, name) in _RULED,
    }
    if kind in ("enum", "bit", "flags"):
        found |= _enumeration(type_name)
        if kind == "enum" and type_name != "VkStructureType":
            found["known"] = len(enumeration_values(type_name))
        elif kind != "enum":
            found["known"] = known_bits(type_name)
    if kind in ("struct", "structs"):
        found["python"] = getattr(_structures, type_name, None)
    if isinstance(ctype, type) and issubclass(ctype, (ctypes.Array, ctypes.Union)):
        kind = "skip"
    elif ctype is LPCWSTR:
        kind = "name"
    elif type_name == "HANDLE":
        kind = "oshandle"
    elif name == "fd":
        kind = "fd"
    elif kind in ("pointer", "text") or kind in _ARRAYS:
        element = getattr(ctype, "_type_", None)
        if ctype is ctypes.c_void_p:
            kind = "address"
        elif element is SECURITY_ATTRIBUTES:
            kind = "security"
        elif isinstance(element, type) and kind != "text":
            kind = "numbers"
            found["low"], found["high"] = _range(element)
        else:
            kind = "skip"
    elif kind in ("struct", "structs") and found["python"] not in _SHAPED:
        kind = "skip"  # unions
    elif kind == "value":
        kind = "number"
    if kind in ("number", "enum", "bit", "flags", "reserved", "bool", "fd", "oshandle"):
        found["low"], found["high"] = _range(ctype)
    return Member(kind=kind, **found)


_SHAPED = {getattr(_structures, name) for name in _validity.STRUCTURES}


def _shape(name: str) -> Shape:
    cls: Any = getattr(_structures, name)
    followers, entries = _validity.STRUCTURES[name]
    types = {each[0]: each[1] for each in cls._fields_}
    counters = set(cls._counts_.values())
    members = tuple(
        replace(_member(name, entry, types[entry[0]]), counts=entry[0] in counters)
        for entry in entries
    )
    chained = cls._stype_ is not None
    return Shape(name, cls, members, followers, chained, name in _validity.RETURNED_ONLY)


def _command(prototype: Prototype) -> Command:
    entries = {each[0]: each for each in _validity.COMMANDS[prototype.name]}
    function = getattr(vk, prototype.name)
    inputs = []
    for param in prototype.params:
        if param.kind == "allocator" or param.kind.startswith("out"):
            continue
        entry = entries.get(param.name, (param.name, "value", "", None, "n"))
        ctype = param.ctype
        if param.kind in ("struct", "values"):
            ctype = getattr(ctype, "_type_", ctype)
        member = _member(prototype.name, entry, ctype)
        inputs.append(Input(param.name, param.kind, member, param.python, param.length))
    taken = list(inspect.signature(function).parameters)
    fills = [each for each in prototype.outputs if each.name in taken]
    filled = fills[0].python if fills else None
    return Command(prototype.name, function, tuple(inputs), filled, prototype)


STRUCTURES = {name: _shape(name) for name in _validity.STRUCTURES}
COMMANDS = {
    name: _command(each) for name, each in vars(_prototypes).items() if isinstance(each, Prototype)
}
HANDLES: dict[str, Any] = {
    name: cls
    for name, cls in vars(_structures).items()
    if isinstance(cls, type) and issubclass(cls, vk.VkHandle) and cls is not vk.VkHandle
}
