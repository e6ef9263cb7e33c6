"""What rules of several structures ask of Windows handles: are they open, of that type, and whose.

No rule stands here. The kernel knows what is open; a driver may know where a handle comes from
(`extmem.drivers.driver.Provenance`), and what it does not know is not checked.
"""

from __future__ import annotations

from typing import NamedTuple

from extmem.drivers.driver import HandleOrigin
from extmem.handle_types import MEMORY, MEMORY_NV, core_of, names_of
from extmem.handles import nt_lookup, winerror
from extmem.handles.system import kernel
from extmem.rules.engine import Call
from extmem.vk._base import Structure

__all__ = [
    "CORE_OF",
    "KMT",
    "NT",
    "OPAQUE",
    "OPEN_THAT",
    "OTHER_DRIVER",
    "TRY_AGAIN",
    "WINDOWS",
    "Imported",
    "Unfit",
    "imported",
    "name_of",
    "remedy_of_name",
    "unfit_handle",
    "unfit_name",
    "unfit_nt",
]

NT = sum(each.bit for each in MEMORY if each.kind == "nt")
KMT = sum(each.bit for each in MEMORY if each.kind == "kmt")
WINDOWS = NT | KMT
OPAQUE = sum(each.bit for each in MEMORY if each.opaque) & WINDOWS
# NV's bits are other numbers for the same things.
CORE_OF = {each.bit: core_of(each).bit for each in MEMORY_NV}

# Words that rules on other objects use too.
OTHER_DRIVER = "another driver or device shares"
OPEN_THAT = "Open the device of the one who shares it: open_device(driver=...)."
TRY_AGAIN = "Mend that, and import it again."

_INVALID = (1 << 64) - 1  # INVALID_HANDLE_VALUE


class Unfit(NamedTuple):
    """Why something cannot be imported, and what to do."""

    problem: str
    remedy: str


def name_of(handle_type: int) -> str:
    """The short names of core types, for messages."""
    return "+".join(names_of(handle_type)) or "0"


# -- may it be imported? --------------------------------------------------------------------------


def unfit_nt(handle: int, expected: str | None) -> str | None:
    """Why a value cannot be an NT handle of memory; None if it may be.

    expected: the kernel's type of object, where the driver's is known ("Section" for the
        embedded device); None for drivers whose objects have types of their own
    """
    if handle in (_INVALID, -1):
        return "is INVALID_HANDLE_VALUE."
    found = nt_lookup.describe(handle)
    if found.kind is None:
        return f"is {handle:#x}, which {found.why_not}."
    if expected is not None and found.kind != expected:
        return f"is {handle:#x}, a handle of a {found.kind}, not of memory."
    return None


def _expected_object(call: Call) -> str | None:
    """The kernel object that memory is, where the driver's way is known."""
    return "Section" if call.dispatch.driver.name == "embedded" else None


_NT_REMEDY = (
    "A handle means something in its own process only: DuplicateHandle it into this one, or import "
    "by name."
)
_KMT_REMEDY = (
    "A KMT number holds nothing: keep the memory that it was fetched from alive for as long as "
    "others import it."
)


def unfit_handle(
    call: Call, handle_type: int, handle: int, *, of_any_type: bool = False
) -> Unfit | None:
    """Why a handle or a number cannot be imported as a core type; None if it may be.

    of_any_type: that it is another type of memory does not matter
    """
    if not handle:
        remedy = "Pass a handle that was fetched from memory, a duplicate of one, or a name."
        return Unfit("is NULL, and no name is given.", remedy)
    if handle_type & NT:
        problem = unfit_nt(handle, _expected_object(call))
        if problem is not None:
            return Unfit(problem, _NT_REMEDY)
    elif handle >> 32:
        problem = f"is {handle:#x}; a KMT number has 32 bits."
        return Unfit(problem, f"Import an NT handle as {name_of(NT)}.")
    origin = call.asked.origin_of(handle_type, handle, None)
    return _unlike(origin, handle_type, f"is {handle:#x}", of_any_type)


def remedy_of_name(code: int | None) -> str:
    """What to do about a name that cannot be opened, by Windows' number for why."""
    if code == winerror.FILE_NOT_FOUND:
        return (
            "The exporter must hold an NT handle of it open (a name ends with the last), in the "
            "same session."
        )
    if code == winerror.ACCESS_DENIED:
        return "Its exporter says who may come in, and for what: security=."
    return TRY_AGAIN


def unfit_name(call: Call, handle_type: int, name: str) -> Unfit | None:
    """Why a name cannot be imported as a core type; None if it may be."""
    # Other drivers name objects that only they can open; for those the driver is the judge, unless
    # it knows that nothing of its own is there: then it shares through the directory.
    kind = _expected_object(call)
    origin = call.asked.origin_of(handle_type, 0, name)
    if kind is None and origin is not None and not origin.types:
        kind = "Memory"
    problem = nt_lookup.why_not_by_name(name, kind) if kind is not None else None
    if problem is not None:
        assert kind is not None
        other = nt_lookup.by_another_driver(name, kind)
        if other is not None:
            return Unfit(f"is {name!r}, which {OTHER_DRIVER} ({other}, not {kind}).", OPEN_THAT)
        return Unfit(f"is {name!r}: {problem.words}.", remedy_of_name(problem.code))
    return _unlike(origin, handle_type, f"is {name!r}", False)


def _unlike(
    origin: HandleOrigin | None, handle_type: int, subject: str, of_any_type: bool
) -> Unfit | None:
    if origin is None:
        return None
    if origin.stale or not origin.types:  # or it is the system that knows of nothing now
        problem = nt_lookup.out_of_order()
        if problem is not None:
            return Unfit(f"{subject}, of which nothing is known: {problem}.", TRY_AGAIN)
    if origin.stale or (handle_type & KMT and not origin.types):
        lost = f"; {kernel().lost}" if kernel().lost else ""
        return Unfit(f"{subject}, a number that no living memory goes by{lost}.", _KMT_REMEDY)
    if not origin.types:
        return Unfit(
            f"{subject}, which is no memory that was shared through this driver.",
            f"Pass what was fetched from memory, or what Direct3D shared, as {name_of(NT)}.",
        )
    if not of_any_type and not origin.types & handle_type:
        shared = name_of(origin.types)
        return Unfit(
            f"{subject}, which was shared as {shared}, not as {name_of(handle_type)}.",
            f"Import it as {shared}.",
        )
    return None


# -- what is imported -----------------------------------------------------------------------------


class Imported(NamedTuple):
    """What an allocation imports by a Windows handle, a number or a name."""

    nv: bool  # through NV's structure
    type: int  # the core type; NV's by its twin
    member: str  # "handle" or "name"
    what: str  # for messages
    handle: int
    origin: HandleOrigin  # of something that goes by that type


def imported(call: Call, chain: dict[str, Structure]) -> Imported | None:
    """What a chain imports and where it comes from.

    None if nothing is imported that way, if what is imported cannot be (which has rules of its
    own), and if the driver does not know.
    """
    found: Imported | None = call.asked.now("windows import", lambda: _look(call, chain))
    return found


def _look(call: Call, chain: dict[str, Structure]) -> Imported | None:
    nv = False
    info = chain.get("VkImportMemoryWin32HandleInfoKHR")
    if info is None or not info.handleType:
        nv, info = True, chain.get("VkImportMemoryWin32HandleInfoNV")
    if info is None or not info.handleType:
        return None
    handle_type = CORE_OF.get(info.handleType, 0) if nv else int(info.handleType)
    if handle_type.bit_count() != 1 or not handle_type & WINDOWS:
        return None
    handle, name = int(info.handle or 0), None if nv else info.name
    if name is not None:
        member, what = "name", f"the name {name!r}"
        unfit = unfit_name(call, handle_type, name)
    else:
        member = "handle"
        what = f"{'handle' if handle_type & NT else 'the number'} {handle:#x}"
        unfit = unfit_handle(call, handle_type, handle)
    origin = call.asked.origin_of(handle_type, handle, name) if unfit is None else None
    return Imported(nv, handle_type, member, what, handle, origin) if origin is not None else None
