"""Checks of Python's side: the environment's variables, and packages that are optional."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata

from extmem.cli.findings import Finding, note, ok, problem
from extmem.drivers.open import open_driver
from extmem.errors import ExtmemError
from extmem.vk.instances import LEVELS

__all__ = ["packages", "settings"]

# What each optional package is for, and how it is had.
_OPTIONAL = {
    "cuda-bindings": ("CUDA", "extmem[cuda]"),
    "torch": ("PyTorch's tensors", "torch"),
    "starlette": ("extmem view", "extmem[view]"),
    "uvicorn": ("extmem view", "extmem[view]"),
}
_WITH_FLAGS = (2, 1)  # the first NumPy whose tensors may be for reading alone


def settings() -> Iterator[Finding]:
    """Whether what the environment sets can be meant."""
    driver, checks = os.environ.get("EXTMEM_DRIVER"), os.environ.get("EXTMEM_CHECKS")
    wrong = False
    if driver and driver != "auto":
        try:
            open_driver(driver)
        except ExtmemError as error:
            wrong = True
            yield problem(
                f"EXTMEM_DRIVER is {driver}, and no program can open a device: {error}.",
                "Unset it, or set it to auto, embedded, system, or the path of a driver.",
                variable="EXTMEM_DRIVER",
            )
    if checks and checks not in LEVELS:
        wrong = True
        yield problem(
            f"EXTMEM_CHECKS is {checks}, and no program can open a device.",
            f"Unset it, or set it to one of {', '.join(LEVELS)}.",
            variable="EXTMEM_CHECKS",
        )
    elif checks == "off":
        wrong = True
        yield note(
            "EXTMEM_CHECKS is off: bad calls reach the driver, which may crash or hang.",
            "Unset it, unless it was measured that its speed is needed.",
            variable="EXTMEM_CHECKS",
        )
    if not wrong:
        names = [each for each in ("EXTMEM_DRIVER", "EXTMEM_CHECKS") if os.environ.get(each)]
        yield ok(f"{' and '.join(names) or 'No variable'} changes how devices are opened.")


def packages() -> Iterator[Finding]:
    """Which of the optional packages there are, and whether NumPy has all that is used of it."""
    there, missing = {}, []
    for name, (purpose, install) in _OPTIONAL.items():
        try:
            there[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name} (for {purpose}: pip install '{install}')")
    listed = ", ".join(f"{name} {version}" for name, version in there.items()) or "none"
    absent = f"; not installed: {', '.join(missing)}" if missing else ""
    yield ok(f"Optional packages: {listed}{absent}.", installed=there)
    version = metadata.version("numpy")
    if tuple(int(part) for part in version.split(".")[:2]) < _WITH_FLAGS:
        yield note(
            f"NumPy {version} has no tensors for reading alone, so read-only memory and the frames "
            "of streams are no DLPack tensors (torch.from_dlpack); numpy() works.",
            "pip install 'numpy>=2.1'",
            numpy=version,
        )
