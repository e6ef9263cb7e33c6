"""What an import is told, beside its handle: by its passport, by the handle's maker, by the caller.

The caller's word has to agree with the passport; what nobody says has a default or is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from extmem.capabilities import PhysicalDevice
from extmem.drivers.driver import Driver, Provenance, Stamps
from extmem.errors import PassportError
from extmem.handle_types import HandleType
from extmem.handles.handle import Handle
from extmem.share.passport import BufferInfo, Passport, Place

__all__ = ["Told", "place_of", "told"]


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the memory to import."""

    size: int | None  # bytes for use
    allocation_size: int | None  # bytes that the exporter allocated; None: as the driver wants
    memory_type: str | int | None
    dedicated: bool | None
    passport: Passport | None
    refused: bool = False  # the driver knows that no memory of its own is behind the handle or name


def place_of(physical: PhysicalDevice) -> Place:
    """Where memory of a device is."""
    return Place.here(
        physical.device_uuid,
        physical.driver_uuid,
        physical.luid,
        physical.node_mask,
        physical.name,
    )


def told(
    physical: PhysicalDevice,
    driver: Driver,
    source: HandleType,
    handle: object,
    name: str | None,
    passport: Passport | bytes | None,
    *,
    size: int | None,
    memory_type: str | int | None,
    dedicated: bool | None,
) -> Told:
    """Everything that is said of an import. PassportError where it contradicts itself."""
    value = int(handle) if isinstance(handle, (int, Handle)) else 0
    found = _passport(driver, source, handle, value, name, passport)
    if found is not None:
        _fits(found, physical, source)
        for what, theirs, ours in (
            ("size", _usable(found), size),
            ("memory_type", found.memory_type, memory_type),
            ("dedicated", found.dedicated is not None, dedicated),
        ):
            if ours is not None and ours != theirs and not isinstance(ours, str):
                raise PassportError(
                    f"the {what.replace('_', ' ')} is {ours}, but the passport of this memory says "
                    f"{theirs}; leave {what}= out, or pass the passport that came with this handle"
                )
        if found.dedicated is not None and not isinstance(found.dedicated, BufferInfo):
            raise PassportError(
                "this memory is dedicated to an image; import it through extmem.vk, with an image "
                "that is created identically"
            )
        return Told(
            _usable(found),
            found.allocation_size,
            found.memory_type,
            found.dedicated is not None,
            found,
        )
    if isinstance(handle, Handle):  # one that the caller made from a bare number
        if handle.device_uuid not in (None, physical.device_uuid):
            assert handle.device_uuid is not None
            raise PassportError(
                f"this handle is of the device {handle.device_uuid.hex()}, and {physical.name} is "
                f"{physical.device_uuid.hex()}; open that device: open_device(uuid=...)"
            )
        size = handle.size if size is None else size
        memory_type = handle.memory_type_index if memory_type is None else memory_type
        dedicated = handle.dedicated if dedicated is None else dedicated
    origin = None
    if source.kind in ("nt", "kmt") and isinstance(driver, Provenance):
        origin = driver.origin_of(source.bit, value, name)
    if origin is not None and origin.size:
        kind = origin.type_index if memory_type is None else memory_type
        whole = origin.size if size is None else size
        return Told(
            whole,
            origin.size if origin.by_vulkan else None,
            kind,
            bool(origin.dedicated) if dedicated is None and origin.by_vulkan else dedicated,
            None,
        )
    refused = origin is not None and not origin.types
    return Told(size, None, memory_type, dedicated, None, refused)


def _usable(passport: Passport) -> int:
    return passport.allocation_size if passport.size is None else passport.size


def _passport(
    driver: Driver,
    source: HandleType,
    handle: object,
    value: int,
    name: str | None,
    given: Passport | bytes | None,
) -> Passport | None:
    """The one that was given, else the one that came with the handle."""
    if isinstance(given, Passport):
        return given
    if given is not None:
        return Passport.decode(given)
    if isinstance(handle, Handle) and handle.passport is not None:
        return handle.passport
    if source.kind in ("nt", "kmt") and isinstance(driver, Stamps):
        data = driver.stamped(source.bit, value, name)
        return Passport.decode(data) if data else None
    return None


def _fits(passport: Passport, physical: PhysicalDevice, source: HandleType) -> None:
    """Refuse memory of another device, driver or machine, and another handle type."""
    problems = list(passport.problems(place_of(physical)))
    if passport.handle_type != source.name:
        problems.append(
            f"it was exported as {passport.handle_type}, and this is an import of {source.name}"
        )
    if passport.memory_type >= len(physical.memory_types):
        problems.append(
            f"it is in memory type {passport.memory_type}, and this device has "
            f"{len(physical.memory_types)}"
        )
    if problems:
        raise PassportError("this memory cannot be imported here: " + "; ".join(problems))
