"""Writes `_prototypes.py`: how C sees each command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from registry.scope import HEADER, Scope

GLOBAL = ("vkGetInstanceProcAddr",)


def kind_of(scope: Scope, command: Any, param: Any) -> str:
    """How a parameter travels between Python and C. `extmem.vk._prototype` explains each."""
    if param.type == "VkAllocationCallbacks":
        return "allocator"
    stars = param.fullType.count("*")
    if stars == 0:
        return "handle" if param.type in scope.vk.handles else "value"
    if param.type == "char":
        return "string" if stars == 1 else "values"
    if not param.const:
        if param.length and param.length in {p.name for p in command.params}:
            counter = next(p for p in command.params if p.name == param.length)
            return "out_list" if counter.pointer else "out_array"
        if any(p.length == param.name and p.pointer for p in command.params):
            return "out_count"
        if param.length:
            return "out_array"
        return "out"
    if param.type == "void":
        return "data"
    if param.length:
        return "values"
    return "struct" if param.type in scope.structs else "values"


def python_type(scope: Scope, param: Any) -> str:
    if param.type in scope.handles or param.type in scope.structs:
        return param.type
    return "None"


def prototypes(scope: Scope) -> Iterator[str]:
    yield HEADER.format(title="Every command in scope: how C sees it.", version=scope.version)
    yield "from ctypes import (\n    POINTER,\n    c_char_p,\n    c_float,\n    c_int32,\n"
    yield "    c_size_t,\n    c_uint32,\n    c_uint64,\n    c_void_p,\n)\n\n"
    yield "from extmem.vk import _structures as s\n"
    yield "from extmem.vk._base import HANDLE\n"
    yield "from extmem.vk._prototype import Param, Prototype\n"
    names = set(scope.structs)
    for command in scope.commands:
        level = "global"
        if command.params[0].type in scope.vk.handles and command.name not in GLOBAL:
            level = "device" if command.device else "instance"
        provided = {command.name: scope.providers(command)}
        for alias in scope.aliases.get(command.name, ()):
            provided[alias] = scope.providers(scope.vk.commands[alias])
        result = {"VkResult": '"VkResult"', "void": "None"}.get(
            command.returnType, scope.scalar(command.returnType) or "c_void_p"
        )
        values = {f.name: f.value for f in scope.vk.enums["VkResult"].fields}
        success = tuple(values[code] for code in command.successCodes)
        yield f"\n{command.name} = Prototype(\n"
        yield f'    "{command.name}",\n    {result},\n    "{level}",\n    (\n'
        for param in command.params:
            kind = kind_of(scope, command, param)
            ctype = re.sub(
                r"\b(Vk\w+)", lambda m: f"s.{m[1]}" if m[1] in names else m[1], scope.ctype(param)
            )
            python = python_type(scope, param)
            python = python if python == "None" else f"s.{python}"
            length = f'"{param.length}"' if param.length else "None"
            yield (
                f'        Param("{param.name}", "{kind}", {ctype}, {python}, {length}, '
                f"{param.optional or param.optionalPointer}),\n"
            )
        yield f"    ),\n    {provided!r},\n    {success!r},\n)\n"
