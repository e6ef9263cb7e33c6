"""Semaphores that CUDA's streams signal and wait for, as well as Vulkan does."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import suppress
from typing import Any, Self

from extmem.errors import Unsupported
from extmem.handles.handle import Handle, caller
from extmem.interop.cuda import taking
from extmem.interop.cuda.devices import Gpu, gpu_of, wanted
from extmem.interop.cuda.driver import bindings, call
from extmem.interop.cuda.endings import Endings
from extmem.interop.cuda.streams import Lane, lane_of, number_of
from extmem.share.passport import SyncPassport

__all__ = ["CudaSemaphore", "import_semaphore"]


def import_semaphore(handle: Handle, *, device: int | None = None) -> CudaSemaphore:
    """Import a semaphore into CUDA, by a handle that `Semaphore.export` made, which stays the
    caller's. Its passport says whether it is a timeline, and which GPU it is of.

    device: the number of the GPU that it has to be of; None for any

        with done.export() as handle, cuda.import_semaphore(handle) as there:
            there.signal(7, torch.cuda.current_stream())
    """
    passport = handle.passport
    if not isinstance(passport, SyncPassport) or passport.place is None:
        raise Unsupported(
            f"{handle!r} has no passport that says which GPU it is of: pass what "
            "Semaphore.export() or a channel gave"
        )
    if passport.object != "semaphore":
        raise Unsupported("CUDA imports no fences: export a semaphore, a timeline for instance")
    timeline = bool(passport.timeline)
    table = taking.TIMELINES if timeline else taking.SEMAPHORES
    kind = taking.kind_of(handle.handle_type, table)
    gpu = gpu_of(wanted(passport.place), device)
    cu = bindings()
    about = cu.CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC()
    about.type = taking.named("CUexternalSemaphoreHandleType", kind)
    about.flags = 0

    def fill(number: int) -> None:
        if handle.handle_type.kind == "fd" or kind in (1, 9):
            about.handle.fd = number
        else:
            about.handle.win32.handle = number

    with gpu.current(), taking.lent(handle, fill):
        made = call("cuImportExternalSemaphore", about)
    return CudaSemaphore(made, gpu, timeline)


class CudaSemaphore:
    """A semaphore as CUDA has it. Made by `import_semaphore`; a context manager.

    It keeps the semaphore's payload alive, whatever becomes of the one that was exported. Several
    threads may use it.
    """

    def __init__(self, handle: Any, gpu: Gpu, timeline: bool) -> None:
        self.gpu = gpu
        self.timeline = timeline
        self._semaphore = handle
        self._endings = Endings("this semaphore of CUDA's")
        self._endings.then(self._destroy)
        self._made = caller()
        self._process = os.getpid()
        self._given = False  # whether a stream was ever told of it
        # Whose turn it is to take a timeline's next value, and to signal it by `signal_next`.
        self.turn = threading.RLock()
        self._signalled: tuple[int, Lane] | None = None  # by that, last

    def _destroy(self) -> None:
        with self.gpu.current():
            call("cuDestroyExternalSemaphore", self._semaphore)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._endings.closed

    def signal(self, value: int | None = None, stream: Any = None) -> None:
        """Signal it when a stream has come to this point; the call returns at once.

        value: of a timeline; None of a binary semaphore
        stream: of PyTorch or CuPy, or its number; None for CUDA's default stream
        """
        # Made anew for each call: others may be in the midst of theirs, also in this thread, where
        # the collector frees a tensor.
        about = bindings().CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS()
        about.params.fence.value = self._checked(value)
        self._enqueue("cuSignalExternalSemaphoresAsync", about, stream)

    def signal_next(self, value: int, stream: Any) -> None:
        """Signal a timeline whose values are given out one by one, when the stream has come to this
        point, and all values before are signalled, on whichever streams, or by whomever.

        Have `turn` from the time on when the value was given out.
        """
        lane = lane_of(number_of(stream))
        with self.turn:
            if value > 1 and self._signalled != (value - 1, lane):
                self.wait(value - 1, stream)
            self.signal(value, stream)
            self._signalled = value, lane

    def wait(self, value: int | None = None, stream: Any = None) -> None:
        """Have a stream wait for it before whatever it is given from now on; the call returns at
        once. The parameters are those of `signal`.
        """
        about = bindings().CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS()
        about.params.fence.value = self._checked(value)
        self._enqueue("cuWaitExternalSemaphoresAsync", about, stream)

    def _checked(self, value: int | None) -> int:
        if self.timeline:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
                raise TypeError(f"value is {value!r}; a timeline takes a number of 64 bits")
            return value
        if value is not None:
            raise ValueError(f"value is {value!r}, and a binary semaphore has none")
        return 0

    def _enqueue(self, what: str, parameters: Any, stream: Any) -> None:
        number = number_of(0 if stream is None else stream)
        self._endings.take()
        try:
            with self.gpu.current():
                self._given = True
                call(what, [self._semaphore], [parameters], 1, number)
        finally:
            self._endings.leave()

    def close(self) -> None:
        """Destroy it. What was given to streams before that must be done. Safe to call again."""
        self._endings.close()

    def give_up(self) -> None:
        """In a forked child: it is of the parent, and CUDA is not usable here."""
        self._endings.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        endings = getattr(self, "_endings", None)
        if endings is None or endings.closed or os.getpid() != self._process:
            return
        try:
            warnings.warn(
                f"{self!r} was never closed; made at {self._made}", ResourceWarning, stacklevel=2
            )
        finally:  # also where the warning is an error
            # CUDA forbids to destroy one that a stream still has to come to. To wait for that here
            # could be for ever, in the midst of anything. So it stays until the process ends.
            if not self._given:
                with suppress(Exception):  # CUDA may have ended before
                    self.close()

    def __repr__(self) -> str:
        kind = "timeline" if self.timeline else "binary"
        return f"<CudaSemaphore {kind}{', closed' if self.closed else ''}, on {self.gpu}>"
