"""What the service does for each request that needs nobody else's answer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from time import monotonic

import msgspec

from extmem.handles import winerror
from extmem.handles.access import SECTION_MAP_READ
from extmem.handles.directory import items, stamps
from extmem.handles.directory import protocol as p
from extmem.handles.directory.accounts import Account, Record
from extmem.handles.directory.items import Borrowed
from extmem.handles.directory.state import State
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["Answer", "answer", "borrow", "find", "text_of"]

Answer = tuple[p.Message, int | None]
_KMT = "Local\\extmem-kmt-"  # how the embedded device calls sections that have a number
_SHOWN_HOLDERS = 64
_MOST_ON_PAGE = 256  # objects


def text_of(packed: bytes | None) -> str | None:
    return None if packed is None else p.unpack_text(packed)


def answer(
    state: State,
    account: Account,
    request: p.Request,
    fd: int | None,
    account_of: Callable[[int, str], Account],
) -> Answer:
    """Do it. OSError if it cannot be done; a descriptor that came is the state's then too.

    account_of: finds or makes the account of a running process of this user
    """
    match request:
        case p.Fetch():
            return p.Sent(), state.fetch(account, request.handle, request.write, request.size)
        case p.Info():
            info = state.info(account, request.handle)
            name = None if info.name is None else p.pack_text(info.name)
            numbers = (info.handle_count, info.access, info.identity)
            return p.Described(info.type_name, name, *numbers), None
        case p.ReadPassport():
            return p.Blob(state.passport(account, request.handle)), None
        case p.Offer():
            return p.Blob(state.offer(account).encode()), None
        case p.Listing():
            return _listing(state, request.after), None
        case p.Close():
            state.close(account, request.handle)
            return p.Done(), None
        case p.OpenProcess():
            asked = f"cannot open process {request.process_id}"
            other = account_of(request.process_id, asked)
            handle = state.open_process(account, other, request.access, request.inherit)
            return p.Number(handle), None
        case _:
            return p.Number(_number(state, account, request, fd)), None


def _number(state: State, account: Account, request: p.Request, fd: int | None) -> int:
    """Those whose answer is one number."""
    match request:
        case p.CreateSection():
            return state.create_section(
                account,
                request.size,
                text_of(request.name),
                request.access,
                text_of(request.security),
                request.inherit,
                request.passport,
            )
        case p.Share():
            assert fd is not None
            return state.share(
                account,
                fd,
                request.kind,
                text_of(request.name),
                request.access,
                text_of(request.security),
                request.inherit,
                request.passport,
            )
        case p.OpenNamed():
            name = p.unpack_text(request.name)
            return state.open_named(account, request.kind, name, request.access)
        case p.SectionSize():
            return state.section_size(account, request.handle)
        case p.Duplicate():
            return state.duplicate(
                account,
                request.handle,
                request.access,
                request.inherit,
                request.source,
                request.target,
                request.close_source,
            )
        case p.Same():
            return int(state.same_object(account, request.first, request.second))
        case p.Flags():
            return state.set_flags(account, request.handle, request.mask, request.flags)
        case p.CountHandles():
            return len(account.table)
    raise p.Malformed(f"{type(request).__name__} is not for this connection")


# -- for other users' directories ------------------------------------------------------------------


def find(state: State, name: str) -> Answer:
    """Who has a name."""
    found = state.names.find(name)
    if found is None:
        raise failure(winerror.FILE_NOT_FOUND, f"cannot find {name!r}")
    record = state.records[found.identity]
    holder = record.holder(state.accounts) or record.maker
    return p.Holder(holder.process_id, holder.command), None


def borrow(state: State, account: Account, request: p.Borrow) -> tuple[int, p.Borrowed, int | None]:
    """The guest's handle, and what to tell its directory."""
    name = p.unpack_text(request.name)
    handle = state.open_named(account, request.kind, name, request.access)
    entry = account.table.get(handle)
    record = state.records[entry.object.identity]
    fd = None
    if request.kind in items.DRIVERS:
        fd = state.fetch(account, handle, None)
    elif entry.access & SECTION_MAP_READ:
        fd = state.fetch(account, handle, False)
    reply = p.Borrowed(
        state.epoch,
        entry.object.identity,
        request.kind,
        record.size,
        entry.access,
        record.passport,
        record.maker.process_id,
        record.maker.command,
    )
    return handle, reply, fd


# -- the list --------------------------------------------------------------------------------------


def _listing(state: State, after: int) -> p.ListingPage:
    """Objects from the oldest to the newest, as many as a packet holds."""
    later = ((identity, each) for identity, each in state.records.items() if identity > after)
    records = dict(islice(later, _MOST_ON_PAGE + 1))
    # Only of these: a list of many pages would take too long, and others wait meanwhile.
    counts: dict[int, Counter[Account]] = {identity: Counter() for identity in records}
    accounts = {*state.accounts, *(record.maker for record in records.values())}
    for account in accounts:
        for _, entry in account.table.items():
            held = counts.get(entry.object.identity)
            if held is not None:
                held[account] += 1
    page: list[p.Listed] = []
    room = p.PAGE_OF_LIST
    for identity, record in records.items():
        listed = _listed(record, counts[identity])
        room -= len(msgspec.msgpack.encode(listed))
        if page and (room < 0 or len(page) == _MOST_ON_PAGE):
            return p.ListingPage(tuple(page), True)
        page.append(listed)
    return p.ListingPage(tuple(page), False)


def _listed(record: Record, held: Counter[Account]) -> p.Listed:
    item, name = record.item, record.item.name
    holders = held.most_common(_SHOWN_HOLDERS)
    return p.Listed(
        identity=item.identity,
        kind=item.kind.name,
        name=None if name is None else p.pack_text(name),
        size=record.size,
        owner=_holding(record.maker, held[record.maker]),
        holders=tuple(_holding(account, count) for account, count in holders),
        more_holders=len(held) - len(holders),
        age=monotonic() - record.since,
        passport=record.passport or stamps.read(item),
        kmt=name is not None and name.startswith(_KMT),
        lender=item.lender if isinstance(item, Borrowed) else None,
    )


def _holding(account: Account, handles: int) -> p.Holding:
    return p.Holding(account.process_id, account.user.uid, account.command[:64], handles)
