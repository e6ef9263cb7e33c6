"""What the world learns of semaphores and fences: how they are made, fetched and imported into.

What others do with a shared payload is not known here.
"""

from __future__ import annotations

from typing import Any

from extmem.handle_types import FENCE, SEMAPHORE
from extmem.submitted import Payload, Reach, current
from extmem.vk._dispatch import Dispatch
from extmem.vk.queries import Queries
from extmem.world import SyncSeen, sync_origins

__all__ = ["fence_facts", "fetched_sync", "imported_sync", "semaphore_facts"]

Facts = dict[str, Any]

_COPIES = {
    "VkSemaphore": sum(each.bit for each in SEMAPHORE if each.copy_transference),
    "VkFence": sum(each.bit for each in FENCE if each.copy_transference),
}
_TEMPORARY = 1  # VK_SEMAPHORE_IMPORT_TEMPORARY_BIT and VK_FENCE_IMPORT_TEMPORARY_BIT


# -- what is kept of each kind --------------------------------------------------------------------


def semaphore_facts(info: Any, timeline: bool, types: int) -> Facts:
    """A new semaphore."""
    return {
        "timeline": timeline,
        "types": types,
        "flags": int(info.flags),
        "payload": Payload(types, signaled=None if timeline else False),
        "reach": Reach() if timeline else None,
        "borrowed": None,  # the temporary payload
        "fetched": set(),
    }


def fence_facts(info: Any, types: int) -> Facts:
    """A new fence."""
    return {
        "timeline": False,
        "types": types,
        "flags": int(info.flags),
        "payload": Payload(types, signaled=bool(info.flags & 1)),
        "borrowed": None,
        "fetched": set(),
        "pending": None,  # the batch that it was last submitted with
    }


# -- fetching and importing -----------------------------------------------------------------------


def fetched_sync(dispatch: Dispatch, kind: str, value: int, handle_type: int, fd: int = -1) -> None:
    """A handle of this type was fetched from a semaphore or fence; `fd` if it is a descriptor."""
    found = dispatch.world.find(kind, int(value))
    if found is None:
        return
    facts = found.facts
    facts["fetched"].add(int(handle_type))
    payload = current(found)
    if handle_type & _COPIES[kind]:
        # As a wait does to a semaphore and a reset to a fence.
        if payload.signaled is not None:
            payload.signaled = False
        facts["borrowed"] = None
        if kind == "VkFence":
            facts["pending"] = None  # its signal went with the handle
        return
    payload.shared, payload.signaled = True, None
    asked = Queries(dispatch)
    seen = asked.descriptor(fd) if fd >= 0 else None
    # What was imported keeps the record of its exporter, if this process was that.
    if seen is None or seen.kind == "device" or payload.imported:
        return
    device, driver = asked.identity() or (None, None)
    sync_origins.add(
        seen.identity,
        SyncSeen(
            object=kind.removeprefix("Vk").lower(),
            types=int(facts["types"]),
            timeline=bool(facts["timeline"]),
            flags=int(facts["flags"]),
            device=device,
            driver=driver,
        ),
    )


def imported_sync(dispatch: Dispatch, kind: str, value: int, info: Any, export: int | None) -> None:
    """Another payload stands in a semaphore or fence.

    export: the types that it may be fetched as, which its exporter said; None: not known
    """
    found = dispatch.world.find(kind, int(value))
    if found is None:
        return
    facts, handle_type = found.facts, int(info.handleType)
    copied = bool(handle_type & _COPIES[kind])
    payload = Payload(
        export,
        imported=handle_type,
        shared=not copied,
        # A snapshot is of something that is signalled, or will be.
        signaled=True if copied else None,
    )
    if info.flags & _TEMPORARY or copied:
        facts["borrowed"] = payload
        return
    # As if the object were destroyed and made again.
    if kind == "VkSemaphore" and dispatch.world.submitted is not None:
        dispatch.world.submitted.replaced(found)
    facts["payload"], facts["borrowed"] = payload, None
    facts["fetched"] = set()
