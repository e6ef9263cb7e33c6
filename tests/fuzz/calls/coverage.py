"""Which commands a run has to bring to the driver, and why it need not for the others.

`declared` is asked of the device that was fuzzed. A run that was long enough and did not reach a
command for which it says nothing has missed something: a maker of right calls that never succeeds,
or an extension that is not enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.fuzz.calls.gpu import Gpu
from tests.fuzz.calls.tables import COMMANDS

__all__ = ["ENOUGH", "NEVER_RIGHT", "NOT_EMBEDDED", "declared", "told", "wrong"]

ENOUGH = 100_000  # calls, after which everything was reached that can be

_NO_RENDERER = "it has queues for transfers alone"
_NO_SPARSE = "no queue of the device binds in pieces"
_NO_EVENTS = "its command buffers know no events"
_NO_ADDRESSES = "its buffers have no addresses for shaders"
_NO_HOST_COPIES = "it has no VK_EXT_host_image_copy: its memory is the host's"

# Commands that the embedded device does not have.
NOT_EMBEDDED: Mapping[str, str] = {
    "vkCmdBlitImage": _NO_RENDERER,
    "vkCmdBlitImage2": _NO_RENDERER,
    "vkCmdClearDepthStencilImage": _NO_RENDERER,
    "vkCmdResolveImage": _NO_RENDERER,
    "vkCmdResolveImage2": _NO_RENDERER,
    "vkCmdResetEvent": _NO_EVENTS,
    "vkCmdResetEvent2": _NO_EVENTS,
    "vkCmdSetEvent": _NO_EVENTS,
    "vkCmdSetEvent2": _NO_EVENTS,
    "vkCmdWaitEvents": _NO_EVENTS,
    "vkCmdWaitEvents2": _NO_EVENTS,
    "vkCopyImageToImage": _NO_HOST_COPIES,
    "vkCopyImageToMemory": _NO_HOST_COPIES,
    "vkCopyMemoryToImage": _NO_HOST_COPIES,
    "vkTransitionImageLayout": _NO_HOST_COPIES,
    "vkGetImageSubresourceLayout2": _NO_HOST_COPIES,
    "vkGetDeviceImageSubresourceLayout": _NO_HOST_COPIES,
    "vkGetBufferDeviceAddress": _NO_ADDRESSES,
    "vkGetBufferOpaqueCaptureAddress": _NO_ADDRESSES,
    "vkGetDeviceMemoryOpaqueCaptureAddress": _NO_ADDRESSES,
    "vkQueueBindSparse": _NO_SPARSE,
}

# Commands for which there is no maker of right calls.
NEVER_RIGHT: Mapping[str, str] = {
    "vkGetMemoryFdPropertiesKHR": "only dma-bufs may be asked about, and nothing here makes one",
}

# Commands that cannot be reached on some devices that have them.
_CONDITIONS: Mapping[str, tuple[Callable[[Gpu], bool], str]] = {
    "vkQueueBindSparse": (lambda gpu: not any(f & 8 for f, _ in gpu.families), _NO_SPARSE),
    "vkGetMemoryWin32HandlePropertiesKHR": (
        lambda gpu: gpu.driver != "embedded",
        "only what Direct3D made may be asked about, and the driver below takes none of it",
    ),
    "vkGetImageDrmFormatModifierPropertiesEXT": (
        lambda gpu: "VK_EXT_image_drm_format_modifier" not in gpu.extensions,
        "the device has no images with modifiers",
    ),
    "vkTransitionImageLayout": (
        lambda gpu: "hostImageCopy" not in gpu.features,
        "the device does not copy images on the host",
    ),
}


def _not_there(gpu: Gpu, name: str) -> str | None:
    """Why a device does not have a command; None if it should."""
    if gpu.driver == "embedded":
        return NOT_EMBEDDED.get(name)
    groups = COMMANDS[name].prototype.provided.values()
    providers = sorted({each for group in groups for each in group})
    minor = gpu.dispatch.version >> 12 & 0x3FF
    has = {*gpu.offered, *(f"VK_VERSION_1_{each}" for each in range(minor + 1))}
    if has & set(providers):
        return None
    return f"the device has none of {', '.join(providers)}"


def declared(gpu: Gpu) -> dict[str, str]:
    """The commands that need not reach the driver, each with its reason."""
    found = dict(NEVER_RIGHT)
    for name, command in COMMANDS.items():
        if command.prototype.level != "global" and not gpu.has(name):
            why = _not_there(gpu, name)
            if why is not None:
                found[name] = why
    for name, (holds, why) in _CONDITIONS.items():
        if holds(gpu):
            found.setdefault(name, why)
    return found


def wrong(counts: Mapping[str, Sequence[int]], reasons: Mapping[str, str]) -> list[str]:
    """What a run missed, and which reasons do not hold; a sentence each."""
    found = []
    enough = sum(map(sum, counts.values())) >= ENOUGH
    for name, outcomes in counts.items():
        reached = outcomes[0] + outcomes[1]
        if reached and name in reasons:
            found.append(f"{name} reached the driver, although {reasons[name]}")
        elif enough and not reached and name not in reasons:
            often = f"in {sum(outcomes)} calls" if any(outcomes) else "nor was it called"
            found.append(f"{name} never reached the driver, {often}, and no reason is declared")
    return found


def told(counts: Mapping[str, Sequence[int]], reasons: Mapping[str, str]) -> list[str]:
    """The commands that were never called, and those that never reached the driver."""
    found = []
    for name, outcomes in counts.items():
        if not outcomes[0] + outcomes[1]:
            what = f"in {sum(outcomes)} calls" if any(outcomes) else "never called"
            found.append(f"{name}, {what}: {reasons.get(name, 'by chance')}")
    return found
