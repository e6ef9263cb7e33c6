"""Rules for creating shared buffers and images, each broken and each kept, on every driver."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from tests.support.bare import Bare
from tests.support.rig import Rig
from tests.support.strict import driver_cannot

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


# -- DRM format modifiers -------------------------------------------------------------------------

_UNKNOWN = 0xDEADBEEF
_LIST = "VUID-VkImageDrmFormatModifierListCreateInfoEXT-pDrmFormatModifiers-02263"
_EXPLICIT = "VUID-VkImageDrmFormatModifierExplicitCreateInfoEXT-drmFormatModifier-02264"
_MODIFIER = vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT
_RGBA = vk.VK_FORMAT_R8G8B8A8_UNORM


def by_modifiers(*modifiers: int, **members: Any) -> vk.VkImageCreateInfo:
    listed = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=list(modifiers))
    return image(**{"tiling": _MODIFIER, "pNext": listed, **members})


class Modifiers(Bare):
    """A device with DRM format modifiers."""

    wanted = (
        "VK_EXT_image_drm_format_modifier",
        "VK_KHR_external_memory_fd",
        "VK_EXT_external_memory_dma_buf",
    )

    def of(self, form: int = _RGBA) -> list[int]:
        """The modifiers that the driver lists for a format."""
        found = vk.VkDrmFormatModifierPropertiesListEXT()
        box = vk.VkFormatProperties2(pNext=found)
        vk.vkGetPhysicalDeviceFormatProperties2(self.physical, form, box)
        room = (vk.VkDrmFormatModifierPropertiesEXT * found.drmFormatModifierCount)()
        if len(room):
            found.pDrmFormatModifierProperties = room
            vk.vkGetPhysicalDeviceFormatProperties2(self.physical, form, box)
        return [int(each.drmFormatModifier) for each in room]

    def makes(self, modifier: int, **members: Any) -> bool:
        """Whether the driver says that it makes such images by a modifier."""
        info = image(**members)
        asked = vk.VkPhysicalDeviceImageFormatInfo2(
            format=info.format,
            type=info.imageType,
            tiling=_MODIFIER,
            usage=info.usage,
            flags=info.flags,
            pNext=vk.VkPhysicalDeviceImageDrmFormatModifierInfoEXT(drmFormatModifier=modifier),
        )
        try:
            vk.vkGetPhysicalDeviceImageFormatProperties2(self.physical, asked)
        except extmem.DriverError as error:
            if error.result != vk.VK_ERROR_FORMAT_NOT_SUPPORTED:
                raise
            return False
        return True

    def known(self) -> list[int]:
        """The modifiers that it makes plain images by."""
        found = [each for each in self.of() if self.makes(each)]
        if not found:
            driver_cannot("no modifier for plain images")
        return found

    def broken(self, info: vk.VkImageCreateInfo) -> set[str]:
        return broken(lambda: vk.vkCreateImage(self.device, info))


@pytest.fixture
def modifiers(driver: str) -> Iterator[Modifiers]:
    with Modifiers(driver, version=vk.VK_API_VERSION_1_3) as made:
        if not made.dispatch.enabled("VK_EXT_image_drm_format_modifier"):
            driver_cannot("no VK_EXT_image_drm_format_modifier")
        yield made


def test_each_modifier_of_a_list_is_the_devices(modifiers: Modifiers) -> None:
    made = modifiers.known()
    vk.vkDestroyImage(modifiers.device, vk.vkCreateImage(modifiers.device, by_modifiers(*made)))
    assert modifiers.broken(by_modifiers(_UNKNOWN)) == {_LIST}
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkCreateImage(modifiers.device, by_modifiers(*made, _UNKNOWN))
    (problem,) = error.value.problems
    assert problem.vuid == _LIST
    assert f"pDrmFormatModifiers[{len(made)}]: is 0xdeadbeef" in str(error.value)
    assert hex(made[0]) in str(error.value)


def test_the_modifier_of_planes_is_the_devices(modifiers: Modifiers) -> None:
    first = modifiers.known()[0]
    pattern = vk.vkCreateImage(modifiers.device, by_modifiers(first))
    plane = vk.VkImageSubresource(aspectMask=vk.VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT)
    layout = vk.vkGetImageSubresourceLayout(modifiers.device, pattern, plane)
    vk.vkDestroyImage(modifiers.device, pattern)

    def laid_out(modifier: int) -> vk.VkImageCreateInfo:
        explicit = vk.VkImageDrmFormatModifierExplicitCreateInfoEXT(
            drmFormatModifier=modifier,
            pPlaneLayouts=[vk.VkSubresourceLayout(offset=layout.offset, rowPitch=layout.rowPitch)],
        )
        return image(tiling=_MODIFIER, pNext=explicit)

    made = vk.vkCreateImage(modifiers.device, laid_out(first))
    vk.vkDestroyImage(modifiers.device, made)
    assert modifiers.broken(laid_out(_UNKNOWN)) == {_EXPLICIT}


def test_a_format_may_have_no_modifiers(modifiers: Modifiers) -> None:
    form = next((each for each in range(1, 185) if not modifiers.of(each)), None)
    if form is None:
        driver_cannot("each format has modifiers")
    with pytest.raises(extmem.RuleViolation, match=f"format {form}; it has none"):
        vk.vkCreateImage(modifiers.device, by_modifiers(0, format=form))


def test_a_modifier_is_not_for_every_kind_of_image(modifiers: Modifiers) -> None:
    volume: dict[str, Any] = {"imageType": vk.VK_IMAGE_TYPE_3D, "extent": (16, 16, 4)}
    refused = [each for each in modifiers.of() if not modifiers.makes(each, **volume)]
    if not refused:
        driver_cannot("it makes volumes by all modifiers")
    assert modifiers.broken(by_modifiers(refused[0], **volume)) == {_LIST}


@descriptors
def test_modifiers_of_shared_images_are_the_devices_too(modifiers: Modifiers) -> None:
    shared = vk.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD)
    assert modifiers.broken(vk.link(by_modifiers(_UNKNOWN), shared)) == {_LIST}


def test_modifiers_are_asked_for_once(
    modifiers: Modifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    instance = modifiers.dispatch.parent
    command = instance.vkGetPhysicalDeviceFormatProperties2

    def counted(physical: int, form: int, box: Any) -> None:
        asked.append(int(form))
        command(physical, form, box)

    monkeypatch.setitem(instance.__dict__, "vkGetPhysicalDeviceFormatProperties2", counted)
    for _ in range(3):
        modifiers.broken(by_modifiers(_UNKNOWN))
    assert asked == [_RGBA] * 2  # how many there are, and which
    modifiers.broken(by_modifiers(_UNKNOWN, format=vk.VK_FORMAT_R8_UNORM))
    assert set(asked[2:]) == {vk.VK_FORMAT_R8_UNORM}


def test_modifiers_without_their_extension(rig: Rig) -> None:
    """Lavapipe and SwiftShader pass over them and make an image, by a layout that nobody named."""
    with pytest.raises(extmem.RuleViolation, match="made without VK_EXT_image_drm_format_mod") as e:
        vk.vkCreateImage(rig.device, by_modifiers(0))
    assert {each.vuid for each in e.value.problems} == {"VUID-VkImageCreateInfo-pNext-pNext"}


# -- what goes with sharing -----------------------------------------------------------------------


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
