"""`extmem list`: what is shared on this machine by this user."""

from __future__ import annotations

import sys
from typing import Any

from extmem.cli.words import duration, one_line, say, size_of

__all__ = ["NOTHING", "WINDOWS", "collect", "show"]

NOTHING = "Nothing is shared by Windows handles: no program of this user uses any."
WINDOWS = (
    "There is no list on Windows, whose kernel tells nobody which objects a user shares; "
    "ask for an object by its name, or look into its owner with Process Explorer."
)
_HEAD = ("OBJECT", "KIND", "SIZE", "OWNER", "HELD BY", "AGE", "HANDLE TYPE", "DEVICE")
_NUMBERS = (2, 5)  # columns that are aligned at the right
_WIDEST = 48  # characters of a column
_SHOWN_HOLDERS = 4  # of an object, for people


def collect() -> list[dict[str, Any]]:
    """Every object, the oldest first, as plain data. The keys, which are always there:

    identity        number of the object, while the directory lives
    kind            "Section", "Memory", "Semaphore", "Fence"
    name            its full name, `Local\\frame`; null if it has none
    kmt             its KMT number; null if it is no KMT share
    size            bytes of the object; null where it is not known
    age             seconds since it was made
    owner           who made it: process_id, user_id, program, handles (of this object)
    holders         who has handles of it: a list of the same, 64 at most
    more_holders    how many holders are not listed
    lender          the number of the other user who has it, for a Global\\ name; null if it is ours
    passport        "read", "none", or "unreadable"; the rest is null unless it was read
    handle_type     what it was exported as, "opaque_win32"
    allocation_size bytes of the exporter's allocation
    memory_type     the index of the exporter's memory type
    device_name     of the exporter's device
    device_uuid     its UUID, 32 hexadecimal digits
    exporter        process_id and program of the exporter

    What a passport says was written by the exporter, and is not checked by anybody.
    """
    if sys.platform == "win32":
        return []
    from extmem.cli.listing_directory import collect as of_directory

    return of_directory()


def show(found: list[dict[str, Any]], most: int) -> None:
    """The same for people: a line for each of the newest `most`."""
    if sys.platform == "win32":
        say(WINDOWS)
        return
    if not found:
        say(NOTHING)
        return
    rows = [_HEAD, *(_row(each) for each in found[max(len(found) - most, 0) :])]
    rows = [tuple(_cut(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if at in _NUMBERS else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())
    total = sum(each["size"] or each["allocation_size"] or 0 for each in found)
    objects = "1 object" if len(found) == 1 else f"{len(found):,} objects"
    say(f"{objects}, {size_of(total)} in all.")
    hidden = len(found) - (len(rows) - 1)
    if hidden:
        say(f"{hidden:,} older are not shown; `--most {len(found)}` shows all, as does `--json`.")


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    name = "-" if each["name"] is None else one_line(each["name"])
    if each["kmt"] is not None:
        name = f"KMT {each['kmt']}"
    if each["lender"] is not None:
        name += f" (user {each['lender']}'s)"
    owner, exporter = each["owner"], each["exporter"]
    program = owner["program"]
    if exporter and exporter["process_id"] == owner["process_id"]:
        called = exporter["program"]  # "camera.py", where the kernel knows "python3"
        program = program if called[:1] in ("", "-") else called
    holders = [
        f"{who['process_id']} ({who['handles']})" for who in each["holders"][:_SHOWN_HOLDERS]
    ]
    more = len(each["holders"]) - len(holders) + each["more_holders"]
    if more:
        holders.append(f"{more:,} more")
    size = each["size"] or each["allocation_size"]
    device = "-"
    if each["device_uuid"] is not None:
        device = f"{one_line(each['device_name']) or each['device_uuid']}, type "
        device += str(each["memory_type"])
    kinds = {"none": "-", "unreadable": "unreadable"}
    return (
        name,
        each["kind"],
        "?" if size is None else size_of(size),
        f"{owner['process_id']} {one_line(program)}",
        ", ".join(holders) or "nobody",
        duration(each["age"]),
        kinds.get(each["passport"]) or one_line(each["handle_type"]),
        device,
    )


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…"
