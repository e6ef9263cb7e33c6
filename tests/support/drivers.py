"""The drivers that the tests run on, by name, and where each is found."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path

from extmem import DriverError, DriverNotFound, physical_devices, win32
from tests.support.rig import FORMS, OPAQUE_FD, Form, Kind, Rig
from tests.support.strict import missing

__all__ = ["NAMES", "extensions", "find", "warm"]

ROOT = Path(__file__).resolve().parent.parent.parent
UNPACKED = Path(os.environ.get("EXTMEM_TEST_DRIVERS") or ROOT / ".drivers")

_NVIDIA = (
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json",
)


def _lavapipe() -> str:
    found = sorted(glob.glob("/usr/share/vulkan/icd.d/lvp_icd*.json"))
    if not found:
        missing("lavapipe (on Debian and Ubuntu: apt-get install mesa-vulkan-drivers)")
    return found[0]


def _unpacked(manifest: str) -> Callable[[], str]:
    def look() -> str:
        path = UNPACKED / manifest
        if not path.is_file():
            missing(f"{path} (tools/test_drivers.sh gets it; ./test runs that)")
        return str(path)

    return look


def _nvidia() -> str:
    for path in _NVIDIA:
        if os.path.isfile(path):
            return path
    missing("an NVIDIA GPU with its driver", installable=False)


_FINDERS: dict[str, Callable[[], str]] = {
    "embedded": lambda: "embedded",
    "lavapipe": _lavapipe,
    "lavapipe-25": _unpacked("lavapipe-25/lvp_icd.json"),
    "swiftshader": _unpacked("swiftshader/swiftshader_icd.json"),
    "nvidia": _nvidia,
}

# Windows has no manifests of its own drivers, and nothing there shares memory yet.
NAMES = ("embedded",) if sys.platform == "win32" else tuple(_FINDERS)

_warm: dict[str, frozenset[str]] = {}  # each with what its device offers


def find(name: str) -> str:
    """What to pass as `driver=` for a name; skips, or fails if strict, where it is not there."""
    driver = _FINDERS[name]()
    try:
        devices = physical_devices(driver)
    except DriverNotFound as error:
        missing(str(error))
    except DriverError as error:
        missing(f"a device for the driver {driver} ({error})", installable=name != "nvidia")
    if not devices:
        missing(f"a device for the driver {driver}", installable=name != "nvidia")
    warm(driver)
    return driver


def extensions(driver: str) -> frozenset[str]:
    """The device extensions of what `find` returned."""
    warm(driver)
    return _warm[driver]


def warm(driver: str) -> None:
    """Have a driver do everything once, so that what it keeps for the life of the process is there
    before anything is counted. Twice, because some keep what they opened in the second instance.
    """
    if driver in _warm:
        return
    for _ in range(2):
        with Rig(driver) as rig:
            shared = "VK_KHR_external_memory_fd" in rig.extensions
            exported = rig.allocate(
                Kind(dedicated=False, host_visible=False), export=OPAQUE_FD if shared else 0
            )
            exported.write(bytes(exported.size))
            if shared:
                rig.import_fd(exported.export_fd(), exported.passport).read()
            for form in FORMS:
                if form.extension in rig.extensions:
                    _warm_form(rig, form)
            offered = frozenset(rig.offered)
    _warm[driver] = offered


def _warm_form(rig: Rig, form: Form) -> None:
    exported = rig.allocate(Kind(dedicated=False, host_visible=True), export=form)
    handle = exported.export_win32(form)
    rig.import_win32(handle, exported.passport, form).read()
    if not form.kmt:
        win32.CloseHandle(handle)
