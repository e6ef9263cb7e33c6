"""Descriptors of memory: fetched from what has none, asked about, exported as nonsense."""

from __future__ import annotations

import os

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import DMA_BUF, HOST, OPAQUE_FD, OPAQUE_WIN32, fd_info
from tests.support.strict import driver_cannot

_GET = "VUID-VkMemoryGetFdInfoKHR"
_ASKED = "VUID-vkGetMemoryFdPropertiesKHR"

# Descriptors are Linux' alone.
_FD = "vkGetMemoryFdKHR"


# -- fetching -------------------------------------------------------------------------------------


@trap(f"{_GET}-memory-parameter", on="linux", needs=_FD)
def descriptor_of_no_memory(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(None))


@trap(f"{_GET}-memory-parameter", on="linux", needs=_FD)
def descriptor_of_freed_memory(here: Scene) -> None:
    memory = here.exportable()
    vk.vkFreeMemory(here.device, memory)
    vk.vkGetMemoryFdKHR(here.device, fd_info(memory))


@trap(f"{_GET}-memory-parameter", on="linux", needs=_FD)
def descriptor_of_memory_of_another_device(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.other.exportable()))


@trap(f"{_GET}-memory-parameter", on="linux", needs=_FD)
def descriptor_of_a_buffer(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.buffer()))


@trap(f"{_GET}-handleType-00671", on="linux", needs=_FD)
def descriptor_of_private_memory(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.allocate()))


@trap(f"{_GET}-handleType-00671", on="linux", needs=_FD)
def descriptor_of_imported_memory(here: Scene) -> None:
    memory = here.import_fd(here.fd_of(here.exportable()))
    vk.vkGetMemoryFdKHR(here.device, fd_info(memory))


@trap(f"{_GET}-handleType-00671", on="linux", needs=_FD)
def descriptor_of_another_type(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.exportable(), DMA_BUF))


@trap(f"{_GET}-handleType-00672", on="linux", needs=_FD)
def descriptor_of_a_windows_type(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.exportable(), OPAQUE_WIN32))


@trap(f"{_GET}-handleType-parameter", on="linux", needs=_FD)
def descriptor_of_no_type(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, fd_info(here.exportable(), 0))


@trap(TypeError, says="expected a VkMemoryGetFdInfoKHR", on="linux", needs=_FD)
def descriptor_by_another_structure(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, vk.VkMemoryAllocateInfo())  # type: ignore[arg-type]


@trap("VUID-vkGetMemoryFdKHR-pGetFdInfo-parameter", on="linux", needs=_FD)
def descriptor_by_no_structure(here: Scene) -> None:
    vk.vkGetMemoryFdKHR(here.device, None)  # type: ignore[arg-type]


# -- asking about them ----------------------------------------------------------------------------


@trap(f"{_ASKED}-fd-00673", on="linux", needs=_FD)
def question_about_a_plain_memfd(here: Scene) -> None:
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, here.fd(os.memfd_create("plain")))


@trap(f"{_ASKED}-fd-00673", on="linux", needs=_FD)
def question_about_a_closed_number(here: Scene) -> None:
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, 9999)


@trap(f"{_ASKED}-fd-00673", on="linux", needs=_FD)
def question_about_a_pipe(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(writing)
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, here.fd(reading))


@trap(f"{_ASKED}-fd-00673", on="linux", needs=_FD)
def question_about_a_negative_number(here: Scene) -> None:
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, -1)


@trap(f"{_ASKED}-handleType-00674", on="linux", needs=_FD)
def question_about_an_opaque_descriptor(here: Scene) -> None:
    fd = here.fd(here.fd_of(here.exportable()))
    vk.vkGetMemoryFdPropertiesKHR(here.device, OPAQUE_FD, fd)


@trap(f"{_ASKED}-handleType-00674", on="linux", needs=_FD)
def question_about_a_descriptor_of_no_type(here: Scene) -> None:
    vk.vkGetMemoryFdPropertiesKHR(here.device, 0, here.fd(here.fd_of(here.exportable())))


@trap(TypeError, says="VkMemoryFdPropertiesKHR to fill", on="linux", needs=_FD)
def answer_into_another_structure(here: Scene) -> None:
    fd = here.fd(here.fd_of(here.exportable()))
    box = vk.VkMemoryDedicatedRequirements()
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, fd, box)  # type: ignore[arg-type]


@trap("VUID-VkMemoryFdPropertiesKHR-pNext-pNext", on="linux", needs=_FD)
def answer_with_a_stranger_behind_it(here: Scene) -> None:
    fd = here.fd(os.memfd_create("plain"))
    box = vk.VkMemoryFdPropertiesKHR(pNext=vk.VkMemoryDedicatedRequirements())
    vk.vkGetMemoryFdPropertiesKHR(here.device, DMA_BUF, fd, box)


# -- exporting ------------------------------------------------------------------------------------


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
def export_as_an_address(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=0x100))


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
def export_as_two_types(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD | DMA_BUF))


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-parameter")
def export_as_every_type(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=0xFFFFFFFF))


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860")
def export_as_a_direct3d_texture(here: Scene) -> None:
    here.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=0x8))


@trap("VUID-vkAllocateMemory-pAllocateInfo-01713")
def export_of_32_terabytes(here: Scene) -> None:
    here.shared(OPAQUE_FD if here.dispatch.has(_FD) else OPAQUE_WIN32, size=1 << 45)


@trap("VUID-VkExportMemoryAllocateInfo-handleTypes-09860", on="linux", needs=_FD)
def import_that_is_exported_as_an_address(here: Scene) -> None:
    fd = here.fd(here.fd_of(here.exportable()))
    source = vk.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd)
    here.allocate(source, vk.VkExportMemoryAllocateInfo(handleTypes=HOST))


@trap("VUID-VkMemoryAllocateInfo-allocationSize-07899")
def export_of_no_bytes(here: Scene) -> None:
    if not here.dispatch.has(_FD):
        driver_cannot("nothing to export as")
    here.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD), size=0)
