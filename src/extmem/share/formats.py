"""What each frame of a stream is: a shape, and elements that every process understands alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from extmem import vk
from extmem.errors import plain
from extmem.images.formats import image_format
from extmem.images.infos import describe
from extmem.interop.dlpack import BFLOAT16
from extmem.share.passport import ImageInfo

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "TILINGS",
    "Extents",
    "Field",
    "Fields",
    "Format",
    "Texels",
    "Word",
    "format_of",
    "frames_of",
    "images_of",
    "read",
    "told",
]

TILINGS = ("optimal", "linear")  # that a stream's images may have

_MOST_DIMENSIONS = 32  # as NumPy of old had it
_MOST_FIELDS = 64
_LARGEST_RECORD = 65536  # bytes
_USAGES = sum(each.value for each in vk.VkImageUsageFlagBits)
_KINDS = "?biufc"  # of NumPy's: what is a plain number
_NUMBER = re.compile(r"[<>|][biufc][0-9]{1,2}\Z")  # its name, as NumPy writes it

Extents = Annotated[
    tuple[Annotated[int, Meta(gt=0, lt=1 << 62)], ...], Meta(max_length=_MOST_DIMENSIONS)
]
Word = Annotated[str, Meta(max_length=8)]  # NumPy's "<f4", or "bfloat16"


class Field(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A field of a record."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    dtype: Word
    offset: Annotated[int, Meta(ge=0, lt=_LARGEST_RECORD)]  # bytes from the record's beginning


Fields = Annotated[tuple[Field, ...], Meta(max_length=_MOST_FIELDS)]


class Texels(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What each frame is, where it is an image."""

    format: Annotated[str, Meta(max_length=16)]  # "rgba8"
    tiling: Literal["optimal", "linear"]
    usage: Annotated[int, Meta(gt=0, lt=1 << 32)]  # VkImageUsageFlags


class Format(NamedTuple):
    """What each frame is."""

    shape: tuple[int, ...]  # of an image the pixels, as `Device.image` has them
    # uint16 where they are bits of bfloat16, which NumPy does not know; of an image its first plane
    dtype: np.dtype[Any]
    bfloat16: bool = False
    texels: Texels | None = None  # of images

    @property
    def size(self) -> int:
        """Bytes of a frame; of an image of its pixels, which may need more memory than that."""
        if self.texels is None:
            return math.prod(self.shape) * self.dtype.itemsize
        planes = image_format(self.texels.format).planes
        return sum(math.prod(plane.extent(self.shape)) * plane.texel for plane in planes)

    @property
    def name(self) -> str:
        """Of the elements, for people and for `Memory.array`."""
        if self.texels is not None:
            return self.texels.format
        return BFLOAT16 if self.bfloat16 else str(self.dtype)

    def image(self, types: int) -> ImageInfo:
        """How the image of a slot is created. types: the handle types that it is shared as"""
        assert self.texels is not None
        return describe(
            self.shape,
            self.texels.format,
            tiling=self.texels.tiling,
            usage=self.texels.usage,
            types=types,
        )

    def __str__(self) -> str:
        if self.texels is not None:
            return f"images {self.shape} of {self.name}, tiling {self.texels.tiling}"
        return f"{self.shape} of {self.name}"


def format_of(shape: int | Sequence[int], dtype: Any) -> Format:
    """What a frame is, checked. TypeError or ValueError if it can be none.

    >>> str(format_of((2, 3), "bfloat16")), format_of(4, [("x", "f4"), ("y", "f4")]).size
    ('(2, 3) of bfloat16', 32)
    """
    import numpy as np

    bfloat16 = str(dtype) in (BFLOAT16, f"torch.{BFLOAT16}")
    try:
        kind = np.dtype("uint16" if bfloat16 else dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"dtype is {dtype!r}: {error}; expected plain numbers ('uint8', 'float32'…), "
            f"{BFLOAT16!r}, or a record of such"
        ) from None
    if not (kind.kind in _KINDS or _is_record(kind)):
        raise TypeError(
            f"dtype is {kind}; a frame has plain numbers ('uint8', 'float32'…), {BFLOAT16!r}, or "
            f"records of such: at most {_MOST_FIELDS} named numbers, none of them an array or a "
            f"record itself, in at most {_LARGEST_RECORD} bytes"
        )
    extents = _extents(shape)
    if len(extents) > _MOST_DIMENSIONS or not all(
        isinstance(each, int) and each > 0 for each in map(_whole, extents)
    ):
        raise ValueError(
            f"shape is {extents}; expected at most {_MOST_DIMENSIONS} whole numbers above 0"
        )
    return Format(tuple(map(int, extents)), kind, bfloat16)


def images_of(
    shape: int | Sequence[int],
    format: str | int,
    tiling: str = "optimal",
    usage: str | int | Sequence[str] | None = None,
) -> Format:
    """What a frame is that is an image, checked. TypeError or ValueError if it can be none.

    >>> str(images_of((4, 6), "nv12")), images_of((4, 6), "nv12").size
    ('images (4, 6) of nv12, tiling optimal', 36)
    """
    import numpy as np

    if tiling not in TILINGS:
        raise ValueError(f"tiling is {tiling!r}; the images of a stream are 'optimal' or 'linear'")
    extents = tuple(map(_whole, _extents(shape)))
    info = describe(extents, format, tiling=tiling, usage=usage)
    if not info.usage or info.usage & ~_USAGES:  # which drivers are not asked about
        raise ValueError(
            f"usage is {info.usage:#x}; expected some of Vulkan's VkImageUsageFlagBits"
        )
    found = image_format(format)
    texels = Texels(found.name, "linear" if tiling == "linear" else "optimal", info.usage)
    return Format(extents, np.dtype(found.planes[0].dtype), texels=texels)


def frames_of(
    shape: int | Sequence[int],
    dtype: Any,
    format: str | int | None,
    tiling: str,
    usage: str | int | Sequence[str] | None,
) -> Format:
    """What a publisher says of its frames: arrays by their dtype, or images by their format."""
    if (dtype is None) == (format is None):
        raise TypeError(
            f"dtype is {dtype!r} and format is {format!r}; expected one of them: dtype= for frames "
            "that are arrays, format= for frames that are images"
        )
    if format is not None:
        return images_of(shape, format, tiling, usage)
    if usage is not None or tiling != TILINGS[0]:
        raise TypeError("tiling= and usage= are of images, whose format= has to be said, too")
    return format_of(shape, dtype)


def _is_record(kind: np.dtype[Any]) -> bool:
    fields = kind.fields
    return (
        fields is not None
        and 0 < len(fields) <= _MOST_FIELDS
        and kind.itemsize <= _LARGEST_RECORD
        and all(
            each[0].kind in _KINDS and not each[0].shape and 0 < len(name) <= 64
            for name, each in fields.items()
        )
    )


def _extents(shape: Any) -> tuple[Any, ...]:
    if hasattr(shape, "__index__"):
        return (shape,)
    try:
        return tuple(shape)
    except TypeError:
        raise TypeError(
            f"shape is {shape!r}; expected a whole number above 0, or several: (480, 640, 3)"
        ) from None


def _whole(extent: Any) -> Any:
    return int(extent) if hasattr(extent, "__index__") else extent


# -- as it travels --------------------------------------------------------------------------------


def told(format: Format) -> tuple[str, tuple[Field, ...]]:
    """The elements, in the words of a greeting: a name, or a record's size as "|V12" and fields."""
    if format.bfloat16:
        return BFLOAT16, ()
    kind = format.dtype
    if kind.fields is None:
        return kind.str, ()
    found = tuple(Field(name, each[0].str, each[1]) for name, each in kind.fields.items())
    return f"|V{kind.itemsize}", found


def read(
    shape: tuple[int, ...], word: str, fields: tuple[Field, ...], texels: Texels | None = None
) -> Format:
    """The same from another process. TypeError or ValueError if it is none."""
    if texels is not None:
        found = images_of(shape, texels.format, texels.tiling, texels.usage)
        if (word, fields) != (found.dtype.str, ()):
            raise ValueError(f"elements of {plain(word)} in images of {found.name}")
        return found
    for each in (word if not fields else "|u1", *(field.dtype for field in fields)):
        # NumPy reads much more than this, with errors of many kinds.
        if not _NUMBER.match(each) and (fields or each != BFLOAT16):
            raise ValueError(f"elements of {plain(each)}, which are no numbers")
    if not fields:
        return format_of(shape, word)
    if not (word.startswith("|V") and word[2:].isdecimal() and word.isascii()):
        raise ValueError(f"{len(fields)} fields of {word!r}, which is no record")
    size = int(word[2:])
    if not 0 < size <= _LARGEST_RECORD:
        raise ValueError(f"records of {size} bytes; {_LARGEST_RECORD} are allowed")
    return format_of(
        shape,
        {
            "names": [each.name for each in fields],
            "formats": [each.dtype for each in fields],
            "offsets": [each.offset for each in fields],
            "itemsize": size,
        },
    )
