"""Rules for queues: which there are, and what is given to them.

They belong to Vulkan at large and not to external memory. But drivers do not look: a queue that is
not there ends the process, and one that waits for what nobody signals stands still for ever.
"""

from __future__ import annotations

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.submitted import Payload, current
from extmem.vk import _constants as c
from extmem.world import Record

# -- instances and devices ------------------------------------------------------------------------


@rule("VUID-vkDestroyInstance-instance-00629", stage="state")
def an_instance_without_devices(call: Call, site: Site) -> Findings:
    alive = call.world.objects.get("VkDevice", {})
    if alive:
        yield site.broken(
            "instance",
            f"still has {len(alive)} device{'s' if len(alive) != 1 else ''}, the first of them "
            f"{next(iter(alive)):#x}.",
            "Destroy every VkDevice first (vkDestroyDevice).",
        )


def _counts(call: Call) -> tuple[int, ...]:
    """How many queues each family of the physical device has."""
    return call.asked.queue_counts(int(call.arguments["physicalDevice"]))


@rule("VUID-VkDeviceQueueCreateInfo-queueFamilyIndex-00381", stage="device")
def queues_of_a_family_that_there_is(call: Call, site: Site) -> Findings:
    family, there = site.value("queueFamilyIndex"), len(_counts(call))
    if family >= there:
        yield site.broken(
            "queueFamilyIndex",
            f"is {family}, but the device has {there} queue families.",
            "Use one of vkGetPhysicalDeviceQueueFamilyProperties.",
        )


@rule("VUID-VkDeviceQueueCreateInfo-queueCount-00382", stage="device")
def no_more_queues_than_there_are(call: Call, site: Site) -> Findings:
    family, counts = site.value("queueFamilyIndex"), _counts(call)
    if family < len(counts) and site.value("queueCount") > counts[family]:
        yield site.broken(
            "queueCount",
            f"is {site.value('queueCount')}, but family {family} has {counts[family]}.",
            f"Ask for {counts[family]} at most.",
        )


@rule("VUID-VkDeviceQueueCreateInfo-pQueuePriorities-00383", stage="state")
def priorities_from_0_to_1(call: Call, site: Site) -> Findings:
    array = site.value("pQueuePriorities")
    for index in range(site.value("queueCount") if array else 0):
        if not 0.0 <= array[index] <= 1.0:
            yield site.broken(
                f"pQueuePriorities[{index}]", f"is {array[index]:g}.", "Use 0.0 to 1.0."
            )


@rule("VUID-VkDeviceCreateInfo-queueFamilyIndex-02802", stage="state")
def each_family_once(call: Call, site: Site) -> Findings:
    array = site.value("pQueueCreateInfos")
    seen = set()
    for index in range(site.value("queueCreateInfoCount") if array else 0):
        # Protected queues stand apart.
        family = array[index].queueFamilyIndex, array[index].flags
        if family in seen:
            yield site.broken(
                f"pQueueCreateInfos[{index}]",
                f"is of family {family[0]}, as one before it.",
                "Ask for all queues of a family at once.",
            )
        seen.add(family)


# -- which queue ----------------------------------------------------------------------------------


def _made(call: Call) -> dict[int, int] | None:
    """How many queues of each family the device was made with; None where it is not known."""
    device = call.world.find("VkDevice", int(call.arguments["device"]))
    found: dict[int, int] | None = device.facts.get("families") if device is not None else None
    return found


@rule(
    "VUID-vkGetDeviceQueue-queueFamilyIndex-00384",
    "VUID-VkDeviceQueueInfo2-queueFamilyIndex-01842",
    stage="state",
)
def a_family_that_the_device_has(call: Call, site: Site) -> Findings:
    made, family = _made(call), int(site.value("queueFamilyIndex"))
    if made is not None and family not in made:
        yield site.broken(
            "queueFamilyIndex",
            f"is {family}, but the device was created with queues of "
            f"{', '.join(map(str, made)) or 'none'}.",
            "Name the family in VkDeviceCreateInfo.",
        )


@rule(
    "VUID-vkGetDeviceQueue-queueIndex-00385",
    "VUID-VkDeviceQueueInfo2-queueIndex-01843",
    stage="state",
)
def a_queue_that_the_device_has(call: Call, site: Site) -> Findings:
    made, index = _made(call), int(site.value("queueIndex"))
    count = made.get(int(site.value("queueFamilyIndex"))) if made is not None else None
    if count is not None and index >= count:
        yield site.broken(
            "queueIndex",
            f"is {index}, but the device was created with {count} of this family.",
            "Count from 0, or ask for more in VkDeviceCreateInfo.",
        )


# -- what is submitted ----------------------------------------------------------------------------


@rule("VUID-VkDeviceGroupSubmitInfo-waitSemaphoreCount-00082", stage="chain")
def a_device_for_each_wait(call: Call, site: Site) -> Findings:
    yield from _as_many(site, "waitSemaphoreCount", "device")


@rule("VUID-VkDeviceGroupSubmitInfo-commandBufferCount-00083", stage="chain")
def a_mask_for_each_command_buffer(call: Call, site: Site) -> Findings:
    yield from _as_many(site, "commandBufferCount", "mask of devices")


@rule("VUID-VkDeviceGroupSubmitInfo-signalSemaphoreCount-00084", stage="chain")
def a_device_for_each_signal(call: Call, site: Site) -> Findings:
    yield from _as_many(site, "signalSemaphoreCount", "device")


def _as_many(site: Site, member: str, what: str) -> Findings:
    # Drivers read as many as the VkSubmitInfo says.
    given, wanted = int(site.value(member)), int(getattr(site.head, member))
    if given != wanted:
        yield site.broken(
            member,
            f"is {given}, but that of the VkSubmitInfo is {wanted}.",
            f"Name one {what} for each.",
        )


@rule("VUID-vkQueueSubmit-pWaitSemaphores-03238", stage="state", at="vkQueueSubmit")
@rule("VUID-vkQueueSubmit2-semaphore-03873", stage="state", at="vkQueueSubmit2")
def waits_for_what_is_signalled_or_will_be(call: Call, site: Site) -> Findings:
    batches = [each for each in call.sites if each.owner in _COUNTS]
    if not any(each.value(_COUNTS[each.owner]) for each in batches):
        return
    changed: dict[Record, bool] = {}  # by the batches of this call, in their order
    for batch in batches:
        for member, record in _semaphores(call, batch, "Wait"):
            if not changed.get(record, current(record).signaled is not False):
                yield batch.broken(
                    member,
                    "is not signalled, and nothing that was submitted signals it.",
                    "Submit what signals it first; wait for a timeline to say it beforehand.",
                )
            changed[record] = False
        for _, record in _semaphores(call, batch, "Signal"):
            changed[record] = True


# How many semaphores a batch waits for.
_COUNTS = {"VkSubmitInfo": "waitSemaphoreCount", "VkSubmitInfo2": "waitSemaphoreInfoCount"}


def _semaphores(call: Call, site: Site, side: str) -> list[tuple[str, Record]]:
    """The binary semaphores that a batch waits for, or signals."""
    second = site.owner == "VkSubmitInfo2"
    member = f"p{side}SemaphoreInfos" if second else f"p{side}Semaphores"
    count = f"{side.lower()}SemaphoreInfoCount" if second else f"{side.lower()}SemaphoreCount"
    array = site.value(member)
    found = []
    for index in range(site.value(count) if array else 0):
        value = array[index].semaphore if second else array[index]
        record = call.world.find("VkSemaphore", int(value or 0))
        if record is not None and not record.facts["timeline"] and not _has_values(current(record)):
            found.append((f"{member}[{index}]", record))
    return found


_D3D12_FENCE = int(c.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)


def _has_values(payload: Payload) -> bool:
    """Whether it is D3D12's fence: to Vulkan it is binary, and its waits are for a value."""
    return bool((payload.imported | (payload.export or 0)) & _D3D12_FENCE)
