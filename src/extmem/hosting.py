"""The embedded device of this process: whose semaphores stand beside memory of other drivers."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from extmem.share.passport import Place, SyncPassport

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["host_device", "of_the_host"]

_host: list[Device] = []
_lock = threading.Lock()


def host_device() -> Device:
    """The embedded device of this process that semaphores with host=True are of.

    It is opened on first use, and closed when the process ends.
    """
    from extmem.opening import open_device  # which is made of devices, and they of this

    with _lock:
        if not _host or _host[-1].closed:
            _host[:] = [open_device(driver="embedded")]
            atexit.register(_host[0].close)
        return _host[0]


def of_the_host(device: Device, passport: SyncPassport) -> bool:
    """Whether a passport is of the embedded device, and this device is another one."""
    if passport.object != "semaphore" or passport.place is None or device.driver == "embedded":
        return False
    there: Place = passport.place
    return there.device_uuid == host_device().physical.device_uuid
