"""Numbers and names as people read them."""

from __future__ import annotations

import sys

__all__ = ["duration", "one_line", "say", "size_of"]


def one_line(text: str) -> str:
    """A text of another process, with nothing in it that a terminal would obey.

    >>> one_line("frame" + chr(27) + "[2J")
    'frame\\\\x1b[2J'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def size_of(size: int) -> str:
    """Bytes in the unit that fits.

    >>> size_of(65536), size_of(1), size_of(3 << 29)
    ('64 KiB', '1 B', '1.5 GiB')
    """
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits.

    >>> duration(3.2), duration(300), duration(7300), duration(200000)
    ('3 s', '5 min', '2 h', '2 d')
    """
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def say(line: str) -> None:
    """A line on stdout, whatever characters that has."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding))
