"""GPU memory shared by its operating-system handle: between processes, instances and APIs.

    import extmem

    with extmem.open_device() as gpu:
        frame = gpu.allocate(1920 * 1080 * 4, export="opaque_fd")
        frame.numpy()[:] = 7
        handle = frame.export()          # pass it on, import it there

Or put the memory into a multiprocessing Queue, Pipe or Process(args=...); or send it to a process
that was started by nobody of yours, through `extmem.channel`.

`extmem.vk` has the specification's own names.
"""

from __future__ import annotations

from extmem.errors import (
    ClosedError,
    CommandUnavailable,
    DriverError,
    DriverNotFound,
    ExtmemError,
    OwnershipError,
    PassportError,
    Problem,
    RuleViolation,
    Unsupported,
    ViewsAlive,
)

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "ClosedError",
    "CommandUnavailable",
    "Device",
    "DriverError",
    "DriverNotFound",
    "ExtmemError",
    "Fence",
    "Handle",
    "Image",
    "Memory",
    "OwnershipError",
    "PassportError",
    "Problem",
    "RuleViolation",
    "Semaphore",
    "Unsupported",
    "ViewsAlive",
    "channel",
    "open_device",
    "physical_devices",
    "vk",
    "wait_all",
    "wait_any",
    "win32",
]

from extmem import vk, win32
from extmem.device import Device
from extmem.handles.handle import Handle
from extmem.images.image import Image
from extmem.memory import Memory
from extmem.opening import open_device, physical_devices
from extmem.resources import Buffer
from extmem.share import arrivals as _arrivals  # noqa: F401 - so that multiprocessing knows them
from extmem.share import channel
from extmem.sync import Fence, Semaphore
from extmem.together import wait_all, wait_any


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
