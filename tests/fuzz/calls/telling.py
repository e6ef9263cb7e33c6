"""What a call was given, written out with all that is behind pointers: to find it again."""

from __future__ import annotations

import ctypes
from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call

__all__ = ["told"]

_DEEP = 6


def told(call: Call) -> str:
    """A call in a line."""
    given = [_value(each, 0) for each in call.arguments]
    given += [f"{name}={value!r}" for name, value in call.keywords.items()]
    return f"{call.name}({', '.join(given)})"[:4000]


def _value(value: Any, depth: int) -> str:
    try:
        if isinstance(value, vk.Structure):
            return _structure(value, depth)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(_value(each, depth + 1) for each in value)}]"
        return repr(value)[:200]
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _structure(item: Any, depth: int) -> str:
    name = type(item).__name__
    if depth > _DEEP:
        return f"{name}(...)"
    shown = []
    for member, *_ in item._fields_:
        # What goes by its sType alone may not be what that says.
        value = getattr(item, "_next", None) if member == "pNext" else getattr(item, member)
        if member == "sType":
            if value != item._stype_:
                shown.append(f"sType={value}")
        elif isinstance(value, ctypes._Pointer):
            if value:
                # No more than are known to be there, whatever the count says.
                count = getattr(item, "_given", {}).get(member, 1)
                items = [_value(value[index], depth + 1) for index in range(min(count, 4))]
                shown.append(f"{member}=[{', '.join(items)}]")
        elif isinstance(value, (vk.Structure, ctypes.Array)) or value not in (None, 0):
            shown.append(f"{member}={_value(value, depth + 1)}")
    return f"{name}({', '.join(shown)})"
