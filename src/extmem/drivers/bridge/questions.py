"""What the driver below can really do, told of the Windows types that it carries."""

from __future__ import annotations

from typing import Any

from extmem.drivers.bridge.sorts import Sort
from extmem.drivers.bridge.types import CARRIED, FD, KMT, NT, WINDOWS
from extmem.drivers.chains import Exchange, followers, rebuilt
from extmem.drivers.driver import Command
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["about_buffers", "about_images", "about_signals", "features_of_fd"]


def _told_of(handle_type: int, answer: Any) -> None:
    """Turn what was said of descriptors into what holds for a Windows type, in place."""
    # To export what was imported is to duplicate the directory's handle, whatever the driver can.
    importable = answer.externalMemoryFeatures & c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT
    answer.exportFromImportedHandleTypes = handle_type if importable else 0
    # NT handles and KMT numbers are two ways of sharing; one allocation takes one of them.
    answer.compatibleHandleTypes = handle_type


def about_buffers(below: Command) -> Command:
    """vkGetPhysicalDeviceExternalBufferProperties."""

    def ask(physical: int, info: Any, found: Any) -> None:
        handle_type = info.handleType
        if not handle_type & WINDOWS:
            below(physical, info, found)
            return
        answer = found.externalMemoryProperties
        if not handle_type & CARRIED:
            answer.externalMemoryFeatures = 0
            answer.exportFromImportedHandleTypes = answer.compatibleHandleTypes = 0
            return
        copy = type(info).from_buffer_copy(info)
        copy.pNext = info.pNext
        copy.handleType = FD
        below(physical, copy, found)
        _told_of(handle_type, found.externalMemoryProperties)

    return ask


def about_images(below: Command) -> Command:
    """vkGetPhysicalDeviceImageFormatProperties2.

    The driver gets both external structures, or neither. Either may stand alone, and then says
    nothing; so does a question about handle type 0. But SwiftShader reads the missing question,
    and Mesa 22.3 writes into the missing answer, and both end the process; and a driver may answer
    that it has no images of type 0.
    """

    def ask(physical: int, info: Any, found: Any) -> int:
        question = _first(info, s.VkPhysicalDeviceExternalImageFormatInfo)
        handle_type = question.handleType if question is not None else 0
        if not handle_type:
            return _of_plain_images(below, physical, info, found)
        if not handle_type & WINDOWS:
            return _of_shared_images(below, physical, info, found)
        if not handle_type & CARRIED:
            return int(c.VK_ERROR_FORMAT_NOT_SUPPORTED)
        result = _of_shared_images(below, physical, rebuilt(info, _AS_FD), found)
        answer = _first(found, s.VkExternalImageFormatProperties)
        if result == 0 and answer is not None:
            _told_of(handle_type, answer.externalMemoryProperties)
        return result

    return ask


def _first(head: Any, kind: type) -> Any:
    """The first structure of a class behind another one; None if there is none."""
    return next((item for item in followers(head) if type(item) is kind), None)


def _of_shared_images(below: Command, physical: int, info: Any, found: Any) -> int:
    """Ask with an answer about sharing, also where the caller wants none."""
    if _first(found, s.VkExternalImageFormatProperties) is not None:
        return int(below(physical, info, found))
    longer = type(found).from_buffer_copy(found)
    longer.pNext = s.VkExternalImageFormatProperties(pNext=found.pNext)
    result = int(below(physical, info, longer))
    found.imageFormatProperties = longer.imageFormatProperties
    return result


def _of_plain_images(below: Command, physical: int, info: Any, found: Any) -> int:
    """Ask without a question about sharing, and without an answer, which stays as it was."""
    info = rebuilt(info, _WITHOUT)
    before = found
    for answer in followers(found):
        if type(answer) is s.VkExternalImageFormatProperties:
            break
        before = answer
    else:
        return int(below(physical, info, found))
    # What a call fills is nobody else's meanwhile, so the chain itself can be the shorter one.
    before.pNext = answer.pNext
    try:
        return int(below(physical, info, found))
    finally:
        before.pNext = answer


def _as_fd(item: Any) -> Any:
    return s.VkPhysicalDeviceExternalImageFormatInfo(handleType=FD)


_AS_FD: dict[type, Exchange] = {s.VkPhysicalDeviceExternalImageFormatInfo: _as_fd}
_WITHOUT: dict[type, Exchange] = {s.VkPhysicalDeviceExternalImageFormatInfo: lambda item: None}


# -- semaphores and fences ------------------------------------------------------------------------


def about_signals(sort: Sort, below: Command) -> Command:
    """vkGetPhysicalDeviceExternalSemaphoreProperties, ...FenceProperties."""

    def ask(physical: int, info: Any, found: Any) -> None:
        handle_type = info.handleType
        if not handle_type & sort.windows:
            below(physical, info, found)
            return
        features = 0
        if handle_type in (NT, KMT):  # and no mask of them
            copy = type(info).from_buffer_copy(info)
            copy.pNext = info.pNext  # which says whether it is about timelines
            copy.handleType = FD
            below(physical, copy, found)
            features = int(getattr(found, sort.features))
        setattr(found, sort.features, features)
        # As with memory: one of the two is exported, and what was imported by us.
        found.exportFromImportedHandleTypes = handle_type if features & sort.importable else 0
        found.compatibleHandleTypes = handle_type if features else 0

    return ask


def features_of_fd(sort: Sort, below: Command, physical: int, timeline: bool) -> int:
    """What the driver below can do with OPAQUE_FD of semaphores or fences."""
    info = sort.question(handleType=FD)
    if timeline:
        if sort.object == "fence":
            return 0
        info.pNext = s.VkSemaphoreTypeCreateInfo(semaphoreType=c.VK_SEMAPHORE_TYPE_TIMELINE)
    found = sort.answer()
    below(physical, info, found)
    return int(getattr(found, sort.features))
