"""What rules ask about NT handles and names: never an error, never a handle left open."""

from __future__ import annotations

from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import directory, kernel

__all__ = ["describe", "why_not_by_name", "why_not_given"]


def describe(handle: int) -> str | None:
    """The kernel's type of an open handle ("Section"); None if it is not open."""
    try:
        return kernel().info(handle).type_name
    except OSError:
        return None


def why_not_by_name(name: str, kind: str = "Section") -> str | None:
    """Why a named object cannot be opened, in the system's words; None if it can.

    kind: "Section", or on Linux what drivers share by descriptors: "Memory"
    """
    try:
        if kind == "Section":
            opened = kernel().open_section(name, ACCESS_READ)
        else:
            opened = directory().open_named(name, kind, ACCESS_READ | ACCESS_WRITE)
    except OSError as error:
        return str(error.strerror or error)
    kernel().close(opened)
    return None


def why_not_given(name: str) -> str | None:
    """Why a new object cannot have a name, in the system's words; None if it can."""
    try:
        made = kernel().create_section(1, name=name)
    except OSError as error:
        return str(error.strerror or error)
    kernel().close(made)
    return None
