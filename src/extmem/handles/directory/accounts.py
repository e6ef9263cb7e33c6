"""The processes that have handle tables, and what each of them made."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from extmem.handles.objects import HandleTable, KernelObject, Process
from extmem.handles.sddl import User, parse

__all__ = ["Account", "Home", "Record"]


class Account:
    """One process of this user with its handles, or a guest: another user's directory."""

    def __init__(self, process_id: int, user: User, command: str, guest: bool = False) -> None:
        self.process_id = process_id
        self.user = user
        self.command = command
        self.guest = guest
        # Numbers begin anywhere: one of another process, or of a directory that ended, should meet
        # nothing here. Windows' handles have 32 bits that count, too.
        first = 4 + 4 * secrets.randbelow(1 << 26)
        self.table = HandleTable(first=first)
        self.process = Home(self)
        self.connections = 0
        self.objects = 0  # that it made and that are still there
        self.names = 0
        self.tokens = 0
        self.ended = False
        self.program = b""  # what it runs, in its own words; b"" until it has said so

    @property
    def is_used(self) -> bool:
        """Whether anything would be lost with it."""
        return bool(self.connections or len(self.table) or self.process.handles or self.tokens)

    def has(self, item: KernelObject) -> bool:
        """Whether it has a handle of an object."""
        return any(entry.object is item for _, entry in self.table.items())

    def __str__(self) -> str:
        if self.guest:
            return f"the directory of user {self.user.uid}"
        return f"process {self.process_id} ({self.command})"


class Home(Process):
    """The process of an account."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.process_id, parse(None, account.user, named=True))
        self.account = account


@dataclass(slots=True)
class Record:
    """What the directory knows of an object beside what it is."""

    item: KernelObject
    maker: Account
    size: int  # bytes, 0 where it is not known
    passport: bytes
    descriptors: int  # that it holds open
    since: float = field(default_factory=time.monotonic)

    def holder(self, accounts: Iterable[Account]) -> Account | None:
        """Who has a handle of it: its maker, or another; None if only a token keeps it."""
        if self.maker.has(self.item):
            return self.maker
        return next((each for each in accounts if each.has(self.item)), None)

    def whose(self, accounts: Iterable[Account]) -> str:
        """Who has it, and who made it if that is another, for those who want its name."""
        holder = self.holder(accounts)
        if holder is self.maker:
            return f"{self.maker} has it"
        made = f"{self.maker} made it{' and has ended' if self.maker.ended else ''}"
        if holder is None:
            return f"a child that its parent started is to inherit it; {made}"
        return f"{holder} has it; {made}"
