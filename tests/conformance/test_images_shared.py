"""Images between two processes: every format, tiling and dimension, and every pixel compared.

All images of one driver and one handle type go through one second process. It knows of an image
what its passport says, and nothing else; each side writes, and the other compares.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

import pytest

import extmem
from extmem import Device, Image, Unsupported, vk, win32
from extmem.images.formats import FORMATS
from extmem.ownership import transition
from extmem.submitting import submit
from tests.support import second
from tests.support.pictures import Case, cases, deep_cases, makes, over_there, round_trip
from tests.support.second import Channel
from tests.support.strict import driver_cannot

TYPES = ["opaque_win32"] if sys.platform == "win32" else ["opaque_fd", "opaque_win32"]
LIMIT = 120.0  # seconds for the other process; it takes a tenth of that


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


def require(gpu: Device, handle_type: str) -> None:
    if not gpu.physical.can_export(handle_type):
        driver_cannot(f"it exports no {handle_type}")


def shared(gpu: Device, wanted: Iterable[Case], handle_type: str) -> list[Case]:
    """Send every image that the driver makes to the other process and back. Those that were."""
    done = []
    wrong = []
    with second.start(over_there, timeout=LIMIT, driver=gpu.driver) as other:
        for seed, case in enumerate(wanted):
            image = makes(gpu, case, handle_type)
            if image is None:
                continue
            with image:
                found = round_trip(gpu, other, image, handle_type, 10 * seed)
            wrong += [f"{case}: {each}" for each in found]
            done.append(case)
        other.send(None)
        assert other.result() == len(done)
    assert wrong == []
    return done


@pytest.mark.timeout(600)  # some hundred images, on a machine that may do other things beside it
@pytest.mark.parametrize("handle_type", TYPES)
def test_every_format_tiling_and_dimension(gpu: Device, driver: str, handle_type: str) -> None:
    require(gpu, handle_type)
    wanted = [*cases(), *deep_cases()]
    if handle_type != TYPES[0]:
        # How they are carried has nothing to do with what they are: some of each.
        wanted = [case for number, case in enumerate(wanted) if number % 5 == 0 or case.planar]
    done = shared(gpu, wanted, handle_type)
    assert {case.dimensions for case in done} == {1, 2, 3}
    assert {case.tiling for case in done} == {"optimal", "linear"}
    assert any(case.levels > 1 and case.layers > 1 for case in done)
    if driver == "embedded":
        assert done == wanted  # each of them: it is what the others are held against


def test_drm_format_modifiers(gpu: Device, driver: str) -> None:
    if "VK_EXT_image_drm_format_modifier" not in gpu.extensions:
        driver_cannot("it has no VK_EXT_image_drm_format_modifier")
    handle_type = "dma_buf" if gpu.physical.can_export("dma_buf") else "opaque_fd"
    done = shared(gpu, cases(("drm",)), handle_type)
    assert done
    if driver == "embedded":
        assert {case.format for case in done} == set(FORMATS)


@pytest.mark.parametrize("handle_type", TYPES)
def test_several_samples(gpu: Device, driver: str, handle_type: str) -> None:
    """They cannot be copied to memory, so the memory itself is compared, whatever lies where."""
    require(gpu, handle_type)
    try:
        gpu.image((17, 21), "rgba8", samples=4, memory="host_visible").close()
    except Unsupported as error:
        driver_cannot(str(error))
    with (
        second.start(clear_over_there, driver=driver) as process,
        gpu.image(
            (17, 21), "rgba8", samples=4, export=handle_type, memory="host_visible",
            usage=("transfer_src", "transfer_dst", "color_attachment"),
        ) as image,
    ):  # fmt: skip
        clear(gpu, image, (0.2, 0.4, 0.6, 1.0))
        image.release()
        mine = bytes(image.memory.view())
        assert bytes((51, 102, 153, 255)) in mine
        with image.export() as handle:
            assert handle.passport is not None
            passport = handle.passport.encode().hex()
            given = {"type": handle_type, "passport": passport, "pixels": mine.hex()}
            if handle.handle_type.kind == "fd":
                process.send({**given, "handle": 0}, [int(handle)])
            else:
                process.send({**given, "handle": process.give(int(handle))})
            assert process.result() is True
        image.acquire()
        theirs = bytes(image.memory.view())
        assert theirs.count(bytes((255, 0, 51, 0))) == mine.count(bytes((51, 102, 153, 255)))


def clear_over_there(channel: Channel, driver: str) -> bool:
    """Compare the memory of an image with several samples, and clear it to something else."""
    asked, fds = channel.receive()
    passport, handle_type = bytes.fromhex(asked["passport"]), asked["type"]
    with extmem.open_device(driver=driver) as gpu:
        number = fds[0] if fds else asked["handle"]
        with gpu.import_image(number, handle_type=handle_type, passport=passport) as image:
            assert image.samples == 4
            image.acquire()
            equal = image.memory.view() == bytes.fromhex(asked["pixels"])
            clear(gpu, image, (1.0, 0.0, 0.2, 0.0))
            image.release()
    for fd in fds:
        os.close(fd)
    if asked["handle"]:
        win32.CloseHandle(asked["handle"])
    return equal


def clear(gpu: Device, image: Image, color: tuple[float, ...]) -> None:
    """Fill an image with a colour on the device."""
    whole = vk.VkImageSubresourceRange(
        aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
    )
    general = int(vk.VK_IMAGE_LAYOUT_GENERAL)

    def record(commands: vk.VkCommandBuffer) -> None:
        transition(commands, image, image.ownership.layout, general)
        value = vk.VkClearColorValue(float32=color)
        vk.vkCmdClearColorImage(commands, image.handle, general, value, 1, [whole])

    submit(gpu, record)
    image.ownership.layout = general
