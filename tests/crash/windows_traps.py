"""Windows handles: dead ones, of other things, KMT values, names, NV's; fetched, imported, asked.

What a name or a handle means is the system's on Windows and the directory's on Linux.
"""

from __future__ import annotations

import os

from extmem import vk, win32
from extmem.handles.system import kernel
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import OPAQUE_FD, SIZE
from tests.support.strict import driver_cannot

_IMPORT = "VUID-VkImportMemoryWin32HandleInfoKHR"
_GET = "VUID-VkMemoryGetWin32HandleInfoKHR"
_INFO = "VUID-VkMemoryAllocateInfo"
_DEAD = f"{_IMPORT}-handleType-00661"
_UNKNOWN = f"{_IMPORT}-handleType-01440"
_ASKED = "VUID-vkGetMemoryWin32HandlePropertiesKHR"

_NT, _KMT, _TEXTURE, _HEAP = 0x2, 0x4, 0x8, 0x20
_WIN32 = "vkGetMemoryWin32HandleKHR"
_NV = "vkGetMemoryWin32HandleNV"


# -- handles that are none ------------------------------------------------------------------------


@trap(_DEAD, needs=_WIN32)
def handle_that_was_never_open(here: Scene) -> None:
    here.import_nt(0x7FFC)


@trap(_DEAD, needs=_WIN32)
def handle_that_was_closed(here: Scene) -> None:
    handle = here.nt_of(here.shared())
    copy = kernel().duplicate(handle)
    win32.CloseHandle(copy)
    here.import_nt(copy)


@trap(_DEAD, needs=_WIN32)
def handle_that_is_null(here: Scene) -> None:
    here.import_nt(None)


@trap(_DEAD, needs=_WIN32)
def handle_of_all_ones(here: Scene) -> None:
    here.import_nt((1 << 64) - 1)


@trap(_DEAD, needs=_WIN32)
def handle_of_this_process(here: Scene) -> None:
    here.import_nt((1 << 64) - 1 & win32.GetCurrentProcess())


@trap(_DEAD, needs=_WIN32)
def handle_of_another_process(here: Scene) -> None:
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, os.getpid())
    here.import_nt(here.handle(process))


@trap(_DEAD, needs=(_WIN32, "vkGetSemaphoreWin32HandleKHR"))
def handle_of_a_semaphore(here: Scene) -> None:
    semaphore = here.semaphore(types=_NT)
    info = vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=semaphore, handleType=_NT)
    here.import_nt(here.handle(vk.vkGetSemaphoreWin32HandleKHR(here.device, info)))


@trap(_DEAD, on="linux", needs=_WIN32)
def descriptor_that_is_called_a_handle(here: Scene) -> None:
    here.import_nt(here.fd(os.memfd_create("plain")))


@trap(_DEAD, needs=_WIN32)
def handle_with_a_bit_too_much(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()) | 1 << 40)


@trap(TypeError, ValueError, says="handle|too large|too big", needs=_WIN32)
def handle_of_more_than_64_bits(here: Scene) -> None:
    here.import_nt(1 << 70)


# -- of another type, size, device ----------------------------------------------------------------


@trap(_DEAD, needs=_WIN32)
def nt_handle_as_a_kmt_value(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), _KMT)


@trap(_DEAD, needs=_WIN32)
def kmt_value_as_an_nt_handle(here: Scene) -> None:
    info = vk.VkMemoryGetWin32HandleInfoKHR(memory=here.shared(_KMT), handleType=_KMT)
    here.import_nt(vk.vkGetMemoryWin32HandleKHR(here.device, info), _NT)


@trap(_DEAD, needs=_WIN32)
def kmt_value_of_nobody(here: Scene) -> None:
    here.import_nt(0xC0000FF2, _KMT)


@trap(_DEAD, needs=_WIN32)
def kmt_value_of_freed_memory(here: Scene) -> None:
    memory = here.shared(_KMT)
    info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=_KMT)
    value = vk.vkGetMemoryWin32HandleKHR(here.device, info)
    vk.vkFreeMemory(here.device, memory)
    here.import_nt(value, _KMT)


@trap(_DEAD, f"{_IMPORT}-handleType-09861", needs=_WIN32)
def opaque_handle_as_a_texture(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), _TEXTURE)


@trap(_DEAD, f"{_IMPORT}-handleType-09861", needs=_WIN32)
def opaque_handle_as_a_heap(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), _HEAP)


@trap(f"{_IMPORT}-handleType-00660", needs=_WIN32)
def handle_as_a_descriptor(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), OPAQUE_FD)


@trap(f"{_IMPORT}-handleType-parameter", needs=_WIN32)
def handle_of_two_types(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), _NT | _KMT)


@trap(f"{_INFO}-allocationSize-01743", needs=_WIN32)
def handle_with_fewer_bytes(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), size=SIZE // 2)


@trap(f"{_INFO}-allocationSize-01743", needs=_WIN32)
def handle_with_more_bytes(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), size=2 * SIZE)


@trap(f"{_INFO}-allocationSize-01743", needs=_WIN32)
def handle_with_no_bytes(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), size=0)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714", needs=_WIN32)
def handle_with_memory_type_31(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), index=31)


@trap(f"{_INFO}-allocationSize-01743", needs=_WIN32)
def handle_with_another_memory_type(here: Scene) -> None:
    if len(here.types) < 2:
        driver_cannot("it has one memory type")
    here.import_nt(here.nt_of(here.shared()), index=(here.visible + 1) % len(here.types))


@trap(f"{_IMPORT}-handle-00659", needs=_WIN32)
def handle_of_another_physical_device(here: Scene) -> None:
    with Scene(here.driver, index=1) as other:
        memory = other.shared()
        info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=_NT)
        here.import_nt(here.handle(vk.vkGetMemoryWin32HandleKHR(other.device, info)))


# -- names ----------------------------------------------------------------------------------------


@trap(_UNKNOWN, needs=_WIN32)
def name_that_nobody_holds(here: Scene) -> None:
    here.import_nt(None, name=r"Local\nobody-holds-this")


@trap(_UNKNOWN, needs=_WIN32)
def empty_name(here: Scene) -> None:
    here.import_nt(None, name="")


@trap(_UNKNOWN, needs=_WIN32)
def name_of_60000_characters(here: Scene) -> None:
    here.import_nt(None, name="n" * 60_000)


@trap(_UNKNOWN, needs=_WIN32)
def name_in_a_namespace_that_is_not_there(here: Scene) -> None:
    here.import_nt(None, name=r"Nowhere\frame")


@trap(_UNKNOWN, needs=_WIN32)
def name_with_half_a_character(here: Scene) -> None:
    here.import_nt(None, name="Local\\\ud800")


@trap(f"{_IMPORT}-handle-01441", needs=_WIN32)
def name_and_handle(here: Scene) -> None:
    here.import_nt(here.nt_of(here.shared()), name=r"Local\both")


@trap(f"{_IMPORT}-handleType-01439", needs=_WIN32)
def name_of_a_kmt_value(here: Scene) -> None:
    here.import_nt(None, _KMT, name=r"Local\kmt")


@trap(f"{_IMPORT}-handleType-01439", needs=_WIN32)
def name_of_no_type(here: Scene) -> None:
    here.import_nt(None, 0, name=r"Local\nothing")


@trap(TypeError, says="name was given 7", needs=_WIN32)
def name_that_is_a_number(here: Scene) -> None:
    here.import_nt(None, name=7)  # type: ignore[arg-type]


# -- exporting and fetching -----------------------------------------------------------------------


@trap("VUID-VkExportMemoryWin32HandleInfoKHR-handleTypes-00657", needs=_WIN32)
def attributes_without_a_windows_type(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=1))


@trap("VUID-VkExportMemoryWin32HandleInfoKHR-pAttributes-parameter", needs=_WIN32)
def attributes_of_no_length(here: Scene) -> None:
    attributes = vk.SECURITY_ATTRIBUTES(nLength=0)
    here.shared(_NT, vk.VkExportMemoryWin32HandleInfoKHR(pAttributes=attributes, dwAccess=1))


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860", needs=_WIN32)
def nt_handle_and_descriptor_of_one_memory(here: Scene) -> None:
    here.shared(_NT | 0x100)


@trap(f"{_GET}-handleType-00663", needs=_WIN32)
def nt_handle_fetched_twice(here: Scene) -> None:
    memory = here.shared()
    here.nt_of(memory)
    here.nt_of(memory)


@trap(f"{_GET}-handleType-00662", needs=_WIN32)
def nt_handle_of_private_memory(here: Scene) -> None:
    here.nt_of(here.allocate())


@trap(f"{_GET}-handleType-00662", needs=_WIN32)
def kmt_value_of_memory_for_nt_handles(here: Scene) -> None:
    here.nt_of(here.shared(_NT), _KMT)


@trap(f"{_GET}-handleType-00664", needs=_WIN32)
def windows_handle_that_is_a_descriptor(here: Scene) -> None:
    here.nt_of(here.shared(_NT), OPAQUE_FD)


@trap(f"{_GET}-memory-parameter", needs=_WIN32)
def nt_handle_of_no_memory(here: Scene) -> None:
    here.nt_of(None)


@trap(f"{_GET}-memory-parameter", needs=_WIN32)
def nt_handle_of_freed_memory(here: Scene) -> None:
    memory = here.shared()
    vk.vkFreeMemory(here.device, memory)
    here.nt_of(memory)


@trap("VUID-vkGetMemoryWin32HandleKHR-pGetWin32HandleInfo-parameter", needs=_WIN32)
def nt_handle_by_no_structure(here: Scene) -> None:
    vk.vkGetMemoryWin32HandleKHR(here.device, None)  # type: ignore[arg-type]


# -- asking about them ----------------------------------------------------------------------------


@trap(f"{_ASKED}-handleType-00666", needs=_WIN32)
def question_about_an_opaque_handle(here: Scene) -> None:
    vk.vkGetMemoryWin32HandlePropertiesKHR(here.device, _NT, here.nt_of(here.shared()))


@trap(f"{_ASKED}-handle-00665", needs=_WIN32)
def question_about_a_dead_handle(here: Scene) -> None:
    vk.vkGetMemoryWin32HandlePropertiesKHR(here.device, _TEXTURE, 0x7FFC)


@trap(f"{_ASKED}-handle-00665", needs=_WIN32)
def question_about_a_null_handle(here: Scene) -> None:
    vk.vkGetMemoryWin32HandlePropertiesKHR(here.device, _TEXTURE, None)  # type: ignore[arg-type]


@trap(f"{_ASKED}-handleType-parameter", needs=_WIN32)
def question_about_a_handle_of_no_type(here: Scene) -> None:
    vk.vkGetMemoryWin32HandlePropertiesKHR(here.device, 0, here.nt_of(here.shared()))


# -- NV's -----------------------------------------------------------------------------------------


def _nv(here: Scene, handle: int, handle_type: int = 1, **members: int) -> None:
    info = vk.VkImportMemoryWin32HandleInfoNV(handleType=handle_type, handle=handle)
    here.allocate(info, **members)


@trap("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328", needs=_NV)
def nv_handle_that_was_never_open(here: Scene) -> None:
    _nv(here, 0x7FFC)


@trap("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328", needs=_NV)
def nv_handle_that_is_null(here: Scene) -> None:
    _nv(here, 0)


@trap("VUID-VkImportMemoryWin32HandleInfoNV-handleType-01327", needs=_NV)
def nv_handle_of_two_types(here: Scene) -> None:
    _nv(here, here.nt_of(here.shared()), 3)


@trap("VUID-VkImportMemoryWin32HandleInfoNV-handleType-parameter", needs=_NV)
def nv_handle_of_a_type_that_nobody_knows(here: Scene) -> None:
    _nv(here, here.nt_of(here.shared()), 1 << 20)


@trap("VUID-vkGetMemoryWin32HandleNV-memory-parameter", needs=_NV)
def nv_handle_of_no_memory(here: Scene) -> None:
    vk.vkGetMemoryWin32HandleNV(here.device, None, 1)  # type: ignore[arg-type]


@trap("VUID-vkGetMemoryWin32HandleNV-handleType-01326", needs=_NV)
def nv_handle_of_private_memory(here: Scene) -> None:
    vk.vkGetMemoryWin32HandleNV(here.device, here.allocate(), 1)


@trap(f"{_INFO}-None-06657", f"{_INFO}-pNext-00641", needs=(_NV, _WIN32))
def nv_and_khr_imports_together(here: Scene) -> None:
    handle = here.nt_of(here.shared())
    khr = vk.VkImportMemoryWin32HandleInfoKHR(handleType=_NT, handle=handle)
    nv = vk.VkImportMemoryWin32HandleInfoNV(handleType=1, handle=handle)
    here.allocate(khr, nv)


@trap(f"{_INFO}-pNext-00640", needs=_NV)
def nv_and_khr_exports_together(here: Scene) -> None:
    here.shared(_NT, vk.VkExportMemoryAllocateInfoNV(handleTypes=1))


@trap(f"{_INFO}-None-06657", on="linux", needs=(_WIN32, "vkGetMemoryFdKHR"))
def handle_and_descriptor_imported_together(here: Scene) -> None:
    fd = here.fd(here.fd_of(here.exportable()))
    khr = vk.VkImportMemoryWin32HandleInfoKHR(handleType=_NT, handle=here.nt_of(here.shared()))
    here.allocate(khr, vk.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd))
