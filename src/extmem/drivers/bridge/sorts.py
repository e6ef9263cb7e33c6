"""What Vulkan has twice, for semaphores and for fences, under two names each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from extmem.drivers.bridge.types import CARRIED, FD
from extmem.handle_types import FENCE, SEMAPHORE, HandleType
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk._prototype import Prototype

__all__ = ["FENCES", "SEMAPHORES", "SORTS", "Sort", "sort_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sort:
    """Semaphores, or fences."""

    object: Literal["semaphore", "fence"]
    kind: str  # of the directory's objects; within the names of commands, too
    table: tuple[HandleType, ...]
    extension: str  # that says there are handles at all
    win32: str  # that is bridged
    win32_version: int
    fd: str  # that carries it
    create_info: Any  # Vk...CreateInfo
    export: Any  # what a create info says of handles: VkExport...CreateInfo
    terms: Any  # VkExport...Win32HandleInfoKHR
    get_info: Any  # Vk...GetFdInfoKHR
    import_info: Any  # VkImport...FdInfoKHR
    question: Any  # VkPhysicalDeviceExternal...Info
    answer: Any  # VkExternal...Properties
    features: str  # the member of that
    exportable: int
    importable: int
    temporary: int  # the flag of an import
    create: Prototype
    destroy: Prototype
    get_fd: Prototype
    import_fd: Prototype
    ask: Prototype

    @property
    def windows(self) -> int:
        """All of its Windows types, with those that nobody carries here: there is no D3D."""
        return sum(each.bit for each in self.table if each.kind in ("nt", "kmt"))

    def to_fd(self, mask: int) -> int:
        """Handle types as the driver below knows them.

        >>> SEMAPHORES.to_fd(CARRIED | 0x10) == FD | 0x10
        True
        """
        return mask & ~self.windows | (FD if mask & CARRIED else 0)

    def short_name(self, bit: int) -> str:
        """As passports call a handle type.

        >>> FENCES.short_name(2)
        'opaque_win32'
        """
        return next(each.name for each in self.table if each.bit == bit)

    def bit(self, short_name: str) -> int:
        """The other way round; 0 for a name that is none."""
        return next((each.bit for each in self.table if each.name == short_name), 0)


SEMAPHORES = Sort(
    object="semaphore",
    kind="Semaphore",
    table=SEMAPHORE,
    extension="VK_KHR_external_semaphore",
    win32="VK_KHR_external_semaphore_win32",
    win32_version=int(c.VK_KHR_EXTERNAL_SEMAPHORE_WIN32_SPEC_VERSION),
    fd="VK_KHR_external_semaphore_fd",
    create_info=s.VkSemaphoreCreateInfo,
    export=s.VkExportSemaphoreCreateInfo,
    terms=s.VkExportSemaphoreWin32HandleInfoKHR,
    get_info=s.VkSemaphoreGetFdInfoKHR,
    import_info=s.VkImportSemaphoreFdInfoKHR,
    question=s.VkPhysicalDeviceExternalSemaphoreInfo,
    answer=s.VkExternalSemaphoreProperties,
    features="externalSemaphoreFeatures",
    exportable=int(c.VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT),
    importable=int(c.VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT),
    temporary=int(c.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT),
    create=p.vkCreateSemaphore,
    destroy=p.vkDestroySemaphore,
    get_fd=p.vkGetSemaphoreFdKHR,
    import_fd=p.vkImportSemaphoreFdKHR,
    ask=p.vkGetPhysicalDeviceExternalSemaphoreProperties,
)
FENCES = Sort(
    object="fence",
    kind="Fence",
    table=FENCE,
    extension="VK_KHR_external_fence",
    win32="VK_KHR_external_fence_win32",
    win32_version=int(c.VK_KHR_EXTERNAL_FENCE_WIN32_SPEC_VERSION),
    fd="VK_KHR_external_fence_fd",
    create_info=s.VkFenceCreateInfo,
    export=s.VkExportFenceCreateInfo,
    terms=s.VkExportFenceWin32HandleInfoKHR,
    get_info=s.VkFenceGetFdInfoKHR,
    import_info=s.VkImportFenceFdInfoKHR,
    question=s.VkPhysicalDeviceExternalFenceInfo,
    answer=s.VkExternalFenceProperties,
    features="externalFenceFeatures",
    exportable=int(c.VK_EXTERNAL_FENCE_FEATURE_EXPORTABLE_BIT),
    importable=int(c.VK_EXTERNAL_FENCE_FEATURE_IMPORTABLE_BIT),
    temporary=int(c.VK_FENCE_IMPORT_TEMPORARY_BIT),
    create=p.vkCreateFence,
    destroy=p.vkDestroyFence,
    get_fd=p.vkGetFenceFdKHR,
    import_fd=p.vkImportFenceFdKHR,
    ask=p.vkGetPhysicalDeviceExternalFenceProperties,
)
SORTS = (SEMAPHORES, FENCES)


def sort_of(object: str) -> Sort | None:
    """That of a "semaphore" or a "fence"."""
    return next((each for each in SORTS if each.object == object), None)
