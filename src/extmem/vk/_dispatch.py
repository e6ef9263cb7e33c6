"""The table that every Vulkan handle carries: which function of which driver answers it."""

from __future__ import annotations

import os
import weakref
from typing import Any

from extmem.errors import CommandUnavailable
from extmem.vk import _prototypes
from extmem.vk._prototype import Prototype

__all__ = ["FORKED", "Dispatch", "core_version", "forked"]

FORKED = (
    "it belongs to the process that this one was forked from, and drivers do not survive a fork; "
    "start processes with multiprocessing's spawn or forkserver (multiprocessing.get_context), "
    "and pass them the Memory: it arrives as an import"
)


def core_version(provider: str) -> int | None:
    """The version number of "VK_VERSION_1_x"; None for an extension."""
    if not provider.startswith("VK_VERSION_"):
        return None
    major, minor = provider.removeprefix("VK_VERSION_").split("_")
    return int(major) << 22 | int(minor) << 12


class Dispatch:
    """The commands of one instance, or of one device.

    A command is looked up on first use and then is an attribute: `dispatch.vkAllocateMemory`.
    """

    def __init__(
        self,
        driver: Any,  # drivers.driver.Driver
        *,
        instance: int,
        device: int | None,
        version: int,
        extensions: frozenset[str],
        checks: str,
        parent: Dispatch | None,
    ) -> None:
        self.driver = driver
        self.instance = instance
        self.device = device  # None in an instance's table
        self.version = version  # the core version that may be used, as VK_MAKE_API_VERSION
        self.extensions = extensions  # those enabled
        self.checks = checks  # "full", "cheap" or "off"
        self.unchecked = checks == "off"  # and alive: what the short ways of hot calls look at
        # Whether a host's signal of a timeline, to a value that is near zero, can break no rule:
        # until something is submitted, or without checks.
        self.signals_freely = True
        self.parent = parent  # a device's instance table
        self.alive = True
        self.forked = False  # made in the process that this one was forked from
        self.physical = 0  # a device's VkPhysicalDevice
        self.world: Any = None  # world.World; set by whoever makes the table
        self.views: dict[int, Any] = {}  # VkDeviceMemory to its mapping, see vk.mappings
        _tables.add(self)

    def __repr__(self) -> str:
        what = "instance" if self.device is None else "device"
        state = "" if self.alive else ", destroyed"
        return f"<Dispatch {what} of {self.driver.name}{state}>"

    def end(self) -> None:
        """Nothing can be called through it any more."""
        self.alive = self.unchecked = self.signals_freely = False

    def enabled(self, provider: str) -> bool:
        """Whether a core version or an extension may be used here."""
        core = core_version(provider)
        if core is not None:
            return core <= self.version
        return provider in self.extensions

    def __getattr__(self, name: str) -> Any:
        prototype = getattr(_prototypes, name, None)
        if not isinstance(prototype, Prototype):
            raise AttributeError(name)
        command = self._find(prototype)
        if command is None:
            raise CommandUnavailable(self._why_not(prototype))
        self.__dict__[name] = command
        return command

    def has(self, name: str) -> bool:
        """Whether the command can be called here."""
        try:
            getattr(self, name)
        except CommandUnavailable:
            return False
        return True

    def _find(self, prototype: Prototype) -> Any:
        for spelling, providers in prototype.provided.items():
            if not any(self.enabled(provider) for provider in providers):
                continue
            if self.device is None or prototype.level != "device":
                found = self.driver.instance_command(self.instance, prototype, spelling)
            else:
                found = self.driver.device_command(self.instance, self.device, prototype, spelling)
            if found is not None:
                return found
        return None

    def _why_not(self, prototype: Prototype) -> str:
        providers = [p for group in prototype.provided.values() for p in group]
        usable = [p for p in providers if self.enabled(p)]
        if usable:
            return (
                f"{prototype.name}: the driver {self.driver.name} does not have it, although "
                f"{usable[0]} is enabled; ask its extensions first"
            )
        ways = []
        for provider in dict.fromkeys(providers):
            core = core_version(provider)
            if core is not None:
                ways.append(
                    f"Vulkan 1.{core >> 12 & 0x3FF} (VkApplicationInfo.apiVersion, and a device "
                    "that has it)"
                )
            else:
                where = "VkInstanceCreateInfo" if self.device is None else "VkDeviceCreateInfo"
                ways.append(f"{provider} (ppEnabledExtensionNames of {where})")
        return f"{prototype.name} is not enabled here; it needs {' or '.join(ways)}"


# Every table that is there: after a fork the child can use none of them. It finds that out because
# they look destroyed to it, so that no call ever asks.
_tables: weakref.WeakSet[Dispatch] = weakref.WeakSet()
_forked = False


def forked() -> bool:
    """Whether this process was forked from one that had a driver in use."""
    return _forked


def _give_up() -> None:
    """In a child, right after the fork."""
    global _forked
    for table in _tables:
        _forked = True
        table.end()
        table.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)
