"""Inputs to begin with: messages as they are really sent."""

from __future__ import annotations

import msgspec

from extmem.errors import DriverError, PassportError, Problem, RuleViolation
from extmem.handles.directory import protocol as p
from extmem.share import parcels, trials
from extmem.share.parcels import Item, Packet
from extmem.share.passport import (
    BufferInfo,
    Exporter,
    ImageInfo,
    Passport,
    Place,
    SyncPassport,
)
from tests.fuzz import frames
from tests.fuzz.directory import FIRST, GUEST, LENDER, SECOND, Descriptors

__all__ = [
    "REAL",
    "of_answers",
    "of_channels",
    "of_passports",
    "of_replies",
    "of_requests",
    "of_services",
]

# Stands for the number of an NT handle that is open: those differ from run to run.
REAL = int.from_bytes(b"REALHAND", "big")

_ALL, _READ, _WRITE, _MOST = 0x10000000, 0x80000000, 0x80000001, 0x02000000
_SECURITY = b"O:S-1-22-1-0G:BAD:P(A;;GA;;;WD)(D;OI;0x2;;;S-1-22-2-4)S:(ML;;NW;;;LW)"
_FIRST_HANDLE = 4  # and so on, by four
_IMAGE = ImageInfo(1, 37, 64, 48, 1, 1, 1, 1, 0, 3, modifier=1 << 60)
_HERE = Place(b"d" * 16, b"v" * 16, b"l" * 8, 1, "a device", b"m" * 16, b"b" * 16)


def of_passports() -> list[bytes]:
    bare = Passport(handle_type="opaque_fd", allocation_size=4096, memory_type=0)
    full = Passport(
        handle_type="opaque_win32",
        allocation_size=8192,
        memory_type=2,
        size=5000,
        place=_HERE,
        device_mask=1,
        dedicated=BufferInfo(5000, 3),
        image=_IMAGE,
        exporter=Exporter(7, "a program"),
    )
    return [
        each.encode()
        for each in (
            bare,
            full,
            msgspec.structs.replace(full, dedicated=_IMAGE, image=None),
            SyncPassport("opaque_fd", "fence"),
            SyncPassport(
                "opaque_win32", "semaphore", timeline=True, place=_HERE, exporter=Exporter(7, "a")
            ),
        )
    ]


_REQUESTS: tuple[p.Message, ...] = (
    p.Hello(p.VERSION),
    p.Hello(p.VERSION, "0" * 31 + "1"),
    p.CreateSection(4096, b"Local\\x", _ALL, _SECURITY, True, b"passport"),
    p.CreateSection(5000, None, _READ, None, False, b""),
    p.Share("Memory", b"m", _ALL, None, False, b"passport"),
    p.OpenNamed("Section", b"x", _MOST),
    p.SectionSize(_FIRST_HANDLE),
    p.Fetch(_FIRST_HANDLE, None, 0),
    p.Fetch(_FIRST_HANDLE, False, 4096),
    p.Fetch(_FIRST_HANDLE, True, 4096),
    p.Close(_FIRST_HANDLE),
    p.Duplicate(_FIRST_HANDLE, _READ, True, -1, -1, True),
    p.Info(_FIRST_HANDLE),
    p.Same(_FIRST_HANDLE, -1),
    p.Flags(_FIRST_HANDLE, 3, 1),
    p.OpenProcess(1, 0x40, False),
    p.CountHandles(),
    p.ReadPassport(_FIRST_HANDLE),
    p.Offer(),
    p.Listing(0),
    p.Status(),
    p.Find(b"Global\\g"),
    p.Borrow("Section", b"Global\\g", _WRITE),
    p.Lend(),
)
_REPLIES: tuple[p.Message, ...] = (
    p.Failed(2, 2, "there is no object of that name"),
    p.Welcome(b"e" * 16, 7),
    p.Done(),
    p.Number(4),
    p.Blob(b"token"),
    p.Sent(),
    p.Described("Section", b"Local\\x", 1, 0xF0007, 9),
    p.ListingPage(
        (
            p.Listed(
                9, "Section", b"Local\\x", 4096, p.Holding(7, 0, "a", 1),
                (p.Holding(7, 0, "a", 1),), 0, 1.5, b"passport", False, None,
            ),
        ),
        False,
    ),
    p.State(7, 0, 1.5, {"handles": 1}, {"handles": 2.0}, "/run"),
    p.Holder(7, "a"),
    p.Borrowed(b"e" * 16, 9, "Section", 8192, 0x20007, b"passport", 7, "a"),
)  # fmt: skip


def of_requests() -> list[bytes]:
    return [p.encode(each) for each in _REQUESTS]


def of_replies() -> list[bytes]:
    return [p.encode(each) for each in _REPLIES]


def of_answers() -> list[bytes]:
    broken = RuleViolation("vkAllocateMemory", [Problem("VUID-x", "fd", 7, "is 7.", "Pass 8.")])
    found: list[trials.Answer] = [trials.Ready(b"d" * 16, b"v" * 16), trials.Passed()]
    found += [trials.Step("importing"), trials.Step("freeing")]
    for each in (
        broken,
        DriverError(-1000072003, "vkAllocateMemory", "a hint"),
        FileNotFoundError(2, "none"),
        PassportError("this is of another device"),
        AssertionError(),
    ):
        found.append(trials.failure_of(each))
    return [trials.encode(each) for each in found]


def _script(*steps: tuple[int, p.Message]) -> bytes:
    return frames.joined((control, p.encode(message)) for control, message in steps)


def _one(kind: int) -> int:
    return Descriptors.control(1, kind)


def of_services() -> list[bytes]:
    hello = (FIRST, p.Hello(p.VERSION))
    again = (SECOND, p.Hello(p.VERSION))
    section = p.CreateSection(8192, b"Local\\x", _ALL, _SECURITY, True, b"passport")
    lent = p.CreateSection(8192, b"Global\\g", _ALL, b"D:(A;;GA;;;WD)", False, b"passport")
    memory = p.Share("Memory", b"Global\\m", _ALL, b"D:(A;;GA;;;WD)", False, b"passport")
    borrowed = p.Borrowed(b"e" * 16, 9, "Section", 8192, 0x20007, b"passport", 7, "a")
    reads = p.Borrowed(b"e" * 16, 9, "Section", 8192, 0x20005, b"passport", 7, "a")
    other = p.Borrowed(b"e" * 16, 10, "Section", 4096, 0x20007, b"passport", 7, "a")
    opening = p.OpenNamed("Section", b"Global\\b", _MOST)
    scripts = [
        [hello, (FIRST, section), *((FIRST, each) for each in _REQUESTS[6:15])],
        [hello, (FIRST, section), (FIRST, p.OpenNamed("Section", b"x", _READ)), (FIRST, section)],
        [hello, (FIRST, section), (FIRST, p.Fetch(4, False, 8192)), (FIRST, p.Fetch(4, True, 1))],
        [hello, (FIRST, p.OpenProcess(1, _MOST, False)), (FIRST, section),
         (FIRST, p.Duplicate(8, None, False, -1, 4, False)), (FIRST, p.Listing(0)),
         (FIRST, p.Duplicate(4, None, False, 4, -1, True))],
        [hello, (FIRST, section), (FIRST, p.Offer()), (FIRST, p.Close(4)), (FIRST, p.Status()),
         (SECOND, p.Hello(p.VERSION, "0" * 31 + "1")), (SECOND, p.Info(4))],
        [hello, again, (FIRST | _one(1), memory), (LENDER, p.Failed(2, 2, "none")),
         (SECOND, p.OpenNamed("Memory", b"Global\\m", _ALL)), (LENDER, p.Failed(2, 2, "none")),
         (SECOND, p.Fetch(8, None, 0)), (FIRST, p.Flags(4, 2, 2)), (FIRST, p.Close(4)),
         (FIRST | _one(5), memory)],
        [hello, (FIRST, lent), (LENDER, p.Failed(2, 2, "none")), (GUEST, p.Find(b"Global\\g")),
         (GUEST, p.Borrow("Section", b"Global\\g", _WRITE)), (GUEST, p.Lend())],
        [hello, (FIRST, lent), (LENDER, p.Holder(7, "a"))],
        [hello, (FIRST | _one(1), memory), (LENDER, p.Failed(2, 2, "none")),
         (GUEST, p.Borrow("Memory", b"Global\\m", _ALL))],
        [hello, (FIRST, opening), (LENDER | _one(0), borrowed), (LENDER | _one(1), p.Sent()),
         (FIRST, p.Fetch(4, True, 8192)), (FIRST, p.Fetch(4, False, 8192)), (FIRST, p.Listing(0))],
        [hello, (FIRST, opening), (LENDER | _one(0), borrowed), (LENDER | _one(1), p.Sent()),
         (FIRST, opening), (LENDER | _one(0), borrowed), (LENDER | _one(1), p.Sent()),
         (FIRST, p.Same(4, 8)), (FIRST, p.Close(4)), (FIRST, p.Fetch(8, True, 8192))],
        [hello, (FIRST, opening), (LENDER | _one(0), reads), (FIRST, opening),
         (LENDER | _one(2), other), (LENDER | _one(3), p.Sent()), (FIRST, p.Fetch(8, True, 4096)),
         (FIRST, p.Fetch(4, False, 8192)), (FIRST, p.Fetch(8, True, 8192))],
        [hello, (FIRST, opening), (LENDER, p.Failed(5, 13, "not you"))],
        [hello, (FIRST, p.OpenNamed("Memory", b"Global\\b", _ALL)),
         (LENDER | _one(1), p.Borrowed(b"e" * 16, 9, "Memory", 0, 0xF0007, b"", 7, "a")),
         (FIRST, p.Fetch(4, None, 0))],
    ]  # fmt: skip
    return [_script(*each) for each in scripts]


def of_channels() -> list[bytes]:
    passports = of_passports()
    fd = Item("opaque_fd", None, passports[0])
    nt = Item("opaque_win32", REAL, passports[1])
    found = []
    for count, packet in [
        (0, Packet(b"hello", ())),
        (1, Packet(b"one", (fd,))),
        (3, Packet(b"", (fd, Item("dma_buf", None, None), Item("opaque_fd", None, None)))),
        (0, Packet(b"nt", (nt,))),
        (1, Packet(b"both", (nt, fd, Item("opaque_win32_kmt", 7, None)))),
        (0, Packet(b"foreign", (Item("d3d11_texture", REAL, None),))),
        (0, Packet(b"", (), "not you")),
    ]:
        found.append((Descriptors.control(count, 1), parcels.encode(packet)))
    return [frames.joined([each]) for each in found] + [frames.joined(found[:5])]
