"""The formats of images that people share: short names, and what their texels are in NumPy.

One table. A packed format (rgb10a2) is one number per texel; a planar one (nv12) has an array for
each plane.

>>> image_format("nv12").planes[1].shape((1080, 1920))
(540, 960, 2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from extmem import vk

__all__ = ["FORMATS", "ImageFormat", "PlaneFormat", "aspect_of", "image_format"]


@dataclass(frozen=True, slots=True)
class PlaneFormat:
    """The texels of one plane."""

    dtype: str  # NumPy's name of one component; of the whole texel where it is packed
    channels: int  # components of a texel; 1: the array has no axis for them
    divide: int = 1  # by how much its width and height are smaller than the image's
    size: int = 1  # bytes of a component

    @property
    def texel(self) -> int:
        """Bytes of a texel."""
        return self.size * self.channels

    def extent(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Rows and texels of this plane in an image of a shape."""
        return tuple(-(-side // self.divide) for side in shape)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the array for this plane of an image of a shape."""
        return (*self.extent(shape), *((self.channels,) if self.channels > 1 else ()))


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """One format."""

    name: str  # "rgba8"
    vk: vk.VkFormat
    planes: tuple[PlaneFormat, ...]

    @property
    def planar(self) -> bool:
        """Whether there is more than one plane."""
        return len(self.planes) > 1


# Of each width: the kinds of numbers, their suffix in the short name, and NumPy's word for them.
_KINDS = {
    8: (
        ("UNORM", "", "uint8"),
        ("SRGB", "_srgb", "uint8"),
        ("SNORM", "_snorm", "int8"),
        ("UINT", "_uint", "uint8"),
        ("SINT", "_sint", "int8"),
    ),
    16: (
        ("UNORM", "", "uint16"),
        ("SNORM", "_snorm", "int16"),
        ("UINT", "_uint", "uint16"),
        ("SINT", "_sint", "int16"),
        ("SFLOAT", "f", "float16"),
    ),
    32: (
        ("UINT", "_uint", "uint32"),
        ("SINT", "_sint", "int32"),
        ("SFLOAT", "f", "float32"),
    ),
}

_PACKED = {
    "rgb10a2": "A2B10G10R10_UNORM_PACK32",  # red in the lowest bits, as in DXGI
    "rgb10a2_uint": "A2B10G10R10_UINT_PACK32",
    "bgr10a2": "A2R10G10B10_UNORM_PACK32",
    "rg11b10f": "B10G11R11_UFLOAT_PACK32",
}

_PLANAR = {
    "nv12": ("G8_B8R8_2PLANE_420_UNORM", "uint8", 1),
    # The ten bits are the upper ones of sixteen.
    "p010": ("G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16", "uint16", 2),
}


def _formats() -> Iterator[ImageFormat]:
    numbers = vk.VkFormat.__members__
    for width, kinds in _KINDS.items():
        for channels in ("r", "rg", "rgba", "bgra"):
            if channels == "bgra" and width > 8:
                continue
            for kind, suffix, dtype in kinds:
                components = "".join(f"{each.upper()}{width}" for each in channels)
                plane = PlaneFormat(dtype, len(channels), size=width // 8)
                number = numbers[f"VK_FORMAT_{components}_{kind}"]
                yield ImageFormat(f"{channels}{width}{suffix}", number, (plane,))
    for name, spelling in _PACKED.items():
        plane = PlaneFormat("uint32", 1, size=4)
        yield ImageFormat(name, numbers[f"VK_FORMAT_{spelling}"], (plane,))
    for name, (spelling, dtype, size) in _PLANAR.items():
        planes = PlaneFormat(dtype, 1, size=size), PlaneFormat(dtype, 2, divide=2, size=size)
        yield ImageFormat(name, numbers[f"VK_FORMAT_{spelling}"], planes)


FORMATS: dict[str, ImageFormat] = {each.name: each for each in _formats()}
_BY_NUMBER = {int(each.vk): each for each in FORMATS.values()}


def image_format(which: str | int) -> ImageFormat:
    """The format for a short name or a VkFormat.

    >>> image_format("bgra8_srgb").vk.name, image_format(37).name
    ('VK_FORMAT_B8G8R8A8_SRGB', 'rgba8')
    """
    found = FORMATS.get(which) if isinstance(which, str) else _BY_NUMBER.get(int(which))
    if found is None:
        shown = repr(which) if isinstance(which, str) else f"VkFormat {int(which)}"
        raise ValueError(f"format {shown}; expected one of {', '.join(FORMATS)}")
    return found


_PLANES = (
    int(vk.VK_IMAGE_ASPECT_PLANE_0_BIT),
    int(vk.VK_IMAGE_ASPECT_PLANE_1_BIT),
    int(vk.VK_IMAGE_ASPECT_PLANE_2_BIT),
)


def aspect_of(format: ImageFormat, plane: int) -> int:
    """The aspect by which a plane is copied."""
    return _PLANES[plane] if format.planar else int(vk.VK_IMAGE_ASPECT_COLOR_BIT)
