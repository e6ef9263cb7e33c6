"""Rules for binding buffers and images to memory: four commands, one set of demands."""

from __future__ import annotations

from typing import NamedTuple

from extmem.handle_types import names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.vk.queries import Needs
from extmem.vk.record import made_with
from extmem.world import Record

_SPARSE_BUFFER = int(c.VK_BUFFER_CREATE_SPARSE_BINDING_BIT)
_SPARSE_IMAGE = int(c.VK_IMAGE_CREATE_SPARSE_BINDING_BIT)
_DISJOINT = int(c.VK_IMAGE_CREATE_DISJOINT_BIT)
_ALIASING = "dedicatedAllocationImageAliasing"
_PLANE = "VkBindImagePlaneMemoryInfo"


def _all(buffer: str, image: str, image_info: str = "") -> tuple[str, ...]:
    """The names of one rule in all four commands; `image_info` where the structure's differs."""
    return (
        f"VUID-vkBindBufferMemory-{buffer}",
        f"VUID-VkBindBufferMemoryInfo-{buffer}",
        f"VUID-vkBindImageMemory-{image}",
        f"VUID-VkBindImageMemoryInfo-{image_info or image}",
    )


class _Bind(NamedTuple):
    """One resource and the memory that it shall get."""

    what: str  # "buffer" or "image", as the member is called
    resource: Record
    memory: Record
    offset: int


def _bind(call: Call, site: Site) -> _Bind | None:
    """The resource and memory at a place; None while one of them is not alive."""
    what = _what(site)
    resource = call.world.find(f"Vk{what.capitalize()}", int(site.value(what)))
    memory = call.world.find("VkDeviceMemory", int(site.value("memory")))
    if resource is None or memory is None:
        return None
    return _Bind(what, resource, memory, int(site.value("memoryOffset")))


def _what(site: Site) -> str:
    return "buffer" if "Buffer" in site.owner else "image"


def _plane(site: Site) -> int:
    """The aspect of the plane that is bound, 0 for the whole image."""
    info = site.chain.get(_PLANE)
    return int(info.planeAspect) if info is not None else 0


# -- the pair -------------------------------------------------------------------------------------


@rule("VUID-VkBindImageMemoryInfo-pNext-01632", stage="state")
def memory_that_is_alive(call: Call, site: Site) -> Findings:
    # Swapchain images take none, and are not made here; so nothing derived looks at this member.
    memory = int(site.value("memory"))
    if call.world.find("VkDeviceMemory", memory) is None:
        what = f"{memory:#x} is no living VkDeviceMemory." if memory else "is VK_NULL_HANDLE."
        yield site.broken("memory", what, "Pass memory of this device that is not freed yet.")


@rule(*_all("buffer-07459", "image-07460"), stage="state")
def bound_once(call: Call, site: Site) -> Findings:
    what = _what(site)
    handle = int(site.value(what))
    resource = call.world.find(f"Vk{what.capitalize()}", handle)
    if resource is None:
        return
    if resource.facts["memory"] is not None:
        yield site.broken(
            what,
            f"is bound already, to the VkDeviceMemory {resource.facts['memory']:#x}.",
            f"Create another {what}; a binding lasts as long as the {what}.",
        )
        return
    for other in call.sites:
        if other is site:
            return
        same = other.owner == site.owner and int(other.value(what)) == handle
        if same and _plane(other) == _plane(site):
            yield site.broken(what, f"is bound by {other.path} too.", "Bind it once.")
            return


@rule(*_all("buffer-01030", "image-01045"), stage="state")
def not_sparse(call: Call, site: Site) -> Findings:
    what = _what(site)
    resource = call.world.find(f"Vk{what.capitalize()}", int(site.value(what)))
    flag = _SPARSE_BUFFER if what == "buffer" else _SPARSE_IMAGE
    if resource is not None and resource.facts["flags"] & flag:
        yield site.broken(
            what,
            "is sparse, and gets its memory in pieces from a queue.",
            "Use vkQueueBindSparse, or create it without the sparse binding flag.",
        )


@rule("VUID-vkBindImageMemory-image-01608", stage="state")
def in_one_piece(call: Call, site: Site) -> Findings:
    image = call.world.find("VkImage", int(site.value("image")))
    if image is not None and image.facts["flags"] & _DISJOINT:
        yield site.broken(
            "image",
            "is disjoint: each plane is bound to memory of its own.",
            "Use vkBindImageMemory2 with VkBindImagePlaneMemoryInfo.",
        )


@rule(*_all("memoryOffset-01031", "memoryOffset-01046"), stage="state")
def an_offset_within_the_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    # An imported Direct3D resource has its size elsewhere; 0 says that nobody here knows it.
    size = bind.memory.facts["size"] if bind is not None else 0
    if bind is not None and size and bind.offset >= size:
        yield site.broken(
            "memoryOffset",
            f"is {bind.offset}, but the memory has {size} bytes.",
            f"Use an offset below {size}.",
        )


# -- external memory ------------------------------------------------------------------------------


def _names(types: int) -> str:
    return ", ".join(names_of(types)) or "nothing"


def _create_info(what: str) -> str:
    return f"VkExternalMemory{what.capitalize()}CreateInfo"


@rule(*_all("memory-02726", "memory-02728"), stage="state")
def a_resource_made_for_exportable_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is None:
        return
    exported, types = bind.memory.facts["export"], bind.resource.facts["types"]
    if exported and not exported & types:
        yield site.broken(
            bind.what,
            f"was created for {_names(types)}, but the memory can be exported as "
            f"{_names(exported)}.",
            f"Create it with {_create_info(bind.what)} and one of these types.",
        )


@rule(*_all("memory-02985", "memory-02989"), stage="state")
def a_resource_made_for_imported_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is None:
        return
    imported, types = bind.memory.facts["import"], bind.resource.facts["types"]
    if imported & ~types:
        yield site.broken(
            bind.what,
            f"was created for {_names(types)}, but the memory was imported as {_names(imported)}.",
            f"Create it with {_create_info(bind.what)} and that type.",
        )


# -- dedicated memory -----------------------------------------------------------------------------


@rule(
    "VUID-vkBindBufferMemory-memory-01508",
    "VUID-VkBindBufferMemoryInfo-memory-01508",
    stage="state",
)
def the_buffer_that_owns_the_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is not None and bind.memory.facts["dedicated_buffer"]:
        yield from _owner(site, bind)


@rule(
    "VUID-vkBindImageMemory-memory-02628",
    "VUID-VkBindImageMemoryInfo-memory-02628",
    stage="state",
)
def the_image_that_owns_the_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is not None and bind.memory.facts["dedicated_image"] and not _aliasing(call):
        yield from _owner(site, bind)


@rule(
    "VUID-vkBindImageMemory-memory-02629",
    "VUID-VkBindImageMemoryInfo-memory-02629",
    stage="state",
)
def an_image_like_the_one_that_owns_the_memory(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is None or not bind.memory.facts["dedicated_image"] or not _aliasing(call):
        return
    # What the owner was like is not known any more once it is destroyed.
    owner = call.world.find("VkImage", int(bind.memory.facts["dedicated_image"]))
    if bind.offset or (owner is not None and not _fits_into(bind.resource, owner)):
        yield from _owner(site, bind, "an equal image that is no larger")


def _aliasing(call: Call) -> bool:
    device = call.world.find("VkDevice", int(call.dispatch.device or 0))
    return device is not None and _ALIASING in device.facts.get("features", ())


def _fits_into(image: Record, owner: Record) -> bool:
    smaller = ("extent", "layers", "memory", "bound", "offset", "needs")
    if any(image.facts.get(k) != owner.facts.get(k) for k in owner.facts if k not in smaller):
        return False
    extents = zip(image.facts["extent"], owner.facts["extent"], strict=True)
    fits = image.facts["layers"] <= owner.facts["layers"]
    return fits and all(mine <= theirs for mine, theirs in extents)


def _owner(site: Site, bind: _Bind, besides: str = "") -> Findings:
    owner = int(bind.memory.facts[f"dedicated_{bind.what}"])
    if owner != bind.resource.value or besides:
        yield site.broken(
            bind.what,
            f"is {bind.resource.value:#x}, but the memory is dedicated to {owner:#x}.",
            f"Bind that {bind.what}" + (f", or {besides}, at offset 0." if besides else "."),
        )
    elif bind.offset:
        yield site.broken(
            "memoryOffset", f"is {bind.offset} in dedicated memory.", "Bind at offset 0."
        )


@rule(*_all("memory-10925", "memory-10926"), stage="state")
def memory_that_is_not_of_the_other_kind(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is None:
        return
    other = "image" if bind.what == "buffer" else "buffer"
    owner = int(bind.memory.facts[f"dedicated_{other}"])
    if owner:
        yield site.broken(
            "memory",
            f"is dedicated to the {other} {owner:#x} and takes no {bind.what}.",
            f"Allocate memory for the {bind.what}.",
        )


@rule(*_all("buffer-01038", "image-01050"), stage="state")
def nv_dedicated_memory_for_an_nv_dedicated_resource(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    if bind is None or not bind.resource.facts["dedicated_nv"]:
        return
    owner = int(bind.memory.facts[f"dedicated_{bind.what}_nv"])
    kind = f"Vk{bind.what.capitalize()}"
    theirs = made_with(call.world, kind, owner) if owner else None
    mine = made_with(call.world, kind, bind.resource.value)
    # An owner that is destroyed by now cannot be compared any more.
    if not owner or (theirs is not None and theirs != mine) or bind.offset:
        yield site.broken(
            bind.what,
            "was created for a dedicated allocation of NV's kind, but the memory is "
            + ("dedicated to none." if not owner else "of another one, or the offset is not 0."),
            "Allocate with VkDedicatedAllocationMemoryAllocateInfoNV for it; bind at offset 0.",
        )


@rule(*_all("apiVersion-07920", "apiVersion-07921"), stage="state")
def plain_memory_where_dedication_is_unknown(call: Call, site: Site) -> Findings:
    enabled = call.dispatch.enabled
    if enabled("VK_VERSION_1_1") or enabled("VK_KHR_dedicated_allocation"):
        return
    bind = _bind(call, site)
    if bind is None or bind.resource.facts["dedicated_nv"]:
        return
    dedications = ("dedicated_buffer", "dedicated_image", "dedicated_buffer_nv")
    if any(bind.memory.facts[name] for name in (*dedications, "dedicated_image_nv")):
        yield site.broken(
            "memory",
            f"is dedicated, but the {bind.what} was not created for that.",
            "Enable Vulkan 1.1 or VK_KHR_dedicated_allocation, or allocate without dedication.",
        )


@rule(*_all("buffer-01444", "image-01445"), stage="device")
def dedicated_memory_where_it_is_demanded(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    needs = _needs(call, bind)
    if bind is None or needs is None or not needs.dedicated:
        return
    # NV's dedication is one too: a driver that offers it takes it.
    dedications = (f"dedicated_{bind.what}", f"dedicated_{bind.what}_nv")
    if bind.resource.value not in [int(bind.memory.facts[each]) for each in dedications]:
        yield site.broken(
            "memory",
            f"is not dedicated to this {bind.what}, which the device demands.",
            "Allocate it with VkMemoryDedicatedAllocateInfo.",
        )


# -- what the resource needs ----------------------------------------------------------------------


def _needs(call: Call, bind: _Bind | None) -> Needs | None:
    """What the device wants for the resource; None where planes are bound one by one."""
    if bind is None:
        return None
    handle = bind.resource.value
    if bind.what == "buffer":
        return call.asked.buffer_needs(handle)
    return call.asked.image_needs(handle)


@rule(*_all("memory-01035", "memory-01047", "pNext-01615"), stage="device")
def a_memory_type_that_suits(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    needs = _needs(call, bind)
    if bind is None or needs is None:
        return
    index = bind.memory.facts["type_index"]
    if not needs.types >> index & 1:
        yield site.broken(
            "memory",
            f"is of memory type {index}, but this {bind.what} takes those of the mask "
            f"{needs.types:#x} only.",
            f"Allocate from a type in memoryTypeBits ({_command(bind)}).",
        )


@rule(*_all("None-10739", "None-10735", "pNext-01616"), stage="device")
def an_offset_that_is_aligned(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    needs = _needs(call, bind)
    if bind is not None and needs is not None and bind.offset % (needs.alignment or 1):
        yield site.broken(
            "memoryOffset",
            f"is {bind.offset}; this {bind.what} needs a multiple of {needs.alignment}.",
            f"Use {-(-bind.offset // needs.alignment) * needs.alignment}.",
        )


@rule(*_all("None-10741", "None-10737", "pNext-01617"), stage="device")
def room_up_to_the_end(call: Call, site: Site) -> Findings:
    bind = _bind(call, site)
    needs = _needs(call, bind)
    if bind is None or needs is None or not bind.memory.facts["size"]:
        return
    room = bind.memory.facts["size"] - bind.offset
    if needs.size > room:
        yield site.broken(
            "memoryOffset",
            f"is {bind.offset}, which leaves {room} bytes; this {bind.what} needs {needs.size}.",
            f"Allocate at least {bind.offset + needs.size} bytes ({_command(bind)}).",
        )


def _command(bind: _Bind) -> str:
    return f"vkGet{bind.what.capitalize()}MemoryRequirements"
