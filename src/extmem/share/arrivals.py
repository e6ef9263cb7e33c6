"""Memory and handles in multiprocessing: put in a Queue, a Pipe or `Process(args=...)`, a `Memory`
arrives as an import of the same payload, and a `Handle` as a handle of it.

    ctx = multiprocessing.get_context("spawn")              # or "forkserver"
    worker = ctx.Process(target=work, args=(memory,))       # def work(memory): memory.numpy()...

What is pickled is a handle, its passport, and which driver and device to open. The other process
opens that once, keeps it until it ends, and imports. The memory that arrives is its own to close.

- A descriptor travels as multiprocessing's own do (`DupFd`).
- An NT handle is duplicated for the journey, and the receiver takes it out of the sender (as
  `DupHandle` does), so the sender has to be there still. What nobody takes goes with the sender.
- A KMT value is a number.

A Queue pickles in a thread of its own, soon after `put`: what is put there has to stay open until
it has arrived. `Process.start` and a Pipe's `send` pickle at once.

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
from extmem.handle_types import HandleType, memory_type
from extmem.handles.handle import Handle
from extmem.handles.system import kernel
from extmem.memory import Memory
from extmem.opening import open_device
from extmem.share import parcels
from extmem.vk._dispatch import FORKED, forked

__all__: list[str] = []

_DUPLICATE = 0x40  # PROCESS_DUP_HANDLE
_PREFERRED = ("fd", "nt", "kmt")  # a KMT value holds nothing on its way

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


# -- in the process that sends --------------------------------------------------------------------


def _refuse(what: Memory | Handle) -> Reduced:
    """What every pickler is told, but for multiprocessing's, whom this registers with."""
    if sys._getframe(1).f_globals.get("__name__") == "multiprocessing.reduction":
        from multiprocessing.reduction import ForkingPickler

        ForkingPickler.register(Memory, _reduce_memory)
        ForkingPickler.register(Handle, _reduce_handle)
        return _reduce_memory(what) if isinstance(what, Memory) else _reduce_handle(what)
    kind = "memory" if isinstance(what, Memory) else "a handle"
    raise TypeError(
        f"cannot pickle {what!r}: {kind} means nothing in bytes that may be read anywhere. Put it "
        "in a multiprocessing Queue, Pipe or Process(args=...), or send it through extmem.channel"
    )


copyreg.pickle(Memory, _refuse)
copyreg.pickle(Handle, _refuse)


def _reduce_memory(memory: Memory) -> Reduced:
    if not memory.exported:
        how = "was imported" if memory.imported is not None else "was allocated for itself"
        raise Unsupported(
            f"cannot send {memory!r} to another process: it {how}. Allocate what is to be shared "
            "with allocate(..., export='opaque_fd') ('opaque_win32' on Windows)"
        )
    kind = min(memory.exported, key=lambda each: _PREFERRED.index(each.kind))
    device = memory.device
    target = (device.driver, device.physical.device_uuid, device.checks)
    with memory.export(kind.name) as handle:
        return _arrived_memory, (*_packed(handle), *target)


def _reduce_handle(handle: Handle) -> Reduced:
    return _arrived_handle, _packed(handle)


def _packed(handle: Handle) -> tuple[Any, str, bytes | None]:
    """A handle's duplicate on its way, its type, and its passport."""
    kind = handle.handle_type
    travelling: Any = handle.value
    if kind.kind == "pointer":
        raise Unsupported(
            f"cannot send {handle!r} to another process: it is an address of this one"
        )
    if kind.kind == "nt":
        travelling = (os.getpid(), kernel().duplicate(handle.value))
    elif kind.kind == "fd":
        from multiprocessing import context, reduction

        passed_on: Any = reduction.__dict__["DupFd"]  # which Windows' has not
        starting = context.get_spawning_popen()
        if starting is None:
            travelling = passed_on(handle.value)
        else:
            # The child inherits this very descriptor, later. It has to be open until then, and
            # nothing says when that is but the end of the object that starts it.
            kept = handle.duplicate()
            weakref.finalize(starting, kept.close)
            travelling = passed_on(kept.value)
    return travelling, kind.name, None if handle.passport is None else handle.passport.encode()


# -- in the process that receives -----------------------------------------------------------------


def _arrived_handle(travelling: Any, type_name: str, passport: bytes | None) -> Handle:
    kind = memory_type(type_name)
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
    process_id, value = travelling
    if process_id == os.getpid():
        return int(value)
    source = kernel().open_process(_DUPLICATE, False, process_id)
    try:
        return kernel().duplicate(value, source=source, close_source=True)
    finally:
        kernel().close(source)


def _arrived_memory(
    travelling: Any,
    type_name: str,
    passport: bytes | None,
    driver: str,
    uuid: bytes,
    checks: str,
) -> Memory:
    with _arrived_handle(travelling, type_name, passport) as handle:
        if forked():
            raise Unsupported(f"memory arrived, but no driver can be used here: {FORKED}")
        return _device(driver, uuid, checks).import_memory(handle)


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
            except ViewsAlive:
                continue
            del _devices[key]
