"""Writes `_structures.py`: handles, structures, unions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from registry.scope import HEADER, Scope


def annotation(scope: Scope, member: Any) -> str:
    kind = scope.ctype(member)
    if member.name == "pNext":
        return "Any"
    if kind in ("c_char_p", "LPCWSTR"):
        return "str | None"
    if kind.startswith("c_char *"):
        return "str"
    if kind in ("c_float", "c_double"):
        return "float"
    if kind in ("c_void_p", "HANDLE"):
        return "Any"
    if "POINTER" in kind or "*" in kind:
        return "Any"
    return member.type if member.type in scope.structs else "int"


# struct's letters for members that are plain numbers
PACKED = {
    "c_int32": "i",
    "c_int64": "q",
    "c_uint8": "B",
    "c_uint16": "H",
    "c_uint32": "I",
    "c_uint64": "Q",
    "c_size_t": "N",
    "c_float": "f",
    "DWORD": "I",
}
LONGEST_QUICK_INIT = 14


def quick_init(scope: Scope, struct: Any) -> Iterator[str]:
    """A constructor that packs all numbers at once, for structures of numbers and pNext.

    It is what makes an allocation through extmem cost little more than through bare ctypes, and
    it gives editors a real signature. `struct` also refuses what does not fit; the general
    constructor is then asked to say which member it was.
    """
    if not struct.sType or len(struct.members) > LONGEST_QUICK_INIT:
        return
    letters = ""
    for member in struct.members:
        kind = scope.ctype(member)
        if member.name == "pNext":
            letters += "P"
        elif kind in PACKED:
            letters += PACKED[kind]
        else:
            return
    names = [member.name for member in struct.members]
    rest = [name for name in names if name not in ("sType", "pNext")]
    stype = next(
        f.value
        for f in scope.vk.enums["VkStructureType"].fields
        if struct.sType in (f.name, *f.aliases)
    )
    defaults = "".join(
        f", {m.name}: {'float' if m.type == 'float' else 'int'} = 0"
        for m in struct.members
        if m.name in rest
    )
    keywords = ", ".join(f"{name}={name}" for name in rest)
    packed = ", ".join(["sType", "next_", *rest])
    yield f"\n    def __init__(self, sType: int = {stype}, pNext: Any = None{defaults}) -> None:\n"
    yield "        try:\n"
    yield "            next_ = 0 if pNext is None else _plain[pNext.__class__](pNext)\n"
    yield f"            _pack_{letters}(self, 0, {packed})\n"
    yield "            self._next = pNext\n"
    yield "        except (_struct_error, KeyError):\n"
    keywords = f"pNext=pNext, {keywords}" if keywords else "pNext=pNext"
    yield f"            Structure.__init__(self, sType=sType, {keywords})\n"


def packers(scope: Scope) -> Iterator[str]:
    """The packing functions that the quick constructors share."""
    text = "".join("".join(quick_init(scope, struct)) for struct in scope.structs.values())
    for letters in sorted(set(re.findall(r"_pack_(\w+)\(", text))):
        yield f'_pack_{letters} = _Packer("@{letters}").pack_into\n'


def structures(scope: Scope) -> Iterator[str]:
    yield HEADER.format(title="Every handle and structure in scope.", version=scope.version)
    yield "from __future__ import annotations\n\n"
    yield "from ctypes import (\n    POINTER,\n"
    for name in ("c_char", "c_char_p", "c_double", "c_float", "c_int32", "c_int64", "c_size_t"):
        yield f"    {name},\n"
    for name in ("c_uint8", "c_uint16", "c_uint32", "c_uint64", "c_void_p"):
        yield f"    {name},\n"
    yield ")\nfrom struct import Struct as _Packer\nfrom struct import error as _struct_error\n"
    yield "from typing import Any\n\n"
    yield "from extmem.vk._base import (\n    DWORD,\n    HANDLE,\n    LPCWSTR,\n"
    for name in ("SECURITY_ATTRIBUTES", "PLAIN_ADDRESS", "AnyStructure", "Structure", "Union"):
        yield f"    {name},\n"
    yield "    VkHandle,\n    structure,\n)\n\n"
    yield "_plain = PLAIN_ADDRESS\n"
    yield from packers(scope)
    for name in sorted(scope.handles):
        handle = scope.handles[name]
        parent = f" of a {handle.parent.name}" if handle.parent else ""
        yield f"\n\nclass {name}(VkHandle):\n"
        yield f'    """A Vulkan handle{parent}."""\n'
        if handle.dispatchable:
            yield "\n    dispatchable = True\n"
    aliases: list[str] = []
    for struct in scope.ordered():
        aliases += [f"{alias} = {struct.name}\n" for alias in struct.aliases]
        base = "Union" if struct.union else "Structure"
        providers = ", ".join(scope.providers(struct))
        yield f"\n\n@structure\nclass {struct.name}({base}):\n"
        yield f'    """{providers}."""\n\n    __slots__ = ()\n'
        if struct.sType:
            stype = scope.vk.enums["VkStructureType"]
            value = next(f.value for f in stype.fields if struct.sType in (f.name, *f.aliases))
            yield f"    _stype_ = {value}\n"
        names = {member.name for member in struct.members}
        counts = {
            member.name: member.length
            for member in struct.members
            if member.length in names and "*" in member.fullType and member.type != "void"
        }
        if counts:
            yield f"    _counts_ = {json.dumps(counts)}\n"
        for member in struct.members:
            yield f"    {member.name}: {annotation(scope, member)}\n"
        yield "    _fields_ = [\n"
        for member in struct.members:
            kind = "AnyStructure" if member.name == "pNext" else scope.ctype(member)
            yield f'        ("{member.name}", {kind}),\n'
        yield "    ]\n"
        yield from quick_init(scope, struct)
    yield "\n\n"
    yield from sorted(aliases)
    for name, handle in sorted(scope.handles.items()):
        for alias in handle.aliases:
            yield f"{alias} = {name}\n"
