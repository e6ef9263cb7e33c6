"""What an import is told, beside its handle: by its passport, by the handle's maker, by the caller.

The caller's word has to agree with the passport; what nobody says has a default or is asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from extmem.capabilities import PhysicalDevice
from extmem.drivers.driver import Driver, HandleOrigin, Provenance, Stamps
from extmem.errors import PassportError, plain
from extmem.handle_types import HandleType
from extmem.handles.handle import Handle
from extmem.share.passport import BufferInfo, Passport, Place

if TYPE_CHECKING:
    from extmem.memory import Memory

__all__ = ["Told", "introduced", "place_of", "told"]

log = logging.getLogger("extmem")


_KNOWN_USAGE = 0x1FF  # VkBufferUsageFlags of Vulkan 1.0: none needs an extension


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the memory to import."""

    size: int | None  # bytes for use
    allocation_size: int | None  # bytes that the exporter allocated; None: as the driver wants
    memory_type: str | int | None
    dedicated: bool | None
    passport: Passport | None
    refused: bool = False  # the driver knows that no memory of its own is behind the handle or name
    origin: HandleOrigin | None = None  # what the driver knows, where there is no passport

    @property
    def buffer(self) -> BufferInfo | None:
        """The buffer that it is dedicated to."""
        made = self.passport.dedicated if self.passport is not None else None
        return made if isinstance(made, BufferInfo) else None


def introduced(memory: Memory, source: HandleType, known: Told) -> None:
    """Say of imported memory what its exporter said, and what stays unchecked."""
    if known.passport is not None:
        memory.passport = known.passport
        missing = known.passport.unchecked()
    else:
        place, missing = None, []
        if known.origin is not None:
            if known.origin.device is not None and known.origin.driver is not None:
                place = Place(known.origin.device, known.origin.driver)
        elif source.opaque:
            missing = ["size, memory type and dedication"]
        # Not this device and process: nobody said that they are the exporter's.
        memory.passport = msgspec.structs.replace(
            memory.passport, place=place, exporter=None, dedicated=None
        )
        missing += memory.passport.unchecked()
    memory.unchecked = tuple(missing)
    if missing:
        log.info(
            "imported %s with nothing to check its %s against: pass the passport= that its "
            "exporter gave",
            source.name,
            ", ".join(missing),
        )


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
    image: bool = False,
) -> Told:
    """Everything that is said of an import. PassportError where it contradicts itself.

    image: whether an image is imported, and not bare memory
    """
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
        _of_that_kind(found, image)
        _agrees_with_itself(found)
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
        if origin.by_vulkan:
            _dedicated_to_that_kind(origin.dedicated or "", image)
        kind = origin.type_index if memory_type is None else memory_type
        whole = origin.size if size is None else size
        return Told(
            whole,
            origin.size if origin.by_vulkan else None,
            kind,
            bool(origin.dedicated) if dedicated is None and origin.by_vulkan else dedicated,
            None,
            origin=origin,
        )
    refused = origin is not None and not origin.types
    return Told(size, None, memory_type, dedicated, None, refused)


def _of_that_kind(passport: Passport, image: bool) -> None:
    """Refuse bare memory for an image, and an image as bare memory where it is dedicated."""
    if image and passport.image is None:
        raise PassportError(
            "this passport is of bare memory; import it with import_memory, or pass the passport "
            "of the image"
        )
    if passport.dedicated is not None:
        kind = "VkBuffer" if isinstance(passport.dedicated, BufferInfo) else "VkImage"
        _dedicated_to_that_kind(kind, image)


def _agrees_with_itself(passport: Passport) -> None:
    """Refuse a passport whose buffer cannot be the one that the memory is dedicated to."""
    made = passport.dedicated
    if not isinstance(made, BufferInfo):
        return
    if made.size < _usable(passport) or made.size > passport.allocation_size:
        raise PassportError(
            f"this passport speaks of {passport.allocation_size} bytes that are dedicated to a "
            f"buffer of {made.size}, {_usable(passport)} of them for use; it was made by mistake "
            "or with intent"
        )
    if made.flags or not made.usage or made.usage & ~_KNOWN_USAGE or made.sharing > 1:
        raise PassportError(
            f"this memory is dedicated to a buffer with flags {made.flags:#x}, usage "
            f"{made.usage:#x} and sharing mode {made.sharing}, which is not made here; import it "
            "through extmem.vk, with an identical buffer"
        )


def _dedicated_to_that_kind(kind: str, image: bool) -> None:
    if kind == "VkImage" and not image:
        raise PassportError(
            "this memory is dedicated to an image, and can be imported with an identical one "
            "alone; use import_image"
        )
    if kind == "VkBuffer" and image:
        raise PassportError("this memory is dedicated to a buffer; use import_memory")


def _usable(passport: Passport) -> int:
    if passport.size is not None:
        return passport.size
    made = passport.dedicated
    return made.size if isinstance(made, BufferInfo) else passport.allocation_size


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
    if isinstance(handle, Handle) and isinstance(handle.passport, Passport):
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
            f"it was exported as {plain(passport.handle_type)}, and this is an import of "
            f"{source.name}"
        )
    if passport.memory_type >= len(physical.memory_types):
        problems.append(
            f"it is in memory type {passport.memory_type}, and this device has "
            f"{len(physical.memory_types)}"
        )
    if passport.device_mask not in (0, 1):
        problems.append(
            f"it was allocated with the device mask {passport.device_mask:#x} of a group, and "
            "this is one device, whose mask is 0x1; import it through extmem.vk"
        )
    if problems:
        raise PassportError("this memory cannot be imported here: " + "; ".join(problems))
