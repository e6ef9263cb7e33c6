"""The formats that this device carries: how large a texel is, and what may be done with it.

There are no shaders here, so nothing ever samples or renders. The features still say that an image
may be *made* for that: both sides of a shared image must create it with the same usage, and the
other side may well be an API that does render.
"""

from __future__ import annotations

from dataclasses import dataclass

from extmem.vk import _constants as c

__all__ = ["FORMATS", "PLANE_ASPECTS", "Format", "Plane"]

_TRANSFER = int(c.VK_FORMAT_FEATURE_TRANSFER_SRC_BIT | c.VK_FORMAT_FEATURE_TRANSFER_DST_BIT)
_COLOUR = _TRANSFER | int(
    c.VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT | c.VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT
)
_STORAGE = int(c.VK_FORMAT_FEATURE_STORAGE_IMAGE_BIT)
_PLANAR = _TRANSFER | int(
    c.VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT | c.VK_FORMAT_FEATURE_MIDPOINT_CHROMA_SAMPLES_BIT
)
_DEPTH = _TRANSFER | int(
    c.VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT | c.VK_FORMAT_FEATURE_DEPTH_STENCIL_ATTACHMENT_BIT
)
_TEXEL_BUFFER = int(c.VK_FORMAT_FEATURE_UNIFORM_TEXEL_BUFFER_BIT)

PLANE_ASPECTS = (
    int(c.VK_IMAGE_ASPECT_PLANE_0_BIT),
    int(c.VK_IMAGE_ASPECT_PLANE_1_BIT),
    int(c.VK_IMAGE_ASPECT_PLANE_2_BIT),
)


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane: bytes per texel, and by how much it is smaller than the image."""

    texel: int
    aspect: int
    divide_x: int = 1
    divide_y: int = 1


@dataclass(frozen=True, slots=True)
class Format:
    """One format. `bits` and `kind` say how a clear colour is written; empty: it cannot be."""

    planes: tuple[Plane, ...]
    tiling_features: int
    buffer_features: int = 0
    bits: tuple[int, ...] = ()
    kind: str = ""
    swizzle: str = "RGBA"

    @property
    def multi_planar(self) -> bool:
        return len(self.planes) > 1


def _colour(kind: str, *bits: int, swizzle: str = "RGBA") -> Format:
    plane = Plane(sum(bits) // 8, int(c.VK_IMAGE_ASPECT_COLOR_BIT))
    # Vulkan knows no sRGB texel buffers, and nothing is stored as sRGB by a shader.
    if kind == "SRGB":
        return Format((plane,), _COLOUR, 0, bits, kind, swizzle)
    return Format((plane,), _COLOUR | _STORAGE, _TEXEL_BUFFER, bits, kind, swizzle)


def _two_planes(texel: int) -> Format:
    planes = (Plane(texel, PLANE_ASPECTS[0]), Plane(2 * texel, PLANE_ASPECTS[1], 2, 2))
    return Format(planes, _PLANAR)


def _formats() -> dict[int, Format]:
    found: dict[int, Format] = {}
    names = c.VkFormat.__members__
    for width, kinds in (
        (8, ("UNORM", "SNORM", "UINT", "SINT", "SRGB")),
        (16, ("UNORM", "SNORM", "UINT", "SINT", "SFLOAT")),
        (32, ("UINT", "SINT", "SFLOAT")),
    ):
        for channels in ("R", "RG", "RGBA"):
            for kind in kinds:
                name = "".join(f"{channel}{width}" for channel in channels)
                bits = (width,) * len(channels)
                found[int(names[f"VK_FORMAT_{name}_{kind}"])] = _colour(kind, *bits)
    for kind in ("UNORM", "SNORM", "UINT", "SINT", "SRGB"):
        number = int(names[f"VK_FORMAT_B8G8R8A8_{kind}"])
        found[number] = _colour(kind, 8, 8, 8, 8, swizzle="BGRA")
    for kind in ("UNORM", "UINT"):
        number = int(names[f"VK_FORMAT_A2B10G10R10_{kind}_PACK32"])
        found[number] = _colour(kind, 10, 10, 10, 2)
    packed = int(c.VK_FORMAT_A2R10G10B10_UNORM_PACK32)
    found[packed] = _colour("UNORM", 10, 10, 10, 2, swizzle="BGRA")
    shared = Plane(4, int(c.VK_IMAGE_ASPECT_COLOR_BIT))  # no clear colour is written as these bits
    found[int(c.VK_FORMAT_B10G11R11_UFLOAT_PACK32)] = Format((shared,), _COLOUR, _TEXEL_BUFFER)
    found[int(c.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM)] = _two_planes(1)  # NV12
    found[int(c.VK_FORMAT_G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16)] = _two_planes(2)  # P010
    depth = Plane(4, int(c.VK_IMAGE_ASPECT_DEPTH_BIT))
    found[int(c.VK_FORMAT_D32_SFLOAT)] = Format((depth,), _DEPTH)
    return found


FORMATS = _formats()
