"""Access rights: the words of shared resources, and the bits that the kernel keeps in a handle."""

from __future__ import annotations

from dataclasses import dataclass

from extmem.handles.kernel import ACCESS_WRITE

__all__ = [
    "FENCE",
    "MAXIMUM_ALLOWED",
    "MEMORY",
    "PROCESS",
    "SECTION",
    "SECTION_FULL",
    "SEMAPHORE",
    "Kind",
    "section_bits",
]

GENERIC_READ = 0x80000000
GENERIC_WRITE = 0x40000000
GENERIC_EXECUTE = 0x20000000
GENERIC_ALL = 0x10000000
MAXIMUM_ALLOWED = 0x02000000  # all that the one who asks may have

READ_CONTROL = 0x00020000  # read the security descriptor
WRITE_DAC = 0x00040000  # change it

SECTION_QUERY = 0x1
SECTION_MAP_WRITE = 0x2
SECTION_MAP_READ = 0x4
SECTION_FULL = 0xF0007  # what the maker of a section gets: everything but to run or extend it

PROCESS_DUP_HANDLE = 0x40

_GENERIC = GENERIC_READ | GENERIC_WRITE | GENERIC_EXECUTE | GENERIC_ALL


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of kernel object, and what the generic rights mean for it."""

    name: str  # as NtQueryObject says it
    read: int
    write: int
    execute: int
    all: int

    def bits(self, mask: int) -> int:
        """A mask with its generic rights spelt out."""
        result = mask & ~_GENERIC
        if mask & GENERIC_READ:
            result |= self.read
        if mask & GENERIC_WRITE:
            result |= self.write
        if mask & GENERIC_EXECUTE:
            result |= self.execute
        if mask & GENERIC_ALL:
            result |= self.all
        return result


SECTION = Kind("Section", 0x20005, 0x20002, 0x20008, 0xF001F)
# What drivers share by a descriptor, which a system without Windows gives a name and rights.
MEMORY = Kind("Memory", 0x20005, 0x20003, 0x20001, SECTION_FULL)
SEMAPHORE = Kind("Semaphore", 0x20005, 0x20003, 0x20001, SECTION_FULL)
FENCE = Kind("Fence", 0x20005, 0x20003, 0x20001, SECTION_FULL)
PROCESS = Kind("Process", 0x20410, 0x20BEB, 0x121001, 0x1FFFFF)


def section_bits(access: int) -> int:
    """The kernel's bits for a section, from the words of DXGI and Vulkan or from such bits.

    The words are GENERIC_READ, GENERIC_ALL and DXGI_SHARED_RESOURCE_WRITE. The last has the value
    of SECTION_QUERY, so it is taken for a word only where no bit of the kernel's own is beside it:
    nobody wants a handle that can be asked and not mapped. Generic rights never ask for more than
    the maker of a section has, because a handle of a section without a name cannot be widened.

    >>> hex(section_bits(0x80000000)), hex(section_bits(0x80000001)), hex(section_bits(0x10000000))
    ('0x20005', '0x20007', '0xf0007')
    >>> hex(section_bits(0xF001F))  # FILE_MAP_ALL_ACCESS
    '0xf001f'
    """
    own = access & ~(_GENERIC | MAXIMUM_ALLOWED)
    result = access & ~_GENERIC
    if own == ACCESS_WRITE:
        result = result & ~ACCESS_WRITE | READ_CONTROL | SECTION_QUERY | SECTION_MAP_WRITE
    if access & GENERIC_READ:
        result |= READ_CONTROL | SECTION_QUERY | SECTION_MAP_READ
    if access & GENERIC_WRITE:
        result |= READ_CONTROL | SECTION_QUERY | SECTION_MAP_WRITE
    if access & GENERIC_EXECUTE:
        result |= SECTION.execute
    if access & GENERIC_ALL:
        result |= SECTION_FULL
    return result
