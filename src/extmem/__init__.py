"""GPU memory shared by its operating-system handle: between processes, instances and APIs.

    import extmem

    with extmem.open_device() as gpu:
        frame = gpu.allocate(1920 * 1080 * 4, export="opaque_fd")
        frame.numpy()[:] = 7
        handle = frame.export()          # pass it on, import it there

Or put the memory into a multiprocessing Queue, Pipe or Process(args=...); or send it to a process
that was started by nobody of yours, through `extmem.channel`. Or let frames flow to any number of
processes, without a copy: `extmem.publish` and `extmem.subscribe`.

`extmem.vk` has the specification's own names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from extmem.errors import (
    ClosedError,
    CommandUnavailable,
    DriverError,
    DriverNotFound,
    ExtmemError,
    OwnershipError,
    PassportError,
    Problem,
    QuarantineError,
    RuleViolation,
    StreamEnded,
    StreamFull,
    TensorError,
    Unsupported,
    ViewsAlive,
)

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Buffer",
    "ClosedError",
    "CommandUnavailable",
    "Device",
    "Draft",
    "DriverError",
    "DriverNotFound",
    "ExtmemError",
    "Fence",
    "Frame",
    "Handle",
    "Image",
    "Memory",
    "OwnershipError",
    "PassportError",
    "Problem",
    "QuarantineError",
    "Reader",
    "RuleViolation",
    "Semaphore",
    "Stream",
    "StreamEnded",
    "StreamFull",
    "Subscription",
    "TensorError",
    "Unsupported",
    "ViewsAlive",
    "channel",
    "from_dlpack",
    "open_device",
    "physical_devices",
    "publish",
    "subscribe",
    "vk",
    "wait_all",
    "wait_any",
    "win32",
]

if TYPE_CHECKING:
    from extmem import vk, win32
    from extmem.device import Device
    from extmem.handles.handle import Handle
    from extmem.images.image import Image
    from extmem.interop.array import Array
    from extmem.interop.finding import from_dlpack
    from extmem.memory import Memory
    from extmem.opening import open_device, physical_devices
    from extmem.resources import Buffer
    from extmem.share import channel
    from extmem.share.drafts import Draft
    from extmem.share.frames import Frame
    from extmem.share.stream import Reader, Stream, publish
    from extmem.share.subscribing import Subscription, subscribe
    from extmem.sync import Fence, Semaphore
    from extmem.together import wait_all, wait_any
else:
    # Where each name lives. It is loaded when it is first asked for: a program that only wants to
    # know the errors, or the directory's process, which stands in this package, needs none of it.
    _PLACES = {
        "Array": "extmem.interop.array",
        "Buffer": "extmem.resources",
        "Device": "extmem.device",
        "Draft": "extmem.share.drafts",
        "Fence": "extmem.sync",
        "Frame": "extmem.share.frames",
        "Handle": "extmem.handles.handle",
        "Image": "extmem.images.image",
        "Memory": "extmem.memory",
        "Reader": "extmem.share.stream",
        "Semaphore": "extmem.sync",
        "Stream": "extmem.share.stream",
        "Subscription": "extmem.share.subscribing",
        "channel": "extmem.share",
        "from_dlpack": "extmem.interop.finding",
        "open_device": "extmem.opening",
        "physical_devices": "extmem.opening",
        "publish": "extmem.share.stream",
        "subscribe": "extmem.share.subscribing",
        "wait_all": "extmem.together",
        "wait_any": "extmem.together",
    }

    def __getattr__(name):
        if name in ("vk", "win32"):
            return import_module(f"extmem.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # With the objects comes what multiprocessing has to know of them, and who tries imports.
        import_module("extmem.share.arrivals")
        import_module("extmem.share.quarantine")
        if name == "channel":
            import_module("extmem.share.channel")
        found = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
