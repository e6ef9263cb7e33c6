"""Say which Vulkan devices a driver offers.

    python tools/probe_driver.py MANIFEST.json ...

Needs the Vulkan loader (libvulkan.so.1) and nothing else. Each manifest gets an instance of its
own, and all of them stay alive together: several drivers given here must bear each other in one
process. Ends with 1 if a manifest offers no device.
"""

import ctypes
import os
import sys
from ctypes import POINTER, Structure, byref, c_char, c_int32, c_uint8, c_uint32, c_void_p

STRUCTURE_TYPE_INSTANCE_CREATE_INFO = 1
STRUCTURE_TYPE_APPLICATION_INFO = 0
STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2 = 1000059001
STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES = 1000196000
API_VERSION_1_2 = 1 << 22 | 2 << 12  # the first one with driver properties in its core


class ApplicationInfo(Structure):
    _fields_ = [
        ("sType", c_int32),
        ("pNext", c_void_p),
        ("pApplicationName", c_void_p),
        ("applicationVersion", c_uint32),
        ("pEngineName", c_void_p),
        ("engineVersion", c_uint32),
        ("apiVersion", c_uint32),
    ]


class InstanceCreateInfo(Structure):
    _fields_ = [
        ("sType", c_int32),
        ("pNext", c_void_p),
        ("flags", c_uint32),
        ("pApplicationInfo", POINTER(ApplicationInfo)),
        ("enabledLayerCount", c_uint32),
        ("ppEnabledLayerNames", c_void_p),
        ("enabledExtensionCount", c_uint32),
        ("ppEnabledExtensionNames", c_void_p),
    ]


class DriverProperties(Structure):
    _fields_ = [
        ("sType", c_int32),
        ("pNext", c_void_p),
        ("driverID", c_int32),
        ("driverName", c_char * 256),
        ("driverInfo", c_char * 256),
        ("conformanceVersion", c_uint8 * 4),
    ]


class DeviceProperties2(Structure):
    _fields_ = [
        ("sType", c_int32),
        ("pNext", c_void_p),
        ("apiVersion", c_uint32),
        ("driverVersion", c_uint32),
        ("vendorID", c_uint32),
        ("deviceID", c_uint32),
        ("deviceType", c_int32),
        ("deviceName", c_char * 256),
        ("rest", c_uint8 * 1024),  # limits and sparse properties, more than 600 bytes
    ]


def probe(vulkan: ctypes.CDLL, manifest: str) -> list[str]:
    """The devices of the driver that this manifest names, one line for each."""
    # The loader reads these at every vkCreateInstance. It ignores the old name (the only one that
    # loaders before 1.3.207 know) where the new one is set.
    os.environ["VK_DRIVER_FILES"] = os.environ["VK_ICD_FILENAMES"] = os.path.abspath(manifest)
    application = ApplicationInfo(STRUCTURE_TYPE_APPLICATION_INFO, apiVersion=API_VERSION_1_2)
    create_info = InstanceCreateInfo(
        STRUCTURE_TYPE_INSTANCE_CREATE_INFO, pApplicationInfo=ctypes.pointer(application)
    )
    instance = c_void_p()
    result = vulkan.vkCreateInstance(byref(create_info), None, byref(instance))
    if result != 0:
        raise OSError(f"vkCreateInstance returned {result}")
    count = c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
    devices = (c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, byref(count), devices)
    lines = []
    for device in devices:
        driver = DriverProperties(STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES)
        properties = DeviceProperties2(STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2)
        properties.pNext = ctypes.addressof(driver)
        vulkan.vkGetPhysicalDeviceProperties2(c_void_p(device), byref(properties))
        lines.append(
            f"{properties.deviceName.decode()}; {driver.driverName.decode()} "
            f"{driver.driverInfo.decode()}; driverVersion {properties.driverVersion:#x}"
        )
    return lines


def main() -> int:
    vulkan = ctypes.CDLL("libvulkan.so.1")
    failed = False
    for manifest in sys.argv[1:]:
        try:
            lines = probe(vulkan, manifest) or ["no device"]
            failed = failed or lines == ["no device"]
        except OSError as error:
            lines = [str(error)]
            failed = True
        for line in lines:
            print(f"{manifest}: {line}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
