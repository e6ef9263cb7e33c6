"""Handles for CUDA: of what was exported here, and of what was imported here before."""

from __future__ import annotations

import logging
from typing import Any

from extmem.errors import Unsupported
from extmem.handles.handle import Handle

__all__ = ["can_be_cudas", "origin", "remembered"]

log = logging.getLogger("extmem")


def can_be_cudas(physical: Any) -> bool:
    """Whether a device, by its name and its driver's, may be one of CUDA's: to ask costs a lot."""
    return "NVIDIA" in f"{physical.name} {physical.driver}".upper()


def remembered(handle: Any, made: Any) -> Handle | None:
    """Of an import: a duplicate of the handle it came by, for CUDA; None on others than NVIDIA.

    NVIDIA's driver does not export again what it has imported.
    """
    source = made.imported
    if source is None or source.kind not in ("fd", "nt") or not can_be_cudas(made.device.physical):
        return None
    if not isinstance(handle, (Handle, int)):
        return None
    lent = Handle(int(handle), source, passport=made.passport)
    try:
        return lent.duplicate()
    except OSError as error:  # the import itself is good: whoever wants CUDA is told then
        log.warning("no handle was kept for CUDA: %s", error)
        return None
    finally:
        lent.detach()


def origin(thing: Any, types: tuple[str, ...]) -> Handle:
    """A handle of memory or a semaphore for CUDA: exported, or a duplicate of what it came by.

    types: the handle types that CUDA takes
    """
    for each in thing.exported:
        if each.name in types:
            found: Handle = thing.export(each.name)
            return found
    if thing._origin is not None:
        again: Handle = thing._origin.duplicate()
        return again
    raise Unsupported(
        f"{thing!r} has no handle that CUDA could import: make it with export='opaque_fd' "
        "('opaque_win32' on Windows)"
    )
