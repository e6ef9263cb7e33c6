"""The one table of ways to share a semaphore or a fence: what can be done with each handle type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from extmem.drivers.embedded import shared_signals as shared
from extmem.drivers.embedded import titles
from extmem.drivers.embedded.payload import Source, Terms
from extmem.drivers.embedded.shared_signals import Shared
from extmem.drivers.embedded.titles import Title
from extmem.handle_types import FENCE, SEMAPHORE, HandleType
from extmem.vk import _constants as c

__all__ = ["CARRIERS", "SyncCarrier", "capabilities", "carrier_of"]


@dataclass(frozen=True, slots=True)
class SyncCarrier:
    """One handle type of semaphores or of fences."""

    type: HandleType
    # What makes, takes in and gives away a payload. A copy (SYNC_FD) is nothing that is made.
    create: Callable[[Title, int, bool, Terms], Shared] | None
    open: Callable[[Source, Title, bool], Shared] | None
    get: Callable[[Shared], int] | None

    @property
    def copies(self) -> bool:
        """Whether a handle of it is a copy of the payload at its time."""
        return self.type.copy_transference

    @property
    def number(self) -> int:
        """Which kind of object it shares, as the page of a payload says it."""
        return titles.SEMAPHORE if self.type.object == "semaphore" else titles.FENCE

    @property
    def counts_always(self) -> bool:
        """Whether what is behind it counts, also for a binary semaphore: fences of D3D12."""
        return self.type.name == "d3d12_fence"

    def carries(self, timeline: bool) -> bool:
        """Whether it shares this kind of semaphore."""
        return not (timeline and self.copies)


def _carrier(type: HandleType) -> SyncCarrier:
    if type.copy_transference:
        return SyncCarrier(type, None, None, None)
    if type.kind == "fd":
        return SyncCarrier(type, shared.create_fd, shared.open_fd, shared.get_fd)
    if type.kind == "kmt":
        opens = partial(shared.open_handle, kmt=True)
        return SyncCarrier(type, shared.create_kmt, opens, shared.get_kmt)
    opens = partial(shared.open_handle, kmt=False)
    return SyncCarrier(type, shared.create_nt, opens, shared.get_nt)


CARRIERS: dict[tuple[str, int], SyncCarrier] = {
    (each.object, each.bit): _carrier(each)
    for each in (*SEMAPHORE, *FENCE)
    if each.kind != "fd" or sys.platform == "linux"
}

_FEATURES = {
    "semaphore": int(
        c.VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT
        | c.VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT
    ),
    "fence": int(
        c.VK_EXTERNAL_FENCE_FEATURE_EXPORTABLE_BIT | c.VK_EXTERNAL_FENCE_FEATURE_IMPORTABLE_BIT
    ),
}


def carrier_of(object: str, handle_type: int) -> SyncCarrier | None:
    """The carrier of one handle type of "semaphore" or "fence"."""
    return CARRIERS.get((object, handle_type))


def capabilities(object: str, handle_type: int, timeline: bool) -> tuple[int, int]:
    """Features, and the types that go with this one: itself alone, as each payload is carried in
    one way. What was imported as it is exported as it.
    """
    carrier = carrier_of(object, handle_type)
    if carrier is None or not carrier.carries(timeline):
        return 0, 0
    return _FEATURES[object], carrier.type.bit
