"""The devices that samples are taken on: each is opened once, when something of it is looked at."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from extmem.drivers.embedded.limits import DRIVER_UUID
from extmem.opening import open_device

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.share.passport import Place

__all__ = ["Devices"]


class Devices:
    """The open devices. A context manager."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[tuple[str, bytes | None], Device] = {}

    def of(self, place: Place | None) -> Device:
        """The device where something is; without a place the one that is opened by default.

        Which driver that is, is not taken from a stranger, beyond whether it is our own.
        """
        which: tuple[str, bytes | None] = ("auto", None)
        if place is not None:
            ours = place.driver_uuid == DRIVER_UUID
            which = ("embedded" if ours else "auto", place.device_uuid)
        with self._guard:
            if which not in self._open:
                self._open[which] = open_device(driver=which[0], uuid=which[1])
            return self._open[which]

    def close(self) -> None:
        """Close all of them."""
        with self._guard:
            while self._open:
                self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
