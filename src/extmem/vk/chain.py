"""pNext chains: build one, walk one, find a structure in one.

Assigning to `pNext` is enough to build a chain and to keep it alive; these are for programs that
collect structures first, or look at chains that others built.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from struct import Struct
from typing import Any, TypeVar

from extmem.vk._base import Structure, VkBaseInStructure

__all__ = ["find", "link", "walk"]

T = TypeVar("T", bound=Structure)

# A chain longer than this is a circle, or garbage.
LONGEST = 64

_address = Struct("P").unpack_from
_NEXT = VkBaseInStructure.__dict__["pNext"].offset


def walk(head: Structure | None) -> Iterator[Structure]:
    """Every structure of a chain, the head first.

    >>> from extmem import vk
    >>> info = vk.VkMemoryAllocateInfo(pNext=vk.VkExportMemoryAllocateInfo())
    >>> [type(item).__name__ for item in walk(info)]
    ['VkMemoryAllocateInfo', 'VkExportMemoryAllocateInfo']
    """
    item: Any = head
    for _ in range(LONGEST):
        if item is None:
            return
        yield item
        item = item.pNext
    raise ValueError(f"the chain of {type(head).__name__} does not end within {LONGEST} structures")


def follower(item: Any) -> Any:
    """What comes next in a chain, as what it was made.

    An element of an array knows its address alone, and what is found there goes by its sType, right
    or wrong. Where the array remembers what was copied into it, that knows the structure itself.
    """
    array = item._b_base_
    copied = getattr(array, "copied", None)
    if copied:
        offset = ctypes.addressof(item) - ctypes.addressof(array)
        made = copied.get(offset // ctypes.sizeof(item))
        found = made.pNext if made is not None else None
        if found is not None and (ctypes.addressof(found),) == _address(item, _NEXT):
            return found
    found = item.pNext
    (address,) = _address(item, _NEXT)
    if address != (0 if found is None else ctypes.addressof(found)):
        raise ValueError(
            f"{type(item).__name__}.pNext is {address:#x}, which nobody assigned to it: assign the "
            "structure itself, which is then looked at as well, and lives as long as this one"
        )
    return found


def find(head: Structure | None, kind: type[T]) -> T | None:
    """The structure of a class in a chain, or None.

    >>> from extmem import vk
    >>> info = vk.VkMemoryAllocateInfo(pNext=vk.VkExportMemoryAllocateInfo(handleTypes=1))
    >>> find(info, vk.VkExportMemoryAllocateInfo).handleTypes
    1
    """
    for item in walk(head):
        if isinstance(item, kind):
            return item
    return None


def link(head: T, *followers: Structure | None) -> T:
    """Put structures behind `head`, in order, before what it is followed by already.

    None is skipped, so that optional parts can stand in the call.

    >>> from extmem import vk
    >>> info = link(vk.VkMemoryAllocateInfo(), vk.VkExportMemoryAllocateInfo(), None)
    >>> type(info.pNext).__name__
    'VkExportMemoryAllocateInfo'
    """
    for item in reversed([each for each in followers if each is not None]):
        if item.pNext is not None:
            raise ValueError(f"{type(item).__name__} is part of a chain already")
        item.pNext = head.pNext
        head.pNext = item
    return head
