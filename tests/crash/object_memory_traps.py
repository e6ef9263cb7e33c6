"""Memory as objects: silly sizes, types and words; closed, and looked at while it closes."""

from __future__ import annotations

import gc
import sys

import extmem
from extmem import (
    ClosedError,
    DriverError,
    Unsupported,
    ViewsAlive,
)
from extmem.device import Device
from extmem.handles.handle import Handle
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot


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


@trap(ValueError, says="name")
def name_in_a_namespace_of_nobody(here: Scene) -> None:
    here.gpu.allocate(64, export=_windows(here.gpu), name=r"Nowhere\frame")


@trap(ValueError, says="name|NUL")
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
