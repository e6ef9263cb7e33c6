"""What a driver is given in the place of a handle that the caller owns: a duplicate.

The duplicate stands in the caller's structure for the time of the call alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from extmem.errors import DriverError
from extmem.handles.system import kernel
from extmem.vk import _constants as c
from extmem.vk._prototype import Prototype

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["nt_duplicate", "some_handle", "with_fd", "with_nt"]


def nt_duplicate(handle: int) -> int | None:
    """A duplicate for the driver. None if it is no handle of this process: what to say of that is
    the driver's, or was the rules' part.
    """
    try:
        return kernel().duplicate(handle)
    except OSError:
        return None


def with_nt(source: Any, drive: Callable[[], int]) -> int:
    """Import with a duplicate of `source.handle` in its place; the caller's stays its own."""
    given = source.handle
    copy = nt_duplicate(given) if given else None
    if copy is None:
        return drive()
    source.handle = copy
    try:
        return drive()
    finally:
        source.handle = given
        kernel().let_go(copy)


def with_fd(source: Any, drive: Callable[[], int]) -> int:
    """Import with a duplicate of `source.fd` in its place, and settle who owns what afterwards.

    The caller's is closed if the import succeeds, and is as it was if not. -1 is passed as it is:
    it may stand for something that is signalled already.
    """
    given = source.fd
    if given < 0:
        return drive()
    copy = posix.duplicate(given)
    source.fd = copy
    result = -1
    try:
        result = drive()
    finally:
        source.fd = given
        if result:
            # Some drivers close the descriptor of an import that they refuse, some do not.
            posix.close_if_same(copy, posix.identity(given))
        else:
            os.close(given)
    return result


def some_handle(prototype: Prototype, handle: int) -> int:
    """A Windows handle or number that a driver gave; DriverError if there is none."""
    if not handle:
        raise DriverError(
            c.VK_ERROR_UNKNOWN, prototype.name, "the driver said VK_SUCCESS and gave no handle"
        )
    return handle
