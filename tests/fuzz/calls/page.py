"""The page in which a process says what it is at, before each step: whoever watches it reads that
when it hangs, and what is left of it when it has died.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Page", "Seen", "read"]

_HEAD = struct.Struct("<QQQII")  # see Seen; then how long the name and the words are
_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Seen:
    """What was said last."""

    beat: int  # how many steps there were: as long as it changes, nothing hangs
    number: int  # of the call, from 1
    round: int
    name: str  # of the command, or what else is done
    words: str  # the call with its arguments, cut off where it is long

    def __str__(self) -> str:
        place = self.words or self.name or "its start"
        return f"call {self.number} of round {self.round}: {place}"


class Page:
    """The page of a process, for the process itself."""

    def __init__(self, path: str) -> None:
        self.round = 0
        self._beat = 0
        with open(path, "r+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def announce(self, number: int, name: str, words: str = "") -> None:
        """Say what comes next."""
        self._beat += 1
        named = name.encode()
        said = words.encode("utf-8", "backslashreplace")[: _SIZE - _HEAD.size - len(named)]
        _HEAD.pack_into(self._map, 0, self._beat, number, self.round, len(named), len(said))
        start = _HEAD.size + len(named)
        self._map[_HEAD.size : start] = named
        self._map[start : start + len(said)] = said


def read(path: Path) -> Seen:
    """What a process said last."""
    data = path.read_bytes().ljust(_HEAD.size, b"\0")
    beat, number, round_, named, said = _HEAD.unpack_from(data)
    start = _HEAD.size + named
    name, words = data[_HEAD.size : start], data[start : start + said]
    return Seen(beat, number, round_, name.decode(), words.decode("utf-8", "replace"))
