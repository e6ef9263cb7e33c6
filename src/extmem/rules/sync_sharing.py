"""Rules that semaphores and fences have alike: made to be exported, fetched, imported.

What only one of them has is in `semaphores.py` and `fences.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from extmem.handle_types import names_of
from extmem.rules.engine import Broken, Call, Findings, Site, rule
from extmem.rules.sync_handles import (
    SEMAPHORES,
    Sort,
    imported,
    offered,
    sort_of,
    the_object,
    unfit,
)
from extmem.submitted import current
from extmem.vk import _constants as c

_EXPORTABLE = int(c.VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT)
_IMPORTABLE = int(c.VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT)
_TEMPORARY = int(c.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def _query(sort: Sort) -> str:
    return f"vkGetPhysicalDeviceExternal{sort.object.capitalize()}Properties"


def _what(sort: Sort, timeline: bool) -> str:
    return f"{'timeline' if timeline else 'binary'} semaphore" if sort is SEMAPHORES else "fence"


# -- made to be exported --------------------------------------------------------------------------


@rule(
    "VUID-VkExportSemaphoreCreateInfo-handleTypes-01124",
    "VUID-VkExportFenceCreateInfo-handleTypes-01446",
    stage="device",
)
def types_that_can_be_exported(call: Call, site: Site) -> Findings:
    sort, mask = sort_of(site), int(site.value("handleTypes"))
    kind = site.chain.get("VkSemaphoreTypeCreateInfo")
    timeline = kind is not None and kind.semaphoreType == c.VK_SEMAPHORE_TYPE_TIMELINE
    for bit in _bits(mask):
        found = offered(call, sort, bit, timeline)
        if found is None:
            continue
        if not found.features & _EXPORTABLE:
            yield site.broken(
                "handleTypes",
                f"names {sort.name(bit)}, which this device cannot export a "
                f"{_what(sort, timeline)} as.",
                f"Use a type for which {_query(sort)} reports EXPORTABLE.",
            )
        elif mask & ~(found.compatible | bit):
            others = mask & ~(found.compatible | bit)
            yield site.broken(
                "handleTypes",
                f"names {sort.name(bit)} together with {sort.name(others)}; the device allows it "
                f"with {sort.name(found.compatible & ~bit)}.",
                "Name one type, or only types from each other's compatibleHandleTypes.",
            )


@rule(
    "VUID-VkExportSemaphoreWin32HandleInfoKHR-handleTypes-01125",
    "VUID-VkExportFenceWin32HandleInfoKHR-handleTypes-01447",
    stage="chain",
)
def attributes_for_an_nt_export_only(call: Call, site: Site) -> Findings:
    sort = sort_of(site)
    export = site.chain.get(f"VkExport{sort.object.capitalize()}CreateInfo")
    mask, named = int(export.handleTypes) if export is not None else 0, sort.mask(kind="nt")
    if not mask & named:
        yield site.broken(
            "",
            f"attributes, access and name are of a handle of {' or '.join(_names(sort, named))}, "
            f"but this {sort.object} is exported as {sort.name(mask)}.",
            f"Chain VkExport{sort.object.capitalize()}CreateInfo with such a type, or leave this "
            "structure out.",
        )


def _names(sort: Sort, types: int) -> list[str]:
    return names_of(types, sort.table)


# -- fetched --------------------------------------------------------------------------------------


@rule(
    "VUID-VkSemaphoreGetFdInfoKHR-handleType-01136",
    "VUID-VkFenceGetFdInfoKHR-handleType-01456",
    "VUID-VkImportSemaphoreFdInfoKHR-handleType-01143",
    "VUID-VkImportFenceFdInfoKHR-handleType-01464",
    stage="arguments",
)
def a_type_that_is_a_descriptor(call: Call, site: Site) -> Findings:
    sort = sort_of(site)
    yield from _one_of(site, sort, sort.fds, "file descriptor")


@rule(
    "VUID-VkSemaphoreGetWin32HandleInfoKHR-handleType-01131",
    "VUID-VkFenceGetWin32HandleInfoKHR-handleType-01452",
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01140",
    "VUID-VkImportFenceWin32HandleInfoKHR-handleType-01457",
    stage="arguments",
)
def a_type_that_windows_has(call: Call, site: Site) -> Findings:
    sort = sort_of(site)
    yield from _one_of(site, sort, sort.windows, "Windows handle")


def _one_of(site: Site, sort: Sort, types: int, what: str) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type.bit_count() == 1 and not handle_type & ~types:
        return
    named = sort.name(handle_type) if handle_type else "0"
    several = handle_type and not handle_type & ~types
    yield site.broken(
        "handleType",
        f"is {named}, which are several types at once."
        if several
        else f"is {named}, which is no {what} of a {sort.object}.",
        f"Use one of: {', '.join(_names(sort, types))}.",
    )


@rule(
    "VUID-VkSemaphoreGetFdInfoKHR-handleType-01132",
    "VUID-VkSemaphoreGetWin32HandleInfoKHR-handleType-01126",
    "VUID-VkFenceGetFdInfoKHR-handleType-01453",
    "VUID-VkFenceGetWin32HandleInfoKHR-handleType-01448",
    stage="state",
)
def a_type_that_was_announced(call: Call, site: Site) -> Findings:
    sort, found = sort_of(site), the_object(call, site)
    if found is None:
        return
    payload, handle_type = current(found), int(site.value("handleType"))
    if payload.export is None or not handle_type & ~payload.export:
        return
    imported = f", imported as {sort.name(payload.imported)}," if payload.imported else ""
    yield site.broken(
        "handleType",
        f"is {sort.name(handle_type)}, but this {sort.object}{imported} was made to be exported "
        f"as {sort.name(payload.export)}.",
        f"Chain VkExport{sort.object.capitalize()}CreateInfo with this type where it is created.",
    )


@rule(
    "VUID-VkSemaphoreGetWin32HandleInfoKHR-handleType-01127",
    "VUID-VkFenceGetWin32HandleInfoKHR-handleType-01449",
    stage="state",
)
def an_nt_handle_once(call: Call, site: Site) -> Findings:
    sort, found = sort_of(site), the_object(call, site)
    handle_type = int(site.value("handleType"))
    if found is not None and handle_type & sort.nt and handle_type in found.facts["fetched"]:
        yield site.broken(
            "handleType",
            f"{sort.name(handle_type)} was fetched from this {sort.object} before; closing that "
            "handle does not change it.",
            "Keep the first handle and DuplicateHandle it.",
        )


@rule(
    "VUID-VkSemaphoreGetFdInfoKHR-semaphore-01133",
    "VUID-VkSemaphoreGetWin32HandleInfoKHR-semaphore-01128",
    "VUID-VkFenceGetFdInfoKHR-fence-01455",
    "VUID-VkFenceGetWin32HandleInfoKHR-fence-01450",
    stage="device",
)
def an_imported_payload_that_may_travel_on(call: Call, site: Site) -> Findings:
    sort, found = sort_of(site), the_object(call, site)
    handle_type = int(site.value("handleType"))
    if found is None or handle_type.bit_count() != 1:
        return
    source = current(found).imported
    device = offered(call, sort, handle_type, found.facts["timeline"]) if source else None
    if device is not None and not source & device.reexport:
        yield site.broken(
            sort.object,
            f"has a payload that was imported as {sort.name(source)}; this device exports as "
            f"{sort.name(handle_type)} what was imported as {sort.name(device.reexport)}.",
            f"Ask exportFromImportedHandleTypes of {_query(sort)}, or export the original.",
        )


# -- imported: what the structure says ------------------------------------------------------------


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01466",
    "VUID-VkImportFenceWin32HandleInfoKHR-handleType-01459",
    stage="arguments",
)
def a_name_for_nt_types_only(call: Call, site: Site) -> Findings:
    sort, handle_type = sort_of(site), int(site.value("handleType"))
    named = sort.mask(named_on_import=True)
    if site.value("name") is not None and not handle_type & named:
        yield site.broken(
            "name",
            f"is given, but handleType is {sort.name(handle_type)}; only NT handles have names.",
            f"Import by name as one of: {', '.join(_names(sort, named))}; a KMT value is its own "
            "name.",
        )


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handle-01469",
    "VUID-VkImportFenceWin32HandleInfoKHR-handle-01462",
    stage="arguments",
)
def a_handle_or_a_name(call: Call, site: Site) -> Findings:
    if site.value("handle") and site.value("name") is not None:
        yield site.broken(
            "handle", "is given, and so is name.", "Pass one of them, and leave the other out."
        )


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-handleType-07307",
    "VUID-VkImportFenceFdInfoKHR-handleType-07306",
    stage="arguments",
)
def a_snapshot_for_a_time_only(call: Call, site: Site) -> Findings:
    sort, handle_type = sort_of(site), int(site.value("handleType"))
    if handle_type & sort.copies and not int(site.value("flags")) & _TEMPORARY:
        yield site.broken(
            "flags",
            f"has no TEMPORARY bit, but {sort.name(handle_type)} is a copy of a state, and cannot "
            "be imported for good.",
            f"Add VK_{sort.object.upper()}_IMPORT_TEMPORARY_BIT.",
        )


# -- imported: what the device says ---------------------------------------------------------------


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-handleType-01143",
    "VUID-VkImportFenceFdInfoKHR-handleType-01464",
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01140",
    "VUID-VkImportFenceWin32HandleInfoKHR-handleType-01457",
    stage="device",
)
def a_type_that_can_be_imported(call: Call, site: Site) -> Findings:
    sort, found = sort_of(site), the_object(call, site)
    handle_type = int(site.value("handleType"))
    if found is None or handle_type.bit_count() != 1:
        return
    timeline = bool(found.facts["timeline"])
    device = offered(call, sort, handle_type, timeline)
    if device is not None and not device.features & _IMPORTABLE:
        yield site.broken(
            "handleType",
            f"is {sort.name(handle_type)}, which this device cannot import into a "
            f"{_what(sort, timeline)}.",
            f"Use a type for which {_query(sort)} reports IMPORTABLE.",
        )


# -- imported: what is behind the handle ----------------------------------------------------------


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-fd-01544",
    "VUID-VkImportFenceFdInfoKHR-fd-01541",
    stage="os",
)
def a_descriptor_of_that_kind(call: Call, site: Site) -> Findings:
    yield from _unfit(call, site, "fd")
    yield from _compatible(call, site, "fd")


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01468",
    "VUID-VkImportFenceWin32HandleInfoKHR-handleType-01461",
    stage="os",
)
def a_handle_of_that_type(call: Call, site: Site) -> Findings:
    yield from _unfit(call, site, "handle")


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01467",
    "VUID-VkImportFenceWin32HandleInfoKHR-handleType-01460",
    stage="os",
)
def a_name_that_somebody_holds(call: Call, site: Site) -> Findings:
    yield from _unfit(call, site, "name")


def _unfit(call: Call, site: Site, member: str) -> Findings:
    found = unfit(call, site)
    if found is not None and found.member == member:
        yield site.broken(member, found.problem, found.remedy)


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handle-01542",
    "VUID-VkImportFenceWin32HandleInfoKHR-handle-01539",
    stage="os",
)
def a_handle_of_this_device_and_driver(call: Call, site: Site) -> Findings:
    if site.value("name") is None:
        yield from _compatible(call, site, "handle")


@rule(
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-name-01543",
    "VUID-VkImportFenceWin32HandleInfoKHR-name-01540",
    stage="os",
)
def a_name_of_this_device_and_driver(call: Call, site: Site) -> Findings:
    if site.value("name") is not None:
        yield from _compatible(call, site, "name")


def _compatible(call: Call, site: Site, member: str) -> Iterator[Broken]:
    sort, handle_type = sort_of(site), int(site.value("handleType"))
    if handle_type & sort.copies:
        return  # made to travel between drivers
    found, here = imported(call, site), call.asked.identity()
    if found is None or here is None:
        return
    for what, theirs, ours in (
        ("device", found.device, here[0]),
        ("driver", found.driver, here[1]),
    ):
        if theirs is not None and theirs != ours:
            yield site.broken(
                member,
                f"is of another {what}: {sort.name(handle_type)} was made with {what}UUID "
                f"{theirs.hex()}, and here it is {ours.hex()}.",
                "It is understood by the device and driver build that made it alone; compare both "
                "UUIDs (VkPhysicalDeviceIDProperties) before a handle is sent.",
            )
            return
