"""Which driver: by name, once per process."""

from __future__ import annotations

import os
import sys
import threading

from extmem.drivers.driver import Driver
from extmem.drivers.loader import SystemDriver
from extmem.drivers.nv_by_khr import NvByKhr

__all__ = ["ENVIRONMENT", "open_driver", "requested"]

ENVIRONMENT = "EXTMEM_DRIVER"

_drivers: dict[str, Driver] = {}
_lock = threading.Lock()


def requested(name: str | None) -> str:
    """The driver that was asked for: the argument, else the environment, else "auto"."""
    if name not in (None, "auto"):
        return str(name)
    return os.environ.get(ENVIRONMENT) or "auto"


def open_driver(name: str) -> Driver:
    """The driver called "embedded", "system", or by a path. DriverNotFound if there is none."""
    key = name if name in ("embedded", "system") else os.path.realpath(name)
    with _lock:
        if key not in _drivers:
            if name == "embedded":
                # Here and not at the top: a program on a real driver never needs it.
                from extmem.drivers.embedded import EmbeddedDriver

                _drivers[key] = EmbeddedDriver()
            else:
                _drivers[key] = _dressed(SystemDriver(None if name == "system" else name))
        return _drivers[key]


def _dressed(driver: Driver) -> Driver:
    """A driver with both Win32 extensions, carried where they are not its own."""
    if sys.platform != "win32":
        from extmem.drivers.bridge import Bridge

        driver = Bridge(driver)
    return NvByKhr(driver)
