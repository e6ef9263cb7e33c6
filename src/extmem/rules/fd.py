"""Rules for memory as file descriptors: fetched, imported, asked about.

No driver sees a descriptor before it was looked at here: pipes hang one driver and crash another,
and some take any file that can be mapped. What this process itself exported is known
(`extmem.world.payloads`) and compared.
"""

from __future__ import annotations

import os

from extmem.handle_types import names_of
from extmem.rules.allocate import is_multi_instance
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.export import dedicated_resource, offered
from extmem.vk import _constants as c
from extmem.vk._base import Structure
from extmem.vk.queries import Descriptor
from extmem.vk.record import made_with
from extmem.world import Origin, payloads, sync_origins

if os.name != "nt":
    from extmem.handles import posix

_IMPORT = "VkImportMemoryFdInfoKHR"
_OPAQUE = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
_DMA_BUF = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
_IMPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
_DEVICE_MASK = int(c.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT)

_SHAREABLE = {_OPAQUE: ("memfd", "dma-buf", "device"), _DMA_BUF: ("dma-buf",)}


def _name(handle_type: int) -> str:
    return "+".join(names_of(handle_type)) or "0"


# -- handle types ---------------------------------------------------------------------------------


@rule(
    "VUID-VkImportMemoryFdInfoKHR-handleType-00669",
    "VUID-VkMemoryGetFdInfoKHR-handleType-00672",
    stage="arguments",
)
def a_type_that_is_a_descriptor(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type and handle_type not in _SHAREABLE:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, which is no file descriptor.",
            "Use VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT, or DMA_BUF_BIT_EXT.",
        )


@rule("VUID-vkGetMemoryFdPropertiesKHR-handleType-00674", stage="arguments")
def only_descriptors_that_others_make(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type != _DMA_BUF:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}; the device answers for dma_buf only.",
            "An opaque_fd is imported with the size and memory type index of its exporter.",
        )


@rule("VUID-VkMemoryGetFdInfoKHR-handleType-00671", stage="state")
def a_type_that_was_announced(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    if memory is None:
        return
    handle_type, announced = int(site.value("handleType")), memory.facts["export"]
    if handle_type & ~announced:
        source = memory.facts["import"]
        origin = f", imported as {_name(source)}," if source else ""
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, but this memory{origin} was allocated to be exported as "
            f"{_name(announced) if announced else 'nothing'}.",
            "Chain VkExportMemoryAllocateInfo with this type to its VkMemoryAllocateInfo.",
        )


@rule("VUID-VkMemoryGetFdInfoKHR-handleType-12524", stage="state")
def one_instance_as_a_dma_buf(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    if memory is None or int(site.value("handleType")) != _DMA_BUF:
        return
    if is_multi_instance(memory.facts["mask"]):
        yield site.broken(
            "memory",
            f"has an instance on each device of the mask {memory.facts['mask']:#x}; a dma-buf "
            "has one.",
            "Allocate it with one physical device in the mask.",
        )


@rule("VUID-VkImportMemoryFdInfoKHR-handleType-09862", stage="device")
def a_type_that_can_be_imported(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type not in _SHAREABLE:
        return
    found = offered(call, handle_type, site.chain)
    if found is not None and not found.features & _IMPORTABLE:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, which this device cannot import.",
            "Use a type for which vkGetPhysicalDeviceExternalBufferProperties (or the image "
            "query) reports IMPORTABLE.",
        )


# -- the descriptor -------------------------------------------------------------------------------


def _unfit(call: Call, fd: int, handle_type: int) -> str | None:
    """Why a descriptor cannot be what its type says; None if it may be."""
    if fd < 0:
        return f"is {fd}, which is no descriptor."
    seen = call.asked.descriptor(fd)
    if seen is None:
        return f"is {fd}, which is not open in this process."
    other = posix.no_memory(seen.kind, seen.major, _SHAREABLE[handle_type])
    return None if other is None else f"is {fd}, {other}, as {_name(handle_type)} is."


@rule("VUID-VkImportMemoryFdInfoKHR-handleType-00670", stage="os")
def a_descriptor_of_that_kind(call: Call, site: Site) -> Findings:
    handle_type, fd = int(site.value("handleType")), int(site.value("fd"))
    if handle_type not in _SHAREABLE:
        return
    problem = _unfit(call, fd, handle_type)
    if problem is not None:
        yield site.broken(
            "fd",
            problem,
            "Pass a descriptor that vkGetMemoryFdKHR returned, or that a peer sent over a socket; "
            "a successful import takes it away, so duplicate it to import twice.",
        )
        return
    seen = call.asked.descriptor(fd)
    other = sync_origins.find(seen.identity) if seen is not None and seen.kind != "device" else None
    if other is not None:
        yield site.broken(
            "fd",
            f"is {fd}, which this process exported from a {other.object}.",
            f"Import it with vkImport{other.object.capitalize()}FdKHR.",
        )
        return
    found = _import(call, site.chain)
    known = found[2] if found is not None else None
    if known is not None and not known.types & handle_type:
        yield site.broken(
            "fd",
            f"is {fd}, which this process exported as {_name(known.types)}, not as "
            f"{_name(handle_type)}.",
            f"Import it as {_name(known.types)}.",
        )


@rule("VUID-vkGetMemoryFdPropertiesKHR-fd-00673", stage="os")
def a_descriptor_that_is_memory(call: Call, site: Site) -> Findings:
    handle_type, fd = int(site.value("handleType")), int(site.value("fd"))
    problem = _unfit(call, fd, handle_type) if handle_type in _SHAREABLE else None
    if problem is not None:
        yield site.broken("fd", problem, "Pass an open dma-buf.")


# -- size and memory type ---------------------------------------------------------------------


_Found = tuple[Structure, Descriptor, Origin | None]


def _import(call: Call, chain: dict[str, Structure]) -> _Found | None:
    """The import of a chain, its descriptor, and what this process knows of the payload.

    None where nothing is imported, and while the descriptor is not of its kind.
    """
    if _IMPORT not in chain:
        return None
    found: _Found | None = call.asked.now(_IMPORT, lambda: _look(call, chain[_IMPORT]))
    return found


def _look(call: Call, source: Structure) -> _Found | None:
    if source.handleType not in _SHAREABLE:
        return None
    if _unfit(call, source.fd, source.handleType) is not None:
        return None
    seen = call.asked.descriptor(source.fd)
    if seen is None:
        return None
    # All descriptors of a character device are the same file, whatever is behind each.
    known = payloads.find(seen.identity, seen.size) if seen.kind != "device" else None
    return source, seen, known


def _opaque(call: Call, chain: dict[str, Structure]) -> Origin | None:
    """What is known of the payload of an opaque descriptor.

    Only those must match their exporter; a dma-buf is made to travel.
    """
    found = _import(call, chain)
    if found is None or found[0].handleType != _OPAQUE:
        return None
    return found[2]


@rule("VUID-VkMemoryAllocateInfo-allocationSize-01742", stage="arguments")
def an_imported_descriptor_has_a_size(call: Call, site: Site) -> Findings:
    source = site.chain.get(_IMPORT)
    if source is not None and source.handleType == _OPAQUE and not site.value("allocationSize"):
        yield site.broken(
            "allocationSize",
            "is 0 for an imported opaque_fd.",
            "Give the size that the exporter allocated; it travels beside the descriptor.",
        )


@rule("VUID-VkMemoryAllocateInfo-allocationSize-01742", stage="os")
def size_and_memory_type_of_the_exporter(call: Call, site: Site) -> Findings:
    found = _import(call, site.chain)
    if found is None:
        return
    source, seen, _ = found
    known = _opaque(call, site.chain)
    size, index = site.value("allocationSize"), site.value("memoryTypeIndex")
    if known is not None and size != known.size:
        yield site.broken(
            "allocationSize",
            f"is {size}, but fd {source.fd} was exported from an allocation of {known.size} bytes.",
            f"Import with allocationSize {known.size}.",
        )
    elif seen.kind == "memfd" and size > seen.size:
        yield site.broken(
            "allocationSize",
            f"is {size}, but the file behind fd {source.fd} has {seen.size} bytes; touching the "
            "rest would end the process.",
            "Import with the size that the exporter allocated.",
        )
    if known is not None and index != known.type_index:
        yield site.broken(
            "memoryTypeIndex",
            f"is {index}, but fd {source.fd} was exported from memory type {known.type_index}.",
            f"Import with memoryTypeIndex {known.type_index}.",
        )


@rule("VUID-VkMemoryAllocateInfo-memoryTypeIndex-00648", stage="os")
def a_memory_type_that_takes_the_descriptor(call: Call, site: Site) -> Findings:
    found = _import(call, site.chain)
    if found is None or found[0].handleType != _DMA_BUF:
        return
    source = found[0]
    types = call.asked.fd_memory_types(_DMA_BUF, source.fd)
    index = site.value("memoryTypeIndex")
    if types is not None and not types >> index & 1:
        yield site.broken(
            "memoryTypeIndex",
            f"is {index}, but the device imports fd {source.fd} into memory types of the mask "
            f"{types:#x} only.",
            "Ask vkGetMemoryFdPropertiesKHR for the types that fit.",
        )


# -- where it comes from --------------------------------------------------------------------------


@rule("VUID-VkImportMemoryFdInfoKHR-fd-00668", stage="os")
def a_payload_of_the_same_device(call: Call, site: Site) -> Findings:
    known, here = _opaque(call, site.chain), call.asked.identity()
    if known is None or here is None or known.device is None:
        return
    if known.device != here[0]:
        yield site.broken(
            "fd",
            f"is {site.value('fd')}, exported by the device with UUID {known.device.hex()}; this "
            f"is {here[0].hex()}.",
            "Import it on the device that exported it, or copy.",
        )


@rule(
    "VUID-VkImportMemoryFdInfoKHR-fd-01746",
    "VUID-VkImportMemoryFdInfoKHR-fd-01520",
    stage="os",
)
def a_payload_of_a_device_and_driver_that_match(call: Call, site: Site) -> Findings:
    known, here = _opaque(call, site.chain), call.asked.identity()
    if known is None or here is None:
        return
    made = known.device, known.driver
    differing = [
        f"{what} {theirs.hex()} (here {ours.hex()})"
        for what, theirs, ours in zip(("deviceUUID", "driverUUID"), made, here, strict=True)
        if theirs not in (None, ours)
    ]
    if differing:
        yield site.broken(
            "fd",
            f"is {site.value('fd')}, exported with {' and '.join(differing)}.",
            "An opaque_fd is understood by the device and driver build that made it alone; use "
            "that, or compare both UUIDs (VkPhysicalDeviceIDProperties) before it is sent.",
        )


@rule("VUID-VkMemoryAllocateInfo-None-00643", stage="os")
def the_device_mask_of_the_exporter(call: Call, site: Site) -> Findings:
    known = _opaque(call, site.chain)
    flags = site.chain.get("VkMemoryAllocateFlagsInfo")
    if known is None or flags is None or not flags.flags & _DEVICE_MASK or not known.mask:
        return
    if flags.deviceMask != known.mask:
        yield site.broken(
            "pNext",
            f"deviceMask is {flags.deviceMask:#x}, but the exporter allocated with "
            f"{known.mask:#x}.",
            f"Import with deviceMask {known.mask:#x}.",
        )


@rule("VUID-VkMemoryAllocateInfo-None-00644", stage="os")
def the_physical_devices_of_the_exporter(call: Call, site: Site) -> Findings:
    known, here = _opaque(call, site.chain), call.asked.identity()
    if known is None or here is None or known.device in (None, here[0]):
        return
    yield site.broken(
        "pNext",
        f"fd {site.chain[_IMPORT].fd} was exported by a VkDevice over another physical device.",
        "Import it on a VkDevice that was made of the same physical devices.",
    )


@rule(
    "VUID-VkMemoryDedicatedAllocateInfo-image-01878",
    "VUID-VkDedicatedAllocationMemoryAllocateInfoNV-image-00654",
    stage="os",
)
def dedicated_to_the_image_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _dedicated_alike(call, site, "VkImage", "image")


@rule(
    "VUID-VkMemoryDedicatedAllocateInfo-buffer-01879",
    "VUID-VkDedicatedAllocationMemoryAllocateInfoNV-buffer-00655",
    stage="os",
)
def dedicated_to_the_buffer_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _dedicated_alike(call, site, "VkBuffer", "buffer")


def _dedicated_alike(call: Call, site: Site, kind: str, member: str) -> Findings:
    resource = int(site.value(member))
    known = _opaque(call, site.chain) if resource else None
    if known is None:
        return
    fd = site.chain[_IMPORT].fd
    if known.dedicated != kind:
        what = f"dedicated to a {known.dedicated}" if known.dedicated else "not dedicated"
        yield site.broken(
            member,
            f"is set, but the allocation behind fd {fd} was {what}.",
            f"Import without it, or dedicate the exporter's allocation to a {kind} too.",
        )
        return
    here = made_with(call.world, kind, resource)
    if here is None or known.made_with is None or here == known.made_with:
        return
    differing = [a[0] for a, b in zip(here, known.made_with, strict=False) if a != b]
    yield site.broken(
        member,
        f"was created with another {', '.join(differing)} than the exporter's.",
        f"Create both with the same Vk{member.capitalize()}CreateInfo.",
    )


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-01878", stage="os", at="VkMemoryAllocateInfo")
def a_dedicated_image_to_be_imported_for(call: Call, site: Site) -> Findings:
    yield from _not_dedicated(call, site, "VkImage", "image")


@rule("VUID-VkMemoryDedicatedAllocateInfo-buffer-01879", stage="os", at="VkMemoryAllocateInfo")
def a_dedicated_buffer_to_be_imported_for(call: Call, site: Site) -> Findings:
    yield from _not_dedicated(call, site, "VkBuffer", "buffer")


def _not_dedicated(call: Call, site: Site, kind: str, member: str) -> Findings:
    """What was exported from a dedicated allocation is imported as one."""
    known = _opaque(call, site.chain)
    if known is None or known.dedicated != kind or dedicated_resource(site.chain)[1]:
        return
    yield site.broken(
        "pNext",
        f"dedicates it to nothing, but fd {site.chain[_IMPORT].fd} was exported from memory that "
        f"is dedicated to {'an' if member == 'image' else 'a'} {member}.",
        f"Create an identical {member}, and chain VkMemoryDedicatedAllocateInfo with it.",
    )
