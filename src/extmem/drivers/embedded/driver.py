"""The embedded device as a driver: which callable does this command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from extmem.drivers.embedded import (
    commands,
    device,
    images,
    instance,
    memory,
    physical,
    queue,
    resources,
    sync,
    sync_external,
    win32,
)
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.instance import Instance
from extmem.drivers.embedded.limits import API_VERSION
from extmem.drivers.embedded.objects import Failure, find, guarded
from extmem.vk import _constants as c

if TYPE_CHECKING:
    from extmem.drivers.driver import Command
    from extmem.vk._prototype import Prototype

__all__ = ["EmbeddedDriver"]

# Each command is the function of its name in one of these.
_PLAIN: dict[str, Callable[..., Any]] = {
    name: value
    for module in (
        instance,
        physical,
        images,
        device,
        memory,
        resources,
        commands,
        queue,
        sync,
        sync_external,
        win32,
    )
    for name, value in vars(module).items()
    if name.startswith("vk")
}

_VERSIONS = {
    "VK_VERSION_1_0": int(c.VK_API_VERSION_1_0),
    "VK_VERSION_1_1": int(c.VK_API_VERSION_1_1),
    "VK_VERSION_1_2": int(c.VK_API_VERSION_1_2),
    "VK_VERSION_1_3": int(c.VK_API_VERSION_1_3),
}

_guarded: dict[str, Command] = {}


def _command(prototype: Prototype) -> Command | None:
    """Our function for this command, made safe to call; the same one each time."""
    plain = _PLAIN.get(prototype.name)
    if plain is None:
        return None
    return _guarded.setdefault(prototype.name, guarded(plain, prototype.result == "VkResult"))


def _provided(prototype: Prototype, spelling: str, version: int, extensions: set[str]) -> bool:
    """Whether this spelling exists at this version and with these extensions."""
    for provider in prototype.provided.get(spelling, ()):
        if provider in extensions or _VERSIONS.get(provider, version + 1) <= version:
            return True
    return False


class EmbeddedDriver:
    """A Vulkan driver of plain shared memory, in this process."""

    name = "embedded"
    origin = "built in"

    def __repr__(self) -> str:
        return "<EmbeddedDriver>"

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        return {}  # all that it offers is its own

    # What rules ask of handles: `drivers.driver.Provenance`.
    origin_of = staticmethod(win32.origin_of)
    fingerprint = staticmethod(win32.fingerprint)

    # The same of semaphores and fences: `drivers.driver.SyncProvenance`.
    sync_origin_of = staticmethod(sync_external.sync_origin_of)

    # What the host's waits take: `drivers.driver.Timelines`.
    timeline = staticmethod(sync.timeline)

    # What the objects leave for importers: `drivers.driver.Stamps`.
    stamp = staticmethod(win32.stamp)
    stamped = staticmethod(win32.stamped)

    # What mappings ask: `drivers.driver.ReadOnlyImports`.
    read_only = staticmethod(memory.read_only)

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        if not _provided(prototype, spelling, API_VERSION, set()):
            return None
        return _command(prototype)

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        try:
            owner = find(Instance, instance)
        except Failure:
            return None
        if not _provided(prototype, spelling, owner.version, owner.extensions):
            return None
        return _command(prototype)

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        try:
            owner = find(Device, device)
        except Failure:
            return None
        if not _provided(prototype, spelling, owner.version, owner.extensions):
            return None
        return _command(prototype)
