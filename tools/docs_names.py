"""Which names the documentation has to have, and whether it has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_attributes
import docs_words

import extmem
from extmem import capabilities, vk
from extmem.interop import cuda
from extmem.share import channel, passport
from extmem.vk import _prototypes
from extmem.vk._prototype import Prototype

__all__ = [
    "CORE",
    "EXPLAINED",
    "PROMOTED",
    "functions_of",
    "problems",
    "public",
    "structures_of",
    "undocumented",
]

# The extensions whose every structure and function is explained.
EXPLAINED = (
    "VK_NV_external_memory",
    "VK_NV_external_memory_capabilities",
    "VK_NV_external_memory_win32",
    "VK_KHR_external_memory_win32",
    "VK_KHR_external_semaphore_win32",
    "VK_KHR_external_fence_win32",
    "VK_KHR_external_memory_fd",
    "VK_KHR_external_semaphore_fd",
    "VK_KHR_external_fence_fd",
    "VK_EXT_external_memory_host",
    "VK_KHR_win32_keyed_mutex",
    "VK_NV_win32_keyed_mutex",
)

# Extensions that Vulkan 1.1 took in: the core names that they brought are explained, too.
PROMOTED = (
    "VK_KHR_external_memory",
    "VK_KHR_external_memory_capabilities",
    "VK_KHR_dedicated_allocation",
)
CORE = (
    "VkExportMemoryAllocateInfo",
    "VkExternalBufferProperties",
    "VkExternalImageFormatProperties",
    "VkExternalMemoryBufferCreateInfo",
    "VkExternalMemoryImageCreateInfo",
    "VkExternalMemoryProperties",
    "VkMemoryDedicatedAllocateInfo",
    "VkMemoryDedicatedRequirements",
    "VkPhysicalDeviceExternalBufferInfo",
    "VkPhysicalDeviceExternalImageFormatInfo",
    "VkPhysicalDeviceIDProperties",
    "vkGetPhysicalDeviceExternalBufferProperties",
)

# What the names of `extmem.__all__` return and are given, by their own modules.
_RETURNED = (
    capabilities.PhysicalDevice,
    capabilities.MemoryType,
    capabilities.Sharing,
    passport.Passport,
    passport.SyncPassport,
    passport.Place,
    passport.ImageInfo,
    passport.Exporter,
)


def structures_of(extension: str) -> list[str]:
    """The structures that an extension brings, as the registry has it.

    >>> structures_of("VK_KHR_external_memory_fd")
    ['VkImportMemoryFdInfoKHR', 'VkMemoryFdPropertiesKHR', 'VkMemoryGetFdInfoKHR']
    """
    return sorted(
        name
        for name, thing in vars(vk).items()
        if inspect.isclass(thing)
        and hasattr(thing, "_fields_")
        and name == thing.__name__  # not an alias
        and re.search(rf"\b{extension}\b", thing.__doc__ or "")
    )


def functions_of(extension: str) -> list[str]:
    """The functions that an extension brings, as the registry has it.

    >>> functions_of("VK_NV_external_memory_win32")
    ['vkGetMemoryWin32HandleNV']
    """
    return sorted(
        spelled
        for each in vars(_prototypes).values()
        if isinstance(each, Prototype)
        for spelled, extensions in each.provided.items()
        if extension in extensions
    )


def public() -> Iterator[tuple[str, Any]]:
    """Every public name with what it is: functions, classes, and their public members."""
    for name in extmem.__all__:
        thing = getattr(extmem, name)
        if not inspect.ismodule(thing):
            yield from _members(f"extmem.{name}", thing)
    for module in (channel, cuda, extmem.win32):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                yield from _members(f"{module.__name__}.{name}", thing)
    for cls in _RETURNED:
        yield from _members(f"{cls.__module__}.{cls.__name__}", cls)


def _members(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    yield name, thing
    if not inspect.isclass(thing):
        return
    for member in dir(thing):
        found = inspect.getattr_static(thing, member)
        ours = any(
            member in vars(base) and base.__module__.startswith("extmem") for base in thing.__mro__
        )
        if member.startswith("_") or not ours or member in docs_attributes.INTERNAL:
            continue
        if isinstance(found, property | staticmethod | classmethod) or inspect.isfunction(found):
            yield f"{name}.{member}", getattr(thing, member, found)


def undocumented() -> Iterator[str]:
    for name, thing in public():
        if not inspect.getdoc(thing):
            yield f"{name} has no docstring"
        if inspect.isclass(thing) and not hasattr(thing, "_fields_"):
            for attribute, text in docs_words.attributes(thing).items():
                if not text:
                    yield (
                        f"{name}.{attribute} is public, and nothing says what it is; give it a "
                        "comment, or a line in tools/docs_attributes.py"
                    )


def problems(folder: Path) -> list[str]:
    """The public names that the built pages do not have, and those without words."""
    ids: set[str] = set()
    for page in folder.rglob("*.html"):
        ids.update(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8")))
    found = [*undocumented()]
    found += [f"{name} is on no page" for name, _ in public() if name not in ids]
    for extension in EXPLAINED:
        for name in (*structures_of(extension), *functions_of(extension)):
            if name.lower() not in ids:
                found.append(f"{name} of {extension} is explained on no page")
    found += [
        f"{name} of Vulkan 1.1 is explained on no page" for name in CORE if name.lower() not in ids
    ]
    return found
