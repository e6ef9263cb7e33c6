"""pNext chains: build one, walk one, find a structure in one.

Assigning to `pNext` is enough to build a chain and to keep it alive; these are for programs that
collect structures first, or look at chains that others built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from extmem.vk._base import Structure

__all__ = ["find", "link", "walk"]

T = TypeVar("T", bound=Structure)

# A chain longer than this is a circle, or garbage.
LONGEST = 64


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
