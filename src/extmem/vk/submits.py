"""Submissions, with a short way for what is sent off while somebody waits for it.

One batch, on a device without checks or of a shape that can be seen to break no rule, goes to the
driver at once: the structure is passed where it lies. All others go through the one door.
"""

from __future__ import annotations

from typing import Any

from extmem.rules import glances_at_submits
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk import calls
from extmem.vk._base import check_counts
from extmem.vk._structures import VkQueue, VkSubmitInfo, VkSubmitInfo2
from extmem.vk.record_commands import spent
from extmem.vk.record_submits import submits_at_a_glance

__all__ = ["vkQueueSubmit", "vkQueueSubmit2", "vkQueueSubmit2KHR"]

# As `glances_at_submits.as_array`.
_one_of_2 = (VkSubmitInfo2 * 1).from_buffer


def vkQueueSubmit(queue: s.VkQueue, submitCount: int, pSubmits: Any, fence: int | None) -> None:
    """VK_VERSION_1_0."""
    # All in one function, but for what is rare: somebody waits for this, and nothing of it is in
    # the processor's caches.
    if type(pSubmits) is list and len(pSubmits) == submitCount == 1 and type(queue) is VkQueue:
        dispatch: Any = queue.dispatch
        info = pSubmits[0]
        if dispatch is not None and type(info) is VkSubmitInfo:
            if dispatch.unchecked:
                alone = _alone_of(info)
                result = dispatch.vkQueueSubmit(queue, 1, alone, fence or 0)
                if result:
                    calls.raise_for(p.vkQueueSubmit, result)
                return
            if dispatch.alive and dispatch.checks != "off":
                plain = glances_at_submits.submission(dispatch, queue, info, fence)
                if plain is not None:
                    batch, commands, alone = plain
                    undo = submits_at_a_glance(dispatch, batch, commands, fence or 0)
                    try:
                        result = dispatch.vkQueueSubmit(queue, 1, alone, fence or 0)
                        if result:
                            calls.raise_for(p.vkQueueSubmit, result)
                    except BaseException:
                        undo()
                        raise
                    if commands:
                        spent(dispatch, commands)
                    return
                calls.run(p.vkQueueSubmit, (queue, 1, pSubmits, fence))
                glances_at_submits.learn_submission(dispatch, queue, info)
                return
    calls.run(p.vkQueueSubmit, (queue, submitCount, pSubmits, fence))


def _alone_of(info: Any) -> Any:
    """The array of one element that a structure is. ValueError if a count in it reaches past the
    elements that were given; that is looked at again once it has other bytes than before.
    """
    try:
        alone, was, given = info._alone
        if was == bytes(info) and given == info._given:
            return alone
    except AttributeError:  # the first time, or it has no arrays
        alone = glances_at_submits.as_array(info)
    check_counts(info)
    if hasattr(info, "_given"):
        info._alone = alone, bytes(info), dict(info._given)
    return alone


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
