"""The drivers that a command looks at: one that was named, or all that there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from extmem.capabilities import PhysicalDevice
from extmem.drivers.open import open_driver
from extmem.errors import ExtmemError
from extmem.opening import physical_devices
from extmem.vk.instances import choose_driver

__all__ = ["Found", "each_driver"]


class Found(NamedTuple):
    """A driver that is there."""

    name: str
    origin: str  # where it comes from, in words
    devices: list[PhysicalDevice]


def each_driver(driver: str, missing: list[dict[str, str]]) -> Iterator[Found]:
    """The driver of that name; of "all", those that are there.

    missing: gets those of "all" that are not there, each with the reason

    >>> [each.name for each in each_driver("embedded", [])]
    ['embedded']
    """
    for name in ("system", "embedded") if driver == "all" else (driver,):
        try:
            actual = choose_driver(name).driver.name
            found = Found(actual, open_driver(actual).origin, physical_devices(actual))
        except ExtmemError as error:
            if driver != "all":
                raise
            missing.append({"driver": name, "reason": str(error)})
        else:
            yield found
