"""How semaphores and fences are made, and what a device can share them as."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from extmem import vk
from extmem.capabilities import PhysicalDevice
from extmem.errors import DriverError, Unsupported
from extmem.exporting import (
    Types,
    access_mask,
    attributes,
    explained,
    grants_reading_alone,
    kernel_object,
    need_windows,
)
from extmem.handle_types import FENCE, SEMAPHORE, HandleType, sync_type
from extmem.handles import nt_lookup
from extmem.hosting import host_device
from extmem.sync import Fence, Semaphore, Synchronizer

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = [
    "EXPORTABLE",
    "IMPORTABLE",
    "features",
    "fence",
    "has_timelines",
    "kind_of",
    "require",
    "semaphore",
]

Made = TypeVar("Made", bound=Synchronizer)

EXPORTABLE = int(vk.VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT)  # the same of fences
IMPORTABLE = int(vk.VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT)
_TABLES = {"semaphore": SEMAPHORE, "fence": FENCE}


def has_timelines(vk_physical: vk.VkPhysicalDevice, physical: PhysicalDevice) -> bool:
    """Whether a physical device has timeline semaphores."""
    version = tuple(int(part) for part in physical.api_version.split("."))
    if version < (1, 2) and "VK_KHR_timeline_semaphore" not in physical.extensions:
        return False
    found = vk.VkPhysicalDeviceTimelineSemaphoreFeatures()
    vk.vkGetPhysicalDeviceFeatures2(vk_physical, vk.VkPhysicalDeviceFeatures2(pNext=found))
    return bool(found.timelineSemaphore)


# -- making ---------------------------------------------------------------------------------------


def semaphore(
    device: Device,
    *,
    timeline: bool,
    value: int,
    export: Types,
    name: str | None,
    access: str | int | None,
    security: Any,
    host: bool,
) -> Semaphore:
    """`Device.semaphore`."""
    if host:
        if not timeline:
            raise ValueError("a semaphore of the host has to be a timeline: timeline=True")
        device = host_device()
    if not timeline and value:
        raise ValueError(f"value is {value}, but only timelines have values: timeline=True")
    if timeline and not device.timelines:
        raise Unsupported(f"{device.physical.name} has no timeline semaphores; timeline=False")
    types = _types(device, "semaphore", timeline, export)
    terms = _terms(device, types, name, access, security, vk.VkExportSemaphoreWin32HandleInfoKHR)
    info = vk.VkSemaphoreCreateInfo()
    if terms is not None:
        vk.link(info, terms)
    if types:
        mask = sum(each.bit for each in types)
        vk.link(info, vk.VkExportSemaphoreCreateInfo(handleTypes=mask))
    vk.link(info, kind_of(timeline, value))
    return _introduced(
        device,
        name,
        types,
        lambda: device._keep(
            Semaphore(
                device,
                vk.vkCreateSemaphore(device.handle, info),
                timeline=timeline,
                host=host,
                exported=types,
                imported=None,
                temporary=False,
                passport=None,
            )
        ),
    )


def fence(
    device: Device,
    *,
    signaled: bool,
    export: Types,
    name: str | None,
    access: str | int | None,
    security: Any,
) -> Fence:
    """`Device.fence`."""
    types = _types(device, "fence", False, export)
    terms = _terms(device, types, name, access, security, vk.VkExportFenceWin32HandleInfoKHR)
    info = vk.VkFenceCreateInfo(flags=vk.VK_FENCE_CREATE_SIGNALED_BIT if signaled else 0)
    if terms is not None:
        vk.link(info, terms)
    if types:
        mask = sum(each.bit for each in types)
        vk.link(info, vk.VkExportFenceCreateInfo(handleTypes=mask))
    return _introduced(
        device,
        name,
        types,
        lambda: device._keep(
            Fence(
                device,
                vk.vkCreateFence(device.handle, info),
                exported=types,
                imported=None,
                temporary=False,
                passport=None,
            )
        ),
    )


def kind_of(timeline: bool, value: int) -> vk.VkSemaphoreTypeCreateInfo:
    """What says which kind of semaphore it is."""
    kind = vk.VK_SEMAPHORE_TYPE_TIMELINE if timeline else vk.VK_SEMAPHORE_TYPE_BINARY
    return vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind, initialValue=value)


def _types(device: Device, object: str, timeline: bool, export: Types) -> tuple[HandleType, ...]:
    """The handle types of `export=`, all of which the device can export."""
    given = () if export is None else (export,) if isinstance(export, (str, int)) else export
    types = tuple(sync_type(object, each) for each in given)
    for each in types:
        require(device, each, timeline, EXPORTABLE)
    return types


def _terms(
    device: Device,
    types: tuple[HandleType, ...],
    name: str | None,
    access: str | int | None,
    security: Any,
    info: Any,
) -> Any:
    """The structure that says on which terms a Windows handle is exported; None for the usual."""
    if (name, access, security) == (None, None, None):
        return None
    need_windows(name, access, security, types)
    if grants_reading_alone(access) and any(_carrier(device, each) for each in types):
        raise Unsupported(
            f"the handles of {device.physical.name} are carried by descriptors, which cannot be "
            "restricted: leave access= out"
        )
    return info(name=name, dwAccess=access_mask(access), pAttributes=attributes(security))


def _carrier(device: Device, handle_type: HandleType) -> str | None:
    return device.physical.carried.get(handle_type.extension)


def _introduced(
    device: Device, name: str | None, types: tuple[HandleType, ...], make: Callable[[], Made]
) -> Made:
    """Make something, and have its name where importers look for it."""
    made = None
    try:
        with explained(types):
            made = make()
        if name is not None:
            # Some drivers give the name with the first handle, and a peer may ask for it now.
            made.export(next(each.name for each in types if each.named_on_export)).close()
    except BaseException as error:
        if made is not None:
            made.close()
        # A result of Vulkan's cannot say that a name is taken.
        if name and isinstance(error, DriverError):
            kind = kernel_object(device.driver, types[0].object)
            why = nt_lookup.why_not_given(name, kind)
            raise DriverError(error.result, error.call, why or error.hint) from None
        raise
    return made


# -- what a device can share ----------------------------------------------------------------------


def features(device: Device, handle_type: HandleType, timeline: bool) -> int:
    """What the device can do with a handle type."""
    if handle_type.extension not in device.extensions:
        return 0  # some drivers answer for types whose extension they do not have
    if handle_type.object == "fence":
        info = vk.VkPhysicalDeviceExternalFenceInfo(handleType=handle_type.bit)
        answer = vk.vkGetPhysicalDeviceExternalFenceProperties(device.vk_physical, info)
        return int(answer.externalFenceFeatures)
    about = vk.VkPhysicalDeviceExternalSemaphoreInfo(
        pNext=kind_of(timeline, 0) if device.timelines else None, handleType=handle_type.bit
    )
    found = vk.vkGetPhysicalDeviceExternalSemaphoreProperties(device.vk_physical, about)
    return int(found.externalSemaphoreFeatures)


def require(device: Device, handle_type: HandleType, timeline: bool, feature: int) -> None:
    """Unsupported, with the way out, if a device cannot export or import a handle type."""
    if features(device, handle_type, timeline) & feature:
        return
    what = "fences"
    if handle_type.object == "semaphore":
        what = f"{'timeline' if timeline else 'binary'} semaphores"
    verb = "export" if feature == EXPORTABLE else "import"
    able = [
        each.name
        for each in _TABLES[handle_type.object]
        if features(device, each, timeline) & feature
    ]
    way = f"it can {verb} them as {', '.join(able)}" if able else f"it {verb}s none"
    text = (
        f"{device.physical.name} ({device.driver} driver) cannot {verb} {what} as "
        f"{handle_type.name}; {way}"
    )
    if handle_type.object == "semaphore" and device.driver != "embedded":
        if verb == "export":
            text += ". A semaphore of the host can be shared beside memory of any driver"
            text += f": semaphore(export={handle_type.name!r}, host=True)"
        else:
            text += ". A semaphore of the host is imported with import_semaphore(..., host=True)"
    raise Unsupported(text)
