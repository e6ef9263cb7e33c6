"""Checks of what programs left behind that were killed.

Shared memory is in no file system: it goes with the last process that has it. What can stay is a
process that waits for one that has ended, an object that nobody owns any more, and a picture.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extmem.cli.findings import Finding, note, ok
from extmem.cli.listing import collect
from extmem.cli.words import size_of

__all__ = ["objects", "pictures", "processes"]

_HELPERS = (b"extmem.share.examiner", b"extmem.cli.receiver")  # which end with their parent
_MANY = 5  # pictures


def processes() -> Iterator[Finding]:
    """Helpers of ours whose parent is gone; each of them ends by itself, if it can."""
    if sys.platform == "win32":
        return
    left = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or entry.stat().st_uid != os.geteuid():
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"-m" in words and words[words.index(b"-m") + 1 :][:1] in [[x] for x in _HELPERS]:
                text = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(text[1]) == 1:  # its parent: init takes those that lost theirs
                    left.append((int(entry.name), text[0]))
    for process_id, state in left:
        stopped = " and is stopped" if state in "Tt" else ""
        yield note(
            f"Process {process_id} is a helper of a program that has ended{stopped}.",
            f"It ends by itself; if it stays: kill -KILL {process_id}.",
            process_id=process_id,
        )
    if not left:
        yield ok("No helper process was left behind.")


def objects() -> Iterator[Finding]:
    """Objects whose owner has ended, and that others keep alive."""
    if sys.platform == "win32":
        return
    left = [each for each in collect() if _is_orphan(each)]
    for each in left:
        what = each["name"] or f"object {each['identity']}"
        holders = [str(who["process_id"]) for who in each["holders"]]
        size = each["size"] or each["allocation_size"]
        yield note(
            f"{what}{f' of {size_of(size)}' if size else ''} outlives process "
            f"{each['owner']['process_id']}, which made it: {', '.join(holders)} "
            f"{'has' if len(holders) == 1 else 'have'} handles of it.",
            "That is as it should be, if those still need it; otherwise end them.",
            identity=each["identity"],
        )
    if not left:
        yield ok("No shared object outlives the program that made it.")


def _is_orphan(each: dict[str, Any]) -> bool:
    owner = each["owner"]["process_id"]
    holders = [who["process_id"] for who in each["holders"]]
    return bool(holders) and owner not in holders and not Path(f"/proc/{owner}").exists()


def pictures() -> Iterator[Finding]:
    """What `extmem demo` keeps in the folder for temporary files."""
    folder = Path(tempfile.gettempdir())
    sizes = []
    for each in folder.glob("extmem-demo-*.png"):
        with contextlib.suppress(OSError):
            status = each.stat()
            if sys.platform == "win32" or status.st_uid == os.geteuid():
                sizes.append(status.st_size)
    if len(sizes) >= _MANY:
        yield note(
            f"{len(sizes)} pictures of extmem demo are in {folder}, {size_of(sum(sizes))}.",
            f"Remove them: rm {shlex.quote(str(folder))}/extmem-demo-*.png",
            pictures=len(sizes),
            size=sum(sizes),
        )
