"""`extmem matrix`: what it says is what the devices do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import extmem
from extmem import Unsupported
from extmem.cli import devices, matrix
from extmem.cli.matrix import COLUMNS, TYPES, collect
from extmem.handle_types import FENCE, MEMORY, SEMAPHORE

linux = sys.platform != "win32"


def shown(*arguments: str, columns: int = 80) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "matrix", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rows(driver: str, **options: Any) -> dict[str, dict[str, Any]]:
    """The rows of a driver's first device, by their handle types."""
    device = collect(driver, **options)["devices"][0]
    return {row["handle_type"]: row for row in device["rows"]}


def test_every_handle_type_has_a_row_and_a_cell_where_it_exists() -> None:
    found = rows("embedded")
    assert tuple(found) == TYPES
    for column, table in (("buffer", MEMORY), ("semaphore", SEMAPHORE), ("timeline", SEMAPHORE),
                          ("fence", FENCE)):  # fmt: skip
        existing = {each.name for each in table}
        assert {name for name, row in found.items() if row[column] is not None} == existing
    assert found["opaque_win32_nv"]["buffer"] is None
    assert found["opaque_win32_nv"]["image"]["import"]
    for row in found.values():
        for column in COLUMNS:
            cell = row[column]
            if cell is not None:
                assert (cell["how"] is None) == (not cell["export"] and not cell["import"])


def test_who_carries_a_handle_on_the_embedded_device() -> None:
    found = rows("embedded")
    assert found["opaque_win32"]["buffer"]["how"] == ("emulated" if linux else "native")
    assert found["opaque_win32"]["fence"]["how"] == ("emulated" if linux else "native")
    assert found["d3d12_resource"]["buffer"]["how"] == "emulated"  # there is no Direct3D in it
    assert found["d3d12_resource"]["buffer"]["dedicated"]
    assert found["host_allocation"]["buffer"]["how"] == "native"
    assert found["opaque_fd"]["buffer"]["how"] == ("native" if linux else None)


@pytest.mark.parametrize("column", ["buffer", "image", "semaphore", "timeline", "fence"])
def test_what_it_says_of_exports_is_what_happens(driver: str, column: str) -> None:
    """Each handle type that is exported is, and each that is not is refused."""
    found = rows(driver)
    with extmem.open_device(driver=driver, index=0) as gpu:
        make = {
            "buffer": lambda name: gpu.allocate(4096, export=name),
            "image": lambda name: gpu.image((16, 16), "rgba8", export=name),
            "semaphore": lambda name: gpu.semaphore(timeline=False, export=name),
            "timeline": lambda name: gpu.semaphore(timeline=True, export=name),
            "fence": lambda name: gpu.fence(export=name),
        }[column]
        for name, row in found.items():
            cell = row[column]
            if cell is None or name.endswith("_nv"):
                continue
            if cell["export"]:
                with make(name) as made:
                    assert not made.closed
            else:
                with pytest.raises(Unsupported):
                    make(name)


def test_it_agrees_with_what_devices_says(driver: str) -> None:
    found = rows(driver)
    physical = extmem.physical_devices(driver)[0]
    for name, row in found.items():
        cell = row["buffer"]
        if cell is not None:
            assert cell["export"] == physical.can_export(name)
            assert cell["import"] == physical.can_import(name)
            assert (cell["how"] == "bridged") == any(
                each.handle_type.name == name and each.bridged is not None
                for each in physical.sharing
            )


def test_images_depend_on_what_is_asked() -> None:
    """Which tilings and formats share is the device's answer, not a constant of ours."""
    optimal = rows("embedded", types=["opaque_win32"])["opaque_win32"]["image"]
    drm = rows("embedded", types=["opaque_win32"], tiling="drm")["opaque_win32"]["image"]
    assert optimal["export"]
    assert optimal["import"]
    with extmem.open_device(driver="embedded") as gpu:
        if drm["export"]:
            gpu.image((16, 16), "rgba8", tiling="drm", export="opaque_win32").close()
        else:
            with pytest.raises(Unsupported):
                gpu.image((16, 16), "rgba8", tiling="drm", export="opaque_win32")
    said = collect("embedded", ["opaque_win32"], "nv12", "linear", ["transfer_dst"])["image"]
    assert said == {"format": "nv12", "tiling": "linear", "usage": ["transfer_dst"]}


def test_types_and_drivers_can_be_chosen() -> None:
    found = collect("embedded", ["opaque_win32", "sync_fd"])
    assert {each["driver"] for each in found["devices"]} == {"embedded"}
    for device in found["devices"]:
        assert [row["handle_type"] for row in device["rows"]] == ["opaque_win32", "sync_fd"]


@pytest.mark.parametrize("columns", [80, 100, 130, 200])
def test_it_fits_the_terminal(columns: int) -> None:
    lines = shown("--driver", "embedded", columns=columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for name in TYPES:
        assert f"  {name} " in text  # none is cut
    assert ("export import" in text) == (columns >= 130)
    assert ("E exported, I imported" in text) == (columns < 130)


def test_people_and_programs_are_told_the_same() -> None:
    lines = shown("--driver", "embedded", "--type", "opaque_win32")
    row = next(each.split() for each in lines if each.startswith("  opaque_win32"))
    cells = rows("embedded", types=["opaque_win32"])["opaque_win32"]
    letters = [
        ("E" * cells[each]["export"] + "I" * cells[each]["import"]) or "-" for each in COLUMNS
    ]
    assert row == ["opaque_win32", *letters, cells["buffer"]["how"]]


def test_a_driver_that_is_not_there_is_told(tmp_path: Any) -> None:
    none = str(tmp_path / "none.json")
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "matrix", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "VK_DRIVER_FILES": none, "VK_ICD_FILENAMES": none},
    )
    found = json.loads(done.stdout)
    assert [each["driver"] for each in found["missing"]] == ["system"]
    assert {each["driver"] for each in found["devices"]} == {"embedded"}


@pytest.mark.parametrize("command", [matrix, devices])
@pytest.mark.parametrize(
    "name", ["Radeon [gfx1036] (RADV)", "Foo [/bar]", "[red]x :smile: \\", "a\x1b[2J"]
)
def test_names_of_devices_are_text(
    command: Any, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers choose them, and what they say of themselves: neither is markup."""
    monkeypatch.setenv("COLUMNS", "200")
    found = command.collect("embedded")
    for device in found["devices"]:
        device.update(name=name, driver_info=name, origin=name)
    found["missing"] = [{"driver": name, "reason": name}]
    command.show(found)
    shown_ = capsys.readouterr().out
    expected = name.replace("\x1b", r"\x1b")
    assert f"embedded 0: {expected}\n" in shown_
    assert f"{expected}: none ({expected})\n" in shown_
    assert shown_.count(expected) == (8 if command is devices else 4)
