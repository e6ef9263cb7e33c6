"""Rules for creating buffers and images whose memory is shared, and for asking about them."""

from __future__ import annotations

from collections.abc import Iterator

from extmem.handle_types import MEMORY_NV, names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.implicit import known_bits
from extmem.vk import _constants as c

_UNDEFINED = int(c.VK_IMAGE_LAYOUT_UNDEFINED)
_FIRST_LAYOUTS = {
    _UNDEFINED,
    int(c.VK_IMAGE_LAYOUT_PREINITIALIZED),
    1000620000,  # VK_IMAGE_LAYOUT_ZERO_INITIALIZED_EXT
}
_MODIFIER_TILING = int(c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_LIST = "VkImageDrmFormatModifierListCreateInfoEXT"
_EXPLICIT = "VkImageDrmFormatModifierExplicitCreateInfoEXT"
_MODIFIERS = (_LIST, _EXPLICIT)
_EXCLUSIVE = int(c.VK_SHARING_MODE_EXCLUSIVE)
_SOME = 8  # modifiers that a message names


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def _types(site: Site, name: str) -> int:
    info = site.chain.get(name)
    return int(info.handleTypes) if info is not None else 0


def _parameters(site: Site) -> tuple[int, int, int, int, int]:
    """What an image is asked about with: format, type, tiling, usage, flags."""
    info = site.subject
    return (
        int(info.format),
        int(info.imageType),
        int(info.tiling),
        int(info.usage),
        int(info.flags),
    )


@rule("VUID-VkBufferCreateInfo-pNext-00920", stage="device")
def types_that_a_buffer_can_have_together(call: Call, site: Site) -> Findings:
    mask = _types(site, "VkExternalMemoryBufferCreateInfo")
    for bit in _bits(mask):
        found = call.asked.external_buffer(bit, int(site.value("usage")), int(site.value("flags")))
        if found is not None and mask & ~found.compatible:
            yield site.broken(
                "pNext",
                f"names {', '.join(names_of(mask))}; with {names_of(bit)[0]} such a buffer allows "
                f"{', '.join(names_of(found.compatible)) or 'nothing'}.",
                "Ask vkGetPhysicalDeviceExternalBufferProperties which types go together.",
            )
            return


@rule("VUID-VkImageCreateInfo-pNext-00988", stage="chain")
def no_mixture_of_external_image_structures(call: Call, site: Site) -> Findings:
    names = ("VkExternalMemoryImageCreateInfo", "VkExternalMemoryImageCreateInfoNV")
    # The rule looks at who is there, not at what they say: a mask of 0 changes nothing.
    if all(name in site.chain for name in names):
        yield site.broken("pNext", "has both " + " and ".join(names) + ".", "Keep one of them.")


@rule("VUID-VkImageCreateInfo-pNext-00990", stage="device")
def types_that_an_image_can_have_together(call: Call, site: Site) -> Findings:
    mask = _types(site, "VkExternalMemoryImageCreateInfo")
    form, kind, tiling, usage, flags = _parameters(site)
    if tiling == _MODIFIER_TILING:
        return  # the answer depends on the modifier; the driver gives it
    for bit in _bits(mask):
        found = call.asked.external_image(bit, form, kind, tiling, usage, flags)
        if found is not None and mask & ~found.compatible:
            yield site.broken(
                "pNext",
                f"names {', '.join(names_of(mask))}; with {names_of(bit)[0]} such an image allows "
                f"{', '.join(names_of(found.compatible)) or 'nothing'}.",
                "Ask vkGetPhysicalDeviceImageFormatProperties2 which types go together.",
            )
            return


@rule("VUID-VkImageCreateInfo-pNext-00991", stage="device")
def nv_types_that_an_image_can_have_together(call: Call, site: Site) -> Findings:
    mask = _types(site, "VkExternalMemoryImageCreateInfoNV")
    form, kind, tiling, usage, flags = _parameters(site)
    for bit in _bits(mask):
        compatible = call.asked.external_image_nv(bit, form, kind, tiling, usage, flags)
        if compatible is not None and mask & ~compatible:
            named = "+".join(each.name for each in MEMORY_NV if mask & each.bit)
            yield site.broken(
                "pNext",
                f"names {named}, which such an image cannot have together.",
                "Ask vkGetPhysicalDeviceExternalImageFormatPropertiesNV which types go together.",
            )
            return


@rule("VUID-VkImageCreateInfo-pNext-01443", stage="chain")
def shared_images_start_undefined(call: Call, site: Site) -> Findings:
    shared = _types(site, "VkExternalMemoryImageCreateInfo") or _types(
        site, "VkExternalMemoryImageCreateInfoNV"
    )
    if shared and int(site.value("initialLayout")) != _UNDEFINED:
        yield site.broken(
            "initialLayout",
            f"is {int(site.value('initialLayout'))}; an image with external memory starts in "
            "VK_IMAGE_LAYOUT_UNDEFINED, even if there is something in the memory.",
            "Leave it out; the barrier that acquires the image says its true layout.",
        )


@rule("VUID-VkImageCreateInfo-initialLayout-00993", stage="arguments")
def a_layout_to_start_in(call: Call, site: Site) -> Findings:
    layout = int(site.value("initialLayout"))
    if layout not in _FIRST_LAYOUTS:
        yield site.broken(
            "initialLayout",
            f"is {layout}; an image starts UNDEFINED or PREINITIALIZED.",
            "Use VK_IMAGE_LAYOUT_UNDEFINED.",
        )


@rule("VUID-VkImageCreateInfo-tiling-02261", stage="chain")
def one_modifier_structure_for_modifier_tiling(call: Call, site: Site) -> Findings:
    if int(site.value("tiling")) != _MODIFIER_TILING:
        return
    present = [name for name in _MODIFIERS if name in site.chain]
    if len(present) != 1:
        yield site.broken(
            "tiling",
            f"is DRM_FORMAT_MODIFIER, and {len(present)} structures name modifiers.",
            f"Chain exactly one of {' and '.join(_MODIFIERS)}.",
        )


@rule("VUID-VkImageCreateInfo-pNext-02262", stage="chain")
def modifier_structures_for_modifier_tiling_only(call: Call, site: Site) -> Findings:
    present = [name for name in _MODIFIERS if name in site.chain]
    if present and int(site.value("tiling")) != _MODIFIER_TILING:
        yield site.broken(
            "tiling",
            f"is {int(site.value('tiling'))}, but {present[0]} names modifiers.",
            "Use VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT, or leave the structure out.",
        )


@rule(f"VUID-{_LIST}-pDrmFormatModifiers-02263", stage="device")
def modifiers_that_the_device_has(call: Call, site: Site) -> Findings:
    # Each of them has to be right, whichever the driver then chooses.
    array = site.value("pDrmFormatModifiers")
    for index in range(site.value("drmFormatModifierCount")):
        problem = _wrong_modifier(call, site, int(array[index]))
        if problem:
            yield site.broken(f"pDrmFormatModifiers[{index}]", *problem)
            return


@rule(f"VUID-{_EXPLICIT}-drmFormatModifier-02264", stage="device")
def a_modifier_that_the_device_has(call: Call, site: Site) -> Findings:
    problem = _wrong_modifier(call, site, int(site.value("drmFormatModifier")))
    if problem:
        yield site.broken("drmFormatModifier", *problem)


def _wrong_modifier(call: Call, site: Site, modifier: int) -> tuple[str, str] | None:
    """Why an image is not made by a modifier, and what helps; None if it is, or if nobody knows.

    NVIDIA's driver (on Linux, measured) makes an image also by a modifier that there is not.
    """
    info = site.head
    form = int(info.format)
    there = call.asked.modifiers(form)
    if there is None:
        return None
    if modifier not in there:
        named = ", ".join(map(hex, sorted(there)[:_SOME])) or "none"
        more = f" and {len(there) - _SOME} more" if len(there) > _SOME else ""
        return (
            f"is {modifier:#x}, which the device does not have for the format {form}; it has "
            f"{named}{more}.",
            "Ask vkGetPhysicalDeviceFormatProperties2 with VkDrmFormatModifierPropertiesListEXT, "
            "and name those alone.",
        )
    # What else stands in the chain can change the answer; the driver gives it then.
    if len(site.chain) > 2 or int(info.sharingMode) != _EXCLUSIVE:
        return None
    asked = form, int(info.imageType), int(info.usage), int(info.flags)
    if call.asked.makes_by_modifier(modifier, *asked) is not False:
        return None
    return (
        f"is {modifier:#x}; by it the device makes no image of this type and usage with these "
        "flags.",
        "Ask vkGetPhysicalDeviceImageFormatProperties2 with "
        "VkPhysicalDeviceImageDrmFormatModifierInfoEXT, and name those alone that it takes.",
    )


@rule("VUID-VkImageCreateInfo-pNext-09654", stage="chain")
def no_alignment_control_of_shared_images(call: Call, site: Site) -> Findings:
    if "VkImageAlignmentControlCreateInfoMESA" in site.chain and _types(
        site, "VkExternalMemoryImageCreateInfo"
    ):
        yield site.broken(
            "pNext",
            "has VkImageAlignmentControlCreateInfoMESA on an image with external memory.",
            "Leave out one of them.",
        )


# -- asking about buffers -------------------------------------------------------------------------

_USAGE_2 = "VkBufferUsageFlags2CreateInfo"  # says it in 64 bits, and then usage means nothing


@rule("VUID-VkPhysicalDeviceExternalBufferInfo-None-09499", stage="chain")
def a_usage_that_buffers_have(call: Call, site: Site) -> Findings:
    unknown = int(site.value("usage")) & ~known_bits("VkBufferUsageFlagBits")
    if unknown and _USAGE_2 not in site.chain:
        yield site.broken(
            "usage",
            f"has bits that are no VkBufferUsageFlagBits: {unknown:#x}.",
            f"Use the usage of the buffer that you will create, or chain {_USAGE_2}.",
        )


@rule("VUID-VkPhysicalDeviceExternalBufferInfo-None-09500", stage="chain")
def some_usage_to_ask_about(call: Call, site: Site) -> Findings:
    if not int(site.value("usage")) and _USAGE_2 not in site.chain:
        yield site.broken(
            "usage",
            "is 0.",
            f"Use the usage of the buffer that you will create, or chain {_USAGE_2}.",
        )


# -- instances ------------------------------------------------------------------------------------


@rule("VUID-VkApplicationInfo-apiVersion-04010", stage="arguments")
def a_version_that_there_was(call: Call, site: Site) -> Findings:
    version = int(site.value("apiVersion"))
    if 0 < version < c.VK_API_VERSION_1_0:
        yield site.broken(
            "apiVersion",
            f"is {version:#x}, a version before Vulkan 1.0; drivers crash on those.",
            "Use VK_API_VERSION_1_0 or later (VK_MAKE_API_VERSION), or 0.",
        )
