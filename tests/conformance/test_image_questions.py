"""What is asked about shared images. Either of the two structures for it may stand alone."""

from __future__ import annotations

import itertools
from typing import Any

import extmem
from extmem import vk
from tests.support import second
from tests.support.second import Channel

_TYPES = (None, 0, int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT))


def _ask(physical: Any, handle_type: int | None, told: bool) -> int:
    """The largest width of a plain image."""
    chain = None
    if handle_type is not None:
        chain = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type)
    question = vk.VkPhysicalDeviceImageFormatInfo2(
        format=vk.VK_FORMAT_R8G8B8A8_UNORM,
        type=vk.VK_IMAGE_TYPE_2D,
        tiling=vk.VK_IMAGE_TILING_OPTIMAL,
        usage=vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
        pNext=chain,
    )
    answer = vk.VkImageFormatProperties2(
        pNext=vk.VkExternalImageFormatProperties() if told else None
    )
    found = vk.vkGetPhysicalDeviceImageFormatProperties2(physical, question, answer)
    return int(found.imageFormatProperties.maxExtent.width)


def asker(channel: Channel, driver: str) -> None:
    with extmem.open_device(driver=driver) as gpu:
        physical = gpu.vk_physical
        for handle_type, told in itertools.product(_TYPES, (False, True)):
            channel.send(_ask(physical, handle_type, told))


def test_the_question_or_the_answer_alone(driver: str) -> None:
    """SwiftShader and Mesa 22.3 end the process that leaves one of them out."""
    with second.start(asker, driver=driver) as other:
        widths = [other.receive()[0] for _ in range(2 * len(_TYPES))]
    assert set(widths) == {widths[0]}
    assert widths[0] > 0
