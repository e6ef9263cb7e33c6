"""Rules for importing memory by a Windows handle or by name, through KHR."""

from __future__ import annotations

from extmem.handle_types import MEMORY, names_of
from extmem.handles import nt_lookup
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.export import offered
from extmem.vk import _constants as c

__all__ = ["KMT", "NT", "WINDOWS", "unfit_nt"]

NT = sum(each.bit for each in MEMORY if each.kind == "nt")
KMT = sum(each.bit for each in MEMORY if each.kind == "kmt")
WINDOWS = NT | KMT
_IMPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
_INVALID = (1 << 64) - 1  # INVALID_HANDLE_VALUE


def _name(handle_type: int) -> str:
    return "+".join(names_of(handle_type)) or "0"


# -- what the structure says ----------------------------------------------------------------------


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00660", stage="arguments")
def a_windows_type(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type & ~WINDOWS:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, which is no Windows handle.",
            f"Use one of: {', '.join(names_of(WINDOWS))}.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01439", stage="arguments")
def a_name_for_nt_types_only(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if site.value("name") is not None and not handle_type & NT:
        what = _name(handle_type) if handle_type else "0, which turns the structure off"
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
            f"is {_name(handle_type)}, which this device cannot import.",
            "Use a type for which vkGetPhysicalDeviceExternalBufferProperties (or the image "
            "query) reports IMPORTABLE.",
        )


def unfit_nt(handle: int, expected: str | None) -> str | None:
    """Why a value cannot be an NT handle of memory; None if it may be.

    expected: the kernel's type of object, where the driver's is known ("Section" for the
        embedded device); None for drivers whose objects have types of their own
    """
    if handle in (_INVALID, -1):
        return "is INVALID_HANDLE_VALUE."
    found = nt_lookup.describe(handle)
    if found is None:
        return f"is {handle:#x}, which is no open handle of this process."
    if expected is not None and found != expected:
        return f"is {handle:#x}, a handle of a {found}, not of memory."
    return None


def expected_object(call: Call) -> str | None:
    """The kernel object that memory is, where the driver's way is known."""
    return "Section" if call.dispatch.driver.name == "embedded" else None


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00661", stage="os")
def a_handle_that_is_open(call: Call, site: Site) -> Findings:
    handle_type, handle = int(site.value("handleType")), int(site.value("handle") or 0)
    if not handle_type & WINDOWS or site.value("name") is not None:
        return
    if not handle:
        yield site.broken(
            "handle",
            "is NULL, and no name is given.",
            "Pass a handle that vkGetMemoryWin32HandleKHR returned or DuplicateHandle made, or a "
            "name.",
        )
        return
    problem = unfit_nt(handle, expected_object(call)) if handle_type & NT else None
    if problem is not None:
        yield site.broken(
            "handle",
            problem,
            "A handle means something in its own process only: DuplicateHandle it into this one, "
            "or import by name.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01440", stage="os")
def a_name_that_somebody_holds(call: Call, site: Site) -> Findings:
    handle_type, name = int(site.value("handleType")), site.value("name")
    if not handle_type & NT or site.value("handle") or name is None:
        return
    # Other drivers name objects that only they can open; for those the driver is the judge.
    if expected_object(call) is None:
        return
    problem = nt_lookup.why_not_by_name(name)
    if problem is not None:
        yield site.broken(
            "name",
            f"is {name!r}: {problem}.",
            "The exporter must hold an NT handle of it open (a name ends with the last), in the "
            "same session.",
        )
