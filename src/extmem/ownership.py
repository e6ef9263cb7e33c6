"""Who owns a shared image or buffer, and how it goes from one to the other.

What shared memory holds belongs to one user at a time: an instance, another API, another process.
Who has finished releases it, who wants it acquires it, and a semaphore (or anything else that both
understand) says when. Who skips that has undefined contents and no error of Vulkan's; so the state
is kept here, as far as this process can know it, and use at the wrong time is reported.

Both halves have to name the same layouts. So a release first brings an image into the layout in
which it is handed over, and hands it over without another change; an acquire takes it in that
layout, and every change after that is its owner's own business.

It changes with the submission. From then on the device does it, and Ctrl-C ends the wait alone.

The images of a stream are handed over by the stream (`start_over`, `give`, `receive`): whoever
writes takes one as if it were new, and several may receive what he gives, to read it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from extmem import vk
from extmem.errors import OwnershipError, Unsupported
from extmem.handle_types import HandleType
from extmem.images.infos import LAYOUTS
from extmem.submitting import Semaphores, submit

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.images.image import Image
    from extmem.resources import Buffer

__all__ = [
    "Ownership",
    "Where",
    "acquire",
    "give",
    "layout_of",
    "receive",
    "release",
    "start_over",
    "transition",
]

log = logging.getLogger("extmem")

Where = Literal["external", "foreign"]

_UNDEFINED = LAYOUTS["undefined"]
_GENERAL = LAYOUTS["general"]
_FAMILIES = {
    "external": int(vk.VK_QUEUE_FAMILY_EXTERNAL),
    "foreign": int(vk.VK_QUEUE_FAMILY_FOREIGN_EXT),
}
_IGNORED = int(vk.VK_QUEUE_FAMILY_IGNORED)

# What was or will be done with a resource here is between its owner and Vulkan, so these are the
# widest there are. The processor's are apart: no other stage includes them.
_ALL = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
_LAST = int(vk.VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT)
_HOST = int(vk.VK_PIPELINE_STAGE_HOST_BIT)
_READ_WRITE = int(vk.VK_ACCESS_MEMORY_READ_BIT | vk.VK_ACCESS_MEMORY_WRITE_BIT)
_WRITTEN = int(vk.VK_ACCESS_MEMORY_WRITE_BIT)
_BY_HOST = int(vk.VK_ACCESS_HOST_READ_BIT | vk.VK_ACCESS_HOST_WRITE_BIT)


@dataclass(slots=True)
class Ownership:
    """What this process knows of one resource."""

    what: str  # "the image 2D (480, 640) rgba8", for messages
    types: tuple[HandleType, ...]  # how its memory is shared; none: it is private
    concurrent: bool  # between the queue families of the device
    layout: int  # of an image; a buffer has none, and GENERAL stands for that
    here: bool  # whether it may be used here
    # Of an import: nobody has acquired it yet. Its contents are undefined here until somebody does.
    untouched: bool = field(default=False)
    warned: bool = False
    # "a frame of a stream", which hands it over by itself; "": who uses it does, by hand.
    keeper: str = ""
    read_only: bool = False  # others read it at the same time, so nobody here writes it
    # One item, which whoever hands it over takes out. No lock: he may wait for semaphores of the
    # host meanwhile, and a signal's handler may come in between.
    turn: list[None] = field(default_factory=lambda: [None], repr=False)

    def in_general(self) -> None:
        """Commands were submitted that leave it in the layout GENERAL."""
        self.layout = _GENERAL

    def use(self, *, strict: bool = True, writing: bool = False) -> None:
        """It is about to be read or written by the device.

        strict: whether use of an import that was never acquired is an error, or may be what was
            meant: memory that nobody has written needs no acquiring
        """
        if self.here:
            if writing and self.read_only:
                raise OwnershipError(
                    f"{self.what} belongs to {self.keeper}, and others read it at the same time: "
                    "copy it, and write the copy"
                )
            return
        if self.keeper:
            raise OwnershipError(
                f"{self.what} belongs to {self.keeper} that is over, and may have another one by "
                "now: ask each frame for its image, while it is there"
            )
        if not self.untouched:
            raise OwnershipError(
                f"{self.what} was released, and others may write it now: call acquire() before "
                "it is used here again"
            )
        if strict:
            raise OwnershipError(
                f"{self.what} was imported and never acquired, so what is in it is undefined here: "
                "call acquire() first, with layout='undefined' if all of it will be overwritten"
            )
        if not self.warned:
            self.warned = True
            log.warning(
                "%s was imported and never acquired: what others wrote may not be seen", self.what
            )


def layout_of(word: str | int) -> int:
    """The VkImageLayout for a word.

    >>> layout_of("general")
    1
    """
    if isinstance(word, int):
        return int(word)
    if word not in LAYOUTS:
        raise ValueError(f"layout is {word!r}; expected one of {', '.join(LAYOUTS)}, or a number")
    return LAYOUTS[word]


def acquire(
    device: Device,
    what: Image | Buffer,
    state: Ownership,
    layout: str | int,
    source: str,
    wait: Semaphores,
) -> None:
    """`Image.acquire` and `Buffer.acquire`."""
    _check(device, state, source, "source")
    number = layout_of(layout)
    _check_d3d11(state, number, (_GENERAL, _UNDEFINED), "acquired in")
    own = _IGNORED if state.concurrent else device.queue_family
    # Who takes it as undefined says that nothing of it is needed. It has to become something.
    after = _GENERAL if number == _UNDEFINED else number

    def record(commands: vk.VkCommandBuffer) -> None:
        _acquired(commands, what, number, after, _FAMILIES[source], own)

    with _Turn(state) as turn:
        if state.here:
            raise OwnershipError(f"{state.what} is acquired already; release() gives it to others")

        def submitted() -> None:
            state.here, state.untouched, state.layout = True, False, after
            turn.end()

        submit(device, record, wait=wait, submitted=submitted)


def release(
    device: Device,
    what: Image | Buffer,
    state: Ownership,
    layout: str | int,
    to: str,
    signal: Semaphores,
) -> None:
    """`Image.release` and `Buffer.release`."""
    _check(device, state, to, "to")
    number = layout_of(layout)
    if number == _UNDEFINED:
        raise ValueError("an image is not released as undefined: nobody could read it then")
    _check_d3d11(state, number, (_GENERAL,), "released in")
    own = _IGNORED if state.concurrent else device.queue_family

    def record(commands: vk.VkCommandBuffer) -> None:
        _released(commands, what, state.layout, number, own, _FAMILIES[to])

    with _Turn(state) as turn:
        if not state.here:
            raise OwnershipError(
                f"{state.what} is not owned here, so it cannot be released; acquire() it"
            )

        def submitted() -> None:
            state.here, state.layout = False, number
            turn.end()

        submit(device, record, signal=signal, submitted=submitted)


class _Turn:
    """To hand a resource over, as the only thread that does: until it was submitted, or was not."""

    __slots__ = ("_mine", "_state")

    def __init__(self, state: Ownership) -> None:
        self._state = state
        self._mine = False

    def __enter__(self) -> Self:
        try:
            self._state.turn.pop()
        except IndexError:
            raise OwnershipError(
                f"{self._state.what} is being acquired or released by another thread at this "
                "moment; let one thread do that, or wait for the other"
            ) from None
        self._mine = True
        return self

    def end(self) -> None:
        """Others may, from now on."""
        if self._mine:
            self._mine = False
            self._state.turn.append(None)

    def __exit__(self, *_: object) -> None:
        self.end()


# -- images of streams ----------------------------------------------------------------------------


def start_over(device: Device, image: Image, *, at_once: bool = True) -> None:
    """Take an image as if it were new: what is in it is gone, and others have nothing of it any
    more. That is no transfer, so nobody has to have released it.

    at_once: return as soon as it is submitted; what is submitted later comes after it
    """
    device._work.submit(
        lambda commands: transition(commands, image, _UNDEFINED, _GENERAL), to_the_end=not at_once
    )
    image.ownership.here, image.ownership.layout = True, _GENERAL


def give(
    device: Device,
    images: Sequence[Image],
    *,
    wait: Semaphores = (),
    signal: Semaphores = (),
    at_once: bool = False,
) -> None:
    """Release images to any number of others, who receive them to read, in the layout GENERAL."""
    external = _FAMILIES["external"]

    def record(commands: vk.VkCommandBuffer) -> None:
        for each in images:
            _released(
                commands, each, each.ownership.layout, _GENERAL, device.queue_family, external
            )

    def submitted() -> None:
        for each in images:
            each.ownership.here, each.ownership.layout = False, _GENERAL

    device._work.submit(
        record, wait=wait, signal=signal, to_the_end=not at_once, submitted=submitted
    )


def receive(
    device: Device,
    image: Image,
    *,
    wait: Semaphores = (),
    signal: Semaphores = (),
    at_once: bool = True,
) -> None:
    """Acquire an image that was given, to read it. Others may have it too: its layout stays, and
    nobody has to release it before it is written anew (`start_over`).
    """
    external = _FAMILIES["external"]

    def record(commands: vk.VkCommandBuffer) -> None:
        _acquired(commands, image, _GENERAL, _GENERAL, external, device.queue_family)

    device._work.submit(record, wait=wait, signal=signal, to_the_end=not at_once)
    image.ownership.here, image.ownership.untouched = True, False
    image.ownership.layout = _GENERAL


# -- the commands ---------------------------------------------------------------------------------


def _acquired(
    commands: vk.VkCommandBuffer, what: Any, before: int, after: int, source: int, own: int
) -> None:
    barrier = _barrier(what, before, after, source, own)
    barrier.srcAccessMask = 0  # the releaser's business
    barrier.dstAccessMask = _READ_WRITE | _BY_HOST
    # After all stages: only so does it come after a semaphore that the submission waits for.
    _record(commands, _ALL, _ALL | _HOST, barrier)


def _released(
    commands: vk.VkCommandBuffer, what: Any, before: int, after: int, own: int, target: int
) -> None:
    if before != after:
        transition(commands, what, before, after)
    barrier = _barrier(what, after, after, own, target)
    barrier.srcAccessMask = _READ_WRITE
    barrier.dstAccessMask = 0  # the acquirer's business
    _record(commands, _ALL, _LAST, barrier)


def transition(commands: vk.VkCommandBuffer, image: Any, before: int, after: int) -> None:
    """Record a change of the layout of a whole image, by its owner."""
    barrier = _barrier(image, before, after, _IGNORED, _IGNORED)
    barrier.srcAccessMask = _WRITTEN
    barrier.dstAccessMask = _READ_WRITE | _BY_HOST
    _record(commands, _ALL, _ALL | _HOST, barrier)


def _check(device: Device, state: Ownership, family: str, word: str) -> None:
    if state.keeper:
        raise OwnershipError(
            f"{state.what} belongs to {state.keeper}, which hands it over by itself: use it while "
            "the frame is there, and leave out acquire() and release()"
        )
    if not state.types:
        raise Unsupported(f"{state.what} is private: there is nobody to hand it over to")
    if family not in _FAMILIES:
        raise ValueError(f"{word} is {family!r}; expected 'external' or 'foreign'")
    if family == "external":
        return
    if "VK_EXT_queue_family_foreign" not in device.extensions:
        raise Unsupported(
            f"{device.physical.name} has no VK_EXT_queue_family_foreign; 'external' is enough for "
            "users of the same device and driver"
        )
    if state.concurrent:
        raise Unsupported(
            f"{state.what} is used concurrently, and such resources go to 'external' users alone; "
            "make it without concurrent=True"
        )


def _check_d3d11(state: Ownership, layout: int, allowed: tuple[int, ...], verb: str) -> None:
    """Direct3D knows no layouts: what belongs to it is GENERAL whenever it is outside."""
    if layout not in allowed and any(each.name.startswith("d3d11") for each in state.types):
        raise ValueError(f"an image of Direct3D 11 is {verb} the layout 'general' alone")


def _barrier(what: Any, before: int, after: int, source: int, target: int) -> Any:
    if not hasattr(what, "info"):
        return vk.VkBufferMemoryBarrier(
            srcQueueFamilyIndex=source,
            dstQueueFamilyIndex=target,
            buffer=what.handle,
            offset=0,
            size=vk.VK_WHOLE_SIZE,
        )
    return vk.VkImageMemoryBarrier(
        oldLayout=before,
        newLayout=after,
        srcQueueFamilyIndex=source,
        dstQueueFamilyIndex=target,
        image=what.handle,
        subresourceRange=vk.VkImageSubresourceRange(
            aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT,  # of a planar image: all of its planes
            levelCount=vk.VK_REMAINING_MIP_LEVELS,
            layerCount=vk.VK_REMAINING_ARRAY_LAYERS,
        ),
    )


def _record(commands: vk.VkCommandBuffer, source: int, target: int, barrier: Any) -> None:
    buffers = [barrier] if isinstance(barrier, vk.VkBufferMemoryBarrier) else None
    images = None if buffers else [barrier]
    vk.vkCmdPipelineBarrier(
        commands, source, target, 0, 0, None, len(buffers or ()), buffers, len(images or ()), images
    )
