"""Mapped memory as Python sees it: views that can never outlive their memory.

All views of one mapping hang on one ctypes array, watched through a weak reference. A slice keeps
the array alive even after `memoryview.release()` of the view that it was cut from, so the array
is what tells whether anyone can still touch the memory.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

from extmem.errors import ViewsAlive

__all__ = ["Mapping", "buffer_of", "note_owner", "with_owners"]

# Two threads that look first must get one array, or one of their views would not be counted.
_making = threading.Lock()


def _references(reference: Any) -> int:
    """How often the object behind a weak reference is held, our own looking included."""
    found = reference()
    return 0 if found is None else sys.getrefcount(found)


class _Held:
    """Something that is held once."""


# How many of those are the looking itself; versions of Python differ in it.
_held = _Held()
_LOOKING = _references(weakref.ref(_held)) - 1


class Mapping:
    """One mapped range of one memory object."""

    __slots__ = ("__weakref__", "_array", "address", "memory", "offset", "read_only", "size")

    def __init__(
        self, memory: int, address: int, offset: int, size: int, *, read_only: bool = False
    ) -> None:
        self.memory = memory  # the VkDeviceMemory
        self.address = address  # where `offset` is mapped
        self.offset = offset  # bytes into the memory
        self.size = size  # bytes
        self.read_only = read_only  # its pages fault where they are written
        self._array: Any = None

    def array(self) -> Any:
        """The ctypes array over the whole range: the same one as long as anyone uses it."""
        with _making:
            array = self._array() if self._array is not None else None
            if array is None:
                array = cast(Any, (ctypes.c_ubyte * self.size).from_address(self.address))
                array.memory = self.memory
                self._array = weakref.ref(array)
            return array

    def view(self) -> memoryview:
        """A memoryview of bytes; `view.obj.memory` is the memory that it shows."""
        view = memoryview(self.array()).cast("B")
        return view.toreadonly() if self.read_only else view

    def views(self) -> int:
        """How many objects look at the memory now."""
        return max(_references(self._array) - _LOOKING, 0) if self._array is not None else 0

    def require_unused(self, action: str) -> None:
        """Raise ViewsAlive if anything still looks at the memory."""
        count = self.views()
        if count:
            raise ViewsAlive(
                f"cannot {action}: {count} view{'s' if count != 1 else ''} of the memory "
                f"{'are' if count != 1 else 'is'} still alive (a memoryview, a NumPy array, or a "
                "slice of one). Delete them first: they would point at nothing.",
                count,
            )

    def when_unused(self, action: Callable[[], object]) -> None:
        """Run `action` as soon as the last view is gone; at once if there is none."""
        array = self._array() if self._array is not None else None
        if array is None:
            action()
        else:
            weakref.finalize(array, action)


# Whose each mapping is: for whoever has an address and looks for the memory behind it.
_owners: weakref.WeakKeyDictionary[Mapping, weakref.ref[Any]] = weakref.WeakKeyDictionary()
# What is freed while this is held may look at memory, too.
_noting = threading.RLock()


def note_owner(mapping: Mapping, owner: Any) -> None:
    """The object of the public face that a mapping belongs to."""
    with _noting:
        if mapping not in _owners:
            _owners[mapping] = weakref.ref(owner)


def with_owners() -> list[tuple[Mapping, Any]]:
    """Each mapping that is there now and has a living owner, with that."""
    with _noting:
        found = [(mapping, owner()) for mapping, owner in _owners.items()]
    return [(mapping, owner) for mapping, owner in found if owner is not None]


def buffer_of(view: memoryview) -> Any:
    """What NumPy makes arrays of. It looks behind a memoryview, so that arrays of one to be read
    alone would let themselves be made writable, and a store end the process.
    """
    if not view.readonly:
        return view
    import numpy as np

    return np.frombuffer(view, "uint8")
