"""`extmem matrix`: what every device shares, by which handle type, and who carries it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from extmem import vk
from extmem.capabilities import USAGE
from extmem.cli.devices import heading
from extmem.cli.drivers import each_driver
from extmem.cli.schemas import schema_of
from extmem.cli.words import one_line
from extmem.device import Device
from extmem.errors import DriverError
from extmem.handle_types import FENCE, MEMORY, MEMORY_NV, SEMAPHORE, HandleType, names_of
from extmem.images.formats import image_format
from extmem.images.infos import TILINGS, describe, names_of_usage, usage_of
from extmem.images.support import modifiers_of, support
from extmem.opening import open_device
from extmem.share.passport import ImageInfo
from extmem.signalling import features

__all__ = ["COLUMNS", "TYPES", "collect", "show"]

COLUMNS = ("buffer", "image", "semaphore", "timeline", "fence")
_NAMES = (each.name for table in (MEMORY, SEMAPHORE, FENCE, MEMORY_NV) for each in table)
TYPES = tuple(dict.fromkeys(_NAMES))  # each once, memory's first

# The bits of memory, semaphores and fences, and NV's of memory, are the same but for this one.
_EXPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)
_IMPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
_DEDICATED = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
_SYNC_EXPORTABLE = int(vk.VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT)
_SYNC_IMPORTABLE = int(vk.VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT)
_STAND_INS = ("d3d11_", "d3d12_")  # on the embedded device, which has no Direct3D beside it

Cell = dict[str, Any]


def collect(
    driver: str = "all",
    types: list[str] | None = None,
    format: str = "rgba8",
    tiling: str = "optimal",
    usage: list[str] | None = None,
) -> dict[str, Any]:
    """What the devices of one driver, or of all, answer, as plain data. Every answer is asked for.

    types: of these handle types alone
    format, tiling, usage: the image that is asked about, 2D; as `Device.image` takes them

    >>> [device] = collect("embedded", ["opaque_win32"])["devices"][:1]
    >>> row = device["rows"][0]
    >>> row["handle_type"], row["buffer"]["export"]
    ('opaque_win32', True)
    """
    wanted = _checked(types or [])
    image = _image(format, tiling, usage or [])
    devices: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    for found in each_driver(driver, missing):
        for physical in found.devices:
            with open_device(driver=found.name, index=physical.index) as device:
                rows = [_row(device, name, image) for name in wanted]
            devices.append(
                {
                    "driver": found.name,
                    "index": physical.index,
                    "name": physical.name,
                    "device_uuid": physical.device_uuid.hex(),
                    "rows": rows,
                }
            )
    about = {"format": format, "tiling": tiling, "usage": names_of_usage(image.usage).split("+")}
    return {"schema": schema_of("matrix"), "image": about, "devices": devices, "missing": missing}


def _checked(types: list[str]) -> tuple[str, ...]:
    for each in types:
        if each not in TYPES:
            raise typer.BadParameter(f"--type is {each}; expected some of {', '.join(TYPES)}")
    return tuple(each for each in TYPES if not types or each in types)


def _image(format: str, tiling: str, usage: list[str]) -> ImageInfo:
    try:
        # The extent does not matter to what is shared.
        return describe(
            (16, 16), image_format(format).name, tiling=tiling, usage=usage_of(usage or None)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


# -- the answers of one device --------------------------------------------------------------------


def _row(device: Device, name: str, image: ImageInfo) -> dict[str, Any]:
    """One handle type. A column that it does not exist for is null."""
    row: dict[str, Any] = {"handle_type": name}
    for handle_type in (*MEMORY, *MEMORY_NV):
        if handle_type.name == name:
            nv = handle_type in MEMORY_NV
            # NV specifies its types for images alone.
            row["buffer"] = None if nv else _cell(device, handle_type, _buffers)
            ask = _images_nv(image) if nv else _images(image)
            row["image"] = _cell(device, handle_type, ask)
    for handle_type in SEMAPHORE:
        if handle_type.name == name:
            row["semaphore"] = _cell(device, handle_type, _signals(timeline=False))
            row["timeline"] = _cell(device, handle_type, _signals(timeline=True))
    for handle_type in FENCE:
        if handle_type.name == name:
            row["fence"] = _cell(device, handle_type, _signals(timeline=False))
    return {"handle_type": name, **{column: row.get(column) for column in COLUMNS}}


# What a device answers: features in memory's bits, and the types that go together with this one.
Ask = Callable[[Device, HandleType], tuple[int, list[str]]]


def _cell(device: Device, handle_type: HandleType, ask: Ask) -> Cell:
    mask, compatible = 0, list[str]()
    if handle_type.extension in device.physical.extensions:
        mask, compatible = ask(device, handle_type)
    exports = bool(mask & _EXPORTABLE) and handle_type.exportable
    imports = bool(mask & _IMPORTABLE)
    shared = exports or imports
    return {
        "export": exports,
        "import": imports,
        "dedicated": shared and bool(mask & _DEDICATED),
        "compatible": compatible if shared else [],
        "how": _how(device, handle_type) if shared else None,
        "extension": handle_type.extension,
        "carried_by": device.physical.carried.get(handle_type.extension) if shared else None,
    }


def _how(device: Device, handle_type: HandleType) -> str:
    """native: the driver's own, on handles of this system; bridged: by other handles of the driver;
    emulated: on handles that this system, or resources that this device, does not really have.
    """
    if handle_type.extension in device.physical.carried:
        return "bridged"
    if device.driver != "embedded":
        return "native"
    windows = handle_type.kind in ("nt", "kmt")
    stand_in = handle_type.name.startswith(_STAND_INS) and handle_type.object == "memory"
    return "emulated" if stand_in or (windows and sys.platform != "win32") else "native"


def _buffers(device: Device, handle_type: HandleType) -> tuple[int, list[str]]:
    found = vk.vkGetPhysicalDeviceExternalBufferProperties(
        device.vk_physical,
        vk.VkPhysicalDeviceExternalBufferInfo(usage=USAGE, handleType=handle_type.bit),
    ).externalMemoryProperties
    return int(found.externalMemoryFeatures), names_of(found.compatibleHandleTypes)


def _images(image: ImageInfo) -> Ask:
    def ask(device: Device, handle_type: HandleType) -> tuple[int, list[str]]:
        mask = compatible = 0
        for modifier in _modifiers(device, image):
            found = support(device.vk_physical, image, handle_type, modifier)
            if found is not None:
                mask, compatible = mask | found.features, compatible | found.compatible
        return mask, names_of(compatible)

    return ask


def _modifiers(device: Device, image: ImageInfo) -> Iterator[int | None]:
    """Of the tiling by DRM format modifier each that there is; what any of them can do counts."""
    if image.tiling != TILINGS["drm"]:
        yield None
    elif "VK_EXT_image_drm_format_modifier" in device.physical.extensions:
        yield from modifiers_of(device.vk_physical, image.format)


def _images_nv(image: ImageInfo) -> Ask:
    def ask(device: Device, handle_type: HandleType) -> tuple[int, list[str]]:
        if image.tiling == TILINGS["drm"]:  # NV's question has no place for a modifier
            return 0, []
        try:
            found = vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(
                device.vk_physical,
                image.format,
                vk.VK_IMAGE_TYPE_2D,
                image.tiling,
                image.usage,
                0,
                handle_type.bit,
            )
        except DriverError as error:
            if error.result != vk.VK_ERROR_FORMAT_NOT_SUPPORTED:
                raise
            return 0, []
        mask = int(found.externalMemoryFeatures)
        return mask, names_of(found.compatibleHandleTypes, MEMORY_NV)

    return ask


def _signals(*, timeline: bool) -> Ask:
    def ask(device: Device, handle_type: HandleType) -> tuple[int, list[str]]:
        if timeline and not device.timelines:
            return 0, []
        found = features(device, handle_type, timeline)
        mask = _EXPORTABLE if found & _SYNC_EXPORTABLE else 0
        return mask | (_IMPORTABLE if found & _SYNC_IMPORTABLE else 0), []

    return ask


# -- for people -----------------------------------------------------------------------------------

_WIDE = 119  # columns of a terminal that has room for words
_LETTERS = {"export": "E", "import": "I", "dedicated": "D"}


def show(found: dict[str, Any]) -> None:
    """A table for each device; letters for words where there is little room."""
    console = Console(highlight=False)
    wide = console.width >= _WIDE
    for device in found["devices"]:
        console.print(heading(device))
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("  handle type", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, no_wrap=True)
        table.add_column("by", no_wrap=True)
        for row in device["rows"]:
            cells = [_words(row[column], wide) for column in COLUMNS]
            table.add_row(f"  {row['handle_type']}", *cells, _by(row))
        console.print(table)
        console.print()
    for each in found["missing"]:
        console.print(Text(one_line(f"{each['driver']}: none ({each['reason']})")))
    image = found["image"]
    if not wide:
        console.print("E exported, I imported, D with a dedicated allocation only, - neither")
    console.print(
        f"images: 2D, {image['format']}, {image['tiling']} tiling, {', '.join(image['usage'])} "
        "(--format, --tiling, --usage)"
    )


def _words(cell: Cell | None, wide: bool) -> str:
    if cell is None:
        return ""
    able = [each for each in _LETTERS if cell[each]]
    if wide:
        return " ".join(able) or "-"
    return "".join(_LETTERS[each] for each in able) or "-"


def _by(row: dict[str, Any]) -> str:
    """By whom a type is shared; where objects differ, of each kind."""
    hows = [row[column]["how"] for column in COLUMNS if row[column] is not None]
    return "/".join(dict.fromkeys(each for each in hows if each is not None)) or "-"
