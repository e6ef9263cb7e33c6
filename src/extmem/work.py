"""What a device was given to do: submissions, what they wait for, and what they signal.

A submission that runs uses its semaphores, its fence and its commands, so they are kept until it
has ended, whatever becomes of the objects that its caller held.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extmem import vk, waiting
from extmem.awaiting import Waiter
from extmem.errors import ClosedError, DriverError, RuleViolation
from extmem.lives import Life
from extmem.reading import FenceStatus

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.sync import Fence, Semaphore

__all__ = ["Moments", "Recorder", "Work"]

Recorder = Callable[[vk.VkCommandBuffer], None]
# Binary semaphores, bare, and timelines with the value to wait for or to signal.
Moments = Iterable["Semaphore | tuple[Semaphore, int]"]

_Pairs = list[tuple[Any, Any]]  # a semaphore, and a value; None of a binary one

_EVERYTHING = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
_MOST_KITS = 16  # that are kept for what is submitted later
_PATIENCE = 5.0  # seconds that a device which is closed gives to what runs on it


class Kit:
    """What one submission takes and the next one takes again: a fence, and a command buffer once
    there are commands.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.fence = vk.vkCreateFence(device.handle, vk.VkFenceCreateInfo())
        self._pool: vk.VkCommandPool | None = None
        self._commands: vk.VkCommandBuffer | None = None
        self.whole = False  # it went all the way to the queue, so that the next one may have it

    def recorded(self, record: Recorder) -> vk.VkCommandBuffer:
        """Commands, to be submitted once."""
        commands = self._commands
        if commands is None:
            commands = self._commands = self._made()
        once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
        vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
        record(commands)
        vk.vkEndCommandBuffer(commands)
        return commands

    def _made(self) -> vk.VkCommandBuffer:
        device = self._device.handle
        if self._pool is None:
            self._pool = vk.vkCreateCommandPool(
                device,
                vk.VkCommandPoolCreateInfo(
                    flags=vk.VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                    queueFamilyIndex=self._device.queue_family,
                ),
            )
        (commands,) = vk.vkAllocateCommandBuffers(
            device, vk.VkCommandBufferAllocateInfo(commandPool=self._pool, commandBufferCount=1)
        )
        return commands

    def close(self) -> None:
        """Once nothing of it runs."""
        device = self._device.handle
        vk.vkDestroyFence(device, self.fence)
        if self._pool is not None:
            vk.vkDestroyCommandPool(device, self._pool)


@dataclass(slots=True)
class Submission:
    """What is in the queue, and what it needs until it has ended."""

    fence: vk.VkFence  # of its own
    life: Life  # the kit's: a thread may wait on the fence while another one sees that it has ended
    status: FenceStatus
    kept: ExitStack


class Work:
    """What one device has been given to do, and whoever waits for it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._queue = threading.RLock()  # a VkQueue is for one thread at a time
        self._pending: list[Submission] = []
        self._kits: list[Kit] | None = []  # that nobody has; None: closed
        self._spin = waiting.Spin()
        self.lives: set[Life] = set()  # of semaphores and fences that are not destroyed yet
        self.waiter = Waiter(device)

    def submit(
        self,
        record: Recorder | None = None,
        *,
        wait: Moments = (),
        signal: Moments = (),
        fence: Fence | None = None,
        to_the_end: bool = False,  # return when the device has done it
        submitted: Callable[[], None] | None = None,
    ) -> None:
        """Submit commands, or none, that wait and signal.

        submitted: called as soon as the queue has it, before it is waited for

        The device cannot look at semaphores of the host: they are waited for here, before the
        submission, and signalled here, once it has ended.

        Ctrl-C ends the wait and not the work, which is kept until it has ended.
        """
        before, waits = _sorted(self._device, wait, "wait")
        after, signals = _sorted(self._device, signal, "signal")
        if fence is not None and fence.device is not self._device:
            raise ValueError(
                f"{fence!r} is of another device; export it, and import it on this one"
            )
        for semaphore, value in before:
            semaphore.wait(value)
        self.collect()
        submission = self._submitted(record, waits, signals, fence, submitted)
        if to_the_end or after:
            self._wait_for(submission, None)
            # Mesa's drivers show a fence before the timelines of the same submission.
            for semaphore, value in signals:
                if semaphore.timeline:
                    semaphore.wait(value)
        for semaphore, value in after:
            semaphore.signal(value)

    def _submitted(
        self,
        record: Recorder | None,
        waits: _Pairs,
        signals: _Pairs,
        fence: Fence | None,
        submitted: Callable[[], None] | None,
    ) -> Submission:
        device = self._device.handle
        with ExitStack() as undo:
            for semaphore, _ in (*waits, *signals):
                undo.enter_context(semaphore.life)
            if fence is not None:
                undo.enter_context(fence.life)
            info = _described(waits, signals)
            kit = self._kit()
            own, life = kit.fence, Life("this fence", lambda: self._keep(kit))
            undo.callback(life.close)
            if record is not None:
                info.pCommandBuffers = [kit.recorded(record)]
            status = FenceStatus(device, own)
            with self._queue:
                first = own if fence is None else fence.handle
                vk.vkQueueSubmit(self._device.queue, 1, [info], first)
                kit.whole = True
                submission = Submission(own, life, status, undo.pop_all())
                self._pending.append(submission)
                if submitted is not None:
                    submitted()
                if fence is not None:
                    # The caller may reset his own at any time, so that it cannot tell us the end.
                    vk.vkQueueSubmit(self._device.queue, 0, None, own)
            return submission

    def _kit(self) -> Kit:
        with self._queue:
            if self._kits:
                return self._kits.pop()
        return Kit(self._device)

    def _keep(self, kit: Kit) -> None:
        """Nothing of it runs, and nobody waits for it."""
        with self._queue:
            if kit.whole and self._kits is not None and len(self._kits) < _MOST_KITS:
                kit.whole = False
                with contextlib.suppress(DriverError, RuleViolation):  # if the device is lost
                    vk.vkResetFences(self._device.handle, 1, [kit.fence])
                    self._kits.append(kit)
                    return
        kit.close()

    # -- the end --------------------------------------------------------------------------------

    def _wait_for(self, submission: Submission, deadline: int | None) -> bool:
        try:
            submission.life.take()
        except ClosedError:
            return True  # another thread found that it has ended
        try:
            ended = submission.status.wait(deadline, self._spin)
        finally:
            submission.life.leave()
        self.collect()
        return ended

    def collect(self) -> int:
        """Let go of what has ended. How many submissions have not."""
        device = self._device.handle
        with self._queue:
            while self._pending:
                # A lost device does nothing any more.
                with contextlib.suppress(DriverError):
                    # Through the door, so that the rules know what is not in use any more.
                    if vk.vkGetFenceStatus(device, self._pending[0].fence) == vk.VK_NOT_READY:
                        break
                self._pending.pop(0).kept.close()
            return len(self._pending)

    def afterwards(self, act: Callable[[], Any]) -> None:
        """Do something once all that was submitted so far has ended; now, if it has."""
        with self._queue:
            if self.collect():
                self._pending[-1].kept.callback(act)
                return
        act()

    def close(self) -> None:
        """Wait for what runs, and for whoever still waits. TimeoutError if that does not end."""
        if self._pending:
            deadline = waiting.deadline_of(_PATIENCE)
            while count := self.collect():
                first = self._pending[:1]
                if first and not self._wait_for(first[0], deadline):
                    raise TimeoutError(
                        f"cannot close {self._device!r}: {count} submission"
                        f"{'s have' if count != 1 else ' has'} not ended after {_PATIENCE:g} s; "
                        "signal what they wait for, then close it"
                    )
        with self._queue:
            kits, self._kits = self._kits or [], None
        for kit in kits:
            kit.close()
        self.waiter.close()

    def destroyed(self) -> None:
        """Once all semaphores and fences are closed: wait until the last threads have left them."""
        for life in list(self.lives):
            if not life.ended(_PATIENCE):
                raise TimeoutError(
                    f"cannot close {self._device!r}: another thread is still in a call of the "
                    "driver's with a semaphore or fence of it"
                )

    def give_up(self) -> None:
        """In a forked child: forget what belongs to the parent, without a word to the driver."""
        for submission in self._pending:
            submission.kept.pop_all()
        self._pending.clear()
        self._kits = None
        self.lives.clear()
        self.waiter.give_up()


def _sorted(device: Device, moments: Moments, what: str) -> tuple[_Pairs, _Pairs]:
    """Semaphores of the host and the device's own, each with its value."""
    host: _Pairs = []
    own: _Pairs = []
    for moment in moments:
        semaphore, value = moment if isinstance(moment, tuple) else (moment, None)
        check = getattr(semaphore, "check_value", None)
        if check is None:
            raise TypeError(
                f"{what}= has {moment!r}; expected a list, as in {what}=[(timeline, 3), binary]"
            )
        check(value)
        if semaphore.device is device:
            own.append((semaphore, value))
        elif semaphore.host:
            host.append((semaphore, value))
        else:
            raise ValueError(
                f"{semaphore!r} is of another device; export it, and import it on this one"
            )
    return host, own


def _described(waits: _Pairs, signals: _Pairs) -> vk.VkSubmitInfo:
    info = vk.VkSubmitInfo(
        pWaitSemaphores=[each.handle for each, _ in waits] or None,
        pWaitDstStageMask=[_EVERYTHING] * len(waits) or None,
        pSignalSemaphores=[each.handle for each, _ in signals] or None,
    )
    if any(value is not None for _, value in (*waits, *signals)):
        info.pNext = vk.VkTimelineSemaphoreSubmitInfo(  # the values of binary ones do not count
            pWaitSemaphoreValues=[value or 0 for _, value in waits] or None,
            pSignalSemaphoreValues=[value or 0 for _, value in signals] or None,
        )
    return info
