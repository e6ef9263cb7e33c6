"""Rules for creating shared buffers and images, each broken and each kept, on every driver."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import extmem
from extmem import vk
from tests.support.rig import Rig

descriptors = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)


def broken(call: Any) -> set[str]:
    with pytest.raises(extmem.RuleViolation) as error:
        call()
    return {problem.vuid for problem in error.value.problems}


def image(**members: Any) -> vk.VkImageCreateInfo:
    members = {
        "imageType": vk.VK_IMAGE_TYPE_2D,
        "format": vk.VK_FORMAT_R8G8B8A8_UNORM,
        "extent": (16, 16, 1),
        "mipLevels": 1,
        "arrayLayers": 1,
        "samples": vk.VK_SAMPLE_COUNT_1_BIT,
        "tiling": vk.VK_IMAGE_TILING_OPTIMAL,
        "usage": vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
        **members,
    }
    return vk.VkImageCreateInfo(**members)


@pytest.fixture
def rig(driver: str) -> Any:
    with Rig(driver) as made:
        yield made


def keeps(rig: Rig, info: vk.VkImageCreateInfo) -> None:
    vk.vkDestroyImage(rig.device, vk.vkCreateImage(rig.device, info))


@descriptors
def test_buffers_have_types_that_go_together(rig: Rig) -> None:
    both = OPAQUE_FD | int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
    info = vk.VkBufferCreateInfo(
        size=64, usage=1, pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=both)
    )
    assert "VUID-VkBufferCreateInfo-pNext-00920" in broken(
        lambda: vk.vkCreateBuffer(rig.device, info)
    )
    info.pNext = vk.VkExternalMemoryBufferCreateInfo(handleTypes=OPAQUE_FD)
    vk.vkDestroyBuffer(rig.device, vk.vkCreateBuffer(rig.device, info))


@descriptors
def test_images_have_types_that_go_together(rig: Rig) -> None:
    both = OPAQUE_FD | int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
    info = image(pNext=vk.VkExternalMemoryImageCreateInfo(handleTypes=both))
    assert "VUID-VkImageCreateInfo-pNext-00990" in broken(
        lambda: vk.vkCreateImage(rig.device, info)
    )
    keeps(rig, image(pNext=vk.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD)))


def test_core_and_nv_structures_are_not_mixed(rig: Rig) -> None:
    info = vk.link(
        image(),
        vk.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD),
        vk.VkExternalMemoryImageCreateInfoNV(handleTypes=1),
    )
    assert "VUID-VkImageCreateInfo-pNext-00988" in broken(
        lambda: vk.vkCreateImage(rig.device, info)
    )


def test_images_start_undefined_or_preinitialized(rig: Rig) -> None:
    general = image(initialLayout=vk.VK_IMAGE_LAYOUT_GENERAL)
    assert broken(lambda: vk.vkCreateImage(rig.device, general)) == {
        "VUID-VkImageCreateInfo-initialLayout-00993"
    }
    keeps(rig, image())


def test_shared_images_start_undefined(rig: Rig) -> None:
    shared = image(
        initialLayout=vk.VK_IMAGE_LAYOUT_PREINITIALIZED,
        tiling=vk.VK_IMAGE_TILING_LINEAR,
        pNext=vk.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD),
    )
    assert "VUID-VkImageCreateInfo-pNext-01443" in broken(
        lambda: vk.vkCreateImage(rig.device, shared)
    )


def test_modifier_structures_and_tiling_belong_together(rig: Rig) -> None:
    bare = image(tiling=vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
    assert "VUID-VkImageCreateInfo-tiling-02261" in broken(
        lambda: vk.vkCreateImage(rig.device, bare)
    )
    modifiers = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[0])
    assert "VUID-VkImageCreateInfo-pNext-02262" in broken(
        lambda: vk.vkCreateImage(rig.device, image(pNext=modifiers))
    )


def test_no_alignment_control_of_shared_images(rig: Rig) -> None:
    info = vk.link(
        image(),
        vk.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD),
        vk.VkImageAlignmentControlCreateInfoMESA(maximumRequestedAlignment=4096),
    )
    assert "VUID-VkImageCreateInfo-pNext-09654" in broken(
        lambda: vk.vkCreateImage(rig.device, info)
    )


# -- asking about buffers -------------------------------------------------------------------------


def test_a_usage_to_ask_about(rig: Rig) -> None:
    owner = "VUID-VkPhysicalDeviceExternalBufferInfo-None"

    def ask(usage: int, *chain: Any) -> Any:
        info = vk.VkPhysicalDeviceExternalBufferInfo(usage=usage, handleType=OPAQUE_FD)
        return vk.vkGetPhysicalDeviceExternalBufferProperties(rig.physical, vk.link(info, *chain))

    assert broken(lambda: ask(0)) == {f"{owner}-09500"}
    assert broken(lambda: ask(1 << 31 | 1)) == {f"{owner}-09499"}
    ask(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT)
    # Said in 64 bits elsewhere.
    ask(0, vk.VkBufferUsageFlags2CreateInfo(usage=1))
