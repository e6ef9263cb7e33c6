"""Memory, images, semaphores, fences and handles in multiprocessing: put in a Queue, a Pipe or
`Process(args=...)`, a `Memory`, `Image`, `Semaphore` or `Fence` arrives as an import of the same
payload, and a `Handle` as a handle of it.

    ctx = multiprocessing.get_context("spawn")              # or "forkserver"
    worker = ctx.Process(target=work, args=(memory,))       # def work(memory): memory.numpy()...

What is pickled is a handle, its passport, and which driver and device to open. The other process
opens that once, keeps it until it ends, and imports. What arrives is its own to close.

- A descriptor travels as multiprocessing's own do (`DupFd`).
- An NT handle is duplicated out of the sender, which has to be there still. For a process that is
  started, the sender keeps one until the object that started it ends, whatever becomes of the
  process; what a Queue or a Pipe carries is the handle that a `Memory`, `Semaphore` or `Fence` has
  itself, so that what nobody takes is closed with that. A `Handle` has nobody to keep it: its
  duplicate is taken out of the sender (as `DupHandle` does), or goes with the sender.
- A KMT value is a number.

What is put in a Queue or sent through a Pipe has to stay open until it has arrived; what is given
to `Process(args=...)` until `start` returns.

Only multiprocessing's pickler may do this: bytes of `pickle.dumps` can end anywhere, where a handle
means nothing or something else. So both classes refuse to be pickled (`copyreg`), and its reducers,
which its pickler asks first, are registered on the first of these refusals that it meets. That way
neither importing extmem nor importing multiprocessing costs anything.

>>> import extmem, pickle
>>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64) as memory:
...     pickle.dumps(memory)
Traceback (most recent call last):
TypeError: ...
"""

from __future__ import annotations

import copyreg
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from extmem.device import Device
from extmem.errors import PassportError, Unsupported, ViewsAlive
from extmem.handle_types import HandleType, memory_type, sync_type
from extmem.handles.handle import Handle
from extmem.handles.system import kernel
from extmem.hosting import host_device
from extmem.images.image import Image
from extmem.memory import Memory
from extmem.opening import open_device
from extmem.share import parcels
from extmem.sync import Fence, Semaphore
from extmem.vk._dispatch import FORKED, forked

__all__: list[str] = []

_DUPLICATE = 0x40  # PROCESS_DUP_HANDLE
_PREFERRED = ("fd", "nt", "kmt")  # a KMT value holds nothing on its way

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


# -- in the process that sends --------------------------------------------------------------------


def _refuse(what: Any) -> Reduced:
    """What every pickler is told, but for multiprocessing's, whom this registers with."""
    if sys._getframe(1).f_globals.get("__name__") == "multiprocessing.reduction":
        from multiprocessing.reduction import ForkingPickler

        for kind, reduce in _REDUCERS.items():
            ForkingPickler.register(kind, reduce)
        return _REDUCERS[type(what)](what)
    called = "memory" if isinstance(what, Memory) else _CALLED[type(what)]
    raise TypeError(
        f"cannot pickle {what!r}: {called} means nothing in bytes that may be read anywhere. Put "
        "it in a multiprocessing Queue, Pipe or Process(args=...), or send it through "
        "extmem.channel"
    )


def _reduce_memory(memory: Memory | Image) -> Reduced:
    image = isinstance(memory, Image)
    if isinstance(memory, Image):
        memory = memory.memory
    if not memory.exported:
        how = "was imported" if memory.imported is not None else "was allocated for itself"
        raise Unsupported(
            f"cannot send {memory!r} to another process: it {how}. Make what is to be shared with "
            f"{'image' if image else 'allocate'}(..., export='opaque_fd') ('opaque_win32' on "
            "Windows)"
        )
    kind = min(memory.exported, key=lambda each: _PREFERRED.index(each.kind))
    device = memory.device
    target = (device.driver, device.physical.device_uuid, device.checks)
    with memory.export(kind.name) as handle:
        return _arrived_memory, (*_packed(handle, memory._first), *target, image)


def _reduce_sync(what: Semaphore | Fence) -> Reduced:
    kinds = [each for each in what.exported if not each.copy_transference]
    if not kinds:
        name = type(what).__name__.lower()
        raise Unsupported(
            f"cannot send {what!r} to another process. Make a {name} that is to be shared with "
            f"{name}(..., export='opaque_fd') ('opaque_win32' on Windows)"
        )
    kind = min(kinds, key=lambda each: _PREFERRED.index(each.kind))
    device = what.device
    target = (device.driver, device.physical.device_uuid, device.checks)
    host = isinstance(what, Semaphore) and what.host
    with what.export(kind.name) as handle:
        return _arrived_sync, (*_packed(handle, what._first), *target, host)


def _reduce_handle(handle: Handle) -> Reduced:
    return _arrived_handle, _packed(handle)


_REDUCERS: dict[type, Callable[[Any], Reduced]] = {
    Memory: _reduce_memory,
    Image: _reduce_memory,
    Semaphore: _reduce_sync,
    Fence: _reduce_sync,
    Handle: _reduce_handle,
}
_CALLED = {Image: "an image", Semaphore: "a semaphore", Fence: "a fence", Handle: "a handle"}
for _each in _REDUCERS:
    copyreg.pickle(_each, _refuse)


def _packed(handle: Handle, own: Handle | None = None) -> tuple[Any, str, str, bytes | None]:
    """A handle's duplicate on its way, of what it is, its type, and its passport.

    own: the NT handle that is closed with what is sent, if it has one
    """
    kind = handle.handle_type
    travelling: Any = handle.value
    if kind.kind == "pointer":
        raise Unsupported(
            f"cannot send {handle!r} to another process: it is an address of this one"
        )
    if kind.kind in ("nt", "fd"):
        from multiprocessing import context, reduction

        starting = context.get_spawning_popen()
        kept = own if kind.kind == "nt" else None
        if starting is not None:
            # The child takes this very handle, later. It has to be open until then, and nothing
            # says when that is but the end of the object that starts it.
            kept = handle.duplicate()
            weakref.finalize(starting, _give_back, kept)
        if kind.kind == "fd":
            passed_on: Any = reduction.__dict__["DupFd"]  # which Windows' has not
            travelling = passed_on((kept or handle).value)
        elif kept is not None:
            travelling = (os.getpid(), kept.value, False)
        else:
            travelling = (os.getpid(), kernel().duplicate(handle.value), True)
    passport = None if handle.passport is None else handle.passport.encode()
    return travelling, kind.object, kind.name, passport


def _give_back(kept: Handle) -> None:
    if kept.handle_type.kind == "nt" and forked():
        kept.detach()  # a number that means something to the parent alone
    else:
        kept.close()


# -- in the process that receives -----------------------------------------------------------------


def _arrived_handle(travelling: Any, object: str, type_name: str, passport: bytes | None) -> Handle:
    kind = memory_type(type_name) if object == "memory" else sync_type(object, type_name)
    value = _taken(travelling, kind)
    try:
        return parcels.handle_of(value, kind, passport)
    except parcels.Lie as lie:
        Handle(value, kind).close()
        raise PassportError(f"what arrived is {lie}") from None


def _taken(travelling: Any, kind: HandleType) -> int:
    """The number of what travelled, in this process, which owns it from now on."""
    if kind.kind == "fd":
        fd: int = travelling.detach()
        os.set_inheritable(fd, False)  # a child gets its descriptors inheritable
        return fd
    if kind.kind == "kmt":
        return int(travelling)
    if forked():
        raise Unsupported(f"a Windows handle arrived, but none can be used here: {FORKED}")
    process_id, value, ours = travelling  # ours: it was duplicated for us alone, to be taken out
    if process_id == os.getpid():
        return int(value) if ours else kernel().duplicate(value)
    source = kernel().open_process(_DUPLICATE, False, process_id)
    try:
        return kernel().duplicate(value, source=source, close_source=ours)
    finally:
        kernel().let_go(source)


def _arrived_sync(
    travelling: Any,
    object: str,
    type_name: str,
    passport: bytes | None,
    driver: str,
    uuid: bytes,
    checks: str,
    host: bool,
) -> Semaphore | Fence:
    with _arrived_handle(travelling, object, type_name, passport) as handle:
        if forked():
            raise Unsupported(f"a {object} arrived, but no driver can be used here: {FORKED}")
        device = host_device() if host else _device(driver, uuid, checks)
        if object == "fence":
            return device.import_fence(handle)
        return device.import_semaphore(handle, host=host)


def _arrived_memory(
    travelling: Any,
    object: str,
    type_name: str,
    passport: bytes | None,
    driver: str,
    uuid: bytes,
    checks: str,
    image: bool,
) -> Memory | Image:
    with _arrived_handle(travelling, object, type_name, passport) as handle:
        if forked():
            raise Unsupported(f"memory arrived, but no driver can be used here: {FORKED}")
        device = _device(driver, uuid, checks)
        return device.import_image(handle) if image else device.import_memory(handle)


_devices: dict[tuple[str, bytes, str], Device] = {}
_lock = threading.Lock()


def _device(driver: str, uuid: bytes, checks: str) -> Device:
    """The device of what arrives: opened once, and closed when the process ends."""
    key = (driver, uuid, checks)
    with _lock:
        if key not in _devices or _devices[key].closed:
            from multiprocessing import util

            if not _devices:
                # Not `atexit`: processes of forkserver end without it.
                util.Finalize(None, _close_devices, exitpriority=0)
            _devices[key] = open_device(driver=driver, uuid=uuid, checks=checks)
        return _devices[key]


def _close_devices() -> None:
    """At the end of the process. A device whose memory is still looked at goes with it."""
    with _lock:
        for key, device in list(_devices.items()):
            try:
                device.close()
            except (ViewsAlive, TimeoutError):
                continue
            del _devices[key]
