"""What the directory lists, as plain data."""

from __future__ import annotations

import sys
from typing import Any

from extmem.errors import PassportError
from extmem.handles.directory.client import running
from extmem.handles.directory.protocol import Holding, Listed
from extmem.share.passport import Passport, any_passport

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["collect", "plain"]

_KMT = "Local\\extmem-kmt-"  # and a number


def collect() -> list[dict[str, Any]]:
    """Every object, as `extmem.cli.listing.collect` describes it."""
    kernel = running()
    if kernel is None:
        return []
    try:
        return [plain(each) for each in kernel.listing()]
    finally:
        kernel.disconnect()


def plain(listed: Listed) -> dict[str, Any]:
    """One object."""
    name = None if listed.name is None else listed.name.decode("utf-8", "surrogatepass")
    number = name.removeprefix(_KMT) if listed.kmt and name is not None else ""
    return {
        "identity": listed.identity,
        "kind": listed.kind,
        "name": name,
        "kmt": int(number) if number.isascii() and number.isdigit() else None,
        "size": listed.size or None,
        "age": round(listed.age, 3),
        "owner": _person(listed.owner),
        "holders": [_person(each) for each in listed.holders],
        "more_holders": listed.more_holders,
        "lender": listed.lender,
        **_stated(listed.passport),
    }


def _person(holding: Holding) -> dict[str, Any]:
    return {
        "process_id": holding.process_id,
        "user_id": holding.uid,
        "program": holding.command,
        "handles": holding.handles,
    }


def _stated(data: bytes) -> dict[str, Any]:
    """What a passport says."""
    passport, state = None, "none"
    if data:
        try:
            passport, state = any_passport(data), "read"
        except PassportError:
            state = "unreadable"
    place = None if passport is None else passport.place
    exporter = None if passport is None else passport.exporter
    memory = passport if isinstance(passport, Passport) else None
    return {
        "passport": state,
        "handle_type": passport and passport.handle_type,
        "allocation_size": None if memory is None else memory.allocation_size,
        "memory_type": None if memory is None else memory.memory_type,
        "device_name": place and place.device_name,
        "device_uuid": place and place.device_uuid.hex(),
        "exporter": exporter and {"process_id": exporter.process_id, "program": exporter.name},
    }
