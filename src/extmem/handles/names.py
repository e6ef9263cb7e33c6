"""Names of kernel objects: which there can be, and who has them."""

from __future__ import annotations

from typing import Generic, TypeVar

from extmem.handles import winerror
from extmem.handles.winerror import failure

__all__ = ["LONGEST", "Namespace", "canonical", "checked"]

LONGEST = 260  # UTF-16 units, prefix included: MAX_PATH

_PREFIXES = ("Local\\", "Global\\")
# What Windows itself keeps where the names of a session are; no object can be called so.
_TAKEN = ("Local", "Global", "Session")

T = TypeVar("T")


def checked(name: str | None) -> str | None:
    """A name that the system may be asked for; None and "" mean no name.

    Windows looks at no more than 16 bits of a name's length, so that a long one could stand for
    another.
    """
    if not name:
        return None
    if "\0" in name:
        raise ValueError(f"the name {name!r} has a NUL character in it, which would end it there")
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if length > LONGEST:
        raise failure(
            winerror.FILENAME_EXCED_RANGE,
            f"cannot use the name {name[:40]!r}...",
            f"it has {length} UTF-16 units, at most {LONGEST} are allowed",
        )
    return name


def canonical(name: str) -> str:
    """The name with its prefix, which is Local\\ where none is given.

    >>> canonical("frame"), canonical(r"Global\\frame")
    ('Local\\\\frame', 'Global\\\\frame')
    """
    asked = f"cannot use the name {name!r}"
    prefix = next((each for each in _PREFIXES if name.startswith(each)), "")
    rest = name.removeprefix(prefix)
    if rest.startswith("\\"):
        raise failure(winerror.BAD_PATHNAME, asked)
    if "\\" in rest:
        raise failure(
            winerror.PATH_NOT_FOUND,
            asked,
            "a backslash stands behind one of the prefixes Local\\ and Global\\ only, spelt so",
        )
    if not rest:
        raise failure(winerror.INVALID_NAME, asked)
    if rest in _TAKEN:
        raise failure(winerror.INVALID_HANDLE, asked, "Windows has it for something else")
    return (prefix or "Local\\") + rest


class Namespace(Generic[T]):
    """Who has which name: one space for all kinds of objects. Case matters."""

    def __init__(self) -> None:
        self._named: dict[str, T] = {}

    def find(self, name: str) -> T | None:
        """The object with a canonical name."""
        return self._named.get(name)

    def add(self, name: str, item: T) -> None:
        """Give a name that is free."""
        assert name not in self._named
        self._named[name] = item

    def remove(self, name: str) -> None:
        """The name is free from now on."""
        del self._named[name]

    def __len__(self) -> int:
        return len(self._named)
