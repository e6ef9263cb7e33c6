"""Where memory is a tensor: with the processor, or with CUDA."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import TYPE_CHECKING, Any

from extmem.errors import TensorError
from extmem.handles.remembering import can_be_cudas

if TYPE_CHECKING:
    from extmem.memory import Memory

__all__ = ["DEVICES", "place"]

log = logging.getLogger("extmem")

DEVICES = ("cpu", "cuda")
_VARIABLE = "EXTMEM_TENSORS"


def place(memory: Memory, wanted: str | None = None) -> str:
    """Where to make tensors of memory: "cpu" or "cuda".

    wanted: what the caller said; None for what EXTMEM_TENSORS says, or else for CUDA where that is
        installed, sees this GPU and can import this memory, and for the processor if not
    """
    said = "device is"
    if wanted is None and (found := os.environ.get(_VARIABLE)):
        wanted, said = found, f"{_VARIABLE} is"
    if wanted is not None and wanted not in DEVICES:
        raise ValueError(f"{said} {wanted!r}; expected 'cpu', 'cuda', or nothing for whichever is")
    _ = memory.handle  # says why, where it is closed
    if memory.image is not None and _optimal(memory):
        raise TensorError(
            f"{memory!r} has an image whose tiling only the driver knows, which is no array of "
            "numbers: take a copy (Device.readback), or CUDA's mipmapped array "
            "(Memory.cuda().image)"
        )
    if wanted == "cuda":
        return wanted
    why = _why_not(memory) if wanted is None else f"{said} {wanted!r}"
    if why is None:
        return "cuda"
    if memory.host_visible:
        return "cpu"
    raise TensorError(
        f"{memory!r} is not visible to the processor, and not CUDA's because {why}: allocate with "
        "memory='host_visible', or copy it into such memory with Device.copy"
    )


def _why_not(memory: Memory) -> str | None:
    """Why memory is not CUDA's by itself; None if it is."""
    if not can_be_cudas(memory.device.physical):
        return f"{memory.device.physical.name} is no GPU of NVIDIA's"
    if not memory.gives_handles:
        return "it was not allocated to be exported (export='opaque_fd')"
    if not _installed():
        return "cuda-bindings is not installed (pip install 'extmem[cuda]')"
    return _unseen(memory.device.physical)


def _optimal(memory: Memory) -> bool:
    info = memory.passport.image
    return info is not None and info.tiling != 1  # VK_IMAGE_TILING_LINEAR


@functools.cache
def _installed() -> bool:
    try:
        return importlib.util.find_spec("cuda.bindings") is not None
    except ImportError:
        return False


def _unseen(physical: Any) -> str | None:
    """Why CUDA does not see a device; None if it does. What it says is logged once."""
    from extmem.interop.cuda.devices import Wanted, seen

    found = seen(Wanted(physical.name, physical.device_uuid, physical.luid))
    if not isinstance(found, str):
        return None
    if physical.device_uuid not in _told:
        _told.add(physical.device_uuid)
        log.info("tensors of %s are the processor's: %s", physical.name, found)
    return found


_told: set[bytes] = set()
