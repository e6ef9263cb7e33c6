"""Right calls for buffers, images, their views, and what they are bound to."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.fuzz.calls.gpu import Look
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.memory import allocation_for
from tests.fuzz.calls.pool import Thing
from tests.fuzz.calls.right import right

__all__ = ["usable"]

_FD, _NT, _KMT = 0x1, 0x2, 0x4
_USAGE = int(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
_TEXELS = int(vk.VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT)
_ADDRESS = int(vk.VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT)
_VIEWABLE = int(vk.VK_IMAGE_USAGE_SAMPLED_BIT | vk.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT)
_HOST = int(vk.VK_IMAGE_USAGE_HOST_TRANSFER_BIT)
_MODIFIER = int(vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
_MEMORY = "VkDeviceMemory"


def usable(thing: Thing) -> bool:
    """Whether a resource has memory that is there."""
    return thing.facts["memory"] is not None and not thing.facts["broken"]


# -- buffers and images ----------------------------------------------------------------------------


def _types(hand: Hand) -> int:
    """A handle type for a resource that will be shared; mostly none."""
    if not hand.gpu.minor or hand.dice.odds(0.5):
        return 0
    known = hand.gpu.abilities.buffers
    return hand.dice.any([each for each in (_FD, _NT, _KMT) if known.get(each, 0) & 2]) or 0


def buffer_info(hand: Hand) -> Any:
    dice = hand.dice
    usage = _USAGE | dice.one((0, 0x10, 0x20, 0x80, _TEXELS, _TEXELS))
    if "bufferDeviceAddress" in hand.gpu.features and dice.odds(0.3):
        usage |= _ADDRESS
    types = _types(hand)
    external = vk.VkExternalMemoryBufferCreateInfo(handleTypes=types) if types else None
    size = dice.one((64, 4096, 1 << 16, 1000))
    return vk.VkBufferCreateInfo(size=size, usage=usage, pNext=external)


@right("vkCreateBuffer")
def create_buffer(hand: Hand) -> Call:
    return Call("vkCreateBuffer", [hand.gpu.device, buffer_info(hand)])


def image_info(hand: Hand, look: Look) -> Any:
    dice, chain = hand.dice, []
    foreign = hand.embedded and hand.gpu.minor and dice.odds(0.15)
    types = dice.one((0x8, 0x10, 0x40)) if foreign and look == Look() else _types(hand)
    if look.tiling == _MODIFIER:
        chain.append(vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[0]))
        types = 0
    if types and look.samples == 1:
        chain.append(vk.VkExternalMemoryImageCreateInfo(handleTypes=types))
    return vk.VkImageCreateInfo(
        flags=look.flags,
        imageType=look.type,
        format=look.format,
        extent=vk.VkExtent3D(*look.extent),
        mipLevels=look.levels,
        arrayLayers=look.layers,
        samples=look.samples,
        tiling=look.tiling,
        usage=look.usage,
        pNext=vk.link(*chain) if chain else None,
    )


@right("vkCreateImage")
def create_image(hand: Hand) -> Call:
    look = hand.dice.one(hand.gpu.abilities.looks)
    return Call("vkCreateImage", [hand.gpu.device, image_info(hand, look)])


def _destroys(name: str, kind: str) -> None:
    def make(hand: Hand) -> Call | None:
        thing = hand.dice.any(hand.pool.those(kind, hand.free))
        if thing is None:
            return None
        return Call(name, [hand.gpu.device, thing.handle if hand.dice.odds(0.98) else None])

    right(name)(make)


for _kind in ("Buffer", "Image", "BufferView", "ImageView", "Semaphore", "Fence", "Event"):
    _destroys(f"vkDestroy{_kind}", f"Vk{_kind}")


# -- views ----------------------------------------------------------------------------------------


@right("vkCreateBufferView")
def buffer_view(hand: Hand) -> Call | None:
    found = hand.pool.those("VkBuffer", lambda x: usable(x) and x.facts["usage"] & _TEXELS != 0)
    buffer = hand.dice.any(found)
    if buffer is None:
        return bind(hand, "VkBuffer")
    info = vk.VkBufferViewCreateInfo(
        buffer=buffer.handle, format=vk.VK_FORMAT_R8G8B8A8_UNORM, offset=0, range=64
    )
    return Call("vkCreateBufferView", [hand.gpu.device, info])


@right("vkCreateImageView")
def image_view(hand: Hand) -> Call | None:
    image = hand.dice.any(
        hand.pool.those(
            "VkImage",
            lambda x: (
                usable(x) and x.facts["usage"] & _VIEWABLE != 0 and x.facts["look"] is not None
            ),
        )
    )
    if image is None:
        return bind(hand, "VkImage")
    look: Look = image.facts["look"]
    info = vk.VkImageViewCreateInfo(
        image=image.handle,
        viewType=look.type,
        format=look.format,
        subresourceRange=vk.VkImageSubresourceRange(look.aspect, 0, look.levels, 0, 1),
    )
    return Call("vkCreateImageView", [hand.gpu.device, info])


# -- requirements ---------------------------------------------------------------------------------


def _requirements(kind: str) -> None:
    name = f"vkGet{kind}MemoryRequirements"
    info_of = getattr(vk, f"Vk{kind}MemoryRequirementsInfo2")

    @right(name)
    def ask(hand: Hand) -> Call | None:
        thing = hand.pool.any(hand.dice, f"Vk{kind}")
        return Call(name, [hand.gpu.device, thing]) if thing else None

    @right(name + "2")
    def ask_2(hand: Hand) -> Call | None:
        thing = hand.pool.any(hand.dice, f"Vk{kind}")
        if not thing:
            return None
        arguments = [hand.gpu.device, info_of(**{kind.lower(): thing})]
        if hand.dice.odds(0.5):
            arguments.append(vk.VkMemoryRequirements2(pNext=vk.VkMemoryDedicatedRequirements()))
        return Call(name + "2", arguments)


_requirements("Buffer")
_requirements("Image")


@right("vkGetImageSparseMemoryRequirements")
def sparse(hand: Hand) -> Call | None:
    image = hand.pool.any(hand.dice, "VkImage")
    return Call("vkGetImageSparseMemoryRequirements", [hand.gpu.device, image]) if image else None


@right("vkGetImageSparseMemoryRequirements2")
def sparse_2(hand: Hand) -> Call | None:
    image = hand.pool.any(hand.dice, "VkImage")
    if not image:
        return None
    info = vk.VkImageSparseMemoryRequirementsInfo2(image=image)
    return Call("vkGetImageSparseMemoryRequirements2", [hand.gpu.device, info])


@right("vkGetDeviceBufferMemoryRequirements")
def of_no_buffer_yet(hand: Hand) -> Call:
    info = vk.VkDeviceBufferMemoryRequirements(pCreateInfo=buffer_info(hand))
    return Call("vkGetDeviceBufferMemoryRequirements", [hand.gpu.device, info])


@right("vkGetDeviceImageMemoryRequirements", "vkGetDeviceImageSparseMemoryRequirements")
def of_no_image_yet(hand: Hand) -> Call:
    looks = [each for each in hand.gpu.abilities.looks if each.tiling != _MODIFIER]
    info = vk.VkDeviceImageMemoryRequirements(pCreateInfo=image_info(hand, hand.dice.one(looks)))
    sparse = hand.dice.odds(0.3)
    what = "SparseMemoryRequirements" if sparse else "MemoryRequirements"
    return Call(f"vkGetDeviceImage{what}", [hand.gpu.device, info])


# -- layouts in memory -----------------------------------------------------------------------------


@right("vkGetImageSubresourceLayout", "vkGetImageSubresourceLayout2")
def subresource_layout(hand: Hand) -> Call | None:
    # SwiftShader looks at the memory that an image was bound to, also when that is gone.
    found = hand.pool.those("VkImage", lambda x: x.facts["tiling"] == 1 and not x.facts["broken"])
    image = hand.dice.any(found)
    if image is None:
        return None
    place = vk.VkImageSubresource(1, 0, 0)
    if hand.gpu.has("vkGetImageSubresourceLayout2") and hand.dice.odds(0.5):
        place_2 = vk.VkImageSubresource2(imageSubresource=place)
        return Call("vkGetImageSubresourceLayout2", [hand.gpu.device, image.handle, place_2])
    return Call("vkGetImageSubresourceLayout", [hand.gpu.device, image.handle, place])


@right("vkGetDeviceImageSubresourceLayout")
def layout_of_no_image_yet(hand: Hand) -> Call:
    look = Look(tiling=1, usage=3)
    place = vk.VkImageSubresource2(imageSubresource=vk.VkImageSubresource(1, 0, 0))
    info = vk.VkDeviceImageSubresourceInfo(pCreateInfo=image_info(hand, look), pSubresource=place)
    return Call("vkGetDeviceImageSubresourceLayout", [hand.gpu.device, info])


@right("vkGetImageDrmFormatModifierPropertiesEXT")
def modifier(hand: Hand) -> Call | None:
    image = hand.dice.any(hand.pool.those("VkImage", lambda x: x.facts["tiling"] == _MODIFIER))
    if image is None:
        return None
    return Call("vkGetImageDrmFormatModifierPropertiesEXT", [hand.gpu.device, image.handle])


# -- addresses -------------------------------------------------------------------------------------


@right("vkGetBufferDeviceAddress", "vkGetBufferOpaqueCaptureAddress")
def device_address(hand: Hand) -> Call | None:
    found = hand.pool.those("VkBuffer", lambda x: usable(x) and x.facts["address"])
    buffer = hand.dice.any(found)
    if buffer is None:
        return bind(hand, "VkBuffer")
    info = vk.VkBufferDeviceAddressInfo(buffer=buffer.handle)
    name = hand.dice.one(("vkGetBufferDeviceAddress", "vkGetBufferOpaqueCaptureAddress"))
    return Call(name, [hand.gpu.device, info])


# -- bind -----------------------------------------------------------------------------------------


def bind(hand: Hand, kind: str) -> Call | None:
    """Bind a resource of a kind, or do first what has to be done before."""
    dice, pool, short = hand.dice, hand.pool, kind.removeprefix("Vk")
    unbound = pool.those(kind, lambda x: x.facts["memory"] is None and not x.facts["broken"])
    resource = dice.any(unbound)
    if resource is None:
        return create_buffer(hand) if kind == "VkBuffer" else create_image(hand)
    needs = resource.facts["needs"]
    if needs is None:
        return Call(f"vkGet{short}MemoryRequirements", [hand.gpu.device, resource.handle])
    memory = dice.any(pool.those(_MEMORY, lambda x: _fits(x, resource)))
    if memory is None:
        return allocation_for(hand, resource)
    offset = 0
    room = memory.facts["size"] - int(needs.size)
    if room >= int(needs.alignment) and dice.odds(0.3) and memory.facts["dedicated"] is None:
        offset = int(needs.alignment)
    if hand.gpu.has(f"vkBind{short}Memory2") and dice.odds(0.5):
        cls = getattr(vk, f"VkBind{short}MemoryInfo")
        member = short.lower()
        info = cls(**{member: resource.handle}, memory=memory.handle, memoryOffset=offset)
        return Call(f"vkBind{short}Memory2", [hand.gpu.device, 1, [info]])
    arguments = [hand.gpu.device, resource.handle, memory.handle, offset]
    return Call(f"vkBind{short}Memory", arguments)


def _fits(memory: Thing, resource: Thing) -> bool:
    facts, other = memory.facts, resource.facts
    needs = other["needs"]
    types = facts["export"] | facts["imported"]
    return (
        int(needs.memoryTypeBits) >> facts["index"] & 1 == 1
        and facts["size"] >= int(needs.size)
        and (facts["dedicated"] is None or facts["dedicated"] == int(resource.handle))
        and (types & other["types"] != 0 or not types)
        and not facts["export_nv"]
        and (facts["address"] or not other["address"])
        and (other["types"] in (0, _FD, _NT, _KMT) or facts["imported"] == other["types"])
    )


@right("vkBindBufferMemory", "vkBindBufferMemory2")
def bind_buffer(hand: Hand) -> Call | None:
    return bind(hand, "VkBuffer")


@right("vkBindImageMemory", "vkBindImageMemory2")
def bind_image(hand: Hand) -> Call | None:
    return bind(hand, "VkImage")


# -- copies by the host ----------------------------------------------------------------------------


def _for_the_host(hand: Hand) -> Thing | None:
    return hand.dice.any(
        hand.pool.those("VkImage", lambda x: usable(x) and x.facts["usage"] & _HOST != 0)
    )


@right(
    "vkTransitionImageLayout", "vkCopyMemoryToImage", "vkCopyImageToMemory", "vkCopyImageToImage"
)
def host_copy(hand: Hand) -> Call | None:
    image = _for_the_host(hand)
    if image is None:
        return bind(hand, "VkImage")
    device, look = hand.gpu.device, image.facts["look"]
    layers = vk.VkImageSubresourceLayers(1, 0, 0, 1)
    extent = vk.VkExtent3D(*look.extent)
    if not image.facts["general"]:
        move = vk.VkHostImageLayoutTransitionInfo(
            image=image.handle,
            newLayout=_GENERAL,
            subresourceRange=vk.VkImageSubresourceRange(1, 0, 1, 0, 1),
        )
        return Call("vkTransitionImageLayout", [device, 1, [move]])
    roll, good = hand.dice.random(), hand.furniture.good
    if roll < 0.4:
        to = vk.VkMemoryToImageCopy(pHostPointer=good, imageSubresource=layers, imageExtent=extent)
        info: Any = vk.VkCopyMemoryToImageInfo(
            dstImage=image.handle, dstImageLayout=_GENERAL, pRegions=[to]
        )
        return Call("vkCopyMemoryToImage", [device, info])
    if roll < 0.7:
        out = vk.VkImageToMemoryCopy(pHostPointer=good, imageSubresource=layers, imageExtent=extent)
        info = vk.VkCopyImageToMemoryInfo(
            srcImage=image.handle, srcImageLayout=_GENERAL, pRegions=[out]
        )
        return Call("vkCopyImageToMemory", [device, info])
    other = _for_the_host(hand)
    if other is None or other is image or not other.facts["general"]:
        return None
    region = vk.VkImageCopy2(srcSubresource=layers, dstSubresource=layers, extent=extent)
    info = vk.VkCopyImageToImageInfo(
        srcImage=image.handle,
        srcImageLayout=_GENERAL,
        dstImage=other.handle,
        dstImageLayout=_GENERAL,
        pRegions=[region],
    )
    return Call("vkCopyImageToImage", [device, info])
