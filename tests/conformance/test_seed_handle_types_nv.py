"""The pages of VkExternalMemoryHandleTypeFlagBitsNV and its query for images.

What each bit stands for: where its handles come from, whether they are NT handles or numbers, who
owns them, what they keep alive, and when they end. Then the mask VkExternalMemoryHandleTypeFlagsNV,
NV's bits beside the core's, which are twice as large and never taken for one another in silence,
and vkGetPhysicalDeviceExternalImageFormatPropertiesNV.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.handle_types import MEMORY_NV, core_of
from tests.support.win32 import (
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    PLACES,
    REFUSED,
    SIZE,
    TEXTURE11,
    TEXTURE11_KMT,
    VISIBLE,
    Side,
    Source,
    breaks,
    fails,
    importing,
    is_open,
    opened,
    prove_same,
    refused,
)

Sides = tuple[Side, Side]
Bits = vk.VkExternalMemoryHandleTypeFlagBitsNV
ALL = [NT_NV, KMT_NV, IMAGE11_NV, IMAGE11_KMT_NV]
IDS = ["nt", "kmt", "d3d11", "d3d11_kmt"]
QUERY = "VUID-vkGetPhysicalDeviceExternalImageFormatPropertiesNV"

EXPORTABLE = vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT_NV
IMPORTABLE = vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT_NV
DEDICATED_ONLY = vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT_NV


@pytest.fixture
def sides() -> Iterator[Sides]:
    with opened() as both:
        yield both


@pytest.fixture
def careless() -> Iterator[Sides]:
    with opened(checks="off") as both:
        yield both


# -- the bits and the mask ------------------------------------------------------------------------


def test_values() -> None:
    assert {each.name: each.value for each in Bits} == {
        "VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV": 1,
        "VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV": 2,
        "VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV": 4,
        "VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV": 8,
    }
    assert (EXPORTABLE, IMPORTABLE, DEDICATED_ONLY) == (2, 4, 1)


def test_the_core_has_the_same_things_at_twice_the_value() -> None:
    assert [(each.bit, core_of(each).bit) for each in MEMORY_NV] == [(b, b << 1) for b in ALL]
    assert [core_of(each).bit for each in MEMORY_NV] == [NT, KMT, TEXTURE11, TEXTURE11_KMT]


@pytest.mark.parametrize("mask", [0, NT_NV, KMT_NV])
def test_a_mask_may_be_empty_or_name_a_type(sides: Sides, mask: int) -> None:
    here, _ = sides
    here.export_nv(mask)
    vk.vkDestroyImage(here.device, here.image(mask, nv=True))


@pytest.mark.parametrize("mask", [0x10, NT_NV | 0x100, 1 << 31])
def test_a_mask_has_no_other_bits(sides: Sides, mask: int) -> None:
    here, _ = sides
    with breaks("VUID-VkExportMemoryAllocateInfoNV-handleTypes-parameter"):
        here.export_nv(mask)
    chain = vk.VkExternalMemoryImageCreateInfoNV(handleTypes=mask)
    with breaks("VUID-VkExternalMemoryImageCreateInfoNV-handleTypes-parameter"):
        vk.vkCreateImage(here.device, vk.VkImageCreateInfo(pNext=chain))


def test_several_types_at_once_need_to_be_compatible(sides: Sides) -> None:
    """NT handles and numbers are two ways to share; the query says that each stands alone."""
    here, _ = sides
    with breaks("VUID-VkImageCreateInfo-pNext-00991"):
        here.image(NT_NV | KMT_NV, nv=True)


# -- NV's bits are not the core's -----------------------------------------------------------------


def test_a_core_bit_means_something_else_to_nv(sides: Sides) -> None:
    here, there = sides
    handle = here.get_nv(here.export_nv())
    # The core's opaque_win32 is NV's opaque_win32_kmt: a number, which a handle is not.
    assert NT == KMT_NV
    with breaks("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328"):
        there.take(Source(NT, handle, nv=True))
    with breaks("VUID-vkGetMemoryWin32HandleNV-handleType-01326"):
        here.get_nv(here.export_nv(), NT)
    # And the core's d3d11_texture_kmt is nothing at all.
    with breaks("VUID-VkImportMemoryWin32HandleInfoNV-handleType-parameter"):
        there.allocate(vk.VkImportMemoryWin32HandleInfoNV(handleType=TEXTURE11_KMT, handle=handle))


def test_an_nv_bit_means_something_else_to_the_core(sides: Sides) -> None:
    here, there = sides
    handle = here.get(here.export())
    assert int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT) == NT_NV
    with breaks("VUID-VkImportMemoryWin32HandleInfoKHR-handleType-00660"):
        there.allocate(vk.VkImportMemoryWin32HandleInfoKHR(handleType=NT_NV, handle=handle))
    with breaks("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00664"):
        here.get(here.export(), NT_NV)


def test_an_announcement_to_one_is_none_to_the_other(sides: Sides) -> None:
    here, _ = sides
    core, nv = here.export(), here.export_nv()
    with breaks("VUID-vkGetMemoryWin32HandleNV-handleType-01326"):
        here.get_nv(core)
    with breaks("VUID-VkMemoryGetWin32HandleInfoKHR-handleType-00662"):
        here.get(nv)


def test_the_structures_of_both_are_not_mixed(sides: Sides) -> None:
    here, _ = sides
    core = vk.VkExternalMemoryImageCreateInfo(handleTypes=NT)
    nv = vk.VkExternalMemoryImageCreateInfoNV(handleTypes=NT_NV)
    with breaks("VUID-VkImageCreateInfo-pNext-00988"):
        vk.vkCreateImage(here.device, vk.link(vk.VkImageCreateInfo(), core, nv))
    with breaks("VUID-VkMemoryAllocateInfo-pNext-00640"):
        here.export(NT, vk.VkExportMemoryAllocateInfoNV(handleTypes=NT_NV))


# -- OPAQUE_WIN32: an NT handle from vkGetMemoryWin32HandleNV, or a duplicate ---------------------


def test_an_nt_handle_is_an_entry_of_this_processs_table(sides: Sides) -> None:
    here, _ = sides
    block = here.export_nv()
    handle = here.get_nv(block)
    assert handle % 4 == 0
    assert is_open(handle)
    here.close(handle)
    assert not is_open(handle)
    block.write(b"\1" * SIZE)  # the memory does not mind


@pytest.mark.parametrize("place", PLACES)
def test_a_duplicate_is_as_good(sides: Sides, place: str) -> None:
    here, there = sides
    block = here.export_nv()
    handle = here.get_nv(block)
    copy = here.duplicate(handle)
    assert copy != handle
    assert win32.CompareObjectHandles(copy, handle)
    here.close(handle)
    with importing(place, here, there) as importer:
        prove_same(block, importer.take(Source(NT_NV, copy, nv=True)))


def test_the_handle_alone_keeps_the_payload(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv()
    handle = here.get_nv(block)
    block.write(b"\7" * SIZE)
    block.free()
    assert there.take(Source(NT_NV, handle, nv=True)).read() == b"\7" * SIZE


def test_the_handle_outlives_the_device_that_made_it() -> None:
    with opened() as (here, there):
        with Side() as gone:
            block = gone.export_nv()
            block.write(b"\7" * SIZE)
            handle = here.duplicate(gone.get_nv(block))
        assert there.take(Source(NT_NV, handle, nv=True)).read() == b"\7" * SIZE


@pytest.mark.parametrize("checks", ["full", "off"])
def test_the_payload_ends_with_its_last_reference(checks: str) -> None:
    with opened(checks=checks) as (here, there):
        block = here.export_nv()
        handle = here.get_nv(block)
        block.free()
        here.close(handle)
        with refused(checks, "VUID-VkImportMemoryWin32HandleInfoNV-handle-01328"):
            there.take(Source(NT_NV, handle, nv=True))


# -- OPAQUE_WIN32_KMT: a number -------------------------------------------------------------------


def test_a_number_is_no_handle(sides: Sides) -> None:
    here, _ = sides
    block = here.export_nv(KMT_NV)
    number = here.get_nv(block, KMT_NV)
    assert 0 < number < 1 << 32
    assert number == here.get_nv(block, KMT_NV)
    assert number != here.get_nv(here.export_nv(KMT_NV), KMT_NV)
    assert not is_open(number)
    with pytest.raises(OSError, match=r"handle|Handle"):
        here.duplicate(number)
    with breaks("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328"):
        here.take(Source(NT_NV, number, nv=True))


@pytest.mark.parametrize("place", PLACES)
def test_a_number_is_the_same_everywhere(sides: Sides, place: str) -> None:
    here, there = sides
    block = here.export_nv(KMT_NV)
    with importing(place, here, there) as importer:
        prove_same(block, importer.take(Source(KMT_NV, here.get_nv(block, KMT_NV), nv=True)))


def test_a_number_ends_with_its_owner(sides: Sides) -> None:
    here, there = sides
    block = here.export_nv(KMT_NV)
    number = here.get_nv(block, KMT_NV)
    copy = there.take(Source(KMT_NV, number, nv=True))
    again = there.allocate(
        Source(KMT_NV, number, nv=True).info(), vk.VkExportMemoryAllocateInfoNV(handleTypes=KMT_NV)
    )
    assert there.get_nv(again, KMT_NV) == number
    block.free()
    # What was imported becomes invalid, which is an error to use and nothing worse.
    for stale in (copy, again):
        with fails(vk.VK_ERROR_MEMORY_MAP_FAILED):
            stale.read()
    with fails(vk.VK_ERROR_VALIDATION_FAILED):
        there.get_nv(again, KMT_NV)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_a_number_without_an_owner_is_not_imported(checks: str) -> None:
    with opened(checks=checks) as (here, there):
        block = here.export_nv(KMT_NV)
        number = here.get_nv(block, KMT_NV)
        copy = there.take(Source(KMT_NV, number, nv=True))
        block.free()
        with refused(checks, "VUID-VkImportMemoryWin32HandleInfoNV-handle-01328"):
            there.take(Source(KMT_NV, number, nv=True))
        copy.free()


# -- D3D11_IMAGE and D3D11_IMAGE_KMT: what DXGI makes of a D3D11 image ----------------------------


@pytest.mark.parametrize("kmt", [False, True], ids=["nt", "kmt"])
@pytest.mark.parametrize("place", PLACES)
def test_an_image_of_d3d11(sides: Sides, kmt: bool, place: str) -> None:
    with (
        foreign.texture11(size=SIZE, kmt=kmt, memory_types=1 << VISIBLE) as texture,
        importing(place, *sides) as importer,
    ):
        texture.view[:] = b"\x3c" * SIZE
        type, handle = (
            (IMAGE11_KMT_NV, texture.kmt)
            if kmt
            else (IMAGE11_NV, sides[0].duplicate(texture.handle))
        )
        block = importer.take(Source(type, handle, nv=True))
        assert block.read() == b"\x3c" * SIZE
        block.write(b"\xc3" * SIZE)
        assert bytes(texture.view) == b"\xc3" * SIZE


def test_an_nt_handle_of_d3d11_keeps_the_image_and_a_number_does_not(sides: Sides) -> None:
    here, there = sides
    with foreign.texture11(size=SIZE, memory_types=1 << VISIBLE) as texture:
        texture.view[:4] = b"kept"
        handle = here.duplicate(texture.handle)
    assert there.take(Source(IMAGE11_NV, handle, nv=True)).read(4) == b"kept"
    with foreign.texture11(size=SIZE, kmt=True, memory_types=1 << VISIBLE) as texture:
        number = texture.kmt
    with breaks("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328"):
        there.take(Source(IMAGE11_KMT_NV, number, nv=True))


@pytest.mark.parametrize("type", [IMAGE11_NV, IMAGE11_KMT_NV], ids=["nt", "kmt"])
def test_vulkan_cannot_make_one(careless: Sides, type: int) -> None:
    here, _ = careless
    with fails(REFUSED):
        here.export_nv(type)
    with fails(vk.VK_ERROR_UNKNOWN):
        here.get_nv(here.export_nv(), type)


def test_an_image_of_d3d11_is_imported_for_one_image(careless: Sides) -> None:
    """DEDICATED_ONLY: through NV's dedicated allocations."""
    here, _ = careless
    with foreign.texture11(size=SIZE, memory_types=1 << VISIBLE) as texture:
        source = Source(IMAGE11_NV, texture.handle, nv=True)
        with fails(REFUSED):
            here.allocate(source.info())
        prove_same(here.take(source), here.take(source))


# -- vkGetPhysicalDeviceExternalImageFormatPropertiesNV -------------------------------------------

# The parameters behind the physical device; each test changes some.
IMAGE: dict[str, Any] = {
    "format": vk.VK_FORMAT_R8G8B8A8_UNORM,
    "type": vk.VK_IMAGE_TYPE_2D,
    "tiling": vk.VK_IMAGE_TILING_OPTIMAL,
    "usage": vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
    "flags": 0,
    "externalHandleType": NT_NV,
}


def asked(side: Side, **changes: Any) -> Any:
    values = (IMAGE | changes).values()
    return vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(side.physical, *values)


def limits(found: Any) -> tuple[int, ...]:
    extent = found.maxExtent
    return (
        *(extent.width, extent.height, extent.depth),
        *(found.maxMipLevels, found.maxArrayLayers, found.sampleCounts, found.maxResourceSize),
    )


BOTH = EXPORTABLE | IMPORTABLE
FEATURES = [BOTH, BOTH, IMPORTABLE | DEDICATED_ONLY, IMPORTABLE | DEDICATED_ONLY]


@pytest.mark.parametrize("checks", ["full", "off"])
@pytest.mark.parametrize(("type", "features"), list(zip(ALL, FEATURES, strict=True)), ids=IDS)
def test_what_a_type_can(checks: str, type: int, features: int) -> None:
    with opened(checks=checks) as (here, _):
        found = asked(here, externalHandleType=type)
        assert found.externalMemoryFeatures == features
        assert found.compatibleHandleTypes & type
        assert found.exportFromImportedHandleTypes == (type if features & EXPORTABLE else 0)


@pytest.mark.parametrize("type", ALL, ids=IDS)
def test_the_core_says_the_same_of_its_twin(sides: Sides, type: int) -> None:
    here, _ = sides
    nv = asked(here, externalHandleType=type)
    external = vk.VkExternalImageFormatProperties()
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        **{member: IMAGE[member] for member in ("format", "type", "tiling", "usage", "flags")},
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=type << 1),
    )
    answer = vk.VkImageFormatProperties2(pNext=external)
    vk.vkGetPhysicalDeviceImageFormatProperties2(here.physical, info, answer)
    core = external.externalMemoryProperties
    assert limits(nv.imageFormatProperties) == limits(answer.imageFormatProperties)
    assert nv.externalMemoryFeatures == core.externalMemoryFeatures
    assert nv.exportFromImportedHandleTypes << 1 == core.exportFromImportedHandleTypes
    assert nv.compatibleHandleTypes << 1 == core.compatibleHandleTypes


@pytest.mark.parametrize("checks", ["full", "off"])
def test_0_asks_for_the_plain_limits(checks: str) -> None:
    with opened(checks=checks) as (here, _):
        found = asked(here, externalHandleType=0)
        plain = vk.vkGetPhysicalDeviceImageFormatProperties(
            here.physical, *list(IMAGE.values())[:5]
        )
        assert limits(found.imageFormatProperties) == limits(plain)
        assert found.externalMemoryFeatures == 0
        assert found.exportFromImportedHandleTypes == 0
        assert found.compatibleHandleTypes == 0


@pytest.mark.parametrize("type", ALL, ids=IDS)
def test_limits_with_a_type_are_not_above_the_plain_ones(sides: Sides, type: int) -> None:
    plain = limits(asked(sides[0], externalHandleType=0).imageFormatProperties)
    found = limits(asked(sides[0], externalHandleType=type).imageFormatProperties)
    assert all(0 < a <= b for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("checks", ["full", "off"])
def test_what_is_not_supported_is_an_error(checks: str) -> None:
    with opened(checks=checks) as (here, _):
        for type in (0, *ALL):
            with fails(vk.VK_ERROR_FORMAT_NOT_SUPPORTED):
                asked(here, externalHandleType=type, format=vk.VK_FORMAT_BC1_RGB_UNORM_BLOCK)


@pytest.mark.parametrize("type", [NT_NV | KMT_NV, 0xF])
def test_one_type_is_asked_about_at_a_time(type: int) -> None:
    with opened() as (here, _), breaks(f"{QUERY}-externalHandleType-07721"):
        asked(here, externalHandleType=type)
    with opened(checks="off") as (here, _), fails(vk.VK_ERROR_FORMAT_NOT_SUPPORTED):
        asked(here, externalHandleType=type)


@pytest.mark.parametrize(
    ("member", "value", "rule"),
    [
        ("format", 999_999, "format-parameter"),
        ("type", 9, "type-parameter"),
        ("tiling", 9, "tiling-parameter"),
        ("usage", 1 << 31, "usage-parameter"),
        ("usage", 0, "usage-requiredbitmask"),
        ("flags", 1 << 31, "flags-parameter"),
        ("externalHandleType", 0x10, "externalHandleType-parameter"),
    ],
)
def test_each_parameter_is_of_its_type(sides: Sides, member: str, value: int, rule: str) -> None:
    with breaks(f"{QUERY}-{rule}"):
        asked(sides[0], **{member: value})


def test_the_physical_device_is_one_of_the_instance(sides: Sides) -> None:
    here, _ = sides
    made_up = vk.VkPhysicalDevice.of(0xDEAD0, here.physical.dispatch)
    with breaks(f"{QUERY}-physicalDevice-parameter"):
        vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(made_up, *IMAGE.values())


def test_the_query_needs_its_instance_extension() -> None:
    instance = vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver="embedded")
    physical = vk.vkEnumeratePhysicalDevices(instance)[0]
    with pytest.raises(extmem.CommandUnavailable, match="VK_NV_external_memory_capabilities"):
        vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(physical, *IMAGE.values())
    vk.vkDestroyInstance(instance)
