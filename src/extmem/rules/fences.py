"""Rules of fences alone: what may not be done to them while a queue is to signal them; snapshots.

What they have in common with semaphores is in `sync_sharing.py`.
"""

from __future__ import annotations

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.sync_handles import FENCES, the_object
from extmem.submitted import current
from extmem.world import Record

_GRACE = 2_000_000  # nanoseconds: a fence may come after other signs of the same end


@rule(
    "VUID-vkImportFenceFdKHR-fence-01463",
    "VUID-vkImportFenceWin32HandleKHR-fence-04448",
    stage="device",
)
def a_fence_that_no_queue_uses(call: Call, site: Site) -> Findings:
    member = "pImportFenceFdInfo" if site.owner.endswith("FdKHR") else "pImportFenceWin32HandleInfo"
    value = int(site.value(member).fence)
    found = call.world.find("VkFence", value)
    if found is not None and _pending(call, found):
        yield site.broken(
            member,
            f"names the fence {value:#x}, which the queue {found.facts['pending'].queue:#x} is "
            "still to signal.",
            "Wait for it (vkWaitForFences), or import into another fence.",
        )


def _pending(call: Call, found: Record) -> bool:
    """Whether it is known that a queue will signal a fence yet."""
    batch = found.facts["pending"]
    # A payload that is shared may have been reset by others after its signal.
    if batch is None or batch.finished or current(found).shared:
        return False
    return call.asked.fence_signaled(found.value, _GRACE) is False


def _in_use(call: Call, found: Record | None) -> bool:
    """The same, where nothing else tells of the end either: a fence may be late."""
    if found is None or not _pending(call, found):
        return False
    batch = found.facts["pending"]
    return bool(batch.forgotten or call.asked.unfinished(batch))


@rule("VUID-vkResetFences-pFences-01123", stage="device")
def reset_once_they_are_signalled(call: Call, site: Site) -> Findings:
    array = site.value("pFences")
    for index in range(int(site.value("fenceCount")) if array else 0):
        found = call.world.find("VkFence", int(array[index] or 0))
        if found is not None and _in_use(call, found):
            yield site.broken(
                f"pFences[{index}]",
                f"is still to be signalled by the queue {found.facts['pending'].queue:#x}.",
                "Wait for it (vkWaitForFences), and reset it then.",
            )


@rule("VUID-vkDestroyFence-fence-01120", stage="device")
def destroyed_once_it_is_signalled(call: Call, site: Site) -> Findings:
    found = call.world.find("VkFence", int(site.value("fence") or 0))
    if found is not None and _in_use(call, found):
        yield site.broken(
            "fence",
            f"is still to be signalled by the queue {found.facts['pending'].queue:#x}.",
            "Wait for it first (vkWaitForFences).",
        )


_SUBMITS = "VUID-vkQueueSubmit-fence", "VUID-vkQueueSubmit2-fence", "VUID-vkQueueBindSparse-fence"


@rule(f"{_SUBMITS[0]}-00063", f"{_SUBMITS[1]}-04894", f"{_SUBMITS[2]}-01113", stage="device")
def a_fence_that_is_not_signalled_yet(call: Call, site: Site) -> Findings:
    fence = call.world.find("VkFence", int(site.value("fence") or 0))
    if fence is not None and current(fence).signaled and not _pending(call, fence):
        yield site.broken(
            "fence",
            "is signalled already.",
            "Reset it (vkResetFences), or take another one.",
        )


@rule(f"{_SUBMITS[0]}-00064", f"{_SUBMITS[1]}-04895", f"{_SUBMITS[2]}-01114", stage="device")
def a_fence_of_nothing_else(call: Call, site: Site) -> Findings:
    fence = call.world.find("VkFence", int(site.value("fence") or 0))
    if fence is not None and current(fence).signaled and _pending(call, fence):
        yield site.broken(
            "fence",
            f"is still to be signalled by what was submitted to the queue "
            f"{fence.facts['pending'].queue:#x} before.",
            "Wait for it and reset it (vkResetFences), or take another one.",
        )


@rule("VUID-VkFenceGetFdInfoKHR-handleType-01454", stage="state")
def a_snapshot_of_a_fence_that_is_signalled_or_will_be(call: Call, site: Site) -> Findings:
    found = the_object(call, site)
    if found is None or not int(site.value("handleType")) & FENCES.copies:
        return
    if current(found).signaled is False:
        yield site.broken(
            "fence",
            "is not signalled, and nothing that was submitted signals it.",
            "Submit something with this fence first, then fetch the sync_fd.",
        )
