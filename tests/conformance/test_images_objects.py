"""Images as objects: what is refused before the driver sees it, views, copies, and ownership."""

from __future__ import annotations

import gc
import itertools
import logging
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import msgspec
import numpy as np
import pytest

import extmem
from extmem import (
    ClosedError,
    Device,
    DriverError,
    Image,
    Memory,
    OwnershipError,
    PassportError,
    RuleViolation,
    Unsupported,
    ViewsAlive,
    vk,
)
from extmem.drivers.embedded import foreign
from extmem.images.formats import FORMATS, image_format
from extmem.share.passport import Passport, PlaneLayout
from tests.support.pictures import Case, makes, parts, pixels, problems, same, write
from tests.support.sharing import unique_name
from tests.support.strict import driver_cannot

WINDOWS = "opaque_win32"
embedded = pytest.mark.parametrize("driver", ["embedded"], indirect=True)
on_linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: DRM is Linux' own")


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def other(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def shared(gpu: Device) -> Image:
    if not gpu.physical.can_export(WINDOWS):
        driver_cannot("it has no Windows handles")
    return gpu.image((6, 10), "rgba8", export=WINDOWS)


@pytest.fixture
def linear(gpu: Device) -> Image:
    return gpu.image((6, 10), "rgba8", tiling="linear")


def number(gpu: Device, image: Image, part: dict[str, int] | None = None) -> np.ndarray[Any, Any]:
    """Pixels that fit an image."""
    return pixels(image, part or {"level": 0, "layer": 0, "plane": 0}, 7)


# -- what is made ---------------------------------------------------------------------------------


def test_what_an_image_says_of_itself(gpu: Device) -> None:
    with gpu.image((6, 10), "rgba8", levels=3, layers=2) as image:
        assert (image.shape, image.levels, image.layers, image.samples) == ((6, 10), 3, 2, 1)
        assert (image.format.name, image.tiling, image.modifier) == ("rgba8", "optimal", None)
        assert image.layout_of_array(level=2) == ((1, 2, 4), np.dtype("uint8"))
        assert "2D (6, 10) rgba8, optimal, 3 levels, 2 layers" in repr(image)
        assert image.acquired
    assert image.closed
    assert repr(image) == "<Image, closed>"
    with pytest.raises(ClosedError):
        _ = image.handle


def test_every_format_has_its_arrays() -> None:
    assert len(FORMATS) == 50
    for each in FORMATS.values():
        assert image_format(each.name) is image_format(int(each.vk)) is each
        for plane in each.planes:
            assert np.dtype(plane.dtype).itemsize == plane.size
    assert {each.name for each in FORMATS.values() if each.planar} == {"nv12", "p010"}
    assert FORMATS["rgb10a2"].planes[0].shape((3, 4)) == (3, 4)
    assert FORMATS["p010"].planes[1].shape((4, 6)) == (2, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"shape": (1, 2, 3, 4)}, "shape is"),
        ({"shape": ()}, "shape is"),
        ({"shape": (0, 4)}, "whole numbers"),
        ({"shape": (4.5, 4)}, "whole numbers"),
        ({"format": "rgb8"}, "expected one of r8, "),
        ({"format": 100000}, "VkFormat 100000"),
        ({"tiling": "swizzled"}, "optimal, linear, drm"),
        ({"levels": 4}, "at most 3"),
        ({"samples": 3}, "power of two"),
        ({"layers": 0}, "whole numbers"),
        ({"usage": "writing"}, "transfer_src"),
        ({"format": "nv12", "shape": (4, 5)}, "even"),
        ({"format": "nv12", "shape": 4}, "two dimensions"),
        ({"format": "p010", "layers": 2}, "one layer"),
        ({"memory": "fast"}, "host_visible"),
        ({"modifiers": [0]}, "tiling='drm'"),
    ],
    ids=str,
)
def test_what_is_no_image(gpu: Device, arguments: dict[str, Any], told: str) -> None:
    wanted: dict[str, Any] = {"shape": (4, 4), "format": "rgba8", **arguments}
    if arguments.get("format") == "nv12" and gpu.driver != "embedded":
        wanted["usage"] = None
    with pytest.raises(ValueError, match=told):
        gpu.image(**wanted)


@embedded
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"samples": 8}, "samples is 8, and it takes 1, 4"),
        ({"samples": 4, "tiling": "linear"}, "samples is 4, and it takes 1"),
        ({"shape": (4, 20000)}, r"shape is \(4, 20000\), and at most \(16384, 16384\)"),
        ({"shape": (2, 2, 2), "layers": 2}, "layers is 2, and at most 1"),
        ({"format": "rgba8_srgb", "usage": "storage"}, "refuses usage storage, and takes transfer"),
        ({"flags": 1}, "refuses flags 0x1, and takes 0"),  # sparse
        ({"tiling": "drm", "shape": 4}, "by DRM format modifier; it knows 0x0"),
        ({"export": "dma_buf"}, "dma_buf: it has no VK_EXT_external_memory_dma_buf"),
        ({"export": "d3d11_texture"}, "cannot export such an image as d3d11_texture; it can"),
        ({"export": ["opaque_win32", "opaque_win32_kmt"]}, "together with opaque_win32_kmt"),
        ({"export": "d3d12_heap"}, "refuses handle type d3d12_heap, and takes .*opaque_win32"),
        ({"name": "Local\\x"}, "name= belongs to a Windows handle"),
    ],
    ids=str,
)
def test_what_the_device_refuses(gpu: Device, arguments: dict[str, Any], told: str) -> None:
    if arguments.get("tiling") == "drm" and sys.platform == "win32":
        pytest.skip("hardware: DRM is Linux' own")
    wanted: dict[str, Any] = {"shape": (4, 4), "format": "rgba8", **arguments}
    with pytest.raises(Unsupported, match=told):
        gpu.image(**wanted)


def test_refusals_are_the_drivers_word(gpu: Device) -> None:
    """Whatever a driver refuses, it says so before anything is made, in a sentence."""
    made, refused = 0, []
    for format, tiling, dimensions in itertools.product(
        ("r8", "rgba32f", "bgra8_srgb", "nv12"), ("optimal", "linear"), (1, 2, 3)
    ):
        case = Case(format, tiling, dimensions)
        if case.planar and dimensions != 2:
            continue
        try:
            gpu.image(case.shape, format, tiling=tiling, usage="storage").close()
        except Unsupported as error:
            refused.append(str(error))
        else:
            made += 1
    assert made
    assert refused
    assert all("refuses" in each for each in refused)


@pytest.mark.parametrize("dedicated", [True, False, None])
def test_dedicated_or_not(gpu: Device, other: Device, dedicated: bool | None) -> None:
    if not gpu.physical.can_export(WINDOWS):
        driver_cannot("it has no Windows handles")
    with gpu.image((6, 10), "r16", export=WINDOWS, dedicated=dedicated) as image:
        if dedicated is not None:
            assert image.memory.dedicated is dedicated
        assert (image.passport.dedicated is not None) is image.memory.dedicated
        write(gpu, image, 1)
        image.release()
        with image.export() as handle, other.import_image(handle) as there:
            assert there.memory.dedicated is image.memory.dedicated
            there.acquire()
            assert problems(other, there, 1, viewed=False) == []


@embedded
def test_by_name_nothing_else_is_told(gpu: Device, other: Device) -> None:
    name = unique_name()
    with gpu.image((5, 7), "rgb10a2", levels=2, export=WINDOWS, name=name) as image:
        write(gpu, image, 3)
        image.release()
        with other.import_image(name=name) as there:
            assert there.info == image.info
            there.acquire()
            assert problems(other, there, 3, viewed=False) == []
    with pytest.raises(RuleViolation, match="no object of that name"):
        other.import_image(name=name, shape=(5, 7), format="rgb10a2")


@embedded
def test_the_view_formats_travel(gpu: Device, other: Device) -> None:
    formats = ["rgba8", "rgba8_srgb"]
    with gpu.image((4, 4), "rgba8", view_formats=formats, export=WINDOWS, dedicated=True) as image:
        with image.export() as handle, other.import_image(handle) as there:
            assert there.info.formats == (37, 43)
            assert there.info.flags == vk.VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT
        with image.export() as handle, pytest.raises(PassportError, match="view_formats"):
            other.import_image(handle, view_formats=["rgba8"])


# -- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"format": "bgra8"}, "format is bgra8, and it was made with rgba8"),
        ({"shape": (10, 6)}, r"shape is \(10, 6\), and it was made with \(6, 10\)"),
        ({"shape": 60}, "type is 1D, and it was made with 2D"),
        ({"levels": 2}, "levels is 2, and it was made with 1"),
        ({"layers": 2}, "layers is 2"),
        ({"samples": 4}, "samples is 4"),
        ({"tiling": "linear"}, "tiling is linear, and it was made with optimal"),
        ({"usage": "sampled"}, "usage is sampled, and it was made with transfer_src"),
        ({"flags": 8}, "flags is 0x8"),
        ({"concurrent": True}, "concurrent is True"),
        ({"modifier": 5}, "modifier is 5"),
        ({"size": 64}, "size is 64, but the passport"),
        ({"dedicated": "other"}, "dedicated is"),
    ],
    ids=str,
)
def test_an_image_made_otherwise_is_told(
    gpu: Device, other: Device, shared: Image, said: dict[str, Any], told: str
) -> None:
    if said == {"dedicated": "other"}:
        said = {"dedicated": not shared.memory.dedicated}
    with shared.export() as handle:
        with pytest.raises(PassportError, match=told):
            other.import_image(handle, **said)
        other.import_image(handle, shape=(6, 10), format="rgba8", tiling="optimal").close()


def changed(passport: Passport, **changes: Any) -> Passport:
    """A passport with another image in it."""
    assert passport.image is not None
    image = msgspec.structs.replace(passport.image, **changes)
    dedicated = image if passport.dedicated is not None else None
    return msgspec.structs.replace(passport, image=image, dedicated=dedicated)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 0}, "describes no image"),
        ({"width": (1 << 32) - 1}, "makes no such image"),
        ({"format": 1}, "describes no image"),
        ({"type": 7}, "describes no image"),
        ({"tiling": 9}, "describes no image"),
        ({"levels": 30}, "describes no image"),
        ({"layers": 100000}, "makes no such image"),
        ({"samples": 64}, "makes no such image"),
        ({"types": 0}, "not made to be shared"),
        ({"height": 4000}, "needs"),
        ({"tiling": 1000158000}, "DRM format modifier"),
    ],
    ids=str,
)
def test_a_passport_that_lies_is_refused(
    gpu: Device, other: Device, shared: Image, changes: dict[str, int], told: str
) -> None:
    lie = changed(shared.passport, **changes)
    with shared.export() as handle:
        with pytest.raises(Unsupported, match=told):
            other.import_image(handle, passport=lie)
        other.import_image(handle).close()


@embedded
def test_images_and_bare_memory_are_not_mixed_up(gpu: Device, other: Device) -> None:
    with (
        gpu.allocate(4096, export=WINDOWS) as bare,
        gpu.image((6, 10), "r8", export=WINDOWS, dedicated=True) as image,
        bare.export() as of_bare,
        image.export() as of_image,
    ):
        with pytest.raises(PassportError, match="import_memory"):
            other.import_image(of_bare)
        with pytest.raises(PassportError, match="import_image"):
            other.import_memory(of_image)
        with pytest.raises(PassportError, match="import_image"):
            other.import_memory(int(of_image), handle_type=WINDOWS)
    with pytest.raises(Unsupported, match="import_memory"):
        other.import_image(bytearray(4096), shape=(4, 4), format="r8")


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
def test_without_a_passport_everything_has_to_be_said(gpu: Device, other: Device) -> None:
    with gpu.image((6, 10), "rgba8", levels=2, export="opaque_fd", dedicated=False) as image:
        write(gpu, image, 5)
        image.release()
        index = image.memory.memory_type.index
        with image.export() as handle:
            bare = int(handle)
            with pytest.raises(ValueError, match="shape= and format="):
                other.import_image(bare, handle_type="opaque_fd", shape=(6, 10))
            with other.import_image(
                bare,
                handle_type="opaque_fd",
                shape=(6, 10),
                format="rgba8",
                levels=2,
                memory_type=index,
                dedicated=False,
            ) as there:
                there.acquire()
                assert problems(other, there, 5, viewed=False) == []


@embedded
@on_linux
@pytest.mark.parametrize(
    "planes",
    [(), (PlaneLayout(0, 64),), (PlaneLayout(0, 64), PlaneLayout(1 << 40, 64)),
     (PlaneLayout(0, 1 << 40), PlaneLayout(256, 64))],
    ids=str,
)  # fmt: skip
def test_planes_outside_of_the_memory_are_refused(
    gpu: Device, other: Device, planes: tuple[PlaneLayout, ...]
) -> None:
    with gpu.image((4, 6), "nv12", tiling="drm", export="opaque_fd") as image:
        lie = changed(image.passport, planes=planes)
        with image.export() as handle:
            with pytest.raises(PassportError, match="2 planes that lie within"):
                other.import_image(handle, passport=lie)
            elsewhere = changed(image.passport, planes=(PlaneLayout(0, 64), PlaneLayout(64, 64)))
            with pytest.raises(DriverError, match="PLANE_LAYOUT"):
                other.import_image(handle, passport=elsewhere)
            other.import_image(handle).close()


# -- views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_views_are_strided_and_see_what_the_device_sees(gpu: Device, dimensions: int) -> None:
    image = makes(gpu, Case("rg16", "linear", dimensions, levels=2), WINDOWS)
    image = image or makes(gpu, Case("rg16", "linear", dimensions), WINDOWS)
    if image is None:
        driver_cannot(f"it makes no linear image of {dimensions} dimensions")
    with image:
        for part in parts(image):
            view = image.numpy(**part)
            assert view.base is not None
            assert not view.flags.owndata
            view[...] = pixels(image, part, 1)
            assert same(gpu.readback(image, **part), pixels(image, part, 1))
            gpu.upload(image, pixels(image, part, 2), **part)
            assert same(view, pixels(image, part, 2))
            del view


@embedded
def test_bytes_between_the_rows_are_not_in_view(gpu: Device) -> None:
    with gpu.image((4, 10), "rgba8", tiling="linear") as image:
        whole = image.memory.numpy()
        whole[:] = 0xEE
        image.numpy()[...] = 1
        assert image.numpy().strides == (64, 4, 1)
        rows = whole[: 4 * 64].reshape(4, 64)
        assert (rows[:, :40] == 1).all()
        assert (rows[:, 40:] == 0xEE).all()
        del whole, rows


def test_an_image_with_views_is_not_closed(gpu: Device, linear: Image) -> None:
    row = linear.numpy()[2]
    for end in (linear.close, linear.memory.close, gpu.close):
        with pytest.raises(ViewsAlive) as raised:
            end()
        assert raised.value.count >= 1
        del raised
    row[:] = 9
    assert (gpu.readback(linear)[2] == 9).all()
    del row
    gc.collect()
    linear.close()
    linear.close()
    assert linear.closed


def test_a_view_keeps_the_memory_and_not_the_name(gpu: Device) -> None:
    with gpu.image((6, 10), "r8", tiling="linear") as image:
        view = image.numpy()
        with pytest.raises(ViewsAlive):
            image.close()
        view[:] = 3
        del image
        gc.collect()
        assert (view == 3).all()
        del view
        gc.collect()


def test_what_has_no_view(gpu: Device, linear: Image) -> None:
    with (
        gpu.image((6, 10), "rgba8") as optimal,  # where it lies is the driver's choice
        pytest.raises(Unsupported, match="upload"),
    ):
        optimal.numpy()
    for part in ({"level": 1}, {"layer": 1}, {"plane": 1}, {"level": -1}):
        with pytest.raises(IndexError, match=next(iter(part))):
            linear.numpy(**part)
    if gpu.driver == "embedded":
        with (
            gpu.image((6, 10), "rgba8", tiling="linear", memory="device_local") as hidden,
            pytest.raises(Unsupported, match="host_visible"),
        ):
            hidden.numpy()


@embedded
@on_linux
def test_modifiers(gpu: Device) -> None:
    with gpu.image((4, 6), "nv12", tiling="drm", memory="host_visible") as image:
        assert image.modifier == 0
        assert len(image.info.planes) == 2
        write(gpu, image, 1, viewed=True)
        assert problems(gpu, image, 1, viewed=True) == []
    with pytest.raises(Unsupported, match=r"no modifier 0x123 .* it has 0x0"):
        gpu.image((4, 6), "nv12", tiling="drm", modifiers=[0x123])


# -- copies ---------------------------------------------------------------------------------------


def test_arrays_of_another_shape_or_type_are_refused(gpu: Device, linear: Image) -> None:
    right = number(gpu, linear)
    for wrong in (right[:-1], right.astype("uint16"), right.reshape(10, 6, 4), right[..., 0]):
        with pytest.raises(ValueError, match=r"takes uint8 \(6, 10, 4\)"):
            gpu.upload(linear, wrong)
    gpu.upload(linear, np.asfortranarray(right))
    assert same(gpu.readback(linear), right)


def test_copies_need_a_usage_and_a_single_sample(gpu: Device) -> None:
    with gpu.image((4, 4), "rgba8", usage="transfer_dst") as image:
        gpu.upload(image, number(gpu, image))
        with pytest.raises(Unsupported, match="usage transfer_src"):
            gpu.readback(image)
    with (
        gpu.image((4, 4), "rgba8", usage="transfer_src") as image,
        pytest.raises(Unsupported, match="usage transfer_dst"),
    ):
        gpu.upload(image, number(gpu, image))
    usage = ("transfer_src", "transfer_dst", "color_attachment")
    with gpu.image((4, 4), "rgba8", samples=4, usage=usage) as image:
        with pytest.raises(Unsupported, match="4 samples cannot be copied"):
            gpu.upload(image, number(gpu, image))
        with pytest.raises(Unsupported, match="4 samples cannot be copied"):
            gpu.readback(image)


def test_copies_leave_nothing_behind(gpu: Device, linear: Image) -> None:
    gpu.upload(linear, number(gpu, linear))
    assert len(list(gpu._children)) == 1  # the counting around every test sees the rest


def test_an_image_of_another_device(gpu: Device, other: Device, linear: Image) -> None:
    with pytest.raises(ValueError, match="another device"):
        other.upload(linear, number(gpu, linear))


# -- ownership ------------------------------------------------------------------------------------


def test_contents_survive_the_right_sequence(gpu: Device, other: Device, shared: Image) -> None:
    with shared.export() as handle, other.import_image(handle) as there:
        for turn in range(3):
            write(gpu, shared, turn)
            shared.release()
            assert not shared.acquired
            there.acquire()
            assert problems(other, there, turn, viewed=False) == []
            write(other, there, 100 + turn)
            there.release()
            shared.acquire()
            assert problems(gpu, shared, 100 + turn, viewed=False) == []


@pytest.mark.parametrize("layout", ["general", "transfer_src", "transfer_dst"])
def test_layouts_between_users(gpu: Device, other: Device, shared: Image, layout: str) -> None:
    write(gpu, shared, 1)
    shared.release(layout=layout)
    with shared.export() as handle, other.import_image(handle) as there:
        there.acquire(layout=layout)
        assert problems(other, there, 1, viewed=False) == []


def test_use_at_the_wrong_time_is_reported(gpu: Device, other: Device, shared: Image) -> None:
    data = number(gpu, shared)
    with shared.export() as handle, other.import_image(handle) as there:
        for use in (lambda: other.readback(there), lambda: other.upload(there, data)):
            with pytest.raises(OwnershipError, match="never acquired"):
                use()
        with pytest.raises(OwnershipError, match="cannot be released"):
            there.release()
        with pytest.raises(OwnershipError, match="acquired already"):
            shared.acquire()
        shared.release()
        for use in (lambda: gpu.readback(shared), lambda: gpu.upload(shared, data), shared.release):
            with pytest.raises(OwnershipError, match="acquire"):
                use()
        there.acquire(layout="undefined")
        other.upload(there, data)
        there.release()
        shared.acquire()
        assert same(gpu.readback(shared), data)


def test_what_cannot_be_handed_over(gpu: Device, linear: Image, shared: Image) -> None:
    with pytest.raises(Unsupported, match="private"):
        linear.release()
    with pytest.raises(ValueError, match="'external' or 'foreign'"):
        shared.release(to="everybody")
    with pytest.raises(ValueError, match="undefined"):
        shared.release(layout="undefined")
    with pytest.raises(ValueError, match="expected one of"):
        shared.release(layout="tidy")
    if "VK_EXT_queue_family_foreign" not in gpu.extensions:
        with pytest.raises(Unsupported, match="VK_EXT_queue_family_foreign"):
            shared.release(to="foreign")
    assert shared.acquired


def test_foreign_users(gpu: Device, other: Device, shared: Image) -> None:
    if "VK_EXT_queue_family_foreign" not in gpu.extensions:
        driver_cannot("it has no VK_EXT_queue_family_foreign")
    write(gpu, shared, 1)
    shared.release(to="foreign")
    with shared.export() as handle, other.import_image(handle) as there:
        there.acquire(source="foreign")
        assert problems(other, there, 1, viewed=False) == []


@embedded
def test_concurrent_resources(gpu: Device, other: Device) -> None:
    with gpu.image((4, 4), "r8", export=WINDOWS, concurrent=True, dedicated=True) as image:
        write(gpu, image, 1)
        with pytest.raises(Unsupported, match="concurrently"):
            image.release(to="foreign")
        image.release()
        with image.export() as handle, other.import_image(handle) as there:
            there.acquire()
            assert problems(other, there, 1, viewed=False) == []
    with (
        gpu.allocate(64, export=WINDOWS) as memory,
        gpu.buffer(memory, concurrent=True) as buffer,
    ):
        buffer.release()
        buffer.acquire()


def test_one_queue_family_uses_nothing_concurrently(gpu: Device) -> None:
    if len(vk.vkGetPhysicalDeviceQueueFamilyProperties(gpu.vk_physical)) > 1:
        driver_cannot("it has several queue families")
    with pytest.raises(Unsupported, match="one queue family"):
        gpu.image((4, 4), "r8", concurrent=True)


@pytest.mark.parametrize("dedicated", [True, False])
def test_buffers_are_handed_over(
    gpu: Device, other: Device, caplog: pytest.LogCaptureFixture, dedicated: bool
) -> None:
    if not gpu.physical.can_export(WINDOWS):
        driver_cannot("it has no Windows handles")
    mine, theirs = gpu.allocate(64, export=WINDOWS, dedicated=dedicated), other.allocate(64)
    with mine.export() as handle:
        imported = other.import_memory(handle)
    with (
        gpu.buffer(mine) as here,
        other.buffer(imported) as there,
        other.buffer(theirs) as target,
        caplog.at_level(logging.WARNING, "extmem"),
    ):
        gpu.fill(here, 0x01010101)
        here.release()
        with pytest.raises(OwnershipError, match="the buffer of 64 bytes was released"):
            gpu.fill(here, 2)
        there.acquire()
        other.copy(there, target)
        assert (theirs.numpy() == 1).all()
        there.release()
        with pytest.raises(OwnershipError):
            other.copy(there, target)
        here.acquire()
        gpu.fill(here, 0x02020202)
        assert caplog.records == []
        with other.buffer(imported) as suspicious:
            other.copy(suspicious, target)
            other.copy(suspicious, target)
        assert len(caplog.records) == 1
        assert "never acquired" in caplog.text


def test_dedicated_memory_has_one_buffer(gpu: Device) -> None:
    memory = gpu.allocate(64, dedicated=True)
    for arguments in ({"offset": 16}, {"size": 16}, {"concurrent": True}):
        with pytest.raises(Unsupported, match="belongs to one buffer alone"):
            gpu.buffer(memory, **arguments)
    with gpu.buffer(memory) as buffer:
        gpu.fill(buffer, 0x03030303)
    with gpu.buffer(memory) as buffer:  # the one before was not the memory's end
        gpu.fill(buffer, 0x04040404)
        assert (memory.numpy() == 4).all()
    picture = gpu.image((4, 4), "r8", dedicated=True)
    with pytest.raises(Unsupported, match="belongs to one image alone"):
        gpu.buffer(picture.memory)


def test_images_go_to_other_processes_by_multiprocessing_alone(gpu: Device) -> None:
    """`examples/images.py` sends one."""
    picture = gpu.image((4, 4), "r8")
    with pytest.raises(TypeError, match="an image means nothing"):
        pickle.dumps(picture)
    with pytest.raises(Unsupported, match=r"image\(\.\.\., export="):
        ForkingPickler.dumps(picture)


def test_a_look_at_what_others_own_is_logged(
    gpu: Device, other: Device, caplog: pytest.LogCaptureFixture
) -> None:
    if not gpu.physical.can_export(WINDOWS):
        driver_cannot("it has no Windows handles")
    image = gpu.image((4, 4), "r8", tiling="linear", export=WINDOWS)
    image.numpy()[...] = 7
    image.release()
    with (
        caplog.at_level(logging.WARNING, "extmem"),
        image.export() as handle,
        other.import_image(handle) as there,
    ):
        assert (there.numpy() == 7).all()
        assert "not owned here" in caplog.text


@embedded
def test_an_image_of_direct3d_11_is_general_outside(gpu: Device) -> None:
    with (
        foreign.texture11(size=4096) as texture,
        gpu.import_image(
            texture.handle, handle_type="d3d11_texture", shape=(8, 8), format="rgba8"
        ) as image,
    ):
        assert image.memory.dedicated
        for layout in ("transfer_src", "shader_read_only"):
            with pytest.raises(ValueError, match="general"):
                image.acquire(layout=layout)
        image.acquire()
        write(gpu, image, 4)
        with pytest.raises(ValueError, match="general"):
            image.release(layout="transfer_src")
        image.release()
        assert (
            bytes(texture.view[:256])
            == pixels(image, {"level": 0, "layer": 0, "plane": 0}, 4).tobytes()
        )


@pytest.mark.parametrize("driver", ["embedded"], indirect=True)
def test_semaphores_order_the_two(gpu: Device, other: Device) -> None:
    with (
        gpu.image((4, 4), "r8", export=WINDOWS) as image,
        gpu.semaphore() as drawn,
        other.semaphore(value=5) as before,
        image.export() as handle,
        other.import_image(handle) as there,
    ):
        write(gpu, image, 1)
        image.release(signal=[(drawn, 3)])
        assert drawn.value == 3
        there.acquire(wait=[(before, 5)])
        assert problems(other, there, 1, viewed=False) == []
        data = number(other, there)
        other.upload(there, data, wait=[(before, 5)], signal=[(before, 6)])
        assert before.value == 6


@embedded
def test_ctrl_c_ends_the_wait_and_not_the_copy(gpu: Device) -> None:
    """What the copy works with is still there when it runs after all."""
    with gpu.image((4, 4), "r8") as image, gpu.semaphore() as never:
        data = number(gpu, image)
        soon = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        soon.start()
        with pytest.raises(KeyboardInterrupt):
            gpu.upload(image, data, wait=[(never, 5)])
        soon.join()
        assert image.ownership.layout == vk.VK_IMAGE_LAYOUT_GENERAL  # as it will be
        never.signal(5)
        assert same(gpu.readback(image), data)
        assert len([each for each in gpu._children if isinstance(each, Memory)]) == 1
