"""The door: arguments, results, errors and outputs of calls, on the embedded device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files

import pytest

import extmem
from extmem import vk
from extmem.rules import implicit

# What the embedded device shares memory by, where it does.
SHARING = [] if sys.platform == "win32" else ["VK_KHR_external_memory_fd"]
descriptors = pytest.mark.skipif(not SHARING, reason="hardware: descriptors are POSIX")


class Rig:
    """An instance and a device on the embedded driver."""

    def __init__(self, version: int, extensions: list[str], checks: str = "full") -> None:
        application = vk.VkApplicationInfo(apiVersion=version)
        self.instance = vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(pApplicationInfo=application), driver="embedded", checks=checks
        )
        self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[0]
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
        self.device = vk.vkCreateDevice(
            self.physical,
            vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue], ppEnabledExtensionNames=extensions),
        )

    def close(self) -> None:
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(int(vk.VK_API_VERSION_1_3), SHARING)
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Rig]:
    made = Rig(int(vk.VK_API_VERSION_1_3), [])
    yield made
    made.close()


def vuids(error: pytest.ExceptionInfo[extmem.RuleViolation]) -> set[str]:
    return {problem.vuid for problem in error.value.problems}


def test_every_implicit_rule_in_scope_is_derived() -> None:
    listed = json.loads(files("extmem.rules").joinpath("catalogue.json").read_text())
    wanted = {each["vuid"] for each in listed if each["implicit"]}
    assert len(wanted) == 255
    never_broken = {
        # Allocators are not offered, so NULL is what every call passes.
        "VUID-vkAllocateMemory-pAllocator-parameter",
        "VUID-vkFreeMemory-pAllocator-parameter",
        # Asks what the device was made with: it has a function, in allocate.py.
        "VUID-vkAllocateMemory-device-queuecount",
    }
    assert wanted - implicit.derived() == never_broken


@pytest.mark.parametrize("wrong", [None, 0, 12345, vk.VkDevice(5), vk.VkBuffer(1), "device"])
def test_a_first_argument_that_is_no_living_device(wrong: object) -> None:
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkDeviceWaitIdle(wrong)  # type: ignore[arg-type]
    assert vuids(error) == {"VUID-vkDeviceWaitIdle-device-parameter"}


def test_a_destroyed_device_is_refused(rig: Rig) -> None:
    physical = vk.vkEnumeratePhysicalDevices(rig.instance)[1]
    queue = vk.VkDeviceQueueCreateInfo(pQueuePriorities=[1.0])
    device = vk.vkCreateDevice(physical, vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue]))
    vk.vkDestroyDevice(device)
    with pytest.raises(extmem.RuleViolation, match="was destroyed"):
        vk.vkDeviceWaitIdle(device)
    with pytest.raises(extmem.RuleViolation, match="was destroyed"):
        vk.vkDestroyDevice(device)


def test_handles_are_checked_for_life_type_and_device(rig: Rig, other: Rig) -> None:
    buffer = vk.vkCreateBuffer(other.device, vk.VkBufferCreateInfo(size=64, usage=1))
    with pytest.raises(extmem.RuleViolation, match="belongs to the VkDevice") as error:
        vk.vkGetBufferMemoryRequirements(rig.device, buffer)
    assert vuids(error) == {"VUID-vkGetBufferMemoryRequirements-buffer-parent"}
    with pytest.raises(extmem.RuleViolation, match="is a VkBuffer") as error:
        vk.vkFreeMemory(other.device, buffer)
    assert vuids(error) == {"VUID-vkFreeMemory-memory-parameter"}
    with pytest.raises(extmem.RuleViolation, match="it is a VkBuffer"):
        vk.vkFreeMemory(other.device, int(buffer))
    vk.vkDestroyBuffer(other.device, buffer)
    with pytest.raises(extmem.RuleViolation, match="destroyed, or never made") as error:
        vk.vkDestroyBuffer(other.device, buffer)
    assert vuids(error) == {"VUID-vkDestroyBuffer-buffer-parameter"}


@descriptors
def test_null_is_accepted_where_the_specification_does(rig: Rig) -> None:
    vk.vkFreeMemory(rig.device, None)
    vk.vkFreeMemory(rig.device, 0)
    vk.vkDestroyBuffer(rig.device, None)
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkGetMemoryFdKHR(rig.device, vk.VkMemoryGetFdInfoKHR(memory=None, handleType=1))
    assert "VUID-VkMemoryGetFdInfoKHR-memory-parameter" in vuids(error)


def test_enumerations_flags_and_reserved_members(rig: Rig) -> None:
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkCreateBuffer(
            rig.device,
            vk.VkBufferCreateInfo(size=64, usage=1, flags=1 << 30, sharingMode=77),
        )
    assert vuids(error) == {
        "VUID-VkBufferCreateInfo-flags-parameter",
        "VUID-VkBufferCreateInfo-sharingMode-parameter",
    }
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkCreateImage(
            rig.device,
            vk.VkImageCreateInfo(
                format=vk.VK_FORMAT_R8_UNORM,
                imageType=1,
                samples=1,
                extent=(1, 1, 1),
                mipLevels=1,
                arrayLayers=1,
            ),
        )
    assert vuids(error) == {"VUID-VkImageCreateInfo-usage-requiredbitmask"}
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkCreateSemaphore(rig.device, vk.VkSemaphoreCreateInfo(flags=1))
    assert vuids(error) == {"VUID-VkSemaphoreCreateInfo-flags-zerobitmask"}


def test_chains_hold_what_fits_and_each_once(rig: Rig) -> None:
    stranger = vk.VkMemoryAllocateInfo(
        allocationSize=64, memoryTypeIndex=1, pNext=vk.VkFenceCreateInfo()
    )
    with pytest.raises(extmem.RuleViolation, match="VkFenceCreateInfo cannot follow") as error:
        vk.vkAllocateMemory(rig.device, stranger)
    assert "VUID-VkMemoryAllocateInfo-pNext-pNext" in vuids(error)
    twice = vk.link(
        vk.VkMemoryAllocateInfo(allocationSize=64, memoryTypeIndex=1),
        vk.VkExportMemoryAllocateInfo(handleTypes=1),
        vk.VkExportMemoryAllocateInfo(handleTypes=1),
    )
    with pytest.raises(extmem.RuleViolation, match="twice") as error:
        vk.vkAllocateMemory(rig.device, twice)
    assert "VUID-VkMemoryAllocateInfo-sType-unique" in vuids(error)


def test_a_wrong_stype_is_refused(rig: Rig) -> None:
    info = vk.VkMemoryAllocateInfo(allocationSize=64, memoryTypeIndex=1)
    info.sType = 7
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkAllocateMemory(rig.device, info)
    assert "VUID-VkMemoryAllocateInfo-sType-sType" in vuids(error)


@pytest.mark.parametrize("stype", [0, 5, 12345])
def test_a_wrong_stype_behind_an_element_of_an_array(rig: Rig, stype: int) -> None:
    # The array knows what the structure was made as; what its sType says may be longer.
    info = vk.VkTimelineSemaphoreSubmitInfo()
    info.sType = stype
    queue = vk.vkGetDeviceQueue(rig.device, 0, 0)
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkQueueSubmit(queue, 1, [vk.VkSubmitInfo(pNext=info)], None)
    assert vuids(error) == {"VUID-VkTimelineSemaphoreSubmitInfo-sType-sType"}


@pytest.mark.parametrize("stype", [0, 5, 12345])
def test_what_does_not_belong_into_a_chain_is_not_read(rig: Rig, stype: int) -> None:
    # Behind a pointer in a structure there is nothing but the sType to go by.
    info = vk.VkExternalMemoryAcquireUnmodifiedEXT()
    info.sType = stype
    pool = vk.vkCreateCommandPool(rig.device, vk.VkCommandPoolCreateInfo())
    buffers = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    (recording,) = vk.vkAllocateCommandBuffers(rig.device, buffers)
    vk.vkBeginCommandBuffer(recording, vk.VkCommandBufferBeginInfo())
    barrier = vk.VkBufferMemoryBarrier2(pNext=info)
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkCmdPipelineBarrier2(recording, vk.VkDependencyInfo(pBufferMemoryBarriers=[barrier]))
    assert "VUID-VkBufferMemoryBarrier2-pNext-pNext" in vuids(error)
    vk.vkDestroyCommandPool(rig.device, pool)


def test_counts_and_arrays_of_commands(rig: Rig) -> None:
    fence = vk.vkCreateFence(rig.device, vk.VkFenceCreateInfo(flags=1))
    with pytest.raises(ValueError, match="fenceCount is 2, but pFences has 1 element"):
        vk.vkWaitForFences(rig.device, 2, [fence], 1, 0)
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkWaitForFences(rig.device, 0, [fence], 1, 0)
    assert vuids(error) == {"VUID-vkWaitForFences-fenceCount-arraylength"}
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkWaitForFences(rig.device, 1, None, 1, 0)
    assert vuids(error) == {"VUID-vkWaitForFences-pFences-parameter"}
    assert vk.vkWaitForFences(rig.device, 1, [fence], 1, 0) == vk.VK_SUCCESS
    vk.vkResetFences(rig.device, 1, [fence])
    assert vk.vkWaitForFences(rig.device, 1, [fence], 1, 1000) == vk.VK_TIMEOUT
    assert vk.vkGetFenceStatus(rig.device, fence) == vk.VK_NOT_READY
    vk.vkDestroyFence(rig.device, fence)


def test_numbers_that_do_not_fit(rig: Rig) -> None:
    with pytest.raises(ValueError, match="which does not fit 32 bits"):
        vk.vkGetDeviceQueue(rig.device, 1 << 32, 0)
    with pytest.raises(ValueError, match="does not fit 64 bits"):
        vk.vkMapMemory(rig.device, vk.VkDeviceMemory(1), -1, 5, 0)
    with pytest.raises(TypeError, match="an integer"):
        vk.vkGetDeviceQueue(rig.device, "0", 0)  # type: ignore[arg-type]


@descriptors
def test_outputs_with_a_chain_come_back_filled(rig: Rig) -> None:
    ids = vk.VkPhysicalDeviceIDProperties()
    given = vk.VkPhysicalDeviceProperties2(pNext=ids)
    back = vk.vkGetPhysicalDeviceProperties2(rig.physical, given)
    assert back is given
    assert any(ids.deviceUUID)
    assert back.properties.deviceName == "extmem embedded 0"
    external = vk.VkExternalImageFormatProperties()
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=vk.VK_FORMAT_R8G8B8A8_UNORM,
        type=vk.VK_IMAGE_TYPE_2D,
        tiling=vk.VK_IMAGE_TILING_OPTIMAL,
        usage=vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
        pNext=vk.VkPhysicalDeviceExternalImageFormatInfo(
            handleType=vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
        ),
    )
    vk.vkGetPhysicalDeviceImageFormatProperties2(
        rig.physical, info, vk.VkImageFormatProperties2(pNext=external)
    )
    features = external.externalMemoryProperties.externalMemoryFeatures
    assert features & vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT
    with pytest.raises(TypeError, match="VkPhysicalDeviceProperties2 to fill"):
        vk.vkGetPhysicalDeviceProperties2(rig.physical, ids)  # type: ignore[arg-type]
    wrong = vk.VkPhysicalDeviceProperties2(pNext=vk.VkExportMemoryAllocateInfo())
    with pytest.raises(extmem.RuleViolation) as error:
        vk.vkGetPhysicalDeviceProperties2(rig.physical, wrong)
    assert vuids(error) == {"VUID-VkPhysicalDeviceProperties2-pNext-pNext"}


def test_enumerations_are_lists(rig: Rig) -> None:
    devices = vk.vkEnumeratePhysicalDevices(rig.instance)
    assert [type(each) for each in devices] == [vk.VkPhysicalDevice] * 2
    families = vk.vkGetPhysicalDeviceQueueFamilyProperties(rig.physical)
    assert families[0].queueCount == 2
    families2 = vk.vkGetPhysicalDeviceQueueFamilyProperties2(rig.physical)
    assert families2[0].queueFamilyProperties.queueCount == 2
    groups = vk.vkEnumeratePhysicalDeviceGroups(rig.instance)
    assert sum(group.physicalDeviceCount for group in groups) == 2


def test_a_missing_extension_is_named() -> None:
    rig = Rig(int(vk.VK_API_VERSION_1_1), [])
    try:
        with pytest.raises(extmem.CommandUnavailable, match="VK_KHR_external_memory_fd"):
            vk.vkGetMemoryFdPropertiesKHR(rig.device, 0x200, 0)
        with pytest.raises(
            extmem.CommandUnavailable, match=r"Vulkan 1\.2 .* or VK_KHR_timeline_semaphore"
        ):
            vk.vkGetSemaphoreCounterValue(rig.device, vk.VkSemaphore(0))
    finally:
        rig.close()


def test_driver_errors_name_the_call_and_the_result() -> None:
    with pytest.raises(extmem.DriverError, match="vkCreateInstance") as error:
        vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(ppEnabledExtensionNames=["VK_KHR_no_such_thing"]),
            driver="embedded",
        )
    assert error.value.result is vk.VK_ERROR_EXTENSION_NOT_PRESENT
    assert error.value.call == "vkCreateInstance"
    with pytest.raises(extmem.DriverError) as error:
        vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(ppEnabledLayerNames=["VK_LAYER_none"]), driver="embedded"
        )
    assert error.value.result is vk.VK_ERROR_LAYER_NOT_PRESENT


def test_without_checks_the_driver_s_own_codes_come_back() -> None:
    rig = Rig(int(vk.VK_API_VERSION_1_3), SHARING, checks="off")
    try:
        with pytest.raises(extmem.DriverError) as error:
            vk.vkAllocateMemory(
                rig.device, vk.VkMemoryAllocateInfo(allocationSize=1 << 60, memoryTypeIndex=1)
            )
        assert error.value.result is vk.VK_ERROR_OUT_OF_DEVICE_MEMORY
        hidden = vk.vkAllocateMemory(
            rig.device, vk.VkMemoryAllocateInfo(allocationSize=64, memoryTypeIndex=0)
        )
        with pytest.raises(extmem.DriverError) as error:
            vk.vkMapMemory(rig.device, hidden, 0, vk.VK_WHOLE_SIZE, 0)
        assert error.value.result is vk.VK_ERROR_MEMORY_MAP_FAILED
        vk.vkFreeMemory(rig.device, hidden)
    finally:
        rig.close()


def test_an_instance_of_a_vulkan_before_1_0_can_be_destroyed() -> None:
    """Only rules refuse it; without them it is one of 1.0."""
    application = vk.VkApplicationInfo(apiVersion=24)
    info = vk.VkInstanceCreateInfo(pApplicationInfo=application)
    instance = vk.vkCreateInstance(info, driver="embedded", checks="off")
    assert vk.vkEnumeratePhysicalDevices(instance)
    vk.vkDestroyInstance(instance)


def test_drivers_and_checks_that_do_not_exist() -> None:
    with pytest.raises(extmem.DriverNotFound, match="there is no driver /nonexistent"):
        vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver="/nonexistent")
    with pytest.raises(ValueError, match="expected one of full, cheap, off"):
        vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver="embedded", checks="some")


def test_the_environment_sets_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")
    monkeypatch.setenv("EXTMEM_CHECKS", "off")
    instance = vk.vkCreateInstance(vk.VkInstanceCreateInfo())
    assert instance.dispatch is not None
    assert instance.dispatch.driver.name == "embedded"
    assert instance.dispatch.checks == "off"
    vk.vkDestroyInstance(instance)
    with extmem.open_device() as gpu:
        assert (gpu.driver, gpu.checks) == ("embedded", "off")
    with extmem.open_device(driver="embedded", checks="full") as gpu:
        assert gpu.checks == "full"


def test_a_map_knows_its_memory_and_its_end(rig: Rig) -> None:
    memory = vk.vkAllocateMemory(
        rig.device, vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=1)
    )
    view = vk.vkMapMemory(rig.device, memory, 1024, vk.VK_WHOLE_SIZE, 0)
    assert (view.nbytes, view.readonly, view.format) == (3072, False, "B")
    assert view.obj.memory == memory
    part = view[10:20]
    view.release()
    with pytest.raises(extmem.ViewsAlive, match="1 view") as error:
        vk.vkUnmapMemory(rig.device, memory)
    assert error.value.count == 1
    part[0] = 5
    with pytest.raises(extmem.ViewsAlive):
        vk.vkFreeMemory(rig.device, memory)
    with pytest.raises(extmem.ViewsAlive):
        vk.vkDestroyDevice(rig.device)
    del part, view
    vk.vkFreeMemory(rig.device, memory)


def test_handles_from_two_drivers_live_side_by_side(rig: Rig, other: Rig) -> None:
    info = vk.VkMemoryAllocateInfo(allocationSize=64, memoryTypeIndex=1)
    first, second = (vk.vkAllocateMemory(each.device, info) for each in (rig, other))
    assert first.dispatch is rig.device.dispatch
    assert second.dispatch is other.device.dispatch
    vk.vkFreeMemory(rig.device, first)
    vk.vkFreeMemory(other.device, second)


def test_unions_pass_unread(rig: Rig) -> None:
    pool = vk.vkCreateCommandPool(rig.device, vk.VkCommandPoolCreateInfo())
    image = vk.vkCreateImage(
        rig.device,
        vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            extent=(4, 4, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
        ),
    )
    info = vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=1)
    memory = vk.vkAllocateMemory(rig.device, info)
    vk.vkBindImageMemory(rig.device, image, memory, 0)
    (commands,) = vk.vkAllocateCommandBuffers(
        rig.device, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    )
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    colour = vk.VkClearColorValue()
    colour.float32[:] = (1.0, 0.5, 0.25, 1.0)
    whole = vk.VkImageSubresourceRange(
        aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
    )
    vk.vkCmdClearColorImage(commands, image, vk.VK_IMAGE_LAYOUT_GENERAL, colour, 1, [whole])
    vk.vkDestroyCommandPool(rig.device, pool)
    vk.vkDestroyImage(rig.device, image)
    vk.vkFreeMemory(rig.device, memory)
