"""What rules of semaphores and fences ask alike: what handles are, and what a device offers.

No rule stands here. What a driver knows of a handle (`extmem.drivers.driver.SyncProvenance`) comes
first; what it does not know is looked at as the system sees it, and is otherwise not checked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from extmem.drivers.driver import SyncOrigin
from extmem.handle_types import FENCE, SEMAPHORE, HandleType, names_of
from extmem.handles import nt_lookup, winerror
from extmem.rules.engine import Call, Site
from extmem.rules.windows import OPEN_THAT, OTHER_DRIVER, TRY_AGAIN, remedy_of_name
from extmem.vk.sync_queries import External
from extmem.world import Record, payloads

__all__ = [
    "FENCES",
    "SEMAPHORES",
    "Sort",
    "Unfit",
    "imported",
    "offered",
    "sort_of",
    "the_object",
    "unfit",
]

_INVALID = (1 << 64) - 1  # INVALID_HANDLE_VALUE

# Kinds of descriptors that no driver makes for this: some hang or end the process at them.
_STRANGERS = frozenset(
    ("pipe", "socket", "directory", "file", "eventpoll", "timerfd", "signalfd", "inotify", "pidfd",
     "userfaultfd", "io_uring", "perf_event", "fanotify", "dma-buf")
)  # fmt: skip
# Character devices that are no GPU: /dev/null and /dev/zero, terminals.
_OTHER_DEVICES = frozenset((1, 4, 5, *range(136, 144)))
# An OPAQUE_FD may be a file of a driver's own making; a fence file of the kernel's may not.
_NOT_OPAQUE = frozenset(("sync_file", "eventfd"))


class Sort(NamedTuple):
    """Semaphores or fences: what their handle types are."""

    object: str  # "semaphore" or "fence", as the member is called
    kind: str  # "VkSemaphore" or "VkFence"
    table: tuple[HandleType, ...]

    def mask(self, **wanted: Any) -> int:
        """The types with these properties."""
        return sum(
            each.bit
            for each in self.table
            if all(getattr(each, name) == value for name, value in wanted.items())
        )

    def name(self, types: int) -> str:
        """The short names of types, for messages."""
        return "+".join(names_of(types, self.table)) or "nothing"

    @property
    def fds(self) -> int:
        """The types that are descriptors."""
        return self.mask(kind="fd")

    @property
    def nt(self) -> int:
        """The types that are NT handles."""
        return self.mask(kind="nt")

    @property
    def windows(self) -> int:
        """The types that are Windows handles or numbers."""
        return self.nt | self.mask(kind="kmt")

    @property
    def copies(self) -> int:
        """The types that are snapshots."""
        return self.mask(copy_transference=True)

    @property
    def opaque(self) -> int:
        """The types that only Vulkan understands."""
        return self.mask(opaque=True)


SEMAPHORES = Sort("semaphore", "VkSemaphore", SEMAPHORE)
FENCES = Sort("fence", "VkFence", FENCE)


def sort_of(site: Site) -> Sort:
    """What a structure or command is about."""
    return SEMAPHORES if "Semaphore" in site.owner else FENCES


def the_object(call: Call, site: Site) -> Record | None:
    """The semaphore or fence that a structure names."""
    sort = sort_of(site)
    return call.world.find(sort.kind, int(site.value(sort.object)))


def offered(call: Call, sort: Sort, handle_type: int, timeline: bool) -> External | None:
    """What the device can do with a handle type; None if it cannot be asked."""
    if sort is SEMAPHORES:
        return call.asked.external_semaphore(handle_type, timeline)
    return call.asked.external_fence(handle_type)


# -- may it be imported? --------------------------------------------------------------------------


class Unfit(NamedTuple):
    """Why something cannot be imported, and what to do."""

    member: str  # "fd", "handle" or "name"
    problem: str
    remedy: str


def imported(call: Call, site: Site) -> SyncOrigin | None:
    """What is known of what a structure imports; None if nothing, or if it cannot be imported."""
    sort = sort_of(site)
    handle_type = int(site.value("handleType"))
    if handle_type.bit_count() != 1 or unfit(call, site) is not None:
        return None
    handle, name = _source(site)
    return call.asked.sync_origin(sort.object, handle_type, handle, name)


def _source(site: Site) -> tuple[int, str | None]:
    if site.owner.endswith("FdInfoKHR"):
        return int(site.value("fd")), None
    return int(site.value("handle") or 0), site.value("name")


def unfit(call: Call, site: Site) -> Unfit | None:
    """Why what a structure imports cannot be of its type; None if it may be."""
    found: Unfit | None = call.asked.now(("unfit", site.path), lambda: _look(call, site))
    return found


def _look(call: Call, site: Site) -> Unfit | None:
    sort, handle_type = sort_of(site), int(site.value("handleType"))
    handle, name = _source(site)
    if site.owner.endswith("FdInfoKHR"):
        return _unfit_fd(call, sort, handle_type, handle) if handle_type & sort.fds else None
    if not handle_type & sort.windows:
        return None
    if name is not None:
        return _unfit_name(call, sort, handle_type, name) if handle_type & sort.nt else None
    return _unfit_handle(call, sort, handle_type, handle)


def _unfit_fd(call: Call, sort: Sort, handle_type: int, fd: int) -> Unfit | None:
    what = sort.name(handle_type)
    if fd == -1 and handle_type & sort.copies:
        return None  # signalled already
    remedy = (
        f"Pass a descriptor that vkGet{sort.object.capitalize()}FdKHR returned, or that a peer "
        "sent over a socket; a successful import takes it away, so duplicate it to import twice."
    )
    if fd < 0:
        return Unfit("fd", f"is {fd}, which is no descriptor.", remedy)
    seen = call.asked.descriptor(fd)
    if seen is None:
        return Unfit("fd", f"is {fd}, which is not open in this process.", remedy)
    origin = call.asked.sync_origin(sort.object, handle_type, fd)
    if origin is not None:
        return _unlike(origin, sort, handle_type, "fd", f"is {fd}", remedy)
    if seen.kind != "device" and payloads.find(seen.identity, seen.size) is not None:
        problem = f"is {fd}, which this process exported from memory."
        return Unfit("fd", problem, "Import it with VkImportMemoryFdInfoKHR.")
    if seen.kind in _STRANGERS or (handle_type & sort.opaque and seen.kind in _NOT_OPAQUE):
        return Unfit(
            "fd", f"is {fd}, which is a {seen.kind}, no {what} of a {sort.object}.", remedy
        )
    if seen.kind == "device" and seen.major in _OTHER_DEVICES:
        return Unfit("fd", f"is {fd}, a device that is no GPU.", remedy)
    return None


_NT_REMEDY = (
    "A handle means something in its own process only: DuplicateHandle it into this one, or import "
    "by name."
)


def _expected_object(call: Call) -> str | None:
    """The kernel object behind an NT handle, where the driver's way is known."""
    return "Section" if call.dispatch.driver.name == "embedded" else None


def _unfit_handle(call: Call, sort: Sort, handle_type: int, handle: int) -> Unfit | None:
    if not handle:
        remedy = f"Pass a handle that was fetched from a {sort.object}, a duplicate, or a name."
        return Unfit("handle", "is NULL, and no name is given.", remedy)
    remedy = _NT_REMEDY
    if handle_type & sort.nt:
        if handle in (_INVALID, -1):
            return Unfit("handle", "is INVALID_HANDLE_VALUE.", remedy)
        found, expected = nt_lookup.describe(handle), _expected_object(call)
        if found.kind is None:
            return Unfit("handle", f"is {handle:#x}, which {found.why_not}.", remedy)
        if expected is not None and found.kind != expected:
            problem = f"is {handle:#x}, a handle of a {found.kind}, not of a {sort.object}."
            return Unfit("handle", problem, remedy)
    else:
        remedy = (
            f"A KMT number holds nothing: keep the {sort.object} that it was fetched from alive "
            "for as long as others import it."
        )
        if handle >> 32:
            return Unfit("handle", f"is {handle:#x}; a KMT number has 32 bits.", remedy)
    origin = call.asked.sync_origin(sort.object, handle_type, handle)
    if origin is None:
        return None
    return _unlike(origin, sort, handle_type, "handle", f"is {handle:#x}", remedy)


def _unfit_name(call: Call, sort: Sort, handle_type: int, name: str) -> Unfit | None:
    origin = call.asked.sync_origin(sort.object, handle_type, 0, name)
    kind = _expected_object(call)
    if kind is None and origin is not None and not origin.types:
        kind = sort.object.capitalize()  # shared through the directory
    # The system's own words first: not there, or not for this user.
    why_not = nt_lookup.why_not_by_name(name, kind) if kind is not None else None
    if why_not is not None:
        assert kind is not None
        other = nt_lookup.by_another_driver(name, kind)
        if other is not None:
            problem = f"is {name!r}, which {OTHER_DRIVER} ({other}, not {kind})."
            return Unfit("name", problem, OPEN_THAT)
        return Unfit("name", f"is {name!r}: {why_not.words}.", remedy_of_name(why_not.code))
    if origin is None:
        return None
    remedy = remedy_of_name(winerror.FILE_NOT_FOUND)
    return _unlike(origin, sort, handle_type, "name", f"is {name!r}", remedy)


def _unlike(
    origin: SyncOrigin, sort: Sort, handle_type: int, member: str, subject: str, remedy: str
) -> Unfit | None:
    if origin.stale or not origin.types:  # or it is the system that knows of nothing now
        trouble = nt_lookup.out_of_order()
        if trouble is not None:
            problem = f"{subject}, of which nothing is known: {trouble}."
            return Unfit(member, problem, TRY_AGAIN)
    if origin.stale:
        problem = f"{subject}, a number that no living {sort.object} goes by."
        return Unfit(member, problem, remedy)
    if origin.object and origin.object != sort.object:
        problem = f"{subject}, which is a {origin.object}, not a {sort.object}."
        return Unfit(member, problem, f"Import it into a Vk{origin.object.capitalize()}.")
    if not origin.types:
        problem = f"{subject}, which is no {sort.object} that was shared through this driver."
        return Unfit(member, problem, remedy)
    if not origin.types & handle_type:
        shared = sort.name(origin.types)
        problem = f"{subject}, which was shared as {shared}, not as {sort.name(handle_type)}."
        return Unfit(member, problem, f"Import it as {shared}.")
    return None
