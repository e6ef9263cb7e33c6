"""Rules for importing memory by a Windows handle or by name, through KHR."""

from __future__ import annotations

from extmem.handle_types import names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.export import offered
from extmem.rules.windows import NT, OPAQUE, WINDOWS, name_of, unfit_handle, unfit_name
from extmem.vk import _constants as c

_IMPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)


# -- what the structure says ----------------------------------------------------------------------


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00660", stage="arguments")
def a_windows_type(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & ~WINDOWS:
        yield site.broken(
            "handleType",
            f"is {name_of(handle_type)}, which is no Windows handle.",
            f"Use one of: {', '.join(names_of(WINDOWS))}.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01439", stage="arguments")
def a_name_for_nt_types_only(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if site.value("name") is not None and not handle_type & NT:
        what = name_of(handle_type) if handle_type else "0, which turns the structure off"
        yield site.broken(
            "name",
            f"is given, but handleType is {what}; only NT handles have names.",
            f"Import by name as one of: {', '.join(names_of(NT))}; a KMT value is its own name.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handle-01441", stage="arguments")
def a_handle_or_a_name(call: Call, site: Site) -> Findings:
    if site.value("handle") and site.value("name") is not None:
        yield site.broken(
            "handle",
            "is given, and so is name.",
            "Pass one of them, and leave the other out.",
        )


# -- what the device and the system say -----------------------------------------------------------


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861", stage="device")
def a_windows_type_that_can_be_imported(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if not handle_type & WINDOWS:
        return
    found = offered(call, handle_type, site.chain)
    if found is not None and not found.features & _IMPORTABLE:
        yield site.broken(
            "handleType",
            f"is {name_of(handle_type)}, which this device cannot import.",
            "Use a type for which vkGetPhysicalDeviceExternalBufferProperties (or the image "
            "query) reports IMPORTABLE.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00661", stage="os")
def a_handle_of_that_type(call: Call, site: Site) -> Findings:
    handle_type, handle = int(site.value("handleType")), int(site.value("handle") or 0)
    if not handle_type & WINDOWS or site.value("name") is not None:
        return
    unfit = unfit_handle(call, handle_type, handle)
    if unfit is not None:
        yield site.broken("handle", unfit.problem, unfit.remedy)
        return
    # Where the driver does not tell whose handle it is, it tells what it cannot import.
    if not handle_type & OPAQUE and call.asked.origin_of(handle_type, handle, None) is None:
        types = call.asked.win32_memory_types(handle_type, handle, bool(handle_type & NT))
        if types == 0:
            yield site.broken(
                "handle",
                f"is {handle:#x}, which the device does not take for {name_of(handle_type)}.",
                "Pass the handle of a resource of that kind, which Direct3D made to be shared.",
            )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01440", stage="os")
def a_name_that_somebody_holds(call: Call, site: Site) -> Findings:
    handle_type, name = int(site.value("handleType")), site.value("name")
    if not handle_type & NT or site.value("handle") or name is None:
        return
    unfit = unfit_name(call, handle_type, name)
    if unfit is not None:
        yield site.broken("name", unfit.problem, unfit.remedy)
