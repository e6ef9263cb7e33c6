"""Command buffers: recorded and run at the wrong time; barriers over what is not there."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import SIZE

_GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
_TOP = int(vk.VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT)


# -- pools and buffers ----------------------------------------------------------------------------


@trap("VUID-vkCreateCommandPool-queueFamilyIndex-01937")
def pool_of_a_family_that_is_not_there(here: Scene) -> None:
    vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo(queueFamilyIndex=99))


@trap("VUID-VkCommandPoolCreateInfo-flags-parameter")
def pool_with_flags_that_nobody_knows(here: Scene) -> None:
    vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo(flags=1 << 20))


@trap("VUID-VkCommandBufferAllocateInfo-commandPool-parameter")
def commands_without_a_pool(here: Scene) -> None:
    info = vk.VkCommandBufferAllocateInfo(commandBufferCount=1)
    vk.vkAllocateCommandBuffers(here.device, info)


@trap("VUID-VkCommandBufferAllocateInfo-level-parameter")
def commands_of_a_level_that_nobody_knows(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, level=8, commandBufferCount=1)
    vk.vkAllocateCommandBuffers(here.device, info)


@trap("VUID-vkAllocateCommandBuffers-pAllocateInfo::commandBufferCount-arraylength")
def no_commands_at_all(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    vk.vkAllocateCommandBuffers(
        here.device, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=0)
    )


@trap("VUID-vkBeginCommandBuffer-commandBuffer-parameter")
def commands_of_a_destroyed_pool(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    (commands,) = vk.vkAllocateCommandBuffers(here.device, info)
    vk.vkDestroyCommandPool(here.device, pool)
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())


@trap("VUID-vkFreeCommandBuffers-pCommandBuffers-00048")
def freed_commands_that_are_not_there(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    vk.vkFreeCommandBuffers(here.device, pool, 1, None)


@trap("VUID-vkCmdFillBuffer-commandBuffer-parameter")
def commands_that_were_freed(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    (commands,) = vk.vkAllocateCommandBuffers(here.device, info)
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    vk.vkFreeCommandBuffers(here.device, pool, 1, [commands])
    vk.vkCmdFillBuffer(commands, here.bound(), 0, 64, 0)


@trap("VUID-vkDestroyCommandPool-commandPool-parameter")
def pool_destroyed_twice(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    vk.vkDestroyCommandPool(here.device, pool)
    vk.vkDestroyCommandPool(here.device, pool)


@trap("VUID-vkFreeCommandBuffers-commandPool-parameter")
def commands_freed_without_a_pool(here: Scene) -> None:
    vk.vkFreeCommandBuffers(here.device, None, 1, [here.commands()])


@trap("VUID-vkFreeCommandBuffers-pCommandBuffers-parent")
def commands_freed_from_another_pool(here: Scene) -> None:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    vk.vkFreeCommandBuffers(here.device, pool, 1, [here.commands()])


# -- at the wrong time ----------------------------------------------------------------------------


@trap("VUID-vkCmdFillBuffer-commandBuffer-recording")
def command_before_the_beginning(here: Scene) -> None:
    vk.vkCmdFillBuffer(here.commands(begun=False), here.bound(), 0, 64, 0)


@trap("VUID-vkCmdFillBuffer-commandBuffer-recording")
def command_after_the_end(here: Scene) -> None:
    commands = here.ended(here.commands())
    vk.vkCmdFillBuffer(commands, here.bound(), 0, 64, 0)


@trap("VUID-vkEndCommandBuffer-commandBuffer-00059")
def end_before_the_beginning(here: Scene) -> None:
    vk.vkEndCommandBuffer(here.commands(begun=False))


@trap("VUID-vkEndCommandBuffer-commandBuffer-00059")
def end_after_the_end(here: Scene) -> None:
    vk.vkEndCommandBuffer(here.ended(here.commands()))


@trap("VUID-vkBeginCommandBuffer-commandBuffer-00049")
def beginning_after_the_beginning(here: Scene) -> None:
    vk.vkBeginCommandBuffer(here.commands(), vk.VkCommandBufferBeginInfo())


@trap("VUID-vkBeginCommandBuffer-commandBuffer-00051")
def secondary_commands_that_inherit_nothing(here: Scene) -> None:
    vk.vkBeginCommandBuffer(_secondary(here), vk.VkCommandBufferBeginInfo())


@trap("VUID-vkBeginCommandBuffer-pBeginInfo-parameter")
def beginning_by_no_structure(here: Scene) -> None:
    vk.vkBeginCommandBuffer(here.commands(begun=False), None)  # type: ignore[arg-type]


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def submission_of_what_is_still_recorded(here: Scene) -> None:
    here.submit(here.commands())


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def submission_of_what_was_never_begun(here: Scene) -> None:
    here.submit(here.commands(begun=False))


def _secondary(here: Scene) -> Any:
    pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo())
    info = vk.VkCommandBufferAllocateInfo(
        commandPool=pool, level=vk.VK_COMMAND_BUFFER_LEVEL_SECONDARY, commandBufferCount=1
    )
    return vk.vkAllocateCommandBuffers(here.device, info)[0]


def _recorded_secondary(here: Scene) -> Any:
    commands = _secondary(here)
    inherited = vk.VkCommandBufferInheritanceInfo()
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(pInheritanceInfo=inherited))
    vk.vkEndCommandBuffer(commands)
    return commands


@trap("VUID-VkSubmitInfo-pCommandBuffers-00075")
def submission_of_secondary_commands(here: Scene) -> None:
    here.submit(_recorded_secondary(here))


@trap("VUID-vkCmdExecuteCommands-pCommandBuffers-00088")
def execution_of_primary_commands(here: Scene) -> None:
    inner = here.ended(here.commands())
    commands = here.commands()
    vk.vkCmdExecuteCommands(commands, 1, [inner])
    vk.vkEndCommandBuffer(commands)


@trap("VUID-vkCmdExecuteCommands-pCommandBuffers-00089")
def execution_of_what_was_never_recorded(here: Scene) -> None:
    commands = here.commands()
    vk.vkCmdExecuteCommands(commands, 1, [_secondary(here)])
    vk.vkEndCommandBuffer(commands)


@trap("VUID-vkCmdExecuteCommands-pCommandBuffers-parameter")
def execution_of_nothing(here: Scene) -> None:
    vk.vkCmdExecuteCommands(here.commands(), 1, [0])


# -- barriers -------------------------------------------------------------------------------------


def _barrier(here: Scene, buffers: Any = None, images: Any = None) -> None:
    commands = here.commands()
    vk.vkCmdPipelineBarrier(
        commands, _TOP, _TOP, 0, 0, None, len(buffers or ()), buffers, len(images or ()), images
    )
    here.submit(here.ended(commands))


_IGNORED = int(vk.VK_QUEUE_FAMILY_IGNORED)


def _buffer_barrier(here: Scene, **members: Any) -> None:
    usual = {"srcQueueFamilyIndex": _IGNORED, "dstQueueFamilyIndex": _IGNORED, "size": 64}
    if "buffer" not in members:
        usual["buffer"] = here.bound()
    _barrier(here, buffers=[vk.VkBufferMemoryBarrier(**{**usual, **members})])


def _image_barrier(here: Scene, **members: Any) -> None:
    usual: dict[str, Any] = {
        "newLayout": _GENERAL,
        "srcQueueFamilyIndex": _IGNORED,
        "dstQueueFamilyIndex": _IGNORED,
        "subresourceRange": vk.VkImageSubresourceRange(1, 0, 1, 0, 1),
    }
    if "image" not in members:
        usual["image"] = here.picture()
    _barrier(here, images=[vk.VkImageMemoryBarrier(**{**usual, **members})])


@trap("VUID-VkBufferMemoryBarrier-buffer-parameter")
def barrier_for_no_buffer(here: Scene) -> None:
    _buffer_barrier(here, buffer=None)


@trap("VUID-VkBufferMemoryBarrier-offset-01187")
def barrier_behind_the_end(here: Scene) -> None:
    _buffer_barrier(here, offset=1 << 40)


@trap("VUID-VkBufferMemoryBarrier-size-01189")
def barrier_over_the_end(here: Scene) -> None:
    _buffer_barrier(here, offset=SIZE - 32, size=64)


@trap("VUID-vkCmdPipelineBarrier-srcQueueFamilyIndex-10388")
def barrier_between_families_that_are_not_there(here: Scene) -> None:
    _buffer_barrier(here, srcQueueFamilyIndex=77, dstQueueFamilyIndex=78)


@trap("VUID-VkImageMemoryBarrier-image-parameter")
def barrier_for_a_destroyed_image(here: Scene) -> None:
    gone = here.image()
    vk.vkDestroyImage(here.device, gone)
    _image_barrier(here, image=gone)


@trap("VUID-VkImageMemoryBarrier-newLayout-01198")
def barrier_into_no_layout(here: Scene) -> None:
    _image_barrier(here, oldLayout=_GENERAL, newLayout=0)


@trap("VUID-VkImageMemoryBarrier-newLayout-parameter")
def barrier_into_a_layout_that_nobody_knows(here: Scene) -> None:
    _image_barrier(here, newLayout=424242)


@trap("VUID-VkImageMemoryBarrier-subresourceRange-01486")
def barrier_for_level_99(here: Scene) -> None:
    _image_barrier(here, subresourceRange=vk.VkImageSubresourceRange(1, 99, 1, 0, 1))


@trap("VUID-VkImageMemoryBarrier-subresourceRange-01725")
def barrier_for_more_layers_than_there_are(here: Scene) -> None:
    _image_barrier(here, subresourceRange=vk.VkImageSubresourceRange(1, 0, 1, 0, 4096))


@trap("VUID-VkImageSubresourceRange-aspectMask-requiredbitmask")
def barrier_for_no_aspect(here: Scene) -> None:
    _image_barrier(here, subresourceRange=vk.VkImageSubresourceRange(0, 0, 1, 0, 1))


@trap("VUID-vkCmdPipelineBarrier-srcStageMask-parameter")
def barrier_of_stages_that_nobody_knows(here: Scene) -> None:
    vk.vkCmdPipelineBarrier(here.commands(), 0x80000000, _TOP, 0, 0, None, 0, None, 0, None)


@trap("VUID-vkCmdPipelineBarrier2-pDependencyInfo-parameter", needs="vkCmdPipelineBarrier2")
def barrier_by_no_structure(here: Scene) -> None:
    vk.vkCmdPipelineBarrier2(here.commands(), None)  # type: ignore[arg-type]


@trap("VUID-vkCmdWaitEvents-pEvents-parameter", needs="vkCmdWaitEvents")
def wait_for_an_event_that_was_never_made(here: Scene) -> None:
    vk.vkCmdWaitEvents(here.commands(), 1, [0xABCD], _TOP, _TOP, 0, None, 0, None, 0, None)
