"""Rules for barriers that hand resources from one owner to another.

That a barrier is missing is no rule: contents are then undefined, which is not an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from extmem.handle_types import MEMORY_NV
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.world import Record

_IGNORED = int(c.VK_QUEUE_FAMILY_IGNORED)
_EXTERNAL = int(c.VK_QUEUE_FAMILY_EXTERNAL)
_FOREIGN = int(c.VK_QUEUE_FAMILY_FOREIGN_EXT)
_CONCURRENT = int(c.VK_SHARING_MODE_CONCURRENT)
_NAMES = {_IGNORED: "IGNORED", _EXTERNAL: "EXTERNAL", _FOREIGN: "FOREIGN"}

_UNDEFINED, _GENERAL = int(c.VK_IMAGE_LAYOUT_UNDEFINED), int(c.VK_IMAGE_LAYOUT_GENERAL)
_TEXTURES = int(
    c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT
)
_TEXTURES_NV = sum(each.bit for each in MEMORY_NV if each.name.startswith("d3d11_image"))

_BARRIERS = (
    "VkBufferMemoryBarrier",
    "VkBufferMemoryBarrier2",
    "VkImageMemoryBarrier",
    "VkImageMemoryBarrier2",
)


def _families(site: Site) -> tuple[int, int]:
    return int(site.value("srcQueueFamilyIndex")), int(site.value("dstQueueFamilyIndex"))


def _resource(call: Call, site: Site) -> Record | None:
    what = "buffer" if "Buffer" in site.owner else "image"
    return call.world.find(f"Vk{what.capitalize()}", int(site.value(what)))


def _is_concurrent(record: Record) -> bool:
    return bool(record.facts["sharing"] == _CONCURRENT)


def _named(family: int) -> str:
    return f"VK_QUEUE_FAMILY_{_NAMES[family]}" if family in _NAMES else str(family)


# -- families that there are ----------------------------------------------------------------------


@rule(
    "VUID-VkBufferMemoryBarrier-buffer-09095",
    "VUID-VkBufferMemoryBarrier2-buffer-09095",
    "VUID-VkImageMemoryBarrier-image-09117",
    "VUID-VkImageMemoryBarrier2-image-09117",
    stage="device",
)
def a_source_that_can_own_it(call: Call, site: Site) -> Findings:
    yield from _owner(call, site, "srcQueueFamilyIndex")


@rule(
    "VUID-VkBufferMemoryBarrier-buffer-09096",
    "VUID-VkBufferMemoryBarrier2-buffer-09096",
    "VUID-VkImageMemoryBarrier-image-09118",
    "VUID-VkImageMemoryBarrier2-image-09118",
    stage="device",
)
def a_destination_that_can_own_it(call: Call, site: Site) -> Findings:
    yield from _owner(call, site, "dstQueueFamilyIndex")


def _owner(call: Call, site: Site, member: str) -> Findings:
    source, destination = _families(site)
    resource, family = _resource(call, site), int(site.value(member))
    if resource is None or _is_concurrent(resource) or source == destination:
        return
    count = call.asked.queue_families()
    if family not in (_EXTERNAL, _FOREIGN) and family >= count:
        yield site.broken(
            member,
            f"is {_named(family)}, which is no queue family that could own something that is used "
            "exclusively.",
            f"Name one of the device's {count} families, or VK_QUEUE_FAMILY_EXTERNAL or "
            "FOREIGN_EXT; for no transfer set both to VK_QUEUE_FAMILY_IGNORED.",
        )


# -- who is outside -------------------------------------------------------------------------------


@rule(*(f"VUID-{barrier}-None-09097" for barrier in _BARRIERS), stage="state")
def an_external_source_where_it_is_known(call: Call, site: Site) -> Findings:
    yield from _external(call, site, "srcQueueFamilyIndex")


@rule(*(f"VUID-{barrier}-None-09098" for barrier in _BARRIERS), stage="state")
def an_external_destination_where_it_is_known(call: Call, site: Site) -> Findings:
    yield from _external(call, site, "dstQueueFamilyIndex")


def _external(call: Call, site: Site, member: str) -> Findings:
    instance = call.dispatch.parent or call.dispatch
    if int(site.value(member)) != _EXTERNAL or instance.enabled("VK_VERSION_1_1"):
        return
    if not call.dispatch.enabled("VK_KHR_external_memory"):
        yield site.broken(
            member,
            "is VK_QUEUE_FAMILY_EXTERNAL, which this device does not know.",
            "Enable VK_KHR_external_memory, or make the instance with apiVersion 1.1 or later.",
        )


@rule(*(f"VUID-{barrier}-srcQueueFamilyIndex-09099" for barrier in _BARRIERS), stage="state")
def a_foreign_source_where_it_is_known(call: Call, site: Site) -> Findings:
    yield from _foreign(call, site, "srcQueueFamilyIndex")


@rule(*(f"VUID-{barrier}-dstQueueFamilyIndex-09100" for barrier in _BARRIERS), stage="state")
def a_foreign_destination_where_it_is_known(call: Call, site: Site) -> Findings:
    yield from _foreign(call, site, "dstQueueFamilyIndex")


def _foreign(call: Call, site: Site, member: str) -> Findings:
    extension = "VK_EXT_queue_family_foreign"
    if int(site.value(member)) == _FOREIGN and not call.dispatch.enabled(extension):
        yield site.broken(
            member,
            "is VK_QUEUE_FAMILY_FOREIGN_EXT, which this device does not know.",
            f"Enable {extension}; within one driver VK_QUEUE_FAMILY_EXTERNAL is enough.",
        )


# -- what is used by several families at once -----------------------------------------------------


def _concurrent_families(call: Call, site: Site) -> tuple[int, int] | None:
    """The families of a barrier that the rules for concurrent resources hold for."""
    resource = _resource(call, site)
    device = call.world.find("VkDevice", int(call.dispatch.device or 0))
    features = device.facts.get("features", ()) if device is not None else ()
    if resource is None or not _is_concurrent(resource) or "synchronization2" in features:
        return None
    return _families(site)


@rule(
    "VUID-VkBufferMemoryBarrier-None-09049",
    "VUID-VkImageMemoryBarrier-None-09052",
    stage="state",
)
def one_side_of_a_concurrent_resource_is_ignored(call: Call, site: Site) -> Findings:
    families = _concurrent_families(call, site)
    if families is not None and _IGNORED not in families:
        yield site.broken(
            "srcQueueFamilyIndex",
            f"is {_named(families[0])} and dstQueueFamilyIndex {_named(families[1])}, but the "
            "resource is shared by its families (CONCURRENT).",
            "Set both to VK_QUEUE_FAMILY_IGNORED, or one of them to VK_QUEUE_FAMILY_EXTERNAL.",
        )


@rule(
    "VUID-VkBufferMemoryBarrier-None-09050",
    "VUID-VkImageMemoryBarrier-None-09053",
    stage="state",
)
def the_source_of_a_concurrent_resource(call: Call, site: Site) -> Findings:
    yield from _ignored_or_external(call, site, 0)


@rule(
    "VUID-VkBufferMemoryBarrier-None-09051",
    "VUID-VkImageMemoryBarrier-None-09054",
    stage="state",
)
def the_destination_of_a_concurrent_resource(call: Call, site: Site) -> Findings:
    yield from _ignored_or_external(call, site, 1)


def _ignored_or_external(call: Call, site: Site, side: int) -> Findings:
    families = _concurrent_families(call, site)
    if families is not None and families[side] not in (_IGNORED, _EXTERNAL):
        yield site.broken(
            ("srcQueueFamilyIndex", "dstQueueFamilyIndex")[side],
            f"is {_named(families[side])}, but the resource is shared by its families "
            "(CONCURRENT).",
            "Use VK_QUEUE_FAMILY_IGNORED or VK_QUEUE_FAMILY_EXTERNAL, or enable the feature "
            "synchronization2.",
        )


# -- images of Direct3D 11 ------------------------------------------------------------------------


def _is_texture(call: Call, image: Record) -> bool:
    """Whether an image lies in memory of a Direct3D 11 texture."""
    memory = image.facts["bound"]
    if memory is None or not call.world.has(memory):
        return False
    facts = memory.facts
    return bool(facts["import"] & _TEXTURES or facts["import_nv"] & _TEXTURES_NV)


@rule("VUID-VkImageMemoryBarrier-dstQueueFamilyIndex-12331", stage="state")
def a_texture_is_released_in_general(call: Call, site: Site) -> Findings:
    source, destination = _families(site)
    layout = int(site.value("newLayout"))
    if destination != _EXTERNAL or source == destination or layout == _GENERAL:
        return
    image = _resource(call, site)
    if image is not None and _is_texture(call, image):
        yield site.broken(
            "newLayout",
            f"is {layout}, but a Direct3D 11 texture is outside in VK_IMAGE_LAYOUT_GENERAL.",
            "Release it with newLayout VK_IMAGE_LAYOUT_GENERAL.",
        )


@rule("VUID-VkImageMemoryBarrier-srcQueueFamilyIndex-12332", stage="state")
def a_texture_is_acquired_in_general(call: Call, site: Site) -> Findings:
    source, destination = _families(site)
    layout = int(site.value("oldLayout"))
    if source != _EXTERNAL or source == destination or layout in (_GENERAL, _UNDEFINED):
        return
    image = _resource(call, site)
    if image is not None and _is_texture(call, image):
        yield site.broken(
            "oldLayout",
            f"is {layout}, but a Direct3D 11 texture is outside in VK_IMAGE_LAYOUT_GENERAL.",
            "Acquire it with oldLayout VK_IMAGE_LAYOUT_GENERAL, or UNDEFINED to lose its contents.",
        )


# -- where barriers stand -------------------------------------------------------------------------


@rule("VUID-vkCmdPipelineBarrier-srcQueueFamilyIndex-10388", stage="state")
def a_transfer_by_one_of_its_families(call: Call, site: Site) -> Findings:
    yield from _by_one_of_them(call, "pImageMemoryBarriers")


@rule("VUID-vkCmdPipelineBarrier2-srcQueueFamilyIndex-10387", stage="state")
def a_transfer_2_by_one_of_its_families(call: Call, site: Site) -> Findings:
    yield from _by_one_of_them(call, "pDependencyInfo")


def _transfers(call: Call) -> Iterator[tuple[Site, int, int]]:
    """The barriers of a call that hand an exclusive resource to another owner."""
    for site in call.sites:
        if site.owner in _BARRIERS:
            source, destination = _families(site)
            resource = _resource(call, site)
            if source != destination and resource is not None and not _is_concurrent(resource):
                yield site, source, destination


def _by_one_of_them(call: Call, member: str) -> Findings:
    commands = call.world.find("VkCommandBuffer", int(call.arguments["commandBuffer"]))
    pool = commands.parent if commands is not None else None
    if pool is None:
        return
    family = int(pool.facts["family"])
    for site, source, destination in _transfers(call):
        if family not in (source, destination):
            yield site.broken(
                "srcQueueFamilyIndex",
                f"is {_named(source)} and dstQueueFamilyIndex {_named(destination)}, but the "
                f"command buffer is of a pool of family {family}.",
                "A transfer is recorded twice: released by a queue of the one family, acquired by "
                "one of the other.",
            )


@rule("VUID-vkCmdWaitEvents-srcQueueFamilyIndex-02803", stage="arguments")
def no_transfer_with_events(call: Call, site: Site) -> Findings:
    for each in call.sites:
        if each.owner in _BARRIERS and len(set(_families(each))) > 1:
            source, destination = _families(each)
            yield each.broken(
                "srcQueueFamilyIndex",
                f"is {_named(source)}, but dstQueueFamilyIndex is {_named(destination)}.",
                "Hand resources over with vkCmdPipelineBarrier; events do not.",
            )
