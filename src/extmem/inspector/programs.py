"""What a process is called, for people."""

from __future__ import annotations

import os
import sys

__all__ = ["program_of"]

_LONGEST = 64  # characters


def program_of(process_id: int | None) -> str:
    """The script that an interpreter runs, or the program; "" where that cannot be seen."""
    if process_id is None or sys.platform == "win32":
        return ""
    try:
        with open(f"/proc/{int(process_id)}/cmdline", "rb") as file:
            words = file.read(4096).decode(errors="replace").split("\0")
    except OSError:
        return ""
    name = os.path.basename(words[0])
    if name.startswith("python"):
        name = _script(words[1:]) or name
    return name[:_LONGEST]


def _script(words: list[str]) -> str:
    """Of an interpreter's arguments: what it runs.

    >>> _script(["-X", "dev", "-m", "extmem", "view"]), _script(["tools/camera.py", "-v"])
    ('extmem', 'camera.py')
    """
    follows = iter(words)
    for word in follows:
        if word == "-m":
            return next(follows, "")
        if word == "-c":
            return ""
        if word in ("-X", "-W"):
            next(follows, None)
        elif word and not word.startswith("-"):
            return os.path.basename(word)
    return ""
