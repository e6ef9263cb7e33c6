"""How much one client may have, and all of them together. Each limit says so when it is met."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extmem.handles import winerror
from extmem.handles.winerror import failure

__all__ = ["Limits", "too_many", "within"]

_SPARE = 64  # descriptors for the service's own use


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts, where nothing else is said."""

    handles: int = 65_536  # open in one process
    all_handles: int = 524_288
    objects: int = 16_384  # made by one process and still there
    all_objects: int = 65_536
    names: int = 16_384  # given by one process
    all_names: int = 65_536
    processes: int = 4_096  # that have a table
    connections: int = 32  # of one process
    all_connections: int = 4_096
    guests: int = 64  # connections of one other user: each borrows one object
    all_guests: int = 512
    tokens: int = 64  # of inheritance, given to one process and not claimed
    descriptors: int = 1_000_000  # of the service; the system's own limit is lower, mostly
    token_seconds: float = 60.0
    foreign_seconds: float = 1.0  # that another user's directory has to answer
    silent_seconds: float = 5.0  # that a connection has to say who it is


def within(limits: Limits, descriptors: int) -> Limits:
    """Those that a service can have which may open so many descriptors."""
    # A connection takes one, and its process another.
    connections = min(limits.all_connections, max(8, (descriptors - _SPARE) // 8))
    processes = min(limits.processes, connections)
    guests = min(limits.all_guests, connections)
    rest = descriptors - _SPARE - connections - processes - guests
    return replace(
        limits,
        all_connections=connections,
        processes=processes,
        all_guests=guests,
        descriptors=min(limits.descriptors, max(rest, 8)),
    )


def too_many(asked: str, what: str, limit: int, remedy: str = "close some") -> OSError:
    """The error for a limit that is met."""
    return failure(
        winerror.NO_SYSTEM_RESOURCES, asked, f"{what}: the limit of {limit} is reached; {remedy}"
    )
