"""One piece of work for the queue of a device: recorded, submitted, and waited for.

`work.Work` does it, which every device has one of: Ctrl-C ends the wait at any point, and what the
device still works with then is kept until it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from extmem import vk
from extmem.work import Moments as Semaphores

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["Semaphores", "submit"]


def submit(
    device: Device,
    record: Callable[[vk.VkCommandBuffer], None] | None,
    wait: Semaphores = (),
    signal: Semaphores = (),
    submitted: Callable[[], None] | None = None,
) -> None:
    """Record commands, submit them after `wait` and before `signal`, and see them done.

    submitted: called as soon as the queue has them; they will be done then, whether anybody sees it
        or not
    """
    device._work.submit(record, wait=wait, signal=signal, to_the_end=True, submitted=submitted)
