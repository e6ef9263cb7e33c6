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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # or whoever imports this first would have the whole of extmem.vk come first
    from extmem.vk._prototype import Prototype

__all__ = [
    "Command",
    "Driver",
    "HandleOrigin",
    "Provenance",
    "ReadOnlyImports",
    "Stamps",
    "SyncOrigin",
    "SyncProvenance",
    "Timeline",
    "Timelines",
]

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

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        """Extensions of a physical device that are not the driver's own, each with the extension
        that carries it: `{"VK_NV_external_memory_win32": "VK_KHR_external_memory_win32"}`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleOrigin:
    """What is known of the memory behind a Windows handle, a KMT number or a name.

    Whatever is None is not known, and not checked.
    """

    types: int  # core handle types that it goes by, a mask; 0: it is no memory of this driver
    stale: bool = False  # a number whose owner is gone
    device: bytes | None = None  # deviceUUID and driverUUID of its maker
    driver: bytes | None = None
    size: int | None = None  # allocationSize of the exporter; of other APIs' things, their bytes
    by_vulkan: bool = True  # exported by Vulkan; else another API's, and what follows is unknown
    type_index: int | None = None  # memoryTypeIndex of the exporter
    memory_types: int | None = None  # of another API's: the mask of types to import it as
    mask: int = 0  # the exporter's device mask, 0 where unknown
    dedicated: str | None = None  # "VkBuffer", "VkImage", "" for no dedicated allocation
    made_with: bytes | None = None  # the fingerprint of that resource


@runtime_checkable
class Provenance(Protocol):
    """A driver that can tell where Windows handles come from. Not every driver can.

    Rules ask it before an import, so it answers without a side effect and never raises: what it
    cannot find out is None. It says what it knows, not whether the import is right.
    """

    def origin_of(self, handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
        """What is behind a handle or a KMT number of this process, or behind a name.

        handle_type: one core type (NV's types are asked by their twins); says what `handle` is
        handle: 0 where the name counts
        """

    def fingerprint(self, device: int, kind: str, resource: int) -> bytes | None:
        """Equal for resources that were created identically, in every process.

        kind: "VkBuffer" or "VkImage"
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOrigin:
    """What is known of the semaphore or fence behind a handle, a KMT number or a name.

    Whatever is None is not known, and not checked.
    """

    object: str  # "semaphore", "fence", or "" where it is neither of this driver's
    types: int  # handle types of that object that it goes by, a mask; 0: none
    stale: bool = False  # a number whose owner is gone
    device: bytes | None = None  # deviceUUID and driverUUID of its maker
    driver: bytes | None = None
    timeline: bool | None = None  # of semaphores: a timeline, else binary
    flags: int | None = None  # that it was created with


@runtime_checkable
class SyncProvenance(Protocol):
    """A driver that can tell where handles of semaphores and fences come from.

    As `Provenance`: no side effect, no exception, and it says what it knows.
    """

    def sync_origin_of(
        self, object: str, handle_type: int, handle: int, name: str | None
    ) -> SyncOrigin | None:
        """What is behind a handle, a number or a descriptor of this process, or behind a name.

        object: "semaphore" or "fence": whose handle type it is
        handle_type: one type of that object; says what `handle` is
        handle: 0 where the name counts
        """


@runtime_checkable
class ReadOnlyImports(Protocol):
    """A driver that imports memory for reading alone, where a handle grants no more.

    Vulkan has no such mapping: a program that writes into it would fault. So the views of it are
    made read-only above.
    """

    def read_only(self, device: int, memory: int) -> bool:
        """Whether mapped memory of this import may be read and not written."""


@runtime_checkable
class Stamps(Protocol):
    """A driver whose Windows handles carry their exporter's passport with them."""

    def stamp(self, device: int, memory: int, passport: bytes) -> None:
        """Lay a passport beside exported memory; before its first handle is fetched."""

    def stamped(self, handle_type: int, handle: int, name: str | None) -> bytes:
        """The passport that lies behind a handle, a number or a name; b"" if there is none.

        Its bytes are a stranger's. Never raises.
        """


class Timeline(Protocol):
    """A timeline semaphore of a device in Python, with nothing between it and whoever waits.

    For the host's waits, which are the same as the driver's commands but for what C needs. Where
    one of these raises, whatever it is, the command is called and says what is wrong.
    """

    def read(self) -> int:
        """What it has reached."""

    def signal(self, value: int) -> None:
        """Set it to a larger value."""

    def quick(self) -> Callable[[int], bool] | None:
        """The quickest way to set it to a larger value: a function that says whether it did, and
        has changed nothing if not. It may be kept, and says no when the semaphore is gone.
        """

    def sleep(self, value: int, seconds: float) -> bool:
        """Until it has reached a value, for a while at most; whether it has. It may be early."""


@runtime_checkable
class Timelines(Protocol):
    """A driver whose semaphores can be had directly."""

    def timeline(self, device: int, semaphore: int) -> Timeline | None:
        """Of a timeline semaphore, until it is destroyed; None where the commands are the way."""
