"""Rules for vkAllocateMemory, dedicated allocations and vkFreeMemory.

What is special to a kind of handle is in `fd.py` and `host.py`, what is special to exports in
`export.py`.
"""

from __future__ import annotations

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.vk._base import Structure
from extmem.vk.queries import Needs

__all__ = ["imports", "is_multi_instance"]

_DEVICE_MASK = int(c.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT)
_ZEROED = int(c.VK_MEMORY_ALLOCATE_ZERO_INITIALIZE_BIT_EXT)
_SPARSE_BUFFER = int(c.VK_BUFFER_CREATE_SPARSE_BINDING_BIT)
_SPARSE_IMAGE = int(c.VK_IMAGE_CREATE_SPARSE_BINDING_BIT)
_DISJOINT = int(c.VK_IMAGE_CREATE_DISJOINT_BIT)

# Direct3D resources know their size; what the caller writes is ignored.
_SIZED_ELSEWHERE = int(
    c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT
)
_NV_SOURCE = "VkImportMemoryWin32HandleInfoNV"
# Structures that turn an allocation into an import. NV's is not in the specification's list, and
# counts all the same, but for the size: two sources make no sense, nor contents that are zeroed.
_SOURCES = (
    "VkImportMemoryFdInfoKHR",
    "VkImportMemoryHostPointerInfoEXT",
    "VkImportMemoryWin32HandleInfoKHR",
    _NV_SOURCE,
)


def imports(chain: dict[str, Structure]) -> list[str]:
    """The structures of a chain that import; one whose handle type is 0 does not."""
    return [name for name in _SOURCES if name in chain and chain[name].handleType]


def is_multi_instance(mask: int) -> bool:
    """Whether a device mask asks for more than one instance of the memory."""
    return mask.bit_count() > 1


def _size_is_ignored(chain: dict[str, Structure]) -> bool:
    source = chain.get("VkImportMemoryWin32HandleInfoKHR")
    if _NV_SOURCE in imports(chain):
        return True
    return source is not None and bool(source.handleType & _SIZED_ELSEWHERE)


def _chain(call: Call) -> dict[str, Structure]:
    """The chain of a vkAllocateMemory, for rules that belong to the command."""
    return next(site.chain for site in call.sites if site.owner == "VkMemoryAllocateInfo")


# -- arguments and chain --------------------------------------------------------------------------


@rule("VUID-VkMemoryAllocateInfo-allocationSize-07897", stage="arguments")
def ordinary_memory_has_a_size(call: Call, site: Site) -> Findings:
    if site.value("allocationSize") or "VkExportMemoryAllocateInfo" in site.chain:
        return
    # Rules of their own speak of opaque descriptors and host pointers; nobody speaks of dma-bufs.
    source = site.chain.get("VkImportMemoryFdInfoKHR")
    dma_buf = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT
    if source is not None and source.handleType == dma_buf:
        found = []
    else:
        # NV's import is not in the specification's list of those that may leave the size out.
        found = [each for each in imports(site.chain) if each != _NV_SOURCE]
    if not found:
        yield site.broken("allocationSize", "is 0.", "Give the number of bytes that you need.")


@rule("VUID-VkMemoryAllocateInfo-allocationSize-07899", stage="arguments")
def exportable_memory_has_a_size(call: Call, site: Site) -> Findings:
    if not site.value("allocationSize") and "VkExportMemoryAllocateInfo" in site.chain:
        yield site.broken(
            "allocationSize",
            "is 0 for memory that is to be exported.",
            "Give the number of bytes that both sides will use.",
        )


@rule("VUID-VkMemoryAllocateInfo-None-06657", stage="chain")
def one_source_to_import_from(call: Call, site: Site) -> Findings:
    found = imports(site.chain)
    if len(found) > 1:
        yield site.broken(
            "pNext",
            f"{len(found)} structures want to import: {', '.join(found)}.",
            "Keep one of them, or set the handleType of the others to 0.",
        )


@rule("VUID-VkMemoryAllocateInfo-pNext-00640", stage="chain")
def no_mixture_of_export_structures(call: Call, site: Site) -> Findings:
    for other in ("VkExportMemoryAllocateInfoNV", "VkExportMemoryWin32HandleInfoNV"):
        if "VkExportMemoryAllocateInfo" in site.chain and other in site.chain:
            yield site.broken(
                "pNext",
                f"VkExportMemoryAllocateInfo stands beside {other}.",
                "Export with the core structures or with NV's, not with both.",
            )


@rule("VUID-VkMemoryAllocateInfo-pNext-00641", stage="chain")
def no_mixture_of_import_structures(call: Call, site: Site) -> Findings:
    core, nv = "VkImportMemoryWin32HandleInfoKHR", _NV_SOURCE
    if core in site.chain and nv in site.chain:
        yield site.broken(
            "pNext",
            f"{core} stands beside {nv}, which is wrong even where one has handleType 0.",
            "Keep one of them.",
        )


@rule("VUID-VkMemoryAllocateInfo-opaqueCaptureAddress-03333", stage="chain")
def no_chosen_address_for_an_import(call: Call, site: Site) -> Findings:
    capture = site.chain.get("VkMemoryOpaqueCaptureAddressAllocateInfo")
    found = imports(site.chain)
    if capture is not None and capture.opaqueCaptureAddress and found:
        yield site.broken(
            "pNext",
            f"opaqueCaptureAddress is {capture.opaqueCaptureAddress:#x}, but {found[0]} imports "
            "memory that has its address already.",
            "Leave opaqueCaptureAddress 0 for imports.",
        )


@rule("VUID-VkMemoryAllocateFlagsInfo-flags-10760", stage="chain")
def no_zeroing_of_an_import(call: Call, site: Site) -> Findings:
    found = imports(site.chain)
    if site.value("flags") & _ZEROED and found:
        yield site.broken(
            "flags",
            f"asks for zeroed memory, but {found[0]} imports memory with contents.",
            "Leave VK_MEMORY_ALLOCATE_ZERO_INITIALIZE_BIT_EXT out.",
        )


@rule("VUID-VkMemoryAllocateInfo-None-12523", stage="chain")
def one_instance_of_an_imported_dma_buf(call: Call, site: Site) -> Findings:
    source = site.chain.get("VkImportMemoryFdInfoKHR")
    flags = site.chain.get("VkMemoryAllocateFlagsInfo")
    if source is None or flags is None or not flags.flags & _DEVICE_MASK:
        return
    is_dma_buf = source.handleType == c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT
    if is_dma_buf and is_multi_instance(flags.deviceMask):
        yield site.broken(
            "pNext",
            f"deviceMask is {flags.deviceMask:#x}, which makes "
            f"{flags.deviceMask.bit_count()} instances of one dma-buf.",
            "Name one physical device in the mask.",
        )


# -- the device -----------------------------------------------------------------------------------


@rule("VUID-vkAllocateMemory-device-queuecount", stage="state")
def a_device_with_queues(call: Call, site: Site) -> Findings:
    device = call.world.find("VkDevice", int(site.value("device")))
    if device is not None and device.facts.get("queues") == 0:
        yield site.broken(
            "device",
            "was made without any queue, and memory is for those.",
            "Create it with at least one VkDeviceQueueCreateInfo.",
        )


@rule("VUID-vkAllocateMemory-pAllocateInfo-01714", stage="device")
def a_memory_type_that_exists(call: Call, site: Site) -> Findings:
    info = site.value("pAllocateInfo")
    count = len(call.asked.memory_types())
    if info.memoryTypeIndex >= count:
        yield site.broken(
            "pAllocateInfo",
            f"memoryTypeIndex is {info.memoryTypeIndex}, but the device has {count} memory "
            f"type{'s' if count != 1 else ''}.",
            f"Use an index from 0 to {count - 1} (vkGetPhysicalDeviceMemoryProperties).",
        )


@rule("VUID-vkAllocateMemory-pAllocateInfo-01713", stage="device")
def no_more_than_the_heap_holds(call: Call, site: Site) -> Findings:
    info = site.value("pAllocateInfo")
    types = call.asked.memory_types()
    if info.memoryTypeIndex >= len(types):
        return
    _, heap = types[info.memoryTypeIndex]
    if info.allocationSize > heap and not _size_is_ignored(_chain(call)):
        yield site.broken(
            "pAllocateInfo",
            f"allocationSize is {info.allocationSize}, but the heap of memory type "
            f"{info.memoryTypeIndex} has {heap} bytes.",
            f"Ask for {heap} bytes at most, or take a memory type of a larger heap.",
        )


@rule("VUID-vkAllocateMemory-maxMemoryAllocationCount-04101", stage="device")
def no_more_allocations_than_allowed(call: Call, site: Site) -> Findings:
    alive = len(call.world.objects.get("VkDeviceMemory", ()))
    most = call.asked.limits().allocations
    if alive >= most:
        yield site.broken(
            "pAllocateInfo",
            f"would be one too many: {alive} allocations are alive, and the device allows {most} "
            "(maxMemoryAllocationCount; imports count).",
            "Free some, or put several resources into one allocation.",
        )


# -- dedicated allocations ------------------------------------------------------------------------


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-01432", stage="arguments")
def dedicated_to_one_resource(call: Call, site: Site) -> Findings:
    if site.value("image") and site.value("buffer"):
        yield site.broken(
            "image",
            "is set, and so is buffer.",
            "Dedicate an allocation to one of them and set the other to VK_NULL_HANDLE.",
        )


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-01434", stage="state")
def dedicated_to_an_image_that_is_not_sparse(call: Call, site: Site) -> Findings:
    found = call.world.find("VkImage", int(site.value("image")))
    if found is not None and found.facts["flags"] & _SPARSE_IMAGE:
        yield site.broken(
            "image",
            "is a sparse image, whose memory comes in pieces.",
            "Create it without VK_IMAGE_CREATE_SPARSE_BINDING_BIT, or allocate without dedication.",
        )


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-01797", stage="state")
def dedicated_to_an_image_in_one_piece(call: Call, site: Site) -> Findings:
    found = call.world.find("VkImage", int(site.value("image")))
    if found is not None and found.facts["flags"] & _DISJOINT:
        yield site.broken(
            "image",
            "is disjoint: each of its planes has memory of its own.",
            "Create it without VK_IMAGE_CREATE_DISJOINT_BIT, or allocate without dedication.",
        )


@rule("VUID-VkMemoryDedicatedAllocateInfo-buffer-01436", stage="state")
def dedicated_to_a_buffer_that_is_not_sparse(call: Call, site: Site) -> Findings:
    found = call.world.find("VkBuffer", int(site.value("buffer")))
    if found is not None and found.facts["flags"] & _SPARSE_BUFFER:
        yield site.broken(
            "buffer",
            "is a sparse buffer, whose memory comes in pieces.",
            "Create it without VK_BUFFER_CREATE_SPARSE_BINDING_BIT, or allocate without "
            "dedication.",
        )


@rule("VUID-VkMemoryDedicatedAllocateInfo-image-02964", stage="device")
def large_enough_for_its_image(call: Call, site: Site) -> Findings:
    image = int(site.value("image"))
    if image and not _size_is_ignored(site.chain):
        yield from _large_enough(site, "image", call.asked.image_needs(image))


@rule("VUID-VkMemoryDedicatedAllocateInfo-buffer-02965", stage="device")
def large_enough_for_its_buffer(call: Call, site: Site) -> Findings:
    buffer = int(site.value("buffer"))
    if buffer and not _size_is_ignored(site.chain):
        yield from _large_enough(site, "buffer", call.asked.buffer_needs(buffer))


def _large_enough(site: Site, member: str, needs: Needs | None) -> Findings:
    size = site.head.allocationSize
    if needs is not None and size < needs.size:
        yield site.broken(
            member,
            f"needs {needs.size} bytes, but allocationSize is {size}.",
            f"Allocate {needs.size} bytes (vkGet{member.capitalize()}MemoryRequirements).",
        )
