"""Shared objects: which there are, what their passports say, and a picture of one.

An object is opened for each picture and let go of at once, so that its name lives no longer than
its owner wants. It is opened to be read alone wherever the system can restrict a handle. It cannot
where a driver's descriptor is behind a handle, and KMT numbers carry no rights; the mapping is only
read there, too.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from extmem.errors import PassportError, Unsupported
from extmem.handle_types import memory_type
from extmem.handles.handle import Handle
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.images.formats import image_format
from extmem.images.infos import LAYOUTS, TILINGS, TYPES, names_of_usage
from extmem.inspector import pixels
from extmem.inspector.devices import Devices
from extmem.inspector.pixels import Picture
from extmem.share.passport import ImageInfo, Passport, SyncPassport, any_passport

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.images.image import Image

__all__ = ["Objects", "collect", "stated"]

_LARGEST = 1 << 30  # bytes of an image that is copied as a whole to be sampled


def collect() -> tuple[list[dict[str, Any]], dict[int, bytes]]:
    """What `extmem list` lists, and the passports by identity. Nothing is started for it."""
    if sys.platform == "win32":
        return [], {}
    from extmem.cli.listing_directory import plain
    from extmem.handles.directory.client import running

    directory = running()
    if directory is None:
        return [], {}
    try:
        found = directory.listing()
    finally:
        directory.disconnect()
    return [plain(each) for each in found], {each.identity: each.passport for each in found}


def stated(passport: Passport | SyncPassport) -> dict[str, Any]:
    """What a passport says, in words where Vulkan has numbers."""
    found: dict[str, Any] = msgspec.to_builtins(passport, enc_hook=str)
    for part in _parts(passport):
        found.update(part)
    return {key: _readable(each) for key, each in found.items()}


def _parts(passport: Passport | SyncPassport) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    place = passport.place
    if place is not None:
        told = {"device_name": place.device_name, "device_uuid": place.device_uuid.hex()}
        told["driver_uuid"] = place.driver_uuid.hex()
        if place.luid:
            told["luid"] = place.luid.hex()
        parts.append({"place": told})
    if isinstance(passport, Passport):
        for key in ("image", "dedicated"):
            info = getattr(passport, key)
            if isinstance(info, ImageInfo):
                parts.append({key: _image(info)})
    return parts


def _image(info: ImageInfo) -> dict[str, Any]:
    words: dict[str, Any] = {
        "kind": "image",
        "type": TYPES[info.type] if info.type < len(TYPES) else info.type,
        "format": _format_name(info.format),
        "size": " × ".join(map(str, (info.width, info.height, info.depth)[: info.type + 1])),
        "levels": info.levels,
        "layers": info.layers,
        "samples": info.samples,
        "tiling": _word(TILINGS, info.tiling),
        "usage": names_of_usage(info.usage),
        "layout": _word(LAYOUTS, info.layout),
        "sharing": "concurrent" if info.sharing else "exclusive",
    }
    if info.modifier is not None:
        words["modifier"] = hex(info.modifier)
    return words


def _word(table: dict[str, int], number: int) -> str:
    return next((word for word, value in table.items() if value == number), str(number))


def _format_name(number: int) -> str:
    try:
        return image_format(number).name
    except ValueError:
        return f"VkFormat {number}"


def _readable(value: Any) -> Any:
    """As JSON takes it: bytes in hexadecimal digits."""
    if isinstance(value, dict):
        return {str(key): _readable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(each) for each in value]
    return value.hex() if isinstance(value, (bytes, bytearray)) else value


class Objects:
    """Takes pictures of shared objects, one at a time."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._guard = threading.Lock()

    def picture(self, each: dict[str, Any], passport: bytes) -> Picture:
        """Of an object as `collect` lists it. Unsupported, with the reason, where there is none."""
        if each["kind"] not in ("Section", "Memory"):
            raise Unsupported(f"a {each['kind'].lower()} has no picture: it holds a state")
        if not passport:
            raise Unsupported("it has no passport, and nothing says what its bytes are")
        try:
            known = any_passport(passport)
        except PassportError as error:
            raise Unsupported(str(error)) from None
        if not isinstance(known, Passport):
            raise Unsupported("it holds the state of a semaphore or fence, and no picture")
        if each["kmt"] is not None:
            return self.taken(int(each["kmt"]), known)
        if each["name"] is None:
            raise Unsupported("it has no name: only those who were given a handle can open it")
        return self.taken(each["name"], known, each["kind"])

    def taken(self, name: str | int, passport: Passport | None, kind: str = "Section") -> Picture:
        """Of what has a name or a KMT number. passport: None to take what lies beside it."""
        with self._guard:
            gpu = self._devices.of(passport.place if passport is not None else None)
            if isinstance(name, int):
                return _pictured(gpu, name, "opaque_win32_kmt", passport)
            type_name = passport.handle_type if passport else "opaque_win32"
            with Handle(_opened(name, kind), memory_type(type_name)) as handle:
                return _pictured(gpu, handle, None, passport)


def _opened(name: str, kind: str) -> int:
    """A handle of what has this name, to read alone where that can be."""
    if kind == "Section":
        return kernel().open_section(name, ACCESS_READ)
    from extmem.handles.system import directory

    # The least that a driver's descriptor can grant, and what an import by name asks for.
    return directory().open_named(name, kind, ACCESS_READ | ACCESS_WRITE)


def _pictured(
    gpu: Device, handle: Handle | int, type_name: str | None, passport: Passport | None
) -> Picture:
    if passport is None or passport.image is not None:
        try:
            with gpu.import_image(handle, handle_type=type_name, passport=passport) as image:
                return _of_image(image)
        except PassportError:
            if passport is not None:
                raise
        except ValueError:  # no word about an image anywhere
            if passport is not None:
                raise
    with gpu.import_memory(handle, handle_type=type_name, passport=passport) as memory:
        if not memory.host_visible:
            raise Unsupported(
                "it is plain memory of the device alone: the processor does not see it, and "
                "nothing says what it is a picture of"
            )
        memory.invalidate()
        return pixels.of_bytes(memory.numpy())


def _of_image(image: Image) -> Picture:
    if image.samples > 1:
        raise Unsupported(f"it has {image.samples} samples in each pixel, which nothing resolves")
    if image.memory.allocation_size > _LARGEST:
        raise Unsupported(f"it has {image.memory.allocation_size} bytes, too many to be sampled")
    planes = range(len(image.format.planes))
    if image.tiling == "linear" and image.memory.host_visible:
        image.ownership.warned = True  # a look is half seen at worst, and says so on the page
        image.invalidate()
        return pixels.of_texels([image.numpy(plane=each) for each in planes], image.format.name)
    if image.info.layout != LAYOUTS["general"]:
        layout = _word(LAYOUTS, image.info.layout)
        raise Unsupported(f"it is left in the layout {layout}, and a look would have to change it")
    image.acquire()
    copies = [image.device.readback(image, plane=each) for each in planes]
    return pixels.of_texels(copies, image.format.name)
