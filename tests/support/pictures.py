"""Images to share: which there are, what is in them, and the other process of a round trip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import extmem
from extmem import Device, Image, Unsupported, win32
from extmem.images.formats import FORMATS
from tests.support.second import Channel

__all__ = [
    "Case",
    "cases",
    "deep_cases",
    "makes",
    "over_there",
    "parts",
    "pixels",
    "problems",
    "round_trip",
    "same",
    "write",
]

# By dimensions; no multiple of anything that a driver rounds rows to.
SHAPES = {1: (37,), 2: (19, 37), 3: (3, 7, 11)}
_DEEP = ("rgba8", "r16f", "rgb10a2")
_PLANAR = (18, 38)  # halves of both sides are whole


@dataclass(frozen=True)
class Case:
    """One kind of image."""

    format: str
    tiling: str
    dimensions: int
    levels: int = 1
    layers: int = 1

    @property
    def planar(self) -> bool:
        return FORMATS[self.format].planar

    @property
    def shape(self) -> tuple[int, ...]:
        if self.planar and self.dimensions == 2:
            return _PLANAR
        return SHAPES[self.dimensions]

    def __str__(self) -> str:
        more = f", {self.levels} levels, {self.layers} layers"
        return f"{self.format} {self.tiling} {self.dimensions}D{more}"

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def make(self, gpu: Device, export: str, **more: Any) -> Image:
        return gpu.image(
            self.shape,
            self.format,
            tiling=self.tiling,
            levels=self.levels,
            layers=self.layers,
            export=export,
            **more,
        )


def cases(tilings: tuple[str, ...] = ("optimal", "linear")) -> Iterator[Case]:
    """Every format in every tiling and dimension."""
    for format in FORMATS:
        for tiling in tilings:
            for dimensions in (1, 2, 3):
                flat = FORMATS[format].planar or tiling == "drm"
                if not flat or dimensions == 2:
                    yield Case(format, tiling, dimensions)


def deep_cases() -> Iterator[Case]:
    """Some formats in every tiling and dimension, with several mip levels and array layers."""
    for format in _DEEP:
        for tiling in ("optimal", "linear"):
            yield Case(format, tiling, 1, levels=3, layers=2)
            yield Case(format, tiling, 2, levels=3, layers=2)
            yield Case(format, tiling, 3, levels=3)


def parts(image: Image) -> Iterator[dict[str, int]]:
    """All that can be copied by itself, as arguments of `upload` and `readback`."""
    for level in range(image.levels):
        for layer in range(image.layers):
            for plane in range(len(image.format.planes)):
                yield {"level": level, "layer": layer, "plane": plane}


def pixels(image: Image, part: dict[str, int], seed: int) -> np.ndarray[Any, Any]:
    """What is in a part: bytes that no other part and no other seed has."""
    shape, dtype = image.layout_of_array(**part)
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng([seed, *part.values()]).bytes(count)
    return np.frombuffer(data, dtype).reshape(shape)


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """Bit by bit: some of the bits are no numbers, and those differ from themselves."""
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


def write(gpu: Device, image: Image, seed: int, *, viewed: bool = False) -> None:
    """Fill an image, through views where there are some."""
    for part in parts(image):
        if viewed:
            image.numpy(**part)[...] = pixels(image, part, seed)
        else:
            gpu.upload(image, pixels(image, part, seed), **part)


def problems(gpu: Device, image: Image, seed: int, *, viewed: bool) -> list[str]:
    """What of an image is not as `write` has it."""
    found = []
    for part in parts(image):
        expected = pixels(image, part, seed)
        if not same(gpu.readback(image, **part), expected):
            found.append(f"{part}: other pixels were read back")
        if viewed and not same(image.numpy(**part), expected):
            found.append(f"{part}: other pixels are in view")
    return found


def over_there(channel: Channel, driver: str) -> int:
    """Import one image after the other, compare, write, and give it back. How many there were."""
    count = 0
    # Checked on one side; on the other the driver meets all of it alone.
    with extmem.open_device(driver=driver, checks="off") as gpu:
        while True:
            asked, fds = channel.receive()
            if asked is None:
                return count
            try:
                channel.send(_answered(gpu, asked, fds))
            finally:
                for fd in fds:
                    os.close(fd)
                if asked["handle"]:
                    win32.CloseHandle(asked["handle"])
            count += 1


def _answered(gpu: Device, asked: dict[str, Any], fds: list[int]) -> list[str]:
    passport = bytes.fromhex(asked["passport"]) if asked["passport"] else None
    handle = fds[0] if fds else asked["handle"] or asked["kmt"]
    seed = asked["seed"]
    # A Windows handle carries its passport, a descriptor has it beside it. Nothing else is told.
    with gpu.import_image(handle, handle_type=asked["type"], passport=passport) as image:
        viewed = image.tiling != "optimal" and image.memory.host_visible
        image.acquire()
        found = problems(gpu, image, seed, viewed=viewed)
        write(gpu, image, seed + 1, viewed=viewed)
        image.release()
    return found


def round_trip(gpu: Device, channel: Channel, image: Image, export: str, seed: int) -> list[str]:
    """Write here, compare and write there, compare here. What was found wrong."""
    viewed = image.tiling != "optimal" and image.memory.host_visible
    write(gpu, image, seed)
    image.release()
    with image.export(export) as handle:
        assert handle.passport is not None
        asked: dict[str, Any] = {"type": export, "seed": seed}
        kind = handle.handle_type.kind
        asked["passport"] = handle.passport.encode().hex() if kind == "fd" else ""
        asked["handle"] = channel.give(int(handle)) if kind == "nt" else 0
        asked["kmt"] = int(handle) if kind == "kmt" else 0
        channel.send(asked, [int(handle)] if kind == "fd" else [])
        answer, _ = channel.receive()
    image.acquire()
    back = problems(gpu, image, seed + 1, viewed=viewed)
    return [f"there: {each}" for each in answer] + [f"back here: {each}" for each in back]


def makes(gpu: Device, case: Case, export: str) -> Image | None:
    """The image, if the device makes such images at all."""
    try:
        return case.make(gpu, export)
    except Unsupported:
        return None
