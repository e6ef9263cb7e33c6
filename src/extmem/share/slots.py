"""The memories of a stream's slots as one side of it has them, and what a newcomer is told."""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from extmem.errors import DriverError, TensorError, Unsupported, ViewsAlive, plain
from extmem.handles.remembering import can_be_cudas
from extmem.interop import placing
from extmem.memory import Memory
from extmem.resources import Buffer
from extmem.share import formats
from extmem.share.formats import Format
from extmem.share.ring import LARGEST_FIELDS, MOST_SLOTS
from extmem.vk import memories as mapped

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device
    from extmem.interop.cuda.views import CudaArray, Order
    from extmem.share.pictures import Pictures
    from extmem.sync import Semaphore

__all__ = [
    "MOST_SUBSCRIBERS",
    "NO_IMAGES",
    "POLICIES",
    "Fields",
    "Greeting",
    "Slots",
    "check_device",
    "check_name",
    "check_policy",
    "decode_fields",
    "encode_fields",
    "listener_name",
]

VERSION = 3
MOST_SUBSCRIBERS = 64
POLICIES = ("latest", "all")
NO_IMAGES = (
    "the frames of this stream are no images: frame.buffer is what devices have of them, and "
    "publish(format=) makes images"
)
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


def check_device(device: Device | None) -> None:
    """TypeError if it is none."""
    from extmem.device import Device

    if device is not None and not isinstance(device, Device):
        raise TypeError(
            f"device is {device!r}; expected what extmem.open_device(...) returns, or None"
        )


# -- what travels ---------------------------------------------------------------------------------


class Greeting(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a newcomer is told, beside the handles of the board, its seat and the slots."""

    version: int
    refusal: Annotated[str, Meta(max_length=512)] = ""  # why there is no seat
    shape: formats.Extents = ()
    dtype: formats.Word = "|u1"
    policy: Literal["latest", "all"] = "latest"
    slots: Annotated[int, Meta(ge=2, le=MOST_SLOTS)] = 2
    seat: Annotated[bytes, Meta(min_length=16, max_length=16)] = bytes(16)  # Windows: its identity
    record: formats.Fields = ()  # of a dtype that is a record
    timeline: bool = False  # whether one comes last, for frames that are not written yet
    texels: formats.Texels | None = None  # of slots that are images; else they are plain memory

    @property
    def format(self) -> Format:
        """What each frame is. TypeError or ValueError if that can be none."""
        return formats.read(self.shape, self.dtype, self.record, self.texels)

    def encode(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Greeting:
        """From bytes of another process. ValueError if they are none.

        >>> Greeting.decode(Greeting(VERSION, "no seat is left").encode()).refusal
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
        for key, value in fields.items():
            _check_plain(key, value)
        data = msgspec.msgpack.encode(fields, enc_hook=_of_numpy)
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


def _check_plain(where: str, value: Any) -> None:
    """TypeError if it would arrive as something else: MessagePack has text for a datetime."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, (str, int)):
                raise TypeError(f"{where} has the key {plain(repr(key), 80)}")
            _check_plain(f"{where}[{key!r}]", each)
    elif isinstance(value, (list, tuple)):
        for at, each in enumerate(value):
            _check_plain(f"{where}[{at}]", each)
    elif value is not None and not isinstance(value, (int, float, str, bytes, bytearray)):
        _of_numpy(value, f"{where} is a {type(value).__name__}, {plain(repr(value), 80)}")


def _of_numpy(value: Any, what: str = "") -> Any:
    """A number of NumPy's as one of Python's; of anything else TypeError."""
    kind = getattr(value, "dtype", None)
    if getattr(value, "shape", None) == () and getattr(kind, "kind", "") in tuple("biuf"):
        plain_one = value.item()
        if isinstance(plain_one, (bool, int, float)) and not hasattr(plain_one, "dtype"):
            return plain_one
    hint = "; give .item() or .tolist() of it" if kind is not None else ""
    raise TypeError((what or f"there is a {type(value).__name__}") + hint)


def decode_fields(data: bytes) -> Fields:
    """From what a publisher wrote. ValueError if it is none.

    >>> decode_fields(encode_fields({"exposure": 0.5}))
    {'exposure': 0.5}
    """
    try:
        fields = msgspec.msgpack.decode(data, type=Fields, strict=True)
        for key, value in fields.items():
            _check_plain(key, value)
        return fields
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ValueError(
            f"the publisher wrote {len(data)} bytes that are no fields: {plain(error)}"
        ) from None


# -- the slots ------------------------------------------------------------------------------------


class Slots:
    """The memories, each with one array that every frame in it is looked at through, if the
    processor sees it, and one buffer or image for the device; and the timeline of frames that are
    promised.

    device: what to close with them, None for nothing
    pictures: the images that are in the memories, if there are any
    """

    def __init__(
        self,
        memories: list[Memory],
        format: Format,
        *,
        writable: bool,
        device: Device | None,
        timeline: Semaphore | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        import numpy as np

        self.memories = memories
        self.format = format
        self.timeline = timeline
        self.pictures = pictures
        self._writable = writable
        self._device = device
        self._where: str | None = None
        self._buffers: dict[int, Buffer] = {}
        self._on_gpu: dict[int, CudaArray] = {}
        self._arrays: list[np.ndarray[Any, Any]] = []
        self.host_visible = all(each.host_visible for each in memories)
        for memory in memories if self.host_visible and pictures is None else ():
            view = memory.view()
            # Of a buffer that may be written, NumPy lets anybody make the array writable again. And
            # of the makers of arrays it is this one that does not look behind a memoryview.
            view = view if writable else view.toreadonly()
            flat = np.frombuffer(view, format.dtype, math.prod(format.shape))
            self._arrays.append(flat.reshape(format.shape))
        # Where all memory is, there is nothing to do for each frame.
        self._coherent = not self.host_visible or all(
            "host_coherent" in each.memory_type.flags for each in memories
        )

    def array(self, slot: int, plane: int = 0) -> np.ndarray[Any, Any]:
        """The bytes of a slot, as what a frame is; of bfloat16 the bits, as uint16."""
        if self.pictures is not None:
            return self.pictures.array(slot, plane)
        if plane:
            raise IndexError(f"plane {plane}; the frames of this stream are no images (format=)")
        if not self.host_visible:
            raise Unsupported(
                "the frames of this stream are in memory that the processor does not see: copy "
                "from frame.buffer with Device.copy, take them on CUDA's GPU, or publish with "
                "memory='host_visible'"
            )
        return self._arrays[slot].view()

    def numpy(self, slot: int, plane: int = 0) -> np.ndarray[Any, Any]:
        """The same for people, who want no bits."""
        found = self.array(slot, plane)
        if not self.format.bfloat16:
            return found
        try:
            return found.view("bfloat16")
        except TypeError:
            raise TypeError(
                "NumPy has no bfloat16: import ml_dtypes, which teaches it; or look at the bits, "
                "frame.memory.numpy('uint16'); or take a library that has it, as "
                "torch.from_dlpack(frame)"
            ) from None

    @property
    def where(self) -> str:
        """Where tensors of the frames are made: "cpu" or "cuda"."""
        if self.format.dtype.fields is not None:
            raise TensorError(
                "frames of records are no tensors: look at them with frame.numpy(), and take a "
                "field of that, np.ascontiguousarray(frame.numpy()['x'])"
            )
        if self.pictures is not None:
            self.pictures.require_tensors()
        if self._where is None:
            self._where = placing.place(self.memories[0])
        return self._where

    @property
    def may_be_cudas(self) -> bool:
        """Whether a stream of CUDA's may have to do with the frames. Of images that is so also
        where there are no tensors of them, but mipmapped arrays.
        """
        if self.pictures is not None:
            return can_be_cudas(self.memories[0].device.physical)
        return self.where == "cuda"

    def on_gpu(self, slot: int, order: Order) -> CudaArray:
        """A frame on CUDA's GPU."""
        found = self._on_gpu.get(slot)
        if found is None:
            shape, dtype = self.format.shape, self.format.name
            offset, strides = 0, None
            if self.pictures is not None:
                shape, kind, offset, strides = self.pictures.images[slot]._lies()
                dtype = str(kind)
            found = self._on_gpu[slot] = (
                self.memories[slot]
                .cuda()
                .array(shape, dtype, offset=offset, strides=strides, read_only=not self._writable)
            )
        return found.ordered(order)

    def buffer(self, slot: int) -> Buffer:
        """The slot for work of the device; made when it is first asked for, and kept."""
        if self.pictures is not None:
            raise Unsupported("the slots of this stream are images, and no buffers: frame.image")
        found = self._buffers.get(slot)
        if found is None:
            memory = self.memories[slot]
            found = self._buffers[slot] = memory.device.buffer(memory)
            found.ownership.warned = True  # the stream says when it is written, and to whom
        return found

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
        self._on_gpu.clear()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        if self.timeline is not None:
            self.timeline.close()
        device = self.memories[0].device
        if self.pictures is not None:
            self.pictures.forget()
            if not device.closed and device._work.collect():
                self._close_late(device, self.pictures)
                return
            self.pictures.close()
        for memory in self.memories:
            self._free(memory)
        self._close_device()

    def _close_late(self, device: Device, pictures: Pictures) -> None:
        """The queue has work, and that may be with the images: they go when it is done."""

        def free() -> None:
            pictures.close()
            for memory in self.memories:
                self._free(memory)

        device._work.afterwards(free)
        if self._device is not None:  # ours: it waits for its work, TimeoutError if that has no end
            device, self._device = self._device, None
            device.close()

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
