"""Tokens, by which a child gets the handles that its parent wants it to have."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from extmem.handles import winerror
from extmem.handles.directory.accounts import Account
from extmem.handles.objects import Entry
from extmem.handles.winerror import failure

__all__ = ["Token", "Tokens"]

_REMEMBERED = 1024


@dataclass(slots=True)
class Token:
    """Handles that wait for a child. They keep their objects as all handles do."""

    parent: Account
    entries: list[tuple[int, Entry]]
    until: float


class Tokens:
    """Those that were given out. A token works once."""

    def __init__(self) -> None:
        self._waiting: dict[str, Token] = {}
        self._over: OrderedDict[str, str] = OrderedDict()  # why they do not work any more

    def offer(self, parent: Account, entries: list[tuple[int, Entry]], seconds: float) -> str:
        """A new token. The caller counts the handles."""
        text = secrets.token_hex(16)
        self._waiting[text] = Token(parent, entries, time.monotonic() + seconds)
        parent.tokens += 1
        return text

    def claim(self, text: str, child: str) -> Token:
        """The handles, which are the caller's to give back. OSError 5 if there are none."""
        token = self._waiting.get(text)
        if token is None:
            asked = "cannot inherit the handles of EXTMEM_INHERIT"
            why = self._over.get(text, "this directory does not know the token")
            remedy = "a token is for one child: call win32.child_environment() for each"
            raise failure(winerror.ACCESS_DENIED, asked, f"{why}; {remedy}")
        self._end(text, f"it was used by {child} already")
        return token

    def lapsed(self, ended: Account | None = None) -> list[Token]:
        """Take out those whose time is over, or whose parent ended."""
        now, found = time.monotonic(), []
        for text, token in list(self._waiting.items()):
            if token.parent is ended:
                self._end(text, "the parent ended before it was used")
                found.append(token)
            elif token.until <= now:
                self._end(text, "it was not used in time")
                found.append(token)
        return found

    def next_end(self) -> float | None:
        """When the next one ends by itself."""
        return min((token.until for token in self._waiting.values()), default=None)

    def _end(self, text: str, why: str) -> None:
        self._waiting.pop(text).parent.tokens -= 1
        self._over[text] = why
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def __iter__(self) -> Iterator[Token]:
        return iter(self._waiting.values())

    def __len__(self) -> int:
        return len(self._waiting)
