"""Semaphores and fences that are exported as, or were imported from, Windows handles.

Each has a permanent payload and maybe a temporary one in front of it. A payload that is shared by a
Windows handle is a `Shared`, as memory is; what a driver does with a payload is its own.

A KMT number goes with the payload of its owner: with the semaphore or fence that was exported, or
when that is given another payload for good. An import by it does not keep the number, and cannot be
fetched any more once it is stale. That it can still be signalled and waited for is the driver's
doing: the payload itself lives as long as anything that has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from ctypes import c_int32
from dataclasses import dataclass
from typing import Any

from extmem.drivers.bridge.likeness import Commands, Likeness, likeness, own_likeness
from extmem.drivers.bridge.shared import (
    INVALID,
    Refused,
    Shared,
    Taken,
    Terms,
    behind,
    descriptor_of,
    fetch_result_of,
    imported,
    result_of,
    take,
    terms_of,
)
from extmem.drivers.bridge.sorts import Sort, sort_of
from extmem.drivers.bridge.types import CARRIED, FD, KMT, NT
from extmem.drivers.chains import Exchange, followers, rebuilt
from extmem.drivers.driver import Command, SyncOrigin
from extmem.errors import PassportError
from extmem.handles import posix
from extmem.handles.system import directory
from extmem.share.passport import Exporter, Place, SyncPassport
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["Signals", "sync_origin_of"]

log = logging.getLogger("extmem.bridge")

_UNKNOWN = int(c.VK_ERROR_UNKNOWN)
_WRONG = int(c.VK_ERROR_VALIDATION_FAILED)  # which every command may answer


@dataclass(slots=True)
class _Signal:
    """One semaphore or fence."""

    timeline: bool
    flags: int  # that it was created with
    exports: int  # NT, KMT or 0: what it was created to be exported as
    terms: Terms
    permanent: Shared | None  # None: its payload has to do with no Windows handle
    temporary: Shared | None = None

    @property
    def payload(self) -> Shared | None:
        """What is there now."""
        return self.temporary or self.permanent


class Signals:
    """The semaphores, or the fences, of one device."""

    def __init__(
        self,
        sort: Sort,
        place: Place,
        features: Mapping[bool, int],
        below: Commands,
    ) -> None:
        self._sort = sort
        self._place = place
        # What the driver below can do with OPAQUE_FD, of timelines (True) and of all else.
        self._features = features
        self._below = below
        self._likeness: dict[bool, Likeness | None] = {}  # of the driver's, once it was looked at
        self._made: dict[int, _Signal] = {}
        self.borrowing: set[int] = set()  # those with a temporary payload; never another set
        self._lock = threading.RLock()

    # -- create and destroy ---------------------------------------------------------------------

    def create(self, below: Command, device: int, info: Any, box: Any) -> int:
        """vkCreateSemaphore, vkCreateFence."""
        try:
            made = self._described(info)
        except (Refused, OSError) as problem:
            log.info("vkCreate%s: %s", self._sort.kind, problem)
            return _WRONG
        exchanges: dict[type, Exchange] = {
            self._sort.export: self._export_as_fd,
            self._sort.terms: lambda _: None,
        }
        result = int(below(device, rebuilt(info, exchanges), None, box))
        if result == 0:
            with self._lock:
                self._made[box.value] = made
        return result

    def _described(self, info: Any) -> _Signal:
        sort = self._sort
        parts = {type(item): item for item in followers(info)}
        export = parts.get(sort.export)
        types = int(export.handleTypes) if export is not None else 0
        of_type = parts.get(s.VkSemaphoreTypeCreateInfo)
        timeline = of_type is not None and of_type.semaphoreType == c.VK_SEMAPHORE_TYPE_TIMELINE
        # A fence's only flag is the state that it starts with, which no importer has to know.
        flags = int(info.flags) if sort.object == "semaphore" else 0
        exports = types & CARRIED
        if types & sort.windows & ~CARRIED:
            raise Refused("there is no D3D here to share it with")
        if exports == CARRIED:
            raise Refused(
                f"NT handles and KMT numbers of one {sort.object} are not compatible; export one"
            )
        if exports and not self._features.get(timeline, 0) & sort.exportable:
            # SwiftShader makes such a timeline, and dies when a descriptor is fetched.
            raise Refused(f"the driver cannot export a {_called(timeline, sort)}")
        terms = terms_of(parts.get(sort.terms)) if exports else Terms()
        permanent = None
        if exports:
            permanent = Shared(sort.kind, exports, terms, self._passport(exports, timeline, flags))
        return _Signal(timeline, flags, exports, terms, permanent)

    def _passport(self, handle_type: int, timeline: bool, flags: int) -> SyncPassport:
        return SyncPassport(
            handle_type=self._sort.short_name(handle_type),
            object=self._sort.object,
            timeline=timeline,
            flags=flags,
            place=self._place,
            exporter=Exporter.this(),
        )

    def _export_as_fd(self, item: Any) -> Any:
        types = self._sort.to_fd(item.handleTypes)
        return self._sort.export(handleTypes=types) if types else None

    def forget(self, signal: int | None = None) -> None:
        """One is destroyed, or (None) all of them with their device."""
        with self._lock:
            for each in list(self._made) if signal is None else [signal]:
                made = self._made.pop(each, None)
                self.borrowing.discard(each)
                if made is not None:
                    self._end(made.permanent)
                    self._end(made.temporary)

    def _end(self, payload: Shared | None) -> None:
        if payload is not None:
            try:
                payload.close()
            except OSError as problem:  # the directory ended, and the handle with it
                log.info("giving back a %s: %s", self._sort.object, problem)

    # -- handles --------------------------------------------------------------------------------

    def get(self, device: int, info: Any, box: Any) -> int:
        """vkGetSemaphoreWin32HandleKHR, vkGetFenceWin32HandleKHR."""
        signal = getattr(info, self._sort.object)
        made = self._made.get(signal)
        payload = made.payload if made is not None else None
        asked = f"vkGet{self._sort.kind}Win32HandleKHR"
        if payload is None or not info.handleType or info.handleType != payload.exported:
            log.info("%s: its payload is not exported as this handle type", asked)
            return _UNKNOWN
        if payload.stale():
            log.info("%s: it was imported by a KMT number whose owner is gone", asked)
            return _WRONG
        try:
            with self._lock:
                box.value = payload.fetch(lambda: self._descriptor(device, signal))
        except OSError as problem:
            log.info("%s: %s", asked, problem)
            return fetch_result_of(problem)
        return 0

    def _descriptor(self, device: int, signal: int) -> int:
        """A new one of the driver's."""
        box = c_int32(-1)
        wanted = self._sort.get_info(**{self._sort.object: signal}, handleType=FD)
        return descriptor_of(int(self._below.get_fd(device, wanted, box)), box)

    # -- imports --------------------------------------------------------------------------------

    def import_win32(self, device: int, info: Any) -> int:
        """vkImportSemaphoreWin32HandleKHR, vkImportFenceWin32HandleKHR."""
        asked = f"vkImport{self._sort.kind}Win32HandleKHR"
        try:
            return self._import(device, info)
        except Refused as problem:
            log.info("%s: %s", asked, problem)
            return problem.result
        except OSError as problem:
            log.info("%s: %s", asked, problem)
            # It has no word for "too many", which others have.
            result = result_of(problem)
            return result if result == INVALID else int(c.VK_ERROR_OUT_OF_HOST_MEMORY)

    def _import(self, device: int, info: Any) -> int:
        sort = self._sort
        signal, flags = getattr(info, sort.object), int(info.flags)
        made = self._made.get(signal)
        if made is None:
            raise Refused(f"{signal:#x} is no {sort.object} of this device")
        if not self._features.get(made.timeline, 0) & sort.importable:
            raise Refused(f"the driver cannot import a {_called(made.timeline, sort)}")
        temporary = bool(flags & sort.temporary)
        if temporary and made.timeline:
            raise Refused("a timeline is imported for good alone")
        payload, taken = self._opened(device, info, made)
        into = {sort.object: signal, "flags": flags, "handleType": FD}
        result = -1
        try:
            result = imported(
                taken,
                lambda fd: int(self._below.import_fd(device, sort.import_info(**into, fd=fd))),
            )
        finally:
            if result:
                payload.close()
        if result == 0:
            payload.handle = taken.handle
            self._put(signal, made, payload, temporary)
        return result

    def _opened(self, device: int, info: Any, made: _Signal) -> tuple[Shared, Taken]:
        """What is imported, which has to be what this semaphore or fence is."""
        sort = self._sort
        handle_type, given = int(info.handleType), int(info.handle or 0)
        if handle_type not in (NT, KMT):
            raise Refused(f"handle type {handle_type:#x} is not carried by descriptors")
        number = given if handle_type == KMT else 0
        # Who exports it again gets the directory's own handle where it asked for one beforehand.
        # Otherwise that would keep the name for nobody, and the descriptor is kept instead.
        keep = made.exports == handle_type == NT
        try:
            with behind(sort.kind, handle_type, given, info.name) as handle:
                kind = directory().info(handle).type_name
                if kind != sort.kind:
                    raise Refused(f"this is a handle of a {kind.lower()}")
                passport = SyncPassport.decode(directory().passport(handle))
                expected = self._passport(handle_type, made.timeline, made.flags)
                _compare(passport, expected, self._place)
                taken = take(handle, number=number, keep=keep)
        except PassportError as problem:
            raise Refused(str(problem)) from None
        terms = Terms(None, made.terms.access, made.terms.security)
        payload = Shared(sort.kind, handle_type, terms, passport, source=taken.source)
        if taken.source is not None:
            payload.number, payload.stands = taken.source  # of the payload, and its owner's
        try:
            self._examine(device, taken.fd, made.timeline)
            if handle_type == NT and not keep:
                payload.descriptor = posix.duplicate(taken.fd)
        except BaseException:
            taken.close()
            raise
        return payload, taken

    def _examine(self, device: int, fd: int, timeline: bool) -> None:
        """Refuse a descriptor that this driver cannot have made."""
        if not self._features.get(timeline, 0) & self._sort.exportable:
            return  # there is nothing to compare it with
        if timeline not in self._likeness:
            self._likeness[timeline] = own_likeness(self._sort, self._below, device, timeline)
        own = self._likeness[timeline]
        problem = own.problem(likeness(fd)) if own is not None else ""
        if problem:
            raise Refused(problem)

    def imports_fd(self, below: Command, device: int, info: Any) -> int:
        """vkImportSemaphoreFdKHR, vkImportFenceFdKHR: what is imported by them has no handle."""
        signal = getattr(info, self._sort.object)
        made = self._made.get(signal)
        if made is not None and info.handleType == FD and info.fd >= 0:
            try:
                self._examine(device, info.fd, made.timeline)
            except (Refused, OSError) as problem:
                log.info("vkImport%sFdKHR: %s", self._sort.kind, problem)
                return INVALID
        result = int(below(device, info))
        if result == 0 and made is not None:
            nobody = self._passport(NT, made.timeline, made.flags)
            payload = Shared(self._sort.kind, 0, Terms(), nobody)
            self._put(signal, made, payload, bool(info.flags & self._sort.temporary))
        return result

    def _put(self, signal: int, made: _Signal, payload: Shared, temporary: bool) -> None:
        """Another payload in place of the one that is there."""
        with self._lock:
            if temporary:
                before, made.temporary = made.temporary, payload
                self.borrowing.add(signal)
            else:
                before, made.permanent = made.permanent, payload
            self._end(before)

    # -- the end of temporary payloads ------------------------------------------------------------

    def restore(self, signals: Iterable[int]) -> None:
        """These were waited for or reset: their permanent payloads are back."""
        with self._lock:
            for each in self.borrowing.intersection(map(int, signals)):
                self.borrowing.discard(each)
                made = self._made[each]
                before, made.temporary = made.temporary, None
                self._end(before)

    def gets_fd(self, below: Command, device: int, info: Any, box: Any) -> int:
        """vkGetSemaphoreFdKHR, vkGetFenceFdKHR: a copy of a payload takes it, as a wait does."""
        result = int(below(device, info, box))
        copies = (each.bit for each in self._sort.table if each.copy_transference)
        if result == 0 and info.handleType in copies:
            self.restore([getattr(info, self._sort.object)])
        return result


# -- what is said of a handle ---------------------------------------------------------------------


def sync_origin_of(
    object: str, handle_type: int, handle: int, name: str | None
) -> SyncOrigin | None:
    """What lies with a handle, a number or a name, for rules; see `SyncProvenance`."""
    sort = sort_of(object)
    if sort is None or handle_type not in (NT, KMT):
        return None  # nobody here knows what a descriptor is of
    nothing = SyncOrigin(object="", types=0)
    try:
        with behind(sort.kind, handle_type, handle, name) as found:
            passport = SyncPassport.decode(directory().passport(found))
    except (OSError, PassportError):
        return nothing
    theirs = sort_of(passport.object)
    if theirs is None:
        return nothing
    place = passport.place
    return SyncOrigin(
        object=passport.object,
        types=theirs.bit(passport.handle_type),
        device=place.device_uuid if place is not None else None,
        driver=place.driver_uuid if place is not None else None,
        timeline=passport.timeline if theirs.object == "semaphore" else None,
        flags=passport.flags,
    )


# -- within ---------------------------------------------------------------------------------------


def _called(timeline: bool, sort: Sort) -> str:
    return "timeline semaphore" if timeline else sort.object


def _compare(theirs: SyncPassport, ours: SyncPassport, place: Place) -> None:
    """Refuse what no driver notices, or dies of."""
    for problem in theirs.problems(place):
        raise Refused(problem)
    for what, there, here in (
        ("object", theirs.object, ours.object),
        ("handle type", theirs.handle_type, ours.handle_type),
        ("type", _type(theirs), _type(ours)),
        ("flags", theirs.flags, ours.flags),
    ):
        if there != here:
            raise Refused(f"its {what} is {there}, and what it is imported into has {here}")


def _type(passport: SyncPassport) -> str:
    return "timeline" if passport.timeline else "binary"
