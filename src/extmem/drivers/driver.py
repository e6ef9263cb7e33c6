"""What a driver is asked.

A driver answers one question: which callable does this command. Everything else (checking,
recording, turning results into exceptions) happens above it, in `extmem.vk`, the same for all.

The callables speak C's conventions through ctypes, so that a function of a real driver and a
Python function of the embedded device are interchangeable:

- All parameters of the C command, in its order, the allocator (always None) included.
- Handles are integers. 0 is VK_NULL_HANDLE.
- Structures come as instances of the classes of `extmem.vk`, or None for NULL. The callee reads
  their members and chains; those that it fills, it fills in place.
- Arrays come as ctypes arrays (`(VkSubmitInfo * 2)`, `(c_uint64 * n)` for handles), or None.
- Strings come as bytes or None; data as c_void_p or None.
- A single result comes as a box to fill: `c_uint64`, `c_uint32`, `c_void_p`, ...: set `.value`.
- A two-call enumeration comes as its count box and an array or None.
- VkResult comes back as an integer; void commands return None.

A callable may block (waits do) and may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from extmem.vk._prototype import Prototype

__all__ = ["Command", "Driver"]

Command = Callable[..., Any]


class Driver(Protocol):
    """Something that answers Vulkan commands."""

    @property
    def name(self) -> str:
        """What it is called in `extmem devices` and in EXTMEM_DRIVER: embedded, system, a path."""

    @property
    def origin(self) -> str:
        """Where it comes from, for people: a library, a manifest, "built in"."""

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        """A command that needs no instance, or None."""

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        """A command of this instance (its physical devices included), or None."""

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        """A command of this device (queues and command buffers included), or None."""
