"""Who tries an import in a process of its own before it is made here: `import_memory(quarantine=)`.

That takes what the rooms above have: processes, and ways to hand them handles. So they say who it
is (`appoint`), and this room asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from extmem.errors import Unsupported
from extmem.handle_types import HandleType
from extmem.share.passport import Passport

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["Examiner", "appoint", "examiner_of"]


class Examiner(Protocol):
    """Tries the imports of one device."""

    def examine(
        self,
        source: HandleType,
        handle: Any,  # a number or a `Handle`, which stays the caller's; None where the name counts
        *,
        name: str | None,
        size: int | None,
        memory_type: str | int | None,
        dedicated: bool | None,
        passport: Passport | bytes | None,
    ) -> None:
        """Import as `Device.import_memory` does, elsewhere; its error, or QuarantineError."""

    def close(self) -> None:
        """The device is closed."""

    def give_up(self) -> None:
        """In a forked child: forget what belongs to the parent."""


_appointed: list[Callable[[Device], Examiner]] = []
_lock = threading.Lock()


def appoint(make: Callable[[Device], Examiner]) -> None:
    """Who examines from now on: for each device, one that `make` makes."""
    _appointed[:] = [make]


def examiner_of(device: Device) -> Examiner:
    """The one of a device, made on first use."""
    if not _appointed:
        raise Unsupported(
            "nobody is there to try an import in quarantine: `import extmem.share.quarantine`, "
            "which comes with extmem.open_device"
        )
    with _lock:
        if device._examiner is None:
            device._examiner = _appointed[0](device)
        return device._examiner
