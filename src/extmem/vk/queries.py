"""What rules ask the driver and the system.

Answers that do not change are asked once per device and remembered in its world; those about one
resource are remembered with that resource. A descriptor or an address may be something else by the
next call, so those answers live as long as the call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from extmem.drivers.driver import HandleOrigin, Provenance
from extmem.handle_types import MEMORY
from extmem.handles import host_memory
from extmem.handles.system import kernel
from extmem.vk import _constants as c
from extmem.vk import _structures as s
from extmem.vk.sync_queries import Descriptor, External, SyncQueries

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["Descriptor", "External", "ImageLimits", "Limits", "Needs", "Queries"]

DEDICATED_ONLY = int(c.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
_DISJOINT = int(c.VK_IMAGE_CREATE_DISJOINT_BIT)
_COPY = int(c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | c.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
_NVIDIA = 0x10DE
_DESCRIPTORS = sum(each.bit for each in MEMORY if each.kind == "fd")
# Their capabilities depend on structures that are not kept: the DRM modifier of an image.
_TILINGS = (int(c.VK_IMAGE_TILING_OPTIMAL), int(c.VK_IMAGE_TILING_LINEAR))
_MODIFIER_TILING = int(c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_MODIFIERS = "VK_EXT_image_drm_format_modifier"
_NO_SUCH_IMAGE = int(c.VK_ERROR_FORMAT_NOT_SUPPORTED)


class Needs(NamedTuple):
    """What a resource demands of its memory."""

    size: int
    alignment: int
    types: int  # a mask of memory types
    dedicated: bool  # it takes no memory but its own


class Limits(NamedTuple):
    """Limits of a device that rules compare with."""

    allocations: int  # maxMemoryAllocationCount
    atom: int  # nonCoherentAtomSize
    vendor: int = 0  # vendorID


class ImageLimits(NamedTuple):
    """How large images of a kind may be."""

    extent: tuple[int, int, int]  # width, height, depth
    layers: int
    samples: int  # a mask of VkSampleCountFlagBits


class Queries(SyncQueries):
    """Questions about the device behind one dispatch table, during one call."""

    __slots__ = ()

    # -- the device -----------------------------------------------------------------------------

    def memory_properties(self) -> s.VkPhysicalDeviceMemoryProperties:
        """The memory types and heaps of the device."""

        def ask() -> Any:
            box = s.VkPhysicalDeviceMemoryProperties()
            self._instance.vkGetPhysicalDeviceMemoryProperties(self._dispatch.physical, box)
            return box

        found: s.VkPhysicalDeviceMemoryProperties = self._once("memory", ask)
        return found

    def memory_types(self) -> tuple[tuple[int, int], ...]:
        """Property flags and heap size of each memory type."""

        def ask() -> Any:
            found = self.memory_properties()
            types = [found.memoryTypes[i] for i in range(found.memoryTypeCount)]
            return tuple(
                (int(t.propertyFlags), int(found.memoryHeaps[t.heapIndex].size)) for t in types
            )

        answer: tuple[tuple[int, int], ...] = self._once("memory types", ask)
        return answer

    def limits(self) -> Limits:
        """The limits that rules compare with."""

        def ask() -> Limits:
            box = s.VkPhysicalDeviceProperties()
            self._instance.vkGetPhysicalDeviceProperties(self._dispatch.physical, box)
            return Limits(
                int(box.limits.maxMemoryAllocationCount),
                int(box.limits.nonCoherentAtomSize) or 1,
                int(box.vendorID),
            )

        answer: Limits = self._once("limits", ask)
        return answer

    def queue_counts(self, physical: int) -> tuple[int, ...]:
        """How many queues each family of a physical device has."""

        def ask() -> tuple[int, ...]:
            command = self._instance.vkGetPhysicalDeviceQueueFamilyProperties
            count = ctypes.c_uint32()
            command(physical, count, None)
            found = (s.VkQueueFamilyProperties * count.value)()
            command(physical, count, found)
            return tuple(int(each.queueCount) for each in found)

        answer: tuple[int, ...] = self._once(("queue counts", physical), ask)
        return answer

    def largest_buffer(self) -> int:
        """maxBufferSize in bytes; 0 if the device does not say."""

        def ask() -> int:
            known = self._dispatch.enabled("VK_VERSION_1_3")
            if not known and not self._dispatch.enabled("VK_KHR_maintenance4"):
                return 0
            found = s.VkPhysicalDeviceMaintenance4Properties()
            box = s.VkPhysicalDeviceProperties2(pNext=found)
            self._instance.vkGetPhysicalDeviceProperties2(self._dispatch.physical, box)
            return int(found.maxBufferSize)

        return int(self._once("largest buffer", ask))

    def image_limits(
        self, form: int, kind: int, tiling: int, usage: int, flags: int
    ) -> ImageLimits | None:
        """The limits of plain images; None if the device makes none such."""

        def ask() -> ImageLimits | None:
            box = s.VkImageFormatProperties()
            result = self._instance.vkGetPhysicalDeviceImageFormatProperties(
                self._dispatch.physical, form, kind, tiling, usage, flags, box
            )
            if result != 0:
                return None
            extent = box.maxExtent
            return ImageLimits(
                (extent.width, extent.height, extent.depth),
                int(box.maxArrayLayers),
                int(box.sampleCounts),
            )

        key = ("image limits", form, kind, tiling, usage, flags)
        answer: ImageLimits | None = self._once(key, ask)
        return answer

    def modifiers(self, form: int) -> frozenset[int] | None:
        """The DRM format modifiers of a format, none for one that has none; None if the device
        was made without them, and is not asked.
        """

        def ask() -> frozenset[int] | None:
            name = "vkGetPhysicalDeviceFormatProperties2"
            if not self._dispatch.enabled(_MODIFIERS) or not self._instance.has(name):
                return None
            command, physical = getattr(self._instance, name), self._dispatch.physical
            found = s.VkDrmFormatModifierPropertiesListEXT()
            box = s.VkFormatProperties2(pNext=found)
            command(physical, form, box)
            room = (s.VkDrmFormatModifierPropertiesEXT * found.drmFormatModifierCount)()
            if len(room):
                found.pDrmFormatModifierProperties = room
                command(physical, form, box)
            written = min(found.drmFormatModifierCount, len(room))
            return frozenset(int(room[i].drmFormatModifier) for i in range(written))

        answer: frozenset[int] | None = self._once(("modifiers", form), ask)
        return answer

    def makes_by_modifier(
        self, modifier: int, form: int, kind: int, usage: int, flags: int
    ) -> bool | None:
        """Whether the device makes plain images by a modifier that it lists for their format, for
        one queue family at a time; None if it cannot be asked.
        """

        def ask() -> bool | None:
            name = "vkGetPhysicalDeviceImageFormatProperties2"
            if not self._dispatch.enabled(_MODIFIERS) or not self._instance.has(name):
                return None
            info = s.VkPhysicalDeviceImageFormatInfo2(
                format=form,
                type=kind,
                tiling=_MODIFIER_TILING,
                usage=usage,
                flags=flags,
                pNext=s.VkPhysicalDeviceImageDrmFormatModifierInfoEXT(drmFormatModifier=modifier),
            )
            box = s.VkImageFormatProperties2()
            result = getattr(self._instance, name)(self._dispatch.physical, info, box)
            return bool(result != _NO_SUCH_IMAGE)

        answer: bool | None = self._once(("modifier", modifier, form, kind, usage, flags), ask)
        return answer

    def identity(self) -> tuple[bytes, bytes] | None:
        """deviceUUID and driverUUID; None if the device cannot be asked for them."""

        def ask() -> tuple[bytes, bytes] | None:
            if not self._instance.has("vkGetPhysicalDeviceProperties2"):
                return None
            found = s.VkPhysicalDeviceIDProperties()
            box = s.VkPhysicalDeviceProperties2(pNext=found)
            self._instance.vkGetPhysicalDeviceProperties2(self._dispatch.physical, box)
            return bytes(found.deviceUUID), bytes(found.driverUUID)

        answer: tuple[bytes, bytes] | None = self._once("identity", ask)
        return answer

    def host_pointer_alignment(self) -> int:
        """minImportedHostPointerAlignment in bytes; 0 if the device cannot say."""

        def ask() -> int:
            host = s.VkPhysicalDeviceExternalMemoryHostPropertiesEXT()
            box = s.VkPhysicalDeviceProperties2(pNext=host)
            if not self._instance.has("vkGetPhysicalDeviceProperties2"):
                return 0
            self._instance.vkGetPhysicalDeviceProperties2(self._dispatch.physical, box)
            return int(host.minImportedHostPointerAlignment)

        return int(self._once("host alignment", ask))

    # -- handle types ---------------------------------------------------------------------------

    def external_buffer(self, handle_type: int, usage: int, flags: int = 0) -> External | None:
        """What the device can do with a handle type for buffers; None if it cannot be asked."""

        def ask() -> External | None:
            if not self._instance.has("vkGetPhysicalDeviceExternalBufferProperties"):
                return None
            info = s.VkPhysicalDeviceExternalBufferInfo(
                flags=flags, usage=usage, handleType=handle_type
            )
            box = s.VkExternalBufferProperties()
            self._instance.vkGetPhysicalDeviceExternalBufferProperties(
                self._dispatch.physical, info, box
            )
            return self._external(box.externalMemoryProperties)

        answer: External | None = self._once(("buffer", handle_type, usage, flags), ask)
        return answer

    def external_image(
        self, handle_type: int, form: int, kind: int, tiling: int, usage: int, flags: int = 0
    ) -> External | None:
        """The same for images of a format and type; None if the device cannot be asked."""

        def ask() -> External | None:
            name = "vkGetPhysicalDeviceImageFormatProperties2"
            if tiling not in _TILINGS or not self._instance.has(name):
                return None
            info = s.VkPhysicalDeviceImageFormatInfo2(
                format=form,
                type=kind,
                tiling=tiling,
                usage=usage,
                flags=flags,
                pNext=s.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type),
            )
            found = s.VkExternalImageFormatProperties()
            box = s.VkImageFormatProperties2(pNext=found)
            result = getattr(self._instance, name)(self._dispatch.physical, info, box)
            if result != 0:
                return External(0, 0, 0)
            return self._external(found.externalMemoryProperties)

        key = ("image", handle_type, form, kind, tiling, usage, flags)
        answer: External | None = self._once(key, ask)
        return answer

    def _external(self, found: s.VkExternalMemoryProperties) -> External:
        reexport = int(found.exportFromImportedHandleTypes)
        # NVIDIA (580.159 on Linux, measured): an allocation that imports and exports a descriptor
        # succeeds, claims to be supported, and is memory that nobody shares.
        if self.limits().vendor == _NVIDIA:
            reexport &= ~_DESCRIPTORS
        return External(
            int(found.externalMemoryFeatures), int(found.compatibleHandleTypes), reexport
        )

    def external_image_nv(
        self, handle_type: int, form: int, kind: int, tiling: int, usage: int, flags: int
    ) -> int | None:
        """The NV types that an image may have with this one; None if NV cannot be asked."""

        def ask() -> int | None:
            name = "vkGetPhysicalDeviceExternalImageFormatPropertiesNV"
            if not self._instance.has(name):
                return None
            box = s.VkExternalImageFormatPropertiesNV()
            result = getattr(self._instance, name)(
                self._dispatch.physical, form, kind, tiling, usage, flags, handle_type, box
            )
            return int(box.compatibleHandleTypes) if result == 0 else 0

        key = ("image nv", handle_type, form, kind, tiling, usage, flags)
        answer: int | None = self._once(key, ask)
        return answer

    def external_plain(self, handle_type: int) -> External | None:
        """The most that a handle type offers to plain resources, where none is named yet.

        That is a buffer and two images to copy with. DEDICATED_ONLY if it says so for each.
        """

        def ask() -> External | None:
            found = [each for each in self._plain(handle_type) if each is not None]
            if not found:
                return None
            useful = [each for each in found if each.features]
            features = compatible = reexport = 0
            for each in useful:
                features |= each.features & ~DEDICATED_ONLY
                compatible |= each.compatible
                reexport |= each.reexport
            if useful and all(each.features & DEDICATED_ONLY for each in useful):
                features |= DEDICATED_ONLY
            return External(features, compatible, reexport)

        answer: External | None = self._once(("plain", handle_type), ask)
        return answer

    def _plain(self, handle_type: int) -> Iterator[External | None]:
        yield self.external_buffer(handle_type, _COPY)
        form, kind = int(c.VK_FORMAT_R8G8B8A8_UNORM), int(c.VK_IMAGE_TYPE_2D)
        for tiling in _TILINGS:
            yield self.external_image(handle_type, form, kind, tiling, _COPY)

    # -- resources ------------------------------------------------------------------------------

    def buffer_needs(self, buffer: int) -> Needs:
        """What a buffer demands of its memory."""
        record = self._dispatch.world.find("VkBuffer", buffer)
        if "needs" not in record.facts:
            info = s.VkBufferMemoryRequirementsInfo2(buffer=buffer)
            record.facts["needs"] = self._needs("vkGetBufferMemoryRequirements", buffer, info)
        needs: Needs = record.facts["needs"]
        return needs

    def image_needs(self, image: int) -> Needs | None:
        """What an image demands of its memory; None for one whose planes are bound one by one."""
        record = self._dispatch.world.find("VkImage", image)
        if record.facts["flags"] & _DISJOINT:
            return None
        if "needs" not in record.facts:
            info = s.VkImageMemoryRequirementsInfo2(image=image)
            record.facts["needs"] = self._needs("vkGetImageMemoryRequirements", image, info)
        needs: Needs = record.facts["needs"]
        return needs

    def _needs(self, command: str, resource: int, info: Any) -> Needs:
        dedicated = s.VkMemoryDedicatedRequirements()
        if self._dispatch.has(command + "2"):
            outer = s.VkMemoryRequirements2(pNext=dedicated)
            getattr(self._dispatch, command + "2")(self._dispatch.device, info, outer)
            box = outer.memoryRequirements
        else:
            box = s.VkMemoryRequirements()
            getattr(self._dispatch, command)(self._dispatch.device, resource, box)
        return Needs(
            int(box.size),
            int(box.alignment),
            int(box.memoryTypeBits),
            bool(dedicated.requiresDedicatedAllocation),
        )

    # -- descriptors ------------------------------------------------------------------------------

    def fd_memory_types(self, handle_type: int, fd: int) -> int | None:
        """The memory types that can import a descriptor; None if the device cannot be asked.

        Ask only about descriptors that were looked at: drivers answer for any number. The driver
        gets a duplicate, as everywhere.
        """

        def ask() -> int | None:
            if not self._dispatch.has("vkGetMemoryFdPropertiesKHR"):
                return None
            box = s.VkMemoryFdPropertiesKHR()
            copy = posix.duplicate(fd)
            try:
                result = self._dispatch.vkGetMemoryFdPropertiesKHR(
                    self._dispatch.device, handle_type, copy, box
                )
            finally:
                posix.close_if_same(copy, posix.identity(fd))
            return int(box.memoryTypeBits) if result == 0 else 0

        answer: int | None = self.now(("fd types", handle_type, fd), ask)
        return answer

    # -- Windows handles --------------------------------------------------------------------------

    def origin_of(self, handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
        """What the driver knows itself of what is behind a handle, number or name."""
        driver = self._dispatch.driver
        if not isinstance(driver, Provenance):
            return None
        answer: HandleOrigin | None = self.now(
            ("origin", handle_type, handle, name),
            lambda: driver.origin_of(handle_type, handle, name),
        )
        return answer

    def fingerprint(self, kind: str, resource: int) -> bytes | None:
        """What a resource was created with, as the driver compares it; None if it cannot say."""
        driver = self._dispatch.driver
        if not isinstance(driver, Provenance):
            return None
        return driver.fingerprint(int(self._dispatch.device or 0), kind, resource)

    def win32_memory_types(self, handle_type: int, handle: int, nt: bool) -> int | None:
        """The memory types that can import a handle, 0 where the device refuses it; None if it
        cannot be asked. Ask only about handles that were looked at; the driver gets a duplicate.
        """

        def ask() -> int | None:
            if not self._dispatch.has("vkGetMemoryWin32HandlePropertiesKHR"):
                return None
            box = s.VkMemoryWin32HandlePropertiesKHR()
            copy = kernel().duplicate(handle) if nt else handle
            try:
                result = self._dispatch.vkGetMemoryWin32HandlePropertiesKHR(
                    self._dispatch.device, handle_type, copy, box
                )
            finally:
                if nt:
                    kernel().let_go(copy)
            return int(box.memoryTypeBits) if result == 0 else 0

        answer: int | None = self.now(("win32 types", handle_type, handle), ask)
        return answer

    # -- addresses --------------------------------------------------------------------------------

    def host_range(self, address: int, size: int) -> host_memory.HostRange | None:
        """What lies at a range of addresses; None if the system cannot be asked."""
        answer: host_memory.HostRange | None = self.now(
            ("host", address, size), lambda: host_memory.examine(address, size)
        )
        return answer

    def host_memory_types(self, handle_type: int, address: int) -> int | None:
        """The memory types that can import a pointer; None if the device cannot be asked."""
        if not self._dispatch.has("vkGetMemoryHostPointerPropertiesEXT"):
            return None
        box = s.VkMemoryHostPointerPropertiesEXT()
        result = self._dispatch.vkGetMemoryHostPointerPropertiesEXT(
            self._dispatch.device, handle_type, address, box
        )
        return int(box.memoryTypeBits) if result == 0 else 0
