"""How a C command is described: what the generated prototypes are made of."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Param", "Prototype"]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a command.

    `kind` says how it travels:

    ==========  =================================================================================
    handle      a Vulkan handle, by value
    value       a number, by value
    string      `const char *`
    struct      a pointer to one structure that the command reads
    values      a pointer to several elements that the command reads
    data        a pointer to bytes
    allocator   always NULL
    out         a pointer to one result
    out_count   the count of a two-call enumeration
    out_list    its elements
    out_array   results whose number follows from the other parameters
    ==========  =================================================================================
    """

    name: str
    kind: str
    ctype: Any
    python: Any  # the class of a handle or structure, else None
    length: str | None  # the parameter or member that counts the elements
    optional: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prototype:
    """A command: its C types, where it comes from, and what it returns."""

    name: str
    result: Any  # "VkResult", None for void, or a ctypes type
    level: str  # "global", "instance" or "device": whose dispatch table holds it
    params: tuple[Param, ...]
    provided: dict[str, tuple[str, ...]]  # each spelling of it, and what provides that spelling
    success: tuple[int, ...]  # VkResult values that are not errors
    outputs: tuple[Param, ...] = field(init=False)
    argtypes: tuple[Any, ...] = field(init=False)
    restype: Any = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "outputs", tuple(p for p in self.params if p.kind.startswith("out")))
        set_(self, "argtypes", tuple(p.ctype for p in self.params))
        set_(self, "restype", ctypes.c_int32 if self.result == "VkResult" else self.result)
