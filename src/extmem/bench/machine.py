"""The machine that measures, as far as it matters to the figures."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from extmem import __version__
from extmem.bench.report import Missing

__all__ = [
    "alone_on",
    "available",
    "cores",
    "describe",
    "end_with_parent",
    "last_level_cache",
    "load",
    "missing",
    "stay_on",
]

# What is measured beside extmem: the module, the name in the package index, and what is lost.
_PEERS = ("numpy", "pyzmq", "iceoryx2", "vulkan", "torch")
_PACKAGES = {"zmq": "pyzmq"}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_UNKNOWN_CACHE = 64 << 20  # of a system that does not tell


def describe() -> dict[str, Any]:
    """All of it, as plain data. What cannot be known is null."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": len(cores()) or os.cpu_count(),
        "memory_bytes": _memory("MemTotal"),
        "last_level_cache_bytes": last_level_cache(),
        "system": f"{platform.system()} {platform.release()}",
        "scheduling": _scheduling(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "extmem": __version__,
        "peers": {name: version for name in _PEERS if (version := _version(name))},
        "gcc": _compiler(),
    }


def load() -> list[float] | None:
    """How many programs wanted to run in the last 1, 5 and 15 minutes; None on Windows."""
    if sys.platform == "win32":
        return None
    return [round(each, 2) for each in os.getloadavg()]


def missing(module: str, does: str) -> Missing | None:
    """What to say of a peer that cannot be imported; None if it can be."""
    if util.find_spec(module) is not None:
        return None
    package = _PACKAGES.get(module, module)
    return Missing(
        what=package,
        why=f"{package}, {does}, is not installed",
        remedy=f"{Path(sys.executable).name} -m pip install {package}",
    )


def cores() -> list[int]:
    """Those that this process may use; empty where the system does not say."""
    if sys.platform == "win32":
        return []
    return sorted(os.sched_getaffinity(0))


def alone_on(core: int | None) -> None:
    """Stay on one core, if there are two to choose from."""
    if core is not None and sys.platform != "win32":
        os.sched_setaffinity(0, {core})


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, whatever it waits for (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stay_on(chosen: list[int]) -> None:
    """Have these cores again."""
    if chosen and sys.platform != "win32":
        os.sched_setaffinity(0, chosen)


def available() -> int | None:
    """Bytes of memory that can still be had; None where the system does not say."""
    return _memory("MemAvailable")


def last_level_cache() -> int:
    """Bytes of the largest cache."""
    found = [0]
    for path in _CACHES.glob("index*/size"):
        number = re.fullmatch(r"(\d+)([KM])\s*", path.read_text())
        if number:
            found.append(int(number[1]) << (10 if number[2] == "K" else 20))
    return max(found) or _UNKNOWN_CACHE


def _processor() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or None


def _memory(what: str) -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(rf"^{what}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _scheduling() -> str | None:
    """ "fifo" means that nothing else could come between."""
    if sys.platform == "win32":
        return None
    names = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "round robin"}
    return names.get(os.sched_getscheduler(0), "other")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    found = shutil.which("gcc")
    if found is None:
        return None
    done = subprocess.run([found, "-dumpfullversion"], capture_output=True, text=True)
    return done.stdout.strip() or None
