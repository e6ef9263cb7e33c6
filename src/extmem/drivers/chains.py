"""pNext chains as a driver that stands on another one passes them down: copied, some exchanged.

The caller's structures are never written to, so that two threads may use them at once, and so that
a failed call leaves nothing to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from extmem.drivers.driver import Command
from extmem.vk._base import Structure

__all__ = ["Exchange", "asked_before", "followers", "rebuilt"]

# What takes the place of a structure: another one, or None for nothing.
Exchange = Callable[[Any], Structure | None]

_LONGEST = 64  # structures; a chain longer than this is a circle


def followers(head: Any) -> Iterator[Any]:
    """The structures behind the first one of a chain."""
    item = head.pNext
    for _ in range(_LONGEST):
        if item is None:
            return
        yield item
        item = item.pNext


def rebuilt(head: Any, exchanges: Mapping[type, Exchange], added: Iterable[Structure] = ()) -> Any:
    """A chain like this one with some structures exchanged, and others added at its end.

    The head is copied too. Where there is nothing to exchange and to add, the chain itself comes
    back. The copies borrow what the originals point to: they are for one call.
    """
    before = list(followers(head))
    added = list(added)
    if not added and not any(type(item) in exchanges for item in before):
        return head
    after: list[Any] = [type(head).from_buffer_copy(head)]
    for item in before:
        exchange = exchanges.get(type(item))
        copy = type(item).from_buffer_copy(item) if exchange is None else exchange(item)
        if copy is not None:
            after.append(copy)
    after += added
    for item, follower in zip(after, [*after[1:], None], strict=True):
        item.pNext = follower
    return after[0]


def asked_before(below: Command, exchanges: Mapping[type, Exchange]) -> Command:
    """A command that asks what a resource would need, from a create info within its own."""

    def requirements(device: int, info: Any, *rest: Any) -> None:
        if info.pCreateInfo:
            copy = type(info).from_buffer_copy(info)
            copy.pNext = info.pNext
            copy.pCreateInfo = rebuilt(info.pCreateInfo.contents, exchanges)
            info = copy
        below(device, info, *rest)

    return requirements
