"""What a driver offers, by its own word: where it says no, the test is skipped with its answer."""

from __future__ import annotations

from extmem import DriverError, vk
from tests.support.rig import FORMAT, IMAGE_USAGE, Kind, Rig
from tests.support.strict import driver_cannot

__all__ = ["BOTH", "EXPORTABLE", "IMPORTABLE", "require_buffers", "require_images"]

EXPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)
IMPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
BOTH = EXPORTABLE | IMPORTABLE
_DEDICATED_ONLY = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)


def require_buffers(rig: Rig, handle_type: int, kind: Kind, features: int = BOTH) -> None:
    """Skip unless buffers of this kind can be exported or imported as this handle type."""
    found = int(rig.buffer_features(handle_type).externalMemoryFeatures)
    _require(found, features, kind, f"buffers of handle type {handle_type:#x}")


def require_images(
    rig: Rig, tiling: int, handle_type: int, kind: Kind, features: int = BOTH
) -> None:
    """Skip unless images of this tiling and kind can be exported or imported."""
    what = f"{tiling!r} images of handle type {handle_type:#x}"
    external = vk.VkExternalImageFormatProperties()
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=FORMAT,
        type=vk.VK_IMAGE_TYPE_2D,
        tiling=tiling,
        usage=IMAGE_USAGE,
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type),
    )
    try:
        vk.vkGetPhysicalDeviceImageFormatProperties2(
            rig.physical, info, vk.VkImageFormatProperties2(pNext=external)
        )
    except DriverError as error:
        if error.result != vk.VK_ERROR_FORMAT_NOT_SUPPORTED:
            raise
        driver_cannot(f"{error.result.name} for {what}")
    found = int(external.externalMemoryProperties.externalMemoryFeatures)
    _require(found, features, kind, what)


def _require(found: int, features: int, kind: Kind, what: str) -> None:
    if features & ~found:
        driver_cannot(f"features {found:#x}, and not {features:#x}, for {what}")
    if found & _DEDICATED_ONLY and not kind.dedicated:
        driver_cannot(f"dedicated allocations alone for {what}")
