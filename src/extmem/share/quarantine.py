"""Imports of strangers' handles are tried in a process of their own: `import_memory(quarantine=)`.

A driver can crash or hang when it imports what is no memory of its own, and a file that is shorter
than it claims ends whoever reads it. Here that happens to a helper: a fresh Python which has opened
the same device of the same driver. It imports a duplicate of the handle, with the same checks,
maps the memory where that can be mapped, and reads its first and its last byte. What is wrong comes
back as an error, and only what has passed is imported here.

The helper is started with the first such import of a device and kept for the later ones, which
wait for each other. One that crashed, hung or met an error of its own is thrown away; the next
import starts another. It ends with the device, and with this process however that ends.

Nothing here is said of what happens to the memory afterwards. Its owner can shorten the file of it,
and whoever touches what is gone dies of SIGBUS. Where the file can be sealed against that, it is
sealed before the trial; see `Device.import_memory`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from extmem import examining
from extmem.allocating import check_size
from extmem.errors import ClosedError, QuarantineError, Unsupported
from extmem.handle_types import HandleType
from extmem.handles.handle import Handle
from extmem.share import trials
from extmem.share.passport import Passport
from extmem.share.trials import About, Failed, Passed, Try

if sys.platform != "win32":
    from extmem.handles import memfd, posix

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.share.helper import Helper

__all__ = ["PATIENCE", "Quarantine"]

log = logging.getLogger("extmem")

_LONGEST_NAME = 32767  # characters
PATIENCE = 5.0  # seconds for one trial; for the start of the helper see `share.helper`

_NOTE = (
    "A trial import met this, in a process of its own (quarantine=True), where the handle may have "
    "another number. No driver in this process has seen it."
)
# What was being done when a trial came to a bad end.
_AT = {
    None: "before it had begun",
    "importing": "as the driver imported it",
    "reading": "as its first and last byte were read: it is smaller than it claims, or is not "
    "what it claims to be",
    "freeing": "as it was freed again",
}


class Quarantine:
    """Where the imports of one device are tried."""

    def __init__(self, device: Device) -> None:
        self._driver = device.driver
        self._checks = device.checks
        self._physical = device.physical
        self._lock = threading.Lock()  # one trial at a time
        self._helper: Helper | None = None
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """Of the helper; None if there is none now."""
        helper = self._helper
        return helper.process_id if helper is not None else None

    def examine(
        self,
        source: HandleType,
        handle: Any,
        *,
        name: str | None,
        size: int | None,
        memory_type: str | int | None,
        dedicated: bool | None,
        passport: Passport | bytes | None,
    ) -> None:
        """Try an import. The error that it would have met here, or QuarantineError."""
        if source.kind == "pointer":
            raise Unsupported(
                f"{source.name} is memory of this process already, and its address means nothing "
                "in another one, where it could be tried; import it without quarantine=True"
            )
        if size is not None:
            check_size(size)
        numbered = source.kind == "kmt" and name is None
        trial = Try(
            type=source.name,
            value=_number("the handle", int(handle)) if numbered else None,
            name=None if name is None else _packed(name),
            about=_about(handle) if isinstance(handle, Handle) else None,
            size=_number("size", size),
            memory_type=_memory_type(memory_type),
            dedicated=None if dedicated is None else bool(dedicated),
            passport=_encoded(passport, handle),
        )
        what = f"{source.name} {int(handle)}" if name is None else f"{source.name} {name!r}"
        with self._lock, self._sealed(source, handle, name) as descriptors:
            answer = self._ask(trial, source, handle, descriptors, what)
        if isinstance(answer, Failed):
            error = trials.remade(answer)
            error.add_note(_NOTE)
            raise error

    def _ask(
        self, trial: Try, source: HandleType, handle: Any, descriptors: list[int], what: str
    ) -> Passed | Failed:
        from extmem.share.helper import Broken  # which has much to load, and is seldom needed

        while True:
            helper, fresh = self._running()
            try:
                if source.kind == "nt" and trial.name is None:
                    given = helper.given(int(handle))
                    trial = msgspec.structs.replace(trial, value=given)
                answer = helper.ask(trial, descriptors, PATIENCE)
                if isinstance(answer, Failed) and not answer.well:
                    self._end_helper()
                return answer
            except OSError:  # of the handle, before anything was asked
                raise
            except Broken as broken:
                self._end_helper()
                # Killed while it had nothing to do: that was not because of this handle.
                if broken.step is None and broken.code is not None and not fresh:
                    log.info("process %d %s; another is started", helper.process_id, broken.how)
                    continue
                at = _AT[broken.step.at if broken.step is not None else None]
                raise QuarantineError(
                    f"{what} was not imported: the process in which it was tried {broken.how}, "
                    f"{at}. No driver in this process has seen it; do not import it without "
                    "quarantine",
                    broken.code,
                ) from None
            except BaseException:
                self._end_helper()  # nobody is there any more to hear its answer
                raise

    def _running(self) -> tuple[Helper, bool]:
        """The helper, and whether it was started just now."""
        from extmem.share import helper

        if self._closed:
            raise ClosedError("this device is closed")
        if self._helper is not None and self._helper.runs():
            return self._helper, False
        self._end_helper()
        device = self._physical
        self._helper = helper.start(
            helper.Target(
                self._driver, device.device_uuid, device.driver_uuid, self._checks, device.name
            )
        )
        return self._helper, True

    @contextlib.contextmanager
    def _sealed(self, source: HandleType, handle: Any, name: str | None) -> Iterator[list[int]]:
        """What is to be sent beside a trial, which nobody can shorten if that can be prevented."""
        if sys.platform == "win32":  # where nobody can
            yield []
        elif source.kind == "fd":
            copy = posix.duplicate(int(handle))
            try:
                _seal(copy)
                yield [copy]
            finally:
                posix.close(copy)
        else:
            if any(each.bridged for each in self._physical.sharing if each.handle_type is source):
                _seal_bridged(source, 0 if handle is None else int(handle), name)
            yield []

    def _end_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def close(self) -> None:
        """End the helper, once it has nothing to do. Safe to call again."""
        with self._lock:
            self._closed = True
            self._end_helper()

    def give_up(self) -> None:
        """In a forked child: the helper is the parent's."""
        if self._helper is not None:
            self._helper.give_up()


examining.appoint(Quarantine)


# -- what is tried --------------------------------------------------------------------------------


def _number(what: str, value: int | None) -> int | None:
    """One that can be sent."""
    if value is not None and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{what} is {value}; expected a number of 63 bits at most")
    return value


def _memory_type(value: str | int | None) -> str | int | None:
    """One that can be sent. What it may be, is said over there."""
    if isinstance(value, int) or value is None:
        return _number("memory_type", value)
    return str(value)[:64]


def _packed(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name is {name!r}; expected a string")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"the name has {len(name)} characters; Windows' have at most 32767")
    return name.encode("utf-16-le", "surrogatepass")


def _about(handle: Handle) -> About:
    return About(
        _number("the size of the handle", handle.size),
        _number("the memory type of the handle", handle.memory_type_index),
        None if handle.device_uuid is None else handle.device_uuid[:64],
        bool(handle.dedicated),
    )


def _encoded(given: Passport | bytes | None, handle: Any) -> bytes | None:
    """The passport of an import: the one that was given, else the one of its handle."""
    if given is None and isinstance(handle, Handle) and isinstance(handle.passport, Passport):
        given = handle.passport
    if given is None:
        return None
    return (given if isinstance(given, Passport) else Passport.decode(given)).encode()


# -- seals ----------------------------------------------------------------------------------------

if sys.platform != "win32":

    def _seal(fd: int) -> None:
        """Have nobody shorten the file of a descriptor, where that can be had."""
        if posix.describe(fd) == "memfd" and not memfd.seal_size(fd):
            log.info("the memfd that is imported takes no seals: others can shorten it later")

    def _seal_bridged(source: HandleType, value: int, name: str | None) -> None:
        """The same for the descriptor of another driver, to which a Windows handle leads."""
        from extmem.drivers.bridge.shared import behind
        from extmem.handles.system import directory

        # What is wrong with it, the trial says.
        with contextlib.suppress(OSError), behind("Memory", source.bit, value, name) as found:
            fd = directory().descriptor(found)
            try:
                _seal(fd)
            finally:
                posix.close(fd)
