"""The Vulkan specification in Python: its names, its structures, its calls.

    from extmem import vk

    info = vk.VkMemoryAllocateInfo(
        allocationSize=65536, memoryTypeIndex=1, pNext=vk.VkExportMemoryAllocateInfo(
            handleTypes=vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT))
    memory = vk.vkAllocateMemory(device, info)

Commands take the parameters of the specification in its order, without allocators, and return
what C hands back through pointers. An error of the driver raises `extmem.DriverError`; a broken
rule raises `extmem.RuleViolation` before the driver is called.
"""

from extmem.vk import memories as _memories
from extmem.vk._base import *
from extmem.vk._constants import *
from extmem.vk._structures import *
from extmem.vk.chain import *
from extmem.vk.commands import *
from extmem.vk.instances import *
from extmem.vk.memories import *
from extmem.vk.submits import *
from extmem.vk.synchronisation import *

# The commands written by hand have other names too; the generated ones bring theirs along.
vkMapMemory2KHR = _memories.vkMapMemory2
vkUnmapMemory2KHR = _memories.vkUnmapMemory2


def VK_MAKE_API_VERSION(variant: int, major: int, minor: int, patch: int) -> int:
    """A version number.

    >>> VK_MAKE_API_VERSION(0, 1, 3, 0) == VK_API_VERSION_1_3
    True
    """
    return variant << 29 | major << 22 | minor << 12 | patch


def VK_API_VERSION_MAJOR(version: int) -> int:
    """The major part of a version number."""
    return version >> 22 & 0x7F


def VK_API_VERSION_MINOR(version: int) -> int:
    """The minor part of a version number."""
    return version >> 12 & 0x3FF


def VK_API_VERSION_PATCH(version: int) -> int:
    """The patch part of a version number."""
    return version & 0xFFF
