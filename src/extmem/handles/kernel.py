"""What Windows' kernel does for shared objects, as this package asks for it, on every system.

On Windows `extmem.handles.nt` answers with kernel32 and ntdll. On Linux `extmem.handles.directory`
answers: a service that has handle tables and a namespace for this user's processes. Both behave
alike: a program that is written against this runs unchanged.

Handles are plain integers, multiples of four, that mean something in one process only; the caller
owns and closes them. Failures are `OSError` with `winerror` (on both systems) and a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ACCESS_ALL",
    "ACCESS_READ",
    "ACCESS_WRITE",
    "Directory",
    "Kernel",
    "ObjectInfo",
    "Security",
]

# What a handle may be used for, in the words that DXGI and Vulkan use for shared resources.
ACCESS_READ = 0x80000000  # DXGI_SHARED_RESOURCE_READ, the value of GENERIC_READ
ACCESS_WRITE = 0x1  # DXGI_SHARED_RESOURCE_WRITE
ACCESS_ALL = 0x10000000  # GENERIC_ALL


@dataclass(frozen=True, slots=True)
class Security:
    """Who may open an object by name, and whether its handle is inherited by child processes."""

    descriptor: str | None = None  # SDDL, as "D:(A;;GA;;;WD)"; None: the creator's default
    inherit: bool = False


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the kernel says of an open handle."""

    type_name: str  # "Section", "Event", "Mutant", ...
    name: str | None  # with its prefix, None if it has none
    handle_count: int  # open handles to the object, in all processes
    access: int  # what this handle grants, in the kernel's own bits
    identity: int  # equal for handles of one object, as far as the system can tell; else 0


class Kernel(Protocol):
    """The calls."""

    # -- sections: shared memory ----------------------------------------------------------------

    def create_section(
        self,
        size: int,  # bytes
        *,
        name: str | None = None,  # "Local\\frame"; OSError 183 (ERROR_ALREADY_EXISTS) if taken
        access: int = ACCESS_ALL,  # of the handle that is returned
        security: Security | None = None,
    ) -> int:
        """Make a section of zeros; its first handle. The name dies with the last handle."""

    def open_section(self, name: str, access: int = ACCESS_ALL) -> int:
        """A handle of a named section. OSError 2 (not found), 5 (denied), 6 (another kind)."""

    def section_size(self, handle: int) -> int:
        """How large a section is, in bytes."""

    def map_section(self, handle: int, size: int, *, write: bool = True) -> int:
        """Map a section from its start; the address. The view keeps the pages, not the name."""

    def unmap_section(self, address: int, size: int) -> None:
        """Take a view away."""

    # -- handles --------------------------------------------------------------------------------

    def close(self, handle: int) -> None:
        """CloseHandle. OSError 6 if it is not open."""

    def let_go(self, handle: int) -> None:
        """Close a handle that this package opened for itself.

        That it is gone already, because the directory that had it ended, is no error: there is
        nothing left to close, and whatever else is to be cleaned up must not wait for it.
        """

    def duplicate(
        self,
        handle: int,
        *,
        access: int | None = None,  # None: the same
        inherit: bool = False,
        source: int | None = None,  # a process handle; None: this process
        target: int | None = None,  # a process handle; None: this process
        close_source: bool = False,
    ) -> int:
        """DuplicateHandle: a handle in the target process, of the object in the source process."""

    def info(self, handle: int) -> ObjectInfo:
        """NtQueryObject. OSError 6 if the handle is not open."""

    def same_object(self, first: int, second: int) -> bool:
        """CompareObjectHandles."""

    def flags(self, handle: int) -> int:
        """GetHandleInformation: 1 inherit, 2 protected from close."""

    def set_flags(self, handle: int, mask: int, flags: int) -> None:
        """SetHandleInformation."""

    # -- processes and the kernel itself --------------------------------------------------------

    @property
    def epoch(self) -> bytes:
        """Which life of the kernel was met last: the directory can end, and another one begin,
        which has none of its handles and names. Windows has one life.
        """

    @property
    def lost(self) -> str:
        """Why handles and names that this process counts on may not be there, beside what each
        error says: the directory that had them ended, or they were not inherited. "" if nothing is.
        """

    def current_process(self) -> int:
        """GetCurrentProcess: the pseudo-handle, which needs no closing."""

    def open_process(self, access: int, inherit: bool, process_id: int) -> int:
        """OpenProcess."""

    def count_handles(self) -> int:
        """How many handles this process has open, for leak tests."""

    def child_environment(self) -> dict[str, str]:
        """What a child's environment needs for it to inherit handles; for one child."""


class Directory(Kernel, Protocol):
    """What the stand-in for Windows' kernel does besides, for drivers that share by descriptors."""

    def share(
        self,
        fd: int,  # stays the caller's
        kind: str,  # "Memory", "Semaphore", "Fence"
        *,
        name: str | None = None,
        access: int = ACCESS_ALL,  # nothing less can be granted
        security: Security | None = None,
        passport: bytes = b"",  # what importers have to know
    ) -> int:
        """An object that stands for a driver's descriptor; its first handle."""

    def open_named(self, name: str, kind: str, access: int = ACCESS_ALL) -> int:
        """A handle of an object of any kind, by its name."""

    def descriptor(self, handle: int) -> int:
        """A new descriptor of what a handle stands for; the caller's."""

    def passport(self, handle: int) -> bytes:
        """What the maker of the object laid beside it; b"" if nothing."""
