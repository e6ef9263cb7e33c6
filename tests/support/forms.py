"""The four ways in which Vulkan passes memory as Windows handles: KHR or NV, NT handle or KMT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from extmem import vk

__all__ = ["FORMS", "KHR_KMT", "KHR_NT", "NV_KMT", "NV_NT", "Form"]

_CORE = (
    vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT,
    vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT,
)
_NV = (
    vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV,
    vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV,
)


@dataclass(frozen=True)
class Form:
    """One of them."""

    nv: bool
    kmt: bool  # a number that keeps nothing alive, and that nobody closes

    def __str__(self) -> str:
        return f"{'nv' if self.nv else 'khr'}-{'kmt' if self.kmt else 'nt'}"

    @property
    def extension(self) -> str:
        """The extension that has it."""
        return "VK_NV_external_memory_win32" if self.nv else "VK_KHR_external_memory_win32"

    @property
    def bit(self) -> int:
        """The handle type, in the numbers of its own extension."""
        return int((_NV if self.nv else _CORE)[self.kmt])

    @property
    def core_bit(self) -> int:
        """The handle type of the same handles in the core's numbers."""
        return int(_CORE[self.kmt])

    # -- structures -----------------------------------------------------------------------------

    def export_info(self) -> Any:
        """For VkMemoryAllocateInfo."""
        kind = vk.VkExportMemoryAllocateInfoNV if self.nv else vk.VkExportMemoryAllocateInfo
        return kind(handleTypes=self.bit)

    def terms(self, access: int, attributes: Any = None, name: str | None = None) -> Any:
        """On which terms an NT handle is exported. NV has no names."""
        if self.nv:
            assert name is None
            return vk.VkExportMemoryWin32HandleInfoNV(dwAccess=access, pAttributes=attributes)
        return vk.VkExportMemoryWin32HandleInfoKHR(
            dwAccess=access, pAttributes=attributes, name=name
        )

    def import_info(self, handle: int | None, name: str | None = None) -> Any:
        """For VkMemoryAllocateInfo. NV has no names."""
        if self.nv:
            assert name is None
            return vk.VkImportMemoryWin32HandleInfoNV(handleType=self.bit, handle=handle)
        return vk.VkImportMemoryWin32HandleInfoKHR(handleType=self.bit, handle=handle, name=name)

    def buffer_info(self) -> Any:
        """For VkBufferCreateInfo. NV has none: its memory takes ordinary buffers."""
        return None if self.nv else vk.VkExternalMemoryBufferCreateInfo(handleTypes=self.bit)

    def image_info(self) -> Any:
        """For VkImageCreateInfo."""
        kind = (
            vk.VkExternalMemoryImageCreateInfoNV if self.nv else vk.VkExternalMemoryImageCreateInfo
        )
        return kind(handleTypes=self.bit)

    # -- the command ----------------------------------------------------------------------------

    def get(self, device: Any, memory: Any) -> int:
        """A handle, or a number."""
        if self.nv:
            return vk.vkGetMemoryWin32HandleNV(device, memory, self.bit)
        info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=self.bit)
        return vk.vkGetMemoryWin32HandleKHR(device, info)


KHR_NT, KHR_KMT, NV_NT, NV_KMT = FORMS = [
    Form(nv, kmt) for nv in (False, True) for kmt in (False, True)
]
