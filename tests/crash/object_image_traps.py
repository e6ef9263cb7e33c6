"""Images as objects: shapes, formats and words that make none; copies, views and hand-overs of
what is not there, not owned, or closed.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import msgspec
import numpy as np

import extmem
from extmem import ClosedError, OwnershipError, PassportError, Unsupported, ViewsAlive
from extmem.images.image import Image
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_KIND = "opaque_fd" if sys.platform == "linux" else "opaque_win32"


def _shared(here: Scene, **more: Any) -> Image:
    try:
        return here.gpu.image((8, 8), "rgba8", export=_KIND, **more)
    except Unsupported as error:
        driver_cannot(str(error))


# -- making ---------------------------------------------------------------------------------------


@trap(ValueError, says="samples is 4, with levels=2 and 2 sides")
def picture_with_levels_of_several_samples(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", levels=2, samples=4)


@trap(ValueError, says=r"shape is \(0, 0\); expected whole numbers from 1")
def picture_of_nothing(here: Scene) -> None:
    here.gpu.image((0, 0), "rgba8")


@trap(ValueError, says=r"shape is \(-4, 8\); expected whole numbers from 1")
def picture_of_a_negative_height(here: Scene) -> None:
    here.gpu.image((-4, 8), "rgba8")


@trap(ValueError, says=r"shape is \(\); expected")
def picture_without_sides(here: Scene) -> None:
    here.gpu.image((), "rgba8")


@trap(ValueError, says=r"shape is \(1, 2, 3, 4\); expected")
def picture_with_four_sides(here: Scene) -> None:
    here.gpu.image((1, 2, 3, 4), "rgba8")


@trap(ValueError, says=r"shape is \(1.5, 2\); expected whole numbers")
def picture_with_a_fraction_of_a_row(here: Scene) -> None:
    here.gpu.image((1.5, 2), "rgba8")  # type: ignore[arg-type]


@trap(TypeError, ValueError, says="shape|iterable|int")
def picture_of_a_word(here: Scene) -> None:
    here.gpu.image("wide", "rgba8")  # type: ignore[arg-type]


@trap(Unsupported, ValueError, says="")
def picture_of_a_trillion_rows(here: Scene) -> None:
    here.gpu.image((1 << 40, 8), "rgba8")


@trap(Unsupported, says="")
def picture_of_all_the_rows_there_are(here: Scene) -> None:
    here.gpu.image((0xFFFFFFFF, 0xFFFFFFFF), "rgba8")


@trap(ValueError, says="format 'rgb7'; expected one of")
def picture_of_a_format_that_nobody_knows(here: Scene) -> None:
    here.gpu.image((8, 8), "rgb7")


@trap(ValueError, says="format VkFormat 999999; expected one of")
def picture_of_a_number_that_is_no_format(here: Scene) -> None:
    here.gpu.image((8, 8), 999999)


@trap(ValueError, says="levels is 99; an image of")
def picture_of_99_levels(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", levels=99)


@trap(ValueError, says="levels, layers, samples is")
def picture_of_no_layers(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", layers=0)


@trap(Unsupported, says="")
def picture_of_a_million_layers(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", layers=1_000_000)


@trap(ValueError, says="samples is 3; expected a power of two")
def picture_of_three_samples(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", samples=3)


@trap(ValueError, Unsupported, says="")
def picture_of_1024_samples(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", samples=1024)


@trap(ValueError, says="tiling is 'zigzag'; expected one of")
def picture_of_a_tiling_that_nobody_knows(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", tiling="zigzag")


@trap(ValueError, says="usage 'eating'; expected some of")
def picture_for_what_nobody_knows(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", usage="eating")


@trap(Unsupported, extmem.RuleViolation, says="usage")
def picture_for_nothing(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", usage=0)


@trap(Unsupported, extmem.RuleViolation, ValueError, says="flags|fit")
def picture_with_flags_that_nobody_knows(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", flags=1 << 31)


@trap(ValueError, says="modifiers= belongs to tiling='drm'")
def picture_with_modifiers_it_has_no_use_for(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", modifiers=[0])


@trap(Unsupported, says="modifier|DRM|drm")
def picture_by_a_modifier_that_nobody_knows(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", tiling="drm", modifiers=[0xDEADBEEF])


@trap(ValueError, says=r"a nv12 image has an even height and width")
def planes_of_odd_sides(here: Scene) -> None:
    here.gpu.image((7, 7), "nv12")


@trap(ValueError, says="memory type 99; the device has 0 to")
def picture_in_memory_that_is_not_there(here: Scene) -> None:
    here.gpu.image((8, 8), "rgba8", memory=99)


@trap(ClosedError, says="this device is closed")
def picture_of_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    gone.image((8, 8), "rgba8")


# -- pixels ---------------------------------------------------------------------------------------


@trap(ValueError, says="this part of the image takes uint8")
def upload_of_another_shape(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.upload(picture, np.zeros((9, 9, 4), "uint8"))


@trap(ValueError, says="this part of the image takes uint8")
def upload_of_another_type(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.upload(picture, np.zeros((8, 8, 4), "float64"))


@trap(ValueError, says="the array is")
def upload_of_a_word(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.upload(picture, "pixels")


@trap(IndexError, says="level 5; this image has 1 of them, from 0")
def upload_into_a_level_that_is_not_there(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.upload(picture, np.zeros((8, 8, 4), "uint8"), level=5)


@trap(IndexError, says="layer -1; this image has 1 of them, from 0")
def readback_of_a_layer_before_the_first(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.readback(picture, layer=-1)


@trap(IndexError, says="plane 2; this image has 1 of them, from 0")
def readback_of_a_plane_that_is_not_there(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        here.gpu.readback(picture, plane=2)


@trap(Unsupported, says="readback needs an image with usage transfer_src")
def readback_of_what_was_not_made_for_it(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8", usage="transfer_dst") as picture:
        here.gpu.readback(picture)


@trap(ClosedError, says="this memory is closed")
def readback_of_a_closed_picture(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        pass
    here.gpu.readback(picture)


@trap(ValueError, says="is of another device")
def readback_of_a_picture_of_another_gpu(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as other, other.image((8, 8), "rgba8") as theirs:
        here.gpu.readback(theirs)


@trap(Unsupported, says="only the driver knows how the pixels")
def pixels_of_an_optimal_picture(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        picture.numpy()


@trap(ClosedError, says="this memory is closed")
def pixels_of_a_closed_picture(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8", tiling="linear") as picture:
        pass
    picture.numpy()


@trap(ViewsAlive, says="still alive")
def picture_closed_while_an_array_looks_at_it(here: Scene) -> None:
    picture = here.gpu.image((8, 8), "rgba8", tiling="linear")
    pixels = picture.numpy()
    try:
        picture.close()
    finally:
        pixels[:] = 9
        del pixels
        gc.collect()


# -- sharing --------------------------------------------------------------------------------------


@trap(Unsupported, says="is private: there is nobody to hand it over to")
def release_of_a_private_picture(here: Scene) -> None:
    with here.gpu.image((8, 8), "rgba8") as picture:
        picture.release()


@trap(OwnershipError, says="is acquired already")
def picture_acquired_by_its_owner(here: Scene) -> None:
    with _shared(here) as picture:
        picture.acquire()


@trap(OwnershipError, says="was released, and others may write it now")
def readback_of_a_released_picture(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release()
        here.gpu.readback(picture)


@trap(OwnershipError, says="is not owned here")
def picture_released_twice(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release()
        picture.release()


@trap(ValueError, says="layout is 'sideways'; expected one of")
def release_in_a_layout_that_nobody_knows(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release(layout="sideways")


@trap(
    "VUID-VkImageMemoryBarrier-newLayout-parameter", "VUID-VkImageMemoryBarrier-oldLayout-parameter"
)
def release_in_a_layout_of_a_number_that_is_none(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release(layout=987654)


@trap(ValueError, says="an image is not released as undefined")
def release_as_undefined(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release(layout="undefined")


@trap(ValueError, says="to is 'mars'; expected 'external' or 'foreign'")
def release_to_somewhere_else(here: Scene) -> None:
    with _shared(here) as picture:
        picture.release(to="mars")


@trap(ClosedError, says="this memory is closed")
def release_of_a_closed_picture(here: Scene) -> None:
    with _shared(here) as picture:
        pass
    picture.release()


@trap(OwnershipError, says="was imported and never acquired")
def readback_of_what_was_never_acquired(here: Scene) -> None:
    with (
        _shared(here) as picture,
        picture.export() as handle,
        here.gpu.import_image(handle) as again,
    ):
        here.gpu.readback(again)


@trap(PassportError, says="is of bare memory; import it with import_memory")
def picture_of_bare_memory(here: Scene) -> None:
    with here.gpu.allocate(4096, export=_KIND) as memory, memory.export() as handle:
        here.gpu.import_image(handle)


@trap(PassportError, says="shape is")
def picture_that_is_said_to_be_larger(here: Scene) -> None:
    with _shared(here) as picture, picture.export() as handle:
        here.gpu.import_image(handle, shape=(4096, 4096))


@trap(PassportError, says="")
def picture_with_a_passport_of_a_larger_one(here: Scene) -> None:
    with _shared(here) as picture, picture.export() as handle:
        passport: Any = handle.passport
        image = msgspec.structs.replace(passport.image, width=8192, height=8192)
        dedicated = image if passport.dedicated is not None else None
        forged = msgspec.structs.replace(passport, image=image, dedicated=dedicated)
        here.gpu.import_image(handle.value, handle_type=_KIND, passport=forged)


@trap(PassportError, says="")
def picture_with_a_passport_of_a_format_that_nobody_knows(here: Scene) -> None:
    with _shared(here) as picture, picture.export() as handle:
        passport: Any = handle.passport
        image = msgspec.structs.replace(passport.image, format=123456)
        dedicated = image if passport.dedicated is not None else None
        forged = msgspec.structs.replace(passport, image=image, dedicated=dedicated)
        here.gpu.import_image(handle.value, handle_type=_KIND, passport=forged)


@trap(PassportError, says="")
def picture_with_a_passport_of_no_size(here: Scene) -> None:
    with _shared(here) as picture, picture.export() as handle:
        passport: Any = handle.passport
        image = msgspec.structs.replace(passport.image, width=0, levels=0)
        dedicated = image if passport.dedicated is not None else None
        forged = msgspec.structs.replace(passport, image=image, dedicated=dedicated)
        here.gpu.import_image(handle.value, handle_type=_KIND, passport=forged)


@trap(ValueError, says="pass shape= and format=|passport", on="linux")
def picture_that_nobody_describes(here: Scene) -> None:
    with _shared(here) as picture, picture.export() as handle:
        here.gpu.import_image(handle.value, handle_type=_KIND, size=4096)


@trap(ClosedError, says="this device is closed")
def picture_imported_into_a_closed_device(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as gone:
        pass
    with _shared(here) as picture, picture.export() as handle:
        gone.import_image(handle)


@trap(ClosedError, says="handle is closed")
def picture_of_a_closed_handle(here: Scene) -> None:
    with _shared(here) as picture:
        with picture.export() as handle:
            pass
        here.gpu.import_image(handle)


@trap(Unsupported, says="private")
def release_of_a_private_buffer(here: Scene) -> None:
    with here.gpu.allocate(64) as memory, here.gpu.buffer(memory) as buffer:
        buffer.release()


@trap(OwnershipError, says="is not owned here")
def buffer_released_twice(here: Scene) -> None:
    with here.gpu.allocate(4096, export=_KIND) as memory, here.gpu.buffer(memory) as buffer:
        buffer.release()
        buffer.release()
