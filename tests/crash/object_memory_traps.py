"""Memory and buffers as objects: silly sizes, types and words, other things for handles, closed
ones.
"""

from __future__ import annotations

import gc
import mmap
import os
import socket
import sys
import tempfile
from typing import Any

import msgspec
import numpy as np

import extmem
from extmem import (
    ClosedError,
    DriverError,
    ExtmemError,
    PassportError,
    RuleViolation,
    Unsupported,
    ViewsAlive,
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


def _windows(gpu: Device) -> str:
    if not gpu.physical.can_export("opaque_win32"):
        driver_cannot("it exports no Windows handles")
    return "opaque_win32"


# -- allocating -----------------------------------------------------------------------------------


@trap(ValueError, says="size is -1; expected at least 1 byte")
def object_of_less_than_nothing(here: Scene) -> None:
    here.gpu.allocate(-1)


@trap(ValueError, says="size is 0; expected at least 1 byte")
def object_of_no_bytes(here: Scene) -> None:
    here.gpu.allocate(0)


@trap(TypeError, says=r"size is 1.5; expected a number of bytes")
def object_of_one_and_a_half_bytes(here: Scene) -> None:
    here.gpu.allocate(1.5)  # type: ignore[arg-type]


@trap(TypeError, says="size is None; expected a number of bytes")
def object_of_no_size(here: Scene) -> None:
    here.gpu.allocate(None)  # type: ignore[arg-type]


@trap(TypeError, says="size is True; expected a number of bytes")
def object_of_a_truth(here: Scene) -> None:
    here.gpu.allocate(True)


@trap(
    "VUID-vkAllocateMemory-pAllocateInfo-01713",
    "VUID-VkBufferCreateInfo-size-06409",
    DriverError,
    says="OUT_OF",
)
def object_of_an_exabyte(here: Scene) -> None:
    here.gpu.allocate(1 << 60)


@trap(ValueError, says="does not fit")
def object_of_more_than_64_bits(here: Scene) -> None:
    here.gpu.allocate(1 << 64)


@trap(ValueError, says="handle type 'opaque_fdd'; expected one of opaque_fd")
def object_exported_as_what_nobody_knows(here: Scene) -> None:
    here.gpu.allocate(64, export="opaque_fdd")


@trap(Unsupported, says="cannot export host_allocation; it can export")
def object_exported_as_an_address(here: Scene) -> None:
    here.gpu.allocate(64, export="host_allocation")


@trap(Unsupported, "VUID-VkExportMemoryAllocateInfo-handleTypes-09860", says="cannot export")
def object_exported_as_everything(here: Scene) -> None:
    here.gpu.allocate(64, export=["opaque_fd", "opaque_win32", "dma_buf", "d3d12_heap"])


@trap(ValueError, TypeError, says="handle type 7.5|handle type|float")
def object_exported_as_a_fraction(here: Scene) -> None:
    here.gpu.allocate(64, export=7.5)  # type: ignore[arg-type]


@trap(Unsupported, says="name= belongs to a Windows handle")
def name_without_a_windows_handle(here: Scene) -> None:
    here.gpu.allocate(64, name=r"Local\nothing")


@trap(ValueError, says="access is 'some'; expected 'read', 'write', 'all', or a mask")
def access_that_nobody_knows(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), access="some")


@trap(OSError, says="cannot read the security descriptor 'everybody may'")
def security_that_is_no_sddl(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), security="everybody may")


@trap(TypeError, says="security is 7; expected SDDL, or a SECURITY_ATTRIBUTES")
def security_that_is_a_number(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), security=7)


@trap(DriverError, says="name")
def name_in_a_namespace_of_nobody(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), name=r"Nowhere\frame")


@trap(DriverError, ValueError, says="name|NUL")
def name_of_thousands_of_characters(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), name="n" * 40_000)


@trap(TypeError, ValueError, says="NUL|name")
def name_of_memory_with_a_zero_in_it(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), name="Local\\a\0b")


@trap(DriverError, says="taken|there already|exists|name")
def name_that_is_taken(here: Scene) -> None:
    kind, name = _windows(here.gpu), r"Local\extmem-crash-taken"
    with here.gpu.allocate(64, export=kind, name=name) as first:
        here.gpu.allocate(64, export=kind, name=name)
        del first


@trap(ValueError, says="memory is 'fast'; expected 'host_visible', 'device_local' or an index")
def memory_of_a_word_that_nobody_knows(here: Scene) -> None:
    here.gpu.allocate(64, memory="fast")


@trap(ValueError, says="memory type 99; the device has 0 to")
def memory_of_a_type_past_the_last(here: Scene) -> None:
    here.gpu.allocate(64, memory=99)


@trap(ValueError, says="memory type -1; the device has 0 to")
def memory_of_a_type_before_the_first(here: Scene) -> None:
    here.gpu.allocate(64, memory=-1)


@trap(ClosedError, says="this device is closed")
def memory_of_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.allocate(64)


# -- importing ------------------------------------------------------------------------------------


@trap(ValueError, says="pass a handle to import, or a name")
def import_of_nothing(here: Scene) -> None:
    here.gpu.import_memory()


@trap(ValueError, says="pass a handle to import, or a name")
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
        forged = msgspec.structs.replace(handle.passport, memory_type=31)  # type: ignore[type-var]
        here.gpu.import_memory(handle.value, handle_type=kind, passport=forged)


@trap(RuleViolation, PassportError, says="bytes")
def import_with_a_passport_for_more_bytes(here: Scene) -> None:
    kind = _native(here.gpu)
    with here.gpu.allocate(4096, export=kind) as memory, memory.export() as handle:
        forged = msgspec.structs.replace(  # type: ignore[type-var]
            handle.passport, size=1 << 26, allocation_size=1 << 26
        )
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


@trap(Unsupported, TypeError, says="cannot import|bytes-like")
def import_of_a_word(here: Scene) -> None:
    here.gpu.import_memory("a word", size=4096)


@trap(TypeError, Unsupported, says="bytes-like|cannot import")
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


# -- exporting and closing ------------------------------------------------------------------------


@trap(ValueError, says="this memory can be exported as: none")
def export_of_private_memory(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        memory.export()


@trap(Unsupported, says="was not allocated to be exported as host_allocation")
def export_of_memory_as_another_type(here: Scene) -> None:
    with here.gpu.allocate(64, export=_native(here.gpu)) as memory:
        memory.export("host_allocation")


@trap(ClosedError, says="this memory is closed")
def export_of_closed_memory(here: Scene) -> None:
    with here.gpu.allocate(64, export=_native(here.gpu)) as memory:
        pass
    memory.export()


@trap(ClosedError, says="handle is closed")
def duplicate_of_a_closed_handle(here: Scene) -> None:
    with here.gpu.allocate(64, export=_native(here.gpu)) as memory:
        handle = memory.export()
        handle.close()
        handle.duplicate()


@trap(ClosedError, says="handle is closed")
def handle_detached_twice(here: Scene) -> None:
    with here.gpu.allocate(64, export=_native(here.gpu)) as memory:
        handle = memory.export()
        number = handle.detach()
        if handle.handle_type.kind == "fd":
            here.fd(number)
        else:
            here.handle(number)
        handle.detach()


@trap(ValueError, says="handle type 'nonsense'")
def handle_of_a_type_that_nobody_knows(here: Scene) -> None:
    Handle(3, "nonsense")


@trap(ViewsAlive, says="1 view of the memory is still alive")
def memory_closed_while_an_array_looks_at_it(here: Scene) -> None:
    memory = here.gpu.allocate(64)
    array = memory.numpy()
    try:
        memory.close()
    finally:
        array[:] = 7
        del array
        gc.collect()


@trap(ClosedError, says="this memory is closed")
def array_of_closed_memory(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        pass
    memory.numpy()


@trap(ValueError, says=r"\(1000000,\) of float64 needs 8000000 bytes; this memory has 64")
def array_that_is_larger_than_its_memory(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        memory.numpy("float64", 1_000_000)


@trap(ValueError, says="no extent can be negative")
def array_of_a_negative_shape(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        memory.numpy("uint8", (-1, -64))


@trap(ValueError, says="needs")
def array_whose_size_does_not_fit_any_number(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        memory.numpy("uint8", (1 << 40, 1 << 40))


@trap(TypeError, says="holds Python objects, which mean nothing in shared memory")
def array_of_objects(here: Scene) -> None:
    with here.gpu.allocate(64) as memory:
        memory.numpy(object)


@trap(ViewsAlive, says="still alive; delete them first")
def device_closed_while_a_view_looks_at_its_memory(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as mine:
        view = mine.allocate(64).view()
        try:
            mine.close()
        finally:
            view[0] = 7
            del view
            gc.collect()


# -- buffers --------------------------------------------------------------------------------------


@trap(ValueError, says="is of another device")
def buffer_over_memory_of_another_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as other, other.allocate(64) as memory:
        here.gpu.buffer(memory)


@trap("VUID-vkBindBufferMemory-memoryOffset-01031", ValueError, Unsupported, says="size is|bytes")
def buffer_over_what_is_behind_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, offset=1 << 30, size=64)


@trap("VUID-vkBindBufferMemory-None-10741")
def buffer_over_more_than_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, size=1 << 20)


@trap(ValueError, says="size is|offset|fit")
def buffer_from_before_the_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, offset=-64)


@trap(ValueError, says="size is 0; expected at least 1 byte")
def buffer_over_nothing(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        here.gpu.buffer(memory, size=0)


@trap(ClosedError, says="this memory is closed")
def buffer_over_closed_memory(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory:
        pass
    here.gpu.buffer(memory)


@trap(ClosedError, says="this buffer is closed")
def copy_from_a_closed_buffer(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as target:
        with here.gpu.buffer(memory) as source:
            pass
        here.gpu.copy(source, target)


@trap(ExtmemError, says="memory|closed|destroyed")
def fill_of_a_buffer_whose_memory_is_closed(here: Scene) -> None:
    memory = here.gpu.allocate(4096)
    buffer = here.gpu.buffer(memory)
    memory.close()
    here.gpu.fill(buffer, 7)


@trap(ValueError, says="cannot copy 100000 bytes from 4096 bytes to 4096 bytes")
def copy_of_more_than_the_buffers(here: Scene) -> None:
    with (
        here.gpu.allocate(4096) as one,
        here.gpu.allocate(4096) as other,
        here.gpu.buffer(one) as source,
        here.gpu.buffer(other) as target,
    ):
        here.gpu.copy(source, target, 100_000)


@trap(ValueError, says="cannot copy -1 bytes")
def copy_of_less_than_nothing(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.copy(buffer, buffer, -1)


@trap(ValueError, RuleViolation, says="another device|belongs to")
def copy_to_a_buffer_of_another_gpu(here: Scene) -> None:
    with (
        extmem.open_device(driver=here.driver) as other,
        other.allocate(4096) as theirs,
        other.buffer(theirs) as target,
        here.gpu.allocate(4096) as memory,
        here.gpu.buffer(memory) as source,
    ):
        here.gpu.copy(source, target)


@trap(ValueError, says="data is 4294967296, which does not fit 32 bits|fit")
def fill_with_more_than_32_bits(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.fill(buffer, 1 << 32)


@trap(TypeError, says="data was given 1.5|expected an integer|float")
def fill_with_a_fraction(here: Scene) -> None:
    with here.gpu.allocate(4096) as memory, here.gpu.buffer(memory) as buffer:
        here.gpu.fill(buffer, 1.5)  # type: ignore[arg-type]


@trap(AttributeError, TypeError, says="Buffer|ownership|str")
def fill_of_a_word(here: Scene) -> None:
    here.gpu.fill("a buffer", 0)  # type: ignore[arg-type]


# -- devices --------------------------------------------------------------------------------------


@trap(extmem.DriverNotFound, says="there is no device number 99")
def device_past_the_last(here: Scene) -> None:
    extmem.open_device(driver=here.driver, index=99)


@trap(extmem.DriverNotFound, says="there is no device number -1")
def device_before_the_first(here: Scene) -> None:
    extmem.open_device(driver=here.driver, index=-1)


@trap(extmem.DriverNotFound, says="no device has the UUID 0000")
def device_of_a_uuid_that_nobody_has(here: Scene) -> None:
    extmem.open_device(driver=here.driver, uuid=bytes(16))


@trap(ValueError, says="hexadecimal|fromhex|UUID")
def device_of_a_uuid_that_is_none(here: Scene) -> None:
    extmem.open_device(driver=here.driver, uuid="not-a-uuid")


@trap(ClosedError, says="this device is closed")
def import_into_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    with here.gpu.allocate(64, export=_native(here.gpu)) as memory, memory.export() as handle:
        gone.import_memory(handle)


@trap(ClosedError, says="this device is closed")
def semaphore_of_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.semaphore()


@trap(ClosedError, says="this device is closed")
def fence_of_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.fence()


@trap(ClosedError, says="this device is closed")
def semaphore_imported_into_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.import_semaphore(3, handle_type="opaque_win32", timeline=True)


@trap(ClosedError, says="this device is closed")
def submission_to_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.submit()
