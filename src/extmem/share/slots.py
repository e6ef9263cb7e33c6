"""The memories of a stream's slots as one side of it has them, and what a newcomer is told."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from extmem.errors import DriverError, ViewsAlive, plain
from extmem.memory import Memory
from extmem.share.ring import LARGEST_FIELDS, MOST_SLOTS
from extmem.vk import memories as mapped

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device

__all__ = [
    "MOST_SUBSCRIBERS",
    "POLICIES",
    "Fields",
    "Greeting",
    "Slots",
    "check_name",
    "check_policy",
    "decode_fields",
    "encode_fields",
    "format_of",
    "listener_name",
]

VERSION = 1
MOST_SUBSCRIBERS = 64
POLICIES = ("latest", "all")
_MOST_DIMENSIONS = 32  # as NumPy of old had it
_KINDS = "?biufc"  # of NumPy's: what is a plain number
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")

Fields = dict[str, Any]


def check_name(name: str) -> str:
    """A stream's name; ValueError if it cannot be one."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            f"the name of a stream is {name!r}; expected 1 to 32 letters, digits, dots, dashes and "
            "underscores, beginning with a letter or a digit"
        )
    return name


def listener_name(name: str) -> str:
    """Under which name the publisher of a stream listens (`extmem.channel`)."""
    return f"stream-{check_name(name)}"


def check_policy(policy: str) -> str:
    """ValueError if there is no such policy."""
    if policy not in POLICIES:
        raise ValueError(
            f"policy is {policy!r}; expected 'latest' (the newest frame, and nobody waits) or "
            "'all' (every frame in order, and the publisher waits)"
        )
    return policy


def format_of(shape: int | Sequence[int], dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """What a frame is, checked, and its bytes. TypeError or ValueError if it can be none."""
    import numpy as np

    kind = np.dtype(dtype)
    if kind.kind not in _KINDS:
        raise TypeError(f"dtype is {kind}; a frame has plain numbers: expected 'uint8', 'float32'…")
    extents = (shape,) if isinstance(shape, int) else tuple(shape)
    if len(extents) > _MOST_DIMENSIONS or not all(
        isinstance(each, int) and each > 0 for each in map(_whole, extents)
    ):
        raise ValueError(
            f"shape is {extents}; expected at most {_MOST_DIMENSIONS} whole numbers above 0"
        )
    whole = tuple(map(int, extents))
    return whole, kind, math.prod(whole) * kind.itemsize


def _whole(extent: Any) -> Any:
    return int(extent) if hasattr(extent, "__index__") else extent


# -- what travels ---------------------------------------------------------------------------------


class Greeting(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a newcomer is told, beside the handles of the board, its seat and the slots."""

    version: int
    refusal: Annotated[str, Meta(max_length=512)] = ""  # why there is no seat
    shape: Annotated[
        tuple[Annotated[int, Meta(gt=0, lt=1 << 62)], ...], Meta(max_length=_MOST_DIMENSIONS)
    ] = ()
    dtype: Annotated[str, Meta(max_length=8)] = "|u1"
    policy: Literal["latest", "all"] = "latest"
    slots: Annotated[int, Meta(ge=2, le=MOST_SLOTS)] = 2
    seat: Annotated[bytes, Meta(min_length=16, max_length=16)] = bytes(16)  # Windows: its identity

    def encode(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Greeting:
        """From bytes of another process. ValueError if they are none.

        >>> Greeting.decode(Greeting(1, "no seat is left").encode()).refusal
        'no seat is left'
        """
        try:
            version = msgspec.msgpack.decode(data, type=list[Any])[:1]
            if version != [VERSION]:
                raise ValueError(
                    f"a stream of version {plain(version, 40)}, and {VERSION} is known here; use "
                    "the same version of extmem on both sides"
                )
            return msgspec.msgpack.decode(data, type=cls, strict=True)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{len(data)} bytes that are no stream's: {plain(error)}") from None


def encode_fields(fields: Fields) -> bytes:
    """As bytes. TypeError or ValueError if that cannot be done, or they are too many."""
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise TypeError(f"the fields are {fields!r}; expected a dict with names as keys")
    try:
        data = msgspec.msgpack.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(
            f"the fields {fields!r} cannot be sent: {error}; expected numbers, text, bytes, and "
            "lists and dicts of them"
        ) from None
    if len(data) > LARGEST_FIELDS:
        raise ValueError(
            f"the fields take {len(data)} bytes, and {LARGEST_FIELDS} are allowed; put what is "
            "large into the frame"
        )
    return data


def decode_fields(data: bytes) -> Fields:
    """From what a publisher wrote. ValueError if it is none.

    >>> decode_fields(encode_fields({"exposure": 0.5}))
    {'exposure': 0.5}
    """
    try:
        return msgspec.msgpack.decode(data, type=Fields, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"the publisher wrote {len(data)} bytes that are no fields: {plain(error)}"
        ) from None


# -- the slots ------------------------------------------------------------------------------------


class Slots:
    """The memories, each with one array that every frame in it is looked at through.

    device: what to close with them, None for nothing
    """

    def __init__(
        self,
        memories: list[Memory],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        writable: bool,
        device: Device | None,
    ) -> None:
        import numpy as np

        self.memories = memories
        self._device = device
        self._arrays: list[np.ndarray[Any, Any]] = []
        for memory in memories:
            view = memory.view()
            # Of a buffer that may be written, NumPy lets anybody make the array writable again. And
            # of the makers of arrays it is this one that does not look behind a memoryview.
            view = view if writable else view.toreadonly()
            self._arrays.append(np.frombuffer(view, dtype, math.prod(shape)).reshape(shape))
        # Where all memory is, there is nothing to do for each frame.
        self._coherent = all("host_coherent" in each.memory_type.flags for each in memories)

    def array(self, slot: int) -> np.ndarray[Any, Any]:
        """The bytes of a slot, as what a frame is."""
        return self._arrays[slot].view()

    def flush(self, slot: int) -> None:
        """Make what the processor wrote visible to others."""
        if not self._coherent:
            self.memories[slot].flush()

    def invalidate(self, slot: int) -> None:
        """Make what others wrote visible to the processor."""
        if not self._coherent:
            self.memories[slot].invalidate()

    def close(self) -> None:
        """Free the memories, those that are looked at when nobody does so any more."""
        self._arrays.clear()
        for memory in self.memories:
            self._free(memory)
        self._close_device()

    def _free(self, memory: Memory) -> None:
        if memory.closed or memory.device.closed:
            return
        try:
            memory.close()
        except ViewsAlive:
            found = mapped.mapping_of(memory.device.handle, memory.handle)
            if found is not None:
                found.when_unused(lambda: self._freed_later(memory))

    def _freed_later(self, memory: Memory) -> None:
        # When the interpreter ends with living views, this is called as well, and they stay.
        with contextlib.suppress(ViewsAlive, DriverError):
            if not memory.device.closed:
                memory.close()
            self._close_device()

    def _close_device(self) -> None:
        if self._device is not None and all(each.closed for each in self.memories):
            device, self._device = self._device, None
            device.close()
