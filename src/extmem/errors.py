"""Every exception that a user of this package can meet.

    ExtmemError
    ├── RuleViolation        a call breaks the specification; the driver was not called
    ├── DriverError          the driver was called and said no
    ├── CommandUnavailable   the driver has no such command, or its extension is not enabled
    ├── DriverNotFound       no driver, library or device of that description
    ├── ViewsAlive           memory cannot go while something still looks at it
    ├── ClosedError          the object was closed before
    ├── OwnershipError       a shared image or buffer is used while it belongs to somebody else
    ├── StreamEnded          the publisher of a stream is gone, and did not end it
    ├── StreamFull           a stream has no slot for a frame, or no seat for a subscriber
    ├── QuarantineError      what was imported with quarantine=True ended, or held, its own process
    └── Unsupported          this device cannot do that; says what can
        ├── PassportError    what came beside a handle is no passport, or is of other memory
        └── TensorError      memory cannot be such a tensor, or a tensor is not of our memory

Errors of the operating system stay `OSError`. A Python mistake (a member that does not exist, a
number that does not fit) stays `TypeError` or `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "ClosedError",
    "CommandUnavailable",
    "DriverError",
    "DriverNotFound",
    "ExtmemError",
    "OwnershipError",
    "PassportError",
    "Problem",
    "QuarantineError",
    "RuleViolation",
    "StreamEnded",
    "StreamFull",
    "TensorError",
    "Unsupported",
    "ViewsAlive",
    "plain",
]


def plain(words: object, most: int = 300) -> str:
    """What a stranger wrote, for a message or a log: short, in one line, that no terminal obeys.

    >>> plain("frame\\n2026-01-01 all is well")
    'frame\\\\n2026-01-01 all is well'
    """
    return ascii(str(words))[1:-1][:most]


class ExtmemError(Exception):
    """The base of all errors of this package."""


class Problem(NamedTuple):  # a dataclass would double what `import extmem` takes
    """One broken rule: its name, where, what was found, and what to do."""

    vuid: str  # the specification's name of the rule
    member: str  # the path to the value, as in "pAllocateInfo.memoryTypeIndex"
    value: Any  # what was there
    problem: str  # what is wrong, in a sentence
    remedy: str  # what to do, in a sentence

    def __str__(self) -> str:
        text = f"{self.member}: {self.problem}"
        if self.remedy:
            text += f" {self.remedy}"
        return f"{text} [{self.vuid}]"


class RuleViolation(ExtmemError, ValueError):
    """A call breaks the specification. No driver has seen it, and nothing has changed.

    `call` is the command's name; `problems` holds every broken rule that was found.
    """

    def __init__(self, call: str, problems: Sequence[Problem]) -> None:
        self.call = call
        self.problems = tuple(problems)
        super().__init__(call, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.call}: {self.problems[0]}"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{self.call} breaks {len(self.problems)} rules:{lines}"


# What a result means to the person who reads it, where the name alone does not say enough.
_MEANINGS = {
    "VK_ERROR_OUT_OF_HOST_MEMORY": "the system has no memory left for it, or refused it",
    "VK_ERROR_OUT_OF_DEVICE_MEMORY": "the device has no memory left for it",
    "VK_ERROR_INVALID_EXTERNAL_HANDLE": (
        "the driver does not accept this handle; it must be of the stated type, still open, and "
        "from the same device and driver"
    ),
    "VK_ERROR_TOO_MANY_OBJECTS": "a limit is reached; for handles see `ulimit -n`",
    "VK_ERROR_EXTENSION_NOT_PRESENT": "the driver lacks an extension that was asked for",
    "VK_ERROR_LAYER_NOT_PRESENT": "a layer that was asked for is not installed",
    "VK_ERROR_FEATURE_NOT_PRESENT": "the device lacks a feature that was asked for",
    "VK_ERROR_INCOMPATIBLE_DRIVER": "no driver was found, or none fits",
    "VK_ERROR_MEMORY_MAP_FAILED": "the memory cannot be mapped",
    "VK_ERROR_DEVICE_LOST": "the device is lost; everything on it has to be made again",
    "VK_ERROR_FORMAT_NOT_SUPPORTED": "this device does not support that combination",
}


class DriverError(ExtmemError):
    """The driver was called and returned an error. `result` is its VkResult, `call` the command."""

    def __init__(self, result: Any, call: str, hint: str = "") -> None:
        self.result = result
        self.call = call
        self.hint = hint
        super().__init__(result, call, hint)

    def __str__(self) -> str:
        name = getattr(self.result, "name", str(self.result))
        meaning = self.hint or _MEANINGS.get(name, "")
        return f"{self.call} returned {name}" + (f": {meaning}" if meaning else "")


class CommandUnavailable(ExtmemError):
    """A command that this instance or device does not offer; the message says how to get it."""


class DriverNotFound(ExtmemError):
    """No driver, library or device of that description."""


class ViewsAlive(ExtmemError, BufferError):
    """Memory cannot be freed or unmapped while views of it are alive. `count` says how many."""

    def __init__(self, message: str, count: int) -> None:
        self.count = count
        super().__init__(message)


class ClosedError(ExtmemError, ValueError):
    """The object was closed before."""


class OwnershipError(ExtmemError):
    """A shared image or buffer was used while somebody else owns it; the message says what to do.

    Vulkan lets that happen in silence: the contents are undefined then.
    """


class StreamEnded(ExtmemError):
    """The publisher of a stream was killed, or ended without closing it, and nobody went on with
    it. What a publisher closes ends in peace: the iteration stops.
    """


class StreamFull(ExtmemError):
    """A stream has no slot that a frame can be written to, because subscribers hold them all, or
    no seat for one more subscriber; the message says who has how many.
    """


class QuarantineError(ExtmemError):
    """An import with quarantine=True did not end well in the process where it was tried: that
    crashed, ended or hung, or there is none. Nothing was imported here, and no driver here has
    seen the handle.

    `exit_code` is how that process ended: minus the number of a signal, or Windows' number of an
    exception; None if it did not end by itself.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class Unsupported(ExtmemError):
    """The device cannot do what was asked; the message says what it can."""


class PassportError(Unsupported, ValueError):
    """What came beside a handle is no passport, or does not fit the device or what was asked."""


class TensorError(Unsupported, BufferError):
    """Memory cannot be the tensor that a library asks for, or a tensor shows no memory of ours."""
