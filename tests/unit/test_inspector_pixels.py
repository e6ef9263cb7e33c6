"""Pictures of arrays of every shape and number, and of images of every format that has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import extmem
from extmem.images.formats import FORMATS
from extmem.inspector import pixels
from extmem.inspector.objects import stated
from extmem.inspector.pixels import MOST_HEIGHT, MOST_WIDTH


def ramp(*shape: int, dtype: str = "uint8") -> Any:
    count = int(np.prod(shape))
    return (np.arange(count) % 251).astype(dtype).reshape(shape)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_channels(channels: int, first: bool) -> None:
    array = ramp(6, 7, channels)
    expected = np.zeros((6, 7, 3), "uint8")
    expected[..., : min(channels, 3)] = array[..., :3]
    if channels == 1:
        expected[...] = array
    found = pixels.of_array(np.moveaxis(array, 2, 0) if first else array)
    assert np.array_equal(found.pixels[..., :3], expected)
    assert (found.pixels[..., 3] == 255).all()
    assert (found.width, found.height, found.note) == (7, 6, "")


def test_several_are_shown_by_their_first() -> None:
    array = ramp(9, 6, 7, 3)
    found = pixels.of_array(array)
    assert np.array_equal(found.pixels[..., :3], array[0])
    assert found.note == "the first of 9"


@pytest.mark.parametrize(
    ("array", "expected", "note"),
    [
        (np.array([[0.0, 0.5, 1.0]], "float32"), [0, 128, 255], ""),
        (np.array([[0.0, 5.0, 10.0]], "float16"), [0, 128, 255], "brightness is 0 to 10"),
        (np.array([[-1.0, 0.0, 1.0]]), [0, 128, 255], "brightness is -1 to 1"),
        (np.array([[np.nan, np.inf, 1.0]]), [0, 0, 255], ""),
        (np.array([[np.nan]]), [0], "no number in it is finite"),
        (np.array([[0, 32768, 65535]], "uint16"), [0, 128, 255], "brightness is 0 to 6.554e+04"),
        (np.array([[-4, 0, 4]], "int8"), [0, 128, 255], "brightness is -4 to 4"),
        (np.array([[3 + 4j, 0]]), [255, 0], "brightness is 0 to 5"),
        (np.array([[7, 7]], "int32"), [0, 0], "brightness is 7 to 7"),
    ],
)
def test_numbers_become_colours(array: Any, expected: list[int], note: str) -> None:
    found = pixels.of_array(array)
    assert found.pixels[0, :, 0].tolist() == expected
    assert found.note == note


def test_a_picture_is_never_large() -> None:
    small = np.zeros((1, 1), "uint8")
    for shape in ((4000, 6000, 3), (1, 10**12), (10**12, 1), (3000, 2)):
        array = np.broadcast_to(small.reshape((1,) * len(shape)), shape)
        found = pixels.of_array(array)
        height, width, _ = found.pixels.shape
        assert 0 < height <= MOST_HEIGHT
        assert 0 < width <= MOST_WIDTH
        assert (found.height, found.width) == shape[:2]


def test_a_large_picture_is_averaged() -> None:
    array = np.zeros((1200, 1920), "uint8")
    array[::2] = 100
    assert set(pixels.of_array(array).pixels[..., 0].flat) == {50}


def test_bytes_without_a_shape() -> None:
    found = pixels.of_array(ramp(300))
    assert found.pixels.shape == (3, 128, 4)
    assert found.pixels[0, :, 1].tolist() == ramp(128).tolist()
    assert found.note == "the first 300 bytes, 128 in a row"
    records = np.zeros((2, 3), [("a", "u1"), ("b", "f4")])
    assert pixels.of_array(records).note == "the first 30 bytes, 128 in a row"


@pytest.mark.parametrize("tiling", ["linear", "optimal"])
@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_has_a_picture(format: str, tiling: str, used_before: None) -> None:
    with extmem.open_device(driver="embedded") as gpu:
        try:
            image = gpu.image((4, 6), format, tiling=tiling)
        except extmem.Unsupported as error:
            pytest.skip(f"the driver's answer: {error}")
        with image:
            planes = [gpu.readback(image, plane=each) for each in range(len(image.format.planes))]
            found = pixels.of_texels(planes, format)
            words = stated(image.passport)["image"]
    if format != "rg11b10f":
        assert found.pixels.shape == (4, 6, 4)
    assert (words["format"], words["size"], words["tiling"]) == (format, "6 × 4", tiling)


@pytest.fixture
def used_before() -> None:
    extmem.open_device(driver="embedded").close()


def test_colours_of_formats() -> None:
    def of(format: str, *planes: Any) -> list[int]:
        found: list[int] = pixels.of_texels(list(planes), format).pixels[0, 0].tolist()
        return found

    assert of("rgba8", np.array([[[1, 2, 3, 4]]], "uint8")) == [1, 2, 3, 255]
    assert of("bgra8_srgb", np.array([[[1, 2, 3, 4]]], "uint8")) == [3, 2, 1, 255]
    assert of("rgba16f", np.array([[[0, 0.5, 1, 0]]], "float16")) == [0, 128, 255, 255]
    packed = np.array([[1023 | 512 << 10]], "uint32")
    assert of("rgb10a2", packed) == [255, 128, 0, 255]
    assert of("bgr10a2", packed) == [0, 128, 255, 255]
    grey = np.full((1, 1, 2), 128, "uint8")
    assert of("nv12", np.full((2, 2), 235, "uint8"), grey) == [255, 255, 255, 255]
    assert of("nv12", np.full((2, 2), 16, "uint8"), grey) == [0, 0, 0, 255]
    red = np.array([[[102, 240]]], "uint8")
    found = of("nv12", np.full((2, 2), 63, "uint8"), red)
    assert found[0] > 250
    assert max(found[1:3]) < 4
    assert of("p010", np.full((2, 2), 235 << 8, "uint16"), grey.astype("uint16") << 8)[0] == 255


def test_images_of_other_dimensions() -> None:
    row = ramp(9, 4)
    assert np.array_equal(pixels.of_texels([row], "rgba8").pixels[0, :, :3], row[:, :3])
    block = ramp(3, 5, 7)
    assert np.array_equal(pixels.of_texels([block], "r8").pixels[..., 0], block[0])
