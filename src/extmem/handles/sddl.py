"""Security descriptors in text (SDDL): read, and asked whom they admit, where no Windows does it.

Users are the system's own. A user is the SID S-1-22-1-uid and a group S-1-22-2-gid, as Samba has
it; of the names with two letters, WD, AU, BU and IU are everyone, BA and SY are root, OW is the
owner of the object, and all others are nobody here.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import NoReturn, Self

from extmem.handles import winerror
from extmem.handles.access import READ_CONTROL, WRITE_DAC, Kind
from extmem.handles.winerror import failure

__all__ = ["Descriptor", "User", "parse"]

LONGEST = 0x10000  # characters

_EVERYONE = {"WD", "AU", "BU", "IU", "S-1-1-0", "S-1-5-11", "S-1-5-32-545", "S-1-5-4"}
_ROOT = {"BA", "SY", "S-1-5-32-544", "S-1-5-18"}
_OWNER = {"OW", "S-1-3-4"}
# What is a SID at all, by its two letters.
_ALIASES = re.compile(
    "A[ACNOPSU]|B[AGOU]|C[ADGNOY]|D[ACDGU]|E[ADKRS]|H[AIO]|I[SU]|KA|L[AGSUW]|M[EPSU]|N[OSU]|OW"
    "|P[AOSU]|R[ACDEMOSU]|S[AIOSUY]|U[DW]|W[DR]"
)
_RIGHTS = {
    "GA": 0x10000000, "GX": 0x20000000, "GW": 0x40000000, "GR": 0x80000000,
    "RC": 0x20000, "SD": 0x10000, "WD": 0x40000, "WO": 0x80000,
    "CC": 0x1, "DC": 0x2, "LC": 0x4, "SW": 0x8, "RP": 0x10, "WP": 0x20, "DT": 0x40, "LO": 0x80,
    "CR": 0x100, "FA": 0x1F01FF, "FR": 0x120089, "FW": 0x120116, "FX": 0x1200A0,
    "KA": 0xF003F, "KR": 0x20019, "KW": 0x20006, "KX": 0x20019, "NW": 0x1, "NR": 0x2, "NX": 0x4,
}  # fmt: skip
_FLAGS = {"CI", "OI", "NP", "IO", "ID", "SA", "FA", "TP", "CR"}

_PART = re.compile(r"\s*([OGDS]):\s*")
_SID = re.compile(r"(S-1-(?:0x[0-9A-Fa-f]{12}|[0-9]+)(?:-[0-9]+){1,15}|[A-Z]{2})\s*")
_LIST = re.compile(r"((?:NO_ACCESS_CONTROL|P|AR|AI|\s)*)((?:\([^()]*\)\s*)*)")
_ENTRY = re.compile(r"\(([^()]*)\)")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    uid: int
    groups: frozenset[int]

    @classmethod
    def current(cls) -> Self:
        """The user that this process acts for."""
        if sys.platform == "win32":
            raise NotImplementedError
        return cls(os.geteuid(), frozenset((os.getegid(), *os.getgroups())))

    def is_meant(self, sid: str, owner: int) -> bool:
        """Whether a SID stands for this user; `owner` is the uid of the object's owner."""
        return (
            sid in _EVERYONE
            or (sid in _ROOT and self.uid == 0)
            or (sid in _OWNER and self.uid == owner)
            or sid == f"S-1-22-1-{self.uid}"
            or any(sid == f"S-1-22-2-{group}" for group in self.groups)
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a list of rights: may these users do that, or may they not."""

    allow: bool
    mask: int
    sid: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Who owns an object, and who may open it."""

    owner: int  # uid
    entries: tuple[Entry, ...] | None  # the first that speaks of a right decides; None: all may

    def allowed(self, user: User, kind: Kind) -> int:
        """All rights that a user may have, in the bits of the kind of object."""
        if self.entries is None:
            return kind.all
        given, refused = 0, 0
        if user.uid == self.owner and not any(each.sid in _OWNER for each in self.entries):
            given = READ_CONTROL | WRITE_DAC  # so that nobody locks himself out for good
        for entry in self.entries:
            if user.is_meant(entry.sid, self.owner):
                if entry.allow:
                    given |= kind.bits(entry.mask) & ~refused
                else:
                    refused |= kind.bits(entry.mask) & ~given
        return given


@dataclass(slots=True)
class _Parts:
    """What was read; a descriptor need not say anything of owner or rights."""

    owner: str | None = None
    entries: tuple[Entry, ...] | None = ()
    has_list: bool = False


def parse(text: str | None, creator: User, *, named: bool) -> Descriptor:
    """The descriptor of a new object. OSError 87, 1307, 1336 or 1337 where the text is wrong.

    What the text does not say is as the system has it: a named object is its creator's, and one
    without a name is reached through its handles alone, which can then not be widened.

    >>> parse("D:(A;;GR;;;WD)", User(1000, frozenset()), named=True).entries
    (Entry(allow=True, mask=2147483648, sid='WD'),)
    """
    parts = _Parts() if text is None else _read(text)
    if parts.owner is not None and not creator.is_meant(parts.owner, creator.uid):
        raise failure(winerror.INVALID_OWNER, f"cannot give an object to {parts.owner}")
    if parts.has_list:
        return Descriptor(creator.uid, parts.entries)
    full = _RIGHTS["GA"]
    default = (Entry(True, full, f"S-1-22-1-{creator.uid}"), Entry(True, full, "SY"))
    return Descriptor(creator.uid, default if named else ())


def check(text: str) -> None:
    """Raise what `parse` raises for a text that is no descriptor."""
    _read(text)


def _read(text: str) -> _Parts:
    if len(text) > LONGEST:
        _wrong(text, winerror.INVALID_PARAMETER, f"it is longer than {LONGEST} characters")
    parts, place, seen = _Parts(), 0, ""
    while text[place:].strip():
        head = _PART.match(text, place)
        if head is None or head[1] in seen:
            what = "expected O:, G:, D: or S:, each once"
            _wrong(text, winerror.INVALID_PARAMETER, f"{what}, at character {place + 1}")
        letter = head[1]
        seen += letter
        if letter in "OG":
            found = _SID.match(text, head.end())
            if found is None or not _is_known(found[1]):
                _wrong(text, winerror.INVALID_SID, f"{letter}: is followed by no SID")
            if letter == "O":
                parts.owner = found[1]
        else:
            found = _LIST.match(text, head.end())
            assert found is not None
            if text.startswith("(", found.end()):
                _wrong(text, winerror.INVALID_ACL, "an entry does not end, or has brackets in it")
            entries = [_entry(text, each, letter) for each in _ENTRY.findall(found[2])]
            if letter == "D":
                parts.has_list = True
                parts.entries = tuple(each for each in entries if each is not None)
                if "NO_ACCESS_CONTROL" in found[1]:
                    parts.entries = None
        place = found.end()
    return parts


def _entry(text: str, entry: str, letter: str) -> Entry | None:
    """One entry, read; None if it says nothing of access to the object itself."""
    fields = [field.strip() for field in entry.split(";")]

    def wrong(why: str) -> NoReturn:
        _wrong(text, winerror.INVALID_ACL, f"in ({entry}), {why}")

    if len(fields) != 6:
        wrong(f"there are {len(fields)} fields where 6 are expected")
    kind, flags, rights, *objects, sid = fields
    if not re.fullmatch("A|D" if letter == "D" else "A[UL]|ML|SP|RA|TL", kind):
        wrong(f"the type {kind!r} is not known; of D:, only A and D are")
    pairs = [flags[index : index + 2] for index in range(0, len(flags), 2)]
    if not _FLAGS.issuperset(pairs):
        wrong(f"the flags {flags!r} are not known")
    if any(objects):
        wrong("there are object types, which shared objects do not have")
    if not _is_known(sid):
        wrong(
            f"{sid!r} is no SID: a user of Linux is S-1-22-1-<uid> and a group S-1-22-2-<gid>; OW "
            "is the owner, WD everyone, BA root"
        )
    mask = _mask(rights)
    if mask is None:
        wrong(f"the rights {rights!r} are not known")
    if letter == "S" or "IO" in pairs:
        return None
    return Entry(kind == "A", mask, sid)


def _mask(rights: str) -> int | None:
    if _NUMBER.fullmatch(rights):
        octal = len(rights) > 1 and rights[0] == "0" and rights[1] not in "xX"
        try:
            number = int(rights, 8 if octal else 0)
        except ValueError:
            return None
        return number if number < 1 << 32 else None
    mask = 0
    for index in range(0, len(rights), 2):
        right = _RIGHTS.get(rights[index : index + 2])
        if right is None:
            return None
        mask |= right
    return mask


def _is_known(sid: str) -> bool:
    found = _SID.fullmatch(sid)
    return found is not None and (sid.startswith("S-") or _ALIASES.fullmatch(sid) is not None)


def _wrong(text: str, code: int, why: str) -> NoReturn:
    raise failure(code, f"cannot read the security descriptor {text[:200]!r}", why)
