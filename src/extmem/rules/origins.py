"""Rules about where imported Windows handles come from: size, type, device, dedication.

They hold where the driver knows the origin (`extmem.drivers.driver.Provenance`); where it does not,
the exporter alone knows, and the driver is the judge. NV's import is no "import operation" in the
specification's words: of these rules, those of NV's own dedication alone are asked of it.
"""

from __future__ import annotations

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.export import dedicated_resource
from extmem.rules.windows import NT, OPAQUE, WINDOWS, Imported, imported, name_of, unfit_handle
from extmem.vk import _constants as c
from extmem.vk._base import Structure

_IMPORT = "VkImportMemoryWin32HandleInfoKHR"
_HEAP = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
_DEVICE_MASK = int(c.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT)
_KINDS = {"VkImage": "an image", "VkBuffer": "a buffer", "": "nothing"}


def _operation(call: Call, chain: dict[str, Structure]) -> Imported | None:
    """What is imported through KHR, where the driver knows it."""
    found = imported(call, chain)
    return found if found is not None and not found.nv else None


def _of_vulkan(call: Call, chain: dict[str, Structure]) -> Imported | None:
    """The same, if Vulkan exported it."""
    found = _operation(call, chain)
    return found if found is not None and found.origin.by_vulkan else None


# -- size and memory type -------------------------------------------------------------------------


@rule("VUID-VkMemoryAllocateInfo-allocationSize-01743", stage="arguments")
def an_opaque_handle_has_a_size(call: Call, site: Site) -> Findings:
    yield from _sized(site, OPAQUE, "that its exporter allocated; it travels beside the handle")


@rule("VUID-VkMemoryAllocateInfo-allocationSize-00647", stage="arguments")
def a_heap_has_a_size(call: Call, site: Site) -> Findings:
    yield from _sized(site, _HEAP, "of the heap, its SizeInBytes")


def _sized(site: Site, types: int, which: str) -> Findings:
    source = site.chain.get(_IMPORT)
    if source is not None and source.handleType & types and not site.value("allocationSize"):
        yield site.broken(
            "allocationSize",
            f"is 0 for an imported {name_of(source.handleType)}.",
            f"Give the size {which}.",
        )


@rule("VUID-VkMemoryAllocateInfo-allocationSize-01743", stage="os")
def the_size_and_memory_type_of_the_exporter(call: Call, site: Site) -> Findings:
    found = _of_vulkan(call, site.chain)
    if found is None or not found.type & OPAQUE:
        return
    origin, size = found.origin, int(site.value("allocationSize"))
    if origin.size is not None and size != origin.size:
        yield site.broken(
            "allocationSize",
            f"is {size}, but {found.what} was exported from an allocation of {origin.size} bytes.",
            f"Import with allocationSize {origin.size}.",
        )
    index = int(site.value("memoryTypeIndex"))
    if origin.type_index is not None and index != origin.type_index:
        yield site.broken(
            "memoryTypeIndex",
            f"is {index}, but {found.what} was exported from memory type {origin.type_index}.",
            f"Import with memoryTypeIndex {origin.type_index}.",
        )


@rule("VUID-VkMemoryAllocateInfo-allocationSize-00647", stage="os")
def the_size_of_the_heap(call: Call, site: Site) -> Findings:
    found = _operation(call, site.chain)
    if found is None or found.type != _HEAP or found.origin.size is None:
        return
    size = int(site.value("allocationSize"))
    if size != found.origin.size:
        yield site.broken(
            "allocationSize",
            f"is {size}, but the heap behind {found.what} has {found.origin.size} bytes.",
            f"Import with allocationSize {found.origin.size}, the heap's SizeInBytes.",
        )


@rule("VUID-VkMemoryAllocateInfo-memoryTypeIndex-00645", stage="os")
def a_memory_type_for_the_resource(call: Call, site: Site) -> Findings:
    source = site.chain.get(_IMPORT)
    if source is None or not source.handleType & WINDOWS or source.handleType & OPAQUE:
        return
    types = _memory_types(call, site.chain, source)
    index = int(site.value("memoryTypeIndex"))
    if types and not types >> index & 1:
        yield site.broken(
            "memoryTypeIndex",
            f"is {index}, but the device imports this {name_of(source.handleType)} into memory "
            f"types of the mask {types:#x} only.",
            "Ask vkGetMemoryWin32HandlePropertiesKHR for the types that fit.",
        )


def _memory_types(call: Call, chain: dict[str, Structure], source: Structure) -> int | None:
    """The memory types to import it as; None if nobody can say, 0 if it cannot be imported."""
    found = _operation(call, chain)
    here = call.asked.identity()
    if found is not None:
        # Another device's mask says nothing of this one's types, and has a rule of its own.
        if here is not None and found.origin.device not in (None, here[0]):
            return None
        if found.member == "name":
            return found.origin.memory_types
    if source.name is not None:
        return None  # the device is asked about handles only
    handle_type, handle = int(source.handleType), int(source.handle or 0)
    if unfit_handle(call, handle_type, handle) is not None:
        return None
    return call.asked.win32_memory_types(handle_type, handle, bool(handle_type & NT))


# -- device and driver ----------------------------------------------------------------------------


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handle-00659", stage="os")
def memory_of_this_physical_device(call: Call, site: Site) -> Findings:
    found, here = _operation(call, site.chain), call.asked.identity()
    if found is None or here is None or found.origin.device in (None, here[0]):
        return
    yield site.broken(
        found.member,
        f"stands for memory of the device with UUID {_uuid(found.origin.device)}; this is "
        f"{_uuid(here[0])}.",
        "Import it on the device that it was made on, or copy.",
    )


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-handle-01518", stage="os")
def a_handle_of_this_device_and_driver(call: Call, site: Site) -> Findings:
    yield from _compatible(call, site, "handle")


@rule("VUID-VkImportMemoryWin32HandleInfoKHR-name-01519", stage="os")
def a_name_of_this_device_and_driver(call: Call, site: Site) -> Findings:
    yield from _compatible(call, site, "name")


def _compatible(call: Call, site: Site, member: str) -> Findings:
    found, here = _operation(call, site.chain), call.asked.identity()
    if found is None or here is None or found.member != member:
        return
    made = found.origin.device, found.origin.driver
    differing = [
        f"{what} {_uuid(theirs)} (here {_uuid(ours)})"
        for what, theirs, ours in zip(("deviceUUID", "driverUUID"), made, here, strict=True)
        if theirs not in (None, ours)
    ]
    if differing:
        yield site.broken(
            member,
            f"is of another {'device' if made[0] not in (None, here[0]) else 'driver'}: "
            f"{name_of(found.type)} was made with {' and '.join(differing)}.",
            "A Windows handle is understood by the device and driver build that made it alone; "
            "compare both UUIDs (VkPhysicalDeviceIDProperties) before a handle is sent.",
        )


def _uuid(value: bytes | None) -> str:
    return value.hex() if value is not None else "unknown"


@rule("VUID-VkMemoryAllocateInfo-None-00643", stage="os")
def the_device_mask_of_the_exporter(call: Call, site: Site) -> Findings:
    found = _of_vulkan(call, site.chain)
    flags = site.chain.get("VkMemoryAllocateFlagsInfo")
    if found is None or flags is None or not flags.flags & _DEVICE_MASK or not found.origin.mask:
        return
    if flags.deviceMask != found.origin.mask:
        yield site.broken(
            "pNext",
            f"deviceMask is {flags.deviceMask:#x}, but {found.what} was exported with "
            f"{found.origin.mask:#x}.",
            f"Import with deviceMask {found.origin.mask:#x}.",
        )


@rule("VUID-VkMemoryAllocateInfo-None-00644", stage="os")
def the_physical_devices_of_the_exporter(call: Call, site: Site) -> Findings:
    found, here = _of_vulkan(call, site.chain), call.asked.identity()
    if found is None or here is None or found.origin.device in (None, here[0]):
        return
    yield site.broken(
        "pNext",
        f"{found.what} was exported by a VkDevice over {_uuid(found.origin.device)}; this one is "
        f"over {_uuid(here[0])}.",
        "Import it on a VkDevice that was made of the same physical devices.",
    )


# -- dedicated allocations ------------------------------------------------------------------------


@rule(
    "VUID-VkMemoryDedicatedAllocateInfo-image-01876",
    stage="os",
)
def dedicated_to_the_image_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _alike(call, site, "VkImage", _of_vulkan(call, site.chain))


@rule("VUID-VkMemoryDedicatedAllocateInfo-buffer-01877", stage="os")
def dedicated_to_the_buffer_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _alike(call, site, "VkBuffer", _of_vulkan(call, site.chain))


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-image-00654", stage="os")
def nv_dedicated_to_the_image_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _alike(call, site, "VkImage", imported(call, site.chain))


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-buffer-00655", stage="os")
def nv_dedicated_to_the_buffer_of_the_exporter(call: Call, site: Site) -> Findings:
    yield from _alike(call, site, "VkBuffer", imported(call, site.chain))


def _alike(call: Call, site: Site, kind: str, found: Imported | None) -> Findings:
    """The resource of an import is created as that of the exporter was."""
    member = kind.removeprefix("Vk").lower()
    resource = int(site.value(member))
    if not resource or found is None or not found.origin.by_vulkan:
        return
    origin = found.origin
    if origin.dedicated is None:
        return
    if origin.dedicated != kind:
        yield site.broken(
            member,
            f"is set, but {found.what} was exported from memory that is dedicated to "
            f"{_KINDS[origin.dedicated]}.",
            f"Dedicate the import as its exporter did, or export from memory dedicated to "
            f"{_KINDS[kind]}.",
        )
        return
    mine = call.asked.fingerprint(kind, resource)
    if None not in (mine, origin.made_with) and mine != origin.made_with:
        yield site.broken(
            member,
            f"was not created as the {member} was that {found.what} is dedicated to.",
            f"Create both from the same Vk{member.capitalize()}CreateInfo, the external handle "
            "types in its chain included.",
        )


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-01876", stage="os", at="VkMemoryAllocateInfo")
def a_dedicated_image_to_be_imported_for(call: Call, site: Site) -> Findings:
    yield from _not_dedicated(call, site, "VkImage")


@rule("VUID-VkMemoryDedicatedAllocateInfo-buffer-01877", stage="os", at="VkMemoryAllocateInfo")
def a_dedicated_buffer_to_be_imported_for(call: Call, site: Site) -> Findings:
    yield from _not_dedicated(call, site, "VkBuffer")


def _not_dedicated(call: Call, site: Site, kind: str) -> Findings:
    """What was exported from a dedicated allocation is imported as one."""
    found = _of_vulkan(call, site.chain)
    if found is None or found.origin.dedicated != kind or dedicated_resource(site.chain)[1]:
        return
    member = kind.removeprefix("Vk").lower()
    yield site.broken(
        "pNext",
        f"dedicates it to nothing, but {found.what} was exported from memory that is dedicated to "
        f"{_KINDS[kind]}.",
        f"Create an identical {member}, and chain VkMemoryDedicatedAllocateInfo with it.",
    )
