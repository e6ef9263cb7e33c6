"""Submissions, with a short way for what is sent off while somebody waits for it.

One batch, on a device without checks, goes to the driver at once: the structure is passed where it
lies. All others go through the one door.
"""

from __future__ import annotations

from typing import Any

from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk import calls
from extmem.vk._base import check_counts
from extmem.vk._structures import VkQueue, VkSubmitInfo, VkSubmitInfo2

__all__ = ["vkQueueSubmit", "vkQueueSubmit2", "vkQueueSubmit2KHR"]

# Views of one structure as the array of one element that it is, which copies nothing.
_one_of_1 = (VkSubmitInfo * 1).from_buffer
_one_of_2 = (VkSubmitInfo2 * 1).from_buffer


def vkQueueSubmit(queue: s.VkQueue, submitCount: int, pSubmits: Any, fence: int | None) -> None:
    """VK_VERSION_1_0."""
    if type(pSubmits) is list and len(pSubmits) == submitCount == 1 and type(queue) is VkQueue:
        dispatch: Any = queue.dispatch
        info = pSubmits[0]
        if dispatch is not None and dispatch.unchecked and type(info) is VkSubmitInfo:
            check_counts(info)
            try:
                alone = info._alone
            except AttributeError:  # the first time
                alone = info._alone = _one_of_1(info)
            result = dispatch.vkQueueSubmit(queue, 1, alone, fence or 0)
            if result:
                calls.raise_for(p.vkQueueSubmit, result)
            return
    calls.run(p.vkQueueSubmit, (queue, submitCount, pSubmits, fence))


def vkQueueSubmit2(queue: s.VkQueue, submitCount: int, pSubmits: Any, fence: int | None) -> None:
    """VK_VERSION_1_3, VK_KHR_synchronization2."""
    if type(pSubmits) is list and len(pSubmits) == submitCount == 1 and type(queue) is VkQueue:
        dispatch: Any = queue.dispatch
        info = pSubmits[0]
        if dispatch is not None and dispatch.unchecked and type(info) is VkSubmitInfo2:
            check_counts(info)
            try:
                alone = info._alone
            except AttributeError:  # the first time
                alone = info._alone = _one_of_2(info)
            result = dispatch.vkQueueSubmit2(queue, 1, alone, fence or 0)
            if result:
                calls.raise_for(p.vkQueueSubmit2, result)
            return
    calls.run(p.vkQueueSubmit2, (queue, submitCount, pSubmits, fence))


vkQueueSubmit2KHR = vkQueueSubmit2
