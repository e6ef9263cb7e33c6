"""Rules of fences alone: they are not replaced while a queue is to signal them, and snapshots.

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
