"""Opening a device: which driver, which physical device."""

from __future__ import annotations

import logging

from extmem import vk
from extmem.capabilities import PhysicalDevice, describe
from extmem.device import Device
from extmem.errors import DriverNotFound, Unsupported
from extmem.vk.instances import choose_driver

__all__ = ["open_device", "physical_devices"]

log = logging.getLogger("extmem")

_NEWEST = int(vk.VK_API_VERSION_1_3)

# Enabled on every instance that has it: to ask what NV's handle types can do.
_WANTED = ("VK_NV_external_memory_capabilities",)


def open_device(
    *,
    driver: str = "auto",
    index: int | None = None,
    uuid: bytes | str | None = None,
    checks: str | None = None,
    queue: str = "any",
) -> Device:
    """Open a device.

    driver: "auto" (EXTMEM_DRIVER, or the system's if it can export memory, or the embedded one),
        "embedded", "system", or the path of a driver's library or manifest
    index, uuid: which physical device, as `extmem devices` lists them; by default the first that
        can export memory
    checks: "full", "cheap" or "off"; by default EXTMEM_CHECKS, or "full"
    queue: what it gives its work to. "any": the first queue family that can copy, which mostly
        draws, too; "copy": one that only copies, if there is one, else as "any". Copying engines
        work beside the shaders, so that what they do for another API need not wait until the GPU
        changes its context: 25 us in place of 330 from a submission to CUDA, on an H200

    >>> with open_device(driver="embedded") as gpu:
    ...     gpu.physical.name
    'extmem embedded 0'
    """
    choice = choose_driver(driver)
    instance = _instance(choice.driver.name, checks)
    try:
        found = vk.vkEnumeratePhysicalDevices(instance)
        described = [describe(each, number) for number, each in enumerate(found)]
        physical = _pick(described, index, uuid, choice.driver.name)
        device = Device(instance, found[physical.index], physical, choice.reason, queue)
    except BaseException:
        vk.vkDestroyInstance(instance)
        raise
    log.info("opened %r: %s", device, choice.reason)
    return device


def physical_devices(driver: str = "auto") -> list[PhysicalDevice]:
    """What devices a driver has, without opening one.

    >>> [each.name for each in physical_devices("embedded")]
    ['extmem embedded 0', 'extmem embedded 1']
    """
    instance = _instance(choose_driver(driver).driver.name, None)
    try:
        found = vk.vkEnumeratePhysicalDevices(instance)
        return [describe(each, number) for number, each in enumerate(found)]
    finally:
        vk.vkDestroyInstance(instance)


def _instance(driver: str, checks: str | None) -> vk.VkInstance:
    version = min(vk.vkEnumerateInstanceVersion(driver=driver), _NEWEST)
    if version < vk.VK_API_VERSION_1_1:
        raise Unsupported(f"the driver {driver} offers Vulkan 1.0 only; 1.1 is needed")
    application = vk.VkApplicationInfo(pApplicationName="extmem", apiVersion=version)
    offered = vk.vkEnumerateInstanceExtensionProperties(driver=driver)
    extensions = [each.extensionName for each in offered if each.extensionName in _WANTED]
    info = vk.VkInstanceCreateInfo(
        pApplicationInfo=application, ppEnabledExtensionNames=extensions or None
    )
    return vk.vkCreateInstance(info, driver=driver, checks=checks)


def _pick(
    described: list[PhysicalDevice], index: int | None, uuid: bytes | str | None, driver: str
) -> PhysicalDevice:
    listed = "; ".join(f"number {d.index}, {d.name} ({d.device_uuid.hex()})" for d in described)
    listed = f"there {'is' if len(described) == 1 else 'are'}: {listed}"
    if not described:
        raise DriverNotFound(f"the driver {driver} has no devices")
    if uuid is not None:
        wanted = _bytes_of(uuid)
        matching = [each for each in described if each.device_uuid == wanted]
        if not matching:
            raise DriverNotFound(f"no device has the UUID {wanted.hex()}; {listed}")
        if index is None or index == matching[0].index:
            return matching[0]
        raise DriverNotFound(f"the device with the UUID {wanted.hex()} is not number {index}")
    if index is not None:
        if not 0 <= index < len(described):
            raise DriverNotFound(f"there is no device number {index}; {listed}")
        return described[index]
    exporting = [each for each in described if any(s.exportable for s in each.sharing)]
    return (exporting or described)[0]


def _bytes_of(uuid: bytes | str) -> bytes:
    try:
        return bytes.fromhex(uuid.replace("-", "")) if isinstance(uuid, str) else bytes(uuid)
    except ValueError:
        raise ValueError(
            f"uuid is {uuid!r}; expected 16 bytes, or 32 hexadecimal digits as `extmem devices` "
            "shows them"
        ) from None
