"""Writes `_validity.py`: what the registry says of each member and parameter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from registry.constants import enum_members
from registry.scope import HEADER, Scope


def validity_kind(scope: Scope, thing: Any) -> tuple[str, str]:
    """What the registry lets one derive about a member or parameter: a kind, and its type."""
    name = thing.type
    stars = thing.fullType.count("*")
    if name in scope.vk.handles:
        return ("handles" if stars else "handle"), name
    if name == "char":
        return ("strings" if stars == 2 else "string" if stars else "text"), ""
    if name == "VkBool32" and not stars:
        return "bool", ""
    if name in scope.vk.flags:
        bits = scope.vk.flags[name].bitmaskName
        if bits is None or not scope.vk.bitmasks[bits].flags:
            return "reserved", ""
        return ("flags*" if stars else "flags"), bits
    if name in scope.vk.bitmasks:
        return ("bits*" if stars else "bit"), name
    if name in scope.vk.enums:
        return ("enums" if stars else "enum"), name
    if name in scope.structs:
        return ("structs" if stars else "struct"), name
    return ("pointer" if stars else "value"), name


def entry(scope: Scope, thing: Any, counters: dict[str, Any]) -> str:
    kind, name = validity_kind(scope, thing)
    length = thing.length if thing.length in counters else None
    counted = any(
        other.length == thing.name and not other.optional and not other.noAutoValidity
        for other in counters.values()
    )
    output = "*" in thing.fullType and not thing.const
    flags = "".join(
        letter
        for letter, on in (
            ("o", thing.optional),
            ("p", thing.optionalPointer),
            ("n", thing.noAutoValidity),
            ("c", counted and not thing.optional),
            ("w", output),
        )
        if on
    )
    return (
        f'("{thing.name}", "{kind}", "{name}", {json.dumps(length) if length else None}, "{flags}")'
    )


def validity(scope: Scope) -> Iterator[str]:
    yield HEADER.format(
        title="What the registry says of each member and parameter, for the derived rules.",
        version=scope.version,
    )
    yield "from __future__ import annotations\n\n"
    yield "# name, kind, type, length member, and letters: o optional, p what it points to is\n"
    yield "# optional, n no automatic validity, c counts a required array, w written by the call\n"
    yield "Entry = tuple[str, str, str, str | None, str]\n\n"
    yield "# structure: (structures that may follow in its chain, those allowed twice, members)\n"
    yield "STRUCTURES: dict[str, tuple[tuple[str, ...], tuple[Entry, ...]]] = {\n"
    for name in sorted(scope.structs):
        struct = scope.structs[name]
        if struct.union:
            continue
        followers = tuple(sorted(other for other in struct.extendedBy if other in scope.structs))
        counters = {member.name: member for member in struct.members}
        yield f'    "{name}": (\n        {followers!r},\n        (\n'
        for member in struct.members:
            if member.name not in ("sType", "pNext"):
                yield f"            {entry(scope, member, counters)},\n"
        yield "        ),\n    ),\n"
    yield "}\n\nREPEATABLE: frozenset[str] = frozenset("
    yield f"{sorted(n for n, s in scope.structs.items() if s.allowDuplicate)!r})\n\n"
    yield "RETURNED_ONLY: frozenset[str] = frozenset("
    yield f"{sorted(n for n, s in scope.structs.items() if s.returnedOnly)!r})\n\n"
    yield "COMMANDS: dict[str, tuple[Entry, ...]] = {\n"
    for command in scope.commands:
        counters = {param.name: param for param in command.params}
        yield f'    "{command.name}": (\n'
        for param in command.params:
            if param.type != "VkAllocationCallbacks":
                yield f"        {entry(scope, param, counters)},\n"
        yield "    ),\n"
    yield "}\n\n# handle: the handle that it was made from\n"
    yield "PARENTS: dict[str, str | None] = {\n"
    for name, handle in sorted(scope.handles.items()):
        yield f'    "{name}": {json.dumps(handle.parent.name) if handle.parent else None},\n'
    yield "}\n\n# values of extensions out of scope: no constants here, but not wrong either\n"
    yield "MORE_VALUES: dict[str, tuple[int, ...]] = {\n"
    for name, enum in scope.enums.items():
        shown = {value for _, value in enum_members(enum.fields, None)}
        more = tuple(sorted({int(field.value) for field in enum.fields} - shown))
        if more and name not in ("VkStructureType", "VkObjectType"):
            yield f'    "{name}": {more!r},\n'
    yield "}\n\nMORE_BITS: dict[str, int] = {\n"
    for name, bitmask in scope.bitmasks.items():
        shown = {value for _, value in enum_members(bitmask.flags, None)}
        more = 0
        for flag in bitmask.flags:
            more |= int(flag.value) if int(flag.value) not in shown else 0
        if more:
            yield f'    "{name}": {more:#x},\n'
    yield "}\n\n# what provides each structure\n"
    yield "PROVIDED_BY: dict[str, tuple[str, ...]] = {\n"
    for name in sorted(scope.structs):
        yield f'    "{name}": {scope.providers(scope.structs[name])!r},\n'
    yield "}\n\n# extension: (instance or device, the core version that took it in, its needs)\n"
    yield "EXTENSIONS: dict[str, tuple[str, str | None, str | None]] = {\n"
    for extension in scope.extensions:
        level = "instance" if extension.instance else "device"
        promoted = extension.promotedTo
        yield f'    "{extension.name}": ("{level}", {promoted!r}, {extension.depends!r}),\n'
    yield "}\n"
