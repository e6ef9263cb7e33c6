"""Which of CUDA's GPUs is the one that memory is on: the same UUID, or on Windows the same LUID."""

from __future__ import annotations

import functools
import sys
import threading
import uuid as uuids
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from extmem.errors import ExtmemError, Unsupported, plain
from extmem.interop.cuda.driver import bindings, call, current, ready

if TYPE_CHECKING:
    from extmem.share.passport import Place

__all__ = ["Gpu", "Wanted", "gpu_of", "gpus", "match", "seen", "wanted"]


class Wanted(NamedTuple):
    """A device as others know it."""

    name: str
    uuid: bytes | None  # 16 bytes
    luid: bytes | None  # 8 bytes, where the system has them


class Gpu(NamedTuple):
    """One of the GPUs that CUDA sees."""

    number: int  # CUDA's, and so DLPack's
    name: str
    uuid: bytes
    luid: bytes | None

    def current(self) -> AbstractContextManager[None]:
        """Have its primary context, which PyTorch and others use, be the calling thread's."""
        return current(_context(self.number))

    def __str__(self) -> str:
        return f"CUDA's GPU {self.number}, {_described(self)}"


def wanted(place: Place) -> Wanted:
    """Where a passport says that something is."""
    return Wanted(place.device_name, place.device_uuid, place.luid)


def match(device: Wanted, found: Sequence[Gpu], number: int | None = None) -> Gpu:
    """The GPU that a device is. Unsupported, with both sides, if it is none of them.

    number: the one that it has to be; None for any

    >>> ours = Wanted("NVIDIA H200", b"a" * 16, None)
    >>> gpus = [Gpu(0, "NVIDIA H200", b"b" * 16, None), Gpu(1, "NVIDIA H200", b"a" * 16, None)]
    >>> match(ours, gpus).number
    1
    >>> match(ours, gpus, 0)
    Traceback (most recent call last):
    extmem.errors.Unsupported: it is on NVIDIA H200 (UUID 61616161-6161-6161-6161-616161616161), \
which is not the GPU that was asked for, CUDA's GPU 0, NVIDIA H200 \
(UUID 62626262-6262-6262-6262-626262626262). It is CUDA's GPU 1
    """
    same = [each for each in found if _is(device, each)]
    if number is not None:
        chosen = next((each for each in found if each.number == number), None)
        if chosen is None:
            raise Unsupported(f"CUDA has no GPU {number}; it sees {_listed(found)}")
        if chosen not in same:
            where = f". It is CUDA's GPU {same[0].number}" if same else ""
            raise Unsupported(
                f"it is on {_described(device)}, which is not the GPU that was asked for, "
                f"{chosen}{where}"
            )
        return chosen
    if not same:
        raise Unsupported(
            f"it is on {_described(device)}, and CUDA sees {_listed(found)}: memory is shared "
            "within one GPU alone. Open that device (open_device(uuid=...)), or have CUDA see it "
            "(CUDA_VISIBLE_DEVICES)"
        )
    return same[0]


def _is(device: Wanted, gpu: Gpu) -> bool:
    if device.luid and gpu.luid:  # Windows' own name for it, and one for all APIs
        return device.luid == gpu.luid
    return device.uuid is not None and device.uuid == gpu.uuid


def _described(device: Wanted | Gpu) -> str:
    names = []
    if device.uuid is not None:
        names.append(f"UUID {uuids.UUID(bytes=device.uuid)}")
    if device.luid:
        names.append(f"LUID {device.luid.hex()}")
    return f"{plain(device.name)} ({', '.join(names) or 'of no known UUID'})"


def _listed(found: Sequence[Gpu]) -> str:
    return ", ".join(f"{each.number}: {_described(each)}" for each in found) or "no GPU"


# -- what is there --------------------------------------------------------------------------------


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA sees. They stay the same while a process lives."""
    ready()
    # The second form knows the parts of a GPU that is divided (MIG); later bindings have it alone.
    ask = "cuDeviceGetUuid_v2" if hasattr(bindings(), "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    found = []
    for number in range(call("cuDeviceGetCount")):
        device = call("cuDeviceGet", number)
        name = call("cuDeviceGetName", 256, device).split(b"\0")[0].decode(errors="replace")
        # Linux has no LUIDs, and CUDA answers with an error there.
        luid = bytes(call("cuDeviceGetLuid", device)[0])[:8] if sys.platform == "win32" else None
        found.append(Gpu(number, name, bytes(call(ask, device).bytes)[:16], luid or None))
    return tuple(found)


_contexts: dict[int, Any] = {}
_making = threading.Lock()


def _context(number: int) -> Any:
    """The primary context of a GPU. It is kept until the process ends: to make another one takes a
    fifth of a second, and whoever uses CUDA beside this has it anyway.
    """
    found = _contexts.get(number)
    if found is not None:
        return found
    with _making:
        if number not in _contexts:
            _contexts[number] = call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", number))
        return _contexts[number]


@functools.cache
def gpu_of(device: Wanted, number: int | None = None) -> Gpu:
    """The GPU that a device is, of those that CUDA sees."""
    return match(device, gpus(), number)


@functools.cache
def seen(device: Wanted) -> Gpu | str:
    """The same where nobody has asked for CUDA: the reason in place of an error."""
    try:
        return gpu_of(device)
    except ExtmemError as error:
        return str(error)
