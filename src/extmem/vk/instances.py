"""Instances and devices: the commands that make dispatch tables, and choose a driver.

`driver` and `checks` are ours, keyword-only; the rest is as the specification has it.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any

from extmem.drivers.driver import Driver
from extmem.errors import DriverError, DriverNotFound
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk import calls
from extmem.vk._base import member_names
from extmem.vk._dispatch import Dispatch
from extmem.vk._prototype import Prototype
from extmem.vk.record import chain_of
from extmem.world import World

__all__ = [
    "vkCreateDevice",
    "vkCreateInstance",
    "vkDestroyDevice",
    "vkDestroyInstance",
    "vkEnumerateInstanceExtensionProperties",
    "vkEnumerateInstanceLayerProperties",
    "vkEnumerateInstanceVersion",
    "vkEnumeratePhysicalDevices",
    "vkGetDeviceProcAddr",
    "vkGetInstanceProcAddr",
]

log = logging.getLogger("extmem")

LEVELS = ("full", "cheap", "off")
EXPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)


# -- which driver -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A driver, and why it was taken."""

    driver: Driver
    reason: str
    index: int | None = None  # the first physical device that can export memory, where looked for


_automatic: Choice | None = None


def choose_driver(name: str | None = None) -> Choice:
    """The driver for a name; for "auto" the system's if it can export memory, else the embedded.

    >>> choose_driver("embedded").reason
    'asked for by name'
    """
    # Drivers are built on parts of this package, and come when they are needed.
    from extmem.drivers.open import ENVIRONMENT, open_driver, requested

    global _automatic
    asked = requested(name)
    if asked != "auto":
        try:
            return Choice(open_driver(asked), "asked for by name")
        except DriverNotFound as error:
            if name in (None, "auto"):  # so nobody named it here
                raise DriverNotFound(f"the variable {ENVIRONMENT} is {asked!r}: {error}") from None
            raise
    if _automatic is None:
        _automatic = _choose_automatically()
        log.info("driver %s: %s", _automatic.driver.name, _automatic.reason)
    return _automatic


def _choose_automatically() -> Choice:
    from extmem.drivers.open import open_driver

    try:
        system = open_driver("system")
    except DriverNotFound as error:
        return Choice(open_driver("embedded"), f"the system has no Vulkan ({error})")
    try:
        index, what = _first_exporting(system)
    except DriverError as error:
        return Choice(open_driver("embedded"), f"the system's Vulkan does not start ({error})")
    if index is None:
        return Choice(open_driver("embedded"), f"no device of the system exports memory ({what})")
    return Choice(system, f"{what} can export memory", index)


def _first_exporting(driver: Driver) -> tuple[int | None, str]:
    """The index and name of the first device that exports memory, or None and what there is."""
    info = s.VkInstanceCreateInfo(
        pApplicationInfo=s.VkApplicationInfo(apiVersion=c.VK_API_VERSION_1_1)
    )
    # Full checks would be right too; this is our own call with constants, made once.
    instance = _create_instance(info, driver, "off")
    try:
        dispatch = instance.dispatch
        assert dispatch is not None
        names = []
        for index, physical in enumerate(vkEnumeratePhysicalDevices(instance)):
            properties = s.VkPhysicalDeviceProperties()
            dispatch.vkGetPhysicalDeviceProperties(physical, properties)
            names.append(properties.deviceName)
            for handle_type in _native_types():
                query = s.VkPhysicalDeviceExternalBufferInfo(
                    usage=c.VK_BUFFER_USAGE_TRANSFER_SRC_BIT, handleType=handle_type
                )
                box = s.VkExternalBufferProperties()
                dispatch.vkGetPhysicalDeviceExternalBufferProperties(physical, query, box)
                if box.externalMemoryProperties.externalMemoryFeatures & EXPORTABLE:
                    return index, properties.deviceName
        return None, ", ".join(names) or "no device at all"
    finally:
        vkDestroyInstance(instance)


def _native_types() -> tuple[int, ...]:
    """The opaque handle type of this system."""
    if os.name == "nt":
        return (int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT),)
    return (int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT),)


def checks_level(given: str | None, inherited: str | None = None) -> str:
    """The level of checking: the argument, else the parent's, else EXTMEM_CHECKS, else full."""
    level = given or inherited or os.environ.get("EXTMEM_CHECKS") or "full"
    if level not in LEVELS:
        what = "checks" if given or inherited else "the variable EXTMEM_CHECKS"
        raise ValueError(f"{what} is {level!r}; expected one of {', '.join(LEVELS)}")
    return level


# -- commands that need no instance -------------------------------------------------------------


def _global(prototype: Prototype, driver: Driver) -> Any:
    return driver.global_command(prototype, prototype.name)


def vkEnumerateInstanceVersion(*, driver: str | None = None) -> int:
    """VK_VERSION_1_1. The instance version of a driver; 1.0 where the command is missing."""
    command = _global(p.vkEnumerateInstanceVersion, choose_driver(driver).driver)
    if command is None:
        return int(c.VK_API_VERSION_1_0)
    box = ctypes.c_uint32()
    calls.raise_for(p.vkEnumerateInstanceVersion, command(box))
    return box.value


def vkEnumerateInstanceExtensionProperties(
    pLayerName: str | None = None, *, driver: str | None = None
) -> list[s.VkExtensionProperties]:
    """VK_VERSION_1_0. The instance extensions of a driver, or of a layer."""
    prototype = p.vkEnumerateInstanceExtensionProperties
    command = _global(prototype, choose_driver(driver).driver)
    arguments = calls.converted(prototype, (pLayerName,))
    return calls.enumerate_with(prototype, command, arguments, None, s.VkExtensionProperties)


def vkEnumerateInstanceLayerProperties(*, driver: str | None = None) -> list[s.VkLayerProperties]:
    """VK_VERSION_1_0. The layers that the loader knows; none where a driver is opened alone."""
    prototype = p.vkEnumerateInstanceLayerProperties
    command = _global(prototype, choose_driver(driver).driver)
    if command is None:
        return []
    return calls.enumerate_with(prototype, command, [], None, s.VkLayerProperties)


# -- instances ----------------------------------------------------------------------------------


def vkCreateInstance(
    pCreateInfo: s.VkInstanceCreateInfo, *, driver: str | None = None, checks: str | None = None
) -> s.VkInstance:
    """VK_VERSION_1_0. An instance on a driver ("auto", "embedded", "system", or a path).

    >>> instance = vkCreateInstance(s.VkInstanceCreateInfo(), driver="embedded")
    >>> vkDestroyInstance(instance)
    """
    return _create_instance(pCreateInfo, choose_driver(driver).driver, checks_level(checks))


def _create_instance(info: Any, driver: Driver, checks: str) -> s.VkInstance:
    prototype = p.vkCreateInstance
    arguments = calls.converted(prototype, (info, None))  # or nobody knows how long its arrays are
    application = info.pApplicationInfo if info is not None else None
    wanted = application.contents.apiVersion if application else 0
    dispatch = Dispatch(
        driver,
        instance=0,
        device=None,
        version=max(wanted, int(c.VK_API_VERSION_1_0)),  # 0 means that, and below it is nothing
        extensions=_names(prototype, info) if info is not None else frozenset(),
        checks=checks,
        parent=None,
    )
    dispatch.world = World("a VkInstance being made", None)
    if checks != "off":
        calls.check(prototype, dispatch, arguments)
    command = driver.global_command(prototype, prototype.name)
    if command is None:
        raise DriverNotFound(f"{driver.origin} has no vkCreateInstance")
    box = ctypes.c_void_p()
    calls.raise_for(prototype, command(*arguments, box))
    dispatch.instance = box.value or 0
    dispatch.world.owner = f"the VkInstance {dispatch.instance:#x}"
    dispatch.world.add("VkInstance", dispatch.instance)
    return s.VkInstance.of(dispatch.instance, dispatch)


def _names(prototype: Prototype, info: Any) -> frozenset[str]:
    """The extensions that a create info enables; none where there is no list of them.

    TypeError where a list of names has a None, which a driver would read like a name.
    """
    lists = {}
    for member, count in (("Layer", "enabledLayerCount"), ("Extension", "enabledExtensionCount")):
        array = getattr(info, f"ppEnabled{member}Names")
        lists[member] = found = array[: getattr(info, count)] if array else []
        if None in found:
            raise TypeError(
                f"{prototype.name}: ppEnabled{member}Names[{found.index(None)}] is None; "
                "expected a str"
            )
    return frozenset(name.decode(errors="replace") for name in lists["Extension"])


def vkDestroyInstance(instance: s.VkInstance | None) -> None:
    """VK_VERSION_1_0. Everything made from it must be destroyed before."""
    if instance is None:
        return
    prototype = p.vkDestroyInstance
    dispatch = calls.dispatch_of(prototype, instance)
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, [int(instance), None])
    dispatch.vkDestroyInstance(int(instance), None)
    dispatch.end()
    dispatch.world.close()


def vkEnumeratePhysicalDevices(instance: s.VkInstance) -> list[s.VkPhysicalDevice]:
    """VK_VERSION_1_0. The physical devices of an instance."""
    return calls.listing(p.vkEnumeratePhysicalDevices, (instance,), s.VkPhysicalDevice)


# -- devices --------------------------------------------------------------------------------------


def vkCreateDevice(
    physicalDevice: s.VkPhysicalDevice,
    pCreateInfo: s.VkDeviceCreateInfo,
    *,
    checks: str | None = None,
) -> s.VkDevice:
    """VK_VERSION_1_0. A device; `checks` is inherited from the instance unless given."""
    prototype = p.vkCreateDevice
    above = calls.dispatch_of(prototype, physicalDevice)
    level = checks_level(checks, above.checks)  # before there is a device that an error would leave
    arguments = calls.converted(prototype, (physicalDevice, pCreateInfo, None))
    extensions = _names(prototype, pCreateInfo) if pCreateInfo is not None else frozenset()
    if above.checks != "off":
        calls.check(prototype, above, arguments)
    box = ctypes.c_void_p()
    calls.raise_for(prototype, above.vkCreateDevice(*arguments, box))
    properties = s.VkPhysicalDeviceProperties()
    above.vkGetPhysicalDeviceProperties(int(physicalDevice), properties)
    dispatch = Dispatch(
        above.driver,
        instance=above.instance,
        device=box.value or 0,
        version=min(above.version, properties.apiVersion),
        extensions=extensions,
        checks=level,
        parent=above,
    )
    dispatch.physical = int(physicalDevice)
    device = s.VkDevice.of(dispatch.device or 0, dispatch)
    dispatch.world = World(f"the VkDevice {int(device):#x}", above.world)
    families = _families(pCreateInfo)
    dispatch.world.add(
        "VkDevice",
        int(device),
        features=_features(pCreateInfo),
        queues=len(families),
        families=families,
    )
    above.world.add("VkDevice", int(device))
    return device


def _families(info: Any) -> dict[int, int]:
    """The queue families that a create info asks for queues of, and how many of each."""
    found: dict[int, int] = {}
    for index in range(info.queueCreateInfoCount if info.pQueueCreateInfos else 0):
        each = info.pQueueCreateInfos[index]
        found[each.queueFamilyIndex] = max(found.get(each.queueFamilyIndex, 0), each.queueCount)
    return found


def _features(info: Any) -> frozenset[str]:
    """The names of the features that a create info turns on."""
    found = set()
    sources: list[Any] = [item for name, item in chain_of(info).items() if "Features" in name]
    if info.pEnabledFeatures:
        sources.append(info.pEnabledFeatures.contents)
    for source in sources:
        if isinstance(source, s.VkPhysicalDeviceFeatures2):
            source = source.features
        found |= {
            name
            for name in member_names(source)
            if name not in ("sType", "pNext") and getattr(source, name) == 1
        }
    return frozenset(found)


def vkDestroyDevice(device: s.VkDevice | None) -> None:
    """VK_VERSION_1_0. Raises ViewsAlive while mapped memory of it is still looked at."""
    if device is None:
        return
    prototype = p.vkDestroyDevice
    dispatch = calls.dispatch_of(prototype, device)
    for mapping in list(dispatch.views.values()):
        mapping.require_unused(f"destroy {device!r}")
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, [int(device), None])
    dispatch.vkDestroyDevice(int(device), None)
    dispatch.end()
    dispatch.views.clear()
    dispatch.world.close()
    if dispatch.parent is not None and dispatch.parent.world is not None:
        dispatch.parent.world.remove("VkDevice", int(device))


# -- addresses, for other libraries ---------------------------------------------------------------


def _address(command: Any) -> int:
    try:
        return ctypes.cast(command, ctypes.c_void_p).value or 0
    except (ctypes.ArgumentError, TypeError):
        return 0  # None, or a Python function of the embedded device


def vkGetInstanceProcAddr(instance: s.VkInstance, pName: str) -> int:
    """VK_VERSION_1_0. A command's address, 0 where there is none (the embedded device has none)."""
    return _proc_address(p.vkGetInstanceProcAddr, instance, pName)


def vkGetDeviceProcAddr(device: s.VkDevice, pName: str) -> int:
    """VK_VERSION_1_0. A device command's address, 0 where there is none."""
    return _proc_address(p.vkGetDeviceProcAddr, device, pName)


def _proc_address(prototype: Prototype, handle: Any, name: str) -> int:
    dispatch = calls.dispatch_of(prototype, handle)
    wanted = getattr(p, name, None)
    if isinstance(wanted, Prototype):
        if not dispatch.has(wanted.name):
            return 0
        return _address(getattr(dispatch, wanted.name))
    if prototype is p.vkGetDeviceProcAddr:
        command = dispatch.driver.device_command(
            dispatch.instance, dispatch.device, p.vkDeviceWaitIdle, name
        )
    else:
        command = dispatch.driver.instance_command(dispatch.instance, p.vkDeviceWaitIdle, name)
    return _address(command)
