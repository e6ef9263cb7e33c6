"""Rules for importing host memory by its address.

Drivers believe every address: a wrong one is imported with success and ends the process at the
first touch. So the system is asked what lies there.
"""

from __future__ import annotations

from ctypes import c_void_p

from extmem.handle_types import names_of
from extmem.rules.engine import Broken, Call, Findings, Site, rule
from extmem.rules.export import offered
from extmem.vk import _constants as c
from extmem.vk._base import Structure

_IMPORT = "VkImportMemoryHostPointerInfoEXT"
_HOST = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)
_FOREIGN = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_MAPPED_FOREIGN_MEMORY_BIT_EXT)
_IMPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)


def _name(handle_type: int) -> str:
    return "+".join(names_of(handle_type)) or "0"


def _source(chain: dict[str, Structure]) -> tuple[int, int]:
    """Handle type and address of the host import in a chain, (0, 0) if there is none."""
    source = chain.get(_IMPORT)
    if source is None or source.handleType not in (_HOST, _FOREIGN):
        return 0, 0
    return int(source.handleType), int(source.pHostPointer or 0)


# -- arguments and chain --------------------------------------------------------------------------


@rule("VUID-VkImportMemoryHostPointerInfoEXT-handleType-01748", stage="arguments")
def a_type_that_is_an_address(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type and handle_type not in (_HOST, _FOREIGN):
        yield _no_address(site, handle_type)


@rule("VUID-vkGetMemoryHostPointerPropertiesEXT-handleType-01752", stage="arguments")
def a_type_that_is_an_address_to_ask_about(call: Call, site: Site) -> Findings:
    handle_type = int(site.value("handleType"))
    if handle_type not in (_HOST, _FOREIGN):
        yield _no_address(site, handle_type)


def _no_address(site: Site, handle_type: int) -> Broken:
    return site.broken(
        "handleType",
        f"is {_name(handle_type)}, which is no address in this process.",
        "Use VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT.",
    )


@rule("VUID-VkMemoryAllocateInfo-pNext-02806", stage="chain")
def no_dedication_of_host_memory(call: Call, site: Site) -> Findings:
    yield from _no_dedication(site, "VkMemoryDedicatedAllocateInfo")


@rule("VUID-VkMemoryAllocateInfo-pNext-02805", stage="chain")
def no_nv_dedication_of_host_memory(call: Call, site: Site) -> Findings:
    yield from _no_dedication(site, "VkDedicatedAllocationMemoryAllocateInfoNV")


def _no_dedication(site: Site, name: str) -> Findings:
    dedicated = site.chain.get(name)
    if dedicated is None or not _source(site.chain)[0]:
        return
    if dedicated.image or dedicated.buffer:
        yield site.broken(
            "pNext",
            f"{name} names a resource, but host memory belongs to the host.",
            "Import without a dedication and bind the resource afterwards.",
        )


@rule("VUID-VkMemoryAllocateInfo-pNext-03332", stage="chain")
def no_chosen_address_for_host_memory(call: Call, site: Site) -> Findings:
    capture = site.chain.get("VkMemoryOpaqueCaptureAddressAllocateInfo")
    if capture is not None and capture.opaqueCaptureAddress and _source(site.chain)[0]:
        yield site.broken(
            "pNext",
            f"opaqueCaptureAddress is {capture.opaqueCaptureAddress:#x} for imported host memory.",
            "Leave opaqueCaptureAddress 0.",
        )


# -- the device -----------------------------------------------------------------------------------


@rule("VUID-VkImportMemoryHostPointerInfoEXT-handleType-01747", stage="device")
def an_address_type_that_can_be_imported(call: Call, site: Site) -> Findings:
    handle_type, _ = _source(site.chain)
    found = offered(call, handle_type, site.chain) if handle_type else None
    if found is not None and not found.features & _IMPORTABLE:
        yield site.broken(
            "handleType",
            f"is {_name(handle_type)}, which this device cannot import.",
            "Use a type for which vkGetPhysicalDeviceExternalBufferProperties reports IMPORTABLE.",
        )


@rule("VUID-VkMemoryAllocateInfo-allocationSize-01745", stage="device")
def a_size_of_whole_pages(call: Call, site: Site) -> Findings:
    handle_type, _ = _source(site.chain)
    if not handle_type:
        return
    size, step = site.value("allocationSize"), call.asked.host_pointer_alignment() or 1
    if size == 0 or size % step:
        yield site.broken(
            "allocationSize",
            f"is {size}; expected a multiple of {step} and not 0.",
            f"Round it up to {max(-(-size // step), 1) * step}, and allocate that much.",
        )


@rule(
    "VUID-VkImportMemoryHostPointerInfoEXT-pHostPointer-01749",
    "VUID-vkGetMemoryHostPointerPropertiesEXT-pHostPointer-01753",
    stage="device",
)
def an_address_at_the_start_of_a_page(call: Call, site: Site) -> Findings:
    address, step = _address(site), call.asked.host_pointer_alignment()
    if site.value("handleType") in (_HOST, _FOREIGN) and step and address % step:
        yield site.broken(
            "pHostPointer",
            f"is {address:#x}, which is {address % step} bytes past a multiple of {step} "
            "(minImportedHostPointerAlignment).",
            "Allocate with that alignment, as mmap and posix_memalign do.",
        )


def _address(site: Site) -> int:
    """Of a structure a number; of a command it may be a pointer to what was passed."""
    value = site.value("pHostPointer")
    return int((value.value if isinstance(value, c_void_p) else value) or 0)


# -- what lies there ------------------------------------------------------------------------------


def _flaw(call: Call, handle_type: int, address: int, size: int) -> tuple[str, str] | None:
    """What is wrong with a range of addresses, and the remedy; None if nothing is known."""
    found = call.asked.host_range(address, size)
    if found is None:
        return None
    if found.problem:
        problem = f"is {address:#x}; the range of {size} bytes from there {found.problem}."
        if not address:
            problem = "is NULL."
        return problem, "Pass memory that stays mapped, readable and writable until it is freed."
    if handle_type == _HOST and found.device:
        problem = f"is {address:#x}, where {found.device} is mapped, not memory of the host."
        return problem, "Share memory of a device by its own handle."
    if handle_type == _FOREIGN and not found.device:
        problem = f"is {address:#x}, which is memory of the host, not of another device."
        return problem, "Use VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT."
    return None


@rule("VUID-VkImportMemoryHostPointerInfoEXT-handleType-01750", stage="os")
def memory_of_the_host_over_the_whole_size(call: Call, site: Site) -> Findings:
    yield from _whole(call, site, _HOST, site.head.allocationSize)


@rule("VUID-VkImportMemoryHostPointerInfoEXT-handleType-01751", stage="os")
def memory_of_another_device_over_the_whole_size(call: Call, site: Site) -> Findings:
    yield from _whole(call, site, _FOREIGN, site.head.allocationSize)


@rule("VUID-vkGetMemoryHostPointerPropertiesEXT-handleType-01754", stage="os")
def memory_of_the_host(call: Call, site: Site) -> Findings:
    yield from _whole(call, site, _HOST, 1)


@rule("VUID-vkGetMemoryHostPointerPropertiesEXT-handleType-01755", stage="os")
def memory_of_another_device(call: Call, site: Site) -> Findings:
    yield from _whole(call, site, _FOREIGN, 1)


def _whole(call: Call, site: Site, handle_type: int, size: int) -> Findings:
    if site.value("handleType") != handle_type:
        return
    flaw = _flaw(call, handle_type, _address(site), size)
    if flaw is not None:
        yield site.broken("pHostPointer", *flaw)


@rule("VUID-VkMemoryAllocateInfo-memoryTypeIndex-01744", stage="os")
def a_memory_type_that_takes_the_address(call: Call, site: Site) -> Findings:
    handle_type, address = _source(site.chain)
    size, index = site.value("allocationSize"), site.value("memoryTypeIndex")
    # The driver hears of an address only after it was found to be one.
    if not handle_type or address % (call.asked.host_pointer_alignment() or 1):
        return
    if _flaw(call, handle_type, address, size) is not None:
        return
    types = call.asked.host_memory_types(handle_type, address)
    if types is not None and not types >> index & 1:
        yield site.broken(
            "memoryTypeIndex",
            f"is {index}, but the device imports this address into memory types of the mask "
            f"{types:#x} only.",
            "Ask vkGetMemoryHostPointerPropertiesEXT for the types that fit.",
        )
