"""What is shared by Windows handles: memory, semaphores and fences alike.

An export is one of the driver's descriptors, handed to the directory, which gives the handle, the
name and the access rights, and keeps the passport beside it. An import is that descriptor again.

What was imported is exported again without the driver, because some only claim to do that: as a
duplicate of the directory's handle, or from the descriptor that came with the import.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int32
from dataclasses import dataclass
from typing import Any, NamedTuple

from extmem.drivers.bridge.types import KMT
from extmem.handles import posix, winerror
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.security import security_of
from extmem.handles.system import directory
from extmem.share.passport import Passport, SyncPassport
from extmem.vk import _constants as c

__all__ = [
    "INVALID",
    "Refused",
    "Shared",
    "Taken",
    "Terms",
    "behind",
    "descriptor_of",
    "fetch_result_of",
    "imported",
    "result_of",
    "take",
    "terms_of",
]

_BOTH = ACCESS_READ | ACCESS_WRITE  # the least that a driver's descriptor can grant
INVALID = int(c.VK_ERROR_INVALID_EXTERNAL_HANDLE)
_NO_MORE = (4, 1450)  # Windows' numbers for "no more files" and "no more resources"


class Refused(Exception):
    """What was asked cannot be; `result` says so in Vulkan's words."""

    def __init__(self, why: str, result: int = INVALID) -> None:
        super().__init__(why)
        self.result = result


@dataclass(slots=True)
class Terms:
    """On which terms a handle is exported."""

    name: str | None = None
    access: int = _BOTH
    security: Security | None = None


def terms_of(item: Any) -> Terms:
    """Those of a VkExport...Win32HandleInfoKHR, copied: the caller's may be gone when they count.

    Refused if they ask for less than a descriptor of a driver grants.
    """
    if item is None:
        return Terms()
    if not item.dwAccess & (ACCESS_ALL | ACCESS_WRITE):
        raise Refused("a driver's descriptor cannot be restricted to reading")
    security = security_of(item.pAttributes[0]) if item.pAttributes else None
    return Terms(item.name or None, int(item.dwAccess), security)


class Standing(NamedTuple):
    """What a number stood for when it was looked at: another directory may begin, and give it to
    another object.
    """

    identity: int  # of the directory's object
    epoch: bytes  # of the directory


@dataclass(slots=True)
class Shared:
    """One payload that is exported as a Windows handle, or was imported from one."""

    kind: str  # of the directory's object: "Memory", "Semaphore", "Fence"
    exported: int  # the type it can be fetched as: NT or KMT; 0: it cannot be fetched
    terms: Terms
    passport: Passport | SyncPassport
    handle: int = 0  # the directory's, ours to close: one to give away, or one that holds a number
    first: tuple[int, int] | None = None  # the handle that was given away, and its object
    number: int = 0  # KMT: what it is exported as
    stands: Standing | None = None  # for what that number stands, once it is known
    source: tuple[int, Standing] | None = None  # KMT: the number of the import, and its object then
    gone: bool = False  # its owner, for good
    descriptor: int = -1  # an import's, ours to close, where it takes the driver's place

    def fetch(self, drivers: Callable[[], int]) -> int:
        """A handle for the caller, or the number.

        drivers: a new descriptor of the driver's, ours to close
        """
        if self.exported == KMT:
            return self._number(drivers)
        return self._nt(drivers)

    def _nt(self, drivers: Callable[[], int]) -> int:
        """The first handle, which is the caller's from now on; later, duplicates of it."""
        if self.first is not None:
            handle, identity = self.first
            if _identity_of(handle) == identity:
                return directory().duplicate(handle)
        if not self.handle:
            self._share(drivers, self.terms.name)
        handle, self.handle = self.handle, 0
        self.first = handle, _identity_of(handle)
        return handle

    def _number(self, drivers: Callable[[], int]) -> int:
        """The number, which lives as long as this payload here. OSError if it is known no more."""
        if self.number:
            self._require_known()
        for _ in range(100):
            if self.number:
                break
            # Even and no multiple of four, so that it can never be taken for an NT handle.
            number = secrets.randbelow(1 << 29) * 4 + 2
            try:
                self._share(drivers, _name_of(number))
                self.stands = _standing_of(self.handle)
                self.number = number
            except OSError as problem:
                if winerror.code_of(problem) != winerror.ALREADY_EXISTS:
                    raise
        return self.number

    def _require_known(self) -> None:
        """That the number still stands for this payload."""
        with behind(self.kind, KMT, self.number, None) as handle:
            same = _standing_of(handle) == self.stands
        if not same:
            why = "it stands for something else by now; allocate and share it again"
            raise winerror.failure(
                winerror.FILE_NOT_FOUND, f"cannot give the number {self.number:#x}", why
            )

    def _share(self, drivers: Callable[[], int], name: str | None) -> None:
        """Hand a descriptor to the directory, for a handle."""
        fd = posix.duplicate(self.descriptor) if self.descriptor >= 0 else drivers()
        try:
            self.handle = directory().share(
                fd,
                self.kind,
                name=name,
                access=ACCESS_ALL,
                security=self.terms.security,
                passport=self.passport.encode(),
            )
        finally:
            posix.close(fd)

    def stale(self) -> bool:
        """Whether this was imported by a KMT number that has lost its owner.

        A directory that cannot be reached says nothing of that, nor does one that began since.
        """
        if self.source is None or self.gone:
            return self.gone
        number, then = self.source
        try:
            with behind(self.kind, KMT, number, None) as handle:
                now = _standing_of(handle)
            self.gone = now.epoch == then.epoch and now.identity != then.identity
        except OSError as problem:
            # Nobody has the name, or an object of another kind.
            nobody = winerror.code_of(problem) in (winerror.FILE_NOT_FOUND, winerror.INVALID_HANDLE)
            self.gone = nobody and directory().epoch == then.epoch
        return self.gone

    def close(self) -> None:
        """Give back what is ours of it."""
        fd, self.descriptor = self.descriptor, -1
        if fd >= 0:
            posix.close(fd)
        handle, self.handle = self.handle, 0
        if handle:
            directory().let_go(handle)


# -- imports --------------------------------------------------------------------------------------


@contextmanager
def behind(kind: str, handle_type: int, given: int, name: str | None) -> Iterator[int]:
    """A handle of what is meant by a handle, a KMT number or a name. OSError if there is none.

    It is closed afterwards where it was opened for this; a handle that was given stays.
    """
    if handle_type == KMT:
        opened = directory().open_named(_name_of(given), kind, _BOTH)
    elif name is not None:
        opened = directory().open_named(name, kind, _BOTH)
    else:
        yield given
        return
    try:
        yield opened
    finally:
        directory().let_go(opened)


@dataclass(slots=True)
class Taken:
    """What an import needs of what is behind a handle."""

    fd: int  # a descriptor, which `imported` takes
    source: tuple[int, Standing] | None  # KMT: the number, and what it stands for now
    handle: int = 0  # of our own, to export it by again; whoever gets this closes it

    def close(self) -> None:
        """Give back what was not imported."""
        posix.close(self.fd)
        if self.handle:
            directory().let_go(self.handle)


def take(handle: int, *, number: int = 0, keep: bool = False) -> Taken:
    """A descriptor of what is behind a handle.

    number: the KMT number that led to the handle
    keep: with a handle of our own
    """
    source = (number, _standing_of(handle)) if number else None
    fd = directory().descriptor(handle)
    try:
        return Taken(fd, source, directory().duplicate(handle) if keep else 0)
    except OSError:
        posix.close(fd)
        raise


def imported(taken: Taken, call: Callable[[int], int]) -> int:
    """What a driver answers to the import of a descriptor. After a failure nothing is left of it,
    whether the driver closed its descriptor or not.
    """
    known = posix.identity(taken.fd)
    result = -1
    try:
        result = int(call(taken.fd))
    finally:
        if result:
            posix.close_if_same(taken.fd, known)
            if taken.handle:
                directory().let_go(taken.handle)
    return result


# -- within ---------------------------------------------------------------------------------------


def _name_of(number: int) -> str:
    return f"Local\\extmem-kmt-{number}"


def _identity_of(handle: int) -> int:
    try:
        return directory().info(handle).identity
    except OSError:
        return 0


def _standing_of(handle: int) -> Standing:
    """OSError where that cannot be told: it would match another that could not."""
    return Standing(directory().info(handle).identity, directory().epoch)


def descriptor_of(result: int, box: c_int32) -> int:
    """What a driver's command put into its box, closed on exec. OSError if that is nothing."""
    if result or box.value < 0:
        raise OSError(f"the driver gave no descriptor ({result})")
    posix.set_private(box.value)
    return box.value


def result_of(problem: OSError) -> int:
    """What an import answers where the directory or the system refused something."""
    code = winerror.code_of(problem)
    if code in _NO_MORE or problem.errno in (errno.EMFILE, errno.ENFILE):
        return int(c.VK_ERROR_TOO_MANY_OBJECTS)
    return INVALID


def fetch_result_of(problem: OSError) -> int:
    """What a fetch answers then: it has no word for a name that is taken, and the like."""
    if problem.errno == errno.ENOMEM:  # with Windows' code for it, too
        return int(c.VK_ERROR_OUT_OF_HOST_MEMORY)
    result = result_of(problem)
    return result if result != INVALID else int(c.VK_ERROR_UNKNOWN)
