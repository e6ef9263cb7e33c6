"""What is asked about shared images. Either of the two structures for it may stand alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest

import extmem
from extmem import DriverError, vk
from extmem.drivers.chains import followers
from extmem.drivers.driver import Command
from extmem.drivers.open import open_driver
from extmem.vk import _prototypes as p
from tests.support import second
from tests.support.second import Channel

if sys.platform != "win32":
    from extmem.drivers.bridge.questions import about_images

on_linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: the bridge is for Linux")

_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
_NT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
_HEAP = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
_NO_SUCH_IMAGE = int(vk.VK_ERROR_FORMAT_NOT_SUPPORTED)
_UNWRITTEN = 7  # externalMemoryFeatures, before anybody is asked

# The handle type of the question, or None for no question, and whether there is room for an answer.
_QUESTIONS = list(itertools.product((None, 0, _NT), (False, True)))

# A VkResult, the limits as bytes, and what is said of sharing: features and compatible types.
Answer = list[Any]


def _ask(
    command: Callable[[Any, Any], int], handle_type: int | None, told: bool, form: int
) -> Answer:
    """What there is to say of a plain image."""
    chain = None
    if handle_type is not None:
        chain = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type)
    question = vk.VkPhysicalDeviceImageFormatInfo2(
        format=form,
        type=vk.VK_IMAGE_TYPE_2D,
        tiling=vk.VK_IMAGE_TILING_OPTIMAL,
        usage=vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
        pNext=chain,
    )
    sharing = vk.VkExternalImageFormatProperties()
    sharing.externalMemoryProperties.externalMemoryFeatures = _UNWRITTEN
    answer = vk.VkImageFormatProperties2(pNext=sharing if told else None)
    result = command(question, answer)
    assert answer.pNext is (sharing if told else None)
    assert question.pNext is chain
    said = sharing.externalMemoryProperties
    limits = bytes(answer.imageFormatProperties).hex() if result == 0 else ""
    return [result, limits, int(said.externalMemoryFeatures), int(said.compatibleHandleTypes)]


def _by_us(physical: Any) -> Callable[[Any, Any], int]:
    def command(question: Any, answer: Any) -> int:
        try:
            vk.vkGetPhysicalDeviceImageFormatProperties2(physical, question, answer)
        except DriverError as error:
            return int(error.result)
        return 0

    return command


def _by_itself(driver: str, physical: Any) -> tuple[Callable[[Any, Any], int], bool]:
    """The driver's own command, with nothing of ours around it; and whether there is something."""
    whole: Any = open_driver(driver)
    lowest = whole
    while hasattr(lowest, "below"):
        lowest = lowest.below
    prototype = p.vkGetPhysicalDeviceImageFormatProperties2
    own = lowest.instance_command(physical.dispatch.instance, prototype, prototype.name)
    return lambda question, answer: int(own(int(physical), question, answer)), lowest is not whole


def asker(channel: Channel, driver: str, form: int) -> None:
    with extmem.open_device(driver=driver) as gpu:
        physical = gpu.vk_physical
        own, bridged = _by_itself(driver, physical)
        channel.send(_ask(own, None, False, form))
        channel.send(_ask(own, _FD if bridged else _NT, True, form))
        for handle_type, told in _QUESTIONS:
            channel.send(_ask(_by_us(physical), handle_type, told, form))


@pytest.mark.parametrize(
    "form", [vk.VK_FORMAT_R8G8B8A8_UNORM, vk.VK_FORMAT_R64G64B64A64_SFLOAT], ids=["rgba8", "rgba64"]
)
def test_the_question_or_the_answer_alone(driver: str, form: int) -> None:
    """SwiftShader and Mesa 22.3 end the process that leaves one of them out."""
    with second.start(asker, driver=driver, form=form) as other:
        plain = other.receive()[0]
        shared = other.receive()[0]
        answers = {}
        for handle_type, told in _QUESTIONS:
            answers[handle_type, told] = other.receive()[0]
    assert plain[0] in (0, _NO_SUCH_IMAGE)
    if form == vk.VK_FORMAT_R8G8B8A8_UNORM:
        assert plain[0] == 0  # which every device makes
    for (handle_type, told), answer in answers.items():
        question = f"handle type {handle_type}, {'with' if told else 'without'} an answer"
        own = shared if handle_type else plain
        assert answer[:2] == own[:2], question
        # About sharing there is something to say where somebody asked, and could be told.
        if not handle_type or not told:
            assert answer[2:] == [_UNWRITTEN, 0], question
        elif own[0] == 0:
            assert answer[2:] == [own[2], _NT], question


# -- what the bridge asks below -------------------------------------------------------------------


def strict_driver(seen: list[tuple[int | None, bool]]) -> Command:
    """A driver that makes images, and shares them as OPAQUE_FD: no images of type 0, and death by
    one structure without the other. NVIDIA's driver, SwiftShader and Mesa 22.3 have these between
    them.
    """

    def ask(physical: int, info: Any, found: Any) -> int:
        questions = [
            int(each.handleType)
            for each in followers(info)
            if type(each) is vk.VkPhysicalDeviceExternalImageFormatInfo
        ]
        answers = [
            each for each in followers(found) if type(each) is vk.VkExternalImageFormatProperties
        ]
        assert len(questions) == len(answers) <= 1, "the process ends"
        seen.append((questions[0] if questions else None, bool(answers)))
        if questions and questions[0] != _FD:
            return _NO_SUCH_IMAGE
        found.imageFormatProperties.maxArrayLayers = 5
        for each in followers(found):
            if type(each) is vk.VkSamplerYcbcrConversionImageFormatProperties:
                each.combinedImageSamplerDescriptorCount = 3
            elif each in answers:
                each.externalMemoryProperties.externalMemoryFeatures = 6
                each.externalMemoryProperties.compatibleHandleTypes = _FD
        return 0

    return ask


@on_linux
@pytest.mark.parametrize("others", ["none", "before", "behind"])
@pytest.mark.parametrize(
    ("handle_type", "asked", "result"),
    [
        (None, None, 0),
        (0, None, 0),
        (_FD, _FD, 0),
        (_NT, _FD, 0),
        (_KMT, _FD, 0),
        (0x200, 0x200, _NO_SUCH_IMAGE),  # a dma-buf, which is the driver's own business
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_the_driver_below_gets_both_or_neither(
    handle_type: int | None, asked: int | None, result: int, told: bool, others: str
) -> None:
    seen: list[tuple[int | None, bool]] = []
    command = about_images(strict_driver(seen))
    sharing = vk.VkExternalImageFormatProperties()
    sharing.externalMemoryProperties.externalMemoryFeatures = _UNWRITTEN
    chroma = vk.VkSamplerYcbcrConversionImageFormatProperties()
    stencil = vk.VkImageStencilUsageCreateInfo(stencilUsage=1)
    question = vk.VkPhysicalDeviceImageFormatInfo2()
    answer = vk.VkImageFormatProperties2()
    external = None
    if handle_type is not None:
        external = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type)
    ahead, after = others == "before", others == "behind"
    vk.link(question, stencil if ahead else None, external, stencil if after else None)
    vk.link(answer, chroma if ahead else None, sharing if told else None, chroma if after else None)
    before = [list(followers(each)) for each in (question, answer)]

    assert command(1, question, answer) == result
    assert seen == [(asked, asked is not None)]
    assert [list(followers(each)) for each in (question, answer)] == before
    if external is not None:
        assert external.handleType == handle_type
    said = sharing.externalMemoryProperties
    if result == 0:
        assert answer.imageFormatProperties.maxArrayLayers == 5
        assert chroma.combinedImageSamplerDescriptorCount == (0 if others == "none" else 3)
    if handle_type and told and result == 0:
        assert (said.externalMemoryFeatures, said.compatibleHandleTypes) == (6, handle_type)
    else:
        assert (said.externalMemoryFeatures, said.compatibleHandleTypes) == (_UNWRITTEN, 0)


@on_linux
def test_types_that_nobody_carries_are_not_asked_about() -> None:
    seen: list[tuple[int | None, bool]] = []
    question = vk.VkPhysicalDeviceImageFormatInfo2(
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=_HEAP)
    )
    command = about_images(strict_driver(seen))
    assert command(1, question, vk.VkImageFormatProperties2()) == _NO_SUCH_IMAGE
    assert seen == []
