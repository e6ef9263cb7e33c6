"""Rules of the NV extensions: handles, image queries, dedicated allocations."""

from __future__ import annotations

from extmem.handle_types import MEMORY_NV
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.windows import CORE_OF, unfit_handle
from extmem.vk import _constants as c
from extmem.vk.queries import Needs

_SPARSE_IMAGE = int(
    c.VK_IMAGE_CREATE_SPARSE_BINDING_BIT
    | c.VK_IMAGE_CREATE_SPARSE_RESIDENCY_BIT
    | c.VK_IMAGE_CREATE_SPARSE_ALIASED_BIT
)
_SPARSE_BUFFER = int(
    c.VK_BUFFER_CREATE_SPARSE_BINDING_BIT
    | c.VK_BUFFER_CREATE_SPARSE_RESIDENCY_BIT
    | c.VK_BUFFER_CREATE_SPARSE_ALIASED_BIT
)


def _named(mask: int) -> str:
    return "+".join(each.name for each in MEMORY_NV if mask & each.bit) or hex(mask)


# -- handles --------------------------------------------------------------------------------------


@rule(
    "VUID-VkImportMemoryWin32HandleInfoNV-handleType-01327",
    "VUID-vkGetPhysicalDeviceExternalImageFormatPropertiesNV-externalHandleType-07721",
    stage="arguments",
)
def one_nv_type_at_most(call: Call, site: Site) -> Findings:
    member = "externalHandleType" if isinstance(site.subject, dict) else "handleType"
    mask = int(site.value(member))
    if mask & (mask - 1):
        yield site.broken(
            member,
            f"is {_named(mask)}; one type is allowed, or 0.",
            "Name one type; ask once for each.",
        )


@rule("VUID-VkImportMemoryWin32HandleInfoNV-handle-01328", stage="os")
def an_nv_handle_of_that_type(call: Call, site: Site) -> Findings:
    handle_type, handle = int(site.value("handleType")), int(site.value("handle") or 0)
    core = CORE_OF.get(handle_type)
    if core is None:
        return  # turned off by 0, or no single type
    unfit = unfit_handle(call, core, handle)
    if unfit is None:
        return
    if not handle:
        remedy = (
            "Pass a handle that vkGetMemoryWin32HandleNV returned, or a duplicate of it; NV has "
            "no import by name."
        )
        yield site.broken("handle", "is NULL.", remedy)
        return
    yield site.broken("handle", unfit.problem, unfit.remedy)


@rule("VUID-vkGetMemoryWin32HandleNV-handleType-01326", stage="state")
def an_nv_type_that_was_announced(call: Call, site: Site) -> Findings:
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    if memory is None:
        return
    handle_type, announced = int(site.value("handleType")), memory.facts["export_nv"]
    if not handle_type or handle_type & ~announced or handle_type & (handle_type - 1):
        core = " (VkExportMemoryAllocateInfo does not count here)" if memory.facts["export"] else ""
        yield site.broken(
            "handleType",
            f"is {_named(handle_type)}, but this memory was allocated to be exported as "
            f"{_named(announced) if announced else 'nothing'} through NV{core}.",
            "Chain VkExportMemoryAllocateInfoNV with this type to its VkMemoryAllocateInfo.",
        )


# -- dedicated allocations ------------------------------------------------------------------------


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-image-00649", stage="arguments")
def nv_dedicated_to_one_resource(call: Call, site: Site) -> Findings:
    if site.value("image") and site.value("buffer"):
        yield site.broken(
            "image", "is set, and so is buffer.", "Dedicate an allocation to one of them."
        )


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-image-00650", stage="state")
def nv_dedicated_to_an_image_that_asked_for_it(call: Call, site: Site) -> Findings:
    yield from _asked_for_it(call, site, "VkImage", "image")


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-buffer-00651", stage="state")
def nv_dedicated_to_a_buffer_that_asked_for_it(call: Call, site: Site) -> Findings:
    yield from _asked_for_it(call, site, "VkBuffer", "buffer")


def _asked_for_it(call: Call, site: Site, kind: str, member: str) -> Findings:
    found = call.world.find(kind, int(site.value(member)))
    if found is not None and not found.facts["dedicated_nv"]:
        chained = f"VkDedicatedAllocation{kind[2:]}CreateInfoNV"
        yield site.broken(
            member,
            f"was created without {chained}.dedicatedAllocation.",
            f"Chain {chained} with dedicatedAllocation true to its create info, or use "
            "VkMemoryDedicatedAllocateInfo.",
        )


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-image-00652", stage="device")
def exactly_as_large_as_its_image(call: Call, site: Site) -> Findings:
    image = int(site.value("image"))
    if image:
        yield from _exactly(site, "image", call.asked.image_needs(image))


@rule("VUID-VkDedicatedAllocationMemoryAllocateInfoNV-buffer-00653", stage="device")
def exactly_as_large_as_its_buffer(call: Call, site: Site) -> Findings:
    buffer = int(site.value("buffer"))
    if buffer:
        yield from _exactly(site, "buffer", call.asked.buffer_needs(buffer))


def _exactly(site: Site, member: str, needs: Needs | None) -> Findings:
    size = site.head.allocationSize
    if needs is not None and size != needs.size:
        yield site.broken(
            member,
            f"needs {needs.size} bytes, but allocationSize is {size}; NV's dedication wants them "
            "equal.",
            f"Allocate {needs.size} bytes.",
        )


@rule(
    "VUID-VkDedicatedAllocationImageCreateInfoNV-dedicatedAllocation-00994",
    stage="chain",
)
def no_nv_dedication_of_sparse_images(call: Call, site: Site) -> Findings:
    if site.value("dedicatedAllocation") and site.head.flags & _SPARSE_IMAGE:
        yield site.broken(
            "dedicatedAllocation",
            "is true for a sparse image, whose memory comes in pieces.",
            "Leave out one of them.",
        )


@rule("VUID-VkBufferCreateInfo-pNext-01571", stage="chain")
def no_nv_dedication_of_sparse_buffers(call: Call, site: Site) -> Findings:
    info = site.chain.get("VkDedicatedAllocationBufferCreateInfoNV")
    if info is not None and info.dedicatedAllocation and site.value("flags") & _SPARSE_BUFFER:
        yield site.broken(
            "pNext",
            "asks for a dedicated allocation (NV) of a sparse buffer.",
            "Leave out one of them.",
        )
