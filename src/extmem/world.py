"""What is alive: every Vulkan object that this process made, and what it was made of.

Rules ask it. It holds facts, never the user's objects: structures are read when a call succeeds
and only what rules need is kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

__all__ = [
    "Origin",
    "Payloads",
    "Record",
    "SyncOrigins",
    "SyncSeen",
    "World",
    "elsewhere",
    "kinds_of",
    "payloads",
    "sync_origins",
]

_worlds: WeakSet[World] = WeakSet()


@dataclass(slots=True, eq=False)
class Record:
    """One object: what it is, and the facts that rules ask about."""

    kind: str  # the handle's type, as "VkDeviceMemory"
    value: int  # the handle
    parent: Record | None  # a command buffer's pool, a queue's device; None under the device
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.value:#x} {self.facts}>"


class World:
    """The objects of one instance, or of one device."""

    def __init__(self, owner: str, parent: World | None) -> None:
        self.owner = owner  # "the VkDevice 0x…", for messages
        self.parent = parent
        self.objects: dict[str, dict[int, Record]] = {}
        self._parents: set[Record] = set()  # those that others go with
        # What the driver answered once and will answer again: memory properties, capabilities.
        self.asked: dict[Any, Any] = {}
        # Shapes of calls that kept all rules, see rules.glances.
        self.plain: dict[Any, Any] = {}
        self.submitted: Any = None  # submitted.Submitted, once something was submitted
        self.lock = threading.Lock()
        _worlds.add(self)

    def add(self, kind: str, value: int, parent: Record | None = None, **facts: Any) -> Record:
        """Note a new object. One that is known already (a queue fetched twice) stays."""
        with self.lock:
            known = self.objects.setdefault(kind, {})
            record = known.get(value)
            if record is None:
                record = known[value] = Record(kind, value, parent, facts)
                if parent is not None:
                    self._parents.add(parent)
            return record

    def find(self, kind: str, value: int) -> Record | None:
        """The living object with this handle, here or in the instance above."""
        record = self.objects.get(kind, {}).get(value)
        if record is None and self.parent is not None:
            return self.parent.find(kind, value)
        return record

    def has(self, record: Record) -> bool:
        """Whether this very object is alive: drivers give handles of what is gone to new ones."""
        return self.find(record.kind, record.value) is record

    def remove(self, kind: str, value: int) -> None:
        """Forget an object, and those that go with it (a pool's command buffers)."""
        with self.lock:
            gone = self.objects.get(kind, {}).pop(value, None)
            if gone is None or gone not in self._parents:
                return
            self._parents.discard(gone)
            for records in self.objects.values():
                for child in [r for r in records.values() if r.parent is gone]:
                    del records[child.value]

    def count(self) -> dict[str, int]:
        """How many objects of each kind are alive; kinds without any are left out."""
        with self.lock:
            return {kind: len(records) for kind, records in self.objects.items() if records}

    def close(self) -> None:
        """Forget everything: the instance or device is destroyed."""
        with self.lock:
            self.objects.clear()
            self._parents.clear()
            self.asked.clear()
            self.plain.clear()
            self.submitted = None
        _worlds.discard(self)


def elsewhere(kind: str, value: int, here: World) -> str | None:
    """Who owns a handle that is unknown `here`, for messages; None if nobody does."""
    for world in list(_worlds):
        if world is not here and value in world.objects.get(kind, {}):
            return world.owner
    return None


def kinds_of(value: int, here: World) -> list[str]:
    """The types under which a handle is known `here`, for messages about a mixed-up handle."""
    return [kind for kind, records in list(here.objects.items()) if value in records]


# -- payloads ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """What this process knows of a payload, because it exported it. Numbers only."""

    types: int  # the handle types that it was fetched as, a mask
    size: int  # allocationSize
    type_index: int  # memoryTypeIndex
    device: bytes | None  # deviceUUID and driverUUID; None where the driver could not be asked
    driver: bytes | None
    mask: int  # the device mask, 0 where none was given
    dedicated: str  # "", "VkBuffer" or "VkImage"
    made_with: tuple[Any, ...] | None  # how that resource was created; None if it is gone
    length: int  # what fstat says of the descriptor's size


class Payloads:
    """The payloads behind descriptors that this process fetched, by device and inode number.

    Only for descriptors whose inode is the payload (memfd, dma-buf), never for character devices,
    where all descriptors share one. Descriptors outlive the memory, so freeing that forgets
    nothing here. The kernel counts these inode numbers up and comes back to one after four
    thousand million files only; should it, the length is compared as well, and a record that does
    not fit is dropped. At most `most` are kept, the youngest, because a program may export for
    ever. What is not known is not checked: a missing record is never an error.
    """

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self._known: dict[tuple[int, int], Origin] = {}
        self._lock = threading.Lock()

    def add(self, identity: tuple[int, int], origin: Origin) -> None:
        """Note a payload that was fetched, now or once more."""
        with self._lock:
            known = self._known.pop(identity, None)
            if known is not None and replace(known, types=origin.types) == origin:
                origin = replace(origin, types=known.types | origin.types)
            self._known[identity] = origin
            while len(self._known) > self.most:
                del self._known[next(iter(self._known))]

    def find(self, identity: tuple[int, int], length: int) -> Origin | None:
        """What is known of the payload behind a descriptor of this identity and length."""
        with self._lock:
            known = self._known.get(identity)
            if known is not None and known.length != length:
                del self._known[identity]
                return None
            return known

    def __len__(self) -> int:
        return len(self._known)


# Of the whole process: what one device exports, another may import.
payloads = Payloads()


@dataclass(frozen=True, slots=True)
class SyncSeen:
    """What this process knows of a semaphore or fence, because it exported it. Numbers only."""

    object: str  # "semaphore" or "fence"
    types: int  # the handle types that it was made to be exported as, a mask
    timeline: bool
    flags: int  # that it was created with
    device: bytes | None  # deviceUUID and driverUUID; None where the driver could not be asked
    driver: bytes | None


class SyncOrigins:
    """The same as `Payloads` for descriptors of semaphores and fences."""

    def __init__(self, most: int = 1024) -> None:
        self.most = most
        self._known: dict[tuple[int, int], SyncSeen] = {}
        self._lock = threading.Lock()

    def add(self, identity: tuple[int, int], seen: SyncSeen) -> None:
        """Note one that was fetched, now or once more."""
        with self._lock:
            self._known.pop(identity, None)
            self._known[identity] = seen
            while len(self._known) > self.most:
                del self._known[next(iter(self._known))]

    def find(self, identity: tuple[int, int]) -> SyncSeen | None:
        """What is known of what is behind a descriptor."""
        return self._known.get(identity)


sync_origins = SyncOrigins()
