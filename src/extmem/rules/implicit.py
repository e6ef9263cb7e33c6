"""Rules that follow from the registry: types, chains, counts, required pointers, handles.

They are derived once from `extmem.vk._validity`, for every command and structure alike, and they
collect the places (`Site`) that the explicit rules are then run at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extmem.errors import Problem
from extmem.rules.engine import Call, Site
from extmem.vk import _constants, _structures, _validity
from extmem.vk._base import Structure, VkHandle
from extmem.vk.chain import follower
from extmem.world import elsewhere, kinds_of

__all__ = ["check", "derived", "enumeration_values", "known_bits"]

# A chain longer than this is a circle, or garbage.
LONGEST_CHAIN = 64

_SHARING = ("Import", "Export", "External", "KeyedMutex", "D3D12Fence", "ImageDrmFormatModifier")

# The structures that share something, or say how, and the extensions that they come with. A device
# that was made without those passes over them, and what looks shared is not. Not here: hints, whose
# loss changes nothing, and what Vulkan's core has taken over.
_SHARES_BY_EXTENSION: dict[str, tuple[str, ...]] = {
    name: providers
    for name, providers in _validity.PROVIDED_BY.items()
    if any(word in name for word in _SHARING)
    and not any(provider.startswith("VK_VERSION_") for provider in providers)
    and name != "VkExternalMemoryAcquireUnmodifiedEXT"  # a hint
}

_values: dict[str, frozenset[int]] = {}
_bits: dict[str, int] = {}


def enumeration_values(name: str) -> frozenset[int]:
    """Every value of an enumeration that the registry knows, extensions out of scope included."""
    if name not in _values:
        members = getattr(_constants, name).__members__.values()
        _values[name] = frozenset(map(int, members)) | frozenset(
            _validity.MORE_VALUES.get(name, ())
        )
    return _values[name]


def known_bits(name: str) -> int:
    """Every bit of a flag type that the registry knows."""
    if name not in _bits:
        mask = _validity.MORE_BITS.get(name, 0)
        for member in getattr(_constants, name).__members__.values():
            mask |= int(member)
        _bits[name] = mask
    return _bits[name]


def check(call: Call) -> list[Problem]:
    """The derived problems of a call. Fills `call.sites`."""
    walk = _Walk(call)
    site = Site(call.name, "", call.arguments, {}, None)
    call.sites.append(site)
    walk.members(site, _validity.COMMANDS[call.name])
    return walk.problems


class _Walk:
    """One pass over everything that a call was given."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.problems: list[Problem] = []

    def report(self, site: Site, kind: str, member: str, problem: str, remedy: str = "") -> None:
        found = site.broken(member, problem, remedy)
        vuid = f"VUID-{site.owner}-{kind}"
        self.problems.append(Problem(vuid, found.member, found.value, problem, remedy))

    # -- structures ---------------------------------------------------------------------------

    def structure(self, item: Structure, expected: str, path: str) -> None:
        """A structure that heads a chain (or has none)."""
        site = Site(expected, path, item, {expected: item}, item)
        entries = _validity.STRUCTURES.get(expected)
        if entries is None:
            return
        followers, members = entries
        if type(item)._stype_ is not None:
            if self.mistaken(site):
                return
            self.chain(site, followers)
        if expected not in _validity.RETURNED_ONLY:
            self.call.sites.append(site)
            self.members(site, members)

    def mistaken(self, site: Site) -> bool:
        """Whether a structure says that it is another; drivers go by sType."""
        item = site.subject
        stype = type(item)._stype_
        if item.sType == stype:
            return False
        wanted = _constants.VkStructureType(stype)
        problem = f"is {item.sType}, not {wanted.name}."
        self.report(site, "sType-sType", "sType", problem, "Leave sType out; it is filled in.")
        return True

    def chain(self, head: Site, followers: tuple[str, ...]) -> None:
        """The pNext chain behind `head`: who may be in it, each once."""
        seen = {head.owner}
        path = head.path
        item: Any = head.subject
        for _ in range(LONGEST_CHAIN):
            item = follower(item)
            if item is None:
                return
            name = type(item).__name__
            path = f"{path}.pNext({name})"
            if name not in followers:
                allowed = "; it takes " + ", ".join(followers) if followers else ""
                what = name if name != "VkBaseInStructure" else f"sType {item.sType}"
                self.report(
                    head,
                    "pNext-pNext",
                    "pNext",
                    f"{what} cannot follow {head.owner}{allowed}.",
                    "Take it out of the chain.",
                )
                # It may not even be what its sType says, and reading it would end the process.
                continue
            self.not_enabled(head, name, item)
            if name in seen and name not in _validity.REPEATABLE:
                self.report(
                    head,
                    "sType-unique",
                    "pNext",
                    f"{name} is in the chain twice.",
                    "Keep one of them.",
                )
                return
            seen.add(name)
            head.chain[name] = item
            site = Site(name, path, item, head.chain, head.subject)
            if self.mistaken(site):
                continue
            if name not in _validity.RETURNED_ONLY:
                self.call.sites.append(site)
                self.members(site, _validity.STRUCTURES[name][1])
        self.report(head, "sType-unique", "pNext", "the chain does not end.", "Break the circle.")

    def not_enabled(self, head: Site, name: str, item: Structure) -> None:
        """A structure of an extension that the device was made without.

        Only for what a device is asked: what a physical device is asked may name every extension
        that it has. An import of handle type 0 is none, and nothing is lost with it.
        """
        providers = _SHARES_BY_EXTENSION.get(name)
        dispatch = self.call.dispatch
        if providers is None or dispatch.device is None or any(map(dispatch.enabled, providers)):
            return
        if "Import" in name and not getattr(item, "handleType", 0):
            return
        self.report(
            head,
            "pNext-pNext",
            "pNext",
            f"{name} is in the chain, but the device was made without {' or '.join(providers)}; "
            "drivers pass over it in silence.",
            f"Enable {' or '.join(providers)} (ppEnabledExtensionNames of VkDeviceCreateInfo).",
        )

    # -- members and parameters ---------------------------------------------------------------

    def members(self, site: Site, entries: tuple[_validity.Entry, ...]) -> None:
        handles: list[tuple[str, str, int]] = []
        for entry in entries:
            name, kind, type_name, _, letters = entry
            if "w" in letters:
                self.written(site, entry)
                continue
            if "c" in letters and site.value(name) == 0 and self._array_expected(entries, name):
                self.report(
                    site, f"{name}-arraylength", name, "is 0.", "Give at least one element."
                )
            checker = _CHECKERS.get(kind)
            if checker is None:
                continue
            value = site.value(name)
            if "n" in letters and kind not in ("struct", "structs"):
                continue
            checker(self, site, entry, value)
            if kind == "handle" and value:
                handles.append((name, type_name, int(value)))

    @staticmethod
    def _array_expected(entries: tuple[_validity.Entry, ...], counter: str) -> bool:
        return any(entry[3] == counter for entry in entries)

    def written(self, site: Site, entry: _validity.Entry) -> None:
        """What the call fills: the chain of a structure must be right all the same.

        A command's own outputs are made by `extmem.vk`, or checked there; a pointer in a structure
        is the caller's, who may have forgotten it.
        """
        name, kind, type_name, _, letters = entry
        item = site.value(name)
        if kind == "structs" and isinstance(item, Structure):
            self.structure(item, type_name, name)
        elif isinstance(site.subject, Structure) and "n" not in letters:
            self.present(site, entry, item)

    def enum(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, _ = entry
        if type_name != "VkStructureType" and int(value) not in enumeration_values(type_name):
            self.report(
                site,
                f"{name}-parameter",
                name,
                f"is {int(value)}, which is no {type_name}.",
                f"Use one of the {type_name} constants.",
            )

    def bit(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, letters = entry
        number = int(value)
        if number == 0 and "o" in letters:
            return
        if number == 0 or number & (number - 1) or number & ~known_bits(type_name):
            self.report(
                site,
                f"{name}-parameter",
                name,
                f"is {number:#x}; expected exactly one bit of {type_name}.",
                f"Name one of: {_names(type_name)}.",
            )

    def flags(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, letters = entry
        unknown = int(value) & ~known_bits(type_name)
        if unknown:
            self.report(
                site,
                f"{name}-parameter",
                name,
                f"has bits that are no {type_name}: {unknown:#x}.",
                f"Combine only: {_names(type_name)}.",
            )
        elif int(value) == 0 and "o" not in letters:
            self.report(
                site,
                f"{name}-requiredbitmask",
                name,
                "is 0.",
                f"Name at least one of: {_names(type_name)}.",
            )

    def reserved(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        if int(value or 0) != 0:
            self.report(
                site,
                f"{entry[0]}-zerobitmask",
                entry[0],
                f"is {int(value):#x}, but is reserved for later versions.",
                "Leave it 0.",
            )

    def struct(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        if isinstance(value, Structure):
            path = f"{site.path}.{entry[0]}" if site.path else entry[0]
            self.structure(value, entry[2], path)

    def structs(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, _ = entry
        if not self.present(site, entry, value) or type_name not in _validity.STRUCTURES:
            return  # a union says nothing of which member it holds
        path = f"{site.path}.{name}" if site.path else name
        if isinstance(value, Structure):
            self.structure(value, type_name, path)
            return
        for index in range(self.length(site, entry)):
            self.structure(value[index], type_name, f"{path}[{index}]")

    def present(self, site: Site, entry: _validity.Entry, value: Any) -> bool:
        """Whether a pointer is set; reports one that is required and is not."""
        name, _, _, length, letters = entry
        if value:
            return length is None or self.length(site, entry) > 0
        if isinstance(value, Structure):  # a structure has no truth value of its own
            return True
        required = "o" not in letters and "n" not in letters
        if required and (length is None or self.length(site, entry) > 0):
            self.report(site, f"{name}-parameter", name, "is NULL, but is needed.", "Pass it.")
        return False

    def length(self, site: Site, entry: _validity.Entry) -> int:
        return int(site.value(entry[3])) if entry[3] else 1

    def pointer(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        self.present(site, entry, value)

    def handle(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, letters = entry
        if not value:
            if "o" not in letters:
                self.report(
                    site,
                    f"{name}-parameter",
                    name,
                    "is VK_NULL_HANDLE, but is needed.",
                    f"Pass a {type_name}.",
                )
            return
        self.living(site, name, name, type_name, value)

    def handles(self, site: Site, entry: _validity.Entry, value: Any) -> None:
        name, _, type_name, _, letters = entry
        if not self.present(site, entry, value):
            return
        for index in range(self.length(site, entry)):
            item = value[index]
            if item:
                self.living(site, name, f"{name}[{index}]", type_name, item)
            elif "p" not in letters and "o" not in letters:
                self.report(
                    site,
                    f"{name}-parameter",
                    f"{name}[{index}]",
                    "is VK_NULL_HANDLE, but is needed.",
                    f"Pass a {type_name}.",
                )

    def living(self, site: Site, name: str, member: str, type_name: str, value: Any) -> None:
        """A handle must be alive, of its type, and from this instance or device."""
        world = self.call.world
        if isinstance(value, VkHandle) and type(value).__name__ != type_name:
            self.report(
                site,
                f"{name}-parameter",
                member,
                f"is a {type(value).__name__}; expected a {type_name}.",
            )
            return
        if world.find(type_name, int(value)) is not None:
            return
        owner = elsewhere(type_name, int(value), world)
        if owner is not None:
            kind = _foreign(site, name, type_name)
            self.report(
                site,
                kind,
                member,
                f"belongs to {owner}, not to {world.owner}.",
                "Use objects of one device in one call.",
            )
            return
        others = kinds_of(int(value), world)
        self.report(
            site,
            f"{name}-parameter",
            member,
            f"{int(value):#x} is no living {type_name}"
            + (f"; it is a {others[0]}." if others else ": it was destroyed, or never made here."),
            f"Pass a {type_name} that was made on {world.owner} and not destroyed yet.",
        )


_CHECKERS: dict[str, Callable[[_Walk, Site, _validity.Entry, Any], None]] = {
    "enum": _Walk.enum,
    "bit": _Walk.bit,
    "flags": _Walk.flags,
    "reserved": _Walk.reserved,
    "struct": _Walk.struct,
    "structs": _Walk.structs,
    "handle": _Walk.handle,
    "handles": _Walk.handles,
    "pointer": _Walk.pointer,
    "strings": _Walk.pointer,
    "string": _Walk.pointer,
    "enums": _Walk.pointer,
    "flags*": _Walk.pointer,
    "bits*": _Walk.pointer,
}


def derived() -> frozenset[str]:
    """The name of every rule that `check` can report."""
    found: set[str] = set()
    for name, (_, members) in _validity.STRUCTURES.items():
        cls = getattr(_structures, name)
        if cls._stype_ is not None:
            found |= {f"VUID-{name}-{kind}" for kind in ("sType-sType", "pNext-pNext")}
            found.add(f"VUID-{name}-sType-unique")
        if name not in _validity.RETURNED_ONLY:
            found |= _derived_members(name, members)
    for name, parameters in _validity.COMMANDS.items():
        found |= _derived_members(name, parameters)
    return frozenset(found)


_KINDS = {"enum": "parameter", "bit": "parameter", "reserved": "zerobitmask"}


def _derived_members(owner: str, entries: tuple[_validity.Entry, ...]) -> set[str]:
    found: set[str] = set()
    for name, kind, _, _, letters in entries:
        if "c" in letters:
            found.add(f"VUID-{owner}-{name}-arraylength")
        if kind in _CHECKERS or "w" in letters:
            found.add(f"VUID-{owner}-{name}-{_KINDS.get(kind, 'parameter')}")
        if kind == "flags" and "o" not in letters:
            found.add(f"VUID-{owner}-{name}-requiredbitmask")
        if kind in ("handle", "handles"):
            found |= {f"VUID-{owner}-{name}-parent", f"VUID-{owner}-commonparent"}
    return found


def _foreign(site: Site, name: str, type_name: str) -> str:
    """Which rule a handle of another device or instance breaks.

    Commands have one per parameter whose parent is a parameter, too, and one for all the others
    together. Structures have one for all their handles together, and none if there is only one
    handle: it then is simply not a valid one.
    """
    if isinstance(site.subject, dict):
        parent = _validity.PARENTS.get(type_name)
        with_parent = any(entry[2] == parent for entry in _validity.COMMANDS[site.owner])
        return f"{name}-parent" if with_parent else "commonparent"
    members = _validity.STRUCTURES[site.owner][1]
    several = sum(entry[1] in ("handle", "handles") for entry in members) > 1
    return "commonparent" if several else f"{name}-parameter"


def _names(type_name: str) -> str:
    members = getattr(_constants, type_name).__members__
    short = list(members)[:12]
    return ", ".join(short) + (", ..." if len(members) > 12 else "")
