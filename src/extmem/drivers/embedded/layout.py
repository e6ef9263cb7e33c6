"""Where the texels of an image lie: the same arithmetic for both tilings.

Layers follow each other, the mip levels of a layer follow each other within it, planes follow each
other within a level. Linear rows start at multiples of 64 bytes, so that a program which forgets to
ask for the row pitch notices; optimal rows are packed, so that whole images copy in one go.
"""

from __future__ import annotations

from dataclasses import dataclass

from extmem.drivers.embedded.formats import Format, Plane
from extmem.drivers.embedded.limits import ALIGNMENT

__all__ = ["Layout", "Subresource", "round_up"]


def round_up(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


@dataclass(frozen=True, slots=True)
class Subresource:
    """One plane of one mip level, in layer 0."""

    offset: int
    width: int
    height: int
    depth: int
    texel: int  # bytes of all its samples
    row: int  # bytes from row to row
    slice: int  # bytes from depth slice to depth slice

    @property
    def size(self) -> int:
        return self.slice * self.depth


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole image: its subresources by (mip level, plane), and the distance of layers."""

    subresources: dict[tuple[int, int], Subresource]
    layer: int
    size: int

    @classmethod
    def of(
        cls,
        format: Format,
        extent: tuple[int, int, int],
        levels: int,
        layers: int,
        linear: bool,
        samples: int = 1,
    ) -> Layout:
        found: dict[tuple[int, int], Subresource] = {}
        end = 0
        for level in range(levels):
            for index, plane in enumerate(format.planes):
                found[level, index] = _subresource(plane, extent, level, end, linear, samples)
                end = round_up(end + found[level, index].size, ALIGNMENT)
        return cls(found, end, end * layers)


def _subresource(
    plane: Plane,
    extent: tuple[int, int, int],
    level: int,
    offset: int,
    linear: bool,
    samples: int,
) -> Subresource:
    width = max(-(-extent[0] // plane.divide_x) >> level, 1)
    height = max(-(-extent[1] // plane.divide_y) >> level, 1)
    depth = max(extent[2] >> level, 1)
    texel = plane.texel * samples  # the samples of a texel lie side by side
    row = width * texel
    if linear:
        row = round_up(row, ALIGNMENT)
    return Subresource(offset, width, height, depth, texel, row, row * height)
