"""Rules for when command buffers are recorded and run.

They belong to Vulkan at large and not to external memory. But drivers do not look, and those that
have nothing behind a command buffer's pointer end the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _prototypes
from extmem.vk._prototype import Prototype
from extmem.vk.record_commands import EXECUTABLE, INITIAL, RECORDING
from extmem.world import Record

_RECORDED = tuple(
    name
    for name, each in vars(_prototypes).items()
    if isinstance(each, Prototype) and name == each.name and name.startswith("vkCmd")
)
_STATES = {
    INITIAL: "was not begun",
    RECORDING: "is being recorded",
    EXECUTABLE: "was recorded to its end",
}


def _commands(call: Call, value: object) -> Record | None:
    return call.world.find("VkCommandBuffer", int(value or 0))  # type: ignore[call-overload]


def _is(record: Record) -> str:
    state = record.facts["state"]
    return _STATES.get(state, f"cannot be used again: {state}")


# -- recording ------------------------------------------------------------------------------------


@rule(*(f"VUID-{name}-commandBuffer-recording" for name in _RECORDED), stage="state")
def recorded_between_beginning_and_end(call: Call, site: Site) -> Findings:
    commands = _commands(call, site.value("commandBuffer"))
    if commands is not None and commands.facts["state"] != RECORDING:
        yield site.broken(
            "commandBuffer",
            f"{_is(commands)}.",
            "Record between vkBeginCommandBuffer and vkEndCommandBuffer.",
        )


@rule("VUID-vkEndCommandBuffer-commandBuffer-00059", stage="state")
def ended_once_it_was_begun(call: Call, site: Site) -> Findings:
    commands = _commands(call, site.value("commandBuffer"))
    if commands is not None and commands.facts["state"] != RECORDING:
        yield site.broken("commandBuffer", f"{_is(commands)}.", "Call vkBeginCommandBuffer first.")


@rule("VUID-vkBeginCommandBuffer-commandBuffer-00049", stage="state")
def begun_once(call: Call, site: Site) -> Findings:
    commands = _commands(call, site.value("commandBuffer"))
    if commands is not None and commands.facts["state"] == RECORDING:
        yield site.broken(
            "commandBuffer", "is being recorded already.", "Call vkEndCommandBuffer first."
        )


@rule("VUID-vkBeginCommandBuffer-commandBuffer-00051", stage="state")
def secondary_commands_inherit(call: Call, site: Site) -> Findings:
    commands = _commands(call, site.value("commandBuffer"))
    if (
        commands is not None
        and commands.facts["level"]
        and not site.value("pBeginInfo").pInheritanceInfo
    ):
        yield site.broken(
            "pBeginInfo",
            "has no pInheritanceInfo, which secondary command buffers need.",
            "Point it to a VkCommandBufferInheritanceInfo.",
        )


@rule(
    "VUID-vkAllocateCommandBuffers-pAllocateInfo::commandBufferCount-arraylength",
    stage="arguments",
)
def at_least_one_command_buffer(call: Call, site: Site) -> Findings:
    if not site.value("pAllocateInfo").commandBufferCount:
        yield site.broken("pAllocateInfo", "commandBufferCount is 0.", "Allocate at least one.")


@rule("VUID-vkFreeCommandBuffers-pCommandBuffers-00048", stage="arguments")
def an_array_to_free(call: Call, site: Site) -> Findings:
    if site.value("commandBufferCount") and not site.value("pCommandBuffers"):
        yield site.broken("pCommandBuffers", "is None.", "Pass the command buffers, or count none.")


@rule("VUID-vkFreeCommandBuffers-pCommandBuffers-parent", stage="state")
def freed_from_their_own_pool(call: Call, site: Site) -> Findings:
    pool = call.world.find("VkCommandPool", int(site.value("commandPool") or 0))
    array = site.value("pCommandBuffers")
    for index in range(int(site.value("commandBufferCount")) if array else 0):
        commands = _commands(call, array[index])
        if commands is not None and commands.parent is not pool:
            yield site.broken(
                f"pCommandBuffers[{index}]",
                "was allocated from another pool.",
                "Free it from the VkCommandPool that it was allocated from.",
            )


# -- running --------------------------------------------------------------------------------------


def _submitted(call: Call, site: Site) -> Iterator[tuple[str, Record]]:
    """The command buffers that a structure submits, with their members."""
    if site.owner == "VkCommandBufferSubmitInfo":
        found = _commands(call, site.value("commandBuffer"))
        if found is not None:
            yield "commandBuffer", found
        return
    count = int(site.value("commandBufferCount"))
    array: Any = site.value("pCommandBuffers") if count else None
    for index in range(count if array else 0):
        found = _commands(call, array[index])
        if found is not None:
            yield f"pCommandBuffers[{index}]", found


@rule("VUID-vkQueueSubmit-pCommandBuffers-00070", stage="state", at="VkSubmitInfo")
@rule("VUID-vkQueueSubmit2-commandBuffer-03874", stage="state", at="VkCommandBufferSubmitInfo")
def submitted_when_it_can_run(call: Call, site: Site) -> Findings:
    for member, commands in _submitted(call, site):
        if commands.facts["state"] != EXECUTABLE:
            yield site.broken(
                member, f"{_is(commands)}.", "Record it to its end, and submit it then."
            )
            continue
        gone = _gone(call, commands, set())
        if gone is not None:
            yield site.broken(
                member,
                f"uses {gone}, so that it cannot be run any more.",
                "Keep what it uses until it has run, or record it again.",
            )


def _gone(call: Call, commands: Record, seen: set[Record]) -> str | None:
    """What a command buffer uses and is not there any more."""
    for resource in commands.facts["uses"]:
        if not call.world.has(resource):
            return f"the {resource.kind} {resource.value:#x}, which was destroyed"
        memory = resource.facts.get("bound")
        if memory is not None and not call.world.has(memory):
            return f"the {resource.kind} {resource.value:#x}, whose memory was freed"
    seen.add(commands)
    for inner, times in commands.facts["calls"]:
        if inner in seen:
            continue
        name = f"the secondary VkCommandBuffer {inner.value:#x}, which"
        if not call.world.has(inner):
            return f"{name} was freed"
        if inner.facts["times"] != times:
            return f"{name} was recorded again or reset since"
        if inner.facts["state"] != EXECUTABLE:
            return f"{name} {_is(inner)}"
        found = _gone(call, inner, seen)
        if found is not None:
            return found
    return None


@rule("VUID-VkSubmitInfo-pCommandBuffers-00075", stage="state")
@rule("VUID-VkCommandBufferSubmitInfo-commandBuffer-03890", stage="state")
def submitted_if_it_is_primary(call: Call, site: Site) -> Findings:
    for member, commands in _submitted(call, site):
        if commands.facts["level"]:
            yield site.broken(member, "is secondary.", "Submit a primary one that executes it.")


@rule("VUID-vkCmdExecuteCommands-pCommandBuffers-00088", stage="state")
def executed_if_they_are_secondary(call: Call, site: Site) -> Findings:
    for member, commands in _submitted(call, site):
        if not commands.facts["level"]:
            yield site.broken(
                member, "is primary.", "Allocate it with VK_COMMAND_BUFFER_LEVEL_SECONDARY."
            )


@rule("VUID-vkCmdExecuteCommands-pCommandBuffers-00089", stage="state")
def executed_when_they_can_run(call: Call, site: Site) -> Findings:
    for member, commands in _submitted(call, site):
        if commands.facts["state"] != EXECUTABLE:
            yield site.broken(member, f"{_is(commands)}.", "Record it to its end first.")
