"""A frame of a stream while its publisher writes it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from extmem.errors import ClosedError
from extmem.interop.dlpack import CPU, export
from extmem.memory import Memory
from extmem.share.slots import Fields

if TYPE_CHECKING:
    import numpy as np

    from extmem.share.stream import Stream

__all__ = ["Draft"]


class Draft:
    """A frame while it is written: what `Stream.frame` is."""

    def __init__(self, stream: Stream, timeout: float | None) -> None:
        self._stream = stream
        self._timeout = timeout
        self._slot: int | None = None
        self.fields: Fields = {}  # to go with it: numbers, text, bytes, lists and dicts of them

    def _own(self) -> int:
        if self._slot is None:
            raise ClosedError(
                "this frame is not being written: use it inside of `with stream.frame() as frame`"
            )
        return self._slot

    def numpy(self) -> np.ndarray[Any, Any]:
        """The slot as an array, to be written, without a copy. It has what it had last."""
        return self._stream._slots.array(self._own())

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the frame is, for DLPack: in the processor's memory."""
        self._own()
        return CPU

    def __dlpack__(self, **options: Any) -> Any:
        """The frame as a DLPack capsule, without a copy: `torch.from_dlpack(frame)`. The parameters
        are those of `Array.__dlpack__`.
        """
        return export(self.numpy(), **options)

    @property
    def memory(self) -> Memory:
        """The slot's memory, for work of the device that is done before the frame is left."""
        return self._stream._slots.memories[self._own()]

    def __enter__(self) -> Self:
        if self._slot is not None:
            raise RuntimeError("this frame is being written already; ask for another: frame()")
        self._slot = self._stream._claim(self._timeout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        slot, self._slot = self._own(), None
        self._stream._require_own()
        if error is None:
            self._stream._publish(slot, self.fields)
        else:
            self._stream._drop(slot)
