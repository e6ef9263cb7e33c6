"""What every other file of the embedded device stands on: handles, failures, chains.

Handles are numbers of one counter per process, whatever they name, and none is used twice: a stale
handle can therefore never be mistaken for a younger object.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from extmem.vk import _constants as c
from extmem.vk._base import Structure

__all__ = [
    "SUCCESS",
    "Failure",
    "Object",
    "chained",
    "children",
    "discard",
    "enumerate_into",
    "find",
    "guarded",
    "put",
    "register",
]

log = logging.getLogger("extmem.embedded")

SUCCESS = 0

# No real chain is this long; a chain that points back into itself is.
_LONGEST_CHAIN = 64


class Failure(Exception):
    """A command ends with this VkResult instead of success."""

    def __init__(self, result: int, why: str) -> None:
        super().__init__(why)
        self.result = int(result)


class Object:
    """Something that has a handle; `parent` is the device (or instance) that it came from."""

    def __init__(self, parent: Object | None) -> None:
        self.parent = parent
        self.handle = 0


_numbers = itertools.count(0x1000_0001, 16)
_objects: dict[int, Object] = {}

K = TypeVar("K", bound=Object)


def register(new: Object) -> int:
    """Give an object its handle."""
    new.handle = next(_numbers)
    _objects[new.handle] = new
    return new.handle


def find(kind: type[K], handle: int | None, parent: Object | None = None) -> K:
    """The live object of this kind behind a handle, of this parent where one is given."""
    found = _objects.get(handle or 0)
    if not isinstance(found, kind) or (parent is not None and found.parent is not parent):
        raise Failure(c.VK_ERROR_UNKNOWN, f"{handle or 0:#x} is no live {kind.__name__} of this")
    return found


def discard(gone: Object) -> None:
    """Forget a handle; it is never given out again."""
    _objects.pop(gone.handle, None)


def children(parent: Object) -> list[Object]:
    """Every live object that came from `parent`."""
    return [child for child in list(_objects.values()) if child.parent is parent]


def chained(head: Structure | None) -> dict[int, Structure]:
    """The structures of a pNext chain by their sType, without the head."""
    found: dict[int, Structure] = {}
    node = None if head is None else head.pNext
    for _ in range(_LONGEST_CHAIN):
        if node is None:
            break
        found[node.sType] = node
        node = node.pNext
    return found


def put(box: Any, value: int) -> None:
    """Fill the box of a single result (a ctypes number, or a pointer to one)."""
    if hasattr(box, "value"):
        box.value = value
    else:
        box[0] = value


def enumerate_into(
    count: Any, array: Any, items: Sequence[Any], fill: Callable[[Any, Any], None] | None = None
) -> int:
    """Answer a two-call enumeration; `fill(element, item)` writes in place, else it is assigned."""
    if array is None:
        put(count, len(items))
        return SUCCESS
    room = count.value if hasattr(count, "value") else count[0]
    written = min(room, len(items))
    for index in range(written):
        if fill is None:
            array[index] = items[index]
        else:
            fill(array[index], items[index])
    put(count, written)
    return SUCCESS if written == len(items) else int(c.VK_INCOMPLETE)


# What the system says when it has no more of something, in Vulkan's words.
_SYSTEM_ERRORS = {
    errno.ENOMEM: int(c.VK_ERROR_OUT_OF_DEVICE_MEMORY),
    errno.ENOSPC: int(c.VK_ERROR_OUT_OF_DEVICE_MEMORY),
    errno.EFBIG: int(c.VK_ERROR_OUT_OF_DEVICE_MEMORY),
    errno.EMFILE: int(c.VK_ERROR_TOO_MANY_OBJECTS),
    errno.ENFILE: int(c.VK_ERROR_TOO_MANY_OBJECTS),
}


def result_of(problem: Exception) -> int:
    """The VkResult that says what went wrong."""
    if isinstance(problem, Failure):
        log.debug("%s", problem)
        return problem.result
    if isinstance(problem, OSError) and problem.errno in _SYSTEM_ERRORS:
        return _SYSTEM_ERRORS[problem.errno]
    if isinstance(problem, MemoryError):
        return int(c.VK_ERROR_OUT_OF_HOST_MEMORY)
    # A mistake of ours, or arguments that no caller in this package sends: still an answer.
    log.error("the embedded device stumbled", exc_info=problem)
    return int(c.VK_ERROR_UNKNOWN)


def guarded(command: Callable[..., Any], returns_result: bool) -> Callable[..., Any]:
    """The command as a driver offers it: it answers with a VkResult, and never raises."""

    def answering(*arguments: Any) -> Any:
        try:
            return command(*arguments)
        except Exception as problem:
            return result_of(problem)

    def silent(*arguments: Any) -> None:
        try:
            command(*arguments)
        except Exception as problem:
            result_of(problem)

    wrapper = answering if returns_result else silent
    wrapper.__name__ = wrapper.__qualname__ = command.__name__
    return wrapper
