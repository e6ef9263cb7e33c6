"""Rules for fetching Windows handles of memory, for their attributes, and for asking about them."""

from __future__ import annotations

import ctypes

from extmem.handle_types import names_of
from extmem.handles.security import security_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.windows import NT, OPAQUE, WINDOWS, name_of, unfit_handle
from extmem.vk import _constants as c
from extmem.vk._base import SECURITY_ATTRIBUTES

_NAMED = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)


@rule("VUID-VkExportMemoryWin32HandleInfoKHR-handleTypes-00657", stage="chain")
def attributes_for_an_opaque_win32_export_only(call: Call, site: Site) -> Findings:
    export = site.chain.get("VkExportMemoryAllocateInfo")
    mask = int(export.handleTypes) if export is not None else 0
    if not mask & _NAMED:
        exported = f"is exported as {name_of(mask)}" if mask else "is not exported"
        yield site.broken(
            "",
            f"attributes, access and name are of an opaque_win32 handle, but this memory "
            f"{exported}.",
            "Chain VkExportMemoryAllocateInfo with OPAQUE_WIN32_BIT, or leave this structure out.",
        )


@rule(
    "VUID-VkExportMemoryWin32HandleInfoKHR-pAttributes-parameter",
    "VUID-VkExportMemoryWin32HandleInfoNV-pAttributes-parameter",
    "VUID-VkExportSemaphoreWin32HandleInfoKHR-pAttributes-parameter",
    "VUID-VkExportFenceWin32HandleInfoKHR-pAttributes-parameter",
    stage="os",
)
def attributes_that_can_be_read(call: Call, site: Site) -> Findings:
    pointer = site.value("pAttributes")
    if not pointer:
        return
    # Its address first, where the system can be asked: reading it could end the process.
    size = ctypes.sizeof(SECURITY_ATTRIBUTES)
    seen = call.asked.host_range(ctypes.addressof(pointer.contents), size)
    if seen is not None and seen.problem:
        yield site.broken("pAttributes", f"{seen.problem}.", "Pass SECURITY_ATTRIBUTES, or None.")
        return
    if pointer.contents.nLength != size:
        yield site.broken(
            "pAttributes",
            f"has nLength {pointer.contents.nLength}; SECURITY_ATTRIBUTES have {size} bytes.",
            "Leave nLength out; it is filled in.",
        )
        return
    try:
        security_of(pointer.contents)
    except OSError as error:
        yield site.broken(
            "pAttributes",
            f"has no valid security descriptor: {error.strerror or error}.",
            "Make them with extmem.win32, or leave lpSecurityDescriptor NULL for the default.",
        )


@rule("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00664", stage="arguments")
def a_type_that_windows_has(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & ~WINDOWS:
        yield site.broken(
            "handleType",
            f"is {name_of(handle_type)}, which is no Windows handle.",
            f"Use one of: {', '.join(names_of(WINDOWS))}.",
        )


@rule("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00662", stage="state")
def a_windows_type_that_was_announced(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    if memory is None:
        return
    handle_type, announced = int(site.value("handleType")), memory.facts["export"]
    if handle_type & ~announced:
        yield site.broken(
            "handleType",
            f"is {name_of(handle_type)}, but this memory was allocated to be exported as "
            f"{name_of(announced) if announced else 'nothing'}.",
            "Chain VkExportMemoryAllocateInfo with this type to its VkMemoryAllocateInfo.",
        )


@rule("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00663", stage="state")
def an_nt_handle_once(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    handle_type = int(site.value("handleType"))
    if memory is not None and handle_type & NT and handle_type in memory.facts["fetched"]:
        yield site.broken(
            "handleType",
            f"{name_of(handle_type)} was fetched from this memory before; closing that handle does "
            "not change it.",
            "Keep the first handle and DuplicateHandle it.",
        )


@rule("VUID-vkGetMemoryWin32HandlePropertiesKHR-handleType-00666", stage="arguments")
def a_handle_type_that_can_be_asked_about(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & OPAQUE:
        yield site.broken(
            "handleType",
            f"is {name_of(handle_type)}; opaque handles cannot be asked about.",
            "Import them with the size and memory type index of their exporter.",
        )


@rule("VUID-vkGetMemoryWin32HandlePropertiesKHR-handle-00665", stage="os")
def a_live_handle_to_ask_about(call: Call, site: Site) -> Findings:
    handle, handle_type = int(site.value("handle") or 0), int(site.value("handleType"))
    if not handle_type & WINDOWS or handle_type & OPAQUE:
        return
    # That it is of another type is for the driver to say: the rule asks for a handle of memory.
    unfit = unfit_handle(call, handle_type, handle, of_any_type=True)
    if unfit is not None:
        problem = "is NULL." if not handle else unfit.problem
        yield site.broken("handle", problem, "Pass an open Windows handle of memory.")
