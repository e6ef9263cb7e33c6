"""Pictures for people: any array, as a few bytes of red, green, blue and opacity.

What is shown is a sample of bounded size. Opacity is not shown: frames are often written without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from extmem.images.formats import image_format

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MOST_HEIGHT", "MOST_WIDTH", "Picture", "of_array", "of_bytes", "of_texels"]

MOST_WIDTH, MOST_HEIGHT = 960, 600  # pixels of a picture
_STRIP = 128  # pixels of a row of plain bytes, and most rows


class Picture(NamedTuple):
    """A picture, and what must be said about it."""

    pixels: np.ndarray[Any, Any]  # (height, width, 4) of uint8
    width: int  # of what it was made from
    height: int
    note: str  # how numbers became colours; "" where they were colours


def of_array(array: Any, *, bfloat16: bool = False) -> Picture:
    """A frame as a picture: (height, width), with 1 to 4 channels after or before that; of anything
    else the bytes. Numbers that are no bytes are stretched to what can be seen.

    bfloat16: whether uint16 are the bits of such

    >>> import numpy
    >>> of_array(numpy.full((2, 3), 7, "uint8")).pixels[0, 0].tolist()
    [7, 7, 7, 255]
    >>> of_array(numpy.array([[0.0, 3.0]])).note
    'brightness is 0 to 3'
    """
    import numpy as np

    note = ""
    if array.dtype.fields is not None:
        return of_bytes(array)
    while array.ndim > 3 or (array.ndim == 3 and min(array.shape[0], array.shape[2]) > 4):
        note = f"the first of {array.shape[0]}; "
        array = array[0]
    if array.ndim == 3 and array.shape[2] > 4:  # (channels, height, width)
        array = np.moveaxis(array, 0, 2)
    if array.ndim < 2:
        return of_bytes(array)
    height, width = array.shape[:2]
    if array.ndim == 3:
        array = array[..., :3]
    sampled = _sampled(array, height, width)
    if bfloat16:  # the upper half of a float32
        sampled = (sampled.astype(np.uint32) << 16).view(np.float32)
    small, stretched = _as_bytes(sampled)
    return Picture(_four(small), width, height, (note + stretched).removesuffix("; "))


def of_bytes(array: Any) -> Picture:
    """What has no shape: each byte is a pixel of grey, in rows of 128.

    >>> import numpy
    >>> of_bytes(numpy.arange(256, dtype="uint8")).pixels.shape
    (2, 128, 4)
    """
    import numpy as np

    flat = array.reshape(-1)
    flat = flat[: -(-_STRIP * _STRIP // max(array.itemsize, 1))]
    data = np.ascontiguousarray(flat).view(np.uint8)[: _STRIP * _STRIP]
    rows = max(-(-data.size // _STRIP), 1)
    padded = np.zeros(rows * _STRIP, np.uint8)
    padded[: data.size] = data
    note = f"the first {data.size} bytes, {_STRIP} in a row"
    return Picture(_four(padded.reshape(rows, _STRIP)), _STRIP, rows, note)


def of_texels(planes: list[Any], name: str) -> Picture:
    """An image of one of `extmem.images.formats`, from the arrays of its planes.

    >>> import numpy
    >>> of_texels([numpy.array([[[1, 2, 3, 4]]], "uint8")], "bgra8").pixels.tolist()
    [[[3, 2, 1, 255]]]
    """
    import numpy as np

    if name in ("nv12", "p010"):
        return _of_video(planes, name)
    first = planes[0]
    for _ in range(first.ndim - 2 - (image_format(name).planes[0].channels > 1)):
        first = first[0]  # of three dimensions: the foremost
    if first.ndim == 1 + (image_format(name).planes[0].channels > 1):
        first = first[None]  # of one: a row
    if name.startswith(("rgb10a2", "bgr10a2")):
        shifts = (0, 10, 20) if name.startswith("rgb") else (20, 10, 0)
        height, width = first.shape
        small = _sampled(first, height, width)
        parts = [(small >> shift & 1023) >> 2 for shift in shifts]
        return Picture(_four(np.stack(parts, 2).astype(np.uint8)), width, height, "")
    if name == "rg11b10f":
        return of_bytes(first)
    picture = of_array(first)
    if name.startswith("bgra"):
        picture.pixels[..., :3] = picture.pixels[..., 2::-1].copy()
    return picture


def _of_video(planes: list[Any], name: str) -> Picture:
    """Luma and chroma, by BT.709 in the narrow range."""
    import numpy as np

    height, width = planes[0].shape
    step = _step(height, width)
    shift = 8 if name == "p010" else 0
    luma = (planes[0][::step, ::step] >> shift).astype(np.float32)
    rows = np.arange(0, height, step) // 2
    columns = np.arange(0, width, step) // 2
    chroma = (planes[1][np.ix_(rows, columns)] >> shift).astype(np.float32)
    y, u, v = (luma - 16) * (255 / 219), chroma[..., 0] - 128, chroma[..., 1] - 128
    colours = np.stack((y + 1.793 * v, y - 0.213 * u - 0.533 * v, y + 2.112 * u), 2)
    small = np.clip(colours + 0.5, 0, 255).astype(np.uint8)
    return Picture(_four(small), width, height, "BT.709, narrow range")


def _step(height: int, width: int) -> int:
    return max(-(-height // MOST_HEIGHT), -(-width // MOST_WIDTH), 1)


def _sampled(array: Any, height: int, width: int) -> Any:
    """A copy of bounded size. Of bytes four are averaged for each pixel, of others one is taken."""
    import numpy as np

    step = _step(height, width)
    if step < 2 or array.dtype != np.uint8 or min(height, width) < step:
        return array[::step, ::step].copy()
    half = step // 2
    far = array[half::step, half::step]
    rows, columns = far.shape[:2]
    total = far.astype(np.uint16)
    for row, column in ((0, 0), (0, half), (half, 0)):
        total += array[row::step, column::step][:rows, :columns]
    return (total >> 2).astype(np.uint8)


def _as_bytes(array: Any) -> tuple[Any, str]:
    """Numbers as 0 to 255, and how."""
    import numpy as np

    if array.dtype == np.uint8:
        return array, ""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255, ""
    if array.dtype.kind == "c":
        array = np.abs(array)
    numbers = array.astype(np.float64)
    good = np.isfinite(numbers)
    if not good.any():
        return np.zeros(array.shape, np.uint8), "no number in it is finite"
    low, high = float(numbers[good].min()), float(numbers[good].max())
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high, note = 0.0, 1.0, ""
    else:
        low = min(low, 0.0) if array.dtype.kind in "fu" else low
        note = f"brightness is {low:.4g} to {high:.4g}"
    with np.errstate(all="ignore"):
        scaled = (numbers - low) * (255 / ((high - low) or 1))
    scaled[~good] = 0
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8), note


def _four(array: Any) -> Any:
    """Red, green, blue and full opacity."""
    import numpy as np

    if array.ndim == 2:
        array = array[..., None]
    result = np.zeros((*array.shape[:2], 4), np.uint8)
    result[..., 3] = 255
    channels = array.shape[2]
    result[..., : min(channels, 3)] = array[..., :3]
    if channels == 1:
        result[..., 1] = result[..., 2] = result[..., 0]
    return result
