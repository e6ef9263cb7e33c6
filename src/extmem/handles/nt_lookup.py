"""What rules ask about NT handles and names: never an error, never a handle left open."""

from __future__ import annotations

from extmem.handles.kernel import ACCESS_READ
from extmem.handles.system import kernel

__all__ = ["describe", "why_not_by_name"]


def describe(handle: int) -> str | None:
    """The kernel's type of an open handle ("Section"); None if it is not open."""
    try:
        return kernel().info(handle).type_name
    except OSError:
        return None


def why_not_by_name(name: str) -> str | None:
    """Why a named section cannot be opened for reading, in the system's words; None if it can."""
    try:
        opened = kernel().open_section(name, ACCESS_READ)
    except OSError as error:
        return str(error.strerror or error)
    kernel().close(opened)
    return None
