"""What is right by all rules and still ends the process on a driver in C: it is not done there.

No rule may refuse it, because it is no mistake of the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call, Hand

__all__ = ["kept_back"]

_LONGEST = 64  # structures; a chain longer than this is a circle


def _an_answer_without_its_question(call: Call) -> bool:
    """SwiftShader looks for the question of each answer: VkExternalImageFormatProperties."""
    if len(call.arguments) < 3 or not isinstance(call.arguments[1], vk.Structure):
        return False
    asked = _behind(call.arguments[1], vk.VkPhysicalDeviceExternalImageFormatInfo)
    answered = _behind(call.arguments[2], vk.VkExternalImageFormatProperties)
    return answered is not None and (asked is None or not asked.handleType)


def _behind(head: Any, cls: type) -> Any:
    """A structure of a chain, which may be spoilt: it does not go by its sType."""
    for _ in range(_LONGEST):
        if head is None or type(head) is cls:
            return head
        head = getattr(head, "_next", None)
    return None


_QUIRKS: dict[str, Callable[[Call], bool]] = {
    "vkGetPhysicalDeviceImageFormatProperties2": _an_answer_without_its_question,
}


def kept_back(hand: Hand, call: Call) -> bool:
    """Whether a call must not be made on this driver."""
    quirk = _QUIRKS.get(call.name)
    return quirk is not None and not hand.embedded and quirk(call)
