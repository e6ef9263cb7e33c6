"""Rules of semaphores alone: their two types, and snapshots of them (SYNC_FD).

What they have in common with fences is in `sync_sharing.py`, what queues and hosts wait for in
`waits.py`.
"""

from __future__ import annotations

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.sync_handles import SEMAPHORES, imported, the_object
from extmem.submitted import Batch, Submitted, current
from extmem.vk import _constants as c
from extmem.world import Record

_TIMELINE = int(c.VK_SEMAPHORE_TYPE_TIMELINE)
_TEMPORARY = int(c.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT)


# -- the two types --------------------------------------------------------------------------------


@rule("VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252", stage="state")
def timelines_where_the_feature_is_on(call: Call, site: Site) -> Findings:
    device = call.world.find("VkDevice", int(call.dispatch.device or 0))
    if device is None or int(site.value("semaphoreType")) != _TIMELINE:
        return
    if "timelineSemaphore" not in device.facts.get("features", ()):
        yield site.broken(
            "semaphoreType",
            "is TIMELINE, but the feature timelineSemaphore is not enabled on this device.",
            "Chain VkPhysicalDeviceTimelineSemaphoreFeatures (or ...Vulkan12Features) with it to "
            "VkDeviceCreateInfo.",
        )


@rule("VUID-VkSemaphoreTypeCreateInfo-semaphoreType-03279", stage="arguments")
def binary_semaphores_start_at_zero(call: Call, site: Site) -> Findings:
    value = int(site.value("initialValue"))
    if int(site.value("semaphoreType")) != _TIMELINE and value:
        yield site.broken(
            "initialValue",
            f"is {value}, but a binary semaphore starts unsignalled.",
            "Leave it 0, or make a timeline semaphore.",
        )


@rule(
    "VUID-vkGetSemaphoreCounterValue-semaphore-03255",
    "VUID-VkSemaphoreSignalInfo-semaphore-03257",
    stage="state",
)
def a_timeline_semaphore(call: Call, site: Site) -> Findings:
    found = call.world.find("VkSemaphore", int(site.value("semaphore")))
    if found is not None and not found.facts["timeline"]:
        yield site.broken(
            "semaphore",
            "is binary: it has no value, and queues alone signal it.",
            "Create it with VkSemaphoreTypeCreateInfo and VK_SEMAPHORE_TYPE_TIMELINE.",
        )


@rule("VUID-VkSemaphoreWaitInfo-pSemaphores-03256", stage="state")
def timeline_semaphores_to_wait_for(call: Call, site: Site) -> Findings:
    for index in range(int(site.value("semaphoreCount"))):
        found = call.world.find("VkSemaphore", int(site.value("pSemaphores")[index]))
        if found is not None and not found.facts["timeline"]:
            yield site.broken(
                f"pSemaphores[{index}]",
                "is binary, which queues alone can wait for.",
                "Wait for a fence, or for a timeline semaphore.",
            )


# -- what is imported -----------------------------------------------------------------------------


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-handleType-03263",
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-03261",
    stage="os",
)
def flags_as_its_exporter_had(call: Call, site: Site) -> Findings:
    found, ours = _opaque_import(site), the_object(call, site)
    origin = imported(call, site) if found else None
    if origin is None or ours is None or origin.flags in (None, ours.facts["flags"]):
        return
    yield site.broken(
        "semaphore",
        f"was created with flags {ours.facts['flags']:#x}, but what is imported with "
        f"{origin.flags:#x}.",
        "Create both with the same VkSemaphoreCreateInfo::flags.",
    )


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-handleType-03264",
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-03262",
    stage="os",
)
def the_type_that_its_exporter_had(call: Call, site: Site) -> Findings:
    found, ours = _opaque_import(site), the_object(call, site)
    origin = imported(call, site) if found else None
    if origin is None or ours is None or origin.timeline in (None, ours.facts["timeline"]):
        return
    kinds = {True: "a timeline", False: "binary"}
    yield site.broken(
        "semaphore",
        f"is {kinds[ours.facts['timeline']]}, but what is imported is "
        f"{kinds[bool(origin.timeline)]}.",
        "Create both with the same VkSemaphoreTypeCreateInfo::semaphoreType.",
    )


def _opaque_import(site: Site) -> bool:
    return bool(int(site.value("handleType")) & SEMAPHORES.opaque)


def _d3d12_import(site: Site) -> bool:
    fence = int(c.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)
    return site.owner.endswith("Win32HandleInfoKHR") and int(site.value("handleType")) == fence


@rule(
    "VUID-VkImportSemaphoreFdInfoKHR-flags-03323",
    "VUID-VkImportSemaphoreWin32HandleInfoKHR-flags-03322",
    stage="os",
)
def timelines_are_imported_for_good(call: Call, site: Site) -> Findings:
    ours = the_object(call, site)
    if ours is None or not int(site.value("flags")) & _TEMPORARY:
        return
    origin = imported(call, site)
    timeline = origin.timeline if origin is not None else None
    if timeline is None and (_opaque_import(site) or _d3d12_import(site)):
        # Another rule wants both to be of one type; and a fence of D3D12's has a value like ours.
        timeline = ours.facts["timeline"]
    if timeline:
        yield site.broken(
            "flags",
            "has VK_SEMAPHORE_IMPORT_TEMPORARY_BIT, but what is imported is a timeline.",
            "Leave the bit out; timelines are shared for good.",
        )


@rule("VUID-vkImportSemaphoreFdKHR-semaphore-01142", stage="device")
def a_semaphore_that_no_queue_uses(call: Call, site: Site) -> Findings:
    info = site.value("pImportSemaphoreFdInfo")
    found = call.world.find("VkSemaphore", int(info.semaphore))
    busy = _user(call, found, signals=True) if found is not None else None
    if busy is not None:
        yield site.broken(
            "pImportSemaphoreFdInfo",
            f"names the semaphore {int(info.semaphore):#x}, which the queue {busy.queue:#x} still "
            "uses.",
            "Wait until what was submitted with it has ended, or import into another semaphore.",
        )


def _user(call: Call, found: Record, *, signals: bool) -> Batch | None:
    """A batch that is known to be unfinished, and waits for a semaphore (or signals it)."""
    submitted: Submitted | None = call.world.submitted
    for batch in submitted or ():
        pairs = batch.waits + batch.signals if signals else batch.waits
        if any(each is found for each, _ in pairs) and call.asked.unfinished(batch):
            return batch
    return None


# -- snapshots ------------------------------------------------------------------------------------


def _snapshot(call: Call, site: Site) -> Record | None:
    """The semaphore that a snapshot is taken of."""
    if not int(site.value("handleType")) & SEMAPHORES.copies:
        return None
    return the_object(call, site)


@rule("VUID-VkSemaphoreGetFdInfoKHR-handleType-03253", stage="state")
def a_snapshot_of_a_binary_semaphore(call: Call, site: Site) -> Findings:
    found = _snapshot(call, site)
    if found is not None and found.facts["timeline"]:
        yield site.broken(
            "semaphore",
            "is a timeline, but a sync_fd is signalled or not.",
            "Export it as OPAQUE_FD, or take a binary semaphore.",
        )


@rule("VUID-VkSemaphoreGetFdInfoKHR-handleType-01134", stage="device")
def a_snapshot_that_nobody_waits_for(call: Call, site: Site) -> Findings:
    found = _snapshot(call, site)
    busy = _user(call, found, signals=False) if found is not None else None
    if busy is not None:
        yield site.broken(
            "semaphore",
            f"is waited for by the queue {busy.queue:#x}; a snapshot would take its signal away.",
            "Fetch it before a wait is submitted, or signal another semaphore for each of them.",
        )


@rule("VUID-VkSemaphoreGetFdInfoKHR-handleType-01135", stage="state")
def a_snapshot_of_what_is_signalled_or_will_be(call: Call, site: Site) -> Findings:
    found = _snapshot(call, site)
    if found is not None and not found.facts["timeline"] and current(found).signaled is False:
        yield site.broken(
            "semaphore",
            "is not signalled, and nothing that was submitted signals it.",
            "Submit the signal first, then fetch the sync_fd.",
        )


@rule("VUID-VkSemaphoreGetFdInfoKHR-handleType-03254", stage="device")
def a_snapshot_whose_signal_depends_on_nothing_to_come(call: Call, site: Site) -> Findings:
    found = _snapshot(call, site)
    submitted = call.world.submitted
    signal = current(found).signal if found is not None else None
    if signal is None or submitted is None:
        return
    missing = _missing(call, submitted, signal)
    if missing is not None:
        semaphore, value = missing
        yield site.broken(
            "semaphore",
            f"is signalled after the timeline {semaphore:#x} has come to {value}, and nobody has "
            "submitted that yet.",
            "Submit everything that the signal depends on first, then fetch the sync_fd.",
        )


def _missing(call: Call, submitted: Submitted, signal: Batch) -> tuple[int, int] | None:
    """A value of a timeline of our own that a signal waits for, and that nothing submitted makes.

    Timelines that are shared may be signalled by others.
    """
    todo, seen = [signal], set()
    while todo:
        batch = todo.pop()
        if batch.finished or batch.forgotten or id(batch) in seen:
            continue
        for each in submitted.of_queue(batch.queue):
            if id(each) not in seen:
                seen.add(id(each))
                todo += each.after
                for record, value in each.waits:
                    if not record.facts["timeline"] or record.facts["payload"].shared:
                        continue
                    counter = call.asked.counter(record.value)
                    if counter is None or counter >= value:
                        continue
                    makers = [
                        other
                        for other in submitted
                        if any(who is record and to >= value for who, to in other.signals)
                    ]
                    if not makers:
                        return record.value, value
                    todo += makers
            if each is batch:
                break
    return None
