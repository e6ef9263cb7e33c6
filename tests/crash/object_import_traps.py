"""Imports of memory as objects: of other things, with other sizes and forged passports."""

from __future__ import annotations

import mmap
import os
import socket
import sys
import tempfile
from typing import Any

import msgspec
import numpy as np

from extmem import (
    ClosedError,
    PassportError,
    RuleViolation,
    Unsupported,
)
from extmem.device import Device
from extmem.handles.handle import Handle
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_NO_MEMORY = "VUID-VkImportMemoryFdInfoKHR-handleType-00670"
_DEAD = "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00661"
_UNKNOWN = "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01440"


def _native(gpu: Device) -> str:
    """A handle type that the device exports on this system."""
    names = ("opaque_fd", "opaque_win32") if sys.platform == "linux" else ("opaque_win32",)
    for name in names:
        if gpu.physical.can_export(name):
            return name
    driver_cannot("it exports no memory")


def _telling(here: Scene, handle: Handle) -> None:
    """Skip where the handle does not tell what it is of."""
    if handle.handle_type.kind == "fd":
        os.close(here.telling(os.dup(handle.value)))


@trap(ValueError, says="pass a handle to import, or a name")
def import_of_nothing(here: Scene) -> None:
    here.gpu.import_memory()


@trap(ValueError, says="pass a handle to import or a name, and not both")
def import_of_a_handle_and_a_name(here: Scene) -> None:
    here.gpu.import_memory(3, name="both")


@trap(_NO_MEMORY, on="linux", needs="vkGetMemoryFdKHR")
def import_of_a_pipe(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(writing)
    here.gpu.import_memory(here.fd(reading), size=4096)


@trap(_NO_MEMORY, on="linux", needs="vkGetMemoryFdKHR")
def import_of_a_socket(here: Scene) -> None:
    one, other = socket.socketpair()
    here.fd(other.detach())
    here.gpu.import_memory(here.fd(one.detach()), handle_type="opaque_fd", size=4096)


@trap(_NO_MEMORY, on="linux", needs="vkGetMemoryFdKHR")
def import_of_a_file(here: Scene) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(65536)
        here.gpu.import_memory(here.fd(os.dup(file.fileno())), size=4096)


@trap(OSError, says="descriptor 9999 is not open", on="linux", needs="vkGetMemoryFdKHR")
def import_of_a_closed_number(here: Scene) -> None:
    here.gpu.import_memory(9999, size=4096)


@trap(OSError, says="-1 is not open", on="linux", needs="vkGetMemoryFdKHR")
def import_of_a_negative_number(here: Scene) -> None:
    here.gpu.import_memory(-1, size=4096)


@trap(OverflowError, OSError, ValueError, says="too large|int|number|not open", on="linux",
      needs="vkGetMemoryFdKHR")  # fmt: skip
def import_of_a_number_of_80_bits(here: Scene) -> None:
    here.gpu.import_memory(1 << 80, handle_type="opaque_fd", size=4096)


@trap(ValueError, says=r"pass size= or passport=", on="linux", needs="vkGetMemoryFdKHR")
def import_without_a_size(here: Scene) -> None:
    with here.gpu.allocate(4096, export="opaque_fd") as memory, memory.export() as handle:
        here.gpu.import_memory(handle.value)


@trap("VUID-VkMemoryAllocateInfo-allocationSize-01742", on="linux", needs="vkGetMemoryFdKHR")
def import_with_another_size(here: Scene) -> None:
    with here.gpu.allocate(1 << 20, export="opaque_fd") as memory, memory.export() as handle:
        _telling(here, handle)
        here.gpu.import_memory(handle.value, size=64)


@trap(PassportError, says="size is 64, but the passport of this memory says 4096")
def import_with_a_size_that_its_passport_denies(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        here.gpu.import_memory(handle, size=64)


@trap(PassportError, says="passport")
def import_with_a_passport_of_noise(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        here.gpu.import_memory(handle.value, handle_type=kind, passport=os.urandom(200))


@trap(PassportError, says="passport")
def import_with_an_empty_passport(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        here.gpu.import_memory(handle.value, handle_type=kind, passport=b"")


@trap(PassportError, says="passport")
def import_with_a_passport_of_a_megabyte(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        here.gpu.import_memory(handle.value, handle_type=kind, passport=bytes(1 << 20))


@trap(PassportError, says="memory type 31")
def import_with_a_passport_for_memory_type_31(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        passport: Any = handle.passport
        forged = msgspec.structs.replace(passport, memory_type=31)
        here.gpu.import_memory(handle.value, handle_type=kind, passport=forged)


@trap(RuleViolation, PassportError, says="bytes")
def import_with_a_passport_for_more_bytes(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        passport: Any = handle.passport
        forged = msgspec.structs.replace(passport, size=1 << 26, allocation_size=1 << 26)
        _telling(here, handle)
        here.gpu.import_memory(handle.value, handle_type=kind, passport=forged)


@trap(PassportError, says="buffer|dedicated|mistake")
def import_with_a_passport_for_a_larger_buffer(here: Scene) -> None:
    kind = _native(here.gpu)
    exported = here.gpu.allocate(4096, export=kind, dedicated=True)
    with exported as memory, memory.export() as handle:
        passport: Any = handle.passport
        forged = msgspec.structs.replace(
            passport, dedicated=msgspec.structs.replace(passport.dedicated, size=1 << 40)
        )
        here.gpu.import_memory(handle.value, handle_type=kind, passport=forged)


@trap(ClosedError, says="handle is closed")
def import_of_a_closed_handle(here: Scene) -> None:
    with here.gpu.allocate(4096, export=_native(here.gpu)) as memory:
        with memory.export() as handle:
            pass
        here.gpu.import_memory(handle)


@trap(ValueError, says="is no memory; import it with Device.import_semaphore")
def import_of_a_semaphore_as_memory(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done, done.export() as handle:
        here.gpu.import_memory(handle)


@trap(_DEAD, Unsupported, says="cannot import")
def import_of_a_dead_windows_handle(here: Scene) -> None:
    here.gpu.import_memory(0x7FFC, handle_type="opaque_win32", size=4096)


@trap(_UNKNOWN, Unsupported, says="cannot import")
def import_of_a_name_that_nobody_holds(here: Scene) -> None:
    here.gpu.import_memory(name=r"Local\nobody-holds-this-object", size=4096)


@trap(Unsupported, TypeError, says="cannot import|expected a Handle")
def import_of_a_word(here: Scene) -> None:
    here.gpu.import_memory("a word", size=4096)


@trap(TypeError, Unsupported, says="expected a Handle|cannot import")
def import_of_an_object(here: Scene) -> None:
    here.gpu.import_memory(object(), size=4096)


@trap(ValueError, says="is no opaque_win32_kmt|is no dma_buf")
def import_of_a_handle_as_another_type(here: Scene) -> None:
    kind = _native(here.gpu)
    other = "dma_buf" if here.gpu.physical.can_import("dma_buf") else "opaque_win32_kmt"
    if not here.gpu.physical.can_import(other):
        driver_cannot("it imports one type")
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        here.gpu.import_memory(handle, handle_type=other)


def _host(here: Scene) -> None:
    if not here.gpu.physical.can_import("host_allocation"):
        driver_cannot("it imports no host memory")


@trap("VUID-vkGetMemoryHostPointerPropertiesEXT-handleType-01754", on="linux")
def import_of_an_address_of_nothing(here: Scene) -> None:
    _host(here)
    here.gpu.import_memory(0x10000, handle_type="host_allocation", size=4096)


@trap(ValueError, says="pass size=: an address does not tell")
def import_of_an_address_without_a_size(here: Scene) -> None:
    _host(here)
    here.gpu.import_memory(0x10000, handle_type="host_allocation")


@trap(ValueError, says="host memory to import must be writable")
def import_of_bytes_that_cannot_be_written(here: Scene) -> None:
    _host(here)
    here.gpu.import_memory(bytes(4096))


@trap(
    "VUID-vkGetMemoryHostPointerPropertiesEXT-pHostPointer-01753",
    "VUID-VkMemoryAllocateInfo-allocationSize-01745",
    on="linux",
)
def import_of_an_array_between_pages(here: Scene) -> None:
    _host(here)
    here.gpu.import_memory(np.zeros(100, "uint8"))


@trap(ValueError, says="size is 65536, but the buffer has 4096 bytes")
def import_of_more_than_a_buffer_has(here: Scene) -> None:
    _host(here)
    here.gpu.import_memory(mmap.mmap(-1, 4096), size=65536)


@trap(ValueError, TypeError, says="closed|mmap")
def import_of_a_closed_map(here: Scene) -> None:
    _host(here)
    pages = mmap.mmap(-1, 4096)
    pages.close()
    here.gpu.import_memory(pages)
