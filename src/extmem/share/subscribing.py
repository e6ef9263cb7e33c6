"""Streams, a subscriber's side: frames of another process, without a copy.

    for frame in extmem.subscribe("camera"):
        show(frame.numpy())

A frame is looked at where the publisher wrote it, and that place is not written anew while somebody
has the frame.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from extmem import waiting
from extmem.errors import ClosedError, StreamEnded, Unsupported
from extmem.handles.words import SLICE
from extmem.share.joining import AGAIN, Frame, Line, reach
from extmem.share.ring import OVER
from extmem.share.slots import check_device, check_policy
from extmem.vk._dispatch import FORKED

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from extmem.device import Device

__all__ = ["Subscription", "subscribe"]

_LONGEST = 1_000_000  # seconds, eleven days, for a publisher to come


def subscribe(
    name: str,
    *,
    policy: str = "latest",
    timeout: float | None = None,
    device: Device | None = None,
    patience: float = 5.0,
    resume: float = 0.0,
    pending: bool = False,
    user: int | str | None = None,
) -> Subscription:
    """The frames of a stream that a process of this user publishes: an iterator, also for `async
    for`. It ends when the publisher closes the stream.

    policy: "latest": the newest frame that was not seen yet; "all": every frame in order, from the
        newest on, if the stream was published with that policy
    timeout: seconds to wait for each frame, TimeoutError after that; None for ever
    device: where the frames are imported; None opens the one that they are on
    patience: seconds to wait for a publisher to be there, a million at most;
        ConnectionRefusedError after that
    resume: seconds to wait for another publisher of the name when this one has died. It has to
        publish what is alike, and counts its frames anew

    Unsupported if the stream was not published with that policy, StreamFull if it has no seat left.
    A publisher that was killed is noticed within a quarter of a second; without another one in time
    that is StreamEnded.

    >>> import extmem
    >>> with extmem.publish("doctest", shape=3, dtype="uint8") as stream:
    ...     frames = extmem.subscribe("doctest")
    ...     with stream.frame() as frame:
    ...         frame.numpy()[:] = 1, 2, 3
    >>> [frame.numpy().tolist() for frame in frames]
    [[1, 2, 3]]
    """
    check_policy(policy)
    waiting.deadline_of(timeout)
    _check_seconds("patience", patience)
    _check_seconds("resume", resume)
    check_device(device)
    return Subscription(name, policy, timeout, device, resume, patience, pending, user)


class Subscription:
    """The frames of a stream; made by `subscribe`. An iterator, and a context manager.

    One that is forgotten closes itself. Frames that are held stay until they are released.
    """

    def __init__(
        self,
        name: str,
        policy: str,
        timeout: float | None,
        device: Device | None,
        resume: float,
        patience: float,
        pending: bool = False,
        user: int | str | None = None,
    ) -> None:
        self._line: Line | None = None
        self._left: Line | None = None  # what is about to be left
        self._frame: Frame | None = None  # what the next step releases
        self._pool: ThreadPoolExecutor | None = None  # what asyncio's steps sleep in
        self._over = False  # the publisher has ended it
        self._closed = False  # somebody has closed it, perhaps while it recovers
        self._guard = threading.Lock()  # of `_line` and `_closed`
        self._one = threading.Lock()  # of who recovers: that is done once
        self._recovering: Future[None] | None = None  # the same for asyncio's steps
        self.name = name
        self.policy = policy
        self.timeout = timeout  # seconds for each frame
        self.resume = resume  # seconds for another publisher to come
        self.pending = pending  # whether frames come before they are written
        self._device = device
        self._user = user
        self._spin = waiting.Spin()
        self._late_one = False  # `_frame` was taken, and not handed over: it is not written yet
        self._line = line = reach(name, policy, device, patience, user)
        self._format = line.slots.format
        self.shape = line.shape
        self.dtype = line.dtype  # of images: of their first plane
        self.bfloat16 = self._format.bfloat16  # whether the dtype's uint16 are its bits
        texels = self._format.texels
        self.format = None if texels is None else texels.format  # of images: "rgba8"

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has come to its end."""
        return self._line is None

    @property
    def publisher(self) -> int:
        """The number of the process that publishes."""
        return self._open().process_id

    def _open(self) -> Line:
        line = self._line
        if line is None:
            raise ClosedError(f"this subscription of {self.name!r} is closed")
        return line

    def __repr__(self) -> str:
        what = f"{self.name!r}, {self._format}, policy {self.policy!r}"
        return f"<Subscription {what}{', closed' if self._line is None else ''}>"

    # -- steps ----------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        self._release()
        deadline = waiting.deadline_of(self.timeout)
        while not self._over:
            line = self._open()
            try:
                if self._late_one:
                    if self._caught_up(line, deadline, deadline) and (frame := self._handed()):
                        return frame
                    continue
                heard = line.seat.bell.value
                if (frame := self._take(line)) is not None:
                    return frame
                if self._over:
                    break
                if self._late_one:
                    continue
                if line.lost():
                    if (frame := self._take(line)) is not None:  # its last one
                        return frame
                    if not self._late_one:
                        self._recover(line)
                elif not self._sleep(line, heard, deadline):
                    raise TimeoutError(self._late())
            except ValueError:
                self._open()  # another thread closed it
                raise
        self.close()
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        from asyncio import get_running_loop  # whoever awaits has loaded it; nobody else need

        self._release()
        loop = get_running_loop()
        deadline = waiting.deadline_of(self.timeout)
        while not self._over:
            line = self._open()
            try:
                if self._late_one:
                    until = _slice(deadline)
                    known = await loop.run_in_executor(
                        self._sleeper(), self._caught_up, line, until, deadline
                    )
                    if known and (frame := self._handed()):
                        return frame
                    continue
                heard = line.seat.bell.value
                if (frame := self._take(line)) is not None:
                    return frame
                if self._over:
                    break
                if self._late_one:
                    continue
                if line.lost():
                    if (frame := self._take(line)) is not None:  # its last one
                        return frame
                    if not self._late_one:
                        await self._recovered(line)
                elif deadline is not None and time.monotonic_ns() >= deadline:
                    raise TimeoutError(self._late())
                else:  # in slices, so that a step that is cancelled leaves nobody asleep for long
                    until = _slice(deadline)
                    await loop.run_in_executor(self._sleeper(), self._sleep, line, heard, until)
            except ValueError:
                self._open()
                raise
        self.close()
        raise StopAsyncIteration

    def _late(self) -> str:
        return (
            f"no frame of {self.name!r} came from process {self._open().process_id} in "
            f"{self.timeout:g} s"
        )

    def _take(self, line: Line) -> Frame | None:
        """The next frame if it is there; `_over` is set if none comes any more."""
        over = line.seat.state == OVER  # first: what was offered before that is there
        while (frame := line.take()) is not None:
            self._frame = frame
            if self.pending:
                return frame
            try:
                if frame._seen_written():
                    return frame
                self._late_one = True
                return None
            except StreamEnded:  # it never will be; but a later one may
                self._release(soon=False)
        self._over = over
        return None

    def _caught_up(self, line: Line, until: int | None, deadline: int | None) -> bool:
        """Whether it is known if the frame that was late is written, or nobody writes it any more.
        It is only looked at here: an asyncio step may have been cancelled meanwhile.

        until: when to return, in nanoseconds; deadline: from when on that is TimeoutError
        """
        frame = self._frame
        if frame is None:  # another step has seen to it
            return True
        try:
            while not frame._written(until):
                if line.seat.abandoned:
                    frame._written(0)  # it may have kept the promise last of all
                    return True
                now = time.monotonic_ns()
                if deadline is not None and now >= deadline:
                    raise TimeoutError(
                        f"frame {frame.sequence} of {self.name!r} was handed over, and process "
                        f"{line.process_id}, which promised it, has not written it in "
                        f"{self.timeout:g} s"
                    )
                if until is not None and now >= until:
                    return False
        except StreamEnded:
            pass
        return True

    def _handed(self) -> Frame | None:
        """The frame that was late; None if nobody writes it any more, and it is dropped."""
        frame, self._late_one = self._frame, False
        if frame is not None and frame._until:
            self._release(soon=False)
            return None
        return frame

    def _sleep(self, line: Line, heard: int, deadline: int | None) -> bool:
        """Until the bell has rung again, or the publisher is gone; False if time is over."""
        bell = line.seat.bell

        def ready() -> bool:
            return bell.value != heard

        def sleep(nanoseconds: int) -> bool:
            if bell.wait(lambda value: value != heard, min(nanoseconds / 1e9, SLICE)):
                return True
            line.seat.settle()
            return line.lost()

        return waiting.wait(ready, sleep, self._spin, deadline, polite=False)

    def _sleeper(self) -> ThreadPoolExecutor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(1, f"extmem stream {self.name}")
        return self._pool

    async def _recovered(self, line: Line) -> None:
        """`_recover` in the executor's thread. A step that is cancelled leaves it running, and the
        next one finds it.
        """
        from asyncio import sleep

        running = self._recovering
        if running is None:
            running = self._recovering = self._sleeper().submit(self._recover, line)
        while not running.done():
            await sleep(AGAIN)
        if self._recovering is running:
            self._recovering = None
        running.result()

    def _recover(self, line: Line) -> None:
        """The publisher has died: go on with another one, if there is one in time."""
        with self._one:
            if self._line is not line:  # another thread has done it, or has closed it
                return
            if line.seat.forked:
                raise Unsupported(f"this subscription cannot be used here: {FORKED}")
            line.let_go()
            why = f"process {line.process_id}, which published {self.name!r}, has died"
            try:
                if not self.resume:
                    raise StreamEnded(
                        f"{why}; subscribe again once it is back, or wait for that: resume="
                    )
                new = self._another(why)
                if new.slots.format != self._format:
                    new.leave()
                    raise StreamEnded(
                        f"{why}; process {new.process_id} took the name, and publishes "
                        f"{new.slots.format} instead of {self._format}; subscribe again"
                    )
            except BaseException:
                self._leave()
                raise
            with self._guard:
                closed = self._closed
                if not closed:
                    self._line = new
            if closed:
                new.leave()
                self._require_open()
            line.leave()

    def _another(self, why: str) -> Line:
        until = time.monotonic() + self.resume
        while True:
            self._require_open()
            # In slices, so that whoever closes it does not wait for all of that.
            left = min(max(until - time.monotonic(), 0), SLICE)
            try:
                return reach(self.name, self.policy, self._device, left, self._user)
            except (ConnectionRefusedError, StreamEnded):
                if time.monotonic() >= until:
                    raise StreamEnded(
                        f"{why}; nobody else published it within {self.resume:g} s"
                    ) from None
            except TimeoutError:
                if time.monotonic() >= until:
                    raise
            time.sleep(AGAIN)

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this subscription of {self.name!r} is closed")

    # -- the end --------------------------------------------------------------------------------

    def _release(self, soon: bool = True) -> None:
        """The frame before is over, unless it is kept. soon: another one is taken at once."""
        if self._late_one:  # it was never handed over: it comes next
            return
        frame = self._frame
        if frame is not None:
            if not frame._kept:
                frame._line.give_back(frame, soon and frame._line is self._line)
            if self._frame is frame:  # last: Ctrl-C may have come before
                self._frame = None

    def _leave(self) -> None:
        with self._guard:  # whoever has it leaves it, once
            if self._line is not None:
                self._left, self._line = self._line, None
        line = self._left
        if line is not None:
            line.leave()
            self._left = None  # last: what was interrupted is done by the next call

    def close(self) -> None:
        """Give the seat back, and with it the frame, unless that is kept. Safe to call again."""
        with self._guard:
            self._closed = True
        self._late_one = False
        self._release(soon=False)
        self._leave()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The frame that was seen last may still be looked at: it goes with its own last reference.
        if getattr(self, "_line", None) is not None or getattr(self, "_left", None) is not None:
            self._leave()
        if getattr(self, "_pool", None) is not None:
            self._pool.shutdown(wait=False)  # type: ignore[union-attr]


def _check_seconds(what: str, seconds: float) -> None:
    """TypeError or ValueError if it is no time that a publisher can be waited for."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what}= is {seconds!r}; expected seconds")
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{what}= is {seconds}; expected seconds, from 0 to {_LONGEST}")


def _slice(deadline: int | None) -> int:
    """The end of a short wait that begins now, in nanoseconds of the clock that never goes back."""
    until = time.monotonic_ns() + int(SLICE * 1e9)
    return until if deadline is None else min(until, deadline)
