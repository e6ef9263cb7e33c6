"""Rules for fetching Windows handles of memory, for their attributes, and for asking about them."""

from __future__ import annotations

from extmem.handle_types import names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.import_win32 import NT, WINDOWS, expected_object, unfit_nt
from extmem.vk import _constants as c

_OPAQUE = int(
    c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT
)
_NAMED = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)


def _name(handle_type: int) -> str:
    return "+".join(names_of(handle_type)) or "0"


@rule("VUID-VkExportMemoryWin32HandleInfoKHR-handleTypes-00657", stage="chain")
def attributes_for_an_opaque_win32_export_only(call: Call, site: Site) -> Findings:
    export = site.chain.get("VkExportMemoryAllocateInfo")
    mask = int(export.handleTypes) if export is not None else 0
    if not mask & _NAMED:
        exported = f"is exported as {_name(mask)}" if mask else "is not exported"
        yield site.broken(
            "",
            f"attributes, access and name are of an opaque_win32 handle, but this memory "
            f"{exported}.",
            "Chain VkExportMemoryAllocateInfo with OPAQUE_WIN32_BIT, or leave this structure out.",
        )


@rule("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00664", stage="arguments")
def a_type_that_windows_has(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & ~WINDOWS:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, which is no Windows handle.",
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
            f"is {_name(handle_type)}, but this memory was allocated to be exported as "
            f"{_name(announced) if announced else 'nothing'}.",
            "Chain VkExportMemoryAllocateInfo with this type to its VkMemoryAllocateInfo.",
        )


@rule("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00663", stage="state")
def an_nt_handle_once(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    handle_type = int(site.value("handleType"))
    if memory is not None and handle_type & NT and handle_type in memory.facts["fetched"]:
        yield site.broken(
            "handleType",
            f"{_name(handle_type)} was fetched from this memory before; closing that handle does "
            "not change it.",
            "Keep the first handle and DuplicateHandle it.",
        )


@rule("VUID-vkGetMemoryWin32HandlePropertiesKHR-handleType-00666", stage="arguments")
def a_handle_type_that_can_be_asked_about(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & _OPAQUE:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}; opaque handles cannot be asked about.",
            "Import them with the size and memory type index of their exporter.",
        )


@rule("VUID-vkGetMemoryWin32HandlePropertiesKHR-handle-00665", stage="os")
def a_live_handle_to_ask_about(call: Call, site: Site) -> Findings:
    handle, handle_type = int(site.value("handle") or 0), int(site.value("handleType"))
    problem: str | None = None
    if not handle:
        problem = "is NULL."
    elif handle_type & NT:
        problem = unfit_nt(handle, expected_object(call))
    if problem is not None:
        yield site.broken("handle", problem, "Pass an open Windows handle of memory.")
