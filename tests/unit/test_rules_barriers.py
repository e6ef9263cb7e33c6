"""Rules for barriers that hand resources from one owner to another: each broken and kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from tests.support.sync_side import SyncSide

IGNORED = int(vk.VK_QUEUE_FAMILY_IGNORED)
EXTERNAL = int(vk.VK_QUEUE_FAMILY_EXTERNAL)
FOREIGN = int(vk.VK_QUEUE_FAMILY_FOREIGN_EXT)
GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
UNDEFINED = int(vk.VK_IMAGE_LAYOUT_UNDEFINED)
SOURCE = int(vk.VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL)
NOBODY = 77  # no device has so many families

WAYS = [(kind, newer) for kind in ("buffer", "image") for newer in (False, True)]


class Barriers(SyncSide):
    """A device with a command buffer in which barriers are not executed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("vkCmdPipelineBarrier", "vkCmdPipelineBarrier2", "vkCmdWaitEvents"):
            self.pretend(name)
        self.recording = self.commands()

    def resource(self, kind: str, sharing: int = 0) -> Any:
        if kind == "buffer":
            info: Any = vk.VkBufferCreateInfo(size=4096, usage=1)
            made: Any = vk.vkCreateBuffer(self.device, info)
        else:
            info = vk.VkImageCreateInfo(
                imageType=vk.VK_IMAGE_TYPE_2D,
                format=vk.VK_FORMAT_R8G8B8A8_UNORM,
                extent=(8, 8, 1),
                mipLevels=1,
                arrayLayers=1,
                samples=vk.VK_SAMPLE_COUNT_1_BIT,
                usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
            )
            made = vk.vkCreateImage(self.device, info)
        self.facts(made)["sharing"] = sharing  # the embedded device may have one family
        return made

    def barrier(
        self,
        kind: str,
        newer: bool,
        resource: Any,
        families: tuple[int, int],
        layouts: tuple[int, int] = (GENERAL, GENERAL),
        also: Any = None,
    ) -> tuple[Any, ...]:
        """The call that records it."""
        members: dict[str, Any] = {
            "srcQueueFamilyIndex": families[0],
            "dstQueueFamilyIndex": families[1],
            kind: resource,
            "pNext": also,
        }
        if kind == "buffer":
            members["size"] = vk.VK_WHOLE_SIZE
        else:
            members["oldLayout"], members["newLayout"] = layouts
            members["subresourceRange"] = vk.VkImageSubresourceRange(
                aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
            )
        name = f"Vk{kind.capitalize()}MemoryBarrier{'2' if newer else ''}"
        made = getattr(vk, name)(**members)
        plural = f"p{kind.capitalize()}MemoryBarriers"
        if newer:
            info = vk.VkDependencyInfo(**{plural: [made]})
            return vk.vkCmdPipelineBarrier2, self.recording, info
        copying = vk.VK_PIPELINE_STAGE_TRANSFER_BIT
        arrays = (1, [made], 0, None) if kind == "buffer" else (0, None, 1, [made])
        return vk.vkCmdPipelineBarrier, self.recording, copying, copying, 0, 0, None, *arrays

    def keeps(self, *call: Any) -> None:
        command, *arguments = call
        command(*arguments)


@pytest.fixture
def gpu() -> Iterator[Barriers]:
    with Barriers() as made:
        yield made


def named(kind: str, newer: bool, rule: str) -> str:
    return f"VUID-Vk{kind.capitalize()}MemoryBarrier{'2' if newer else ''}-{rule}"


def transfer(newer: bool) -> str:
    """The rule that a pool's family is one of the two."""
    if newer:
        return "VUID-vkCmdPipelineBarrier2-srcQueueFamilyIndex-10387"
    return "VUID-vkCmdPipelineBarrier-srcQueueFamilyIndex-10388"


@pytest.mark.parametrize(("kind", "newer"), WAYS)
def test_families_that_can_own_it(gpu: Barriers, kind: str, newer: bool) -> None:
    resource = gpu.resource(kind)
    source = named(kind, newer, "buffer-09095" if kind == "buffer" else "image-09117")
    target = named(kind, newer, "buffer-09096" if kind == "buffer" else "image-09118")
    for wrong in (NOBODY, IGNORED):
        gpu.breaks(source, *gpu.barrier(kind, newer, resource, (wrong, 0)))
        gpu.breaks(target, *gpu.barrier(kind, newer, resource, (0, wrong)))
    for kept in ((0, EXTERNAL), (EXTERNAL, 0), (0, 0), (IGNORED, IGNORED)):
        gpu.keeps(*gpu.barrier(kind, newer, resource, kept))


@pytest.mark.parametrize(("kind", "newer"), WAYS)
def test_external_where_it_is_known(kind: str, newer: bool) -> None:
    with Barriers(version=vk.VK_API_VERSION_1_0, timeline=False) as old:
        # The newer barriers are there by an extension, on an instance of 1.0 as well.
        if newer:
            old.dispatch.extensions |= {"VK_KHR_synchronization2"}
        old.dispatch.extensions -= {"VK_KHR_external_memory"}
        resource = old.resource(kind)
        source, target = named(kind, newer, "None-09097"), named(kind, newer, "None-09098")
        old.breaks(source, *old.barrier(kind, newer, resource, (EXTERNAL, 0)))
        old.breaks(target, *old.barrier(kind, newer, resource, (0, EXTERNAL)))
        old.keeps(*old.barrier(kind, newer, resource, (IGNORED, IGNORED)))
        old.dispatch.extensions |= {"VK_KHR_external_memory"}
        old.keeps(*old.barrier(kind, newer, resource, (0, EXTERNAL)))


@pytest.mark.parametrize(("kind", "newer"), WAYS)
def test_foreign_where_it_is_known(gpu: Barriers, kind: str, newer: bool) -> None:
    extension = "VK_EXT_queue_family_foreign"
    resource = gpu.resource(kind)
    source = named(kind, newer, "srcQueueFamilyIndex-09099")
    target = named(kind, newer, "dstQueueFamilyIndex-09100")
    gpu.dispatch.extensions -= {extension}
    gpu.breaks(source, *gpu.barrier(kind, newer, resource, (FOREIGN, 0)))
    gpu.breaks(target, *gpu.barrier(kind, newer, resource, (0, FOREIGN)))
    gpu.dispatch.extensions |= {extension}
    gpu.keeps(*gpu.barrier(kind, newer, resource, (FOREIGN, 0)))
    gpu.keeps(*gpu.barrier(kind, newer, resource, (0, FOREIGN)))


@pytest.mark.parametrize("kind", ["buffer", "image"])
def test_concurrent_resources(gpu: Barriers, kind: str) -> None:
    gpu.dispatch.extensions |= {"VK_EXT_queue_family_foreign"}
    resource = gpu.resource(kind, int(vk.VK_SHARING_MODE_CONCURRENT))
    numbers = ("09049", "09050", "09051") if kind == "buffer" else ("09052", "09053", "09054")
    both, source, target = (named(kind, False, f"None-{number}") for number in numbers)
    gpu.breaks(both, *gpu.barrier(kind, False, resource, (EXTERNAL, EXTERNAL)))
    gpu.breaks({both, source}, *gpu.barrier(kind, False, resource, (0, EXTERNAL)))
    gpu.breaks({both, target}, *gpu.barrier(kind, False, resource, (EXTERNAL, 0)))
    gpu.breaks(target, *gpu.barrier(kind, False, resource, (IGNORED, FOREIGN)))
    gpu.breaks(source, *gpu.barrier(kind, False, resource, (FOREIGN, IGNORED)))
    for kept in ((IGNORED, EXTERNAL), (EXTERNAL, IGNORED), (IGNORED, IGNORED)):
        gpu.keeps(*gpu.barrier(kind, False, resource, kept))
        gpu.keeps(*gpu.barrier(kind, True, resource, kept))
    with Barriers(synchronization2=True) as newer:
        newer.dispatch.extensions |= {"VK_EXT_queue_family_foreign"}
        resource = newer.resource(kind, int(vk.VK_SHARING_MODE_CONCURRENT))
        for kept in ((0, EXTERNAL), (IGNORED, FOREIGN)):
            newer.keeps(*newer.barrier(kind, False, resource, kept))


@pytest.mark.parametrize(("kind", "newer"), WAYS)
def test_transfers_by_one_of_the_families(
    gpu: Barriers, kind: str, newer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extmem.vk.queries import Queries

    monkeypatch.setattr(Queries, "queue_families", lambda self: 3)
    resource = gpu.resource(kind)
    for families in ((1, EXTERNAL), (EXTERNAL, 2), (1, 2)):
        gpu.breaks(transfer(newer), *gpu.barrier(kind, newer, resource, families))
    for kept in ((0, EXTERNAL), (EXTERNAL, 0), (0, 2), (1, 0), (1, 1), (IGNORED, IGNORED)):
        gpu.keeps(*gpu.barrier(kind, newer, resource, kept))
    shared = gpu.resource(kind, int(vk.VK_SHARING_MODE_CONCURRENT))
    gpu.keeps(*gpu.barrier(kind, newer, shared, (IGNORED, EXTERNAL)))


# -- images of Direct3D 11 ------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [{"import": 8}, {"import": 16}, {"import_nv": 4}])
def test_textures_are_general_outside(gpu: Barriers, facts: dict[str, int]) -> None:
    released = "VUID-VkImageMemoryBarrier-dstQueueFamilyIndex-12331"
    acquired = "VUID-VkImageMemoryBarrier-srcQueueFamilyIndex-12332"
    texture, plain = gpu.resource("image"), gpu.resource("image")
    info = vk.VkMemoryAllocateInfo(allocationSize=65536, memoryTypeIndex=1)
    for image, said in ((texture, facts), (plain, {"import": 2})):
        memory = vk.vkAllocateMemory(gpu.device, info)
        gpu.facts(memory).update(said)
        gpu.facts(image)["bound"] = gpu.dispatch.world.find("VkDeviceMemory", int(memory))

    def out(image: Any, new: int, families: tuple[int, int] = (0, EXTERNAL)) -> tuple[Any, ...]:
        return gpu.barrier("image", False, image, families, (SOURCE, new))

    def back(image: Any, old: int, families: tuple[int, int] = (EXTERNAL, 0)) -> tuple[Any, ...]:
        return gpu.barrier("image", False, image, families, (old, GENERAL))

    gpu.breaks(released, *out(texture, SOURCE))
    gpu.breaks(acquired, *back(texture, SOURCE))
    gpu.keeps(*out(texture, GENERAL))
    gpu.keeps(*back(texture, GENERAL))
    gpu.keeps(*back(texture, UNDEFINED))
    gpu.keeps(*out(texture, SOURCE, (IGNORED, IGNORED)))
    gpu.keeps(*out(plain, SOURCE))
    gpu.keeps(*back(plain, SOURCE))


def test_images_without_memory_say_nothing(gpu: Barriers) -> None:
    image = gpu.resource("image")
    gpu.keeps(*gpu.barrier("image", False, image, (0, EXTERNAL), (SOURCE, SOURCE)))


# -- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["buffer", "image"])
def test_events_transfer_nothing(gpu: Barriers, kind: str) -> None:
    vuid = "VUID-vkCmdWaitEvents-srcQueueFamilyIndex-02803"
    resource = gpu.resource(kind)
    event = vk.vkCreateEvent(gpu.device, vk.VkEventCreateInfo())

    def waiting(families: tuple[int, int]) -> tuple[Any, ...]:
        _, recording, source, target, _, *arrays = gpu.barrier(kind, False, resource, families)
        return vk.vkCmdWaitEvents, recording, 1, [event], source, target, *arrays

    gpu.breaks(vuid, *waiting((0, EXTERNAL)))
    for kept in ((IGNORED, IGNORED), (0, 0)):
        gpu.keeps(*waiting(kept))


# -- what is only claimed -------------------------------------------------------------------------


def test_that_nobody_wrote_is_believed(gpu: Barriers) -> None:
    """VUID-VkExternalMemoryAcquireUnmodifiedEXT-acquireUnmodifiedMemory-08922: nobody can know."""
    gpu.dispatch.extensions |= {"VK_EXT_external_memory_acquire_unmodified"}
    claim = vk.VkExternalMemoryAcquireUnmodifiedEXT(acquireUnmodifiedMemory=1)
    resource = gpu.resource("buffer")
    gpu.keeps(*gpu.barrier("buffer", False, resource, (EXTERNAL, 0), also=claim))
