"""Instances, devices and what is asked of physical ones: nonsense in, a clear word out."""

from __future__ import annotations

from typing import Any

import extmem
from extmem import CommandUnavailable, DriverError, DriverNotFound, vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_FORMAT = "VUID-vkGetPhysicalDeviceImageFormatProperties"


# -- instances ------------------------------------------------------------------------------------


@trap("VUID-vkCreateInstance-pCreateInfo-parameter")
def instance_by_no_structure(here: Scene) -> None:
    vk.vkCreateInstance(None, driver=here.driver)  # type: ignore[arg-type]


@trap(TypeError, says="expected a VkInstanceCreateInfo")
def instance_by_another_structure(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkDeviceCreateInfo(), driver=here.driver)  # type: ignore[arg-type]


@trap("VUID-VkInstanceCreateInfo-pNext-pNext")
def instance_with_a_stranger_behind_it(here: Scene) -> None:
    info = vk.VkInstanceCreateInfo(pNext=vk.VkExportMemoryAllocateInfo())
    vk.vkCreateInstance(info, driver=here.driver)


@trap("VUID-VkApplicationInfo-apiVersion-04010")
def instance_of_a_version_before_the_first(here: Scene) -> None:
    about = vk.VkApplicationInfo(apiVersion=65535)
    info = vk.VkInstanceCreateInfo(pApplicationInfo=about)
    vk.vkCreateInstance(info, driver=here.driver)


@trap("VUID-VkInstanceCreateInfo-flags-parameter")
def instance_with_flags_that_nobody_knows(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkInstanceCreateInfo(flags=1 << 30), driver=here.driver)


@trap(DriverError, says="VK_ERROR_EXTENSION_NOT_PRESENT")
def instance_with_an_extension_that_nobody_knows(here: Scene) -> None:
    info = vk.VkInstanceCreateInfo(ppEnabledExtensionNames=["VK_KHR_unheard_of"])
    vk.vkCreateInstance(info, driver=here.driver)


@trap(DriverError, says="VK_ERROR_(LAYER|EXTENSION)_NOT_PRESENT")
def instance_with_a_layer_that_nobody_knows(here: Scene) -> None:
    info = vk.VkInstanceCreateInfo(ppEnabledLayerNames=["VK_LAYER_unheard_of"])
    vk.vkCreateInstance(info, driver=here.driver)


@trap("VUID-VkInstanceCreateInfo-ppEnabledExtensionNames-parameter")
def instance_with_names_that_are_not_there(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkInstanceCreateInfo(enabledExtensionCount=3), driver=here.driver)


@trap(ValueError, says="enabledExtensionCount is 9, but ppEnabledExtensionNames was given 1")
def instance_with_fewer_names_than_it_says(here: Scene) -> None:
    info = vk.VkInstanceCreateInfo(ppEnabledExtensionNames=["VK_KHR_surface"])
    info.enabledExtensionCount = 9
    vk.vkCreateInstance(info, driver=here.driver)


@trap(DriverNotFound, OSError, says="/nowhere/driver.json")
def driver_that_is_not_there(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver="/nowhere/driver.json")


@trap(DriverNotFound, says="trap.py|no|not")
def driver_that_is_a_text(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver=__file__)


@trap(DriverNotFound, ValueError, says="nonsense")
def driver_of_a_name_that_nobody_knows(here: Scene) -> None:
    extmem.open_device(driver="nonsense")


@trap(ValueError, says="checks is 'some'; expected one of full, cheap, off")
def checks_of_a_level_that_nobody_knows(here: Scene) -> None:
    vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver=here.driver, checks="some")


@trap("VUID-vkEnumeratePhysicalDevices-instance-parameter")
def devices_of_a_destroyed_instance(here: Scene) -> None:
    gone = vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver=here.driver)
    vk.vkDestroyInstance(gone)
    vk.vkEnumeratePhysicalDevices(gone)


@trap("VUID-vkDestroyInstance-instance-parameter")
def instance_destroyed_twice(here: Scene) -> None:
    gone = vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver=here.driver)
    vk.vkDestroyInstance(gone)
    vk.vkDestroyInstance(gone)


@trap("VUID-vkGetPhysicalDeviceProperties-physicalDevice-parameter")
def properties_of_a_device_of_a_destroyed_instance(here: Scene) -> None:
    gone = vk.vkCreateInstance(vk.VkInstanceCreateInfo(), driver=here.driver)
    physical = vk.vkEnumeratePhysicalDevices(gone)[0]
    vk.vkDestroyInstance(gone)
    vk.vkGetPhysicalDeviceProperties(physical)


@trap("VUID-vkDestroyInstance-instance-00629")
def instance_destroyed_before_its_device(here: Scene) -> None:
    vk.vkDestroyInstance(here.instance)


# -- devices --------------------------------------------------------------------------------------


def _device(here: Scene, *, family: int = 0, priorities: Any = (1.0,), **members: Any) -> None:
    queue = vk.VkDeviceQueueCreateInfo(
        queueFamilyIndex=family, pQueuePriorities=None if priorities is None else list(priorities)
    )
    info = vk.VkDeviceCreateInfo(**{"pQueueCreateInfos": [queue], **members})
    made = vk.vkCreateDevice(here.physical, info)
    vk.vkDestroyDevice(made)


@trap("VUID-vkCreateDevice-pCreateInfo-parameter")
def device_by_no_structure(here: Scene) -> None:
    vk.vkCreateDevice(here.physical, None)  # type: ignore[arg-type]


@trap("VUID-vkCreateDevice-physicalDevice-parameter")
def device_of_no_physical_device(here: Scene) -> None:
    vk.vkCreateDevice(None, vk.VkDeviceCreateInfo())  # type: ignore[arg-type]


@trap("VUID-vkCreateDevice-physicalDevice-parameter")
def device_of_a_device(here: Scene) -> None:
    vk.vkCreateDevice(here.device, vk.VkDeviceCreateInfo())  # type: ignore[arg-type]


@trap(DriverError, says="VK_ERROR_EXTENSION_NOT_PRESENT")
def device_with_an_extension_that_nobody_knows(here: Scene) -> None:
    _device(here, ppEnabledExtensionNames=["VK_KHR_unheard_of"])


@trap("VUID-VkDeviceCreateInfo-pNext-pNext")
def device_with_a_stranger_behind_it(here: Scene) -> None:
    _device(here, pNext=vk.VkExportMemoryAllocateInfo())


@trap("VUID-VkDeviceCreateInfo-flags-zerobitmask")
def device_with_flags(here: Scene) -> None:
    _device(here, flags=7)


@trap("VUID-VkDeviceQueueCreateInfo-queueFamilyIndex-00381")
def device_with_a_queue_of_a_family_that_is_not_there(here: Scene) -> None:
    _device(here, family=99)


@trap("VUID-VkDeviceQueueCreateInfo-queueCount-00382")
def device_with_a_thousand_queues(here: Scene) -> None:
    _device(here, priorities=[1.0] * 1000)


@trap("VUID-VkDeviceQueueCreateInfo-queueCount-arraylength")
def device_with_no_queue_of_a_family(here: Scene) -> None:
    _device(here, priorities=None)


@trap("VUID-VkDeviceQueueCreateInfo-pQueuePriorities-00383")
def device_with_a_queue_before_all_others(here: Scene) -> None:
    _device(here, priorities=[7.5])


@trap("VUID-VkDeviceCreateInfo-queueFamilyIndex-02802")
def device_with_one_family_twice(here: Scene) -> None:
    queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
    _device(here, pQueueCreateInfos=[queue, queue])


@trap("VUID-VkDeviceCreateInfo-pQueueCreateInfos-parameter")
def device_with_queues_that_are_not_there(here: Scene) -> None:
    _device(here, pQueueCreateInfos=None, queueCreateInfoCount=4)


@trap("VUID-vkDestroyDevice-device-parameter")
def device_destroyed_twice(here: Scene) -> None:
    with Scene(here.driver) as gone:
        pass
    vk.vkDestroyDevice(gone.device)


@trap("VUID-vkDestroyDevice-device-parameter")
def instance_destroyed_as_a_device(here: Scene) -> None:
    vk.vkDestroyDevice(here.instance)  # type: ignore[arg-type]


@trap("VUID-vkDeviceWaitIdle-device-parameter")
def wait_for_no_device(here: Scene) -> None:
    vk.vkDeviceWaitIdle(None)  # type: ignore[arg-type]


@trap(CommandUnavailable, says="it needs VK_KHR_external_memory_fd", on="linux")
def command_of_an_extension_that_is_not_enabled(here: Scene) -> None:
    info = vk.VkMemoryGetFdInfoKHR(handleType=1)
    queue = vk.VkDeviceQueueCreateInfo(pQueuePriorities=[1.0])
    made = vk.vkCreateDevice(here.physical, vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue]))
    try:
        vk.vkGetMemoryFdKHR(made, info)
    finally:
        vk.vkDestroyDevice(made)


# -- questions ------------------------------------------------------------------------------------


@trap(f"{_FORMAT}-format-parameter")
def question_about_a_format_that_nobody_knows(here: Scene) -> None:
    vk.vkGetPhysicalDeviceImageFormatProperties(here.physical, 987654, 1, 0, 3, 0)


@trap(f"{_FORMAT}-type-parameter")
def question_about_an_image_type_that_nobody_knows(here: Scene) -> None:
    vk.vkGetPhysicalDeviceImageFormatProperties(here.physical, 37, 42, 0, 3, 0)


@trap(f"{_FORMAT}-usage-requiredbitmask")
def question_about_images_for_nothing(here: Scene) -> None:
    vk.vkGetPhysicalDeviceImageFormatProperties(here.physical, 37, 1, 0, 0, 0)


@trap("VUID-vkGetPhysicalDeviceFormatProperties-format-parameter")
def features_of_a_format_that_nobody_knows(here: Scene) -> None:
    vk.vkGetPhysicalDeviceFormatProperties(here.physical, 987654)


@trap(ValueError, says="format is -9999999999, which does not fit 32 bits")
def features_of_a_format_of_more_than_32_bits(here: Scene) -> None:
    vk.vkGetPhysicalDeviceFormatProperties(here.physical, -9999999999)


@trap("VUID-VkPhysicalDeviceExternalBufferInfo-handleType-parameter")
def sharing_of_a_handle_type_that_nobody_knows(here: Scene) -> None:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=3, handleType=1 << 29)
    vk.vkGetPhysicalDeviceExternalBufferProperties(here.physical, info)


@trap("VUID-VkPhysicalDeviceExternalBufferInfo-handleType-parameter")
def sharing_of_no_handle_type(here: Scene) -> None:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=3)
    vk.vkGetPhysicalDeviceExternalBufferProperties(here.physical, info)


@trap("VUID-VkPhysicalDeviceExternalBufferInfo-handleType-parameter")
def sharing_of_two_handle_types_at_once(here: Scene) -> None:
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=3, handleType=3)
    vk.vkGetPhysicalDeviceExternalBufferProperties(here.physical, info)


@trap("VUID-VkPhysicalDeviceExternalSemaphoreInfo-handleType-parameter")
def sharing_of_semaphores_of_no_type(here: Scene) -> None:
    info = vk.VkPhysicalDeviceExternalSemaphoreInfo()
    vk.vkGetPhysicalDeviceExternalSemaphoreProperties(here.physical, info)


@trap("VUID-VkPhysicalDeviceExternalFenceInfo-handleType-parameter")
def sharing_of_fences_of_every_type(here: Scene) -> None:
    info = vk.VkPhysicalDeviceExternalFenceInfo(handleType=0xFFFFFFFF)
    vk.vkGetPhysicalDeviceExternalFenceProperties(here.physical, info)


@trap("VUID-vkGetPhysicalDeviceExternalFenceProperties-pExternalFenceInfo-parameter")
def sharing_of_fences_that_nobody_describes(here: Scene) -> None:
    vk.vkGetPhysicalDeviceExternalFenceProperties(here.physical, None)  # type: ignore[arg-type]


@trap("VUID-VkPhysicalDeviceImageFormatInfo2-pNext-pNext")
def question_about_images_with_a_stranger_behind_it(here: Scene) -> None:
    info = vk.VkPhysicalDeviceImageFormatInfo2(
        format=37, type=1, usage=3, pNext=vk.VkExportMemoryAllocateInfo()
    )
    vk.vkGetPhysicalDeviceImageFormatProperties2(here.physical, info)


@trap("VUID-VkPhysicalDeviceExternalImageFormatInfo-handleType-parameter")
def question_about_images_of_a_handle_type_that_nobody_knows(here: Scene) -> None:
    external = vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=1 << 29)
    info = vk.VkPhysicalDeviceImageFormatInfo2(format=37, type=1, usage=3, pNext=external)
    vk.vkGetPhysicalDeviceImageFormatProperties2(here.physical, info)


@trap("VUID-vkGetPhysicalDeviceExternalImageFormatPropertiesNV-externalHandleType-07721")
def question_of_nvs_about_two_handle_types(here: Scene) -> None:
    physical = here.gpu.vk_physical
    if "VK_NV_external_memory_capabilities" not in here.gpu.instance.dispatch.extensions:  # type: ignore[union-attr]
        driver_cannot("no VK_NV_external_memory_capabilities")
    vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(physical, 37, 1, 0, 3, 0, 3)


@trap(
    "VUID-vkGetPhysicalDeviceProperties2-pProperties-parameter",
    TypeError,
    says="pProperties|to fill",
)
def properties_into_a_number(here: Scene) -> None:
    vk.vkGetPhysicalDeviceProperties2(here.physical, 7)  # type: ignore[arg-type]


@trap("VUID-VkPhysicalDeviceProperties2-sType-unique")
def properties_into_the_same_structure_twice(here: Scene) -> None:
    twice = vk.VkPhysicalDeviceIDProperties(pNext=vk.VkPhysicalDeviceIDProperties())
    box = vk.VkPhysicalDeviceProperties2(pNext=twice)
    vk.vkGetPhysicalDeviceProperties2(here.physical, box)


@trap(TypeError, says="str without NUL")
def extensions_of_a_layer_with_a_zero_in_its_name(here: Scene) -> None:
    vk.vkEnumerateDeviceExtensionProperties(here.physical, "VK\0LAYER")


@trap(TypeError, says="pLayerName was given 7")
def extensions_of_a_layer_that_is_a_number(here: Scene) -> None:
    vk.vkEnumerateDeviceExtensionProperties(here.physical, 7)  # type: ignore[arg-type]
