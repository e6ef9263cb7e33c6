"""`extmem devices`: every device of every driver found."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extmem.capabilities import PhysicalDevice
from extmem.cli.drivers import each_driver
from extmem.cli.schemas import schema_of
from extmem.cli.words import one_line, size_of
from extmem.vk.instances import choose_driver

__all__ = ["collect", "heading", "show"]


def collect(driver: str = "all") -> dict[str, Any]:
    """The devices of one driver, or of all, as plain data.

    >>> [each["driver"] for each in collect("embedded")["devices"]]
    ['embedded', 'embedded']
    """
    missing: list[dict[str, str]] = []
    found = [
        _plain(each.name, each.origin, device)
        for each in each_driver(driver, missing)
        for device in each.devices
    ]
    choice = choose_driver("auto" if driver == "all" else driver)
    return {
        "schema": schema_of("devices"),
        "devices": found,
        "missing": missing,
        "default": {"driver": choice.driver.name, "reason": choice.reason},
    }


def _plain(driver: str, origin: str, device: PhysicalDevice) -> dict[str, Any]:
    return {
        "driver": driver,
        "origin": origin,
        "index": device.index,
        "name": device.name,
        "kind": device.kind,
        "api_version": device.api_version,
        "driver_info": device.driver,
        "device_uuid": device.device_uuid.hex(),
        "driver_uuid": device.driver_uuid.hex(),
        "luid": device.luid.hex() if device.luid is not None else None,
        "node_mask": device.node_mask,
        "memory_types": [
            {
                "index": each.index,
                "flags": list(each.flags),
                "heap": each.heap,
                "heap_size": each.heap_size,
            }
            for each in device.memory_types
        ],
        "export": [s.handle_type.name for s in device.sharing if s.exportable],
        "import": [s.handle_type.name for s in device.sharing if s.importable],
        "dedicated_only": [s.handle_type.name for s in device.sharing if s.dedicated_only],
        "bridged": [s.handle_type.name for s in device.sharing if s.bridged],
        "nv": {
            "export": [s.handle_type.name for s in device.sharing_nv if s.exportable],
            "import": [s.handle_type.name for s in device.sharing_nv if s.importable],
            "dedicated_only": [s.handle_type.name for s in device.sharing_nv if s.dedicated_only],
            "bridged": [s.handle_type.name for s in device.sharing_nv if s.bridged],
        },
        "carried": dict(device.carried),
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for device in found["devices"]:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        driver = f"{device['driver']} ({device['origin']}); {device['driver_info']}"
        table.add_row("driver", Text(one_line(driver)))  # no markup: the driver chose the words
        table.add_row("Vulkan", f"{device['api_version']}, {device['kind'].replace('_', ' ')}")
        table.add_row("device UUID", device["device_uuid"])
        table.add_row("driver UUID", device["driver_uuid"])
        table.add_row("LUID", device["luid"] or "none")
        for each in device["memory_types"]:
            flags = " ".join(each["flags"]) or "no flags"
            table.add_row(f"memory {each['index']}", f"{flags} ({size_of(each['heap_size'])})")
        table.add_row("exports", _listed(device["export"], device["bridged"]))
        table.add_row("imports", _listed(device["import"], device["bridged"]))
        if device["dedicated_only"]:
            table.add_row("dedicated", "always for " + ", ".join(device["dedicated_only"]))
        nv = device["nv"]
        if nv["export"] or nv["import"]:
            table.add_row("NV exports", _listed(nv["export"], nv["bridged"]))
            table.add_row("NV imports", _listed(nv["import"], nv["bridged"]))
        for extension, carrier in device["carried"].items():
            table.add_row("carried", f"{extension} by {carrier}")
        console.print(heading(device))
        console.print(table)
        console.print()
    for each in found["missing"]:
        console.print(Text(one_line(f"{each['driver']}: none ({each['reason']})")))
    default = found["default"]
    chosen = f"open_device() takes the {default['driver']} driver: {default['reason']}"
    console.print(Text(one_line(chosen)))


def heading(device: dict[str, Any]) -> Text:
    """A device in bold. Its name is the driver's word: no markup, and nothing a terminal obeys.

    >>> heading({"driver": "system", "index": 0, "name": "Radeon [gfx1036]"}).plain
    'system 0: Radeon [gfx1036]'
    """
    return Text(one_line(f"{device['driver']} {device['index']}: {device['name']}"), "bold")


def _listed(names: list[str], bridged: list[str]) -> str:
    """Handle types, with those marked that are not the driver's own."""
    return ", ".join(f"{x} (bridged)" if x in bridged else x for x in names) or "nothing"
